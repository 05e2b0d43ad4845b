"""What was compiled, in a screenful: stages, rules, kernels, memory, and what was not fused."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from graphc.ir.graph import Graph
from graphc.report.notation import flops_text, nbytes_text, seconds_text, title_text
from graphc.report.stage import Stage
from graphc.report.text import refusals
from graphc.schedule.records import Kernel, Program, Schedule, buffer_nbytes

COLUMNS = 100
MOST_KERNELS = 16
MOST_RULES = 6
MOST_REASONS = 5


def explain(
    *,
    name: str,
    backend: str,
    backend_reason: str,
    stages: Sequence[Stage],
    program: Program | None,
) -> str:
    """At most 45 lines of 100 columns: nodes and time of each stage, rule hits, kernels with their
    FLOPs and bytes, memory, and why edges were not fused."""
    lines = _head(name, backend, backend_reason, stages, program)
    lines += ["", "stage        nodes or kernels        time", *map(_stage_line, stages)]
    lines += _rule_lines(stages)
    if program is not None:
        lines += ["", *_kernel_lines(program.kernels), "", *_memory_lines(program, stages)]
        lines += _edge_lines(program)
    return "\n".join(line[:COLUMNS].rstrip() for line in lines) + "\n"


def summary(
    *,
    name: str,
    backend: str,
    backend_reason: str,
    stages: Sequence[Stage],
    program: Program | None,
) -> str:
    """The same in at most ten lines, without tables."""
    lines = _head(name, backend, backend_reason, stages, program)
    if program is None:
        lines.append("sizes are still symbolic: specialize(...) or call it to compile for some")
    else:
        counts = dict.fromkeys(" ".join(map(str, _count(s))) for s in stages)
        total = seconds_text(sum(s.seconds for s in stages))
        lines += [f"compiled {' -> '.join(counts)}, in {total}", *_memory_lines(program, stages)]
        lines.append("more     .explain(), .stages[name].text(), .to_dot(stage=name)")
    return "\n".join(line[:COLUMNS].rstrip() for line in lines) + "\n"


def _head(
    name: str, backend: str, backend_reason: str, stages: Sequence[Stage], program: Program | None
) -> list[str]:
    lines = _folded(f"{name} on {backend}" + (f" ({backend_reason})" if backend_reason else ""))
    graph = program.schedule.graph if program is not None else _first_graph(stages)
    if graph is None:
        return lines
    inputs = ", ".join(f"{n.name} {n.type}" for n in graph.inputs)
    outputs = ", ".join(f"{name} {n.type}" for name, n in graph.outputs)
    updated = (
        f"; updates {len(graph.updates)} of {len(graph.params)} params" if graph.updates else ""
    )
    return [*lines, f"takes    {inputs or 'nothing'}", f"gives    {outputs or 'nothing'}{updated}"]


def _first_graph(stages: Iterable[Stage]) -> Graph | None:
    return next((s.record for s in stages if isinstance(s.record, Graph)), None)


# -- stages and rules


def _stage_line(stage: Stage) -> str:
    count, unit = _count(stage)
    return f"{stage.name:<12} {count:>6} {unit:<12} {seconds_text(stage.seconds):>13}"


def _count(stage: Stage) -> tuple[int, str]:
    if isinstance(stage.record, Graph):
        return len(stage.record.nodes), "nodes"
    if isinstance(stage.record, Program):
        return len(stage.record.kernels), "launches"
    schedule = stage.record if isinstance(stage.record, Schedule) else stage.record.schedule
    return len(schedule.kernels), "kernels"


def _rule_lines(stages: Iterable[Stage]) -> list[str]:
    hits: dict[str, int] = {}
    for stage in stages:
        found = stage.notes.get("rules")
        if isinstance(found, Mapping):
            hits.update(found)
    if not hits:
        return []
    ranked = sorted(hits.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{rule} {count}" for rule, count in ranked[:MOST_RULES])
    rest = len(ranked) - MOST_RULES
    text = f"rules        {shown}" + (f", and {rest} more" if rest > 0 else "")
    return _folded(text)


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, subsequent_indent=" " * 13, max_lines=2)


# -- kernels


def _kernel_lines(kernels: Sequence[Kernel]) -> list[str]:
    head = f"{'kernel':<36} {'form':<30} {'ops':>4} {'flops':>11} {'bytes':>9}"
    rows = [
        f"{_cut(k.name, 36):<36} {_cut(title_text(k), 30):<30} {len(k.nodes or k.statements):>4} "
        f"{flops_text(k.flops):>11} {nbytes_text(k.nbytes):>9}"
        for k in kernels[:MOST_KERNELS]
    ]
    if len(kernels) > MOST_KERNELS:
        rows.append(f"... and {len(kernels) - MOST_KERNELS} more kernels")
    flops, nbytes = sum(k.flops for k in kernels), sum(k.nbytes for k in kernels)
    title = f"total of {len(kernels)} kernels"
    total = f"{title:<72}{flops_text(flops):>11} {nbytes_text(nbytes):>9}"
    return [head, *rows, total]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


# -- memory and edges


def _memory_lines(program: Program, stages: Iterable[Stage]) -> list[str]:
    plan = program.plan
    scratch = sum(s.notes.get("scratch_nbytes", 0) for s in stages)
    params = sum(buffer_nbytes(p) for p in plan.schedule.graph.params)
    share = plan.naive_nbytes / plan.peak_nbytes if plan.peak_nbytes else 1.0
    return [
        f"arena    {nbytes_text(plan.peak_nbytes)} in {len(plan.allocations)} buffers; "
        f"most alive at once {nbytes_text(plan.live_nbytes)}; scratch {nbytes_text(scratch)}",
        f"naive    {nbytes_text(plan.naive_nbytes)} with one buffer per node: "
        f"{share:.1f} times the arena",
        f"params   {nbytes_text(params)} in {len(plan.schedule.graph.params)} arrays",
    ]


def _edge_lines(program: Program) -> list[str]:
    edges = program.schedule.edges
    fused = [e for e in edges if e.fused]
    saved = sum(e.saved_nbytes for e in fused)
    lines = [f"fused    {len(fused)} of {len(edges)} edges, which saves {nbytes_text(saved)}"]
    reasons = refusals(edges)
    lines += [f"  not {count:>4}  {reason}" for reason, count in reasons[:MOST_REASONS]]
    if len(reasons) > MOST_REASONS:
        rest = sum(count for _, count in reasons[MOST_REASONS:])
        lines.append(f"  not {rest:>4}  for {len(reasons) - MOST_REASONS} other reasons")
    return lines
