"""Graphs and schedules as DOT, node by node: roles by form and colour, kernels as clusters, what a
stage removed as ghosts and what it added in bold green."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphc.ir.graph import Graph
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.ir.text import Role, attributes, roles, scalar_text, sites
from graphc.report.canvas import GHOST, GREEN, GREY, STYLES, VIEW, Canvas, Entry, Style, heat_color
from graphc.report.changes import Changes, changes
from graphc.report.notation import (
    Names,
    c_text,
    call_text,
    flops_text,
    kernel_nodes,
    nbytes_text,
    resolved,
    schedule_names,
    title_text,
)
from graphc.schedule.records import Edge, Kernel, Schedule

HOLE = "\N{BULLET}"  # an operand that an edge shows
REASON_WIDTH = 26  # characters a line of a reason in an edge's label
NOTHING = Changes({}, (), frozenset())


@dataclass
class Sketch:
    """What a drawing of a graph needs to know of its nodes."""

    graph: Graph
    names: Names
    diff: Changes = NOTHING
    kernel_of: Mapping[Node, int] = field(default_factory=dict[Node, int])
    inner_line: str = "#9aa5b1"  # of edges within a kernel

    @cached_property
    def roles(self) -> dict[Node, Role]:
        return roles(self.graph)

    @cached_property
    def keys(self) -> dict[Node, str]:
        """DOT ids: numbers in topological order, whatever the names are."""
        return {node: f"n{i}" for i, node in enumerate(self.graph.nodes)}

    @cached_property
    def marks(self) -> dict[Node, list[str]]:
        """For results, what they are: `output loss`, `new w`."""
        marks: dict[Node, list[str]] = {}
        for name, node in self.graph.outputs:
            marks.setdefault(node, []).append(f"output {name}")
        for param, node in self.graph.updates:
            marks.setdefault(node, []).append(f"new {param.name}")
        return marks

    @cached_property
    def pinned(self) -> set[Node]:
        """Views that are drawn as nodes: results, and those computed in a kernel."""
        return set(self.marks) | self.kernel_of.keys()

    @cached_property
    def shown(self) -> set[Node]:
        """Params that other nodes than updates read: updates name them without an edge, which would
        cross the whole picture."""
        return {
            self.base(operand)[0]
            for node in self.graph.nodes
            if self.roles[node] is not Role.UPDATE and node.op.kind is not Kind.VIEW
            for operand in node.inputs
            if isinstance(self.base(operand)[0], Param)
        }

    def spelled(self, node: Node, operand: Node) -> str | None:
        """How the label of `node` spells an operand that no edge shows, else None."""
        if self.roles[node] is Role.UPDATE and operand in self.shown:
            return self.names[operand]
        return None if self.is_drawn(operand) else scalar_text(operand)

    def base(self, node: Node) -> tuple[Node, list[Node]]:
        """What is drawn below an operand, and the views on the way."""
        return resolved(node, self.pinned)

    def is_drawn(self, node: Node) -> bool:
        """Views become labels of edges, scalar constants stand in their users."""
        if node in self.marks:
            return True
        if scalar_text(node) is not None:
            return False
        return node.op.kind is not Kind.VIEW or node in self.pinned


# -- graphs


def graph_dot(graph: Graph, before: object = None, title: str = "graph") -> str:
    """DOT source of a graph; with the graph `before`, what was removed and added is marked."""
    diff = changes(before, graph) if isinstance(before, Graph) else NOTHING
    counted = f"{title}: {len(graph.nodes)} nodes"
    if isinstance(before, Graph):
        counted += f", {len(diff.removed)} removed, {len(diff.added)} added"
    canvas, sketch = Canvas(counted), Sketch(graph, graph.names, diff)
    for node in graph.nodes:
        if sketch.is_drawn(node):
            _draw_node(canvas, sketch, node)
            for operand, views in _operands(sketch, node):
                _draw_edge(canvas, sketch, operand, views, node)
    if isinstance(before, Graph):
        _draw_ghosts(canvas, sketch, before)
    _draw_legend(canvas, sketch)
    return canvas.source


def _operands(sketch: Sketch, node: Node) -> list[tuple[Node, list[Node]]]:
    """The operands that edges show, each with the views it is read through."""
    below = (sketch.base(operand) for operand in node.inputs)
    return [(base, views) for base, views in below if sketch.spelled(node, base) is None]


def _draw_node(canvas: Canvas, sketch: Sketch, node: Node, *extra_lines: str) -> None:
    style = VIEW if node.op.kind is Kind.VIEW else STYLES[sketch.roles[node]]
    marks = sketch.marks.get(node, [])
    lines = [*_title(sketch, node), str(node.type), *extra_lines, *marks]
    extra = {"peripheries": "2"} if marks else {}
    if node in sketch.diff.added:
        extra |= {"color": GREEN, "penwidth": "3", "fontcolor": GREEN}
    tooltip = canvas.lines([", ".join([str(sketch.roles[node]), *sites(node)])])
    canvas.node(sketch.keys[node], lines, style, {"tooltip": tooltip, **extra})


def _title(sketch: Sketch, node: Node) -> list[str]:
    """The name and, where constants stand in the label or attributes matter, the expression."""
    name = sketch.names[node]
    operands = [sketch.spelled(node, sketch.base(i)[0]) or HOLE for i in node.inputs]
    if any(o != HOLE for o in operands):
        return [name, c_text(node, operands) or call_text(node, operands)]
    shown = attributes(node) if node.inputs or scalar_text(node) is None else []
    return [name, ", ".join(shown)] if shown else [name]


def _draw_edge(
    canvas: Canvas, sketch: Sketch, tail: Node, views: list[Node], head: Node, **extra: str
) -> None:
    color = STYLES[sketch.roles[head]].line
    if any(view in sketch.diff.added for view in views):
        extra["fontcolor"] = GREEN
    canvas.edge(
        sketch.keys[tail], sketch.keys[head], [_view_text(v, head) for v in views],
        **{"color": color, "fontcolor": GREY, **extra},
    )  # fmt: skip


def _view_text(view: Node, head: Node) -> str:
    """A view in a few words: its op, and the shape it gives where that is not its user's."""
    return view.op.name if view.shape == head.shape else f"{view.op.name} {list(view.shape)}"


