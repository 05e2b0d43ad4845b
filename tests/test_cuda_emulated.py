"""Generated CUDA C on the emulated device: right at any size, dtype and value, the same bits under
three orders of the threads and both ways to run; and errors planted into it are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from programs import (
    Program,
    assert_same,
    dropout_step,
    forms,
    given,
    merged,
    momentum,
    training_step,
)

import graphc as gx
from graphc import backends
from graphc.backends.base import Options
from graphc.backends.cuda import EMULATOR
from graphc.backends.cuda import runner as cuda_runner
from graphc.backends.cuda.cuda_backend import backend_on
from graphc.backends.cuda.emulated_device import EmulatedDevice
from graphc.backends.cuda.emulated_memory import EmulatorError
from graphc.backends.cuda.emulated_module import ORDERS, Module
from graphc.codegen import cuda_function
from graphc.codegen.cuda import CudaProgram, print_program
from graphc.evaluate import evaluate
from graphc.executable import Executable
from graphc.schedule.records import Program as Planned
from graphc.testing import assert_close, disagreement, random_graph

AT_ONCE = 25  # random graphs that are compiled as one program: a compiler run costs a second


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> EmulatedDevice:
    """A device of its own behind the backend "emulator"."""
    found = EMULATOR.probe()
    if not found.usable:
        pytest.skip(f"emulator: {found.reason}")
    made = EmulatedDevice()

    def printed(program: Planned, options: Options) -> CudaProgram:
        return print_program(program, options.numbers, options.sizes, options.precision)

    backend = backend_on("emulator", lambda: made, EMULATOR.probe, printed)
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "emulator": backend})
    return made


def compiled(outputs: Any, updates: Any = None, **options: Any) -> Executable:
    exe = gx.compile(outputs, updates=updates, backend="emulator", **options)
    assert exe.backend == "emulator"
    return exe


def in_every_order(device: EmulatedDevice, call: Callable[[], list[Any]]) -> list[Any]:
    """What a call gives, which is the same bits whatever the order of the threads."""
    results: list[Any] = []
    for order in ORDERS:
        device.order = order
        made = call()
        assert_same(made, results or made, f"{order} order")
        results = results or made
    return results


def check(
    device: EmulatedDevice, nodes: Sequence[gx.Node], arrays: dict[str, np.ndarray], *,
    exact: bool = False,
) -> list[np.ndarray]:  # fmt: skip
    """Results agree with node-by-node evaluation, in every order."""
    exe = compiled(nodes)
    results = in_every_order(device, lambda: exe(arrays))
    expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    for node, have, want in zip(nodes, results, expected, strict=True):
        assert_close(have, want, str(node), exact=exact)
    return results


# -- random graphs


def check_steps(device: EmulatedDevice, program: Program, steps: int = 2) -> None:
    """Outputs and updates, step after step."""
    exe = compiled(program.outputs, program.updates)
    values = {n: program.inputs[n.name] for n in exe.graph.inputs}
    names = [*program.outputs, *(p.name for p in program.updates)]
    for _ in range(steps):
        before = {p: p.value for p in exe.graph.params}
        expected = evaluate([*program.outputs.values(), *program.updates.values()], values)

        def step(before: dict[Any, np.ndarray] = before) -> list[Any]:
            for p, value in before.items():
                p.value = value
            return [*exe(program.inputs).values(), *(p.value for p in program.updates)]

        made = in_every_order(device, step)
        for name, have, want in zip(names, made, expected, strict=True):
            assert_close(have, want, name)
        for p, value in before.items():
            assert p in program.updates or np.array_equal(p.value, value), p.name


RANDOM = [
    *(("float32", first) for first in range(0, 100, AT_ONCE)), ("float64", 0), ("float16", 0),
    ("bfloat16", 0),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "first"), RANDOM)
def test_random_graphs(device: EmulatedDevice, dtype: str, first: int) -> None:
    seeds = range(first, first + AT_ONCE)
    check_steps(device, merged([random_graph(seed, dtype) for seed in seeds]))


# -- every form of kernel

SIZES = [(0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (37, 5), (33, 1025), (31, 33), (1023, 64),
         (300, 700), (6000, 20)]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forms(device: EmulatedDevice, size: tuple[int, int]) -> None:
    nodes = [node for name, made in forms(*size).items() if name != "draws" for node in made]
    check(device, nodes, given(nodes))


@pytest.mark.parametrize("size", [(37, 5), (33, 1025), (300, 700)], ids=str)
def test_forms_with_wide_indices(
    device: EmulatedDevice, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are where there are 2^30 elements, which would be too many here."""
    monkeypatch.setattr(cuda_function, "NARROW_INDEX", 0)
    nodes = [node for name, made in forms(*size).items() if name != "draws" for node in made]
    assert not re.search(r"gx_(first|all)<int>", compiled(nodes).source)
    check(device, nodes, given(nodes))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_draws(device: EmulatedDevice, size: tuple[int, int]) -> None:
    """Random numbers as NumPy's: masks and uniform ones bit for bit, for step after step."""
    nodes = [*forms(*size)["draws"], gx.random_uniform(size), gx.bernoulli(size, 0.3),
             gx.random_normal(size, 1, 3)]  # fmt: skip
    arrays = given(nodes)
    reference = gx.compile(nodes, backend="numpy", training=True, seed=3)
    several = [compiled(nodes, training=True, seed=3) for _ in ORDERS]
    for _ in range(2):
        want, turns = reference(arrays), iter(several)
        results = in_every_order(device, lambda t=turns: next(t)(arrays))
        for node, have, expected in zip(nodes, results, want, strict=True):
            exact = node.op.name in ("uniform", "bernoulli", "where")
            assert_close(have, expected, str(node), exact=exact)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_draws_of_every_dtype(device: EmulatedDevice, dtype: str) -> None:
    nodes = [
        gx.random_uniform((5, 1003), dtype=dtype), gx.random_normal((5, 1003), dtype=dtype),
        gx.random_uniform((7,), -2, 0.5, dtype=dtype), gx.random_normal((2, 3), 1, 0.1, dtype),
        gx.random_uniform((0, 3), dtype=dtype), gx.random_normal((), dtype=dtype),
        gx.random_normal((5000,), dtype=dtype).sum(), gx.random_normal((4, 5000)).max(1),
        gx.random_uniform((300, 5), dtype=dtype).sum(0), gx.random_uniform((3, 4), dtype=dtype).T,
        gx.random_normal((6, 5), dtype=dtype) @ np.ones((5, 2), dtype),
    ]  # fmt: skip
    there = gx.compile(nodes, seed=11, backend="numpy")
    several = [compiled(nodes, seed=11) for _ in ORDERS]
    for _ in range(2):
        turns = iter(several)
        results = in_every_order(device, lambda t=turns: next(t)())
        for node, have, want in zip(nodes, results, there(), strict=True):
            assert_close(have, want, str(node))


