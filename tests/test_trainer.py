"""The trainer: what it computes, reports, stops at, and refuses before it begins."""
# ruff: noqa: ARG002 -- callbacks override methods of several arguments

from __future__ import annotations

import csv
import gc
import io
import json
import math
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest
from rich.console import Console

import graphc as gx
from graphc import nn, train
from graphc.train import loop as loop_module
from graphc.train.metrics import METRICS, Metric
from graphc.train.network import Signature
from graphc.train.source import Source

RNG = np.random.default_rng(0)
CENTRES = np.array([[2, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 0]], "float32")
Y = RNG.integers(0, 3, 90).astype("int32")
X = (CENTRES[Y] + 0.5 * RNG.standard_normal((90, 4))).astype("float32")
VALIDATION = (X[60:], Y[60:])


class Shuffled:
    """Batches in an order that depends on the epoch alone; the last one is smaller."""

    def __init__(self, x: np.ndarray = X[:60], y: np.ndarray = Y[:60], size: int = 16) -> None:
        self.x, self.y, self.size = x, y, size

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([7, number]).permutation(len(self.x))
        for i in range(0, len(order), self.size):
            chosen = order[i : i + self.size]
            yield self.x[chosen], self.y[chosen]


def network(*extra: Any, **options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Dense(4, 8, "relu"), *extra, nn.Dense(8, 3), **options)


def trainer(model: Any = None, optimizer: Any = None, **options: Any) -> train.Trainer:
    made = train.SGD(0.1, momentum=0.9) if optimizer is None else optimizer
    loss = options.pop("loss", "softmax_cross_entropy")
    return train.Trainer(model or network(), loss, made, **options)


