"""Runs the benchmarks: backends and peers against the same step written by hand in NumPy.

    run(cases, backends, out)      what `graphc bench` calls

Before anything is timed, all take a few steps from the same values and must agree. On a GPU the
peers are measured there; the step by hand in NumPy is then compared with only, not timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

import graphc as gx
from graphc.backends.peaks import Peaks
from graphc.resources import checkout

from . import compile_time, gpu, machine, plot, report
from .contestants import BY_HAND, GPU_PEERS, PEERS, Contestant
from .contestants import backends as all_backends
from .measure import ContestantError, Timing, alternate, ratio
from .process import Worker
from .workloads import BY_NAME, ON_GPU, WORKLOADS, find

TOLERANCES = {  # of sums in another order, and of a relu at 0, over a few steps; rtol and atol
    "float32": (2e-4, 1e-4), "tf32": (1e-2, 2e-3), "bfloat16": (8e-2, 2e-2),
}  # fmt: skip
CASES = (*BY_NAME, *compile_time.PARTS)
BY_DEFAULT = (*(w.name for w in WORKLOADS), *compile_time.PARTS)
ON_PROCESSOR = ("numpy", "native")  # the backends that the processor's limits hold for
RACE, RACE_ON_GPU = 2.0, 0.3  # seconds that the slowest is timed for
SHARE = 100  # of the time for all: the same, if that is less
FEWEST = 60.0  # seconds that a contestant may take to start, however little time is left
Results = dict[str, Any]


class Race(NamedTuple):
    """How cases are measured: on which limits, for how long, and by whom on a GPU."""

    peaks: Peaks
    gpu: Results = {}  # noqa: RUF012 -- gpu.limits(), never changed; empty without a GPU
    on_gpu: bool = False  # everyone but the step by hand, which is compared with only
    seconds: float = RACE
    deadline: float | None = None  # of time.monotonic()


def run(
    cases: Iterable[str] = (),
    backends: Iterable[str] = (),
    out: str | Path | None = None,
    peers: bool = False,
    picture: str | Path | None = None,
    seconds: float | None = None,
) -> None:
    """Run the named cases on the named backends (all, if none is named), print tables, write them.

    A backend or peer that cannot run here is a column that says why. `out` is a JSON file, by which
    a Markdown file of the same name is put, or a folder for both and a plot; by default the file is
    named by date and machine, under `bench/results/` of the checkout or in the current folder.
    `picture` is a file for the plot. `peers` on the backend cuda alone are measured on the GPU.
    Cases that have not begun after so many `seconds` are left out.
    Raises GraphcError for a case or backend that does not exist, and, after everything is written,
    where results are wrong.
    """
    rows = {c.name: c for c in all_backends()}
    asked = known("backend", backends, tuple(dict.fromkeys(c.split()[0] for c in rows)))
    on_gpu = peers and asked == ("cuda",)
    chosen = known("case", cases, CASES) if cases else (ON_GPU if on_gpu else BY_DEFAULT)
    if picture:
        plot.must_be_possible(picture, set(chosen) & set(BY_NAME))
    ours = [c for name, c in rows.items() if name.split()[0] in asked]
    others = (GPU_PEERS if on_gpu else PEERS) if peers else ()
    contestants = (BY_HAND, *ours, *others)
    console = Console()
    results: Results = {
        "machine": machine.facts(),
        "graphc": graphc_version(),
        "contestants": [c.facts() for c in contestants],
        "limits": machine.peaks() if set(chosen) & set(BY_NAME) else {},
        "gpu": machine.gpu_limits() if "cuda" in asked and not rows["cuda"].missing() else {},
        "steps": [],
        "compile": {},
        "left out": [],
    }
    path = results_path(out, results, "bench")
    _measure(chosen, contestants, results, path, console, on_gpu, seconds)
    path.with_suffix(".md").write_text(report.markdown(results) + "\n")
    for table in report.tables(results):
        console.print(table)
    for line in report.left_out(results):
        console.print(line)
    console.print(f"written to {path} and {path.with_suffix('.md')}")
    if any("median" in c for row in results["steps"] for c in row["columns"].values()):
        draw(plot.draw, results, path, out, picture, console)
    elif picture:
        console.print("not drawn: nothing was timed")
    wrong = [row["wrong"] for row in results["steps"] if row["wrong"]]
    if wrong:
        raise gx.GraphcError("; ".join(wrong))


def _measure(
    cases: Sequence[str], contestants: Sequence[Contestant], results: Results, path: Path,
    console: Console, on_gpu: bool, seconds: float | None,
) -> None:  # fmt: skip
    """Case by case, written as it goes: a long run may be cut short."""
    deadline = None if seconds is None else monotonic() + seconds
    longest = RACE_ON_GPU if on_gpu else RACE
    longest = longest if seconds is None else min(longest, seconds / SHARE)
    for name in cases:
        if deadline is not None and monotonic() > deadline:
            results["left out"].append(name)
            continue
        with console.status(f"{name} ..."):
            if name in BY_NAME:
                limits = Peaks(**results["limits"]), results["gpu"]
                race = Race(*limits, on_gpu, longest, deadline)
                results["steps"].append(compare(name, contestants, race))
            else:
                results["compile"][name] = compile_time.PARTS[name](contestants)
        write(path, results)
    write(path, results)


def draw(
    plotted: Callable[[Results, str | Path], None], results: Results, path: Path,
    out: str | Path | None, picture: str | Path | None, console: Console,
) -> None:  # fmt: skip
    """Draw to the file that was asked for, or beside results that go to a folder."""
    if not picture and is_folder(out):
        picture = plot.beside(path, console)
    if picture:
        plotted(results, picture)
        console.print(f"drawn to {picture}")


def compare(case: str, contestants: Sequence[Contestant], race: Race) -> Results:
    """One row: for each contestant its seconds, or why it has none.

    The first contestant is the one by hand; the others have the ratio to it. Backends have the
    ratio to the best peer, too, and how near they come to the limit. Raises GraphcError if the
    first one fails.
    """
    hand = contestants[0].name
    columns: Results = {c.name: {"unavailable": c.missing()} for c in contestants}
    row: Results = {
        "case": case, "about": find(case).about, "columns": columns, "wrong": "", "best peer": None,
    }  # fmt: skip
    able = [c for c in contestants if not c.missing()]
    if race.on_gpu and able == [contestants[0]]:
        columns[hand] = {"compared": True}
        return row
    with ExitStack() as stack:
        workers, failed = start(
            case, able, stack, race.on_gpu or race.deadline is not None, race.deadline
        )
        if hand not in workers:
            raise gx.GraphcError(f"bench {case}: {hand} failed: {failed[hand]}")
        wrong = wrong_results(workers, hand, find(case).precision)
        racing = {name: w for name, w in workers.items() if name not in wrong}
        facts = racing[hand].report["facts"]
        if race.on_gpu:
            racing.pop(hand).close()
            columns[hand] = {"compared": True}
        found, dropped = alternate(
            {name: w.turn for name, w in racing.items()},
            {name: w.report["once"] for name, w in racing.items()},
            race.seconds,
        )
    if hand in dropped:
        raise gx.GraphcError(f"bench {case}: {hand} failed: {dropped[hand]}")
    for name, why in {**failed, **wrong, **dropped}.items():
        columns[name] = {"unavailable": f"failed: {why}"}
    row["wrong"] = "; ".join(f"bench {case}: {what}" for what in wrong.values())
    for name, seconds in found.items():
        columns[name] = column(racing[name], seconds)
        if hand in found:
            columns[name]["ratio"] = ratio(seconds, found[hand])
    row["limit seconds"] = race.peaks.seconds(facts["flops"], facts["bytes"])
    if race.gpu:
        work = (facts["flops"], facts["bytes"], find(case).precision)
        row["gpu limit seconds"] = gpu.limit_seconds(race.gpu, *work)
    peers = [c.name for c in contestants if c.kind == "peer" and c.name in found]
    row["best peer"] = min(peers, key=lambda name: columns[name]["median"], default=None)
    for c in contestants:
        if c.name in found and c.kind == "backend":
            columns[c.name] |= _standing(c, row, found, peers)
    return row


def start(
    case: str,
    contestants: Sequence[Contestant],
    stack: ExitStack,
    together: bool = False,
    deadline: float | None = None,
) -> tuple[dict[str, Worker], dict[str, str]]:
    """A process for each contestant, one after the other, or all `together`, where nothing that
    they do meanwhile is looked at; and who failed, with the reason."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    patience = None if deadline is None else max(FEWEST, deadline - monotonic())

    def begin(number: int) -> Worker | ContestantError:
        try:
            results = folder / f"{number}.npz"
            return stack.enter_context(
                Worker(contestants[number], case, results, patience=patience)
            )
        except ContestantError as error:
            return error

    with ThreadPoolExecutor(len(contestants) if together else 1) as pool:
        made = list(pool.map(begin, range(len(contestants))))
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    for c, one in zip(contestants, made, strict=True):
        if isinstance(one, Worker):
            workers[c.name] = one
        else:
            failed[c.name] = str(one)
    return workers, failed


