"""Fusion: which nodes are computed in one kernel.

Nodes are taken in reverse topological order, consumers before producers. Each edge to a consumer's
group is allowed or refused with a reason; the node joins the first group in which every edge is
allowed, and then the other allowed groups are merged into it. A join or merge is legal unless it
closes a cycle, which bitsets of the groups reachable from each live group tell at once; a group is
live while a producer of its operands is still to come. Linear in practice.

What the reasons mean: docs/design.md, section "Fusion and memory".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from graphc.ir.graph import Graph
from graphc.ir.layout import Layout
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import static_shape
from graphc.schedule.flow import Flow, Home, Use, bends, is_identity, strides_over
from graphc.schedule.records import Edge, Level, Target, reduction_form


@dataclass(eq=False)
class Group:
    """A kernel in the making."""

    space: tuple[int, ...]
    inner: tuple[int, ...]
    mask: int  # its bits, more than one after a merge
    is_update: bool
    members: list[Node] = field(default_factory=list)
    waiting: set[Node] = field(default_factory=set)  # producers that are still to be placed
    reaches: int = 0  # bits of the groups downstream
    contraction: Node | None = None
    tile: Node | None = None  # the contraction whose epilogue it may become


@dataclass
class Fusion:
    """The groups, and for every edge the decision."""

    flow: Flow
    target: Target
    groups: dict[Group, None] = field(default_factory=dict)
    placed: dict[Node, tuple[Group, Level]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    updates: set[Node] = field(default_factory=set)
    tile_of: dict[Node, Node] = field(default_factory=dict)  # to the contraction it comes from
    _live: dict[Group, None] = field(default_factory=dict)
    _readers: dict[Node, list[Group]] = field(default_factory=dict)
    _bit: int = 1

    @staticmethod
    def of(graph: Graph, target: Target) -> Fusion:
        """Group the computed nodes of a bound graph as the target likes it."""
        fusion = Fusion(Flow.of(graph), target)
        if not target.beta:
            fusion.updates = _update_region(fusion.flow)
        if target.epilogue:
            fusion.tile_of = _tile_values(fusion.flow, fusion.updates)
        for node in reversed(fusion.flow.computed):  # consumers before producers
            if node.op.kind is Kind.RANDOM and fusion._is_recomputed(node):
                fusion._release(node)
            else:
                fusion._place(node)
        position = {node: i for i, node in enumerate(fusion.flow.computed)}
        for group in fusion.groups:
            group.members.sort(key=position.__getitem__)
        return fusion

    # -- placing one node

    def _place(self, node: Node) -> None:
        uses = [(use, self.placed[use.consumer][0]) for use in self.flow.uses.get(node, ())]
        verdicts = self._verdicts(node)
        allowed = [g for g, (level, _) in verdicts.items() if level is not None]
        tile = self.tile_of.get(node)
        stays = tile is not None and len(verdicts) > 1
        chosen: Group | None = None
        merged: set[Group] = set()
        why: dict[Group, str] = {}
        for group in [g for g in allowed if g.tile is tile] if stays else allowed:
            if chosen is None:
                if self._joins(group, verdicts):
                    chosen = group
                else:
                    why[group] = "would close a cycle of kernels"
            elif (
                verdicts[group][0] is verdicts[chosen][0]
                and self._joins(group, [g for g in verdicts if g is not chosen and g not in merged])
                and self._merge(chosen, group)
            ):
                merged.add(group)
            elif _have_one_loop_nest(chosen, group):
                why[group] = "fused with another user; merging the two would close a cycle"
            else:
                why[group] = "fused with another user, whose loops are others"
        for use, group in uses:
            level, reason = verdicts[group]
            if level is not None and stays and group.tile is not tile:
                reason = "several users: stays in the epilogue of its contraction"
            self._decide(node, use, group is chosen or group in merged, why.get(group, reason))
        if chosen is None:
            chosen, level = self._new_group(node), self.flow.homes[node].level
            chosen.tile = tile
        else:
            level = verdicts[chosen][0]
            assert level is not None
        self._enter(node, chosen, level, [g for g in verdicts if g not in merged])

    def _verdicts(self, node: Node) -> dict[Group, tuple[Level | None, str]]:
        """For each group that uses the node: the level it would have there, or why it may not."""
        verdicts: dict[Group, tuple[Level | None, str]] = {}
        for use in self.flow.uses.get(node, ()):
            group, consumer_level = self.placed[use.consumer]
            level, reason = self._judge(node, use, group, consumer_level)
            before = verdicts.get(group)
            if before is not None and before[0] is not level:
                level, reason = None, before[1] or reason or "used both per element and per row"
            verdicts[group] = (level, reason)
        return verdicts

    def _decide(self, node: Node, use: Use, fused: bool, reason: str) -> None:
        saved = node.type.nbytes if fused else 0
        self.edges.append(Edge(node, use.consumer, fused, "" if fused else reason, saved))

    # -- may this edge be fused?

    def _judge(
        self, node: Node, use: Use, group: Group, consumer_level: Level
    ) -> tuple[Level | None, str]:
        consumer, kind = use.consumer, use.consumer.op.kind
        if kind is Kind.CONTRACTION:
            return None, "operand of a contraction"
        if kind is Kind.JOIN or node.op.kind is Kind.JOIN:
            return None, "a join moves whole pieces"
        if node.op.kind is Kind.CONTRACTION and not self.target.epilogue:
            return None, "the library's product writes its result alone"
        if group.is_update != (node in self.updates):
            return None, "parameter updates are kernels of their own"
        reads = read_level(consumer, use.position, consumer_level)
        home = self.flow.homes[node]
        if home.level is Level.OUTER:
            return self._judge_outer(home, use, group, reads)
        return self._judge_full(node, use, group, reads)

    def _judge_outer(
        self, home: Home, use: Use, group: Group, reads: Level
    ) -> tuple[Level | None, str]:
        """A reduction, or a value derived from one, may only live where the reduction does."""
        if home.space != group.space:
            return None, f"another iteration space: {home.space} into {group.space}"
        if group.inner and group.inner != home.inner:
            return None, "reduces other axes"
        if group.contraction is not None:
            return None, "reduction over a contraction's tile"
        if reads is Level.FULL:
            if use.consumer.op.kind in (Kind.REDUCTION, Kind.GATHER):
                return None, "reduction of a reduction"
            if not self._is_row(home.space, home.inner):
                form = reduction_form(home.space, home.inner)
                return None, f"a {form} result is complete only after the last element"
        if not _same_point(use.layout, group.space, home.inner, reads, Level.OUTER):
            return None, "read through a view that moves its elements"
        return Level.OUTER, ""

    def _judge_full(
        self, node: Node, use: Use, group: Group, reads: Level
    ) -> tuple[Level | None, str]:
        home = self.flow.homes[node]
        if home.inner and group.inner and home.inner != group.inner:
            return None, "reduces other axes"
        if _same_point(use.layout, group.space, group.inner, reads, Level.FULL):
            if node.op.kind is Kind.CONTRACTION:
                if group.inner:
                    return None, "reduction over a contraction's tile"
                if group.contraction is not None:
                    return None, "one contraction per kernel"
            if not self._bends(node, group, Level.FULL):
                return Level.FULL, ""
        per_row = node.op.kind in (Kind.ELEMENTWISE, Kind.VIEW) and group.inner
        if per_row and (reads is Level.OUTER or self._is_row(group.space, group.inner)):
            same = _same_point(use.layout, group.space, group.inner, reads, Level.OUTER)
            if same and not self._bends(node, group, Level.OUTER):
                return Level.OUTER, ""
        size = use.layout.shape
        if node.type.size < prod(size):
            return None, f"would be recomputed {prod(size) // max(node.type.size, 1)} times"
        if prod(size) != prod(group.space):
            return None, f"another iteration space: {size} into {group.space}"
        return None, "read through a view that moves its elements"

    def _is_row(self, space: tuple[int, ...], inner: tuple[int, ...]) -> bool:
        """Whether a reduction's result can be used in the same kernel: rows, or all of a tensor
        that is small enough to be one row."""
        form = reduction_form(space, inner)
        return form == "row" or (form == "full" and prod(space) <= self.target.single_row)

    def _bends(self, node: Node, group: Group, level: Level) -> bool:
        """Whether an operand of the node cannot be addressed by the loops of the group."""
        if node.op.kind is Kind.CONTRACTION:
            return False
        return bends(self.flow.sources(node), group.space, group.inner, level)

    # -- groups and what they reach

    def _joins(self, group: Group, others: Iterable[Group]) -> bool:
        """Whether no other user of the node leads back to the group."""
        return not any(o is not group and o.reaches & group.mask for o in others)

    def _merge(self, into: Group, group: Group) -> bool:
        in_line = into.reaches & group.mask or group.reaches & into.mask
        if in_line or not _have_one_loop_nest(into, group):
            return False
        into.mask |= group.mask
        into.inner = into.inner or group.inner
        if into.contraction is None:
            into.contraction = group.contraction
        into.members += group.members
        into.waiting |= group.waiting
        into.reaches |= group.reaches
        for member in group.members:
            self.placed[member] = (into, self.placed[member][1])
        for producer in group.waiting:
            readers = self._readers[producer]
            readers[:] = [r for r in readers if r is not group and r is not into] + [into]
        del self.groups[group]
        self._live.pop(group, None)
        self._spread(into)
        return True

    def _spread(self, group: Group) -> None:
        """Tell the live groups upstream what the group reaches."""
        for other in self._live:
            if other is not group and other.reaches & group.mask:
                other.reaches |= group.reaches | group.mask

    def _new_group(self, node: Node) -> Group:
        home = self.flow.homes[node]
        group = Group(home.space, home.inner, self._bit, node in self.updates)
        self._bit <<= 1
        self.groups[group] = None
        self._live[group] = None
        return group

    def _enter(self, node: Node, group: Group, level: Level, users: Iterable[Group]) -> None:
        group.members.append(node)
        self.placed[node] = (group, level)
        if node.op.kind is Kind.CONTRACTION:
            group.contraction = node
        if level is Level.OUTER and not group.inner:
            group.inner = self.flow.homes[node].inner
        before = group.reaches
        for user in users:
            if user is not group:
                group.reaches |= user.reaches | user.mask
        if group.reaches != before:
            self._spread(group)
        self._release(node)
        for base, _ in self.flow.sources(node):
            if self.flow.is_computed(base) and base not in group.waiting:
                group.waiting.add(base)
                self._readers.setdefault(base, []).append(group)
        if group.waiting:
            self._live[group] = None
        else:
            self._live.pop(group, None)

    def _release(self, node: Node) -> None:
        """Groups that were only waiting for this producer cannot be joined any more."""
        for reader in self._readers.pop(node, ()):
            reader.waiting.discard(node)
            if not reader.waiting:
                self._live.pop(reader, None)

    def _is_recomputed(self, node: Node) -> bool:
        """Whether every use of a random draw can draw it again in place."""
        if node in self.flow.root_bases:
            return False
        for use in self.flow.uses.get(node, ()):
            if use.consumer.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION):
                return False
            group, level = self.placed[use.consumer]
            reads = read_level(use.consumer, use.position, level)
            if not _same_point(use.layout, group.space, group.inner, reads, Level.FULL):
                return False
        return True


def _have_one_loop_nest(a: Group, b: Group) -> bool:
    """Whether two groups could be one kernel, as far as their loops go."""
    contractions = [g for g in (a, b) if g.contraction is not None]
    if contractions and (len(contractions) > 1 or a.inner or b.inner):
        return False
    same = a.inner == b.inner or not a.inner or not b.inner
    return same and a.space == b.space and a.is_update == b.is_update


def read_level(consumer: Node, position: int, level: Level) -> Level:
    """How often a statement at `level` reads its operand: reductions read at every point."""
    if consumer.op.kind is Kind.REDUCTION or (consumer.op.kind is Kind.GATHER and position == 0):
        return Level.FULL
    return level


def _same_point(
    layout: Layout, space: tuple[int, ...], inner: tuple[int, ...], reads: Level, made: Level
) -> bool:
    """Whether a read at level `reads` sees, at each point, the value made at that point."""
    if made is Level.FULL and reads is Level.OUTER:
        return False
    strides = strides_over(layout, space, inner, reads)
    return strides is not None and is_identity(layout, strides, space, inner, made)


def _tile_values(flow: Flow, updates: set[Node]) -> dict[Node, Node]:
    """Elementwise nodes computed, point by point, from a contraction: its possible epilogue."""
    found: dict[Node, Node] = {}
    for node in flow.computed:
        elementwise = node.op.kind is Kind.ELEMENTWISE and flow.homes[node].level is Level.FULL
        if not elementwise or node in updates:
            continue
        sources = flow.sources(node)
        if any(flow.is_computed(b) and flow.homes[b].level is Level.OUTER for b, _ in sources):
            continue  # waits for a reduction, which no contraction's kernel holds
        for base, layout in sources:
            tile = base if base.op.kind is Kind.CONTRACTION else found.get(base)
            if tile is not None and layout.is_contiguous and base.type.size == node.type.size:
                found[node] = tile
    return found


def _update_region(flow: Flow) -> set[Node]:
    """The elementwise nodes that serve nothing but the new values of parameters, of their shape."""
    outputs = {flow.bases[node][0] for _, node in flow.graph.outputs}
    roots = {flow.bases[node][0] for _, node in flow.graph.updates}
    region: set[Node] = set()
    for node in reversed(flow.computed):
        if node.op.kind is not Kind.ELEMENTWISE or node in outputs:
            continue
        uses = flow.uses.get(node, [])
        if not uses and node not in roots:
            continue
        if all(u.consumer in region and u.layout.is_contiguous
               and u.consumer.shape == node.shape for u in uses):  # fmt: skip
            region.add(node)
    for node in region:
        flow.homes[node] = Home(static_shape(node.type), (), Level.FULL)
    return region
