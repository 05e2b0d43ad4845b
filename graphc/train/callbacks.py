"""What happens beside the steps: stopping early, writing checkpoints, anything a user adds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.train.watch import Watch

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

Row = Mapping[str, Any]


class Callback:
    """Override what is needed. `row` is that of the history: `loss`, metrics, `val_...`, `rate`."""

    last = False  # whether it is called after the others, whose states it needs
    keeps_state = False

    def check(self, names: list[str]) -> None:
        """Raise InputError before training if a row will not hold what is needed."""

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        """Before the first step; the run ends at epoch number `epochs`, of `batches` steps each."""

    def on_step(self, trainer: Trainer) -> None:
        """After each step. Its results are not waited for: ask for values and they are."""

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        """After each epoch."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last epoch, also after `trainer.stop(reason)`."""

    def on_interrupt(self, trainer: Trainer) -> None:
        """After Ctrl-C, when the step in progress is complete."""

    def close(self) -> None:
        """In any case, at the end."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, texts and arrays by name."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""


class EarlyStopping(Callback):
    """Stops when `monitor` has not improved by more than `min_change` for `patience` epochs, and
    puts the parameters of the best epoch back, if `restore`. `reason` says when and why.

    `mode`: "min" or "max", known for the losses and metrics of train. Prechelt 1998, Early Stopping
    - But When?
    """

    keeps_state = True

    def __init__(
        self, monitor: str = "val_loss", *, patience: int = 5, min_change: float = 0.0,
        mode: str | None = None, restore: bool = True,
    ) -> None:  # fmt: skip
        self.watch = Watch(monitor, patience=patience, min_change=min_change, mode=mode)
        self.restore, self.reason = restore, ""
        self._best: dict[str, np.ndarray] = {}
        self.best_epoch = 0

    def check(self, names: list[str]) -> None:
        self.watch.check(names)

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        if self.watch.improved(row):
            self.best_epoch = int(row["epoch"])
            if self.restore:
                self._best = {n: p.value for n, p in trainer.network.params.items()}
        elif self.watch.exhausted:
            watch = self.watch
            self.reason = (
                f"stopped after epoch {row['epoch']}: {watch.monitor} has not improved by more "
                f"than {watch.min_change:g} for {watch.patience} epochs; it was best in epoch "
                f"{self.best_epoch}, {watch.best:g}"
            )
            if self.restore:
                self.reason += ", whose parameters are restored"
            trainer.stop(self.reason)

    def on_end(self, trainer: Trainer) -> None:
        if self.restore:
            for name, value in self._best.items():
                trainer.network.params[name].value = value

    def state(self) -> dict[str, Any]:
        best = {f"best.{name}": value for name, value in self._best.items()}
        return {**self.watch.state(), "best_epoch": self.best_epoch, "reason": self.reason, **best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.watch.load_state(state)
        self.best_epoch, self.reason = int(state["best_epoch"]), str(state["reason"])
        self._best = {
            k.removeprefix("best."): v for k, v in state.items() if isinstance(v, np.ndarray)
        }


class Checkpoint(Callback):
    """Writes checkpoints to a folder: the last `keep`, and `best.safetensors` if there is a
    `monitor`. One each `epochs` epochs, or each `steps` steps; and after Ctrl-C.

    `trainer.restore(folder)` goes on from the last one.
    """

    last = True
    keeps_state = True

    def __init__(
        self, folder: str | os.PathLike[str], *, epochs: int = 1, steps: int | None = None,
        keep: int = 2, monitor: str | None = None, mode: str | None = None,
        on_interrupt: bool = True,
    ) -> None:  # fmt: skip
        for name, value in (("epochs", epochs), ("steps", steps or 1), ("keep", keep)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise gx.InputError(f"{name}={value!r}: need an int of 1 or more")
        self.folder, self.epochs, self.steps, self.keep = Path(folder), epochs, steps, keep
        self.watch = Watch(monitor, mode=mode) if monitor else None
        self._on_interrupt = on_interrupt

    def check(self, names: list[str]) -> None:
        if self.watch is not None:
            self.watch.check(names)

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob(".*.tmp"):  # of a process that was killed
            left_over.unlink(missing_ok=True)

    def on_step(self, trainer: Trainer) -> None:
        if self.steps is not None and trainer.step % self.steps == 0:
            self._save(trainer)

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        if self.watch is not None and self.watch.improved(row):
            trainer.save(self.folder / "best.safetensors")
        if self.steps is None and trainer.epoch % self.epochs == 0:
            self._save(trainer)

    def on_interrupt(self, trainer: Trainer) -> None:
        if self._on_interrupt:
            self._save(trainer)

    def state(self) -> dict[str, Any]:
        return self.watch.state() if self.watch is not None else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if self.watch is not None:
            self.watch.load_state(state)

    def _save(self, trainer: Trainer) -> None:
        trainer.save(self.folder / f"step-{trainer.step:010}.safetensors")
        for old in written(self.folder)[: -self.keep]:
            old.unlink(missing_ok=True)


def written(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the last one last."""
    return sorted(folder.glob("step-*.safetensors"))