def wrong_results(
    workers: Mapping[str, Worker], reference: str, precision: str = "float32"
) -> dict[str, str]:
    """For each contestant whose first steps do not give what the reference gives, what differs."""
    expected = workers[reference].results()
    others = {name: w for name, w in workers.items() if name != reference}
    found = {name: difference(name, w.results(), expected, precision) for name, w in others.items()}
    return {name: difference for name, difference in found.items() if difference}


def difference(
    contestant: str,
    got: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    precision: str = "float32",
) -> str:
    rtol, atol = TOLERANCES[precision]
    for name, want in expected.items():
        if name not in got or got[name].shape != want.shape:
            return f"{name} of {contestant} is missing or has another shape"
        scale = max(1.0, float(np.max(np.abs(want), initial=0)))  # where sums cancel
        if not np.allclose(got[name], want, rtol=rtol, atol=atol * scale):
            worst = float(np.max(np.abs(got[name] - want)))
            return f"{name} of {contestant} is off by {worst:.3g}"
    return ""


def column(worker: Worker, seconds: Sequence[float]) -> Results:
    """What was measured of a contestant."""
    said = worker.report
    return {
        **asdict(Timing.of(seconds)),
        **{name: asdict(Timing.of(others)) for name, others in worker.others.items()},
        "rounds": len(seconds),
        "import": said["import"],
        "first step": said["declare"] + said["make"] + said["first call"],
        "restless": worker.restless,
        **said["facts"],
    }


