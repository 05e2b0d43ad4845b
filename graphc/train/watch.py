"""Watching one value over the epochs: whether it improved, and for how long it did not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import graphc as gx
from graphc.train.metrics import MODES


class Watch:
    """The best value of `monitor` so far. It improves by more than `min_change`, downwards or
    upwards as `mode` says."""

    def __init__(
        self, monitor: str, *, patience: int = 1, min_change: float = 0.0, mode: str | None = None
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise gx.InputError(f"patience={patience!r}: need an int of 1 or more")
        if not isinstance(min_change, int | float) or not min_change >= 0:
            raise gx.InputError(f"min_change={min_change!r}: need a number >= 0")
        self.monitor, self.patience, self.min_change = monitor, patience, min_change
        self.sign = 1.0 if _mode(monitor, mode) == "min" else -1.0
        self.best, self.waited = math.inf * self.sign, 0

    def check(self, names: list[str]) -> None:
        """InputError if a run gives no value of this name."""
        if self.monitor not in names:
            needs = self.monitor.startswith("val_") and "val_loss" not in names
            hint = "; pass validation=" if needs else ""
            raise gx.InputError(f"monitor={self.monitor!r}: there is {', '.join(names)}{hint}")

    def improved(self, row: Mapping[str, Any]) -> bool:
        """Take the value of one more epoch."""
        value = float(row[self.monitor])
        if self.sign * (self.best - value) > self.min_change:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])


def _mode(monitor: str, mode: str | None) -> str:
    if not isinstance(monitor, str):
        raise gx.InputError(f"monitor={monitor!r}: need a name, such as 'val_loss'")
    if mode in ("min", "max"):
        return mode
    found = MODES.get(monitor.removeprefix("val_"))
    if mode is not None or found is None:
        raise gx.InputError(
            f"mode={mode!r}: say 'min' or 'max' for {monitor!r}; only losses and metrics of "
            "graphc.train have one of their own"
        )
    return found
