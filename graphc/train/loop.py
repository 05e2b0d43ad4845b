"""The loop of `fit`: epochs over batches, with as little as possible between two steps.

The loss of a step is not waited for. Every `WINDOW` steps the results are fetched, looked at, and
the parameters are copied: where a loss is not finite, the steps since then are made again from the
copy, the last of them in checking mode, which names the node where it began.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.train.callbacks import Callback
from graphc.train.history import History
from graphc.train.network import Network
from graphc.train.progress import ProgressBar
from graphc.train.source import Source
from graphc.train.totals import Totals, fetch

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

WINDOW = 64  # steps between two looks at the results


@dataclass
class Run:
    """Where a run stands: steps and epochs made, batches of the epoch in progress and their
    results. `began`: the epoch at which the fit in progress began."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    began: int | None = None
    stopping: str = ""
    totals: Totals = field(default_factory=Totals)
    callbacks: list[dict[str, Any]] = field(default_factory=list)  # restored, for the next fit


class Loop:
    """One call of `fit`: `network` is that of the trainer, or the part of it that is trained on
    cached features, which are the `x` of its batches then."""

    def __init__(
        self, trainer: Trainer, network: Network, source: Source, epochs: int,
        held_out: Source | None, callbacks: Sequence[Callback], progress: bool,
    ) -> None:  # fmt: skip
        self.trainer, self.network = trainer, network
        self.source, self.held_out = source, held_out
        self.run, self.schedule = trainer.run, trainer.optimizer.schedule
        self.batches = len(source)
        self.callbacks = sorted(callbacks, key=lambda c: c.last)
        if progress:
            self.callbacks.insert(0, ProgressBar())
        self._check_names()
        if self.run.began is None:
            self.run.began, self.run.stopping = self.run.epoch, ""
        self.end = self.run.began + epochs
        self.window: list[tuple[Any, Any, Any]] = []
        self.copies: dict[gx.Param, np.ndarray] = {}
        self.latest: tuple[Any, Any, Any] = ((), (), {})  # x, y and the results of a step
        self.interrupted = False

    def go(self) -> History:
        """Run to the last epoch, or to what ends it before."""
        trainer, run = self.trainer, self.run
        self.program = trainer.program("train", self.network)
        self.program.seed(trainer.seed, step=run.step)
        self.state = [p for p in trainer.state().values() if p.trainable]  # what steps change
        self._copy()
        trainer.loop = self
        try:
            self._start_callbacks()
            with _no_interrupt_within_a_step(self):
                while run.epoch < self.end and not run.stopping and not self.interrupted:
                    self._epoch()
                self.settle()
                self._call("on_interrupt" if self.interrupted else "on_end")
        finally:
            trainer.loop, run.began = None, None
            self._call("close")
        if self.interrupted:
            raise KeyboardInterrupt
        trainer.history.stopped = run.stopping
        return trainer.history

    # -- one epoch

    def _epoch(self) -> None:
        run, program, window = self.run, self.program, self.window
        hooks = [c.on_step for c in self.callbacks if type(c).on_step is not Callback.on_step]
        varies, set_rate = self.schedule.varies, self.trainer.optimizer.set_rate
        set_rate(self.rate_at(run.position))
        for x, y in islice(self.source.epoch(run.epoch), run.position, None):
            if varies:
                set_rate(self.rate_at(run.position))
            self.latest = (x, y, program(x=x, y=y))
            window.append(self.latest)
            run.step += 1
            run.position += 1
            if len(window) == WINDOW:
                self.settle()
            for hook in hooks:
                hook(self.trainer)
            if self.interrupted:
                return
        self.settle()
        self._end_epoch()

    def _end_epoch(self) -> None:
        trainer, run = self.trainer, self.run
        if not run.totals.rows:
            raise gx.InputError(f"batches: epoch {run.epoch + 1} has none")
        row = {"epoch": run.epoch + 1, **run.totals.row(trainer.metrics)}
        if self.held_out is not None:
            held_out = trainer.totals_of(self.held_out, self.network).row(trainer.metrics)
            row.update({f"val_{name}": value for name, value in held_out.items()})
        row["rate"] = self.rate_at(max(run.position - 1, 0))
        self.schedule.observe(row)
        trainer.history.rows.append(row)
        run.totals, run.position, run.epoch = Totals(), 0, run.epoch + 1
        for callback in self.callbacks:
            callback.on_epoch(trainer, row)

    def rate_at(self, position: int) -> float:
        """The rate of one step of this epoch."""
        return self.schedule.rate(self.run.epoch + position / self.batches)

    # -- results

    def settle(self) -> None:
        """Fetch the results of the steps since the last time, and copy the parameters."""
        if not self.window:
            return
        outputs = fetch([made for _, _, made in self.window])
        bad = np.flatnonzero(~np.isfinite(outputs["loss"]))
        if bad.size:
            self._explain(int(bad[0]))
        old = self.copies
        self._copy()
        if not _are_finite(self.copies.values()):
            self.copies = old
            self._explain(len(self.window) - 1)
        self.run.totals.add(outputs, [len(x) for x, _, _ in self.window])
        self.window.clear()

    def _copy(self) -> None:
        self.copies = {p: p.value for p in self.state}

    def _explain(self, bad: int) -> None:
        """Make the steps of the window again from the copies, the last of them in checking mode,
        and raise NonFiniteError. The parameters are left as they were before that step."""
        run, trainer = self.run, self.trainer
        made = len(self.window)
        run.step, run.position = run.step - made, run.position - made
        for param, value in self.copies.items():
            param.value = value
        careful = max(bad - 1, 0)
        for i, (x, y, _) in enumerate(self.window[: bad + 1]):
            program = self.program if i < careful else trainer.program("check", self.network)
            program.seed(trainer.seed, step=run.step)
            trainer.optimizer.set_rate(self.rate_at(run.position))
            try:
                program(x=x, y=y)
            except gx.NonFiniteError as error:
                self.window.clear()
                trainer.check_targets(y, self._place())  # of a stream, not seen before training
                raise gx.NonFiniteError(f"{self._place()}: {error}") from None
            run.step += 1
            run.position += 1
        self.window.clear()
        raise gx.NonFiniteError(
            f"{self._place()}: the loss or a parameter is not finite, but was when the step was "
            "made again: do the batches change from one look to the next?"
        )

    def _place(self) -> str:
        run = self.run
        return f"step {run.step + 1}, batch {run.position + 1} of epoch {run.epoch + 1}"

    # -- callbacks

    def _start_callbacks(self) -> None:
        self.trainer.callbacks = [c for c in self.callbacks if c.keeps_state]
        saved, self.run.callbacks = self.run.callbacks, []
        for callback in self.trainer.callbacks:
            kind = type(callback).__name__
            found = next((s for s in saved if s["kind"] == kind), None)
            if found is not None:
                callback.load_state(found)
                saved = [s for s in saved if s is not found]
        for callback in self.callbacks:
            callback.on_start(self.trainer, self.end, self.batches)

    def _check_names(self) -> None:
        """Refuse what watches something that no row of the history will hold."""
        outputs = list(self.trainer.network.outputs)
        held_out = [f"val_{n}" for n in outputs] if self.held_out is not None else []
        more = ["penalty"] if self.trainer.is_penalised() else []
        for watcher in (self.schedule, *self.callbacks):
            watcher.check([*outputs, *more, *held_out, "rate"])

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*([] if event == "close" else [self.trainer]))


def _are_finite(values: Iterable[np.ndarray]) -> bool:
    """The sum of squares tells at once, unless finite numbers add up to more than there is."""
    with np.errstate(over="ignore", invalid="ignore"):
        flat = (v.ravel() for v in values)
        return all(isfinite(float(v @ v)) or bool(np.isfinite(v).all()) for v in flat)


@contextmanager
def _no_interrupt_within_a_step(loop: Loop) -> Generator[None]:
    """The first Ctrl-C waits for the end of the step; the second is as ever."""
    before: Any = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:  # someone has other plans for it
        yield
        return

    def wait(*_: Any) -> None:
        loop.interrupted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
