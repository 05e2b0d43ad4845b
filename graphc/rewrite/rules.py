"""The rules, as named data: a pattern becomes a replacement, under a condition, and keeps something.

    bits(...)      the same bits for every number, NaN, inf and -0 included
    value(...)     equal up to rounding, or nearer to the exact value
    nothing(...)   wrong for NaN, inf or -0: off unless asked for by name

Order matters in two ways only: among rules for one op the first that fires wins, and every rule must
make the graph smaller or bring it nearer to one form, so that rewriting ends. That form: negations and
views move towards the outputs, past elementwise ops; of the views, broadcasts lie outermost and
reshapes below them. A rule here may name ops; no other pass does.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import CompileError
from graphc.ir.node import Node, intern, make
from graphc.ir.op import Kind, Op
from graphc.ir.tensor_type import FLOATS
from graphc.ops.arithmetic import subtract, where
from graphc.ops.comparisons import isfinite
from graphc.ops.composite import logsumexp
from graphc.ops.contractions import contract
from graphc.ops.exponential import exp
from graphc.ops.gather import pick
from graphc.ops.joins import concatenate, place
from graphc.ops.reductions import max as max_, sum as sum_
from graphc.ops.sources import const, iota
from graphc.ops.views import broadcast_to, reshape, slice_, transpose
from graphc.rewrite.engine import Build, Keeps, Match, Rule
from graphc.rewrite.pattern import (
    Pattern,
    constant_of,
    every,
    named,
    number,
    one_of,
    p,
    viewed,
    views,
    wilds,
)
from graphc.rewrite.shapes import (
    Shape,
    axis_groups,
    dropped,
    padded,
    reduced_groups,
    regrouped,
    without_leading_ones,
    without_ones,
)

MAX_FOLDED = 65536  # elements; larger constants are folded only where that makes none larger
MAX_RESPELLED = 3  # elementwise ops between a reshape and the one that undoes it
MAX_PIECES = 64  # of one concatenation: joining nested ones without a limit would be quadratic

x, y, z, g, a, b, cond = wilds("x y z g a b cond")
s, t = wilds("s t")  # attributes: axes of a reduction, flags of a contraction
c, d = number("c"), number("d")


def bits(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None, keeps: Keeps = "bits",
) -> Rule:  # fmt: skip
    """A rule that keeps every bit."""
    return Rule(name, pattern, replacement, when, keeps, doc)


def value(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None,
) -> Rule:  # fmt: skip
    """A rule that keeps the value, or brings it nearer to the exact one."""
    return bits(name, pattern, replacement, doc, when, "value")


def nothing(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None,
) -> Rule:  # fmt: skip
    """A rule that holds in algebra only: off by default."""
    return bits(name, pattern, replacement, doc, when, "nothing")


def is_float(m: Match) -> bool:
    return m.node.dtype in FLOATS


def is_integer(m: Match) -> bool:
    return m.node.dtype.kind == "i"


def is_cotangent(m: Match) -> bool:
    """Whether derivatives made both the product and the choice in it; a user's own stay."""
    return m.node.backward and m.choice.backward


# -- arithmetic ------------------------------------------------------------------------------------


def _is_normal(number: Any) -> bool:
    """Whether a scalar is neither infinite nor so small that it lost precision."""
    return bool(np.isfinite(number) and abs(number) >= np.finfo(number.dtype).tiny)


def _number(node: Node) -> Any:
    """The value of a scalar constant, as a NumPy scalar."""
    return constant_of(node).array()[()]


def _folds(join: Callable[[Any, Any], Any]) -> Callable[[Match], bool]:
    """Whether two factors c and d join into a normal number."""

    def test(m: Match) -> bool:
        with np.errstate(all="ignore"):
            other = _number(m.found.get("d", m.c))
            return is_float(m) and _is_normal(join(_number(m.c), other))

    return test


def _has_exact_reciprocal(m: Match) -> bool:
    divisor = _number(m.c)
    with np.errstate(all="ignore"):
        return abs(np.frexp(divisor)[0]) == 0.5 and _is_normal(1 / divisor)


