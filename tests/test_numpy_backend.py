"""The NumPy backend: the same bits on any number of threads, no allocation, any array as input."""

from __future__ import annotations

import multiprocessing
import tracemalloc
import warnings
import weakref
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from programs import EACH, assert_same, forms, given, in_threads, training_step

import graphc as gx
from graphc.backends import numpy_backend, numpy_kernel, numpy_text
from graphc.evaluate import evaluate
from graphc.executable import Executable
from graphc.rewrite.rules import RULES
from graphc.testing import assert_close, random_graph

NAMES = list(forms(3, 3))


# -- threads


def cut_into_blocks(monkeypatch: pytest.MonkeyPatch, points: int = numpy_kernel.BLOCK) -> None:
    """Let kernels of more than so many points run in blocks, and on threads whatever they cost."""
    monkeypatch.setattr(numpy_kernel, "BLOCK", points)
    monkeypatch.setattr(numpy_text, "THREADED", 0)


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_for_any_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_blocks(monkeypatch, 64)
    nodes = forms(37, 5)[name]
    arrays = given(nodes)
    one, two, five = (
        gx.compile(nodes, threads=n, training=True, backend="numpy") for n in (1, 2, 5)
    )
    for _ in range(3):
        want = one(arrays)
        assert_same(two(arrays), want, name)
        assert_same(five(arrays), want, name)
    draws = any(n.op.kind.value == "random" for n in one.graph.nodes)
    if not draws:
        whole = evaluate(nodes, {n: arrays[n.name] for n in one.graph.inputs})
        for have, expected in zip(want, whole, strict=True):
            assert_close(have, expected, name)


def test_same_bits_in_blocks_of_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_blocks(monkeypatch)
    n = 3 * numpy_kernel.BLOCK // 100 + 17
    x = gx.input("x", (n, 100))
    y = gx.sin(gx.tanh(x) * gx.exp(x)) ** 3
    nodes = [y.sum(), y.sum(0), gx.softmax(y)[::1000], gx.random_normal((n, 100)).max(1)]
    arrays = given(nodes)
    one, five = (
        gx.compile(nodes, threads=1, backend="numpy"),
        gx.compile(nodes, threads=5, backend="numpy"),
    )
    assert "run_blocks" in five.source
    assert_same(five(arrays), one(arrays))
    assert_same(five(arrays), one(arrays))


def repeat(exe: Executable, x: np.ndarray, want: np.ndarray, times: int = 30) -> Callable[[], None]:
    def call() -> None:
        for _ in range(times):
            assert_same([exe(x=x)], [want])

    return call


@pytest.mark.parametrize("rows", [3, 5000])  # small inputs are copied, large ones bound anew
def test_threads_call_one_program_at_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_blocks(monkeypatch)
    x = gx.input("x", ("rows", 20))
    p = gx.param("p", np.linspace(0, 1, 20, dtype="float32"))
    exe = gx.compile(gx.softmax(x * p) + x.mean(0), threads=2, backend="numpy")
    other = gx.compile(gx.softmax(x * p) + x.mean(0), threads=2, backend="numpy")  # shares p
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((rows + i, 20)).astype("float32") for i in (0, 0, 1)]
    wanted = [other(x=a) for a in arrays]
    times = 30 if rows < 100 else 8
    pairs = [
        (program, a, w) for program in (exe, other) for a, w in zip(arrays, wanted, strict=True)
    ]
    in_threads([repeat(program, a, w, times) for program, a, w in pairs])


def in_a_child(exe: Executable, x: np.ndarray, want: np.ndarray) -> None:
    for _ in range(3):
        assert_same([exe(x=x)], [want])


def test_a_forked_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has no threads but its own: a program that was prepared before runs there, too."""
    cut_into_blocks(monkeypatch, 1000)
    x = gx.input("x", (100, 100))
    exe = gx.compile(gx.tanh(x) * 2, threads=3, backend="numpy")
    array = np.random.default_rng(0).standard_normal((100, 100)).astype("float32")
    want = exe(x=array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads
        child = multiprocessing.get_context("fork").Process(
            target=in_a_child, args=(exe, array, want)
        )
        child.start()
    child.join(10)
    child.kill()  # a child that waits for threads it does not have would stay for ever
    child.join()
    assert child.exitcode == 0
    assert_same([exe(x=array)], [want])


# -- allocation


def peak_nbytes(call: Callable[[], Any]) -> int:
    """The most bytes that one call holds at once, results included."""
    call(), call()
    tracemalloc.start()
    try:
        call()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        assert result is not None
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def arrays_left(call: Callable[[], Any]) -> list[int]:
    """Sizes of NumPy's allocations that a call leaves behind."""
    call(), call()
    numpy_only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    tracemalloc.start()
    try:
        result = call()
        assert result is not None
        snapshot = tracemalloc.take_snapshot().filter_traces([numpy_only])
        return sorted(trace.size for trace in snapshot.traces)
    finally:
        tracemalloc.stop()


