"""Every op of the table: values against NumPy and SciPy, types, derivatives of orders 1 and 2."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special as sp

import graphc as gx
from graphc.errors import DTypeError, GraphcError, InputError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir.node import Node
from graphc.ir.op import FUNCTIONS, OPS, Kind, Op
from graphc.ir.tensor_type import FLOATS
from graphc.report.op_table import op_table_markdown
from graphc.testing import TOLERANCES, check_grads

RNG = np.random.default_rng(7)


def value(node: Node) -> np.ndarray:
    return evaluate([node])[0]


def close(actual: Any, expected: Any, relative: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative / 10)


# -- elementwise ops: one reference each, in float64

REFERENCE: dict[str, Callable[..., Any]] = {
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": sp.erf,
    "erfc": sp.erfc,
    "sigmoid": sp.expit,
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
    "stop_gradient": lambda x: x,
    "by_mode": lambda x, y: x + 0 * y,
}
ELEMENTWISE = [
    op for op in OPS.values() if op.kind is Kind.ELEMENTWISE and op.name not in ("where", "astype")
]


def reference(op: Op[...]) -> Callable[..., Any]:
    return REFERENCE[op.name] if op.name in REFERENCE else getattr(np, op.name)


def arity(op: Op[...]) -> int:
    return 2 if "y" in op.__signature__.parameters else 1


def samples(op: Op[...], count: int, dtype: Any) -> list[np.ndarray]:
    """Operands in the op's domain, away from its kinks; so are their differences."""
    low, high = op.domain
    drawn = RNG.uniform(low, high, (2, 400)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        far = np.ones(drawn.shape[1], bool)
        for a in op.avoid:
            far &= (np.abs(drawn - a) > 0.02).all(axis=0) & (np.abs(drawn[0] - drawn[1]) > 0.02)
        drawn = drawn[:, far]
    return list(drawn[:, :24].reshape(2, 4, 6)[:count])


@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_elementwise_value_and_type(op: Op[...], dtype: str) -> None:
    x = samples(op, arity(op), dtype)
    if dtype.startswith("float") and op.name in ("bitwise_and", "bitwise_or", "invert"):
        with pytest.raises(DTypeError, match="takes bools or integers"):
            op(*[gx.const(a) for a in x])
        return
    node = op(*[gx.const(a) for a in x])
    got = value(node)
    assert got.dtype == node.dtype
    assert got.shape == node.shape == (4, 6)
    with np.errstate(all="ignore"):
        operand = node.inputs[0].dtype if node.inputs else node.dtype
        expected = np.asarray(reference(op)(*[a.astype(operand).astype(
            "f8" if operand.kind == "f" else operand) for a in x]))  # fmt: skip
    if node.dtype in FLOATS:
        close(got, expected, 2 * TOLERANCES[node.dtype].relative)
    else:
        assert np.array_equal(got, expected)


SPECIALS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 1e-40, 100.0, -100.0]
)


@pytest.mark.parametrize("op", ELEMENTWISE, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementwise_at_special_values(op: Op[...], dtype: str) -> None:
    if op.name.startswith("bitwise") or op.name in ("invert", "by_mode"):
        pytest.skip("takes no floats, or is resolved before it runs")
    x = SPECIALS.astype(dtype)
    operands = [x] if arity(op) == 1 else [np.repeat(x, x.size), np.tile(x, x.size)]
    got = value(op(*[gx.const(a) for a in operands]))
    with np.errstate(all="ignore"):
        exact = np.asarray(reference(op)(*[a.astype("f8") for a in operands])).astype(got.dtype)
    if op.name == "power" and dtype == "float32":  # overflows in one precision and not the other
        with np.errstate(all="ignore"):
            exact = np.power(*operands)
    tiny = np.finfo(dtype).tiny
    assert np.array_equal(np.isnan(got), np.isnan(exact)) or got.dtype == bool
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=tiny)


@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if op.vjp], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementwise_derivatives(op: Op[...], dtype: str) -> None:
    arrays = samples(op, arity(op), dtype)
    inputs = [gx.input(f"x{i}", a.shape, dtype) for i, a in enumerate(arrays)]
    check_grads(op(*inputs), inputs, dict(zip(inputs, arrays, strict=True)))
    # the rule keeps the dtype, too
    gradients = gx.grad(op(*inputs).sum(), inputs, allow_unused=True)
    assert [g.dtype for g in gradients] == [np.dtype(dtype)] * len(inputs)
    assert [g.shape for g in gradients] == [a.shape for a in arrays]


