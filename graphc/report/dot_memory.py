"""Memory plans and programs as DOT: kernels, the buffers between them, and where those lie."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from graphc.ir.node import Node, Param
from graphc.ir.text import Role, roles
from graphc.report.canvas import BUFFER, RESULT, STYLES, Canvas, Entry, Style
from graphc.report.notation import (
    Names,
    buffer_name,
    buffer_type,
    extents_text,
    flops_text,
    in_place_text,
    kernel_nodes,
    members,
    nbytes_text,
    placed_text,
    schedule_names,
    title_text,
)
from graphc.schedule.records import (
    Allocation,
    Buffer,
    Kernel,
    MemoryPlan,
    Program,
    Schedule,
    buffer_nbytes,
)

IN_PLACE = "#8a3d74"
FURTHEST = (Role.UPDATE, Role.BACKWARD, Role.FORWARD)


def plan_dot(plan: MemoryPlan, before: object = None, title: str = "plan") -> str:
    """DOT source of a memory plan: kernels in order and the temporaries between them, each with its
    bytes of the arena and the kernels it lives in. Parameters and inputs stand in the kernels."""
    del before  # the kernels are those of the schedule: nothing is removed or added
    names = schedule_names(plan.schedule)
    canvas = Canvas(
        f"{title}: arena of {nbytes_text(plan.peak_nbytes)}, at most "
        f"{nbytes_text(plan.live_nbytes)} alive, {nbytes_text(plan.naive_nbytes)} without planning"
    )
    drawn = {a.buffer: f"b{i}" for i, a in enumerate(plan.allocations)}
    keys = {member: key for buffer, key in drawn.items() for member in (buffer, *members(buffer))}
    results = {buffer: name for name, buffer, _ in plan.schedule.results if buffer not in keys}
    for i, buffer in enumerate(results):
        if not _is_outside(buffer):
            keys[buffer] = f"r{i}"
            lines = [f"output {results[buffer]}", buffer_type(buffer), "fresh with each call"]
            canvas.node(keys[buffer], lines, RESULT, {"peripheries": "2"})
    for allocation in plan.allocations:
        _draw_allocation(canvas, allocation, keys, names)
    role_of = roles(plan.schedule.graph)
    for index in range(len(plan.schedule.kernels)):
        _draw_kernel(canvas, index, plan.schedule, keys, names, role_of)
    entries = _legend(plan.schedule.kernels, role_of)
    entries.append(("temporary in the arena", BUFFER, {}))
    canvas.legend([*entries, ("result", RESULT, {"peripheries": "2"})])
    return canvas.source


def _is_outside(buffer: Buffer) -> bool:
    return isinstance(buffer, Node) and not buffer.inputs


def _draw_allocation(
    canvas: Canvas, allocation: Allocation, keys: dict[Buffer, str], names: Names
) -> None:
    a = allocation
    lines = [
        buffer_name(a.buffer, names),
        f"{buffer_type(a.buffer)}, {nbytes_text(a.nbytes)}",
        f"arena {a.offset}..{a.offset + a.nbytes}",
        f"kernels {a.first}-{a.last}",
    ]
    canvas.node(keys[a.buffer], lines, BUFFER)
    if a.alias_of is not None and a.alias_of in keys:
        canvas.edge(
            keys[a.alias_of], keys[a.buffer], ["in place"], constraint="false", style="dashed",
            color=IN_PLACE, fontcolor=IN_PLACE,
        )  # fmt: skip


def _draw_kernel(
    canvas: Canvas, index: int, schedule: Schedule, keys: dict[Buffer, str], names: Names,
    role_of: dict[Node, Role],
) -> None:  # fmt: skip
    kernel = schedule.kernels[index]
    reads = list(dict.fromkeys(a.base for a in kernel.reads))
    writes = list(dict.fromkeys(a.base for a in kernel.writes))
    lines = _head(kernel)
    lines += _listed("reads", [buffer_name(b, names) for b in reads if b not in keys])
    kept = [in_place_text(b, schedule, names) for b in writes if b not in keys]
    canvas.node(f"k{index}", lines + _listed("writes", kept), _style(kernel, role_of), left=True)
    for buffer in reads:
        if buffer in keys:
            canvas.edge(keys[buffer], f"k{index}")
    for buffer in writes:
        if buffer in keys:
            canvas.edge(f"k{index}", keys[buffer], penwidth="2")


def _head(kernel: Kernel) -> list[str]:
    return [
        kernel.name,
        title_text(kernel),
        f"{flops_text(kernel.flops)}, {nbytes_text(kernel.nbytes)}",
    ]


def _listed(verb: str, words: list[str]) -> list[str]:
    return (
        textwrap.wrap(f"{verb} {', '.join(words)}", 44, max_lines=3, placeholder=" ...")
        if words
        else []
    )


def _style(kernel: Kernel, role_of: dict[Node, Role]) -> Style:
    """The style of the furthest of its nodes: update, else backward, else forward."""
    found = {role_of.get(node, Role.FORWARD) for node in kernel_nodes(kernel)}
    return STYLES[next(r for r in FURTHEST if r in found or r is Role.FORWARD)]


def _legend(program_kernels: Iterable[Kernel], role_of: dict[Node, Role]) -> list[Entry]:
    used = [_style(kernel, role_of) for kernel in program_kernels]
    words = {
        Role.FORWARD: "forward kernel",
        Role.BACKWARD: "with backward",
        Role.UPDATE: "with updates",
    }
    return [(words[r], STYLES[r], {}) for r in reversed(FURTHEST) if STYLES[r] in used]


# -- programs


def program_dot(program: Program, before: object = None, title: str = "program") -> str:
    """DOT source of a program: the launches one below another, each with the places it reads and
    writes, and the buffers that flow between them."""
    del before  # the kernels are those of the schedule: nothing is removed or added
    names = schedule_names(program.schedule)
    canvas = Canvas(f"{title}: {len(program.kernels)} launches")
    role_of = roles(program.schedule.graph)
    writer: dict[Buffer, int] = {}
    for index, kernel in enumerate(program.kernels):
        _draw_launch(canvas, index, kernel, program, names, _style(kernel, role_of))
        if index:
            canvas.edge(
                f"k{index - 1}", f"k{index}", weight="100", style="dotted", arrowhead="none"
            )
        _draw_flow(canvas, index, kernel, names, writer)
    for i, (name, buffer, shape) in enumerate(program.results):
        lines = [f"output {name}", f"{buffer.dtype.name}, {extents_text(shape)}"]
        canvas.node(f"r{i}", lines, RESULT, {"peripheries": "2"})
        if buffer in writer:
            canvas.edge(f"k{writer[buffer]}", f"r{i}", penwidth="2")
    entries = _legend(program.kernels, role_of)
    canvas.legend([*entries, ("result", RESULT, {"peripheries": "2"})])
    return canvas.source


def _draw_launch(
    canvas: Canvas, index: int, kernel: Kernel, program: Program, names: Names, style: Style
) -> None:
    reads = dict.fromkeys(placed_text(a.base, program.places, names) for a in kernel.reads)
    writes = dict.fromkeys(placed_text(a.base, program.places, names) for a in kernel.writes)
    lines = [*_head(kernel), *(f"reads {r}" for r in reads), *(f"writes {w}" for w in writes)]
    canvas.node(f"k{index}", lines, style, left=True)


def _draw_flow(
    canvas: Canvas, index: int, kernel: Kernel, names: Names, writer: dict[Buffer, int]
) -> None:
    """Edges from the launches that wrote what this one reads."""
    for buffer in dict.fromkeys(m for a in kernel.reads for m in members(a.base)):
        if buffer in writer and not isinstance(buffer, Param):
            label = [buffer_name(buffer, names), nbytes_text(buffer_nbytes(buffer))]
            canvas.edge(f"k{writer[buffer]}", f"k{index}", label, color="#a86f00")
    writer.update(dict.fromkeys((a.base for a in kernel.writes), index))
