"""What happens beside the steps: stopping early, writing checkpoints, anything a user adds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.train.data_checks import flag, listed, whole
from graphc.train.watch import Columns, Watch

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

Row = Mapping[str, Any]
BEST = "best.safetensors"


class Callback:
    """Override what is needed. `row` is that of the history: `loss`, metrics, `val_...`, `rate`.

    InputError for a class with a method `on_...` that no trainer calls.
    """

    last = False  # whether it is called after the others, whose states it needs

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        there = [n for n in vars(Callback) if n.startswith("on_")]
        for name, value in vars(cls).items():
            is_method = name.startswith("on_") and isinstance(value, FunctionType)
            if is_method and name not in there:
                raise gx.InputError(f"{cls.__name__}.{name} is never called: need {listed(there)}")

    def check(self, columns: Columns) -> None:
        """Raise InputError before training if a row will not hold what is needed. `columns`: the
        numbers that it will hold by name, with "min" or "max" where one of them is better."""

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        """Before anything is trained: begin anew, or raise InputError where that cannot be. The fit
        ends at epoch number `epochs`, of `batches` steps each. `load_state` comes after it, where
        the fit of a checkpoint goes on."""

    def on_step(self, trainer: Trainer) -> None:
        """After each step. Its results are not waited for: ask for values and they are."""

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        """After each epoch."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last epoch, also after `trainer.stop(reason)`, which lets an epoch end."""

    def on_interrupt(self, trainer: Trainer) -> None:
        """After Ctrl-C, when the step in progress is complete."""

    def close(self) -> None:
        """In any case, at the end."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, texts, None, lists and dicts of them, and arrays, by
        name, but not "kind", which is the name of the class."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; NumPy's numbers are Python's, tuples are lists."""


