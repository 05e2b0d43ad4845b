"""Compiling and calling: structures, symbolic sizes, refusals, checks, looking, and linear time."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import EACH, training_step

import graphc as gx
from graphc import backends, compiler
from graphc.backends.base import Availability
from graphc.errors import GraphcError
from graphc.evaluate import evaluate
from graphc.executable import MAX_SPECIALISATIONS
from graphc.rewrite.rules import RULES
from graphc.schedule.records import Program
from graphc.testing import assert_close, random_graph

BATCH = gx.Dim.symbol("batch")


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, "float32")


# -- structures


X = gx.input("x", (3,))
P = gx.param("p", np.arange(3, dtype="float32"))
Y = gx.exp(X) + P


@EACH
@pytest.mark.parametrize(
    "outputs",
    [Y, [Y], (Y,), {"y": Y}, [Y, X, P, Y], {"a": Y, "b": Y}, [gx.const([1.0, 2.0])], [], {}, ()],
    ids=lambda o: type(o).__name__,
)
def test_results_have_the_structure_of_the_outputs(outputs: Any) -> None:
    exe = gx.compile(outputs)
    given = {n.name: ones(3) for n in exe.graph.inputs}
    made = exe(given)
    assert type(made) is (np.ndarray if isinstance(outputs, gx.Node) else type(outputs))
    if isinstance(outputs, dict):
        assert list(made) == list(outputs)
        made, outputs = list(made.values()), list(outputs.values())
    if isinstance(outputs, gx.Node):
        made, outputs = [made], [outputs]
    for have, want in zip(made, evaluate(outputs, {X: ones(3)}), strict=True):
        assert_close(have, want)
    assert len({id(array) for array in made}) == len(made)


@EACH
def test_calls_by_keyword_and_by_mapping() -> None:
    y = gx.input("y", (3,))
    exe = gx.compile(X - y)
    want = ones(3) - 2 * ones(3)
    assert_close(exe(x=ones(3), y=2 * ones(3)), want)
    assert_close(exe({"x": ones(3), "y": 2 * ones(3)}), want)
    assert_close(exe({"x": ones(3)}, y=2 * ones(3)), want)
    odd = gx.compile(gx.input("self", (3,)) + gx.input("inputs", (3,)))
    assert_close(odd(self=ones(3), inputs=ones(3)), 2 * ones(3))


def test_one_name_for_two_nodes_is_refused_and_one_node_twice_is_not() -> None:
    twin = gx.input("x", (3,))
    with pytest.raises(gx.CompileError, match=r"two nodes are named 'x'.*test_compile.py.*rename"):
        gx.compile(X + twin)
    with pytest.raises(gx.CompileError, match="two nodes are named 'p'"):
        gx.compile(P + gx.input("p", (3,)))
    assert gx.compile([X + X, X])(x=ones(3))[0].tolist() == [2, 2, 2]


@EACH
def test_dropout_follows_the_mode() -> None:
    x = gx.input("x", (50, 50))
    y = gx.dropout(x, 0.5)
    classic = gx.dropout(x, 0.25, form="classic")
    (p,) = [gx.param("q", np.zeros(1, "float32"))]
    off = gx.compile([y, classic])
    assert_close(off(x=ones(50, 50))[0], ones(50, 50))
    assert_close(off(x=ones(50, 50))[1], 0.25 * ones(50, 50))
    for exe in (
        gx.compile([y, classic], training=True),
        gx.compile([y, classic], updates={p: p + 1}),
    ):
        kept, kept_classic = exe(x=ones(50, 50))
        assert set(np.unique(kept)) == {0, 2}
        assert set(np.unique(kept_classic)) == {0, 1}
    frozen = gx.compile([y], updates={p: p + 1}, training=False)
    assert_close(frozen(x=ones(50, 50))[0], ones(50, 50))


# -- symbolic sizes


def symbolic() -> tuple[gx.Node, dict[str, gx.Node]]:
    x = gx.input("x", ("batch", 4))
    outputs = {
        "mean": (x * x).sum() / x.shape[0],
        "rows": gx.softmax(x),
        "columns": x.sum(0),
        "twice": gx.concatenate([x, x]),
        "flat": x.reshape(-1),
    }
    return x, outputs


@EACH
def test_sizes_are_learnt_from_the_inputs() -> None:
    x, outputs = symbolic()
    exe = gx.compile(outputs)
    for batch in (3, 1, 5, 0, 3):
        given = np.random.default_rng(batch).standard_normal((batch, 4)).astype("float32")
        bound = gx.compile(outputs, sizes={"batch": batch}).graph
        made = exe(x=given)
        assert made["twice"].shape == (2 * batch, 4)
        assert made["rows"].shape == (batch, 4)
        assert_close(made["columns"], given.sum(0))
        assert_close(made["flat"], given.ravel())
        mean = (given * given).sum() / np.float32(batch) if batch else np.float32(np.nan)
        assert_close(made["mean"], np.asarray(mean))
        assert bound.symbols == {"batch"}
        assert exe.stages["bound"].notes == {"sizes": {"batch": batch}}
    assert x.shape == (BATCH, 4)


@EACH
def test_the_last_eight_sizes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    inner = compiler._compile

    def counted(*args: Any) -> Any:
        compiled.append(args)
        return inner(*args)

    monkeypatch.setattr(compiler, "_compile", counted)
    exe = gx.compile(gx.input("x", ("batch",)).sum())
    for batch in range(1, MAX_SPECIALISATIONS + 1):
        exe(x=ones(batch))
    assert len(compiled) == MAX_SPECIALISATIONS == 8
    for batch in (1, 8, 3):  # all still there; 1 is now among the latest
        assert exe(x=ones(batch)) == batch
    assert len(compiled) == 8
    exe(x=ones(9))  # 2 is the one that was not used for longest
    exe(x=ones(1))
    assert len(compiled) == 9
    exe(x=ones(2))
    assert len(compiled) == 10


@EACH
def test_sums_and_products_of_sizes() -> None:
    pairs, odd = gx.input("pairs", (2 * BATCH, 3)), gx.input("odd", (2 * BATCH + 1,))
    y = pairs.reshape(BATCH, 6).sum(1).sum() + odd.sum()
    exe = gx.compile(y)
    for batch in (2, 0, 3):
        assert exe(pairs=ones(2 * batch, 3), odd=ones(2 * batch + 1)) == 8 * batch + 1
    for wrong in ((4, 6), (5, 5), (4, 3)):  # disagree, or fit no batch
        with pytest.raises(gx.InputError, match=r"input '(pairs|odd)' has \d where"):
            exe(pairs=ones(wrong[0], 3), odd=ones(wrong[1]))
    width = gx.Dim.symbol("width")
    area = gx.compile(
        (gx.input("flat", (BATCH * width,)).reshape(BATCH, width) + gx.input("w", (width,))).sum(0)
    )
    assert area(flat=ones(6), w=ones(3)).tolist() == [4, 4, 4]
    with pytest.raises(gx.InputError, match="no size fits"):
        area(flat=ones(7), w=ones(3))


@EACH
def test_sizes_that_no_input_tells() -> None:
    exe = gx.compile(gx.random_uniform(("batch",)).sum() * 0 + BATCH)
    with pytest.raises(gx.InputError, match=r"exe\.specialize\(batch=\.\.\.\)"):
        exe()
    assert exe.specialize(batch=4)() == 4
    assert exe() == 4
    assert exe.specialize(batch=6) is exe
    assert exe() == 6
    square = gx.compile(gx.input("square", (BATCH * BATCH,)).sum(), sizes={"batch": 3})
    assert square(square=ones(9)) == 9
    with pytest.raises(gx.InputError, match="has 16 where batch"):
        square(square=ones(16))


def test_sizes_that_disagree() -> None:
    exe = gx.compile(gx.input("a", ("n", 2)) + gx.input("b", ("n", 2)))
    with pytest.raises(
        gx.InputError, match=r"'b' has shape \(4, 2\).*n = 4, but input 'a' has n = 3"
    ):
        exe(a=ones(3, 2), b=ones(4, 2))
    with pytest.raises(gx.InputError):  # a symbol never broadcasts
        exe(a=ones(3, 2), b=ones(1, 2))
    with pytest.raises(gx.ShapeError, match="equals only itself"):
        gx.input("a", ("n",)) + gx.input("b", ("m",))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "missing batch"), ({"bach": 3}, "unknown bach"), ({"batch": 3, "n": 1}, "unknown n"),
        ({"batch": -1}, "0 or more"), ({"batch": 2.0}, "need an int"),
        ({"batch": True}, "need an int"), ({"batch": "3"}, "need an int"),
    ],
)  # fmt: skip
def test_wrong_sizes(sizes: dict[str, Any], message: str) -> None:
    x, outputs = symbolic()
    with pytest.raises(gx.CompileError, match=message):
        gx.compile(outputs, sizes=sizes)
    with pytest.raises(gx.CompileError, match=message):
        gx.compile(outputs).specialize(**sizes)
    with pytest.raises(gx.CompileError, match="symbolic sizes are none"):
        gx.compile(X, sizes={"batch": 3})
    assert x.op.name == "input"


@EACH
def test_a_size_that_does_not_fit_the_graph() -> None:
    x = gx.input("x", ("batch",))
    exe = gx.compile([x.reshape(-1, 3).sum(0)])
    assert exe(x=ones(6))[0].tolist() == [2, 2, 2]
    with pytest.raises(gx.ShapeError, match="reshape"):
        exe(x=ones(7))
    assert exe(x=ones(3))[0].tolist() == [1, 1, 1]
    with pytest.raises(gx.ShapeError, match=r"max.*test_compile\.py"):
        gx.compile(x.max())(x=ones(0))


@EACH
def test_before_sizes_are_known_only_the_declared_stage_is_there() -> None:
    exe = gx.compile(gx.input("x", ("batch",)) * 2)
    assert list(exe.stages) == ["declared"]
    assert "batch" in exe.stages["declared"].text()
    assert "symbolic" in str(exe)
    looks: list[Callable[[], Any]] = [
        lambda: exe.kernels, lambda: exe.plan, exe.explain, lambda: exe.source,
        lambda: exe.to_dot("fused"),
    ]  # fmt: skip
    for look in looks:
        with pytest.raises(gx.CompileError, match=r"exe\.specialize\(batch=\.\.\.\)"):
            look()
    assert exe.to_dot("declared").startswith("digraph")
    exe(x=ones(3))
    assert list(exe.stages) == ["declared", "bound", "simplified", "fused", "planned", "lowered"]
    assert exe.explain()


# -- refusals: what was wrong, and what to do


WRONG: list[tuple[Callable[[], Any], type[GraphcError], str]] = [
    (lambda: gx.compile(Y, backend="nativ"), gx.CompileError, "unknown.*did you mean 'native'"),
    (lambda: gx.compile(Y, backend="abacus"), gx.CompileError, "need auto, .*numpy or emulator"),
    (lambda: gx.compile(Y, backend="emulated"), gx.CompileError, "did you mean 'emulator'"),
    (lambda: gx.compile(Y, backend="cuda:99"), gx.BackendUnavailable, "cuda.*'auto' or 'numpy'"),
    (lambda: gx.compile(Y, rules={"no_such": True}), gx.CompileError, "no_such"),
    (lambda: gx.compile(Y, precision="double"), gx.CompileError, "'float32', 'tf32' or 'bf16'"),
    (lambda: gx.compile(Y, threads=0), gx.CompileError, "1 or more, or None"),
    (lambda: gx.compile(Y, threads=1.5), gx.CompileError, "1 or more, or None"),  # type: ignore[arg-type]
    (lambda: gx.compile(Y, threads=True), gx.CompileError, "1 or more, or None"),
    (lambda: gx.compile(3.0), gx.CompileError, "node, a list or a dict"),  # type: ignore[arg-type]
    (lambda: gx.compile(None), gx.CompileError, "node, a list or a dict"),  # type: ignore[arg-type]
    (lambda: gx.compile([Y, 3.0]), gx.CompileError, "'output1' is float, not a node"),  # type: ignore[list-item]
    (lambda: gx.compile({1: Y}), gx.CompileError, "key 1 is not a str"),  # type: ignore[dict-item]
    (lambda: gx.compile({"a": "b"}), gx.CompileError, "'a' is str, not a node"),  # type: ignore[dict-item]
    (lambda: gx.compile(Y, updates=[P]), gx.CompileError, "dict of param -> node"),  # type: ignore[arg-type]
    (lambda: gx.compile(Y, updates={X: Y}), gx.CompileError, "only params"),  # type: ignore[dict-item]
    (lambda: gx.compile(Y, updates={P: 0.5}), gx.CompileError, "0.5, not a node"),
    (lambda: gx.compile(Y, updates={P: Y.sum()}), gx.ShapeError, r"p is float32\[3\].*float32\[\]"),
    (lambda: gx.compile(Y, updates={P: Y > 0}), gx.DTypeError, r"bool\[3\].*astype\('float32'\)"),
    (lambda: gx.compile(Y).to_dot("fuse"), gx.CompileError, "'fuse' is unknown; there are decl"),
    (lambda: gx.compile(Y)(x=np.ones(4)), gx.InputError, r"\(4,\); need float32\[3\]"),
    (lambda: gx.compile(Y)(), gx.InputError, r"'x' is missing; need float32\[3\]"),
    (lambda: gx.compile(Y)(x=ones(3), xs=1), gx.InputError, "unknown.*'xs'.*did you mean 'x'"),
    (lambda: gx.compile(Y)({"x": ones(3), 7: 1}), gx.InputError, "unknown"),
    (lambda: gx.compile(Y)(ones(3)), gx.InputError, "ndarray.*by name"),  # type: ignore[arg-type]
    (lambda: gx.compile(P)(x=1), gx.InputError, "unknown input 'x'; the inputs are none"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_refusals_name_the_remedy(number: int) -> None:
    call, kind, message = WRONG[number]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 600


def test_a_backend_that_cannot_run_here_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = replace(backends.CUDA, probe=lambda: Availability(False, "no driver"))
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "cuda": lacking})
    with pytest.raises(gx.BackendUnavailable, match=r"'cuda': no driver; .*'auto' or 'numpy'"):
        gx.compile(Y, backend="cuda")
    reason = gx.compile(Y).backend_reason
    assert "auto; cuda is not usable: no driver" in reason


VALUES: list[tuple[str, Any, str]] = [
    ("f", [1, 2, 3], r"shape \(3,\)"),
    ("f", 1.0, r"shape \(\)"),
    ("f", [[1, 2]], r"shape \(1, 2\)"),
    ("f", [[1], [1, 2]], "not an array"),
    ("f", ["a", "b"], "need real numbers"),
    ("f", "ab", "need real numbers"),
    ("f", b"ab", "need real numbers"),
    ("f", None, "need real numbers"),
    ("f", [1j, 2], "complex128"),
    ("f", np.ones(2, complex), "complex128"),
    ("f", np.array([1, 2], object), "object"),
    ("f", {1, 2}, "object"),
    ("f", {"a": 1}, "object"),
    ("f", (v for v in [1, 2]), "object"),
    ("f", np.array([1, 2], "datetime64[s]"), "datetime64"),
    ("f", np.zeros(2, "f4,f4"), "need real numbers"),
    ("f", X, "is a node"),
    ("f", [X, X], "not an array"),
    ("i", [1.5, 2, 3], "float64"),
    ("i", np.ones(3, "float32"), r"astype\('int32'\)"),
    ("i", [2**40, 0, 0], "do not fit int32"),
    ("i", np.full(3, 2**40), "do not fit int32"),
    ("i", np.full(3, 2**63, "uint64"), "do not fit int32"),
    ("i", [2**70, 0, 0], "need real numbers"),
    ("b", [1, 0], r"astype\('bool'\)"),
    ("b", np.ones(2), r"astype\('bool'\)"),
]


@EACH
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_wrong_inputs_change_nothing(number: int) -> None:
    name, value, message = VALUES[number]
    f, i, b = gx.input("f", (2,)), gx.input("i", (3,), "int32"), gx.input("b", (2,), "bool")
    p = gx.param("q", np.zeros(2, "float32"))
    exe = gx.compile([f + i.sum(), b], updates={p: p + f})
    good = {"f": ones(2), "i": [1, 2, 3], "b": [True, False]}
    exe(good)
    with pytest.raises(gx.InputError, match=f"'{name}'.*{message}"):
        exe({**good, name: value})
    assert p.value.tolist() == [1, 1]
    exe(good)
    assert p.value.tolist() == [2, 2]


def test_auto_says_what_it_took_and_why() -> None:
    exe = gx.compile(Y)
    assert exe.backend == "native" if gx.devices()["native"].usable else "numpy"
    assert re.match(r"auto.*cuda is .*", exe.backend_reason)
    assert ("native" in exe.backend_reason) == (exe.backend == "numpy")
    assert "auto" not in gx.compile(Y, backend="numpy").backend_reason
    assert gx.devices()["numpy"].usable


@EACH
def test_rules_can_be_switched_off() -> None:
    y = (X.reshape(3, 1).T.reshape(3) * 1) ** 2
    plain = gx.compile(y, rules={rule.name: False for rule in RULES})
    usual = gx.compile(y)
    assert plain.stages["simplified"].notes["rules"] == {}
    assert plain.stages["simplified"].record is plain.graph
    assert len(usual.stages["simplified"].record.nodes) < len(usual.graph.nodes)  # type: ignore[union-attr]
    assert_close(plain(x=2 * ones(3)), 4 * ones(3))
    assert_close(usual(x=2 * ones(3)), 4 * ones(3))


# -- check=True


@EACH
def test_check_passes_on_good_programs() -> None:
    for seed in range(40):
        graph = random_graph(seed)
        exe = gx.compile(graph.outputs, updates=graph.updates, check=True)
        exe({n.name: graph.values[n.name] for n in exe.graph.inputs})
    program = training_step((8, 16, 4), 5)
    exe = gx.compile(program.outputs, updates=program.updates, check=True)
    losses = [float(exe(program.inputs)["loss"]) for _ in range(5)]
    assert losses[-1] < losses[0]


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_check_with_sizes_draws_and_modes(training: bool) -> None:
    x = gx.input("x", ("batch", 4))
    y = gx.dropout(x, 0.5) + gx.random_normal(x.shape)
    exe = gx.compile([y, y.sum() / x.shape[0]], training=training, check=True, seed=5)
    plain = gx.compile([y, y.sum() / x.shape[0]], training=training, seed=5)
    for batch in (3, 2, 3):
        given = ones(batch, 4)
        assert_close(exe(x=given)[0], plain(x=given)[0])


@EACH
def test_check_stops_at_the_first_value_that_is_not_finite() -> None:
    x = gx.input("x", (3,))
    p = gx.param("q", ones(3))
    bad = gx.log(x)  # this line is named
    line = sys._getframe().f_lineno - 1
    exe = gx.compile(
        [bad * 2 + gx.exp(x), gx.random_uniform((2,))], updates={p: p + bad}, check=True
    )
    first = exe(x=ones(3))[1]
    before = p.value
    with pytest.raises(
        gx.NonFiniteError, match=rf"log\(x\).*nan at \[1\].*test_compile\.py:{line}"
    ):
        exe(x=np.array([1, -1, 0], "float32"))
    assert np.array_equal(p.value, before)
    second = exe(x=ones(3))[1]
    exe.seed(0)
    assert np.array_equal(exe(x=ones(3))[1], first)
    assert np.array_equal(exe(x=ones(3))[1], second)  # the refused call was no step


@EACH
def test_check_finds_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, _rules: Any) -> Any:
        nodes = {n: gx.sin(n.inputs[0]) for n in graph.nodes if n.op.name == "cos"}
        return graph.map(lambda n: nodes.get(n, n)), {}

    p = gx.param("q", ones(3))
    monkeypatch.setattr(compiler, "simplify", wrong)
    exe = gx.compile(gx.cos(X), updates={p: p + 1}, check=True)
    with pytest.raises(gx.CompileError, match=r"stage 'simplified': result differs.*defect"):
        exe(x=ones(3))
    assert p.value.tolist() == [1, 1, 1]


@EACH
def test_check_finds_a_wrong_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = compiler.lower

    def wrong(plan: Any) -> Program:
        program = inner(plan)
        made = program.schedule
        kernel = made.kernels[-1]
        statements = tuple(
            replace(s, args=s.args[::-1]) if s.node.op.name == "subtract" else s
            for s in kernel.statements
        )
        turned = replace(made, kernels=(*made.kernels[:-1], replace(kernel, statements=statements)))
        return replace(program, plan=replace(plan, schedule=turned))

    p = gx.param("q", 2 * ones(3))
    monkeypatch.setattr(compiler, "lower", wrong)
    exe = gx.compile([], updates={p: p - 0.5 * X}, check=True)
    with pytest.raises(gx.CompileError, match="stage 'lowered': q differs"):
        exe(x=ones(3))
    assert p.value.tolist() == [2, 2, 2]  # put back


# -- looking


def test_what_an_executable_shows(tmp_path: Path) -> None:
    program = training_step((8, 16, 4), 5)
    exe = gx.compile(program.outputs, updates=program.updates, name="small step", backend="numpy")
    assert list(exe.stages) == ["declared", "simplified", "fused", "planned", "lowered"]
    assert exe.name == "small step"
    assert all(stage.seconds >= 0 for stage in exe.stages.values())
    for kernel in exe.kernels:
        assert kernel.name
        assert kernel.reason
        assert kernel.nodes
        assert kernel.nbytes > 0
        assert kernel.flops >= 0
        assert kernel.name in kernel.source
    assert sum(k.flops for k in exe.kernels) > 2 * 5 * 8 * 16
    assert 0 < exe.plan.live_nbytes <= exe.plan.peak_nbytes < exe.plan.naive_nbytes
    assert exe.plan.allocations
    for shown in (str(exe), exe.explain()):
        assert "small step on numpy" in shown
        assert f"{len(exe.kernels)}" in shown
    assert repr(exe).startswith("<executable small step on numpy")
    paths = [Path(path) for path in exe.save_dot(tmp_path / "new")]
    assert [path.name for path in paths] == [
        "0_declared.dot", "1_simplified.dot", "2_fused.dot", "3_planned.dot", "4_lowered.dot",
    ]  # fmt: skip
    for path, name in zip(paths, exe.stages, strict=True):
        assert path.read_text(encoding="utf-8") == exe.to_dot(name)
    assert exe.to_dot() == exe.to_dot("fused")


@EACH
def test_stages_and_plan_belong_to_the_latest_sizes() -> None:
    w = np.linspace(0, 1, 2500, dtype="float32").reshape(50, 50)
    exe = gx.compile(gx.softmax(gx.input("x", ("batch", 50)) @ w))
    exe(x=ones(32, 50))
    small = exe.plan.peak_nbytes
    exe(x=ones(320, 50))
    assert exe.plan.peak_nbytes == 10 * small > 0
    exe(x=ones(32, 50))
    assert exe.plan.peak_nbytes == small


# -- large graphs


def chain(length: int) -> tuple[gx.Node, gx.Node]:
    x = gx.input("x", (4,))
    y = x
    for k in range(length):
        y = gx.sin(y) if k % 3 else y * x
    return x, y


def test_a_long_chain_with_its_gradient_needs_no_recursion() -> None:
    x, y = chain(5000)
    limit = sys.getrecursionlimit()
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 120)
    try:
        g = gx.grad(y.sum(), x)
        exe = gx.compile([y, g], backend="numpy")
        given = np.linspace(0.1, 1, 4, dtype="float32")
        made = exe(x=given)
    finally:
        sys.setrecursionlimit(limit)
    assert len(exe.graph.nodes) > 10_000
    for have, want in zip(made, evaluate([y, g], {x: given}), strict=True):
        assert_close(have, want)


def seconds_to_compile(length: int) -> float:
    x, y = chain(length)
    outputs = [y, gx.grad(y.sum(), x)]
    start = time.process_time()
    gx.compile(outputs, backend="numpy")
    return time.process_time() - start


def test_compile_time_is_linear() -> None:
    seconds_to_compile(100)  # warm
    small = min(seconds_to_compile(400) for _ in range(2))
    large = min(seconds_to_compile(1600) for _ in range(2))
    assert large < 3.5**2 * small  # 16 if quadratic, 4 if linear


def test_steps_compile_in_linear_time_too() -> None:
    def seconds(layers: int) -> float:
        program = training_step([8] * layers, 4)
        start = time.process_time()
        gx.compile(program.outputs, updates=program.updates, backend="numpy")
        return time.process_time() - start

    seconds(4)
    assert min(seconds(48), seconds(48)) < 3.5**2 * min(seconds(12), seconds(12))


def test_assert_compiled_finds_what_differs() -> None:
    exe = gx.compile(gx.softmax(X) + 1, backend="numpy")
    gx.testing.assert_compiled(exe, kernels=["row"], peak_nbytes=0)
    gx.testing.assert_compiled(exe, kernels=1)
    matrix = gx.input("matrix", (3, 3))
    chain = gx.compile((matrix @ matrix @ matrix).sum(), backend="numpy")  # two products and a sum
    with pytest.raises(AssertionError, match=r"kernels \['row'\], wanted \['full'\]"):
        gx.testing.assert_compiled(exe, kernels=["full"])
    with pytest.raises(AssertionError, match="3 kernels, at most 2 wanted"):
        gx.testing.assert_compiled(chain, kernels=2)
    with pytest.raises(AssertionError, match="bytes planned, at most 0 wanted"):
        gx.testing.assert_compiled(chain, peak_nbytes=0)


@pytest.mark.parametrize("name", ["emulatr", "cuda:x", None, 3, "cuda:"])
def test_backends_that_there_are(name: Any) -> None:
    with pytest.raises(gx.CompileError, match=r"cuda:N .*, native, numpy or emulator") as caught:
        gx.compile(gx.input("x", (3,)) + 1, backend=name)
    hint = "; did you mean 'emulator'?" if name == "emulatr" else "emulator"
    assert str(caught.value).endswith(hint)


def test_a_plan_is_one_line() -> None:
    plan = gx.compile(gx.exp(gx.input("x", (3,))).sum(), backend="numpy").plan
    assert len(str(plan).splitlines()) == 1
    assert f"in {plan.peak_nbytes} bytes" in repr(plan)


def test_sizes_that_disagree_are_told_with_their_inputs() -> None:
    x, y = gx.input("x", ("batch", 2)), gx.input("y", ("batch", 2))
    exe = gx.compile(x + y, backend="numpy")
    with pytest.raises(gx.CompileError, match="sizes: unknown bath; the symbolic sizes are batch"):
        exe.specialize(bath=3)
    with pytest.raises(gx.InputError, match=r"'y' .* batch = 4, but input 'x' has batch = 3"):
        exe(x=np.zeros((3, 2)), y=np.zeros((4, 2)))
    with pytest.raises(gx.InputError, match=r"'y' .* k steps = 6, but input 'x' has k steps = 5"):
        exe.run_many(x=np.zeros((5, 3, 2)), y=np.zeros((6, 3, 2)))