def test_a_call_allocates_nothing_but_its_results() -> None:
    """The digits step at two batch sizes. What remains is Python's own (3 KB) and the buffers of
    8192 elements that NumPy's iterators take for some broadcasts, whatever the size: two of 32 KB.
    The smallest value of a layer would be 82 KB at a batch of 2048, all of them 1.6 MB."""
    for batch in (64, 2048):
        program = training_step(batch=batch)
        exe = gx.compile(program.outputs, updates=program.updates, threads=1, backend="numpy")
        assert arrays_left(lambda: exe(program.inputs)) == [4]  # noqa: B023 -- the loss
        assert peak_nbytes(lambda: exe(program.inputs)) < 72_000  # noqa: B023


@pytest.mark.parametrize("name", [n for n in NAMES if n != "draws"])  # Philox makes its words
def test_forms_allocate_nothing_but_their_results(name: str) -> None:
    for nodes in ([n] for n in forms(6000, 20)[name] if n.shape != () or name == "full"):
        arrays = given(nodes)
        exe = gx.compile(nodes, threads=1, backend="numpy")
        (result,) = exe(arrays)
        assert arrays_left(lambda: exe(arrays)) in ([result.nbytes], []), nodes[0]  # noqa: B023
        extra = peak_nbytes(lambda: exe(arrays)) - result.nbytes  # noqa: B023
        assert extra < 110_000, (extra, nodes[0])  # a value of all elements has 480 KB


# -- inputs


X, K, S = gx.input("x", (6, 4)), gx.input("k", (5,), "int32"), gx.input("s", ())
LARGE = gx.input("large", (300, 200))
PLAIN = np.arange(24, dtype="float32").reshape(6, 4) - 7
WIDE = np.arange(60_000, dtype="float32").reshape(300, 200)


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, "uint8")
    raw[1:] = np.frombuffer(array.tobytes(), "uint8")
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    assert not moved.flags.aligned
    return moved


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def spread(array: np.ndarray) -> np.ndarray:
    """The array as every third element of a larger one."""
    large = np.full((array.shape[0] * 2, array.shape[1] * 3), np.nan, array.dtype)
    large[::2, ::3] = array
    return large[::2, ::3]


