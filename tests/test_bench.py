"""The benchmarks measure what they say: all compute the same, and what fails is told apart."""

import importlib
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import graphc as gx
from graphc.backends.peaks import Peaks, measure_peaks
from graphc.resources import load_bench

runner: Any = load_bench()
from graphc_bench import (  # noqa: E402
    compile_time,
    contestants,
    gpu,
    gpu_kernels,
    machine,
    measure,
    plot,
    process,
    report,
    sweep,
    worker,
    workloads,
)

Contestant, Worker, BY_HAND = contestants.Contestant, process.Worker, contestants.BY_HAND
NUMPY = next(c for c in contestants.backends() if c.name == "numpy")


def fake(name: str, **options: Any) -> Any:
    """A contestant of fake_contestants.py."""
    here = {"PYTHONPATH": str(Path(__file__).parent)}
    make = f"fake_contestants:{name.replace(' ', '_')}"
    return Contestant(name, name, "peer", make, options, needs="numpy", environment=here)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds of a call or two."""
    monkeypatch.setattr(measure, "ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(measure, "MAX_ROUNDS", 3)


# -- all compute the same


@pytest.mark.parametrize("name", workloads.BY_NAME)
def test_both_sides_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and new parameters after a few steps."""
    if name.startswith("wide"):
        pytest.skip("as mnist, with larger sizes")
    monkeypatch.setattr(workloads, "ELEMENTS", 1024)
    both_sides_agree(workloads.BY_NAME[name])


@pytest.mark.parametrize("precision", runner.TOLERANCES)
def test_both_sides_agree_in_each_precision(precision: str) -> None:
    both_sides_agree(workloads.training("small", (64, 32, 10), 32, precision))


def both_sides_agree(workload: Any) -> None:
    hand = contestants.by_hand(workload, workload.build())
    ours = contestants.on_backend(workload, workload.build(), backend="numpy")
    assert ours.facts["launches"] >= 1
    for _ in range(workloads.STEPS_COMPARED):
        expected, got = hand.step(), ours.step()
    expected, got = {**expected, **hand.state()}, {**got, **ours.state()}
    got = {k: gpu.on_host(a) for k, a in got.items()}
    assert runner.difference("numpy", got, expected, workload.precision) == ""
    planted = {**got, "loss": np.float32(got["loss"] * 1.2)} if "loss" in got else {}
    assert runner.difference("numpy", planted, expected, workload.precision) != ""


