"""A graph: what its outputs and updates reach. Dead code needs no pass: it is not reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphc.errors import CompileError, DTypeError, ShapeError
from graphc.ir.dim import Dim, Extent
from graphc.ir.node import Derived, Node, Param, describe, explain, intern
from graphc.ir.op import Kind


@dataclass(frozen=True, eq=False)
class Graph:
    """Named outputs, updates of parameters, and every node below them in topological order.

    The updates are applied together, after all outputs were computed from the old values.
    """

    outputs: tuple[tuple[str, Node], ...]
    updates: tuple[tuple[Param, Node], ...]
    nodes: tuple[Node, ...]

    @staticmethod
    def of(outputs: Mapping[str, Node], updates: Mapping[Param, Node] | None = None) -> Graph:
        """Collect and check a graph: unique names, updates of the parameter's type."""
        for name, node in outputs.items():
            if not isinstance(node, Node):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise CompileError(f"output {name!r} is {type(node).__name__}, not a node")
        for param, node in (updates or {}).items():
            _check_update(param, node)
        graph = Graph.raw(tuple(outputs.items()), tuple((updates or {}).items()))
        _check_names(graph.nodes)
        return graph

    @staticmethod
    def raw(
        outputs: tuple[tuple[str, Node], ...], updates: tuple[tuple[Param, Node], ...]
    ) -> Graph:
        """A graph without the checks, for passes that keep what was checked."""
        roots = [node for _, node in outputs]
        roots += [n for pair in updates for n in pair]
        return Graph(outputs, updates, tuple(topological(roots)))

    @property
    def roots(self) -> tuple[Node, ...]:
        """The nodes whose values are wanted: outputs, then new values of parameters."""
        return tuple(n for _, n in self.outputs) + tuple(n for _, n in self.updates)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """Inputs to be given with each call, in the order in which they are reached."""
        return tuple(n for n in self.nodes if is_external(n) and not isinstance(n, Param))

    @cached_property
    def params(self) -> tuple[Param, ...]:
        return tuple(n for n in self.nodes if isinstance(n, Param))

    @cached_property
    def names(self) -> dict[Node, str]:
        """A short unique name for each node: its own, or its op's with a number."""
        return unique_names(self.nodes)

    @cached_property
    def symbols(self) -> set[str]:
        """The symbolic dimensions that must be bound before the graph can run."""
        kinds = {(n.type.shape, n.attrs) for n in self.nodes}  # few, even in a large graph
        return {s for kind in kinds for e in _dims(kind) for s in e.symbols()}

    def map(self, replace: Callable[[Node], Node]) -> Graph:
        """The graph with every root replaced; the same object if nothing changed."""
        outputs = tuple((name, replace(node)) for name, node in self.outputs)
        updates = tuple((param, replace(node)) for param, node in self.updates)
        if all(a is b for (_, a), (_, b) in zip(outputs, self.outputs, strict=True)) and all(
            a is b for (_, a), (_, b) in zip(updates, self.updates, strict=True)
        ):
            return self
        return Graph.raw(outputs, updates)

    def to_networkx(self) -> Any:
        """The graph as a networkx.MultiDiGraph: attributes op, name, shape, dtype, role, attrs;
        edge attribute `position` (which operand)."""
        import networkx

        result = networkx.MultiDiGraph()
        for node in self.nodes:
            result.add_node(
                self.names[node], op=node.op.name, name=node.name, shape=node.shape,
                dtype=node.dtype.name, role="backward" if node.backward else "forward",
                attrs=dict(node.attrs),
            )  # fmt: skip
            for position, source in enumerate(node.inputs):
                result.add_edge(self.names[source], self.names[node], position=position)
        return result


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node reached from the roots, each after its inputs, in a deterministic order."""
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        stack = [(root, 0)]
        while stack:
            node, position = stack.pop()
            if position == 0 and node in seen:
                continue
            seen.add(node)
            if position < len(node.inputs):
                stack.append((node, position + 1))
                if node.inputs[position] not in seen:
                    stack.append((node.inputs[position], 0))
            else:
                order.append(node)
    return order


def unique_names(nodes: Iterable[Node]) -> dict[Node, str]:
    """Names for text and pictures: declared names stay, others become op_0, op_1, ... per op."""
    ordered = list(nodes)
    names = {n: n.name for n in ordered if is_external(n)}
    taken = set(names.values())
    counts: dict[str, int] = {}
    for node in ordered:
        if node in names:
            continue
        while True:
            number = counts.get(node.op.name, 0)
            counts[node.op.name] = number + 1
            name = f"{node.op.name}_{number}"
            if name not in taken:
                break
        names[node] = name
    return names


def is_external(node: Node) -> bool:
    """Whether the node's value comes from outside: an input or a parameter."""
    return node.op.kind is Kind.SOURCE and node.op.eval is None