def values(model: Any) -> dict[str, np.ndarray]:
    return {n: p.value for n, p in model.parameters().items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


# -- learning


@pytest.mark.usefixtures("backend")
def test_learns_and_reports() -> None:
    made = trainer(metrics=["accuracy"])
    history = made.fit(Shuffled(), 8, validation=VALIDATION)
    assert history["val_accuracy"][-1] > 0.9
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["epoch"] == list(range(1, 9))
    found = made.evaluate(*VALIDATION)
    assert found["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    share = np.mean(made.predict(VALIDATION[0]).argmax(-1) == VALIDATION[1])
    assert found["accuracy"] == pytest.approx(share)
    assert made.step == 32
    assert made.epoch == 8


@pytest.mark.usefixtures("backend")
def test_is_a_loop_of_calls_bit_for_bit() -> None:
    """Against updates written by hand; the losses of a row are the mean over rows."""
    made, model = trainer(), network()
    x, y = gx.input("x", ("batch", 4)), gx.input("y", ("batch",), "int32")
    loss = gx.softmax_cross_entropy(model(x), y)
    params = list(model.parameters().values())
    rate = gx.param("rate", 0.1)
    updates: dict[gx.Param, gx.Node] = {}
    for p, g in zip(params, gx.grad(loss, params), strict=True):
        v = gx.param(f"v {p.name}", np.zeros(p.shape, "float32"))
        updates[v] = 0.9 * v + g
        updates[p] = p - rate * updates[v]
    step = gx.compile({"loss": loss}, updates=updates)
    for epoch in range(2):
        seen = [(float(step(x=a, y=b)["loss"]), len(a)) for a, b in Shuffled().epoch(epoch)]
    history = made.fit(Shuffled(), 2)
    assert same(values(model), values(made.model))
    assert history["loss"][-1] == pytest.approx(sum(a * n for a, n in seen) / 60, rel=1e-12)


@pytest.mark.usefixtures("native")
def test_one_program_serves_all_sizes_and_rates() -> None:
    made = trainer(optimizer=train.SGD(train.Cosine(0.1, 4), momentum=0.9), backend="native")
    history = made.fit(Shuffled(), 2)
    program = made.program("train")
    history = made.fit(Shuffled(size=7), 1)
    assert made.program("train") is program
    source = program.source
    program.specialize(batch=33)
    assert program.source == source  # the batch size is an argument: nothing to compile
    assert history["rate"] == pytest.approx(
        [train.Cosine(0.1, 4).rate(e + p) for e, p in ((0, 0.75), (1, 0.75), (2, 8 / 9))]
    )


@pytest.mark.usefixtures("backend")
def test_a_plain_function_is_a_model() -> None:
    w = gx.param("w", nn.init.glorot_uniform((4, 3)))
    b = gx.param("b", np.zeros(3, "float32"))
    made = trainer(lambda x: x @ w + b)
    start = w.value
    made.fit((X, Y), 3)
    assert list(made.network.params) == ["w", "b"]
    assert not np.array_equal(w.value, start)


def test_a_function_that_makes_its_parameters_is_called_once() -> None:
    """What it predicts is what was trained; for rows of another shape it would make others."""

    def model(x: gx.Node) -> gx.Node:
        return x @ gx.param("w", nn.init.glorot_uniform((x.shape[-1], 3)))

    made = trainer(model, backend="numpy")
    before = made.predict(X)
    made.fit((X, Y), 3)
    w = made.network.params["w"].value
    assert not np.allclose(made.predict(X), before)
    np.testing.assert_allclose(made.predict(X), X @ w, rtol=1e-5, atol=1e-6)
    one_hot = np.eye(3, dtype="float32")[Y]
    assert made.evaluate(X, one_hot)["loss"] == pytest.approx(made.evaluate(X, Y)["loss"])
    for use in (made.predict, lambda x: made.evaluate(x, Y), lambda x: made.fit((x, Y), 1)):
        with pytest.raises(gx.InputError, match=r"rows of another shape, \(3,\), it makes param"):
            use(X[:, :3])
    assert made.network.params["w"].value is not None
    assert made.network.params["w"].shape == (4, 3)


def test_rows_of_another_shape_share_the_parameters() -> None:
    made = trainer(backend="numpy")
    made.fit((X, Y), 1)
    rows = np.stack([X, X], axis=1)  # two in a row of their own
    np.testing.assert_array_equal(made.predict(rows)[:, 1], made.predict(X))
    twice = made.evaluate(rows, np.stack([Y, Y], axis=1))
    assert twice["loss"] == pytest.approx(made.evaluate(X, Y)["loss"])


def test_held_out_labels_may_be_of_another_kind(compiled_names: list[str]) -> None:
    """Rows of probabilities in training, by Mixup, and integer labels beside: a program each,
    compiled once, whatever is called between."""
    mixed = train.Batches(X[:60], Y[:60], 16, (2, 2), augment=train.Mixup(0.3, classes=3))
    made = trainer(backend="numpy", metrics=["accuracy", train.top_k(2), train.confusion_matrix(3)])
    history = made.fit(mixed, 2, VALIDATION)
    assert made.network.signature.y_shape == (3,)
    found = made.evaluate(*VALIDATION)
    assert found["loss"] == history["val_loss"][-1]
    share = np.mean(made.predict(VALIDATION[0]).argmax(-1) == VALIDATION[1])
    assert found["accuracy"] == pytest.approx(share)
    made.fit(mixed, 6, VALIDATION)
    assert made.history["val_accuracy"][-1] > 0.8
    wide = made.evaluate(X[60:], Y[60:].astype("int64"))
    assert wide["loss"] == made.evaluate(*VALIDATION)["loss"]
    assert compiled_names == ["train", "evaluate", "predict"]
    made.fit((X[:60], Y[:60]), 1)
    made.fit(mixed, 1, train.Batches(*VALIDATION, 8))
    assert compiled_names == ["train", "evaluate", "predict", "train"]


def test_what_a_trainer_is_in_one_line() -> None:
    made = trainer(nn.Dense(4, 3), backend="numpy", loss=gx.softmax_cross_entropy)
    made.fit(Shuffled(), 2)
    assert repr(made) == "Trainer(Dense(4, 3), softmax_cross_entropy, SGD; step 8, epoch 2)"


def test_single_samples_and_whole_sets() -> None:
    """Batches of one row, and (x, y) as one batch of all."""
    made = trainer(backend="numpy", optimizer=train.SGD(0.05))
    made.fit(Shuffled(size=1), 1)
    assert made.step == 60
    made.fit((X[:60], Y[:60]), 4)
    assert made.step == 64
    assert made.fit([(X[:60], Y[:60])], 1)["loss"][-1] < 0.5


def test_dtypes_of_the_data() -> None:
    """Images in bytes, labels in int64, a model in float64: each input is declared as it fits."""
    images = (X[:60] * 20 + 100).clip(0, 255).astype("uint8")
    made = trainer(nn.Sequential(nn.Dense(4, 3, dtype="float64")), backend="numpy")
    made.fit((images, Y[:60].astype("int64")), 1)
    assert (made.network.signature.x_dtype, made.network.signature.y_dtype) == ("float64", "int32")
    assert made.predict(images).dtype == np.float64
    on_device: Any = SimpleNamespace(dtype=np.dtype("int64"), shape=(60,))  # is not cast
    assert Signature.of(images, on_device, "float32").y_dtype == "int64"
    low = trainer(nn.Sequential(nn.Dense(4, 3, dtype="bfloat16")), backend="numpy")
    assert low.fit((X, Y), 3)["loss"][-1] < low.history["loss"][0]


def test_dropout_is_the_same_on_every_backend() -> None:
    found = []
    for backend in ("numpy", "emulator"):
        made = trainer(network(nn.Dropout(0.5, "classic")), backend=backend, seed=3)
        made.fit(Shuffled(), 2)
        found.append(values(made.model))
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-4, atol=1e-5)
    other = trainer(network(nn.Dropout(0.5, "classic")), backend="numpy", seed=4)
    other.fit(Shuffled(), 2)
    assert not np.allclose(values(other.model)["layers.0.weight"], found[0]["layers.0.weight"])


def test_evaluation_changes_nothing_and_drops_nothing() -> None:
    made = trainer(network(nn.Dropout(0.5)), backend="numpy", metrics=["accuracy"])
    made.fit(Shuffled(), 1)
    before = values(made.model)
    first, second = made.evaluate(*VALIDATION), made.evaluate(Shuffled(*VALIDATION))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert same(values(made.model), before)


def test_large_predictions_come_in_parts() -> None:
    made = trainer(backend="numpy")
    many = np.tile(X, (30, 1))
    np.testing.assert_allclose(made.predict(many)[:90], made.predict(X), rtol=1e-5)
    assert made.predict(many).shape == (2700, 3)


# -- penalties and limits


@pytest.mark.usefixtures("backend")
def test_penalties_are_of_weights_alone() -> None:
    """One step of SGD from the same start: their gradients are the difference."""
    plain, pulled = trainer(optimizer=train.SGD(0.1)), trainer(
        optimizer=train.SGD(0.1), penalties=[train.L1(0.02), train.L2(0.3)]
    )  # fmt: skip
    start = values(network())
    plain.fit((X, Y), 1)
    history = pulled.fit((X, Y), 1)
    for name, w in values(pulled.model).items():
        extra = 0.1 * (0.02 * np.sign(start[name]) + 0.3 * start[name])
        wanted = values(plain.model)[name] - (extra if w.ndim == 2 else 0)
        np.testing.assert_allclose(w, wanted, rtol=1e-4, atol=1e-6)
    weights = [w for w in start.values() if w.ndim == 2]
    total = sum(0.02 * np.abs(w).sum() + 0.15 * (w * w).sum() for w in weights)
    assert history["penalty"] == pytest.approx([total], rel=1e-5)
    assert history["loss"] == pytest.approx(plain.history["loss"], rel=1e-6)


def test_penalties_by_pattern() -> None:
    made = trainer(backend="numpy", penalties=[train.L2(1.0, on="*bias")], optimizer=train.SGD(0.1))
    made.model.parameters()["layers.0.bias"].value = np.ones(8)
    assert made.fit((X, Y), 1)["penalty"] == pytest.approx([4.0])


@pytest.mark.usefixtures("backend")
def test_max_norm_holds_after_each_step() -> None:
    made = trainer(limits=[train.MaxNorm(0.7)], optimizer=train.SGD(0.5))
    made.fit(Shuffled(), 2)
    for name, w in values(made.model).items():
        if w.ndim == 2:
            assert np.linalg.norm(w, axis=0).max() <= 0.7 * (1 + 1e-5), name
    head = values(made.model)["layers.1.weight"]
    assert np.linalg.norm(head, axis=0).max() > 0.69


@pytest.mark.parametrize(
    ("shape", "axes"), [((3,), ()), ((5, 3), 0), ((2, 5, 3), (0, 1))], ids=["bias", "2", "3"]
)
def test_max_norm_is_of_the_weights_into_one_output(shape: Any, axes: Any) -> None:
    start = RNG.standard_normal(shape).astype("float32")
    limited = train.MaxNorm(0.6).node(gx.param("w", start))
    norms = np.sqrt((start**2).sum(axis=axes, keepdims=True))
    wanted = start * np.minimum(1, 0.6 / norms)
    assert (norms > 0.6).any()
    np.testing.assert_allclose(gx.compile(limited, backend="numpy")(), wanted, rtol=1e-5)


# -- freezing


@pytest.mark.usefixtures("backend")
def test_frozen_parameters_stay_and_have_no_gradient() -> None:
    made = trainer()
    made.fit(Shuffled(), 1)
    whole = len(made.program("train").graph.nodes)
    frozen = made.model.freeze("layers.0*")
    before = values(made.model)
    made.fit(Shuffled(), 2)
    graph = made.program("train").graph
    updated = {p.name for p, _ in graph.updates}
    assert updated == {f"layers.1.{n}" for n in ("weight", "bias", "weight.velocity",
                                                 "bias.velocity")}  # fmt: skip
    assert len(graph.nodes) < whole
    after = values(made.model)
    for name in before:
        assert np.array_equal(before[name], after[name]) == (name in frozen), name
    made.model.unfreeze("*")
    made.fit(Shuffled(), 1)
    assert not np.array_equal(before["layers.0.weight"], values(made.model)["layers.0.weight"])


class Freeze(train.Callback):
    """Freezes the first layer after two epochs."""

    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
        if trainer.epoch == 2:
            trainer.model.freeze("layers.0*")  # type: ignore[union-attr]


def test_what_a_callback_freezes_stays_from_the_next_epoch_on() -> None:
    one, two = trainer(backend="numpy"), trainer(backend="numpy")
    one.fit(Shuffled(), 5, callbacks=[Freeze()])
    two.fit(Shuffled(), 2)
    two.model.freeze("layers.0*")
    two.fit(Shuffled(), 3)
    assert {n: v.tobytes() for n, v in values(one.model).items()} == {
        n: v.tobytes() for n, v in values(two.model).items()
    }


def test_a_fit_goes_on_with_what_was_frozen(tmp_path: Path) -> None:
    """A script of two phases that is run again does not run its first phase on the second."""
    made = trainer(backend="numpy")
    made.fit(Shuffled(), 2, callbacks=[train.Checkpoint(tmp_path)])
    again = trainer(backend="numpy")
    again.restore(tmp_path)
    again.model.freeze("layers.0*")
    with pytest.raises(gx.InputError, match=r"with nothing frozen, and now it is layers\.0"):
        again.fit(Shuffled(), 4)
    again.model.unfreeze("*")
    assert len(again.fit(Shuffled(), 4)) == 4


@pytest.mark.parametrize(
    ("activation", "loss", "said"),
    [("softmax", "softmax_cross_entropy", 1), ("sigmoid", "sigmoid_cross_entropy", 1),
     ("tanh", "softmax_cross_entropy", 0), ("sigmoid", "binary_cross_entropy", 0)],
)  # fmt: skip
def test_an_activation_before_a_loss_that_applies_it_is_told(
    activation: str, loss: str, said: int
) -> None:
    model = nn.Sequential(nn.Dense(4, 4, activation="relu"), nn.Dense(4, 1, activation=activation))
    made = train.Trainer(model, loss, train.SGD(0.1), backend="numpy")
    labels = (X[:, :1] > 0).astype("int32" if loss[:4] == "soft" else "float32")
    targets = 0 * labels[:, 0] if loss[:4] == "soft" else labels
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        made.fit((X, targets), 1, progress=False)
    assert [f"ends with {activation}" in str(w.message) for w in found] == [True] * said
    assert all(w.filename == __file__ for w in found)


def test_what_a_trainer_keeps_does_not_grow() -> None:
    """Graphs and programs of a head, or of a prefix, that is there no more are dropped."""
    made = trainer(network(nn.Dense(8, 8, "tanh")), backend="numpy", cache_features=True)
    kept: list[Any] = []
    for i in range(3):
        made.model.replace_last(nn.Dense(8, 3))
        made.model.freeze("layers.0*")
        made.fit((X, Y), 1)
        made.model.freeze("layers.1*")
        made.fit((X, Y), 1, progress=False)
        assert "layers.0 to layers.1" in made.feature_note
        kept.append(ref(made.network))
        kept.append(ref(made.network.programs.get("features", made.network.trainable, list).head))
        made.model.unfreeze("*")
        made.evaluate(X[:, :4], Y)
        gc.collect()
        assert [k() is not None for k in kept] == [False, False] * i + [True, True]


def test_a_new_head_is_trained() -> None:
    made = trainer(backend="numpy")
    made.fit(Shuffled(), 1)
    assert made.predict(X).shape == (90, 3)
    made.model.replace_last(nn.Dense(8, 5))
    start = values(made.model)
    made.fit(Shuffled(), 1)
    assert not np.array_equal(start["layers.1.weight"], values(made.model)["layers.1.weight"])
    assert made.predict(X).shape == (90, 5)


# -- metrics


def measure(metric: Any, prediction: np.ndarray, target: np.ndarray, size: int = 7) -> Any:
    """A metric's value over uneven batches of given predictions."""
    loss = "mae" if target.ndim == 2 else lambda p, t: p.mean()
    one = gx.param("one", 1.0)
    made = train.Trainer(lambda x: x * one, loss, train.SGD(0.1), [metric], backend="numpy")
    name = metric if isinstance(metric, str) else metric.name
    return made.evaluate(Shuffled(prediction, target, size))[name]


SCORES = RNG.standard_normal((40, 5)).astype("float32")
LABELS = RNG.integers(0, 5, 40)


def test_accuracy() -> None:
    wanted = np.mean(SCORES.argmax(-1) == LABELS)
    assert measure("accuracy", SCORES, LABELS) == pytest.approx(wanted)
    assert measure("accuracy", SCORES, np.eye(5, dtype="float32")[LABELS]) == pytest.approx(wanted)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("scores", [SCORES, np.round(SCORES), 0 * SCORES], ids=["", "ties", "0"])
def test_top_k(k: int, scores: np.ndarray) -> None:
    """Of equal ones the lower index is first, so that top_1 is the accuracy; NaN is never found."""
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    found = np.array([label in row for label, row in zip(LABELS, best, strict=True)])
    metric = train.top_k(k)
    for labels in (LABELS, np.eye(5, dtype="float32")[LABELS]):
        assert measure(metric, scores, labels) == pytest.approx(found.mean())
    if k == 1:
        assert measure("accuracy", scores, LABELS) == pytest.approx(found.mean())
    broken = scores.copy()
    broken[np.arange(20), LABELS[:20]] = np.nan
    nodes = metric.node(gx.input("p", ("n", 5)), gx.input("t", ("n",), "int64"))
    part = gx.compile(nodes, backend="numpy")
    assert part(p=broken[:20], t=LABELS[:20]) == 0
    assert part(p=broken[:20], t=(LABELS[:20] + 1) % 5) <= part(
        p=scores[:20], t=(LABELS[:20] + 1) % 5
    )


def test_confusion_matrix() -> None:
    wanted = np.zeros((5, 5))
    np.add.at(wanted, (LABELS, SCORES.argmax(-1)), 1)
    for labels in (LABELS, np.eye(5, dtype="float32")[LABELS]):
        np.testing.assert_array_equal(measure(train.confusion_matrix(5), SCORES, labels), wanted)


def test_errors_and_r2_over_uneven_batches() -> None:
    target = (1000 + RNG.standard_normal((40, 1))).astype("float32")
    guess = (target + 0.3 * RNG.standard_normal((40, 1))).astype("float32")
    error = (guess - target).astype("float64")
    assert measure("mean_absolute_error", guess, target) == pytest.approx(np.abs(error).mean())
    assert measure("mean_squared_error", guess, target) == pytest.approx((error**2).mean())
    r2 = 1 - (error**2).sum() / ((target - target.mean(dtype="float64")) ** 2).sum()
    assert measure("r2", guess, target) == pytest.approx(r2, rel=1e-4)


def test_r2_of_a_constant_that_no_float_is() -> None:
    target = np.full((40, 1), 0.1, "float32")
    assert [measure("r2", target + e, target, size) for e in (0, 1) for size in (7, 40)] == [
        1, 1, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 39, 40])
