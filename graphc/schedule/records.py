"""The records that scheduling makes and every backend reads.

    Schedule    kernels in order, and for each edge of the graph why it was fused or not
    Kernel      an iteration space, the statements computed in it, what it loads and stores
    MemoryPlan  where each temporary lies in the arena, and when it is alive
    Program     launches in order, with the place of every buffer

One kernel record serves elementwise, row, column, full and contraction kernels, on NumPy and in C:
a printer needs no further analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from math import prod

from graphc.ir.graph import Graph
from graphc.ir.layout import Layout, contiguous_strides
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.ir.tensor_type import DType, static_shape


@dataclass(frozen=True, slots=True)
class Target:
    """What a backend likes, as far as fusion and lowering ask.

    `beta`: the contraction can compute `c = beta * c + a @ b`, so that parameter updates join its
    epilogue. Without it, updates are kernels of their own, and those of parameters of at most
    `horizontal` elements run together as one flat kernel. `epilogue`: other statements may join a
    contraction's kernel; without it, as where a library computes products, none does.
    """

    name: str
    beta: bool = False
    epilogue: bool = True
    horizontal: int = 0
    max_statements: int = 128
    single_row: int = 1 << 16  # elements up to which a whole tensor may be reduced as one row
    alignment: int = 64  # bytes, of every buffer


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Several buffers of one dtype that lie one behind another, each start aligned, so that one
    flat kernel covers them all. What lies in the gaps is never read outside such kernels."""

    name: str
    members: tuple[Node, ...]
    starts: tuple[int, ...]  # in elements
    size: int  # elements, gaps included

    @property
    def dtype(self) -> DType:
        return self.members[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)


@dataclass(frozen=True, slots=True)
class Copy:
    """The new value of `param` on its way there, when it cannot be computed in place."""

    param: Param

    @property
    def dtype(self) -> DType:
        return self.param.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return static_shape(self.param.type)

    @property
    def name(self) -> str:
        return f"next {self.param.name}"


@dataclass(frozen=True, slots=True)
class Line:
    """The distinct elements of a source that repeats them, such as an iota: one per step of the one
    axis whose stride is not 0."""

    node: Node

    @property
    def dtype(self) -> DType:
        return self.node.dtype

    @property
    def layout(self) -> Layout:
        """How the source repeats the line."""
        assert self.node.op.view is not None
        layout = self.node.op.view(**dict(self.node.attrs))
        assert layout is not None
        return layout

    @property
    def shape(self) -> tuple[int, ...]:
        layout = self.layout
        moving = [n for n, s in zip(layout.shape, layout.strides, strict=True) if s]
        return (moving[0] if moving else min(1, prod(layout.shape)),)

    @property
    def name(self) -> str:
        return self.node.name


Buffer = Node | Slab | Copy | Line
"""What memory is planned for. A node here is never a view: views are accesses to what is below."""


def buffer_shape(buffer: Buffer) -> tuple[int, ...]:
    """The shape of one buffer, all of it known."""
    return static_shape(buffer.type) if isinstance(buffer, Node) else buffer.shape


def buffer_nbytes(buffer: Buffer) -> int:
    """Bytes of one buffer, gaps of slabs included."""
    return prod(buffer_shape(buffer)) * buffer.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Access:
    """Where a kernel reads or writes: element `offset + sum(loop index * stride)` of `base`."""

    base: Buffer
    offset: int
    strides: tuple[int, ...]  # in elements, one per loop of the space; 0 repeats


@dataclass(frozen=True, slots=True)
class Value:
    """An argument: the result of an earlier statement."""

    index: int


@dataclass(frozen=True, slots=True)
class Load:
    """An argument: the element that operand `index` of the kernel addresses."""

    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """An argument: a constant, given by a node of one element (a const or a size)."""

    node: Node


Argument = Value | Load | Literal


class Level(Enum):
    """How often a statement is computed: for every point of the space, or once per outer point."""

    FULL = "full"
    OUTER = "outer"


