"""What `fit` and `evaluate` take: batches (x, y) for each epoch, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc as gx

Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Source:
    """An iterable of batches; where it has `epoch(n)`, epoch n gives the same ones again."""

    batches: Any
    name: str  # of the argument, for messages

    def epoch(self, number: int) -> Iterator[Batch]:
        again: Any = getattr(self.batches, "epoch", None)
        return iter(again(number) if again is not None else self.batches)

    def first(self) -> Batch:
        """The first batch of the first epoch; InputError if it, or the arrays that it comes from
        where there are some, cannot be trained on."""
        batch = next(self.epoch(0), None)
        if batch is None:
            raise gx.InputError(f"{self.name}: there is no batch; the data set is empty")
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise gx.InputError(f"{self.name}: need pairs (x, y) of arrays")
        check_pair(*(self.whole() or batch), self.name)
        return batch[0], batch[1]

    def whole(self) -> Batch | None:
        """The arrays that the batches come from, if they say so."""
        x, y = getattr(self.batches, "x", None), getattr(self.batches, "y", None)
        return None if x is None or y is None else (x, y)

    def __len__(self) -> int:
        return len(self.batches)


def as_source(batches: Any, argument: str, size: int | None = None) -> Source:
    """Batches as they are; a tuple (x, y) of arrays as batches of `size` rows in their order, or as
    one batch of all."""
    if isinstance(batches, tuple) and len(batches) == 2:
        x, y = (np.asarray(a) for a in batches)
        check_pair(x, y, argument)
        step = size or len(x)
        parts = [(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)]
        return Source(parts, argument)
    goes_through = hasattr(batches, "__iter__") or hasattr(batches, "epoch")
    if not goes_through or not hasattr(batches, "__len__"):
        raise gx.InputError(
            f"{argument}: need train.Batches, arrays (x, y), or an iterable of batches (x, y) with "
            f"a length that starts anew each time; not {type(batches).__name__}"
        )
    if not len(batches):
        raise gx.InputError(f"{argument}: there is no batch; the data set is empty")
    return Source(batches, argument)


def check_pair(x: Any, y: Any, argument: str) -> None:
    """InputError for x and y without rows, of different lengths, or with what is not finite."""
    for name, array in (("x", x), ("y", y)):
        if not getattr(array, "ndim", 0):
            raise gx.InputError(f"{argument}: {name} has no rows; need an array [rows, ...]")
    if len(x) != len(y):
        raise gx.InputError(f"{argument}: sizes differ: x has {len(x)} rows, y {len(y)}")
    if not len(x):
        raise gx.InputError(f"{argument}: the data set is empty: x has shape {x.shape}")
    for name, array in (("x", x), ("y", y)):
        check_finite(array, f"{argument}: {name}")


def check_finite(array: Any, what: str) -> None:
    """InputError, saying where, for NaN or infinity in a host array."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return
    for start in range(0, len(array), 65536):  # a memory map is looked at part by part
        part = array[start : start + 65536]
        if not np.isfinite(part).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(part))[0]]
            value, at[0] = part[tuple(at)], at[0] + start
            raise gx.InputError(f"{what} is {value} at {at}; need finite numbers")


def check_labels(y: Any, classes: int, argument: str) -> None:
    """InputError for integer labels outside of 0 .. classes - 1."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "iu" or not y.size:
        return
    least, most = int(y.min()), int(y.max())
    if least < 0 or most >= classes:
        wrong = least if least < 0 else most
        raise gx.InputError(
            f"{argument}: label {wrong} is out of range; the model has {classes} outputs: need "
            f"labels 0 to {classes - 1}"
        )
