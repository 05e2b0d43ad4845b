"""The native backend at work: threads, sizes, forks, interrupts, missing compilers, its text."""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.training_step import step, symbolic
from programs import assert_same, forms, given, in_threads, training_step

import graphc as gx
from graphc.backends import native_backend, native_parts
from graphc.backends.native_parts import Step
from graphc.backends.toolchain import find_toolchain
from graphc.codegen import host_function, host_products, shape
from graphc.codegen.sources import splice
from graphc.evaluate import evaluate
from graphc.executable import Executable
from graphc.testing import assert_close, random_graph

native = pytest.mark.usefixtures("native")
shared_out = pytest.mark.usefixtures("native", "shared_out")


def compiled(outputs: Any, **options: Any) -> Executable:
    return gx.compile(outputs, backend="native", **options)


# -- the same bits for any number of threads


def run_steps(exe: Executable, inputs: dict[str, np.ndarray], steps: int = 5) -> list[np.ndarray]:
    """Outputs of each step and the parameters at the end; these then have their old values."""
    before = {p: p.value for p in exe.graph.params}
    made = [array for _ in range(steps) for array in exe(inputs).values()]
    made += [p.value for p in before]
    for p, value in before.items():
        p.value = value
    return made


@shared_out
@pytest.mark.parametrize("sizes", [(64, 128, 64, 10), (30, 17, 5), (784, 300, 10)], ids=str)
def test_training_steps_have_the_same_bits_on_any_number_of_threads(sizes: Any) -> None:
    program = training_step(sizes, batch=65)
    made = [
        run_steps(compiled(program.outputs, updates=program.updates, threads=n), program.inputs)
        for n in (1, 2, 5, 16)
    ]
    for other in made[1:]:
        assert_same(other, made[0])
    reference = gx.compile(program.outputs, updates=program.updates, backend="numpy")
    for have, want in zip(made[0], run_steps(reference, program.inputs), strict=True):
        assert_close(have, want)


@native
def test_a_large_step_is_shared_as_it_is() -> None:
    """With the grain that users have."""
    program = training_step((300, 700, 500, 10), batch=200)
    several = [compiled(program.outputs, updates=program.updates, threads=n) for n in (1, 2, 3)]
    steps = several[1]._latest.runner.steps  # type: ignore[union-attr]
    assert max(s.parts for s in steps) == 2
    one, *others = (run_steps(exe, program.inputs) for exe in several)
    for other in others:
        assert_same(other, one)


@shared_out
def test_dropout_in_a_step_has_the_same_bits_on_any_number_of_threads() -> None:
    x, w = (
        gx.input("x", (70, 40)),
        gx.param("w", np.linspace(-1, 1, 1600, dtype="float32").reshape(40, 40)),
    )
    loss = gx.square(gx.dropout(gx.tanh(gx.dropout(x, 0.8) @ w), 0.5)).mean()
    updates = {w: w - 0.1 * gx.grad(loss, w)}
    inputs = {"x": np.random.default_rng(0).standard_normal((70, 40)).astype("float32")}
    made = [
        run_steps(compiled({"loss": loss}, updates=updates, threads=n, seed=4), inputs)
        for n in (1, 2, 5)
    ]
    assert_same(made[1], made[0])
    assert_same(made[2], made[0])


def layers(n: int = 400) -> tuple[list[gx.Node], dict[str, np.ndarray]]:
    """Launches that read what all threads wrote just before."""
    x = gx.input("x", (n, n))
    y = gx.exp(x - x.mean(0))
    for _ in range(4):
        y = gx.softmax(y.T @ gx.tanh(y) / n) - y.mean(0)
    nodes = [y, y.sum(0)]
    return nodes, given(nodes)


def chunks() -> tuple[list[gx.Node], dict[str, np.ndarray]]:
    """Long sums, whose parts are joined by a launch of the same kernel."""
    x = gx.input("x", (1500, 400))
    nodes = [gx.tanh(x).sum(), gx.exp(x).sum(0)]
    return nodes, given(nodes)