def test_kinks_and_ties() -> None:
    """The conventions: relu'(0) = 0, |x|'(0) = 0, ties share, x^0 has derivative 0."""
    x = gx.param("x", np.array([0.0, 1.0, 1.0], "f4"))

    def slope(y: Node) -> list[float]:
        return value(gx.grad(y.sum(), x)).tolist()

    assert slope(gx.relu(x)) == [0, 1, 1]
    assert slope(abs(x)) == [0, 1, 1]
    assert slope(gx.maximum(x, 1.0)) == [0, 0.5, 0.5]
    assert slope(gx.minimum(x, 1.0)) == [1, 0.5, 0.5]
    assert slope(x.max()) == [0, 0.5, 0.5]
    assert slope(x.min()) == [1, 0, 0]
    assert slope(x**0) == [0, 0, 0]
    assert slope(x**2) == [0, 2, 2]
    y = gx.param("y", np.array([2.0, 3.0], "f4"))
    by_exponent = gx.grad((np.array([0.0, 1.0], "f4") ** y).sum(), y)
    assert value(by_exponent).tolist() == [0, 0]
    assert slope(gx.elu(x)) == [1, 1, 1]
    assert slope(gx.leaky_relu(x, 0.1)) == [pytest.approx(0.1), 1, 1]


def test_power_at_zero_to_order_two() -> None:
    """Guarded at x = 0 and y = 0 only: elsewhere both orders are right at y = 0."""
    x, y = gx.input("x", (), "float64"), gx.input("y", (), "float64")
    by_x, by_y = gx.grad(x**y, [x, y])
    mixed, other = gx.grad(by_x, y), gx.grad(by_y, x)

    def at(node: Node, *point: float) -> float:
        return float(evaluate([node], dict(zip((x, y), map(np.float64, point), strict=True)))[0])

    assert at(mixed, 2, 0) == at(other, 2, 0) == 0.5
    assert [at(by_x, 0, 0), at(by_x, 0, 1), at(by_x, 0, 2), at(by_x, 2, 0)] == [0, 1, 0, 0]
    assert [at(by_y, 0, k) for k in (2, 0, -1)] == [0, 0, -math.inf]
    assert at(by_y, 2, 0) == pytest.approx(math.log(2))
    check_grads(x**y, [x, y], {x: 2.0, y: 0.0})
    compiled = gx.compile({"mixed": mixed, "by_y": by_y})
    got = compiled(x=np.array(2.0), y=np.array(0.0))
    assert float(got["mixed"]) == 0.5


def test_large_ints_beside_floats() -> None:
    x = gx.input("x", (2,), "float64")
    at = {x: np.array([1.0, -2.5])}
    for node, expected in ((x * 2**70, at[x] * 2.0**70), (-(2**64) + x, at[x] - 2.0**64),
                           (x < 2**70, [True, True])):  # fmt: skip
        assert np.array_equal(evaluate([node], at)[0], expected)


def test_where_and_astype() -> None:
    c, x, y = np.array([True, False, True]), RNG.normal(size=3), RNG.normal(size=3)
    assert np.array_equal(value(gx.where(gx.const(c), x, y)), np.where(c, x, y))
    assert np.array_equal(value(gx.where(gx.const([0.0, 2.0, np.nan]), 1, 2)), [2, 1, 1])
    a, b = gx.input("a", (3,), "float64"), gx.input("b", (3,), "float64")
    check_grads(gx.where(gx.const(c), a * b, a), [a, b], {"a": x, "b": y})
    for source in (np.array([0.0, -1.7, 2.5]), np.array([0, -1, 2]), np.array([True, False, True])):
        for target in ("bool", "int32", "int64", "float32", "float64"):
            got = value(gx.const(source).astype(target))
            assert got.dtype == target
            assert np.array_equal(got, source.astype(target))
    check_grads((a * a).astype("float32").astype("float64"), a, {"a": x})


# -- composites: a reference and a sample of inputs each

X = np.concatenate([np.linspace(-5, 7, 20), [0.013, -0.017]])
P = np.linspace(0.05, 0.95, 22)
T = np.resize([0.0, 1.0, 0.3], 22)


def _huber(x: Any, t: Any) -> Any:
    return np.where(abs(x - t) <= 1, (x - t) ** 2 / 2, abs(x - t) - 0.5).mean()