# -- long rows

LONG = [4096, 16_384, 65_536, 100_003]


@pytest.mark.parametrize("columns", LONG)
def test_long_rows(device: EmulatedDevice, columns: int) -> None:
    """Rows in the registers of a block, rows that are read again by each stage, with values kept in
    scratch, and labels that name no element."""
    x, y = gx.input("x", (3, columns)), gx.input("y", (3, columns))
    row, labels = gx.input("row", (columns,)), gx.input("labels", (3,), "int32")
    h = gx.tanh(x * y)
    middle = x - x.mean(1, keepdims=True)
    loss = gx.softmax_cross_entropy(x, labels, "none")
    scaled = h / gx.abs(h).sum(1, keepdims=True)
    nodes = [
        gx.softmax(x), gx.log_softmax(y), scaled, gx.softmax(scaled + row),
        row * middle / gx.sqrt((middle * middle).mean(1, keepdims=True) + 1e-5), loss,
        gx.grad(loss[:2].sum(), x), gx.pick(gx.softmax(y * 2), labels), gx.pick(x, labels),
        gx.argmax(x * y, 1), gx.argmin(y, 1), gx.max(x, 1) - gx.min(y, 1), gx.prod(1 + 1e-3 * x, 1),
        gx.any(x > 4.5, 1), gx.exp(x), gx.exp(x).sum(1), x[:, ::-1].sum(1) + gx.var(x, 1),
    ]  # fmt: skip
    arrays = given(nodes)
    arrays["labels"] = np.array([columns - 1, 0, columns], "int32")
    results = check(device, nodes, arrays)
    assert np.isnan(results[8]).tolist() == [False, False, True]