def every_kind(c: Any) -> Any:
    """A contestant that also does small workloads of the other kinds, in the same process."""
    small = fake("every kind", make=c.make, options=dict(c.options))
    return replace(small, environment={**c.environment, **small.environment})


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the steps by hand give, tiny and of the other kinds."""
    with Worker(every_kind(BY_HAND), "tiny", tmp_path_factory.mktemp("hand") / "0.npz") as it:
        return it.results()


@pytest.mark.parametrize("peer", contestants.PEERS, ids=lambda c: c.name)
def test_a_real_peer_agrees(peer: Any, expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    if peer.missing():
        pytest.skip(f"{peer.title} is {peer.missing()}")
    compiles_for_seconds = peer.name == "torch.compile"
    if compiles_for_seconds:
        expected = {k: v for k, v in expected.items() if " " not in k}
    assert len(expected) >= 9
    c = peer if compiles_for_seconds else every_kind(peer)
    with Worker(c, "tiny", tmp_path / "results.npz") as it:
        assert runner.difference(peer.name, it.results(), expected) == ""


# -- the race


@pytest.mark.usefixtures("quick")
def test_what_fails_is_a_column_that_says_so() -> None:
    absent = Contestant("absent", "Absent", "peer", "no:where", needs="surely_not_installed")
    there = (BY_HAND, NUMPY, absent, fake("talks"), fake("fails"), fake("is wrong"))
    dying = (fake("dies midway", status=0), replace(fake("dies midway", status=9), name="goes"))
    row = runner.compare("tiny", (*there, *dying), runner.Race(Peaks(1e11, 1e10)))
    columns = row["columns"]
    reasons = {name: c.get("unavailable", "") for name, c in columns.items()}
    assert reasons == {
        "by hand": "",
        "numpy": "",
        "absent": "not installed; pip install 'graphc[peers]'",
        "talks": "",
        "fails": "failed: RuntimeError: cannot do tiny with 2 inputs",
        "is wrong": reasons["is wrong"],
        "dies midway": "failed: MemoryError: nothing left",
        "goes": "failed: its process ended with status 9",
    }
    assert "loss of is wrong is off by 0.0" in reasons["is wrong"]
    assert row["wrong"].startswith("bench tiny: loss of is wrong is off by 0.0")
    assert row["best peer"] == "talks"
    assert columns["by hand"]["ratio"] == 1
    assert columns["numpy"]["ratio"] > 0
    assert columns["numpy"]["peer ratio"] > 0
    share = row["limit seconds"] / columns["numpy"]["median"]
    assert columns["numpy"]["share of limit"] == pytest.approx(share)


def test_a_reference_that_fails_ends_the_run() -> None:
    with pytest.raises(gx.GraphcError, match="bench tiny: fails failed: RuntimeError: cannot do"):
        runner.compare("tiny", (fake("fails"),), runner.Race(Peaks(1, 1)))


def test_parameters_are_compared(tmp_path: Path) -> None:
    found: list[Any] = []
    for c in (BY_HAND, fake("forgets its parameters")):
        with Worker(c, "tiny", tmp_path / "results.npz") as it:
            found.append(it.results())
    assert runner.difference("it", found[1], found[0]).startswith("v_w0 of it is missing")


def test_a_process_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_SECONDS", 1.5)
    with pytest.raises(measure.ContestantError, match=r"no answer in 1\.5 s"):
        Worker(fake("never answers"), "tiny")


def test_threads_that_spin_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(fake("keeps spinning"), "tiny") as spinning:
        assert spinning.turn(1) > 0
        assert spinning.restless
    with Worker(BY_HAND, "tiny") as calm:
        assert calm.turn(1) > 0
        assert not calm.restless
    stop = threading.Event()
    monkeypatch.setattr(worker, "PATIENCE", 0.05)

    def spin() -> None:
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert not worker.settle()
    finally:
        stop.set()
        thread.join()


def test_rounds_alternate_and_go_on_without_who_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROUND_SECONDS", 0.02)
    turns: list[tuple[str, int]] = []

    def turn(name: str, calls: int) -> float:
        turns.append((name, calls))
        if name == "c" and len(turns) > 4:
            raise measure.ContestantError("gone")
        return 0.5

    once = {"a": 0.01, "b": 0.05, "c": 0.001}
    steps = {name: lambda calls, name=name: turn(name, calls) for name in once}
    found, failed = measure.alternate(steps, once, seconds=0.1)
    assert turns[:7] == [(n, {"a": 2, "b": 1, "c": 20}[n]) for n in "abccbaa"]
    assert {name: len(s) for name, s in found.items()} == {"a": measure.MIN_ROUNDS, "b": 7}
    assert failed == {"c": "gone"}
    assert turns.count(("c", 20)) == 3


def test_timing() -> None:
    timing = measure.Timing.of([3.0, 1.0, 2.0, 4.0, 100.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)
    assert measure.ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == 1.0
    assert report.duration(0.00238) == "2.38 ms"
    assert report.duration(52.1e-6) == "52.1 us"
    assert report.duration(0.2) == "200 ms"


def test_the_last_line_of_an_error() -> None:
    assert process.last_line("Traceback:\n  a line\nValueError: no\n\n") == "ValueError: no"
    assert process.last_line(" \n") == ""
    assert len(process.last_line("x" * 1000)) == process.LINE


# -- limits


def test_limits() -> None:
    peaks = measure_peaks()
    assert peaks is measure_peaks()
    assert 1e9 < peaks.flops_per_second < 1e15
    assert 1e8 < peaks.bytes_per_second < 1e14
    assert Peaks(100.0, 10.0).seconds(flops=200, nbytes=5) == 2.5


def test_work_counts_products_and_bytes_once() -> None:
    tiny = workloads.BY_NAME["tiny"]
    flops, nbytes = tiny.work(tiny.build())
    assert flops == 2 * 32 * (2 * 64 * 32 + 3 * 32 * 10)
    weights = 64 * 32 + 32 + 32 * 10 + 10
    inputs, loss, state = 32 * 64 + 32, 1, 2 * weights
    assert nbytes == 4 * (inputs + loss + 2 * state)
    assert workloads.BY_NAME["elementwise"].flops == 0


# -- the run and what it writes


@pytest.mark.usefixtures("quick")
def test_run_writes_results_before_it_refuses_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PEERS", (fake("talks"), fake("is wrong")))
    path = tmp_path / "sub" / "result.json"
    with pytest.raises(gx.GraphcError, match="bench tiny: loss of is wrong is off by"):
        runner.run(["tiny"], [], path, peers=True)
    result = json.loads(path.read_text())
    assert set(machine.facts()) == set(result["machine"])
    assert set(result["limits"]) >= {"flops_per_second", "bytes_per_second"}
    (row,) = result["steps"]
    assert set(row["columns"]) == {"by hand", *gx.devices(), "talks", "is wrong"}
    for name, device in gx.devices().items():
        assert ("unavailable" in row["columns"][name]) != device.usable
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nwhat was there\n{report.END}\nafter\n")
    report.fill_in(page, result)
    assert "| tiny; training step" in page.read_text()
    assert "what was there" not in page.read_text()
    assert page.read_text().endswith("\nafter\n")


@pytest.mark.parametrize(("cases", "backends"), [(["nothing"], []), (["tiny"], ["abacus"])])
def test_unknown_names(cases: list[str], backends: list[str], tmp_path: Path) -> None:
    with pytest.raises(gx.GraphcError, match="there are"):
        runner.run(cases, backends, tmp_path / "never.json")
    assert not (tmp_path / "never.json").exists()


def made_up() -> dict[str, Any]:
    """A result with two cases: one that all ran, one in which a peer failed."""

    def column(seconds: float, **more: float) -> dict[str, Any]:
        times = {"median": seconds, "low": seconds * 0.9, "high": seconds * 1.2}
        return {**times, "ratio": seconds / 4e-5, "restless": False, **more}

    there = [
        {"name": "by hand", "title": "NumPy by hand", "kind": "by hand", "version": "2.0"},
        {"name": "numpy", "title": "backend numpy", "kind": "backend", "version": "0.1"},
        {"name": "cuda", "title": "backend cuda", "kind": "backend", "version": "0.1"},
        {"name": "jax", "title": "JAX", "kind": "peer", "version": "0.5"},
        {"name": "torch", "title": "torch eager", "kind": "peer", "version": "2.5"},
    ]
    ours = {"peer ratio": 1.5, "share of limit": 0.125}
    no_gpu = {"unavailable": "no driver"}
    first = {
        "by hand": column(4e-5), "numpy": column(3e-5, **ours), "cuda": no_gpu,
        "jax": column(2e-5), "torch": column(9e-5),
    }  # fmt: skip
    second = {**first, "torch": {"unavailable": "failed: OSError: [out of] words"}}
    steps = [
        {"case": name, "about": "about", "columns": columns, "best peer": "jax"}
        for name, columns in (("tiny", first), ("wide", second))
    ]
    compiled = [
        {"title": "backend numpy", "import": 0.02, "empty cache": 0.1, "filled cache": None,
         "again": 0.01},
        {"title": "JAX", "failed": "no memory"},
    ]  # fmt: skip
    limits = {"flops_per_second": 3e11, "bytes_per_second": 2.8e10}
    return {
        "machine": machine.facts(), "contestants": there, "limits": limits, "steps": steps,
        "compile": {"compile": compiled, "call": {"backend numpy": 2e-6}},
    }  # fmt: skip


def test_report_marks_the_best_peer_and_says_what_is_missing() -> None:
    text = report.markdown(made_up())
    assert "JAX 0.5, torch eager 2.5" in text
    header = "| case | NumPy by hand | backend numpy | JAX | torch eager | graphc / best peer"
    assert header.replace("graphc", "numpy") + " | share of limit |" in text
    assert "| **20.0 us ±15%; ratio 0.50** | 90.0 us ±15%; ratio 2.25 | 1.50 | 12% |" in text
    assert "| **20.0 us ±15%; ratio 0.50** | not available | 1.50 | 12% |" in text
    assert "backend cuda is not available: no driver." in text
    assert "torch eager is not available in wide: failed: OSError: [out of] words." in text
    assert "300 GFLOP/s" in text
    assert "28.0 GB/s" in text
    assert "| backend numpy | 20.0 ms | 100 ms | - | 10.0 ms |" in text
    assert "| JAX | failed: no memory | - | - | - |" in text
    assert "| call a program that adds one number, backend numpy | 2.00 us |" in text
    stream = io.StringIO()
    for table in report.tables(made_up()):
        Console(width=240, file=stream).print(table)
    assert "[out of] words" in stream.getvalue()
    assert "numpy / best peer" in stream.getvalue()


def test_two_backends_are_told_apart_and_spinning_is_told() -> None:
    results = made_up()
    for row in results["steps"]:
        row["columns"]["cuda"] = {**row["columns"]["numpy"], "peer ratio": 0.25, "restless": True}
        del row["columns"]["cuda"]["share of limit"]
    text = report.markdown(results)
    assert "graphc / best peer | share of limit |" in text
    assert "| numpy 1.50; cuda 0.25 | numpy 12% |" in text
    assert "Threads that spun on while others were timed: backend cuda." in text


def test_plot(tmp_path: Path) -> None:
    reference, factors = plot.relative(made_up())
    assert reference == "the case's fastest peer"
    assert factors[0] == pytest.approx({"by hand": 2, "numpy": 1.5, "jax": 1, "torch": 4.5})
    assert set(factors[1]) == {"by hand", "numpy", "jax"}
    alone = made_up()
    alone["steps"][0]["best peer"] = None
    assert plot.relative(alone)[0] == "NumPy by hand"
    with pytest.raises(gx.GraphcError, match=r"a name that ends in \.png"):
        plot.must_be_possible(tmp_path / "plot.jpeg", ["tiny"])
    pytest.importorskip("matplotlib", reason="plots need graphc[plot]")
    with pytest.raises(gx.GraphcError, match="no case asked for is one"):
        plot.must_be_possible(tmp_path / "plot.png", [])
    plot.must_be_possible(tmp_path / "plot.png", ["tiny"])
    plot.draw(made_up(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# -- a GPU: what of it can be looked at without one


class Many:
    """An executable that can make many steps a call, each by a call of its own."""

    def __init__(self, exe: Any) -> None:
        self.kernels, self.plan, self.exe, self.sizes = exe.kernels, exe.plan, exe, list[int]()

    def run_many(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(next(iter(inputs.values()))))
        steps = [self.exe({k: a[i] for k, a in inputs.items()}) for i in range(self.sizes[-1])]
        return {name: np.stack([found[name] for found in steps]) for name in steps[0]}


def test_inputs_take_turns_once_results_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"x": np.arange(6.0).reshape(3, 2), "k": np.arange(3)}
    monkeypatch.setattr(gpu, "ROTATED_NBYTES", 5 * 72)
    assert gpu.input_sets(given, rotate=False) == [given]
    sets = gpu.input_sets(given, rotate=True)
    assert len(sets) == 5
    assert sets[0]["x"].tolist() == given["x"].tolist()
    assert sets[1]["k"].tolist() == [2, 0, 1]  # rows and labels stay together
    assert sets[1]["x"][0].tolist() == [4, 5]
    turns = gpu.in_turn("abc")
    assert "".join(next(turns) for _ in range(9)) == "aaa" + "abcabc"
    monkeypatch.setattr(gpu, "MANY", 2)
    first, *others = gpu.blocks(given)
    assert [len(b["x"]) for b in (first, *others)] == [1, 2, 2]
    assert others[1]["k"].tolist() == [sets[2]["k"].tolist(), sets[3]["k"].tolist()]


def test_many_steps_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROTATED_NBYTES", 1)
    made: list[Many] = []
    compiled = gx.compile

    def stand_in(*args: Any, **options: Any) -> Any:
        made.append(Many(compiled(*args, **options)))
        return made[0]

    monkeypatch.setattr(gx, "compile", stand_in)
    tiny = workloads.BY_NAME["tiny"]
    hand = contestants.by_hand(tiny, tiny.build())
    ours = contestants.on_backend(tiny, tiny.build(), backend="numpy", many=True)
    for _ in range(workloads.STEPS_COMPARED):
        expected, got = hand.step(), ours.step()
    expected, got = {**expected, **hand.state()}, {**got, **ours.state()}
    assert runner.difference("many", got, expected) == ""
    ours.step()
    assert made[0].sizes == [1, 1, 1, gpu.FEWEST]
    assert ours.steps == gpu.FEWEST
    assert worker.turn(ours, 2)["seconds"] > 0
    assert made[0].sizes[-3:] == [gpu.FEWEST] * 3
    clocked = ours._replace(wait=lambda: None, stopwatch=lambda: lambda: 80.0)
    assert worker.turn(clocked, 2)["device"] == 80 / 2 / gpu.FEWEST  # per step


def like_cupy() -> ModuleType:
    """NumPy under the name of CuPy, with what the benchmarks need of a device."""
    module: Any = ModuleType("cupy")
    module.__getattr__ = lambda name: getattr(np, name)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    module.cuda = SimpleNamespace(
        runtime=SimpleNamespace(deviceSynchronize=lambda: None),
        Event=lambda: event, get_elapsed_time=lambda begin, end: 500.0,
    )  # fmt: skip
    return module


@pytest.mark.parametrize("name", ["tiny", "elementwise", "cross-entropy", "column-sums"])
def test_cupy_by_hand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", like_cupy())
    monkeypatch.setattr(workloads, "ELEMENTS", 1024)
    monkeypatch.setattr(gpu, "ROTATED_NBYTES", 1)
    monkeypatch.setenv("CUPY_TF32", "1")
    monkeypatch.delitem(sys.modules, "graphc_bench.peer_cupy", raising=False)
    peer: Any = importlib.import_module("graphc_bench.peer_cupy")
    workload = workloads.BY_NAME[name]
    hand = contestants.by_hand(workload, workload.build())
    ours = peer.make(workload, workload.build())
    assert os.environ["CUPY_TF32"] == "0"
    for _ in range(workloads.STEPS_COMPARED):
        expected, got = hand.step(), ours.step()
    assert runner.difference("cupy", {**got, **ours.state()}, {**expected, **hand.state()}) == ""
    assert worker.turn(ours, 5)["device"] == pytest.approx(0.1)  # half a second for five calls
    monkeypatch.delitem(sys.modules, "graphc_bench.peer_cupy")


LIMITS = {
    "name": "Some GPU", "l2 bytes": 2**25, "driver": 13000, "runtime": 13000, "cupy": "14.2",
    "bytes_per_second": 4e12, "flops_per_second": {"float32": 5e13, "tf32": 4e14},
}  # fmt: skip


@pytest.mark.usefixtures("quick")
def test_on_a_gpu_the_step_by_hand_is_compared_with_only() -> None:
    ours = replace(fake("on a device"), name="cuda", title="backend cuda", kind="backend")
    peer = fake("on a device")
    slow = replace(fake("on a device", nap=0.002), name="slow")
    there = (BY_HAND, ours, peer, slow, fake("is wrong"))
    row = runner.compare("tiny", there, runner.Race(Peaks(1, 1), LIMITS, on_gpu=True))
    columns = row["columns"]
    assert columns["by hand"] == {"compared": True}
    assert "loss of is wrong is off" in columns["is wrong"]["unavailable"]
    assert row["best peer"] == "on a device"
    found = columns["cuda"]
    assert found["queued"]["median"] > 0
    assert found["device"]["median"] > found["median"]  # half a second, whatever the calls
    queued = found["queued"]["median"] / columns["on a device"]["queued"]["median"]
    assert found["queued ratio"] == queued
    flops, nbytes = 2 * 32 * (2 * 64 * 32 + 3 * 32 * 10), found["device"]["median"]
    assert row["gpu limit seconds"] > flops / 5e13
    assert found["share of limit"] == row["gpu limit seconds"] / nbytes
    results = {**made_up(), "contestants": [c.facts() for c in there], "steps": [row]}
    results |= {"gpu": LIMITS, "left out": ["wide"], "compile": {}}
    text = report.markdown(results)
    assert "GPU: Some GPU, L2 cache 32 MiB, driver 13000" in text
    assert "cuda / best peer | cuda / best peer, queued | share of limit |" in text
    assert "50 TFLOP/s in float32, 400 TFLOP/s in tf32 (8192 x 8192)" in text
    assert "at 4.00 TB/s" in text
    assert "Left out, as no time was left: wide." in text
    assert plot.relative(results)[0] == "the case's fastest peer"


def test_a_gpu_run_without_a_gpu_measures_nothing() -> None:
    absent = Contestant("cuda", "backend cuda", "backend", "no:where", reason="no driver")
    row = runner.compare("wide-4096", (BY_HAND, absent), runner.Race(Peaks(1, 1), on_gpu=True))
    assert row["columns"]["cuda"] == {"unavailable": "no driver"}
    there = [BY_HAND.facts(), absent.facts()]
    assert plot.relative({**made_up(), "contestants": there, "steps": [row]})[1] == [{}]


def test_peers_of_a_gpu_are_told_where_to_run() -> None:
    named = {c.name: c for c in contestants.GPU_PEERS}
    assert set(named) == {"jax", "torch", "torch.compile", "reduce-overhead", "cupy"}
    assert all(c.options.get("gpu") for name, c in named.items() if name != "cupy")
    assert named["jax"].environment["JAX_PLATFORMS"] == "cuda"
    assert not any("gpu" in c.options for c in contestants.PEERS)


# -- speed-ups, and the sweep of sizes


def test_speedups_and_why_a_backend_has_none() -> None:
    results = made_up()
    native = {**results["contestants"][1], "name": "native", "title": "backend native"}
    results["contestants"].insert(2, native)
    for row in results["steps"]:
        slower = row["columns"]["numpy"]
        times = {key: slower[key] / 4 for key in ("median", "low", "high")}
        row["columns"] = {**row["columns"], "native": {**slower, **times}}
    header, rows = report.speedup_rows(results)
    assert header == [
        "case", "numpy", "native", "cuda", "numpy / native", "numpy / cuda", "native / cuda",
    ]  # fmt: skip
    expected = ["30.0 us ±15%", "7.50 us ±15%", "not available: no driver", "4.00", "-", "-"]
    assert rows[0] == ["tiny", *expected]
    assert "| tiny | 30.0 us" in report.markdown(results)
    assert "speed-up" in [t.title for t in report.tables(results)]
    for row in results["steps"]:
        row["columns"]["cuda"] = {**row["columns"]["native"], "queued": {"median": 1e-6}}
    assert "queued 1.00 us" in report.speedup_rows(results)[1][0][3]
    results["contestants"] = [c for c in results["contestants"] if c["kind"] != "backend"]
    assert not report.compares_backends(results)


def sizes() -> dict[str, Any]:
    """A sweep in which native is the fastest at first, then cuda, whose calls can be queued."""

    def times(seconds: float) -> dict[str, Any]:
        return {"median": seconds, "low": seconds * 0.9, "high": seconds * 1.1}

    points: list[dict[str, Any]] = []
    for i, width in enumerate(sweep.WIDTHS):
        cuda = {**times(1e-4), "queued": times(1e-5)}
        columns = {
            "numpy": {"left out": "a step takes about 2.00 s"} if i > 3 else times(4e-5 * 4**i),
            "native": times(1e-5 * 4**i), "cuda": cuda, "cuda run_many": {**cuda, **times(5e-6)},
        }  # fmt: skip
        points.append({"width": width, "batch": 8, "columns": columns, "wrong": []})
    points.append({"width": 16, "batch": 64, "columns": {
        "numpy": {"left out": "no time left"}, "native": {"unavailable": "failed: no gcc"},
        "cuda": cuda, "cuda run_many": cuda,
    }, "wrong": []})  # fmt: skip
    there = [
        {"name": name, "title": f"backend {name}", "kind": "backend", "version": "1"}
        for name in columns
    ]
    gpu_facts = {"device": "Some GPU"}
    facts = machine.facts()
    return {"machine": facts, "contestants": there, "points": points, "gpu": gpu_facts}


def test_from_which_size_on_which_backend_is_the_fastest() -> None:
    points = sizes()["points"]
    assert sweep.crossovers(points) == {8: [(16, "native"), (256, "cuda")], 64: [(16, "cuda")]}
    assert sweep.crossovers(points, waited=False)[8] == [(16, "cuda run_many")]
    assert sweep.crossovers(points[::-1]) == sweep.crossovers(points)
    text = sweep.markdown(sizes())
    assert "| 8 | native from 16; cuda from 256 | cuda run_many from 16 |" in text
    assert "| 4096 | 8 | left out: a step takes about 2.00 s | 2.56 ms ±10% | 100 us ±10%," in text
    assert "backend native is not available: failed: no gcc." in text
    assert "device: Some GPU" in text
    assert sweep.lines(sizes(), 8)["cuda, queued"][0] == (16, 1e-5)
    assert sweep.lines(sizes(), 8)["cuda run_many"][0] == (16, 1e-5)
    assert len(sweep.lines(sizes(), 8)["numpy"]) == 4


def test_the_sweep_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need graphc[plot]")
    sweep.draw(sizes(), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick")
def test_a_sweep_leaves_out_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {p["width"]: p for p in sweep.measured([NUMPY], (16, 32), (8,), 600)}
    assert found[32]["flops"] > found[16]["flops"] > 0
    assert found[16]["columns"]["numpy"]["median"] > 0
    monkeypatch.setattr(sweep, "LONGEST", 1e-9)
    (_, second) = sweep.measured([NUMPY], (16, 32), (8,), 600)
    assert second["columns"]["numpy"]["left out"].startswith("a step takes about ")
    absent = replace(NUMPY, name="cuda", reason="no driver")
    (point,) = sweep.measured([NUMPY, absent], (16,), (8,), -1)
    assert point["columns"]["numpy"] == {"left out": "no time left"}
    assert point["columns"]["cuda"] == {"unavailable": "no driver"}


@pytest.mark.usefixtures("quick")
def test_a_folder_takes_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.run(["tiny"], ["numpy"], tmp_path / "found")
    sweep.run(["numpy"], tmp_path / "found", 60, widths=(16,), batches=(8,))
    names = {p.name for p in (tmp_path / "found").iterdir()}
    assert names >= {"bench.json", "bench.md", "sweep.json", "sweep.md"}
    assert ("sweep.png" in names) == (find_spec("matplotlib") is not None)
    assert json.loads((tmp_path / "found" / "sweep.json").read_text())["points"][0]["width"] == 16
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    console = Console(file=io.StringIO())
    assert plot.beside(tmp_path / "a.json", console) is None
    runner.run(["tiny", "digits"], ["numpy"], tmp_path / "short.json", seconds=0.0)
    short = json.loads((tmp_path / "short.json").read_text())
    assert short["left out"] == ["tiny", "digits"]
    assert "no time was left: tiny, digits" in (tmp_path / "short.md").read_text()


# -- the checks of a machine with a GPU


def check(root: Path, *arguments: str | Path, **environment: str) -> Any:
    return subprocess.run(
        ["bash", "bench/gpu_check.sh", *arguments], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip


def test_gpu_check_without_a_gpu(root: Path, tmp_path: Path) -> None:
    if gx.devices()["cuda"].usable:
        pytest.skip("there is a GPU")
    done = check(root, tmp_path / "found")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("gpu_check: nothing was checked: the backend cuda is not available: ")
    assert (done.returncode, done.stderr) == (0, "")
    files = {p.name: p.read_text() for p in (tmp_path / "found").iterdir()}
    assert set(files) == {"facts.txt", "tests.txt", "sanitize.txt", "tables.md"}
    reason = gx.devices()["cuda"].reason
    assert all(files[n] == f"not available: {reason}\n" for n in set(files) - {"facts.txt"})
    assert f"numpy {np.__version__}" in files["facts.txt"]


def test_gpu_check_with_a_python_that_does_not_work(root: Path, tmp_path: Path) -> None:
    """What is broken is no GPU that is missing."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho No module named numpy >&2\nexit 1\n")
    broken.chmod(0o755)
    for python in (broken, tmp_path / "nowhere"):
        done = subprocess.run(
            ["bash", "bench/gpu_check.sh", str(tmp_path / "out"), "tests"], cwd=root, text=True,
            capture_output=True, env={**os.environ, "PYTHON": str(python)},
        )  # fmt: skip
        assert done.returncode == 1
        assert f"FAILED: {python} does not run graphc: " in done.stdout