COMPOSITES: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "log_sigmoid": (sp.log_expit, [X]),
    "silu": (lambda x: x * sp.expit(x), [X]),
    "gelu": (lambda x: x * sp.ndtr(x), [X]),
    "mish": (lambda x: x * np.tanh(np.logaddexp(x, 0)), [X]),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), [X]),
    "selu": (lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
             [X]),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), [X]),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), [X]),
    "softsign": (lambda x: x / (1 + abs(x)), [X]),
    "softmax": (lambda x: sp.softmax(x, -1), [X.reshape(2, 11)]),
    "log_softmax": (lambda x: sp.log_softmax(x, -1), [X.reshape(2, 11)]),
    "logsumexp": (lambda x: sp.logsumexp(x, -1), [X.reshape(2, 11)]),
    "mean": (np.mean, [X]),
    "var": (np.var, [X]),
    "std": (np.std, [X]),
    "mse": (lambda x, t: ((x - t) ** 2).mean(), [X, T]),
    "mae": (lambda x, t: abs(x - t).mean(), [X, T]),
    "huber": (_huber, [X, T + 0.01]),
    "sigmoid_cross_entropy": (
        lambda z, t: -(t * sp.log_expit(z) + (1 - t) * sp.log_expit(-z)).mean(), [X, T]),
    "binary_cross_entropy": (
        lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(), [P, T]),
    "l1": (lambda x: abs(x).sum(), [X]),
    "l2": (lambda x: (x**2).sum() / 2, [X]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites(name: str) -> None:
    expected, arrays = COMPOSITES[name]
    for dtype in ("float32", "float64"):
        inputs = [gx.input(f"x{i}", a.shape, dtype) for i, a in enumerate(arrays)]
        node = FUNCTIONS[name](*inputs)
        given = [a.astype(dtype) for a in arrays]
        got = evaluate([node], dict(zip(inputs, given, strict=True)))[0]
        assert got.dtype == node.dtype == dtype
        relative = 10 * TOLERANCES[got.dtype].relative
        np.testing.assert_allclose(got, expected(*[a.astype("f8") for a in given]), rtol=relative)
    smooth = [np.where(abs(abs(a) - 3) < 0.05, a + 0.1, a) for a in arrays]  # hard_sigmoid's kinks
    check_grads(node, inputs, dict(zip(inputs, smooth, strict=True)))


def test_stable_far_out() -> None:
    """No overflow, no cancellation: the values of the definitions in exact arithmetic."""
    x = np.array([-80.0, -20.0, 20.0, 80.0], "f4")
    exact = x.astype("f8")
    for node, expected in (
        (gx.softplus(x), np.logaddexp(exact, 0)),
        (gx.log_sigmoid(x), sp.log_expit(exact)),
        (gx.gelu(gx.const(x / 8)), exact / 8 * sp.ndtr(exact / 8)),
        (gx.mish(gx.const(x)), exact * np.tanh(np.logaddexp(exact, 0))),
        (gx.sigmoid_cross_entropy(x, np.array([0, 1, 1, 0], "f4"), "none"),
         np.logaddexp(0, [-80.0, 20, -20, 80])),
    ):  # fmt: skip
        np.testing.assert_allclose(value(node), expected, rtol=1e-5)
    big = gx.param("big", np.array([1e4, -1e4, 0.0], "f4"))
    for f in (gx.softplus, gx.elu, gx.selu, gx.silu, gx.gelu, gx.mish, gx.log_sigmoid, gx.sigmoid,
              gx.softmax, gx.log_softmax, gx.logsumexp, gx.softsign):  # fmt: skip
        g = gx.grad(f(big).sum(), big)
        assert np.isfinite(value(g)).all(), f


def test_softmax_of_infinities_as_scipy() -> None:
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1.0], [np.inf, 1.0]])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(value(gx.logsumexp(x)), sp.logsumexp(x, -1).astype("f4"))
        np.testing.assert_array_equal(value(gx.softmax(x[:2])), sp.softmax(x[:2], -1).astype("f4"))
    p = gx.param("p", x[1:2].astype("f4"))
    assert value(gx.grad(gx.logsumexp(p).sum(), p)).tolist() == [[0.0, 1.0]]


