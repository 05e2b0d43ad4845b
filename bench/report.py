"""Shows results: tables for the terminal, and Markdown for the README from a committed result.

python -m bench.report bench/results/NAME.json README.md     fills in the page between its markers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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


def tables(results: Results) -> list[Table]:
    """Tables of steps, of first steps, and of what else was measured, whichever there are."""
    found: list[Table] = []
    if results["steps"]:
        header, rows = step_rows(results, lambda text: f"[bold green]{text}[/]", escape)
        caption = escape("\n".join(notes(results)))
        columns = [Column(name, overflow="fold") for name in header]  # a narrow terminal cuts none
        steps = Table(*columns, title="training steps and formulas", caption=caption)
        found.append(_filled(steps, rows, lines=True))
    for title, header, rows in before_rows(results):
        found.append(_filled(Table(*header, title=title), rows))
    return found


def markdown(results: Results) -> str:
    """The same as Markdown, with the machine that it holds for."""
    facts = results["machine"]
    peers = [f"{c['title']} {c['version']}" for c in _there(results) if c["kind"] == "peer"]
    machine = ", ".join([
        facts["processor"], f"{facts['cores']} cores", f"Python {facts['python']}",
        f"NumPy {facts['numpy']} ({facts['blas']})", *peers, facts["date"],
        f"revision {facts['revision']}",
    ])  # fmt: skip
    parts = [f"Measured on {machine}."]
    if results["steps"]:
        header, rows = step_rows(results, lambda text: f"**{text}**")
        parts.append(_markdown(header, rows))
        parts += notes(results)
    for title, header, rows in before_rows(results):
        parts.append(_markdown([title, *header[1:]], rows))
    return "\n\n".join(parts)


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
        ("share of limit", "share of limit", "{:.0%}"),
    ]
    for what, key, _ in standings:
        if _any_has(results, key):
            ours = backends[0] if len(backends) == 1 else "graphc"
            header.append(f"{ours} / {what}" if key == "peer ratio" else what)
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
    if _any_has(results, "share of limit"):
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


def _standing(columns: Results, backends: Sequence[str], key: str, form: str) -> str:
    """A line for each backend that has the number, with its name where there are several."""
    there = [name for name in backends if key in columns[name]]
    lines = [form.format(columns[name][key]) for name in there]
    if len(backends) > 1:
        lines = [f"{name} {line}" for name, line in zip(there, lines, strict=True)]
    return "\n".join(lines) or "-"


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


def _spread(timing: Results) -> str:
    half = (timing["high"] - timing["low"]) / 2
    return f"{duration(timing['median'])} ±{100 * half / timing['median']:.0f}%"


def _cell(found: Results, kind: str) -> str:
    if "unavailable" in found:
        return "not available"
    return _spread(found) if kind == "by hand" else f"{_spread(found)}\nratio {found['ratio']:.2f}"


def _filled(table: Table, rows: Rows, lines: bool = False) -> Table:
    table.show_lines = lines
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line).replace("\n", "; ") + " |" for line in lines)


if __name__ == "__main__":
    fill_in(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
