"""State: parameters, simultaneous updates, shared and moved values, the random stream."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from programs import EACH, TARGETS, run, runner_of, scheduled
from stand_in import StandIn

import graphc as gx
from graphc.backends import numpy_kernel
from graphc.evaluate import evaluate
from graphc.executable import Executable
from graphc.schedule.records import Schedule
from graphc.testing import assert_close


def params(**shapes: tuple[int, ...]) -> list[gx.Param]:
    """Parameters with known values, all different."""
    rng = np.random.default_rng(len(shapes))
    return [gx.param(n, rng.standard_normal(s).astype("float32")) for n, s in shapes.items()]


def momentum(x: gx.Node, weights: Sequence[gx.Param]) -> dict[Any, gx.Node]:
    """Updates of parameters and their velocities for the loss mean(tanh(x @ w + b)^2)."""
    w, b, v, c = weights
    loss = gx.mean(gx.square(gx.tanh(x @ w + b)))
    updates: dict[Any, gx.Node] = {}
    for p, velocity, g in zip((w, b), (v, c), gx.grad(loss, [w, b]), strict=True):
        updates[velocity] = 0.9 * velocity + g
        updates[p] = p - 0.1 * updates[velocity]
    return updates


# -- updates see the old values

A, B, C, M, N, S = ALL = params(a=(4,), b=(4,), c=(4,), m=(3, 3), n=(3, 3), s=())
START = {p: p.value for p in ALL}
UPDATES: dict[str, tuple[list[gx.Node], dict[Any, gx.Node]]] = {
    "swap": ([A, B], {A: B, B: A}),
    "rotation of three": ([A + B], {A: B, B: C, C: A}),
    "chain": ([], {A: A + 1, B: A, C: B}),
    "each from the other": ([A * B], {A: 0.5 * B + 1, B: 0.5 * A + 1}),
    "each from two": ([], {A: A - 0.1 * B, B: B - 0.1 * C, C: C - 0.1 * A}),
    "one value for two": ([], {A: 2 * C, C: 2 * C}),
    "one read, two written": ([A + 1], {A: A + B, B: A - B}),
    "statistics of each other": ([], {A: A + B.sum(), B: B - A.max()}),
    "also an output": ([A, 2 * A, A * B], {A: 2 * A, B: A * B}),
    "a constant": ([M.sum()], {M: gx.const(np.eye(3, dtype="float32"))}),
    "one number": ([], {A: gx.const(2.0).broadcast_to((4,))}),
    "an index": ([], {M: gx.iota((3, 3), 0).astype("float32")}),
    "itself": ([A + 1], {A: A, B: B + A}),
    "transposed": ([M.T], {M: M.T, N: M}),
    "each the other transposed": ([], {M: N.T, N: M.T}),
    "reversed": ([M[1], M.reshape(9), M[::-1]], {M: M[::-1]}),
    "reshaped": ([A.reshape(2, 2).sum(0)], {A: B.reshape(2, 2).reshape(4)}),
    "product": ([M @ N], {M: M @ N, N: N @ M}),
    "product with itself": ([], {M: M + M @ M, N: N.T @ N + 0.9 * N}),
    "softmax": ([], {M: gx.softmax(M), N: N - gx.softmax(M)}),
    "a number, used and written": ([((M - S) * (2 * S)).sum()], {S: 2 * S}),
    "across shapes": ([], {M: M + A[:3], A: A * M.sum()}),
}


@pytest.mark.parametrize("block", [numpy_kernel.BLOCK, 4])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", UPDATES)
def test_updates_see_the_old_values(
    name: str, target: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_kernel, "BLOCK", block)
    outputs, updates = UPDATES[name]
    for p, value in START.items():
        p.value = value
    runner = runner_of(scheduled(outputs, updates, TARGETS[target]))
    for _ in range(3):
        expected = evaluate([*outputs, *updates.values()])
        made = [*run(runner, {}), *(p.value for p in updates)]
        for have, want in zip(made, expected, strict=True):
            assert_close(have, want, name)
    assert all(p in updates or np.array_equal(p.value, value) for p, value in START.items())


@EACH
def test_a_second_flat_kernel_wants_another_order() -> None:
    """Two flat kernels read a and b, in opposite order: they can lie in one slab only."""
    x = gx.input("x", (3,))
    a, b, m, n = params(a=(3,), b=(5,), m=(5,), n=(3,))
    updates = {a: x * 2, b: b.sum() + b, m: 0.9 * m + b, n: 0.9 * n + a}
    exe = gx.compile([], updates=updates)
    given = np.ones(3, "float32")
    for _ in range(2):
        expected = evaluate(updates.values(), {x: given})
        exe(x=given)
        for p, want in zip(updates, expected, strict=True):
            assert_close(p.value, want, p.name)


@EACH
def test_updates_by_inputs() -> None:
    x = gx.input("x", (4,))
    (a,) = params(a=(4,))
    given = np.arange(4, dtype="float32")
    same = gx.compile(x, updates={a: x})(x=given)
    assert np.array_equal(a.value, given)
    assert np.array_equal(same, given)
    a.value = np.zeros(4)
    assert np.array_equal(given, np.arange(4))  # the caller's array is not the parameter


@EACH
@pytest.mark.parametrize("kept", [False, True])
def test_one_draw_updates_two_params_alike(kept: bool) -> None:
    b, c = params(b=(4,), c=(4,))
    z = gx.random_normal((4,))
    exe = gx.compile([z] if kept else [], updates={b: b + z, c: c + z})
    before = b.value, c.value
    exe()
    (drawn,) = evaluate([z])
    assert_close(b.value, before[0] + drawn)
    assert_close(c.value, before[1] + drawn)


@EACH
@pytest.mark.parametrize("size", [4, 300])  # 300 x 300 is above what is copied into fixed slots
def test_outputs_are_values_before_the_update(size: int) -> None:
    (p,) = params(p=(size, size))
    exe = gx.compile({"old": p, "view": p.T, "new": p + 1, "row": p[1]}, updates={p: p + 1})
    old = p.value
    first = exe()
    second = exe()
    assert np.array_equal(first["old"], old)
    assert np.array_equal(first["view"], old.T)
    assert np.array_equal(first["row"], old[1])
    assert np.array_equal(first["new"], old + 1)
    assert np.array_equal(second["old"], old + 1)
    assert np.array_equal(p.value, old + 1 + 1)


@EACH
def test_empty_and_scalar_params() -> None:
    empty, scale, a = params(empty=(0, 3), scale=(), a=(4,))
    updates = {empty: empty + 1, scale: scale * 0.5, a: a * scale + empty.sum()}
    exe = gx.compile([empty.sum(), scale], updates=updates)
    expected = evaluate(updates.values())
    exe()
    for p, want in zip(updates, expected, strict=True):
        assert_close(p.value, want, p.name)


# -- one value, many programs


@EACH
def test_programs_share_params_and_move_them() -> None:
    x = gx.input("x", (2, 3))
    w, b, v, c = weights = params(w=(3, 4), b=(4,), v=(3, 4), c=(4,))
    given = np.random.default_rng(0).standard_normal((2, 3)).astype("float32")
    forward = gx.compile(x @ w + b)
    exe = [
        gx.compile([], updates=momentum(x, weights)),
        gx.compile([], updates={w: 0.5 * w, b: 0.5 * b}),
        gx.compile([], updates={b: b - c, w: w - v}),
        gx.compile([], updates={v: v + 1, w: w * 2}),
    ]
    expect = {p: p.value for p in weights}
    for turn in [0, 1, 0, 2, 0, 3, 2, 1, 0]:
        assert_close(forward(x=given), given @ expect[w] + expect[b])
        updates = dict(exe[turn].graph.updates)
        new = evaluate(updates.values(), {x: given, **expect})
        expect |= dict(zip(updates, new, strict=True))
        exe[turn](**{n.name: given for n in exe[turn].graph.inputs})
        for p in weights:
            assert_close(p.value, expect[p], p.name)
            assert p.storage.array.ctypes.data % 64 == 0


@EACH
def test_values_can_be_set_between_calls() -> None:
    a, b = params(a=(4,), b=(4,))
    exe = gx.compile(a + b, updates={a: a - b, b: b - a})
    a.value = [1, 2, 3, 4]
    b.value = np.zeros(4)
    assert exe().tolist() == [1, 2, 3, 4]
    b.value = -a.value
    assert exe().tolist() == [0, 0, 0, 0]
    copy = a.value
    copy[...] = 7
    assert a.value.tolist() != copy.tolist()
    for wrong in (np.zeros(5), "text", np.zeros(4, complex), [[1], [1, 2]]):
        before = a.value
        with pytest.raises(gx.InputError, match="param a"):
            a.value = wrong
        assert np.array_equal(a.value, before)


@EACH
def test_setting_a_value_while_programs_run() -> None:
    """Values set from another thread are taken whole: never half of one and half of another."""
    (a,) = params(a=(30_000,))
    exe = gx.compile([a.min(), a.max()], updates={a: a + 0})
    stop = threading.Event()

    def write() -> None:
        k = 0
        while not stop.is_set():
            k += 1
            a.value = np.full(30_000, k, "float32")

    a.value = np.zeros(30_000)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        pairs = [exe() for _ in range(50)]
    finally:
        stop.set()
        writer.join()
    assert all(low == high for low, high in pairs)


@EACH
def test_two_threads_call_programs_that_move_params() -> None:
    """Each program lays the parameters out its own way; no update is lost."""
    a, b, c = params(a=(5,), b=(7,), c=(3,))
    for p in (a, b, c):
        p.value = np.zeros(p.shape)
    one = gx.compile([], updates={a: a + 1, b: b + 1})
    two = gx.compile([], updates={c: c + 1, b: b + 1})
    failures: list[BaseException] = []

    def call(exe: Executable) -> None:
        try:
            for _ in range(100):
                exe()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(exe,)) for exe in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert a.value.tolist() == [100] * 5
    assert b.value.tolist() == [200] * 7
    assert c.value.tolist() == [100] * 3


# -- the random stream


@EACH
def test_seeds_and_steps_reproduce() -> None:
    x = gx.input("x", (3, 4))
    y = gx.dropout(x, 0.5) + gx.random_uniform((3, 4))
    given = np.ones((3, 4), "float32")
    exe = gx.compile(y, training=True, seed=7)
    first = [exe(x=given) for _ in range(3)]
    assert not np.array_equal(first[0], first[1])
    exe.seed(7)
    assert all(np.array_equal(exe(x=given), want) for want in first)
    again = gx.compile(y, training=True, seed=7)
    assert all(np.array_equal(again(x=given), want) for want in first)
    assert not np.array_equal(gx.compile(y, training=True, seed=8)(x=given), first[0])
    for wrong in (1.5, "seven", True, None):
        with pytest.raises(gx.CompileError, match="seed"):
            exe.seed(wrong)  # type: ignore[arg-type]
        with pytest.raises(gx.CompileError, match="seed"):
            gx.compile(y, seed=wrong)  # type: ignore[arg-type]


@EACH
def test_a_stream_is_taken_up_where_it_stood() -> None:
    exe = gx.compile(gx.random_uniform((3, 4)), seed=7)
    first = [exe() for _ in range(3)]
    for step in (2, 0, 1):
        exe.seed(7, step=step)
        assert all(np.array_equal(exe(), want) for want in first[step:])
    for wrong in (-1, 1.5, True):
        with pytest.raises(gx.CompileError, match="step"):
            exe.seed(7, wrong)  # type: ignore[arg-type]


@EACH
def test_a_refused_call_is_no_step() -> None:
    x = gx.input("x", ("batch",))
    (a,) = params(a=(4,))
    exe = gx.compile(gx.random_uniform((4,)) + x.sum(), updates={a: a + 1}, seed=3)
    given = np.zeros(2, "float32")
    first, before = exe(x=given), a.value
    for wrong in ({"x": np.zeros((2, 2))}, {"x": "text"}, {}, {"x": given, "y": given}):
        with pytest.raises(gx.InputError):
            exe(wrong)
    assert np.array_equal(a.value, before)
    second = exe(x=given)
    exe.seed(3)
    assert np.array_equal(exe(x=given), first)
    assert np.array_equal(exe(x=np.zeros(5, "float32")), second)  # steps count over all sizes


# -- interrupts and faults


def runner(exe: Executable) -> Any:
    """The runner behind a compiled program."""
    return exe._latest.runner  # type: ignore[union-attr]


def test_an_interrupt_waits_for_the_end_of_the_step() -> None:
    a, b = params(a=(4,), b=(4,))
    exe = gx.compile([], updates={a: a + 1, b: b.sum() + b}, backend="numpy")
    expected = evaluate([a + 1, b.sum() + b])
    inner = runner(exe)
    step = inner.step

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        step()

    inner.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        exe()
    assert_close(a.value, expected[0])
    assert_close(b.value, expected[1])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_fault_midway_marks_the_values_as_lost() -> None:
    a, b, c = params(a=(4,), b=(4,), c=(4,))
    exe = gx.compile(c * 1, updates={a: a + c, b: b.sum() + b}, backend="numpy")
    reader = gx.compile(a * 2, backend="numpy")
    inner = runner(exe)
    step = inner.step

    def fails() -> None:
        raise MemoryError

    inner.step = fails
    with pytest.raises(MemoryError):
        exe()
    inner.step = step
    for call in (exe, exe, reader, lambda: a.value):  # again and again
        with pytest.raises(gx.InputError, match=r"of a is undefined.*MemoryError.*p\.value ="):
            call()
    assert np.isfinite(c.value).all()
    a.value, b.value = np.ones(4), np.ones(4)
    exe()
    assert_close(a.value, 1 + c.value)
    assert b.value.tolist() == [5, 5, 5, 5]
    assert_close(reader(), 2 * a.value)


# -- where updates are written


def test_updates_are_in_place_where_that_is_safe() -> None:
    x = gx.input("x", (2, 3))
    weights = params(w=(3, 4), b=(4,), v=(3, 4), c=(4,))
    fused = gx.compile([], updates=momentum(x, weights), backend="numpy").stages["fused"].record
    assert isinstance(fused, Schedule)
    assert not fused.notes
    assert {p for home in fused.in_place.values() for p in home.members} == set(weights)  # type: ignore[union-attr]
    (m,) = params(m=(3, 3))
    fused = gx.compile([], updates={m: m.T}, backend="numpy").stages["fused"].record
    assert isinstance(fused, Schedule)
    assert fused.notes == (
        "m is updated through a copy: its kernel still needs the old value after writing the new "
        "one",
    )


# -- one value, at home in host memory or on a device


def test_a_value_has_one_home_at_a_time(device: StandIn) -> None:
    (p,) = params(p=(3, 4))
    start = p.value
    on_host = gx.compile(p * 1, updates={p: p + 1}, backend="numpy")
    on_device = gx.compile([], updates={p: p * 2}, backend=device.name)
    assert p.storage.away is not None
    assert np.array_equal(p.value, start)
    on_device()
    assert np.array_equal(p.value, start * 2)
    assert p.storage.away is not None  # looking takes nothing away
    p.value = start.T.copy().T  # what is set is set where the value is
    assert p.storage.away is not None
    assert np.array_equal(p.value, start)
    assert np.array_equal(on_host(), start)
    assert p.storage.away is None
    assert np.array_equal(p.value, start + 1)
    with pytest.raises(gx.InputError, match="param p has shape"):
        p.value = np.zeros(5)
    on_device()
    assert np.array_equal(p.value, (start + 1) * 2)
    with pytest.raises(gx.InputError, match="param p has shape"):
        p.value = np.zeros(5)


@pytest.mark.usefixtures("device", "native")
def test_values_are_exact_through_any_sequence_of_backends() -> None:
    rng = np.random.default_rng(0)
    a, b, c, m, n = weights = params(a=(4,), b=(300,), c=(), m=(3, 5), n=(5, 3))
    for p in weights:
        p.value = rng.integers(-8, 8, p.shape)
    programs: list[dict[Any, gx.Node]] = [
        {a: a + c, b: b + 1},
        {b: 2 - b, m: n.T, n: m.T},
        {m: m + 1, n: n + 1, a: 1 - a},
        {c: c + 1},
    ]
    exes = [
        gx.compile([a.sum(), c], updates=updates, backend=backend)
        for updates in programs for backend in ("numpy", "native", "stand-in")
    ]  # fmt: skip
    expect = {p: p.value for p in weights}
    for _ in range(120):
        turn = int(rng.integers(len(exes)))
        updates = programs[turn // 3]
        new = evaluate(updates.values(), dict(expect))
        exes[turn]()
        expect |= dict(zip(updates, new, strict=True))
        if rng.random() < 0.2:
            p = weights[int(rng.integers(len(weights)))]
            expect[p] = p.value = rng.integers(-8, 8, p.shape).astype("float32")
        looked = weights if rng.random() < 0.3 else ()
        assert all(np.array_equal(p.value, expect[p]) for p in looked)
    assert all(np.array_equal(p.value, expect[p]) for p in weights)


def test_a_lost_value_stays_lost_wherever_it_goes(device: StandIn) -> None:
    (p,) = params(p=(4,))
    on_device = gx.compile([], updates={p: p * 2}, backend=device.name)
    on_host = gx.compile(p * 1, backend="numpy")
    device.faults.append(MemoryError("planted"))
    with pytest.raises(MemoryError):
        on_device()
    for call in (on_host, on_device, on_host, lambda: p.value):
        with pytest.raises(gx.InputError, match=r"of p is undefined.*planted"):
            call()
    p.value = np.ones(4)
    on_device()
    assert on_host().tolist() == [2] * 4


def test_a_profile_holds_off_programs_that_move_its_parameters() -> None:
    """A call within finds that others were moved, and looks again: nobody waits for it meanwhile
    with what it needs for that."""
    a, b = params(a=(4,), b=(4,))
    other = params(c=(4,), d=(5,))
    exe = gx.compile([], updates={a: a + 1}, backend="numpy")
    inside, done = threading.Event(), threading.Event()

    def lay_out() -> None:  # a and b into one slab, in turn: b first, which makes others look again
        inside.wait()
        gx.compile([], updates={b: b + 1, a: a + 1}, backend="numpy")()
        done.set()

    thread = threading.Thread(target=lay_out, daemon=True)
    thread.start()
    with runner(exe).unchanged():
        inside.set()
        done.wait(0.2)
        gx.compile([], updates={p: p + 1 for p in other}, backend="numpy")()
        exe()
    thread.join(10)
    assert not thread.is_alive()
