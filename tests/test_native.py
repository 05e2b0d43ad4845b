"""The native backend: results against NumPy's, whatever the sizes, strides, dtypes and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from programs import Program, assert_same, forms, given, merged

import graphc as gx
from graphc.errors import DTypeError
from graphc.evaluate import evaluate
from graphc.executable import Executable
from graphc.ir.op import OPS, Kind
from graphc.ir.tensor_type import NARROW, computed_in
from graphc.testing import assert_close, random_graph

pytestmark = pytest.mark.usefixtures("native")

AT_ONCE = 25  # random graphs that are compiled as one program: a compiler run costs 0.2 s


def compiled(
    outputs: Any, updates: Any = None, *, threads: int | None = None, **options: Any
) -> Executable:
    exe = gx.compile(outputs, updates=updates, backend="native", threads=threads, **options)
    assert exe.backend == "native"
    return exe


def check(
    nodes: Sequence[gx.Node], arrays: dict[str, np.ndarray], *, exact: bool = False
) -> list[np.ndarray]:
    """Native results agree with node-by-node evaluation."""
    exe = compiled(nodes)
    results = exe(arrays)
    expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    for node, have, want in zip(nodes, results, expected, strict=True):
        assert_close(have, want, str(node), exact=exact)
    return results


# -- random graphs


def check_steps(program: Program, steps: int = 2) -> None:
    """Outputs and updates, step after step: right, and the same bits on three threads."""
    one, three = (compiled(program.outputs, program.updates, threads=n) for n in (1, 3))
    values = {n: program.inputs[n.name] for n in one.graph.inputs}
    for _ in range(steps):
        before = {p: p.value for p in one.graph.params}
        expected = evaluate([*program.outputs.values(), *program.updates.values()], values)
        made = [*one(program.inputs).values(), *(p.value for p in program.updates)]
        names = [*program.outputs, *(p.name for p in program.updates)]
        for name, have, want in zip(names, made, expected, strict=True):
            assert_close(have, want, name)
        for p, value in before.items():
            assert p in program.updates or np.array_equal(p.value, value), p.name
            p.value = value
        again = [*three(program.inputs).values(), *(p.value for p in program.updates)]
        assert_same(again, made, str(names))


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("first", range(0, 300, AT_ONCE))
def test_random_graphs(first: int) -> None:
    check_steps(merged([random_graph(seed) for seed in range(first, first + AT_ONCE)]))


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("first", range(0, 75, AT_ONCE))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_random_graphs_of_16_bits(first: int, dtype: str) -> None:
    check_steps(merged([random_graph(seed, dtype) for seed in range(first, first + AT_ONCE)]))


# -- every form of kernel at thin, empty, odd and large sizes

SIZES = [(0, 3), (3, 0), (0, 0), (1, 1), (1, 7), (7, 1), (37, 5), (33, 1025), (6000, 20),
         (300, 700)]  # fmt: skip


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forms(size: tuple[int, int]) -> None:
    nodes = [node for name, made in forms(*size).items() if name != "draws" for node in made]
    arrays = given(nodes)
    results = check(nodes, arrays)
    for threads in (1, 2, 5):
        exe = compiled(nodes, threads=threads)
        for _ in range(2):
            assert_same(exe(arrays), results, f"{threads} threads")


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("size", [*SIZES, (7000,)], ids=str)
def test_draws(size: tuple[int, ...]) -> None:
    """Random numbers as NumPy's: masks and uniform ones bit for bit, for step after step."""
    nodes = forms(*size)["draws"] if len(size) == 2 else []
    nodes += [gx.random_uniform(size), gx.bernoulli(size, 0.3), gx.random_normal(size, 1, 3)]
    arrays = given(nodes)
    reference = gx.compile(nodes, backend="numpy", training=True, seed=3)
    several = [compiled(nodes, training=True, seed=3, threads=n) for n in (1, 2, 5)]
    for _ in range(3):
        want = reference(arrays)
        results = [exe(arrays) for exe in several]
        assert_same(results[1], results[0])
        assert_same(results[2], results[0])
        for node, have, expected in zip(nodes, results[0], want, strict=True):
            exact = node.op.name in ("uniform", "bernoulli", "where")
            assert_close(have, expected, str(node), exact=exact)


