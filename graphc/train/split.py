"""Splitting a data set into parts, each with its share of every class."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

import graphc as gx
from graphc.train.data_checks import Array, check_integer_labels, flag, paired, real, whole
from graphc.train.draws import SPLIT, generator

ROUND_OFF = 1e-9  # 0.7 * 10 is a little less than 7


def split(
    x: ArrayLike, y: ArrayLike, fractions: Sequence[float], stratify: bool = True, seed: int = 0
) -> list[tuple[Array, Array]]:
    """Disjoint parts (x, y) of a data set, one for each fraction of its samples, shuffled by seed.

    With `stratify` (integer labels) each class has its share of each part, to within one sample.
    Fractions whose sum is below 1 leave samples out. The parts are copies, in memory.
    """
    x, y = paired("split", x, y)
    shares = _checked_shares(fractions)
    if flag("split", "stratify", stratify):
        remedy = "; for regression targets pass stratify=False"
        check_integer_labels("split", y, remedy)
    rng = generator(whole("split", "seed", seed, 0, 2**64 - 1), 0, SPLIT)
    kind = np.unique(y, return_inverse=True)[1] if stratify else np.zeros(len(y), np.intp)
    parts = _parts(kind, shares, rng)[: len(fractions)]
    for fraction, part in zip(fractions, parts, strict=True):
        if len(part) == 0:
            raise gx.InputError(
                f"split: fractions: {fraction} of {len(x)} samples is none; "
                "need larger fractions or more samples"
            )
    return [(x[part], y[part]) for part in parts]


def _checked_shares(fractions: Sequence[float]) -> list[float]:
    """The fractions, and what they leave of 1."""
    if not isinstance(fractions, Sequence) or not fractions:
        raise gx.InputError(
            f"split: fractions is {fractions!r}; need a list of numbers such as [0.8, 0.1, 0.1]"
        )
    shares = [real("split", "fractions", f, 0, 1, above=True) for f in fractions]
    if sum(shares) > 1 + ROUND_OFF:
        raise gx.InputError(f"split: the sum of fractions is {sum(shares):g}; need at most 1")
    return [*shares, max(0.0, 1 - sum(shares))]


def _parts(kind: Array, shares: list[float], rng: np.random.Generator) -> list[Array]:
    """The rows of each part: of each kind its share, in random order."""
    order = rng.permutation(len(kind))
    groups = np.split(
        order[np.argsort(kind[order], kind="stable")], np.cumsum(np.bincount(kind))[:-1]
    )
    owed = [0.0] * len(shares)  # what earlier groups left a part short of
    chosen: list[list[Array]] = [[] for _ in shares]
    for group in groups:
        counts = _counts(len(group), shares, owed)
        for part, rows in zip(chosen, np.split(group, np.cumsum(counts)[:-1]), strict=True):
            part.append(rows)
    return [rng.permutation(np.concatenate(part)) for part in chosen]


def _counts(n: int, shares: list[float], owed: list[float]) -> list[int]:
    """n samples over the parts, each its exact share rounded down or, where most is owed, up."""
    exact = [share * n for share in shares]
    counts = [math.floor(e + ROUND_OFF) for e in exact]
    for i, e in enumerate(exact):
        owed[i] += e - counts[i]
    uneven = [i for i, e in enumerate(exact) if e - counts[i] > ROUND_OFF]
    for i in sorted(uneven, key=lambda i: -owed[i])[: n - sum(counts)]:
        counts[i] += 1
        owed[i] -= 1
    return counts