def late(exe: Executable) -> None:
    """Let every part but the first start late, whichever thread runs it."""
    runner: Any = exe._latest.runner  # type: ignore[union-attr]
    launch = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )

    def delayed(address: int) -> Any:
        run = launch(address)

        def wait_and_run(call: int, at: int, part: int, parts: int) -> None:
            if part:
                time.sleep(0.01)
            run(call, at, part, parts)

        return launch(wait_and_run)

    for record in runner._steps:
        function = delayed(record.run)
        runner._keep.append(function)
        record.run = ctypes.cast(function, ctypes.c_void_p).value


@native
@pytest.mark.parametrize("build", [layers, chunks], ids=lambda f: f.__name__)
def test_a_missing_barrier_is_noticed(
    build: Callable[[], tuple[list[gx.Node], dict[str, np.ndarray]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that agreement of results on one and on two threads says something."""
    nodes, arrays = build()
    turns = [arrays, {name: a * np.float32(0.9) for name, a in arrays.items()}] * 2
    alone = compiled(nodes, threads=1)
    wanted = [alone(turn) for turn in turns]
    good = compiled(nodes, threads=2)
    inner = native_backend.plan_steps

    def without(*args: Any) -> list[Step]:
        return [Step(s.parts, barrier=False) for s in inner(*args)]

    monkeypatch.setattr(native_backend, "plan_steps", without)
    bad = compiled(nodes, threads=2)
    assert any(s.barrier for s in good._latest.runner.steps)  # type: ignore[union-attr]
    late(good)
    late(bad)
    for turn, want in zip(turns, wanted, strict=True):
        assert_same(good(turn), want)
    different = [
        any(a.tobytes() != b.tobytes() for a, b in zip(bad(turn), want, strict=True))
        for turn, want in zip(turns, wanted, strict=True)
    ]
    assert any(different), "the same bits without a barrier, though parts came late"


def repeated(exe: Executable, arrays: Any, want: Any, times: int = 20) -> Callable[[], None]:
    def call() -> None:
        for _ in range(times):
            assert_same(exe(arrays), want)

    return call


@shared_out
def test_python_threads_call_programs_at_once() -> None:
    """One and the same, and different ones, which all ask for the one team."""
    nodes, arrays = layers(120)
    other = [gx.softmax(n) * 2 for n in nodes]
    programs = [(nodes, compiled(nodes, threads=t)) for t in (2, 3)]
    programs += [(other, compiled(other, threads=t)) for t in (2, 1)]
    alone = {id(outputs): compiled(outputs, threads=1)(arrays) for outputs, _ in programs}
    calls = [repeated(exe, arrays, alone[id(outputs)]) for outputs, exe in programs]
    in_threads([*calls, *calls])


@shared_out
def test_programs_are_dropped_while_others_run() -> None:
    nodes, arrays = layers(60)
    exe = compiled(nodes, threads=2)
    want = exe(arrays)

    def make_and_drop() -> None:
        for k in range(8):
            x = gx.input("x", (50 + k, 33))
            short = compiled([gx.tanh(x).sum(0)], threads=2)
            short(x=np.ones((50 + k, 33), "float32"))
            del short
            gc.collect()

    in_threads([repeated(exe, arrays, want, 60), make_and_drop])


@shared_out
def test_params_are_shared_between_threads() -> None:
    """Every update counts, whichever program and thread makes it."""
    p, q = gx.param("p", np.zeros((90, 70))), gx.param("q", np.zeros((70,)))
    both = compiled([], updates={p: p + 1, q: q + 1}, threads=2)
    one = compiled([p.max() - p.min()], updates={p: p + 2}, threads=3)

    def call(exe: Executable) -> Callable[[], None]:
        def run() -> None:
            for _ in range(50):
                assert all(float(spread) == 0 for spread in exe())

        return run

    in_threads([call(both), call(one), call(both)])
    assert np.unique(p.value).tolist() == [200]
    assert np.unique(q.value).tolist() == [100]


# -- symbolic sizes


@pytest.fixture
def compiler_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each run of the compiler from here on."""
    runs: list[Any] = []
    inner = native_backend.compile_object

    def counted(*args: Any, **options: Any) -> None:
        runs.append(args)
        inner(*args, **options)

    monkeypatch.setattr(native_backend, "compile_object", counted)
    return runs


def symbolic_step() -> tuple[dict[str, gx.Node], dict[Any, gx.Node]]:
    """A step of training over a batch of any size, with constants that depend on it."""
    rng = np.random.default_rng(0)
    x, t = gx.input("x", ("batch", 12)), gx.input("t", ("batch",), "int32")
    w0 = gx.param("w0", rng.standard_normal((12, 20)).astype("float32"))
    w1 = gx.param("w1", rng.standard_normal((20, 5)).astype("float32"))
    logits = gx.relu(x @ w0) @ w1
    loss = gx.softmax_cross_entropy(logits, t)
    total = gx.softmax_cross_entropy(logits, t, "sum") / x.shape[0]
    updates = {w: w - 0.1 * g for w, g in zip((w0, w1), gx.grad(loss, [w0, w1]), strict=True)}
    outputs = {
        "loss": loss, "total": total, "mean": x.mean(), "columns": x.mean(0), "var": gx.var(x, 0),
        "scaled": x * 3 / (x.shape[0] + 1), "flat": (x / 7).reshape(-1), "gram": x @ x.T,
        "twice": gx.concatenate([x, x[::-1]]), "normal": (x - x.mean(0)) / (gx.std(x, 0) + 0.01),
    }  # fmt: skip
    return outputs, updates


def batch_of(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {"x": rng.standard_normal((n, 12)).astype("float32"),
            "t": rng.integers(0, 5, n).astype("int32")}  # fmt: skip


def check_batch(exe: Executable, n: int) -> None:
    outputs, updates = dict(exe.graph.outputs), dict(exe.graph.updates)
    arrays = batch_of(n)
    bound = gx.compile(outputs, updates=updates, backend="numpy", sizes={"batch": n})
    before = {p: p.value for p in exe.graph.params}
    want = run_steps(bound, arrays, 1)
    made = [*exe(arrays).values(), *(p.value for p in before)]
    names = [*outputs, *(p.name for p in before)]
    for name, have, expected in zip(names, made, want, strict=True):
        assert_close(have, expected, f"{name} of a batch of {n}")


@native
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "sizes",
    [(33, 69, 130, 5000, 33), (64, 32, 7, 100, 5000)],
    ids=["some", "any"],
)
def test_a_new_batch_size_needs_no_compiler(
    sizes: tuple[int, ...],
    threads: int,
    compiler_runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native_parts, "GRAIN", 1e-15)
    native_backend._loaded.clear()
    outputs, updates = symbolic_step()
    exe = compiled(outputs, updates=updates, threads=threads)
    check_batch(exe, sizes[0])
    assert compiler_runs
    compiler_runs.clear()
    for n in sizes[1:]:
        check_batch(exe, n)
        assert not compiler_runs, f"a batch of {n} was compiled anew"
    for n in (1, 0, 2, 64):  # these may be compiled: rules fold what has one element
        check_batch(exe, n)


@native
def test_equal_programs_are_compiled_once(compiler_runs: list[Any]) -> None:
    x = gx.input("x", (31, 7))
    nodes = [gx.tanh(x * 1.2345).sum(0)]
    arrays = given(nodes)
    first = compiled(nodes)(arrays)
    assert len(compiler_runs) <= 2  # the program, and the runtime if this is the first one
    compiler_runs.clear()
    assert_same(compiled(nodes)(arrays), first)
    native_backend._loaded.clear()  # as in another process, which finds the object on the disk
    assert_same(compiled(nodes, threads=1)(arrays), first)
    assert not compiler_runs


# -- forks


def in_a_child(exe: Executable, arrays: Any, want: Any) -> None:
    for _ in range(3):
        assert_same(exe(arrays), want)
    x = gx.input("x", (40, 40))
    fresh = compiled([gx.exp(x) @ x], threads=3)
    assert_same(fresh(arrays), compiled([gx.exp(x) @ x], threads=1)(arrays))
    in_threads([repeated(exe, arrays, want, 5), repeated(exe, arrays, want, 5)])


@shared_out
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads
def test_forked_children_have_a_team_of_their_own() -> None:
    nodes, arrays = layers(40)
    exe = compiled(nodes, threads=3)
    want = exe(arrays)
    children = [
        multiprocessing.get_context("fork").Process(target=in_a_child, args=(exe, arrays, want))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    for _ in range(20):
        assert_same(exe(arrays), want)
    for child in children:
        child.join(30)
        child.kill()  # a child that waits for threads it does not have would stay for ever
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert_same(exe(arrays), want)


@shared_out
def test_a_plain_fork_in_the_midst_of_calls() -> None:
    """Other threads are calling while this one forks; the child calls, too."""
    nodes, arrays = layers(40)
    exe, other = compiled(nodes, threads=2), compiled(nodes, threads=3)
    want = exe(arrays)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            other(arrays)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        for _ in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if not process:
                signal.alarm(20)
                try:
                    assert_same(exe(arrays), want)
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    finally:
        stop.set()
        busy.join()


# -- interrupts, settings of others


def interrupt(exe: Executable, arrays: dict[str, np.ndarray], seconds: float) -> None:
    """Call again and again until an interrupt comes, after so many seconds."""
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            exe(arrays)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGALRM, previous)


@shared_out
def test_an_interrupt_leaves_no_half_update() -> None:
    a, b = (gx.param(n, np.zeros((300, 300), "float32")) for n in "ab")
    x = gx.input("x", (300, 300))
    change = (x @ x).sum() * 0 + 1
    exe = compiled([], updates={a: a + change, b: b + change}, threads=2)
    arrays = {"x": np.ones((300, 300), "float32")}
    exe(arrays)
    for k in range(25):
        interrupt(exe, arrays, 0.001 + 0.0003 * k)
        values = a.value, b.value
        assert values[0].min() == values[0].max() == values[1].min() == values[1].max()


@native
def test_an_interrupt_leaves_no_lock_behind() -> None:
    """Whenever it comes: another thread can call afterwards."""
    a = gx.param("a", np.zeros(4, "float32"))
    exe = compiled([], updates={a: a + 1})
    for k in range(100):
        interrupt(exe, {}, 0.001 + 0.00001 * k)
        other = threading.Thread(target=exe, daemon=True)
        other.start()
        other.join(2)
        assert not other.is_alive()


@native
def test_threads_of_the_blas_stay_as_they_are() -> None:
    control = pytest.importorskip("threadpoolctl")
    nodes, arrays = layers(64)
    exe = compiled(nodes, threads=2)
    with control.threadpool_limits(1):
        before = [(lib["filepath"], lib["num_threads"]) for lib in control.threadpool_info()]
        exe(arrays)
        after = [(lib["filepath"], lib["num_threads"]) for lib in control.threadpool_info()]
    assert after == before


@native
def test_scratch_is_counted() -> None:
    x = gx.input("x", (3, 100_000))
    exe = compiled(gx.softmax(gx.exp(x)), threads=1)
    runner = exe._latest.runner  # type: ignore[union-attr]
    assert runner.scratch_nbytes >= 100_000 * 4  # a row is kept


# -- compilers that are missing, fail or hang


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let CC name a shell script, and start with an empty cache."""
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(native_backend, "_loaded", {})
    monkeypatch.setattr(
        native_backend, "find_toolchain", functools.partial(find_toolchain, timeout=5.0)
    )

    def make(body: str) -> Path:
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return make


def check_fallback(words: str) -> None:
    """`auto` computes with NumPy and says why; `native` refuses with the same words."""
    x = gx.input("x", (3,))
    exe = gx.compile(gx.exp(x))
    assert exe.backend == "numpy"
    assert words in exe.backend_reason
    assert_close(exe(x=np.zeros(3, "float32")), np.ones(3, "float32"))
    with pytest.raises(gx.BackendUnavailable, match="backend 'native'") as caught:
        compiled(gx.exp(x))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('echo "cc1: no room in the inn" >&2; exit 4', "no room in the inn"),
        ("exit 0", "wrote no object"),
        ("kill -9 $$", "SIGKILL"),
    ],
    ids=["fails", "silent", "killed"],
)
def test_a_compiler_that_fails(compiler: Callable[[str], Path], body: str, words: str) -> None:
    compiler(body)
    check_fallback(words)
    found = gx.devices()["native"]
    assert not found.usable
    assert words in found.reason


def test_a_compiler_that_hangs(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("exec sleep 60")
    monkeypatch.setattr(
        native_backend, "find_toolchain", functools.partial(find_toolchain, timeout=0.3)
    )
    start = time.monotonic()
    check_fallback("without an answer")
    assert time.monotonic() - start < 50  # the compiler sleeps for 60 s


def test_a_compiler_that_is_not_there(
    compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler("").unlink()
    check_fallback("there is no program")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    check_fallback("no C compiler")
    assert "install one or set CC" in gx.devices()["native"].reason


# Passes the probe on to a real compiler, and does something else with a program.
WITH_PROGRAM = """\
text=$(cat)
case "$text" in
*gx_launches*) {instead};;
*) printf '%s\\n' "$text" | {real} "$@";;
esac"""


@native
@pytest.mark.parametrize("instead", ['echo "out of patience" >&2; exit 1', "sleep 60"])
def test_a_compiler_that_works_until_the_program_comes(
    compiler: Callable[[str], Path], instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or ""
    compiler(WITH_PROGRAM.format(instead=instead, real=real))
    inner = native_backend.compile_object
    monkeypatch.setattr(
        native_backend, "compile_object", lambda *args: inner(*args[:3], timeout=1.0)
    )
    assert gx.devices()["native"].usable
    words = "out of patience" if "echo" in instead else "without an answer"
    check_fallback(words)


@native
def test_no_program_is_compiled_with_a_warning(tmp_path: Path, root: Path) -> None:
    """Every form of kernel, 20 random graphs, the sources written by hand: in one compiler run."""
    texts: dict[str, str] = {}
    for name, nodes in forms(37, 5).items():
        texts[f"form_{name.replace(' ', '_')}.c"] = compiled(nodes, training=True).source
    for seed in range(20):
        graph = random_graph(seed)
        exe = compiled(graph.outputs, updates=graph.updates)
        texts[f"random_{seed}.c"] = exe.source
    outputs, updates = symbolic_step()
    texts["symbolic.c"] = compiled(outputs, updates=updates, sizes={"batch": 9}).source
    check_warnings(texts, tmp_path, root)


@native
def test_sources_written_by_hand_have_no_warnings(tmp_path: Path, root: Path) -> None:
    names = ("runtime.c", "program.h", "scalar.h", "random.h")
    texts = {f"{name[:-2]}_alone.c": f'#include "{name}"\n' for name in names}
    for element in native_backend.ELEMENTS.values():
        texts[f"product_{element}.c"] = f'#define GX_T {element}\n#include "product.c"\n'
    check_warnings(texts, tmp_path, root)


def check_warnings(texts: dict[str, str], folder: Path, root: Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("needs gcc")
    for name, text in texts.items():
        (folder / name).write_text(text)
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fopenmp-simd", "-march=native",
             "-fsyntax-only", f"-I{root / 'kernels'}"]  # fmt: skip
    done = subprocess.run(
        [gcc, *flags, *texts], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- the generated text


@native
def test_text_of_the_training_step(golden: Callable[[str, str], None]) -> None:
    outputs, updates = step()
    exe = compiled(outputs, updates=updates)
    golden("native.c", exe.source)
    again, updates = step()
    assert compiled(again, updates=updates, threads=1).source == exe.source
    for kernel in exe.kernels:
        assert kernel.source in exe.source
    assert '#include "scalar.h"' in exe.source
    assert '#include "scalar.h"' not in splice(exe.source)


@native
def test_text_of_symbolic_sizes(golden: Callable[[str, str], None]) -> None:
    texts = {compiled(symbolic(), sizes={"batch": n}).source for n in (4, 7, 100)}
    assert len(texts) == 1
    golden("native_symbolic.c", texts.pop())


HARD_NAMES = [
    "add", "auto", "int", "exp", "gx_start", "call", "part", "first", "last", "i", "j",
    "size_x", "errno", "main", "float", "x y", "é", "1x", "__name__", "add_0", 'quote"s', "*/ x",
    "new\nline", "sum", "memcpy", "size_t", "true", "block_values",
    "chunks", "product", "%d", "back\\", "I", "stdin", "vector", "parts",
]  # fmt: skip


@native
def test_any_name_of_an_input_runs() -> None:
    """All of them in one program, over small and over symbolic sizes."""
    outputs: list[gx.Node] = []
    for name in HARD_NAMES:
        x, p = gx.input(name, (3, 4)), gx.param(f"{name}_2", np.ones(4, "float32"))
        y = gx.where(x + p > 0, gx.erf(gx.exp(x)) - gx.maximum(-x, 1), 0) @ np.ones((4, 2), "f4")
        outputs += [y, y.max(), gx.argmax(x, 1), gx.softmax(x)]
    arrays = given(outputs)
    exe = compiled(outputs)
    expected = evaluate(outputs, {n: arrays[n.name] for n in exe.graph.inputs})
    for have, want in zip(exe(arrays), expected, strict=True):
        assert_close(have, want)


@native
@pytest.mark.parametrize("name", ["NULL", "int64_t", "linux", "unix", "INFINITY", "M_PI"])
def test_names_that_c_headers_define(name: str) -> None:
    x, p = gx.input(name, (3,)), gx.param(f"{name}_2", np.ones(3, "float32"))
    have = compiled(gx.exp(x) + p)({name: np.zeros(3, "float32")})
    assert have.tolist() == [2, 2, 2]


@native
@pytest.mark.parametrize("symbol", ["batch", "n", "i", "int", "größe", "size_x", "size", "parts"])
def test_any_name_of_a_size_runs(symbol: str) -> None:
    x = gx.input("x", (symbol, 3))
    exe = compiled([gx.softmax(x), gx.exp(x).sum(0), x.T @ x])
    array = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    powers = np.exp(array)
    want = [powers / powers.sum(1, keepdims=True), powers.sum(0), array.T @ array]
    for have, expected in zip(exe(x=array), want, strict=True):
        assert_close(have, expected)


def test_both_languages_have_the_same_numbers(root: Path) -> None:
    """What the printer and the C sources must agree on."""
    header = (root / "kernels" / "program.h").read_text()
    pairs = {
        r"GX_MOST_COLUMNS = (\d+)": host_products.MOST_COLUMNS,
        r"GX_ROW_UNIT = (\d+)": host_function.ROW_UNIT,
        r"GX_STRETCH = (\d+)": shape.STRETCH,
        r"m \* n \* k >= 1 << (\d+)": int(np.log2(host_products.WIDE)),
        r"total >> (\d+)": int(np.log2(shape.CHUNK)),
        r"extent < (\d+) \?": shape.MOST_CHUNKS,
    }
    for pattern, value in pairs.items():
        found = re.search(pattern, header)
        assert found is not None, pattern
        assert int(found.group(1)) == value, pattern