def test_dropout_takes_the_masks_that_numpy_takes() -> None:
    x = gx.input("x", (77, 131))
    y = gx.dropout(gx.dropout(x, 0.7) + 1, 0.5)
    nodes = [y, gx.grad(y.sum(), x), gx.bernoulli((77, 131), 0.3), gx.random_uniform((1001,))]
    arrays = {"x": np.ones((77, 131), "float32")}
    here = compiled(nodes, training=True, seed=2**40 + 1)
    there = gx.compile(nodes, training=True, seed=2**40 + 1, backend="numpy")
    for _ in range(4):
        assert_same(here(arrays), there(arrays))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_draws_of_every_dtype(dtype: str) -> None:
    nodes = [
        gx.random_uniform((5, 1003), dtype=dtype), gx.random_normal((5, 1003), dtype=dtype),
        gx.random_uniform((7,), -2, 0.5, dtype=dtype), gx.random_normal((2, 3), 1, 0.1, dtype),
        gx.random_uniform((0, 3), dtype=dtype),
        gx.random_normal((5000,), dtype=dtype).sum(), gx.random_normal((4, 5000)).max(1),
        gx.random_uniform((300, 5), dtype=dtype).sum(0), gx.random_uniform((3, 4), dtype=dtype).T,
        gx.random_normal((6, 5), dtype=dtype) @ np.ones((5, 2), dtype),
    ]  # fmt: skip
    here = compiled(nodes, seed=11)
    there = gx.compile(nodes, seed=11, backend="numpy")
    for _ in range(2):
        for node, have, want in zip(nodes, here(), there(), strict=True):
            assert_close(have, want, str(node))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_draws_of_one_element(shape: tuple[int, ...]) -> None:
    nodes = [gx.random_uniform(shape), gx.random_normal(shape) * 2, gx.bernoulli(shape, 0.5)]
    here, there = compiled(nodes, seed=2), gx.compile(nodes, seed=2, backend="numpy")
    for _ in range(3):
        for have, want in zip(here(), there(), strict=True):
            assert_close(have, want)


# -- views


def test_views_of_views() -> None:
    x, y, c = gx.input("x", (5, 7)), gx.input("y", (7,)), gx.input("c", (3, 5, 7))
    z, s = gx.input("z", (5, 1)), gx.input("s", ())
    views = [
        x[::-1], x[:, ::-1], x[::-2, 1::3], x.T[::-1], x[1:][::-1].T[2:5, ::2], x[2:2], x[:, 7:],
        x.reshape(35)[::-1].reshape(7, 5), x[0].broadcast_to((4, 7)), x.T.reshape(5, 7)[::-1, ::-1],
        x[::-1].reshape(-1)[3::4], c.transpose((2, 0, 1))[::-2, :, 1:], c[1].T, c[:, 2, ::-1],
        c[::-1, ::2].reshape(-1), z.broadcast_to((5, 7))[::-1].T, s.broadcast_to((2, 3)),
        gx.flip(c, (0, 2))[1:, :, ::-3], y[None].broadcast_to((4, 7)).T[::-1], x[3, 4],
        x.reshape(5, 1, 7).broadcast_to((5, 2, 7)).reshape(10, 7),
    ]  # fmt: skip
    computed = [
        x + y, x * z, z - y, c * x[::-1], c[::-1] + y[::-1], c.T + x.T[..., None], x + s,
        x[:, :1] * c, x - z[::-1], gx.where(z > y, x, c), x[:, ::-1] * x, x[1:] + x[:-1],
        c[:, ::-1].sum((0, 2)) * z[:, 0], (c.transpose((1, 2, 0)) * x[..., None]).max(1),
    ]  # fmt: skip
    arrays = given([*views, *computed])
    check([*views, *(gx.exp(v) * 2 for v in views)], arrays)
    check(computed, arrays)
    check([v.sum() for v in views], arrays)


# -- products

PRODUCTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 1), (1, 1)), ((1, 5), (5, 1)), ((2, 3), (3, 16)), ((3, 255), (255, 17)),
    ((7, 256), (256, 15)), ((8, 257), (257, 48)), ((9, 600), (600, 49)), ((17, 64), (64, 193)),
    ((65, 31), (31, 33)), ((97, 40), (40, 400)), ((130, 513), (513, 47)), ((200, 9), (9, 7)),
    ((4, 0), (0, 5)), ((0, 4), (4, 5)), ((4, 5), (5, 0)), ((5,), (5, 4)), ((4, 5), (5,)),
    ((5,), (5,)), ((3, 5, 7), (7, 4)), ((3, 5, 7), (3, 7, 4)), ((2, 3, 5, 7), (7, 4)),
    ((2, 3, 5, 7), (3, 7, 4)), ((2, 1, 5, 7), (3, 7, 4)), ((2, 1, 5, 7), (1, 3, 7, 4)),
    ((2, 3, 5, 7), (2, 3, 7, 4)), ((9, 5, 7), (9, 7, 4)), ((4, 3, 5, 7), (4, 3, 7, 4)),
    ((1, 3, 5, 7), (4, 1, 7, 4)), ((3, 0, 7), (7, 4)), ((0, 5, 7), (7, 4)), ((9, 5, 0), (0, 4)),
    ((5, 7), (9, 7, 4)), ((7,), (3, 7, 4)), ((3, 5, 7), (7,)),
]  # fmt: skip


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bfloat16"])
def test_products(dtype: str) -> None:
    pairs = [
        (gx.input(f"a{i}", a, dtype), gx.input(f"b{i}", b, dtype))
        for i, (a, b) in enumerate(PRODUCTS)
    ]
    nodes = [a @ b for a, b in pairs]
    arrays = given(nodes, seed=1)
    results = check(nodes, arrays)
    for threads in (1, 5):
        assert_same(compiled(nodes, threads=threads)(arrays), results)
    if dtype.startswith("int"):
        return
    after = [
        gx.tanh(p * 0.1 + 1) if dtype == "bfloat16" else gx.relu(p * 0.1 + (p.ndim + 1))
        for p in nodes
    ]
    check(after, arrays)


def test_products_of_views() -> None:
    a, b, c = gx.input("a", (40, 24)), gx.input("b", (24, 40)), gx.input("c", (3, 24, 40))
    nodes = [
        a @ b, a.T @ b.T, a.T @ a, a @ a.T, b.T @ b, a[::-1] @ b, a[:, ::-1] @ b[::-1],
        a @ b[:, ::-1], a[::2, 1::3] @ b[1::3, ::-2], a[::-1].T @ a, c @ a, a @ b[::-1],
        c.transpose((0, 2, 1)) @ b,
        a @ c, a @ c[::-1], c[:, ::-1].transpose((0, 2, 1)) @ c, c[1] @ a, a[0] @ b, a @ b[:, 0],
        a[:1] @ b, a[:, :1] @ b[:1], a[0].broadcast_to((5, 24)) @ b,
        a @ b[0].broadcast_to((24, 40)), a[:, 0][:, None].broadcast_to((40, 24)) @ b,
        gx.einsum("ij,kj->ik", a, a), gx.einsum("bij,kj->bik", c, b),
        (a @ b).T, (a @ b).T @ a, (c @ a).sum(0), (c @ a).sum((0, 2)), gx.softmax(a @ b),
        (a @ b).reshape(-1)[::3], (a @ b)[::-1] + (b.T @ a.T), (a @ b) * (a @ b),
    ]  # fmt: skip
    check(nodes, given(nodes, seed=2))


def test_sums_of_products_are_accurate() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype("float32") for s in ((70, 3000), (3000, 50)))
    x, y = gx.input("x", a.shape), gx.input("y", b.shape)
    (have,) = compiled([x @ y])(x=a, y=b)
    exact = a.astype("float64") @ b.astype("float64")
    bound = np.abs(a).astype("float64") @ np.abs(b).astype("float64")
    assert (np.abs(have - exact) / bound).max() < 1e-6