@dataclass(frozen=True, slots=True)
class Statement:
    """One node computed in a kernel. Statements are in SSA order, sorted by stage.

    `stage` counts the reductions that must be finished before the statement can run. A statement
    whose node is a view or a source is a plain copy of its argument.
    """

    node: Node
    args: tuple[Argument, ...]
    level: Level
    stage: int

    @property
    def is_reduction(self) -> bool:
        """Whether it takes full-level arguments to an outer-level value."""
        return self.node.op.kind in (Kind.REDUCTION, Kind.GATHER)

    @property
    def is_copy(self) -> bool:
        return self.node.op.kind in (Kind.VIEW, Kind.SOURCE)


@dataclass(frozen=True, slots=True)
class Store:
    """Statement `value` is written where `access` says."""

    value: int
    access: Access


@dataclass(frozen=True, slots=True)
class Contraction:
    """The product computed by statement 0 of a contraction kernel: batch x (m, k) @ (k, n).

    The strides of `a` run over (*batch, m, k), those of `b` over (*batch, k, n): a transposed
    operand has its unit stride on the other axis.
    """

    a: Access
    b: Access
    batch: tuple[int, ...]
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        return 2 * prod(self.batch) * self.m * self.n * self.k


@dataclass(frozen=True, slots=True)
class Beta:
    """`c = scale * c + a @ b`: the contraction adds to operand `operand`, updated in place.

    Statement `product` (scale times the operand) and `total` (the sum) are then the product's own
    business: a backend computes them within the contraction.
    """

    scale: Literal
    operand: int
    product: int
    total: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a join: `shape` elements copied from one access to another."""

    shape: tuple[int, ...]
    source: Access
    target: Access


@dataclass(frozen=True)
class Kernel:
    """A loop nest over `space` (`inner` are the axes reduced over), or a join of pieces.

    Invariants (checked by `schedule/verify.py`): at most one contraction, as statement 0, never
    with reductions; all reductions share `inner`; arguments precede; every operand is a source or
    was stored by an earlier kernel; full-level statements of stage > 0 only in row form.
    """

    name: str
    space: tuple[int, ...]
    inner: tuple[int, ...]
    operands: tuple[Access, ...]
    statements: tuple[Statement, ...]
    stores: tuple[Store, ...]
    contraction: Contraction | None = None
    beta: Beta | None = None
    pieces: tuple[Piece, ...] = ()
    fill: float | None = None  # of a join: what lies between the pieces
    reason: str = ""  # why it is a kernel of its own
    nodes: tuple[Node, ...] = ()  # every node computed here; more than statements in a flat kernel

    @property
    def form(self) -> str:
        """join, contraction, elementwise, row, column or full."""
        if self.pieces:
            return "join"
        if self.contraction is not None:
            return "contraction"
        if not self.inner:
            return "elementwise"
        return reduction_form(self.space, self.inner)

    @property
    def outer(self) -> tuple[int, ...]:
        """The loops that are not reduced over."""
        return tuple(i for i in range(len(self.space)) if i not in self.inner)

    @property
    def size(self) -> int:
        """Points of the iteration space."""
        return prod(self.space)

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """Every access that is read, contraction operands and pieces included."""
        product = (self.contraction.a, self.contraction.b) if self.contraction else ()
        return (*product, *self.operands, *(p.source for p in self.pieces))

    @cached_property
    def writes(self) -> tuple[Access, ...]:
        """Every access that is written."""
        return (*(s.access for s in self.stores), *(p.target for p in self.pieces))

    @cached_property
    def flops(self) -> int:
        """Floating-point operations: 2mnk for a product, one per element for other statements."""
        outer = prod(self.space[i] for i in self.outer)
        total = self.contraction.flops if self.contraction else 0
        for statement in self.statements:
            if statement.is_copy or statement.node.op.kind is Kind.CONTRACTION:
                continue
            full = statement.level is Level.FULL or statement.is_reduction
            total += self.size if full else outer
        return total

    @cached_property
    def nbytes(self) -> int:
        """Bytes read and written, each buffer counted once, no more than it holds."""
        return sum(buffer_nbytes(b) for b in {a.base for a in self.reads}) + sum(
            buffer_nbytes(b) for b in {a.base for a in self.writes}
        )


def reduction_form(space: tuple[int, ...], inner: tuple[int, ...]) -> str:
    """full: no loop is left; row: the reduced loops are the last ones; else column."""
    if len(inner) == len(space):
        return "full"
    first = len(space) - len(inner)
    return "row" if inner == tuple(range(first, len(space))) else "column"


def store_strides(space: tuple[int, ...], inner: tuple[int, ...], level: Level) -> tuple[int, ...]:
    """The strides over the space of a contiguous buffer of full-level or outer-level values."""
    if level is Level.FULL:
        return contiguous_strides(space)
    outer = [i for i in range(len(space)) if i not in inner]
    packed = contiguous_strides(tuple(space[i] for i in outer))
    by_loop = dict(zip(outer, packed, strict=True))
    return tuple(by_loop.get(i, 0) for i in range(len(space)))


@dataclass(frozen=True, slots=True)
class Edge:
    """A producer and a consumer of the simplified graph: fused, saving bytes, or not, and why."""

    producer: Node
    consumer: Node
    fused: bool
    reason: str
    saved_nbytes: int = 0


@dataclass(frozen=True)
class Schedule:
    """Kernels in an order that respects their dependences, and the decisions that led to them.

    `results` says which buffer holds each output (with the output's shape); `in_place` maps a
    buffer to the parameter it is computed into; `notes` tell why a parameter is updated by a copy.
    """

    graph: Graph
    target: Target
    kernels: tuple[Kernel, ...]
    edges: tuple[Edge, ...]
    results: tuple[tuple[str, Buffer, tuple[int, ...]], ...]
    in_place: Mapping[Buffer, Param | Slab]
    notes: tuple[str, ...] = ()

    @cached_property
    def stored(self) -> tuple[Buffer, ...]:
        """Every buffer that a kernel writes, in order of writing."""
        seen: dict[Buffer, None] = {}
        for kernel in self.kernels:
            for access in kernel.writes:
                seen.setdefault(access.base)
        return tuple(seen)


@dataclass(frozen=True, slots=True)
class Allocation:
    """`buffer` occupies `nbytes` at `offset` of the arena from kernel `first` to `last` inclusive.

    `alias_of`: the buffer whose bytes it takes over in place, in the kernel where that one dies.
    """

    buffer: Buffer
    offset: int
    nbytes: int
    first: int
    last: int
    alias_of: Buffer | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """The arena. `naive_nbytes` is what one buffer per node of the simplified graph would take,
    `live_nbytes` the largest sum of bytes alive at once (a lower bound for the peak)."""

    schedule: Schedule
    allocations: tuple[Allocation, ...]
    peak_nbytes: int
    live_nbytes: int
    naive_nbytes: int
    alignment: int

    def __repr__(self) -> str:
        return (
            f"<memory plan: {len(self.allocations)} buffers in {self.peak_nbytes} bytes, at least "
            f"{self.live_nbytes} alive at once, {self.naive_nbytes} without sharing>"
        )

    @cached_property
    def by_buffer(self) -> dict[Buffer, Allocation]:
        return {a.buffer: a for a in self.allocations}


class Region(Enum):
    """The kinds of memory a program uses."""

    ARENA = "arena"  # temporaries, at planned offsets
    PARAM = "param"  # parameters, at fixed addresses outside the arena
    INPUT = "input"  # given with each call
    RESULT = "result"  # fresh with each call
    CONSTANT = "constant"  # computed once, when the program is prepared


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer lies: at a byte offset of the arena, or in the memory of `owner`."""

    region: Region
    offset: int = 0
    owner: Buffer | None = None


@dataclass(frozen=True)
class Program:
    """What a backend prepares: kernels to launch in order, and the place of every buffer.

    `results`: name, buffer and shape of each output. Outputs that are sources are copied before the
    first launch, so that they show the old values of parameters.
    """

    plan: MemoryPlan
    places: Mapping[Buffer, Place]
    param_slabs: tuple[Slab, ...] = field(default=())

    @property
    def schedule(self) -> Schedule:
        return self.plan.schedule

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return self.schedule.kernels

    @property
    def results(self) -> tuple[tuple[str, Buffer, tuple[int, ...]], ...]:
        return self.schedule.results
