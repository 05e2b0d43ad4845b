"""Column reductions in host C: an accumulator for each column of a stretch.

    for stretches of up to STRETCH columns
        for each row: accumulator[column] joins the row's element, vectorised
        what follows from the columns' results

The accumulators stay in L1. Where there are few columns, the rows are cut into chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.expression import Scope, joined, size_text
from graphc.codegen.host_function import SIMD, Function
from graphc.codegen.host_rows import (
    chunk_loop,
    outer_variables,
    partial_places,
    print_joining,
    stores_of_results,
)
from graphc.codegen.host_simple import Printed, Share, share_of
from graphc.codegen.shape import (
    DEAR,
    STRETCH,
    chunk_count,
    is_chunked,
    is_symbolic,
    operands,
    stretch_count,
)
from graphc.codegen.tables import Slots, Tables, start_of
from graphc.schedule.records import Kernel, Level


def print_columns(
    tables: Tables, kernel: Kernel, lead: Sequence[int], inner: Sequence[int], lane: int
) -> list[Printed]:
    """`lane` is the loop over columns; the loops `lead` stand around everything."""
    slots = Slots()
    function = Function(tables, kernel, slots)
    columns = _Columns(function, lane)
    chunked = not lead and is_chunked(kernel, inner, kernel.space[lane])
    before = columns.kept()
    rows = columns.rows(inner, chunked)
    places = partial_places(tables, kernel, kernel.space[lane]) if chunked else {}
    after = columns.parts(places) if chunked else columns.results()
    block = [*before, *columns.begin(), *rows, *after]
    extent = size_text(kernel.space[lane])
    if chunked:
        name = f"{kernel.name}_chunks"
        text = function.text(name, chunk_loop(function, inner, lane, block), function.comment())
        columns = kernel.space[lane]
        count = chunk_count(kernel.space[inner[0]], kernel.size, columns) * stretch_count(columns)
        share = Share(count)
        joining = print_joining(tables, kernel, inner, lane, places)
        return [Printed(name, (text,), share, slots), joining]
    if lead:
        shared = function.shared(lead)
        body = function.nest(lead, function.blocks(lane, STRETCH, "0", extent, block), shared)
    else:
        shared = lane
        body = [*function.bounds(lane), *function.blocks(lane, STRETCH, "first", "last", block)]
    text = function.text(kernel.name, body, function.comment())
    return [Printed(kernel.name, (text,), share_of(function, shared), slots)]


class _Columns:
    """The lines for one stretch of columns, from v0 to v1."""

    def __init__(self, function: Function, lane: int) -> None:
        self.function, self.lane = function, lane
        self.kernel, self.context = function.kernel, function.context
        self.v = function.loops[lane]
        extent = self.kernel.space[lane]
        self.room = STRETCH if is_symbolic(extent) or extent > STRETCH else max(1, int(extent))
        self.reductions = [i for i, s in enumerate(self.kernel.statements) if s.is_reduction]
        self.sums = {i: function.array(i, "columns", self.room) for i in self.reductions}

    def _here(self, array: str) -> str:
        return f"{array}[{self.v} - {self.v}0]"

    def _each(self, body: Sequence[str]) -> list[str]:
        """A vectorised loop over the stretch."""
        return [SIMD, self.function.loop(self.lane, f"{self.v}0", f"{self.v}1"), *body, "}"]

    def kept(self) -> list[str]:
        """Dear values that are the same for all rows: computed once for each column."""
        dear = [
            i for i, s in enumerate(self.kernel.statements)
            if s.level is Level.OUTER and not s.stage and not s.is_reduction
            and s.node.op.cost >= DEAR
        ]  # fmt: skip
        if not dear:
            return []
        scope = Scope(self.context, outer_variables(self.function), [])
        lines: list[str] = []
        arrays: dict[int, str] = {}
        for i in dear:
            value = scope.value(i)
            arrays[i] = self.function.array(i, "kept", self.room)
            lines.append(f"{self._here(arrays[i])} = {value};")
        for i, array in arrays.items():
            self.context.kept[i] = lambda v, a=array: f"{a}[{v[self.lane]} - {self.v}0]"
        return self._each([*scope.lines, *lines])

    def begin(self) -> list[str]:
        """Set the accumulators."""
        return self._each([
            f"{self._here(array)} = {start_of(self.kernel.statements[i].node)};"
            for i, array in self.sums.items()
        ])  # fmt: skip

    def rows(self, inner: Sequence[int], chunked: bool) -> list[str]:
        """Go through the rows, or those of a chunk."""
        kernel, function = self.kernel, self.function
        stores = [s for s in kernel.stores if kernel.statements[s.value].level is Level.FULL]
        roots = [j for i in self.reductions for j in operands(kernel, i)]
        start = list(function.loops)
        start[self.lane] = f"{self.v}0"
        runs = function.drawn(
            [*roots, *(s.value for s in stores)], start, self.lane, f"{self.v}1 - {self.v}0",
            self.room,
        )  # fmt: skip
        scope = Scope(self.context, tuple(function.loops), [])
        body: list[str] = []
        for i, array in self.sums.items():
            node = kernel.statements[i].node
            x = scope.argument(kernel.statements[i].args[0])
            here = self._here(array)
            body.append(f"{here} = {joined(node.op.c, node.dtype, here, x)};")
        body += [function.store(scope, s) for s in stores]
        lines = [*runs, *self._each([*scope.lines, *body])]
        for loop in reversed(inner):
            low, high = ("first", "last") if chunked and loop == inner[0] else ("0", "")
            lines = [function.loop(loop, low, high), *lines, "}"]
        return lines

    def parts(self, places: dict[int, int]) -> list[str]:
        """Hand over the partial results of a chunk."""
        extent = size_text(self.kernel.space[self.lane])
        return self._each([
            f"{self.function.partial(i, place)}[chunk * {extent} + {self.v}] = "
            f"{self._here(self.sums[i])};"
            for i, place in places.items()
        ])  # fmt: skip

    def results(self) -> list[str]:
        """Compute and store what follows from the columns' results."""
        scope = Scope(self.context, outer_variables(self.function), [])
        scope.known.update({i: self._here(array) for i, array in self.sums.items()})
        lines = stores_of_results(self.function, scope)
        return self._each([*scope.lines, *lines])
