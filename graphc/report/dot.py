"""DOT source of anything that can be drawn: a node, the record of any stage, an executable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.report.dot_graph import graph_dot, schedule_dot
from graphc.report.dot_memory import plan_dot, program_dot
from graphc.schedule.records import MemoryPlan, Program, Schedule

PAINTERS: tuple[tuple[type, Callable[[Any, object, str], str]], ...] = (
    (Graph, graph_dot),
    (Schedule, schedule_dot),
    (MemoryPlan, plan_dot),
    (Program, program_dot),
)


def to_dot(anything: Any) -> str:
    """DOT source of a node (with all below it), graph, schedule, plan, program, or of anything with
    a `to_dot()` of its own, such as a stage or an executable. Raises CompileError for the rest."""
    if isinstance(anything, Node):
        return graph_dot(Graph.raw((("value", anything),), ()))
    for kind, paint in PAINTERS:
        if isinstance(anything, kind):
            return paint(anything, None, kind.__name__)
    own = getattr(anything, "to_dot", None)
    if own is None or isinstance(anything, type):
        raise CompileError(
            f"to_dot: {type(anything).__name__} cannot be drawn; need a node, a graph, a schedule, "
            "a plan, a program, a stage or an executable"
        )
    return own()


def stage_dot(name: str, record: Any, before: object) -> str:
    """DOT source of a stage's record, marked against the record of the stage before."""
    for kind, paint in PAINTERS:
        if isinstance(record, kind):
            return paint(record, before, f"stage {name}")
    raise CompileError(f"stage {name}: {type(record).__name__} cannot be drawn")
