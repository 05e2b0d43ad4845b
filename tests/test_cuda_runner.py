"""Running programs on a device: replayed or launch by launch, the same values as on the host."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import EACH, assert_same, in_threads, training_step
from stand_in import NumpyStandIn, StandIn, Text, stand_in_backend
from test_state import START, UPDATES

import graphc as gx
from graphc import backends
from graphc.backends.base import Options, Repeating
from graphc.backends.cuda import ways
from graphc.backends.cuda.device import DeviceError
from graphc.backends.cuda.eager import EagerRunner
from graphc.backends.cuda.launching import Launches
from graphc.backends.cuda.runner import CudaRunner
from graphc.backends.cuda.staging import BERTHS
from graphc.codegen.launches import (
    Address,
    FillLaunch,
    KernelLaunch,
    Product,
    ProductLaunch,
    State,
)
from graphc.codegen.sources import splice
from graphc.evaluate import evaluate
from graphc.ir.philox import Draws
from graphc.testing import assert_close


def fetch(value: Any) -> Any:
    """A result of the stand-in as NumPy arrays."""
    convert = backends.BACKENDS["stand-in"].fetch
    if isinstance(value, dict):
        return {name: convert(item) for name, item in value.items()}
    return [convert(item) for item in value] if isinstance(value, list) else convert(value)


NOWHERE = (Address(0), Address(0), Address(0))


def compiled(outputs: Any, updates: Any = None, **options: Any) -> Any:
    return gx.compile(outputs, updates=updates, **{"backend": "stand-in", **options})


def runner_of(exe: Any) -> CudaRunner:
    return exe._compiled("a test").runner


# -- values


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", UPDATES)
def test_updates_see_the_old_values(name: str) -> None:
    outputs, updates = UPDATES[name]
    for p, value in START.items():
        p.value = value
    exe = compiled(outputs, updates)
    for _ in range(4):
        expected = evaluate([*outputs, *updates.values()])
        made = [*fetch(exe()), *(p.value for p in updates)]
        for have, want in zip(made, expected, strict=True):
            assert_close(have, want, name)


@pytest.mark.usefixtures("way")
def test_a_training_step_is_that_of_the_host() -> None:
    program, twin = training_step((16, 32, 10), 8), training_step((16, 32, 10), 8)
    exe = compiled(program.outputs, program.updates)
    host = gx.compile(twin.outputs, updates=twin.updates, backend="numpy")
    for _ in range(5):
        assert_close(fetch(exe(program.inputs)["loss"]), host(twin.inputs)["loss"])
    for p, q in zip(program.updates, twin.updates, strict=True):
        assert_close(p.value, q.value)


def test_inputs_from_everywhere(way: str, device: StandIn) -> None:
    """Small and large ones, from the host and on the device, aligned or not, contiguous or not."""
    a, b = gx.input("a", (3, 5)), gx.input("b", (200, 300))
    c, d = gx.input("c", (), "int32"), gx.input("e", (0, 4))
    outputs = [a + c, 2 * b, d + 1, b[3]]
    exe = compiled(outputs)
    rng = np.random.default_rng(0)
    for turn in range(8):
        x = rng.standard_normal((5, 3)).astype("float32").T
        y = rng.standard_normal((201, 300)).astype("float32")
        there = [bool(turn & 1), bool(turn & 2)]
        given = {
            "a": device.array(x) if there[0] else x,
            "b": device.array(y)[turn // 4] if there[1] else y[turn // 4 :],
            "c": device.array(np.int32(turn)) if there[0] else turn,
            "e": np.zeros((0, 4), "float32"),
        }
        given["b"] = given["b"] if turn // 4 else (device.array(y[:200]) if there[1] else y[:200])
        first = turn // 4
        made = fetch(exe(given))
        expected = [x + np.float32(turn), 2 * y[first : first + 200], given["e"], y[first + 3]]
        assert_same(made, expected, f"{way} {turn}")


@pytest.mark.usefixtures("way")
def test_results_are_fresh_and_show_old_values() -> None:
    p = gx.param("p", np.zeros((40, 50), "float32"))
    x = gx.input("x", (3,))
    exe = compiled({"old": p, "row": p[1], "new": p + 1, "x": x, "again": p + 1}, {p: p + 1})
    kept = [exe(x=np.full(3, i, "float32")) for i in range(5)]
    for i, results in enumerate(map(fetch, kept)):
        assert all((results[name] == i).all() for name in ("old", "row", "x"))
        assert all((results[name] == i + 1).all() for name in ("new", "again"))


@pytest.mark.usefixtures("way")
def test_the_host_never_overwrites_what_is_still_to_be_copied() -> None:
    """The stand-in copies as late as it may."""
    x = gx.input("x", (4,))
    exe = compiled(x * 2)
    kept = [exe(x=np.full(4, i, "float32")) for i in range(3 * BERTHS)]
    assert [fetch(array).tolist() for array in kept] == [[2 * i] * 4 for i in range(3 * BERTHS)]


@pytest.mark.parametrize("many", [False, True])
def test_arrays_of_the_caller_outlive_what_reads_them(
    way: str, device: StandIn, many: bool
) -> None:
    """Their memory may be given back to another stream, or by another library."""
    exe = compiled(gx.input("x", (4,)) * 2)
    ended: list[tuple[int, int]] = []  # work done when an array ended, and when it may
    kept: list[Any] = []
    for _ in range(3 * BERTHS):
        given = device.array(np.ones((1, 4) if many else 4, "float32"))
        reading = [0]
        weakref.finalize(given, lambda r=reading: ended.append((device.worked, r[0])))
        kept.append(exe.run_many(x=given) if many else exe(x=given))
        reading[0] = device.worked + len(device.queue) - 1  # but for a mark
        del given
    assert len(ended) >= BERTHS
    assert all(done >= needed for done, needed in ended), way


@pytest.mark.usefixtures("way")
def test_draws_are_those_of_the_host() -> None:
    x = gx.input("x", (3, 4))
    y = gx.dropout(x, 0.5) + gx.random_uniform((3, 4))
    given = np.ones((3, 4), "float32")
    seed = (7 << 32) + 5
    exe, host = (gx.compile(y, training=True, seed=seed, backend=b) for b in ("stand-in", "numpy"))
    first = [fetch(exe(x=given)) for _ in range(4)]
    assert_same(first, [host(x=given) for _ in range(4)])
    exe.seed(seed)
    assert_same([fetch(exe(x=given)) for _ in range(2)], first[:2])
    exe._step = host._step = (1 << 32) - 2
    for one in (exe, host):
        one._draws = Draws(seed, one._step, one._numbers)
    assert_same([fetch(exe(x=given)) for _ in range(4)], [host(x=given) for _ in range(4)])


@pytest.mark.usefixtures("device")
def test_check_compares_values_that_come_from_the_device() -> None:
    x = gx.input("x", (3, 4))
    w = gx.param("w", np.ones((4, 2), "float32"))
    exe = compiled(gx.tanh(x @ w), {w: w * 2}, check=True)
    given = np.ones((3, 4), "float32")
    assert_close(fetch(exe(x=given)), np.tanh(given @ np.ones((4, 2), "float32")))
    with pytest.raises(gx.NonFiniteError):
        exe(x=given * np.float32(np.nan))
    assert (w.value == 2).all()
    assert exe.run_many(x=given[None]).shape == (1, 3, 2)


# -- how they are run


def test_a_replayed_step_is_one_upload_and_one_replay(device: StandIn) -> None:
    program = training_step((16, 32, 10), 8)
    exe = compiled(program.outputs, program.updates)
    assert "replayed as one recording" in exe.backend_reason
    exe(program.inputs)
    for count in (1, 2, 3):
        uploads = device.uploads
        exe(program.inputs)
        assert device.replays == count
        assert device.uploads == uploads + 1
    drawing = compiled(gx.random_uniform((4,)) + gx.input("x", (4,)))
    drawing(x=np.ones(4, "float32"))
    uploads = device.uploads
    drawing(x=np.ones(4, "float32"))
    assert device.uploads == uploads + 1  # the device has counted the step itself
    device.replays = 3
    next(iter(program.updates)).value = np.zeros((16, 32))
    exe(program.inputs)  # a value that is set stays where it is: nothing is recorded anew
    assert device.replays == 4


def test_nothing_is_fetched_when_all_inputs_come_from_the_host(device: StandIn) -> None:
    fetched: list[int] = []
    known = device.kernels["gx_fetch"]

    def gx_fetch(*arguments: int) -> None:
        fetched.append(1)
        known(*arguments)

    device.kernels["gx_fetch"] = gx_fetch
    exe, ones = compiled(gx.input("x", (4,)) * 2), np.ones(4, "float32")
    for given, launches in ((ones, 1), (ones, 1), (device.array(3 * ones), 2), (ones, 2)):
        made = fetch(exe(x=given))
        assert made.tolist() == (2 * ones if given is ones else 6 * ones).tolist()
        assert len(fetched) == launches  # the first call runs all there is


def test_page_locked_memory_outlives_what_is_copied_from_it(device: StandIn) -> None:
    exe = compiled(gx.input("x", (4,)) * 2)
    kept = exe(x=np.ones(4, "float32"))
    worked = device.worked
    del exe
    gc.collect()
    assert device.worked > worked
    assert fetch(kept).tolist() == [2] * 4


def test_a_moved_parameter_is_recorded_anew(device: StandIn) -> None:
    p, q = gx.param("p", np.zeros(4, "float32")), gx.param("q", np.ones(4, "float32"))
    exe = compiled([], {p: p + q})
    host = gx.compile([], updates={p: p * 2}, backend="numpy")
    for _ in range(4):
        exe()
    host()
    gc.collect()
    for _ in range(3):
        exe()
    assert (p.value == 4 * 2 + 3).all()
    assert device.replays == 6  # the first call of all ran launch by launch
    assert p.storage.away is not None


def test_calls_return_before_their_work_is_done(device: StandIn) -> None:
    exe = compiled(gx.input("x", (4,)) + 1)
    exe(x=np.ones(4, "float32"))
    assert device.queue
    exe.synchronize()
    assert not device.queue
    gx.compile(gx.input("x", (4,)) + 1, backend="numpy").synchronize()


def test_long_programs_are_recorded_in_fewer_steps(
    device: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, p = gx.input("x", (4,)), gx.param("p", np.zeros(4, "float32"))
    exe = compiled(p.sum() + x, {p: p + x})
    monkeypatch.setattr(ways, "LONGEST", 5 * len(exe.kernels))
    exe.run_many(x=np.ones((12, 4), "float32"))
    assert device.replays == 2 + 1  # 1 in turn, 2 x 5, 1
    assert (p.value == 12).all()


def test_large_arrays_are_used_where_they_are(device: StandIn) -> None:
    x = gx.input("x", (600, 600))
    exe = compiled(x * 2)
    assert "launch by launch" in exe.backend_reason
    value = np.random.default_rng(0).standard_normal((600, 600)).astype("float32")
    given = device.array(value)
    used = device.used
    with device.active():
        device.synchronize()
    worked = device.worked
    result = exe(x=given)
    assert_same([fetch(result)], [value * 2])
    assert device.used == used + value.nbytes  # the result, and no slots
    assert device.worked == worked + 2  # a launch and a mark
    assert device.replays == 0


def test_both_ways_are_chosen_by_size(device: StandIn) -> None:
    big = gx.input("x", (600, 600))
    p = gx.param("p", np.ones((600, 600), "float32"))
    rows: list[tuple[Any, str]] = [
        (gx.input("x", (400,)) + 1, "replayed"),
        (big + 1, "launch by launch"),
        ((big @ p @ p @ p @ p @ p @ p @ p @ p @ p @ p @ p @ p @ p).sum(), "replayed"),
    ]
    for output, wanted in rows:
        assert compiled(output).backend_reason.count(wanted) == 1
    assert device.replays == 0


def test_where_nothing_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    device = StandIn(records=False)
    monkeypatch.setattr(
        backends, "BACKENDS", {**backends.BACKENDS, "stand-in": stand_in_backend(device)}
    )
    p, x = gx.param("p", np.zeros(4, "float32")), gx.input("x", (4,))
    exe = compiled(p * 1, {p: p + x})
    made = [fetch(exe(x=np.ones(4, "float32"))).tolist() for _ in range(4)]
    assert made == [[i] * 4 for i in range(4)]
    assert "recording failed: no recordings here" in exe.backend_reason
    many = fetch(exe.run_many(x=np.ones((20, 4), "float32")))
    assert many[:, 0].tolist() == list(range(4, 24))


@pytest.mark.usefixtures("way")
def test_threads_share_parameters_with_the_host() -> None:
    a, b, c = (gx.param(n, np.zeros(s, "float32")) for n, s in (("a", 5), ("b", 7), ("c", 3)))
    exes = [
        compiled([], {a: a + 1, b: b + 1}),
        compiled([], {b: b + 1, c: c + 1}),
        gx.compile([], updates={c: c + 1, b: b + 1}, backend="numpy"),
    ]

    def calls(exe: Any) -> Callable[[], None]:
        return lambda: [exe() for _ in range(40)] and None

    in_threads([calls(exe) for exe in exes])
    assert [p.value.tolist() for p in (a, b, c)] == [[40] * 5, [120] * 7, [80] * 3]


# -- faults


def test_a_fault_midway_marks_values_as_lost(way: str, device: StandIn) -> None:
    a, b, c = (gx.param(n, np.ones(4, "float32")) for n in "abc")
    exe = compiled(c * 1, {a: a + c, b: b.sum() + b})
    reader = gx.compile(a * 2, backend="numpy")
    device.faults.append(MemoryError("planted"))
    with pytest.raises(MemoryError, match="planted"):
        exe()
    for call in (exe, exe, reader, lambda: a.value):
        with pytest.raises(gx.InputError, match=r"of a is undefined.*planted.*p\.value ="):
            call()
    assert (c.value == 1).all()
    a.value, b.value = np.ones(4), np.ones(4)
    assert fetch(exe()).tolist() == [1] * 4
    assert (a.value == 2).all(), way
    assert (b.value == 5).all()


@pytest.mark.usefixtures("device")
def test_a_refused_call_changes_nothing(device: StandIn) -> None:
    x, p = gx.input("x", ("n", 2)), gx.param("p", np.ones(2, "float32"))
    exe = compiled(gx.random_uniform((2,)) + x.sum(), {p: p + 1}, seed=1)
    good = np.ones((3, 2), "float32")
    first = fetch(exe(x=good))
    rows: list[tuple[Any, str]] = [
        (device.array(np.ones((3, 2))), r"'x' has dtype float64; need .*\.astype\('float32'\)"),
        (device.array(np.ones((3, 2), "int32")), r"'x' has dtype int32.*\.astype\('float32'\)"),
        (device.array(np.ones((3, 3), "float32")), r"'x' has shape \(3, 3\)"),
        (device.array(np.ones(2, "float32")), r"'x' has shape \(2,\)"),
        (Elsewhere(), "'x' is a Elsewhere that is not a C-contiguous array on stand-in"),
        ("text", "'x' has dtype"),
    ]
    for wrong, message in rows:
        with pytest.raises(gx.InputError, match=message):
            exe(x=wrong)
    assert (p.value == 2).all()
    second = fetch(exe(x=good))
    exe.seed(1)
    assert_same([fetch(exe(x=good)), fetch(exe(x=good))], [first, second])


def test_a_backend_that_cannot_compile_hands_its_inputs_on(
    device: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "ORDER", ("stand-in", "numpy"))
    exe = gx.compile(gx.input("x", ("n",)) * 2)
    given = np.ones(3, "float32")
    assert fetch(exe(x=device.array(given))).tolist() == [2, 2, 2]

    def fails(text: str) -> Any:
        raise gx.BackendUnavailable(f"no room for {len(text)} characters")

    device.load = fails  # type: ignore[method-assign]
    with pytest.raises(gx.InputError, match="'x' has dtype object"):
        exe(x=device.array(np.ones(5, "float32")))  # NumPy has no use for it
    assert exe.backend == "numpy"
    assert exe(x=np.ones(5, "float32")).tolist() == [2] * 5


class Elsewhere:
    """An array of another device."""

    __cuda_array_interface__ = ()

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("no implicit conversion")


# -- many steps


def counting() -> tuple[Any, dict[gx.Param, gx.Node]]:
    """Outputs and updates that depend on inputs, on draws and on the steps before."""
    x, y = gx.input("x", (3,)), gx.input("y", ("n", 2), "int32")
    p = gx.param("p", np.zeros(3, "float32"))
    drawn = gx.random_uniform((3,))
    outputs = {"old": p, "value": gx.tanh(p) * x + drawn, "sum": y.sum(0), "same": y}
    return outputs, {p: p * np.float32(0.5) + x + drawn}


def made_of(program: tuple[Any, Any], **options: Any) -> Any:
    return gx.compile(program[0], updates=program[1], **options)


def run_both(exe: Any, many: Any, given: dict[str, Any], count: int, numpy_of: Any) -> None:
    """`count` calls and one `run_many` give the same bits."""
    steps = [exe({n: a[i] for n, a in given.items()}) for i in range(count)]
    together = many.run_many(given)
    for name in together:
        whole = numpy_of(together[name])
        assert whole.shape[0] == count
        for i, step in enumerate(steps):
            assert whole[i].tobytes() == numpy_of(step[name]).tobytes(), (name, i)


def inputs_of_many(count: int, n: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    return {
        "x": rng.standard_normal((count, 3)).astype("float32"),
        "y": rng.integers(0, 9, (count, n, 2)).astype("int32"),
    }


@EACH
@pytest.mark.parametrize("count", [1, 5])
def test_run_many_on_the_host(count: int) -> None:
    exe, many = (made_of(counting(), seed=3) for _ in range(2))
    for _ in range(2):
        run_both(exe, many, inputs_of_many(count), count, np.asarray)


@pytest.mark.parametrize("count", [1, 5, 16, 50])
def test_run_many_on_a_device(count: int, way: str, device: StandIn) -> None:
    exe, many = (made_of(counting(), seed=3, backend="stand-in") for _ in range(2))
    for turn in range(3):
        given = inputs_of_many(count)
        if turn == 1:
            given = {"x": device.array(given["x"]), "y": given["y"]}
            steps = {**inputs_of_many(count)}
            expected = [exe({n: a[i] for n, a in steps.items()}) for i in range(count)]
            made = many.run_many(given)
            for name, array in fetch(made).items():
                assert_same(array, [fetch(step[name]) for step in expected], name)
        else:
            run_both(exe, many, given, count, fetch)
    replays = device.replays
    many.run_many(inputs_of_many(count))
    assert device.replays - replays == (0 if way == "direct" else count // 16 + count % 16)


@EACH
def test_run_many_refuses_and_changes_nothing() -> None:
    outputs, updates = counting()
    exe = gx.compile(outputs, updates=updates, seed=3)
    (p,) = updates
    good = inputs_of_many(4)
    rows: list[tuple[Any, str]] = [
        ({"x": good["x"]}, "'y' is missing"),
        ({**good, "z": good["x"]}, "unknown input 'z'"),
        ({**good, "y": good["y"][:3]}, r"'y' has shape \(3, 5, 2\).*steps.*= 3.*steps.*= 4"),
        ({**good, "x": good["x"][0]}, r"'x' has shape \(3,\); need float32\[k steps, 3"),
        ({**good, "x": good["x"].astype(complex)}, "'x' has dtype complex"),
    ]
    for wrong, message in rows:
        with pytest.raises(gx.InputError, match=message):
            exe.run_many(wrong)
    assert (p.value == 0).all()
    none = exe.run_many(inputs_of_many(0))
    assert {n: a.shape for n, a in none.items()} == {
        "old": (0, 3), "value": (0, 3), "sum": (0, 2), "same": (0, 5, 2)
    }  # fmt: skip
    assert none["sum"].dtype == np.int32
    again = gx.compile(counting()[0], training=True, seed=3)
    first = {n: a[0] for n, a in good.items()}
    assert np.array_equal(exe(first)["value"], again(first)["value"])  # still at step 0
    with pytest.raises(gx.InputError, match="how many steps"):
        gx.compile(p + 1).run_many()


def test_run_many_of_no_steps(way: str) -> None:
    exe = compiled(*counting())
    none = fetch(exe.run_many(inputs_of_many(0)))
    assert none["same"].shape == (0, 5, 2), way
    assert (exe.graph.params[0].value == 0).all()


# -- measuring


@pytest.mark.usefixtures("way")
def test_profiling_changes_nothing() -> None:
    x = gx.input("x", (8,))
    p = gx.param("p", np.ones(8, "float32"))
    exe = compiled(gx.random_uniform((8,)) * x, {p: gx.exp(p).sum() + p}, seed=2)
    twin = gx.compile(gx.random_uniform((8,)) * x, backend="numpy", seed=2, training=True)
    given = np.ones(8, "float32")
    assert_same([fetch(exe(x=given))], [twin(x=given)])
    before = p.value
    profile = exe.profile({"x": given}, repeat=3)
    assert len(profile.kernels) == len(exe.kernels)
    assert all(kernel.seconds > 0 for kernel in profile.kernels)
    assert_same([p.value], [before])
    assert_same([fetch(exe(x=given))], [twin(x=given)])


def test_a_failure_while_profiling_does_no_harm(way: str, device: StandIn) -> None:
    p = gx.param("p", np.ones(8, "float32"))
    exe = compiled([], {p: p * 3})
    exe()
    runner = runner_of(exe)
    with runner.unchanged():
        device.faults.append(MemoryError())
        with pytest.raises(MemoryError):
            runner.time_kernels([], Draws(0, 0, {}), 1)
    assert (p.value == 3).all(), way
    exe()
    assert (p.value == 9).all()


# -- bound launches


def test_launches_get_addresses_and_numbers(device: StandIn) -> None:
    a, b = gx.input("a", (2, 3)), gx.input("b", (3, 2))
    seen: list[tuple[Any, ...]] = []
    device.kernels["k"] = lambda *arguments: seen.append(arguments)
    bound: list[tuple[int, int]] = []
    launcher = device.launcher
    device.launcher = lambda f, blocks, threads, arguments: (  # type: ignore[method-assign]
        bound.append((blocks, threads)), launcher(f, blocks, threads, arguments)
    )[1]  # fmt: skip
    product = Product(2, 2, 3, 3, 2, 2, "float32", "float32", alpha=2.0)
    launches = Launches(
        device,
        (
            KernelLaunch("k", (Address(a, 8), State(), 7, 0.5, Address(0, 4)), 100, 64, 0, 3),
            KernelLaunch("k", (Address(a),), 5, 32, 0, 3),
            KernelLaunch("k", (Address(a),), 100, 32, 0),
            ProductLaunch(product, Address(a), Address(b), Address(1), 1),
            FillLaunch(Address(1, 4), 8, 2),
        ),
        device.kernels.__getitem__,
    )
    left = np.arange(6, dtype="float32").reshape(2, 3)
    right = np.arange(6, dtype="float32").reshape(3, 2) - 2
    given = [device.array(left), device.array(right), device.array(np.zeros((2, 2), "float32"))]
    at = {a: given[0].address, b: given[1].address, 0: 4096, 1: given[2].address}
    calls = launches.bind(at, 99)
    with device.active():
        for call in calls:
            call()
    expected = 2 * (left @ right)
    expected[0, 1] = expected[1, 0] = 0
    assert_same([fetch(given[2])], [expected])
    assert seen == [(at[a] + 8, 99, 7, 0.5, 4100), (at[a],), (at[a],)]
    assert bound == [(6, 64), (5, 32), (100, 32)]  # two multiprocessors
    assert launches.bind(at, 99) == calls
    moved = launches.bind({**at, b: 256}, 99)
    assert [new is old for new, old in zip(moved, calls, strict=True)] == [True] * 3 + [False, True]


def test_the_text_is_loaded_with_the_kernels_of_the_step(device: StandIn) -> None:
    exe = compiled(gx.input("x", (4,)) + 1)
    texts: list[str] = []
    load = device.load
    device.load = lambda text: texts.append(text) or load(text)  # type: ignore[method-assign]
    found = exe._compiled("a test")
    CudaRunner(found.program, Text("// mine", ("",), ()), Options(inputs=("x",)), device)
    assert texts[0].startswith("// mine\n")
    assert all(name in texts[0] for name in ways.FUNCTIONS)
    assert exe.source == exe.stages["lowered"].notes["source"] == "// k0_add"
    assert [kernel.source for kernel in exe.kernels] == ["// k0_add"]


SHIM = """
#define __global__
#define __device__
struct gx_index { unsigned x; };
static gx_index blockIdx, threadIdx, blockDim, gridDim;
#include "step.cuh"
#define LAUNCH(call) \\
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) \\
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) \\
            call;
