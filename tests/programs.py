"""What several tests build: training steps, schedules for a target, and their runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest

import graphc as gx
from graphc.backends.base import Options
from graphc.backends.numpy_backend import NUMPY, NumpyRunner
from graphc.ir.graph import Graph, bind, is_external, topological
from graphc.ir.node import intern
from graphc.ir.philox import Draws, number_draws
from graphc.rewrite.engine import simplify
from graphc.rewrite.rules import select_rules
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.order import schedule
from graphc.schedule.records import Schedule, Target
from graphc.schedule.verify import verify_plan, verify_schedule
from graphc.testing import RandomGraph

BETA = Target("c", beta=True)
EACH = pytest.mark.usefixtures("backend")  # the test runs on each backend
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
    inputs = {
        "x": rng.standard_normal((batch, sizes[0])).astype("float32"),
        "labels": rng.integers(0, sizes[-1], batch).astype("int32"),
    }
    return momentum(loss, weights, inputs)


def dropout_step() -> Program:
    """Two layers, dropout between them."""
    rng = np.random.default_rng(1)
    x, labels = gx.input("x", (24, 20)), gx.input("labels", (24,), "int32")
    w, v = (gx.param(n, (0.3 * rng.standard_normal(s)).astype("float32"))
            for n, s in (("w", (20, 33)), ("v", (33, 7))))  # fmt: skip
    loss = gx.softmax_cross_entropy(gx.dropout(gx.gelu(x @ w), 0.4) @ v, labels)
    inputs = {
        "x": rng.standard_normal((24, 20)).astype("float32"),
        "labels": rng.integers(0, 7, 24).astype("int32"),
    }
    return momentum(loss, [w, v], inputs)


def momentum(
    loss: gx.Node, params: Sequence[gx.Param], inputs: dict[str, np.ndarray]
) -> Program:  # fmt: skip
    """A step of SGD with momentum."""
    updates: dict[gx.Param, gx.Node] = {}
    for p, g in zip(params, gx.grad(loss, params), strict=True):
        v = gx.param(f"v_{p.name}", np.zeros(p.shape, "float32"))
        updates[v] = 0.9 * v + g
        updates[p] = p - 0.1 * updates[v]
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


# -- a graph for each form of kernel


def forms(rows: int, columns: int) -> dict[str, list[gx.Node]]:
    """A graph for each form of kernel, and for each way to fill one; without those that do not
    exist where a size is 0: the largest of nothing, an index into nothing."""
    x, y = gx.input("x", (rows, columns)), gx.input("y", (rows, columns))
    row, column = gx.input("row", (columns,)), gx.input("column", (rows, 1))
    labels = gx.input("labels", (rows,), "int32")
    k, t = gx.input("k", (rows, columns), "int32"), gx.input("t", ())
    w = gx.const(np.linspace(-1, 1, columns * 6, dtype="float32").reshape(columns, 6))
    per_row = gx.tanh(column).broadcast_to(x.shape)
    product = x @ w
    made: dict[str, list[Callable[[], gx.Node]]] = {
        "elementwise": [
            lambda: gx.tanh(x * y + row) * gx.sigmoid(x) + column, lambda: gx.where(x > y, x, 0.0),
        ],
        "choices": [
            lambda: gx.where(x > y, x, y), lambda: gx.where(x > 0, 0.0, y), lambda: gx.relu(x),
            lambda: gx.sign(x),
        ],
        "integers": [
            lambda: k * k - 3, lambda: k / 4, lambda: (k > 1) & (k < 3),
            lambda: (x > 0).astype("int32"), lambda: ~(k == 2),
        ],
        "views": [
            lambda: x[::-1] * y[:, ::-1], lambda: x.T + 1, lambda: x[1::2].sum(1),
            lambda: gx.exp(column) + row,
        ],
        "row": [
            lambda: gx.softmax(x), lambda: gx.log_softmax(x).sum(1), lambda: gx.var(x, axis=1),
            lambda: gx.argmax(x, 1),
        ],
        "several row results": [
            lambda: x.sum(1), lambda: x.max(1), lambda: gx.exp(x), lambda: gx.argmin(x, 1),
        ],
        "gather": [
            lambda: gx.pick(x, labels), lambda: gx.pick(k, labels),
            lambda: gx.one_hot(labels, columns),
        ],
        "cross-entropy": [
            lambda: gx.softmax_cross_entropy(x, labels),
            lambda: gx.grad(gx.softmax_cross_entropy(x, labels), x),
        ],
        "column": [
            lambda: gx.exp(x).sum(0), lambda: (x * y).max(0), lambda: x.mean(0) + 1,
            lambda: gx.std(x, 0),
        ],
        "full": [
            lambda: (x * y).sum(), lambda: x.max(), lambda: gx.prod(1 + 0.01 * x),
            lambda: gx.any(k > 2), lambda: gx.argmax(x),
        ],
        "normalised": [
            lambda: x / gx.sqrt((x * x).sum()), lambda: (x - x.mean(0)) / gx.std(x, 0),
        ],
        "contraction": [
            lambda: gx.relu(x @ w + w[0]), lambda: x.T @ y,
            lambda: gx.tanh((x * 2) @ w) + labels[:, None],
        ],
        "kept product": [
            lambda: product, lambda: 2 * product / (1 + gx.abs(product)) - w[0],
            lambda: product.sum(0),
        ],
        "repeated": [
            lambda: gx.prod(per_row, 1), lambda: gx.prod(per_row), lambda: gx.pick(per_row, labels),
            lambda: per_row.max(0),
        ],
        "one value for all": [
            lambda: (gx.sin(t) * x).sum(0), lambda: gx.exp(x - gx.sin(t)).sum() * gx.sin(t),
        ],
        "join": [
            lambda: gx.concatenate([x, 2 * y]), lambda: gx.pad(x, 1),
            lambda: gx.stack([x, y], 1).sum(0),
        ],
        "index": [
            lambda: x + gx.iota(x.shape, 0).astype("float32"), lambda: gx.iota(x.shape, 1) * k,
        ],
        "draws": [
            lambda: gx.random_normal(x.shape) * x, lambda: gx.dropout(x, 0.5),
            lambda: gx.random_uniform((rows,)),
        ],
    }  # fmt: skip
    empty = not (rows and columns)
    return {name: [*_possible(builders, empty)] for name, builders in made.items()}


def _possible(builders: Sequence[Callable[[], gx.Node]], empty: bool) -> Iterator[gx.Node]:
    for build in builders:
        try:
            yield build()
        except gx.GraphcError:
            if not empty:
                raise


def given(nodes: Sequence[gx.Node], seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays for the inputs of a graph: normal floats, small integers."""
    rng = np.random.default_rng(seed)
    return {
        n.name: (
            rng.standard_normal(n.shape) if n.type.is_float else rng.integers(0, 4, n.shape)  # type: ignore[arg-type]
        ).astype(n.dtype)
        for n in Graph.of({str(i): n for i, n in enumerate(nodes)}).inputs
    }


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """The same arrays, bit for bit."""
    for have, want in zip(actual, expected, strict=True):
        assert (have.dtype, have.shape) == (want.dtype, want.shape), what
        assert have.tobytes() == want.tobytes(), what


