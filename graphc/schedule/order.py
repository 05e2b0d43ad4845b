"""From groups to a schedule: updates in place where that is safe, kernels in order.

Updates see the old values. A kernel that writes a parameter in place runs after every other kernel
that reads the old value (an anti-dependence); where that would close a cycle, or where the kernel
itself reads the old value later than it writes, the new value is computed aside and copied at the
end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from graphc.ir.graph import Graph
from graphc.ir.layout import contiguous_strides
from graphc.ir.node import Node, Param
from graphc.ir.tensor_type import static_shape
from graphc.schedule.build import build_kernels, source_buffer
from graphc.schedule.fuse import Fusion
from graphc.schedule.horizontal import merge_updates, slab_like
from graphc.schedule.records import (
    Access,
    Beta,
    Buffer,
    Copy,
    Kernel,
    Level,
    Line,
    Literal,
    Load,
    Schedule,
    Slab,
    Statement,
    Store,
    Target,
    Value,
)


def schedule(graph: Graph, target: Target) -> Schedule:
    """Fuse a bound graph into kernels for a target, and put them in order."""
    fusion = Fusion.of(graph, target)
    kernels, edges = build_kernels(fusion)
    outputs = {fusion.flow.bases[node][0] for _, node in graph.outputs}
    kernels = merge_updates(kernels, fusion.updates, outputs, target)
    position = {node: i for i, node in enumerate(graph.nodes)}
    ordering = _Ordering(kernels, position)
    updates = {p: fusion.flow.bases[node][0] for p, node in graph.updates}
    in_place, notes = _place_updates(ordering, updates)
    ordering.in_place = in_place
    copies = _copy_rest(ordering, updates, in_place)
    ordered = [ordering.kernels[i] for i in ordering.order()] + copies
    if target.beta:
        ordered = [_with_beta(k, in_place) for k in ordered]
    named = tuple(replace(k, name=f"k{i}_{k.name}") for i, k in enumerate(ordered))
    results = tuple(
        (name, cast(Buffer, fusion.flow.bases[node][0]), static_shape(node.type))
        for name, node in graph.outputs
    )
    return Schedule(graph, target, named, tuple(edges), results, in_place, tuple(notes))


def expand(buffer: Buffer) -> tuple[Buffer, ...]:
    """The buffer itself, or the members of a slab."""
    return buffer.members if isinstance(buffer, Slab) else (buffer,)


def may_alias(kernel: Kernel, read: Buffer, store: Store) -> bool:
    """Whether a kernel may write a store over a buffer it reads: element by element, never before
    the buffer's last use, and not an operand of its contraction or a piece of a join."""
    product = kernel.contraction
    if kernel.pieces or (product and (read is product.a.base or read is product.b.base)):
        return False
    accesses = [i for i, a in enumerate(kernel.operands) if a.base is read]
    if not accesses:
        return True
    if any(
        kernel.operands[i].strides != store.access.strides
        or kernel.operands[i].offset != store.access.offset
        for i in accesses
    ):
        return False
    level = kernel.statements[store.value].level
    return all(
        j <= store.value and s.level is level and not s.is_reduction
        for j, s in enumerate(kernel.statements)
        if any(isinstance(a, Load) and a.index in accesses for a in s.args)
    )


