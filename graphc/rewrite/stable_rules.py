"""The rules that replace forms which overflow, underflow or cancel by forms which do not.

Covered are the values and the first derivatives of the forms listed, and some second derivatives.
Further derivatives are those of the form that the user wrote: NaN where it overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.ir.build import as_node
from graphc.ir.node import Node, make
from graphc.ir.op import Op
from graphc.ops.activations import sigmoid
from graphc.ops.arithmetic import add, divide, multiply, negative, subtract, where
from graphc.ops.comparisons import isfinite
from graphc.ops.composite import logsumexp
from graphc.ops.exponential import exp
from graphc.ops.reductions import max as max_
from graphc.ops.reductions import sum as sum_
from graphc.ops.views import broadcast_to, reshape
from graphc.rewrite.pattern import Literal, p, views, wilds
from graphc.rewrite.rule import Match, value
from graphc.rewrite.shapes import Shape, padded, regrouped, shape_of

x, y, g = wilds("x y g")
(s,) = wilds("s")  # the axes of a reduction

# -- softmax and logsumexp -------------------------------------------------------------------------


def _is_shifted(exponent: Node, axes: Sequence[int]) -> bool:
    """Whether something that is constant along the axes was already taken off."""
    if exponent.op is not subtract or exponent.inputs[1].op is not broadcast_to:
        return False
    lead = padded(shape_of(exponent.inputs[1].inputs[0]), exponent.ndim)
    return all(lead[i] == 1 for i in axes)


def _can_overflow(exponent: Node, axes: Sequence[int]) -> bool:
    return 0 not in exponent.shape and not _is_shifted(exponent, axes)


def _kept(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _without_views(node: Node) -> tuple[Node, Shape]:
    """What a node repeats and reshapes, and the shape in which it is repeated."""
    if node.op is broadcast_to:
        (node,) = node.inputs
    shape = shape_of(node)
    while node.op is reshape:
        (node,) = node.inputs
    return node, shape


def _is_bare(m: Match) -> bool:
    """Whether a sum of exponentials may overflow."""
    return _can_overflow(m.x, m.s)


def _is_softmax(m: Match) -> bool:
    """Whether, besides, each element is divided by the sum that it is part of."""
    total, shape = _without_views(m.node.inputs[1])
    own = padded(shape, m.x.ndim) == _kept(shape_of(m.x), m.s)
    return own and total.op is sum_ and _is_bare(m)


def _shifted_exp(exponent: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """exp(x - m) and its sums, repeated; m is the maximum along the axes (0 where infinite)."""
    largest = max_(exponent, axis=axes, keepdims=True)
    e = exp(exponent - where(isfinite(largest), largest, 0))
    return e, sum_(e, axes, keepdims=True).broadcast_to(e.shape)


def _softmax(exponent: Node, axes: tuple[int, ...]) -> Node:
    """exp(x) / sum(exp(x)), both divided by exp(max x)."""
    e, total = _shifted_exp(exponent, axes)
    return e / total


# -- gradients -------------------------------------------------------------------------------------
# Gradients of quotients and logarithms are products g * exp(x) in which each term of g has a factor
# 1/d, where d is a sum that exp(x) is part of. Either may overflow; exp(x)/d cannot. So the factor
# is taken out of g, through the ops that are linear in it.

REACH = 64  # nodes of g that are looked at, so that the work stays linear

Divisor = tuple[int, ...] | Node | None  # sum(exp(x)) along axes, exp(x) + exp(node), 1 + exp(x)
is_one = Literal(1).matcher(set())


def _is_exp_of(node: Node, exponent: Node) -> bool:
    return node.op is exp and node.inputs[0] is exponent


def _divisor(node: Node, exponent: Node) -> list[Divisor]:
    """Which divisor of exp(exponent) a node is; none if it is no such divisor."""
    if node.op is sum_:
        axes: tuple[int, ...] = node.attr("axes")
        bare = _is_exp_of(node.inputs[0], exponent) and _can_overflow(exponent, axes)
        return [axes] if bare else []
    if node.op is not add:
        return []
    one, other = node.inputs if _is_exp_of(node.inputs[0], exponent) else node.inputs[::-1]
    if not _is_exp_of(one, exponent):
        return []
    if is_one(other, {}):
        return [None]
    return [other.inputs[0]] if other.op is exp else []


def _is_one_over(node: Node, exponent: Node) -> bool:
    """Whether a node is 1 / (1 + exp(exponent)), simplified to sigmoid(-exponent)."""
    if node.op is not sigmoid:
        return False
    (found,) = node.inputs
    return any(a.op is negative and a.inputs[0] is b
               for a, b in ((found, exponent), (exponent, found)))  # fmt: skip


def _divisors(g: Node, exponent: Node) -> dict[Divisor, None]:
    """The divisors of exp(exponent) near the root of g."""
    found: dict[Divisor, None] = {}
    near, seen = [g], {g}
    for node in near:  # grows as it is walked
        if node.op is divide:
            found |= dict.fromkeys(_divisor(_without_views(node.inputs[1])[0], exponent))
        elif _is_one_over(node, exponent):
            found[None] = None
        elif node.op not in THROUGH:
            continue
        fresh = dict.fromkeys(i for i in node.inputs if i not in seen)
        near += list(fresh)[: REACH - len(near)]
        seen |= fresh.keys()
    return found


class _Times:
    """Multiplies nodes by one divisor d of exp(exponent), where that cancels."""

    def __init__(self, exponent: Node, divisor: Divisor) -> None:
        self.exponent = exponent
        self.divisor = divisor
        self.left = REACH

    def __call__(self, node: Node, lead: Shape) -> Node | None:
        """The node times d, which is repeated from the shape `lead`; None if d does not cancel."""
        self.left -= 1
        if self.left < 0 or 0 in node.shape:
            return None
        if self.divisor is None and _is_one_over(node, self.exponent):
            return as_node(1, node.dtype).broadcast_to(node.shape)
        step = THROUGH.get(node.op)
        return None if step is None else step(self, node, lead)

    def quotient(self, node: Node, lead: Shape) -> Node | None:
        above, below = node.inputs
        base, shape = _without_views(below)
        if padded(shape, node.ndim) == lead and self.divisor in {*_divisor(base, self.exponent)}:
            return above
        times = self(above, lead)
        return None if times is None else times / below

    def product(self, node: Node, lead: Shape) -> Node | None:
        for one, other in (node.inputs, node.inputs[::-1]):
            times = self(one, lead)
            if times is not None:
                return times * other
        return None

    def terms(self, node: Node, lead: Shape) -> Node | None:
        """A sum, a difference or a negative of terms that all have the factor."""
        times: list[Node] = []
        for term in node.inputs:
            part = self(term, lead)
            if part is None:
                return None
            times.append(part)
        return make(node.op, tuple(times))

    def repeated(self, node: Node, lead: Shape) -> Node | None:
        (source,) = node.inputs
        given = padded(shape_of(source), node.ndim)
        if any(n != 1 for n, have in zip(lead, given, strict=True) if have == 1):
            return None
        times = self(source, lead[node.ndim - source.ndim :])
        return None if times is None else times.broadcast_to(node.shape)

    def reshaped(self, node: Node, lead: Shape) -> Node | None:
        (source,) = node.inputs
        before = regrouped(lead, shape_of(node), shape_of(source))
        times = None if before is None else self(source, before)
        return None if times is None else times.reshape(node.shape)

    def total(self, node: Node, lead: Shape) -> Node | None:
        axes: tuple[int, ...] = node.attr("axes")
        rest = iter(lead)
        ndim = node.inputs[0].ndim
        times = self(node.inputs[0], tuple(1 if i in axes else next(rest) for i in range(ndim)))
        return None if times is None else sum_(times, axes)


Step = Callable[[_Times, Node, Shape], Node | None]
THROUGH: dict[Op[...], Step] = {
    add: _Times.terms, subtract: _Times.terms, negative: _Times.terms,
    multiply: _Times.product, divide: _Times.quotient, sum_: _Times.total,
    broadcast_to: _Times.repeated, reshape: _Times.reshaped,
}  # fmt: skip


def _cancel_exp(m: Match) -> Node | None:
    """g * exp(x) as (g * d) * (exp(x) / d), where g * d cancels."""
    shape = shape_of(m.x)
    for divisor in _divisors(m.g, m.x):
        axes = divisor if isinstance(divisor, tuple) else ()
        times = _Times(m.x, divisor)(m.g, _kept(shape, axes))
        if times is None:
            continue
        if isinstance(divisor, tuple):
            e, total = _shifted_exp(m.x, divisor)
            return times / total * e
        return times * sigmoid(m.x if divisor is None else m.x - divisor)
    return None


def _cancel_sum(m: Match) -> Node | None:
    """g * sum(y * exp(x)) as (g * d) * sum(y * softmax(x)) with d = sum(exp(x)), likewise."""
    axes: tuple[int, ...] = m.s
    if axes not in _divisors(m.g, m.x):
        return None
    times = _Times(m.x, axes)(m.g, shape_of(m.g))
    return None if times is None else times * sum_(m.y * _softmax(m.x, axes), axes)


# -- the rules -------------------------------------------------------------------------------------

sum_of_exp = p.sum(p.exp(x), axes=s)

STABLE = (
    value("log_softmax", p.log(p.exp(x) / views(sum_of_exp)), x - views(p.log(sum_of_exp)),
          "the quotient may be 0"),
    value("softmax", p.exp(x) / views(sum_of_exp), lambda m: _softmax(m.x, m.s),
          "with x - max(x) for x, which never overflows, where each row has its own sum",
          _is_softmax),
    value("logsumexp", p.log(sum_of_exp), lambda m: logsumexp(m.x, m.s),
          "log(sum(exp(x - m))) + m with m = max(x), which never overflows", _is_bare),
    value("exp_cotangent", g * p.exp(x), _cancel_exp,
          "where g cancels 1 + exp(x), exp(x) + exp(y) or sum(exp(x)): (g * d) times exp(x) / d, "
          "which is a sigmoid or a softmax: as in their gradients and that of log(d)"),
    value("exp_cotangent_of_sum", g * p.sum(y * p.exp(x), axes=s), _cancel_sum,
          "where g cancels sum(exp(x)), likewise: as in second derivatives"),
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
    value("sigmoid", 1 / (1 + p.exp(x)), p.sigmoid(-x)),
    value("sigmoid_reciprocal", p.reciprocal(1 + p.exp(x)), p.sigmoid(-x)),
    value("sigmoid_quotient", p.exp(x) / (1 + p.exp(x)), p.sigmoid(x), "inf / inf is NaN"),
    value("tanh", (p.exp(x) - p.exp(-x)) / (p.exp(x) + p.exp(-x)), p.tanh(x),
          "overflows, and cancels for small x"),
    value("erfc", 1 - p.erf(x), p.erfc(x), "cancels for large x"),
)  # fmt: skip