# -- reductions


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_reductions_over_any_axes(dtype: str) -> None:
    shape = (3, 4, 5, 6, 2)
    x, flat = gx.input("x", shape, dtype), gx.input("flat", (40, 30), dtype)
    axes = [(0,), (1,), (4,), (0, 2), (1, 3), (0, 2, 4), (0, 4), (1, 2, 3), (2, 3, 4), (0, 1, 2),
            (3, 4), (1, 4), (0, 1, 2, 3, 4), ()]  # fmt: skip
    ops = [op for op in OPS.values() if op.kind is Kind.REDUCTION]
    nodes: list[gx.Node] = []
    for op in ops:
        for choice in axes:
            if not op.combine and len(choice) != 1:
                continue
            try:
                nodes.append(op(x, axis=choice[0] if len(choice) == 1 else choice))
            except DTypeError:
                break
        else:
            nodes += [op(flat, axis=0), op(flat, axis=1), op(flat.T, axis=0, keepdims=True)]
    rng = np.random.default_rng(0)
    arrays = {
        n.name: rng.integers(-1, 2, n.shape).astype(dtype)  # type: ignore[arg-type]
        if dtype != "bool" else rng.random(n.shape) < 0.6  # type: ignore[arg-type]
        for n in (x, flat)
    }  # fmt: skip
    check(nodes, arrays)
    if dtype in ("float32", "float64"):
        check(nodes, {k: rng.uniform(0.8, 1.2, a.shape).astype(dtype) for k, a in arrays.items()})


def test_places_of_ties_and_nan() -> None:
    nan, inf = np.nan, np.inf
    rows = np.array(
        [
            [1, 3, 3, 2, 3, 0, 0, 1], [nan, 1, 2, nan, 0, 5, 5, 5], [1, 2, nan, 9, nan, 0, 0, 0],
            [0.0, -0.0, 0.0, -0.0, 0, 0, 0, 0], [-inf, inf, inf, -inf, 0, 1, 2, 3], [nan] * 8,
            [inf] * 8, [-inf] * 8, [5, 4, 3, 2, 1, 0, -1, nan],
        ], "float32",
    )  # fmt: skip
    x = gx.input("x", rows.shape)
    nodes = [op(v, axis) for op in (gx.argmax, gx.argmin, gx.max, gx.min) for v in (x, x[::-1])
             for axis in (0, 1, None)]  # fmt: skip
    nodes += [gx.maximum(x, x.T[0, 0]), gx.maximum(x, x[::-1]), gx.minimum(x, x[:, ::-1])]
    results = check(nodes, {"x": rows})
    assert [int(v) for v in results[1]] == [1, 0, 2, 0, 1, 0, 0, 0, 7]
    whole = np.tile(rows, (1, 700))  # more than are searched at a time
    y = gx.input("y", whole.shape)
    check([op(y, axis) for op in (gx.argmax, gx.max, gx.min) for axis in (0, 1, None)],
          {"y": whole})  # fmt: skip


def test_labels_out_of_range() -> None:
    x, k = gx.input("x", (6, 5)), gx.input("k", (6, 5), "int32")
    labels = gx.input("labels", (6,), "int32")
    nodes = [gx.pick(x, labels), gx.pick(gx.exp(x), labels), gx.pick(k, labels),
             gx.one_hot(labels, 5), gx.softmax_cross_entropy(x, labels, "none"),
             gx.pick(x.T, labels[:5])]  # fmt: skip
    arrays = given(nodes)
    arrays["labels"] = np.array([0, 5, -1, 4, 2**31 - 1, -(2**31)], "int32")
    results = check(nodes, arrays)
    assert np.isnan(results[0]).tolist() == [False, True, True, False, True, True]


# -- long rows and long reductions


@pytest.mark.usefixtures("shared_out")
@pytest.mark.parametrize(
    "shape", [(3, 4096), (3, 4097), (2, 70_001), (1_200_003,), (1100, 1200), (70_001, 17),
              (1_048_576, 1), (1, 1_048_577)], ids=str,
)  # fmt: skip
def test_long_reductions(shape: tuple[int, ...]) -> None:
    """Sums are as accurate as pairwise ones: the error is far below that of adding one by one."""
    rng = np.random.default_rng(0)
    array = rng.uniform(0.5, 1.5, shape).astype("float32")
    wide = array.astype("float64")
    x = gx.input("x", shape)
    rows: list[tuple[gx.Node, Any]] = [((gx.exp(x) - 1).sum(), np.expm1(wide).sum())]
    for axis in (None, -1, 0):
        rows += [
            (gx.sum(x, axis), wide.sum(axis)), (gx.mean(x, axis), wide.mean(axis)),
            (gx.max(x, axis), wide.max(axis)), (gx.min(x, axis), wide.min(axis)),
            (gx.var(x, axis), wide.var(axis)), (gx.argmax(x, axis), wide.argmax(axis)),
            (gx.logsumexp(x, axis=axis), np.log(np.exp(wide).sum(axis))),
        ]  # fmt: skip
        if axis is not None:
            powers = np.exp(wide)
            rows.append((gx.softmax(x, axis), powers / powers.sum(axis, keepdims=True)))
    nodes = [node for node, _ in rows]
    one = compiled(nodes, threads=1)(x=array)
    for (node, want), have in zip(rows, one, strict=True):
        assert have.shape == node.shape
        np.testing.assert_allclose(have, want, rtol=4e-6, atol=2e-7, err_msg=str(node))
    for threads in (2, 5):
        assert_same(compiled(nodes, threads=threads)(x=array), one, f"{threads} threads")


