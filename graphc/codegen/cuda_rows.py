"""Row kernels and full reductions in CUDA C: `threads` neighbouring threads share a row.

    for each row (of a group of threads)
        stage 0: each thread goes through its elements; what the threads have is joined
        outer values that follow from the reductions, in every thread
        stage 1: ...

A row of known, moderate length stays in registers: each operand is loaded once, and dear values are
kept. Long rows are read again by each stage. One long reduction is cut into chunks, whose results a
second kernel joins in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from graphc.codegen.cuda_function import (
    ENOUGH,
    NOTHING,
    THREADS,
    UNROLL,
    CudaFunction,
    CudaPrinted,
    Lanes,
    divides,
    one_of,
    pack_type,
    vector_width,
)
from graphc.codegen.expression import Scope, c_type, index, joined, literal, suffix
from graphc.codegen.shape import is_symbolic, kept_values, needed, operands, searches
from graphc.codegen.tables import Slots, Tables, start_of
from graphc.ir.layout import contiguous_strides
from graphc.ir.op import Kind
from graphc.schedule.records import Access, Kernel, Level, Load, Store

REGISTERS = 64  # values of a row that a thread may hold; half as many in a block of 1024
PACKS = 8  # vectors of a row that a thread handles where there are threads enough
MOST_THREADS = 1024
ACROSS = 8  # threads of a row that lies across memory, of whatever size
BUSY = 1 << 15  # threads that keep a large device busy
CHUNKED_FROM = 1 << 15  # elements from which a reduction to few values is cut into chunks
CHUNK = 1 << 13  # elements of a chunk, at least
MOST_CHUNKS = 1024
FEW_ROWS = 128  # rows that do not keep all multiprocessors busy


def print_rows(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], number: int
) -> CudaPrinted:
    """Rows, or a reduction to few values, which is cut into chunks if it is long."""
    if not prod(int(kernel.space[i]) for i in lead):
        return NOTHING
    sizes = [prod((kernel.space[i] for i in loops), start=1) for loops in (lead, inner)]
    chunked = _can_be_cut(kernel) and int(sizes[0]) <= FEW_ROWS and int(sizes[1]) >= CHUNKED_FROM
    both = _can_be_cut(kernel) and any(map(is_symbolic, sizes))  # one text serves all sizes
    made = {
        cut: (_print_chunks if cut else _print_whole)(tables, kernel, lead, inner, number)
        for cut in ((False, True) if both else (chunked,))
    }
    return one_of(made, chunked)


def _print_whole(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], number: int
) -> CudaPrinted:
    """Each row is done by one group of threads."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    rows = Rows(function, lead, inner)
    for stage, kept in enumerate(kept_values(kernel)):
        rows.stage(stage, kept)
    rows.store_results()
    text = function.text(kernel.name, rows.lines(), function.comment(), rows.block)
    blocks = -(-int(rows.count) // rows.per_block)
    launch = function.launch(kernel.name, blocks, rows.block, ENOUGH * THREADS // rows.block)
    return CudaPrinted(((kernel.name, text),), (launch,), slots)


@dataclass
class Shape:
    """How rows are laid on threads."""

    width: int  # neighbours that a thread handles at a time
    threads: int  # that share a row
    packs: int = 0  # vectors of each thread, where the row stays in registers

    @staticmethod
    def of(kernel: Kernel, inner: Sequence[int], width: int, held: int, least: int) -> Shape:
        """For rows with `held` values of each element to be kept in registers, and at least so many
        threads."""
        size = prod((kernel.space[i] for i in inner), start=1)
        across = inner[-1] != len(kernel.space) - 1  # neighbours in memory are of other rows
        if is_symbolic(kernel.size if across else size):
            return Shape(width, ACROSS if across else THREADS)
        items = max(1, -(-int(size) // width))
        threads = least
        if across:  # threads side by side read them together, where there are rows enough
            while threads < THREADS and threads * kernel.size < BUSY * size and threads < items:
                threads *= 2
            return Shape(width, threads)
        while threads < 32 and threads < items:
            threads *= 2
        most = 32 if items <= 32 * PACKS else MOST_THREADS
        while threads < most and items > threads * PACKS // 2:
            threads *= 2
        packs = -(-items // threads)
        room = REGISTERS if threads < MOST_THREADS else REGISTERS // 2
        return Shape(width, threads, packs if packs * width * max(1, held) <= room else 0)

    @property
    def block(self) -> int:
        """Threads of a block: those of one long row, or of several short ones."""
        return self.threads if self.threads > 32 else THREADS


class Rows:
    """The body for one row: `outer` collects its lines."""

    def __init__(
        self, function: CudaFunction, lead: Sequence[int], inner: Sequence[int],
        shape: Shape | None = None,
    ) -> None:  # fmt: skip
        self.function, self.lead, self.inner = function, lead, inner
        self.kernel, self.context = function.kernel, function.context
        self.last = inner[-1]
        self.size = prod((self.kernel.space[i] for i in inner), start=1)
        self.count = prod((self.kernel.space[i] for i in lead), start=1)
        self._kept = kept_values(self.kernel)
        again = self._read_again()
        if shape is None:
            held = len(again) + sum(map(len, self._kept))
            least = 1 if lead else 32
            shape = Shape.of(self.kernel, inner, row_width(function, inner), held, least)
            if lead and all(map(self._only_gathers, range(self._stages))):
                shape = Shape(1, 1)
        self.shape = shape
        self.block = shape.block if lead else shape.threads
        self.per_block = self.block // shape.threads
        clamped = 1 < shape.threads < 32 and not divides(self.per_block, self.count)
        self.guard = "active" if clamped else ""
        self.outer = Scope(self.context, outer_variables(function), [])
        self._held: dict[int, str] = {}  # operands in registers
        self._again = again if shape.packs else []
        self._arrays: list[str] = []

    def _read_again(self) -> list[int]:
        """The operands that more than one stage reads at every point."""
        stages: dict[int, set[int]] = {}
        for stage, kept in enumerate(self._kept):
            reductions, stores = self._reductions(stage), self._stores(stage)
            for operand in self._loads(reductions, stores, kept):
                stages.setdefault(operand, set()).add(stage)
        return [operand for operand, found in stages.items() if len(found) > 1]

    def _loads(
        self, reductions: Sequence[int], stores: Sequence[Store], kept: Sequence[int]
    ) -> set[int]:
        """The operands that a pass reads at every point."""
        kernel = self.kernel
        used = needed(kernel, self._roots(reductions, stores, kept)) | {*reductions}
        loads = {a.index for i in used for a in kernel.statements[i].args if isinstance(a, Load)}
        return {n for n in loads if any(kernel.operands[n].strides[i] for i in self.inner)}

    def _roots(
        self, reductions: Sequence[int], stores: Sequence[Store], kept: Sequence[int]
    ) -> list[int]:
        """The statements that a pass asks for."""
        reduced = [j for i in reductions for j in operands(self.kernel, i)]
        return [*reduced, *kept, *(s.value for s in stores)]

    def _reductions(self, stage: int) -> list[int]:
        statements = self.kernel.statements
        return [i for i, s in enumerate(statements) if s.is_reduction and s.stage == stage]

    def _stores(self, stage: int) -> list[Store]:
        statements = self.kernel.statements
        return [
            s for s in self.kernel.stores
            if statements[s.value].level is Level.FULL and statements[s.value].stage == stage
        ]  # fmt: skip

    # -- stages

    def stage(self, stage: int, kept: Sequence[int]) -> None:
        """One pass over the row: its reductions, its stores, and what later passes need."""
        reductions, stores = self._reductions(stage), self._stores(stage)
        direct = self._direct_gathers(stage)
        for i in direct:
            self._gather_directly(i)
        if direct and self.shape.threads > 1 and any(map(self._stores, range(stage, self._stages))):
            self.outer.lines.append(f"gx_wait<{self.shape.threads}>();")  # in place, perhaps
        reductions = [i for i in reductions if i not in direct]
        if reductions or stores or kept:
            self.run(reductions, stores, kept)

    @property
    def _stages(self) -> int:
        return len(self._kept)

    def _direct_gathers(self, stage: int) -> list[int]:
        """The gathers from what the stages before neither write over nor keep, in whichever thread:
        each thread reads the one element itself."""
        statements = self.kernel.statements
        kept = {i for s in range(stage) for i in self._kept[s]}
        if any(self._stores(s) for s in range(stage)):
            return []
        return [
            i for i in self._reductions(stage)
            if statements[i].node.op.kind is Kind.GATHER
            and kept.isdisjoint(needed(self.kernel, operands(self.kernel, i)))
        ]  # fmt: skip

    def _only_gathers(self, stage: int) -> bool:
        """Whether a stage has no need of more than one thread."""
        work = self._kept[stage] or self._stores(stage)
        return not work and self._direct_gathers(stage) == self._reductions(stage)

    def run(
        self, reductions: Sequence[int], stores: Sequence[Store], kept: Sequence[int],
        chunks: str = "",
    ) -> None:  # fmt: skip
        """The loop over the elements of each thread. `chunks`: how many blocks share the row, of
        which this is number `chunk`."""
        function, first = self.function, list(self.function.loops)
        if self.shape.width > 1:
            first[self.last] = f"{function.loops[self.last]}0"
        lanes = Lanes(function, self.shape.width, self.last, first, self._held, self.guard)
        self._hold(lanes, self._loads(reductions, stores, kept))
        draws = function.draws(self._roots(reductions, stores, kept), first, self.shape.width)
        scope = lanes.scope(self.outer)
        made = [self._reduction(i, scope) for i in reductions]
        for one in made:
            lanes.add(one.each)
        arrays = {i: self._keep(i, lanes, scope) for i in kept}
        for store in stores:
            lanes.store(scope, store)
        body = lanes.lines(scope, draws)
        for i, array in arrays.items():  # from the next pass on
            self.context.kept[i] = lambda _, a=array: a
        self.outer.lines += [
            *(one.begin for one in made),
            *self._loop(body, first[self.last], chunks),
            *(one.join for one in made),
        ]
        self.outer.known.update({i: self.context.names[i] for i in reductions})

    def _hold(self, lanes: Lanes, loads: set[int]) -> None:
        """Load the operands of this pass that others read again into registers."""
        function = self.function
        for operand in self._again:
            if operand in self._held or operand not in loads or not self._packs(operand):
                continue
            access = self.kernel.operands[operand]
            name = function.names.fresh(f"{function.pointer(access.base)}_row")
            kind = pack_type(access.base.dtype, self.shape.width)
            self._arrays.append(f"{kind} {name}[{self.shape.packs}];")
            lanes.before(f"{name}[n] = {lanes.loaded(operand)};")
            self._held[operand] = f"{name}[n]" if self.shape.width == 1 else f"{name}[n].at[e]"

    def _packs(self, operand: int) -> bool:
        """Whether threads load whole vectors of an operand, or elements if they handle one."""
        return self.shape.width == 1 or self.kernel.operands[operand].strides[self.last] == 1

    def _keep(self, number: int, lanes: Lanes, scope: Scope) -> str:
        """Keep a value for later passes: in registers, or in scratch."""
        function, dtype = self.function, self.function.dtype(number)
        name = function.names.fresh(f"{self.context.names[number]}_row")
        value = scope.value(number)
        if self.shape.packs:
            self._arrays.append(f"{pack_type(dtype, self.shape.width)} {name}[{self.shape.packs}];")
            place = f"{name}[n]" if self.shape.width == 1 else f"{name}[n].at[e]"
        else:
            slot = function.tables.partial(int(self.kernel.size) * dtype.itemsize)
            pointer = function.scratch(name, c_type(dtype), slot)
            place = f"{pointer}[{function.flat(tuple(function.loops))}]"
            lanes.add(f"{lanes.condition}{place} = {value};")
            return place
        lanes.add(f"{place} = {value};")
        return place

    def _loop(self, body: Sequence[str], variable: str, chunks: str) -> list[str]:
        """The elements of a thread: every `threads`-th vector."""
        function, shape, kind = self.function, self.shape, self.function.index
        v, places = variable, list[str]()
        if len(self.inner) > 1:
            v, places = "v", function.unravelled("v", self.inner)
        size, step = function.extent(self.size), shape.width * shape.threads
        own = self.thread if shape.width == 1 else f"{shape.width} * {self.thread}"
        own = "0" if shape.threads == 1 else own
        if chunks:  # side by side: all blocks together go through the row
            start, far = f"{step} * chunk + {own}", f"{step} * {chunks}"
            head = f"for ({kind} {v} = {start}; {v} < {size}; {v} += {far}) {{"
            return ["#pragma unroll 4", head, *places, *body, "}"]
        if not shape.packs:
            head = f"for ({kind} {v} = {own}; {v} < {size}; {v} += {step}) {{"
            return [head, *places, *body, "}"]
        inside = [*places, *body]
        if shape.packs * step != int(self.size):
            inside = [f"if ({v} < {size}) {{", *inside, "}"]
        return [
            UNROLL, f"for (int n = 0; n < {shape.packs}; n++) {{",
            f"const {kind} {v} = {step} * n + {own};", *inside, "}",
        ]  # fmt: skip

    @property
    def thread(self) -> str:
        """The number of a thread among those of its row."""
        return "threadIdx.x" if self.per_block == 1 else "t"

    # -- reductions

    def _reduction(self, number: int, scope: Scope) -> Reduction:
        statement = self.kernel.statements[number]
        if statement.node.op.kind is Kind.GATHER:
            return self._gather(number, scope)
        if number in searches(self.kernel):
            return self._search(number, scope)
        node, name = statement.node, self.context.names[number]
        own, kind = self.function.names.fresh(f"{name}_own"), c_type(node.dtype)
        x = scope.argument(statement.args[0])
        record = reduction(self.function.tables, number, self.kernel)
        return Reduction(
            f"{kind} {own} = {start_of(node)};",
            f"{own} = {joined(node.op.c, node.dtype, own, x)};",
            f"const {kind} {name} = gx_join<{record}, {self.shape.threads}>({own});",
        )

    def _search(self, number: int, scope: Scope) -> Reduction:
        """The place of the best element."""
        statement, name = self.kernel.statements[number], self.context.names[number]
        node, names = statement.node, self.function.names
        dtype = node.inputs[0].dtype
        record, own = search(self.function.tables, number, self.kernel), names.fresh(f"{name}_own")
        x = scope.argument(statement.args[0])
        found = f"gx_found<{record}>"
        return Reduction(
            f"{found} {own} = {{{start_of(node)}, GX_NOWHERE}};",
            f"{own} = gx_better<{record}>({own}, {found}{{{_as(dtype, x)}, {self.place(scope)}}});",
            f"const int64_t {name} = gx_search<{record}, {self.shape.threads}>({own}).place;",
        )

    def _gather(self, number: int, scope: Scope) -> Reduction:
        """The value whose place is the label; the thread that meets it has it for all."""
        statement, name = self.kernel.statements[number], self.context.names[number]
        dtype, names = statement.node.dtype, self.function.names
        label, own = names.fresh(f"label_{name}"), names.fresh(f"{name}_own")
        given = self.outer.argument(statement.args[1])
        self.outer.lines.append(f"const int64_t {label} = {given};")
        missing = literal(float("nan") if dtype.kind == "f" else 0, dtype)
        x, kind = scope.argument(statement.args[0]), c_type(dtype)
        only = f"gx_only<{kind}>"
        found = f"gx_found<{only}>"
        here = scope.variables[self.last]
        return Reduction(
            f"{found} {own} = {{{missing}, GX_NOWHERE}};",
            f"if ({here} == {label}) {own} = {found}{{{_as(dtype, x)}, {here}}};",
            f"const {kind} {name} = gx_search<{only}, {self.shape.threads}>({own}).value;",
        )

    def _gather_directly(self, number: int) -> None:
        """The value at one point of the row, computed there alone."""
        statement, name = self.kernel.statements[number], self.context.names[number]
        dtype, size = statement.node.dtype, self.function.extent(self.kernel.space[self.last])
        label = self.function.names.fresh(f"label_{name}")
        variables = list(self.outer.variables)
        variables[self.last] = label
        given = self.outer.argument(statement.args[1])
        self.outer.lines.append(f"const int64_t {label} = {given};")
        inside = f"{label} >= 0 && {label} < {size}"
        draws = self.function.draws(operands(self.kernel, number)[:1], variables, 1)
        self.context.load = self.function.element_of
        point = Scope(self.context, tuple(variables), [], self.outer)
        value = point.argument(statement.args[0])
        missing = literal(float("nan") if dtype.kind == "f" else 0, dtype)
        self.outer.lines += [
            f"{c_type(dtype)} {name} = {missing};",
            f"if ({inside}) {{", *draws, *point.lines, f"{name} = {value};", "}",
        ]  # fmt: skip
        self.outer.known[number] = name

    def place(self, scope: Scope) -> str:
        """The number of a point within its row."""
        strides = _row_strides(self.kernel, self.inner)
        return index(Access(self.kernel.nodes[0], 0, strides), scope.variables)

    # -- the whole row

    def store_results(self) -> None:
        """One thread writes the outer values that are wanted, once all have read what they need."""
        statements, threads = self.kernel.statements, self.shape.threads
        stores = [s for s in self.kernel.stores if statements[s.value].level is Level.OUTER]
        lines = [self.function.store(self.outer, s) for s in stores]
        if not lines:
            return
        conditions = [*([self.guard] if self.guard else []),
                      *([f"{self.thread} == 0"] if threads > 1 else [])]  # fmt: skip
        if conditions:
            lines = [f"if ({' && '.join(conditions)}) {{", *lines, "}"]
        self.outer.lines += [*([f"gx_wait<{threads}>();"] if threads > 1 else []), *lines]

    def lines(self) -> list[str]:
        """The loop over rows."""
        inner = [*self._arrays, *self.outer.lines]
        if not self.lead:
            return inner
        function, threads, kind = self.function, self.shape.threads, self.function.index
        count, together = function.extent(self.count), self.per_block > 1
        own = "threadIdx.x" if threads == 1 else f"threadIdx.x / {threads}"
        head = "row" if len(self.lead) > 1 else function.loops[self.lead[0]]
        places = function.unravelled("row", self.lead) if head == "row" else []
        t = [f"const int t = threadIdx.x % {threads};"] if together and threads > 1 else []
        start = f"blockIdx.x * {self.per_block}" if together else "blockIdx.x"
        step = f"gridDim.x * {self.per_block}" if together else "gridDim.x"
        if self.guard:  # threads past the last row repeat it: whole warps take part in joining
            return [
                *t, f"for ({kind} unit = {start}; unit < {count}; unit += {step}) {{",
                f"const bool active = unit + {own} < {count};",
                f"const {kind} {head} = active ? unit + {own} : {count} - 1;",
                *places, *inner, "}",
            ]  # fmt: skip
        start += f" + {own}" if together else ""
        return [
            *t, f"for ({kind} {head} = {start}; {head} < {count}; {head} += {step}) {{",
            *places, *inner, "}",
        ]  # fmt: skip


@dataclass
class Reduction:
    """The lines of one: before the elements, at each of them, after them."""

    begin: str
    each: str
    join: str


def outer_variables(function: CudaFunction) -> tuple[str, ...]:
    """The loop variables for what is the same at all points of the reduced loops."""
    inner = function.kernel.inner
    return tuple("0" if i in inner else v for i, v in enumerate(function.loops))


def reduction(tables: Tables, number: int, kernel: Kernel) -> str:
    """The name of the record by which device.cuh joins a reduction; declared once in a program."""
    node = kernel.statements[number].node
    name = f"gx_{node.op.name}_of_{suffix(node.dtype)}"
    both = joined(node.op.c, node.dtype, "x", "y")
    tables.reductions[name] = (
        f"GX_REDUCTION({name}, {c_type(node.dtype)}, {start_of(node)}, {both})"
    )
    return name


def search(tables: Tables, number: int, kernel: Kernel) -> str:
    """The same of a reduction that gives an index."""
    node = kernel.statements[number].node
    dtype = node.inputs[0].dtype
    name = f"gx_{node.op.name}_of_{suffix(dtype)}"
    wins = joined(node.op.c, dtype, "x", "best")
    tables.reductions[name] = f"GX_SEARCH({name}, {c_type(dtype)}, {start_of(node)}, {wins})"
    return name


def _as(dtype: object, x: str) -> str:
    """An expression in exactly this type: braces allow no narrowing."""
    return f"({c_type(dtype)})({x})"  # type: ignore[arg-type]


def row_width(function: CudaFunction, inner: Sequence[int]) -> int:
    """Neighbours that a thread of a row handles at a time."""
    kernel = function.kernel
    if len(inner) > 1 or inner[0] != len(kernel.space) - 1:
        return 1
    read = [a for a in kernel.operands if a.strides[inner[0]]]
    written = [
        s.access for s in kernel.stores if kernel.statements[s.value].level is Level.FULL
    ]  # fmt: skip
    return vector_width(function, inner[0], accesses=[*read, *written])


# -- by chunks


def _can_be_cut(kernel: Kernel) -> bool:
    """Whether rows may be cut into chunks: their reductions are sums and the like, of one stage."""
    reductions = [s for s in kernel.statements if s.is_reduction]
    simple = all(s.node.op.combine and not s.stage for s in reductions)
    return simple and not any(s.stage and s.level is Level.FULL for s in kernel.statements)


def _print_chunks(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], number: int
) -> CudaPrinted:
    """Each block gives the partial results of a chunk of a row, then they are joined."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    shape = Shape(row_width(function, inner), THREADS)
    rows = Rows(function, lead, inner, shape)
    reductions = [i for i, s in enumerate(kernel.statements) if s.is_reduction]
    stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
    most = max(1, MOST_CHUNKS // int(rows.count))
    chunks = max(1, min(most, int(rows.size) // CHUNK))
    slot = {i: tables.partial(chunks * int(rows.count) * function.dtype(i).itemsize)
            for i in reductions}  # fmt: skip
    count = function.argument("chunks", chunks)
    rows.run(reductions, stores, [], count)
    handed = [f"{function.partial(i, s)}[unit] = {function.context.names[i]};"
              for i, s in slot.items()]  # fmt: skip
    kind = function.index
    lines = [
        f"for ({kind} unit = blockIdx.x; unit < {function.extent(rows.count)} * {count}; "
        "unit += gridDim.x) {",
        f"const {kind} chunk = unit % {count};",
        *function.unravelled(f"(unit / {count})", lead),
        *rows.outer.lines,
        "if (threadIdx.x == 0) {", *handed, "}", "}",
    ]  # fmt: skip
    name = f"{kernel.name}_chunks"
    text = function.text(name, lines, function.comment())
    launch = function.launch(name, chunks * int(rows.count))
    joining = _print_joining(tables, kernel, lead, inner, number, slot, chunks)
    return CudaPrinted(
        ((name, text), *joining.functions), (launch, *joining.launches), joining.slots
    )


def _print_joining(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], number: int,
    slot: dict[int, int], chunks: int,
) -> CudaPrinted:  # fmt: skip
    """Join the chunks' results in order, and compute what follows from them."""
    slots = Slots()
    function = CudaFunction(tables, kernel, slots, number)
    rows = Rows(function, lead, inner, Shape(1, THREADS))
    count = function.argument("chunks", chunks)
    row = index(Access(kernel.nodes[0], 0, _row_strides(kernel, lead)), function.loops)
    for i, s in slot.items():
        node, name = kernel.statements[i].node, function.context.names[i]
        own, kind = function.names.fresh(f"{name}_own"), c_type(node.dtype)
        part = f"{function.partial(i, s)}[({row}) * {count} + chunk]"
        rows.outer.lines += [
            f"{kind} {own} = {start_of(node)};",
            f"for ({function.index} chunk = threadIdx.x; chunk < {count}; chunk += {THREADS}) {{",
            f"{own} = {joined(node.op.c, node.dtype, own, part)};", "}",
            f"const {kind} {name} = gx_join<{reduction(tables, i, kernel)}, {THREADS}>({own});",
        ]  # fmt: skip
        rows.outer.known[i] = name
    rows.store_results()
    comment = f"joins what {kernel.name}_chunks gives, in order"
    name = f"{kernel.name}_joined"
    text = function.text(name, rows.lines(), comment)
    launch = function.launch(name, int(rows.count))
    return CudaPrinted(((name, text),), (launch,), slots)


def _row_strides(kernel: Kernel, loops: Sequence[int]) -> tuple[int, ...]:
    """The number of a point among some loops."""
    packed = contiguous_strides(tuple(kernel.space[i] for i in loops))
    by_loop = dict(zip(loops, packed, strict=True))
    return tuple(by_loop.get(i, 0) for i in range(len(kernel.space)))
