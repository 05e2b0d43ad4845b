"""`check=True`: each call is compared, stage by stage, with node-by-node evaluation.

The first non-finite value of the declared graph stops the call before anything is changed. A stage
that differs by more than rounding stops it too, with the parameters put back: a defect of graphc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.backends.base import Runner
from graphc.errors import CompileError, NonFiniteError
from graphc.evaluate import evaluate_all
from graphc.ir.graph import Graph
from graphc.ir.node import Node, Param, describe
from graphc.ir.philox import Draws
from graphc.report.stage import Stage
from graphc.tolerances import disagreement


class Check:
    """Runs a program beside the node-by-node evaluation of its graphs."""

    def __init__(self, declared: Graph) -> None:
        self.declared = declared

    def run(
        self, stages: Sequence[Stage], runner: Runner, inputs: Sequence[np.ndarray], draws: Draws
    ) -> list[Any]:
        """Results of the call; NonFiniteError or CompileError as the module says."""
        named = {n.name: a for n, a in zip(self.declared.inputs, inputs, strict=True)}
        graphs = [s for s in stages if isinstance(s.record, Graph)][-2:]  # bound and simplified
        old = {p: p.value for p in self.declared.params}
        expected: list[np.ndarray] | None = None
        for stage in graphs:
            graph = stage.record
            assert isinstance(graph, Graph)
            values = _evaluated(graph, named, old, draws)
            if expected is None:
                expected = [values[root] for root in graph.roots]
                _stop_at_non_finite(graph, values)
            _compare(stage.name, graph, [values[root] for root in graph.roots], expected)
        results = runner(inputs, draws)
        assert expected is not None
        made = [*results, *(p.value for p, _ in self.declared.updates)]
        try:
            _compare("lowered", self.declared, made, expected)
        except CompileError:
            for param, value in old.items():
                param.value = value
            raise
        return results


def _evaluated(
    graph: Graph, inputs: Mapping[str, np.ndarray], params: Mapping[Param, np.ndarray], draws: Draws
) -> Mapping[Node, np.ndarray]:
    values: dict[Node, np.ndarray] = {n: inputs[n.name] for n in graph.inputs}
    return evaluate_all(graph.nodes, {**values, **params}, np, draws)


def _stop_at_non_finite(graph: Graph, values: Mapping[Node, np.ndarray]) -> None:
    for node in graph.nodes:
        value = values[node]
        if value.dtype.kind != "f" or np.isfinite(value).all():
            continue
        bad = np.argwhere(~np.isfinite(value))
        line = f", made at {node.sites[0]}" if node.sites else ""
        where = tuple(int(i) for i in bad[0])
        raise NonFiniteError(
            f"{describe(node)} is {value[where]} at {list(where)}, the first of {len(bad)} "
            f"non-finite elements{line}; its operands are finite: look at this op's input range"
        )


def _compare(
    stage: str, graph: Graph, made: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> None:
    names = [*(n for n, _ in graph.outputs), *(p.name for p, _ in graph.updates)]
    for name, have, want in zip(names, made, expected, strict=True):
        problem = disagreement(have, want)
        if problem:
            raise CompileError(
                f"stage {stage!r}: {name} differs from node-by-node evaluation: {problem}; this is "
                "a defect of graphc: please report the graph"
            )
