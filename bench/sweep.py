"""From which size on which backend is the fastest: a training step, its width and batch varied.

    run(backends, out, seconds)      what `graphc bench --sweep` calls
    python -m bench.sweep FILE.json FILE.png     draws a result that was measured before

Sizes come in the order of their work, so that a short run says something of all backends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import graphc as gx

from . import machine, plot, report, runner
from .contestants import Contestant
from .contestants import backends as all_backends
from .measure import alternate
from .workloads import find, square_name

WIDTHS = (16, 64, 256, 1024, 4096)
BATCHES = (8, 64, 512, 4096)
SECONDS = 180.0
SHARE = 60  # of the time for all: a step that takes longer than this part of it is left out
LONGEST = 1.0  # seconds; the same
RACE = 0.3  # seconds that the slowest is timed for
Results = dict[str, Any]

WAITED, QUEUED = "each call waited for", "calls queued, or many steps a call"


def run(
    backends: Iterable[str] = (),
    out: str | Path | None = None,
    seconds: float | None = None,
    picture: str | Path | None = None,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = BATCHES,
) -> None:
    """Measure all sizes on the named backends (all, if none is named) within about so many seconds;
    print tables, write JSON and Markdown, and a plot where that is asked for (see runner.run).

    Raises GraphcError for an unknown backend, and, after everything is written, where backends
    disagree.
    """
    rows = {c.name: c for c in all_backends()}
    asked = runner.known("backend", backends, tuple(dict.fromkeys(c.split()[0] for c in rows)))
    if picture:
        plot.must_be_possible(picture, ["sizes"])
    contestants = [c for name, c in rows.items() if name.split()[0] in asked]
    console = Console()
    results: Results = {
        "machine": machine.facts(), "graphc": runner.graphc_version(),
        "contestants": [c.facts() for c in contestants], "points": [],
        "gpu": dict(gx.devices()["cuda"].details) if "cuda" in asked else {},
    }  # fmt: skip
    path = runner.results_path(out, results, "sweep")
    for point in _progress(measured(contestants, widths, batches, seconds or SECONDS), console,
                           len(widths) * len(batches)):  # fmt: skip
        results["points"].append(point)
        runner.write(path, results)  # as it goes: a long run may be cut short
    path.with_suffix(".md").write_text(markdown(results) + "\n")
    for title, header, table in tables(results):
        console.print(report.filled(Table(*header, title=title), table))
    for note in notes(results):
        console.print(note, markup=False)
    console.print(f"written to {path} and {path.with_suffix('.md')}")
    runner.draw(draw, results, path, out, picture, console)
    wrong = [what for point in results["points"] for what in point["wrong"]]
    if wrong:
        raise gx.GraphcError("; ".join(wrong))


def _progress(points: Iterator[Results], console: Console, count: int) -> Iterator[Results]:
    with Progress(console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("sizes", total=count)
        for point in points:
            shown.advance(task)
            yield point


# -- measuring


def measured(
    contestants: Sequence[Contestant],
    widths: Sequence[int],
    batches: Sequence[int],
    seconds: float,
) -> Iterator[Results]:
    """A point for each size, in the order of the work.

    What a step will take is guessed from the FLOP/s that the backend reached at the size before.
    """
    deadline = monotonic() + seconds
    longest = min(LONGEST, seconds / SHARE)
    rates: dict[str, float] = {}
    sizes = [(find(square_name(w, b)).flops, w, b) for w in widths for b in batches]
    for flops, width, batch in sorted(sizes):
        columns: Results = {}
        for c in contestants:
            guess = flops / rates[c.name] if c.name in rates else 0.0
            if c.missing():
                columns[c.name] = {"unavailable": c.missing()}
            elif monotonic() > deadline:
                columns[c.name] = {"left out": "no time left"}
            elif guess > longest:
                columns[c.name] = {"left out": f"a step takes about {report.duration(guess)}"}
        racing = [c for c in contestants if c.name not in columns]
        found, wrong = _point(square_name(width, batch), racing)
        for name, column in found.items():
            if "median" in column:
                rates[name] = flops / column["median"]
        yield {
            "width": width, "batch": batch, "flops": flops, "columns": {**columns, **found},
            "wrong": wrong,
        }  # fmt: skip


def _point(case: str, contestants: Sequence[Contestant]) -> tuple[Results, list[str]]:
    """A column for each contestant, and what those that are wrong have wrong."""
    if not contestants:
        return {}, []
    with ExitStack() as stack:
        workers, failed = runner.start(case, contestants, stack, together=True)
        wrong = runner.wrong_results(workers, next(iter(workers))) if workers else {}
        racing = {name: w for name, w in workers.items() if name not in wrong}
        found, dropped = {}, {}
        if racing:
            turns = {name: w.turn for name, w in racing.items()}
            once = {name: w.report["once"] for name, w in racing.items()}
            found, dropped = alternate(turns, once, RACE)
    columns: Results = {name: runner.column(racing[name], s) for name, s in found.items()}
    for name, why in {**failed, **wrong, **dropped}.items():
        columns[name] = {"unavailable": f"failed: {why}"}
    return columns, [f"bench {case}: {what}" for what in wrong.values()]


# -- who is the fastest


def times(point: Results, waited: bool) -> dict[str, float]:
    """Seconds per step of each contestant that ran: each call waited for, or the best it can do."""
    found: dict[str, float] = {}
    for name, column in point["columns"].items():
        if "median" in column and not (waited and name.endswith("run_many")):
            queued = column.get("queued", column)["median"]
            found[name] = column["median"] if waited else min(column["median"], queued)
    return found


def crossovers(points: Sequence[Results], waited: bool = True) -> dict[int, list[tuple[int, str]]]:
    """For each batch: from which width on which contestant is the fastest."""
    found: dict[int, list[tuple[int, str]]] = {}
    for point in sorted(points, key=lambda p: (p["batch"], p["width"])):
        seconds = times(point, waited)
        if not seconds:
            continue
        best = min(seconds, key=lambda name: seconds[name])
        before = found.setdefault(point["batch"], [])
        if not before or before[-1][1] != best:
            before.append((point["width"], best))
    return found


def tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows: the fastest backend by size, and all times."""
    points = results["points"]
    queued = any("queued" in c for p in points for c in p["columns"].values())
    ways = [(True, WAITED), *([(False, QUEUED)] if queued else [])]
    by_batch = {waited: crossovers(points, waited) for waited, _ in ways}
    fastest: list[list[str]] = []
    for batch in by_batch[True]:
        cells = [_in_words(by_batch[waited][batch]) for waited, _ in ways]
        fastest.append([str(batch), *cells])
    names = [c["name"] for c in results["contestants"]]
    every = [
        [str(p["width"]), str(p["batch"]), *(_cell(p["columns"][name]) for name in names)]
        for p in points
    ]
    return [
        ("which backend is the fastest, from which width on",
         ["batch", *(title for _, title in ways)], fastest),
        ("time of a training step", ["width", "batch", *names], every),
    ]  # fmt: skip


