"""The host dialect: a program as one C translation unit of launches (see kernels/program.h).

Each kernel is a function that does one part of its work, so that threads share it: a run of the
outermost loop, of chunks of a long reduction, or of the rows or columns of a product. How work is
cut never depends on the number of threads, so neither do the results, to the last bit.

    elementwise   loops over the space, the innermost one vectorised
    row           for each row a loop per stage, outer values between them
    column        accumulators for a stretch of columns, the reduced loops around them
    full          as a row; long ones by chunks, whose results a second launch joins in order
    contraction   product.c, which hands each finished block to a function with the epilogue
    join          a copy for each piece
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from graphc.codegen.expression import (
    STORAGE,
    Context,
    Names,
    Scope,
    c_type,
    index,
    is_draw,
    joined,
    literal,
    needed,
    size_name,
    size_text,
    suffix,
)
from graphc.ir.dim import origin
from graphc.ir.layout import contiguous_strides
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import DType
from graphc.schedule.records import (
    Access,
    Buffer,
    Kernel,
    Level,
    Load,
    Piece,
    Program,
    Store,
    Value,
)

LOOPS = "ijklopqrst"  # names of loop variables
LONG_LANES = 512  # columns that are accumulated at a time: they stay in L1
LONG_ROW = 4096  # elements from which a sum is made of partial sums, for accuracy
SHORT_RUN = 1024  # elements of such a partial sum, and of a run of random numbers
CHUNK = 1 << 16  # elements of a chunk of a long reduction
MOST_CHUNKS = 64
STACK = 1 << 14  # bytes of a row that may lie on the stack
DEAR = 4.0  # cost from which a value is kept rather than computed again
FIRST_AXIS = 16  # extent from which the outermost loop is the one that is shared out
ROW_UNIT = 8  # rows of a part come in multiples of this, as those of a product do
FLAT_UNIT = 64  # elements of a flat loop: whole cache lines


@dataclass(frozen=True)
class Launch:
    """A function of the generated text and how its work may be shared.

    `extent` things are shared in multiples of `unit`: the steps of loop `axis` of the kernel's
    space, or, where `axis` is None, others (chunks, columns, pieces). `seconds` is an estimate.
    """

    function: str
    kernel: int
    extent: int
    unit: int
    axis: int | None
    seconds: float


@dataclass(frozen=True)
class HostProgram:
    """The text and all that is needed to call it: what the entries of the frame's tables are."""

    text: str
    kernel_sources: tuple[str, ...]
    launches: tuple[Launch, ...]
    buffers: tuple[Buffer, ...]
    partials: tuple[int, ...]  # bytes of shared scratch buffers, which follow the buffers
    symbols: tuple[str, ...]
    numbers: tuple[float, ...]
    row_nbytes: int  # of scratch, for one part
    products: Mapping[str, int]  # element type -> the largest inner size


def print_program(
    program: Program,
    draws: Mapping[int, int],
    fixed: frozenset[Node] | None = None,
) -> HostProgram:
    """Print a program. `draws`: numbers of the random draws, by identity. `fixed`: the nodes as
    declared, if there are symbolic sizes: other constants may depend on sizes, so they are
    arguments."""
    printer = _Program(program, draws, fixed)
    for number, kernel in enumerate(program.kernels):
        printer.add(number, kernel)
    return printer.finish()


@dataclass
class _Program:
    """Collects functions and the tables that they index."""

    program: Program
    draws: Mapping[int, int]
    fixed: frozenset[Node] | None
    buffers: dict[Buffer, int] = field(default_factory=dict[Buffer, int])
    partials: list[int] = field(default_factory=list[int])
    symbols: dict[str, int] = field(default_factory=dict[str, int])
    numbers: dict[Node, int] = field(default_factory=dict[Node, int])
    reductions: dict[str, str] = field(default_factory=dict[str, str])
    sources: list[str] = field(default_factory=list[str])
    launches: list[Launch] = field(default_factory=list[Launch])
    row_nbytes: int = 0
    products: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        for kernel in self.program.kernels:
            for access in (*kernel.reads, *kernel.writes):
                self.buffers.setdefault(access.base, len(self.buffers))
        for symbol in sorted(_symbols(self.program)):
            self.symbols[symbol] = len(self.symbols)

    def add(self, number: int, kernel: Kernel) -> None:
        """Print one kernel."""
        printer = _Kernel(self, number, kernel)
        printer.print()
        self.launches += printer.launches
        self.sources.append("\n\n".join(printer.functions))

    def finish(self) -> HostProgram:
        """The whole text."""
        table = ",\n".join(f"    {launch.function}" for launch in self.launches)
        used = "\n".join(self.sources)
        includes = ["program.h", "scalar.h", *(["random.h"] if "gx_draw_" in used else [])]
        parts = [
            "\n".join(f'#include "{name}"' for name in includes),
            "\n".join(self.reductions.values()),
            *self.sources,
            f"gx_launch *const gx_launches[] = {{\n{table or '    NULL'}\n}};",
        ]
        return HostProgram(
            "\n\n".join(filter(None, parts)) + "\n",
            tuple(self.sources), tuple(self.launches), tuple(self.buffers), tuple(self.partials),
            tuple(self.symbols), tuple(_value(n) for n in self.numbers), self.row_nbytes,
            self.products,
        )  # fmt: skip

    def reduction(self, node: Node) -> str:
        """The name of a reduction that the vectoriser knows, declared if it is not yet."""
        dtype = node.dtype
        name = f"{node.op.name}_{suffix(dtype)}"
        if name not in self.reductions:
            combine = joined(node.op.c, dtype, "omp_out", "omp_in")
            self.reductions[name] = (
                f"#pragma omp declare reduction({name} : {c_type(dtype)} : omp_out = {combine}) "
                f"initializer(omp_priv = {start_of(node)})"
            )
        return name

    def number(self, node: Node) -> str:
        """A constant: as it is, or as an argument where it may depend on sizes."""
        value = _value(node)
        plain = self.fixed is None or node in self.fixed or value in (0, 1)
        if plain or float(value) != value:
            return literal(value, node.dtype)
        place = self.numbers.setdefault(node, len(self.numbers))
        return f"({c_type(node.dtype)})call->numbers[{place}]"