ARITHMETIC = (
    bits("multiply_one", x * 1, x),
    bits("divide_one", x / 1, x),
    bits("subtract_zero", x - 0, x, "x - 0.0 keeps the sign of zero"),
    bits("add_negative_zero", x + -0.0, x),
    value("add_zero", x + 0, x, "-0.0 + 0.0 is 0.0"),
    value("zero_minus", 0 - x, -x, "0.0 - 0.0 is 0.0"),
    bits("multiply_minus_one", x * -1, -x),
    bits("divide_minus_one", x / -1, -x),
    bits("double_negative", -(-x), x),
    bits("add_negative", x + -y, x - y),
    bits("subtract_negative", x - -y, x + y),
    bits("multiply_negatives", -x * -y, x * y),
    bits("divide_negatives", -x / -y, x / y),
    bits("negative_of_scaled", -(x * c), x * -c, "the sign goes into the constant"),
    bits("scaled_negative", -x * c, x * -c, "the sign goes into the constant"),
    bits("multiply_negative", x * -y, -(x * y), "signs move outwards, where they meet sums"),
    bits("divide_negative", -x / y, -(x / y), "signs move outwards"),
    bits("divide_by_negative", x / -y, -(x / y), "signs move outwards"),
    bits("divide_by_power_of_two", x / c, x * p.reciprocal(c),
         "where 1/c is exact", when=_has_exact_reciprocal),
    value("scale_twice", x * c * d, x * (c * d),
          "unless c * d over- or underflows", when=_folds(lambda c, d: c * d)),
    value("scale_and_divide", x * c / d, x * (c / d),
          "unless c / d over- or underflows", when=_folds(lambda c, d: c / d)),
    value("divide_and_scale", x / c * d, x * (d / c),
          "unless d / c over- or underflows", when=_folds(lambda c, d: d / c)),
    value("divide_twice", x / c / d, x / (c * d),
          "unless c * d over- or underflows", when=_folds(lambda c, d: c * d)),
    value("double_scaled", x * c + x * c, x * (c + c), "as in the gradient of a square",
          _folds(lambda c, _: c + c)),
    value("scale_doubled", (x + x) * c, x * (c + c), "as in the gradient of a square",
          _folds(lambda c, _: c + c)),
    bits("multiply_self", x * x, p.square(x)),
    bits("square_of_negative", p.square(-x), p.square(x)),
    bits("square_of_abs", p.square(p.abs(x)), p.square(x)),
    bits("abs_of_negative", p.abs(-x), p.abs(x)),
    bits("abs_of_nonnegative",
         p.abs(named("x", every("exp, square, sigmoid or abs of y",
                                one_of("exp", "square", "sigmoid", "abs")))), x,
         "of floats: squares of integers may wrap around", is_float),
    value("sqrt_of_square", p.sqrt(p.square(x)), p.abs(x), "x * x may overflow or underflow"),
    bits("power_zero", x**0, 1, "for NaN and 0, too, as IEEE 754 has it"),
    bits("power_one", x**1, x),
    value("power_two", x**2, p.square(x)),
    value("power_three", x**3, x * p.square(x)),
    value("power_half", x**0.5, p.sqrt(x), "but for -inf, where the power is inf"),
    value("power_minus_one", x**-1, p.reciprocal(x), when=is_float),
    value("power_minus_half", x**-0.5, p.rsqrt(x), "but for -inf, where the power is 0"),
    bits("reciprocal_of_sqrt", p.reciprocal(p.sqrt(x)), p.rsqrt(x)),
    bits("one_over_sqrt", 1 / p.sqrt(x), p.rsqrt(x)),
    bits("maximum_of_same", p.maximum(x, x), x),
    bits("minimum_of_same", p.minimum(x, x), x),
    bits("relu_of_relu", p.relu(p.relu(x)), p.relu(x)),
    bits("multiply_zero_integer", x * 0, 0, "integers only", when=is_integer),
    bits("subtract_self_integer", x - x, 0, "integers only", when=is_integer),
    nothing("multiply_zero", x * 0, 0, "wrong for NaN and inf; gives 0.0 for -0.0"),
    nothing("zero_over", 0 / x, 0, "wrong for NaN and 0"),
    nothing("subtract_self", x - x, 0, "wrong for NaN and inf"),
    nothing("divide_self", x / x, 1, "wrong for NaN, inf and 0"),
)  # fmt: skip


