"""What a stage removed from a graph and what it added.

A node rebuilt over other operands is the same to a reader: nodes are paired first by identity, then
by op, attributes, role and the user lines that made them, each in topological order.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

from graphc.ir.graph import Graph
from graphc.ir.node import Node


@dataclass(frozen=True)
class Changes:
    """`kept` maps each node of the graph before to the one it became."""

    kept: dict[Node, Node]
    removed: tuple[Node, ...]
    added: frozenset[Node]


def changes(before: Graph, after: Graph) -> Changes:
    """Pair the nodes of two graphs. Binding sizes adds and removes nothing."""
    remaining = set(after.nodes)
    kept = {node: node for node in before.nodes if node in remaining}
    remaining -= kept.keys()
    exact = not before.symbols
    waiting: dict[tuple[Any, ...], deque[Node]] = defaultdict(deque)
    for node in after.nodes:
        if node in remaining:
            waiting[_key(node, exact)].append(node)
    for node in before.nodes:
        queue = None if node in kept else waiting.get(_key(node, exact))
        if queue:
            kept[node] = queue.popleft()
    removed = tuple(node for node in before.nodes if node not in kept)
    return Changes(kept, removed, frozenset(remaining - set(kept.values())))


def _key(node: Node, exact: bool) -> tuple[Any, ...]:
    """What paired nodes share; while sizes are symbolic, op and type may change with them."""
    made = (node.sites, node.backward)
    return (node.op, node.attrs, node.type, *made) if exact else (node.op.kind, *made)
