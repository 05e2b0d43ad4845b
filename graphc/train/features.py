"""Features of a frozen prefix: computed once per sample, where every step would compute them anew.

The prefix is found by a pass over the layers of a Sequential: it ends before the first one that
depends on a parameter that is trained, or on random draws. What comes after it is trained on the
features as if they were the data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

import graphc as gx
from graphc.nn.layers import Sequential
from graphc.train.data import Batches
from graphc.train.losses import Function
from graphc.train.metrics import Metric
from graphc.train.network import BATCH, Model, Network, applied, below, declare, to_numpy
from graphc.train.source import Source

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

LIMIT_NBYTES = 1 << 30  # of features, where no other limit is given
ROWS = 1024  # whose features are computed at a time
PROBE = 64  # rows on which the prefix is tried
TIMED = 16  # steps, in the comparison of an epoch with and without cached features

Rest = Callable[[gx.Node], gx.Node]


class NotCachedError(Exception):
    """Why the features of each step are computed in that step."""


@dataclass(frozen=True)
class Extractor:
    """The frozen prefix as a function of arrays, and the network that is trained on its results."""

    node: gx.Node
    program: Any
    head: Network
    layers: str

    def __call__(self, x: Any) -> np.ndarray:
        """The features of rows of x, which may be a memory map."""
        found = np.empty((len(x), *_row(self.node)), self.node.dtype)
        for i in range(0, len(x), ROWS):
            found[i : i + ROWS] = to_numpy(self.program(x=x[i : i + ROWS]))
        return found

    def nbytes(self, rows: int) -> int:
        """The memory of so many rows of features."""
        return rows * self.node.dtype.itemsize * prod(_row(self.node))


@dataclass(frozen=True)
class Cached:
    """What a fit runs on instead of the data, and how that came about, in a sentence."""

    network: Network
    source: Source
    held_out: Source | None
    note: str


def extractor(
    model: Model, network: Network, loss: Function, metrics: Sequence[Metric],
    compiled: Callable[[gx.Node], Any],
) -> Extractor:  # fmt: skip
    """The frozen prefix of a model; NotCachedError if there is none."""
    features, rest = _split(model, network)
    frozen = [n.name for n in below(features) if isinstance(n, gx.Param)]
    signature = replace(network.signature, x_shape=_row(features), x_dtype=features.dtype.name)
    of = replace(applied(rest, signature.x_shape, signature.x_dtype), params=network.params)
    head = declare(of, loss, metrics, signature)
    names = [n.rsplit(".", 1)[0] for n in network.params if n in frozen]
    layers = " to ".join(dict.fromkeys([names[0], names[-1]]))
    return Extractor(features, compiled(features), head, layers)


def cache(found: Extractor, source: Source, held_out: Source | None, limit: int) -> Cached:
    """The features of all samples in the place of the data; NotCachedError if that cannot be."""
    sources = [source] if held_out is None else [source, held_out]
    rows = sum(len(x) for s in sources for x in _arrays(s))
    need = found.nbytes(rows)
    if need > limit:
        raise NotCachedError(
            f"those of {rows} samples are {need} bytes, more than the limit of {limit}"
        )
    _check_rows_are_apart(found, _arrays(source)[0][:PROBE])
    start = perf_counter()
    made = [_replaced(s, found) for s in sources]
    note = (
        f"features of {rows} samples behind {found.layers} computed once: "
        f"{need / 1e6:.3g} MB in {perf_counter() - start:.2g} s"
    )
    return Cached(found.head, made[0], made[1] if len(made) > 1 else None, note)


def speed_up(trainer: Trainer, cached: Cached, source: Source) -> str:
    """The time of an epoch's steps with and without cached features, measured on a few of them;
    nothing is changed by that."""
    without = _epoch_seconds(trainer, trainer.network, source)
    with_them = _epoch_seconds(trainer, cached.network, cached.source)
    return (
        f"an epoch takes {with_them:.2g} s instead of {without:.2g} s, "
        f"{without / with_them:.1f} times faster"
    )


def _split(model: Model, network: Network) -> tuple[gx.Node, Rest]:
    """The features of the longest prefix, and the layers after it as one function."""
    if not _is_in_a_row(model):
        raise NotCachedError(
            f"the model, a {type(model).__name__}, is no nn.Sequential with the forward of one: it "
            "is not known whether its layers follow one another"
        )
    features, layers = network.x, _flat(model)
    ends = "no parameter is trained"
    while layers:
        after = layers[0](features)
        ends = _end(layers[0], after)
        if ends:
            break
        features, layers = after, layers[1:]
    if not layers or not any(isinstance(n, gx.Param) for n in below(features)):
        raise NotCachedError(f"{ends}, and no frozen parameter comes before that")
    return features, _in_a_row(layers)


def _is_in_a_row(layer: Rest) -> TypeGuard[Sequential]:
    """Whether it is its layers one after the other: a Residual, or a forward of one's own, is more
    than that."""
    return isinstance(layer, Sequential) and type(layer).forward is Sequential.forward


def _flat(model: Sequential) -> list[Rest]:
    """The layers of nested Sequentials, one after the other. A Residual is one layer."""
    found: list[Rest] = []
    for layer in model.layers:
        found.extend(_flat(layer) if _is_in_a_row(layer) else [layer])
    return found


def _in_a_row(layers: Sequence[Rest]) -> Rest:
    def rest(x: gx.Node) -> gx.Node:
        for layer in layers:
            x = layer(x)
        return x

    return rest


def _end(layer: Rest, after: gx.Node) -> str:
    """Why the prefix ends before this layer, if it does."""
    for node in below(after):
        if isinstance(node, gx.Param) and node.trainable:
            return f"{node.name} is trained"
        if node.op.kind.value == "random":
            return f"{layer!r} draws random numbers"
    if not after.ndim or str(after.shape[0]) != BATCH or len(_row(after)) + 1 < after.ndim:
        return f"{layer!r} gives {after!r}, not one row per sample"
    return ""


def _row(node: gx.Node) -> tuple[int, ...]:
    """The shape of one sample."""
    return tuple(n for n in node.shape[1:] if isinstance(n, int))


def _arrays(source: Source) -> list[Any]:
    """The x of all batches; NotCachedError where a sample is not the same one in every epoch."""
    batches = source.batches
    if isinstance(batches, Batches) and type(batches) is Batches:
        if batches.augment:
            raise NotCachedError(f"{source.name}: augment changes the samples in every epoch")
        return [batches.x]
    if isinstance(batches, list):
        return [x for x, _ in batches]
    raise NotCachedError(
        f"{source.name}: of {type(batches).__name__} it is not known whether the samples stay the "
        "same; train.Batches, arrays and lists are cached"
    )


def _replaced(source: Source, features: Extractor) -> Source:
    """The same batches, in the same order, of features."""
    batches = source.batches
    if isinstance(batches, list):
        made: Any = [(_finite(features(x)), y) for x, y in batches]
    else:
        made = copy.copy(batches)
        made.x = _finite(features(batches.x))
    return Source(made, source.name)


def _finite(features: np.ndarray) -> np.ndarray:
    if not np.isfinite(features).all():  # the run itself tells which node it was
        raise NotCachedError("some are not finite")
    return features


def _check_rows_are_apart(features: Extractor, x: Any) -> None:
    """Refuse a prefix in which one sample changes the features of another, as a norm over the
    batch does: without the first row, and in another order, the others must have the same ones."""
    whole = features(x)[1:].astype(np.float64)
    others = features(x[:0:-1])[::-1].astype(np.float64)
    near = 1e-4 if features.node.dtype.itemsize > 2 else 5e-2
    if whole.size and abs(whole - others).max() > near * max(abs(whole).max(), 1.0):
        raise NotCachedError("those of a sample depend on the others of its batch")


def _epoch_seconds(trainer: Trainer, network: Network, source: Source) -> float:
    program = trainer.program("train", network)
    before = {p: p.value for p in trainer.state().values()}

    def steps() -> int:
        made = [program(x=x, y=y)["loss"] for x, y in islice(source.epoch(0), TIMED)]
        to_numpy(made[-1])  # a GPU has come to its end
        return len(made)

    try:
        steps()
        start = perf_counter()
        made = steps()
        return (perf_counter() - start) * len(source) / made
    finally:
        for param, value in before.items():
            param.value = value