@dataclass
class _Ordering:
    """Kernels and what must run before what."""

    kernels: list[Kernel]
    position: Mapping[Node, int]
    writer: dict[Buffer, int] = field(default_factory=dict)
    readers: dict[Buffer, list[int]] = field(default_factory=dict)
    after: list[set[int]] = field(default_factory=list)
    in_place: Mapping[Buffer, Param | Slab] = field(default_factory=dict[Buffer, Param | Slab])

    def __post_init__(self) -> None:
        for i, kernel in enumerate(self.kernels):
            for access in kernel.writes:
                self.writer.update((b, i) for b in expand(access.base))
        self.after = [set() for _ in self.kernels]
        for i, kernel in enumerate(self.kernels):
            self._read(i, kernel)

    def add(self, kernel: Kernel) -> None:
        """Enter one more kernel."""
        self.kernels.append(kernel)
        self.after.append(set())
        for access in kernel.writes:
            self.writer.update((b, len(self.kernels) - 1) for b in expand(access.base))
        self._read(len(self.kernels) - 1, kernel)

    def _read(self, i: int, kernel: Kernel) -> None:
        for base in dict.fromkeys(b for a in kernel.reads for b in expand(a.base)):
            self.readers.setdefault(base, []).append(i)
            writer = self.writer.get(base)
            if writer is not None and writer != i:
                self.after[writer].add(i)

    def reaches(self, start: int, goals: set[int]) -> bool:
        """Whether any of the goals runs after `start` already."""
        stack, seen = [start], {start}
        while stack:
            here = stack.pop()
            if here in goals and here != start:
                return True
            fresh = self.after[here] - seen
            seen |= fresh
            stack.extend(fresh)
        return False

    def order(self) -> list[int]:
        """Kahn's algorithm. Among kernels that are ready, first those that write nothing but
        parameters, because they only free memory; then the one whose last node comes first."""
        waits = [0] * len(self.kernels)
        for later in self.after:
            for i in later:
                waits[i] += 1
        ready = [self._key(i) for i, n in enumerate(waits) if n == 0]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            _, _, i = heapq.heappop(ready)
            order.append(i)
            for later in self.after[i]:
                waits[later] -= 1
                if waits[later] == 0:
                    heapq.heappush(ready, self._key(later))
        assert len(order) == len(self.kernels), "fusion made a cycle of kernels"
        return order

    def _key(self, i: int) -> tuple[bool, int, int]:
        kernel = self.kernels[i]
        makes = any(access.base not in self.in_place for access in kernel.writes)
        return makes, max((self.position[n] for n in kernel.nodes), default=-1), i


def _place_updates(
    ordering: _Ordering, updates: Mapping[Param, Node]
) -> tuple[dict[Buffer, Param | Slab], list[str]]:
    """Which new values are computed right where the parameter lies."""
    in_place: dict[Buffer, Param | Slab] = {}
    notes: list[str] = []
    param_of: dict[Buffer, Param] = {}
    for param, base in updates.items():
        if base in ordering.writer and base not in param_of and not isinstance(base, Param):
            param_of[base] = param
    slab_of = _slabs_read(ordering.kernels)
    done: set[Buffer] = set()
    for i, kernel in enumerate(ordering.kernels):
        for store in kernel.stores:
            base = store.access.base
            members = expand(base)
            if base in done or not all(m in param_of for m in members):
                continue
            done.add(base)
            params = tuple(param_of[m] for m in members)
            why = _obstacle(ordering, i, store, params)
            home = _slab_home(params, slab_of, base) if isinstance(base, Slab) else params[0]
            if why or home is None:
                why = why or "another flat kernel needs it at another place of a slab"
                notes += [f"{p.name} is updated through a copy: {why}" for p in params]
                continue
            for param in params:
                for reader in ordering.readers.get(param, ()):
                    if reader != i:
                        ordering.after[reader].add(i)
            in_place[base] = home
    return in_place, notes


def _obstacle(ordering: _Ordering, i: int, store: Store, params: Sequence[Param]) -> str:
    """Why a kernel cannot write these parameters in place; empty if it can."""
    kernel = ordering.kernels[i]
    read = [a.base for a in kernel.reads if set(expand(a.base)) & set(params)]
    if not all(may_alias(kernel, base, store) for base in read):
        return "its kernel still needs the old value after writing the new one"
    readers = {r for p in params for r in ordering.readers.get(p, ()) if r != i}
    if ordering.reaches(i, readers):
        return "another kernel that runs later needs the old value"
    return ""


