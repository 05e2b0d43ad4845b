"""Optimizers against reference formulas in NumPy, PyTorch and scikit-learn; schedules, clipping."""
# ruff: noqa: ARG001 -- the reference rules share one signature

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc import nn, train

STEPS = 50
RNG = np.random.default_rng(0)
START = {"layers.0.weight": RNG.standard_normal((3, 4)), "layers.0.bias": RNG.standard_normal(4)}
SHIFT = {n: RNG.standard_normal(v.shape) for n, v in START.items()}
Arrays = dict[str, np.ndarray]


def gradient(params: Arrays) -> Arrays:
    """Of sum log cosh(1.3 w - s): never the same twice, and never 0."""
    return {n: 1.3 * np.tanh(1.3 * w - SHIFT[n]) for n, w in params.items()}


def compiled(
    optimizer: train.Optimizer, dtype: str = "float64", weight: float = 1.0
) -> tuple[dict[str, gx.Param], Any]:
    """Parameters and the executable of one step on the same loss."""
    params = {n: gx.param(n, v, dtype=dtype) for n, v in START.items()}
    loss = weight * sum(
        (gx.log(gx.cosh(1.3 * p - SHIFT[n].astype(dtype))).sum() for n, p in params.items()),
        start=gx.const(0.0, dtype),
    )
    gradients = gx.grad(loss, list(params.values()))
    updates = optimizer.updates(dict(zip(params.values(), gradients, strict=True)))
    return params, gx.compile(loss, updates=updates)


def follow(optimizer: train.Optimizer, reference: Iterator[Arrays], bound: float = 1e-10) -> None:
    """Both go the same way for 50 steps."""
    params, step = compiled(optimizer)
    for wanted in (next(reference) for _ in range(STEPS)):
        step()
        for name, p in params.items():
            np.testing.assert_allclose(p.value, wanted[name], rtol=0, atol=bound)


# -- the formulas, in NumPy

Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]  # w, g, state, t -> w'


def reference(rule: Rule) -> Iterator[Arrays]:
    params, states = dict(START), {n: {} for n in START}
    t = 0
    while True:
        t += 1
        found = gradient(params)
        params = {n: rule(w, found[n], states[n], t) for n, w in params.items()}
        yield params


def sgd(w: Any, g: Any, s: Any, t: int) -> Any:
    return w - 0.1 * g


def momentum(w: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0) + g
    return w - 0.1 * s["v"]


def nesterov(w: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0) + g
    return w - 0.1 * (g + 0.9 * s["v"])


def nesterov_by_sutskever(w: Any, g: Any, s: Any, t: int) -> Any:
    """Sutskever 2013, eq. 3 and 4, seen from the point where the gradient is taken:
    theta + mu v is what we call w."""
    v = s.get("v", 0)
    s["v"] = 0.9 * v - 0.1 * g
    return w - 0.9 * v + s["v"] + 0.9 * s["v"]


def adagrad(w: Any, g: Any, s: Any, t: int) -> Any:
    s["s"] = s.get("s", 0) + g**2
    return w - 0.1 * g / (np.sqrt(s["s"]) + 1e-10)


def rmsprop(w: Any, g: Any, s: Any, t: int) -> Any:
    s["s"] = 0.9 * s.get("s", 0) + 0.1 * g**2
    return w - 0.1 * g / (np.sqrt(s["s"]) + 1e-8)


def adam(w: Any, g: Any, s: Any, t: int) -> Any:
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m, v = s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.999**t)
    return w - 0.1 * m / (np.sqrt(v) + 1e-8)


def adamw(w: Any, g: Any, s: Any, t: int) -> Any:
    kept = w * (1 - 0.1 * 0.05) if w.ndim == 2 else w  # no decay of biases
    return kept + (adam(w, g, s, t) - w)