def _standing(
    c: Contestant, row: Results, found: Mapping[str, Sequence[float]], peers: Sequence[str]
) -> Results:
    """Our time divided by the best peer's, and the least time possible divided by ours.

    Where calls are queued, ours is compared with the best of the peers' so, and the limit with what
    the device's own clock says.
    """
    own, columns, standing = row["columns"][c.name], row["columns"], Results()
    if row["best peer"] is not None and not c.options.get("many"):
        standing["peer ratio"] = ratio(found[c.name], found[row["best peer"]])
    queued = [columns[name]["queued"]["median"] for name in peers if "queued" in columns[name]]
    if queued and "queued" in own:
        standing["queued ratio"] = own["queued"]["median"] / min(queued)
    if c.name in ON_PROCESSOR:
        standing["share of limit"] = row["limit seconds"] / own["median"]
    elif "gpu limit seconds" in row:
        standing["share of limit"] = row["gpu limit seconds"] / own.get("device", own)["median"]
    return standing


# -- files


def is_folder(out: str | Path | None) -> bool:
    """Whether `--out` names a folder: one that is there, or a name without a suffix."""
    return bool(out) and (Path(out).is_dir() or not Path(out).suffix)


def results_path(out: str | Path | None, results: Results, stem: str) -> Path:
    """Where the JSON goes; its folder is there afterwards."""
    path = Path(out) / f"{stem}.json" if is_folder(out) and out else Path(out or "")
    path = path if out else default_path(results, stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, results: Results) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n")


def default_path(results: Results, stem: str = "bench") -> Path:
    """A file named by date and machine: in the checkout's results, or in the current folder."""
    facts = results["machine"]
    words = [*([] if stem == "bench" else [stem]), facts["date"], facts["processor"],
             f"{facts['cores']} cores"]  # fmt: skip
    name = "-".join("".join(c if c.isalnum() else " " for c in " ".join(words)).lower().split())
    root = checkout()
    folder = Path.cwd() if root is None else root / "bench" / "results"
    return folder / f"{name}.json"


def known(what: str, given: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The given names, all where none is given; GraphcError for one that is not known."""
    chosen = tuple(given) or names
    for name in chosen:
        if name not in names:
            raise gx.GraphcError(f"bench: no {what} {name!r}; there are {', '.join(names)}")
    return chosen


def graphc_version() -> str:
    try:
        return version("graphc")
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    run()
