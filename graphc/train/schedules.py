"""Learning rates over time: each gives the rate at an epoch, which runs on between the batches.

Epoch 2.5 is half-way through the third one since the schedule was set. A schedule stands wherever a
rate does; a step of the training program reads the rate from a parameter, so that another one
compiles nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

import graphc as gx
from graphc.train.watch import Columns, Watch


class Schedule:
    """A rate over epochs, which a trainer counts from the one in which it first trains with this
    object. `varies` tells whether it changes between the steps of an epoch. A checkpoint is
    restored only where `repr` shows the same after `load_state`: what changes in the course of a
    run belongs into `state`."""

    varies = True

    def __repr__(self) -> str:
        cells = [repr(v) if k in ("base", "inner") else f"{k}={v!r}" for k, v in vars(self).items()]
        return f"{type(self).__name__}({', '.join(cells)})"

    @property
    def settings(self) -> str:
        """What tells it from another one: its `repr` without the addresses of functions."""
        return re.sub(r" at 0x\w+", "", repr(self))

    def rate(self, epoch: float) -> float:
        """The rate at this epoch."""
        raise NotImplementedError

    def check(self, columns: Columns) -> None:
        """Raise InputError before training if a row will not hold what is needed. `columns`: the
        numbers that it will hold by name, with "min" or "max" where one of them is better."""

    def reset(self) -> None:
        """Begin anew, with the first fit of another trainer: forget what was observed."""

    def observe(self, row: Mapping[str, Any]) -> None:
        """See the values of an epoch that has ended, `loss`, `val_loss` and their like."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state` gave."""


class Constant(Schedule):
    """Always the same rate."""

    varies = False

    def __init__(self, rate: float) -> None:
        self.base = positive("rate", rate)

    def rate(self, epoch: float) -> float:
        return self.base

    def state(self) -> dict[str, Any]:
        return {"base": self.base}


class Step(Schedule):
    """Times `factor` after every `every` epochs: rate * factor^floor(epoch / every)."""

    def __init__(self, rate: float, every: float, factor: float = 0.1) -> None:
        self.base, self.every = positive("rate", rate), positive("every", every)
        self.factor = positive("factor", factor)

    def rate(self, epoch: float) -> float:
        made = epoch / self.every * (1 + 1e-12)  # 0.3 / 0.1 is rounded to less than 3
        return self.base * self.factor ** math.floor(made)


class Exponential(Schedule):
    """Times `factor` over each epoch, smoothly: rate * factor^epoch."""

    def __init__(self, rate: float, factor: float = 0.95) -> None:
        self.base, self.factor = positive("rate", rate), positive("factor", factor)

    def rate(self, epoch: float) -> float:
        return self.base * self.factor**epoch


class Cosine(Schedule):
    """From `rate` to `final` over `epochs` along half a cosine, then `final`.

    final + (rate - final) (1 + cos(pi epoch / epochs)) / 2. Loshchilov and Hutter 2017, SGDR,
    eq. 5, without restarts.
    """

    def __init__(self, rate: float, epochs: float, final: float = 0.0) -> None:
        self.base, self.epochs = positive("rate", rate), positive("epochs", epochs)
        self.final = positive("final", final, or_zero=True)

    def rate(self, epoch: float) -> float:
        part = min(epoch / self.epochs, 1.0)
        return self.final + (self.base - self.final) * (1 + math.cos(math.pi * part)) / 2


class Warmup(Schedule):
    """Another rate or schedule, whose first `epochs` rise from the share `start` of it to all.

    Goyal et al. 2017, Accurate, Large Minibatch SGD, section 2.2.
    """

    def __init__(self, rate: float | Schedule, epochs: float, start: float = 0.1) -> None:
        self.inner, self.epochs = as_schedule(rate), positive("epochs", epochs)
        self.start = positive("start", start)

    def rate(self, epoch: float) -> float:
        share = self.start + (1 - self.start) * min(epoch / self.epochs, 1.0)
        return share * self.inner.rate(epoch)

    def check(self, columns: Columns) -> None:
        self.inner.check(columns)

    def reset(self) -> None:
        self.inner.reset()

    def observe(self, row: Mapping[str, Any]) -> None:
        self.inner.observe(row)

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state(state)


class ReduceOnPlateau(Schedule):
    """Times `factor`, below 1, whenever `monitor` has not improved by more than `min_change` for
    `patience` epochs, down to `least`. `mode`: "min" or "max", known for the loss and for metrics
    that have one."""

    varies = False

    def __init__(
        self, rate: float, monitor: str = "val_loss", *, factor: float = 0.1, patience: int = 5,
        min_change: float = 0.0, least: float = 0.0, mode: str | None = None,
    ) -> None:  # fmt: skip
        self.base, self.factor = positive("rate", rate), positive("factor", factor)
        self.least = positive("least", least, or_zero=True)
        if self.factor >= 1:
            raise gx.InputError(f"factor={factor!r}: need a number, 0 < factor < 1")
        if self.least > self.base:
            raise gx.InputError(f"least={least!r}: need a number, 0 <= least <= rate={rate!r}")
        self.watch = Watch(
            "ReduceOnPlateau", monitor, patience=patience, min_change=min_change, mode=mode
        )
        self.now = self.base

    def __repr__(self) -> str:
        return (
            f"ReduceOnPlateau({self.base!r}, {self.watch}, factor={self.factor!r}, "
            f"least={self.least!r})"
        )

    def rate(self, epoch: float) -> float:
        return self.now

    def check(self, columns: Columns) -> None:
        self.watch.check(columns)

    def reset(self) -> None:
        self.now = self.base
        self.watch.reset()

    def observe(self, row: Mapping[str, Any]) -> None:
        self.watch.improved(row)
        if self.watch.exhausted:
            self.now = max(self.now * self.factor, self.least)
            self.watch.waited = 0

    def state(self) -> dict[str, Any]:
        return {"now": self.now, **self.watch.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.now = float(state["now"])
        self.watch.load_state(state)


def as_schedule(rate: float | Schedule) -> Schedule:
    """A schedule as it is; a number as a constant one."""
    return rate if isinstance(rate, Schedule) else Constant(rate)


def positive(argument: str, value: Any, *, or_zero: bool = False) -> float:
    """The number as a float; InputError unless it is finite and above 0 (or 0, if that will do)."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if math.isfinite(number) and (number > 0 or (or_zero and number == 0)):
        return number
    raise gx.InputError(f"{argument}={value!r}: need a number {'>=' if or_zero else '>'} 0")