@pytest.mark.parametrize("columns", [5, 64, 1000, *LONG])
def test_rows_are_written_over_what_they_read(device: EmulatedDevice, columns: int) -> None:
    """Parameters get results that depend on whole rows of their own old values."""
    rng = np.random.default_rng(0)
    p, q, r, s = (
        gx.param(name, rng.standard_normal((3, columns)).astype("float32")) for name in "pqrs"
    )
    labels = gx.input("labels", (3,), "int32")
    q_there, r_there, s_there = (gx.pick(v, labels)[:, None] for v in (q, r, s))
    updates = {
        p: gx.softmax(p), q: q - q.max(1, keepdims=True) + q_there, r: r * r_there,
        s: gx.softmax(gx.tanh(s) * s) + s_there,
    }  # fmt: skip
    arrays = {"labels": np.array([0, columns - 1, columns // 2], "int32")}
    check_steps(device, Program({"old": p.sum(1)}, updates, arrays))


def test_intermediate_rows_are_written_over(device: EmulatedDevice) -> None:
    for columns in (48, 5000):
        x, w = gx.input("x", (6, 4)), gx.input("w", (4, columns))
        labels = gx.input("labels", (6,), "int32")
        h = x @ w
        picked = h * 2 + gx.pick(h, labels)[:, None]
        nodes = [picked @ w.T, gx.softmax(x @ (w + 1)) @ w.T]
        arrays = given(nodes)
        arrays["labels"] = np.array([3, 47, 0, 9, 17, 31], "int32")
        check(device, nodes, arrays)


# -- searches, ties and values that are no numbers


@pytest.mark.parametrize("times", [1, 90, 4200])
def test_places_of_ties_and_nan(device: EmulatedDevice, times: int) -> None:
    nan, inf = np.nan, np.inf
    rows = np.array(
        [
            [1, 3, 3, 2, 3, 0, 0, 1], [nan, 1, 2, nan, 0, 5, 5, 5], [1, 2, nan, 9, nan, 0, 0, 0],
            [0.0, -0.0, 0.0, -0.0, 0, 0, 0, 0], [-inf, inf, inf, -inf, 0, 1, 2, 3], [nan] * 8,
            [inf] * 8, [-inf] * 8, [5, 4, 3, 2, 1, 0, -1, nan],
        ], "float32",
    )  # fmt: skip
    x = gx.input("x", (9, 8 * times))
    nodes = [op(v, axis) for op in (gx.argmax, gx.argmin, gx.max, gx.min) for v in (x, x[::-1])
             for axis in ((0, 1, None) if times < 1000 else (1,))]  # fmt: skip
    results = check(device, nodes, {"x": np.tile(rows, (1, times))})
    assert [int(v) for v in results[1 if times < 1000 else 0]] == [1, 0, 2, 0, 1, 0, 0, 0, 7]


def test_nan_and_infinities_through_every_form(device: EmulatedDevice) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 3e38, 1e-45], "float32")
    made = forms(8, 8)
    nodes = [n for name in made if name not in ("draws", "integers") for n in made[name]]
    arrays = given(nodes)
    for number, (key, array) in enumerate(arrays.items()):
        if array.dtype == "float32" and array.ndim == 2 and array.shape[1] == 8:
            arrays[key] = np.roll(special, number) * np.ones((8, 1), "float32")
            arrays[key][4:] = array[4:]
    check(device, nodes, arrays)


@pytest.mark.parametrize("columns", [5, 300, 70_000])
def test_labels_out_of_range(device: EmulatedDevice, columns: int) -> None:
    x, k = gx.input("x", (6, columns)), gx.input("k", (6, columns), "int32")
    labels = gx.input("labels", (6,), "int32")
    nodes = [
        gx.pick(x, labels), gx.pick(gx.exp(x), labels), gx.pick(k, labels),
        gx.one_hot(labels, columns), gx.softmax_cross_entropy(x, labels, "none"),
        gx.pick(gx.log_softmax(x), labels), gx.pick(gx.softmax(-x), labels),
    ]  # fmt: skip
    arrays = given(nodes)
    arrays["labels"] = np.array([0, columns, -1, 4, 2**31 - 1, -(2**31)], "int32")
    results = check(device, nodes, arrays)
    assert np.isnan(results[0]).tolist() == [False, True, True, False, True, True]


# -- loops that are apart, columns, chunks


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bfloat16"])
def test_reduced_loops_apart(device: EmulatedDevice, dtype: str) -> None:
    nodes: list[gx.Node] = []
    for i, shape in enumerate([(3, 5, 7), (2, 33, 65), (20, 3, 40), (40, 70, 3)]):
        x = gx.input(f"x{i}", shape, dtype)
        nodes += [x.sum((0, 2)), x.max((0, 2)), x.sum((0, 2), keepdims=True) + x, x.sum(1),
                  x.max((0, 1)), x.min((1, 2)), x.sum()]  # fmt: skip
        if x.type.is_float:
            powers = gx.exp(x - x.max((0, 2), keepdims=True))
            nodes += [powers / powers.sum((0, 2), keepdims=True), gx.var(x, (0, 2)), gx.std(x, 1)]
    y = gx.input("y", (3, 4, 5, 6), dtype)
    nodes += [y.sum((0, 2)), y.sum((1, 3)), y.max((0, 3)), y.min((0, 1, 3)), y.T.sum((0, 2))]
    check(device, nodes, given(nodes))


@pytest.mark.parametrize(
    "shape", [(6000, 33), (20_011, 7), (3, 4100, 37), (5, 70, 3, 40), (100_000, 1), (2, 40_000)],
    ids=str,
)  # fmt: skip
def test_columns_by_chunks(device: EmulatedDevice, shape: tuple[int, ...]) -> None:
    """Many rows, whole values stored beside the sums, and what follows from sums."""
    x, y = gx.input("x", shape), gx.input("y", shape)
    axis = 0 if len(shape) == 2 else 1
    h = gx.exp(0.1 * x)
    nodes = [h, h.sum(axis), (h * y).max(axis), (h - y).min(axis), gx.argmax(x, axis),
             x.mean(axis) * 3 + 1, gx.std(y, axis), gx.any(y > 4, axis)]  # fmt: skip
    check(device, nodes, given(nodes))


@pytest.mark.parametrize("shape", [(1 << 17,), (100_003,), (3, 50_001), (257, 513), (2, 3, 20_000)],
                         ids=str)  # fmt: skip
def test_full_reductions_by_chunks(device: EmulatedDevice, shape: tuple[int, ...]) -> None:
    x, y = gx.input("x", shape), gx.input("y", shape)
    h = gx.tanh(x) * y
    last = len(shape) - 1
    nodes = [h, h.sum(), (x * y).max(), gx.exp(0.1 * y).sum(last), gx.sqrt((x * x).sum()) + 1,
             gx.argmin(x), gx.all(x < 9), (x - x.mean()) / gx.std(x),
             (y * y).sum(last)]  # fmt: skip
    check(device, nodes, given(nodes))


# -- transposes and joins


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool", "bfloat16"])
def test_transposes(device: EmulatedDevice, dtype: str) -> None:
    nodes: list[gx.Node] = []
    sizes = [(33, 65), (8, 8), (9, 7), (31, 100), (100, 257), (1, 40), (32, 64)]
    for i, (m, n) in enumerate(sizes):
        x, y = gx.input(f"x{i}", (m, n), dtype), gx.input(f"y{i}", (n, m), dtype)
        t, back = x.T, x.T[::-1]
        nodes += [t, y == t, gx.where(y == t, t, y), back, x[1:, 2:].T,
                  gx.where(t == back, back, y)]  # fmt: skip
    c, d = gx.input("c", (3, 33, 20), dtype), gx.input("d", (2, 9, 35, 4), dtype)
    nodes += [c.transpose(axes) for axes in ((0, 2, 1), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1))]
    nodes += [d.transpose(axes) for axes in ((0, 2, 1, 3), (3, 2, 1, 0), (0, 3, 2, 1))]
    nodes += [c.transpose((2, 1, 0)) == c.transpose((2, 1, 0))[:, ::-1]]
    check(device, nodes, given_any(nodes))