# -- elementwise ops at special values

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-40, -1e-40, 1e-45, 3e38,
           -3e38, 88.0, 89.5, -103.0, -104.5, 1e-7, 1 / 3, 7.0, 1e10]  # fmt: skip
WHOLE = [0, 1, -1, 2, 3, -7, 9, 2**31 - 1, -(2**31), 65_537, -46_341]
COUNT = 23 * 23  # no multiple of a vector


def specials(dtype: Any) -> np.ndarray:
    kind = np.dtype(dtype).kind
    rng = np.random.default_rng(1)
    if kind == "b":
        return np.array([False, True])
    if kind in "iu":
        return np.array([*WHOLE, *rng.integers(-9, 9, 3)]).astype(dtype)
    with np.errstate(all="ignore"):
        return np.array([*SPECIAL, rng.normal()]).astype(dtype)


def ops_of(dtype: Any) -> tuple[list[gx.Node], dict[str, np.ndarray]]:
    """Every elementwise op that takes this dtype as it is, on all pairs of special values."""
    values = specials(dtype)
    size = values.size
    x, y = gx.input("x", (size, size), dtype), gx.input("y", (size, size), dtype)
    arrays = {"x": np.repeat(values, size).reshape(size, size), "y": np.tile(values, (size, 1))}
    nodes: list[gx.Node] = []
    for op in OPS.values():
        if op.kind is not Kind.ELEMENTWISE or op.resolve or op.name == "astype":
            continue
        operands = [x > y, x, y] if op is gx.where else [x, y][: takes(op)]
        try:
            node = op(*operands)
        except DTypeError:
            continue
        if node.op is op and all(a is b for a, b in zip(node.inputs, operands, strict=False)):
            nodes.append(node)
    return nodes, arrays


def takes(op: Any) -> int:
    return 2 if "y" in op.__signature__.parameters else 1


def compare_floats(have: np.ndarray, want: np.ndarray, what: str, relative: float) -> None:
    """NaN, infinities and signs of zeros as wanted, denormals to a few units, others relatively."""
    tiny = float(np.finfo(np.float32 if have.dtype.itemsize < 8 else have.dtype).tiny)
    np.testing.assert_allclose(
        have.astype("float64"), want.astype("float64"), rtol=relative, atol=tiny * relative * 8,
        err_msg=what,
    )  # fmt: skip
    zeros = (want == 0) & (have == 0)
    if what not in ("maximum", "minimum", "relu"):  # of 0 and -0 either is the larger
        assert np.array_equal(np.signbit(have[zeros]), np.signbit(want[zeros])), what


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32", "float64"])
def test_elementwise_at_special_values(dtype: str) -> None:
    nodes, arrays = ops_of(dtype)
    if np.dtype(dtype).kind == "i":
        nodes = [n for n in nodes if n.op.name != "power"]
        base, exponent = next(n for n in nodes if n.op is gx.add).inputs
        nodes.append(gx.power(base, gx.where(exponent < 0, 0, exponent)))
    assert len(nodes) >= {"b": 8, "i": 18, "f": 40}[np.dtype(dtype).kind]
    exe = compiled(nodes, rules={})
    with np.errstate(all="ignore"):
        expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    for node, have, want in zip(nodes, exe(arrays), expected, strict=True):
        assert have.dtype == want.dtype
        if want.dtype.kind == "f":
            relative = 1e-6 if want.dtype == "float32" else 1e-14
            compare_floats(have, want, node.op.name, relative)
        else:
            assert np.array_equal(have, want), node


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_elementwise_of_16_bits_at_special_values(dtype: str) -> None:
    """What float32 gives, rounded: within one unit in the last place."""
    nodes, arrays = ops_of(dtype)
    exe = compiled(nodes)
    with np.errstate(all="ignore"):
        expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    for node, have, want in zip(nodes, exe(arrays), expected, strict=True):
        assert have.dtype == want.dtype
        if want.dtype not in NARROW:
            assert np.array_equal(have, want), node
            continue
        wide = have.astype(computed_in(have.dtype)), want.astype(computed_in(want.dtype))
        assert np.array_equal(np.isnan(wide[0]), np.isnan(wide[1])), node
        bits = [v.view("int16").astype("int32") for v in (have, want)]
        order = [np.where(b < 0, -1, 1) * (b & 0x7FFF) for b in bits]
        known = ~np.isnan(wide[0])
        assert np.abs(order[0] - order[1])[known].max() <= 1, node