extern "C" void run(int what, unsigned blocks, unsigned threads, void *a, void *b, void *c,
                    long long count)
{
    gridDim.x = blocks, blockDim.x = threads;
    if (what == 0) {
        LAUNCH(gx_fetch((gx_room *)a, (char **)b, (long long *)c, count))
    } else if (what == 1) {
        LAUNCH(gx_deliver((gx_room *)a, (char **)b, (long long *)c, count))
    } else {
        LAUNCH(gx_advance((unsigned *)a, (long long *)b))
    }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_kernels_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "step.cpp").write_text(splice(SHIM))
    made = tmp_path / "step.so"
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror",
         str(tmp_path / "step.cpp"), "-o", str(made)], check=True,
    )  # fmt: skip
    run = ctypes.CDLL(str(made)).run
    run.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint, *[ctypes.c_void_p] * 3,
                    ctypes.c_longlong)  # fmt: skip
    rng = np.random.default_rng(0)
    index = np.array([2], np.int64)
    sizes = [0, 1, 16, 100, 4096, 37]
    rooms = [np.zeros(n + 1, np.uint8)[1 if n == 37 else 0 :][:n] for n in sizes]
    arrays = [rng.integers(1, 255, 3 * n).astype(np.uint8) for n in sizes]
    table = np.array([(r.ctypes.data, r.size) for r in rooms], np.int64)
    where = np.array([a.ctypes.data for a in arrays], np.uint64)
    where[3] = 0  # none
    for blocks, threads in ((1, 1), (3, 8), (6, 8), (20, 4)):
        for room in rooms:
            room[...] = 0
        run(0, blocks, threads, table.ctypes.data, where.ctypes.data, index.ctypes.data, len(sizes))
        for i, (room, array) in enumerate(zip(rooms, arrays, strict=True)):
            assert np.array_equal(room, array[2 * room.size :] if i != 3 else 0 * room)
        index[0] = 1
        old = [array.copy() for array in arrays]
        run(1, blocks, threads, table.ctypes.data, where.ctypes.data, index.ctypes.data, len(sizes))
        for i, (room, array, before) in enumerate(zip(rooms, arrays, old, strict=True)):
            if i != 3:
                before[room.size : 2 * room.size] = room
            assert np.array_equal(array, before)
        index[0] = 2
    state = np.array([1, 2, 0xFFFFFFFF, 3], np.uint32)
    run(2, 1, 1, state.ctypes.data, index.ctypes.data, None, 0)
    assert state.tolist() == [1, 2, 0, 4]
    assert index.tolist() == [3]


