"""The rules about values, as named data, and the list of all rules.

    bits(...)      the same bits for every number, inf and -0 included; NaN stays NaN
    value(...)     equal up to rounding, or nearer to the exact value
    nothing(...)   wrong for NaN, inf or -0: off unless asked for by name

Order matters in two ways only: among rules for one op the first that fires wins, and every rule
must make the graph smaller or bring it nearer to one form, so that rewriting ends. In that form
negations have moved towards the outputs and constant factors are joined. Rules may name ops, passes
do not.

Stabilising (`stable_rules.py`) covers values and first derivatives of the listed forms only, and
some second derivatives. Others are those of the form that the user wrote: NaN where it overflows.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphc.errors import CompileError
from graphc.ir.node import Node
from graphc.ir.tensor_type import FLOATS, kind_of
from graphc.rewrite.pattern import (
    Call,
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
from graphc.rewrite.rule import Match, Rule, bits, nothing, value
from graphc.rewrite.shape_rules import CONSTANTS, CONTRACTIONS, JOINS, REDUCTIONS, VIEWS
from graphc.rewrite.stable_rules import STABLE

x, y, z, g, cond, mask = wilds("x y z g cond mask")
c, d = number("c"), number("d")


def is_float(m: Match) -> bool:
    return m.node.dtype in FLOATS


def is_integer(m: Match) -> bool:
    return m.node.dtype.kind == "i"


def is_cotangent(m: Match) -> bool:
    """Whether derivatives made both the product and the choice in it; a user's own stay."""
    return m.node.backward and m.choice.backward


def are_cotangents(m: Match) -> bool:
    return is_cotangent(m) and m.other.backward


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
    if constant_of(m.c).sized:
        return False
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
    bits("double_negative", -(-x), x),  # noqa: B002
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
    value("power_half", x**0.5, p.sqrt(x), "NaN for -inf, where x ** 0.5 is inf"),
    value("power_minus_one", x**-1, p.reciprocal(x), when=is_float),
    value("power_minus_half", x**-0.5, p.rsqrt(x),
          "NaN for -inf, where x ** -0.5 is 0; -inf for -0.0, where it is inf"),
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
    """astype(astype(x)) as one cast, where the first loses nothing that the second one sees."""
    first, last, source = m.inner.dtype, m.node.dtype, m.x.dtype
    is_float = kind_of(source) == "f"
    rounds = source.kind == "i" and kind_of(first) == "f" and source.itemsize >= first.itemsize
    exact = np.can_cast(source, first, "safe") and not rounds
    defined = not is_float or last.kind != "i"  # NaN and inf as integers are not
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


# -- 16-bit floats ---------------------------------------------------------------------------------


def _unrounded(m: Match) -> Node | None:
    """float32(views(stored(x))) as views(x), for a float32 x that nobody asked to round."""
    implied = dict(m.inner.attrs).get("stored") and m.x.dtype == m.node.dtype
    return viewed(m.views, m.x) if implied else None


ROUNDING = (
    value("drop_rounding", p.astype(views(named("inner", p.astype(x)))), _unrounded,
          "x, where a 16-bit float of it was to be computed with: rounded once, when stored; not "
          "where the user wrote the cast. In the stage \"widened\" only"),
)  # fmt: skip


# -- cotangents through a choice -------------------------------------------------------------------
# The derivative of where(c, f(x), 0) at a false c is where(c, g, 0) * f'(x), which is 0 * inf = NaN
# where f' is infinite. The exact value is 0. So the choice moves outwards past each factor. A sum
# of choices, as of a node used twice, becomes one choice first: 0 where neither condition holds.

then = views(named("choice", p.where(cond, x, 0)))
else_ = views(named("choice", p.where(cond, 0, x)))
other_then = views(named("other", p.where(mask, y, 0)), "views2")
other_else = views(named("other", p.where(mask, 0, y)), "views2")
ONLY = "on cotangents only"


def either(one: Pattern, two: Pattern) -> Call:
    """One choice for the sum of views(x) where `one` holds and views2(y) where `two` holds."""
    a, b = views(x), views(y, "views2")
    chosen = p.where(one, p.where(two, a + b, a), b)
    return p.where(p.bitwise_or(one, two), chosen, 0)


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
    value("cotangent_sum", then + other_then, either(views(cond), views(mask, "views2")),
          f"one choice, past which factors can move; {ONLY}", are_cotangents),
    value("cotangent_sum_mixed", then + other_else, either(views(cond), ~views(mask, "views2")),
          f"one choice, past which factors can move; {ONLY}", are_cotangents),
    value("cotangent_sum_else", else_ + other_else, either(~views(cond), ~views(mask, "views2")),
          f"one choice, past which factors can move; {ONLY}", are_cotangents),
)  # fmt: skip


# -- all of them -----------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[Rule, ...]] = {
    "16-bit floats": ROUNDING,
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
            hint = (
                f"did you mean {' or '.join(map(repr, close))}?" if close else "see docs/rules.md"
            )
            raise CompileError(f"rules: there is no rule {name!r}; {hint}")
    return tuple(rule for rule in RULES if chosen.get(rule.name, rule.keeps != "nothing"))
