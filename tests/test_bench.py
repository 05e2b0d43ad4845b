"""The benchmarks measure what they say: both sides compute the same, and faults show."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import graphc as gx
from graphc.resources import load_bench

runner: Any = load_bench()
from graphc_bench import compile_time, machine, measure, peers, report, workloads  # noqa: E402


@pytest.mark.parametrize("name", ["tiny", "digits", "mnist", "cross-entropy"])
def test_both_sides_agree(name: str) -> None:
    """Outputs and new parameters of a few steps, inside `prepare`; then one step more."""
    ours, by_hand, facts = runner.prepare(workloads.BY_NAME[name], "numpy")
    assert facts["launches"] >= 1
    for key, value in by_hand().items():
        np.testing.assert_allclose(ours()[key], value, rtol=1e-3, atol=1e-4)


def test_formula_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "ELEMENTS", 1000)
    for name in ("elementwise", "elementwise-gradient"):
        assert len(runner.prepare(workloads.BY_NAME[name], "numpy")) == 3


def test_wrong_results_are_refused() -> None:
    tiny = workloads.BY_NAME["tiny"]

    def wrong(inputs: Any, params: Any) -> Any:
        step = tiny.reference(inputs, params)
        return lambda: {"loss": step()["loss"] * 1.01}

    planted = workloads.Workload("tiny", "planted", tiny.build, wrong)
    with pytest.raises(gx.GraphcError, match="loss of numpy is off"):
        runner.prepare(planted, "numpy")


def test_run_writes_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "ROUND_SECONDS", 1e-4)
    path = tmp_path / "sub" / "result.json"
    runner.run(["tiny"], [], path)
    result = json.loads(path.read_text())
    assert set(machine.facts()) == set(result["machine"])
    (row,) = result["steps"]
    assert set(row["columns"]) == set(gx.devices())
    assert row["columns"]["numpy"]["ratio"] > 0
    for name, device in gx.devices().items():
        assert ("unavailable" in row["columns"][name]) != device.usable
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.fill_in(page, result)
    assert "| tiny; training step" in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("\nafter\n")


@pytest.mark.parametrize(("cases", "backends"), [(["nothing"], []), (["tiny"], ["abacus"])])
def test_unknown_names(cases: list[str], backends: list[str], tmp_path: Path) -> None:
    with pytest.raises(gx.GraphcError, match="there are"):
        runner.run(cases, backends, tmp_path / "never.json")
    assert not (tmp_path / "never.json").exists()


def test_compile_time_parts() -> None:
    small, large = compile_time.by_size((100, 200), times=1)
    assert 60 <= small["nodes"] <= 140
    assert 1.8 <= large["nodes"] / small["nodes"] <= 2.2
    assert compile_time.long_chain(300)["finite"]


def test_timing() -> None:
    timing = measure.Timing.of([3.0, 1.0, 2.0, 4.0, 100.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)
    assert measure.ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]) == 1.0
    assert report.duration(0.00238) == "2.38 ms"
    assert report.duration(52.1e-6) == "52.1 us"
    assert report.duration(0.2) == "200 ms"


def test_a_peer_that_is_missing_says_what_installs_it() -> None:
    reason = peers.reason_missing("surely_not_installed")
    assert "graphc[peers]" in reason
    assert peers.reason_missing("numpy") == ""
    row = {"case": "a", "about": "b", "columns": {"jax": {"unavailable": reason}}}
    (table,) = report.tables({"steps": [row], "compile": {}})
    stream = io.StringIO()
    Console(width=200, file=stream).print(table)
    assert "graphc[peers]" in stream.getvalue()