# -- the first rung


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> NumpyStandIn:
    device = NumpyStandIn()
    known = {**backends.BACKENDS, "stand-in": stand_in_backend(device)}
    monkeypatch.setattr(backends, "BACKENDS", known)
    return device


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", UPDATES)
def test_node_by_node_where_nothing_can_be_compiled(name: str) -> None:
    outputs, updates = UPDATES[name]
    for p, value in START.items():
        p.value = value
    exe = compiled(outputs, updates)
    assert "node by node, not compiled: no compiler of kernels" in exe.backend_reason
    for _ in range(2):
        expected = evaluate([*outputs, *updates.values()])
        made = [*exe(), *(p.value for p in updates)]
        for have, want in zip(made, expected, strict=True):
            assert_close(have, want, name)


@pytest.mark.parametrize("late", [False, True])
def test_node_by_node_where_the_library_refuses_a_product(
    late: bool, eager: NumpyStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(product: Product) -> Any:
        raise DeviceError(f"no algorithm for {product.m} rows", late=late)

    monkeypatch.setattr(eager, "load", lambda text: eager.kernels.get)
    monkeypatch.setattr(eager, "multiplier", refuse)
    given = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    product = gx.input("x", (3, 4)) @ gx.const(given.T.copy())
    launch = ProductLaunch(Product(3, 3, 4, 4, 3, 3, "float32", "float32"), *NOWHERE, 0)
    text = Text("", ("",), (launch,))
    monkeypatch.setattr("stand_in.print_on", lambda *_: text)
    if late:  # what was asked for before has failed: nothing else will do
        with pytest.raises(DeviceError, match="no algorithm"):
            compiled(product)
        return
    exe = compiled(product)
    assert "node by node, not compiled: no algorithm for 3 rows" in exe.backend_reason
    assert_close(np.asarray(exe(x=given)), given @ given.T)


@pytest.mark.usefixtures("eager")
def test_node_by_node_draws_and_many_steps_and_profiles() -> None:
    (outputs, updates), (same, other) = counting(), counting()
    exe = compiled(outputs, updates, seed=3)
    host = gx.compile(same, updates=other, backend="numpy", seed=3)
    given = inputs_of_many(4)
    run_both(exe, host, given, 4, np.asarray)
    assert isinstance(exe._compiled("a test").runner, Repeating)
    made = exe.run_many(given)
    expected = host.run_many(given)
    for name in made:
        assert_close(np.asarray(made[name]), expected[name], name)
    (p,), (q,) = updates, other
    before = p.value
    first = {n: a[0] for n, a in given.items()}
    profile = exe.profile(first, repeat=2)
    assert all(kernel.seconds > 0 for kernel in profile.kernels)
    assert_same([p.value], [before])
    assert_close(exe(first)["value"], host(first)["value"])
    assert_close(p.value, q.value)
    assert "tanh" in exe.source


# -- choosing


def test_devices_are_chosen_by_number() -> None:
    assert backends._named("cuda") is backends.BACKENDS["cuda"]
    second = backends._named("cuda:1")
    assert second is not None
    assert second.name == "cuda:1"
    for wrong in ("cuda:", "cuda:x", "cuda:-1", "native:1", "emulator:0"):
        with pytest.raises(gx.CompileError, match="unknown"):
            gx.compile(gx.input("x", (2,)), backend=wrong)
    assert "emulator" not in gx.devices()
    assert "emulator" in backends.BACKENDS


@pytest.mark.usefixtures("eager")
def test_node_by_node_an_interrupt_comes_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    p, x = gx.param("p", np.zeros(2, "float32")), gx.input("x", (2,))
    exe = compiled([], {p: p + x})
    store, calls = EagerRunner._store, [0]

    def interrupted(runner: EagerRunner, new: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        store(runner, new)

    monkeypatch.setattr(EagerRunner, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exe.run_many(x=np.ones((5, 2), "float32"))
    assert p.value.tolist() == [2, 2]
