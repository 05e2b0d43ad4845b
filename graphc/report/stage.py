"""A stage of a compilation: the record it made, the one before it, its time and its notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.ir.graph import Graph
from graphc.report.changes import changes
from graphc.report.dot import stage_dot
from graphc.report.text import text
from graphc.schedule.records import MemoryPlan, Program, Schedule

Record = Graph | Schedule | MemoryPlan | Program


@dataclass(frozen=True)
class Stage:
    """One step of `compile`: declared, bound, widened, simplified, fused, planned or
    lowered.

    `notes` of "widened" and "simplified": `{"rules": {name: hits}}`; of "lowered":
    `{"source": generated text}`.
    """

    name: str
    record: Record
    before: Record | None = None
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def text(self) -> str:
        """The record as text, what the stage changed, and its notes; no times, so that equal
        compilations give equal text."""
        parts = [f"stage {self.name}\n", text(self.record), *self._changes()]
        parts += [
            f"{key}: {_note(value)}\n" for key, value in self.notes.items() if key != "source"
        ]
        if "source" in self.notes:
            parts.append(f"source:\n{self.notes['source']}\n")
        return "".join(parts)

    def to_dot(self) -> str:
        """DOT source of the record, with marks for what the stage removed and added."""
        return stage_dot(self.name, self.record, self.before)

    def _changes(self) -> list[str]:
        if not isinstance(self.record, Graph) or not isinstance(self.before, Graph):
            return []
        diff = changes(self.before, self.record)
        return [f"changed: {len(diff.removed)} nodes removed, {len(diff.added)} added\n"]


def _note(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return str(value)
