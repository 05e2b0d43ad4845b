"""From groups of nodes to kernel records: statements in SSA order, loads, stores, joined loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from graphc.ir.layout import Layout
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import static_shape
from graphc.schedule.flow import strides_over
from graphc.schedule.fuse import Fusion, Group, read_level
from graphc.schedule.records import (
    Access,
    Argument,
    Buffer,
    Contraction,
    Edge,
    Kernel,
    Level,
    Line,
    Literal,
    Load,
    Piece,
    Statement,
    Store,
    Value,
    store_strides,
)


def build_kernels(fusion: Fusion) -> tuple[list[Kernel], list[Edge]]:
    """One kernel per group, long groups cut; and the decisions on edges, cuts included."""
    pieces: list[tuple[Group, list[Node]]] = []
    part_of: dict[Node, int] = {}
    for group in fusion.groups:
        for members in cut(group.members, fusion, fusion.target.max_statements):
            for node in members:
                part_of[node] = len(pieces)
            pieces.append((group, members))
    stored = _stored(fusion, part_of)
    reasons: dict[Node, str] = {}
    edges: list[Edge] = []
    limit = fusion.target.max_statements
    for edge in fusion.edges:
        if edge.fused and part_of[edge.producer] != part_of[edge.consumer]:
            edge = Edge(edge.producer, edge.consumer, False, f"cut: at most {limit} statements")
        elif edge.fused and edge.producer not in stored:  # neither written nor read back
            edge = replace(edge, saved_nbytes=2 * edge.saved_nbytes)
        edges.append(edge)
        if not edge.fused:
            reasons.setdefault(edge.producer, edge.reason)
    kernels = [
        _Builder(fusion, group, members, stored).kernel(reasons) for group, members in pieces
    ]
    stray = [n for n in stored if n not in part_of]  # none: every stored node was placed
    assert not stray, stray
    return kernels, edges


def cut(members: Sequence[Node], fusion: Fusion, limit: int) -> Iterable[list[Node]]:
    """Parts of at most `limit` nodes, cut in the second half where the fewest values cross."""
    if len(members) <= limit:
        yield list(members)
        return
    last_use: dict[Node, int] = {}
    for i, node in enumerate(members):
        for base, _ in fusion.flow.sources(node):
            last_use[base] = i
    start = 0
    while len(members) - start > limit:
        change = [0] * (limit + 1)  # by position in the window: values that begin or cease to cross
        for i in range(limit):
            reach = last_use.get(members[start + i], 0) - start
            if reach > i:
                change[i + 1] += 1
                if reach < limit:
                    change[reach + 1] -= 1
        crossing = list(accumulate(change))
        end = min(range(limit // 2, limit + 1), key=lambda at: (crossing[at], -at))
        yield list(members[start : start + end])
        start += end
    yield list(members[start:])


def _stored(fusion: Fusion, part_of: dict[Node, int]) -> set[Node]:
    """The nodes that need a buffer: results, and whatever another kernel reads."""
    stored: set[Node] = set()
    for node in fusion.flow.computed:
        if node not in part_of:
            continue  # a random draw that its users repeat
        if (
            node in fusion.flow.root_bases
            or node.op.kind is Kind.JOIN
            or any(part_of[u.consumer] != part_of[node] for u in fusion.flow.uses.get(node, ()))
        ):
            stored.add(node)
    return stored


@dataclass
class _Builder:
    """Builds one kernel."""

    fusion: Fusion
    group: Group
    members: list[Node]
    stored: set[Node]
    operands: dict[Access, int] = field(default_factory=dict)
    values: dict[Node, int] = field(default_factory=dict)

    def kernel(self, reasons: dict[Node, str]) -> Kernel:
        why = next((reasons[n] for n in self.members if n in reasons and n in self.stored), "")
        reason = why or "a result"
        if self.members[0].op.kind is Kind.JOIN:
            return self._join(self.members[0], reason)
        self._shape()
        ordered = self._ordered()
        if any(stage and self._level(node) is Level.FULL for node, stage in ordered):
            self._as_rows()
        statements: list[Statement] = []
        for node, stage in ordered:
            self.values[node] = len(statements)
            args = () if node.op.kind is Kind.CONTRACTION else self._arguments(node)
            statements.append(Statement(node, args, self._level(node), stage))
        stores = tuple(
            Store(i, Access(s.node, 0, store_strides(self.space, self.inner, s.level)))
            for i, s in enumerate(statements)
            if s.node in self.stored
        )
        contraction = self._contraction(ordered[0][0])
        kernel = Kernel(
            kernel_name(s.node for s in statements), self.space, self.inner, tuple(self.operands),
            tuple(statements), stores, contraction, reason=reason,
            nodes=tuple(n for n, _ in ordered),
        )  # fmt: skip
        return collapse(kernel)

    def _shape(self) -> None:
        """The space, without the reduced loops where nothing in this part runs in them."""
        levels = {self.fusion.placed[n][1] for n in self.members}
        reduces = any(n.op.kind in (Kind.REDUCTION, Kind.GATHER) for n in self.members)
        self.space, self.inner = self.group.space, self.group.inner
        self.flattened = not reduces and levels == {Level.OUTER}
        if self.flattened:
            outer = [i for i in range(len(self.space)) if i not in self.inner]
            self.space, self.inner = tuple(self.space[i] for i in outer), ()
        elif not reduces and levels == {Level.FULL}:
            self.inner = ()

    def _as_rows(self) -> None:
        """A small tensor that is reduced as a whole and used again is one row."""
        if len(self.inner) == len(self.space):
            self.space = (1, *self.space)
            self.inner = tuple(i + 1 for i in self.inner)

    def _level(self, node: Node) -> Level:
        placed = self.fusion.placed.get(node)
        return Level.FULL if self.flattened or placed is None else placed[1]

    def _ordered(self) -> list[tuple[Node, int]]:
        """Members and the random draws they repeat, with their stages, sorted by stage."""
        stages: dict[Node, int] = {}
        for node in self.members:
            stage = 0
            for base, _ in self.fusion.flow.sources(node):
                if base.op.kind is Kind.RANDOM and base not in self.fusion.placed:
                    stages.setdefault(base, 0)
                elif base in stages:
                    reduced = base.op.kind in (Kind.REDUCTION, Kind.GATHER)
                    stage = max(stage, stages[base] + reduced)
            stages[node] = stage
        contraction = [n for n in stages if n.op.kind is Kind.CONTRACTION]
        rest = [n for n in stages if n.op.kind is not Kind.CONTRACTION]
        return [(n, 0) for n in contraction] + sorted(
            ((n, stages[n]) for n in rest), key=lambda pair: pair[1]
        )

    def _arguments(self, node: Node) -> tuple[Argument, ...]:
        level = self._level(node)
        return tuple(
            self._argument(base, layout, read_level(node, i, level))
            for i, (base, layout) in enumerate(self.fusion.flow.sources(node))
        )

    def _argument(self, base: Node, layout: Layout, level: Level) -> Argument:
        if is_literal(base):
            return Literal(base)
        if base in self.values:
            return Value(self.values[base])
        strides = strides_over(layout, self.space, self.inner, level)
        assert strides is not None, "fusion admitted an operand that the loops cannot address"
        access = Access(source_buffer(base), layout.offset, strides)
        return Load(self.operands.setdefault(access, len(self.operands)))

    def _contraction(self, node: Node) -> Contraction | None:
        if node.op.kind is not Kind.CONTRACTION:
            return None
        (base_a, a), (base_b, b) = self.fusion.flow.sources(node)
        flags = dict(node.attrs)
        a_strides = _swapped(a.strides) if flags["transpose_a"] else a.strides
        b_strides = _swapped(b.strides) if flags["transpose_b"] else b.strides
        shape = static_shape(node.type)
        return Contraction(
            Access(source_buffer(base_a), a.offset, a_strides),
            Access(source_buffer(base_b), b.offset, b_strides),
            batch=shape[:-2], m=shape[-2], n=shape[-1],
            k=a.shape[-2] if flags["transpose_a"] else a.shape[-1],
        )  # fmt: skip

    def _join(self, node: Node, reason: str) -> Kernel:
        assert node.op.pieces is not None
        attrs = dict(node.attrs)
        targets = node.op.pieces(node.type, *(i.type for i in node.inputs), **attrs)
        pieces = tuple(
            Piece(layout.shape, Access(source_buffer(base), layout.offset, layout.strides),
                  Access(node, target.offset, target.strides))
            for (base, layout), target in zip(self.fusion.flow.sources(node), targets, strict=True)
        )  # fmt: skip
        fill = None if node.op.fill is None else node.op.fill(**attrs)
        return Kernel(node.op.name, static_shape(node.type), (), (), (), (), pieces=pieces,
                      fill=fill, reason=reason, nodes=(node,))  # fmt: skip


def is_literal(base: Node) -> bool:
    """A source of one element that is known when the program is prepared."""
    return base.op.kind is Kind.SOURCE and base.op.eval is not None and base.type.size == 1


def source_buffer(base: Node) -> Buffer:
    """The buffer that holds a base: sources that repeat a line keep only the line."""
    if base.op.kind is Kind.SOURCE and base.op.view is not None:
        return Line(base)
    return base


def kernel_name(nodes: Iterable[Node]) -> str:
    """A readable name from the ops computed: `contract_add_relu`; at most about 30 characters."""
    names = list(dict.fromkeys(n.op.name for n in nodes))
    kept: list[str] = []
    for name in names:
        if sum(map(len, kept)) + len(name) > 30:
            kept.append("etc")
            break
        kept.append(name)
    return "_".join(kept)


def collapse(kernel: Kernel) -> Kernel:
    """The kernel with unit loops dropped and neighbouring loops joined where every access is a
    straight line over both. Row kernels keep at least one outer loop."""
    accesses = [*kernel.operands, *(s.access for s in kernel.stores)]
    loops = [
        (n, i in kernel.inner, [a.strides[i] for a in accesses]) for i, n in enumerate(kernel.space)
    ]
    was_row = kernel.form == "row"
    kept = [loop for loop in loops if loop[0] != 1]
    if was_row and not any(not inner for _, inner, _ in kept):
        kept.insert(0, (1, False, [0] * len(accesses)))
    if kernel.inner and not any(inner for _, inner, _ in kept):
        kept.append((1, True, [0] * len(accesses)))
    merged: list[tuple[int, bool, list[int]]] = []
    for extent, inner, strides in kept:
        if merged and extent:
            before, before_inner, before_strides = merged[-1]
            straight = all(s == t * extent for s, t in zip(before_strides, strides, strict=True))
            if before_inner == inner and straight:
                merged[-1] = (before * extent, inner, strides)
                continue
        merged.append((extent, inner, strides))
    if len(merged) == len(kernel.space):
        return kernel
    columns = [[loop[2][k] for loop in merged] for k in range(len(accesses))]
    moved = [replace(a, strides=tuple(s)) for a, s in zip(accesses, columns, strict=True)]
    count = len(kernel.operands)
    return replace(
        kernel,
        space=tuple(loop[0] for loop in merged),
        inner=tuple(i for i, loop in enumerate(merged) if loop[1]),
        operands=tuple(moved[:count]),
        stores=tuple(
            replace(s, access=a) for s, a in zip(kernel.stores, moved[count:], strict=True)
        ),
    )


def _swapped(strides: tuple[int, ...]) -> tuple[int, ...]:
    return (*strides[:-2], strides[-1], strides[-2])
