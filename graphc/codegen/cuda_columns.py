"""Column reductions in CUDA C: a block has 32 columns, and 8 threads go down each of them.

    for each tile of columns (and each chunk of the rows)
        each thread joins every eighth row of its column
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
)
from graphc.codegen.cuda_rows import outer_variables
from graphc.codegen.expression import Scope, c_type, joined
from graphc.codegen.shape import is_symbolic, needed, operands
from graphc.codegen.tables import Slots, Tables, start_of
from graphc.schedule.records import Kernel, Level, Load

TILE = 32  # columns of a block
DEPTH = THREADS // TILE  # threads of a column
WANTED = 1024  # blocks that keep a large device busy
MOST_CHUNKS = 128
CHEAP = 16.0  # cost of an element up to which several rows are taken at a time
TOGETHER = 4  # so many
CHUNK_ROWS = 64  # rows of a chunk, at least

_Loops = tuple[Sequence[int], Sequence[int], int]


def print_columns(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], lane: int,
    number: int,
) -> CudaPrinted:  # fmt: skip
    """`lane` is the loop over columns; the loops `lead` stand around everything."""
    around = prod((int(kernel.space[i]) for i in lead), start=1)
    rows = prod((int(kernel.space[i]) for i in inner), start=1)
    columns = int(kernel.space[lane])
    tiles = around * -(-columns // TILE)
    if not tiles:
        return NOTHING
    chunks = max(1, min(MOST_CHUNKS, rows // CHUNK_ROWS, WANTED // tiles))
    both = any(is_symbolic(kernel.space[i]) for i in inner)  # one text serves all sizes
    made = {
        cut: (_print_chunks if cut else _print_whole)(
            tables, kernel, (lead, inner, lane), number, (chunks, tiles)
        )
        for cut in ((False, True) if both else (chunks > 1,))
    }
    return one_of(made, chunks > 1)


def _print_whole(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, counts: tuple[int, int]
) -> CudaPrinted:
    """Each tile of columns is done by one block."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops)
    lines = body.tiles([*body.rows(), *body.results()])
    text = function.text(kernel.name, lines, function.comment())
    launch = function.launch(kernel.name, counts[1])
    return CudaPrinted(((kernel.name, text),), (launch,), slots)


def _print_chunks(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, counts: tuple[int, int]
) -> CudaPrinted:
    """A block does a chunk of the rows; then the chunks are joined."""
    chunks, tiles = counts
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops)
    columns = prod(int(kernel.space[i]) for i in (*body.lead, body.lane))
    slot = {
        i: tables.partial(chunks * columns * function.dtype(i).itemsize) for i in body.reductions
    }
    count = function.argument("chunks", chunks)
    lines = body.tiles([*body.rows(count), *body.hand_over(slot)], count)
    name = f"{kernel.name}_chunks"
    text = function.text(name, lines, function.comment())
    launch = function.launch(name, tiles * chunks)
    joining = _print_joining(tables, kernel, loops, number, slot, counts)
    slots.names |= joining.slots.names
    return CudaPrinted(((name, text), *joining.functions), (launch, *joining.launches), slots)


def _print_joining(
    tables: Tables, kernel: Kernel, loops: _Loops, number: int, slot: dict[int, int],
    counts: tuple[int, int],
) -> CudaPrinted:  # fmt: skip
    """Join the chunks' results in order, and compute what follows from them."""
    chunks, tiles = counts
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    body = _Columns(function, *loops)
    count = function.argument("chunks", chunks)
    lines = body.tiles([*body.parts(slot, count), *body.results()])
    name = f"{kernel.name}_joined"
    text = function.text(name, lines, f"joins what {kernel.name}_chunks gives, in order")
    return CudaPrinted(((name, text),), (function.launch(name, tiles),), slots)


