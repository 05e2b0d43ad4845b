"""Transfer learning: frozen parameters, features that are computed once, and the way from one task
to another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checkpoints import Save
from test_trainer import Shuffled, same, values

import graphc as gx
from graphc import nn, train
from graphc.train import features

RNG = np.random.default_rng(1)
LABELS = RNG.integers(0, 3, 150).astype("int32")
X = (RNG.standard_normal((3, 6))[LABELS] + 0.4 * RNG.standard_normal((150, 6))).astype("float32")
TRAINED, HELD_OUT = (X[:110], LABELS[:110]), (X[110:], LABELS[110:])


def network(*between: Any) -> nn.Sequential:
    """Three layers, the first two frozen; sizes differ, so that a shape tells whose it is."""
    body = [nn.Dense(6, 9, "relu"), nn.Dense(9, 7, "tanh")]
    model = nn.Sequential(*body, *between, nn.Dense(7, 3))
    model.freeze("layers.0*", "layers.1*")
    return model


def trainer(model: Any = None, optimizer: Any = None, **options: Any) -> train.Trainer:
    chosen = optimizer or train.SGD(0.1, momentum=0.9)
    return train.Trainer(
        model or network(), "softmax_cross_entropy", chosen, ["accuracy"], **options
    )


def batches(**options: Any) -> train.Batches:
    return train.Batches(*TRAINED, 32, seed=3, **options)


# -- freezing


def products(exe: Any) -> int:
    return sum(n.op.name == "contract" for n in exe.graph.nodes)


@pytest.mark.usefixtures("backend")
def test_no_gradient_of_frozen_parameters_is_computed() -> None:
    """Three products forward and one gradient of weights: nothing goes back beyond the head."""
    made = trainer()
    made.fit(batches(), 1)
    exe = made.program("train")
    assert products(exe) == 4
    assert backward_shapes(exe) <= {
        (7, 3),
        (7, "batch"),
        ("batch", 3),
        ("batch", 1),
        ("batch",),
        (3,),
        (1,),
        (),
    }


def test_gradients_are_computed_again_when_nothing_is_frozen() -> None:
    made = trainer(backend="numpy")
    made.model.unfreeze("*")
    made.fit(batches(), 1)
    assert products(made.program("train")) == 8  # 3 forward, 3 of weights, 2 of signals
    found = backward_shapes(made.program("train"))
    assert found > {(6, 9), (9, 7), (7, 3), ("batch", 9), ("batch", 7)}


def backward_shapes(exe: Any) -> set[Any]:
    """Of what derivatives made; each layer has sizes of its own."""
    named = [[n if isinstance(n, int) else str(n) for n in node.shape] for node in exe.graph.nodes
             if node.backward]  # fmt: skip
    return {tuple(shape) for shape in named}


@pytest.mark.parametrize("cache", [False, True])
def test_frozen_parameters_keep_their_bits(cache: bool) -> None:
    """Whatever else acts on parameters, and though they were trained before."""
    made = trainer(
        optimizer=train.AdamW(0.01, decay=0.1, on="*"), penalties=[train.L2(0.1, on="*")],
        limits=[train.MaxNorm(0.5)], cache_features=cache, backend="numpy",
    )  # fmt: skip
    made.model.unfreeze("*")
    made.fit(batches(), 1, progress=False)
    made.model.freeze("layers.0*", "layers.1*")
    before = values(made.model)
    made.fit(batches(), 3, HELD_OUT, progress=False)
    assert made.feature_note.startswith("features of 150" if cache else "")
    after = values(made.model)
    for name in before:
        stays = before[name].tobytes() == after[name].tobytes()
        assert stays == (not name.startswith("layers.2")), name


@pytest.mark.parametrize("cache", [False, True])
def test_patterns_may_name_frozen_parameters(cache: bool) -> None:
    """One trainer serves both phases, so its patterns hold in both."""
    made = trainer(
        optimizer=train.AdamW(0.01, on="layers.0*", factors={"layers.0*": 0.1}), backend="numpy",
        penalties=[train.L2(0.1, on="layers.0*")], limits=[train.MaxNorm(1, on="layers.0.weight")],
        cache_features=cache,
    )  # fmt: skip
    assert made.fit(batches(), 1, progress=False).rows[0]["penalty"] == 0
    assert cache == ("computed once" in made.feature_note)
    made.model.unfreeze("*")
    assert made.fit(batches(), 1, progress=False).rows[1]["penalty"] > 0


# -- what a parameter begins with that is trained later


def test_states_go_on_and_new_ones_begin_at_zero() -> None:
    made = trainer(backend="numpy")
    made.fit(batches(), 2)
    assert {n for n in made.state() if "velocity" in n} == {
        "layers.2.weight.velocity", "layers.2.bias.velocity"
    }  # fmt: skip
    going, start = made.state()["layers.2.weight.velocity"].value, values(made.model)
    made.model.unfreeze("*")
    made.optimizer.rate = 0.01
    grown = gradients(made)
    made.fit(TRAINED, 1)
    after = made.state()
    for name, g in grown.items():  # v' = 0.9 v + g and w' = w - r v'
        v = 0.9 * going + g if name == "layers.2.weight" else g
        if name != "layers.2.bias":
            np.testing.assert_allclose(after[f"{name}.velocity"].value, v, rtol=1e-4, atol=1e-6)
            wanted = start[name] - 0.01 * v
            np.testing.assert_allclose(after[name].value, wanted, rtol=1e-5, atol=1e-7)


def gradients(made: train.Trainer) -> dict[str, np.ndarray]:
    net = made.network
    found = gx.compile(gx.grad(net.outputs["loss"], list(net.params.values())), backend="numpy")
    return dict(zip(net.params, found(x=TRAINED[0], y=TRAINED[1]), strict=True))


def test_adam_counts_the_steps_of_a_late_parameter_from_its_first() -> None:
    """At t = 1 the step is r g / |g|. With the t of the others it would be three times larger."""
    made = adam()
    made.fit(batches(), 3)
    start = values(made.model)
    made.model.unfreeze("*")
    made.fit(TRAINED, 1)
    steps = {n: abs(v - start[n]).max() for n, v in values(made.model).items()}
    assert steps["layers.0.weight"] == pytest.approx(0.01, rel=1e-3)
    assert steps["layers.1.bias"] == pytest.approx(0.01, rel=1e-3)


def test_files_from_before_and_after_unfreezing(tmp_path: Path) -> None:
    """Either is taken up by a trainer whose optimizer has other states than the file."""
    made = adam()
    made.fit(batches(), 2)
    made.save(tmp_path / "before.safetensors")
    made.model.unfreeze("*")
    made.fit(batches(), 1)
    made.save(tmp_path / "after.safetensors")
    made.fit(batches(), 1)

    other = adam()
    other.model.unfreeze("*")
    other.fit(batches(), 1)  # its program knows no parameter that began later
    other.restore(tmp_path / "after.safetensors")
    other.fit(batches(), 1)
    assert same(values(made.model), values(other.model))
    other.restore(tmp_path / "before.safetensors")
    other.model.unfreeze("*")
    other.fit(batches(), 2)
    assert same(values(made.model), values(other.model))


def adam() -> train.Trainer:
    return trainer(optimizer=train.Adam(0.01), backend="numpy")


def test_another_optimizer_is_taken_up() -> None:
    made = trainer(backend="numpy")
    made.fit(batches(), 1)
    made.optimizer = train.Adam(0.001)
    made.fit(batches(), 1)
    assert "optimizer.steps" in made.state()


# -- features that are computed once


def learner() -> train.Trainer:
    model = network(nn.Dropout(0.5))
    return trainer(model, train.Adam(0.01), cache_features=True, backend="numpy")


@pytest.mark.usefixtures("backend")
def test_cached_features_train_the_same() -> None:
    """The dropout lies after the prefix and draws the same masks."""
    plain, cached = (
        trainer(network(nn.Dropout(0.5)), train.Adam(0.01), cache_features=c, seed=4)
        for c in (False, True)
    )
    start = values(cached.model)
    for made in (plain, cached):
        made.fit(batches(), 4, HELD_OUT, progress=False)
    assert "behind layers.0 to layers.1 computed once" in cached.feature_note
    for name, value in values(plain.model).items():
        np.testing.assert_allclose(values(cached.model)[name], value, rtol=1e-4, atol=1e-6)
    for row, other in zip(plain.history.rows, cached.history.rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert cached.evaluate(*HELD_OUT) == pytest.approx(plain.evaluate(*HELD_OUT), rel=1e-4)
    for name in list(start)[:4]:
        assert values(cached.model)[name].tobytes() == start[name].tobytes(), name


def test_equal_batches_give_equal_bits() -> None:
    """All samples in one batch: the products of the prefix are the same ones."""
    plain, cached = (trainer(cache_features=c, backend="numpy") for c in (False, True))
    for made in (plain, cached):
        made.fit(TRAINED, 5, progress=False)
    assert same(values(plain.model), values(cached.model))


def test_the_program_on_features_leaves_the_prefix_out() -> None:
    class Keep(train.Callback):
        def on_end(self, trainer: train.Trainer) -> None:
            assert trainer.loop is not None
            kept.append(trainer.loop)

    kept: list[Any] = []
    made = trainer(backend="numpy", cache_features=True)
    made.fit(batches(), 2, HELD_OUT, [Keep()], progress=False)
    assert products(kept[0].program) == 2  # forward, and the gradient of the weights
    names = {n.name for n in kept[0].program.graph.nodes if isinstance(n, gx.Param)}
    assert not any(n.startswith(("layers.0", "layers.1")) for n in names)
    assert kept[0].latest[0].shape[1:] == (7,)
    assert made.predict(X).shape == (150, 3)  # of whole samples, as ever


def test_features_are_computed_once_per_sample() -> None:
    seen: list[int] = []
    made = trainer(backend="numpy", cache_features=True)
    compiled = made.compiled

    def counted(name: str, *args: Any) -> Any:
        exe = compiled(name, *args)
        if name != "features":
            return exe

        def call(x: Any) -> Any:
            seen.append(len(x))
            return exe(x=x)

        return call

    made.compiled = counted
    made.fit(batches(), 5, HELD_OUT, progress=False)
    assert seen[-2:] == [110, 40]
    assert sum(seen[:-2]) <= 2 * 64  # the rows on which the prefix is tried


def test_features_beside_held_out_labels_of_another_kind(compiled_names: list[str]) -> None:
    """Rows of probabilities in training, integers beside; features of the shape of the data. What
    is compiled once serves the fits to come, on features or not."""
    model = nn.Sequential(nn.Dense(6, 6, "relu"), nn.Dense(6, 3))
    model.freeze("layers.0*")
    made = trainer(model, backend="numpy", cache_features=True)
    shares = train.Batches(TRAINED[0], np.eye(3, dtype="float32")[LABELS[:110]], 32)
    history = made.fit(shares, 3, HELD_OUT)  # which measures an epoch without features, too
    whole = made.evaluate(*HELD_OUT)
    assert whole["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    assert whole["accuracy"] == pytest.approx(history["val_accuracy"][-1])
    assert sorted(compiled_names) == ["evaluate", "evaluate", "features", "train", "train"]
    made.fit(shares, 1, HELD_OUT)
    made.evaluate(*HELD_OUT)
    assert len(compiled_names) == 5


def test_the_speed_up_is_printed_and_measuring_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loud, quiet = learner(), learner()
    quiet.fit(batches(), 2, progress=False)
    assert capsys.readouterr().out == ""
    loud.fit(batches(), 2)
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"features of 110 samples behind layers.0 to layers.1 computed once: 0.00308 MB in \S+ s; "
        r"an epoch takes \S+ s instead of \S+ s, \S+ times faster\n", printed
    ), printed  # fmt: skip
    assert printed.strip() == loud.feature_note
    assert same(values(loud.model), values(quiet.model))


def test_the_times_printed_are_those_of_whole_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 of 22 steps are timed, without cached features and with them."""
    clock = iter([0, 3, 0, 16, 0, 4])
    monkeypatch.setattr(features, "perf_counter", lambda: next(clock))
    made = trainer(cache_features=True, backend="numpy")
    made.fit(train.Batches(*TRAINED, 5), 1)
    assert made.feature_note.endswith(
        "in 3 s; an epoch takes 5.5 s instead of 22 s, 4.0 times faster"
    )