class Wrapped:
    """Something that NumPy makes an array of."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array.copy()


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "contiguous": lambda a: a,
    "column-major": np.asfortranarray,
    "transposed": lambda a: a.T.copy().T,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": spread,
    "read-only": read_only,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "unaligned": unaligned,
    "big-endian": lambda a: a.astype(">f4"),
    "float64": lambda a: a.astype("float64"),
    "float16": lambda a: a.clip(-99, 99).astype("float16"),
    "int64": lambda a: a.astype("int64"),
    "bool": lambda a: a > 3,
    "lists": lambda a: a.tolist(),
    "a subclass": lambda a: a.view(np.memmap),
    "__array__": Wrapped,
    "memoryview": lambda a: memoryview(a),
}


@EACH
@pytest.mark.parametrize("name", ARRAYS)
def test_inputs_of_any_layout(name: str) -> None:
    exe = gx.compile([X * 2 + 1, X.T @ X, X.sum(1), X])
    big = gx.compile([LARGE * 2 + 1, LARGE.sum(1), LARGE])
    for program, node, plain in ((exe, X, PLAIN), (big, LARGE, WIDE)):
        array = ARRAYS[name](plain)
        meant = np.asarray(array).astype("float32")
        expected = evaluate([n for _, n in program.graph.outputs], {node: meant})
        for _ in range(2):
            for have, want in zip(program({node.name: array}), expected, strict=True):
                assert_close(have, want, name)
        assert np.array_equal(np.asarray(array), ARRAYS[name](plain)) or name == "__array__"


@EACH
def test_scalars_and_integers() -> None:
    exe = gx.compile([K + 1, S * 2])
    for s in (3, 3.0, True, np.float64(3), np.int64(3), np.array(3), np.array(3, ">i2")):
        k, doubled = exe(k=range(5), s=s)
        assert k.tolist() == [1, 2, 3, 4, 5]
        assert (k.dtype, doubled.dtype, doubled.shape) == ("int32", "float32", ())
        assert doubled == 2 * s
    (k, _) = exe(k=np.arange(5, dtype="uint8"), s=1e300)
    assert k.dtype == "int32"
    assert exe(k=[0] * 5, s=1e300)[1] == np.inf  # as NumPy casts, without a warning


@EACH
def test_large_inputs_that_change_in_place_are_seen() -> None:
    exe = gx.compile(LARGE.sum())
    array = np.ones((300, 200), "float32")
    assert exe(large=array) == 60_000
    array *= 2
    assert exe(large=array) == 120_000
    array = np.ones((300, 200), "float32")
    assert exe(large=array) == 60_000


# -- results


@EACH
@pytest.mark.parametrize(("node", "plain"), [(X, PLAIN), (LARGE, WIDE)], ids=["small", "large"])
def test_results_are_fresh(node: gx.Node, plain: np.ndarray) -> None:
    p = gx.param("p", plain)
    y = gx.exp(node / 1e5)
    exe = gx.compile([y, y, node, p, y.reshape(-1), node.T, p[1:], y + 1], updates={p: p + 1})
    arrays = {node.name: plain.copy()}
    first = exe(arrays)
    copies = [r.copy() for r in first]
    assert not any(np.shares_memory(one, other) for one, other in combinations(first, 2))
    assert all(r.flags.writeable for r in first)
    second = exe(arrays)
    assert_same(first, copies)  # the next call writes elsewhere
    if exe.backend not in ("numpy", "native"):
        return  # a device may still be reading what was given
    dropped = weakref.ref(second.pop(0)), weakref.ref(arrays.pop(node.name))
    assert [array() for array in dropped] == [None, None]  # the program keeps neither
    arrays = {node.name: plain.copy()}
    memory = [*first, *second, arrays[node.name], p.storage.array]
    for i, a in enumerate(memory):
        assert not any(np.shares_memory(a, b) for b in memory[:i])
    for r in second:  # they are the caller's to change
        r[...] = -1
    assert_same(exe(arrays)[:3], copies[:3])
    assert np.array_equal(arrays[node.name], plain)


# -- sizes of zero, and no dimensions


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (1, 1), (1, 7), (7, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_thin_and_empty_tensors(name: str, shape: tuple[int, int]) -> None:
    for node in forms(*shape)[name]:
        arrays = given([node])
        exe = gx.compile(node, training=True, backend="numpy")
        result = exe(arrays)
        assert (result.shape, result.dtype) == (node.shape, node.dtype)
        if name != "draws":
            (want,) = evaluate([node], {n: arrays[n.name] for n in exe.graph.inputs})
            assert_close(result, want, name)


@EACH
def test_reductions_of_constants() -> None:
    """The rules fold these; without them they are computed."""
    two = gx.const(2.0).broadcast_to((5, 3))
    nodes = [two.sum(1), gx.prod(two, 0), two.max(), gx.pick(two, gx.const([0, 1, 2, 3, -1]))]
    exe = gx.compile(nodes, rules={rule.name: False for rule in RULES})
    for have, want in zip(exe(), evaluate(nodes), strict=True):
        assert_close(have, want)


@EACH
def test_empty_views_beyond_the_end() -> None:
    x = gx.input("x", (4, 1))
    nodes = [x[::-1, 1:], gx.exp(x[4:]), gx.pad(x[:, 1:] + 1, 1), x[::-1, 1:].sum(0)]
    exe = gx.compile(nodes)
    array = np.ones((4, 1), "float32")
    for have, want in zip(exe(x=array), evaluate(nodes, {x: array}), strict=True):
        assert_close(have, want)


@EACH
def test_no_dimensions() -> None:
    t, u = gx.input("t", ()), gx.input("u", (1, 1, 1))
    y = gx.where(t > u, gx.tanh(t) * 3, u - 1)
    outputs = [y, y.sum(), gx.softmax(u), t * 2, gx.grad(y.sum(), t), u.reshape(()), gx.exp(t)]
    exe = gx.compile(outputs)
    values = {"t": np.float32(0.5), "u": np.full((1, 1, 1), 0.25, "float32")}
    expected = evaluate(outputs, {n: np.asarray(values[n.name]) for n in exe.graph.inputs})
    for have, want in zip(exe(values), expected, strict=True):
        assert isinstance(have, np.ndarray)
        assert_close(have, want)


# -- NaN and infinities


@pytest.mark.parametrize("block", [numpy_kernel.BLOCK, 16])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("draws", "integers")])
def test_nan_and_infinities_as_numpy(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without warnings."""
    monkeypatch.setattr(numpy_kernel, "BLOCK", block)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 3e38, 1e-45], "float32")
    nodes = forms(8, 8)[name]
    arrays = given(nodes)
    for number, (key, array) in enumerate(arrays.items()):
        if array.dtype == "float32" and array.ndim == 2 and array.shape[1] == 8:
            arrays[key] = np.roll(special, number) * np.ones((8, 1), "float32")
            arrays[key][4:] = array[4:]
    exe = gx.compile(nodes, rules={}, backend="numpy")
    expected = evaluate(nodes, {n: arrays[n.name] for n in exe.graph.inputs})
    for have, want in zip(exe(arrays), expected, strict=True):
        assert_close(have, want, name)