def given_any(nodes: Sequence[gx.Node]) -> dict[str, np.ndarray]:
    """The same for bools, half of which are true."""
    arrays = given(nodes)
    return {k: a if a.dtype != bool else np.arange(a.size).reshape(a.shape) % 3 == 0
            for k, a in arrays.items()}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "float16"])
def test_joins(device: EmulatedDevice, dtype: str) -> None:
    x, y = gx.input("x", (7, 33), dtype), gx.input("y", (7, 33), dtype)
    row, none = gx.input("row", (1, 33), dtype), gx.input("none", (0, 33), dtype)
    nodes = [
        gx.concatenate([x, row, y, none, row]), gx.concatenate([x, y[:, ::-1], x.T[::-1].T], 1),
        gx.stack([x, y, x], 0), gx.stack([x, y], 1), gx.stack([x, y], 2), gx.pad(x, 1),
        gx.pad(x, ((0, 3), (2, 0))), gx.concatenate([none, none]), gx.pad(none, 2),
        gx.concatenate([gx.where(x == y, x, y)[1:], gx.pad(row, ((0, 4), (0, 0)))]),
    ]  # fmt: skip
    check(device, nodes, given_any(nodes), exact=True)


# -- products

PRODUCTS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1, 1), (1, 1)), ((1, 5), (5, 1)), ((2, 3), (3, 16)), ((17, 64), (64, 33)),
    ((3, 255), (255, 17)), ((65, 31), (31, 33)), ((4, 0), (0, 5)), ((0, 4), (4, 5)),
    ((4, 5), (5, 0)), ((5,), (5, 4)), ((4, 5), (5,)), ((5,), (5,)),
    ((3, 5, 7), (7, 4)), ((3, 5, 7), (3, 7, 4)),
    ((2, 3, 5, 7), (3, 7, 4)), ((2, 1, 5, 7), (3, 7, 4)), ((2, 1, 5, 7), (1, 3, 7, 4)),
    ((2, 3, 5, 7), (2, 3, 7, 4)), ((1, 3, 5, 7), (4, 1, 7, 4)), ((3, 0, 7), (7, 4)),
    ((0, 5, 7), (7, 4)), ((9, 5, 0), (0, 4)), ((5, 7), (9, 7, 4)), ((7,), (3, 7, 4)),
    ((3, 5, 7), (7,)),
]  # fmt: skip


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int32", "int64", "float16", "bfloat16"]
)  # fmt: skip
def test_products(device: EmulatedDevice, dtype: str) -> None:
    nodes = [
        gx.input(f"a{i}", a, dtype) @ gx.input(f"b{i}", b, dtype)
        for i, (a, b) in enumerate(PRODUCTS)
    ]
    check(device, nodes, given(nodes, seed=1))
    if not dtype.startswith("int"):
        after = [gx.relu(p * 0.5 + (p.ndim + 1)) for p in nodes]
        check(device, after, given(after, seed=1))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_products_of_views(device: EmulatedDevice, dtype: str) -> None:
    a, b, c = (gx.input(n, s, dtype) for n, s in
               (("a", (40, 24)), ("b", (24, 40)), ("c", (3, 24, 40))))  # fmt: skip
    nodes = [
        a.T @ b.T, a.T @ a, a @ a.T, b.T @ b, a[::-1] @ b, a[:, ::-1] @ b[::-1],
        a[::2, 1::3] @ b[1::3, ::-2], c @ a, c.transpose((0, 2, 1)) @ b, a @ c[::-1],
        c[:, ::-1].transpose((0, 2, 1)) @ c, c[1] @ a, a[0] @ b, a @ b[:, 0], a[:1] @ b,
        a[0].broadcast_to((5, 24)) @ b, a[:, 0][:, None].broadcast_to((40, 24)) @ b,
        gx.einsum("bij,kj->bik", c, b), (a @ b).T @ a, (c @ a).sum((0, 2)),
        (a @ b)[::-1] + (b.T @ a.T),
    ]  # fmt: skip
    check(device, nodes, given(nodes, seed=2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_attention(device: EmulatedDevice, dtype: str) -> None:
    """Heads lie apart: stacks with steps that do not follow each other."""
    q, k, v = (gx.input(n, (2, 9, 3, 5), dtype) for n in "qkv")  # batch, place, head, feature
    heads, keys = q.transpose((0, 2, 1, 3)), k.transpose((0, 2, 3, 1))
    scores = heads @ keys
    weights = gx.softmax(scores * 0.4) if dtype.startswith("float") else scores
    mixed = (weights @ v.transpose((0, 2, 1, 3))).transpose((0, 2, 1, 3)).reshape(2, 9, 15)
    one = v[:1].transpose((0, 2, 1, 3)).broadcast_to((2, 3, 9, 5))
    nodes = [scores, mixed, weights @ one, q.transpose((2, 0, 1, 3)) @ k.transpose((2, 0, 3, 1))]
    check(device, nodes, given(nodes, seed=3))


# -- sizes with names


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


def test_one_text_for_all_sizes(device: EmulatedDevice) -> None:
    x, y = gx.input("x", ("n", "m")), gx.input("y", ("n", "m"))
    labels = gx.input("labels", ("n",), "int32")
    loss = gx.softmax_cross_entropy(x, labels)
    nodes = [
        gx.exp(x.T) * 2, gx.softmax(x * y), (x * y).sum(0), gx.exp(x).sum(1), (x - y).max(), loss,
        gx.grad(loss, x), gx.argmax(x, 1), gx.argmin(y, 1), gx.concatenate([x, y]),
        gx.pad(x, 1), x + y.mean(0), x.reshape(-1)[::-1], gx.stack([x, y], 1).sum(0),
    ]  # fmt: skip
    exe = compiled(nodes)
    texts: set[str] = set()
    for n, m in ((3, 8), (8, 3), (33, 65), (5, 5), (60, 10), (2, 33_000), (300, 4)):
        arrays = {"x": rand(n, m), "y": rand(n, m)[::-1].copy(),
                  "labels": np.arange(n, dtype="int32") % m}  # fmt: skip
        results = in_every_order(device, lambda a=arrays: exe(a))
        for node, have, want in zip(nodes, results, gx.compile(nodes, backend="numpy")(arrays),
                                    strict=True):  # fmt: skip
            assert_close(have, want, f"{node} at {n} x {m}")
        texts.add(exe.source)
    assert len(texts) == 1


# -- training


def residual_step(batch: int | str = 12) -> Program:
    """Two blocks, each a layer norm and a layer around which its input goes."""
    rng = np.random.default_rng(2)
    x, target = gx.input("x", (batch, 20)), gx.input("target", (batch, 20))
    h, params = x, list[gx.Param]()
    for i in range(2):
        w, scale, shift = (
            gx.param(f"{n}{i}", (a + 0.2 * rng.standard_normal(s)).astype("float32"))
            for n, a, s in (("w", 0, (20, 20)), ("scale", 1, (20,)), ("shift", 0, (20,)))
        )
        middle = h - h.mean(1, keepdims=True)
        deviation = gx.sqrt((middle * middle).mean(1, keepdims=True) + 1e-5)
        h = h + gx.tanh((scale * middle / deviation + shift) @ w)
        params += [w, scale, shift]
    loss = ((h - target) * (h - target)).mean()
    return momentum(loss, params, {"x": rand(12, 20), "target": rand(12, 20)[::-1].copy()})


def in_steps(
    exe: Executable, program: Program, inputs: Sequence[dict[str, np.ndarray]]
) -> list[np.ndarray]:
    """The losses of steps from the parameters of the start, then the parameters."""
    start = {p: p.value for p in program.updates}
    losses = [exe(arrays)["loss"] for arrays in inputs]
    ends = [p.value for p in program.updates]
    for p, value in start.items():
        p.value = value
    return [*losses, *ends]


TRAINED = {
    "layers": training_step, "dropout": dropout_step, "residual": residual_step,
    "symbolic": lambda: residual_step("batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_ten_steps_of_training(device: EmulatedDevice, name: str) -> None:
    program = TRAINED[name]()
    options: Any = {"training": True, "seed": 5}
    inputs = [program.inputs] * 10
    if name == "symbolic":
        sizes = (12, 5, 12, 1, 7, 12, 5, 9, 2, 12)
        inputs = [{k: a[:n] for k, a in program.inputs.items()} for n in sizes]
    reference = gx.compile(program.outputs, updates=program.updates, backend="numpy", **options)
    several = iter([compiled(program.outputs, program.updates, **options) for _ in ORDERS])
    expected = in_steps(reference, program, inputs)
    made = in_every_order(device, lambda: in_steps(next(several), program, inputs))
    assert expected[9] < 0.9 * expected[0]
    for have, want in zip(made, expected, strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-5)


# -- two ways to run, and many steps at once


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("name", TRAINED)
def test_replayed_equals_direct(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = TRAINED[name]()
    made: list[list[np.ndarray]] = []
    for replayed in (True, False):
        monkeypatch.setattr(cuda_runner, "is_replayed", lambda _, r=replayed: r)
        exe = compiled(program.outputs, program.updates, training=True, seed=1)
        made.append(in_steps(exe, program, [program.inputs] * 3))
        start = {p: p.value for p in program.updates}
        many = exe.run_many({k: np.stack([a] * 3) for k, a in program.inputs.items()})["loss"]
        again = [p.value for p in program.updates]
        for p, value in start.items():
            p.value = value
        fresh = compiled(program.outputs, program.updates, training=True, seed=1)
        for _ in range(3):
            fresh(program.inputs)  # as far as the draws are
        for p, value in start.items():
            p.value = value
        assert_same(in_steps(fresh, program, [program.inputs] * 3), [*many, *again])
    assert_same(made[0], made[1])


@pytest.mark.usefixtures("device")
def test_random_graphs_run_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    program = merged([random_graph(seed) for seed in range(AT_ONCE)])
    stacked = {k: np.stack([a] * 3) for k, a in program.inputs.items()}
    start = {p: p.value for p in program.updates}
    seen: list[list[np.ndarray]] = []
    for replayed in (True, False):
        monkeypatch.setattr(cuda_runner, "is_replayed", lambda _, r=replayed: r)
        exe = compiled(program.outputs, program.updates)
        one = [list(exe(program.inputs).values()) for _ in range(3)]
        seen.append([*map(np.stack, zip(*one, strict=True)), *(p.value for p in start)])
        for p, value in start.items():
            p.value = value
        many = exe.run_many(stacked)
        seen.append([*many.values(), *(p.value for p in start)])
        for p, value in start.items():
            p.value = value
    for other in seen[1:]:
        assert_same(other, seen[0])


# -- errors planted into generated text


def symptoms(device: EmulatedDevice, nodes: Sequence[gx.Node]) -> str:
    """What a run in every order finds, in words; "" if nothing is wrong."""
    arrays = given(nodes)
    exe = compiled(nodes)
    expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    found: set[str] = set()
    first: list[np.ndarray] = []
    for order in ORDERS:
        device.order = order
        try:
            made = exe(arrays)
        except EmulatorError as error:
            found.add(str(error))
            continue
        first = first or made
        if any(a.tobytes() != b.tobytes() for a, b in zip(made, first, strict=True)):
            found.add("the orders differ")
        if any(disagreement(a, b) for a, b in zip(made, expected, strict=True)):
            found.add("other values than NumPy's")
    return "; ".join(sorted(found))


def long_row() -> list[gx.Node]:
    return [gx.var(gx.input("x", (3, 5000)), 1)]  # joined twice by one record


def columns() -> list[gx.Node]:
    return [gx.input("x", (40, 50)).sum(0)]


def turned() -> list[gx.Node]:
    return [gx.exp(gx.input("x", (600, 560)).T)]  # more tiles than blocks


def vectors() -> list[gx.Node]:
    return [gx.exp(gx.input("x", (16, 64)))]


def elements() -> list[gx.Node]:
    return [gx.input("x", (7, 33)) * gx.input("row", (33,))]


def search() -> list[gx.Node]:
    return [gx.argmax(gx.input("x", (3, 5000)), 1)]


def chunks() -> list[gx.Node]:
    return [gx.input("x", (1 << 17,)).sum()]


def integers() -> list[gx.Node]:
    return [gx.input("a", (20, 40), "int32") @ gx.input("b", (40, 32), "int32")]


DIFFER = "the orders differ"
WRONG = "other values"
PLANTED = [  # a program, what is replaced, by what, and what must be found
    (long_row, r"__syncthreads\(\); /\* the last use of `warps` is over \*/", "", DIFFER),
    (long_row, r"(warps\[threadIdx.x / 32\] = x;\s+)__syncthreads\(\);", r"\1", WRONG),
    (long_row, r"warp < threads / 32;", "warp <= threads / 32;", r"outside the array|differ|other"),
    (long_row, r"step > 0; step /= 2\)(\s+x = R)", r"step > 1; step /= 2)\1", WRONG),
    (search, r"(places\[threadIdx.x / 32\] = x.place;\s+\}\s+)__syncthreads\(\);", r"\1", DIFFER),
    (columns, r"(_tile\[y\]\[x\] = \w+;\s+)__syncthreads\(\);", r"\1", DIFFER),
    (columns, r"n < 8; n\+\+", "n <= 8; n++", "outside the array in line"),
    (columns, r"(int i = y; i <) ", r"\1= ", "bytes past the end"),
    (turned, r"(\}\s+\}\s+)__syncthreads\(\);(\s+for \(int n = y)", r"\1\2", DIFFER),
    (turned, r"__syncthreads\(\);(\s+\}\s+\}\s*$)", r"\1", DIFFER),
    (turned, r"(_tile)\[x\]\[n\]", r"\1[n][x]", WRONG),
    (vectors, r"(gx_load<4>\(&x\w*\[i0)\]", r"\1 + 1]", "misaligned access in line"),
    (vectors, r"(gx_store\(&\w+\[i0)\]", r"\1 + 2]", "misaligned access in line"),
    (vectors, r"(gx_load<4>\(&x\w*\[i0)\]", r"\1 + 4]", "(access to|read of) address"),
    (vectors, r"(int v = gx_first<int>\(\); v <) ", r"\1= ", "address .* bytes past the end"),
    (vectors, r"e < 4; e", "e <= 4; e", "index 4 is outside the array in line"),
    (elements, r"(= x\w*\[33 \* i \+ j)\]", r"\1 + 1]", WRONG),
    (elements, r"(= x\w*\[33 \* i \+ j)\]", r"\1 - 40]", "access to address|other values"),
    (elements, r"(to_\w+\[33 \* i \+ j)\] =", r"\1 + 1] =", "a write: 0 bytes past the end"),
    (elements, r"const (int i = v / 33)", r"const \1 * (v > 0 ? 1 : v / (v - v))", "by zero"),
    (chunks, r"(i0 < )(\d+)(; i0 \+= 1024 \*)", r"\g<1>4 + \2\3", "past the end|other"),
    (integers, r"(\[x\]\);\s+)__syncthreads\(\);(\s+\}\s+if \(i < m)", r"\1\2", DIFFER),
    (integers, r"(: T\(0\);\s+)__syncthreads\(\);", r"\1", DIFFER),
    (integers, r"q < k && j < n", "q <= k && j < n", "bytes past the end"),
]  # fmt: skip


@pytest.mark.parametrize("build", dict.fromkeys(row[0] for row in PLANTED))
def test_nothing_is_wrong_with_what_errors_are_planted_in(
    device: EmulatedDevice, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_runner, "is_replayed", lambda _: False)
    assert symptoms(device, build()) == ""


@pytest.mark.parametrize(("build", "old", "new", "wanted"), PLANTED)
def test_planted_errors_are_found(
    device: EmulatedDevice, build: Any, old: str, new: str, wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cuda_runner, "is_replayed", lambda _: False)  # each array between guards

    def load(text: str) -> Module:
        before, step, after = text.partition("/* What surrounds")
        changed, count = re.subn(old, new, before.rstrip())
        assert count, "nothing to replace"
        return Module(changed + step + after)

    monkeypatch.setattr(device, "load", load)
    found = symptoms(device, build())
    assert re.search(wanted, found), found or "nothing was found"