def _draw_ghosts(canvas: Canvas, sketch: Sketch, before: Graph) -> None:
    """What the stage removed: dashed and grey, at its old place."""
    names, kept = before.names, sketch.diff.kept
    ghosts = {node: f"g{i}" for i, node in enumerate(sketch.diff.removed) if not _is_scalar(node)}
    for node, key in ghosts.items():
        extra = {"color": GREY, "fontcolor": GREY, "fontsize": "9", "tooltip": "removed"}
        canvas.node(key, [names[node], str(node.type)], GHOST, extra)
    for node in before.nodes:
        now = kept.get(node)
        head = ghosts.get(node) or (
            sketch.keys[now] if now is not None and sketch.is_drawn(now) else None
        )
        for operand in node.inputs:
            tail = ghosts.get(operand) or _key_of(sketch, kept.get(operand))
            if head and tail and (node in ghosts or operand in ghosts):
                canvas.edge(tail, head, style="dashed", color=GREY)


def _key_of(sketch: Sketch, node: Node | None) -> str | None:
    """The id of what is drawn for an operand, if anything is."""
    if node is None:
        return None
    base, _ = sketch.base(node)
    return sketch.keys[base] if sketch.is_drawn(base) else None


def _is_scalar(node: Node) -> bool:
    return scalar_text(node) is not None


def _draw_legend(canvas: Canvas, sketch: Sketch, more: Sequence[Entry] = ()) -> None:
    drawn = {sketch.roles[n] for n in sketch.graph.nodes if sketch.is_drawn(n)}
    entries = [(str(role), STYLES[role], {}) for role in Role if role in drawn]
    if sketch.marks:
        entries.append(("result", STYLES[Role.FORWARD], {"peripheries": "2"}))
    if sketch.diff.removed:
        entries.append(("removed", GHOST, {"color": GREY, "fontcolor": GREY}))
    if sketch.diff.added:
        entries.append(("added", STYLES[Role.FORWARD], {"color": GREEN, "penwidth": "3"}))
    canvas.legend([*entries, *more])


# -- schedules


@dataclass(frozen=True, slots=True)
class Heat:
    """How hot a kernel is drawn, from 0 to 1, what that says, and a line for its label."""

    level: float
    value: str
    line: str


def schedule_dot(
    schedule: Schedule, before: object = None, title: str = "schedule", heats: Sequence[Heat] = ()
) -> str:
    """DOT source of a schedule: a cluster per kernel, bytes and reasons on edges between them.
    `heats`: one for each kernel, or none."""
    graph = schedule.graph
    diff = changes(before, graph) if isinstance(before, Graph) else NOTHING
    kernel_of = {
        node: i for i, kernel in reversed([*enumerate(schedule.kernels)])
        for node in kernel_nodes(kernel)
    }  # fmt: skip
    sketch = Sketch(graph, schedule_names(schedule), diff, kernel_of)
    if heats:
        sketch.inner_line = "#55606c"  # is seen on a hot kernel, too
    saved_in: Counter[int] = Counter()
    for edge in schedule.edges:
        saved_in[kernel_of.get(edge.consumer, -1)] += edge.saved_nbytes
    canvas = Canvas(
        f"{title}: {len(schedule.kernels)} kernels for {len(graph.nodes)} nodes, "
        f"{nbytes_text(saved_in.total())} saved by fusion"
    )
    members: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node in kernel_of:
            members.setdefault(kernel_of[node], []).append(node)
        elif sketch.is_drawn(node):
            _draw_node(canvas, sketch, node)
    for index, kernel in enumerate(schedule.kernels):
        _draw_kernel(canvas, sketch, index, kernel, members.get(index, ()), saved_in[index],
                     heats[index] if heats else None)  # fmt: skip
    _draw_flows(canvas, sketch, schedule)
    _draw_legend(canvas, sketch, _heat_entries(heats))
    return canvas.source


