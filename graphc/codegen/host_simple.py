"""Elementwise kernels and joins in host C; and what printing any kernel gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from graphc.codegen.expression import Scope, index, literal, size_text
from graphc.codegen.function import plain
from graphc.codegen.host_function import FLAT_UNIT, SIMD, Function
from graphc.codegen.shape import draws, needed
from graphc.codegen.tables import Slots, Tables, stored
from graphc.schedule.records import Kernel, Piece, Store

RUN = 1024  # random numbers drawn at a time


@dataclass(frozen=True)
class Share:
    """What the parts of a launch share: `extent` things, in multiples of `unit`.

    They are the steps of loop `axis` of the kernel's space (counted from the end if negative), or,
    where `axis` is None, anything else: chunks, columns, pieces. `work`: the launch's share of its
    kernel's work.
    """

    extent: int = 1
    unit: int = 1
    axis: int | None = None
    work: float = 1.0


@dataclass(frozen=True)
class Printed:
    """A launch: its functions, the last of which is called `name`, how parts share it, and the
    buffers that its text numbers."""

    name: str
    functions: tuple[str, ...]
    share: Share
    slots: Slots


def share_of(function: Function, loop: int | None) -> Share:
    """Of a launch whose parts share a loop, or that has one part only."""
    if loop is None:
        return Share()
    return Share(function.context.kernel.space[loop], function.unit(loop), loop)


def print_elementwise(tables: Tables, kernel: Kernel) -> Printed:
    """Loops over the space, the innermost one vectorised."""
    slots = Slots()
    function = Function(tables, kernel, slots)
    space = kernel.space
    shared = function.shared(range(len(space))) if space else None
    roots = [s.value for s in kernel.stores]
    random = needed(kernel, roots) & set(draws(kernel))
    streamed = tables.streamed(kernel) if space else []
    if random and not space:
        lines = _one(function, random)
    elif random or streamed:
        lines = _runs(function, roots, shared, streamed)
    else:
        lines = _loops(function, shared)
    text = function.text(kernel.name, lines, function.comment())
    return Printed(kernel.name, (text,), share_of(function, shared), slots)


def _one(function: Function, random: Iterable[int]) -> list[str]:
    """The lines for a space without loops."""
    lines: list[str] = []
    for number in random:
        array = function.array(number, "run", 1)
        lines.append(function.draw(number, array, "0", "1"))
        function.context.kept[number] = lambda _, a=array: f"{a}[0]"
    return lines + _stores(function)


def _stores(function: Function) -> list[str]:
    scope = Scope(function.context, tuple(function.loops), [])
    body = [function.store(scope, s) for s in function.kernel.stores]
    return [*scope.lines, *body]


def _loops(function: Function, shared: int | None) -> list[str]:
    last = len(function.kernel.space) - 1
    body = _stores(function)
    if last < 0:
        return body
    inner = function.nest([last], body, shared)
    inner.insert(len(inner) - len(body) - 2, SIMD)
    return function.nest(range(last), inner, shared)


def _runs(
    function: Function, roots: Iterable[int], shared: int | None, streamed: Iterable[Store]
) -> list[str]:
    """The innermost loop goes run by run: random numbers are drawn before, streams sent after."""
    last = len(function.kernel.space) - 1
    v = function.loops[last]
    start, count = (*function.loops[:-1], f"{v}0"), f"{v}1 - {v}0"
    drawn = function.drawn(roots, start, last, count, RUN)
    for store in streamed:
        function.divert(store, RUN, lambda at: f"{at[last]} - {v}0")
    body = _stores(function)
    sent = function.flush(start, count)
    run = [*drawn, SIMD, function.loop(last, f"{v}0", f"{v}1"), *body, "}", *sent]
    if shared == last:
        inner = [*function.bounds(last), *function.blocks(last, RUN, "first", "last", run)]
    else:
        extent = size_text(function.kernel.space[last])
        inner = function.blocks(last, RUN, "0", extent, run)
    return function.nest(range(last), inner, shared)


# -- joins


def print_join(tables: Tables, kernel: Kernel) -> list[Printed]:
    """A copy for each piece, after what lies between them is filled."""
    launches = [] if kernel.fill is None else [_print_fill(tables, kernel)]
    slots = Slots()
    ndim = max(len(p.shape) for p in kernel.pieces)
    function = Function(tables, kernel, slots, ndim)
    lines = [line for piece in kernel.pieces for line in _copy(function, piece)]
    comment = f"join into {' x '.join(map(plain, kernel.space)) or 'one element'}"
    text = function.text(kernel.name, lines, comment)
    extent = max(p.shape[0] if p.shape else 1 for p in kernel.pieces)
    return [*launches, Printed(kernel.name, (text,), Share(extent), slots)]


def _print_fill(tables: Tables, kernel: Kernel) -> Printed:
    slots = Slots()
    function = Function(tables, kernel, slots, 1)
    out = kernel.pieces[0].target.base
    total = prod(kernel.space, start=1)
    value = literal(stored(np.asarray(kernel.fill, out.dtype)), out.dtype)
    name = f"{kernel.name}_fill"
    lines = [
        f"const int64_t first = gx_start({size_text(total)}, {FLAT_UNIT}, part, parts);",
        f"const int64_t last = gx_start({size_text(total)}, {FLAT_UNIT}, part + 1, parts);",
        "for (int64_t i = first; i < last; i++) {",
        f"{function.pointer(out, written=True)}[i] = {value};",
        "}",
    ]
    text = function.text(name, lines, f"what lies between the pieces of {kernel.name}")
    return Printed(name, (text,), Share(total, FLAT_UNIT, work=0.5), slots)


def _copy(function: Function, piece: Piece) -> list[str]:
    """One piece; parts share its outermost loop."""
    variables = function.loops[: len(piece.shape)]
    to = f"{function.pointer(piece.target.base, True)}[{index(piece.target, variables)}]"
    lines = [f"{to} = {function.element(piece.source, variables)};"]
    if not piece.shape:
        return ["if (part == 0) {", *lines, "}"]
    for v, extent in reversed(list(zip(variables, map(size_text, piece.shape), strict=True))):
        first, last = "0", extent
        if v == variables[0]:
            first, last = (f"gx_start({extent}, 1, {p}, parts)" for p in ("part", "part + 1"))
        lines = [f"for (int64_t {v} = {first}; {v} < {last}; {v}++) {{", *lines, "}"]
    return lines