def test_r2_is_averaged_over_the_outputs(size: int) -> None:
    """As scikit-learn's r2_score does, whatever the batches: outputs of other scales and means, one
    constant, one met exactly."""
    target = (RNG.standard_normal((40, 4)) * [1, 10, 0, 1] + [0, 5, 2, 1]).astype("float32")
    guess = (target + RNG.standard_normal((40, 4)) * [0.5, 1, 1, 0]).astype("float32")
    wide = target.astype("float64")
    errors = ((guess - wide) ** 2).sum(axis=0)
    distances = ((wide - wide.mean(axis=0)) ** 2).sum(axis=0)
    columns = [1 - errors[0] / distances[0], 1 - errors[1] / distances[1], 0, 1]
    for i, wanted in enumerate(columns):
        part = measure("r2", guess[:, i : i + 1], target[:, i : i + 1], size)
        assert part == pytest.approx(wanted, rel=1e-5)
    assert measure("r2", guess, target, size) == pytest.approx(np.mean(columns), rel=1e-5)


def test_binary_accuracy_is_of_what_the_loss_takes() -> None:
    truth = (Y[:, None] == 1).astype("float32")
    for loss, last in (("binary_cross_entropy", "sigmoid"), ("sigmoid_cross_entropy", None)):
        made = trainer(nn.Dense(4, 1, last), loss=loss, metrics=["binary_accuracy"],
                       backend="numpy")  # fmt: skip
        made.fit((X, truth), 3)
        positive = made.predict(X) > (0.5 if last else 0)
        assert 0 < positive.mean() < 1
        assert made.evaluate(X, truth)["binary_accuracy"] == pytest.approx(
            np.mean(positive == truth)
        )


