"""Column reductions in CUDA C: 32 threads lie side by side, 8 go down the rows.

    for each tile of columns (and each chunk of the rows)
        each thread joins every eighth row of its columns, a vector of them where there are enough
        the eight partial results are joined in order, through shared memory
        what follows from the columns' results

Where there are too few columns to keep the device busy, the rows are cut into chunks, whose results
a second kernel of the same shape joins.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphc.codegen.cuda_function import (
    NOTHING,
    THREADS,
    UNROLL,
    CudaFunction,
    CudaPrinted,
    Lanes,
    one_of,
    vector_width,
)
from graphc.codegen.cuda_rows import outer_variables
from graphc.codegen.expression import Scope, c_type, joined
from graphc.codegen.shape import is_symbolic, needed, operands
from graphc.codegen.tables import Slots, Tables, start_of
from graphc.schedule.records import Kernel, Level, Load

TILE = 32  # threads side by side
DEPTH = THREADS // TILE  # threads of a column
WANTED = 1024  # blocks that keep a large device busy
MOST_CHUNKS = 128
CHEAP = 16.0  # cost of an element up to which several rows are taken at a time
TOGETHER = 4  # so many
CHUNK_ROWS = 64  # rows of a chunk, at least

_Loops = tuple[Sequence[int], Sequence[int], int]
_Counts = tuple[int, int, int]  # chunks, tiles, columns of a thread


def print_columns(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], lane: int,
    number: int,
) -> CudaPrinted:  # fmt: skip
    """`lane` is the loop over columns; the loops `lead` stand around everything."""
    around = prod((int(kernel.space[i]) for i in lead), start=1)
    rows = prod((int(kernel.space[i]) for i in inner), start=1)
    width = _width(CudaFunction(tables, kernel, Slots(), number), inner, lane)
    tiles = around * -(-int(kernel.space[lane]) // (TILE * width))
    if not tiles:
        return NOTHING
    chunks = max(1, min(MOST_CHUNKS, rows // CHUNK_ROWS, WANTED // tiles))
    both = any(is_symbolic(kernel.space[i]) for i in inner)  # one text serves all sizes
    made = {
        cut: (_print_chunks if cut else _print_whole)(
            tables, kernel, (lead, inner, lane), number, (chunks, tiles, width)
        )
        for cut in ((False, True) if both else (chunks > 1,))
    }
    return one_of(made, chunks > 1)


def _print_whole(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, counts: _Counts
) -> CudaPrinted:
    """Each tile of columns is done by one block."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops, counts[2])
    lines = body.tiles([*body.rows(), *body.results()])
    text = function.text(kernel.name, lines, function.comment())
    launch = function.launch(kernel.name, counts[1])
    return CudaPrinted(((kernel.name, text),), (launch,), slots)


def _print_chunks(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, counts: _Counts
) -> CudaPrinted:
    """A block does a chunk of the rows; then the chunks are joined."""
    chunks, tiles, width = counts
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops, width)
    columns = prod(int(kernel.space[i]) for i in (*body.lead, body.lane))
    slot = {
        i: tables.partial(chunks * columns * function.dtype(i).itemsize) for i in body.reductions
    }
    count = function.argument("chunks", chunks)
    lines = body.tiles([*body.rows(count), *body.hand_over(slot)], count)
    name = f"{kernel.name}_chunks"
    text = function.text(name, lines, function.comment())
    launch = function.launch(name, tiles * chunks)
    joining = _print_joining(tables, kernel, loops, number, slot, chunks)
    slots.names |= joining.slots.names
    return CudaPrinted(((name, text), *joining.functions), (launch, *joining.launches), slots)