def _slabs_read(kernels: Iterable[Kernel]) -> dict[Buffer, Slab]:
    """The slab in which flat kernels read each parameter: it can lie in one only."""
    slabs = [a.base for kernel in kernels for a in kernel.reads if isinstance(a.base, Slab)]
    return {m: slab for slab in slabs for m in slab.members if isinstance(m, Param)}


def _slab_home(
    params: tuple[Param, ...], slab_of: dict[Buffer, Slab], written: Slab
) -> Slab | None:
    """The slab in which just these parameters lie as their new values do, or a new one; None if
    some lie in another."""
    first = slab_of.get(params[0])
    if first is None and not any(p in slab_of for p in params):
        slab = slab_like(written, params)
        slab_of.update(dict.fromkeys(params, slab))
        return slab
    if first is None or first.starts != written.starts or len(first.members) != len(params):
        return None
    return first if all(m is p for m, p in zip(first.members, params, strict=True)) else None


def _copy_rest(
    ordering: _Ordering, updates: Mapping[Param, Node], in_place: Mapping[Buffer, Param | Slab]
) -> list[Kernel]:
    """Copies, at the very end, for the new values that were not computed in place. A new value that
    is another parameter's old one is first copied aside, before anything overwrites it."""
    placed = {p for home in in_place.values() for p in expand(home)}
    last: list[Kernel] = []
    for param, base in updates.items():
        if param in placed or base is param:
            continue
        source: Buffer = source_buffer(base)
        if isinstance(base, Param):
            aside = Copy(param)
            ordering.add(_copy_kernel(base, source, aside, f"the old value of {base.name}"))
            index = len(ordering.kernels) - 1
            for home in in_place:
                ordering.after[index].add(ordering.writer[expand(home)[0]])
            source = aside
        last.append(_copy_kernel(base, source, param, "could not be computed in place"))
    return last


def _copy_kernel(node: Node, source: Buffer, target: Copy | Param, reason: str) -> Kernel:
    shape = static_shape(node.type)
    strides = contiguous_strides(shape)
    read = strides
    if isinstance(source, Line):
        read = source.layout.strides
    param = target.param if isinstance(target, Copy) else target
    copy = Statement(param, (Load(0),), Level.FULL, 0)  # of a source: a plain copy
    return Kernel(
        f"copy_{node.name}" if node.name.isidentifier() else "copy", shape, (),
        (Access(source, 0, read),), (copy,), (Store(0, Access(target, 0, strides)),),
        reason=reason,
    )  # fmt: skip


def _with_beta(kernel: Kernel, in_place: Mapping[Buffer, Param | Slab]) -> Kernel:
    """The kernel with `scale * old + a @ b` marked as the contraction's own, where it holds: the
    product has no other use, and the sum replaces the old value in place."""
    if kernel.contraction is None or any(s.value == 0 for s in kernel.stores):
        return kernel
    users = [i for i, s in enumerate(kernel.statements) if Value(0) in s.args]
    if len(users) != 1 or kernel.statements[users[0]].node.op.algebra != "sum":
        return kernel
    total = users[0]
    for argument in kernel.statements[total].args:
        if not isinstance(argument, Value) or argument.index == 0:
            continue
        beta = _beta(kernel, argument.index, total, in_place)
        if beta is not None:
            return replace(kernel, beta=beta)
    return kernel


def _beta(
    kernel: Kernel, product: int, total: int, in_place: Mapping[Buffer, Param | Slab]
) -> Beta | None:
    statement = kernel.statements[product]
    if statement.node.op.algebra != "product" or _count(kernel.statements, product) != 1:
        return None
    scale = next((a for a in statement.args if isinstance(a, Literal)), None)
    old = next((a for a in statement.args if isinstance(a, Load)), None)
    if scale is None or old is None or any(s.value == product for s in kernel.stores):
        return None
    access = kernel.operands[old.index]
    for store in kernel.stores:
        if store.value == total and in_place.get(store.access.base) is access.base:
            return Beta(scale, old.index, product, total)
    return None


def _count(statements: Iterable[Statement], value: int) -> int:
    return sum(a == Value(value) for s in statements for a in s.args)
