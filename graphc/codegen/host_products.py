"""Products in host C: kernels/product.c multiplies, and hands each finished block to a function
that computes what follows from it while it is in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphc.codegen.expression import Scope, c_type, index, size_text, suffix
from graphc.codegen.function import plain
from graphc.codegen.host_function import ROW_UNIT, SIMD, Function
from graphc.codegen.host_simple import Printed, Share
from graphc.codegen.shape import is_symbolic, spread
from graphc.codegen.tables import Slots, Tables
from graphc.schedule.records import Access, Contraction, Kernel

STACK = 1 << 18  # bytes for what an epilogue draws: it has no scratch of its own
MOST_COLUMNS = 256  # of a block: GX_MOST_COLUMNS of kernels/program.h
WIDE = 1 << 23  # multiply-adds from which parts share the columns of a wide product
STACK_FROM = 8  # products of a stack from which parts share the stack, not each product


def print_product(tables: Tables, kernel: Kernel) -> Printed:
    """The call of the product and its epilogue."""
    assert kernel.contraction is not None
    wide = spread(kernel)
    use = f"{kernel.name}_use"
    element = suffix(kernel.statements[0].node.dtype)
    depth = max(tables.products.get(element, 0), int(kernel.contraction.k))
    tables.products[element] = depth
    slots = Slots()
    epilogue = _print_use(tables, wide, slots, use)
    text, share = _print_call(tables, wide, slots, use, element)
    return Printed(kernel.name, (epilogue, text), share, slots)


def _print_use(tables: Tables, kernel: Kernel, slots: Slots, name: str) -> str:
    """What is done with a block: the statements of the epilogue at each of its elements."""
    function = Function(tables, kernel, slots, stack=STACK)
    *batch, i, j = function.loops
    values, kind = function.names.fresh("values"), c_type(function.dtype(0))
    rows, columns = len(batch), len(batch) + 1
    start = (*function.loops[:-1], "block->first_column")
    count = "block->last_column - block->first_column"
    roots = [s.value for s in kernel.stores]
    runs = function.drawn(roots, start, columns, count, MOST_COLUMNS)
    scope = Scope(function.context, tuple(function.loops), [])
    scope.known[0] = function.context.names[0]
    body = [function.store(scope, s) for s in kernel.stores]
    row = f"({i} - block->first_row) * block->row"
    lines = [
        *(f"const int64_t {v} = batch[{n}];" for n, v in enumerate(batch)),
        function.loop(rows, "block->first_row", "block->last_row"),
        *runs,
        f"const {kind} *const {values} = (const {kind} *)block->values + {row};",
        SIMD,
        function.loop(columns, "block->first_column", "block->last_column"),
        f"const {kind} {function.context.names[0]} = {values}[{j} - block->first_column];",
        *scope.lines,
        *body,
        "}",
        "}",
    ]
    return function.text(name, lines, function.comment(), "GX_USE_BLOCK")


def _print_call(
    tables: Tables, kernel: Kernel, slots: Slots, use: str, element: str
) -> tuple[str, Share]:
    c = kernel.contraction
    assert c is not None
    function = Function(tables, kernel, slots)
    batch = function.loops[: len(c.batch)]
    stacked = prod(c.batch, start=1)
    by_stack = bool(c.batch) and (is_symbolic(stacked) or stacked >= STACK_FROM)
    a, b = _matrix(function, "a", c.a, batch), _matrix(function, "b", c.b, batch)
    m, n, k = map(size_text, (c.m, c.n, c.k))
    lines = [
        *([f"const int64_t batch[] = {{{', '.join(batch)}}};"] if batch else ()),
        "const gx_product product = {",
        f".a = {a},",
        f".b = {b},",
        f".m = {m}, .n = {n}, .k = {k},",
        f".use = {use}, .at = at, .batch = {'batch' if batch else 'NULL'},",
        "};",
        f"call->multiply_{element}(call, &product, call->scratch + part * call->scratch_nbytes, "
        f"{'0, 1' if by_stack else 'part, parts'});",
    ]
    if by_stack:
        first, last = (f"gx_start({size_text(stacked)}, 1, {p}, parts)"
                       for p in ("part", "part + 1"))  # fmt: skip
        lines = [
            f"for (int64_t stack = {first}; stack < {last}; stack++) {{",
            *_unravelled("stack", c.batch, batch),
            *lines,
            "}",
        ]
    else:
        lines = function.nest(range(len(batch)), lines)
    comment = f"[{plain(c.m)}, {plain(c.k)}] @ [{plain(c.k)}, {plain(c.n)}]"
    if batch:
        comment = f"{' x '.join(map(plain, c.batch))} times {comment}"
    name = use.removesuffix("_use")
    return function.text(name, lines, comment), _share(c, stacked, by_stack)


def _share(c: Contraction, stacked: int, by_stack: bool) -> Share:
    if by_stack:
        return Share(stacked, axis=0 if len(c.batch) == 1 else None)
    if c.n >= 2 * c.m and c.m * c.n * c.k >= WIDE:  # gx_by_columns; cut at product.c's multiples
        return Share(c.n)
    return Share(c.m, ROW_UNIT, None if c.batch else -2)


def _matrix(function: Function, which: str, access: Access, batch: Sequence[str]) -> str:
    """The address of one matrix of a stack, and its strides."""
    offset = index(Access(access.base, access.offset, access.strides[:-2]), batch)
    pointer = function.pointer(access.base)
    row, column = map(size_text, access.strides[-2:])
    at = pointer if offset == "0" else f"{pointer} + {offset}"
    return f"{at}, .{which}_row = {row}, .{which}_column = {column}"


def _unravelled(flat: str, extents: Sequence[int], names: Sequence[str]) -> list[str]:
    """The indices of a stack from the number of a product in it."""
    lines: list[str] = []
    step = 1
    for extent, name in reversed(list(zip(extents, names, strict=True))):
        before = flat if not lines else f"{flat} / {size_text(step)}"
        lines.append(f"const int64_t {name} = {before} % {size_text(extent)};")
        step = step * extent
    return lines