class EarlyStopping(Callback):
    """Stops when `monitor` has not improved by more than `min_change` for `patience` epochs.
    `reason` says when and why, `best_epoch` which one was best; each fit begins anew.

    `restore`: the parameters of the best epoch are put back at the end of the fit, stopped early or
    not. The optimizer's states stay those of the last epoch. `mode`: "min" or "max", known for the
    loss and for metrics that have one. Prechelt 1998, Early Stopping - But When?
    """

    def __init__(
        self, monitor: str = "val_loss", *, patience: int = 5, min_change: float = 0.0,
        mode: str | None = None, restore: bool = True,
    ) -> None:  # fmt: skip
        self.watch = Watch(
            "EarlyStopping", monitor, patience=patience, min_change=min_change, mode=mode
        )
        self.restore = flag("EarlyStopping", "restore", restore)
        self._reset()

    def __repr__(self) -> str:
        return f"EarlyStopping({self.watch}, restore={self.restore})"

    def check(self, columns: Columns) -> None:
        self.watch.check(columns)

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        self.watch.reset()
        self._reset()

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        if self.watch.improved(row):
            self.best_epoch = int(row["epoch"])
            if self.restore:
                self._best = {n: p.value for n, p in trainer.network.params.items()}
        elif self.watch.exhausted:
            watch = self.watch
            least = f" by more than {watch.min_change:g}" if watch.min_change else ""
            self.reason = (
                f"stopped after epoch {row['epoch']}: {watch.monitor} has not improved{least} for "
                f"{watch.patience} epochs; it was best in epoch {self.best_epoch}, {watch.best:g}"
            )
            if self.restore:
                self.reason += ", whose parameters are restored"
            trainer.stop(self.reason)

    def on_end(self, trainer: Trainer) -> None:
        for name, value in self._best.items():
            trainer.network.params[name].value = value
        if self._best:
            trainer.history.best_epoch = self.best_epoch

    def state(self) -> dict[str, Any]:
        best = {f"best.{name}": value for name, value in self._best.items()}
        return {**self.watch.state(), "best_epoch": self.best_epoch, "reason": self.reason, **best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.watch.load_state(state)
        self.best_epoch, self.reason = int(state["best_epoch"]), str(state["reason"])
        self._best = {
            k.removeprefix("best."): v for k, v in state.items() if isinstance(v, np.ndarray)
        }

    def _reset(self) -> None:
        self.best_epoch, self.reason = 0, ""
        self._best: dict[str, np.ndarray] = {}


class Checkpoint(Callback):
    """Writes checkpoints to a folder: one each `epochs` epochs, or each `steps` steps, after Ctrl-C
    and at the end of the fit, of which the last `keep` of the run stay, over all its fits; and
    `best.safetensors` of the epoch whose `monitor` was best in this fit, if there is one.

    `trainer.restore(folder)` goes on from the last one, or from the best where there is no other.
    Before training, `fit` raises InputError for a folder that cannot be, or that holds checkpoints
    of another run. Where the folder is moved, those in it are no longer counted for `keep`.
    """

    last = True

    def __init__(
        self, folder: str | os.PathLike[str], *, epochs: int = 1, steps: int | None = None,
        keep: int = 2, monitor: str | None = None, mode: str | None = None,
        on_interrupt: bool = True,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.epochs = whole("Checkpoint", "epochs", epochs, 1)
        self.steps = None if steps is None else whole("Checkpoint", "steps", steps, 1)
        self.keep = whole("Checkpoint", "keep", keep, 1)
        self.watch = None if monitor is None else Watch("Checkpoint", monitor, mode=mode)
        self._on_interrupt = flag("Checkpoint", "on_interrupt", on_interrupt)

    def __repr__(self) -> str:
        each = f"epochs={self.epochs}" if self.steps is None else f"steps={self.steps}"
        best = "" if self.watch is None else f", monitor={self.watch.monitor!r}"
        return f"Checkpoint({str(self.folder)!r}, {each}, keep={self.keep}{best})"

    def check(self, columns: Columns) -> None:
        if self.watch is not None:
            self.watch.check(columns)

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise gx.InputError(f"folder={str(self.folder)!r}: need a folder: {error}") from None
        self._refuse_other_runs(trainer)
        for left_over in self.folder.glob(".*.tmp"):
            if _is_abandoned(left_over.name):
                left_over.unlink(missing_ok=True)
        self._own(trainer)
        if self.watch is not None:
            self.watch.reset()

    def on_step(self, trainer: Trainer) -> None:
        if self.steps is not None and trainer.step % self.steps == 0:
            self._save(trainer)

    def on_epoch(self, trainer: Trainer, row: Row) -> None:
        if self.watch is not None and self.watch.improved(row):
            trainer.save(self.folder / BEST)
        if self.steps is None and trainer.epoch % self.epochs == 0:
            self._save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._save(trainer)  # of the parameters that stay, which may be those of the best epoch

    def on_interrupt(self, trainer: Trainer) -> None:
        if self._on_interrupt:
            self._save(trainer)

    def state(self) -> dict[str, Any]:
        return {} if self.watch is None else self.watch.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        if self.watch is not None and "best" in state:
            self.watch.load_state(state)

    def _save(self, trainer: Trainer) -> None:
        name, own = _name(trainer.step), self._own(trainer)
        own[:] = [*(n for n in own if n != name), name]
        trainer.save(self.folder / name)
        for old in own[: -self.keep]:
            (self.folder / old).unlink(missing_ok=True)
        del own[: -self.keep]

    def _own(self, trainer: Trainer) -> list[str]:
        """The checkpoints of this run in the folder, but for the best."""
        return trainer.run.written.setdefault(str(self.folder.resolve()), [])

    def _refuse_other_runs(self, trainer: Trainer) -> None:
        """Whose files would be taken for those of this run, or be overwritten."""
        step, is_own = trainer.step, str(self.folder.resolve()) in trainer.run.written
        others = [
            p.name for p in checkpoints_in(self.folder)
            if not is_own or (p.name != BEST and p.name > _name(step))
        ]  # fmt: skip
        if others:
            folder = str(self.folder)
            raise gx.InputError(
                f"folder={folder!r} holds {', '.join(others)}, and this run is at step {step}: "
                f"trainer.restore({folder!r}) before fit goes on from there; or take another "
                "folder, or remove them"
            )


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder: the best first, the last one last."""
    return [*folder.glob(BEST), *sorted(folder.glob("step-*.safetensors"))]


def _name(step: int) -> str:
    return f"step-{step:010}.safetensors"


def _is_abandoned(name: str) -> bool:
    """Whether a file was being written by a process that is no more."""
    found = re.fullmatch(r"\.(?:step-\d+|best)\.safetensors\.(\d{1,9})\.tmp", name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is that of another user
        pass
    return False
