"""`Trainer`: a model, a loss and an optimizer, put together and run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphc as gx
from graphc.nn.layer import Layer
from graphc.train.callbacks import Callback
from graphc.train.checkpoints import holds_checkpoint, restore_run, save_run
from graphc.train.data import Batches
from graphc.train.data_checks import (
    as_array,
    check_integers_fit,
    check_range,
    check_shares,
    shown,
    whole,
)
from graphc.train.features import (
    LIMIT_NBYTES,
    Cached,
    Extractor,
    NotCachedError,
    cache,
    extractor,
    speed_up,
)
from graphc.train.graphs import Graphs
from graphc.train.history import History
from graphc.train.loop import Loop, Run
from graphc.train.losses import Function, as_loss
from graphc.train.metrics import Metric, as_metrics
from graphc.train.network import (
    Model,
    Network,
    Signature,
    check_row,
    to_numpy,
    training_graph,
)
from graphc.train.optimizers import Optimizer
from graphc.train.penalties import L1, L2, MaxNorm, Penalty, penalty
from graphc.train.source import ROWS, Source, as_source, held_out
from graphc.train.totals import Totals, fetch


class Trainer:
    """Trains `model`, a layer or a function of a node, with one compiled program per step.

    `loss`, `metrics`: by name or as functions (prediction, target) -> node. `penalties`: `L1`,
    `L2`. `limits`: `MaxNorm`. `backend`, `precision`, `threads`: as `gx.compile` takes them.
    `seed`: of dropout and other draws. `dtype`: of the numbers in the data; that of the parameters
    of a layer if it is left out, else float32. `cache_features`: what the leading frozen layers of
    an nn.Sequential make of a sample is computed once per fit and not in every step, if it takes
    no more memory than 1 GiB, or than the number of bytes that is given; `fit` prints what that
    saves, or why it is not done, and `feature_note` keeps it.

    The programs are compiled when the first data come. They are made anew when parameters were
    frozen, unfrozen or, in a layer, replaced; a function is called once. A new rate compiles
    nothing.
    """

    def __init__(
        self,
        model: Model,
        loss: str | Function,
        optimizer: Optimizer,
        metrics: Sequence[str | Metric | Function] = (),
        *,
        penalties: Sequence[Penalty] = (),
        limits: Sequence[MaxNorm] = (),
        backend: str = "auto",
        precision: str = "float32",
        threads: int | None = None,
        seed: int = 0,
        dtype: str | None = None,
        cache_features: bool | int = False,
    ) -> None:
        if not callable(model) or isinstance(model, type):
            raise gx.InputError(f"model={shown(model)}: need a layer, or a function of a node")
        if not isinstance(optimizer, Optimizer):
            raise gx.InputError(
                f"optimizer={shown(optimizer)}: need train.SGD(0.1), train.Adam(), ..."
            )
        _check_all("penalties", penalties, (L1, L2))
        _check_all("limits", limits, (MaxNorm,))
        _check_backend(backend)
        if not isinstance(cache_features, bool):
            whole("Trainer", "cache_features", cache_features, 0, remedy=", True or False")
        self.model, self.optimizer, self.seed = model, optimizer, seed
        self.loss_name, self._loss = loss, as_loss(loss)
        self.metrics = as_metrics(metrics, self._loss)
        self._penalties, self._limits = tuple(penalties), tuple(limits)
        self._options: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "threads": threads,
        }
        self.history, self.run = History(), Run()
        self.loop: Loop | None = None  # the fit in progress
        self._site = gx.user_site()
        self._cache_nbytes = LIMIT_NBYTES if cache_features is True else int(cache_features)
        self.feature_note = ""  # whether the last fit cached features, and what came of it
        self._network: Network | None = None
        self._graphs = Graphs(self._loss, self.metrics, dtype, self._site)

    def __repr__(self) -> str:
        model, loss = (
            repr(what) if isinstance(what, Layer | str) else getattr(what, "__name__", repr(what))
            for what in (self.model, self.loss_name)
        )
        return (
            f"Trainer({model}, {loss}, {type(self.optimizer).__name__}; "
            f"step {self.step}, epoch {self.epoch})"
        )

    # -- running

    def fit(
        self,
        batches: Any,
        epochs: int,
        validation: Any = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> History:
        """Train for `epochs` more epochs; returns the history of all epochs so far.

        `batches`: `train.Batches`, or an iterable of (x, y) with a length; arrays (x, y) are ONE
        batch of everything, a step per epoch. `validation`: the same, of which all rows count as
        they are; its targets may be of another kind, integer labels where training has rows of
        probabilities. `progress`: a bar, where there is a terminal. After `restore` of a checkpoint
        that was written within a fit, that fit goes on: `epochs` counts those it had done, and
        callbacks have their states again. Any other fit begins anew, except that an epoch that
        Ctrl-C ended goes on with its next batch if the batches are of the same kind as before.

        Raises InputError for unfit data before anything is trained, NonFiniteError where the loss
        or a parameter is no number any more. Ctrl-C ends the run after the step that it met;
        KeyboardInterrupt follows when callbacks have done their work. A second one does not wait.
        """
        cure = "; pass fit((x, y), epochs) or fit(train.Batches(x, y, size), epochs)"
        is_y = isinstance(epochs, list | np.ndarray)
        epochs = whole("fit", "epochs", epochs, 1, remedy=cure if is_y else "")
        _check_all("callbacks", callbacks, (Callback,))
        source = as_source(batches, "batches")
        network, measured = self.network_for(source), None
        if validation is not None:
            measured = held_out(validation, "validation")
            found = self.network_for(measured)
            check_row("validation", "x", found.signature.x_shape, network.signature.x_shape)
        self._network = network
        cached = self._cached(source, measured, progress) if self._cache_nbytes else None
        if cached is not None:
            network, source, measured = cached.network, cached.source, cached.held_out
        return Loop(self, network, source, epochs, measured, callbacks, progress).go()

    def predict(self, x: Any) -> np.ndarray:
        """The model's outputs for rows of x, an array [rows, ...], dropout off."""
        if isinstance(x, Batches):
            raise gx.InputError("x is train.Batches: need an array; predict(batches.x)")
        rows = as_array("x", x)
        if not rows.ndim or not len(rows):
            raise gx.InputError(f"x has shape {rows.shape}: need an array [rows, ...] with rows")
        graphs = self._graphs.of(self.model)
        try:
            of = graphs.forward(rows.shape[1:])
        except (gx.InputError, gx.ShapeError) as error:
            if rows.shape not in graphs.forwards:
                raise
            raise gx.InputError(
                f"x has shape {rows.shape}, that of a single row; predict(x[None]) takes it as one"
            ) from error
        program = of.programs.get("predict", [], lambda: self.compiled("predict", of.prediction))
        parts = [to_numpy(program(x=rows[i : i + ROWS])) for i in range(0, len(rows), ROWS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def evaluate(self, x: Any, y: Any = None) -> dict[str, Any]:
        """The loss and the metrics over rows (x, y), or over batches, dropout off and nothing
        changed. Targets may be of another kind than those of training, as in `fit`."""
        source = held_out(x if y is None else (x, y), "data")
        network = self.network_for(source)
        if self._network not in self._graphs.networks():
            self._network = network
        return self.totals_of(source, network).row(self.metrics)

    def totals_of(self, source: Source, network: Network) -> Totals:
        """The results of each batch, nothing changed; the network is one for such rows of x."""
        totals, graphs = Totals(), self._graphs
        for x, y in source.epoch(0):
            of = graphs.network(network.forward, network.signature.against(y, graphs.floats))
            totals.add(fetch([self.program("evaluate", of)(x=x, y=y)]), [len(x)])
        return totals

    # -- saving

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that a run needs to go on: parameters, optimizer, counters, history."""
        save_run(self, path)

    def restore(self, path: str | os.PathLike[str], missing_ok: bool = False) -> bool:
        """Go on from a file that `save` wrote, or from the last one in a folder of `Checkpoint`,
        the best if there is no other; returns True. `missing_ok`: False where there is nothing yet,
        so that a script can be run, stopped and run again.

        CheckpointError, changing nothing, for a file that is none, is damaged, or is of another
        model, optimizer, rate or dtype.
        """
        if missing_ok and not holds_checkpoint(path):
            return False
        restore_run(self, path)
        return True

    # -- what it is made of

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.run.step

    @property
    def epoch(self) -> int:
        """How many epochs were made."""
        return self.run.epoch

    @property
    def network(self) -> Network:
        """The declared graph of the last fit, or, where there was none, of the data that were
        evaluated; CompileError before there are data."""
        if self._network is None:
            raise gx.CompileError("the trainer has seen no data yet: call fit or evaluate")
        return self._network

    def state(self) -> dict[str, gx.Param]:
        """All that a step changes: parameters, and the optimizer's states."""
        params = self.network.params
        return {**params, **self.optimizer.state(params.values())}

    def stop(self, reason: str) -> None:
        """End the fit after the epoch in progress, which is finished."""
        self.run.stopping = reason

    def renew(self) -> None:
        """Declare the graph again if the model is made of other layers than when it was made."""
        network = self.network_of(self.network.signature)
        if self._network not in self._graphs.networks():
            self._network = network

    def take(self, network: Network) -> None:
        """Train with this graph from now on; all programs are made anew, as the states of the
        optimizer may be other ones."""
        for known in self._graphs.networks():
            known.programs.clear()
        self._network = network

    def program(self, name: str, network: Network | None = None) -> Any:
        """The executable "train", "check" (the same, stopping at what is not finite) or "evaluate",
        compiled when it is first asked for. `network`: another one than that of the trainer."""
        of = network or self.network
        if name == "evaluate":
            return of.programs.get(name, [], lambda: self.compiled(name, of.outputs))
        made_of = [self.optimizer, *of.trainable]
        return of.programs.get(name, made_of, lambda: self.compiled(name, *self.training_graph(of)))

    def training_graph(self, network: Network | None = None) -> Any:
        """The outputs and the updates of one step; states of the optimizer are made with it."""
        of = network or self.network
        with gx.MadeAt(self._site):
            return training_graph(of, self.optimizer, self._penalties, self._limits)

    def is_penalised(self, network: Network | None = None) -> bool:
        """Whether penalties are added to the loss: a column of its own in the history."""
        return penalty((network or self.network).params, self._penalties) is not None

    def _cached(self, source: Source, measured: Source | None, tell: bool) -> Cached | None:
        """Features in the place of the data, or None; in either case it is said why."""
        network = self.network

        def make() -> Extractor:
            return extractor(
                self.model, network, self._loss, self.metrics,
                lambda node: self.compiled("features", node),
            )  # fmt: skip

        try:
            found = network.programs.get("features", network.trainable, make)
            cached = cache(found, source, measured, self._cache_nbytes)
            self.feature_note = cached.note
            if tell:
                self.feature_note += f"; {speed_up(self, cached, source)}"
        except NotCachedError as why:
            cached, self.feature_note = None, f"features are not cached: {why}"
        if tell:
            print(self.feature_note)  # noqa: T201 -- cache_features=True asks for it
        return cached

    def compiled(
        self, name: str, outputs: Any, updates: Any = None, training: bool | None = None
    ) -> Any:
        """A program with the options of this trainer."""
        return gx.compile(
            outputs, updates=updates, training=training, check=name == "check", name=name,
            seed=self.seed, **self._options,
        )  # fmt: skip

    def network_of(self, signature: Signature) -> Network:
        """The graph for data of this signature."""
        graphs = self._graphs.of(self.model)
        return graphs.network(graphs.forward(signature.x_shape), signature)

    def network_for(self, source: Source) -> Network:
        """The graph for these data, which are looked at: InputError for rows of several shapes, or
        that the model does not take, and for unfit targets. That of the trainer stays."""
        first, graphs = source.first(), self._graphs.of(self.model)
        signature = Signature.of(*first, graphs.floats)
        for name, (x, y) in source.seen(first):
            signature.check(Signature.of(x, y, graphs.floats), name)
        try:
            of = graphs.forward(signature.x_shape, source.name)
            network = graphs.network(of, signature)
        except (gx.ShapeError, gx.DTypeError) as error:
            raise type(error)(f"{source.name}: {error}") from error
        for name, (_, y) in source.raw(first):
            self.check_targets(y, name, network)
        return network

    def check_targets(self, y: Any, name: str, network: Network | None = None) -> None:
        """InputError for targets that the loss is not made for."""
        if not isinstance(y, np.ndarray):  # on a device
            return
        if self._loss is gx.softmax_cross_entropy:
            classes = (network or self.network).classes
            if y.dtype.kind in "iu":
                check_range(name, y, classes)
            elif y.ndim > 1:
                check_shares(name, y, classes)
        elif self._loss in (gx.sigmoid_cross_entropy, gx.binary_cross_entropy):
            check_shares(name, y)
        elif y.dtype.kind in "iu":
            check_integers_fit(name, y)


def _check_all(argument: str, rules: Any, kinds: tuple[type, ...]) -> None:
    names = ", ".join(f"train.{k.__name__}" for k in kinds)
    if not isinstance(rules, Sequence) or not all(isinstance(r, kinds) for r in rules):
        raise gx.InputError(f"{argument}={shown(rules)}: need a list of {names}")


def _check_backend(backend: Any) -> None:
    """InputError for a name of no backend; whether it can run is seen where it is compiled for."""
    known = ("auto", "emulator")
    if backend not in known and str(backend).partition(":")[0] not in gx.devices():
        raise gx.InputError(
            f"backend={shown(backend)}: need auto, cuda, cuda:N (the GPU of a number), native, "
            "numpy or emulator"
        )
