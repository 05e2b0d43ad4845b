"""What `fit` and `evaluate` take: batches (x, y) for each epoch, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any

import numpy as np

import graphc as gx
from graphc.train.data import Batches

Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Source:
    """An iterable of batches; where it has `epoch(n)`, epoch n gives the same ones again."""

    batches: Any
    name: str  # of the argument, for messages
    arrays: Batch | None = None  # what the batches were cut from

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from batch `start` on, which need not be made up to there where
        `epoch` takes it as well."""
        again: Any = getattr(self.batches, "epoch", None)
        if again is not None and start and "start" in signature(again).parameters:
            return iter(again(number, start=start))
        return islice(again(number) if again is not None else self.batches, start, None)

    def facts(self) -> dict[str, Any]:
        """What tells batches from others, as far as it can be seen, for JSON."""
        names = ("samples", "size", "seed", "shuffle", "drop_last")
        own = {n: getattr(self.batches, n) for n in names if isinstance(self.batches, Batches)}
        return {"kind": type(self.batches).__name__, "batches": len(self), **own}

    def first(self) -> Batch:
        """The first batch of the first epoch; InputError if what there is to see of the data before
        training cannot be trained on."""
        batch: Any = next(self.epoch(0), None)
        if batch is None:
            raise gx.InputError(f"{self.name}: there is no batch; the data set is empty")
        for name, pair in self.pieces(batch):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise gx.InputError(f"{self.name}: need pairs (x, y) of arrays")
            check_pair(pair[0], pair[1], name)
        return batch[0], batch[1]

    def pieces(self, first: Any) -> Iterator[tuple[str, Any]]:
        """What can be seen of the data before training: the arrays that they come from, all batches
        of a list, or else the first one. With names, for messages."""
        x, y = getattr(self.batches, "x", None), getattr(self.batches, "y", None)
        whole = (x, y) if x is not None and y is not None else self.arrays
        if whole is not None:
            yield self.name, whole
        elif isinstance(self.batches, list):
            yield from ((f"{self.name}[{i}]", pair) for i, pair in enumerate(self.batches))
        else:
            yield self.name, first

    def __len__(self) -> int:
        return len(self.batches)


def as_source(batches: Any, argument: str, size: int | None = None) -> Source:
    """Batches as they are; a tuple (x, y) of arrays as batches of `size` rows in their order, or as
    one batch of all."""
    if isinstance(batches, tuple) and len(batches) == 2:
        x, y = (_array(a, f"{argument}: {name}") for a, name in zip(batches, "xy", strict=True))
        check_rows(x, y, argument)
        step = size or len(x)
        parts = [(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)]
        return Source(parts, argument, (x, y))
    goes_through = hasattr(batches, "__iter__") or hasattr(batches, "epoch")
    if not goes_through or not hasattr(batches, "__len__"):
        raise gx.InputError(
            f"{argument}: need train.Batches, arrays (x, y), or an iterable of batches (x, y) with "
            f"a length that starts anew each time; not {type(batches).__name__}"
        )
    if not len(batches):
        raise gx.InputError(f"{argument}: there is no batch; the data set is empty")
    return Source(batches, argument)


def _array(values: Any, what: str) -> Any:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise gx.InputError(f"{what} is no array: {error}") from None


def check_pair(x: Any, y: Any, argument: str) -> None:
    """InputError for x and y without rows, of different lengths, or with what is no finite
    number."""
    check_rows(x, y, argument)
    for name, array in (("x", x), ("y", y)):
        check_finite(array, f"{argument}: {name}")


def check_rows(x: Any, y: Any, argument: str) -> None:
    """InputError for x and y without rows, or of different lengths."""
    for name, array in (("x", x), ("y", y)):
        if not getattr(array, "ndim", 0):
            raise gx.InputError(f"{argument}: {name} has no rows; need an array [rows, ...]")
    if len(x) != len(y):
        raise gx.InputError(f"{argument}: sizes differ: x has {len(x)} rows, y {len(y)}")
    if not len(x):
        raise gx.InputError(f"{argument}: the data set is empty: x has shape {x.shape}")


def check_finite(array: Any, what: str) -> None:
    """InputError, saying where, for what is no number, NaN or infinite in a host array."""
    if not isinstance(array, np.ndarray) or array.dtype.kind in "biu":
        return
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise gx.InputError(f"{what} has dtype {array.dtype}; need real numbers or bools")
    for start in range(0, len(array), 65536):  # a memory map is looked at part by part
        part = array[start : start + 65536]
        if not np.isfinite(part).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(part))[0]]
            value, at[0] = part[tuple(at)], at[0] + start
            raise gx.InputError(f"{what} is {value} at {at}; need finite numbers")


def check_labels(y: Any, classes: int, argument: str) -> None:
    """InputError for integer labels outside of 0 .. classes - 1, and for rows of labels that are no
    probabilities."""
    if not isinstance(y, np.ndarray) or not y.size:
        return
    if y.dtype.kind in "iu":
        least, most = int(y.min()), int(y.max())
        if least < 0 or most >= classes:
            wrong = least if least < 0 else most
            raise gx.InputError(
                f"{argument}: label {wrong} is out of range; the model has {classes} outputs: need "
                f"labels 0 to {classes - 1}"
            )
    elif y.dtype.kind == "f" and y.ndim > 1:
        check_shares(y, argument)
        sums = y.sum(axis=-1, dtype=np.float64).ravel()
        off = abs(sums - 1) > 1e-2 + classes * float(np.finfo(y.dtype).eps)
        if off.any():
            raise gx.InputError(
                f"{argument}: y has a row with the sum {sums[off][0]:.6g}; need rows of {classes} "
                f"probabilities with the sum 1, or integer labels 0 to {classes - 1}"
            )


def check_shares(y: Any, argument: str) -> None:
    """InputError for targets outside of [0, 1]."""
    if not isinstance(y, np.ndarray) or not y.size or y.dtype.kind not in "iuf":
        return
    low, high = float(y.min()), float(y.max())
    if low < 0 or high > 1:
        wrong = low if low < 0 else high
        raise gx.InputError(f"{argument}: y holds {wrong:g}, out of range; need values 0 to 1")
