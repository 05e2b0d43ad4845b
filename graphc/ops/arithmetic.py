"""Elementwise arithmetic, comparisons and choice."""

from __future__ import annotations

from typing import Any

from graphc.ir.build import (
    as_node,
    binary,
    bool_type,
    broadcast,
    declare,
    promote,
    same_type,
    unary,
)
from graphc.ir.node import Node, Operand, make
from graphc.ir.op import FUNCTIONS, Kind
from graphc.ir.tensor_type import BOOL, DType, TensorType, as_dtype

add = binary(
    "add", "The sum of two arrays.", "x + y",
    eval=lambda xp, x, y: xp.add(x, y),
    vjp={0: lambda g, out, x, y: g, 1: lambda g, out, x, y: g},
    c="{0} + {1}", commutative=True,
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
    c="{0} * {1}", commutative=True,
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

maximum = binary(
    "maximum", "The larger of two elements; NaN if either is.", "max(x, y); ties share the gradient",
    mode="any",
    eval=lambda xp, x, y: xp.maximum(x, y),
    vjp={0: lambda g, out, x, y: g * _share(x > y, x == y),
         1: lambda g, out, x, y: g * _share(y > x, x == y)},
    c="gx_maximum({0}, {1})", commutative=True, avoid=(0.0,),
)  # fmt: skip


def _share(wins: Node, ties: Node) -> Node:
    """1 where this operand is chosen, 1/2 where both are equal, else 0."""
    where = FUNCTIONS["where"]
    return where(wins, 1.0, where(ties, 0.5, 0.0))


greater = binary(
    "greater", "Whether x exceeds y.", "x > y", mode="any", infer=bool_type,
    eval=lambda xp, x, y: xp.greater(x, y), c="{0} > {1}",
)  # fmt: skip
less = binary(
    "less", "Whether y exceeds x.", "x < y", mode="any", infer=bool_type,
    eval=lambda xp, x, y: xp.less(x, y), c="{0} < {1}",
)  # fmt: skip
equal = binary(
    "equal", "Whether the elements are equal.", "x == y", mode="any", infer=bool_type,
    eval=lambda xp, x, y: xp.equal(x, y), c="{0} == {1}", commutative=True,
)  # fmt: skip


@declare(
    Kind.ELEMENTWISE,
    "x if condition else y",
    infer=lambda condition, x, y: x,
    eval=lambda xp, condition, x, y: xp.where(condition, x, y),
    vjp={
        1: lambda g, out, condition, x, y: FUNCTIONS["where"](condition, g, 0),
        2: lambda g, out, condition, x, y: FUNCTIONS["where"](condition, 0, g),
    },
    c="{0} ? {1} : {2}",
)
def where(condition: Operand, x: Operand, y: Operand) -> Node:
    """`x` where the condition holds, else `y`; a condition that is no bool holds where it is
    not 0."""
    condition = as_node(condition)
    if condition.dtype != BOOL:
        condition = FUNCTIONS["not_equal"](condition, 0)
    x, y = promote("where", [x, y], "any")
    return make(where, tuple(broadcast("where", [condition, x, y])))


def _cast(x: TensorType, dtype: DType) -> TensorType:
    return TensorType(x.shape, dtype)


@declare(
    Kind.ELEMENTWISE,
    "x as another dtype",
    infer=_cast,
    eval=lambda xp, x, dtype: x.astype(dtype),
    vjp={0: lambda g, out, x, dtype: g.astype(x.dtype)},
    c="({dtype}){0}",
)
def astype(x: Operand, dtype: Any) -> Node:
    """The elements as another dtype: floats to integers cut towards zero, anything to bool is
    `x != 0`."""
    x, dtype = as_node(x), as_dtype(dtype)
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
    """`x`, taken as a constant by `grad` and its like."""
    return make(stop_gradient, (as_node(x),))


