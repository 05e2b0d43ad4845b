"""The text form of a graph, one line per node, and the verifier that runs between stages.

graph     = header, node*, "outputs:", output*, "updates:", update*
node      = name "=" op "(" operand*, attr* ")" ":" type  "#" role, user line
name      = declared name | op "_" number; in quotes where it is no plain word
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from graphc.errors import CompileError, GraphcError
from graphc.ir.graph import Graph, is_external, topological
from graphc.ir.node import Node, Param, describe
from graphc.ir.op import Kind
from graphc.ir.tensor_type import TensorType

MARGIN = 84  # columns: the widest body that still pushes no comment to the right
PLAIN = re.compile(r"[^\W\d][\w.\-/\[\]]*")


class Role(Enum):
    """What a node is for, and in which words a legend says so."""

    INPUT = "given with each call"
    PARAM = "kept between calls"
    CONSTANT = "known beforehand"
    FORWARD = "declared by the user"
    BACKWARD = "made by the chain rule"
    UPDATE = "only for new values of params"

    def __str__(self) -> str:
        return self.name.lower()


def graph_text(graph: Graph) -> str:
    """The graph as text, without identities, addresses or folders: equal graphs give equal text."""
    names, role_of = graph.names, roles(graph)
    bodies = [f"{word(names[n])} = {_right_side(n, names)} : {n.type}" for n in graph.nodes]
    width = min(MARGIN, max(map(len, bodies), default=0))
    lines = [
        f"  {body:<{width}}  # {', '.join([str(role_of[node]), *sites(node)])}"
        for body, node in zip(bodies, graph.nodes, strict=True)
    ]
    count = f"{len(graph.nodes)} nodes, {len(graph.inputs)} inputs, {len(graph.params)} params"
    head = [f"graph  # {count}"]
    outputs = [f"  {word(name)} = {word(names[node])}" for name, node in graph.outputs]
    updates = [f"  {word(names[p])} <- {word(names[node])}" for p, node in graph.updates]
    tail = (["outputs:", *outputs] if outputs else []) + (["updates:", *updates] if updates else [])
    return "\n".join(head + lines + tail) + "\n"


def roles(graph: Graph) -> dict[Node, Role]:
    """What each node is for; an update node is the user's own and reached from updates alone."""
    reached = set(topological(node for _, node in graph.outputs))
    return {node: _role(node, node in reached or not graph.outputs) for node in graph.nodes}


def _role(node: Node, reached: bool) -> Role:
    if isinstance(node, Param):
        return Role.PARAM
    if is_external(node):
        return Role.INPUT
    if node.op.kind is Kind.SOURCE:
        return Role.CONSTANT
    if node.backward:
        return Role.BACKWARD
    return Role.FORWARD if reached else Role.UPDATE


def word(name: str) -> str:
    """A name as it is if it is a plain word, else quoted and escaped, on one line."""
    return name if PLAIN.fullmatch(name) else repr(name)


def sites(node: Node) -> list[str]:
    """The user lines that made the node, as `file:line`, without folders. None for a constant:
    it is shared by everyone who writes the same number."""
    shared = node.op.kind is Kind.SOURCE and not is_external(node)
    return [] if shared else [str(site) for site in node.sites]


def attributes(node: Node) -> list[str]:
    """The attributes in words; what the type says, identities and flags that are off left out."""
    hidden = {"identity", "name"}
    shown: list[str] = []
    for key, value in node.attrs:
        if key in hidden or (key, value) in (("shape", node.shape), ("dtype", node.dtype)):
            continue
        if isinstance(value, bool):
            shown += [key] if value else []
        else:
            shown.append(f"{key}={value_text(value)}")
    return shown


def value_text(value: Any) -> str:
    """An attribute's value on one line."""
    if isinstance(value, tuple):
        parts = [value_text(part) for part in value]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if isinstance(value, TensorType):
        return str(value)
    return " ".join(str(value).split())


def scalar_text(node: Node) -> str | None:
    """The value of a one-element constant (or of a size), or None for any other node."""
    if node.op.kind is not Kind.SOURCE or node.op.eval is None or set(node.shape) - {1}:
        return None
    values = [value for key, value in node.attrs if key in ("value", "dim")]
    return value_text(values[0]).strip("[]").removesuffix(".") if values else None


def _right_side(node: Node, names: Mapping[Node, str]) -> str:
    if is_external(node):
        return node.op.name
    operands = [word(names.get(i, i.name)) for i in node.inputs]
    return f"{node.op.name}({', '.join(operands + attributes(node))})"


# -- the verifier


def verify_graph(graph: Graph) -> None:
    """Raise CompileError, naming the node, unless the graph is one: operands first, no node twice,
    every type as its op infers it, declared names unique, updates of their parameter's type."""
    before: set[Node] = set()
    for node in graph.nodes:
        _verify_node(node, before)
        before.add(node)
    _verify_names(graph.nodes)
    for name, node in graph.outputs:
        if node not in before:
            raise CompileError(
                f"verify: output {name!r} is {_where(node)}, not a node of the graph"
            )
    _verify_updates(graph, before)


def _verify_node(node: Node, before: set[Node]) -> None:
    if node in before:
        raise CompileError(f"verify: {_where(node)} stands twice in the graph")
    for operand in node.inputs:
        if operand not in before:
            raise CompileError(
                f"verify: {_where(node)} stands before its operand {_where(operand)}"
            )
    try:
        inferred = node.op.infer(*(i.type for i in node.inputs), **dict(node.attrs))
    except (GraphcError, TypeError, ValueError, AttributeError) as error:
        raise CompileError(f"verify: {_where(node)} has no type: {error}") from None
    if inferred != node.type:
        raise CompileError(f"verify: {_where(node)} says {node.type}, its op infers {inferred}")


def _verify_names(nodes: Iterable[Node]) -> None:
    seen: dict[str, Node] = {}
    for node in nodes:
        if is_external(node) and seen.setdefault(node.name, node) is not node:
            raise CompileError(
                f"verify: two nodes are named {node.name!r}: {_where(seen[node.name])} and "
                f"{_where(node)}"
            )


def _verify_updates(graph: Graph, nodes: set[Node]) -> None:
    seen: set[Node] = set()
    for param, node in graph.updates:
        if not isinstance(param, Param):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CompileError(f"verify: {_where(param)} is updated but is no param")
        if param in seen:
            raise CompileError(f"verify: {_where(param)} is updated twice")
        if node not in nodes or param not in nodes:
            raise CompileError(f"verify: the update of {_where(param)} is not part of the graph")
        if node.type != param.type:
            raise CompileError(
                f"verify: {_where(param)} is updated by {_where(node)}: the types differ"
            )
        seen.add(param)


def _where(node: Node) -> str:
    made = f" (made at {node.sites[0]})" if node.sites else ""
    return f"{describe(node)}{made}"
