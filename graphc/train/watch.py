"""Watching one value over the epochs: whether it improved, and for how long it did not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import graphc as gx
from graphc.train.data_checks import one_of, real, whole

Columns = Mapping[str, str | None]  # numbers of a row by name -> "min" or "max" is better, if known


class Watch:
    """The best value of `monitor` so far. It improves by more than `min_change`, downwards or
    upwards as `mode` says, or else as the column does. `who`: for messages."""

    def __init__(
        self, who: str, monitor: str, *, patience: int = 1, min_change: float = 0.0,
        mode: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(monitor, str):
            raise gx.InputError(f"{who}: monitor={monitor!r}: need a name, such as 'val_loss'")
        if mode is not None:
            one_of(who, "mode", mode, ("min", "max"))
        self.monitor, self.mode = monitor, mode
        self.patience = whole(who, "patience", patience, 1)
        self.min_change = real(who, "min_change", min_change, 0)
        self._turn(mode)
        self.reset()

    def __repr__(self) -> str:
        mode = f", mode={self.mode!r}" if self.mode else ""
        return f"{self.monitor!r}, patience={self.patience}, min_change={self.min_change:g}{mode}"

    def check(self, columns: Columns) -> None:
        """InputError if a run gives no number of this name, or none with a better side."""
        if self.monitor not in columns:
            needs = self.monitor.startswith("val_") and "val_loss" not in columns
            hint = "; pass validation=" if needs else ""
            raise gx.InputError(
                f"monitor={self.monitor!r}: no number has this name; there is "
                f"{', '.join(columns)}{hint}"
            )
        mode = self.mode or columns[self.monitor]
        if mode is None:
            raise gx.InputError(
                f"mode=None: say 'min' or 'max' for {self.monitor!r}, which has no mode of its own"
            )
        self._turn(mode)

    def reset(self) -> None:
        """Forget what was seen."""
        self.best, self.waited = math.inf * self.sign, 0

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

    def _turn(self, mode: str | None) -> None:
        self.sign = -1.0 if mode == "max" else 1.0
