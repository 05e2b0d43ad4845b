"""Shows results: tables for the terminal, and Markdown for the README from a committed result.

python -m bench.report bench/results/NAME.json README.md     fills in the page between its markers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
Results = dict[str, Any]
Rows = list[list[str]]
Paint = Callable[[str], str]  # how what is best is marked

LIMIT = (
    "Limit: the FLOPs of a case's matrix products at {flops:.0f} GFLOP/s (float32, 1024 x 1024) "
    "plus its bytes at {nbytes:.1f} GB/s (large copy, read + written), both measured in the same "
    "run. Bytes: every input is read, every output written, every parameter and velocity read and "
    "written, once each; they count where the caches would hold them, too, so a case that stays in "
    "the caches can pass 100%."
)
GPU_LIMIT = (
    "Limit of {name}: the FLOPs of a case's matrix products at {flops} (8192 x 8192) plus its "
    "bytes at {nbytes:.2f} TB/s (large copy, read + written), both measured in the same run by "
    "CUDA events; the share is that of the time by events, or else of the median."
)
QUEUED = (
    "Queued: many calls, and only the last one is waited for; events: the same by CUDA events, "
    "where a library lets them be recorded on its stream; run_many: per step. Everything else is "
    "waited for call by call. Inputs take turns from sets of 256 MiB together."
)
NOT_AVAILABLE = "not available"


def tables(results: Results) -> list[Table]:
    """Tables of steps, of first steps, and of what else was measured, whichever there are."""
    found: list[Table] = []
    if results["steps"]:
        header, rows = step_rows(results, lambda text: f"[bold green]{text}[/]", escape)
        caption = escape("\n".join(notes(results)))
        columns = [Column(name, overflow="fold") for name in header]  # a narrow terminal cuts none
        steps = Table(*columns, title="training steps and formulas", caption=caption)
        found.append(filled(steps, rows, lines=True))
    if compares_backends(results):
        header, rows = speedup_rows(results)
        columns = [Column(name, overflow="fold") for name in header]
        table = Table(*columns, title="speed-up", caption=SPEEDUP)
        found.append(filled(table, [[escape(cell) for cell in row] for row in rows]))
    for title, header, rows in before_rows(results):
        found.append(filled(Table(*header, title=title), rows))
    return found


def when(facts: Mapping[str, Any]) -> list[str]:
    """The date, and the revision where there is a checkout."""
    revision = facts["revision"]
    return [facts["date"], *([f"revision {revision}"] if revision else [])]


def markdown(results: Results) -> str:
    """The same as Markdown, with the machine that it holds for."""
    facts = results["machine"]
    peers = [f"{c['title']} {c['version']}" for c in _there(results) if c["kind"] == "peer"]
    machine = ", ".join([
        facts["processor"], f"{facts['cores']} cores", f"Python {facts['python']}",
        f"NumPy {facts['numpy']} ({facts['blas']})", *peers, *when(facts),
    ])  # fmt: skip
    parts = [f"Measured on {machine}."]
    if results.get("gpu"):
        parts.append(gpu_facts(results["gpu"]))
    if results["steps"]:
        header, rows = step_rows(results, lambda text: f"**{text}**")
        parts.append(markdown_table(header, rows))
        parts += notes(results)
    if compares_backends(results):
        parts += [markdown_table(*speedup_rows(results)), SPEEDUP]
    for title, header, rows in before_rows(results):
        parts.append(markdown_table([title, *header[1:]], rows))
    return "\n\n".join([*parts, *left_out(results)])


def fill_in(page: Path, results: Results) -> None:
    """Put the Markdown between the markers of a page; ValueError if it has none."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no line {BEGIN} ... {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


# -- steps


def step_rows(
    results: Results, best: Paint, plain: Paint = lambda text: text
) -> tuple[list[str], Rows]:
    """A header and a row for each workload; a column for each contestant that ran in any.

    `best` marks the time of the fastest peer, `plain` prepares all other text.
    """
    there = _there(results)
    backends = [c["name"] for c in there if c["kind"] == "backend"]
    header = ["case", *(c["title"] for c in there)]
    standings = [
        ("best peer", "peer ratio", "{:.2f}"),
        ("best peer, queued", "queued ratio", "{:.2f}"),
        ("share of limit", "share of limit", "{:.0%}"),
    ]
    for what, key, _ in standings:
        if _any_has(results, key):
            ours = backends[0] if len(backends) == 1 else "graphc"
            header.append(f"{ours} / {what}" if key.endswith("ratio") else what)
    rows: Rows = []
    for row in results["steps"]:
        cells = [plain(f"{row['case']}\n{row['about']}")]
        for c in there:
            cell = plain(_cell(row["columns"][c["name"]], c["kind"]))
            cells.append(best(cell) if c["name"] == row["best peer"] else cell)
        for _, key, form in standings:
            if _any_has(results, key):
                cells.append(_standing(row["columns"], backends, key, form))
        rows.append(cells)
    return header, rows


