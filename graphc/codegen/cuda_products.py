"""Matrix products on a GPU: by the library where it can, else by a kernel of tiles.

The library takes matrices with neighbours in a row or in a column, and stacks with one step; others
are copied first. Products of integers are computed by kernels/product.cuh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product as all_of
from math import prod

from graphc.codegen.cuda_function import ENOUGH, NOTHING, THREADS, CudaFunction, CudaPrinted
from graphc.codegen.cuda_simple import copy_lines
from graphc.codegen.expression import c_type, index, size_text
from graphc.codegen.function import plain
from graphc.codegen.launches import (
    Address,
    FillLaunch,
    KernelLaunch,
    Launch,
    Product,
    ProductLaunch,
)
from graphc.codegen.shape import spread
from graphc.codegen.tables import Slot, Slots, Tables
from graphc.ir.layout import contiguous_strides
from graphc.schedule.records import Access, Kernel

TILE = 16  # rows and columns of a tile of product.cuh
MOST_LAUNCHES = 32  # of one product; a stack in more pieces is copied first


@dataclass(frozen=True)
class _Matrix:
    """An operand: where it lies, strides over (*batch, rows, columns) in elements."""

    slot: Slot
    offset: int
    strides: tuple[int, ...]
    itemsize: int

    def address(self, offset: int) -> Address:
        """Of an element so many behind the first."""
        return Address(self.slot, (self.offset + offset) * self.itemsize)

    def row(self, rows: int, columns: int) -> tuple[int, bool] | None:
        """Elements between stored rows, and whether it is stored transposed; None if neither way
        has neighbours side by side."""
        r, c = self.strides[-2:]
        if (c == 1 or columns == 1) and (r >= max(columns, 1) or rows == 1):
            return max(r if rows > 1 else columns, columns, 1), False
        if (r == 1 or rows == 1) and (c >= max(rows, 1) or columns == 1):
            return max(c if columns > 1 else rows, rows, 1), True
        return None


def print_product(tables: Tables, kernel: Kernel, number: int, precision: str) -> CudaPrinted:
    """The launches of a product, after those that copy its operands if need be."""
    c = kernel.contraction
    assert c is not None
    assert len(kernel.statements) == 1, "on a GPU a product is a kernel of its own"
    wide = spread(kernel)
    target = wide.stores[0].access
    result = wide.statements[0].node.dtype
    m, n, k = int(c.m), int(c.n), int(c.k)
    whole = prod(map(int, c.batch)) * m * n
    if not whole:
        return NOTHING
    if not k:
        fill = FillLaunch(Address(target.base), whole * result.itemsize, number)
        return CudaPrinted((), (fill,), Slots())
    if result.kind != "f":
        return _print_tiles(tables, wide, number)
    return _print_library(tables, kernel, number, _matrix(target), precision)


def _print_library(
    tables: Tables, kernel: Kernel, number: int, out: _Matrix, precision: str
) -> CudaPrinted:
    """A product of floats, its stack in as few launches as it takes."""
    c = kernel.contraction
    assert c is not None
    slots = Slots()
    functions: list[tuple[str, str]] = []
    launches: list[Launch] = []
    matrices: list[_Matrix] = []
    for which, access, shape in (("a", c.a, (c.m, c.k)), ("b", c.b, (c.k, c.n))):
        matrix = _matrix(access)
        if not _is_direct(matrix, c.batch, shape):
            copied, matrix = _print_copy(tables, kernel, number, which, access, (*c.batch, *shape))
            functions += copied.functions
            launches += copied.launches
            slots.names |= copied.slots.names
        matrices.append(matrix)
    matrices.append(out)
    stack, starts = _stacks(tuple(map(int, c.batch)), matrices)
    made = _product(kernel, matrices, stack, precision)
    for offsets in starts:
        at = [x.address(o) for x, o in zip(matrices, offsets, strict=True)]
        launches.append(ProductLaunch(made, at[0], at[1], at[2], number))
    comment = f"/* {' x '.join(map(plain, (*c.batch, 1)))} times [{plain(c.m)}, {plain(c.k)}] @ "
    comment += f"[{plain(c.k)}, {plain(c.n)}]: by the library */"
    return CudaPrinted(tuple(functions), tuple(launches), slots, comment)


def _product(
    kernel: Kernel, matrices: Sequence[_Matrix], stack: _Stack, precision: str
) -> Product:  # fmt: skip
    """What the library is asked for, on operands that lie as it wants them."""
    c, result = kernel.contraction, kernel.statements[0].node.dtype
    assert c is not None
    m, n, k = int(c.m), int(c.n), int(c.k)
    a_row, b_row = matrices[0].row(m, k), matrices[1].row(k, n)
    assert a_row is not None
    assert b_row is not None
    a_step, b_step, c_step = stack.steps
    return Product(
        m=m, n=n, k=k, a_row=a_row[0], b_row=b_row[0], c_row=n,
        dtype=c.a.base.dtype.name, result=result.name,
        a_transposed=a_row[1], b_transposed=b_row[1],
        batch=stack.count, a_step=a_step, b_step=b_step, c_step=c_step,
        precision=precision if result.name == "float32" else "float32",
    )  # fmt: skip


def _matrix(access: Access) -> _Matrix:
    strides = tuple(map(int, access.strides))
    return _Matrix(access.base, int(access.offset), strides, access.base.dtype.itemsize)


@dataclass(frozen=True)
class _Stack:
    """A run of matrices in one launch, and the steps between them."""

    count: int
    steps: tuple[int, ...]


def _merged(batch: Sequence[int], matrices: Sequence[_Matrix]) -> list[tuple[int, tuple[int, ...]]]:
    """The loops over a stack (extent, step of each matrix), neighbours joined where all matrices
    lie in a straight line over both."""
    loops: list[tuple[int, tuple[int, ...]]] = []
    for i, extent in enumerate(batch):
        if extent == 1:
            continue
        steps = tuple(x.strides[i] for x in matrices)
        if loops and all(o == s * extent for o, s in zip(loops[-1][1], steps, strict=True)):
            loops[-1] = (loops[-1][0] * extent, steps)
        else:
            loops.append((extent, steps))
    return loops


def _pieces(batch: Sequence[int], matrix: _Matrix) -> int:
    """In how many launches a stack is done that is contiguous but for this matrix."""
    loops = _merged(tuple(map(int, batch)), [matrix])
    return prod(sorted(extent for extent, _ in loops)[:-1], start=1)


def _stacks(
    batch: Sequence[int], matrices: Sequence[_Matrix]
) -> tuple[_Stack, Iterator[tuple[int, ...]]]:
    """The longest loop over the stack, done in one launch, and the starts of all launches."""
    loops = _merged(batch, matrices)
    loops.sort(key=lambda loop: loop[0])
    none = tuple(0 for _ in matrices)
    count, steps = loops.pop() if loops else (1, none)
    starts = (
        tuple(sum(i * loop[1][x] for i, loop in zip(place, loops, strict=True))
              for x in range(len(matrices)))
        for place in all_of(*(range(extent) for extent, _ in loops))
    )  # fmt: skip
    return _Stack(count, steps), starts


def _is_direct(matrix: _Matrix, batch: Sequence[int], shape: tuple[int, int]) -> bool:
    """Whether the library takes an operand as it lies, in few launches."""
    direct = matrix.row(int(shape[0]), int(shape[1])) is not None
    return direct and _pieces(batch, matrix) <= MOST_LAUNCHES


def _print_copy(
    tables: Tables, kernel: Kernel, number: int, which: str, access: Access, shape: Sequence[int]
) -> tuple[CudaPrinted, _Matrix]:
    """An operand in the order of its loops, in scratch."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number, len(shape))
    count = prod(map(int, shape))
    slot = tables.partial(count * access.base.dtype.itemsize)
    to = function.scratch(f"{which}_in_order", c_type(access.base.dtype), slot)
    packed = Access(access.base, 0, contiguous_strides(tuple(shape)))
    source = function.element(access, function.loops)
    lines = copy_lines(function, shape, f"{to}[{index(packed, function.loops)}] = {source};")
    name = f"{kernel.name}_{which}"
    text = function.text(name, lines, f"operand {which} of {kernel.name}, in order")
    launch = function.launch(name, -(-count // THREADS), per_multiprocessor=ENOUGH)
    strides = tuple(map(int, contiguous_strides(tuple(map(int, shape)))))
    made = _Matrix(slot, 0, strides, access.base.dtype.itemsize)
    return CudaPrinted(((name, text),), (launch,), slots), made


def _print_tiles(tables: Tables, kernel: Kernel, number: int) -> CudaPrinted:
    """A product of integers, a tile of it for each block."""
    c = kernel.contraction
    assert c is not None
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    function.index = "int64_t"
    batch = function.loops[:-2]
    kind = c_type(kernel.statements[0].node.dtype)
    target = kernel.stores[0].access
    a, b, out = (
        f"{function.pointer(x.base, x is target)} + "
        f"{index(Access(x.base, x.offset, x.strides[:-2]), batch)}"
        for x in (c.a, c.b, target)
    )
    m, n, k = map(size_text, (c.m, c.n, c.k))
    strides = ", ".join(map(size_text, (*c.a.strides[-2:], *c.b.strides[-2:])))
    down, across = (f"(({size} + {TILE - 1}) / {TILE})" for size in (m, n))
    lines = [
        f"const int64_t tile = blockIdx.x % ({down} * {across});",
        *function.unravelled(f"((int64_t)blockIdx.x / ({down} * {across}))", range(len(batch))),
        f"gx_product_tile<{kind}>({a}, {b}, {out}, {m}, {n}, {k}, {strides}, "
        f"tile / {across}, tile % {across});",
    ]
    comment = f"[{plain(c.m)}, {plain(c.k)}] @ [{plain(c.k)}, {plain(c.n)}] of integers, by tiles"
    text = function.text(kernel.name, lines, comment)
    blocks = prod(map(int, c.batch)) * -(-int(c.m) // TILE) * -(-int(c.n) // TILE)
    launch: KernelLaunch = function.launch(kernel.name, blocks)
    return CudaPrinted(((kernel.name, text),), (launch,), slots)
