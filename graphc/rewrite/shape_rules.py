"""The rules about where elements lie: constants, views, reductions, contractions and joins.

One form is aimed at: views move towards the outputs, past elementwise ops; of the views, broadcasts
lie outermost and reshapes below them; reductions are done before views. Sizes are ints by now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.ir.node import Node, intern, make
from graphc.ir.op import Kind, Op
from graphc.ops.arithmetic import where
from graphc.ops.contractions import contract
from graphc.ops.gather import pick
from graphc.ops.joins import concatenate, place
from graphc.ops.reductions import sum as sum_
from graphc.ops.sources import const, constant, iota
from graphc.ops.views import broadcast_to, reshape, slice_, transpose
from graphc.rewrite.pattern import Pattern, constant_of, every, named, one_of, p, wilds
from graphc.rewrite.rule import Match, bits, value
from graphc.rewrite.shapes import (
    Shape,
    axis_groups,
    dropped,
    padded,
    reduced_groups,
    regrouped,
    shape_of,
    without_leading_ones,
    without_ones,
)

MAX_FOLDED = 65536  # elements; larger constants are folded only where that makes none larger
MAX_RESPELLED = 3  # elementwise ops in a row that are computed in another shape to save a reshape
MAX_PIECES = 64  # of one concatenation: joining nested ones without a limit would be quadratic

x, y, cond = wilds("x y cond")
s, t, a, b = wilds("s t a b")  # attributes: axes and flags


# -- constants -------------------------------------------------------------------------------------


def _compress(m: Match) -> Node | None:
    """A constant whose elements all have the same bytes, as a broadcast scalar."""
    whole = constant_of(m.node)
    size = whole.dtype.itemsize
    one = whole.data[:size]
    if not whole.shape or not one or whole.data[-size:] != one:
        return None
    if whole.data != one * (len(whole.data) // size):
        return None
    scalar = constant(np.frombuffer(one, whole.dtype).reshape(()), whole.sized)
    return scalar.broadcast_to(whole.shape)


def _fold(m: Match) -> Node | None:
    """The value of a node whose inputs are all constants, unless it is large."""
    node = m.node
    limit = MAX_FOLDED
    if node.op.kind is not Kind.CONTRACTION:  # a large product would take its time here
        limit = max(limit, *(i.type.size for i in node.inputs))
    if node.type.size > limit:
        return None
    assert node.op.eval is not None
    values = [constant_of(i) for i in node.inputs]
    with np.errstate(all="ignore"):
        found = node.op.eval(np, *(v.array() for v in values), **dict(node.attrs))
    return constant(np.asarray(found, node.dtype), any(v.sized for v in values))


def _is_computed(op: Op[Any]) -> bool:
    return op.kind not in (Kind.SOURCE, Kind.RANDOM) and op is not broadcast_to


CONSTANTS = (
    bits("compress_constant", p.const(), _compress, "equal elements become a broadcast scalar"),
    bits("fold_constants",
         every("any op of constants", _is_computed, one_of("const")), _fold,
         f"in the node's dtype; at most {MAX_FOLDED} elements, or no more than inputs have"),
)  # fmt: skip


# -- views -----------------------------------------------------------------------------------------


def _is_elementwise(op: Op[Any]) -> bool:
    return op.kind is Kind.ELEMENTWISE


def _same_place(m: Match) -> Node | None:
    """A view that moves no element: it may arise when symbolic sizes are bound."""
    node, source = m.node, m.node.inputs[0]
    if node.shape != source.shape or any(moves(node) for moves in (_reorders, _skips)):
        return None
    return source


def _reorders(node: Node) -> bool:
    return node.op is transpose and node.attr("axes") != tuple(range(node.ndim))


def _skips(node: Node) -> bool:
    if node.op is not slice_:
        return False
    moved = zip(node.attr("start"), node.attr("step"), shape_of(node), strict=True)
    return any(n and (first != 0 or (n > 1 and step != 1)) for first, step, n in moved)


def _compose(m: Match) -> Node:
    """Two transposes as one: out[i] has the axis outer[i] of the inner one."""
    return m.x.transpose(tuple(m.s[axis] for axis in m.t))


def _slice_once(m: Match) -> Node:
    """start + step * (start' + step' * i), axis by axis."""
    inner = dict(m.inner.attrs)
    starts = zip(inner["start"], inner["step"], m.node.attr("start"), strict=True)
    start = [first + stride * after for first, stride, after in starts]
    step = [k * h for k, h in zip(inner["step"], m.node.attr("step"), strict=True)]
    return make(slice_, (m.x,), start=tuple(start), step=tuple(step), shape=m.node.shape)


def _moves_ones(m: Match) -> bool:
    """Whether a transpose leaves the order of all axes but those of size 1."""
    kept = [axis for axis in m.s if m.x.shape[axis] != 1]
    return kept == sorted(kept)


def _respread(source: Node, shape: Shape, wanted: Shape) -> Node | None:
    """broadcast_to(source, shape).reshape(wanted), as a broadcast; None where it is none."""
    if 0 in shape:
        return None
    extents = regrouped(shape_of(source), shape, wanted)
    if extents is None:
        return None
    needed = without_leading_ones(extents)
    if needed != without_leading_ones(shape_of(source)) or source.ndim > len(wanted):
        source = source.reshape(needed)
    return source.broadcast_to(wanted)


def _reshape_of_broadcast(m: Match) -> Node | None:
    return _respread(m.x, m.inner.shape, shape_of(m.node))


def _broadcast_of_unit_reshape(m: Match) -> Node | None:
    """Unit axes in front come by broadcasting alone."""
    source, reshaped = m.x, m.inner
    if without_leading_ones(source.shape) != without_leading_ones(reshaped.shape):
        return None
    return source.broadcast_to(m.node.shape) if source.ndim <= m.node.ndim else None


def _transpose_of_broadcast(m: Match) -> Node:
    source = m.x.reshape(padded(m.x.shape, m.node.ndim))
    return source.transpose(m.s).broadcast_to(m.node.shape)


def _slice_of_broadcast(m: Match) -> Node | None:
    """The slice of what is repeated; where an axis is repeated, any element will do."""
    node = m.node
    lead = padded(m.x.shape, node.ndim)
    repeated = [n == 1 for n in lead]
    start = [0 if r else f for r, f in zip(repeated, node.attr("start"), strict=True)]
    step = [1 if r else k for r, k in zip(repeated, node.attr("step"), strict=True)]
    shape = [1 if r else n for r, n in zip(repeated, node.shape, strict=True)]
    return slice_(m.x.reshape(lead), start, step, shape).broadcast_to(node.shape)


def _elementwise_below_broadcast(m: Match) -> Node | None:
    """An op of repeated values: computed once, then repeated."""
    node = m.node
    sources = [i.inputs[0] for i in node.inputs]
    joint = np.broadcast_shapes(*(i.shape for i in sources))
    if without_leading_ones(joint) == without_leading_ones(shape_of(node)):
        return None
    operands = tuple(i.broadcast_to(joint) for i in sources)
    return intern(node.op, operands, node.attrs).broadcast_to(node.shape)


def _elementwise_below_reshape(m: Match) -> Node | None:
    """An op of reshaped values, computed before the reshape."""
    node = m.node
    reshaped = next((i for i in node.inputs if i.op is reshape), None)
    if reshaped is None or not _may_rise(reshaped):
        return None
    result = _respelled(node, shape_of(reshaped.inputs[0]), MAX_RESPELLED)
    return None if result is None else result.reshape(node.shape)


def _may_rise(reshaped: Node) -> bool:
    """Whether a reshape may move past what follows: if it only adds or drops axes of size 1, splits
    leading axes (rows stay rows, for reductions that follow), or splits what a kernel computed."""
    source = reshaped.inputs[0]
    if 0 in source.shape:
        return False
    if without_ones(shape_of(source)) == without_ones(shape_of(reshaped)):
        return True
    same_rows = source.shape[-1:] == reshaped.shape[-1:]
    return source.ndim < reshaped.ndim and (same_rows or source.op.kind is not Kind.SOURCE)


def _respelled(node: Node, shape: Shape, depth: int) -> Node | None:
    """node.reshape(shape), computed in that shape from the start: possible where it is made of
    reshapes, broadcasts and indices by at most `depth` elementwise ops."""
    if node.op is reshape:
        return node.inputs[0].reshape(shape)
    if node.op is broadcast_to:
        return _respread(node.inputs[0], shape_of(node), shape)
    if node.op is const:
        return node.broadcast_to(shape) if node.ndim == 0 else None
    if node.op is iota:
        return _respelled_index(node, shape)
    if node.op.kind is not Kind.ELEMENTWISE or depth == 0:
        return None
    operands: list[Node] = []
    for operand in node.inputs:
        respelled = _respelled(operand, shape, depth - 1)
        if respelled is None:
            return None
        operands.append(respelled)
    return intern(node.op, tuple(operands), node.attrs)


def _respelled_index(node: Node, shape: Shape) -> Node | None:
    axis = node.attr("axis")
    if 0 in shape:
        return None
    for before, after in axis_groups(shape_of(node), shape):
        if before == (axis,) and len(after) == 1:
            return iota(shape, after[0], node.dtype)
    return None


def _reshape_of_elementwise(m: Match) -> Node | None:
    """A reshape that undoes that of an operand, where the others can have the new shape at once."""
    node, result = m.node, m.node.inputs[0]
    undone = [i for i in result.inputs if i.op is reshape and i.inputs[0].shape == node.shape]
    if not undone or 0 in node.shape:
        return None
    return _respelled(result, shape_of(node), MAX_RESPELLED)


def _elementwise_below_transpose(m: Match) -> Node | None:
    """An op of values transposed alike (or repeated scalars), computed before the transpose."""
    node = m.node
    axes = next((i.attr("axes") for i in node.inputs if i.op is transpose), None)
    if axes is None:
        return None
    shape = tuple(node.shape[axes.index(i)] for i in range(node.ndim))
    operands: list[Node] = []
    for operand in node.inputs:
        source = operand.inputs[0]
        if operand.op is transpose and operand.attr("axes") == axes:
            operands.append(source)
        elif operand.op is broadcast_to and source.ndim == 0:
            operands.append(source.broadcast_to(shape))
        else:
            return None
    return intern(node.op, tuple(operands), node.attrs).transpose(axes)


def _pick_below_reshape(m: Match) -> Node | None:
    shape = m.x.shape
    if 0 in shape or not shape or shape[-1] != m.inner.shape[-1]:
        return None
    return pick(m.x, m.y.reshape(shape[:-1])).reshape(m.node.shape)


VIEWS = (
    bits("view_in_place",
         every("a view", one_of("broadcast_to", "reshape", "transpose", "slice")), _same_place,
         "x, where no element moves"),
    bits("transpose_twice", p.transpose(p.transpose(x, axes=s), axes=t), _compose, "one transpose"),
    bits("reshape_twice", p.reshape(p.reshape(x)), lambda m: m.x.reshape(m.node.shape),
         "one reshape"),
    bits("broadcast_twice", p.broadcast_to(p.broadcast_to(x)),
         lambda m: m.x.broadcast_to(m.node.shape), "one broadcast"),
    bits("slice_twice", p.slice(named("inner", p.slice(x))), _slice_once, "one slice"),
    bits("transpose_of_ones", p.transpose(x, axes=s), lambda m: m.x.reshape(m.node.shape),
         "a reshape, where only axes of size 1 change places", _moves_ones),
    bits("reshape_of_broadcast", p.reshape(named("inner", p.broadcast_to(x))),
         _reshape_of_broadcast, "a broadcast of a reshape, where axes line up"),
    bits("broadcast_of_reshape", p.broadcast_to(named("inner", p.reshape(x))),
         _broadcast_of_unit_reshape, "without the reshape, where that only adds leading axes"),
    bits("transpose_of_broadcast", p.transpose(p.broadcast_to(x), axes=s), _transpose_of_broadcast,
         "a broadcast of the transpose"),
    bits("slice_of_broadcast", p.slice(p.broadcast_to(x)), _slice_of_broadcast,
         "a broadcast of the slice", when=lambda m: 0 not in m.node.shape),
    bits("elementwise_of_broadcasts",
         every("an elementwise op of broadcasts", _is_elementwise,
               one_of("broadcast_to")),
         _elementwise_below_broadcast, "computed once, then repeated"),
    bits("elementwise_of_reshapes",
         every("an elementwise op of reshapes", _is_elementwise, some=one_of("reshape")),
         _elementwise_below_reshape, "computed before the reshape, where all operands can be"),
    bits("elementwise_of_transposes",
         every("an elementwise op of transposes and scalars", _is_elementwise,
               one_of("transpose", "broadcast_to")),
         _elementwise_below_transpose, "computed before the transpose"),
    bits("reshape_of_elementwise",
         every("reshape of an elementwise op", one_of("reshape"), _is_elementwise),
         _reshape_of_elementwise, "in the new shape at once, where an operand had it before"),
    bits("pick_of_reshape", p.pick(named("inner", p.reshape(x)), y), _pick_below_reshape,
         "picked before the reshape, where rows stay rows"),
)  # fmt: skip


# -- reductions ------------------------------------------------------------------------------------


def _reduce(op: Op[Any], source: Node, axes: Sequence[int]) -> Node:
    return make(op, (source,), axes=tuple(axes)) if axes else source


def _drop_ones(m: Match) -> Node | None:
    """A reduction without those of its axes that have size 1."""
    node, source = m.node, m.node.inputs[0]
    axes: tuple[int, ...] = node.attr("axes")
    ones = [i for i in axes if source.shape[i] == 1]
    if not ones:
        return None
    rest = [i - sum(j < i for j in ones) for i in axes if i not in ones]
    return _reduce(node.op, source.reshape(dropped(shape_of(source), ones)), rest)


def _reduce_once(m: Match) -> Node:
    """A reduction of a reduction along the axes of both."""
    inner: Node = m.node.inputs[0]
    source = inner.inputs[0]
    first: tuple[int, ...] = inner.attr("axes")
    kept = [i for i in range(source.ndim) if i not in first]
    return _reduce(m.node.op, source, sorted((*first, *(kept[i] for i in m.node.attr("axes")))))


def _same_op(m: Match) -> bool:
    return m.node.inputs[0].op is m.node.op


def _reduce_below_transpose(m: Match) -> Node:
    node, transposed = m.node, m.node.inputs[0]
    order, axes = transposed.attr("axes"), node.attr("axes")
    rest = [axis for i, axis in enumerate(order) if i not in axes]
    result = _reduce(node.op, transposed.inputs[0], sorted(order[i] for i in axes))
    return result.transpose(tuple(sorted(rest).index(axis) for axis in rest))


def _reduce_below_reshape(m: Match) -> Node | None:
    node, reshaped = m.node, m.node.inputs[0]
    source = reshaped.inputs[0]
    if 0 in source.shape:
        return None
    axes = reduced_groups(shape_of(source), shape_of(reshaped), node.attr("axes"))
    return _reduce(node.op, source, axes).reshape(node.shape) if axes else None


def _reduce_below_broadcast(m: Match) -> Node | None:
    """The reduction of what is repeated, along the axes that are not; then repeated again."""
    node, repeated = m.node, m.node.inputs[0]
    if 0 in repeated.shape:
        return None
    axes = node.attr("axes")
    lead = padded(shape_of(repeated.inputs[0]), repeated.ndim)
    real = [i for i in axes if lead[i] != 1]
    result = _reduce(node.op, repeated.inputs[0].reshape(lead), real)
    return result.reshape(dropped(lead, axes)).broadcast_to(node.shape)


def _sum_below_broadcast(m: Match) -> Node | None:
    node, repeated = m.node, m.node.inputs[0]
    result = _reduce_below_broadcast(m)
    if result is None:
        return None
    lead = padded(shape_of(repeated.inputs[0]), repeated.ndim)
    return result * math.prod(repeated.shape[i] for i in node.attr("axes") if lead[i] == 1)


def _sum_of_row_choice(m: Match) -> Node | None:
    """The sum of where(c, x, 0) where c is the same all along the summed axes."""
    lead = padded(m.cond.shape, m.x.ndim)
    if any(lead[i] != 1 for i in m.s):
        return None
    condition = m.cond.reshape(dropped(lead, m.s)).broadcast_to(m.node.shape)
    return where(condition, sum_(m.x, m.s), 0)


def reduction_of(text: str, *ops: str, inner: Callable[[Op[Any]], bool]) -> Pattern:
    return every(text, one_of(*ops), inner)


def _is_reduction(op: Op[Any]) -> bool:
    return op.kind is Kind.REDUCTION


JOINABLE = ("sum", "prod", "max", "min", "any", "all")  # partial results join; argmax's do not
CHOOSING = ("max", "min", "any", "all")  # repeating an element changes nothing

REDUCTIONS = (
    bits("reduce_ones", every("prod, max, min, any, all", one_of("prod", *CHOOSING)), _drop_ones,
         "along axes of size 1: a reshape"),
    value("sum_ones", p.sum(x), _drop_ones, "along axes of size 1: a reshape; 0.0 + -0.0 is 0.0"),
    value("sum_of_sum", reduction_of("sum(sum(x))", "sum", inner=one_of("sum")), _reduce_once,
          "one sum"),
    value("prod_of_prod", reduction_of("prod(prod(x))", "prod", inner=one_of("prod")), _reduce_once,
          "one product"),
    bits("choose_twice",
         reduction_of("max, min, any, all of the same", *CHOOSING, inner=one_of(*CHOOSING)),
         _reduce_once, "one reduction", _same_op),
    value("reduce_of_transpose",
          every("a reduction of transpose(x)", _is_reduction, one_of("transpose")),
          _reduce_below_transpose, "reduced before the transpose"),
    value("reduce_of_reshape",
          reduction_of("a reduction of reshape(x)", *JOINABLE, inner=one_of("reshape")),
          _reduce_below_reshape, "reduced before the reshape, where axes line up"),
    bits("choose_of_broadcast",
         reduction_of("max, min, any, all of broadcast_to(x)", *CHOOSING,
                      inner=one_of("broadcast_to")),
         _reduce_below_broadcast, "reduced before the broadcast"),
    value("sum_of_broadcast",
          reduction_of("sum(broadcast_to(x))", "sum", inner=one_of("broadcast_to")),
          _sum_below_broadcast, "the sum of x, times the count"),
    value("sum_of_negative", p.sum(-x, axes=s), -p.sum(x, axes=s), "0.0 + -0.0 is 0.0"),
    bits("sum_of_row_choice", p.sum(p.where(p.broadcast_to(cond), x, 0), axes=s),
         _sum_of_row_choice, "where(cond, sum(x), 0), where cond is the same along the sum"),
)  # fmt: skip


# -- contractions ----------------------------------------------------------------------------------


def _swaps_last(axes: tuple[int, ...]) -> bool:
    last = len(axes) - 1
    return axes == (*range(last - 1), last, last - 1)


CONTRACTIONS = (
    value("transpose_into_left",
          p.contract(p.transpose(x, axes=a), y, transpose_a=s, transpose_b=t),
          lambda m: make(contract, (m.x, m.y), transpose_a=not m.s, transpose_b=m.t),
          "the transpose becomes a flag", lambda m: _swaps_last(m.a)),
    value("transpose_into_right",
          p.contract(x, p.transpose(y, axes=b), transpose_a=s, transpose_b=t),
          lambda m: make(contract, (m.x, m.y), transpose_a=m.s, transpose_b=not m.t),
          "the transpose becomes a flag", lambda m: _swaps_last(m.b)),
)  # fmt: skip


# -- joins -----------------------------------------------------------------------------------------


def _flatten(m: Match) -> Node | None:
    """concatenate(.., concatenate(..), ..) along one axis, as one."""
    axis = m.node.attr("axis")
    pieces: list[Node] = []
    for piece in m.node.inputs:
        nested = piece.op is concatenate and piece.attr("axis") == axis
        pieces += piece.inputs if nested else [piece]
    flat = len(m.node.inputs) < len(pieces) <= MAX_PIECES
    return concatenate(pieces, axis) if flat else None


def _drop_empty(m: Match) -> Node | None:
    axis = m.node.attr("axis")
    pieces = [piece for piece in m.node.inputs if piece.shape[axis] != 0]
    return concatenate(pieces, axis) if 0 < len(pieces) < len(m.node.inputs) else None


def _concatenate_slices(m: Match) -> Node | None:
    """Slices that follow one another in one array, as one slice."""
    axis: int = m.node.attr("axis")
    first = m.node.inputs[0]
    start, step = first.attr("start"), first.attr("step")
    position = start[axis]
    for piece in m.node.inputs:
        expected = (*start[:axis], position, *start[axis + 1 :])
        if piece.inputs[0] is not first.inputs[0] or piece.attr("step") != step:
            return None
        if piece.attr("start") != expected:
            return None
        position += step[axis] * piece.shape[axis]
    return slice_(first.inputs[0], start, step, m.node.shape)


def _slice_of_pieces(m: Match) -> Node | None:
    """A slice that lies within one piece of a concatenation."""
    node, joined = m.node, m.node.inputs[0]
    axis: int = joined.attr("axis")
    start, step = node.attr("start"), node.attr("step")
    last = start[axis] + step[axis] * (node.shape[axis] - 1)
    low, high = min(start[axis], last), max(start[axis], last)
    offset = 0
    for piece in joined.inputs:
        extent = piece.shape[axis]
        if offset <= low and high < offset + extent:
            moved = (*start[:axis], start[axis] - offset, *start[axis + 1 :])
            return slice_(piece, moved, step, node.shape)
        offset += extent
    return None


def _slice_of_placed(m: Match) -> Node | None:
    """A slice that lies within what was placed without gaps."""
    node, low = m.node, m.inner.attr("low")
    if any(m.inner.attr("gaps")) or 0 in node.shape:
        return None
    start = [first - a for first, a in zip(node.attr("start"), low, strict=True)]
    step = node.attr("step")
    last = [f + k * (n - 1) for f, k, n in zip(start, step, node.shape, strict=True)]
    ends = zip(start, last, m.x.shape, strict=True)
    if any(min(f, h) < 0 or max(f, h) >= n for f, h, n in ends):
        return None
    return slice_(m.x, start, step, node.shape)


def _place_once(m: Match) -> Node | None:
    """Placed twice with the same value around: placed once."""
    outer, inner = m.node, m.inner
    if outer.attr("value") != inner.attr("value"):
        return None
    if any(outer.attr("gaps")) or any(inner.attr("gaps")):
        return None
    low = [h + k for h, k in zip(outer.attr("low"), inner.attr("low"), strict=True)]
    return place(m.x, outer.shape, low, value=outer.attr("value").array())


def _join_placed(m: Match) -> Node | None:
    """Two arrays placed side by side among zeros, as in the gradient of a split: joined first."""
    one, other = m.one, m.other
    for node in (one, other):
        if any(node.attr("value").data) or any(node.attr("gaps")):  # 0.0 is all zero bytes
            return None
    if any(f > h for f, h in zip(one.attr("low"), other.attr("low"), strict=True)):
        one, other = other, one
    low, start = one.attr("low"), other.attr("low")
    first, second = one.inputs[0], other.inputs[0]
    apart = [i for i in range(len(low)) if low[i] != start[i]]
    if len(apart) != 1 or start[apart[0]] != low[apart[0]] + first.shape[apart[0]]:
        return None
    axis = apart[0]
    if dropped(first.shape, [axis]) != dropped(second.shape, [axis]):
        return None
    return place(concatenate([first, second], axis), m.node.shape, low)


JOINS = (
    bits("concatenate_nested", every("concatenate", one_of("concatenate")), _flatten,
         f"concatenations inside become pieces, up to {MAX_PIECES}"),
    bits("concatenate_empty", every("concatenate", one_of("concatenate")), _drop_empty,
         "without its empty pieces"),
    bits("concatenate_slices", every("concatenate of slices", one_of("concatenate"),
                                     one_of("slice")),
         _concatenate_slices, "one slice, where they follow one another"),
    bits("slice_of_concatenate", every("slice of concatenate", one_of("slice"),
                                       one_of("concatenate")),
         _slice_of_pieces, "of the one piece that it lies in", lambda m: 0 not in m.node.shape),
    bits("slice_of_place", p.slice(named("inner", p.place(x))), _slice_of_placed,
         "of x, where it lies within"),
    bits("place_everywhere", p.place(x), x, "where x fills the whole",
         lambda m: m.x.shape == m.node.shape),
    bits("place_twice", p.place(named("inner", p.place(x))), _place_once, "placed once"),
    value("add_placed", named("one", p.place(x)) + named("other", p.place(y)), _join_placed,
          "concatenated, then placed, where they lie side by side; -0.0 + 0.0 is 0.0"),
)  # fmt: skip