def notes(results: Results) -> list[str]:
    """What the table of steps needs to be read: marks, limits, and what is missing and why."""
    found: list[str] = []
    if _any_has(results, "peer ratio"):
        found.append("The fastest peer of a case is marked; below 1, graphc is faster than it.")
    if _any_has(results, "queued"):
        found.append(QUEUED)
    if results.get("gpu") and _any_has(results, "share of limit"):
        found.append(_gpu_limit(results["gpu"]))
    if any(_has(row, "share of limit", ("numpy", "native")) for row in results["steps"]):
        limits = results["limits"]
        found.append(LIMIT.format(
            flops=limits["flops_per_second"] / 1e9, nbytes=limits["bytes_per_second"] / 1e9
        ))  # fmt: skip
    restless = {
        c["title"]
        for row in results["steps"]
        for c in results["contestants"]
        if row["columns"][c["name"]].get("restless")
    }
    if restless:
        found.append(
            f"Threads that spun on while others were timed: {', '.join(sorted(restless))}."
        )
    return found + missing(results)


def left_out(results: Results) -> list[str]:
    """A line on the cases that there was no time for, if there are any."""
    cases = results.get("left out")
    return [f"Left out, as no time was left: {', '.join(cases)}."] if cases else []


def gpu_facts(gpu: Results) -> str:
    """The GPU that a result holds for."""
    versions = ", ".join(f"{what} {gpu[what]}" for what in ("driver", "runtime", "cupy"))
    return f"GPU: {gpu['name']}, L2 cache {gpu['l2 bytes'] / 2**20:.0f} MiB, {versions}."


def _gpu_limit(gpu: Results) -> str:
    rates = [f"{r / 1e12:.0f} TFLOP/s in {name}" for name, r in gpu["flops_per_second"].items()]
    return GPU_LIMIT.format(
        name=gpu["name"], flops=", ".join(rates), nbytes=gpu["bytes_per_second"] / 1e12
    )


def missing(results: Results) -> list[str]:
    """For each backend or peer that could not run, where and why."""
    found: list[str] = []
    for c in results["contestants"]:
        reasons: dict[str, list[str]] = {}
        for row in results["steps"]:
            why = row["columns"][c["name"]].get("unavailable")
            if why:
                reasons.setdefault(why, []).append(row["case"])
        for why, cases in reasons.items():
            where = "" if len(cases) == len(results["steps"]) else f" in {', '.join(cases)}"
            found.append(f"{c['title']} is not available{where}: {why}.")
    return found


def _there(results: Results) -> list[Results]:
    """The contestants that ran in any case."""
    steps = results["steps"]
    return [
        c
        for c in results["contestants"]
        if any("median" in row["columns"][c["name"]] for row in steps)
    ]


def _any_has(results: Results, key: str) -> bool:
    return any(key in found for row in results["steps"] for found in row["columns"].values())


def _has(row: Results, key: str, names: Sequence[str]) -> bool:
    return any(key in row["columns"].get(name, {}) for name in names)


def _standing(columns: Results, backends: Sequence[str], key: str, form: str) -> str:
    """A line for each backend that has the number, with its name where there are several."""
    there = [name for name in backends if key in columns[name]]
    lines = [form.format(columns[name][key]) for name in there]
    if len(backends) > 1:
        lines = [f"{name} {line}" for name, line in zip(there, lines, strict=True)]
    return "\n".join(lines) or "-"


# -- speed-up

SPEEDUP = (
    "Speed-up: the time of the first divided by that of the second, each call waited for; above 1, "
    "the second is faster."
)
PAIRS = (("numpy", "native"), ("numpy", "cuda"), ("native", "cuda"), ("numpy", "cuda run_many"))