def first_random() -> nn.Sequential:
    model = nn.Sequential(nn.Dropout(0.9), nn.Dense(6, 9, "relu"), nn.Dense(9, 3))
    model.freeze("layers.1*")
    return model


def mixed_rows() -> nn.Sequential:
    model = nn.Sequential(
        nn.Dense(6, 9), lambda x: x - x.mean(axis=0, keepdims=True), nn.Dense(9, 3)
    )
    model.freeze("layers.0*")
    return model


def turned_round() -> nn.Sequential:
    model = nn.Sequential(nn.Dense(6, 9), lambda x: x[::-1], nn.Dense(9, 3))
    model.freeze("layers.0*")
    return model


def no_rows() -> nn.Sequential:
    model = nn.Sequential(lambda x: x.sum(axis=0), nn.Dense(6, 3), lambda x: x.reshape((1, 3)))
    model.freeze("*weight")
    return model


def functional() -> Any:
    w, v = (gx.param(n, nn.init.glorot_uniform((6, 3))) for n in "wv")
    w.trainable = False
    return lambda x: x @ w + x @ v


def residual() -> nn.Sequential:
    model = nn.Residual(nn.Dense(6, 6, "relu"), nn.Dense(6, 6))
    model.freeze("layers.0*")
    return model


class Doubled(nn.Sequential):
    def forward(self, x: gx.Node) -> gx.Node:
        return super().forward(2 * x)