def test_binary_accuracy_and_own_metrics() -> None:
    logits = RNG.standard_normal((40, 1)).astype("float32")
    truth = (RNG.random((40, 1)) > 0.5).astype("float32")
    wanted = np.mean((logits > 0) == (truth > 0.5))
    assert measure("binary_accuracy", logits, truth) == pytest.approx(wanted)
    half = train.binary_accuracy(0.5)
    wanted = np.mean((logits > 0.5) == (truth > 0.5))
    assert measure(half, logits, truth) == pytest.approx(wanted)
    largest = Metric("largest", lambda p, t: p.max(), "max", lambda v, rows: float(v.max()))
    assert measure(largest, logits, truth) == pytest.approx(logits.max())


# -- callbacks


class Watcher(train.Callback):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_start(self, trainer: train.Trainer, epochs: int, batches: int) -> None:
        self.seen.append(f"start {epochs} {batches}")

    def on_step(self, trainer: train.Trainer) -> None:
        self.seen.append(f"step {trainer.step}")

    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
        self.seen.append(f"epoch {row['epoch']}")

    def on_end(self, trainer: train.Trainer) -> None:
        self.seen.append("end")

    def close(self) -> None:
        self.seen.append("close")


def test_callbacks_in_order() -> None:
    watcher = Watcher()
    trainer(backend="numpy").fit(Shuffled(size=30), 2, callbacks=[watcher])
    assert watcher.seen == [
        "start 2 2", "step 1", "step 2", "epoch 1", "step 3", "step 4", "epoch 2", "end", "close",
    ]  # fmt: skip


class Scripted(train.Callback):
    """Puts given values into the rows, as a metric of the validation would."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
        row["val_loss"] = self.losses[row["epoch"] - 1]


def test_early_stopping_restores_the_best() -> None:
    """Best in epoch 3; epoch 4 improves by less than min_change; patience is 2."""

    class Keep(train.Callback):
        def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
            kept.append(values(trainer.model))

    kept: list[dict[str, np.ndarray]] = []
    made, stopping = trainer(backend="numpy"), train.EarlyStopping(patience=2, min_change=0.1)
    losses = Scripted([3, 2, 1, 0.95, 1.2, 0.1])
    history = made.fit(Shuffled(), 50, VALIDATION, [losses, stopping, Keep()])
    assert len(history) == 5
    assert history.stopped == stopping.reason
    assert history.stopped == (
        "stopped after epoch 5: val_loss has not improved by more than 0.1 for 2 epochs; it was "
        "best in epoch 3, 1, whose parameters are restored"
    )
    assert same(values(made.model), kept[2])
    assert not same(kept[2], kept[4])
    assert made.fit(Shuffled(), 1).stopped == ""  # a new fit begins anew
    assert made.epoch == 6


def test_early_stopping_upwards_and_without_restoring() -> None:
    stopping = train.EarlyStopping("val_accuracy", patience=1, mode="max", restore=False)
    for epoch, (value, improves) in enumerate([(0.5, True), (0.7, True), (0.6, False)]):
        assert stopping.watch.improved({"epoch": epoch, "val_accuracy": value}) == improves
    assert stopping.watch.exhausted


def test_the_best_is_back_also_where_nothing_stopped() -> None:
    kept: list[dict[str, np.ndarray]] = []

    class Keep(train.Callback):
        def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
            kept.append(values(trainer.model))

    made, stopping = trainer(backend="numpy"), train.EarlyStopping(patience=9)
    history = made.fit(Shuffled(), 4, VALIDATION, [Scripted([3, 1, 2, 2]), stopping, Keep()])
    assert same(values(made.model), kept[1])
    assert (history.stopped, history.best_epoch) == ("", 2)
    assert made.fit(Shuffled(), 1).best_epoch is None


def test_what_was_used_before_begins_anew(tmp_path: Path) -> None:
    """Callbacks with each fit, a schedule with each trainer: the second model gets nothing of the
    first one's."""

    def made() -> train.Optimizer:
        return train.SGD(train.ReduceOnPlateau(0.1, factor=0.5, patience=1, min_change=100))

    stopping, plateau = train.EarlyStopping(patience=2), made()
    keep = train.Checkpoint(tmp_path / "a", monitor="val_loss")
    first = trainer(optimizer=plateau, backend="numpy")
    first.fit(Shuffled(), 9, VALIDATION, [Scripted([1, 2, 2]), stopping, keep])
    assert (first.epoch, stopping.best_epoch, plateau.schedule.rate(0)) == (3, 1, 0.025)
    second = trainer(optimizer=plateau, backend="numpy")
    keep.folder = tmp_path / "b"
    history = second.fit(Shuffled(), 9, VALIDATION, [Scripted([9, 8, 9, 9]), stopping, keep])
    assert history["rate"] == [0.1, 0.1, 0.05, 0.025]
    assert stopping.best_epoch == 2
    best = trainer(optimizer=made(), backend="numpy")
    best.restore(tmp_path / "b" / "best.safetensors")
    assert best.epoch == 2
    assert same(values(best.model), values(second.model))
    rates = second.fit(Shuffled(), 1, VALIDATION, [Scripted([9] * 5), stopping, keep])["rate"]
    assert (stopping.best_epoch, stopping.reason) == (5, "")
    assert rates[-1] == 0.0125  # of one trainer the schedule goes on


