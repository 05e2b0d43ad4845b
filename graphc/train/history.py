"""What a run has seen, one row per epoch: as a dict, CSV, JSON and a plot."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import graphc as gx


class History:
    """Rows by epoch: `epoch` (from 1), `loss`, metrics, `val_...`, `rate`. `stopped`: why the run
    ended before its last epoch, or "". `best_epoch`: the one whose parameters `EarlyStopping` put
    back at the end of the last fit, or None."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.stopped = ""
        self.best_epoch: int | None = None

    def __getitem__(self, name: str) -> list[Any]:
        """The values of one name by epoch, None where an epoch has none."""
        if not any(name in row for row in self.rows):
            raise KeyError(f"{name!r}: there is {', '.join(self.names) or 'nothing yet'}")
        return [row.get(name) for row in self.rows]

    def __len__(self) -> int:
        """How many epochs there are."""
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __repr__(self) -> str:
        last = self.rows[-1] if self.rows else {}
        cells = [f"{n} {v:.4g}" for n, v in last.items() if isinstance(v, float)]
        ended = f"; {self.stopped}" if self.stopped else ""
        return f"History of {len(self)} epochs: {', '.join(cells) or 'nothing yet'}{ended}"

    @property
    def names(self) -> list[str]:
        """The names of all values, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_dict(self) -> dict[str, list[Any]]:
        """Name -> values by epoch."""
        return {name: self[name] for name in self.names}

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as JSON, written to `path` if one is given; null for what is not finite."""
        facts = {"rows": plain(self.rows, finite=True), "stopped": self.stopped}
        return _written(json.dumps(facts, allow_nan=False), path)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The rows as CSV with a header, written to `path` if one is given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain(self.rows))
        return _written(text.getvalue(), path)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Curves over the epochs, training and validation together, with a line at `best_epoch`;
        the figure of matplotlib, which is also saved if there is a path."""
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError:
            raise gx.InputError("plot: needs matplotlib: pip install matplotlib") from None
        curves = {n: _curve(self[n]) for n in self.names if n not in ("epoch", "rate")}
        shown = [n for n, curve in curves.items() if curve]
        themes = list(dict.fromkeys(n.removeprefix("val_") for n in shown))
        figure = Figure(figsize=(4.5 * max(len(themes), 1), 3.5), layout="constrained")
        rows = figure.subplots(1, max(len(themes), 1), squeeze=False)
        for theme, axes in zip(themes, rows[0], strict=False):
            for name, label in ((theme, "training"), (f"val_{theme}", "validation")):
                if name in shown:
                    axes.plot(self["epoch"], curves[name], marker=".", label=label)
            if self.best_epoch is not None:
                axes.axvline(self.best_epoch, color="gray", linestyle=":", label="best epoch")
            axes.set(xlabel="epoch", title=theme)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure


def plain(value: Any, finite: bool = False) -> Any:
    """Arrays as lists and NumPy's numbers as Python's, for JSON; `finite`: None for NaN and
    infinity, which JSON does not have."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {k: plain(v, finite) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, finite) for v in value]
    return None if finite and isinstance(value, float) and not math.isfinite(value) else value


def rows_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that `plain` made, with their arrays again."""
    return [{k: np.array(v) if isinstance(v, list) else v for k, v in r.items()} for r in found]


def _curve(values: list[Any]) -> list[float]:
    """Numbers with gaps where an epoch has none; nothing, where a value is no number."""
    if not all(isinstance(v, float | None) for v in values):
        return []
    return [math.nan if v is None else v for v in values]


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
