"""The benchmarks measure what they say: all compute the same, and what fails is told apart."""

import io
import json
import threading
from dataclasses import replace
from pathlib import Path
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
    machine,
    measure,
    plot,
    process,
    report,
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
    if name == "wide":
        pytest.skip("as mnist, with larger sizes")
    monkeypatch.setattr(workloads, "ELEMENTS", 1000)
    workload = workloads.BY_NAME[name]
    hand = contestants.by_hand(workload, workload.build())
    ours = contestants.on_backend(workload, workload.build(), backend="numpy")
    assert ours.facts["launches"] >= 1
    for _ in range(workloads.STEPS_COMPARED):
        expected, got = hand.step(), ours.step()
    expected, got = {**expected, **hand.state()}, {**got, **ours.state()}
    assert runner.difference("numpy", got, expected) == ""
    planted = {**got, "loss": np.float32(got["loss"] * 1.01)} if "loss" in got else {}
    assert runner.difference("numpy", planted, expected) != ""


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
    row = runner.compare("tiny", (*there, *dying), Peaks(1e11, 1e10))
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
        runner.compare("tiny", (fake("fails"),), Peaks(1, 1))


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
    assert set(result["limits"]) == {"flops_per_second", "bytes_per_second"}
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
