"""What `fit` and `evaluate` take: batches (x, y) for each epoch, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any

import graphc as gx
from graphc.train.data import Batches
from graphc.train.data_checks import check_finite, check_rows, paired

Batch = tuple[Any, Any]
ROWS = 1024  # at a time, where nothing is trained
NUMBERED = "; number the classes: classes, y = np.unique(y, return_inverse=True)"


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
        for name, pair in self.raw(batch):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise gx.InputError(f"{self.name}: need pairs (x, y) of arrays")
            x, y = pair
            check_rows(name, x, y)
            check_finite(f"{name}: x", x)
            check_finite(f"{name}: y", y, NUMBERED)
        return batch[0], batch[1]

    def raw(self, first: Any) -> Iterator[tuple[str, Any]]:
        """What can be seen of the data before training: the arrays that they come from, which may
        be augmented later, or else the batches. With names, for messages."""
        batches = self.batches
        whole = (batches.x, batches.y) if isinstance(batches, Batches) else self.arrays
        if whole is not None:
            yield self.name, whole
        else:
            yield from self.seen(first)

    def seen(self, first: Any) -> Iterator[tuple[str, Any]]:
        """The batches that can be seen before training: all of a list, or else the first one."""
        if isinstance(self.batches, list) and self.arrays is None:
            yield from ((f"{self.name}[{i}]", pair) for i, pair in enumerate(self.batches))
        else:
            yield self.name, first

    def __len__(self) -> int:
        return len(self.batches)


def as_source(batches: Any, argument: str, size: int | None = None) -> Source:
    """Batches as they are; a tuple (x, y) of arrays as batches of `size` rows in their order, or as
    one batch of all."""
    if isinstance(batches, tuple) and len(batches) == 2:
        x, y = paired(argument, *batches)
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


def held_out(batches: Any, argument: str) -> Source:
    """Data to measure on: arrays in parts; InputError for batches that do not give every row as it
    is."""
    if isinstance(batches, Batches):
        cure = "pass arrays (x, y), or train.Batches without it"
        if batches.augment:
            raise gx.InputError(
                f"{argument}: augment={list(batches.augment)} changes the rows that are to be "
                f"measured; {cure}"
            )
        if len(batches) * batches.size < batches.samples:
            raise gx.InputError(f"{argument}: drop_last leaves out rows; all count: {cure}")
    return as_source(batches, argument, ROWS)
