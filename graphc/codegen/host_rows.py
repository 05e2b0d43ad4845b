"""Row kernels and full reductions in host C: for each row one pass per stage, scalars between them.

    for each row
        stage 0: one loop that reduces, stores, and keeps what is dear for later
        outer values that follow from the reductions
        stage 1: ...

The vectoriser keeps one accumulator per lane and joins them in a fixed order. A long sum is made of
sums of SHORT_RUN elements, for accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from graphc.codegen.expression import Scope, c_type, index, joined, literal, size_text
from graphc.codegen.host_function import SIMD, Function
from graphc.codegen.host_simple import Printed, Share, share_of
from graphc.codegen.shape import (
    CHUNK,
    MOST_CHUNKS,
    chunk_count,
    draws,
    is_chunked,
    is_symbolic,
    kept_values,
    searches,
    stretch_count,
)
from graphc.codegen.tables import Slots, Tables, start_of
from graphc.ir.layout import contiguous_strides
from graphc.ir.op import Kind
from graphc.schedule.records import Access, Kernel, Level, Store

LONG_ROW = 4096  # elements from which a sum is made of partial sums
SHORT_RUN = 1024  # elements of such a partial sum


def print_rows(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int]
) -> list[Printed]:
    """Rows, or one reduction of everything, which is cut into chunks if it is long."""
    if not lead and is_chunked(kernel, inner, 1):
        return _print_chunks(tables, kernel, inner)
    slots = Slots()
    function = Function(tables, kernel, slots)
    shared = function.shared(lead) if lead else None
    rows = Rows(function, inner)
    for number in draws(kernel):
        rows.draw(number)
    for stage, kept in enumerate(kept_values(kernel)):
        rows.stage(stage, kept)
    rows.store_results()
    body = function.nest(lead, rows.outer.lines, shared)
    text = function.text(kernel.name, body, function.comment())
    return [Printed(kernel.name, (text,), share_of(function, shared), slots)]


class Rows:
    """The body of one row: `outer` collects its lines."""

    def __init__(self, function: Function, inner: Sequence[int]) -> None:
        self.function, self.inner = function, inner
        self.kernel, self.context = function.kernel, function.context
        self.outer = Scope(self.context, outer_variables(function), [])
        packed = contiguous_strides(tuple(self.kernel.space[i] for i in inner))
        by_loop = dict(zip(inner, packed, strict=True))
        strides = tuple(by_loop.get(i, 0) for i in range(len(self.kernel.space)))
        self._row = Access(self.kernel.nodes[0], 0, strides)
        self._size = prod((self.kernel.space[i] for i in inner), start=1)

    def place(self, variables: Sequence[str]) -> str:
        """The number of a point within its row."""
        return index(self._row, variables)

    def draw(self, number: int) -> None:
        """Draw the random numbers of a whole row."""
        array = self.function.array(number, "run", self._size)
        first = self.function.flat(self.outer.variables)
        self.outer.lines.append(self.function.draw(number, array, first, size_text(self._size)))
        self.context.kept[number] = lambda v: f"{array}[{self.place(v)}]"

    def stage(self, stage: int, kept: Sequence[int]) -> None:
        """One pass over the row: its reductions, its stores, and what later passes need."""
        statements = self.kernel.statements
        reductions = [i for i, s in enumerate(statements) if s.is_reduction and s.stage == stage]
        one_by_one = searches(self.kernel)
        for i in reductions:
            if statements[i].node.op.kind is Kind.GATHER:
                self._gather(i)
            elif i in one_by_one:
                self._search(i)
        joined_ones = [i for i in reductions if statements[i].node.op.combine]
        stores = [
            s for s in self.kernel.stores
            if statements[s.value].level is Level.FULL and statements[s.value].stage == stage
        ]  # fmt: skip
        if joined_ones or stores or kept:
            self.run(joined_ones, stores, kept)

    def store_results(self) -> None:
        """Write the outer values that are wanted."""
        lines = stores_of_results(self.function, self.outer)
        self.outer.lines += lines

    # -- one pass

    def run(
        self, reductions: Sequence[int], stores: Sequence[Store], kept: Sequence[int],
        bounds: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """The reduced loops. `bounds`: of the first of them, if it is cut."""
        function, last = self.function, self.inner[-1]
        extent = self.kernel.space[last]
        long = bool(reductions) and (is_symbolic(extent) or extent > LONG_ROW)
        sums = {i: self.context.names[i] + ("_run" if long else "") for i in reductions}
        body = self._body(sums, stores, kept)
        clauses = "".join(
            f" reduction({function.tables.reduction(self.kernel.statements[i].node)} : {name})"
            for i, name in sums.items()
        )
        simd, v = f"{SIMD}{clauses}", function.loops[last]
        cut = bounds if bounds is not None and len(self.inner) == 1 else None
        first, end = cut or ("0", size_text(extent))
        if long:
            run = [
                *(_accumulator(self.kernel, i, name) for i, name in sums.items()),
                simd, function.loop(last, f"{v}0", f"{v}1"), *body, "}",
                *(join_into(function, i, name) for i, name in sums.items()),
            ]  # fmt: skip
            lines = function.blocks(last, SHORT_RUN, first, end, run)
        else:
            lines = [simd, function.loop(last, first, end), *body, "}"]
        for loop in reversed(self.inner[:-1]):
            low, high = bounds if bounds is not None and loop == self.inner[0] else ("0", "")
            lines = [function.loop(loop, low, high), *lines, "}"]
        begin = [_accumulator(self.kernel, i, self.context.names[i]) for i in reductions]
        self.outer.lines += [*begin, *lines]
        self.outer.known.update({i: self.context.names[i] for i in reductions})

    def _body(
        self, sums: dict[int, str], stores: Sequence[Store], kept: Sequence[int]
    ) -> list[str]:
        """The statements at one point."""
        scope = Scope(self.context, tuple(self.function.loops), [], self.outer)
        lines: list[str] = []
        arrays: dict[int, str] = {}
        for i, name in sums.items():
            node = self.kernel.statements[i].node
            x = scope.argument(self.kernel.statements[i].args[0])
            lines.append(f"{name} = {joined(node.op.c, node.dtype, name, x)};")
        for i in kept:
            arrays[i] = self.function.array(i, "row", self._size)
            lines.append(f"{arrays[i]}[{self.place(scope.variables)}] = {scope.value(i)};")
        lines += [self.function.store(scope, s) for s in stores]
        for i, array in arrays.items():  # from the next pass on
            self.context.kept[i] = lambda v, a=array: f"{a}[{self.place(v)}]"
        return [*scope.lines, *lines]

    # -- reductions that are not sums

    def _gather(self, number: int) -> None:
        """The value at one point of the row, computed there alone."""
        statement, loop = self.kernel.statements[number], self.inner[-1]
        dtype, name = statement.node.dtype, self.context.names[number]
        label = self.function.names.fresh(f"label_{name}")
        missing = literal(np.nan if dtype.kind == "f" else 0, dtype)
        given = self.outer.argument(statement.args[1])
        variables = list(self.outer.variables)
        variables[loop] = label
        point = Scope(self.context, tuple(variables), [], self.outer)
        value = point.argument(statement.args[0])
        self.outer.lines += [
            f"const int64_t {label} = {given};",
            f"{c_type(dtype)} {name} = {missing};",
            f"if ({label} >= 0 && {label} < {size_text(self.kernel.space[loop])}) {{",
            *point.lines,
            f"{name} = {value};",
            "}",
        ]
        self.outer.known[number] = name

    def _search(self, number: int) -> None:
        """The place of the best element: the best one first, vectorised, then where it first is."""
        statement, function = self.kernel.statements[number], self.function
        node, name = statement.node, self.context.names[number]
        dtype = node.inputs[0].dtype
        best = function.names.fresh(f"best_{name}")
        scope = Scope(self.context, tuple(function.loops), [], self.outer)
        value = scope.argument(statement.args[0])
        here = function.names.fresh(f"here_{name}")
        taken = [*scope.lines, f"const {c_type(dtype)} {here} = {value};"]
        wins = joined(node.op.c, dtype, here, best)
        clause = f"reduction({function.tables.search(node)} : {best})"
        last = self.inner[-1]
        pick = f"{best} = {wins} ? {here} : {best};"
        find = [f"{SIMD} {clause}", function.loop(last), *taken, pick, "}"]
        find = function.nest(self.inner[:-1], find)
        place, size = self.place(scope.variables), size_text(self._size)
        beaten = joined(node.op.c, dtype, best, here)
        note = f"{name} = !{beaten} && {place} < {name} ? {place} : {name};"
        where = [f"{SIMD} reduction(min : {name})", function.loop(last), *taken, note, "}"]
        self.outer.lines += [
            f"{c_type(dtype)} {best} = {start_of(node)};",
            *find,
            f"int64_t {name} = {size};",
            *function.nest(self.inner[:-1], where),
        ]
        self.outer.known[number] = name


def stores_of_results(function: Function, scope: Scope) -> list[str]:
    """The lines that write the outer values that are wanted, to come after all that the scope
    computes: a value may be written over one that another is computed from."""
    return [
        function.store(scope, store)
        for store in function.kernel.stores
        if function.kernel.statements[store.value].level is Level.OUTER
    ]


def outer_variables(function: Function) -> tuple[str, ...]:
    """The loop variables for what is the same at all points of the reduced loops."""
    inner = function.context.kernel.inner
    return tuple("0" if i in inner else v for i, v in enumerate(function.loops))


def _accumulator(kernel: Kernel, number: int, name: str) -> str:
    node = kernel.statements[number].node
    return f"{c_type(node.dtype)} {name} = {start_of(node)};"


def join_into(function: Function, number: int, part: str) -> str:
    """Join a partial result into the whole one."""
    node, whole = function.kernel.statements[number].node, function.context.names[number]
    return f"{whole} = {joined(node.op.c, node.dtype, whole, part)};"


# -- by chunks


def _print_chunks(tables: Tables, kernel: Kernel, inner: Sequence[int]) -> list[Printed]:
    """A long reduction to one value: each chunk gives a partial result, then they are joined."""
    slots = Slots()
    function = Function(tables, kernel, slots)
    rows = Rows(function, inner)
    reductions = [i for i, s in enumerate(kernel.statements) if s.is_reduction]
    stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
    rows.run(reductions, stores, [], ("first", "last"))
    places = partial_places(tables, kernel, 1)
    for i, place in places.items():
        parts = function.partial(i, place)
        rows.outer.lines.append(f"{parts}[chunk] = {function.context.names[i]};")
    name = f"{kernel.name}_chunks"
    body = chunk_loop(function, inner, None, rows.outer.lines)
    text = function.text(name, body, function.comment())
    share = Share(chunk_count(kernel.space[inner[0]], kernel.size, 1))
    return [
        Printed(name, (text,), share, slots),
        print_joining(tables, kernel, inner, None, places),
    ]


def partial_places(tables: Tables, kernel: Kernel, lanes: int) -> dict[int, int]:
    """A shared buffer for the partial results of each reduction: [chunk, lane]."""
    chunks = min(MOST_CHUNKS, max(1, kernel.size // CHUNK // stretch_count(max(1, lanes))))
    return {
        i: tables.partial(int(chunks) * int(lanes) * s.node.dtype.itemsize)
        for i, s in enumerate(kernel.statements)
        if s.is_reduction
    }


def _chunks(kernel: Kernel, inner: Sequence[int], lane: int | None) -> list[str]:
    """How many chunks there are, and how many stretches of columns."""
    extent, total = size_text(kernel.space[inner[0]]), size_text(kernel.size)
    columns = "1" if lane is None else size_text(kernel.space[lane])
    return [f"const int64_t chunks = gx_chunks({extent}, {total}, {columns});"]


def chunk_loop(
    function: Function, inner: Sequence[int], lane: int | None, body: Sequence[str]
) -> list[str]:
    """`body` for each chunk of this part, steps first <= i < last of the first reduced loop, and
    for each stretch of columns, if `lane` is the loop over columns."""
    kernel = function.kernel
    extent = size_text(kernel.space[inner[0]])
    lines = _chunks(kernel, inner, lane)
    count, chunk, stretch = "chunks", "unit", list[str]()
    if lane is not None:
        v, columns = function.loops[lane], size_text(kernel.space[lane])
        lines.append(f"const int64_t stretches = gx_stretches({columns});")
        count, chunk = "chunks * stretches", "unit / stretches"
        stretch = [
            f"const int64_t {v}0 = unit % stretches * GX_STRETCH;",
            f"const int64_t {v}1 = gx_least({v}0 + GX_STRETCH, {columns});",
        ]
    start, end = (f"gx_start({count}, 1, {p}, parts)" for p in ("part", "part + 1"))
    return [
        *lines,
        f"for (int64_t unit = {start}; unit < {end}; unit++) {{",
        f"const int64_t chunk = {chunk};",
        f"const int64_t first = gx_start({extent}, 1, chunk, chunks);",
        f"const int64_t last = gx_start({extent}, 1, chunk + 1, chunks);",
        *stretch,
        *body,
        "}",
    ]


def print_joining(
    tables: Tables, kernel: Kernel, inner: Sequence[int], lane: int | None,
    places: dict[int, int],
) -> Printed:  # fmt: skip
    """Join the chunks' results in order, and compute what follows from them."""
    slots = Slots()
    function = Function(tables, kernel, slots)
    scope = Scope(function.context, outer_variables(function), [])
    for i, place in places.items():
        name, parts = function.context.names[i], function.partial(i, place)
        at = "chunk"
        if lane is not None:
            at = f"chunk * {size_text(kernel.space[lane])} + {function.loops[lane]}"
        scope.lines += [
            _accumulator(kernel, i, name),
            "for (int64_t chunk = 0; chunk < chunks; chunk++) {",
            join_into(function, i, f"{parts}[{at}]"),
            "}",
        ]
        scope.known[i] = name
    lines = stores_of_results(function, scope)
    scope.lines += lines
    body = scope.lines if lane is None else function.nest([lane], scope.lines, lane)
    comment = f"joins what {kernel.name}_chunks gives, in order"
    text = function.text(kernel.name, [*_chunks(kernel, inner, lane), *body], comment)
    share = Share(work=0.0)
    if lane is not None:
        share = Share(
            kernel.space[lane], function.unit(lane), lane, MOST_CHUNKS / max(1, int(kernel.size))
        )
    return Printed(kernel.name, (text,), share, slots)
