"""Runs the benchmarks: every backend against the same step written by hand in NumPy.

    run(cases, backends, out)      what `graphc bench` calls

Before anything is timed, both sides take a few steps from the same values and must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import graphc as gx
from graphc.resources import checkout

from . import compile_time, machine, report
from .measure import Timing, alternate, ratio
from .peers import PEERS, reason_missing
from .workloads import BY_NAME, Arrays, Step, Workload

STEPS_COMPARED = 3
RTOL, ATOL = 2e-4, 2e-5  # of float32 sums in another order, over a few steps
CASES = (*BY_NAME, *compile_time.PARTS)
Results = dict[str, Any]


def run(
    cases: Iterable[str] = (),
    backends: Iterable[str] = (),
    out: str | Path | None = None,
    peers: bool = False,
) -> None:
    """Run the named cases (all, if none is named) on the named backends, print tables, write JSON.

    A backend that cannot run here is a column that says why. `out` is the JSON file; by default it
    is named by date and machine, under `bench/results/` of the checkout or in the current folder.
    Raises GraphcError for a case or backend that does not exist, and where results are wrong.
    """
    chosen = _known("case", cases, CASES)
    columns = _known("backend", backends, tuple(gx.devices()))
    console = Console()
    results: Results = {
        "machine": machine.facts(),
        "graphc": _version(),
        "steps": [],
        "compile": {},
    }
    for name in chosen:
        with console.status(f"{name} ..."):
            if name in BY_NAME:
                results["steps"].append(compare(BY_NAME[name], columns, PEERS if peers else ()))
            else:
                results["compile"][name] = compile_time.PARTS[name]()
    for table in report.tables(results):
        console.print(table)
    path = Path(out) if out else default_path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {path}")


def compare(workload: Workload, backends: Iterable[str], peers: Iterable[str] = ()) -> Results:
    """One row: seconds by hand, and for each backend or peer seconds and the ratio to them."""
    columns: Results = {}
    row: Results = {"case": workload.name, "about": workload.about, "columns": columns}
    for backend in backends:
        device = gx.devices()[backend]
        if device.usable:
            ours, by_hand, facts = prepare(workload, backend)
            row["by hand"], times = _race(ours, by_hand)
            columns[backend] = {**times, **facts}
        else:
            columns[backend] = {"unavailable": device.reason}
    for peer in peers:
        missing = reason_missing(peer)
        if missing:
            columns[peer] = {"unavailable": missing}
        else:
            row["by hand"], columns[peer] = _race(*prepare_peer(workload, peer))
    return row


def _race(ours: Callable[[], Any], by_hand: Callable[[], Any]) -> tuple[Results, Results]:
    found = alternate({"by hand": by_hand, "ours": ours})
    times = {**asdict(Timing.of(found["ours"])), "ratio": ratio(found["ours"], found["by hand"])}
    return asdict(Timing.of(found["by hand"])), times


def prepare(
    workload: Workload, backend: str
) -> tuple[Callable[[], Any], Callable[[], Any], Results]:
    """Both sides ready to be timed, and compared beforehand; and facts about the compiled one."""
    job = workload.build()
    inputs = job.inputs
    values: Arrays = {p.name: p.value for p in job.updates}
    exe = gx.compile(job.outputs, updates=job.updates, backend=backend)
    by_hand = workload.reference(inputs, values)

    def ours() -> Any:
        return exe(**inputs)

    for _ in range(STEPS_COMPARED):
        _must_agree(workload.name, backend, ours(), by_hand())
    _must_agree(workload.name, backend, {p.name: p.value for p in job.updates}, values)
    facts = {"launches": len(exe.kernels), "peak bytes": exe.plan.peak_nbytes}
    return ours, by_hand, facts


def prepare_peer(workload: Workload, peer: str) -> tuple[Step, Step]:
    """A peer's step and the one by hand, compared beforehand."""
    job = workload.build()
    values: Arrays = {p.name: p.value for p in job.updates}
    theirs = PEERS[peer][workload.reference](job.inputs, values)
    by_hand = workload.reference(job.inputs, values)
    for _ in range(STEPS_COMPARED):
        _must_agree(workload.name, peer, theirs(), by_hand())
    return theirs, by_hand


def default_path(results: Results) -> Path:
    """A file named by date and machine: in the checkout's results, or in the current folder."""
    facts = results["machine"]
    words = [facts["date"], facts["processor"], f"{facts['cores']} cores"]
    name = "-".join("".join(c if c.isalnum() else " " for c in " ".join(words)).lower().split())
    root = checkout()
    folder = Path.cwd() if root is None else root / "bench" / "results"
    return folder / f"{name}.json"


def _must_agree(
    case: str, contestant: str, ours: Mapping[str, Any], by_hand: Mapping[str, Any]
) -> None:
    for name, expected in by_hand.items():
        got = np.asarray(ours[name])
        if not np.allclose(got, expected, rtol=RTOL, atol=ATOL):
            worst = float(np.max(np.abs(got - expected)))
            raise gx.GraphcError(f"bench {case}: {name} of {contestant} is off by {worst:.3g}")


def _known(what: str, given: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(given) or known
    for name in chosen:
        if name not in known:
            raise gx.GraphcError(f"bench: no {what} {name!r}; there are {', '.join(known)}")
    return chosen


def _version() -> str:
    try:
        return version("graphc")
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    run()
