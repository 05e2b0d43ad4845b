"""What a bound graph computes: which nodes have statements, and through which views they are read.

A view has no statement of its own: its users read the *base* below it through a layout. A view must
be copied, and then counts as computed, where its elements do not lie on straight lines, where a
contraction could not read it, or where it is wanted as a result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from graphc.ir.graph import Graph
from graphc.ir.layout import Layout, contiguous, reshape_layout
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import static_shape
from graphc.schedule.records import Level, reduction_form, store_strides


@dataclass(frozen=True, slots=True)
class Use:
    """`consumer` reads a base as its operand `position` through `layout`."""

    consumer: Node
    position: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Home:
    """The iteration space a node is naturally computed in, and how often there."""

    space: tuple[int, ...]
    inner: tuple[int, ...]
    level: Level


@dataclass
class Flow:
    """The computed nodes of a graph in topological order, and who reads what."""

    graph: Graph
    computed: list[Node] = field(default_factory=list)
    bases: dict[Node, tuple[Node, Layout]] = field(default_factory=dict)
    uses: dict[Node, list[Use]] = field(default_factory=dict)
    homes: dict[Node, Home] = field(default_factory=dict)
    _sources: dict[Node, list[tuple[Node, Layout]]] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph) -> Flow:
        """Resolve every view, copy those that must be, and find every node's home."""
        flow = Flow(graph)
        for node in graph.nodes:
            flow._enter(node)
        for root in graph.roots:
            flow._settle(root)
        position = {node: i for i, node in enumerate(graph.nodes)}
        flow.computed.sort(key=position.__getitem__)
        for node in flow.computed:
            flow.homes[node] = flow._home(node)
            for i, source in enumerate(flow.sources(node)):
                base, layout = source
                flow.uses.setdefault(base, []).append(Use(node, i, layout))
        return flow

    def sources(self, node: Node) -> list[tuple[Node, Layout]]:
        """Base and layout of each operand of a computed node; a copied view reads what is below."""
        found = self._sources.get(node)
        if found is None:
            found = self._sources[node] = self._find_sources(node)
        return found

    def _find_sources(self, node: Node) -> list[tuple[Node, Layout]]:
        if node.op.kind is not Kind.VIEW:
            return [self.bases[i] for i in node.inputs]
        base, layout = self.bases[node.inputs[0]]
        assert node.op.view is not None
        view = node.op.view(layout, **dict(node.attrs))
        # where there is no such view: copy in the shape of what is below, in the order of elements
        return [(base, layout if view is None else view)]

    @cached_property
    def root_bases(self) -> set[Node]:
        """The bases whose values must be stored because they are results."""
        return {self.bases[r][0] for r in self.graph.roots}

    def is_computed(self, node: Node) -> bool:
        return node in self.homes

    def _enter(self, node: Node) -> None:
        kind = node.op.kind
        if kind is Kind.SOURCE:
            self.bases[node] = (node, _source_layout(node))
            return
        if kind is Kind.VIEW:
            base, layout = self.bases[node.inputs[0]]
            assert node.op.view is not None
            view = node.op.view(layout, **dict(node.attrs))
            if view is not None:
                self.bases[node] = (base, view)
                return
        if kind is Kind.CONTRACTION:
            for operand in node.inputs:
                if not multipliable(self.bases[operand][1]):
                    self._copy(operand)
        self._copy(node)

    def _copy(self, node: Node) -> None:
        """Give the node a buffer of its own."""
        self.bases[node] = (node, contiguous(static_shape(node.type)))
        self.computed.append(node)

    def _settle(self, root: Node) -> None:
        """A result must be a whole buffer, row-major: copy it if it is only a part or reordered."""
        if root.op.kind is Kind.SOURCE:
            return
        base, layout = self.bases[root]
        if not layout.is_contiguous or root.type.size != base.type.size:
            self._copy(root)

    def _home(self, node: Node) -> Home:
        kind = node.op.kind
        if kind is Kind.REDUCTION:
            return Home(static_shape(node.inputs[0].type), node.attr("axes"), Level.OUTER)
        if kind is Kind.GATHER:
            space = static_shape(node.inputs[0].type)
            return Home(space, (len(space) - 1,), Level.OUTER)
        shape = static_shape(node.type)
        if kind is Kind.VIEW:
            _, layout = self.sources(node)[0]
            return Home(layout.shape, (), Level.FULL)
        if kind is Kind.ELEMENTWISE:
            for base, layout in self.sources(node):
                home = self.homes.get(base)
                found = None if home is None else self._inherited(node, home, base, layout)
                if found is not None:
                    return found
        return Home(shape, (), Level.FULL)

    def _inherited(self, node: Node, home: Home, base: Node, layout: Layout) -> Home | None:
        """The home of an operand, if the node is computed from it in the same loops.

        What is derived from the results of rows stays with the rows: it is not to be drawn into a
        reduction over other axes, which would tear the row kernel apart.
        """
        whole = layout.is_contiguous and base.type.size == node.type.size
        if whole and home.level is Level.OUTER:
            return None if bends(self.sources(node), home.space, home.inner, home.level) else home
        is_row = home.inner and reduction_form(home.space, home.inner) == "row"
        if not is_row or home.space != static_shape(node.type):
            return None
        made = strides_over(layout, home.space, home.inner, Level.FULL)
        if made is None or not is_identity(layout, made, home.space, home.inner, home.level):
            return None
        return Home(home.space, home.inner, Level.FULL)


def multipliable(layout: Layout) -> bool:
    """Whether a matrix product can read the last two axes: one has unit stride, none repeats."""
    if 0 in layout.shape:
        return layout.is_contiguous
    (rows, columns), (down, across) = layout.shape[-2:], layout.strides[-2:]

    def fits(unit: int, unit_extent: int, lead: int, lead_extent: int) -> bool:
        return (unit == 1 or unit_extent == 1) and (lead >= unit_extent or lead_extent == 1)

    return fits(across, columns, down, rows) or fits(down, rows, across, columns)


def strides_over(
    layout: Layout, space: tuple[int, ...], inner: tuple[int, ...], level: Level
) -> tuple[int, ...] | None:
    """The strides over the loops of `space` with which a layout is read, or None if it is bent."""
    if level is Level.FULL:
        if layout.shape == space:
            return layout.strides
        over = reshape_layout(layout, space)
        return None if over is None else over.strides
    outer = [i for i in range(len(space)) if i not in inner]
    over = reshape_layout(layout, tuple(space[i] for i in outer))
    if over is None:
        return None
    by_loop = dict(zip(outer, over.strides, strict=True))
    return tuple(by_loop.get(i, 0) for i in range(len(space)))


def bends(
    sources: Iterable[tuple[Node, Layout]],
    space: tuple[int, ...],
    inner: tuple[int, ...],
    level: Level,
) -> bool:
    """Whether any of the operands cannot be addressed by the loops."""
    return any(strides_over(layout, space, inner, level) is None for _, layout in sources)


def is_identity(
    layout: Layout,
    strides: tuple[int, ...],
    space: tuple[int, ...],
    inner: tuple[int, ...],
    level: Level,
) -> bool:
    """Whether each point reads the element that the same point of a group computed at `level`."""
    return layout.offset == 0 and strides == store_strides(space, inner, level)


def _source_layout(node: Node) -> Layout:
    """Row-major, except for sources that repeat one line (see `records.Line`)."""
    if node.op.view is None:
        return contiguous(static_shape(node.type))
    layout = node.op.view(**dict(node.attrs))
    assert layout is not None
    return layout
