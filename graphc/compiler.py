"""`compile`: one straight line from declared nodes to a program that runs.

Graph.of -> bind -> widen -> simplify -> fuse -> plan_memory -> lower -> prepare
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

from graphc.backends import choose
from graphc.backends.base import Backend, Options
from graphc.checking import Check
from graphc.errors import BackendUnavailable, CompileError
from graphc.executable import Executable, Specialisation, Structure, check_sizes
from graphc.ir.graph import Graph, bind
from graphc.ir.node import Node, Param
from graphc.ir.philox import number_draws
from graphc.ir.text import verify_graph
from graphc.report.stage import Record, Stage
from graphc.rewrite.engine import simplify
from graphc.rewrite.rule import Rule
from graphc.rewrite.rules import ROUNDING, select_rules
from graphc.rewrite.widen import widen
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.order import schedule
from graphc.schedule.verify import verify_plan, verify_schedule

R = TypeVar("R", bound=Record)
OPTIONAL = ("bound", "widened")  # no stages where there is nothing to bind or to widen


def compile(
    outputs: Node | Sequence[Node] | Mapping[str, Node],
    *,
    updates: Mapping[Param, Any] | None = None,
    backend: str = "auto",
    sizes: Mapping[str, int] | None = None,
    precision: str = "float32",
    training: bool | None = None,
    seed: int = 0,
    rules: Mapping[str, bool] | None = None,
    threads: int | None = None,
    check: bool = False,
    name: str | None = None,
) -> Executable:
    """Compile a graph into an executable.

    `outputs`: a node, a list or a dict of nodes; a call returns the same structure. `updates`: new
    values of parameters, applied together after all outputs were computed from the old values.
    `backend`: "auto" or one by name. `sizes` compiles at once for these symbolic sizes.
    `precision`: of float32 matrix products on a GPU; ignored by native and numpy, which always
    compute in the nodes' dtype.
    `training`: whether dropout is on; None means if there are updates. `seed`: of the random draws.
    `rules` switches rewrite rules over their defaults. `threads`: None for all cores. `check`
    compares every stage with node-by-node evaluation at each call and stops at the first non-finite
    value that reaches a result. `name`: for reports.

    Errors: CompileError, BackendUnavailable, and ShapeError or DTypeError for updates that do not
    fit.
    """
    nodes, structure = _flatten(outputs)
    declared = Graph.of(nodes, _as_nodes(updates or {}))
    choice = choose(backend)
    _check_settings(precision, threads)
    switches = select_rules(rules)
    mode = bool(declared.updates) if training is None else training
    numbers = number_draws(declared.nodes)
    names = tuple(n.name for n in declared.inputs)
    options = Options(threads, names, numbers, precision=precision, name=name or "program")

    def specialise(known: Mapping[str, int]) -> Specialisation:
        while True:
            try:
                with _collector_paused():
                    return _compile(declared, known, mode, switches, choice.backend, options)
            except BackendUnavailable as error:
                choice.fall_back(error)

    executable = Executable(
        declared, structure, specialise, choice=choice, name=name or "program", seed=seed,
        numbers=numbers, check=Check(declared) if check else None,
    )  # fmt: skip
    if sizes is not None:
        executable.specialize(**check_sizes(declared, sizes))
    elif not declared.symbols:
        executable.specialize()
    return executable


def _compile(
    declared: Graph,
    sizes: Mapping[str, int],
    training: bool,
    rules: Sequence[Rule],
    backend: Backend,
    options: Options,
) -> Specialisation:
    """The straight line: each stage makes the next record from the one before."""
    log = _Log(declared)
    dropped: dict[str, int] = {}
    hits: dict[str, int] = {}
    bound = log.run("bound", declared, lambda: bind(declared, sizes, training), verify_graph,
                    sizes=dict(sizes))  # fmt: skip
    wide = log.run("widened", bound, lambda: _noting(dropped, widen(bound, rules)), verify_graph,
                   rules=dropped)  # fmt: skip
    others = [rule for rule in rules if rule not in ROUNDING]
    simple = log.run("simplified", wide, lambda: _noting(hits, simplify(wide, others)),
                     verify_graph, rules=hits)  # fmt: skip
    fused = log.run("fused", simple, lambda: schedule(simple, backend.target), verify_schedule)
    planned = log.run("planned", fused, lambda: plan_memory(fused), verify_plan)
    program = log.run("lowered", planned, lambda: lower(planned))
    start = perf_counter()
    runner = backend.prepare(program, replace(options, sizes=sizes))
    log.extend(perf_counter() - start, source=runner.source, scratch_nbytes=runner.scratch_nbytes)
    return Specialisation(tuple(log.stages), program, runner)


class _Log:
    """Runs, times, checks and records the stages."""

    def __init__(self, declared: Graph) -> None:
        self.stages = [Stage("declared", declared)]

    def run(
        self, name: str, before: Record, make: Callable[[], R],
        verify: Callable[[R], None] | None = None, **notes: Any,
    ) -> R:  # fmt: skip
        start = perf_counter()
        made = make()
        seconds = perf_counter() - start
        if verify is not None and made is not before:
            verify(made)
        if made is not before or name not in OPTIONAL:
            self.stages.append(Stage(name, made, before, seconds, notes))
        return made

    def extend(self, seconds: float, **notes: Any) -> None:
        """Add to the time and the notes of the latest stage."""
        last = self.stages.pop()
        self.stages.append(
            replace(last, seconds=last.seconds + seconds, notes={**last.notes, **notes})
        )


@contextmanager
def _collector_paused() -> Generator[None]:
    """Compiling makes many records that stay and no garbage in cycles: to scan them again and again
    would double the time for large graphs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _noting(hits: dict[str, int], made: tuple[Graph, dict[str, int]]) -> Graph:
    """The graph alone; how often each rule fired goes into the notes of its stage."""
    graph, counts = made
    hits.update(counts)
    return graph


def _flatten(outputs: Any) -> tuple[dict[str, Node], Structure]:
    if isinstance(outputs, Node):
        return {"result": outputs}, Structure(("result",), Node)
    if isinstance(outputs, Mapping):
        for key in outputs:
            if not isinstance(key, str):
                raise CompileError(f"outputs: key {key!r} is not a str")
        return dict(outputs), Structure(tuple(outputs), dict)
    if isinstance(outputs, list | tuple):
        names = tuple(f"output{i}" for i in range(len(outputs)))
        kind = tuple if isinstance(outputs, tuple) else list
        return dict(zip(names, outputs, strict=True)), Structure(names, kind)
    raise CompileError(f"outputs: need a node, a list or a dict of nodes, not {outputs!r}")


def _as_nodes(updates: Mapping[Any, Any]) -> dict[Any, Any]:
    if not isinstance(updates, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CompileError(f"updates: need a dict of param -> node, not {updates!r}")
    return dict(updates)


def _check_settings(precision: str, threads: int | None) -> None:
    if precision not in ("float32", "tf32", "bf16"):
        raise CompileError(f"precision {precision!r}: need 'float32', 'tf32' or 'bf16'")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise CompileError(f"threads {threads!r}: need an int of 1 or more, or None for all cores")