def _draw_kernel(
    canvas: Canvas, sketch: Sketch, index: int, kernel: Kernel, nodes: Iterable[Node], saved: int,
    heat: Heat | None,
) -> None:  # fmt: skip
    cost = f"{flops_text(kernel.flops)}, {nbytes_text(kernel.nbytes)} moved"
    if saved:
        cost += f", {nbytes_text(saved)} saved"
    lines = [kernel.name, title_text(kernel), cost, *([heat.line] if heat else [])]
    canvas.begin(
        f"k{index}", lines, style="filled,rounded", fillcolor=heat_color(heat.level if heat else 0),
        color="#445566",
        tooltip=canvas.lines([f"own kernel: {kernel.reason}" if kernel.reason else kernel.name]),
    )  # fmt: skip
    for node in nodes:
        _draw_node(canvas, sketch, node)
    canvas.end()


def _heat_entries(heats: Sequence[Heat]) -> list[Entry]:
    """The colours of the coolest and of the hottest kernel, with what they stand for."""
    ordered = sorted(heats, key=lambda heat: heat.level)
    return [
        (heat.value, Style("box", heat_color(heat.level), "#445566", "filled,rounded"), {})
        for heat in ordered[:: max(1, len(ordered) - 1)]
    ]


def _draw_flows(canvas: Canvas, sketch: Sketch, schedule: Schedule) -> None:
    """Edges: thin inside a kernel, with the saved bytes as a tooltip; bold between kernels, with
    the stored bytes and the reason why they were not fused; dashed to a kernel that computes the
    value again, as it does with random draws."""
    decided = {(e.producer, e.consumer): e for e in schedule.edges}
    stored = set(schedule.stored)
    labelled: set[tuple[Node, int]] = set()
    for node in sketch.graph.nodes:
        if not sketch.is_drawn(node):
            continue
        for operand, views in _operands(sketch, node):
            edge = decided.get((operand, node))
            here = sketch.kernel_of.get(node, -1)
            if operand not in sketch.kernel_of:
                _draw_edge(canvas, sketch, operand, views, node)
            elif sketch.kernel_of[operand] == here:
                _draw_fused(canvas, sketch, operand, node, edge)
            elif operand not in stored:
                canvas.edge(
                    sketch.keys[operand], sketch.keys[node], ["computed again"],
                    "not stored: each kernel that needs it computes it", style="dashed",
                    color="#9aa5b1",
                )  # fmt: skip
            else:
                first = (operand, here) not in labelled
                labelled.add((operand, here))
                _draw_stored(canvas, sketch, operand, node, edge if first else None, first)


def _draw_fused(canvas: Canvas, sketch: Sketch, tail: Node, head: Node, edge: Edge | None) -> None:
    saved = nbytes_text(edge.saved_nbytes if edge else 0)
    why = f" ({edge.reason})" if edge and edge.reason else ""
    canvas.edge(
        sketch.keys[tail], sketch.keys[head], tooltip=f"fused{why}: saves {saved}", weight="8",
        color=sketch.inner_line,
    )  # fmt: skip


def _draw_stored(
    canvas: Canvas, sketch: Sketch, tail: Node, head: Node, edge: Edge | None, labelled: bool
) -> None:
    reason = edge.reason if edge else ""
    nbytes = nbytes_text(tail.type.nbytes)
    lines = [nbytes, *_wrapped(reason, REASON_WIDTH)] if labelled else []
    canvas.edge(
        sketch.keys[tail], sketch.keys[head], lines,
        f"{nbytes} stored; not fused: {reason}" if reason else f"{nbytes} stored",
        penwidth="2", color=STYLES[sketch.roles[head]].line,
    )  # fmt: skip


def _wrapped(text: str, width: int) -> list[str]:
    """The first words of a text in at most three lines, with an ellipsis where it was cut."""
    return textwrap.wrap(text, width, max_lines=3, placeholder=" ...")