# -- choice, logic and casts -----------------------------------------------------------------------


def _cast_once(m: Match) -> Node | None:
    """astype(astype(x)) where the first cast loses nothing that the second one sees."""
    first, last, source = m.inner.dtype, m.node.dtype, m.x.dtype
    exact = np.can_cast(source, first, "safe") and not (source.kind == "i" and first.kind == "f"
                                                        and source.itemsize >= first.itemsize)  # fmt: skip
    defined = source.kind != "f" or last.kind != "i"  # NaN and inf as integers: whatever they were
    return m.x.astype(last) if exact and defined else None


CHOICE = (
    bits("where_same", p.where(cond, x, x), x),
    bits("where_true", p.where(True, x, y), x),
    bits("where_false", p.where(False, x, y), y),
    bits("where_not", p.where(~cond, x, y), p.where(cond, y, x)),
    bits("where_again_then", p.where(cond, p.where(cond, x, y), z), p.where(cond, x, z)),
    bits("where_again_else", p.where(cond, x, p.where(cond, y, z)), p.where(cond, x, z)),
    bits("where_condition", p.where(cond, True, False), cond),
    bits("add_choices", p.where(cond, x, 0) + p.where(cond, y, 0), p.where(cond, x + y, 0),
         "two cotangents through one choice"),
    bits("add_choices_else", p.where(cond, 0, x) + p.where(cond, 0, y), p.where(cond, 0, x + y),
         "two cotangents through one choice"),
    value("add_both_choices", p.where(cond, x, 0) + p.where(cond, 0, y), p.where(cond, x, y),
          "-0.0 + 0.0 is 0.0"),
    bits("double_not", ~(~x), x),
    bits("not_equal", ~p.equal(x, y), p.not_equal(x, y)),
    bits("not_not_equal", ~p.not_equal(x, y), p.equal(x, y)),
    bits("and_same", p.bitwise_and(x, x), x),
    bits("or_same", p.bitwise_or(x, x), x),
    bits("and_true", p.bitwise_and(x, True), x),
    bits("or_false", p.bitwise_or(x, False), x),
    bits("cast_of_cast", p.astype(named("inner", p.astype(x))), _cast_once,
         "one cast, where the first loses nothing"),
    bits("stop_gradient", p.stop_gradient(x), x, "it has done its work once the graph is compiled"),
)  # fmt: skip


# -- cotangents through a choice -------------------------------------------------------------------
# The derivative of where(c, f(x), 0) at a false c is where(c, g, 0) * f'(x), which is 0 * inf = NaN
# where f' is infinite. The exact value is 0. So the choice moves outwards past each factor.

then = views(named("choice", p.where(cond, x, 0)))
else_ = views(named("choice", p.where(cond, 0, x)))
ONLY = "on cotangents only"

COTANGENTS = (
    value("cotangent_times", then * y, p.where(views(cond), views(x) * y, 0), ONLY, is_cotangent),
    value("cotangent_times_else", else_ * y, p.where(views(cond), 0, views(x) * y),
          ONLY, is_cotangent),
    value("cotangent_over", then / y, p.where(views(cond), views(x) / y, 0), ONLY, is_cotangent),
    value("cotangent_over_else", else_ / y, p.where(views(cond), 0, views(x) / y),
          ONLY, is_cotangent),
    value("cotangent_of_quotient", (x / y) * (y / z), x / z, f"where y may be 0; {ONLY}",
          lambda m: m.node.backward),
    value("cotangent_of_log_softmax", (x / (y / z) / z + g) * y, x + g * y,
          f"where y / z may be 0; {ONLY}", lambda m: m.node.backward),
    value("cotangent_negative", -then, p.where(views(cond), -views(x), 0), ONLY, is_cotangent),
    value("cotangent_negative_else", -else_, p.where(views(cond), 0, -views(x)),
          ONLY, is_cotangent),
)  # fmt: skip


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
    return const(np.frombuffer(one, whole.dtype)[0]).broadcast_to(whole.shape)


