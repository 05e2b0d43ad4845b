"""Elementwise arithmetic, choice between values, and casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.errors import DTypeError
from graphc.ir.build import (
    apply,
    as_node,
    binary,
    broadcast,
    declare,
    dtype_for,
    promote,
    same_type,
    unary,
)
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import F, Kind
from graphc.ir.tensor_type import BOOL, FLOATS, DType, TensorType

# -- arithmetic

add = binary(
    "add", "The sum of two arrays.", "x + y",
    eval=lambda xp, x, y: xp.add(x, y),
    vjp={0: lambda g, out, x, y: g, 1: lambda g, out, x, y: g},
    c="{0} + {1}", commutative=True, algebra="sum",
)  # fmt: skip

subtract = binary(
    "subtract", "The difference of two arrays.", "x - y",
    eval=lambda xp, x, y: xp.subtract(x, y),
    vjp={0: lambda g, out, x, y: g, 1: lambda g, out, x, y: -g},
    c="{0} - {1}",
)  # fmt: skip

multiply = binary(
    "multiply", "The elementwise product.", "x * y",
    eval=lambda xp, x, y: xp.multiply(x, y),
    vjp={0: lambda g, out, x, y: g * y, 1: lambda g, out, x, y: g * x},
    c="{0} * {1}", commutative=True, algebra="product",
)  # fmt: skip

divide = binary(
    "divide", "The elementwise quotient, a float for integers, too.", "x / y", mode="float",
    eval=lambda xp, x, y: xp.divide(x, y),
    vjp={0: lambda g, out, x, y: g / y, 1: lambda g, out, x, y: -g * (out / y)},
    c="{0} / {1}", cost=3.0, avoid=(0.0,),
)  # fmt: skip

negative = unary(
    "negative", "The negated elements.", "-x", mode="arithmetic",
    eval=lambda xp, x: xp.negative(x), vjp={0: lambda g, out, x: -g}, c="-{0}",
)  # fmt: skip

abs = unary(
    "abs", "The absolute value; its derivative at 0 is 0.", "|x|", mode="arithmetic",
    eval=lambda xp, x: xp.absolute(x), vjp={0: lambda g, out, x: g * F.sign(x)},
    c="gx_abs_{t}({0})", avoid=(0.0,),
)  # fmt: skip

sign = unary(
    "sign", "-1, 0 or 1; NaN stays NaN. It has no derivative.", "x / |x|, 0 at 0",
    mode="arithmetic", eval=lambda xp, x: xp.sign(x), c="gx_sign_{t}({0})", avoid=(0.0,),
)  # fmt: skip

floor = unary(
    "floor", "The largest whole number that is not above x. It has no derivative.", "floor x",
    eval=lambda xp, x: xp.floor(x), c="gx_floor_{t}({0})", avoid=(-2.0, -1.0, 0.0, 1.0, 2.0),
)  # fmt: skip

square = unary(
    "square", "The square.", "x * x", mode="arithmetic",
    eval=lambda xp, x: xp.multiply(x, x), vjp={0: lambda g, out, x: g * (x + x)},
    c="{0} * {0}",
)  # fmt: skip

reciprocal = unary(
    "reciprocal", "One over x.", "1 / x",
    eval=lambda xp, x: xp.reciprocal(x), vjp={0: lambda g, out, x: -g * (out * out)},
    c="1 / {0}", cost=3.0, avoid=(0.0,),
)  # fmt: skip


def _power_base(g: Node, out: Node, x: Node, y: Node) -> Node:
    """The derivative y x^(y-1); an exponent 0 gives 0 at x = 0, too, where 0 x^-1 would be NaN.

    Guarded there only: elsewhere the derivative of this by y must stay right at y = 0.
    """
    return g * (y * x ** F.where(y == 0, F.where(x == 0, 1, y - 1), y - 1))


def _power_exponent(g: Node, out: Node, x: Node, y: Node) -> Node:
    """x^y ln x. At x = 0 it is 0 for y >= 0 and -inf for y < 0, the limits from above but for
    y = 0; NaN for negative x, where x^y is real only at points."""
    return g * (out * F.log(F.where(x == 0, F.where(y < 0, x, 1), x)))


@declare(
    Kind.ELEMENTWISE,
    "x ^ y",
    infer=same_type,
    eval=lambda xp, x, y: xp.power(x, y),
    vjp={0: _power_base, 1: _power_exponent},
    c="gx_power_{t}({0}, {1})",
    cost=16.0,
    domain=(0.2, 2.5),
)
def power(x: Operand, y: Operand, /) -> Node:
    """The power, x to the y. NaN for negative x and a y that is not whole. Integers to a known
    power stay integers (DTypeError if it is negative); to the power of an integer node, which may
    turn out negative, they give float32."""
    if not isinstance(y, Node) and _has_negative(y):
        nodes = [n for n in (x,) if isinstance(n, Node) and n.dtype not in FLOATS]
        if nodes:
            raise DTypeError(
                explain("power", f"integers to the power {y!r} are no integers; "
                        "try x.astype('float32')", nodes)
            )  # fmt: skip
    unknown = isinstance(y, Node) and y.dtype not in FLOATS
    return apply(power, x, y, mode="float" if unknown else "arithmetic")


def _has_negative(exponent: Any) -> bool:
    array = np.asarray(exponent)
    return array.dtype.kind == "i" and bool((array < 0).any())


# -- choice


def _share(g: Node, wins: Node, ties: Node) -> Node:
    """The cotangent where this operand is chosen, half of it where both are equal, else 0."""
    return F.where(wins, g, F.where(ties, 0.5 * g, 0))


maximum = binary(
    "maximum", "The larger of two elements; NaN if either is.",
    "max(x, y); ties share the gradient",
    mode="compare",
    eval=lambda xp, x, y: xp.maximum(x, y),
    vjp={0: lambda g, out, x, y: _share(g, x > y, x == y),
         1: lambda g, out, x, y: _share(g, y > x, x == y)},
    c="gx_maximum_{t}({0}, {1})", commutative=True, avoid=(0.0,),
)  # fmt: skip

minimum = binary(
    "minimum", "The smaller of two elements; NaN if either is.",
    "min(x, y); ties share the gradient",
    mode="compare",
    eval=lambda xp, x, y: xp.minimum(x, y),
    vjp={0: lambda g, out, x, y: _share(g, x < y, x == y),
         1: lambda g, out, x, y: _share(g, y < x, x == y)},
    c="gx_minimum_{t}({0}, {1})", commutative=True, avoid=(0.0,),
)  # fmt: skip


@declare(
    Kind.ELEMENTWISE,
    "x if condition else y",
    infer=lambda condition, x, y: x,
    eval=lambda xp, condition, x, y: xp.where(condition, x, y),
    vjp={
        1: lambda g, out, condition, x, y: F.where(condition, g, 0),
        2: lambda g, out, condition, x, y: F.where(condition, 0, g),
    },
    c="{0} ? {1} : {2}",
)
def where(condition: Operand, x: Operand, y: Operand) -> Node:
    """`x` where `condition` holds, else `y`; one that is not bool holds where it is not 0."""
    condition = as_node(condition)
    if condition.dtype != BOOL:
        condition = F.not_equal(condition, 0)
    x, y = promote("where", [x, y], "any")
    return make(where, tuple(broadcast("where", [condition, x, y])))


def _chosen(x: Node, y: Node, training: bool) -> Node:
    return x if training else y


@declare(
    Kind.ELEMENTWISE,
    "x in training, y in evaluation",
    infer=same_type,
    eval=lambda xp, x, y: xp.where(True, x, y),
    vjp={
        0: lambda g, out, x, y: F.by_mode(g, 0),
        1: lambda g, out, x, y: F.by_mode(0, g),
    },
    resolve=_chosen,
    c="{0}",
    cost=0.0,
)
def by_mode(x: Operand, y: Operand) -> Node:
    """`x` in a program compiled for training, `y` in one compiled with `training=False`; decided
    when the graph is bound. Evaluated unbound it is `x`."""
    return apply(by_mode, x, y, mode="any")


# -- casts


def _cast(x: TensorType, dtype: DType, stored: bool = False) -> TensorType:
    return TensorType(x.shape, dtype)


@declare(
    Kind.ELEMENTWISE,
    "x as another dtype",
    infer=_cast,
    eval=lambda xp, x, dtype, stored=False: x.astype(dtype),
    vjp={0: lambda g, out, x, dtype, stored=False: g.astype(x.dtype)},
    c="({R}){0}",
)
def astype(x: Operand, dtype: Any) -> Node:
    """The elements as another dtype: floats to integers cut towards zero, anything to bool is
    `x != 0`. To a 16-bit float and back is a rounding, which is kept."""
    x = as_node(x)
    dtype = dtype_for("astype", dtype, [x])
    return x if x.dtype == dtype else make(astype, (x,), dtype=dtype)


@declare(
    Kind.ELEMENTWISE,
    "x, with no derivative",
    infer=same_type,
    eval=lambda xp, x: xp.positive(x),
    c="{0}",
    cost=0.0,
)
def stop_gradient(x: Operand) -> Node:
    """`x`, taken as a constant by `grad` and its like. What is not float has no derivative anyway
    and is returned as it is."""
    x = as_node(x)
    return make(stop_gradient, (x,)) if x.dtype in FLOATS else x