def test_softmax_cross_entropy() -> None:
    z = RNG.normal(size=(5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    rows = -sp.log_softmax(z, -1)[np.arange(5), labels]
    x = gx.input("z", (5, 4), "float64")
    at = {x: z}
    one_hot = gx.one_hot(labels, 4, "float64")
    for reduction, expected in (("none", rows), ("sum", rows.sum()), ("mean", rows.mean())):
        for target in (labels, gx.const(labels), one_hot, np.eye(4)[labels]):
            loss = gx.softmax_cross_entropy(x, target, reduction)
            np.testing.assert_allclose(evaluate([loss], at)[0], expected, rtol=1e-12)
            check_grads(loss, x, at)
    with pytest.raises(InputError, match="need 'mean', 'sum' or 'none'"):
        gx.mse(x, x, "avg")


def test_binary_cross_entropy_at_0_and_1() -> None:
    p = gx.param("p", np.array([0.0, 1.0, 0.0, 1.0], "f4"))
    loss = gx.binary_cross_entropy(p, np.array([0.0, 1.0, 1.0, 0.0], "f4"), "none")
    np.testing.assert_allclose(value(loss), [0, 0, 87.33655, 87.33655], rtol=1e-6)
    assert np.isfinite(value(gx.grad(loss.sum(), p))).all()


# -- reductions

REDUCTIONS = [op for op in OPS.values() if op.kind is Kind.REDUCTION]


@pytest.mark.parametrize("op", REDUCTIONS, ids=repr)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(op: Op[...], axis: Any, keepdims: bool) -> None:
    if not op.combine and isinstance(axis, tuple):
        pytest.skip("gives a position along one axis")
    for dtype in ("float32", "float64", "int32", "bool"):
        x = RNG.permutation(np.linspace(-1.4, 1.5, 24)).reshape(2, 3, 4)
        x = (x * 3).astype(dtype) if dtype != "float64" else x
        node = op(gx.const(x), axis, keepdims)
        got = value(node)
        expected = getattr(np, op.name)(x.astype("f8"), axis=axis, keepdims=keepdims)
        assert got.dtype == node.dtype
        assert got.shape == node.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    if op.vjp:
        a = gx.input("a", (2, 3, 4), "float64")
        x = RNG.permutation(np.linspace(-1.4, 1.5, 24)).reshape(2, 3, 4)
        check_grads(op(a, axis, keepdims), a, {"a": x})


def test_reduction_types_and_empty() -> None:
    flags = gx.const([True, False, True])
    assert (flags.sum().dtype, int(value(flags.sum()))) == ("int32", 2)
    assert gx.mean(gx.const([1, 2])).dtype == "float32"
    assert float(value(gx.mean(gx.const([2**30, 2**30])))) == 2.0**30
    assert gx.argmax(gx.const([1.0, 3.0, 3.0])).dtype == "int64"
    assert int(value(gx.argmax(gx.const([1.0, 3.0, 3.0])))) == 1
    empty = gx.const(np.zeros((0, 3), "f4"))
    assert value(empty.sum(0)).tolist() == [0, 0, 0]
    assert value(gx.prod(empty, 0)).tolist() == [1, 1, 1]
    assert value(gx.all(empty))
    assert not value(gx.any(empty))
    assert np.isnan(value(gx.mean(empty)))
    assert value(empty.max(1)).shape == (0,)
    for f in (gx.max, gx.min, gx.argmax, gx.argmin):
        with pytest.raises(ShapeError, match="no elements along axes"):
            f(empty, 0)
    assert np.isnan(value(gx.max(gx.const([1.0, math.nan]))))


def test_product_gradient_at_zeros_to_order_two() -> None:
    a = gx.input("a", (3, 4), "float64")
    x = RNG.uniform(0.5, 1.5, (3, 4))
    x[0, 1] = x[1, 0] = x[1, 3] = 0
    check_grads(gx.prod(a, 1), a, {"a": x})
    check_grads(gx.prod(a, 0), a, {"a": x})
    check_grads(gx.prod(a[:2, :2]), a, {"a": x})


# -- products

EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("i,i->i", (3,), (3,)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("ij,kj->ki", (2, 3), (4, 3)),
    ("i,j->ij", (2,), (3,)), ("i,i->", (3,), (3,)),
    ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("iji->j", (2, 3, 2)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("...ij,...jk->...ik", (2, 3, 4), (4, 5)),
    ("...i->...", (2, 3)), ("ab,cd->dbca", (2, 3), (4, 5)), ("ijk,j->k", (2, 3, 4), (3,)),
    ("ij,jk->k", (2, 3), (3, 4)), ("ij,ij->", (2, 3), (1, 3)), ("abc,cd->abd", (0, 2, 3), (3, 4)),
    ("i,->i", (3,), ()),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUMS, ids=lambda c: c[0])
def test_einsum(case: tuple[Any, ...]) -> None:
    subscripts, *shapes = case
    arrays = [RNG.normal(size=s) for s in shapes]
    inputs = [gx.input(f"x{i}", s, "float64") for i, s in enumerate(shapes)]
    at = dict(zip(inputs, arrays, strict=True))
    node = gx.einsum(subscripts, *inputs)
    expected = np.einsum(subscripts, *arrays)
    assert node.shape == expected.shape
    np.testing.assert_allclose(evaluate([node], at)[0], expected, rtol=1e-12, atol=1e-12)
    check_grads(node, inputs, at)


PRODUCTS: list[tuple[str, Callable[[Any, Any, Any], Any], tuple[int, ...], tuple[int, ...]]] = [
    ("matmul 1-1", lambda m, a, b: m.matmul(a, b), (3,), (3,)),
    ("matmul 1-2", lambda m, a, b: m.matmul(a, b), (3,), (3, 4)),
    ("matmul 2-1", lambda m, a, b: m.matmul(a, b), (2, 3), (3,)),
    ("matmul 3-1", lambda m, a, b: m.matmul(a, b), (2, 4, 3), (3,)),
    ("matmul 1-3", lambda m, a, b: m.matmul(a, b), (3,), (2, 3, 4)),
    ("matmul 3-2", lambda m, a, b: m.matmul(a, b), (5, 2, 3), (3, 4)),
    ("matmul 2-3", lambda m, a, b: m.matmul(a, b), (2, 3), (5, 3, 4)),
    ("matmul 4-3", lambda m, a, b: m.matmul(a, b), (5, 1, 2, 3), (6, 3, 4)),
    ("matmul T", lambda m, a, b: m.matmul(a.T, b.T), (3, 2), (4, 3)),
    ("matmul 0", lambda m, a, b: m.matmul(a, b), (2, 0), (0, 3)),
    ("dot 0", lambda m, a, b: m.dot(a, b), (), (3,)),
    ("dot 2-2", lambda m, a, b: m.dot(a, b), (2, 3), (3, 4)),
    ("dot 3-1", lambda m, a, b: m.dot(a, b), (2, 4, 3), (3,)),
    ("dot 3-3", lambda m, a, b: m.dot(a, b), (2, 4, 3), (5, 3, 2)),
    ("outer", lambda m, a, b: m.outer(a, b), (2, 3), (4,)),
    ("tensordot 2", lambda m, a, b: m.tensordot(a, b), (2, 3, 4), (3, 4, 5)),
    ("tensordot 0", lambda m, a, b: m.tensordot(a, b, 0), (2, 3), (4,)),
    ("tensordot 1", lambda m, a, b: m.tensordot(a, b, axes=1), (2, 3), (3, 4)),
    ("tensordot pairs", lambda m, a, b: m.tensordot(a, b, ((0, 2), (1, 0))), (2, 3, 4), (4, 2, 5)),
    ("tensordot np.int64", lambda m, a, b: m.tensordot(a, b, axes=np.int64(1)), (2, 3), (3, 4)),
    ("tensordot np pair", lambda m, a, b: m.tensordot(a, b, np.array([0, 1])), (2, 3), (4, 2)),
    ("tensordot ints", lambda m, a, b: m.tensordot(a, b, (0, -1)), (2, 3), (4, 2)),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda c: c[0])
def test_products(case: Any) -> None:
    _, f, *shapes = case
    arrays = [RNG.normal(size=s) for s in shapes]
    inputs = [gx.input(f"x{i}", s, "float64") for i, s in enumerate(shapes)]
    at = dict(zip(inputs, arrays, strict=True))
    node, expected = f(gx, *inputs), f(np, *arrays)
    assert node.shape == expected.shape
    np.testing.assert_allclose(evaluate([node], at)[0], expected, rtol=1e-12, atol=1e-12)
    check_grads(node, inputs, at)


# -- views and joins: the same expression over NumPy and over nodes

VIEWS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("reshape", lambda m, x: m.reshape(x, (4, 6))), ("reshape -1", lambda _, x: x.reshape(3, -1)),
    ("reshape flat", lambda _, x: x.reshape(-1)), ("transpose", lambda m, x: m.transpose(x)),
    ("transpose axes", lambda m, x: m.transpose(x, (1, -1, 0))), (".T", lambda _, x: x.T),
    ("method transpose", lambda _, x: x.transpose(2, 0, 1)),
    ("swapaxes", lambda m, x: m.swapaxes(x, 0, -1)), ("flip", lambda m, x: m.flip(x)),
    ("flip axis", lambda m, x: m.flip(x, axis=1)), ("flip axes", lambda m, x: m.flip(x, (0, 2))),
    ("expand_dims", lambda m, x: m.expand_dims(x, 1)),
    ("expand_dims many", lambda m, x: m.expand_dims(x, (0, -1))),
    ("squeeze", lambda m, x: m.squeeze(x[:1, :, None])),
    ("squeeze axis", lambda m, x: m.squeeze(x[:1], 0)),
    ("broadcast_to", lambda m, x: m.broadcast_to(x[:, :1], (5, 2, 3, 4))),
    ("concatenate", lambda m, x: m.concatenate([x, x[:, ::-1], x[:1]])),
    ("concatenate axis", lambda m, x: m.concatenate([x, x[..., :2]], axis=-1)),
    ("stack", lambda m, x: m.stack([x, x[::-1]])), ("stack axis", lambda m, x: m.stack([x, x], -1)),
    ("pad", lambda m, x: m.pad(x, 2)), ("pad pair", lambda m, x: m.pad(x, (1, 0))),
    ("pad pairs", lambda m, x: m.pad(x, ((0, 1), (2, 0), (1, 1)), constant_values=3)),
    ("int", lambda _, x: x[1]), ("negative", lambda _, x: x[-1, 0]),
    ("all ints", lambda _, x: x[1, 2, 3]),
    ("slice", lambda _, x: x[:, 1:]), ("step", lambda _, x: x[::2, :, ::3]),
    ("reverse", lambda _, x: x[::-1, :, ::-2]), ("ellipsis", lambda _, x: x[..., 1:3]),
    ("none", lambda _, x: x[None, :, None]), ("mixed", lambda _, x: x[None, 1, ..., ::-1, None]),
    ("empty", lambda _, x: x[5:, 2:1]), ("out of range", lambda _, x: x[-9:9]),
]  # fmt: skip


@pytest.mark.parametrize("case", VIEWS, ids=lambda c: c[0])
def test_views(case: Any) -> None:
    _, f = case
    x = RNG.normal(size=(2, 3, 4))
    a = gx.input("a", x.shape, "float64")
    node, expected = f(gx, a), f(np, x)
    assert node.shape == expected.shape
    assert np.array_equal(evaluate([node], {a: x})[0], expected)
    if expected.size:
        check_grads(node * node, a, {a: x})


@pytest.mark.parametrize("fill", [0.0, -0.0, 0, 1, 2.5, 1e-7, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_pad_fills_to_the_bit(fill: float, dtype: str) -> None:
    """Compiled and evaluated; 0.0 and -0.0 are two values and so make two nodes."""
    if dtype in ("int32", "bool") and not isinstance(fill, int):
        fill = 1
    a = gx.input("a", (2, 3), dtype)
    x = RNG.normal(size=(2, 3)).astype(dtype)
    node = gx.pad(a, 1, constant_values=fill)
    expected = np.pad(x, 1, constant_values=np.array(fill, dtype))
    assert node.op.fill is not None
    assert isinstance(node.op.fill(**dict(node.attrs)), bool | int | float)
    for got in (evaluate([node], {a: x})[0], gx.compile(node)(a=x)):
        assert got.dtype == dtype
        assert got.tobytes() == expected.tobytes()


def test_attributes_are_exact() -> None:
    x = gx.input("x", (3,))
    plus, minus = (gx.pad(x, 1, constant_values=zero) for zero in (0.0, -0.0))
    assert plus is not minus
    assert gx.pad(x, 1, constant_values=0) is plus
    twice = gx.compile(gx.pad(minus, 1))(x=np.ones(3, "f4"))
    assert np.signbit(twice).tolist() == [False, True, False, False, False, True, False]


def test_pick_one_hot_iota_arange() -> None:
    x, labels = RNG.normal(size=(3, 5)), np.array([4, 0, 2])
    a = gx.input("a", (3, 5), "float64")
    node = gx.pick(a, labels)
    assert np.array_equal(evaluate([node], {a: x})[0], x[np.arange(3), labels])
    check_grads(node * node, a, {a: x})
    outside = value(gx.pick(x.astype("f4"), np.array([-1, 5, 0])))
    assert np.isnan(outside).tolist() == [True, True, False]
    assert value(gx.one_hot([1, 3, -1], 3)).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert value(gx.iota((2, 3), 0)).tolist() == [[0, 0, 0], [1, 1, 1]]
    for arguments in ((5,), (2, 5), (5, 0, -2), (0.0, 1.0, 0.25)):
        got = value(gx.arange(*arguments))
        np.testing.assert_allclose(got, np.arange(*arguments))
        assert got.dtype == ("float32" if len(arguments) > 2 and arguments[0] == 0 else "int64")
    n = gx.input("s", ("n",)).shape[0]
    assert gx.arange(1, n).shape == (n - 1,)


# -- what is wrong is refused on the user's line

A, B = gx.input("left", (64, 128)), gx.input("w", (64, 32))
I3, F64 = gx.const([1, 2, 3]), gx.const(np.zeros(3))
ERRORS: list[tuple[Callable[[], Any], type[GraphcError], str]] = [
    (lambda: A @ B, ShapeError, r"^matmul: inner sizes differ: left float32\[64, 128\] @ w float32"
     r"\[64, 32\]; need x.shape\[-1\] == w.shape\[-2\]; try left.T; left made at test_ops.py:\d+; "
     r"w made at test_ops.py:\d+; at test_ops.py:\d+$"),
    (lambda: gx.const(1.0) @ A, ShapeError, "at least one dimension"),
    (lambda: A + B, ShapeError, "add: shapes do not broadcast: 128 against 32 on axis -1"),
    (lambda: A.sum(2), ShapeError, "sum: axis 2 is out of range for 2 dimensions"),
    (lambda: A.sum((0, -2)), ShapeError, "names one axis twice"),
    (lambda: A.sum(1.5), ShapeError, "axis 1.5 is not an int"),  # type: ignore[arg-type]
    (lambda: gx.argmax(A, "x"), ShapeError, "is not an int"),
    (lambda: A.reshape(3, -1), ShapeError, "8192 elements do not fit"),
    (lambda: A.reshape(-1, -1), ShapeError, "two sizes -1"),
    (lambda: A.reshape(-2, 64), ShapeError, "negative"),
    (lambda: A.transpose(0, 0), ShapeError, "twice"),
    (lambda: A.transpose((0,)), ShapeError, "each axis once"),
    (lambda: A[64], ShapeError, "index 64 is out of range for 64"),
    (lambda: A[0, 0, 0], ShapeError, "too many parts"),
    (lambda: A[..., ...], ShapeError, "too many parts"),
    (lambda: A[[0, 1]], ShapeError, "takes ints, slices, None"),
    (lambda: A[1.5], ShapeError, "takes ints, slices, None"),
    (lambda: A[::0], ShapeError, "zero"),
    (lambda: A[A > 0], ShapeError, "gx.where or gx.pick"),
    (lambda: gx.broadcast_to(A, (3, 64, 64)), ShapeError, "broadcast"),
    (lambda: gx.squeeze(A, 0), ShapeError, "size 1"),
    (lambda: gx.concatenate([A, B]), ShapeError, "shapes must agree but for axis 0"),
    (lambda: gx.concatenate([]), ShapeError, "at least one"),
    (lambda: gx.concatenate(A), ShapeError, "a list of arrays"),
    (lambda: gx.stack([A, B]), ShapeError, "the shapes differ"),
    (lambda: gx.pad(A, -1), ShapeError, "0 or more"),
    (lambda: gx.pad(A, 1, "reflect"), InputError, "only 'constant'"),
    (lambda: gx.pad(I3, 1, constant_values=2**40), DTypeError, "does not fit int32"),
    (lambda: gx.einsum("ij,jk", A, B), ShapeError, "sizes of 'j' differ: 128 and 64"),
    (lambda: gx.einsum("ij", A, B), ShapeError, "has 1 terms; need 2"),
    (lambda: gx.einsum("ijk->i", A), ShapeError, "one letter for each axis"),
    (lambda: gx.einsum("ij->iz", A), ShapeError, "result"),
    (lambda: gx.tensordot(A, B, 1), ShapeError, "sizes of paired axes differ"),
    (lambda: gx.tensordot(A, B, 3), ShapeError, "more than there are"),
    (lambda: gx.tensordot(A, B, (1, 2, 3)), ShapeError, "need an int, or a pair"),
    (lambda: gx.tensordot(A, B, 1.5), ShapeError, "need an int, or a pair"),
    (lambda: gx.transpose(A, 1), ShapeError, r"axes \(1,\) must name each axis once"),
    (lambda: I3 * 2**70, DTypeError, "object"),
    (lambda: gx.input("n", ("n",))[::2], ShapeError, "takes whole axes, reversed ones and plain"),
    (lambda: gx.pick(A, A), DTypeError, "need integers"),
    (lambda: gx.pick(A, I3), ShapeError, "one label per row"),
    (lambda: gx.one_hot([0.5], 3), DTypeError, "need integers"),
    (lambda: gx.mse(A, B), ShapeError, "hide a mistake"),
    (lambda: gx.softmax_cross_entropy(A, I3), ShapeError, "logits"),
    (lambda: gx.softmax_cross_entropy(A, F64), DTypeError, "do not mix"),
    (lambda: gx.softmax_cross_entropy(A, B), ShapeError, "rows? of probabilities"),
    (lambda: A + F64, DTypeError, r"float32 and float64 do not mix; cast one with .astype"),
    (lambda: A & 1, DTypeError, "compare first"),
    (lambda: ~A, DTypeError, "compare first"),
    (lambda: I3 + 2**40, DTypeError, "1099511627776 does not fit int32"),
    (lambda: I3**-1, DTypeError, "try x.astype"),
    (lambda: gx.const(2**63), DTypeError, "does not fit"),
    (lambda: gx.const(2**70), DTypeError, "object"),
    (lambda: gx.const(1.5, "int32").dtype and gx.const(math.nan, "int32"), DTypeError, "fit"),
    (lambda: A + 1j, DTypeError, "complex128; need real numbers"),
    (lambda: gx.const("text"), DTypeError, "need real numbers"),
    (lambda: gx.const([[1, 2], [3]]), DTypeError, "not an array"),
    (lambda: gx.const([None]), DTypeError, "need real numbers"),
    (lambda: gx.const(A), DTypeError, "the value is a node"),
    (lambda: gx.const([A, A]), DTypeError, "."),
    (lambda: gx.const(np.zeros(3, "u1")), DTypeError, "uint8 is not supported"),
    (lambda: gx.input("x", (3,), "uint8"), DTypeError, "uint8 is not supported; use one of"),
    (lambda: gx.input("x", (3,), "float8"), DTypeError, "float8 is not supported"),
    (lambda: gx.input("x", (-3,)), ShapeError, "negative"),
    (lambda: gx.input("x", (2.5,)), ShapeError, "size 2.5"),
    (lambda: gx.input("x", ("a b",)), ShapeError, "identifier"),
    (lambda: gx.input("", (3,)), InputError, "name"),
    (lambda: gx.dropout(A, 0), InputError, "0 < keep <= 1"),
    (lambda: gx.dropout(A, 0.5, form="odd"), InputError, "'inverted' or 'classic'"),
    (lambda: gx.bernoulli((3,), 1.5), InputError, "0 <= p <= 1"),
    (lambda: gx.random_normal((3,), dtype="int32"), DTypeError, "draws floats"),
    (lambda: gx.arange(0, 3, 0), ShapeError, "step is 0"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors(number: int) -> None:
    wrong, error, message = ERRORS[number]
    with pytest.raises(error, match=message) as raised:
        wrong()
    assert re.search(r"at test_ops\.py:\d+$", str(raised.value)), raised.value


# -- the table itself


def test_records_are_complete() -> None:
    for op in OPS.values():
        assert op.formula
        assert op.build.__doc__, op
        if op.kind is Kind.ELEMENTWISE:
            assert op.c, op
        if op.kind is Kind.REDUCTION and op.combine:
            assert isinstance(getattr(np, op.combine), np.ufunc)
        if op.kind is Kind.VIEW:
            assert op.view is not None, op
    for name in (*COMPOSITES, *REFERENCE):
        assert name in FUNCTIONS


def test_commutative_ops_commute() -> None:
    for op in ELEMENTWISE:
        if op.commutative:
            x, y = samples(op, 2, "int32")
            assert np.array_equal(value(op(x, y)), value(op(y, x)))


def test_op_table_page_is_current(root: Any) -> None:
    assert (root / "docs" / "ops.md").read_text() == op_table_markdown()
