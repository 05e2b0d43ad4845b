"""Draws a result: for each case a bar per contestant, relative to the best peer.

python -m bench.plot bench/results/NAME.json FILE.png     draws a result that was measured before
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import graphc as gx

from .report import duration

Results = dict[str, Any]
SUFFIXES = (".png", ".svg", ".pdf")
BAR = 0.8  # of the height of a line; the rest is white
INCHES_PER_BAR = 0.2
GREY = "#9a9a9a"  # by hand
PURPLES = ("#4b2e83", "#7d5fb2", "#b39ddb", "#d9ccf2")  # graphc's backends
OTHERS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00")  # told apart without colour vision


def must_be_possible(path: str | Path, cases: Collection[str]) -> None:
    """Raise GraphcError, before anything is measured, if these cases cannot be drawn to `path`."""
    if Path(path).suffix not in SUFFIXES:
        raise gx.GraphcError(f"bench --plot {path}: need a name that ends in {', '.join(SUFFIXES)}")
    if not find_spec("matplotlib"):
        raise gx.GraphcError("bench --plot needs matplotlib; pip install 'graphc[plot]'")
    if not cases:
        raise gx.GraphcError(f"bench --plot {path}: it draws steps, and no case asked for is one")


def beside(path: Path, console: Any) -> Path | None:
    """Where to draw a result that is written to `path`; None, and a line why, without a library."""
    if not find_spec("matplotlib"):
        console.print("not drawn: that needs matplotlib; pip install 'graphc[plot]'")
        return None
    return path.with_suffix(".png")


def draw(results: Results, path: str | Path) -> None:
    """Write horizontal grouped bars on a logarithmic scale, the time of each at its end."""
    from matplotlib.figure import Figure  # no pyplot: no windows, nothing global

    reference, factors = relative(results)
    lines = sum(len(own) + 1 for own in factors)
    figure = Figure(figsize=(10, 1.6 + INCHES_PER_BAR * lines), layout="constrained")
    axes = figure.add_subplot()
    colours = _colours(results, [c for c in _names(results) if any(c in own for own in factors)])
    y, ends, middles = 0, list[float](), list[float]()
    for row, own in zip(results["steps"], factors, strict=True):
        middles.append(y + (len(own) - 1) / 2)
        for name, factor in own.items():
            ends.append(_bar(axes, y, factor, row["columns"][name], colours[name]))
            y += 1
        y += 1
    titles = {c["name"]: c["title"] for c in results["contestants"]}
    for name, colour in colours.items():
        axes.barh(0, 0, color=colour, label=titles[name])
    lowest = min((factor for own in factors for factor in own.values()), default=1)
    _scale(axes, min(0.5, lowest / 1.5), 2 * max(ends, default=1))
    axes.set_yticks(middles, [row["case"] for row in results["steps"]])
    axes.set_ylim(y - 1, -1)  # the first case on top
    axes.set_xlabel(f"time per step relative to {reference} (logarithmic; shorter is faster)")
    axes.set_title("medians, quartiles as lines; the time of a step beside its bar", fontsize=9)
    facts, gpu = results["machine"], results.get("gpu", {})
    places = [f"{facts['processor']}, {facts['cores']} cores", *([gpu["name"]] if gpu else [])]
    figure.suptitle(f"One step, {', '.join(places)}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def _bar(axes: Any, y: int, factor: float, found: Results, colour: str) -> float:
    """A bar, its quartiles, and the time behind them; where the quartiles end."""
    low, high = (found[key] / found["median"] * factor for key in ("low", "high"))
    axes.barh(
        y, factor, BAR, color=colour, xerr=[[factor - low], [high - factor]],
        error_kw={"ecolor": "#555555", "elinewidth": 0.8},
    )  # fmt: skip
    axes.annotate(
        duration(found["median"]), (high, y), (4, 0), textcoords="offset points", va="center",
        fontsize=7,
    )  # fmt: skip
    return high


def _scale(axes: Any, low: float, high: float) -> None:
    """A logarithmic scale with plain numbers, and a line at 1."""
    axes.set_xscale("log")
    marks = [m * 10**e for e in range(-3, 5) for m in (1, 2, 5) if low <= m * 10**e <= high]
    axes.set_xticks(marks, [f"{m:g}" for m in marks])
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def relative(results: Results) -> tuple[str, list[dict[str, float]]]:
    """What times are divided by, in words; and for each case each contestant's factor.

    That is the best peer where every case has one, otherwise the step by hand where it was timed
    in every case, and otherwise whatever was fastest.
    """
    by_peer = all(row["best peer"] for row in results["steps"])
    hand = results["contestants"][0]
    by_hand = all("median" in row["columns"][hand["name"]] for row in results["steps"])
    factors: list[dict[str, float]] = []
    for row in results["steps"]:
        columns = row["columns"]
        there = [name for name in _names(results) if "median" in columns[name]]
        fastest = min(there, key=lambda name: columns[name]["median"], default="")
        base = row["best peer"] if by_peer else hand["name"] if by_hand else fastest
        factors.append({name: columns[name]["median"] / columns[base]["median"] for name in there})
    if by_peer:
        return "the case's fastest peer", factors
    return hand["title"] if by_hand else "the case's fastest", factors


def _names(results: Results) -> list[str]:
    return [c["name"] for c in results["contestants"]]


def _colours(results: Results, names: list[str]) -> dict[str, str]:
    kinds = {c["name"]: c["kind"] for c in results["contestants"]}
    palettes = {"by hand": iter([GREY]), "backend": iter(PURPLES), "peer": iter(OTHERS)}
    return {name: next(palettes[kinds[name]]) for name in names}


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
