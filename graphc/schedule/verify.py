"""Checks between stages: what later passes take for granted of a schedule and a memory plan.

Each raises CompileError, naming the kernel and the buffer: a failure is a defect of graphc.
"""

from __future__ import annotations

import bisect
import heapq
from math import prod

from graphc.errors import CompileError
from graphc.ir.graph import is_external
from graphc.ir.node import Param
from graphc.ir.op import Kind
from graphc.schedule.order import expand, may_alias
from graphc.schedule.records import (
    Access,
    Allocation,
    Buffer,
    Copy,
    Kernel,
    Level,
    Line,
    MemoryPlan,
    Schedule,
    Slab,
    Value,
    buffer_shape,
)


def verify_schedule(schedule: Schedule) -> None:
    """Arguments precede, stages and levels fit the form, operands are sources or were stored by an
    earlier kernel, stores are in bounds, no old value is read after it was overwritten, and no
    buffer lies in two slabs."""
    _verify_slabs(schedule)
    written: set[Buffer] = set()
    overwritten: dict[Param, str] = {}
    for kernel in schedule.kernels:
        _verify_kernel(kernel)
        for access in kernel.reads:
            _verify_bounds(kernel, access)
            for base in expand(access.base):
                if not _is_source(base) and base not in written:
                    raise CompileError(f"{kernel.name} reads {base.name} before it is computed")
                if isinstance(base, Param) and base in overwritten:
                    raise CompileError(
                        f"{kernel.name} reads the old value of {base.name} after "
                        f"{overwritten[base]} wrote the new one"
                    )
        for access in kernel.writes:
            _verify_bounds(kernel, access)
            home = schedule.in_place.get(access.base, access.base)
            for base in expand(access.base):
                written.add(base)
            written.add(access.base)
            overwritten.update((p, kernel.name) for p in expand(home) if isinstance(p, Param))
    for name, buffer, _ in schedule.results:
        if not _is_source(buffer) and buffer not in written:
            raise CompileError(f"output {name!r} is never computed")
    for param, new in schedule.graph.updates:
        if new is not param and param not in overwritten:
            raise CompileError(f"the update of {param.name} is never stored")


def _verify_kernel(kernel: Kernel) -> None:
    reductions = [s for s in kernel.statements if s.is_reduction]
    if kernel.contraction is not None and reductions:
        raise CompileError(f"{kernel.name} mixes a contraction with reductions")
    for i, statement in enumerate(kernel.statements):
        for argument in statement.args:
            if isinstance(argument, Value) and argument.index >= i:
                raise CompileError(f"{kernel.name}: statement {i} uses a later statement")
            if isinstance(argument, Value):
                before = kernel.statements[argument.index]
                if before.stage + before.is_reduction > statement.stage:
                    raise CompileError(f"{kernel.name}: statement {i} runs before its argument")
        if statement.node.op.kind is Kind.CONTRACTION and i:
            raise CompileError(f"{kernel.name}: a contraction must be statement 0")
        if statement.level is Level.FULL and statement.stage and kernel.form != "row":
            raise CompileError(
                f"{kernel.name}: full-level statement {i} follows a reduction in {kernel.form} form"
            )


def _verify_slabs(schedule: Schedule) -> None:
    accesses = (a for k in schedule.kernels for a in (*k.reads, *k.writes))
    bases: list[Buffer] = [*(a.base for a in accesses), *schedule.in_place.values()]
    home: dict[Buffer, Buffer] = {}
    for base in bases:
        for member in base.members if isinstance(base, Slab) else ():
            if home.setdefault(member, base) is not base:
                raise CompileError(f"{member.name} lies in two slabs")


def _verify_bounds(kernel: Kernel, access: Access) -> None:
    extents = kernel.space
    contraction = kernel.contraction
    if contraction is not None and access is contraction.a:
        extents = (*contraction.batch, contraction.m, contraction.k)
    elif contraction is not None and access is contraction.b:
        extents = (*contraction.batch, contraction.k, contraction.n)
    for piece in kernel.pieces:
        if access is piece.source or access is piece.target:
            extents = piece.shape
    if not prod(extents):
        return
    reach = [s * (n - 1) for s, n in zip(access.strides, extents, strict=True)]
    low = access.offset + sum(r for r in reach if r < 0)
    high = access.offset + sum(r for r in reach if r > 0)
    size = prod(buffer_shape(access.base))
    if low < 0 or high >= size:
        raise CompileError(
            f"{kernel.name} addresses elements {low} to {high} of {access.base.name}, "
            f"which has {size}"
        )


def _is_source(buffer: Buffer) -> bool:
    if isinstance(buffer, Line | Param):
        return True
    if isinstance(buffer, Copy | Slab):
        return False
    return is_external(buffer) or buffer.op.kind is Kind.SOURCE


def verify_plan(plan: MemoryPlan) -> None:
    """No two buffers that are alive at once share a byte, unless one takes over the other's in
    place, in a kernel that does not need it any more; offsets are aligned and below the peak."""
    for allocation in plan.allocations:
        if allocation.offset % plan.alignment:
            raise CompileError(f"{allocation.buffer.name} is not aligned: {allocation.offset}")
        if allocation.offset + allocation.nbytes > plan.peak_nbytes:
            raise CompileError(f"{allocation.buffer.name} lies beyond the planned peak")
        if allocation.alias_of is not None:
            _verify_in_place(plan.schedule.kernels[allocation.first], allocation)
    alive: list[tuple[int, int, Allocation]] = []  # by offset
    ends: list[tuple[int, int, int]] = []  # last kernel, then the key of `alive`
    order = [a for a in plan.allocations if a.nbytes]
    for number, allocation in enumerate(sorted(order, key=lambda a: a.first)):
        while ends and ends[0][0] < allocation.first:
            _remove(alive, heapq.heappop(ends)[1:])
        at = bisect.bisect_left(alive, (allocation.offset, -1), key=lambda e: e[:2])
        beside = alive[max(0, at - 1) : at] + alive[at : at + 1]
        for offset, key, other in beside:
            shared = offset < allocation.offset + allocation.nbytes and (
                allocation.offset < offset + other.nbytes
            )
            if shared and allocation.alias_of is other.buffer and other.last == allocation.first:
                _remove(alive, (offset, key))  # handed over in place
            elif shared:
                raise CompileError(
                    f"{allocation.buffer.name} and {other.buffer.name} are alive at once and share "
                    f"bytes of the arena"
                )
        bisect.insort(alive, (allocation.offset, number, allocation), key=lambda e: e[:2])
        heapq.heappush(ends, (allocation.last, allocation.offset, number))


def _verify_in_place(kernel: Kernel, allocation: Allocation) -> None:
    buffer, below = allocation.buffer, allocation.alias_of
    assert below is not None
    stores = [s for s in kernel.stores if s.access.base is buffer]
    if len(stores) != 1 or not may_alias(kernel, below, stores[0]):
        raise CompileError(
            f"{kernel.name} cannot write {buffer.name} over {below.name}, which it still reads"
        )


def _remove(alive: list[tuple[int, int, Allocation]], key: tuple[int, ...]) -> None:
    at = bisect.bisect_left(alive, key, key=lambda entry: entry[:2])
    if at < len(alive) and alive[at][:2] == key:
        del alive[at]