# -- many random graphs as one program


def merged(graphs: Sequence[RandomGraph]) -> Program:
    """Random graphs side by side, so that one compiler run serves many."""
    whole = Program({}, {}, {})
    for graph in graphs:
        roots = [*graph.outputs.values(), *graph.updates, *graph.updates.values()]
        new: dict[gx.Node, gx.Node] = {}
        for node in topological(roots):
            new[node] = _renamed(node, f"g{graph.seed}_", new)
        whole.outputs.update((f"g{graph.seed}_{k}", new[n]) for k, n in graph.outputs.items())
        whole.updates.update((new[p], new[n]) for p, n in graph.updates.items())  # type: ignore[misc]
        whole.inputs.update((f"g{graph.seed}_{k}", v) for k, v in graph.values.items())
    names = {n.name for n in Graph.of(whole.outputs, whole.updates).inputs}
    return whole._replace(inputs={k: v for k, v in whole.inputs.items() if k in names})


def _renamed(node: gx.Node, prefix: str, new: Mapping[gx.Node, gx.Node]) -> gx.Node:
    if isinstance(node, gx.Param):
        return gx.param(prefix + node.name, node.value)
    if is_external(node):
        return gx.input(prefix + node.name, node.shape, node.dtype)
    return intern(node.op, tuple(new[i] for i in node.inputs), node.attrs)


def in_threads(calls: list[Callable[[], None]]) -> None:
    """Run all at once, and raise what any of them raised."""
    failures: list[BaseException] = []
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        gate.wait()
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
