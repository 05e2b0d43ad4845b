"""The report of the gradients: its figures against NumPy, its warnings, and that it only looks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trainer import same, values

import graphc as gx
from graphc import nn, train
from graphc.train.gradients import REMEDIES, Reading

RNG = np.random.default_rng(2)
X = RNG.standard_normal((80, 6)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")


def trainer(model: Any, optimizer: Any = None, **options: Any) -> train.Trainer:
    return train.Trainer(
        model, "softmax_cross_entropy", optimizer or train.SGD(0.1), **options
    )  # fmt: skip


def by_layer(report: train.GradientReport) -> dict[str, Reading]:
    return {r.layer: r for r in report.readings if r.step == report.steps[-1]}


def large(shape: Any, **options: Any) -> np.ndarray:
    return nn.init.normal(shape, std=20.0, **options)


# -- figures


@pytest.mark.usefixtures("backend")
def test_figures_are_those_of_numpy() -> None:
    """One hidden layer of relu, one of tanh; a penalty belongs to the gradient."""
    model = nn.Sequential(
        nn.Dense(6, 8, "relu", bias=lambda s, **_: np.linspace(-4, 1, 8, dtype="float32")),
        nn.Dense(8, 5), nn.Activation("tanh"), nn.Dense(5, 2),
    )  # fmt: skip
    made = trainer(model, train.SGD(0.1, momentum=0.9), penalties=[train.L2(0.3)])
    found = by_layer(train.gradient_report(made, X, Y))
    w = {n: v.astype("float64") for n, v in values(model).items()}
    h = np.maximum(X @ w["layers.0.weight"] + w["layers.0.bias"], 0)
    t = np.tanh(h @ w["layers.1.weight"] + w["layers.1.bias"])
    z = t @ w["layers.3.weight"] + w["layers.3.bias"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    dz = (p - np.eye(2)[Y]) / len(X)
    dt = (dz @ w["layers.3.weight"].T) * (1 - t * t)
    dh = (dt @ w["layers.1.weight"].T) * (h > 0)
    gradients = {
        "layers.0": (X.T @ dh, dh.sum(0)), "layers.1": (h.T @ dt, dt.sum(0)),
        "layers.3": (t.T @ dz, dz.sum(0)),
    }  # fmt: skip
    for layer, (g, b) in gradients.items():
        weight, bias = w[f"{layer}.weight"], w[f"{layer}.bias"]
        norm = np.hypot(np.linalg.norm(g + 0.3 * weight), np.linalg.norm(b))
        size = np.hypot(np.linalg.norm(weight), np.linalg.norm(bias))
        assert found[layer].gradient == pytest.approx(norm, rel=1e-4)
        assert found[layer].ratio == pytest.approx(0.1 * norm / size, rel=1e-3)
        assert found[layer].per_weight == pytest.approx(norm / (g.size + b.size) ** 0.5, rel=1e-4)
    dead = np.mean((h == 0).all(axis=0))
    assert 0 < dead < 1
    assert found["layers.0"].dead == pytest.approx(dead)
    assert found["layers.1"].saturated == pytest.approx(np.mean(np.abs(t) > 0.975), abs=0.01)
    assert found["layers.0"].saturated is None
    assert found["layers.3"].dead is None


BETWEEN = [
    (), (nn.Dropout(0.5),), (nn.Dropout(0.5, form="classic"),), (lambda y: 2 * y,),
    (lambda y: y * gx.param("scale", np.ones(9, "float32")),),
]  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN)
def test_saturation_of_sigmoid(between: tuple[Any, ...]) -> None:
    """Numbers, masks and parameters by which it is multiplied make no gate of it."""
    model = nn.Sequential(nn.Dense(6, 9, "sigmoid", weight=large), *between, nn.Dense(9, 2))
    found = by_layer(train.gradient_report(trainer(model, backend="numpy"), X, Y))
    w = values(model)
    y = 1 / (1 + np.exp(-(X @ w["layers.0.weight"]).astype("float64")))
    assert found["layers.0"].saturated == pytest.approx(
        np.mean(np.abs(2 * y - 1) > 0.975), abs=0.01
    )


def test_it_leaves_the_trainer_as_it_was() -> None:
    """Also where it looks at targets of another kind."""
    made = trainer(nn.Sequential(nn.Dense(6, 9, "relu"), nn.Dense(9, 2)), backend="numpy")
    made.fit((X, Y), 1)
    graph, program = made.network, made.program("train")
    shares = train.gradient_report(made, X, np.eye(2, dtype="float32")[Y])
    assert made.network is graph
    assert made.program("train") is program
    labels = train.gradient_report(made, X, Y)
    for a, b in zip(shares.readings, labels.readings, strict=True):
        assert a.gradient == pytest.approx(b.gradient, rel=1e-5)


def test_frozen_parameters_of_a_layer_do_not_count() -> None:
    model = nn.Sequential(nn.Dense(6, 9, "relu"), nn.Dense(9, 2))
    model.freeze("layers.0.weight")
    first = by_layer(train.gradient_report(trainer(model, backend="numpy"), X, Y))["layers.0"]
    assert first.gradient is not None
    assert first.per_weight == pytest.approx(first.gradient / 3)  # 9 of the bias


@pytest.mark.parametrize("low", [(0, 100), (100, 0), (0, 0)])
def test_of_several_relus_of_a_layer_the_worst_is_shown(low: tuple[int, int]) -> None:
    w, v = gx.param("w", nn.init.he_normal((6, 4))), gx.param("v", nn.init.he_normal((4, 2)))

    def model(x: gx.Node) -> gx.Node:
        first, second = (gx.relu(x @ w - by) for by in low)
        return (first + second) @ v

    found = by_layer(train.gradient_report(trainer(model, backend="numpy"), X, Y))
    assert found["w"].dead == bool(any(low))


def test_tiny_gradients_do_not_underflow() -> None:
    """Their squares would be 0 in float32."""
    w = gx.param("w", np.full((6, 2), 0.5, "float32"))
    made = train.Trainer(lambda x: x @ w, lambda p, t: 1e-25 * (p.sum() + t.mean()),
                         train.SGD(0.1), backend="numpy")  # fmt: skip
    found = by_layer(train.gradient_report(made, X, Y.astype("float32")))
    wanted = 1e-25 * np.linalg.norm(np.repeat(X.sum(axis=0, dtype="float64")[:, None], 2, 1))
    assert found["w"].gradient == pytest.approx(wanted, rel=1e-4)


def test_frozen_layers_have_no_gradient_but_activations() -> None:
    model = nn.Sequential(nn.Dense(6, 9, "relu"), nn.Dense(9, 2))
    model.freeze("layers.0*")
    report = train.gradient_report(trainer(model, backend="numpy"), X, Y)
    first = by_layer(report)["layers.0"]
    assert (first.gradient, first.ratio) == (None, None)
    assert first.dead is not None
    assert report.table().splitlines()[1].split() == ["layers.0", "-", "-", "0", "%", "-"]


def test_gates_and_parts_of_other_activations_are_left_out() -> None:
    model = nn.Sequential(nn.Dense(6, 9, "silu"), nn.Dense(9, 9, "mish"), nn.Dense(9, 2))
    found = by_layer(train.gradient_report(trainer(model, backend="numpy"), X, Y))
    assert all(r.saturated is None and r.dead is None for r in found.values())


def test_a_few_rows_tell_nothing_of_dead_relus() -> None:
    model = nn.Sequential(nn.Dense(6, 9, "relu"), nn.Dense(9, 2))
    found = by_layer(train.gradient_report(trainer(model, backend="numpy"), X[:3], Y[:3]))
    assert found["layers.0"].dead is None


def test_functions_of_nodes_and_inputs_are_named() -> None:
    w, v = gx.param("w", nn.init.he_normal((6, 4))), gx.param("v", nn.init.he_normal((4, 2)))

    def model(x: gx.Node) -> gx.Node:
        t = gx.tanh(9 * x)
        return gx.relu((t + gx.relu(t - 2)) @ w) @ v

    found = by_layer(train.gradient_report(trainer(model, backend="numpy"), X, Y))
    assert list(found) == ["before any layer", "w", "v"]
    assert found["w"].dead == 0
    assert found["before any layer"].dead == 1
    share = np.mean(np.abs(np.tanh(9 * X)) > 0.975)
    assert found["before any layer"].saturated == pytest.approx(share, abs=0.01)


# -- warnings


def deep(activation: str, **options: Any) -> nn.Sequential:
    sizes = [6, *[16] * 10]
    hidden = [nn.Dense(m, n, activation, **options) for m, n in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Dense(16, 2))


def exploding() -> nn.Sequential:
    def wide(shape: Any, **options: Any) -> np.ndarray:
        return nn.init.normal(shape, std=2.0, **options)

    return deep("relu", weight=wide)


def dead() -> nn.Sequential:
    low = nn.Dense(6, 9, "relu", bias=lambda shape, **_: np.full(shape, -50.0, "float32"))
    return nn.Sequential(low, nn.Dense(9, 2))


TROUBLES: list[tuple[Any, float, list[str], str]] = [
    (lambda: deep("sigmoid"), 0.1, ["vanishing"], "vanishes in layers.0, layers.1, ... layers."),
    (lambda: deep("relu"), 0.01, [], ""),
    (exploding, 1e-9, ["exploding"], "explodes in layers.0"),
    (dead, 0.1, ["dead relus"], "100 % of the relus are dead in layers.0"),
    (lambda: nn.Sequential(nn.Dense(6, 9, "tanh", weight=large), nn.Dense(9, 2)), 0.01,
     ["saturation"], "of the activations are saturated in layers.0"),
    (lambda: nn.Sequential(nn.Dense(6, 2)), 50.0, ["large steps"], "of the weights in layers.0"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "rate", "kinds", "words"), TROUBLES)
def test_warnings(model: Any, rate: float, kinds: list[str], words: str) -> None:
    made = trainer(model(), train.SGD(rate), backend="numpy")
    found = train.gradient_report(made, X, Y).warnings
    assert list(found) == kinds
    for kind in kinds:
        assert words in found[kind]
        assert found[kind].endswith(f"; try this: {REMEDIES[kind]}")


def test_each_trouble_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    made, report = trainer(deep("sigmoid"), backend="numpy"), train.GradientReport(every=2)
    made.fit(train.Batches(X, Y, 20), 2, callbacks=[report], progress=False)
    assert report.steps == [1, 3, 5, 7]
    assert capsys.readouterr().out == "".join(f"{w}\n" for w in report.warnings.values())
    assert report.warnings["vanishing"].startswith("step 1: ")
    quiet = train.GradientReport(tell=False)
    trainer(deep("sigmoid"), backend="numpy").fit((X, Y), 1, callbacks=[quiet], progress=False)
    assert capsys.readouterr().out == ""
    assert "vanishing" in quiet.warnings


def test_another_trainer_begins_anew_and_steps_are_made_again(tmp_path: Path) -> None:
    one, other = (trainer(deep("sigmoid"), backend="numpy") for _ in range(2))
    report = train.GradientReport(every=1, tell=False)
    one.fit((X, Y), 1, callbacks=[report], progress=False)
    one.save(tmp_path / "one.safetensors")
    one.fit((X, Y), 2, callbacks=[report], progress=False)
    assert report.steps == [1, 2, 3]
    one.restore(tmp_path / "one.safetensors")
    one.fit((X, Y), 1, callbacks=[report], progress=False)
    assert report.steps == [1, 2]
    assert len(report.readings) == 2 * 11
    report.warnings["vanishing"] = "of one"
    other.fit((X, Y), 1, callbacks=[report], progress=False)
    assert len(report.readings) == 11
    assert report.warnings["vanishing"] != "of one"


# -- it only looks


def test_the_training_is_not_changed() -> None:
    """Dropout draws, states and parameters are as without."""
    ends: list[dict[str, np.ndarray]] = []
    for callbacks in ([], [train.GradientReport(every=1, tell=False)]):
        model = nn.Sequential(nn.Dense(6, 8, "relu"), nn.Dropout(0.5), nn.Dense(8, 2))
        made = trainer(model, train.Adam(0.01), backend="numpy")
        made.fit(train.Batches(X, Y, 32), 2, callbacks=callbacks, progress=False)
        ends.append({n: p.value for n, p in made.state().items()})
    assert same(*ends)


def test_it_follows_freezing_and_cached_features() -> None:
    model = nn.Sequential(nn.Dense(6, 8, "relu"), nn.Dense(8, 8, "tanh"), nn.Dense(8, 2))
    made = trainer(model, backend="numpy", cache_features=True)
    report = train.GradientReport(every=1, tell=False)
    made.fit((X, Y), 1, callbacks=[report], progress=False)
    assert by_layer(report)["layers.0"].gradient is not None
    model.freeze("layers.0*")
    made.fit((X, Y), 1, callbacks=[report], progress=False)
    assert "computed once" in made.feature_note
    found = by_layer(report)
    assert found["layers.0"] == Reading(2, "layers.0")
    assert found["layers.1"].gradient is not None
    assert found["layers.1"].saturated is not None


# -- table and plot


def test_table_and_plot(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Dense(6, 8, "relu"), nn.Dense(8, 8, "tanh"), nn.Dense(8, 2))
    made, report = trainer(model, backend="numpy"), train.GradientReport(every=2, tell=False)
    made.fit(train.Batches(X, Y, 20), 2, callbacks=[report], progress=False)
    head, *rows = report.table(3).splitlines()
    assert head.split() == ["layer", "gradient", "update/weight", "dead", "relus", "saturated"]
    reading = next(r for r in report.readings if r.step == 3)
    assert rows[0].split()[:3] == ["layers.0", f"{reading.gradient:.2e}", f"{reading.ratio:.2e}"]
    assert report.table() != report.table(3)
    with pytest.raises(gx.InputError, match="step=2: need one of 1, 3, 5, 7"):
        report.table(2)
    with pytest.raises(gx.InputError, match="there is no reading yet"):
        train.GradientReport().table()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = report.plot(tmp_path / "a.png")
    titles = [a.get_title() for a in figure.axes]
    assert titles == [
        "norm of the gradient", "update / weight", "share of dead relus", "share saturated"
    ]  # fmt: skip
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 3, 5, 7]
    assert [line.get_label() for line in figure.axes[2].lines] == ["layers.0"]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    (legend,) = figure.legends  # beside the axes, not over the lines
    assert [t.get_text() for t in legend.get_texts()] == ["layers.0", "layers.1", "layers.2"]
    extents = [a.get_window_extent() for a in figure.axes]
    assert legend.get_window_extent().x0 >= max(e.x1 for e in extents)
    assert [a.get_ylim() for a in figure.axes[2:]] == [(-0.03, 1.03)] * 2
    first = {a.lines[0].get_label(): a.lines[0].get_color() for a in figure.axes}
    assert set(first) == {"layers.0", "layers.1"}
    assert np.array_equal(first["layers.1"], figure.axes[0].lines[1].get_color())


def test_tell_is_checked() -> None:
    with pytest.raises(gx.InputError, match="tell is 'no'; need True or False"):
        train.GradientReport(tell="no")
