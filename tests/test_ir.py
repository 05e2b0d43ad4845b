"""Nodes, dimensions, promotion, interning, provenance, NumPy's protocol, binding of graphs."""

import gc
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc as gx
from graphc.errors import CompileError, DTypeError, GraphcError, InputError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir.dim import Dim, floor_divide, product
from graphc.ir.graph import Graph, bind, topological
from graphc.ir.layout import contiguous, reshape_layout
from graphc.ir.node import Node
from graphc.ir.op import OPS, Kind, Op, register

# -- symbolic dimensions: the algebra commutes with binding

SIZES = {"a": 3, "b": 5, "c": 2}
ATOMS = st.one_of(st.integers(-4, 6), st.sampled_from([Dim.symbol(s) for s in SIZES]))
OPERATIONS: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y,
    lambda x, y: floor_divide(x, y) if bound(y) > 0 else x,
]  # fmt: skip


def bound(extent: int | Dim) -> int:
    result = extent.bind(SIZES) if isinstance(extent, Dim) else extent
    assert isinstance(result, int)
    return result


@given(st.lists(st.tuples(ATOMS, st.integers(0, 3)), min_size=1, max_size=6))
def test_dim_algebra(terms: list[tuple[Any, int]]) -> None:
    symbolic, number = 1, 1
    for atom, operation in terms:
        f = OPERATIONS[operation]
        symbolic, number = f(symbolic, atom), f(number, bound(atom))
    assert bound(symbolic) == number


@given(ATOMS, ATOMS, ATOMS)
def test_dim_laws(x: Any, y: Any, z: Any) -> None:
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) + z == x + (y + z)
    assert (x * y) * z == x * (y * z)
    assert x * (y + z) == x * y + x * z
    assert x - x == 0
    assert isinstance(x, int) or floor_divide(x * 3, x) == 3


def test_dim_text_and_errors() -> None:
    n, m = Dim.symbol("n"), Dim.symbol("m")
    assert str(2 * n * m + n - 3) == "2*m*n + n - 3"
    assert str((n + 1) // 2) == "(n + 1)//(2)"
    assert (6 * n) // (2 * n) == 3
    assert product((n, 2, m)) == 2 * n * m
    assert n != 1
    assert {n, Dim.symbol("n")} == {n}
    for wrong in (lambda: bool(n), lambda: int(n), lambda: range(n)):  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match="is symbolic"):
            wrong()


# -- promotion

PY: dict[str, Any] = {
    "bool": True, "int": 2, "float": 2.5, "np.int64": np.int64(2), "np.float64": np.float64(2.5),
    "np.float32": np.float32(2.5), "array i8": np.array([2]), "array f8": np.array([2.5]),
}  # fmt: skip
WEAK = {  # node dtype: result with each of the above
    "bool": "int32 int32 float32 int32 float32 float32 int32 float32",
    "int32": "int32 int32 float32 int32 float32 float32 int32 float32",
    "int64": "int64 int64 float32 int64 float32 float32 int64 float32",
    "float32": " ".join(["float32"] * 8),
    "float64": " ".join(["float64"] * 8),
}
STRONG = {  # (left, right): result of left + right
    ("bool", "bool"): "int32", ("bool", "int64"): "int64", ("int32", "int64"): "int64",
    ("int32", "float32"): "float32", ("int64", "float64"): "float64",
    ("bool", "float32"): "float32", ("float64", "float64"): "float64",
}  # fmt: skip


def test_promotion_of_weak_operands() -> None:
    for dtype, results in WEAK.items():
        node = gx.input("x", (1,), dtype)
        for (kind, operand), result in zip(PY.items(), results.split(), strict=True):
            assert (node + operand).dtype == result, (dtype, kind)
            assert (operand + node).dtype == result, (dtype, kind)
            assert gx.where(True, node, operand).dtype == (
                result if (dtype, kind) != ("bool", "bool") else "bool"
            )


def test_promotion_of_nodes() -> None:
    for (left, right), result in STRONG.items():
        a, b = gx.input("a", (2,), left), gx.input("b", (2,), right)
        assert (a + b).dtype == (b + a).dtype == result
        assert (a < b).dtype == "bool"
    a, b = gx.input("a", (2,), "float32"), gx.input("b", (2,), "float64")
    with pytest.raises(DTypeError, match=r"float32 and float64 do not mix; cast one with \.astype"):
        a * b
    i = gx.input("i", (2,), "int32")
    assert (i / i).dtype == gx.exp(i).dtype == gx.mean(i).dtype == "float32"
    assert (i > 0).sum().dtype == abs(i > 0).dtype == "int32"
    assert (i / i.shape[0]).dtype == "float32"