def test_a_schedule_counts_from_where_it_was_set() -> None:
    cosine = [train.Cosine(0.1, 3).rate(e + 0.75) for e in range(3)]
    made = trainer(optimizer=train.SGD(0.5), backend="numpy")
    made.fit(Shuffled(), 2)
    made.optimizer.rate = train.Cosine(0.1, epochs=3)
    assert made.fit(Shuffled(), 2)["rate"][2:] == pytest.approx(cosine[:2])
    assert made.fit(Shuffled(), 1)["rate"][4:] == pytest.approx(cosine[2:])
    made.optimizer.rate = train.Cosine(0.1, epochs=3)
    assert made.fit(Shuffled(), 1)["rate"][5:] == pytest.approx(cosine[:1])
    made.optimizer = train.SGD(train.Cosine(0.1, epochs=3))
    assert made.fit(Shuffled(), 1)["rate"][6:] == pytest.approx(cosine[:1])


@pytest.mark.parametrize("fits", [[3, 2], [3, 1, 1], [5]])
def test_a_rate_that_has_come_to_0_is_told_once_a_fit(fits: list[int]) -> None:
    """However the epochs are divided, and before the first that learns nothing."""
    made = trainer(optimizer=train.SGD(train.Cosine(0.1, 3)), backend="numpy")
    told: list[int] = []
    for epochs in fits:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.fit(Shuffled(), epochs)
        told += [int(re.findall(r"the whole of epoch (\d)", str(w.message))[0]) for w in caught]
        assert all(w.filename == __file__ for w in caught)
    assert told == ([4, 5] if fits == [3, 1, 1] else [4])
    assert made.history["rate"][3:] == [0, 0]


def test_a_callback_sets_the_rate() -> None:
    """From the next step on; what it watches is checked, and of an error the steps are made again
    with their own rates."""

    class Set(train.Callback):
        def __init__(self, **rates: Any) -> None:
            self.rates = rates

        def on_step(self, trainer: train.Trainer) -> None:
            if (rate := self.rates.get(f"step_{trainer.step}")) is not None:
                trainer.optimizer.rate = rate

        def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
            if (rate := self.rates.get(f"epoch_{trainer.epoch}")) is not None:
                trainer.optimizer.rate = rate

    cosine, made = train.Cosine(0.5, 2), trainer(backend="numpy", optimizer=train.SGD(0.1))
    history = made.fit(Shuffled(), 4, callbacks=[Set(epoch_1=0.01, epoch_2=cosine)])
    assert history["rate"] == pytest.approx([0.1, 0.01, cosine.rate(0.75), cosine.rate(1.75)])
    at_once, by_hand = [trainer(backend="numpy", optimizer=train.SGD(0.1)) for _ in range(2)]
    at_once.fit(Shuffled(), 1, callbacks=[Set(step_2=0.02)])
    for batch, rate in zip(Shuffled().epoch(0), (0.1, 0.1, 0.02, 0.02), strict=True):
        by_hand.optimizer.rate = rate
        by_hand.fit(batch, 1)
    assert same(values(at_once.model), values(by_hand.model))
    made.optimizer.rate = 0.1
    with pytest.raises(gx.InputError, match="monitor='val_loss'"):
        made.fit(Shuffled(), 2, callbacks=[Set(step_18=train.ReduceOnPlateau(0.1))])
    made.optimizer.rate = 0.1
    first = made.step
    with pytest.raises(gx.NonFiniteError, match=f"step {first + 4}, batch 4"):
        made.fit(Shuffled(), 2, callbacks=[Set(**{f"step_{first + 2}": 1e38})])


def test_stopping_within_an_epoch_finishes_it() -> None:
    class Stop(train.Callback):
        def on_step(self, trainer: train.Trainer) -> None:
            if trainer.step == 5:
                trainer.stop("enough")

    class Never(train.Callback):
        def on_start(self, trainer: train.Trainer, epochs: int, batches: int) -> None:
            trainer.stop("not today")

    made = trainer(backend="numpy")
    assert made.fit(Shuffled(), 9, callbacks=[Stop()]).stopped == "enough"
    assert made.step == 8
    assert made.fit(Shuffled(), 9, callbacks=[Never()]).stopped == "not today"
    assert made.step == 8


def test_a_method_that_is_never_called_is_refused() -> None:
    with pytest.raises(gx.InputError) as caught:
        type("Mine", (train.Callback,), {"on_gpu": False, "on_epoch_end": lambda self: None})
    assert str(caught.value) == (
        "Mine.on_epoch_end is never called: need on_start, on_step, on_epoch, on_end or "
        "on_interrupt"
    )


def test_plateau_lowers_the_rate_of_a_run() -> None:
    schedule = train.ReduceOnPlateau(0.1, "val_loss", factor=0.5, patience=1, min_change=100.0)
    history = trainer(backend="numpy", optimizer=train.SGD(schedule)).fit(
        Shuffled(), 4, validation=VALIDATION
    )
    assert history["rate"] == [0.1, 0.1, 0.05, 0.025]