def rebuild(node: Node, inputs: tuple[Node, ...], attrs: Any = None) -> Node:
    """The same op over other inputs (and attributes), credited to the same user lines."""
    attrs = node.attrs if attrs is None else attrs
    if attrs == node.attrs and all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return node
    with Derived(node.sites, node.backward):
        return intern(node.op, inputs, attrs)


def bind(graph: Graph, sizes: Mapping[str, int], training: bool = True) -> Graph:
    """The graph for given sizes and one mode: symbolic dimensions become ints, then each op that
    has another form for a bound graph (`Op.resolve`) takes it. The same object if nothing changed.

    Raises CompileError if a size is missing, ShapeError if one turns out negative or does not fit.
    """
    missing = graph.symbols - set(sizes)
    if missing:
        raise CompileError(f"sizes: missing {', '.join(sorted(missing))}")
    if not graph.symbols and all(node.op.resolve is None for node in graph.nodes):
        return graph
    done: dict[Node, Node] = {}
    for node in graph.nodes:
        _check_extents(node, sizes)
        attrs = tuple((key, _bind(value, sizes)) for key, value in node.attrs)
        inputs = tuple(done[i] for i in node.inputs)
        if node.op.resolve is None:
            done[node] = rebuild(node, inputs, attrs)
            continue
        with Derived(node.sites, node.backward):
            done[node] = node.op.resolve(*inputs, training=training, **dict(attrs))
    return graph.map(done.__getitem__)


def _bind(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Dim):
        return Extent.of(value.bind(sizes), value)
    if type(value) is tuple:
        return tuple(_bind(v, sizes) for v in value)
    return value


def _extents(node: Node) -> Iterable[Dim]:
    """The symbolic sizes of a node: of its shape, and in its attributes at any depth."""
    yield from _dims((node.type.shape, tuple(value for _, value in node.attrs)))


def _dims(value: Any) -> Iterable[Dim]:
    if isinstance(value, Dim):
        yield value
    elif type(value) is tuple:
        for part in value:
            yield from _dims(part)


def _check_extents(node: Node, sizes: Mapping[str, int]) -> None:
    """Raise ShapeError, with the sizes, where an extent is negative or a size is divided by 0."""
    for extent in _extents(node):
        problem = _problem(extent, sizes, in_shape=extent in node.shape)
        if problem:
            given = ", ".join(f"{symbol} = {sizes[symbol]}" for symbol in sorted(extent.symbols()))
            with Derived(node.sites, node.backward):
                raise ShapeError(
                    explain(node.op.name, f"the size {extent} {problem} for {given}", node.inputs)
                )


def _problem(extent: Dim, sizes: Mapping[str, int], in_shape: bool) -> str:
    try:
        value = extent.bind(sizes)
    except ShapeError as error:
        return f"has no value ({error})"
    return f"is {value}" if in_shape and isinstance(value, int) and value < 0 else ""


def _check_names(nodes: Iterable[Node]) -> None:
    seen: dict[str, Node] = {}
    for node in nodes:
        if not is_external(node):
            continue
        other = seen.setdefault(node.name, node)
        if other is not node:
            lines = " and ".join(str(n.sites[0]) for n in (other, node) if n.sites)
            raise CompileError(
                f"two nodes are named {node.name!r} (made at {lines}): {describe(other)} and "
                f"{describe(node)}; names must be unique within a graph: rename one"
            )


def _check_update(param: Param, node: Node) -> None:
    if not isinstance(param, Param):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CompileError(f"updates: {param!r} is not a param; only params can be updated")
    if not isinstance(node, Node):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CompileError(f"updates: the new value of {param.name} is {node!r}, not a node")
    if node.dtype != param.dtype:
        raise DTypeError(
            explain("updates", f"{param.name} is {param.type}, its new value {node.type}; "
                    f"try .astype({param.dtype.name!r})", [node])
        )  # fmt: skip
    if node.shape != param.shape:
        raise ShapeError(
            explain("updates", f"{param.name} is {param.type}, its new value {node.type}", [node])
        )