def test_casts() -> None:
    names = ["bool", "int32", "int64", "float32", "float64", "float16", "bfloat16"]
    nodes: list[gx.Node] = []
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        value = specials(dtype)
        whole = value[np.isfinite(value.astype("float64"))]
        whole = whole[np.abs(whole.astype("float64")) < 2**31]  # beyond, C says nothing
        for kind, array in (("all", value), ("whole", whole)):
            arrays[f"{name}_{kind}"] = np.tile(array, 9)
            x = gx.input(f"{name}_{kind}", (array.size * 9,), dtype)
            to_int = [t for t in names if t.startswith("int")]
            targets = to_int if kind == "whole" else [t for t in names if t not in to_int]
            nodes += [x.astype(t) for t in targets if t != name]
    with np.errstate(all="ignore"):
        check(nodes, arrays, exact=True)


def test_integers_wrap_around() -> None:
    nodes: list[gx.Node] = []
    arrays: dict[str, np.ndarray] = {}
    for dtype in ("int32", "int64"):
        limits = np.iinfo(dtype)
        values = np.array([limits.max, limits.min, limits.max - 1, -1, 3, 2**30] * 11, dtype)
        x, y = gx.input(f"x_{dtype}", (66,), dtype), gx.input(f"y_{dtype}", (66,), dtype)
        arrays |= {x.name: values, y.name: np.roll(values, 5)}
        nodes += [x + y, x - y, x * y, -x, gx.abs(x), x * x * x, x.sum(), gx.prod(x), x.max(),
                  (x * y).min(), x.reshape(6, 11) @ y.reshape(11, 6), x.reshape(11, 6).sum(0),
                  gx.square(x), x & y, x | y, ~x, gx.sign(x)]  # fmt: skip
    with np.errstate(all="ignore"):
        check(nodes, arrays, exact=True)


def test_bools() -> None:
    a, b = gx.input("a", (9, 8), "bool"), gx.input("b", (9, 8), "bool")
    x = gx.input("x", (9, 8))
    nodes = [a & b, a | b, ~a, a == b, a != b, gx.maximum(a, b), gx.where(a, b, ~b), gx.any(a, 0),
             gx.all(a | b, 1), gx.any(a & ~a), gx.all(a | ~a), a.astype("float32").sum(0),
             a.astype("int32").sum(), (x > 0) & a, gx.where(a & (x < 1), x, -x), gx.argmax(a, 1),
             gx.concatenate([a, ~b]), a.T[::-1], gx.any(a[:, :0], 1), gx.all(a[:0], 0)]  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = {"a": rng.random((9, 8)) < 0.5, "b": rng.random((9, 8)) < 0.5}
    check(nodes, {**arrays, "x": rng.standard_normal((9, 8)).astype("float32")}, exact=True)


def test_nan_and_infinities_through_every_form() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 3e38, 1e-45], "float32")
    made = forms(8, 8)
    nodes = [n for name in made if name not in ("draws", "integers") for n in made[name]]
    arrays = given(nodes)
    for number, (key, array) in enumerate(arrays.items()):
        if array.dtype == "float32" and array.ndim == 2 and array.shape[1] == 8:
            arrays[key] = np.roll(special, number) * np.ones((8, 1), "float32")
            arrays[key][4:] = array[4:]
    check(nodes, arrays)


