"""The loop of `fit`: epochs over batches, with as little as possible between two steps.

The loss of a step is not waited for. Every `WINDOW` steps the results are fetched, looked at, and
what the steps change is copied: where something is not finite, the steps since then are made again
from the copy, one by one, and the first that leaves such a thing once more in checking mode, which
names the node where it began.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.train.callbacks import Callback
from graphc.train.history import History
from graphc.train.network import Network, below, frozen
from graphc.train.progress import ProgressBar
from graphc.train.schedules import Schedule
from graphc.train.source import Source
from graphc.train.totals import Totals, fetch

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

WINDOW = 64  # steps between two looks at the results


@dataclass
class Run:
    """Where a run stands: steps and epochs made, batches of the epoch in progress, what they were
    of, and their results. `began`: the epoch at which the fit in progress began, or the one that a
    restored checkpoint was written in. `written`: folder -> its checkpoints that are of this run.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    began: int | None = None
    stopping: str = ""
    totals: Totals = field(default_factory=Totals)
    callbacks: list[dict[str, Any]] = field(default_factory=list)  # restored, for the next fit
    written: dict[str, list[str]] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)  # the last one
    scheduled: int = 0  # the epoch from which it counts
    rate: float = 0.0  # of the last step
    settings: str = ""  # of the schedule that the fit in progress began with
    frozen: list[str] = field(default_factory=list)  # those of the restored checkpoint

    def follow(self, schedule: Schedule, epoch: int) -> None:
        """Take up a schedule: one that was set since the last time counts from this epoch."""
        if self.schedule is not schedule:
            schedule.reset()
            self.schedule, self.scheduled = schedule, epoch