CASES: dict[str, tuple[Callable[[], train.Optimizer], Rule]] = {
    "SGD": (lambda: train.SGD(0.1), sgd),
    "momentum": (lambda: train.SGD(0.1, momentum=0.9), momentum),
    "Nesterov": (lambda: train.SGD(0.1, momentum=0.9, nesterov=True), nesterov),
    "Nesterov by Sutskever": (lambda: train.SGD(0.1, 0.9, nesterov=True), nesterov_by_sutskever),
    "Adagrad": (lambda: train.Adagrad(0.1), adagrad),
    "RMSProp": (lambda: train.RMSProp(0.1), rmsprop),
    "Adam": (lambda: train.Adam(0.1), adam),
    "AdamW": (lambda: train.AdamW(0.1, decay=0.05), adamw),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("case", CASES)
def test_follows_its_formula(case: str) -> None:
    make, rule = CASES[case]
    follow(make(), reference(rule))


@pytest.mark.parametrize("case", CASES)
def test_in_float32(case: str) -> None:
    """The same within rounding, before that adds up near the minimum."""
    make, rule = CASES[case]
    params, step = compiled(make(), "float32")
    wanted = reference(rule)
    for _ in range(10):
        step()
        last = next(wanted)
    for name, p in params.items():
        assert p.dtype.name == "float32"
        np.testing.assert_allclose(p.value, last[name], rtol=2e-5, atol=2e-5)


def test_adam_keeps_digits_in_its_first_step() -> None:
    """w moves by the rate, up to epsilon: 1 - 0.999 must not be off by float32's rounding."""
    p = gx.param("p", np.zeros(3, "float32"))
    step = gx.compile([], updates=train.Adam(1.0).updates({p: gx.const(np.ones(3, "float32"))}))
    step()
    np.testing.assert_allclose(p.value, -1.0, rtol=3e-7)


@pytest.mark.parametrize("looked_at", ["never", "before it is frozen", "while it is not frozen"])
def test_adam_counts_the_steps_of_a_parameter_from_its_first(looked_at: str) -> None:
    """A graph of its updates that never ran, such as that of a gradient_report, is no step."""
    early, late = gx.param("early", np.zeros(2)), gx.param("late", np.zeros(2))
    optimizer = train.Adam(0.1)

    def updates(*params: gx.Param) -> Any:
        return optimizer.updates({p: gx.const(np.array([1.0, -2.0])) for p in params})

    if looked_at == "before it is frozen":
        updates(early, late)
    step = gx.compile([], updates=updates(early), backend="numpy")
    step()
    if looked_at == "while it is not frozen":
        updates(early, late)
    for _ in range(20):
        step()
    step = gx.compile([], updates=updates(early, late), backend="numpy")
    for t in range(1, 4):
        step()
        np.testing.assert_allclose(late.value, [-0.1 * t, 0.1 * t], rtol=1e-6)


TORCH: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda o, p: o.SGD(p, lr=0.1),
    "momentum": lambda o, p: o.SGD(p, lr=0.1, momentum=0.9),
    "Nesterov": lambda o, p: o.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adagrad": lambda o, p: o.Adagrad(p, lr=0.1),
    "RMSProp": lambda o, p: o.RMSprop(p, lr=0.1, alpha=0.9),
    "Adam": lambda o, p: o.Adam(p, lr=0.1),
}


RECORDED = Path(__file__).parent / "golden" / "pytorch_steps.json"  # by test_the_record_...
AT = (1, 2, 5, 10, 20, 50)  # steps


def pytorch_steps(case: str, torch: Any) -> Iterator[Arrays]:
    params = {n: torch.tensor(v, requires_grad=True) for n, v in START.items()}
    optimizer = TORCH[case](torch.optim, list(params.values()))
    while True:
        for name, g in gradient({n: p.detach().numpy() for n, p in params.items()}).items():
            params[name].grad = torch.tensor(g)
        optimizer.step()
        yield {n: p.detach().numpy().copy() for n, p in params.items()}


@pytest.mark.parametrize("case", TORCH)
def test_follows_pytorch(case: str) -> None:
    """Its parameters after some of 50 steps, recorded where it is installed."""
    record = json.loads(RECORDED.read_text())
    params, step = compiled(CASES[case][0]())
    for name, value in START.items():
        np.testing.assert_array_equal(record["start"][name], value)
    for i in range(1, STEPS + 1):
        step()
        for name, p in params.items() if i in AT else ():
            wanted = record["steps"][case][str(i)][name]
            np.testing.assert_allclose(p.value, wanted, rtol=0, atol=1e-10)


