"""`check=True`: each call is compared, stage by stage, with node-by-node evaluation.

The first non-finite value that reaches a result stops the call before anything is changed. A stage
that differs by more than rounding stops it too, with the parameters put back: a defect of graphc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.backends.base import Runner
from graphc.errors import CompileError, NonFiniteError
from graphc.evaluate import evaluate_all
from graphc.ir.graph import Graph, is_external, topological
from graphc.ir.node import Node, Param, describe
from graphc.ir.op import Kind
from graphc.ir.philox import Draws
from graphc.ir.tensor_type import FLOATS
from graphc.report.stage import Stage
from graphc.rewrite.widen import widen
from graphc.tolerances import disagreement


class Check:
    """Runs a program beside the node-by-node evaluation of its graphs."""

    def __init__(self, declared: Graph) -> None:
        self.declared = declared

    def run(
        self,
        stages: Sequence[Stage],
        runner: Runner,
        inputs: Sequence[Any],
        draws: Draws,
        fetch: Callable[[Any], np.ndarray],
    ) -> list[Any]:
        """Results of the call; NonFiniteError or CompileError as the module says. `fetch` turns
        inputs and results into NumPy arrays."""
        named = {n.name: fetch(a) for n, a in zip(self.declared.inputs, inputs, strict=True)}
        old = {p: p.value for p in self.declared.params}
        graphs = {s.name: s.record for s in stages if isinstance(s.record, Graph)}
        bound, simplified = graphs.get("bound", graphs["declared"]), graphs["simplified"]
        written = _evaluated(bound, named, old, draws)
        if "widened" in graphs:
            # with all roundings the same values; then without those that are left out, which is
            # nearer to the exact value and has nothing to be compared with
            rounded, _ = widen(bound, ())
            values = _evaluated(rounded, named, old, draws)
            _compare("widened", bound, [values[r] for r in rounded.roots],
                     [written[r] for r in bound.roots])  # fmt: skip
            bound = graphs["widened"]
            written = _evaluated(bound, named, old, draws)
        values = _evaluated(simplified, named, old, draws)
        _stop_at_non_finite(simplified, values)
        expected = [values[root] for root in simplified.roots]
        _compare("simplified", bound, expected, [written[root] for root in bound.roots], cured=True)
        results = runner(inputs, draws)
        made = [*map(fetch, results), *(p.value for p, _ in self.declared.updates)]
        try:
            _compare("lowered", bound, made, expected)
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
    """NonFiniteError at the first node below a non-finite result where a NaN appears that no
    operand had, or an infinity over finite operands. What never reaches a result is no fault: a
    mask of -inf before a softmax, a quotient by 0 that a `where` leaves out."""
    spoilt = [root for root in graph.roots if not _is_finite(values[root])]
    for node in topological(spoilt):
        value = values[node]
        if _is_finite(value) or _is_known(node):
            continue
        operands = [values[i] for i in node.inputs]
        new_nan = np.isnan(value).any() and not any(_has_nan(o) for o in operands)
        if not new_nan and not all(np.isfinite(o).all() for o in operands):
            continue
        bad = np.argwhere(np.isnan(value) if new_nan else ~np.isfinite(value))
        line = f", made at {node.sites[0]}" if node.sites else ""
        where = tuple(int(i) for i in bad[0])
        why = "; look at this op's input range" if operands else ": that is what the call passed"
        raise NonFiniteError(
            f"{describe(node)} is {value[where]} at {list(where)}, the first of {len(bad)} such "
            f"elements{line}{why}"
        )


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype not in FLOATS or bool(np.isfinite(value).all())


def _has_nan(value: np.ndarray) -> bool:
    return value.dtype in FLOATS and bool(np.isnan(value).any())


def _is_known(node: Node) -> bool:
    """Whether the node is a constant."""
    return node.op.kind is Kind.SOURCE and not is_external(node)


def _compare(
    stage: str,
    graph: Graph,
    made: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    cured: bool = False,
) -> None:
    """CompileError if values differ; `cured`: a finite value may stand where none was expected."""
    names = [*(n for n, _ in graph.outputs), *(p.name for p, _ in graph.updates)]
    for name, have, want in zip(names, made, expected, strict=True):
        if cured and want.dtype in FLOATS and have.shape == want.shape:
            want = np.where(np.isfinite(want), want, have)
        problem = disagreement(have, want)
        if problem:
            raise CompileError(
                f"stage {stage!r}: {name} differs from node-by-node evaluation: {problem}; this is "
                "a defect of graphc: please report the graph"
            )
