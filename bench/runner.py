"""Runs the benchmarks: backends and peers against the same step written by hand in NumPy.

    run(cases, backends, out)      what `graphc bench` calls

Before anything is timed, all take a few steps from the same values and must agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

import graphc as gx
from graphc.backends.peaks import Peaks
from graphc.resources import checkout

from . import compile_time, machine, plot, report
from .contestants import BY_HAND, PEERS, Contestant
from .contestants import backends as all_backends
from .measure import ContestantError, Timing, alternate, ratio
from .process import Worker
from .workloads import BY_NAME

RTOL, ATOL = 2e-4, 2e-5  # of float32 sums in another order, over a few steps
CASES = (*BY_NAME, *compile_time.PARTS)
ON_PROCESSOR = ("numpy", "native")  # the backends that the processor's limits hold for
Results = dict[str, Any]


def run(
    cases: Iterable[str] = (),
    backends: Iterable[str] = (),
    out: str | Path | None = None,
    peers: bool = False,
    picture: str | Path | None = None,
) -> None:
    """Run the named cases (all, if none is named) on the named backends, print tables, write JSON.

    A backend or peer that cannot run here is a column that says why. `out` is the JSON file; by
    default it is named by date and machine, under `bench/results/` of the checkout or in the
    current folder. `picture` is a file for the plot.
    Raises GraphcError for a case or backend that does not exist, and, after everything is written,
    where results are wrong.
    """
    chosen = _known("case", cases, CASES)
    rows = {c.name: c for c in all_backends()}
    names = _known("backend", backends, tuple(rows))
    if picture:
        plot.must_be_possible(picture, set(chosen) & set(BY_NAME))
    contestants = (BY_HAND, *(rows[name] for name in names), *(PEERS if peers else ()))
    console = Console()
    results: Results = {
        "machine": machine.facts(),
        "graphc": _version(),
        "contestants": [c.facts() for c in contestants],
        "limits": machine.peaks() if set(chosen) & set(BY_NAME) else {},
        "steps": [],
        "compile": {},
    }
    for name in chosen:
        with console.status(f"{name} ..."):
            if name in BY_NAME:
                results["steps"].append(compare(name, contestants, Peaks(**results["limits"])))
            else:
                results["compile"][name] = compile_time.PARTS[name](contestants)
    for table in report.tables(results):
        console.print(table)
    path = Path(out) if out else default_path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {path}")
    if picture:
        plot.draw(results, picture)
        console.print(f"drawn to {picture}")
    wrong = [row["wrong"] for row in results["steps"] if row["wrong"]]
    if wrong:
        raise gx.GraphcError("; ".join(wrong))


def compare(case: str, contestants: Sequence[Contestant], peaks: Peaks) -> Results:
    """One row: for each contestant its seconds, or why it has none.

    The first contestant is the one by hand; the others have the ratio to it. Backends have the
    ratio to the best peer, too, and how near they come to the limit. Raises GraphcError if the
    first one fails.
    """
    hand = contestants[0].name
    columns: Results = {c.name: {"unavailable": c.missing()} for c in contestants}
    row: Results = {
        "case": case, "about": BY_NAME[case].about, "columns": columns, "wrong": "",
    }  # fmt: skip
    with ExitStack() as stack:
        workers, failed = _start(case, [c for c in contestants if not c.missing()], stack)
        if hand not in workers:
            raise gx.GraphcError(f"bench {case}: {hand} failed: {failed[hand]}")
        wrong = _wrong_results(workers, hand)
        racing = {name: w for name, w in workers.items() if name not in wrong}
        found, dropped = alternate(
            {name: w.turn for name, w in racing.items()},
            {name: w.report["once"] for name, w in racing.items()},
        )
    if hand not in found:
        raise gx.GraphcError(f"bench {case}: {hand} failed: {dropped[hand]}")
    for name, why in {**failed, **wrong, **dropped}.items():
        columns[name] = {"unavailable": f"failed: {why}"}
    row["wrong"] = "; ".join(f"bench {case}: {what}" for what in wrong.values())
    facts = racing[hand].report["facts"]
    row["limit seconds"] = peaks.seconds(facts["flops"], facts["bytes"])
    peers = [c.name for c in contestants if c.kind == "peer" and c.name in found]
    best = min(peers, key=lambda name: Timing.of(found[name]).median, default=None)
    row["best peer"] = best
    for c in contestants:
        if c.name in found:
            worker, seconds = racing[c.name], found[c.name]
            columns[c.name] = {**_column(worker, seconds), "ratio": ratio(seconds, found[hand])}
        if c.name in found and c.kind == "backend":
            columns[c.name] |= _standing(c.name, found, best, row["limit seconds"])
    return row


def _start(
    case: str, contestants: Sequence[Contestant], stack: ExitStack
) -> tuple[dict[str, Worker], dict[str, str]]:
    """A process for each contestant, one after the other; and who failed, with the reason."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    for number, c in enumerate(contestants):
        try:
            worker = Worker(c, case, folder / f"{number}.npz")
        except ContestantError as error:
            failed[c.name] = str(error)
        else:
            workers[c.name] = stack.enter_context(worker)
    return workers, failed


def _wrong_results(workers: Mapping[str, Worker], hand: str) -> dict[str, str]:
    """For each contestant whose first steps do not give what those by hand give, what differs."""
    expected = workers[hand].results()
    others = {name: w for name, w in workers.items() if name != hand}
    found = {name: difference(name, w.results(), expected) for name, w in others.items()}
    return {name: difference for name, difference in found.items() if difference}


def difference(
    contestant: str, got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> str:
    for name, want in expected.items():
        if name not in got or got[name].shape != want.shape:
            return f"{name} of {contestant} is missing or has another shape"
        if not np.allclose(got[name], want, rtol=RTOL, atol=ATOL):
            worst = float(np.max(np.abs(got[name] - want)))
            return f"{name} of {contestant} is off by {worst:.3g}"
    return ""


def _column(worker: Worker, seconds: Sequence[float]) -> Results:
    said = worker.report
    return {
        **asdict(Timing.of(seconds)),
        "rounds": len(seconds),
        "import": said["import"],
        "first step": said["declare"] + said["make"] + said["first call"],
        "restless": worker.restless,
        **said["facts"],
    }


def _standing(
    name: str, found: Mapping[str, Sequence[float]], best: str | None, limit: float
) -> Results:
    """Our time divided by the best peer's, and the least time possible divided by ours."""
    standing: Results = {}
    if best is not None:
        standing["peer ratio"] = ratio(found[name], found[best])
    if name in ON_PROCESSOR:
        standing["share of limit"] = limit / Timing.of(found[name]).median
    return standing


def default_path(results: Results) -> Path:
    """A file named by date and machine: in the checkout's results, or in the current folder."""
    facts = results["machine"]
    words = [facts["date"], facts["processor"], f"{facts['cores']} cores"]
    name = "-".join("".join(c if c.isalnum() else " " for c in " ".join(words)).lower().split())
    root = checkout()
    folder = Path.cwd() if root is None else root / "bench" / "results"
    return folder / f"{name}.json"


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
