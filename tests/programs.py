"""What several tests build: training steps, schedules for a target, and their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import graphc as gx
from graphc.backends.base import Options
from graphc.backends.numpy_backend import NUMPY, NumpyRunner
from graphc.ir.graph import Graph, bind
from graphc.ir.philox import Draws, number_draws
from graphc.rewrite.engine import simplify
from graphc.rewrite.rules import select_rules
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.order import schedule
from graphc.schedule.records import Schedule, Target
from graphc.schedule.verify import verify_plan, verify_schedule

BETA = Target("c", beta=True)
TARGETS = {"numpy": NUMPY.target, "c": BETA}


class Program(NamedTuple):
    """Outputs by name, updates, and arrays for the inputs."""

    outputs: dict[str, gx.Node]
    updates: dict[gx.Param, gx.Node]
    inputs: dict[str, np.ndarray]


def training_step(sizes: Sequence[int] = (64, 128, 64, 10), batch: int = 64) -> Program:
    """Relu layers, softmax cross-entropy, SGD with momentum; the digits step if nothing is said."""
    rng = np.random.default_rng(0)
    x, labels = gx.input("x", (batch, sizes[0])), gx.input("labels", (batch,), "int32")
    h, weights = x, list[gx.Param]()
    for i, (m, n) in enumerate(pairwise(sizes)):
        w = gx.param(f"w{i}", (rng.standard_normal((m, n)) / np.sqrt(m)).astype("float32"))
        b = gx.param(f"b{i}", rng.standard_normal(n).astype("float32"))
        h = h @ w + b if i == len(sizes) - 2 else gx.relu(h @ w + b)
        weights += [w, b]
    loss = gx.softmax_cross_entropy(h, labels)
    updates: dict[gx.Param, gx.Node] = {}
    for p, g in zip(weights, gx.grad(loss, weights), strict=True):
        v = gx.param(f"v_{p.name}", np.zeros(p.shape, "float32"))
        updates[v] = 0.9 * v + g
        updates[p] = p - 0.1 * updates[v]
    inputs = {
        "x": rng.standard_normal((batch, sizes[0])).astype("float32"),
        "labels": rng.integers(0, sizes[-1], batch).astype("int32"),
    }
    return Program({"loss": loss}, updates, inputs)


def scheduled(
    outputs: Mapping[str, gx.Node] | Sequence[gx.Node],
    updates: Mapping[Any, gx.Node] | None = None,
    target: Target = NUMPY.target,
    *,
    simplified: bool = True,
) -> Schedule:
    """The verified schedule of a graph."""
    named = (
        outputs if isinstance(outputs, Mapping) else {f"out{i}": n for i, n in enumerate(outputs)}
    )
    graph = bind(Graph.of(named, updates), {})
    if simplified:
        graph, _ = simplify(graph, select_rules(None))
    made = schedule(graph, target)
    verify_schedule(made)
    return made


def runner_of(made: Schedule, threads: int = 2) -> NumpyRunner:
    """A schedule, planned, verified, lowered and bound to memory, kernel by kernel."""
    plan = plan_memory(made)
    verify_plan(plan)
    names = tuple(n.name for n in made.graph.inputs)
    return NumpyRunner(lower(plan), Options(threads, names, number_draws(made.graph.nodes)))


def run(runner: NumpyRunner, inputs: Mapping[str, np.ndarray], step: int = 0) -> list[np.ndarray]:
    """One call of a bound program, with seed 0."""
    draws = Draws(0, step, number_draws(runner.graph.nodes))
    return runner([inputs[name] for name in runner.input_names], draws)
