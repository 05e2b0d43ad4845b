"""Profiles: what is measured adds up, nothing is changed by measuring, and every view is valid."""

from __future__ import annotations

import ctypes
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import training_step
from test_report import check_dot, needs_dot, run_dot

import graphc as gx
from graphc.backends import numpy_backend
from graphc.backends.host_memory import HostMemory
from graphc.executable import Executable
from graphc.ir.philox import Draws, number_draws
from graphc.report.canvas import heat_color
from graphc.report.notation import duration_text, percent_text
from graphc.report.profile import LONGEST_NAME, Profile

REPEAT = 4


@pytest.fixture(params=["numpy", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    found = gx.devices()[request.param]
    if not found.usable:
        pytest.skip(f"{request.param}: {found.reason}")
    return request.param


def compiled(backend: str, **options: Any) -> tuple[Executable, dict[str, np.ndarray]]:
    """A training step with momentum, and its inputs."""
    outputs, updates, inputs = training_step((16, 32, 10), 8)
    exe = gx.compile(outputs, updates=updates, backend=backend, name="step", **options)
    return exe, inputs


def runner_of(exe: Any) -> Any:
    """The prepared program of the latest sizes."""
    return exe._compiled("a test").runner


@pytest.fixture(scope="module")
def profile() -> Profile:
    exe, inputs = compiled("numpy")
    return exe.profile(inputs, repeat=REPEAT)


def with_seconds(profile: Profile, *seconds: float) -> Profile:
    """The same program with made-up times, the last one for all further kernels, on a made-up
    machine: one that is busy meanwhile is measured as one with small peaks."""
    padded = [*seconds, *[seconds[-1]] * (len(profile.kernels) - len(seconds))]
    return replace(
        profile, runs=tuple((s,) * REPEAT for s in padded), peak_flops_per_second=1e11,
        peak_bytes_per_second=1e10,
    )  # fmt: skip


# -- the numbers


def test_the_numbers_are_consistent(backend: str) -> None:
    exe, inputs = compiled(backend)
    made = exe.profile(inputs, repeat=REPEAT)
    assert [k.kernel for k in made.kernels] == [k.kernel for k in exe.kernels]
    assert len(made.kernels) > 3
    assert len(made.calls) == REPEAT
    for kernel in made.kernels:
        low, middle, high = kernel.quartiles
        assert len(kernel.runs) == REPEAT
        assert 0 <= min(kernel.runs) <= low <= middle <= high <= max(kernel.runs)
        assert middle == kernel.seconds == pytest.approx(np.median(kernel.runs))
        assert kernel.flops_per_second * middle == pytest.approx(kernel.flops if middle else 0)
        assert kernel.bytes_per_second * middle == pytest.approx(kernel.nbytes if middle else 0)
    assert made.seconds == pytest.approx(sum(k.seconds for k in made.kernels))
    assert made.seconds > 0
    assert sum(k.share for k in made.kernels) == pytest.approx(1)
    assert made.overhead_seconds == pytest.approx(np.median(made.calls) - made.seconds)


def test_the_time_is_where_the_work_is(backend: str) -> None:
    a, b = gx.input("a", (400, 400)), gx.input("b", (3,))
    exe = gx.compile([a @ a, gx.exp(b), b.sum()], backend=backend)
    made = exe.profile({"a": np.ones((400, 400), "float32"), "b": np.ones(3, "float32")})
    hottest = max(made.kernels, key=lambda k: k.share)
    assert hottest.kernel.form == "contraction"
    assert hottest.share > 0.5
    colors = fills(made.to_dot())
    assert colors[hottest.name] == heat_color(1)
    assert len(colors) == len(made.kernels)
    assert all(c != heat_color(1) for name, c in colors.items() if name != hottest.name)


def test_share_of_the_peak_is_the_roofline(profile: Profile) -> None:
    at = profile.kernels[0]
    flops = replace(at, runs=(2.0,), peak_flops_per_second=float(at.flops),
                    peak_bytes_per_second=at.nbytes * 1e9)  # fmt: skip
    assert (flops.peak_share, flops.bound) == (0.5, "flops")
    nbytes = replace(flops, peak_flops_per_second=at.flops * 4.0,
                     peak_bytes_per_second=at.nbytes / 2.0)  # fmt: skip
    assert (nbytes.peak_share, nbytes.bound) == (1.0, "bytes")


@pytest.mark.parametrize("backend", ["native"], indirect=True)
def test_launches_of_one_kernel_are_added_up(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = gx.input("x", (1 << 18,))
    exe = gx.compile([gx.exp(x).sum(), x[:3] * 2], backend=backend)
    runner = runner_of(exe)
    launches: list[int] = runner._kernel_of
    assert len(launches) > len(exe.kernels)  # a long sum has a second launch
    times = [float(4**i) for i in range(len(launches))]
    step = runner._step

    def run() -> None:
        step()
        wanted = runner._job.seconds  # of each launch
        if wanted is not None:
            (ctypes.c_double * len(times)).from_address(wanted)[:] = times

    monkeypatch.setattr(runner, "_step", run)
    made = exe.profile({"x": np.ones(1 << 18, "float32")}, repeat=2)
    for i, kernel in enumerate(made.kernels):
        expected = sum(t for t, k in zip(times, launches, strict=True) if k == i)
        assert kernel.runs == (expected, expected)


def test_a_timed_run_computes_what_a_call_computes(backend: str) -> None:
    x, p = gx.input("x", (20,)), gx.param("p", np.zeros(20, "float32"))
    z = gx.random_normal((20,))
    exe = gx.compile([], updates={p: 0.5 * p + x * z}, backend=backend)
    runner, given = runner_of(exe), [np.ones(20, "float32")]
    draws = [Draws(3, step, number_draws(exe.graph.nodes)) for step in (5, 6)]
    runner(given, draws[0])
    want, p.value = p.value, np.zeros(20)
    runner(given, draws[1])
    assert not np.array_equal(p.value, want)
    p.value = np.zeros(20)
    runner.time_kernels(given, draws[0], 1)
    assert np.array_equal(p.value, want)


# -- nothing changes


def changes(exe: Executable, inputs: dict[str, np.ndarray]) -> list[str]:
    """The parameters whose bits a profile changes."""
    before = {p: p.value.tobytes() for p in exe.graph.params}
    exe.profile(inputs, repeat=REPEAT)
    return [p.name for p, value in before.items() if p.value.tobytes() != value]


def test_parameters_keep_their_bits(backend: str) -> None:
    exe, inputs = compiled(backend)
    exe(inputs)  # velocities other than 0
    assert len(exe.graph.updates) == 8
    assert changes(exe, inputs) == []
    untouched = exe(inputs)["loss"]
    twin, inputs = compiled(backend)
    twin(inputs)
    assert np.array_equal(untouched, twin(inputs)["loss"])
    assert changes(twin, inputs) == []


def test_changed_parameters_would_be_seen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exe, inputs = compiled(backend)
    monkeypatch.setattr(HostMemory, "_restore", lambda *_: None)
    assert len(changes(exe, inputs)) == 8


def test_random_draws_stay_where_they_are(backend: str) -> None:
    def draws(profiled: bool) -> list[np.ndarray]:
        (p,) = [gx.param("p", np.zeros(20, "float32"))]
        z = gx.random_normal((20,))
        exe = gx.compile([z, p], updates={p: p + z}, backend=backend, seed=3)
        found = exe()
        if profiled:
            exe.profile(repeat=REPEAT)
        return [*found, *exe(), p.value]

    for have, want in zip(draws(True), draws(False), strict=True):
        assert np.array_equal(have, want)
    first, _, second, _, _ = draws(True)
    assert not np.array_equal(first, second)


def test_results_that_the_caller_holds_stay(backend: str) -> None:
    x = gx.input("x", (300, 300))
    exe = gx.compile(x * 2, backend=backend)
    given = np.ones((300, 300), "float32")
    held = [exe(x=given) for _ in range(3)]
    exe.profile({"x": 3 * given}, repeat=2)
    assert all((array == 2).all() for array in held)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_profile_does_no_harm(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    exe, inputs = compiled("numpy")
    before = {p: p.value for p in exe.graph.params}
    runner = runner_of(exe)
    functions = runner._kernel_functions()

    def fail() -> None:
        assert any(not np.array_equal(p.storage.array, v) for p, v in before.items())
        raise error

    monkeypatch.setattr(runner, "_timed", [*functions, fail])
    with pytest.raises(error):
        exe.profile(inputs)
    assert all(np.array_equal(p.value, value) for p, value in before.items())
    monkeypatch.undo()
    exe(inputs)  # neither a lock nor an invalid value is left
    assert changes(exe, inputs) == []


def test_other_threads_see_no_updated_value(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exe, inputs = compiled(backend)
    p = exe.graph.updates[0][0]
    before, seen = p.value, list[np.ndarray]()
    reader = threading.Thread(target=lambda: seen.append(p.value))
    runner = runner_of(exe)
    timed = type(runner).time_kernels

    def time_kernels(self: Any, *arguments: Any) -> list[list[float]]:
        found = timed(self, *arguments)
        if not reader.ident:
            reader.start()
        reader.join(0.05)
        assert not seen
        return found

    monkeypatch.setattr(type(runner), "time_kernels", time_kernels)
    exe.profile(inputs, repeat=2)
    reader.join(10)
    assert np.array_equal(seen[0], before)


# -- what is accepted


@pytest.mark.parametrize("repeat", [0, -1, True, 1.5, "3", None])
def test_bad_repeat_is_refused(repeat: Any) -> None:
    exe, inputs = compiled("numpy")
    with pytest.raises(gx.InputError, match=r"repeat .*: need an int of 1 or more"):
        exe.profile(inputs, repeat=repeat)
    for odd in (1, 3):
        assert len(exe.profile(inputs, odd).calls) == odd


def test_inputs_are_admitted_as_in_a_call(backend: str) -> None:
    exe, inputs = compiled(backend)
    assert exe.profile({**inputs, "x": inputs["x"].astype("float64")}, repeat=1).seconds > 0
    with pytest.raises(gx.InputError, match="'labels' is missing"):
        exe.profile({"x": inputs["x"]})
    with pytest.raises(gx.InputError, match="unknown input 'y'"):
        exe.profile({**inputs, "y": inputs["x"]})
    with pytest.raises(gx.InputError, match="list given; pass arrays by name"):
        exe.profile([inputs["x"]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(gx.InputError, match="is missing"):
        exe.profile()


def test_symbolic_sizes_are_learnt(backend: str) -> None:
    x = gx.input("x", ("batch", 8))
    exe = gx.compile(gx.softmax(gx.tanh(x)), backend=backend)
    for batch in (3, 5, 0, 3):
        made = exe.profile({"x": np.ones((batch, 8), "float32")}, repeat=2)
        assert made.schedule is exe.stages["fused"].record
        assert made.schedule.graph.inputs[0].shape == (batch, 8)
        check_dot(made.to_dot())
        assert made.table().count("\n") == 5 + len(made.kernels)


def test_checked_programs_can_be_profiled(backend: str) -> None:
    exe, inputs = compiled(backend, check=True)
    assert changes(exe, inputs) == []
    assert exe.profile(inputs, repeat=1).seconds > 0


def test_nothing_to_run(backend: str, tmp_path: Path) -> None:
    made = gx.compile([], backend=backend).profile(repeat=1)
    assert (made.kernels, made.seconds) == ((), 0)
    assert "total of 0 kernels" in made.table()
    check_dot(made.to_dot())
    made.chrome_trace(tmp_path / "trace.json")
    assert [e["ph"] for e in read_trace(tmp_path / "trace.json")] == ["M", "M"]


@pytest.mark.parametrize("inline", [0, numpy_backend.INLINE])
def test_programs_of_many_lines(inline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_backend, "INLINE", inline)
    x = gx.input("x", (1 << 20,))
    exe = gx.compile([gx.tanh(x), gx.tanh(x).sum()], backend="numpy", threads=2)
    made = exe.profile({"x": np.ones(1 << 20, "float32")}, repeat=2)
    assert min(k.seconds for k in made.kernels) > 1e-5  # blocks, on threads


# -- the table


def test_the_table_names_every_kernel_in_order(profile: Profile) -> None:
    head, columns, *rows, total, call, peak = profile.table().splitlines()
    assert head == "step on numpy: 4 runs"
    assert columns.split() == [
        "kernel", "median", "quartiles", "share", "FLOP/s", "bytes/s", "of", "peak",
    ]  # fmt: skip
    assert len(rows) == len(profile.kernels)
    for row, kernel in zip(rows, profile.kernels, strict=True):
        assert row.startswith(kernel.name[: LONGEST_NAME - 2])
        assert f" {duration_text(kernel.seconds)} " in row
        assert f" {percent_text(kernel.share)} " in row
    assert total.startswith(f"total of {len(rows)} kernels")
    assert duration_text(profile.seconds) in total
    assert duration_text(profile.call_seconds) in call
    assert re.fullmatch(
        r"peak of the CPU: \S+ .FLOP/s in a float32 product, \S+ .iB/s in a copy", peak
    )
    assert str(profile) == profile.table()


@pytest.mark.parametrize("seconds", [0.0, 2e-8, 9.994e-7, 1e-3, 0.99949, 12.0, 5000.0])
def test_the_table_is_at_most_100_columns_wide(profile: Profile, seconds: float) -> None:
    table = with_seconds(replace(profile, name="step" * 30), seconds).table()
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    rows = lines[2 : 2 + len(profile.kernels)]
    assert all(row.endswith((" flops", " bytes")) for row in rows)  # the last cell is whole
    assert "nan" not in table


def test_a_call_is_compared_with_its_kernels(profile: Profile) -> None:
    made = with_seconds(profile, 1e-3)
    n = len(made.kernels)
    slower = replace(made, calls=(2e-3 * n,) * 3)
    assert f"{n} ms of it outside the kernels (50 %)" in slower.table()
    faster = replace(made, calls=(0.5e-3 * n,) * 3)
    assert f"{n / 2:g} ms less than its kernels one by one" in faster.table()


# -- the picture


def fills(source: str) -> dict[str, str]:
    """The colour of each kernel of a drawing, by its name."""
    clusters = re.findall(
        r"subgraph cluster_k\d+ \{\n\s*graph \[(.*?)\]\n|subgraph cluster_k\d+ \{\n(.*)\n", source
    )
    found: dict[str, str] = {}
    for first, second in clusters:
        text = first or second
        name = re.search(r'label="([^"\\]*)', text)
        color = re.search(r'fillcolor="(#\w+)"', text)
        assert name, text
        assert color, text
        found[name[1]] = color[1]
    return found


def test_hot_kernels_are_drawn_hot(profile: Profile) -> None:
    made = with_seconds(profile, 8e-3, 4e-3, 0.0)
    source = made.to_dot()
    check_dot(source)
    colors = [fills(source)[k.name] for k in made.kernels]
    assert colors[:3] == [heat_color(1), heat_color(0.5), heat_color(0)]
    assert len(set(colors)) == 3
    assert "8 ms, 67 % of the time" in source
    assert heat_color(0.25) not in source


def test_heat_reads_in_grey() -> None:
    def grey(color: str) -> float:
        r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * r + 0.587 * g + 0.114 * b

    scale = [grey(heat_color(i / 20)) for i in range(21)]
    assert all(a > b for a, b in pairwise(scale))
    assert heat_color(-1) == heat_color(0)
    assert heat_color(2) == heat_color(1)


def test_the_picture_is_that_of_the_fused_stage(profile: Profile) -> None:
    exe, _ = compiled("numpy")

    def drawn(source: str) -> list[str]:
        found = re.findall(r"^\t+((?:\w+ -> )?\w+)(?= \[|$)", source, re.MULTILINE)
        return [what for what in found if not what.startswith("legend")]

    assert drawn(profile.to_dot()) == drawn(exe.to_dot())
    assert gx.to_dot(profile) == profile.to_dot()


@needs_dot
def test_graphviz_draws_it(backend: str) -> None:
    exe, inputs = compiled(backend)
    assert run_dot(exe.profile(inputs, repeat=1).to_dot(), "png").startswith(b"\x89PNG")


# -- the trace


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a file in the Trace Event Format, in its JSON object form; AssertionError where
    it breaks a rule of the format: times are numbers of microseconds, processes and threads are
    numbers that metadata events name, complete events of one thread lie apart or within another."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(path.read_bytes().decode("utf-8"), parse_constant=refuse)
    assert record.get("displayTimeUnit", "ms") in ("ms", "ns")
    named: set[tuple[Any, ...]] = set()
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in record["traceEvents"]:
        lane = event["pid"], event["tid"]
        assert all(type(n) is int for n in lane)
        assert isinstance(event["name"], str)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            named.add(lane if event["name"] == "thread_name" else lane[:1])
            continue
        assert event["ph"] == "X", f"phase {event['ph']} is not expected here"
        assert isinstance(event.get("cat", ""), str)
        assert isinstance(event.get("args", {}), dict)
        for time in (event["ts"], event["dur"]):
            assert type(time) in (int, float)
            assert math.isfinite(time)
            assert time >= 0
        lanes.setdefault(lane, []).append((event["ts"], event["ts"] + event["dur"]))
    for lane, spans in lanes.items():
        assert {lane, lane[:1]} <= named, f"{lane} has no name"
        for (_, end), (start, last) in pairwise(sorted(spans)):
            assert start >= end - 1e-6 or last <= end + 1e-6, "events cross"
    return record["traceEvents"]


def test_the_trace_has_every_kernel_of_every_run(backend: str, tmp_path: Path) -> None:
    exe, inputs = compiled(backend)
    made = replace(exe.profile(inputs, repeat=REPEAT), name="Schritt größer → \ud800")
    made.chrome_trace(tmp_path / "trace.json")
    naming, _, *events = read_trace(tmp_path / "trace.json")
    assert naming["args"]["name"] == f"{made.name} on {backend}"
    assert len(events) == REPEAT * len(made.kernels)
    for i, event in enumerate(events):
        run, kernel = divmod(i, len(made.kernels))
        want = made.kernels[kernel]
        assert (event["name"], event["cat"]) == (want.name, want.kernel.form)
        assert event["dur"] == pytest.approx(want.runs[run] * 1e6)
        assert event["args"]["flops"] == want.flops
        assert event["args"]["nbytes"] == want.nbytes
        assert event["args"]["run"] == run
        assert set(event["args"]["ops"]) == {n.op.name for n in want.kernel.nodes}
    end = events[-1]["ts"] + events[-1]["dur"]
    assert end == pytest.approx(sum(map(sum, made.runs)) * 1e6)


Damage = Callable[[list[dict[str, Any]]], Any]
DAMAGED: dict[str, Damage] = {
    "no duration": lambda events: events[2].pop("dur"),
    "a negative duration": lambda events: events[2].update(dur=-1.0),
    "a time in words": lambda events: events[2].update(ts="0"),
    "not a number": lambda events: events[3].update(dur=math.nan),
    "a thread in words": lambda events: events[3].update(tid="kernels"),
    "a thread without a name": lambda events: events.pop(1),
    "a process without a name": lambda events: events.pop(0),
    "an unknown phase": lambda events: events[2].update(ph="Q"),
    "crossing events": lambda events: events[2].update(dur=events[3]["ts"] + 1e-3),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_trace_is_refused(damage: str, profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with_seconds(profile, 1e-3).chrome_trace(path)
    record = json.loads(path.read_text(encoding="utf-8"))
    DAMAGED[damage](record["traceEvents"])
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises((AssertionError, KeyError)):
        read_trace(path)