def own_forward() -> nn.Sequential:
    model = Doubled(nn.Dense(6, 9, "relu"), nn.Dense(9, 3))
    model.freeze("layers.0*")
    return model


def infinite() -> nn.Sequential:
    model = nn.Sequential(nn.Dense(6, 9), lambda x: 0 * gx.log(abs(x) - 0.5), nn.Dense(9, 3))
    model.freeze("layers.0*")
    return model


def nothing_frozen() -> nn.Sequential:
    model = network()
    model.unfreeze("*")
    return model


REASONS: list[tuple[Callable[[], Any], Callable[[], Any], str]] = [
    (first_random, batches, "Dropout(keep=0.9) draws random numbers, and no frozen parameter"),
    (nothing_frozen, batches, "layers.0.bias is trained, and no frozen parameter comes before"),
    (mixed_rows, batches, "those of a sample depend on the others of its batch"),
    (turned_round, batches, "those of a sample depend on the others of its batch"),
    (functional, batches, "the model, a function, is no nn.Sequential"),
    (residual, batches, "the model, a Residual, is no nn.Sequential"),
    (own_forward, batches, "the model, a Doubled, is no nn.Sequential"),
    (network, lambda: Shuffled(*TRAINED), "of Shuffled it is not known whether"),
    (network, lambda: train.Batches(TRAINED[0].reshape(-1, 2, 3), TRAINED[1], augment=[
        train.Shift(1)]), "batches: augment changes the samples in every epoch"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "data", "why"), REASONS)