def test_the_record_is_that_of_pytorch(request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    steps = {
        case: {
            str(i): {n: v.tolist() for n, v in made.items()}
            for i, made in enumerate(islice(pytorch_steps(case, torch), STEPS), 1) if i in AT
        }
        for case in TORCH
    }  # fmt: skip
    start = {n: v.tolist() for n, v in START.items()}
    if request.config.getoption("--update-golden"):
        made = {"PyTorch": torch.__version__, "start": start, "steps": steps}
        RECORDED.write_text(json.dumps(made, indent=1) + "\n")
    record = json.loads(RECORDED.read_text())
    for case, at in steps.items():
        for i, params in at.items():
            for name, value in params.items():
                have = record["steps"][case][i][name]
                np.testing.assert_allclose(have, value, rtol=0, atol=1e-12)


SKLEARN: dict[str, tuple[Callable[[], train.Optimizer], dict[str, Any]]] = {
    "SGD": (lambda: train.SGD(0.1), {"momentum": 0.0, "nesterov": False}),
    "momentum": (lambda: train.SGD(0.1, 0.9), {"momentum": 0.9, "nesterov": False}),
    "Nesterov": (lambda: train.SGD(0.1, 0.9, nesterov=True), {"momentum": 0.9, "nesterov": True}),
    "Adam": (lambda: train.Adam(0.1, epsilon=1e-300), {"epsilon": 0.0}),
}


@pytest.mark.parametrize("case", SKLEARN)
def test_follows_scikit_learn(case: str) -> None:
    """Its Adam weighs epsilon differently (see the docstring of ours): compared without one."""
    module = pytest.importorskip(
        "sklearn.neural_network._stochastic_optimizers", reason="scikit-learn is not installed"
    )
    make, options = SKLEARN[case]

    def steps() -> Iterator[Arrays]:
        names, params = list(START), [v.copy() for v in START.values()]
        kind = module.AdamOptimizer if case == "Adam" else module.SGDOptimizer
        optimizer = kind(params, learning_rate_init=0.1, **options)
        while True:
            found = gradient(dict(zip(names, params, strict=True)))
            optimizer.update_params(params, [found[n] for n in names])
            yield {n: p.copy() for n, p in zip(names, params, strict=True)}

    follow(make(), steps())


# -- rates


def test_a_new_rate_compiles_nothing() -> None:
    optimizer = train.SGD(0.1)
    params, step = compiled(optimizer)
    step()
    stages = step.stages["lowered"]
    w = params["layers.0.weight"]
    for rate in (0.5, 0.01):
        optimizer.set_rate(rate)
        before = w.value
        step()
        moved = before - rate * gradient({w.name: before})[w.name]
        np.testing.assert_allclose(w.value, moved, rtol=1e-12)
    assert step.stages["lowered"] is stages


def test_factors_of_the_rate() -> None:
    optimizer = train.SGD(0.1, factors={"*": 0.5, "*bias": 2.0})
    params, step = compiled(optimizer)
    step()
    found = gradient(START)
    for name, factor in (("layers.0.weight", 0.5), ("layers.0.bias", 2.0)):
        wanted = START[name] - 0.1 * factor * found[name]
        np.testing.assert_allclose(params[name].value, wanted, rtol=1e-12)
    with pytest.raises(gx.InputError, match=r"pattern 'head\*' matches none of layers.0"):
        compiled(train.SGD(0.1, factors={"head*": 2.0}))


SCHEDULES: list[tuple[train.Schedule, dict[float, float]]] = [
    (train.Constant(0.3), {0: 0.3, 7.5: 0.3}),
    (train.Step(1.0, every=10), {0: 1, 9.99: 1, 10: 0.1, 25: 0.01}),
    (train.Step(1.0, every=0.1, factor=0.5), {0.3: 0.125, 0.7: 2**-7, 0.29999: 0.25}),
    (train.Exponential(2.0, 0.5), {0: 2, 0.5: 2 * math.sqrt(0.5), 3: 0.25}),
    (train.Cosine(1.0, 10, final=0.2), {0: 1, 5: 0.6, 10: 0.2, 20: 0.2, 25: 0.2}),
    (train.Warmup(1.0, 4, start=0.2), {0: 0.2, 2: 0.6, 4: 1, 9: 1}),
    (train.Warmup(train.Step(1.0, 3), 4, start=0.5), {0: 0.5, 2: 0.75, 4: 0.1}),
]


@pytest.mark.parametrize(("schedule", "points"), SCHEDULES)
def test_schedule(schedule: train.Schedule, points: dict[float, float]) -> None:
    for epoch, rate in points.items():
        assert schedule.rate(epoch) == pytest.approx(rate, rel=1e-12)


def test_reduce_on_plateau() -> None:
    schedule = train.ReduceOnPlateau(1.0, "loss", factor=0.5, patience=2, min_change=0.1, least=0.3)
    seen = []
    for loss in (5.0, 4.0, 3.95, 3.92, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0):
        schedule.observe({"loss": loss})
        seen.append(schedule.rate(0))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]
    schedule.reset()
    assert (schedule.rate(0), schedule.watch.best, schedule.watch.waited) == (1, math.inf, 0)


