"""The memory plan: live ranges to offsets in one arena.

A buffer lives from the kernel that writes it to the last that reads it. Where a kernel may write
over an operand that dies in it, the result takes over the operand's bytes. The rest are placed one
by one, each into the smallest gap that is free during its life, in the best of a few orders; above
600 buffers by a linear scan over time with best fit, because the first way is quadratic.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.op import Kind
from graphc.schedule.order import expand, may_alias
from graphc.schedule.records import (
    Allocation,
    Buffer,
    MemoryPlan,
    Schedule,
    Slab,
    buffer_nbytes,
)

EXACT_LIMIT = 600  # buffers


@dataclass
class _Life:
    """One stretch of arena and the buffers that use it one after another, in place."""

    nbytes: int
    first: int
    last: int
    buffers: list[Buffer] = field(default_factory=list)
    offset: int = 0


ORDERS: tuple[Callable[[_Life], tuple[int, int]], ...] = (
    lambda v: (-v.nbytes, v.first),
    lambda v: (-v.nbytes * (v.last - v.first + 1), v.first),
    lambda v: (v.first - v.last, -v.nbytes),
    lambda v: (v.first, -v.nbytes),
    lambda v: (-v.last, -v.nbytes),
)


def plan_memory(schedule: Schedule) -> MemoryPlan:
    """Offsets for all temporaries of a schedule."""
    alignment = schedule.target.alignment
    ranges = live_ranges(schedule)
    lives, alias_of = _share(schedule, ranges, alignment)
    peak = (_place_exactly if len(lives) <= EXACT_LIMIT else _place_by_time)(lives)
    allocations: list[Allocation] = []
    for life in lives:
        for buffer in life.buffers:
            first, last = ranges[buffer]
            allocations.append(
                Allocation(buffer, life.offset, buffer_nbytes(buffer), first, last,
                           alias_of.get(buffer))
            )  # fmt: skip
    allocations.sort(key=lambda a: (a.first, a.offset))
    return MemoryPlan(
        schedule, tuple(allocations), peak, _largest_sum(lives), naive_nbytes(schedule), alignment
    )


def arena_buffers(schedule: Schedule) -> list[Buffer]:
    """The buffers that need room in the arena: written by a kernel, no results or parameters."""
    results = {buffer for _, buffer, _ in schedule.results}
    slabs = _slabs(schedule)
    members = {m for slab in slabs for m in slab.members}
    homes = set(schedule.in_place) | {m for b in schedule.in_place for m in expand(b)}
    targets = {b for home in schedule.in_place.values() for b in (home, *expand(home))}
    params = set(schedule.graph.params)
    return [
        b
        for b in dict.fromkeys((*schedule.stored, *slabs))
        if b not in members and b not in homes and b not in targets
        and params.isdisjoint(expand(b)) and b not in results
    ]  # fmt: skip


def live_ranges(schedule: Schedule) -> dict[Buffer, tuple[int, int]]:
    """First and last kernel of every arena buffer, both inclusive; slabs as a whole."""
    wanted = arena_buffers(schedule)
    owner: dict[Buffer, Buffer] = {m: b for b in wanted for m in (b, *expand(b))}
    ranges: dict[Buffer, tuple[int, int]] = {}
    for i, kernel in enumerate(schedule.kernels):
        for access in (*kernel.reads, *kernel.writes):
            buffer = owner.get(access.base)
            if buffer is not None:
                ranges[buffer] = (ranges.get(buffer, (i, i))[0], i)
    return ranges


def naive_nbytes(schedule: Schedule) -> int:
    """Bytes with one buffer for each computed node of the simplified graph."""
    return sum(
        n.type.nbytes for n in schedule.graph.nodes if n.op.kind not in (Kind.SOURCE, Kind.VIEW)
    )


def _slabs(schedule: Schedule) -> list[Slab]:
    found = (a.base for k in schedule.kernels for a in (*k.reads, *k.writes))
    return [b for b in dict.fromkeys(found) if isinstance(b, Slab)]


def _share(
    schedule: Schedule, ranges: Mapping[Buffer, tuple[int, int]], alignment: int
) -> tuple[list[_Life], dict[Buffer, Buffer]]:
    """Let results take over the bytes of operands that die where they are written."""
    life_of: dict[Buffer, _Life] = {}
    alias_of: dict[Buffer, Buffer] = {}
    lives: list[_Life] = []
    starts: dict[int, list[Buffer]] = {}
    for buffer, (first, _) in ranges.items():
        starts.setdefault(first, []).append(buffer)
    for i, kernel in enumerate(schedule.kernels):
        starting = [s for s in kernel.stores if ranges.get(s.access.base, (-1, 0))[0] == i]
        dying = [
            a.base for a in kernel.operands if ranges.get(a.base, (i, -1))[1] == i
            and ranges[a.base][0] < i
        ]  # fmt: skip
        for store in starting:
            buffer = store.access.base
            for base in dict.fromkeys(dying):
                same = buffer_nbytes(base) == buffer_nbytes(buffer)
                writers = [s for s in kernel.stores if s.access.base is buffer]
                if same and len(writers) == 1 and may_alias(kernel, base, store):
                    dying = [d for d in dying if d is not base]
                    life = life_of[base]
                    life.last = ranges[buffer][1]
                    life.buffers.append(buffer)
                    life_of[buffer], alias_of[buffer] = life, base
                    break
        for buffer in starts.get(i, ()):
            if buffer not in life_of:
                nbytes = -(-buffer_nbytes(buffer) // alignment) * alignment
                life_of[buffer] = _Life(nbytes, *ranges[buffer], [buffer])
                lives.append(life_of[buffer])
    return lives, alias_of


def _place_exactly(lives: Sequence[_Life]) -> int:
    """The best of several orders, taken one after another until no plan could need less."""
    least = _largest_sum(lives)
    best, offsets = -1, [0] * len(lives)
    for order in ORDERS:
        peak = _place_in_order(sorted(lives, key=order))
        if best < 0 or peak < best:
            best, offsets = peak, [life.offset for life in lives]
        if best == least:
            break
    for life, offset in zip(lives, offsets, strict=True):
        life.offset = offset
    return best


def _place_in_order(lives: Sequence[_Life]) -> int:
    """Each into the smallest sufficient gap between those placed before that live when it does."""
    placed: list[_Life] = []
    peak = 0
    for life in lives:
        busy = sorted(
            (p.offset, p.offset + p.nbytes)
            for p in placed
            if p.first <= life.last and life.first <= p.last
        )
        best: tuple[int, int] | None = None
        end = 0
        for start, stop in busy:
            gap = start - end
            if gap >= life.nbytes and (best is None or gap < best[0]):
                best = (gap, end)
            end = max(end, stop)
        life.offset = best[1] if best else end
        placed.append(life)
        peak = max(peak, life.offset + life.nbytes)
    return peak


def _place_by_time(lives: Sequence[_Life]) -> int:
    """In order of their starts, each into the smallest free block that is large enough."""
    free: list[tuple[int, int]] = []  # (size, offset), sorted
    by_end: dict[int, tuple[int, int]] = {}  # end -> block, and
    by_start: dict[int, tuple[int, int]] = {}  # start -> block, to join neighbours
    peak = 0

    def release(offset: int, size: int) -> None:
        left, right = by_end.get(offset), by_start.get(offset + size)
        for block in (left, right):
            if block:
                take(block)
        offset = left[1] if left else offset
        size += (left[0] if left else 0) + (right[0] if right else 0)
        block = (size, offset)
        bisect.insort(free, block)
        by_start[offset] = by_end[offset + size] = block

    def take(block: tuple[int, int]) -> None:
        free.pop(bisect.bisect_left(free, block))
        del by_start[block[1]], by_end[block[0] + block[1]]

    ends = sorted(lives, key=lambda v: v.last)
    done = 0
    for life in sorted(lives, key=lambda v: (v.first, -v.nbytes)):
        while done < len(ends) and ends[done].last < life.first:
            if ends[done].nbytes:
                release(ends[done].offset, ends[done].nbytes)
            done += 1
        if not life.nbytes:
            continue
        at = bisect.bisect_left(free, (life.nbytes, -1))
        if at < len(free):
            size, offset = free[at]
            take((size, offset))
            life.offset = offset
            if size > life.nbytes:
                release(offset + life.nbytes, size - life.nbytes)
        else:
            tail = by_end.get(peak)  # grow the last block, if it is free
            life.offset = tail[1] if tail else peak
            if tail:
                take(tail)
            peak = life.offset + life.nbytes
    return peak


def _largest_sum(lives: Sequence[_Life]) -> int:
    """The largest number of bytes alive at one kernel: no plan can need less."""
    changes: dict[int, int] = {}
    for life in lives:
        changes[life.first] = changes.get(life.first, 0) + life.nbytes
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.nbytes
    alive = largest = 0
    for time in sorted(changes):
        alive += changes[time]
        largest = max(largest, alive)
    return largest