# -- interrupts


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background, which ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(train.Callback):
    """Ctrl-C at some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_step(self, trainer: train.Trainer) -> None:
        if trainer.step in self.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("backend", "interruptible")
def test_an_interrupt_leaves_a_complete_step(tmp_path: Path) -> None:
    whole, broken = trainer(network(nn.Dropout(0.7))), trainer(network(nn.Dropout(0.7)))
    whole.fit(Shuffled(), 3)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(Shuffled(), 3, callbacks=[Interrupt(6), train.Checkpoint(tmp_path)])
    assert broken.step == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-0000000004.safetensors", "step-0000000006.safetensors",
    ]  # fmt: skip
    fresh = trainer(network(nn.Dropout(0.7)))
    fresh.restore(tmp_path)
    fresh.fit(Shuffled(), 3)
    assert same(values(fresh.model), values(whole.model))
    assert fresh.history.rows == whole.history.rows


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait() -> None:
    class Twice(train.Callback):
        def on_step(self, trainer: train.Trainer) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one did not stop it")

    with pytest.raises(KeyboardInterrupt):
        trainer(backend="numpy").fit(Shuffled(), 1, callbacks=[Twice()])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


MATRIX = [train.confusion_matrix(3)]  # its sum is the number of rows that were counted


@pytest.mark.usefixtures("interruptible")
def test_an_epoch_goes_on_with_batches_of_its_kind() -> None:
    """After Ctrl-C within an epoch; with others it begins anew."""
    for size, steps in ((16, 4), (30, 6)):
        made = trainer(backend="numpy", metrics=MATRIX)
        with pytest.raises(KeyboardInterrupt):
            made.fit(train.Batches(X[:60], Y[:60], 16), 3, callbacks=[Interrupt(4)])
        assert made.fit(train.Batches(X[:60], Y[:60], size), 1).rows[-1]["epoch"] == 1
        assert made.step == steps
        assert made.history["confusion_matrix"][0].sum() == 60


def test_an_epoch_that_failed_begins_anew() -> None:
    """Results of its first steps are lost with the window: its row must not lack them."""

    class Fail(train.Callback):
        def on_step(self, trainer: train.Trainer) -> None:
            if trainer.step == 6:
                raise OSError("the disk is full")

    made = trainer(backend="numpy", metrics=MATRIX)
    with pytest.raises(OSError, match="disk"):
        made.fit(Shuffled(), 3, callbacks=[Fail()])
    made.fit(Shuffled(), 1)
    assert [m.sum() for m in made.history["confusion_matrix"]] == [60, 60]
    made.optimizer.rate, good = 1e30, values(made.model)
    with pytest.raises(gx.NonFiniteError):
        made.fit(Shuffled(), 3)
    made.optimizer.rate = 0.1
    for name, p in made.state().items():
        p.value = good.get(name, 0 * p.value)
    made.fit(Shuffled(), 1)
    assert [m.sum() for m in made.history["confusion_matrix"]] == [60, 60, 60]


def test_batches_before_the_position_are_not_made() -> None:
    class Counted(Shuffled):
        def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
            starts.append((number, start))
            yield from list(super().epoch(number))[start:]

    starts: list[tuple[int, int]] = []
    source = Source(Counted(), "batches")
    assert len(list(source.epoch(2, 3))) == 1
    assert starts == [(2, 3)]
    assert len(list(Source(Shuffled(), "batches").epoch(2, 3))) == 1
    assert len(list(Source([(X, Y)] * 5, "batches").epoch(2, 3))) == 2


# -- what is not finite


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("window", [64, 2])
def test_a_loss_that_is_not_finite_is_explained(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node, the line, the step and the batch, found without the user's help; the parameters
    are those before that step."""
    monkeypatch.setattr(loop_module, "WINDOW", window)
    w = gx.param("w", np.full(4, 0.25, "float32"))
    x, y = np.ones((30, 4), "float32"), np.zeros(30, "float32")
    x[17] = -5.0  # row 17 is in batch 4 of 6

    def model(rows: gx.Node) -> gx.Node:
        return gx.log(rows @ w)

    made = train.Trainer(model, "mse", train.SGD(1e-3), metrics=["mean_absolute_error"])
    batches = [(x[i : i + 5], y[i : i + 5]) for i in range(0, 30, 5)]
    before = train.Trainer(model, "mse", train.SGD(1e-3))
    before.fit(batches[:3], 1)
    wanted = w.value
    w.value = np.full(4, 0.25)
    with pytest.raises(gx.NonFiniteError) as caught:
        made.fit(batches, 2)
    told = str(caught.value)
    assert told.startswith("step 4, batch 4 of epoch 1: log("), told
    line = model.__code__.co_firstlineno + 1
    assert f"test_trainer.py:{line}" in told
    assert "nan" in told
    np.testing.assert_array_equal(w.value, wanted)
    assert made.step == 3


def test_parameters_that_overflow_are_found_in_the_last_step() -> None:
    """The loss of the last step is finite, what the step leaves behind is not."""
    w = gx.param("w", np.full(4, 1e19, "float32"))
    made = train.Trainer(lambda x: x @ w, lambda p, t: (p * t).mean(), train.SGD(1.0),
                         backend="numpy",
                         penalties=[train.L2(1e20, on="w")])  # fmt: skip
    with pytest.raises(gx.NonFiniteError, match="step 1, batch 1 of epoch 1"):
        made.fit((X, Y.astype("float32")), 1)
    np.testing.assert_array_equal(w.value, np.full(4, 1e19, "float32"))


