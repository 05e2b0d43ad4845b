"""The text form of schedules, memory plans and programs: what a reader would write on paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphc.errors import CompileError
from graphc.ir.graph import Graph
from graphc.ir.text import graph_text, word
from graphc.report.notation import (
    Names,
    access_text,
    buffer_name,
    buffer_type,
    extents_text,
    flops_text,
    form_text,
    level_text,
    nbytes_text,
    placed_text,
    schedule_names,
    space_text,
    statement_text,
)
from graphc.schedule.records import (
    Allocation,
    Edge,
    Kernel,
    MemoryPlan,
    Program,
    Region,
    Schedule,
    Slab,
)

COLUMNS = 64  # of a memory timeline; with more kernels than that, one column stands for several


def text(record: Graph | Schedule | MemoryPlan | Program) -> str:
    """The text form of a record of any stage; equal records give equal text."""
    for kind, write in WRITERS:
        if isinstance(record, kind):
            return write(record)
    raise CompileError(f"text: {type(record).__name__} is no record of a stage")


# -- schedules


def schedule_text(schedule: Schedule) -> str:
    """Kernels with their loops and statements, then every edge: fused or not, and why."""
    names = schedule_names(schedule)
    flops = sum(k.flops for k in schedule.kernels)
    nbytes = sum(k.nbytes for k in schedule.kernels)
    head = (
        f"schedule for {schedule.target.name}  # {len(schedule.kernels)} kernels, "
        f"{flops_text(flops)}, {nbytes_text(nbytes)} read and written"
    )
    blocks = [kernel_text(kernel, names) for kernel in schedule.kernels]
    results = [
        f"  {word(name)} = {buffer_name(buffer, names)} as {extents_text(shape)}"
        for name, buffer, shape in schedule.results
    ]
    in_place = [
        f"  {buffer_name(buffer, names)} is computed into {buffer_name(home, names)}"
        for buffer, home in schedule.in_place.items()
    ]
    parts = [head, *blocks, *_section("results:", results), *_section("in place:", in_place)]
    position = {node: i for i, node in enumerate(schedule.graph.nodes)}
    edges = sorted(schedule.edges, key=lambda e: (position[e.producer], position[e.consumer]))
    parts += _edge_lines(edges, names)
    return "\n".join([*parts, *(f"note: {note}" for note in schedule.notes)]) + "\n"


def kernel_text(kernel: Kernel, names: Names) -> str:
    """One kernel: its loops, why it is one, what it computes and stores."""
    head = (
        f"kernel {kernel.name}: {form_text(kernel)} over {space_text(kernel)}  "
        f"# {flops_text(kernel.flops)}, {nbytes_text(kernel.nbytes)}"
    )
    lines = [head, *([f"  # own kernel: {kernel.reason}"] if kernel.reason else [])]
    stage = 0
    for statement in kernel.statements:
        if statement.stage != stage:
            stage = statement.stage
            lines.append(f"  # stage {stage}: the reductions above are done")
        level = level_text(kernel, statement)
        lines.append(f"  {statement_text(kernel, statement, names)}" + (level and f"  # {level}"))
    lines += _beta_lines(kernel, names) + _piece_lines(kernel, names)
    lines += [
        f"  store {access_text(store.access, names)} = "
        f"{word(names[kernel.statements[store.value].node])}"
        for store in kernel.stores
    ]
    return "\n".join(lines)


def _beta_lines(kernel: Kernel, names: Names) -> list[str]:
    beta = kernel.beta
    if beta is None:
        return []
    total = word(names[kernel.statements[beta.total].node])
    base = buffer_name(kernel.operands[beta.operand].base, names)
    return [f"  # {total} is the contraction's own: beta adds to {base} in place"]


def _piece_lines(kernel: Kernel, names: Names) -> list[str]:
    lines = [
        f"  copy {extents_text(p.shape)}: {access_text(p.target, names)} = "
        f"{access_text(p.source, names)}"
        for p in kernel.pieces
    ]
    return lines + ([f"  elsewhere {kernel.fill:g}"] if kernel.fill is not None else [])


def _edge_lines(edges: Sequence[Edge], names: Names) -> list[str]:
    refused = [f"  {_edge(e, names)}: {e.reason}" for e in edges if not e.fused]
    fused = [
        f"  {_edge(e, names)}: {e.reason and e.reason + ', '}saves {nbytes_text(e.saved_nbytes)}"
        for e in edges
        if e.fused
    ]
    saved = sum(e.saved_nbytes for e in edges if e.fused)
    return [
        *_section(f"not fused: {len(refused)} edges", refused),
        *_section(f"fused: {len(fused)} edges, {nbytes_text(saved)} saved", fused),
    ]


def _edge(edge: Edge, names: Names) -> str:
    producer, consumer = (names.get(n, n.name) for n in (edge.producer, edge.consumer))
    return f"{word(producer)} -> {word(consumer)}"


def refusals(edges: Iterable[Edge]) -> list[tuple[str, int]]:
    """The reasons for which edges were not fused, the most frequent first."""
    return Counter(e.reason for e in edges if not e.fused).most_common()


# -- memory plans


def plan_text(plan: MemoryPlan) -> str:
    """Offsets, sizes, live ranges and in-place steps, with a timeline of the arena."""
    names = schedule_names(plan.schedule)
    head = (
        f"arena of {nbytes_text(plan.peak_nbytes)}  # most alive at once "
        f"{nbytes_text(plan.live_nbytes)}, one buffer per node {nbytes_text(plan.naive_nbytes)}, "
        f"aligned to {plan.alignment} B"
    )
    count = len(plan.schedule.kernels)
    step = -(-count // COLUMNS) or 1
    ruler = "".join(str(column * step // 10 % 10) for column in range(-(-count // step)))
    units = "".join(str(column * step % 10) for column in range(-(-count // step)))
    title = f"{'offset':>10} {'bytes':>10}  kernels  "
    rows = [
        f"{a.offset:>10} {a.nbytes:>10}  {a.first:>3}-{a.last:<3}  {_bar(a, count, step)}  "
        f"{_allocated(a, names)}"
        for a in sorted(plan.allocations, key=lambda a: (a.first, a.offset))
    ]
    rulers = [title + ruler, " " * len(title) + units] if rows else []
    return "\n".join([head, *rulers, *rows]) + "\n"


def _bar(allocation: Allocation, count: int, step: int) -> str:
    columns = range(0, count, step)
    alive = (c <= allocation.last and c + step > allocation.first for c in columns)
    return "".join("#" if one else "." for one in alive)


def _allocated(allocation: Allocation, names: Names) -> str:
    name = f"{buffer_name(allocation.buffer, names)}: {buffer_type(allocation.buffer)}"
    if allocation.alias_of is None:
        return name
    return f"{name}, in place of {buffer_name(allocation.alias_of, names)}"


# -- programs


def program_text(program: Program) -> str:
    """The launches in order, with where each of them reads and writes, and the slabs of params."""
    names = schedule_names(program.schedule)
    head = f"program  # {len(program.kernels)} launches"
    launches = [_launch_text(kernel, program, names) for kernel in program.kernels]
    results = [
        f"  {word(name)} = {placed_text(buffer, program.places, names)} as {extents_text(shape)}"
        for name, buffer, shape in program.results
    ]
    slabs = [_slab_text(buffer, names) for buffer in program.places if isinstance(buffer, Slab)]
    constants = [
        f"  {buffer_name(buffer, names)}: {buffer_type(buffer)}"
        for buffer, place in program.places.items()
        if place.region is Region.CONSTANT
    ]
    parts = [head, *launches, *_section("results:", results), *_section("slabs:", slabs)]
    return "\n".join([*parts, *_section("constants:", constants)]) + "\n"


def _launch_text(kernel: Kernel, program: Program, names: Names) -> str:
    head = f"launch {kernel.name}: {form_text(kernel)} over {space_text(kernel)}"
    places = program.places
    reads = list(dict.fromkeys(placed_text(a.base, places, names) for a in kernel.reads))
    writes = list(dict.fromkeys(placed_text(a.base, places, names) for a in kernel.writes))
    return f"{head}\n  reads  {', '.join(reads) or 'nothing'}\n  writes {', '.join(writes)}"


def _slab_text(slab: Slab, names: Names) -> str:
    parts = [
        f"{buffer_name(member, names)} at {start}"
        for member, start in zip(slab.members, slab.starts, strict=True)
    ]
    return f"  {buffer_name(slab, names)}: {buffer_type(slab)} = {', '.join(parts)}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *lines] if lines else []


WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (Graph, graph_text),
    (Schedule, schedule_text),
    (MemoryPlan, plan_text),
    (Program, program_text),
)
