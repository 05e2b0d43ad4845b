"""Elementwise kernels, transposes and joins in CUDA C.

elementwise   threads share the points in strides, a vector of neighbours at a time
transposed    where operands are read across: tiles of them go through shared memory
join          a copy for each piece, after what lies between them is filled
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from graphc.codegen.cuda_function import (
    ENOUGH,
    NOTHING,
    THREADS,
    VECTOR,
    CudaFunction,
    CudaPrinted,
    Lanes,
    divides,
    unravel,
    vector_width,
)
from graphc.codegen.expression import c_type, index, literal
from graphc.codegen.function import plain
from graphc.codegen.shape import is_symbolic
from graphc.codegen.tables import Slots, Tables, stored
from graphc.schedule.records import Kernel, Piece

TILE = 32  # rows and columns of a tile
TILE_ROWS = THREADS // TILE  # rows that a block moves at a time
TILED_FROM = 8  # steps of both loops from which a tile is worth it


def print_elementwise(tables: Tables, kernel: Kernel, number: int) -> CudaPrinted:
    """Threads share the points of the space."""
    if not int(kernel.size):
        return NOTHING
    across = _crossing_loop(kernel)
    if across is not None:
        return _print_transposed(tables, kernel, number, across)
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    last = len(kernel.space) - 1
    flat = last == 0
    width = vector_width(function, last, tail=flat) if last >= 0 else 1
    whole = prod(kernel.space, start=1)
    lines = _strided(function, width, function.extent(whole, width))
    rest = flat and width > 1 and (is_symbolic(whole) or int(whole) % width)
    if rest:
        lines += _tail(function, width, whole)
    text = function.text(kernel.name, lines, function.comment())
    blocks = -(-max(1, int(whole) // width) // THREADS)
    launch = function.launch(kernel.name, blocks, per_multiprocessor=ENOUGH)
    return CudaPrinted(((kernel.name, text),), (launch,), slots)


def _strided(function: CudaFunction, width: int, count: str) -> list[str]:
    """The loop over all vectors."""
    loops, last = function.loops, len(function.kernel.space) - 1
    names = [*loops]
    if width > 1:
        names[last] = f"{loops[last]}0"
    space = function.kernel.space
    if len(names) == 1 and width == 1:  # the loop's own variable
        head, places = names[0], list[str]()
    else:
        head = "v"
        steps = [1] * last + [width] if names else []
        places = unravel("v", [*zip(names, space, steps, strict=True)], function)
    return _each(function, count, head, [*places, *_at(function, width, names)])


def _tail(function: CudaFunction, width: int, whole: int) -> list[str]:
    """The last elements of a flat space, which fill no vector."""
    v, kind = function.loops[0], function.index
    start = f"{width} * ({function.extent(whole)} / {width})"
    return [
        f"const {kind} {v} = {start} + gx_first<{kind}>();",
        f"if ({v} < {function.extent(whole)}) {{",
        *_at(function, 1, [v]), "}",
    ]  # fmt: skip


def _at(function: CudaFunction, width: int, first: Sequence[str]) -> list[str]:
    """All statements at a vector of points."""
    kernel = function.kernel
    draws = function.draws([s.value for s in kernel.stores], first, width)
    lanes = Lanes(function, width, len(kernel.space) - 1, first)
    scope = lanes.scope()
    for store in kernel.stores:
        lanes.store(scope, store)
    return lanes.lines(scope, draws)


# -- transposes


def _crossing_loop(kernel: Kernel) -> int | None:
    """The loop along which an operand lies in memory, where that is not the last one."""
    last = len(kernel.space) - 1
    if last < 1 or not _is_long(kernel.space[last]):
        return None
    for access in kernel.operands:
        for loop in range(last):
            crosses = access.strides[loop] == 1 and access.strides[last] not in (0, 1)
            if crosses and _is_long(kernel.space[loop]):
                return loop
    return None


def _is_long(extent: int) -> bool:
    return is_symbolic(extent) or extent >= TILED_FROM


def _print_transposed(tables: Tables, kernel: Kernel, number: int, across: int) -> CudaPrinted:
    """Tiles over loop `across` and the last one; operands that lie along `across` are read in the
    order of memory, and turned in shared memory."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    last, kind = len(kernel.space) - 1, function.index
    others = [i for i in range(last) if i != across]
    i, j = function.loops[across], function.loops[last]
    rows, columns = kernel.space[across], kernel.space[last]
    row_tiles, column_tiles = (_tiles(function, n) for n in (rows, columns))
    turned = {
        n: function.names.fresh(f"{function.pointer(a.base)}_tile")
        for n, a in enumerate(kernel.operands)
        if a.strides[across] == 1 and a.strides[last] not in (0, 1)
    }
    inside = f"{i} < {function.extent(rows)} && {j} < {function.extent(columns)}"
    read = [
        f"{name}[n][x] = {function.element(kernel.operands[n], function.loops)};"
        for n, name in turned.items()
    ]
    lanes = Lanes(function, 1, last, function.loops, {n: f"{t}[x][n]" for n, t in turned.items()})
    draws = function.draws([s.value for s in kernel.stores], function.loops, 1)
    scope = lanes.scope()
    for store in kernel.stores:
        lanes.store(scope, store)
    step = [f"for (int n = y; n < {TILE}; n += {TILE_ROWS}) {{"]
    others_count = " * ".join(["1", *(function.extent(kernel.space[o]) for o in others)])
    lines = [
        *(f"__shared__ {c_type(kernel.operands[n].base.dtype)} {t}[{TILE}][{TILE + 1}];"
          for n, t in turned.items()),
        f"const {kind} x = threadIdx.x % {TILE}, y = threadIdx.x / {TILE};",
        f"for ({kind} tile = blockIdx.x; tile < {row_tiles} * {column_tiles} * {others_count}; "
        "tile += gridDim.x) {",
        f"const {kind} {j}0 = {TILE} * (tile % {column_tiles});",
        f"const {kind} {i}0 = {TILE} * (tile / {column_tiles} % {row_tiles});",
        *function.unravelled(f"(tile / ({column_tiles} * {row_tiles}))", others),
        *step,
        f"const {kind} {i} = {i}0 + x, {j} = {j}0 + n;",
        f"if ({inside}) {{", *read, "}", "}",
        "__syncthreads();",
        *step,
        f"const {kind} {i} = {i}0 + n, {j} = {j}0 + x;",
        f"if ({inside}) {{", *lanes.lines(scope, draws), "}", "}",
        "__syncthreads();",
        "}",
    ]  # fmt: skip
    text = function.text(kernel.name, lines, f"{function.comment()}; by tiles")
    tiles = -(-int(rows) // TILE) * -(-int(columns) // TILE)
    blocks = tiles * prod(int(kernel.space[o]) for o in others)
    launch = function.launch(kernel.name, blocks, per_multiprocessor=ENOUGH)
    return CudaPrinted(((kernel.name, text),), (launch,), slots)


def _tiles(function: CudaFunction, extent: int) -> str:
    if is_symbolic(extent):
        return f"(({function.extent(extent)} + {TILE - 1}) / {TILE})"
    return str(-(-int(extent) // TILE))


# -- joins


def print_join(tables: Tables, kernel: Kernel, number: int) -> CudaPrinted:
    """A copy for each piece, after what lies between them is filled."""
    functions: list[tuple[str, str]] = []
    launches = []
    slots = Slots()
    if kernel.fill is not None:
        name = f"{kernel.name}_fill"
        function = CudaFunction(tables, kernel, slots, number, 1)
        total = prod(kernel.space, start=1)
        out = kernel.pieces[0].target.base
        value = literal(stored(np.asarray(kernel.fill, out.dtype)), out.dtype)
        to = f"{function.pointer(out, written=True)}[i]"
        lines = _each(function, function.extent(total), "i", [f"{to} = {value};"])
        functions.append((name, function.text(name, lines, "what lies between the pieces")))
        launches.append(function.launch(name, _blocks(total), per_multiprocessor=ENOUGH))
    ndim = max(len(p.shape) for p in kernel.pieces)
    function = CudaFunction(tables, kernel, slots, number, ndim)
    lines = []
    for piece in kernel.pieces:
        variables, width = function.loops[: len(piece.shape)], _piece_width(piece)
        to = f"{function.pointer(piece.target.base, True)}[{index(piece.target, variables)}]"
        source = f"{function.pointer(piece.source.base)}[{index(piece.source, variables)}]"
        packed = f"gx_store(&{to}, gx_load<{width}>(&{source}));"
        line = packed if width > 1 else f"{to} = {source};"
        lines += copy_lines(function, piece.shape, line, width)
    comment = f"join into {' x '.join(map(plain, kernel.space)) or 'one element'}"
    functions.append((kernel.name, function.text(kernel.name, lines, comment)))
    most = max(prod(int(n) for n in p.shape) // _piece_width(p) for p in kernel.pieces)
    launches.append(function.launch(kernel.name, _blocks(most), per_multiprocessor=ENOUGH))
    return CudaPrinted(tuple(functions), tuple(x for x in launches if x.blocks), slots)


def _piece_width(piece: Piece) -> int:
    """How many neighbours along the last axis of a piece move together."""
    accesses = piece.source, piece.target
    if not piece.shape or any(a.strides[-1] != 1 for a in accesses):
        return 1
    sizes = [piece.shape[-1], *(a.offset for a in accesses)]
    sizes += [stride for a in accesses for stride in a.strides[:-1]]
    width = VECTOR // piece.target.base.dtype.itemsize
    while width > 1 and not all(divides(width, size) for size in sizes):
        width //= 2
    return width


def copy_lines(
    function: CudaFunction, shape: Sequence[int], line: str, width: int = 1
) -> list[str]:
    """A line for each point of a shape, or for each `width` along its last axis, the points shared
    by all threads."""
    steps = [1] * (len(shape) - 1) + [width]
    loops = [*zip(function.loops, shape, steps, strict=False)]
    if len(loops) == 1 and width == 1:
        return _each(function, function.extent(shape[0]), loops[0][0], [line])
    count = function.extent(prod(shape, start=1), width)
    return _each(function, count, "v", [*unravel("v", loops, function), line])


def _each(function: CudaFunction, count: str, variable: str, body: Sequence[str]) -> list[str]:
    kind, v = function.index, variable
    return [
        f"for ({kind} {v} = gx_first<{kind}>(); {v} < {count}; {v} += gx_all<{kind}>()) {{",
        *body, "}",
    ]  # fmt: skip


def _blocks(count: int) -> int:
    return -(-int(count) // THREADS)