def _fold(m: Match) -> Node | None:
    """The value of a node whose inputs are all constants, unless it is large."""
    node = m.node
    if not node.inputs or node.type.size > max(MAX_FOLDED, *(i.type.size for i in node.inputs)):
        return None
    arrays = [constant_of(i).array() for i in node.inputs]
    with np.errstate(all="ignore"):
        return const(np.asarray(node.op.eval(np, *arrays, **dict(node.attrs))))  # pyright: ignore[reportOptionalCall]


def _is_computed(op: Op[Any]) -> bool:
    return op.kind not in (Kind.SOURCE, Kind.RANDOM) and op is not broadcast_to


CONSTANTS = (
    bits("compress_constant", p.const(), _compress, "equal elements become a broadcast scalar"),
    bits("fold_constants", every("any op of constants", _is_computed, every("const", one_of("const"))),
         _fold, f"in the node's dtype; at most {MAX_FOLDED} elements, or no more than its inputs"),
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
    moved = zip(node.attr("start"), node.attr("step"), node.shape, strict=True)
    return any(n and (first != 0 or (n > 1 and step != 1)) for first, step, n in moved)


def _compose(m: Match) -> Node:
    """Two transposes as one: out[i] has the axis outer[i] of the inner one."""
    return m.x.transpose(tuple(m.s[axis] for axis in m.t))


def _slice_once(m: Match) -> Node:
    """start + step * (start' + step' * i), axis by axis."""
    outer, inner = dict(m.node.attrs), dict(m.inner.attrs)
    start = [f + k * h for f, k, h in zip(inner["start"], inner["step"], outer["start"], strict=True)]
    step = [k * h for k, h in zip(inner["step"], outer["step"], strict=True)]
    return make(slice_, (m.x,), start=tuple(start), step=tuple(step), shape=m.node.shape)


def _moves_ones(m: Match) -> bool:
    """Whether a transpose leaves the order of all axes but those of size 1."""
    kept = [axis for axis in m.s if m.x.shape[axis] != 1]
    return kept == sorted(kept)


def _respread(source: Node, shape: Shape, wanted: Shape) -> Node | None:
    """broadcast_to(source, shape).reshape(wanted), as a broadcast; None where it is none."""
    if 0 in shape:
        return None
    extents = regrouped(source.shape, shape, wanted)
    if extents is None:
        return None
    needed = without_leading_ones(extents)
    if needed != without_leading_ones(source.shape) or source.ndim > len(wanted):
        source = source.reshape(needed)
    return source.broadcast_to(wanted)


def _reshape_of_broadcast(m: Match) -> Node | None:
    return _respread(m.x, m.inner.shape, m.node.shape)


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
    if without_leading_ones(joint) == without_leading_ones(node.shape):
        return None
    operands = tuple(i.broadcast_to(joint) for i in sources)
    return intern(node.op, operands, node.attrs).broadcast_to(node.shape)


def _elementwise_below_reshape(m: Match) -> Node | None:
    """An op of reshaped values, computed before the reshape. Only unit axes may differ, or leading axes
    be split: rows stay rows, for the reductions that follow."""
    node = m.node
    reshaped = next((i for i in node.inputs if i.op is reshape), None)
    if reshaped is None or not _may_rise(reshaped):
        return None
    result = _respelled(node, reshaped.inputs[0].shape, 1)
    return None if result is None else result.reshape(node.shape)


def _may_rise(reshaped: Node) -> bool:
    """Whether a reshape may move past what follows it: if it only adds or drops axes of size 1, or
    splits leading axes (rows stay rows for reductions that follow), or splits what a kernel made."""
    source = reshaped.inputs[0]
    if 0 in source.shape:
        return False
    if without_ones(source.shape) == without_ones(reshaped.shape):
        return True
    same_rows = source.shape[-1:] == reshaped.shape[-1:]
    return source.ndim < reshaped.ndim and (same_rows or source.op.kind is not Kind.SOURCE)


def _respelled(node: Node, shape: Shape, depth: int) -> Node | None:
    """node.reshape(shape), computed in that shape from the start: possible where it is made of reshapes,
    broadcasts and indices by at most `depth` elementwise ops."""
    if node.op is reshape:
        return node.inputs[0].reshape(shape)
    if node.op is broadcast_to:
        return _respread(node.inputs[0], node.shape, shape)
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
    for before, after in axis_groups(node.shape, shape):
        if before == (axis,) and len(after) == 1:
            return iota(shape, after[0], node.dtype)
    return None


def _reshape_of_elementwise(m: Match) -> Node | None:
    """A reshape that undoes that of an operand, where the other operands can be computed in the new
    shape from the start (an operand of rank 1 or more is not a constant)."""
    node, result = m.node, m.node.inputs[0]
    undone = [i for i in result.inputs if i.op is reshape and i.inputs[0].shape == node.shape]
    if not undone or 0 in node.shape:
        return None
    return _respelled(result, node.shape, MAX_RESPELLED)


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
               every("broadcast_to", one_of("broadcast_to"))),
         _elementwise_below_broadcast, "computed once, then repeated"),
    bits("elementwise_of_reshapes",
         every("an elementwise op of reshapes and broadcasts", _is_elementwise,
               every("", one_of("reshape", "broadcast_to", "const", "iota"))),
         _elementwise_below_reshape, "computed before the reshape, where rows stay rows"),
    bits("elementwise_of_transposes",
         every("an elementwise op of transposes and scalars", _is_elementwise,
               every("", one_of("transpose", "broadcast_to"))),
         _elementwise_below_transpose, "computed before the transpose"),
    bits("reshape_of_elementwise",
         every("reshape of an elementwise op", one_of("reshape"), every("", _is_elementwise)),
         _reshape_of_elementwise, "in the new shape from the start, where an operand had it before"),
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
    return _reduce(node.op, source.reshape(dropped(source.shape, ones)), rest)


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
    axes = reduced_groups(source.shape, reshaped.shape, node.attr("axes"))
    return _reduce(node.op, source, axes).reshape(node.shape) if axes else None