class Loop:
    """One call of `fit`: `network` is that of the trainer, or the part of it that is trained on
    cached features, which are the `x` of its batches then."""

    def __init__(
        self, trainer: Trainer, network: Network, source: Source, epochs: int,
        held_out: Source | None, callbacks: Sequence[Callback], progress: bool,
    ) -> None:  # fmt: skip
        self.trainer, self.network = trainer, network
        self.source, self.held_out = source, held_out
        self.run, self.batches = trainer.run, len(source)
        self.callbacks = sorted(callbacks, key=lambda c: c.last)
        if progress:
            self.callbacks.insert(0, ProgressBar())
        self.goes_on = self.run.began is not None
        self.began = self.run.epoch if self.run.began is None else self.run.began
        self.end = self.began + epochs
        self.columns = self._columns()
        for watcher in (trainer.optimizer.schedule, *self.callbacks):
            watcher.check(self.columns)
        self._check_source()
        self._check_frozen()
        self.program: Any = None
        self.window: list[tuple[Any, Any, Any]] = []
        self.copies: dict[gx.Param, np.ndarray] = {}
        self.latest: tuple[Any, Any, Any] = ((), (), {})  # x, y and the results of a step
        self.interrupted = self.warned = False

    def go(self) -> History:
        """Run to the last epoch, or to what ends it before."""
        trainer, run, first = self.trainer, self.run, self.run.step
        trainer.loop = self
        if not self.goes_on:
            run.stopping = ""
        try:
            for callback in self.callbacks:
                callback.on_start(trainer, self.end, self.batches)
            self._prepare()
            self._begin()
            with _no_interrupt_within_a_step(self):
                self._run()
        finally:
            trainer.loop = None
            self._call("close")
        if self.interrupted:
            raise KeyboardInterrupt
        if run.step == first and not run.stopping:
            trainer.history.stopped = (
                f"nothing was trained: this run has made {run.epoch - self.began} of "
                f"{self.end - self.began} epochs; a further fit, or more epochs, train on"
            )
        return trainer.history

    def _prepare(self) -> None:
        """The program of the next steps: another one where parameters were frozen or unfrozen."""
        trainer = self.trainer
        if self.network is not trainer.network:
            self._check_features()
        program = trainer.program("train", self.network)
        if program is not self.program:
            self.program = program
            program.seed(trainer.seed, step=self.run.step)
            self.state = [p for p in trainer.state().values() if p.trainable]  # what steps change
            self._copy()

    def _check_features(self) -> None:
        """Parameters before the cached features that a callback has unfrozen."""
        known = set(below(self.network.prediction))
        names = [n for n, p in self.network.params.items() if p.trainable and p not in known]
        if names:
            raise gx.InputError(
                f"model: {_named(names)} can change, and features made with it are cached: "
                "unfreeze it between two fits, or train with cache_features=False"
            )

    @contextmanager
    def _frozen_as(self, trainable: Sequence[bool]) -> Generator[None]:
        """Parameters are frozen as they were before."""
        params, now = self.network.params.values(), self.network.trainable
        try:
            for param, was in zip(params, trainable, strict=True):
                param.trainable = was
            yield
        finally:
            for param, is_trainable in zip(params, now, strict=True):
                param.trainable = is_trainable

    def _begin(self) -> None:
        """Nothing is refused any more: the state of the run becomes that of this fit."""
        run, history = self.run, self.trainer.history
        self._load_callbacks()
        if not self.goes_on:
            history.stopped, history.best_epoch = "", None
            if not run.settings or run.schedule is not self.trainer.optimizer.schedule:
                run.settings = self.trainer.optimizer.schedule.settings
        if run.position and run.source != self.source.facts():
            self._drop_epoch()
        self.follow()
        run.began, run.source, run.callbacks = self.began, self.source.facts(), []

    def _run(self) -> None:
        run = self.run
        try:
            while run.epoch < self.end and not run.stopping and not self.interrupted:
                self._epoch()
            self.settle()
            self.follow()  # a rate that was set in the last epoch
            self.trainer.history.stopped = run.stopping
            self._call("on_interrupt" if self.interrupted else "on_end")
        except BaseException:
            self._drop_epoch()
            raise
        finally:
            run.began = None

    def _drop_epoch(self) -> None:
        """The epoch in progress, of which results are lost or the data are not there any more,
        begins anew."""
        self.run.position, self.run.totals = 0, Totals()

    # -- one epoch

    def _epoch(self) -> None:
        self._prepare()
        run, program, window = self.run, self.program, self.window
        hooks = [c.on_step for c in self.callbacks if type(c).on_step is not Callback.on_step]
        optimizer, schedule = self.trainer.optimizer, Schedule()
        trainable = self.network.trainable
        for x, y in self.source.epoch(run.epoch, run.position):
            if schedule is not optimizer.rate:  # at first, and where a callback has set another
                self.settle()  # with the rates that these steps were made with
                self.follow()
                self._warn_of_no_rate()
                schedule = run.schedule
                self._set_rate()
            elif schedule.varies:
                self._set_rate()
            self.latest = (x, y, program(x=x, y=y))
            window.append(self.latest)
            run.step += 1
            run.position += 1
            if len(window) == WINDOW:
                self.settle()
            for hook in hooks:
                hook(self.trainer)
            if hooks and self.network.trainable != trainable:
                with self._frozen_as(trainable):
                    self.settle()  # the steps until now, which may be made again
                self._prepare()
                program, trainable = self.program, self.network.trainable
            if self.interrupted:
                return
        self.settle()
        self.follow()
        self._end_epoch()

    def _end_epoch(self) -> None:
        trainer, run = self.trainer, self.run
        if not run.totals.rows:
            raise gx.InputError(f"batches: epoch {run.epoch + 1} has none")
        row = {"epoch": run.epoch + 1, **run.totals.row(trainer.metrics)}
        if self.held_out is not None:
            held_out = trainer.totals_of(self.held_out, self.network).row(trainer.metrics)
            row.update({f"val_{name}": value for name, value in held_out.items()})
        row["rate"] = run.rate
        run.schedule.observe(row)
        trainer.history.rows.append(row)
        run.totals, run.position, run.epoch = Totals(), 0, run.epoch + 1
        for callback in self.callbacks:
            callback.on_epoch(trainer, row)

    def _rate_at(self, position: int) -> float:
        """The rate of one step of this epoch."""
        run = self.run
        return run.schedule.rate(run.epoch - run.scheduled + position / self.batches)

    def _set_rate(self) -> None:
        """That of the next step."""
        self.run.rate = float(self._rate_at(self.run.position))
        self.trainer.optimizer.set_rate(self.run.rate)

    def follow(self) -> None:
        """Take up a rate that was set since the last time; its epochs count from the one that the
        next step is of."""
        run, schedule = self.run, self.trainer.optimizer.schedule
        if schedule is not run.schedule:
            schedule.check(self.columns)
            run.follow(schedule, run.epoch + run.position // self.batches)

    def _warn_of_no_rate(self) -> None:
        """Once, of a schedule that has come to its end, at a rate of 0."""
        run = self.run
        if self.warned or any(self._rate_at(i) for i in range(self.batches)):
            return
        self.warned, site = True, gx.user_site()
        text = (
            f"optimizer: the rate of {run.schedule!r} is 0 for the whole of epoch {run.epoch + 1}, "
            f"and it began with epoch {run.scheduled + 1}; set a new one, trainer.optimizer.rate = "
            "..., whose epochs count from there"
        )
        warnings.warn_explicit(text, UserWarning, site.file, site.line)

    # -- results

    def settle(self) -> None:
        """Fetch the results of the steps since the last time, and copy the parameters."""
        if not self.window:
            return
        outputs = fetch([made for _, _, made in self.window])
        old = self.copies
        self._copy()
        if not (np.isfinite(outputs["loss"]).all() and _are_finite(self.copies.values())):
            self._explain(old)
        self.run.totals.add(outputs, [len(x) for x, _, _ in self.window])
        self.window.clear()

    def _copy(self) -> None:
        self.copies = {p: p.value for p in self.state}

    def _put_back(self, copies: Mapping[gx.Param, np.ndarray]) -> None:
        for param, value in copies.items():
            param.value = value

    def _explain(self, before: dict[gx.Param, np.ndarray]) -> None:
        """Make the steps of the window again, from what there was before, and raise NonFiniteError
        for the first that leaves what is not finite. All is left as it was before that step."""
        run, trainer, window = self.run, self.trainer, self.window
        run.step, run.position = run.step - len(window), run.position - len(window)
        self.window = []
        self._put_back(before)
        for x, y, _ in window:
            loss = float(self._again("train", x, y)["loss"])
            self._copy()
            if not (isfinite(loss) and _are_finite(self.copies.values())):
                self._put_back(before)
                try:
                    self._again("check", x, y)
                except gx.NonFiniteError as error:
                    trainer.check_targets(y, self._place())  # of a stream, not seen before training
                    raise gx.NonFiniteError(f"{self._place()}: {error}") from None
                self._put_back(before)
                break
            before = self.copies
            run.step, run.position = run.step + 1, run.position + 1
        raise gx.NonFiniteError(
            f"{self._place()}: the loss or a parameter is not finite, but was when the step was "
            "made again: do the batches change from one look to the next?"
        )

    def _again(self, program: str, x: Any, y: Any) -> Any:
        made = self.trainer.program(program, self.network)
        made.seed(self.trainer.seed, step=self.run.step)
        self._set_rate()
        return made(x=x, y=y)

    def _place(self) -> str:
        run = self.run
        return f"step {run.step + 1}, batch {run.position + 1} of epoch {run.epoch + 1}"

    # -- what is refused before anything is trained

    def _columns(self) -> dict[str, str | None]:
        """The numbers that rows of the history will hold, with the better side of each."""
        trainer = self.trainer
        modes = {"loss": "min", **{m.name: m.mode for m in trainer.metrics}}
        outputs = trainer.network.outputs  # parts of an output with a mode make a number
        held = {n: modes[n] for n, node in outputs.items() if modes[n] or not node.ndim}
        penalty = {"penalty": "min"} if trainer.is_penalised() else {}
        held_out = {f"val_{n}": mode for n, mode in held.items() if self.held_out is not None}
        return {**held, **penalty, **held_out, "rate": None}

    def _check_source(self) -> None:
        """Other batches than those of the checkpoint that was written within an epoch."""
        run, facts = self.run, self.source.facts()
        if self.goes_on and run.position and run.source != facts:
            names = dict.fromkeys([*run.source, *facts])
            differ = [n for n in names if run.source.get(n) != facts.get(n)]
            raise gx.InputError(
                f"{self.source.name}: the checkpoint was written after {run.position} batches of "
                f"epoch {run.epoch + 1}, and these are others: "
                + "; ".join(f"{n} is {facts.get(n)}, not {run.source.get(n)}" for n in differ)
                + "; pass the same ones, or restore a checkpoint from the end of an epoch"
            )

    def _check_frozen(self) -> None:
        """Other parameters frozen than in the fit that goes on."""
        run, now = self.run, frozen(self.trainer.network.params)
        if self.goes_on and run.frozen != now:
            raise gx.InputError(
                f"model: the checkpoint was written in a fit with {_named(run.frozen)} frozen, and "
                f"now it is {_named(now)}: that fit goes on first; freeze the same for it"
            )

    # -- callbacks

    @property
    def states(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps of the callbacks."""
        kept = [c for c in self.callbacks if type(c).state is not Callback.state]
        return [{**c.state(), "kind": type(c).__name__} for c in kept]

    def _load_callbacks(self) -> None:
        saved = self.run.callbacks
        for callback in self.callbacks:
            kind = type(callback).__name__
            found = next((s for s in saved if s["kind"] == kind), None)
            if found is not None:
                callback.load_state(found)
                saved = [s for s in saved if s is not found]

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*([] if event == "close" else [self.trainer]))


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


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
