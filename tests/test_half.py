"""16-bit floats: stored in float16 or bfloat16, computed in float32, rounded once."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from programs import EACH, training_step

import graphc as gx
from graphc import backends
from graphc.backends import numpy_kernel, numpy_text
from graphc.errors import CompileError, DTypeError, InputError
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ir.op import MOVES, OPS, Kind, Op
from graphc.ir.tensor_type import FLOATS, NARROW, computed_in
from graphc.rewrite import widen as widen_module
from graphc.rewrite.rules import select_rules
from graphc.rewrite.widen import widen
from graphc.testing import assert_close, check_grads, random_graph

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BOTH = pytest.mark.parametrize("dtype", ["float16", BFLOAT16], ids=["float16", "bfloat16"])
RNG = np.random.default_rng(3)
UNCHANGED = {"drop_rounding": False}  # with every rounding that the graph as written has
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 6e4, -6e4, 1e-7, 3e-5, 100.0, -100.0]


def drawn(shape: tuple[int, ...], dtype: Any, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


def wide(array: np.ndarray) -> np.ndarray:
    """16-bit floats as float32, exactly; anything else as it is."""
    return array.astype(computed_in(array.dtype))


def rounded(array: Any, dtype: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(dtype)


def same(have: np.ndarray, want: np.ndarray, what: str = "") -> None:
    """Equal dtypes and values, NaN like NaN; -0.0 is not 0.0."""
    assert_close(have, want, what, exact=True)
    zeros = want == 0
    assert np.array_equal(np.signbit(have[zeros]), np.signbit(want[zeros])), what


def run(nodes: Any, arrays: dict[str, np.ndarray], **options: Any) -> Any:
    """Results of one call."""
    return gx.compile(nodes, **options)(arrays)


# -- every op


def operands(op: Op[...], dtype: Any, count: int) -> list[np.ndarray]:
    return [drawn((5, 7), dtype, *op.domain) for _ in range(count)]


def takes(op: Op[...]) -> int:
    """How many floats an elementwise op takes; 0 if it takes none."""
    if op.kind is not Kind.ELEMENTWISE or op.resolve or op in (gx.where, gx.astype):
        return 0
    count = 2 if "y" in op.__signature__.parameters else 1
    try:
        op(*[gx.const([1.0])] * count)
    except DTypeError:
        return 0
    return count


ELEMENTWISE = [op for op in OPS.values() if takes(op)]
REDUCTIONS = [op for op in OPS.values() if op.kind is Kind.REDUCTION]


def against_float32(op: Op[...], arrays: list[np.ndarray]) -> None:
    inputs = [gx.input(f"x{i}", a.shape, a.dtype) for i, a in enumerate(arrays)]
    node = op(*inputs)
    assert node.dtype == (arrays[0].dtype if node.dtype in FLOATS else np.dtype(bool))
    given = {n.name: a for n, a in zip(inputs, arrays, strict=True)}
    with np.errstate(all="ignore"):
        value = op.eval(np, *[wide(a) for a in arrays])  # type: ignore[misc]
    want = rounded(value, node.dtype)
    same(run(node, given, backend="numpy"), want, op.name)
    same(evaluate([node], dict(zip(inputs, arrays, strict=True)))[0], want, op.name)


@BOTH
@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
def test_elementwise_is_float32_rounded(op: Op[...], dtype: Any) -> None:
    against_float32(op, operands(op, dtype, takes(op)))


@BOTH
@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
def test_elementwise_at_special_values(op: Op[...], dtype: Any) -> None:
    x = rounded(SPECIAL, dtype)
    against_float32(op, [x] if takes(op) == 1 else [np.repeat(x, x.size), np.tile(x, x.size)])


@BOTH
@pytest.mark.parametrize("op", REDUCTIONS, ids=repr)
@pytest.mark.parametrize("axis", [0, 1])
def test_reductions_are_float32_rounded(op: Op[...], axis: int, dtype: Any) -> None:
    array = drawn((6, 9), dtype, *op.domain)
    x = gx.input("x", array.shape, dtype)
    node = op(x, axis=axis)
    if node.dtype == np.dtype(bool):  # any, all: of x != 0
        same(
            run(node, {"x": array}, backend="numpy"),
            getattr(np, op.name)(wide(array) != 0, axis=axis),
        )
        return
    want = op.eval(np, wide(array), axes=(axis,))  # type: ignore[misc]
    assert_close(run(node, {"x": array}, backend="numpy"), rounded(want, node.dtype))


@EACH
@BOTH
def test_sums_and_means_are_accumulated_in_float32(dtype: Any) -> None:
    """In 16 bits a sum of ones would stop at 2048 or 256; a count of 70 000 is not even float16."""
    ones = np.ones((70_000,), dtype)
    x = gx.input("x", ones.shape, dtype)
    w = gx.const(np.ones((70_000, 1), dtype))
    results = run([x.mean(), gx.var(x), (x * 0.25).sum(), (x[None] @ w)[0, 0] / 4], {"x": ones})
    assert [r.dtype for r in results] == [np.dtype(dtype)] * 4
    assert [float(r) for r in results[:2]] == [1, 0]
    assert [float(r) for r in results[2:]] == [float(rounded(17_500.0, dtype))] * 2
    assert float(run(x.sum() / x.shape[0], {"x": ones})) == 1  # the sum is not stored
    slope = run(gx.grad(x.mean(), x), {})
    same(slope, np.full(ones.shape, rounded(np.float32(1 / 70_000), dtype)))


@EACH
@BOTH
def test_products_are_float32_products(dtype: Any) -> None:
    a, b, c = drawn((4, 30), dtype), drawn((30, 5), dtype), drawn((3, 30, 5), dtype)
    x, w, z = (gx.input(n, v.shape, dtype) for n, v in zip("xwz", (a, b, c), strict=True))
    nodes = [x @ w, (x @ w).T, w.T @ x.T, x @ z, gx.relu(x @ w + w[0]) - 1, x[0] @ w, x @ x.T]
    want = [
        wide(a) @ wide(b), (wide(a) @ wide(b)).T, wide(b).T @ wide(a).T, wide(a) @ wide(c),
        np.maximum(wide(a) @ wide(b) + wide(b)[0], 0) - 1, wide(a)[0] @ wide(b),
        wide(a) @ wide(a).T,
    ]  # fmt: skip
    results = run(nodes, {"x": a, "w": b, "z": c}, check=True)
    for node, have, exact in zip(nodes, results, want, strict=True):
        assert have.dtype == node.dtype == np.dtype(dtype)
        assert_close(have, rounded(exact, dtype))


@EACH
@BOTH
def test_views_and_joins_move_elements(dtype: Any) -> None:
    """NaN, infinities and all: the same bits."""
    a = np.concatenate([rounded(SPECIAL, dtype), drawn((11,), dtype)]).reshape(4, 6)
    x = gx.input("x", (4, 6), dtype)
    rows: list[tuple[Node, Any]] = [
        (x, a), (x.T, a.T), (x[::-1, 1::2], a[::-1, 1::2]), (x.reshape(3, 8), a.reshape(3, 8)),
        (x[1].broadcast_to((5, 6)), np.broadcast_to(a[1], (5, 6))),
        (gx.flip(x, 1), a[:, ::-1]), (gx.concatenate([x, x[:2]]), np.concatenate([a, a[:2]])),
        (gx.stack([x, x], 1), np.stack([a, a], 1)), (gx.pad(x, 1), np.pad(a, 1)),
        (gx.pad(x, ((0, 2), (1, 0)), constant_values=0.1),
         np.pad(a, ((0, 2), (1, 0)), constant_values=rounded(0.1, dtype))),
        (x.T.reshape(-1)[3:], a.T.reshape(-1)[3:]),
    ]  # fmt: skip
    exe = gx.compile([node for node, _ in rows], check=False)
    for have, (node, want) in zip(exe({"x": a}), rows, strict=True):
        assert have.dtype == node.dtype == np.dtype(dtype)
        assert have.tobytes() == np.ascontiguousarray(want).tobytes(), node
    assert "widened" not in exe.stages or exe.stages["widened"].notes["rules"] == {}


@EACH
@BOTH
def test_sources(dtype: Any) -> None:
    labels = gx.const([0, 2, 1])
    rows: list[tuple[Node, Any]] = [
        (gx.const([1.5, 0.1], dtype), [1.5, 0.1]),
        (gx.const(np.array([1, 2], dtype)), [1, 2]),
        (gx.iota((2, 3), 1, dtype), [[0, 1, 2]] * 2),
        (gx.arange(5, dtype=dtype), range(5)),
        (gx.one_hot(labels, 3, dtype), [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        (gx.const([1, 2]).astype(dtype), [1, 2]),
        (gx.const([True, False]).astype(dtype), [1, 0]),
        (gx.const(np.array([2.0, 1e30])).astype(dtype), [2, 1e30]),
        (gx.const([0.75, 3.0], dtype).astype("int32").astype(dtype), [0, 3]),
    ]
    for have, (node, want) in zip(run([n for n, _ in rows], {}), rows, strict=True):
        assert node.dtype == np.dtype(dtype)
        same(have, rounded(np.array(want, "float64"), dtype), str(node))


@EACH
def test_between_the_two_and_others() -> None:
    x = gx.input("x", (len(SPECIAL),), "float16")
    a = rounded(SPECIAL, "float16")
    nodes = [x.astype(d) for d in ("bfloat16", "float32", "float64", "bool")]
    for have, node in zip(run(nodes, {"x": a}), nodes, strict=True):
        same(have, rounded(wide(a), node.dtype))
    exact = gx.input("d", (2,), "float64").astype("bfloat16")
    same(run(exact, {"d": np.array([1 / 3, 1e300])}), rounded([1 / 3, np.inf], BFLOAT16))


# -- what is rounded, and what is not


@EACH
@BOTH
def test_a_chain_is_rounded_once(dtype: Any) -> None:
    a = drawn((40, 50), dtype)
    x, x32 = gx.input("x", a.shape, dtype), gx.input("x", a.shape)

    def chain(x: Node) -> Node:
        return gx.log(gx.softmax(gx.tanh(x * 0.3) * 5 - x.mean(1, keepdims=True)).T + 1e-4)

    have = run(chain(x), {"x": a})
    same(have, rounded(run(chain(x32), {"x": wide(a)}), dtype))
    as_written = run(chain(x), {"x": a}, rules=UNCHANGED)
    exact = run(chain(gx.input("x", a.shape, "float64")), {"x": a.astype("float64")})
    error = np.abs(have.astype("float64") - exact).max()
    assert 2 * error < np.abs(as_written.astype("float64") - exact).max()


@EACH
@BOTH
def test_without_the_rule_every_op_is_rounded(dtype: Any) -> None:
    a = drawn((6, 5), dtype)
    x = gx.input("x", a.shape, dtype)
    y = gx.exp(gx.sin(x) * gx.sqrt(gx.abs(x))).T
    exe = gx.compile(y, rules=UNCHANGED)
    value = a
    for step in (np.sin, lambda v: v * rounded(np.sqrt(np.abs(wide(a))), dtype), np.exp):
        value = rounded(step(wide(value)), dtype)
    same(exe(x=a), value.T)
    same(exe(x=a), evaluate([y], {x: a})[0])
    assert exe.stages["widened"].notes["rules"] == {}


@EACH
@BOTH
def test_a_rounding_that_the_user_writes_is_kept(dtype: Any) -> None:
    a = drawn((30,), "float32")
    x = gx.input("x", (30,))
    y = x.astype(dtype).astype("float32")
    assert not np.array_equal(a, rounded(a, dtype))
    same(run(y, {"x": a}), wide(rounded(a, dtype)))
    same(run(gx.exp(x.astype(dtype)).sum(), {"x": a}, check=True),
         rounded(np.exp(wide(rounded(a, dtype))).sum(), dtype))  # fmt: skip
    narrow = gx.input("n", (30,), dtype)
    implied = gx.exp(narrow).astype("float32")  # nobody asked for a rounding before this cast
    assert_close(run(implied, {"n": rounded(a, dtype)}), np.exp(wide(rounded(a, dtype))))
    slope = gx.grad((y * y * y).sum(), x)  # that the chain rule casts back and forth is no wish
    assert_close(run(slope, {"x": a}), run(3 * y * y, {"x": a}))


@EACH
@BOTH
def test_numbers_beside_16_bits_are_not_rounded(dtype: Any) -> None:
    """A learning rate, a tiny epsilon, a number that float16 does not reach."""
    a = drawn((50,), dtype, 0.5, 1)
    x, k = gx.input("x", (50,), dtype), gx.input("k", (50,), "int32")
    counts = np.arange(70_001, 70_051).astype("int32")
    nodes = [x * 0.1, x / (x * 0 + 1e-8) * 1e-8, x * 1e5 / 1e5, (x * k) / 70_001.0, 0.1 * x + 1]
    w = wide(a)
    want = [
        w * np.float32(0.1),
        w,
        w,
        w * wide(counts) / np.float32(70_001),
        w * np.float32(0.1) + 1,
    ]
    for have, node, value in zip(run(nodes, {"x": a, "k": counts}), nodes, want, strict=True):
        assert node.dtype == np.dtype(dtype)
        assert_close(have, rounded(value, dtype))
    same(run(x * np.float32(0.1), {"x": a}), rounded(want[0], dtype))
    tenth = gx.const(rounded([0.1, 0.2], dtype))
    compared = [
        tenth == 0.1,
        tenth >= 0.1,
        tenth > 0.1,
        gx.grad(gx.maximum(tenth, 0.1).sum(), tenth),
    ]
    values = [array.tolist() for array in run(compared, {})]
    assert values == [[True, False], [True, True], [False, True], [0.5, 1]]
    assert gx.const(0.5, dtype) is (x * 0.5).inputs[1].inputs[0]  # exact: a plain constant


# -- types


def test_promotion() -> None:
    h, b, f = (gx.input(d, (2,), d) for d in ("float16", "bfloat16", "float32"))
    i, t = gx.input("i", (2,), "int32"), gx.input("t", (2,), "bool")
    for x in (h, b):
        for node in (
            x + 1, 1.5 * x, x + i, i * x, x - np.float64(2), np.ones(2) * x, np.ones(2, "f4") + x,
            gx.where(t, x, 0.1), x @ np.ones((2, 2)), gx.maximum(x, i), gx.concatenate([x, i]), -x,
            x + np.ones(2, x.dtype), x.sum(), gx.mean(x), gx.std(x), gx.softmax(x), x ** 2, x / i,
            x / x.shape[0], gx.dropout(x, 0.9), gx.mse(x, i), gx.l2(x), gx.clip(x, 0, 0.1),
        ):  # fmt: skip
            assert node.dtype == x.dtype, node
        for test in (x > 0.1, gx.isnan(x), x == i, gx.any(x)):
            assert test.dtype == np.dtype(bool)
        assert gx.argmax(x).dtype == np.dtype("int64")
        assert gx.input("y", (2,), x.dtype).dtype is x.dtype
    assert (i * np.ones(2, BFLOAT16)).dtype == np.dtype("float32")
    assert gx.add(np.ones(2, "f2"), np.ones(2, BFLOAT16)).dtype == np.dtype("float32")
    assert gx.add(np.ones(2, BFLOAT16), np.ones(2, BFLOAT16)).dtype == BFLOAT16
    mixed: list[Callable[[], Node]] = [
        lambda: h + f, lambda: f * b, lambda: h - b, lambda: gx.where(t, h, b),
        lambda: gx.concatenate([b, f]), lambda: h @ f, lambda: gx.mse(h, f),
    ]  # fmt: skip
    for wrong in mixed:
        with pytest.raises(DTypeError, match=r"do not mix; cast one with \.astype\('float32'\)"):
            wrong()
    with pytest.raises(DTypeError, match="takes bools or integers"):
        h & 1


@pytest.mark.parametrize("spelled", ["bfloat16", BFLOAT16, ml_dtypes.bfloat16])
def test_how_a_dtype_may_be_named(spelled: Any) -> None:
    assert gx.input("x", (2,), spelled).dtype == BFLOAT16
    assert str(gx.param("p", [1, 2], dtype=spelled).type) == "bfloat16[2]"
    with pytest.raises(
        DTypeError, match=r"float8_e5m2 is not supported; use one of bool, .*float16"
    ):
        gx.input("x", (2,), ml_dtypes.float8_e5m2)


@EACH
@BOTH
def test_what_a_call_admits(dtype: Any) -> None:
    exe = gx.compile(gx.input("x", (3,), dtype))
    values = [1.0, -2.5, 3.0]
    given: list[Any] = [values, [1, -2, 3], np.array([1, 2, 3]), np.array([True, False, True])]
    given += [np.array(values, d) for d in ("f2", "f4", "f8", BFLOAT16)]
    for array in given:
        same(exe(x=array), rounded(np.asarray(array, "float64"), dtype))
    same(exe(x=np.array([1e39, -1e39, 0])), rounded([np.inf, -np.inf, 0], dtype))
    same(exe(x=np.array([1, 2, 3, 4, 5, 6], dtype)[::2]), rounded([1, 3, 5], dtype))
    for wrong in (np.ones(3, complex), np.ones(3, dtype).view("V2"), np.ones(3, "U1")):
        with pytest.raises(InputError, match="need real numbers or bools"):
            exe(x=wrong)
    for other in ("int32", "bool"):
        whole = gx.compile(gx.input("x", (3,), other))
        with pytest.raises(InputError, match=f"need {other}"):
            whole(x=np.ones(3, dtype))
    same(gx.compile(gx.input("x", (3,)))(x=rounded(values, dtype)), rounded(values, "float32"))


@EACH
@BOTH
def test_values_of_params(dtype: Any) -> None:
    a = drawn((4, 3), dtype)
    p = gx.param("p", a)
    assert p.dtype == p.value.dtype == np.dtype(dtype)
    same(p.value, a)
    p.value = wide(a) + 0.01
    same(p.value, rounded(wide(a) + np.float32(0.01), dtype))
    same(gx.param("q", [[0.1]], dtype=dtype).value, rounded([[0.1]], dtype))
    file = io.BytesIO()  # NumPy's own format has no name for bfloat16: save the bits
    np.save(file, p.value.view("uint16"))
    file.seek(0)
    p.value, kept = a, np.load(file).view(dtype)
    p.value = kept
    same(p.value, kept)
    step = gx.compile([], updates={p: p * 0.5 + 0.1})
    step()
    same(p.value, rounded(wide(kept) * np.float32(0.5) + np.float32(0.1), dtype))
    with pytest.raises(DTypeError, match=rf"try \.astype\('{np.dtype(dtype).name}'\)"):
        gx.compile([], updates={p: p.astype("float32") * 2})


# -- training


def in_dtype(dtype: Any) -> tuple[dict[str, Node], dict[gx.Param, Node], list[gx.Param]]:
    """A step of SGD with momentum, the loss in float32, the batch symbolic."""
    rng = np.random.default_rng(0)
    x, labels = gx.input("x", ("batch", 12), dtype), gx.input("labels", ("batch",), "int32")
    start = [rng.standard_normal(s) / 3 for s in ((12, 16), (16,), (16, 5), (5,))]
    values = [rounded(v, "float16").astype("float64") for v in start]  # what both dtypes can hold
    values = [rounded(v, BFLOAT16).astype("float64") for v in values]
    w = [gx.param(f"w{i}", v, dtype=dtype) for i, v in enumerate(values)]
    logits = gx.relu(x @ w[0] + w[1]) @ w[2] + w[3]
    loss = gx.softmax_cross_entropy(logits.astype("float32"), labels)
    updates: dict[gx.Param, Node] = {}
    params: list[gx.Param] = []
    for p, g in zip(w, gx.grad(loss, w), strict=True):
        v = gx.param(f"v_{p.name}", np.zeros(p.shape), dtype=dtype)  # type: ignore[call-overload]
        assert g.dtype == np.dtype(dtype)
        updates[v] = 0.9 * v + g
        updates[p] = p - 0.1 * updates[v]
        params += [v, p]
    return {"loss": loss, "logits": logits}, updates, params


@EACH
@BOTH
def test_a_training_step_is_that_of_float32_with_rounded_params(dtype: Any) -> None:
    outputs, updates, params = in_dtype(dtype)
    reference, reference_updates, exact = in_dtype("float32")
    step = gx.compile(outputs, updates=updates, check=True)
    step32 = gx.compile(reference, updates=reference_updates)
    rng = np.random.default_rng(1)
    for batch in (8, 3, 8, 1):
        x = rounded(rng.standard_normal((batch, 12)), dtype)
        labels = rng.integers(0, 5, batch).astype("int32")
        have, want = step(x=x, labels=labels), step32(x=wide(x), labels=labels)
        assert have["loss"].dtype == np.dtype("float32")
        assert_close(have["loss"], want["loss"])
        assert_close(have["logits"], rounded(want["logits"], dtype))
        for p, q in zip(params, exact, strict=True):
            assert_close(p.value, rounded(q.value, dtype), p.name)
            q.value = p.value  # rounded: the next step starts where the 16-bit one does
    assert step.stages["widened"].notes["rules"]["drop_rounding"] > 10


def test_bfloat16_takes_half_the_room_of_float32_for_params() -> None:
    sizes: dict[str, int] = {}
    for dtype in ("float32", "bfloat16"):
        _, _, params = in_dtype(dtype)
        sizes[dtype] = sum(p.value.nbytes for p in params)
    assert sizes["float32"] == 2 * sizes["bfloat16"]


LOSSES = [
    gx.mse, gx.mae, gx.huber, gx.sigmoid_cross_entropy, gx.binary_cross_entropy,
    gx.softmax_cross_entropy,
]  # fmt: skip


@EACH
@BOTH
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_losses(loss: Any, dtype: Any) -> None:
    a, b = drawn((6, 5), dtype, 0.05, 0.9), drawn((6, 5), dtype, 0.05, 0.9)
    results: list[list[np.ndarray]] = []
    for d, given in ((dtype, (a, b)), ("float32", (wide(a), wide(b)))):
        x, t = gx.input("x", a.shape, d), gx.input("t", a.shape, d)
        y = loss(x, t)
        assert y.dtype == np.dtype(d)
        results.append(run([y, gx.grad(y, x)], dict(zip("xt", given, strict=True)), check=True))
    for have, want in zip(*results, strict=True):
        assert_close(have, rounded(want, dtype))
    sure = rounded([0.0, 1.0, 1.0], dtype)
    y = gx.binary_cross_entropy(gx.const(sure), gx.const(rounded([0, 1, 0], dtype)), "none")
    assert_close(run(y, {}), rounded([0, 0, 87.3365], dtype))


@EACH
@BOTH
def test_gradients(dtype: Any) -> None:
    a, b = drawn((3, 4), dtype, 0.5, 1.5), drawn((4, 2), dtype)
    x, w = gx.input("x", a.shape, dtype), gx.input("w", b.shape, dtype)
    y = gx.softmax(gx.log(x) @ w * 0.1) + gx.mean(x) - gx.pad(x[:, :1].astype("float32"), (
        (0, 0), (0, 1))).astype(dtype)  # fmt: skip
    check_grads(y, [x, w], {"x": a, "w": b})
    assert [g.dtype for g in gx.grad(y.sum(), [x, w])] == [np.dtype(dtype)] * 2
    first, second = gx.jvp([y], [x], [np.ones(a.shape)]), gx.hvp(y.sum(), [x], [np.ones(a.shape)])
    assert [n.dtype for n in (*first, *second)] == [np.dtype(dtype)] * 2
    run([*first, *second], {"x": a, "w": b}, check=True)


# -- random numbers


@EACH
@BOTH
def test_draws_are_those_of_float32(dtype: Any) -> None:
    shape, digits = (300, 300), 11 if dtype == "float16" else 8

    def draws(d: Any) -> list[Node]:
        return [
            gx.random_uniform(shape, dtype=d), gx.random_normal(shape, dtype=d),
            gx.random_uniform(shape, -3, 0.1, dtype=d), gx.random_normal(shape, 1, 0.1, d),
        ]  # fmt: skip

    have, want = gx.compile(draws(dtype), seed=5)(), gx.compile(draws("float32"), seed=5)()
    assert all(h.dtype == np.dtype(dtype) for h in have)
    uniform = wide(have[0])
    assert uniform.min() >= 0
    assert uniform.max() == 1 - 2.0**-digits  # 1 is never drawn
    same(uniform, np.floor(want[0] * 2**digits) / np.float32(2**digits))
    assert_close(have[1], rounded(want[1], dtype))
    assert_close(have[3], rounded(want[3], dtype))
    assert np.abs(wide(have[2]) - want[2]).max() < 3.1 * (2.0**-digits + 2.0**-8)


@EACH
@BOTH
def test_dropout(dtype: Any) -> None:
    a = np.ones((100, 100), dtype)
    x = gx.input("x", a.shape, dtype)
    kept = gx.compile(gx.dropout(x, 0.9), training=True, seed=1)(x=a)
    wanted = gx.compile(gx.dropout(gx.input("x", a.shape), 0.9), training=True, seed=1)(x=wide(a))
    same(kept, rounded(wanted, dtype))
    same(gx.compile(gx.dropout(x, 0.9), training=False)(x=a), a)


# -- the pass, and graphs at random


def test_other_graphs_are_not_touched() -> None:
    program = training_step()
    exe = gx.compile(program.outputs, updates=program.updates)
    graph = Graph.of(program.outputs, program.updates)
    assert widen(graph, select_rules()) == (graph, {})
    assert widen(graph, select_rules())[0] is graph
    assert "widened" not in exe.stages


@EACH
@BOTH
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int, dtype: Any) -> None:
    made = random_graph(seed, dtype)
    exe = gx.compile(made.outputs, updates=made.updates, check=True)
    arrays = {n.name: made.values[n.name] for n in exe.graph.inputs}
    exe(arrays)
    for stage in exe.stages.values():
        assert stage.text()
        assert stage.to_dot()
    for name in ("widened", "simplified"):
        graph = exe.stages[name].record if name in exe.stages else None
        for node in graph.nodes if isinstance(graph, Graph) else ():
            if node.dtype in NARROW and node.op.kind not in MOVES:
                assert node.op is gx.astype
                assert node.inputs[0].dtype in (np.dtype("float32"), np.dtype(bool))


@EACH
@BOTH
@pytest.mark.parametrize("seed", range(40, 60))
def test_random_graphs_with_every_rounding(seed: int, dtype: Any) -> None:
    """The same as node by node: the rules that remain change no 16-bit value by more than that."""
    made = random_graph(seed, dtype)
    exe = gx.compile(made.outputs, updates=made.updates, check=True, rules=UNCHANGED)
    exe({n.name: made.values[n.name] for n in exe.graph.inputs})


@BOTH
def test_in_blocks_on_threads(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_kernel, "BLOCK", 64)
    monkeypatch.setattr(numpy_text, "THREADED", 0)
    a, b = drawn((37, 5), dtype), drawn((37, 5), dtype)
    x, y = gx.input("x", a.shape, dtype), gx.input("y", b.shape, dtype)
    nodes = [
        gx.tanh(x * y) + x, gx.where(x > y, x, 0.0), gx.where(x > 0, x, y), gx.softmax(x),
        (x * y).sum(0), gx.exp(x).sum(), x.max(1), x.T + 1, gx.concatenate([x, 2 * y]),
        gx.pad(x, 1), gx.argmax(x, 1), gx.random_normal(a.shape, dtype=dtype) * x, x[::-1], x.max(),
        gx.pick(x, gx.const(np.arange(37) % 5)),
    ]  # fmt: skip
    given = {"x": a, "y": b}
    one, five = (
        gx.compile(nodes, threads=1, check=True, backend="numpy"),
        gx.compile(nodes, threads=5, backend="numpy"),
    )
    for have, want in zip(five(given), one(given), strict=True):
        same(have, want)


@BOTH
def test_it_is_said_what_was_done(dtype: Any) -> None:
    x = gx.input("x", (3,), dtype)
    exe = gx.compile(gx.exp(gx.sin(x)))
    name = np.dtype(dtype).name
    assert "drop_rounding 1" in exe.explain()
    assert f"takes    x {name}[3]" in exe.explain()
    assert f"astype(exp_0, stored) : {name}[3]" in exe.stages["widened"].text()
    assert "widened" in exe.to_dot("widened")
    assert f"{name}[3]" in gx.to_dot(exe)


# -- planted faults are found


def test_a_computation_in_16_bits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = widen_module._computed

    def narrow(node: Node, given: tuple[Node, ...]) -> Node:
        """Sums are accumulated in 16 bits."""
        return node if node.op.kind is Kind.REDUCTION else inner(node, given)

    monkeypatch.setattr(widen_module, "_computed", narrow)
    monkeypatch.setattr(backends, "ORDER", ("numpy",))  # C has no such sums
    with pytest.raises(AssertionError):
        test_sums_and_means_are_accumulated_in_float32(BFLOAT16)


@BOTH
def test_a_wrong_widening_is_found_by_check(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = widen_module._computed
    x = gx.input("x", (20,), dtype)
    monkeypatch.setattr(widen_module, "_computed", lambda n, given: inner(n, given) * 1.05)
    exe = gx.compile(gx.exp(x), check=True)
    with pytest.raises(CompileError, match=r"stage 'widened'.*differs"):
        exe(x=drawn((20,), dtype))


def test_a_rounding_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.rewrite.widen.ROUNDING", ())
    with pytest.raises(AssertionError):
        test_a_chain_is_rounded_once(BFLOAT16)
    with pytest.raises((AssertionError, KeyError)):
        test_a_training_step_is_that_of_float32_with_rounded_params(BFLOAT16)


def test_a_rounding_too_few_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        widen_module, "_cast",
        lambda node, operand: widen_module.stored(operand.astype("float32"), node.dtype)
        if node.dtype in NARROW else operand.astype(node.dtype),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        test_a_rounding_that_the_user_writes_is_kept(BFLOAT16)


@BOTH
def test_a_cast_that_cuts_is_found(dtype: Any) -> None:
    """The comparisons see one unit in the last place."""
    a = drawn((50,), "float32", 1, 2)
    cut = (a.view("uint32") >> 16 << 16).view("float32")
    with pytest.raises(AssertionError):
        same(rounded(cut, BFLOAT16), rounded(a, BFLOAT16))
    with pytest.raises(AssertionError):
        assert_close(rounded(a * np.float32(1.05), dtype), rounded(a, dtype))