def _reduce_below_broadcast(m: Match) -> Node | None:
    """The reduction of what is repeated, along the axes that are not; then repeated again."""
    node, repeated = m.node, m.node.inputs[0]
    if 0 in repeated.shape:
        return None
    axes = node.attr("axes")
    lead = padded(repeated.inputs[0].shape, repeated.ndim)
    real = [i for i in axes if lead[i] != 1]
    result = _reduce(node.op, repeated.inputs[0].reshape(lead), real)
    return result.reshape(dropped(lead, axes)).broadcast_to(node.shape)


def _sum_below_broadcast(m: Match) -> Node | None:
    node, repeated = m.node, m.node.inputs[0]
    result = _reduce_below_broadcast(m)
    if result is None:
        return None
    lead = padded(repeated.inputs[0].shape, repeated.ndim)
    return result * math.prod(repeated.shape[i] for i in node.attr("axes") if lead[i] == 1)


def _sum_of_row_choice(m: Match) -> Node | None:
    """The sum of where(c, x, 0) where c is the same all along the summed axes."""
    lead = padded(m.cond.shape, m.x.ndim)
    if any(lead[i] != 1 for i in m.s):
        return None
    condition = m.cond.reshape(dropped(lead, m.s)).broadcast_to(m.node.shape)
    return where(condition, sum_(m.x, m.s), 0)


def reduction_of(text: str, *ops: str, inner: Callable[[Op[Any]], bool]) -> Pattern:
    return every(text, one_of(*ops), every("", inner))


def _is_reduction(op: Op[Any]) -> bool:
    return op.kind is Kind.REDUCTION


JOINABLE = ("sum", "prod", "max", "min", "any", "all")  # partial results join; argmax's do not
CHOOSING = ("max", "min", "any", "all")  # repeating an element changes nothing