def test_a_wheel_has_no_revision() -> None:
    assert report.when({"date": "2026-01-02", "revision": ""}) == ["2026-01-02"]
    assert report.when({"date": "2026-01-02", "revision": "ab"}) == ["2026-01-02", "revision ab"]


def test_gpu_check_refuses_what_it_does_not_know(root: Path, tmp_path: Path) -> None:
    assert check(root).returncode == 2
    done = check(root, tmp_path / "found", "everything")
    assert done.returncode == 2
    assert "no part everything" in done.stderr
    assert not (tmp_path / "found").exists()


def test_programs_of_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_kernels.main("numpy") == 0
    printed = capsys.readouterr().out
    assert "contraction 33 x 260: ok" in printed
    assert printed.endswith("all forms ran and agree with NumPy\n")


# -- what comes before the first step


def test_compile_time_by_size() -> None:
    small, large = compile_time.by_size(sizes=(100, 200), times=1)
    assert 60 <= small["nodes"] <= 140
    assert 1.8 <= large["nodes"] / small["nodes"] <= 2.2
    assert compile_time.long_chain(length=300)["finite"]


def test_first_steps_with_and_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_time, "QUICK", 0.0)
    keeps = replace(fake("keeps files"), cache=("FAKE_CACHE", "{}"))
    rows = compile_time.first_steps((BY_HAND, NUMPY, keeps, fake("fails")), "tiny")
    ours, kept, failed = rows
    assert ours["title"] == "backend numpy"
    assert ours["import"] > 0
    assert 0 < ours["again"] < ours["empty cache"]
    assert kept["empty cache"] - kept["filled cache"] > 0.2
    assert failed["failed"] == "RuntimeError: cannot do tiny with 2 inputs"


def test_the_cost_of_a_call() -> None:
    rows = compile_time.call_rows((BY_HAND, NUMPY))
    assert list(rows) == ["backend numpy"]
    assert 1e-7 < rows["backend numpy"] < 1e-3
