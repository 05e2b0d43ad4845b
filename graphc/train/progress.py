"""The progress bar of `fit`: loss, metrics, samples per second and the time that is left.

It asks for values ten times a second at most, and does nothing where there is no terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graphc.train.callbacks import Callback
from graphc.train.network import to_numpy

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

INTERVAL = 0.1  # seconds between two looks


class ProgressBar(Callback):
    """One line that moves, and a line for each epoch that has ended. `console`: one of rich."""

    def __init__(self, console: Any = None) -> None:
        self._console = console
        self._bar: Any = None
        self._task: Any = None
        self._shown, self._rows = 0.0, 0

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = self._console or Console()
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(), console=console, transient=True, auto_refresh=False,
        )  # fmt: skip
        run = trainer.run
        self._batches = batches
        self._task = self._bar.add_task(
            "training", total=epochs * batches, completed=run.epoch * batches + run.position,
            values="",
        )  # fmt: skip
        self._bar.start()
        self._shown, self._rows = perf_counter(), 0

    def on_step(self, trainer: Trainer) -> None:
        if self._bar is None:
            return
        loop, now = trainer.loop, perf_counter()
        assert loop is not None
        self._rows += len(loop.latest[0])
        if now - self._shown < INTERVAL:
            return
        speed = f"{self._rows / (now - self._shown):,.0f} samples/s"
        self._shown, self._rows = now, 0
        run = trainer.run
        self._bar.update(
            self._task, completed=run.epoch * self._batches + run.position,
            description=f"epoch {run.epoch + 1}",
            values=f"{_in_words(_fetched(loop.latest[2]))}  {speed}",
        )  # fmt: skip
        self._bar.refresh()

    def on_epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        if self._bar is not None:
            self._bar.print(f"epoch {row['epoch']:3}  {_in_words(row)}")

    def on_end(self, trainer: Trainer) -> None:
        if self._bar is not None and trainer.run.stopping:
            self._bar.print(trainer.run.stopping)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _fetched(outputs: Mapping[str, Any]) -> dict[str, Any]:
    found = {k: to_numpy(v) for k, v in outputs.items()}
    return {k: float(v) for k, v in found.items() if not v.ndim}


def _in_words(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, float))