REDUCTIONS = (
    bits("reduce_ones", every("a reduction", one_of(*JOINABLE)), _drop_ones,
         "along axes of size 1: a reshape"),
    value("sum_of_sum", reduction_of("sum(sum(x))", "sum", inner=one_of("sum")), _reduce_once,
          "one sum"),
    value("prod_of_prod", reduction_of("prod(prod(x))", "prod", inner=one_of("prod")), _reduce_once,
          "one product"),
    bits("choose_twice",
         reduction_of("max, min, any, all of the same", *CHOOSING, inner=one_of(*CHOOSING)),
         _reduce_once, "one reduction", _same_op),
    value("reduce_of_transpose",
          every("a reduction of transpose(x)", _is_reduction, every("", one_of("transpose"))),
          _reduce_below_transpose, "reduced before the transpose"),
    value("reduce_of_reshape",
          reduction_of("a reduction of reshape(x)", *JOINABLE, inner=one_of("reshape")),
          _reduce_below_reshape, "reduced before the reshape, where axes line up"),
    bits("choose_of_broadcast",
         reduction_of("max, min, any, all of broadcast_to(x)", *CHOOSING,
                      inner=one_of("broadcast_to")),
         _reduce_below_broadcast, "reduced before the broadcast"),
    value("sum_of_broadcast", reduction_of("sum(broadcast_to(x))", "sum", inner=one_of("broadcast_to")),
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
    outer, inner = dict(m.node.attrs), dict(m.inner.attrs)
    same = _spelled(outer["value"]) == _spelled(inner["value"])
    if not same or any(outer["gaps"]) or any(inner["gaps"]):
        return None
    low = [h + k for h, k in zip(outer["low"], inner["low"], strict=True)]
    return place(m.x, m.node.shape, low, value=outer["value"])


def _spelled(number: float) -> tuple[float, float]:
    """A number with the sign of its zero."""
    return (number, math.copysign(1.0, number))


def _join_placed(m: Match) -> Node | None:
    """Two arrays placed side by side among zeros, as in the gradient of a split: joined, then placed."""
    one, other = m.one, m.other
    for node in (one, other):
        if _spelled(node.attr("value")) != (0, 1) or any(node.attr("gaps")):
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
                                     every("slice", one_of("slice"))),
         _concatenate_slices, "one slice, where they follow one another"),
    bits("slice_of_concatenate", every("slice of concatenate", one_of("slice"),
                                       every("concatenate", one_of("concatenate"))),
         _slice_of_pieces, "of the one piece that it lies in", lambda m: 0 not in m.node.shape),
    bits("slice_of_place", p.slice(named("inner", p.place(x))), _slice_of_placed,
         "of x, where it lies within"),
    bits("place_everywhere", p.place(x), x, "where x fills the whole",
         lambda m: m.x.shape == m.node.shape),
    bits("place_twice", p.place(named("inner", p.place(x))), _place_once, "placed once"),
    value("add_placed", named("one", p.place(x)) + named("other", p.place(y)), _join_placed,
          "concatenated, then placed, where they lie side by side; -0.0 + 0.0 is 0.0"),
)  # fmt: skip


# -- stable forms ----------------------------------------------------------------------------------


def _is_shifted(exponent: Node, axes: Sequence[int]) -> bool:
    """Whether something that is constant along the axes was already taken off."""
    if exponent.op is not subtract or exponent.inputs[1].op is not broadcast_to:
        return False
    lead = padded(exponent.inputs[1].inputs[0].shape, exponent.ndim)
    return all(lead[i] == 1 for i in axes)


def _is_bare(m: Match) -> bool:
    """Whether a sum of exponentials may overflow."""
    return 0 not in m.x.shape and not _is_shifted(m.x, m.s)


def _shift(exponent: Node, axes: tuple[int, ...]) -> Node:
    """The exponent less its largest element along the axes (less 0 where that is infinite)."""
    largest = max_(exponent, axis=axes, keepdims=True)
    return exponent - where(isfinite(largest), largest, 0)


def _stable_quotient(m: Match) -> Node:
    """exp(x) / sum(exp(x)): both sides divided by exp(max x)."""
    e = exp(_shift(m.x, m.s))
    return e / viewed(m.views, sum_(e, m.s))


def _stable_product(sign: int) -> Build:
    def build(m: Match) -> Node:
        e = exp(_shift(m.x, m.s))
        quotient = m.g / sum_(e, m.s)
        return viewed(m.views, quotient if sign > 0 else -quotient) * e

    return build


sum_of_exp = p.sum(p.exp(x), axes=s)