# -- sizes with names: equal values of different symbols must not be taken for each other


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


def test_two_sizes_change_places() -> None:
    exe = compiled(gx.exp(gx.transpose(gx.input("x", ("n", "m")))) * 2)
    for shape in ((3, 8), (8, 3), (5, 7), (7, 5), (5, 5)):
        array = rand(*shape)
        assert_close(exe(x=array), np.exp(array.T) * 2, str(shape))


def test_programs_with_sizes_of_equal_value_live_side_by_side() -> None:
    kept: list[Executable] = []
    for symbol in ("n", "q"):
        x = gx.input("x", (symbol, 4))
        kept.append(compiled(gx.softmax(gx.transpose(x))))
        assert_close(kept[-1](x=rand(3, 4)).sum(-1), np.ones(4, "float32"))
    b = gx.Dim.symbol("b")
    z = gx.input("z", ("b",))
    for extent, length in ((2 * b, 4), (b, 8)):  # both have 8 elements
        kept.append(compiled([gx.exp(0.25 * gx.iota((extent,)).astype("float32")), z]))
        assert_close(kept[-1](z=rand(length))[0], np.exp(np.arange(8, dtype="float32") / 4))
    plain = compiled(gx.exp(0.25 * gx.iota((8,)).astype("float32")))
    assert_close(plain(), np.exp(np.arange(8, dtype="float32") / 4))


def test_quotients_of_sizes_are_rounded_down() -> None:
    x = gx.input("x", ("b",))
    b = x.shape[0]
    n = (b - 5) // 2 + 4  # of 4: -1 // 2 is -1, and C's -1 / 2 is 0
    table = gx.exp(x.reshape((1, b)).broadcast_to((n, b)))
    weights = gx.iota((n,)).astype("float32").broadcast_to((b, n))
    made = compiled(gx.sum(gx.transpose(table) * weights, axis=1))
    for length in (4, 5, 8):
        rows = (length - 5) // 2 + 4
        array = rand(length)
        want = np.exp(array) * np.float32(rows * (rows - 1) // 2)
        assert_close(made(x=array), want, str(length))


# -- a new value is written over the old one only when nothing needs that any more


@pytest.mark.parametrize(
    ("shape", "axis", "kept"),
    [((64, 100), 1, (64,)), ((300, 100), 0, (100,)), ((1024, 1024), 0, (1024,)),
     ((300_000,), 0, ()), ((70,), 0, ())],
)  # fmt: skip
def test_results_of_rows_see_old_values(
    shape: tuple[int, ...], axis: int, kept: tuple[int, ...]
) -> None:
    m = gx.param("m", rand(*kept))
    new = m + gx.sum(gx.input("x", shape), axis=axis)
    exe = compiled(gx.exp(m) + new, {m: new})
    old, array = m.value, 0.01 * rand(*shape)
    total = array.sum(axis, dtype="float64").astype("float32")
    assert_close(exe(x=array), np.exp(old) + old + total)


# -- many dimensions, many draws, wide columns


def test_many_dimensions() -> None:
    x = gx.input("x", (2,) * 12)
    array = rand(*(2,) * 12)
    check([gx.transpose(x) + x, gx.concatenate([x, x], 3), gx.sum(x.T * x, (0, 3, 5))],
          {"x": array})  # fmt: skip


def test_many_draws_in_an_epilogue() -> None:
    y = gx.input("x", (8, 16)) @ gx.param("w", np.zeros((16, 300), "float32"))
    for _ in range(20):
        y = y + gx.random_normal((8, 300))
    made = compiled(y)(x=rand(8, 16))
    assert abs(made.std() / np.sqrt(20) - 1) < 0.1


@pytest.mark.parametrize("shape", [(64, 40_000), (5000, 513), (200_000, 7)])
def test_sums_of_columns(shape: tuple[int, int]) -> None:
    x = gx.input("x", shape)
    array = rand(*shape)
    one, three = (compiled([x.sum(0), x.max(0)], threads=n)(x=array) for n in (1, 3))
    assert_same(three, one)
    np.testing.assert_allclose(one[0], array.sum(0, dtype="float64"), rtol=1e-4, atol=2e-2)
    assert np.array_equal(one[1], array.max(0))