def _in_words(steps: Sequence[tuple[int, str]]) -> str:
    return "; ".join(f"{name} from {width}" for width, name in steps)


def _cell(column: Results) -> str:
    if "left out" in column:
        return f"left out: {column['left out']}"
    if "median" not in column:
        return report.NOT_AVAILABLE
    cell = report.spread(column)
    return f"{cell}, queued {report.duration(column['queued']['median'])}" if (
        "queued" in column) else cell  # fmt: skip


def notes(results: Results) -> list[str]:
    """What the tables need to be read."""
    found = [
        "A training step (forward, backward, SGD with momentum) of a relu network with an input "
        "and two hidden layers of that width and 10 classes, float32. What was left out does not "
        "take part in the comparison."
    ]
    for c in results["contestants"]:
        failures = {
            p["columns"][c["name"]]["unavailable"]
            for p in results["points"]
            if "unavailable" in p["columns"][c["name"]]
        }
        found += [f"{c['title']} is {report.NOT_AVAILABLE}: {why}." for why in sorted(failures)]
    return found


def markdown(results: Results) -> str:
    """The tables as Markdown, with the machine that they hold for."""
    facts = results["machine"]
    gpu = "; ".join(f"{what}: {found}" for what, found in results["gpu"].items())
    parts = [
        f"Measured on {facts['processor']}, {facts['cores']} cores, Python {facts['python']}, "
        f"NumPy {facts['numpy']}, {', '.join(report.when(facts))}.",
        *([gpu] if gpu else []), *notes(results),
    ]  # fmt: skip
    for title, header, rows in tables(results):
        parts += [f"{title[0].upper()}{title[1:]}:", report.markdown_table(header, rows)]
    return "\n\n".join(parts)


# -- the plot

COLOURS = {
    "numpy": "#9a9a9a", "native": "#e69f00", "cuda": "#4b2e83", "cuda, queued": "#7d5fb2",
    "cuda run_many": "#56b4e9",
}  # fmt: skip


def lines(results: Results, batch: int) -> dict[str, list[tuple[int, float]]]:
    """For each backend width and seconds; a device whose calls were queued has a second line."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in sorted(results["points"], key=lambda p: p["width"]):
        for name, column in point["columns"].items():
            if point["batch"] != batch or "median" not in column:
                continue
            many = name.endswith("run_many")
            best = column.get("queued", column)["median"]
            seconds = best if many else column["median"]
            found.setdefault(name, []).append((point["width"], seconds))
            if "queued" in column and not many:
                found.setdefault(f"{name}, queued", []).append((point["width"], best))
    return found


def draw(results: Results, path: str | Path) -> None:
    """Time against width, both logarithmic, a line for each backend and a panel for each batch."""
    from matplotlib.figure import Figure  # no pyplot: no windows, nothing global

    batches = sorted({p["batch"] for p in results["points"]})
    columns = min(2, len(batches))
    height = -(-len(batches) // columns)
    figure = Figure(figsize=(4.5 * columns, 1.2 + 3 * height), layout="constrained")
    panels = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False)
    shown: dict[str, Any] = {}
    for axes, batch in zip(panels.flat, batches, strict=False):
        for name, line in lines(results, batch).items():
            (shown[name],) = axes.plot(
                *zip(*line, strict=True), marker="o", markersize=4, color=COLOURS.get(name),
            )  # fmt: skip
        axes.set_xlabel("width of the layers")
        _decorate(axes, batch, sorted({p["width"] for p in results["points"]}))
    for axes in panels.flat[len(batches) :]:
        axes.set_axis_off()
    facts = results["machine"]
    figure.suptitle(f"A training step, float32, {facts['processor']}, {facts['cores']} cores")
    figure.supylabel("seconds per step (median)", fontsize=10)
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)


def _decorate(axes: Any, batch: int, widths: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(widths, [str(w) for w in widths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"batch {batch}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
