"""The results of an epoch's batches, until they become one row of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.train.metrics import Metric, mean_over_rows
from graphc.train.network import to_numpy

Outputs = dict[str, np.ndarray]  # [batches, ...] by name


def fetch(made: Sequence[Mapping[str, Any]]) -> Outputs:
    """The outputs of several batches, on the host; numbers as float64."""
    return {name: _fetch([outputs[name] for outputs in made]) for name in made[0]}


def _fetch(values: list[Any]) -> np.ndarray:
    if values[0].ndim:
        return np.stack([to_numpy(v) for v in values])
    return np.array([float(v) for v in values])


class Totals:
    """Outputs of the batches so far, in pieces, and the number of rows of each batch."""

    def __init__(self) -> None:
        self.pieces: list[Outputs] = []
        self.rows: list[int] = []

    def add(self, outputs: Outputs, rows: Sequence[int]) -> None:
        """Some batches more."""
        self.pieces.append(outputs)
        self.rows.extend(rows)

    def row(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """One value for each output."""
        combine = {m.name: m.combine for m in metrics}
        rows = np.array(self.rows)
        return {
            name: combine.get(name, mean_over_rows)(values, rows)
            for name, values in self._joined().items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a checkpoint."""
        if not self.rows:
            return {}
        joined = {f"output.{name}": values for name, values in self._joined().items()}
        return {"rows": np.array(self.rows, np.int64), **joined}

    def load(self, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Take up what `arrays` gave: the outputs of these names, in this order."""
        self.rows = [int(n) for n in arrays.get("rows", ())]
        self.pieces = [{n: arrays[f"output.{n}"] for n in names}] if self.rows else []

    def _joined(self) -> Outputs:
        first, *others = self.pieces
        if not others:
            return first
        return {name: np.concatenate([p[name] for p in self.pieces]) for name in first}