def test_a_plateau_waits_anew_after_each_reduction() -> None:
    schedule = train.ReduceOnPlateau(1.0, "loss", factor=0.5, patience=2)
    seen = [schedule.observe({"loss": 1.0}) or schedule.rate(0) for _ in range(7)]
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_equal_values_do_not_improve() -> None:
    schedule = train.ReduceOnPlateau(1.0, "loss", min_change=0.5, patience=9)
    assert [schedule.watch.improved({"loss": v}) for v in (2.0, 1.5, 1.25)] == [True, False, True]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: train.Warmup(s, 2)])
def test_the_state_of_a_plateau_is_all_of_it(wrap: Callable[[Any], train.Schedule]) -> None:
    """Both go on in the same way, also from the middle of a wait, and in a warm-up."""

    def made() -> train.Schedule:
        return wrap(train.ReduceOnPlateau(1.0, "loss", factor=0.5, patience=3))

    one, other = made(), made()
    for loss in (2.0, 1.0, 1.0, 1.0):
        one.observe({"loss": loss})
    other.load_state(one.state())
    for schedule in (one, other):
        schedule.observe({"loss": 1.0})
        assert schedule.rate(9) == 0.5


# -- clipping, penalties, limits


def test_clipping_by_value() -> None:
    params, step = compiled(train.SGD(1.0, clip_value=0.5))
    step()
    for name, p in params.items():
        wanted = START[name] - np.clip(gradient(START)[name], -0.5, 0.5)
        np.testing.assert_allclose(p.value, wanted, rtol=1e-12)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(("limit", "clips"), [(0.5, True), (100.0, False)])
def test_clipping_by_global_norm(limit: float, clips: bool) -> None:
    params, step = compiled(train.SGD(1.0, clip_norm=limit))
    step()
    found = gradient(START)
    norm = math.sqrt(sum(float((g**2).sum()) for g in found.values()))
    assert (norm > limit) == clips
    for name, p in params.items():
        wanted = START[name] - found[name] * min(1.0, limit / norm)
        np.testing.assert_allclose(p.value, wanted, rtol=1e-12)


def test_gradients_of_zero_are_not_clipped_to_nan() -> None:
    params, step = compiled(train.SGD(1.0, clip_norm=0.5), weight=0.0)
    step()
    for name, p in params.items():
        np.testing.assert_array_equal(p.value, START[name])


# -- settings


class Mine(train.SGD):
    """One of a user's own."""

    def __init__(self, rate: float, scale: float = 2.0, **options: Any) -> None:
        super().__init__(rate, **options)
        self.scale = scale


class Lion(train.Optimizer):
    """Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2."""

    states = ("momentum",)

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Any:
        momentum = self.state_of(param, "momentum")
        step = gx.sign(0.9 * momentum + 0.1 * gradient)
        return {param: param - rate * step, momentum: 0.99 * momentum + 0.01 * gradient}


class Hidden(train.Optimizer):
    """Has a state that no checkpoint would hold."""

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Any:
        mine = gx.param("mine", 0.0, dtype="float64")
        return {param: param - rate * gradient, mine: mine + 1}


def test_an_optimizer_of_ones_own_has_states_in_checkpoints(tmp_path: Path) -> None:
    x, y = RNG.standard_normal((40, 3)), RNG.standard_normal((40, 2))

    def trainer() -> train.Trainer:
        model = nn.Dense(3, 2, dtype="float64", name="d")
        return train.Trainer(model, "mse", Lion(0.01), backend="numpy")

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit((x, y), 6, progress=False)
    first.fit((x, y), 3, progress=False)
    first.save(tmp_path / "a.safetensors")
    assert not second.restore(tmp_path / "b.safetensors", missing_ok=True)
    assert not second.restore(tmp_path, missing_ok=True)  # no folder of Checkpoint
    assert second.restore(tmp_path / "a.safetensors", missing_ok=True)
    second.fit((x, y), 3, progress=False)
    assert {n: s.value.tolist() for n, s in whole.state().items()} == {
        n: s.value.tolist() for n, s in second.state().items()
    }
    assert "d.weight.momentum" in whole.state()


