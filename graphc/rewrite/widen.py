"""16-bit floats are for storage: what computes with them does so in float32.

    exp(x)  : float16   ->  stored(exp(float32(x)))
    x @ w   : bfloat16  ->  stored(float32(x) @ float32(w))

`stored` is a cast that was not asked for, only implied by the dtype. Then float32(stored(y))
is y (rule `drop_rounding`), so that a chain of ops is float32 throughout, and what is stored (a
result, a parameter, a piece of a join) is rounded once. A backend needs no 16-bit arithmetic, only
casts between 16-bit floats and float32, and ops that move elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir.build import stored
from graphc.ir.graph import Graph, rebuild
from graphc.ir.node import Derived, Node, intern
from graphc.ir.op import MOVES, Kind
from graphc.ir.tensor_type import FLOAT32, NARROW, computed_in
from graphc.rewrite.engine import simplify
from graphc.rewrite.rule import Rule
from graphc.rewrite.rules import ROUNDING


def widen(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, dict[str, int]]:
    """The graph with float32 in place of 16-bit arithmetic, and how often each rule of the section
    `ROUNDING` fired, as far as it is among `rules`.

    The same graph object if nothing in it is a 16-bit float. All sizes must be ints.
    """
    if not any(node.dtype in NARROW for node in graph.nodes):
        return graph, {}
    pass_ = _Widening()
    for node in graph.nodes:
        pass_.enter(node)
    return simplify(graph.map(pass_.done.__getitem__), [r for r in rules if r in ROUNDING])


class _Widening:
    """The state of the pass: what each node became, and the float32 form of what is stored."""

    def __init__(self) -> None:
        self.done: dict[Node, Node] = {}
        self.wide: dict[Node, Node] = {}

    def enter(self, node: Node) -> None:
        inputs = tuple(self.done[i] for i in node.inputs)
        narrow = node.dtype in NARROW or any(i.dtype in NARROW for i in inputs)
        if node.op.kind in MOVES or not narrow:
            self.done[node] = rebuild(node, inputs)
            return
        operands = tuple(self.widened(i) for i in inputs)
        with Derived(node.sites, node.backward):
            self.done[node] = (
                _cast(node, *operands) if _is_cast(node) else _computed(node, operands)
            )

    def widened(self, operand: Node) -> Node:
        """A 16-bit float in float32, one node for all its users; anything else as it is."""
        if operand.dtype not in NARROW:
            return operand
        if operand not in self.wide:
            with Derived(operand.sites, operand.backward):
                self.wide[operand] = operand.astype(FLOAT32)
        return self.wide[operand]


def _is_cast(node: Node) -> bool:
    """An elementwise op that is told its dtype is a cast."""
    return node.op.kind is Kind.ELEMENTWISE and any(key == "dtype" for key, _ in node.attrs)


def _computed(node: Node, operands: tuple[Node, ...]) -> Node:
    attrs = tuple((key, computed_in(value)) for key, value in node.attrs)
    result = intern(node.op, operands, attrs)
    return stored(result, node.dtype) if node.dtype in NARROW else result


def _cast(node: Node, operand: Node) -> Node:
    """A cast from or to a 16-bit float, by way of float32. It rounds because the user says so,
    unless the chain rule wrote it."""
    if node.dtype not in NARROW:
        return operand.astype(node.dtype)
    source = operand.astype(FLOAT32)
    return stored(source, node.dtype) if node.backward else rebuild(node, (source,))
