"""Comparisons, tests and logic: elementwise ops that give bools. None has a derivative."""

from __future__ import annotations

from graphc.ir.build import binary, bool_type, unary

greater = binary(
    "greater", "Whether x exceeds y.", "x > y", mode="compare", infer=bool_type,
    eval=lambda xp, x, y: xp.greater(x, y), c="{0} > {1}",
)  # fmt: skip

greater_equal = binary(
    "greater_equal", "Whether x is y or exceeds it.", "x >= y", mode="compare", infer=bool_type,
    eval=lambda xp, x, y: xp.greater_equal(x, y), c="{0} >= {1}",
)  # fmt: skip

less = binary(
    "less", "Whether y exceeds x.", "x < y", mode="compare", infer=bool_type,
    eval=lambda xp, x, y: xp.less(x, y), c="{0} < {1}",
)  # fmt: skip

less_equal = binary(
    "less_equal", "Whether y is x or exceeds it.", "x <= y", mode="compare", infer=bool_type,
    eval=lambda xp, x, y: xp.less_equal(x, y), c="{0} <= {1}",
)  # fmt: skip

equal = binary(
    "equal", "Whether the elements are equal.", "x == y", mode="compare", infer=bool_type,
    eval=lambda xp, x, y: xp.equal(x, y), c="{0} == {1}", commutative=True,
)  # fmt: skip

not_equal = binary(
    "not_equal", "Whether the elements differ; NaN differs from itself.", "x != y", mode="compare",
    infer=bool_type, eval=lambda xp, x, y: xp.not_equal(x, y), c="{0} != {1}", commutative=True,
)  # fmt: skip

isfinite = unary(
    "isfinite", "Whether an element is neither infinite nor NaN.", "|x| < inf", mode="any",
    infer=bool_type, eval=lambda xp, x: xp.isfinite(x), c="gx_isfinite_{t}({0})",
)  # fmt: skip

isnan = unary(
    "isnan", "Whether an element is NaN.", "x != x", mode="any",
    infer=bool_type, eval=lambda xp, x: xp.isnan(x), c="gx_isnan_{t}({0})",
)  # fmt: skip

bitwise_and = binary(
    "bitwise_and", "And, of bools or of the bits of integers.", "x & y", mode="bits",
    eval=lambda xp, x, y: xp.bitwise_and(x, y), c="{0} & {1}", commutative=True,
)  # fmt: skip

bitwise_or = binary(
    "bitwise_or", "Or, of bools or of the bits of integers.", "x | y", mode="bits",
    eval=lambda xp, x, y: xp.bitwise_or(x, y), c="{0} | {1}", commutative=True,
)  # fmt: skip

invert = unary(
    "invert", "Not, of bools or of the bits of integers.", "~x", mode="bits",
    eval=lambda xp, x: xp.invert(x), c="gx_invert_{t}({0})",
)  # fmt: skip