def compares_backends(results: Results) -> bool:
    """Whether the table of speed-ups has anything to say: steps, and two backends to compare."""
    return bool(results["steps"]) and bool(_pairs(results))


def _pairs(results: Results) -> list[tuple[str, str]]:
    names = {c["name"] for c in results["contestants"] if c["kind"] == "backend"}
    return [pair for pair in PAIRS if names.issuperset(pair)]


def speedup_rows(results: Results) -> tuple[list[str], Rows]:
    """A header and a row for each case: the time on each backend, then the speed-ups."""
    backends = [c for c in results["contestants"] if c["kind"] == "backend"]
    pairs = _pairs(results)
    header = ["case", *(c["name"] for c in backends), *(f"{a} / {b}" for a, b in pairs)]
    rows: Rows = []
    for row in results["steps"]:
        columns = row["columns"]
        times = [_time_or_reason(columns[c["name"]]) for c in backends]
        rows.append([row["case"], *times, *(_speedup(columns[a], columns[b]) for a, b in pairs)])
    return header, rows


def _time_or_reason(found: Results) -> str:
    if "median" not in found:
        # the notes below the table have all of it
        return f"{NOT_AVAILABLE}: {found['unavailable'].partition(': ')[0]}"
    if "queued" not in found:
        return spread(found)
    return f"{spread(found)}\nqueued {duration(found['queued']['median'])}"


def _speedup(slower: Results, faster: Results) -> str:
    if "median" not in slower or "median" not in faster:
        return "-"
    return f"{slower['median'] / faster['median']:.2f}"


# -- before the first step


def before_rows(results: Results) -> list[tuple[str, list[str], Rows]]:
    """Title, header and rows of each table about importing, compiling and calling."""
    parts = results["compile"]
    found: list[tuple[str, list[str], Rows]] = []
    if "compile" in parts:
        header = [
            "contestant", "import, after NumPy", "then to the first result, empty cache",
            "the same, filled cache", "compile again, same process",
        ]  # fmt: skip
        rows = [_first_row(row) for row in parts["compile"]]
        found.append(("digits step, fresh process", header, rows))
    others = other_rows(parts)
    if others:
        found.append(("before the first step", ["what", "time"], others))
    return found


def _first_row(row: Results) -> list[str]:
    if "failed" in row:
        return [row["title"], f"failed: {row['failed']}", "-", "-", "-"]
    seconds = [row.get(key) for key in ("import", "empty cache", "filled cache", "again")]
    return [row["title"], *(duration(s) if s is not None else "-" for s in seconds)]


def other_rows(parts: Results) -> Rows:
    """What was measured of importing, calling, and compiling by size, a line each."""
    rows: Rows = []
    if "import" in parts:
        rows.append(["import numpy", duration(parts["import"]["numpy"])])
        rows.append(["import graphc, after numpy", duration(parts["import"]["graphc"])])
    for title, seconds in parts.get("call", {}).items():
        rows.append([f"call a program that adds one number, {title}", duration(seconds)])
    for size in parts.get("size", ()):
        rows.append([f"compile {size['nodes']} nodes", duration(size["seconds"])])
    if "chain" in parts:
        chain = parts["chain"]
        what = f"declare, differentiate, compile and run a chain of {chain['length']} nodes"
        rows.append([what, duration(chain["seconds"])])
    return rows


# -- words


def duration(seconds: float) -> str:
    """Three digits and a unit: 52.1 us, 2.38 ms, 1.20 s."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:#.3g} {unit}".replace(". ", " ")
    raise AssertionError


def spread(timing: Results) -> str:
    half = (timing["high"] - timing["low"]) / 2
    return f"{duration(timing['median'])} ±{100 * half / timing['median']:.0f}%"


def _cell(found: Results, kind: str) -> str:
    if "median" not in found:
        return "compared only" if "compared" in found else NOT_AVAILABLE
    lines = [spread(found)]
    words = {"queued": "queued", "device": "events"}
    lines += [f"{words[k]} {duration(found[k]['median'])}" for k in words if k in found]
    if "ratio" in found and kind != "by hand":
        lines.append(f"ratio {found['ratio']:.2f}")
    return "\n".join(lines)


def filled(table: Table, rows: Rows, lines: bool = False) -> Table:
    table.show_lines = lines
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line).replace("\n", "; ") + " |" for line in lines)


if __name__ == "__main__":
    fill_in(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