STABLE = (
    value("log_softmax", p.log(p.exp(x) / views(sum_of_exp)), x - views(p.log(sum_of_exp)),
          "the quotient may be 0"),
    value("softmax", p.exp(x) / views(sum_of_exp), _stable_quotient,
          "with x - max(x) for x, which never overflows", _is_bare),
    value("logsumexp", p.log(sum_of_exp), lambda m: logsumexp(m.x, m.s),
          "log(sum(exp(x - m))) + m with m = max(x), which never overflows", _is_bare),
    value("softmax_cotangent", views(g / sum_of_exp) * p.exp(x), _stable_product(1),
          "with x - max(x) for x: the gradient of logsumexp", _is_bare),
    value("softmax_cotangent_negative", views(-(g / sum_of_exp)) * p.exp(x), _stable_product(-1),
          "with x - max(x) for x: the gradient of logsumexp", _is_bare),
    value("log_of_exp", p.log(p.exp(x)), x, "exp(x) may overflow or underflow"),
    value("log1p_of_expm1", p.log1p(p.expm1(x)), x, "expm1(x) may overflow"),
    value("softplus", p.log(1 + p.exp(x)), p.softplus(x), "exp(x) may overflow"),
    value("softplus_log1p", p.log1p(p.exp(x)), p.softplus(x), "exp(x) may overflow"),
    value("log_sigmoid", p.log(p.sigmoid(x)), -p.softplus(-x), "sigmoid(x) may be 0"),
    value("log_one_minus_sigmoid", p.log(1 - p.sigmoid(x)), -p.softplus(x), "cancels for large x"),
    value("log1p_of_sum", p.log(1 + x), p.log1p(x), "1 + x loses small x"),
    value("log1p_of_difference", p.log(1 - x), p.log1p(-x), "1 - x loses small x"),
    value("expm1", p.exp(x) - 1, p.expm1(x), "cancels for small x"),
    value("one_minus_exp", 1 - p.exp(x), -p.expm1(x), "cancels for small x"),
    value("softplus_cotangent", g / (1 + p.exp(x)) * p.exp(x), g * p.sigmoid(x),
          "inf / inf is NaN: the gradient of softplus"),
    value("sigmoid_times_exp", p.sigmoid(-x) * p.exp(x), p.sigmoid(x), "0 * inf is NaN"),
    value("sigmoid", 1 / (1 + p.exp(x)), p.sigmoid(-x)),
    value("sigmoid_reciprocal", p.reciprocal(1 + p.exp(x)), p.sigmoid(-x)),
    value("sigmoid_quotient", p.exp(x) / (1 + p.exp(x)), p.sigmoid(x), "inf / inf is NaN"),
    value("tanh", (p.exp(x) - p.exp(-x)) / (p.exp(x) + p.exp(-x)), p.tanh(x),
          "overflows, and cancels for small x"),
    value("erfc", 1 - p.erf(x), p.erfc(x), "cancels for large x"),
)  # fmt: skip


SECTIONS: dict[str, tuple[Rule, ...]] = {
    "Constants": CONSTANTS,
    "Views": VIEWS,
    "Choice, logic and casts": CHOICE,
    "Cotangents through a choice or a quotient": COTANGENTS,
    "Stable forms": STABLE,
    "Arithmetic": ARITHMETIC,
    "Reductions": REDUCTIONS,
    "Contractions": CONTRACTIONS,
    "Joins": JOINS,
}
RULES: tuple[Rule, ...] = tuple(rule for section in SECTIONS.values() for rule in section)


def select_rules(switches: Mapping[str, bool] | None = None) -> tuple[Rule, ...]:
    """The rules that are on: those that keep bits or the value, but for what `switches` say.

    Raises CompileError for a name that no rule has.
    """
    chosen = dict(switches or {})
    names = [rule.name for rule in RULES]
    for name in chosen:
        if name not in names:
            close = difflib.get_close_matches(str(name), names)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see docs/rules.md"
            raise CompileError(f"rules: there is no rule {name!r}; {hint}")
    return tuple(rule for rule in RULES if chosen.get(rule.name, rule.keeps != "nothing"))
