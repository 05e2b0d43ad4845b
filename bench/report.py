"""Shows results: tables for the terminal, and Markdown for the README from a committed result.

python -m bench.report bench/results/NAME.json README.md     fills in the page between its markers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from .peers import PEERS

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
Results = dict[str, Any]
Rows = list[list[str]]


def tables(results: Results) -> list[Table]:
    """One table of steps and one of compile times, whichever there are."""
    found: list[Table] = []
    if results["steps"]:
        header, rows = step_rows(results)
        caption = escape("\n".join(missing(results)))
        steps = Table(*header, title="training steps and formulas", caption=caption)
        found.append(_filled(steps, rows))
    if results["compile"]:
        before = Table("what", "time", title="before the first step")
        found.append(_filled(before, compile_rows(results)))
    return found


def markdown(results: Results) -> str:
    """The same as Markdown, with the machine that it holds for."""
    facts = results["machine"]
    machine = (
        f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, NumPy "
        f"{facts['numpy']} ({facts['blas']}), {facts['date']}, revision {facts['revision']}"
    )
    header, rows = step_rows(results)
    parts = [f"Measured on {machine}.", _markdown(header, rows)]
    if missing(results):
        parts.append("; ".join(missing(results)) + ".")
    if results["compile"]:
        parts.append(_markdown(["before the first step", "time"], compile_rows(results)))
    return "\n\n".join(parts)


def fill_in(page: Path, results: Results) -> None:
    """Put the Markdown between the markers of a page; ValueError if it has none."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no line {BEGIN} ... {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


def step_rows(results: Results) -> tuple[list[str], Rows]:
    """A header and one row for each workload, one column for each backend or peer."""
    columns = list(dict.fromkeys(c for row in results["steps"] for c in row["columns"]))
    columns.sort(key=lambda c: any("unavailable" in row["columns"][c] for row in results["steps"]))
    rows: Rows = []
    for row in results["steps"]:
        by_hand = row.get("by hand")
        cells = [f"{row['case']}\n{row['about']}", _spread(by_hand) if by_hand else "-"]
        rows.append(cells + [_cell(row["columns"][c]) for c in columns])
    return ["case", "NumPy by hand", *(c if c in PEERS else f"backend {c}" for c in columns)], rows


def missing(results: Results) -> list[str]:
    """For each backend or peer that could not run, why."""
    columns = {c: found for row in results["steps"] for c, found in row["columns"].items()}
    return [
        f"{c} is not available: {found['unavailable']}"
        for c, found in columns.items()
        if "unavailable" in found
    ]


def compile_rows(results: Results) -> Rows:
    """What was measured of importing and compiling, a line each."""
    parts = results["compile"]
    rows: Rows = []
    if "import" in parts:
        rows.append(["import numpy", duration(parts["import"]["numpy"])])
        rows.append(["import graphc, after numpy", duration(parts["import"]["graphc"])])
    if "compile" in parts:
        rows.append(["compile the digits step, fresh process", duration(parts["compile"]["first"])])
        rows.append(["compile the digits step, warm", duration(parts["compile"]["warm"])])
    for size in parts.get("size", ()):
        rows.append([f"compile {size['nodes']} nodes", duration(size["seconds"])])
    if "chain" in parts:
        chain = parts["chain"]
        what = f"declare, differentiate, compile and run a chain of {chain['length']} nodes"
        rows.append([what, duration(chain["seconds"])])
    return rows


def duration(seconds: float) -> str:
    """Three digits and a unit: 52.1 us, 2.38 ms, 1.20 s."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:#.3g} {unit}".replace(". ", " ")
    raise AssertionError


def _spread(timing: Results) -> str:
    half = (timing["high"] - timing["low"]) / 2
    return f"{duration(timing['median'])} ±{100 * half / timing['median']:.0f}%"


def _cell(found: Results) -> str:
    if "unavailable" in found:
        return "not available"
    return f"{_spread(found)}\nratio {found['ratio']:.2f}"


def _filled(table: Table, rows: Rows) -> Table:
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(header: Sequence[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line).replace("\n", "; ") + " |" for line in lines)


if __name__ == "__main__":
    fill_in(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