def test_constants_keep_or_choose_a_dtype() -> None:
    for value, dtype in (
        (1, "int32"), (1.0, "float32"), (True, "bool"), ([1, 2.5], "float32"), (2**40, "int64"),
        (np.float64(1), "float64"), (np.arange(2), "int64"), ([], "float32"),
        (np.arange(2, dtype=">f8"), "float64"),
    ):  # fmt: skip
        assert gx.const(value).dtype == dtype, value
    array = np.ones(2)
    node = gx.const(array)
    array[0] = 5
    assert evaluate([node])[0].tolist() == [1, 1]
    assert gx.const([1, 2], "float64").dtype == "float64"


# -- interning and provenance


def test_equal_nodes_are_one() -> None:
    x = gx.input("x", (3,))
    assert gx.exp(x) + 1 is gx.exp(x) + 1
    assert x * 2 is not x * 3
    assert gx.input("x", (3,)) is not x
    assert gx.const(0.0) is not gx.const(-0.0)
    assert gx.const(1) is not gx.const(True)
    assert gx.const([1.0]) is not gx.const(1.0)
    assert gx.random_uniform((3,)) is not gx.random_uniform((3,))
    assert x.reshape(3) is x
    assert x.transpose() is x
    assert x.astype("float32") is x
    assert x[:] is x


def test_nodes_are_not_kept_alive() -> None:
    x = gx.input("x", (3,))
    before = x * 2 is x * 2 and len(gc.get_referrers(x))
    for i in range(50):
        gx.exp(x * float(i))
    gc.collect()
    assert len(gc.get_referrers(x)) <= before + 2


def test_provenance() -> None:
    here = inspect.currentframe()
    assert here is not None
    x = gx.input("x", (3,))
    y = gx.gelu(x)  # made by graphc's own lines, credited to this one
    assert (y.sites[0].line, y.sites[0].file) == (here.f_lineno - 1, __file__)
    made = [n for n in topological([y]) if n.inputs]  # constants may be shared with other tests
    assert all(n.sites[0].file == __file__ for n in made)
    g = gx.grad(y.sum(), x)
    assert g.backward
    assert not y.backward
    for _ in range(5):
        z = gx.exp(x)
    w = gx.exp(x)
    assert z is w
    assert len(w.sites) == 2


def test_errors_name_the_line_that_made_the_operands() -> None:
    here = inspect.currentframe()
    assert here is not None
    x, declared = gx.input("images", ("batch", 64)), here.f_lineno
    with pytest.raises(ShapeError) as raised:
        x + gx.const([1.0, 2.0])
    message = str(raised.value)
    assert message.startswith("add: shapes do not broadcast: 64 against 2 on axis -1")
    assert "images float32[batch, 64]" in message
    assert f"images made at test_ir.py:{declared}; at test_ir.py:{declared + 2}" in message