def _print_joining(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, slot: dict[int, int], chunks: int
) -> CudaPrinted:
    """Join the chunks' results in order, and compute what follows from them."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops, 1)
    count = function.argument("chunks", chunks)
    lines = body.tiles([*body.parts(slot, count), *body.results()])
    name = f"{kernel.name}_joined"
    text = function.text(name, lines, f"joins what {kernel.name}_chunks gives, in order")
    tiles = -(-int(kernel.space[body.lane]) // TILE)
    blocks = tiles * prod(int(kernel.space[i]) for i in body.lead)
    return CudaPrinted(((name, text),), (function.launch(name, blocks),), slots)


def _width(function: CudaFunction, inner: Sequence[int], lane: int) -> int:
    """Columns of a thread: as many as fill a vector, where 32 threads have so many, and nothing is
    computed once for each column before the rows."""
    kernel = function.kernel
    once = any(
        s.level is Level.OUTER and not s.stage and not s.is_reduction and not s.is_copy
        for s in kernel.statements
    )
    stores = [s.access for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
    read = [a for a in kernel.operands if any(a.strides[i] for i in inner)]
    width = 1 if once else vector_width(function, lane, accesses=[*read, *stores])
    columns = kernel.space[lane]
    while width > 1 and not is_symbolic(columns) and columns < TILE * width:
        width //= 2
    return width


class _Columns:
    """The lines for one tile of columns."""

    def __init__(
        self, function: CudaFunction, lead: Sequence[int], inner: Sequence[int], lane: int,
        width: int,
    ) -> None:  # fmt: skip
        self.function, self.lead, self.inner, self.lane = function, lead, inner, lane
        self.width, self.columns = width, TILE * width
        self.kernel, self.context = function.kernel, function.context
        self.v = function.loops[lane]
        self.reductions = [i for i, s in enumerate(self.kernel.statements) if s.is_reduction]
        self.own = {
            i: function.names.fresh(f"{self.context.names[i]}_own") for i in self.reductions
        }
        self._shared: list[str] = []
        self.outer = Scope(self.context, outer_variables(function), [])

    def _at(self, own: str) -> str:
        """The accumulator of one of a thread's columns."""
        return own if self.width == 1 else f"{own}[e]"

    def tiles(self, body: Sequence[str], chunks: str = "") -> list[str]:
        """`body` for each tile, one for a block."""
        function, kind = self.function, self.function.index
        columns = function.extent(self.kernel.space[self.lane])
        across = f"(({columns} + {self.columns - 1}) / {self.columns})"
        first = self.v if self.width == 1 else f"{self.v}0"
        place = "x" if self.width == 1 else f"{self.width} * x"
        unit, chunk = "blockIdx.x", list[str]()
        if chunks:  # neighbouring blocks have neighbouring columns: whole rows are read together
            chunk = [
                f"const {kind} tiles = gridDim.x / {chunks};",
                f"const {kind} chunk = blockIdx.x / tiles;",
            ]
            unit = "(blockIdx.x % tiles)"
        return [
            *self._shared,
            f"const {kind} x = threadIdx.x % {TILE}, y = threadIdx.x / {TILE};",
            *chunk,
            f"const {kind} tile = {unit} % {across};",
            *function.unravelled(f"({kind})({unit} / {across})", self.lead),
            f"const {kind} {first} = {self.columns} * tile + {place};",
            f"const bool active = {first} < {columns};",
            *body,
        ]  # fmt: skip

    def rows(self, chunks: str = "") -> list[str]:
        """Go down the rows, or those of a chunk; then join what the threads of a column have."""
        kernel, function, kind = self.kernel, self.function, self.function.index
        size = prod((kernel.space[i] for i in self.inner), start=1)
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
        roots = [j for i in self.reductions for j in operands(kernel, i)]
        roots += [s.value for s in stores]
        ahead = self._read_ahead(roots) if stores and self._is_cheap() else {}
        first = list(function.loops)
        first[self.lane] += "" if self.width == 1 else "0"
        lanes = Lanes(function, self.width, self.lane, first)
        lanes.held = {n: f"{name}[n]{lanes.which(n)}" for n, name in ahead.items()}
        draws = function.draws(roots, first, self.width)
        scope = lanes.scope(self.outer if self.width == 1 else None)
        for i in self.reductions:
            node = kernel.statements[i].node
            x = scope.argument(kernel.statements[i].args[0])
            own = self._at(self.own[i])
            lanes.add(f"{own} = {joined(node.op.c, node.dtype, own, x)};")
        for store in stores:
            lanes.store(scope, store)
        v, places = function.loops[self.inner[0]], list[str]()
        if len(self.inner) > 1:
            v, places = "v", function.unravelled("v", self.inner)
        last, start, step = function.extent(size), "y", str(DEPTH)
        if chunks:  # every so many rows, so that all chunks together go down side by side
            start, step = f"{DEPTH} * chunk + y", f"{DEPTH} * {chunks}"
        body = lanes.lines(scope, draws)
        if ahead:
            going = self._several(lanes, ahead, places, body, (v, start, last, step))
        else:
            unroll = [f"#pragma unroll {TOGETHER}"] if self._is_cheap() else []
            head = f"for ({kind} {v} = {start}; {v} < {last}; {v} += {step}) {{"
            going = [*unroll, head, *places, *body, "}"]
        return [
            *self._begin(), "if (active) {", *self.outer.lines, *going, "}",
            *self._join(),
        ]  # fmt: skip

    def _is_cheap(self) -> bool:
        """Whether several rows at a time cost few registers. They keep more loads on their way."""
        cost = sum(s.node.op.cost for s in self.kernel.statements if not s.is_copy)
        return cost < CHEAP

    def _read_ahead(self, roots: Sequence[int]) -> dict[int, str]:
        """Names for what several rows have of the operands. A compiler does not load the next row
        ahead of a store that may be in place."""
        kernel, function = self.kernel, self.function
        used = [kernel.statements[i] for i in needed(kernel, roots) | {*self.reductions}]
        loads = sorted({a.index for s in used for a in s.args if isinstance(a, Load)})
        return {
            n: function.names.fresh(f"{function.pointer(kernel.operands[n].base)}_rows")
            for n in loads if any(kernel.operands[n].strides[i] for i in self.inner)
            and (self.width == 1 or kernel.operands[n].strides[self.lane] in (0, 1))
        }  # fmt: skip

    def _several(
        self, lanes: Lanes, ahead: dict[int, str], places: Sequence[str], body: Sequence[str],
        loop: tuple[str, str, str, str],
    ) -> list[str]:  # fmt: skip
        """The loop over rows, several of them at a time: all are loaded, then all are handled."""
        function, kind = self.function, self.function.index
        v, start, last, step = loop
        several = function.names.fresh("several")
        each = [
            UNROLL, f"for (int n = 0; n < {TOGETHER}; n++) {{",
            f"const {kind} {v} = {several} + {step} * n;", f"if ({v} < {last}) {{", *places,
        ]  # fmt: skip
        return [
            f"for ({kind} {several} = {start}; {several} < {last}; "
            f"{several} += {step} * {TOGETHER}) {{",
            *(f"{lanes.kind(n)} {name}[{TOGETHER}];" for n, name in ahead.items()),
            *each, *(f"{name}[n] = {lanes.loaded(n)};" for n, name in ahead.items()),
            "}", "}", *each, *body, "}", "}", "}",
        ]  # fmt: skip

    def _begin(self) -> list[str]:
        lines: list[str] = []
        for i, own in self.own.items():
            kind, start = c_type(self.function.dtype(i)), start_of(self.kernel.statements[i].node)
            values = start if self.width == 1 else f"{{{', '.join([start] * self.width)}}}"
            size = "" if self.width == 1 else f"[{self.width}]"
            lines.append(f"{kind} {own}{size} = {values};")
        return lines

    def _join(self) -> list[str]:
        """The partial results of each column, in order. From here on a thread has one column."""
        function, kind, wide = self.function, self.function.index, self.width > 1
        tiles = {i: function.names.fresh(f"{own}_tile") for i, own in self.own.items()}
        self._shared += [
            f"__shared__ {c_type(function.dtype(i))} {tile}[{DEPTH}][{self.columns}];"
            for i, tile in tiles.items()
        ]
        place = f"{self.width} * x + e" if wide else "x"
        put = [f"{tile}[y][{place}] = {self._at(self.own[i])};" for i, tile in tiles.items()]
        if wide:
            put = [UNROLL, f"for (int e = 0; e < {self.width}; e++) {{", *put, "}"]
        extent = function.extent(self.kernel.space[self.lane])
        lines = [*put, "__syncthreads();"]
        if wide:
            lines.append(f"const {kind} {self.v} = {self.columns} * tile + threadIdx.x;")
            lines.append(f"if (threadIdx.x < {self.columns} && {self.v} < {extent}) {{")
        else:
            lines.append("if (active && y == 0) {")
        for i, tile in tiles.items():
            node, name = self.kernel.statements[i].node, self.context.names[i]
            both = joined(node.op.c, node.dtype, name, f"{tile}[n][threadIdx.x]")
            lines.append(f"{c_type(node.dtype)} {name} = {tile}[0][threadIdx.x];")
            lines.append(f"for (int n = 1; n < {DEPTH}; n++) {name} = {both};")
        return lines  # results() or hand_over() closes the block

    def hand_over(self, slot: dict[int, int]) -> list[str]:
        """Write the partial results of a chunk."""
        return [*(
            f"{self.function.partial(i, s)}[{self._part()}] = {self.context.names[i]};"
            for i, s in slot.items()
        ), "}"]  # fmt: skip

    def _part(self) -> str:
        """The place of a column's part: chunk after chunk, the columns of one side by side."""
        kernel, function = self.kernel, self.function
        columns = [*self.lead, self.lane]
        flat = "0"
        for i in columns:
            flat = f"({flat}) * {function.extent(kernel.space[i])} + {function.loops[i]}"
        flat = flat.removeprefix(f"(0) * {function.extent(kernel.space[columns[0]])} + ")
        whole = " * ".join(function.extent(kernel.space[i]) for i in columns)
        return f"chunk * ({whole}) + {flat}"

    def parts(self, slot: dict[int, int], count: str) -> list[str]:
        """Join the partial results of all chunks."""
        kind = self.function.index
        body: list[str] = []
        for i, s in slot.items():
            node, own = self.kernel.statements[i].node, self.own[i]
            part = f"{self.function.partial(i, s)}[{self._part()}]"
            body.append(f"{own} = {joined(node.op.c, node.dtype, own, part)};")
        return [
            *self._begin(), "if (active) {",
            f"for ({kind} chunk = y; chunk < {count}; chunk += {DEPTH}) {{", *body, "}", "}",
            *self._join(),
        ]  # fmt: skip

    def results(self) -> list[str]:
        """Compute and store what follows from the columns' results."""
        kernel = self.kernel
        self.context.load = self.function.element_of
        scope = Scope(self.context, outer_variables(self.function), [])
        scope.known.update({i: self.context.names[i] for i in self.reductions})
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.OUTER]
        lines = [self.function.store(scope, s) for s in stores]
        return [*scope.lines, *lines, "}"]
