"""How the launches of a native program are shared among threads, and where threads must wait.

A part of a launch always runs in the thread of its number. Two launches may follow each other
without a barrier if no thread reads or writes bytes that another thread wrote: they touch other
bytes, or the same ones cut in the same way, so that rows stay with their thread from layer to
layer.
What lies where is only known once memory is planned: buffers share the bytes of the arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.backends.host_memory import extent_in_memory
from graphc.codegen.host import HostProgram, Launch
from graphc.codegen.shape import spread
from graphc.schedule.records import Access, Kernel, Program, buffer_nbytes

GRAIN = 4e-7  # seconds of work that are worth a part of their own
SMALL = 1.5e-5  # seconds up to which a program is not worth waking a second thread
MOST_PENDING = 256  # accesses that a launch is compared with; beyond that a barrier is cheaper


@dataclass(frozen=True, slots=True)
class Step:
    """A launch in so many parts; `barrier`: all parts before it must be finished first."""

    parts: int
    barrier: bool


@dataclass(frozen=True, slots=True)
class _Touch:
    """Bytes that a launch reads or writes; `rows` tells how parts share them, if they do."""

    home: Any
    first: int
    last: int
    rows: tuple[int, ...] | None
    parts: int
    writes: bool

    def clashes(self, other: _Touch) -> bool:
        """Whether the two may meet in one byte in two threads, and one of them writes."""
        if not (self.writes or other.writes) or self.home != other.home:
            return False
        if self.first >= other.last or other.first >= self.last:
            return False
        if self.parts == other.parts == 1:
            return False
        return self.rows is None or self.rows != other.rows


def plan_steps(program: Program, printed: HostProgram, threads: int) -> list[Step]:
    """Parts and barriers for every launch, for so many threads."""
    assert not program.param_slabs, "a slab and its members would not be seen to share bytes"
    if sum(launch.seconds for launch in printed.launches) < SMALL:
        threads = 1
    parts = [_parts(launch, threads) for launch in printed.launches]
    if all(n == 1 for n in parts):
        return [Step(1, False)] * len(parts)
    pending: list[_Touch] = []
    steps: list[Step] = []
    before: Launch | None = None
    for launch, count in zip(printed.launches, parts, strict=True):
        kernel = program.kernels[launch.kernel]
        touched = list(_touched(program, kernel, launch, count))
        follows_itself = before is not None and before.kernel == launch.kernel
        barrier = (
            (follows_itself and max(steps[-1].parts, count) > 1)
            or len(pending) > MOST_PENDING
            or any(t.clashes(p) for t in touched for p in pending)
        )
        if barrier:
            pending = []
        pending += touched
        steps.append(Step(count, barrier))
        before = launch
    return steps


def _parts(launch: Launch, threads: int) -> int:
    most = max(1, -(-launch.share.extent // launch.share.unit))
    return int(max(1, min(threads, most, launch.seconds / GRAIN)))


def _touched(program: Program, kernel: Kernel, launch: Launch, parts: int) -> Iterator[_Touch]:
    axis = launch.share.axis
    if kernel.contraction is not None:
        c = kernel.contraction
        yield _touch(program, c.a, (*c.batch, c.m), (c.k,), axis, launch, parts, False)
        yield _touch(program, c.b, (*c.batch, c.k, c.n), (), None, launch, parts, False)
        kernel = spread(kernel)
        axis = axis if axis is None or axis >= 0 else len(kernel.space) + axis
    for access in kernel.operands:
        yield _touch(program, access, kernel.space, (), axis, launch, parts, False)
    for store in kernel.stores:
        yield _touch(program, store.access, kernel.space, (), axis, launch, parts, True)
    for piece in kernel.pieces:
        yield _touch(program, piece.source, piece.shape, (), None, launch, parts, False)
        yield _touch(program, piece.target, piece.shape, (), None, launch, parts, True)


def _touch(
    program: Program, access: Access, extents: Sequence[int], more: Sequence[int],
    axis: int | None, launch: Launch, parts: int, writes: bool,
) -> _Touch:  # fmt: skip
    """`more`: extents of further loops of the access, which parts do not share."""
    home, first, last = extent_in_memory(program, access.base)
    if home != "arena":
        last = first + max(1, buffer_nbytes(access.base))
    itemsize = access.base.dtype.itemsize
    rows: tuple[int, ...] | None = None
    if parts > 1 and axis is not None:
        if axis < 0:
            axis += len(extents) + 1
        step = access.strides[axis]
        shape = (*extents, *more)
        inside = sum(
            abs(s) * (n - 1)
            for i, (s, n) in enumerate(zip(access.strides, shape, strict=True)) if i != axis
        )  # fmt: skip
        if step > 0 and inside < step and all(s >= 0 for s in access.strides):
            start = first + access.offset * itemsize
            rows = (start, step * itemsize, launch.share.extent, launch.share.unit, parts)
    return _Touch(home, first, last, rows, parts, writes)