def test_python_protocol() -> None:
    x = gx.input("x", (3,))
    assert isinstance(x == x, Node)
    for wrong, words in (
        (lambda: bool(x > 0), "gx.where"), (lambda: x in [gx.exp(x)], "any"),
        (lambda: list(x), "gx.stack"), (lambda: len(x), "shape"), (lambda: float(x), ""),
        (lambda: np.asarray(x), "compile it"), (lambda: np.sort(x), "no graph form"),
        (lambda: np.add.reduce(x), "np.add.reduce"), (lambda: np.exp(x, where=True), "where"),
        (lambda: np.gcd(x, x), "np.gcd"), (lambda: np.size(x), "np.size has no graph form"),
        (lambda: np.place(x, x > 0, 1), "np.place has no graph form"),
        (lambda: np.sum(x, dtype="f8"), r"takes no dtype: use gx.sum\(x, axis, keepdims\)"),
        (lambda: np.sum(x, 0, "f8"), "takes no dtype"), (lambda: np.argmax(x, 0, None), "no out"),
        (lambda: np.mean(x, where=True), "takes no where"), (lambda: np.where(x), "missing a req"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=words or None):
            wrong()
    assert repr(gx.exp(x)) == "<exp(x) float32[3]>"
    assert "formula" in (OPS["exp"].__doc__ or "").lower()
    assert list(inspect.signature(gx.sum).parameters) == ["x", "axis", "keepdims"]
    for function, call in (
        (gx.sum, "sum(x, axis=None, keepdims=False)"), (gx.exp, "exp(x, /)"),
        (gx.input, "input(name, shape, dtype='float32')"),
    ):  # fmt: skip
        assert call in pydoc.render_doc(function, renderer=pydoc.plaintext)


def test_numpy_functions_build_nodes() -> None:
    x = gx.input("x", (2, 3))
    a = np.ones((4, 2), "f4")
    for node, expected in (
        (np.exp(x), gx.exp(x)), (np.add(x, 1), x + 1), (np.sum(x, axis=0), x.sum(0)),
        (np.maximum(x, 0), gx.maximum(x, 0)), (np.absolute(x), abs(x)), (a @ x, gx.matmul(a, x)),
        (np.float32(2) * x, 2 * x), (np.where(x > 0, x, 0), gx.where(x > 0, x, 0)),
        (np.concatenate([x, x]), gx.concatenate([x, x])), (np.mean(x), gx.mean(x)),
        (np.transpose(x), x.T), (np.clip(x, 0, 1), gx.clip(x, 0, 1)), (np.einsum("ij->ji", x), x.T),
        (np.stack([x, x]), gx.stack([x, x])), (np.ones(3, "f4") > x, gx.greater(np.ones(3), x)),
        (np.matmul(a, x), a @ x), (np.logical_not(x > 0), ~(x > 0)),
        (np.logical_not(x), gx.equal(x, 0)), (np.logical_not(gx.iota((3,))), gx.iota((3,)) == 0),
        (np.sum(x, 0, keepdims=True), x.sum(0, True)), (np.var(x, 0, ddof=1), gx.var(x, 0, ddof=1)),
        (np.pad(x, 1, constant_values=2), gx.pad(x, 1, constant_values=2)),
        (np.true_divide(x, 2), x / 2),
    ):  # fmt: skip
        assert node is expected


# -- graphs and binding


def test_names_must_be_unique() -> None:
    a, b = gx.input("x", (3,)), gx.input("x", (3,))
    with pytest.raises(CompileError, match=r"two nodes are named 'x'.*rename one"):
        Graph.of({"y": a + b})
    with pytest.raises(CompileError, match="not a node"):
        Graph.of({"y": 3})  # type: ignore[dict-item]
    p = gx.param("p", [1.0])
    for update, error in ((p.astype("float64"), DTypeError), (p[:0], ShapeError)):
        with pytest.raises(error, match="its new value"):
            Graph.of({}, {p: update})
    with pytest.raises(CompileError, match="not a param"):
        Graph.of({}, {a: a})  # type: ignore[dict-item]


def test_bind_puts_sizes_in() -> None:
    x = gx.input("x", ("n", "m"))
    n, m = x.shape
    y = (x.sum() / n + m).reshape(1, 1) * x[:, ::-1] + gx.iota((n, 1), 0, "int32")
    graph = Graph.of({"y": y})
    assert graph.symbols == {"n", "m"}
    small = bind(graph, {"n": 2, "m": 3})
    assert small.outputs[0][1].shape == (2, 3)
    assert not small.symbols
    assert all(node.op.kind is not Kind.SOURCE or not node.op.resolve for node in small.nodes)
    value = np.arange(6, dtype="f4").reshape(2, 3)
    (got,) = evaluate(small.roots, {small.inputs[0]: value})
    np.testing.assert_allclose(got, (15 / 2 + 3) * value[:, ::-1] + [[0], [1]])
    assert bind(small, {}) is small
    with pytest.raises(CompileError, match="missing m"):
        bind(graph, {"n": 2})


def test_symbols_never_broadcast() -> None:
    x, y = gx.input("x", ("n",)), gx.input("y", ("m",))
    for wrong in (lambda: x + y, lambda: x + gx.const([1.0, 2.0]), lambda: x.broadcast_to((5,))):
        with pytest.raises(ShapeError, match=r"a symbolic size equals only itself"):
            wrong()
    assert (x + gx.const([1.0])).shape == x.shape
    assert gx.concatenate([x, y]).shape == (x.shape[0] + y.shape[0],)


@pytest.mark.parametrize(
    ("make", "sizes", "message"),
    [
        (lambda x: x[2:5], {"n": 4}, "leave the axis of 4"),
        (lambda x: x[7:], {"n": 4}, r"slice: the size n - 7 is -3 for n = 4; operands: x fl"),
        (lambda x: gx.arange(x.shape[0] - 5), {"n": 3}, "iota: the size n - 5 is -2 for n = 3"),
        (lambda x: x * (8 // x.shape[0]), {"n": 0}, r"has no value \(8 // 0: .* for n = 0"),
        (lambda x: gx.iota((8 // x.shape[0],)), {"n": 0}, "cannot be divided by 0"),
        (lambda x: x[3], {"n": 3}, "leave the axis of 3"),
        (lambda x: x.reshape(-1, 2), {"n": 3}, "3 elements do not fit"),
        (lambda x: x.max(), {"n": 0}, "no elements along axes"),
    ],
)
def test_sizes_that_do_not_fit_raise_when_bound(make: Any, sizes: Any, message: str) -> None:
    graph = Graph.of({"y": make(gx.input("x", ("n",)))})
    bind(graph, {"n": 8})
    with pytest.raises(ShapeError, match=rf"{message}.*at test_ir.py"):
        bind(graph, sizes)


def test_sizes_of_other_inputs_within_attributes() -> None:
    """A size that occurs in no shape, only in the start of a slice."""
    x, y = gx.input("x", ("n",)), gx.input("y", ("m",))
    fixed = gx.input("z", (10,))
    m = y.shape[0]
    for node, source, expected in (
        (x[m : m + 3], x, [2, 3, 4]), (fixed[m : m + 3], fixed, [2, 3, 4]),
        (x[m:-1], x, range(2, 9)), (x[np.int64(1) : m], x, [1]), (x[m], x, 2), (fixed[m], fixed, 2),
        (fixed[:m], fixed, [0, 1]), (x[-m:], x, None),
    ):  # fmt: skip
        if expected is None:  # no Dim is known to be negative
            with pytest.raises(ShapeError, match=r"leave the axis|is -"):
                bind(Graph.of({"y": node}), {"n": 10, "m": 2})
            continue
        graph = Graph.of({"y": node})
        assert "m" in graph.symbols
        sizes = {"n": 10, "m": 2}
        small = bind(graph, sizes)
        (got,) = evaluate(small.roots, {small.inputs[0]: np.arange(10, dtype="f4")})
        assert got.tolist() == (list(expected) if not isinstance(expected, int) else expected)
        slope = bind(Graph.of({"g": gx.grad((node * node).sum(), source)}), sizes)
        (got,) = evaluate(slope.roots, {slope.inputs[0]: np.arange(10, dtype="f4")})
        wanted = np.zeros(10)
        wanted[list(expected) if not isinstance(expected, int) else expected] = 2
        assert got.tolist() == (wanted * np.arange(10)).tolist()
    with pytest.raises(ShapeError, match="leave the axis of 4"):
        bind(Graph.of({"y": x[m : m + 3]}), {"n": 4, "m": 2})


def test_mode_is_resolved_when_bound() -> None:
    x = gx.input("x", (4,))
    for form, factor in (("inverted", 1.0), ("classic", 0.25)):
        graph = Graph.of({"y": gx.dropout(x, 0.25, form=form)})
        training, quiet = bind(graph, {}, True), bind(graph, {}, False)
        assert any(n.op.kind is Kind.RANDOM for n in training.nodes)
        assert not any(n.op.kind is Kind.RANDOM for n in quiet.nodes)
        (got,) = evaluate(quiet.roots, {x: np.ones(4, "f4")})
        assert got.tolist() == [factor] * 4
    a, b = gx.input("a", (2,)), gx.input("b", (2,))
    pair = gx.grad(OPS["by_mode"](a * 2, b * 3).sum(), [a, b])
    for training, expected in ((True, [2, 0]), (False, [0, 3])):
        roots = bind(Graph.of(dict(zip("ab", pair, strict=True))), {}, training).roots
        assert [float(v[0]) for v in evaluate(roots)] == expected


def test_params_own_their_value() -> None:
    p = gx.param("p", [1, 2], dtype="float64")
    copy = p.value
    copy[0] = 9
    assert p.value.tolist() == [1, 2]
    p.value = [3, 4]
    p.value = np.array([3, 4], "f4")
    for wrong in ([1, 2, 3], [1j, 2], "ab", [[1], [2, 3]]):
        with pytest.raises(InputError, match=r"^param p[: ]"):
            p.value = wrong
    assert p.value.tolist() == [3, 4]
    with pytest.raises(GraphcError):
        gx.param("q", "text")


@given(
    st.permutations([0, 1, 2]),
    st.sampled_from([(2, 3, 4), (6, 4), (24,), (4, 6), (2, 12), (1, 24, 1), (3, 8), (2, 2, 6)]),
)
def test_reshaped_layouts_as_numpy(order: list[int], shape: tuple[int, ...]) -> None:
    """A layout, or None exactly where NumPy has to copy."""
    base = np.arange(24)
    array = base.reshape(2, 3, 4).transpose(order)
    layout = contiguous((2, 3, 4))
    transposed = OPS["transpose"].view
    assert transposed is not None
    found = reshape_layout(transposed(layout, axes=tuple(order)), shape)  # type: ignore[arg-type]
    reshaped = array.reshape(shape)
    assert (found is not None) == np.shares_memory(reshaped, base)
    if found is not None:
        assert found.strides == tuple(
            0 if n == 1 else s // 8 for n, s in zip(shape, reshaped.strides, strict=True)
        )


def test_an_op_is_declared_once() -> None:
    record: Op[...] = OPS["exp"]
    with pytest.raises(CompileError, match="declared twice"):
        register(record)