def test_labels_out_of_range() -> None:
    x, labels = gx.input("x", (4, 3)), gx.input("labels", (4,), "int32")
    exe = gx.compile([gx.pick(x, labels), gx.one_hot(labels, 3).sum(1)], backend="numpy")
    picked, hot = exe(x=np.ones((4, 3)), labels=[0, 3, -1, 2])
    assert np.array_equal(picked, [1, np.nan, np.nan, 1], equal_nan=True)
    assert hot.tolist() == [1, 0, 0, 1]


# -- the generated text


HARD_NAMES = [
    "add", "lambda", "None", "exp", "erf", "where", "negative", "maximum_reduce", "evaluate",
    "copyto", "matmul", "step", "lo", "worker", "run_blocks", "float32", "x y", "é", "1x", "",
    "__name__", "add_0", 'quote"s', "new\nline", "k0_add_block",
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in HARD_NAMES if n])
def test_any_name_of_an_input_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (numpy_kernel.BLOCK, 4):
        monkeypatch.setattr(numpy_kernel, "BLOCK", block)
        x, p = gx.input(name, (3, 4)), gx.param(f"{name}_2", np.ones(4, "float32"))
        y = gx.where(x + p > 0, gx.erf(gx.exp(x)) - gx.maximum(-x, 1), 0) @ np.ones(
            (4, 2), "float32"
        )
        exe = gx.compile([y, y.max(), gx.argmax(x, 1)], updates={p: p + y.sum()}, backend="numpy")
        array = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
        expected = evaluate([y, y.max(), gx.argmax(x, 1)], {x: array})
        for have, want in zip(exe({name: array}), expected, strict=True):
            assert_close(have, want)


def test_the_source_is_what_runs_and_can_be_read() -> None:
    program = training_step()
    exe = gx.compile(program.outputs, updates=program.updates, backend="numpy")
    compile(exe.source, "source", "exec")
    for kernel in exe.kernels:
        assert f"# {kernel.name}: " in kernel.source
        for line in kernel.source.splitlines():
            assert line.strip() in exe.source
    assert (
        exe.source == gx.compile(program.outputs, updates=program.updates, backend="numpy").source
    )


def test_long_programs_are_many_functions() -> None:
    """A function of 100 000 lines takes Python seconds to compile: each kernel is one then."""
    x = gx.input("x", (3,))
    y = x
    for k in range(numpy_backend.INLINE + 100):
        y = gx.sin(y) if k % 2 else y * 1.01
    exe = gx.compile(y, backend="numpy")
    assert exe.source.count("def ") > 5
    array = np.ones(3, "float32")
    assert_close(exe(x=array), evaluate([y], {x: array})[0])


@pytest.mark.parametrize("part", range(2))
def test_random_graphs_on_many_threads(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into_blocks(monkeypatch, 8)
    for seed in range(300 + part, 340, 2):
        graph = random_graph(seed)
        one = gx.compile(graph.outputs, threads=1, backend="numpy")
        many = gx.compile(graph.outputs, threads=3, backend="numpy")
        arrays = {n.name: graph.values[n.name] for n in one.graph.inputs}
        assert_same(many(arrays).values(), one(arrays).values(), f"seed {seed}")