def _symbols(program: Program) -> set[str]:
    """The symbolic sizes that loops and accesses mention."""
    found: set[str] = set()

    def look(values: Iterable[int]) -> None:
        for value in values:
            dim = origin(value)
            if not isinstance(dim, int):
                found.update(dim.symbols())

    for kernel in program.kernels:
        look(kernel.space)
        for access in (*kernel.reads, *kernel.writes):
            look((access.offset, *access.strides))
        for piece in kernel.pieces:
            look(piece.shape)
        if kernel.contraction is not None:
            c = kernel.contraction
            look((*c.batch, c.m, c.n, c.k))
    return found


def _value(node: Node) -> Any:
    """The number that a constant of one element is; of a 16-bit float its bits."""
    assert node.op.eval is not None
    return _stored(np.asarray(node.op.eval(np, **dict(node.attrs))))


def _stored(value: np.ndarray) -> Any:
    return (value.view(np.uint16) if value.dtype.name in STORAGE else value).item()


def start_of(node: Node) -> str:
    """What a reduction starts from, in C."""
    if node.op.identity is not None:
        return literal(node.op.identity, node.dtype)
    return node.op.start.format(t=suffix(node.dtype), T=c_type(node.dtype))


class _Kernel:
    """Prints one kernel: its functions, and how they are launched."""

    def __init__(self, program: _Program, number: int, kernel: Kernel) -> None:
        self.program, self.number, self.kernel = program, number, kernel
        self.functions: list[str] = []
        self.launches: list[Launch] = []
        self.loops = LOOPS[: len(kernel.space)]

    def print(self) -> None:
        """Choose the form."""
        kernel = self.kernel
        if kernel.pieces:
            self._join()
        elif kernel.contraction is not None:
            self._contraction()
        elif kernel.form == "elementwise":
            self._elementwise()
        else:
            lead, inner, lane = arrange(kernel)
            if lane is not None:
                self._column(lead, inner, lane)
            else:
                self._row(lead, inner)

    # -- names and operands

    def _begin(self, kernel: Kernel | None = None) -> None:
        """Start a function: nothing is declared in it yet."""
        kernel = kernel or self.kernel
        names = self.program.program.schedule.graph.names
        self.names = Names([*self.loops, *(f"{v}{n}" for v in self.loops for n in "01")])
        wanted = [names.get(s.node, s.node.op.name) for s in kernel.statements]
        values = [self.names.fresh(w) for w in wanted]
        self.pointers: dict[tuple[Buffer, bool], str] = {}
        self.declared: list[str] = []
        self.states: dict[int, str] = {}
        self.context = Context(kernel, values, self._load, self.program.number)
        self.stack = 0
        self.row_end = ""

    def _pointer(self, buffer: Buffer, written: bool = False) -> str:
        """The name of a pointer to a buffer, declared when first asked for."""
        key = (buffer, written)
        if key not in self.pointers:
            names = self.program.program.schedule.graph.names
            wanted = names.get(buffer, "") if isinstance(buffer, Node) else ""
            wanted = wanted or (buffer.name if not isinstance(buffer, Node) else buffer.op.name)
            name = self.names.fresh(f"to_{wanted}" if written else wanted)
            place = self.program.buffers[buffer]
            qualifier = "" if written else "const "
            kind = f"{qualifier}{c_type(buffer.dtype)} *"
            self.declared.append(f"{kind}const {name} = ({kind})call->buffers[{place}];")
            self.pointers[key] = name
        return self.pointers[key]

    def _load(self, operand: int, variables: Sequence[str]) -> str:
        access = self.context.kernel.operands[operand]
        return self._element(access, variables)

    def _element(self, access: Access, variables: Sequence[str], written: bool = False) -> str:
        return f"{self._pointer(access.base, written)}[{index(access, variables)}]"

    def _store(self, scope: Scope, store: Store) -> str:
        element = self._element(store.access, scope.variables, written=True)
        return f"{element} = {scope.value(store.value)};"

    def _function(self, name: str, body: Sequence[str], comment: str, signature: str = "") -> None:
        """Close a function."""
        arrays = [d for d in self.declared if d.endswith("];") and "=" not in d]
        pointers = [d for d in self.declared if d not in arrays]
        lines = [*pointers, *arrays, *body]
        text = "\n".join(lines)
        used = dict.fromkeys(re.findall(r"\bsize_(\w+)", text))
        sizes = [
            f"const int64_t {size_name(s)} = call->sizes[{self.program.symbols[s]}];" for s in used
        ]
        signature = signature or "const gx_call *call, int64_t part, int64_t parts"
        unused = [v for v in ("call", "part", "parts") if not re.search(rf"\b{v}\b", text)]
        ignored = [f"(void){v};" for v in unused if v in signature and not (sizes and v == "call")]
        inside = "\n".join(f"    {line}" if line else "" for line in [*ignored, *sizes, *lines])
        self.functions.append(
            f"/* {comment} */\nstatic void {name}({signature})\n{{\n{_indented(inside)}\n}}"
        )

    def _comment(self) -> str:
        """What is fused here, and over which loops."""
        kernel = self.context.kernel
        loops = ", ".join(
            f"{v} < {_plain(n)}" for v, n in zip(self.loops, kernel.space, strict=True)
        )
        inner = ", ".join(self.loops[i] for i in kernel.inner)
        ops = ", ".join(dict.fromkeys(s.node.op.name for s in kernel.statements))
        over = f" over {loops}" if loops else ""
        reduced = f", reduces {inner}" if inner else ""
        return f"{kernel.form}{over}{reduced}: {ops or self.kernel.name}"

    def _launch(
        self, function: str, extent: int, unit: int, axis: int | None, share: float = 1.0
    ) -> None:
        seconds = share * estimate(self.kernel)
        self.launches.append(Launch(function, self.number, extent, unit, axis, seconds))

    # -- loops

    def _for(self, loop: int, first: str = "0", last: str = "") -> str:
        variable = self.loops[loop]
        last = last or size_text(self.context.kernel.space[loop])
        return f"for (int64_t {variable} = {first}; {variable} < {last}; {variable}++) {{"

    def _nest(self, loops: Sequence[int], body: list[str], shared: int | None = None) -> list[str]:
        """`body` inside loops, the first one outermost; parts share the loop `shared`."""
        for loop in reversed(loops):
            if loop == shared:
                first, last = self._bounds(loop)
                body = [first, last, self._for(loop, "first", "last"), *body, "}"]
            else:
                body = [self._for(loop), *body, "}"]
        return body

    def _bounds(self, loop: int) -> tuple[str, str]:
        extent = size_text(self.context.kernel.space[loop])
        unit = self.unit_of(loop)
        return (
            f"const int64_t first = gx_start({extent}, {unit}, part, parts);",
            f"const int64_t last = gx_start({extent}, {unit}, part + 1, parts);",
        )

    def unit_of(self, loop: int) -> int:
        """In multiples of what the steps of a loop are shared."""
        return FLAT_UNIT if loop == len(self.context.kernel.space) - 1 else ROW_UNIT

    def _shared(self, loops: Sequence[int]) -> int:
        """The loop that parts share: the outermost, or the longest if that is short."""
        space = self.context.kernel.space
        symbolic = not isinstance(origin(space[loops[0]]), int)
        if symbolic or space[loops[0]] >= FIRST_AXIS:
            return loops[0]
        return max(loops, key=lambda loop: space[loop])

    # -- random numbers: drawn for a run of the innermost loop, then read

    def _draw(self, number: int, to: str, first: str, count: str) -> str:
        node = self.context.kernel.statements[number].node
        attrs = dict(node.attrs)
        state = f"call->seed[0], call->seed[1], {self.program.draws[attrs['identity']]}u, "
        state += "call->step[0], call->step[1]"
        threshold = f"{round(attrs.get('p', 0.0) * 2.0**24)}u"
        return (
            node.op.c.format(
                to, first, count, f"(const uint32_t[5]){{{state}}}",
                r=suffix(node.dtype), threshold=threshold,
            )
            + ";"
        )  # fmt: skip

    def _flat(self, variables: Sequence[str]) -> str:
        """The number of a point of the space, in row-major order."""
        space = self.context.kernel.space
        return index(Access(self.kernel.nodes[0], 0, contiguous_strides(space)), variables)

    def _drawn(
        self, roots: Iterable[int], variables: Sequence[str], loop: int, count: str, room: int
    ) -> list[str]:
        """Fill arrays with what a run of loop `loop` draws; `variables` is where the run begins."""
        lines: list[str] = []
        start = variables[loop]
        for number in sorted(needed(self.context.kernel, roots)):
            if not is_draw(self.context.kernel, number):
                continue
            name = self.context.names[number]
            array = self.names.fresh(f"{name}_run")
            kind = c_type(self.context.kernel.statements[number].node.dtype)
            self.declared.append(f"{kind} {array}[{room}];")
            lines.append(self._draw(number, array, self._flat(variables), count))
            self.context.kept[number] = lambda v, a=array, s=start: (
                f"{a}[{v[loop]}]" if s == "0" else f"{a}[{v[loop]} - {s}]"
            )
        return lines

    # -- elementwise

    def _elementwise(self) -> None:
        kernel, space = self.kernel, self.kernel.space
        self._begin()
        stores = [s.value for s in kernel.stores]
        last = len(space) - 1
        shared = self._shared(range(len(space))) if space else None
        random = any(is_draw(kernel, i) for i in needed(kernel, stores))
        variables = list(self.loops)
        if random and space:
            variables[last] = f"{self.loops[last]}0"
            run = self._drawn(stores, variables, last, f"{self.loops[last]}1 - {variables[last]}",
                              SHORT_RUN)  # fmt: skip
        elif random:
            raise AssertionError("a draw of one element has a loop")
        scope = Scope(self.context, tuple(self.loops), [])
        body = [self._store(scope, s) for s in kernel.stores]
        body = scope.lines + body
        if not space:
            lines = body
        elif random:
            v = self.loops[last]
            bounds = self._bounds(last) if shared == last else ()
            first, end = ("first", "last") if bounds else ("0", size_text(space[last]))
            lines = [
                *bounds,
                f"for (int64_t {v}0 = {first}; {v}0 < {end}; {v}0 += {SHORT_RUN}) {{",
                f"const int64_t {v}1 = gx_least({v}0 + {SHORT_RUN}, {end});",
                *run,
                "#pragma omp simd",
                self._for(last, f"{v}0", f"{v}1"), *body, "}",
                "}",
            ]  # fmt: skip
            lines = self._nest(range(last), lines, shared)
        else:
            inner = self._nest([last], body, shared)
            at = len(inner) - len(body) - 2
            inner.insert(at, "#pragma omp simd")
            lines = self._nest(range(last), inner, shared)
        self._function(kernel.name, lines, self._comment())
        extent = space[shared] if shared is not None else 1
        self._launch(kernel.name, extent, self.unit_of(shared) if shared is not None else 1, shared)

    # -- rows

    def _row(self, lead: Sequence[int], inner: Sequence[int]) -> None:
        """Scalars as accumulators; without outer loops it is a full reduction, by chunks if long."""
        kernel = self.kernel
        if not lead and self._is_chunked(inner):
            self._row_chunks(inner)
            self._finish(inner, None)
            return
        self._begin()
        shared = self._shared(lead) if lead else None
        outer = Scope(self.context, self._outer_variables(), [])
        for number in self._draws_of_rows():
            self._draw_row(number, outer, inner)
        stages = range(max((s.stage for s in kernel.statements), default=0) + 1)
        spilled = self._spilled(stages)
        for stage in stages:
            self._stage(stage, spilled[stage], outer, inner)
        for store in kernel.stores:
            if kernel.statements[store.value].level is Level.OUTER:
                text = self._store(outer, store)
                outer.lines.append(text)
        self._function(kernel.name, self._nest(lead, outer.lines, shared), self._comment())
        extent = kernel.space[shared] if shared is not None else 1
        self._launch(kernel.name, extent, self.unit_of(shared) if shared is not None else 1, shared)

    def _outer_variables(self) -> tuple[str, ...]:
        kernel = self.context.kernel
        return tuple("0" if i in kernel.inner else v for i, v in enumerate(self.loops))

    def _draws_of_rows(self) -> list[int]:
        return [i for i in range(len(self.kernel.statements)) if is_draw(self.kernel, i)]

    def _draw_row(self, number: int, outer: Scope, inner: Sequence[int]) -> None:
        array = self._row_array(number, inner, "run")
        start = self._flat(self._outer_variables())
        outer.lines.append(self._draw(number, array, start, self._row_size(inner)))
        self._keep(number, array, inner)

    def _keep(self, number: int, array: str, inner: Sequence[int]) -> None:
        """A full-level value now lies in an array, one element per point of the inner loops."""
        strides = self._row_strides(inner)
        access = Access(self.kernel.nodes[0], 0, strides)
        self.context.kept[number] = lambda v: f"{array}[{index(access, v)}]"

    def _row_strides(self, inner: Sequence[int]) -> tuple[int, ...]:
        space = self.kernel.space
        packed = contiguous_strides(tuple(space[i] for i in inner))
        by_loop = dict(zip(inner, packed, strict=True))
        return tuple(by_loop.get(i, 0) for i in range(len(space)))

    def _row_size(self, inner: Sequence[int]) -> str:
        return size_text(prod([self.kernel.space[i] for i in inner], start=1))

    def _row_array(self, number: int, inner: Sequence[int], what: str) -> str:
        """Room for a value at each point of the inner loops: on the stack if short, else scratch
        of the part."""
        dtype = self.kernel.statements[number].node.dtype
        name = self.names.fresh(f"{self.context.names[number]}_{what}")
        count = prod([self.kernel.space[i] for i in inner], start=1)
        nbytes = count * dtype.itemsize
        kind = c_type(dtype)
        if isinstance(origin(count), int) and self.stack + nbytes <= STACK:
            self.stack += nbytes
            self.declared.append(f"{kind} {name}[{max(1, count)}];")
            return name
        place = self.row_end or "part * call->scratch_nbytes"
        self.declared.append(f"{kind} *const {name} = ({kind} *)(call->scratch + {place});")
        self.row_end = f"{place} + gx_padded({size_text(count)} * {dtype.itemsize})"
        self.row_used = getattr(self, "row_used", 0) + -(-int(nbytes) // 64) * 64
        self.program.row_nbytes = max(self.program.row_nbytes, self.row_used)
        return name

    def _spilled(self, stages: Sequence[int]) -> list[list[int]]:
        """For each stage the full-level values that a later stage needs and that are kept: dear
        ones, and those that a store of an earlier stage may have made impossible to compute."""
        kernel = self.kernel
        statements = kernel.statements
        kept: list[dict[int, None]] = [{} for _ in stages]
        first_store = min(
            (statements[s.value].stage for s in kernel.stores
             if statements[s.value].level is Level.FULL), default=len(stages)
        )  # fmt: skip
        for stage in reversed(stages):
            unsafe = first_store < stage
            seen: set[int] = set()

            def visit(i: int, stage: int = stage, unsafe: bool = unsafe, seen: Any = seen) -> None:
                statement = statements[i]
                outer = statement.level is Level.OUTER
                if outer or i in seen or is_draw(kernel, i):
                    return
                seen.add(i)
                dear = statement.node.op.cost >= DEAR and not statement.is_copy
                if statement.stage < stage and (dear or unsafe):
                    kept[statement.stage].setdefault(i)
                    return
                for argument in statement.args:
                    if isinstance(argument, Value):
                        visit(argument.index)

            for i, statement in enumerate(statements):
                if statement.is_reduction and statement.stage == stage:
                    for argument in statement.args:
                        if isinstance(argument, Value):
                            visit(argument.index)
            for store in kernel.stores:
                if statements[store.value].stage == stage:
                    visit(store.value)
            for i in list(kept[stage]):
                for argument in statements[i].args:
                    if isinstance(argument, Value):
                        visit(argument.index)
        return [list(k) for k in kept]

    def _stage(self, stage: int, spilled: list[int], outer: Scope, inner: Sequence[int]) -> None:
        """One pass over a row: its reductions, its stores, and what later passes need."""
        kernel = self.kernel
        reductions = [
            i for i, s in enumerate(kernel.statements) if s.is_reduction and s.stage == stage
        ]
        for i in reductions:
            if kernel.statements[i].node.op.kind is Kind.GATHER:
                self._gather(i, outer, inner)
        plain = [i for i in reductions if kernel.statements[i].node.op.combine]
        searches = [
            i for i in reductions
            if not kernel.statements[i].node.op.combine
            and kernel.statements[i].node.op.kind is Kind.REDUCTION
        ]  # fmt: skip
        for i in searches:
            self._search(i, outer, inner)
        stores = [
            s for s in kernel.stores
            if kernel.statements[s.value].level is Level.FULL
            and kernel.statements[s.value].stage == stage
        ]  # fmt: skip
        if plain or stores or spilled:
            self._pass(plain, stores, spilled, outer, inner)

    def _pass(
        self, reductions: list[int], stores: list[Store], spilled: list[int], outer: Scope,
        inner: Sequence[int], bounds: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """One nest of inner loops. `bounds`: of the first one, if it is cut."""
        kernel, last = self.kernel, inner[-1]
        scope = Scope(self.context, tuple(self.loops), [], outer)
        extent = kernel.space[last]
        long = reductions and (extent > LONG_ROW or not isinstance(origin(extent), int))
        names = {i: self.context.names[i] + ("_part" if long else "") for i in reductions}
        body: list[str] = []
        for i in reductions:
            statement = kernel.statements[i]
            x = scope.argument(statement.args[0])
            combined = joined(statement.node.op.c, statement.node.dtype, names[i], x)
            body.append(f"{names[i]} = {combined};")
        arrays: dict[int, str] = {}
        for i in spilled:
            value = scope.value(i)
            arrays[i] = self._row_array(i, inner, "row")
            access = Access(kernel.nodes[0], 0, self._row_strides(inner))
            body.append(f"{arrays[i]}[{index(access, scope.variables)}] = {value};")
        body += [self._store(scope, s) for s in stores]
        clauses = "".join(
            f" reduction({self.program.reduction(kernel.statements[i].node)} : {names[i]})"
            for i in reductions
        )
        v = self.loops[last]
        cut = bounds is not None and inner[0] == last
        first, end = bounds if bounds is not None and cut else ("0", size_text(extent))
        if long:
            lines = [
                f"for (int64_t {v}0 = {first}; {v}0 < {end}; {v}0 += {SHORT_RUN}) {{",
                f"const int64_t {v}1 = gx_least({v}0 + {SHORT_RUN}, {end});",
                *(self._accumulator(i, names[i]) for i in reductions),
                f"#pragma omp simd{clauses}",
                self._for(last, f"{v}0", f"{v}1"), *scope.lines, *body, "}",
                *(self._combine(i, names[i]) for i in reductions),
                "}",
            ]  # fmt: skip
        else:
            lines = [f"#pragma omp simd{clauses}", self._for(last, first, end),
                     *scope.lines, *body, "}"]  # fmt: skip
        for loop in reversed(inner[:-1]):
            low, high = bounds if bounds is not None and loop == inner[0] else ("0", "")
            lines = [self._for(loop, low, high), *lines, "}"]
        outer.lines += [self._accumulator(i, self.context.names[i]) for i in reductions]
        outer.lines += lines
        for i in reductions:
            outer.known[i] = self.context.names[i]
        for i, array in arrays.items():
            self._keep(i, array, inner)

    def _accumulator(self, number: int, name: str) -> str:
        node = self.kernel.statements[number].node
        return f"{c_type(node.dtype)} {name} = {start_of(node)};"

    def _combine(self, number: int, part: str, whole: str = "") -> str:
        node = self.kernel.statements[number].node
        whole = whole or self.context.names[number]
        return f"{whole} = {joined(node.op.c, node.dtype, whole, part)};"

    def _gather(self, number: int, outer: Scope, inner: Sequence[int]) -> None:
        """The value at one point of the row, computed there alone."""
        kernel, loop = self.kernel, inner[-1]
        statement = kernel.statements[number]
        dtype = statement.node.dtype
        label = self.names.fresh(f"label_{self.context.names[number]}")
        name = self.context.names[number]
        missing = literal(np.nan if dtype.kind == "f" else 0, dtype)
        outer.lines += [
            f"const int64_t {label} = {outer.argument(statement.args[1])};",
            f"{c_type(dtype)} {name} = {missing};",
        ]
        variables = [*self.loops]
        for i in inner:
            variables[i] = "0"
        variables[loop] = label
        point = Scope(self.context, tuple(variables), [], outer)
        value = point.argument(statement.args[0])
        outer.lines += [
            f"if ({label} >= 0 && {label} < {size_text(kernel.space[loop])}) {{",
            *point.lines, f"{name} = {value};",
            "}",
        ]  # fmt: skip
        outer.known[number] = name

    def _search(self, number: int, outer: Scope, inner: Sequence[int]) -> None:
        """The place of the best element: one by one, as the first of equals counts."""
        kernel = self.kernel
        statement = kernel.statements[number]
        node = statement.node
        dtype = node.inputs[0].dtype
        name = self.context.names[number]
        best = self.names.fresh(f"best_{name}")
        scope = Scope(self.context, tuple(self.loops), [], outer)
        x = self.names.fresh(f"here_{name}")
        scope.lines.append(f"const {c_type(dtype)} {x} = {scope.argument(statement.args[0])};")
        here = index(Access(node, 0, self._row_strides(inner)), self.loops)
        beats = joined(node.op.c, dtype, x, best)
        lines = [*scope.lines, f"if ({here} == 0 || {beats}) {{", f"{best} = {x};",
                 f"{name} = {here};", "}"]  # fmt: skip
        for loop in reversed(inner):
            lines = [self._for(loop), *lines, "}"]
        outer.lines += [f"{c_type(dtype)} {best} = 0;", f"int64_t {name} = 0;", *lines]
        outer.known[number] = name

    # -- long reductions to few values: by chunks, joined in order

    def _is_chunked(self, inner: Sequence[int]) -> bool:
        kernel = self.kernel
        searches = any(s.is_reduction and not s.node.op.combine for s in kernel.statements)
        if searches or any(is_draw(kernel, i) for i in range(len(kernel.statements))):
            return False
        symbolic = not isinstance(origin(prod(kernel.space, start=1)), int)
        return symbolic or chunks(kernel.space[inner[0]], kernel.size) > 1

    def _chunk_lines(self, inner: Sequence[int]) -> list[str]:
        extent, total = (
            size_text(self.kernel.space[inner[0]]),
            size_text(prod(self.kernel.space, start=1)),
        )
        return [f"const int64_t chunks = gx_chunks({extent}, {total});"]

    def _chunk_loop(self, inner: Sequence[int], body: list[str]) -> list[str]:
        extent = size_text(self.kernel.space[inner[0]])
        return [
            *self._chunk_lines(inner),
            "for (int64_t chunk = gx_start(chunks, 1, part, parts); "
            "chunk < gx_start(chunks, 1, part + 1, parts); chunk++) {",
            f"const int64_t first = gx_start({extent}, 1, chunk, chunks);",
            f"const int64_t last = gx_start({extent}, 1, chunk + 1, chunks);",
            *body,
            "}",
        ]  # fmt: skip

    def _partial(self, number: int, lanes: int) -> tuple[str, str]:
        """Declares the shared array of a reduction's partial results; its name."""
        dtype = self.kernel.statements[number].node.dtype
        place = self.partial_places.get(number)
        if place is None:
            place = len(self.program.buffers) + len(self.program.partials)
            self.partial_places[number] = place
            self.program.partials.append(MOST_CHUNKS * int(lanes) * dtype.itemsize)
        name = self.names.fresh(f"{self.context.names[number]}_parts")
        kind = c_type(dtype)
        self.declared.append(f"{kind} *const {name} = ({kind} *)call->buffers[{place}];")
        return name, kind

    def _row_chunks(self, inner: Sequence[int]) -> None:
        kernel = self.kernel
        self._begin()
        self.partial_places: dict[int, int] = {}
        outer = Scope(self.context, self._outer_variables(), [])
        reductions = [i for i, s in enumerate(kernel.statements) if s.is_reduction]
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
        self._pass(reductions, stores, [], outer, inner, ("first", "last"))
        for i in reductions:
            name, _ = self._partial(i, 1)
            outer.lines.append(f"{name}[chunk] = {self.context.names[i]};")
        function = f"{kernel.name}_chunks"
        self._function(function, self._chunk_loop(inner, outer.lines), self._comment())
        count = chunks(kernel.space[inner[0]], kernel.size)
        self._launch(function, count, 1, None)

    def _finish(self, inner: Sequence[int], lane: int | None) -> None:
        """Join the chunks' results, and compute what follows from them."""
        kernel = self.kernel
        self._begin()
        lanes = 1 if lane is None else kernel.space[lane]
        scope = Scope(self.context, self._outer_variables(), [])
        for i, statement in enumerate(kernel.statements):
            if not statement.is_reduction:
                continue
            name, _ = self._partial(i, lanes)
            place = "chunk" if lane is None else f"chunk * {size_text(lanes)} + {self.loops[lane]}"
            scope.lines += [
                self._accumulator(i, self.context.names[i]),
                "for (int64_t chunk = 0; chunk < chunks; chunk++) {",
                self._combine(i, f"{name}[{place}]"),
                "}",
            ]
            scope.known[i] = self.context.names[i]
        for store in kernel.stores:
            if kernel.statements[store.value].level is Level.OUTER:
                text = self._store(scope, store)
                scope.lines.append(text)
        body = scope.lines if lane is None else [self._for(lane), *scope.lines, "}"]
        self._function(kernel.name, [*self._chunk_lines(inner), *body],
                       f"joins the chunks of {kernel.name}_chunks, in order")  # fmt: skip
        self._launch(kernel.name, 1, 1, None, 0.0)

    # -- columns

    def _column(self, lead: Sequence[int], inner: Sequence[int], lane: int) -> None:
        """Accumulators for up to LONG_LANES columns at a time, the reduced loops around them."""
        kernel = self.kernel
        chunked = not lead and self._is_chunked(inner)
        self._begin()
        self.partial_places = {}
        v = self.loops[lane]
        v0, v1 = f"{v}0", f"{v}1"
        reductions = [i for i, s in enumerate(kernel.statements) if s.is_reduction]
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
        results = [s for s in kernel.stores if kernel.statements[s.value].level is Level.OUTER]
        extent = kernel.space[lane]
        short = isinstance(origin(extent), int) and extent <= LONG_LANES
        room = max(1, int(extent)) if short else LONG_LANES
        before = self._kept_columns(lane, room, v0)
        arrays: dict[int, str] = {}
        for i in reductions:
            dtype = kernel.statements[i].node.dtype
            arrays[i] = self.names.fresh(f"{self.context.names[i]}_columns")
            self.declared.append(f"{c_type(dtype)} {arrays[i]}[{room}];")
        roots = [a.index for i in reductions for a in kernel.statements[i].args
                 if isinstance(a, Value)] + [s.value for s in stores]  # fmt: skip
        variables = [*self.loops]
        variables[lane] = v0
        runs = self._drawn(roots, variables, lane, f"{v1} - {v0}", room)
        scope = Scope(self.context, tuple(self.loops), [])
        body: list[str] = []
        for i in reductions:
            statement = kernel.statements[i]
            x = scope.argument(statement.args[0])
            here = f"{arrays[i]}[{v} - {v0}]"
            body.append(f"{here} = {joined(statement.node.op.c, statement.node.dtype, here, x)};")
        body += [self._store(scope, s) for s in stores]
        run = self._for(lane, v0, v1)
        lines = [*runs, "#pragma omp simd", run, *scope.lines, *body, "}"]
        for loop in reversed(inner):
            low, high = ("first", "last") if chunked and loop == inner[0] else ("0", "")
            lines = [self._for(loop, low, high), *lines, "}"]
        begin = [
            f"{arrays[i]}[{v} - {v0}] = {start_of(kernel.statements[i].node)};" for i in reductions
        ]
        if chunked:
            end = [
                f"{self._partial(i, extent)[0]}[chunk * {size_text(extent)} + {v}] = "
                f"{arrays[i]}[{v} - {v0}];"
                for i in reductions
            ]
        else:
            final = Scope(self.context, self._outer_variables(), [])
            final.known.update({i: f"{arrays[i]}[{v} - {v0}]" for i in reductions})
            end = [self._store(final, s) for s in results]
            end = final.lines + end
        simd = "#pragma omp simd"
        block = [*before, run, *begin, "}", *lines, simd, run, *end, "}"]
        shared: int | None = None
        if chunked:
            lines = self._lane_blocks(block, v, "0", size_text(extent))
            lines = self._chunk_loop(inner, lines)
            function, count, unit = f"{kernel.name}_chunks", chunks(kernel.space[inner[0]],
                                                                    kernel.size), 1  # fmt: skip
        elif lead:
            shared = self._shared(lead)
            lines = self._nest(lead, self._lane_blocks(block, v, "0", size_text(extent)), shared)
            function, count, unit = kernel.name, kernel.space[shared], self.unit_of(shared)
        else:
            shared = lane
            lines = [*self._bounds(lane), *self._lane_blocks(block, v, "first", "last")]
            function, count, unit = kernel.name, extent, self.unit_of(lane)
        self._function(function, lines, self._comment())
        self._launch(function, count, unit, shared)
        if chunked:
            self._finish(inner, lane)

    def _kept_columns(self, lane: int, room: int, v0: str) -> list[str]:
        """Dear values that are the same for all rows, computed once for each column."""
        kernel, v = self.kernel, self.loops[lane]
        dear = [
            i for i, s in enumerate(kernel.statements)
            if s.level is Level.OUTER and not s.stage and not s.is_reduction
            and s.node.op.cost >= DEAR and not is_draw(kernel, i)
        ]  # fmt: skip
        if not dear:
            return []
        scope = Scope(self.context, self._outer_variables(), [])
        kept: dict[int, Callable[[Sequence[str]], str]] = {}
        lines: list[str] = []
        for i in dear:
            value = scope.value(i)
            array = self.names.fresh(f"{self.context.names[i]}_kept")
            self.declared.append(f"{c_type(kernel.statements[i].node.dtype)} {array}[{room}];")
            lines.append(f"{array}[{v} - {v0}] = {value};")
            kept[i] = lambda at, a=array: f"{a}[{at[lane]} - {v0}]"
        self.context.kept.update(kept)
        return ["#pragma omp simd", self._for(lane, v0, f"{v}1"), *scope.lines, *lines, "}"]

    def _lane_blocks(self, block: list[str], v: str, first: str, last: str) -> list[str]:
        return [
            f"for (int64_t {v}0 = {first}; {v}0 < {last}; {v}0 += {LONG_LANES}) {{",
            f"const int64_t {v}1 = gx_least({v}0 + {LONG_LANES}, {last});",
            *block,
            "}",
        ]

    # -- products

    def _contraction(self) -> None:
        """The product by product.c; what follows it in a function that gets each block."""
        kernel = spread(self.kernel)
        c = kernel.contraction
        assert c is not None
        dtype = kernel.statements[0].node.dtype
        count = len(c.batch)
        self.loops = LOOPS[: len(kernel.space)]
        i, j = self.loops[-2:]
        self._begin(kernel)
        scope = Scope(self.context, tuple(self.loops), [])
        element = f"block_values[({i} - block->first_row) * block->row + {j} - block->first_column]"
        product = f"const {c_type(dtype)} {self.context.names[0]} = {element};"
        scope.known[0] = self.context.names[0]
        roots = [s.value for s in kernel.stores]
        variables = [*self.loops]
        variables[-1] = "block->first_column"
        runs = self._drawn(roots, variables, count + 1, "block->last_column - block->first_column",
                           256)  # fmt: skip
        body = [self._store(scope, s) for s in kernel.stores]
        lines = [
            f"const {c_type(dtype)} *const block_values = (const {c_type(dtype)} *)block->values;",
            *(f"const int64_t {v} = batch[{n}];" for n, v in enumerate(self.loops[:-2])),
            *([] if count else ["(void)batch;"]),
            self._for(count, "block->first_row", "block->last_row"),
            *runs,
            "#pragma omp simd",
            self._for(count + 1, "block->first_column", "block->last_column"),
            product, *scope.lines, *body, "}",
            "}",
        ]  # fmt: skip
        use = f"{self.kernel.name}_use"
        self._function(use, lines, self._comment(),
                       "const gx_call *call, const gx_block *block, const int64_t *batch")  # fmt: skip
        self._multiply(kernel, use, dtype)

    def _multiply(self, kernel: Kernel, use: str, dtype: DType) -> None:
        c = kernel.contraction
        assert c is not None
        self._begin(kernel)
        count = len(c.batch)
        batch = [*self.loops[:-2]]
        of_a = self._matrix(c.a, batch)
        of_b = self._matrix(c.b, batch)
        stacked = prod(c.batch, start=1)
        by_batch = bool(count) and (not isinstance(origin(stacked), int) or stacked >= 8)
        product = [
            "const gx_product product = {",
            f"    .a = {of_a}, .a_row = {size_text(c.a.strides[-2])}, .a_column = {size_text(c.a.strides[-1])},",
            f"    .b = {of_b}, .b_row = {size_text(c.b.strides[-2])}, .b_column = {size_text(c.b.strides[-1])},",
            f"    .m = {size_text(c.m)}, .n = {size_text(c.n)}, .k = {size_text(c.k)},",
            f"    .by_columns = {size_text(c.n)} >= 2 * {size_text(c.m)}, .batch = {'batch' if count else 'NULL'}, .use = {use},",
            "};",
            f"call->multiply_{suffix(dtype)}(call, &product, call->scratch + part * "
            f"call->scratch_nbytes, {'0, 1' if by_batch else 'part, parts'});",
        ]  # fmt: skip
        lines = product
        if count:
            lines = [f"const int64_t batch[] = {{{', '.join(batch)}}};", *lines]
        if by_batch:
            lines = [
                "for (int64_t stack = gx_start(STACKED, 1, part, parts); "
                "stack < gx_start(STACKED, 1, part + 1, parts); stack++) {".replace(
                    "STACKED", size_text(stacked)),
                *self._unravel("stack", c.batch, batch),
                *lines, "}",
            ]  # fmt: skip
        elif count:
            lines = self._nest(range(count), lines)
        comment = (
            f"{' x '.join(map(_plain, c.batch))}{' x ' if count else ''}"
            f"[{_plain(c.m)}, {_plain(c.k)}] @ [{_plain(c.k)}, {_plain(c.n)}]"
        )
        self._function(self.kernel.name, lines, comment)
        short = suffix(dtype)
        self.program.products[short] = max(self.program.products.get(short, 0), int(c.k))
        by_columns = c.n >= 2 * c.m
        if by_batch:
            self._launch(self.kernel.name, stacked, 1, 0 if count == 1 else None)
        elif by_columns:
            self._launch(self.kernel.name, c.n, 0, None)
        else:
            self._launch(self.kernel.name, c.m, ROW_UNIT, -2)

    def _matrix(self, access: Access, batch: Sequence[str]) -> str:
        """The address of one matrix of a stack."""
        offset = index(Access(access.base, access.offset, access.strides[:-2]), batch)
        pointer = self._pointer(access.base)
        return pointer if offset == "0" else f"{pointer} + {offset}"

    def _unravel(self, flat: str, extents: Sequence[int], names: Sequence[str]) -> list[str]:
        """Indices of a stack from the number of the product in it."""
        lines: list[str] = []
        step = 1
        for n, name in reversed(list(zip(extents, names, strict=True))):
            quotient = flat if not lines else f"{flat} / {size_text(step)}"
            lines.append(f"const int64_t {name} = {quotient} % {size_text(n)};")
            step = step * n
        return lines

    # -- joins

    def _join(self) -> None:
        kernel = self.kernel
        out = kernel.pieces[0].target.base
        total = prod(kernel.space, start=1)
        if kernel.fill is not None:
            self.loops = "i"
            self._begin()
            target = self._pointer(out, written=True)
            lines = [
                f"const int64_t first = gx_start({size_text(total)}, {FLAT_UNIT}, part, parts);",
                f"const int64_t last = gx_start({size_text(total)}, {FLAT_UNIT}, part + 1, parts);",
                "for (int64_t i = first; i < last; i++)",
                f"    {target}[i] = {literal(_stored(np.asarray(kernel.fill, out.dtype)), out.dtype)};",
            ]
            self._function(
                f"{kernel.name}_fill", lines, f"what lies between the pieces of {kernel.name}"
            )
            self._launch(f"{kernel.name}_fill", total, FLAT_UNIT, None)
        self.loops = LOOPS[: max(len(p.shape) for p in kernel.pieces)]
        self._begin()
        lines = []
        for piece in kernel.pieces:
            lines += self._piece(piece)
        self._function(kernel.name, lines, f"join into {' x '.join(map(_plain, kernel.space))}")
        self._launch(kernel.name, max(p.shape[0] if p.shape else 1 for p in kernel.pieces), 1, None)

    def _piece(self, piece: Piece) -> list[str]:
        variables = LOOPS[: len(piece.shape)]
        copy = (
            f"{self._pointer(piece.target.base, True)}[{index(piece.target, variables)}] = "
            f"{self._pointer(piece.source.base)}[{index(piece.source, variables)}];"
        )
        if not piece.shape:
            return ["if (part == 0)", f"    {copy}"]
        lines = [copy]
        for v, extent in reversed(list(zip(variables, piece.shape, strict=True))):
            first, last = "0", size_text(extent)
            if v == variables[0]:
                first = f"gx_start({last}, 1, part, parts)"
                last = f"gx_start({last}, 1, part + 1, parts)"
            lines = [f"for (int64_t {v} = {first}; {v} < {last}; {v}++) {{", *lines, "}"]
        return lines


def _plain(value: int) -> str:
    """A size as a reader of a comment wants it."""
    return str(origin(value))


def _indented(text: str) -> str:
    """Lines indented by their braces; a pragma stays at its depth."""
    depth = 0
    lines: list[str] = []
    for line in text.split("\n"):
        body = line.strip()
        if body.startswith("}"):
            depth -= 1
        extra = (len(line) - len(line.lstrip())) // 4 - 1
        lines.append("    " * (depth + 1 + max(0, extra)) + body if body else "")
        if body.endswith("{"):
            depth += 1
    return "\n".join(lines)


# -- choices that depend on a kernel alone


def arrange(kernel: Kernel) -> tuple[list[int], list[int], int | None]:
    """The loops of a reduction: around it, reduced, and the one over columns if that is innermost.

    A search for an index goes through one column at a time."""
    outer = list(kernel.outer)
    last = len(kernel.space) - 1
    searches = any(s.is_reduction and not s.node.op.combine for s in kernel.statements)
    if outer and outer[-1] == last and not searches:
        return outer[:-1], list(kernel.inner), last
    return outer, list(kernel.inner), None


def chunks(extent: int, total: int) -> int:
    """Into how many chunks a long reduction is cut: `gx_chunks` of program.h, which says why."""
    return int(max(1, min(MOST_CHUNKS, extent, total // CHUNK)))


def spread(kernel: Kernel) -> Kernel:
    """A contraction kernel over (*batch, m, n), the loops that were joined taken apart again."""
    from dataclasses import replace

    c = kernel.contraction
    assert c is not None
    factors = (*c.batch, c.m, c.n)

    def expanded(strides: Sequence[int]) -> tuple[int, ...]:
        found = [0] * len(factors)
        at = len(factors) - 1
        for extent, stride in zip(reversed(kernel.space), reversed(strides), strict=True):
            covered = 1
            while (at >= 0 and covered * factors[at] <= extent) or (at >= 0 and factors[at] == 1):
                if factors[at] != 1:
                    found[at] = stride * covered
                    covered = covered * factors[at]
                at -= 1
                if covered == extent:
                    break
        return tuple(found)

    def moved(access: Access) -> Access:
        return replace(access, strides=expanded(access.strides))

    return replace(
        kernel,
        space=factors,
        operands=tuple(moved(a) for a in kernel.operands),
        stores=tuple(replace(s, access=moved(s.access)) for s in kernel.stores),
    )


FLOPS = 1e11  # per second of one core: rough figures, to decide what is worth sharing
MULTIPLY = 5e-11  # seconds of an element and a unit of cost
BYTES = 2e10  # per second, from the caches


def estimate(kernel: Kernel) -> float:
    """Seconds that a kernel takes on one core, roughly."""
    product = kernel.contraction.flops / FLOPS if kernel.contraction is not None else 0.0
    costs = sum(s.node.op.cost for s in kernel.statements if not s.is_copy)
    return product + kernel.size * costs * MULTIPLY + kernel.nbytes / BYTES


__all__ = ["HostProgram", "Launch", "Load", "arrange", "chunks", "estimate", "print_program"]