def test_settings_are_told() -> None:
    names = list(inspect.signature(train.AdamW).parameters)
    assert names[:3] == ["rate", "decay", "on"]
    assert set(names[3:]) == {"clip_value", "clip_norm", "factors", "beta1", "beta2", "epsilon"}
    assert repr(train.SGD(0.1, 0.9, clip_norm=2)) == (
        "SGD(0.1, clip_norm=2.0, momentum=0.9, nesterov=False)"
    )
    mine = Mine(0.1, 3.0, momentum=0.5)
    assert (mine.scale, mine.momentum, mine.schedule.rate(0)) == (3.0, 0.5, 0.1)
    with pytest.raises(gx.InputError, match="Mine takes no 'mass'"):
        Mine(0.1, mass=0.5)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_settings_and_no_states(copied: Callable[[Any], train.Optimizer]) -> None:
    """It begins as a new one would, and leaves the states and the schedule of the first alone."""

    def train_with(optimizer: train.Optimizer) -> np.ndarray:
        w = gx.param("w.weight", np.ones((2, 2), "float32"))
        loss = gx.square(w).sum()
        step = gx.compile(loss, updates=optimizer.updates({w: gx.grad(loss, w)}), backend="numpy")
        step()
        step()
        return w.value

    used = train.AdamW(train.ReduceOnPlateau(0.1), decay=0.1, clip_norm=2.0)
    wanted = train_with(used)
    states = {id(s) for own in used._states.values() for s in own.values()}
    other = copied(used)
    assert repr(other) == repr(used)
    assert other.schedule is not used.schedule
    with pytest.raises(gx.InputError, match="is fixed"):
        other.beta1 = 0.5  # type: ignore[attr-defined]
    np.testing.assert_array_equal(train_with(other), wanted)
    assert states == {id(s) for own in used._states.values() for s in own.values()}
    assert copied(Mine(0.1, 3.0)).scale == 3.0  # type: ignore[attr-defined]


# -- bad input

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: train.SGD(0), "rate=0: need a number > 0"),
    (lambda: train.SGD(-0.1), "rate=-0.1"),
    (lambda: train.SGD(math.nan), "rate=nan"),
    (lambda: train.SGD("fast"), "rate='fast'"),
    (lambda: train.SGD(0.1, momentum=1.0), "momentum=1.0: need a number, 0 <= momentum < 1"),
    (lambda: train.SGD(0.1, nesterov=True), "nesterov=True: needs momentum > 0"),
    (lambda: train.SGD(0.1, 0.9, nesterov="no"), "nesterov='no': need True or False"),
    (lambda: train.SGD(0.1, factors={3: 1.0}), "factors={3: 1.0}: need a dict of patterns and"),
    (lambda: train.Adam(lr=0.1), "Adam takes no 'lr'; it takes rate, clip_value, clip_norm, "),
    (lambda: train.AdamW(weight_decay=0.1), "AdamW takes no 'weight_decay'; it takes rate, "),
    (lambda: setattr(train.Adam(), "lr", 1), "Adam.lr: there is no such setting; there are rate"),
    (lambda: setattr(train.Adam(), "beta1", 0.5), "Adam.beta1 is fixed: make another optimizer"),
    (lambda: setattr(train.Adam(), "rate", 0), "rate=0: need a number > 0"),
    (lambda: train.SGD(0.1, clip_norm=0), "clip_norm=0"),
    (lambda: train.SGD(0.1, clip_value=-1), "clip_value=-1"),
    (lambda: train.SGD(0.1, factors={"a": -1}), "factors['a']=-1: need a number >= 0"),
    (lambda: train.Adam(beta1=1), "beta1=1"),
    (lambda: train.Adam(epsilon=0), "epsilon=0"),
    (lambda: train.AdamW(decay=-1), "decay=-1"),
    (lambda: train.Step(0.1, every=0), "every=0"),
    (lambda: train.Cosine(0.1, epochs=-3), "epochs=-3"),
    (lambda: train.ReduceOnPlateau(0.1, patience=0), "patience is 0; need an integer of at least"),
    (lambda: train.ReduceOnPlateau(0.1, factor=1.0), "factor=1.0: need a number, 0 < factor < 1"),
    (lambda: train.ReduceOnPlateau(0.1, least=0.2), "least=0.2: need a number, 0 <= least <= rate"),
    (lambda: train.SGD(0.1).updates([gx.param("w", 1.0)]), "gradients: need a dict, {param: its"),
    (lambda: compiled(Hidden(0.1)), "Hidden.rule: need a dict of the new values of "),
    (lambda: train.SGD(0.1).state_of(gx.param("w", 1.0), "m"), "SGD has no state 'm': name it in "
     "the class, states = ('m',)"),
    (lambda: train.L2(-1), "strength=-1"),
    (lambda: train.MaxNorm(0), "limit=0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(gx.InputError) as caught:
        make()
    assert message in str(caught.value)
