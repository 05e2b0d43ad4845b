"""The results of an epoch's batches, until they become one row of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.train.metrics import Metric, mean_over_rows


class Totals:
    """Outputs of each batch, on the host, and its number of rows."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self.rows: list[int] = []

    def add(self, outputs: Mapping[str, np.ndarray], rows: int) -> None:
        """One batch more."""
        self.rows.append(rows)
        for name, value in outputs.items():
            self.parts.setdefault(name, []).append(value)

    def row(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """One value for each output."""
        combine = {m.name: m.combine for m in metrics}
        rows = np.array(self.rows)
        return {
            name: combine.get(name, mean_over_rows)(np.stack(values), rows)
            for name, values in self.parts.items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a checkpoint."""
        if not self.rows:
            return {}
        return {"rows": np.array(self.rows, np.int64)} | {
            f"output.{name}": np.stack(values) for name, values in self.parts.items()
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `arrays` gave."""
        self.rows = [int(n) for n in arrays.get("rows", ())]
        self.parts = {
            name.removeprefix("output."): list(values)
            for name, values in arrays.items()
            if name != "rows"
        }