class _Columns:
    """The lines for one tile of columns."""

    def __init__(
        self, function: CudaFunction, lead: Sequence[int], inner: Sequence[int], lane: int
    ) -> None:
        self.function, self.lead, self.inner, self.lane = function, lead, inner, lane
        self.kernel, self.context = function.kernel, function.context
        self.v = function.loops[lane]
        self.reductions = [i for i, s in enumerate(self.kernel.statements) if s.is_reduction]
        self.own = {
            i: function.names.fresh(f"{self.context.names[i]}_own") for i in self.reductions
        }
        self._shared: list[str] = []
        self.outer = Scope(self.context, outer_variables(function), [])

    def tiles(self, body: Sequence[str], chunks: str = "") -> list[str]:
        """`body` for each tile, one for a block."""
        function, kind = self.function, self.function.index
        columns = function.extent(self.kernel.space[self.lane])
        across = f"(({columns} + {TILE - 1}) / {TILE})"
        unit, chunk = "blockIdx.x", list[str]()
        if chunks:
            chunk = [f"const {kind} chunk = blockIdx.x % {chunks};"]
            unit = f"(blockIdx.x / {chunks})"
        return [
            *self._shared,
            f"const {kind} x = threadIdx.x % {TILE}, y = threadIdx.x / {TILE};",
            *chunk,
            f"const {kind} tile = {unit} % {across};",
            *function.unravelled(f"({kind})({unit} / {across})", self.lead),
            f"const {kind} {self.v} = {TILE} * tile + x;",
            f"const bool active = {self.v} < {columns};",
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
        held = {n: f"{name}[n]" for n, name in ahead.items()}
        lanes = Lanes(function, 1, self.lane, function.loops, held)
        draws = function.draws(roots, function.loops, 1)
        scope = lanes.scope(self.outer)
        for i in self.reductions:
            node = kernel.statements[i].node
            x = scope.argument(kernel.statements[i].args[0])
            lanes.add(f"{self.own[i]} = {joined(node.op.c, node.dtype, self.own[i], x)};")
        for store in stores:
            lanes.store(scope, store)
        v, places = function.loops[self.inner[0]], list[str]()
        if len(self.inner) > 1:
            v, places = "v", function.unravelled("v", self.inner)
        first, last, bounds = "0", function.extent(size), list[str]()
        if chunks:
            first, last = (f"gx_part({function.extent(size)}, {c}, {chunks})"
                           for c in ("chunk", "chunk + 1"))  # fmt: skip
            bounds = [f"const {kind} first = {first}, last = {last};"]
            first, last = "first", "last"
        start = "y" if first == "0" else f"{first} + y"
        body = lanes.lines(scope, draws)
        if ahead:
            going = self._several(ahead, places, body, (v, start, last))
        else:
            unroll = [f"#pragma unroll {TOGETHER}"] if self._is_cheap() else []
            head = f"for ({kind} {v} = {start}; {v} < {last}; {v} += {DEPTH}) {{"
            going = [*unroll, head, *places, *body, "}"]
        return [
            *self._begin(), *bounds, "if (active) {", *self.outer.lines, *going, "}",
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
        }  # fmt: skip

    def _several(
        self, ahead: dict[int, str], places: Sequence[str], body: Sequence[str],
        loop: tuple[str, str, str],
    ) -> list[str]:  # fmt: skip
        """The loop over rows, several of them at a time: all are loaded, then all are handled."""
        function, kind = self.function, self.function.index
        v, start, last = loop
        several = function.names.fresh("several")
        each = [
            UNROLL, f"for (int n = 0; n < {TOGETHER}; n++) {{",
            f"const {kind} {v} = {several} + {DEPTH} * n;", f"if ({v} < {last}) {{", *places,
        ]  # fmt: skip
        operands = [(self.kernel.operands[n], name) for n, name in ahead.items()]
        return [
            f"for ({kind} {several} = {start}; {several} < {last}; "
            f"{several} += {DEPTH * TOGETHER}) {{",
            *(f"{c_type(a.base.dtype)} {name}[{TOGETHER}];" for a, name in operands),
            *each, *(f"{name}[n] = {function.element(a, function.loops)};" for a, name in operands),
            "}", "}", *each, *body, "}", "}", "}",
        ]  # fmt: skip

    def _begin(self) -> list[str]:
        return [
            f"{c_type(self.function.dtype(i))} {own} = {start_of(self.kernel.statements[i].node)};"
            for i, own in self.own.items()
        ]

    def _join(self) -> list[str]:
        """The partial results of a column, in order; the first thread of it has the result."""
        lines: list[str] = []
        tiles = {i: self.function.names.fresh(f"{own}_tile") for i, own in self.own.items()}
        for i, tile in tiles.items():
            self._shared.append(
                f"__shared__ {c_type(self.function.dtype(i))} {tile}[{DEPTH}][{TILE}];"
            )
            lines.append(f"{tile}[y][x] = {self.own[i]};")
        lines.append("__syncthreads();")
        lines += ["if (active && y == 0) {"]
        for i, tile in tiles.items():
            node, own = self.kernel.statements[i].node, self.own[i]
            both = joined(node.op.c, node.dtype, own, f"{tile}[n][x]")
            lines.append(f"for (int n = 1; n < {DEPTH}; n++) {own} = {both};")
        return [*lines, "}"]

    def hand_over(self, slot: dict[int, int]) -> list[str]:
        """Write the partial results of a chunk."""
        return ["if (active && y == 0) {", *(
            f"{self.function.partial(i, s)}[{self._part()}] = {self.own[i]};"
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
        scope = Scope(self.context, outer_variables(self.function), [])
        scope.known.update(self.own)
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.OUTER]
        lines = [self.function.store(scope, s) for s in stores]
        return ["if (active && y == 0) {", *scope.lines, *lines, "}"]