@pytest.mark.parametrize("window", [64, 2])
def test_the_first_step_that_leaves_what_is_not_finite_is_named(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's squares overflow in step 3, and no loss is ever the worse for it."""
    monkeypatch.setattr(loop_module, "WINDOW", window)
    x = np.ones((6, 8, 4), "float32")
    x[2, 0, 0] = 1e21
    w = gx.param("w", np.zeros(4, "float32"))
    made = train.Trainer(lambda rows: rows @ w, lambda p, t: (p * t).mean(), train.Adam(1e-3),
                         backend="numpy")  # fmt: skip
    with pytest.raises(gx.NonFiniteError) as caught:
        made.fit([(rows, np.ones(8, "float32")) for rows in x], 1)
    assert str(caught.value).startswith("step 3, batch 3 of epoch 1: ")
    assert made.step == 2
    assert np.isfinite(w.value).all()


class FreezeStep(train.Callback):
    """Freezes a parameter after step 5."""

    def __init__(self, param: gx.Param) -> None:
        self.param = param

    def on_step(self, trainer: train.Trainer) -> None:
        self.param.trainable = trainer.step < 5


def test_freezing_hides_no_step_that_was_not_finite() -> None:
    w, b = gx.param("w", np.zeros(4, "float32")), gx.param("b", np.zeros(1, "float32"))
    made = train.Trainer(lambda rows: rows @ w + b, lambda p, t: (p * t).mean(), train.Adam(1e-3),
                         backend="numpy")  # fmt: skip
    x = np.ones((8, 8, 4), "float32")
    x[2, 0, 0] = 1e21  # its squares overflow
    with pytest.raises(gx.NonFiniteError, match=r"^step 3, batch 3 of epoch 1: "):
        made.fit([(rows, np.ones(8, "float32")) for rows in x], 1, callbacks=[FreezeStep(w)])


def test_an_update_that_overflows_before_the_loss_does() -> None:
    """Step 2 leaves an infinite parameter; the loss tells one step later."""
    w = gx.param("w", np.zeros(4, "float32"))
    made = train.Trainer(lambda rows: rows @ w, lambda p, t: (p * t).mean(), train.SGD(1e30),
                         backend="numpy")  # fmt: skip
    x, y = np.ones((4, 8, 4), "float32"), np.ones(8, "float32")
    with pytest.raises(gx.NonFiniteError) as caught:
        made.fit([(rows * (1e10 if i == 1 else 1), y) for i, rows in enumerate(x)], 1)
    assert str(caught.value).startswith("step 2, batch 2 of epoch 1: ")


# -- history and progress


def test_history_in_all_forms(tmp_path: Path) -> None:
    made = trainer(backend="numpy", metrics=["accuracy", train.confusion_matrix(3)])
    history = made.fit(Shuffled(), 3, validation=VALIDATION)
    assert list(history.to_dict()) == [
        "epoch", "loss", "accuracy", "confusion_matrix", "val_loss", "val_accuracy",
        "val_confusion_matrix", "rate",
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(history.to_csv(tmp_path / "a.csv"))))
    assert [float(r["val_loss"]) for r in rows] == history["val_loss"]
    assert (tmp_path / "a.csv").read_text() == history.to_csv()
    read = json.loads(history.to_json(tmp_path / "a.json"))
    assert read["rows"][2]["loss"] == history["loss"][2]
    assert np.sum(read["rows"][0]["confusion_matrix"]) == 60
    assert list(history) == history.names
    assert "val_loss" in history
    assert "val_mae" not in history
    assert repr(history).startswith(f"History of 3 epochs: loss {history['loss'][2]:.4g}, accuracy")
    made.fit(Shuffled(), 1)  # without validation: the curve has a gap
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = history.plot(tmp_path / "a.png")
    assert [a.get_title() for a in figure.axes] == ["loss", "accuracy"]
    training, validation = figure.axes[0].lines
    assert [training.get_label(), validation.get_label()] == ["training", "validation"]
    assert training.get_marker() == "."  # a single epoch has no line
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())
    assert np.isnan(validation.get_ydata()).tolist() == [False, False, False, True]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(KeyError, match="there is epoch, loss"):
        history["recall"]


def test_json_has_no_nan() -> None:
    history = train.History()
    history.rows.append({"epoch": 1, "loss": math.nan, "parts": np.array([1.0, math.inf])})
    rows = json.loads(history.to_json(), parse_constant=pytest.fail)["rows"]
    assert rows == [{"epoch": 1, "loss": None, "parts": [1.0, None]}]


def test_the_best_epoch_is_marked() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    stopping = train.EarlyStopping(patience=1)
    made = trainer(backend="numpy")
    history = made.fit(Shuffled(), 9, VALIDATION, [Scripted([2, 1, 2]), stopping])
    assert list(history.plot().axes[0].lines[-1].get_xdata()) == [2, 2]


def test_progress_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(backend="numpy", metrics=["accuracy"])
    made.fit(Shuffled(), 2)
    assert capsys.readouterr().out == ""  # no terminal: quiet
    monkeypatch.setattr("graphc.train.progress.INTERVAL", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    made.fit(Shuffled(), 1, callbacks=[train.ProgressBar(console)], progress=False)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())
    assert re.search(r"epoch   3  loss 0\.\d+  accuracy [01]", shown), shown
    assert re.search(r"epoch 3 .*loss 0\.\d+  accuracy .* samples/s", shown), shown
    assert re.search(r"\d:\d\d:\d\d", shown), shown


# -- bad input, before anything is trained