def test_features_that_cannot_be_cached(
    model: Callable[[], Any], data: Callable[[], Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said why, and trained all the same."""
    made_model, made_data = model(), data()
    if getattr(made_data, "augment", ()):
        made_model = nn.Sequential(nn.Flatten(), network())
    made, plain_model = trainer(made_model, backend="numpy", cache_features=True), model()
    history = made.fit(made_data, 2)
    assert why in made.feature_note
    assert made.feature_note.startswith("features are not cached: ")
    assert made.feature_note + "\n" == capsys.readouterr().out
    assert len(history) == 2
    if (
        isinstance(plain_model, nn.Layer)
        and values(made_model).keys() == values(plain_model).keys()
    ):
        plain = trainer(plain_model, backend="numpy")
        plain.fit(data(), 2)
        assert same(values(plain.model), values(made.model))


@pytest.mark.parametrize("around", [nn.Residual, Doubled])
def test_a_layer_in_a_layer_is_part_of_the_prefix(around: type[nn.Sequential]) -> None:
    """One with a forward of its own as a whole."""

    class Body(nn.Sequential):
        """Taken apart: its forward is that of nn.Sequential."""

    made: list[train.Trainer] = []
    for cache in (False, True):
        inner = around(nn.Dense(9, 9, "tanh"))
        body = Body(nn.Dense(6, 9, "relu"), inner, nn.LayerNorm(9))
        model = nn.Sequential(body, gx.relu, nn.Dense(9, 3))
        made.append(trainer(model, backend="numpy", cache_features=cache))
    for unfrozen, last in ((), "2"), (["layers.0.layers.2*"], "1.layers.0"):
        for one in made:
            one.model.freeze("layers.0*")
            for pattern in unfrozen:
                one.model.unfreeze(pattern)
            one.fit(batches(), 1, progress=False)
        plain, cached = (one.history["loss"] for one in made)
        assert f"layers.0.layers.0 to layers.0.layers.{last} computed" in made[1].feature_note
        assert cached == pytest.approx(plain, rel=1e-4)


def test_memory_is_bounded() -> None:
    need = 150 * 7 * 4
    for limit, fits in ((need, True), (need - 1, False)):
        made = trainer(backend="numpy", cache_features=limit)
        made.fit(batches(), 1, HELD_OUT, progress=False)
        assert ("computed once" in made.feature_note) == fits
    assert "150 samples are 4200 bytes, more than the limit of 4199" in made.feature_note


def test_what_is_not_finite_in_the_prefix_is_found_by_the_run() -> None:
    made = trainer(infinite(), backend="numpy", cache_features=True)
    with pytest.raises(gx.NonFiniteError, match=r"step 1, batch 1 of epoch 1: log\("):
        made.fit(batches(), 1, progress=False)
    assert made.feature_note == "features are not cached: some are not finite"


def test_what_is_not_finite_behind_the_prefix_is_explained() -> None:
    model = network(lambda x: gx.log(x + 0.9))  # tanh falls below -0.9 somewhere
    made = trainer(model, backend="numpy", cache_features=True)
    with pytest.raises(gx.NonFiniteError, match=r"log\(.*test_transfer.py"):
        made.fit(batches(), 1, progress=False)


def test_a_run_on_features_resumes_bitwise(tmp_path: Path) -> None:
    """Saved within an epoch of 4 steps; the file holds the frozen parameters, too."""

    def fit(made: train.Trainer, *callbacks: train.Callback) -> None:
        stopping = train.EarlyStopping(patience=9)
        made.fit(batches(), 3, HELD_OUT, [stopping, *callbacks], progress=False)

    whole, fresh = learner(), learner()
    fit(whole, Save(tmp_path, 6))
    changed = fresh.model.parameters()["layers.0.weight"]
    changed.value = changed.value + 1
    fresh.restore(tmp_path / "at-6.safetensors")
    fit(fresh)
    assert same(values(fresh.model), values(whole.model))
    assert fresh.history.rows == whole.history.rows


# -- the whole path


def digits(classes: range, per_class: int | None = None) -> Any:
    """Training and test data of some digits, as labels from 0 on."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = (data.data / 16).astype("float32"), data.target
    chosen = np.flatnonzero(np.isin(y, classes))
    labels = (y[chosen] - classes[0]).astype("int32")
    (a, b), (c, d) = train.split(x[chosen], labels, (0.6, 0.4))
    if per_class is not None:
        few = np.concatenate([np.flatnonzero(b == k)[:per_class] for k in range(len(classes))])
        a, b = a[few], b[few]
    return (a, b), (c, d)


def test_from_digits_0_to_4_to_digits_5_to_9(tmp_path: Path) -> None:
    path = tmp_path / "low.safetensors"
    (x, y), test = digits(range(5))
    low = nn.Sequential(nn.Dense(64, 96, "relu"), nn.Dense(96, 48, "relu"), nn.Dense(48, 5))
    teacher = train.Trainer(low, "softmax_cross_entropy", train.Adam(0.003), ["accuracy"],
                            backend="numpy")  # fmt: skip
    teacher.fit(train.Batches(x, y, 32), 8)
    assert teacher.evaluate(*test)["accuracy"] > 0.97
    low.save(path)

    model = nn.Sequential(nn.Dense(64, 96, "relu"), nn.Dense(96, 48, "relu"), nn.Dense(48, 7))
    report = model.load(path, strict=False)
    assert report.matched == tuple(n for n in values(low) if not n.startswith("layers.2"))
    assert report.misshapen == {
        "layers.2.weight": ("float32[48, 5]", "float32[48, 7]"),
        "layers.2.bias": ("float32[5]", "float32[7]"),
    }
    assert not report.complete
    model.replace_last(nn.Dense(48, 5))
    assert model.freeze("layers.0*", "layers.1*") == list(report.matched)
    (x, y), test = digits(range(5, 10), per_class=10)
    made = train.Trainer(
        model, "softmax_cross_entropy", train.Adam(0.01), ["accuracy"], cache_features=True,
        backend="numpy",
    )  # fmt: skip
    body = {n: v for n, v in values(low).items() if n in report.matched}
    made.fit(train.Batches(x, y, 10), 30, progress=False)
    assert "computed once" in made.feature_note
    assert same({n: v for n, v in values(model).items() if n in body}, body)
    head_alone = made.evaluate(*test)["accuracy"]
    assert head_alone > 0.75

    steps = made.step
    model.unfreeze("*")
    made.optimizer.rate = 0.001
    made.fit(train.Batches(x, y, 10), 20, progress=False)
    states = made.state()
    assert float(states["optimizer.steps"].value) == made.step
    assert float(states["layers.0.weight.began"].value) == steps
    assert made.history["rate"][-1] == 0.001
    assert made.evaluate(*test)["accuracy"] > max(head_alone - 0.02, 0.8)
    assert not np.array_equal(values(model)["layers.0.weight"], body["layers.0.weight"])


class Unfreeze(train.Callback):
    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:  # noqa: ARG002
        if trainer.epoch == 2:
            trainer.model.unfreeze("layers.0*")  # type: ignore[union-attr]


def test_what_is_unfrozen_before_cached_features_is_told() -> None:
    made = trainer(backend="numpy", cache_features=True)
    told = r"layers\.0\.weight, layers\.0\.bias can change, and features made with it are cached"
    with pytest.raises(gx.InputError, match=told):
        made.fit(batches(), 4, callbacks=[Unfreeze()], progress=False)
    assert len(made.fit(batches(), 2, progress=False)) == 4
