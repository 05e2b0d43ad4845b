"""`compile`: one straight line from declared nodes to a program that runs.

Graph.of -> bind -> simplify -> fuse -> plan_memory -> lower -> prepare
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from graphc.backends import choose
from graphc.backends.base import Backend, Options
from graphc.checking import Check
from graphc.errors import CompileError
from graphc.executable import Executable, Specialisation, Structure, check_sizes
from graphc.ir.graph import Graph, bind
from graphc.ir.node import Node, Param
from graphc.ir.philox import number_draws
from graphc.ir.text import verify_graph
from graphc.report.stage import Stage
from graphc.rewrite.engine import simplify
from graphc.rewrite.rules import select_rules
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.order import schedule
from graphc.schedule.verify import verify_plan, verify_schedule


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
    `backend`: "auto" or one by name. `sizes` compiles at once for these symbolic sizes. `training`:
    whether dropout is on; None means if there are updates. `rules` switches rewrite rules over
    their defaults. `threads`: None for all cores. `check` compares every stage with node-by-node
    evaluation at each call and stops at the first non-finite value. Errors: CompileError,
    BackendUnavailable, and ShapeError or DTypeError for updates that do not fit.
    """
    nodes, structure = _flatten(outputs)
    declared = Graph.of(nodes, _as_nodes(updates or {}))
    chosen, reason = choose(backend)
    _check_settings(precision, threads)
    switches = select_rules(rules)
    mode = bool(declared.updates) if training is None else training
    numbers = number_draws(declared.nodes)
    options = Options(threads, tuple(n.name for n in declared.inputs), numbers)

    def specialise(known: Mapping[str, int]) -> Specialisation:
        passes = _passes(known, mode, switches, chosen)
        with _collector_paused():
            return _compile(declared, passes, chosen, options)

    executable = Executable(
        declared, structure, specialise, backend=chosen.name, backend_reason=reason,
        name=name or "program", seed=seed, numbers=numbers,
        check=Check(declared) if check else None,
    )  # fmt: skip
    if sizes is not None:
        executable.specialize(**check_sizes(declared, sizes))
    elif not declared.symbols:
        executable.specialize()
    return executable


Pass = tuple[str, Callable[[Any], tuple[Any, dict[str, Any]]], Callable[[Any], None]]


def _passes(
    sizes: Mapping[str, int], training: bool, rules: Any, backend: Backend
) -> tuple[Pass, ...]:
    """The stages: name, pass (record -> next record and notes), check of what came out."""
    return (
        (
            "bound",
            lambda graph: (bind(graph, sizes, training), {"sizes": dict(sizes)}),
            verify_graph,
        ),
        ("simplified", lambda graph: _simplified(graph, rules), verify_graph),
        ("fused", lambda graph: (schedule(graph, backend.target), {}), verify_schedule),
        ("planned", lambda fused: (plan_memory(fused), {}), verify_plan),
        ("lowered", lambda plan: (lower(plan), {}), lambda program: None),
    )


def _compile(
    declared: Graph, passes: Sequence[Pass], backend: Backend, options: Options
) -> Specialisation:
    """Run, time, verify and record the stages; then let the backend prepare the program."""
    stages = [Stage("declared", declared)]
    record: Any = declared
    for name, run, verify in passes:
        start = perf_counter()
        made, notes = run(record)
        seconds = perf_counter() - start
        verify(made)
        if name != "bound" or made is not record:
            stages.append(Stage(name, made, record, seconds, notes))
        record = made
    start = perf_counter()
    runner = backend.prepare(record, options)
    last = stages.pop()
    notes = {"source": runner.source, "scratch_nbytes": runner.scratch_nbytes}
    seconds = last.seconds + perf_counter() - start
    stages.append(Stage(last.name, record, last.before, seconds, notes))
    return Specialisation(tuple(stages), record, runner)


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


def _simplified(graph: Graph, rules: Any) -> tuple[Graph, dict[str, Any]]:
    result, hits = simplify(graph, rules)
    return result, {"rules": hits}


def _flatten(outputs: Any) -> tuple[dict[str, Node], Structure]:
    if isinstance(outputs, Node):
        return {"output": outputs}, Structure(("output",), Node)
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