WITH_NAN = np.where(np.arange(360).reshape(90, 4) == 77, np.nan, X).astype("float32")
SCALAR = nn.Sequential(nn.Dense(4, 1))

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: trainer(loss="cross"), "loss='cross': need mse, mae, huber, softmax_cross_entropy"),
    (lambda: trainer(metrics=["acc"]), "metrics: 'acc' is unknown; need accuracy"),
    (lambda: trainer(metrics="accuracy"), "metrics='accuracy': need a list"),
    (lambda: trainer(metrics=["r2", "r2"]), "'r2' is the name of another column"),
    (lambda: trainer(penalties=[0.1]), "penalties=[0.1]: need a list of train.L1"),
    (lambda: trainer(limits=[train.L2(0.1)]), "limits="),
    (lambda: trainer(model="mlp"), "model='mlp': need a layer"),
    (lambda: trainer(optimizer="sgd"), "optimizer='sgd': need train.SGD(0.1)"),
    (lambda: trainer().fit((X, Y), 0), "epochs is 0; need an integer of at least 1"),
    (lambda: trainer().fit((X, Y), 1, callbacks=train.EarlyStopping()),
     "need a list of train.Callback"),
    (lambda: trainer().fit((X, Y[:9]), 1), "batches: sizes differ: x has 90 rows, y 9"),
    (lambda: trainer().fit((X[:0], Y[:0]), 1), "batches: the data set is empty"),
    (lambda: trainer().fit([], 1), "batches: there is no batch; the data set is empty"),
    (lambda: trainer().fit(iter([(X, Y)]), 1), "batches: need train.Batches"),
    (lambda: trainer().fit([X, Y], 1), "batches: need pairs (x, y)"),
    (lambda: trainer().fit((WITH_NAN, Y), 1), "batches: x is nan at [19, 1]"),
    (lambda: trainer().fit(train.Batches(WITH_NAN, Y), 1), "batches: x is nan at [19, 1]"),
    (lambda: trainer().fit((X, Y), 1, (WITH_NAN, Y)), "validation: x is nan at [19, 1]"),
    (lambda: trainer().fit((X, Y + 1), 1), "batches: label 3 is out of range, at y[0]; with 3"),
    (lambda: trainer().fit(Shuffled(X, Y - 1), 1), "label -1 is out of range"),
    (lambda: trainer().fit((X, Y), 1, (X, Y + 7)), "validation: label 9 is out of range"),
    (lambda: trainer().evaluate(X, Y + 7), "data: label 9 is out of range"),
    (lambda: trainer().predict(X[:0]), "need an array [rows, ...] with rows"),
    (lambda: trainer().fit((X, Y), 1, callbacks=[train.EarlyStopping()]),
     "monitor='val_loss': no number has this name; there is loss, rate; pass validation="),
    (lambda: trainer(optimizer=train.SGD(train.ReduceOnPlateau(0.1))).fit((X, Y), 1),
     "monitor='val_loss'"),
    (lambda: trainer(optimizer=train.SGD(train.Warmup(train.ReduceOnPlateau(0.1), 3))).fit(
        (X, Y), 1), "monitor='val_loss'"),
    (lambda: train.EarlyStopping(patience=0), "patience is 0; need an integer of at least 1"),
    (lambda: train.EarlyStopping(min_change=-1), "min_change is -1; need a finite number of"),
    (lambda: train.Checkpoint("runs", keep=0), "Checkpoint: keep is 0"),
    (lambda: train.top_k(0), "k is 0"),
    (lambda: trainer(loss=lambda p, t: p).fit((X, Y), 1), "loss: need a scalar node"),
    (lambda: trainer(lambda x: 3, loss="mse").fit((X, X), 1), "model: gave int, not a node"),
    (lambda: trainer(loss=lambda p, t: p.mean()).fit((X, Y), 1), "depends on the target"),
    (lambda: trainer(lambda x: x, loss="mse").fit((X, X), 1), "no parameter can change"),
    (lambda: trainer(penalties=[train.L2(0.1, on="head*")]).fit((X, Y), 1),
     "'head*' matches no parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was compiled before the input was checked")

    if "monitor" not in message:
        monkeypatch.setattr(gx, "compile", compiled)
    with pytest.raises(gx.InputError) as caught:
        make()
    assert message in str(caught.value)


def test_what_is_not_finite_is_found_far_down() -> None:
    x, y = np.zeros((200_000, 4), "float32"), np.zeros(200_000, "int32")
    x[150_001, 2] = np.inf
    with pytest.raises(gx.InputError, match=r"batches: x is inf at \[150001, 2\]"):
        trainer().fit((x, y), 1)


def test_shapes_that_do_not_fit_name_the_layer() -> None:
    with pytest.raises(gx.ShapeError, match=r"layers\.0\.weight"):
        trainer().fit((X[:, :3], Y), 1)
    with pytest.raises(gx.ShapeError, match="prediction and target differ in shape"):
        trainer(SCALAR, loss="mse").fit((X, Y.astype("float32")), 1)


def test_each_loss_by_name_trains() -> None:
    ones = (Y[:, None] == 1).astype("float32")
    for name in train.LOSSES:
        last = "sigmoid" if name == "binary_cross_entropy" else None
        wide = name == "softmax_cross_entropy"
        model = nn.Sequential(nn.Dense(4, 3 if wide else 1, last))
        history = trainer(model, loss=name, backend="numpy").fit((X, Y if wide else ones), 20)
        assert history["loss"][-1] < 0.9 * history["loss"][0], name


def test_every_metric_by_name_has_a_direction() -> None:
    assert all(m.mode in ("min", "max") for m in METRICS.values())


def test_what_may_be_watched_is_what_the_history_holds() -> None:
    made = trainer(backend="numpy", penalties=[train.L2(0.1)])
    stopping = train.EarlyStopping("penalty", patience=1, mode="max")  # it falls
    history = made.fit(Shuffled(), 5, callbacks=[stopping])
    assert len(history["penalty"]) == 2
    with pytest.raises(gx.InputError, match="there is loss, penalty, rate"):
        made.fit(Shuffled(), 5, callbacks=[train.EarlyStopping("val_loss")])
    assert made.run.began is None
    assert len(history) == 2


def test_numbers_are_watched_in_their_own_direction() -> None:
    """A user's metric says it; what is no number, and what is not there, is refused by name."""
    largest = Metric("largest", lambda p, t: p.max(), "max", lambda v, rows: float(v.max()))
    parts = Metric("parts", lambda p, t: gx.stack([p.mean(), t.mean()]), None, lambda v, rows: v)
    made = trainer(backend="numpy", loss="mse", model=SCALAR,
                   metrics=["r2", largest, parts, squares])  # fmt: skip
    data = X, X[:, :1]
    for monitor, message in (
        ("parts", "no number has this name; there is loss, r2, largest, squares, rate"),
        ("los", "monitor='los': no number has this name; there is loss, r2"),
        ("squares", "mode=None: say 'min' or 'max' for 'squares', which has no mode"),
        ("rate", "say 'min' or 'max' for 'rate'"),
    ):
        with pytest.raises(gx.InputError) as caught:
            made.fit(data, 1, callbacks=[train.EarlyStopping(monitor)])
        assert message in str(caught.value)
    for monitor, sign in (("r2", -1), ("largest", -1), ("val_largest", -1), ("loss", 1)):
        stopping = train.EarlyStopping(monitor)
        made.fit(data, 1, data, callbacks=[stopping])
        assert stopping.watch.sign == sign, monitor


def squares(prediction: gx.Node, target: gx.Node) -> gx.Node:
    return ((prediction - target) ** 2).mean()


def test_callbacks_and_schedules_show_what_they_are() -> None:
    for shown, wanted in (
        (train.EarlyStopping(),
         "EarlyStopping('val_loss', patience=5, min_change=0, restore=True)"),
        (train.Checkpoint("a", monitor="loss"),
         "Checkpoint('a', epochs=1, keep=2, monitor='loss')"),
        (train.Checkpoint("a", steps=5), "Checkpoint('a', steps=5, keep=2)"),
        (train.Warmup(train.Step(0.1, 30), 2),
         "Warmup(Step(0.1, every=30.0, factor=0.1), epochs=2.0, start=0.1)"),
        (train.ReduceOnPlateau(0.1, mode="max"), "ReduceOnPlateau(0.1, 'val_loss', patience=5, "
         "min_change=0, mode='max', factor=0.1, least=0.0)"),
        (train.Constant(0.1), "Constant(0.1)"),
    ):  # fmt: skip
        assert repr(shown) == wanted
