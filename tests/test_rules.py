"""Rules: each alone by random substitution into its pattern, the driver, and what they achieve."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.errors import CompileError
from graphc.evaluate import evaluate
from graphc.ir.build import stored
from graphc.ir.graph import Graph
from graphc.ir.node import Derived, Node, make
from graphc.ir.op import FUNCTIONS as F
from graphc.ir.op import OPS, Kind
from graphc.ir.tensor_type import BFLOAT16
from graphc.report.rule_table import rule_table_markdown
from graphc.rewrite.engine import simplify
from graphc.rewrite.pattern import Call, Literal, Named, Number, Viewed, Wild, p, wilds
from graphc.rewrite.rule import Rule, bits, value
from graphc.rewrite.rules import RULES, select_rules

DTYPES = ("float32", "float64", "int32", "bool")
SHAPES = ((3, 5), (), (1, 4), (0, 2))
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1.2e-38, 3.4e38, -3.4e38, 1.0, -1.5]
SLACK = 8  # rounding errors, of the largest element, that a rule keeping the value may add


class Leaves:
    """Makes inputs of one dtype. `x` is always the same one, of shape (3, 4)."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.made: list[Node] = []
        self.named: dict[str, Node] = {}

    def __call__(self, *shape: int, dtype: str | None = None) -> Node:
        self.made.append(gx.input(f"i{len(self.made)}", shape, dtype or self.dtype))
        return self.made[-1]

    @property
    def x(self) -> Node:
        return self.wild("x", (3, 4))

    def wild(self, name: str, shape: tuple[int, ...]) -> Node:
        if name not in self.named:
            self.named[name] = self(*shape, dtype="bool" if name in ("cond", "mask") else None)
        return self.named[name]


Build = Callable[[Leaves], Node]


# -- graphs of a rule's form


def substituted(
    pattern: Any, leaf: Leaves, shape: tuple[int, ...], numbers: dict[str, float]
) -> Any:
    """A pattern with inputs for its wildcards; no views where there may be any number."""
    match pattern:
        case Wild():
            return leaf.wild(pattern.name, shape)
        case Number():
            return numbers[pattern.name]
        case Literal():
            return pattern.value
        case Named() | Viewed():
            return substituted(pattern.part, leaf, shape, numbers)
        case Call() if not pattern.attrs:
            return pattern.op(*(substituted(a, leaf, shape, numbers) for a in pattern.args))
        case _:
            raise AssertionError(f"{pattern} cannot be substituted into: add a row to EXAMPLES")


def cases(rule: Rule) -> Iterator[Build]:
    """Functions that build graphs of the rule's form from leaves."""
    yield from EXAMPLES.get(rule.name, [])
    if rule.name in EXAMPLES and not rule.name.startswith("cotangent"):
        return
    for shape, first, second in zip(
        SHAPES, (2.0, 3.0, -0.5, -5.0), (-0.25, 5.0, 4.0, 2.0), strict=True
    ):
        numbers = {"c": first, "d": second}
        yield lambda leaf, s=shape, n=numbers: substituted(rule.pattern, leaf, s, n)


def bare_softmax(x: Node, axis: int) -> Node:
    return gx.exp(x) / gx.sum(gx.exp(x), axis, keepdims=True)


def over_own_sum(y: Node, x: Node) -> Node:
    return y / gx.exp(x).sum(1, keepdims=True)


def under_views(leaf: Leaves, then: bool) -> Node:
    """A choice over rows, repeated, transposed and cut."""
    condition, rows = leaf(3, dtype="bool"), leaf(3)
    choice = gx.where(condition, rows, 0) if then else gx.where(condition, 0, rows)
    return choice.reshape((3, 1)).broadcast_to((3, 5)).T[1:4]


def rounded(x: Node) -> Node:
    """A float32 node as one to be stored in 16 bits; any other one, so the exact one, as it is."""
    return stored(x, BFLOAT16) if x.dtype == np.float32 else x


# Graphs for the patterns with attributes, built over each dtype that they exist for.
EXAMPLES: dict[str, list[Build]] = {
    "compress_constant": [lambda leaf: leaf(2, 3) + gx.const(np.full((2, 3), -0.0), leaf.dtype)],
    "fold_constants": [
        lambda leaf: gx.exp(gx.const([[1.5, -np.inf], [np.nan, 0.0]], leaf.dtype)),
        lambda leaf: gx.const([[1, 2, 3], [4, 5, 6]], leaf.dtype).T,
    ],
    "view_in_place": [
        lambda leaf: make(OPS["reshape"], (leaf.x,), shape=(3, 4)),
        lambda leaf: make(OPS["transpose"], (leaf.x,), axes=(0, 1)),
        lambda leaf: make(OPS["slice"], (leaf.x,), start=(0, 0), step=(1, 1), shape=(3, 4)),
    ],
    "transpose_twice": [
        lambda leaf: leaf(2, 3, 4).transpose((1, 2, 0)).transpose((2, 1, 0)),
        lambda leaf: leaf.x.T.T,
    ],
    "reshape_twice": [lambda leaf: leaf.x.reshape(2, 6).reshape(12)],
    "broadcast_twice": [lambda leaf: leaf(4).broadcast_to((3, 4)).broadcast_to((2, 3, 4))],
    "slice_twice": [
        lambda leaf: leaf(9, 8)[7:0:-2, 1:][1:3, ::3],
        lambda leaf: leaf(9, 8)[::2, ::-1][::-1, 2:2],
    ],
    "transpose_of_ones": [lambda leaf: leaf(3, 1, 4).transpose((1, 0, 2))],
    "reshape_of_broadcast": [
        lambda leaf: leaf(3, 1).broadcast_to((2, 3, 4)).reshape(2, 1, 3, 2, 2),
        lambda leaf: leaf().broadcast_to((6,)).reshape(2, 3),
    ],
    "broadcast_of_reshape": [lambda leaf: leaf(4).reshape(1, 4).broadcast_to((3, 4))],
    "transpose_of_broadcast": [
        lambda leaf: leaf(3, 1).broadcast_to((2, 3, 4)).transpose((2, 0, 1))
    ],
    "slice_of_broadcast": [lambda leaf: leaf(3, 1).broadcast_to((2, 3, 4))[1:, ::-1, 3:1:-1]],
    "elementwise_of_broadcasts": [
        lambda leaf: leaf(4).broadcast_to((2, 3, 4)) * leaf(3, 1).broadcast_to((2, 3, 4)),
        lambda leaf: gx.abs(leaf().broadcast_to((3,))),
    ],
    "elementwise_of_reshapes": [
        lambda leaf: leaf(3).reshape(3, 1) * leaf(3).reshape(3, 1) + 2,
        lambda leaf: abs(leaf(6, 4)).reshape(2, 3, 4) * leaf(4),
        lambda leaf: abs(leaf(6, 4)).reshape(2, 3, 4) - gx.abs(leaf(6)).reshape(2, 3, 1),
        lambda leaf: gx.where(gx.iota((2, 3, 4)) == 2, abs(leaf(6, 4)).reshape(2, 3, 4), 0),
    ],
    "elementwise_of_transposes": [lambda leaf: leaf.x.T * leaf(3, 4).T - 2],
    "reshape_of_elementwise": [
        lambda leaf: (leaf(6, 4).reshape(2, 3, 4) * gx.abs(leaf(4).broadcast_to((2, 3, 4)))
                      ).reshape(6, 4),
    ],
    "pick_of_reshape": [
        lambda leaf: gx.pick(leaf(6, 4).reshape(2, 3, 4), leaf(2, 3, dtype="int32"))
    ],
    "cast_of_cast": [
        lambda leaf: leaf(4, dtype="float32").astype("float64").astype("float32"),
        lambda leaf: leaf(4, dtype="int32").astype("int64").astype("float32"),
        lambda leaf: leaf(4, dtype="bool").astype(leaf.dtype).astype("bool"),
    ],
    "drop_rounding": [
        lambda leaf: rounded(leaf.x).astype(leaf.dtype),
        lambda leaf: rounded(leaf(4)).broadcast_to((3, 4)).T.astype(leaf.dtype) * 2,
    ],
    "abs_of_nonnegative": [lambda leaf: abs(abs(leaf.x)), lambda leaf: abs(gx.square(leaf.x))],
    "log_softmax": [
        lambda leaf: gx.log(bare_softmax(leaf.x, -1)), lambda leaf: gx.log(bare_softmax(leaf.x, 0)),
    ],
    "softmax": [lambda leaf: bare_softmax(leaf.x, -1)],
    "logsumexp": [
        lambda leaf: gx.log(gx.exp(leaf.x).sum(-1)), lambda leaf: gx.log(gx.exp(leaf.x).sum())
    ],
    "exp_cotangent": [
        lambda leaf: (leaf(3) / gx.exp(leaf.x).sum(1)).reshape((3, 1)) * gx.exp(leaf.x),
        lambda leaf: gx.exp(leaf.x) * -(leaf(4) / gx.exp(leaf.x).sum(0)),
        lambda leaf: gx.exp(leaf.x) * (over_own_sum(leaf(3, 4), leaf.x) * leaf(3, 4)).sum(
            1, keepdims=True),
        lambda leaf: leaf(3, 4) / (1 + gx.exp(leaf.x)) * gx.exp(leaf.x),
        lambda leaf: gx.exp(leaf.x) * (gx.sigmoid(-leaf.x) - leaf(3, 4) * gx.sigmoid(-leaf.x)),
        lambda leaf: gx.exp(leaf.x) * (leaf(3, 4) / (gx.exp(-leaf.x) + gx.exp(leaf.x)) / 3),
    ],
    "exp_cotangent_of_sum": [
        lambda leaf: leaf(3) / gx.exp(leaf.x).sum(1) * (leaf(3, 4) * gx.exp(leaf.x)).sum(1),
    ],
    "reduce_ones": [
        lambda leaf: leaf(1, 3, 1).max((0, 2)),
        lambda leaf: leaf(3, 1, 2).max((1, 2)),
        lambda leaf: gx.all(leaf(3, 1), 1),
    ],
    "sum_ones": [lambda leaf: leaf(3, 1).sum(1), lambda leaf: leaf(3, 1, 2).sum((1, 2))],
    "sum_of_sum": [lambda leaf: leaf(2, 3, 4).sum(1).sum((0, 1)), lambda leaf: leaf.x.sum(0).sum()],
    "prod_of_prod": [lambda leaf: gx.prod(gx.prod(leaf.x, 1))],
    "choose_twice": [lambda leaf: leaf(2, 3, 4).max(2).max(0), lambda leaf: leaf.x.min(0).min()],
    "reduce_of_transpose": [
        lambda leaf: leaf(2, 3, 4).transpose((2, 0, 1)).sum(1),
        lambda leaf: gx.argmax(leaf(2, 3, 4).transpose((2, 1, 0)), 0),
    ],
    "reduce_of_reshape": [
        lambda leaf: leaf(6, 4).reshape(2, 3, 1, 4).sum((0, 1)),
        lambda leaf: leaf(6, 4).reshape(2, 3, 4).max(2),
    ],
    "choose_of_broadcast": [
        lambda leaf: leaf(3, 4, 1).broadcast_to((2, 3, 4, 5)).max((0, 1)),
        lambda leaf: leaf(3, 1).broadcast_to((3, 4)).min(1),
    ],
    "sum_of_broadcast": [
        lambda leaf: leaf(3, 4, 1).broadcast_to((2, 3, 4, 5)).sum((0, 1)),
        lambda leaf: leaf().broadcast_to((7,)).sum(),
    ],
    "sum_of_negative": [lambda leaf: (-leaf.x).sum(0)],
    "sum_of_row_choice": [
        lambda leaf: gx.where(leaf(3, 1, dtype="bool"), leaf.x, 0).sum(1),
        lambda leaf: gx.where(leaf(4, dtype="bool"), leaf.x, 0).sum(0),
    ],
    "transpose_into_left": [lambda leaf: leaf(4, 3).T @ leaf(4, 2)],
    "transpose_into_right": [lambda leaf: leaf(2, 3, 4) @ leaf(2, 5, 4).transpose((0, 2, 1))],
    "concatenate_nested": [
        lambda leaf: gx.concatenate([leaf(2, 3), gx.concatenate([leaf(1, 3), leaf(2, 3)])])
    ],
    "concatenate_empty": [lambda leaf: gx.concatenate([leaf(2, 3), leaf(0, 3)])],
    "concatenate_slices": [
        lambda leaf: gx.concatenate([leaf.x[:, 1:2], leaf.x[:, 2:4]], 1),
        lambda leaf: gx.concatenate([leaf.x[::-1][:1], leaf.x[::-1][1:]]),
    ],
    "slice_of_concatenate": [
        lambda leaf: gx.concatenate([leaf(2, 3), leaf(4, 3)])[4:1:-1],
        lambda leaf: gx.concatenate([leaf(2, 3), leaf(4, 3)])[:2, 1:],
    ],
    "slice_of_place": [lambda leaf: gx.pad(leaf.x, 2)[3:5, 5:1:-2]],
    "place_everywhere": [lambda leaf: F["place"](leaf.x, (3, 4), (0, 0))],
    "place_twice": [lambda leaf: gx.pad(gx.pad(leaf.x, 1), 2)],
    "add_placed": [
        lambda leaf: F["place"](leaf(2, 3), (7, 3), (3, 0)) + F["place"](leaf(1, 3), (7, 3), (2, 0))
    ],
    "cotangent_times": [lambda leaf: under_views(leaf, True) * leaf(3, 3)],
    "cotangent_times_else": [lambda leaf: under_views(leaf, False) * leaf(3, 3)],
    "cotangent_over": [lambda leaf: under_views(leaf, True) / leaf(3, 3)],
    "cotangent_over_else": [lambda leaf: under_views(leaf, False) / leaf(3, 3)],
    "cotangent_negative": [lambda leaf: -under_views(leaf, True)],
    "cotangent_negative_else": [lambda leaf: -under_views(leaf, False)],
}  # fmt: skip


# -- what a rule promises


def draw(node: Node, rng: Any, special: bool) -> np.ndarray:
    if node.dtype.kind == "b":
        return rng.random(node.shape) < 0.5
    if node.dtype.kind == "i":
        return rng.integers(-3, 5, node.shape).astype(node.dtype)
    if special:
        return rng.choice(np.array(SPECIAL), node.shape).astype(node.dtype)
    return (2 * rng.standard_normal(node.shape)).astype(node.dtype)


def built(build: Build, dtype: str, backward: bool) -> tuple[Node, Leaves]:
    leaf = Leaves(dtype)
    if not backward:
        return build(leaf), leaf
    with Derived((), True):
        return build(leaf), leaf


def same_bits(before: np.ndarray, after: np.ndarray) -> bool:
    """Equal bits, but for which NaN it is."""
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    if before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    unlike = (before != after) | (np.signbit(before) != np.signbit(after))
    return not np.any(unlike & ~(np.isnan(before) & np.isnan(after)))


def no_worse(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> bool:
    """No farther from the truth than before, but for some roundings."""
    if before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    known = np.isfinite(truth)
    scale = max(1.0, float(np.max(np.abs(truth[known]), initial=0)))
    precision = np.finfo(before.dtype).eps if before.dtype == np.float32 else 1e-12
    slack = SLACK * precision * scale
    with np.errstate(all="ignore"):
        worse = np.abs(after - truth) > np.abs(before - truth) + slack
    lost = np.isnan(after) & ~np.isnan(before)
    return not np.any((worse | lost)[known])


def checked(rule: Rule, build: Build, dtype: str, rng: Any) -> bool:
    """Whether the rule fires on this graph; fails unless it then keeps what it promises."""
    backward = rule.name.startswith("cotangent")
    try:
        node, leaf = built(build, dtype, backward)
    except gx.GraphcError:
        return False  # the form does not exist over this dtype
    graph = Graph.of({"y": node})
    after, hits = simplify(graph, [rule])
    if not hits:
        return False
    assert set(hits) == {rule.name}
    assert after.roots[0].type == node.type
    for trial in range(3):
        arrays = [draw(i, rng, rule.keeps == "bits" and trial > 0) for i in leaf.made]
        values = dict(zip(leaf.made, arrays, strict=True))
        (was,), (now,) = evaluate(graph.roots, values), evaluate(after.roots, values)
        if rule.keeps == "bits":
            assert same_bits(was, now), f"{rule.name}: {arrays} gave {was}, now {now}"
        elif rule.keeps == "value":
            exact, exact_leaf = built(build, dtype.replace("32", "64"), backward)
            precise = [a.astype(i.dtype) for a, i in zip(arrays, exact_leaf.made, strict=True)]
            (truth,) = evaluate([exact], dict(zip(exact_leaf.made, precise, strict=True)))
            assert no_worse(was, now, truth), f"{rule.name}: {arrays}: {was}, {now}, exact {truth}"
    return True


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_alone_keeps_what_it_promises(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    fired = [checked(rule, build, dtype, rng) for build in cases(rule) for dtype in DTYPES]
    assert any(fired), f"{rule.name} fired on none of its own forms"
    for build in EXAMPLES.get(rule.name, []):
        assert any(checked(rule, build, d, rng) for d in DTYPES), "it must fire on every example"


x, y = wilds("x y")
WRONG = (
    bits("doubles", x + 0, x),  # turns -0.0 + 0.0 into -0.0
    bits("rounds", p.divide(x, 3), x * (1 / 3)),
    value("halves", x * 1, x * 0.9999),
    bits("hides", p.subtract(x, x), 0),
)


@pytest.mark.parametrize("rule", WRONG, ids=lambda rule: rule.name)
def test_a_wrong_rule_is_found(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match=rule.name):
        assert [checked(rule, build, "float32", rng) for build in cases(rule)]


# -- what the rules are for

LOGISTIC = np.exp(-1) / (1 + np.exp(-1)) ** 2  # the derivative of sigmoid at 1


def second(y: Node, x: Node, direction: Any = 1) -> Node:
    """The gradient of the gradient's sum, or of its product with a direction."""
    return gx.grad((gx.grad(y, x) * np.array(direction, "float32")).sum(), x)


FAR = {  # function, argument, exact value, where the plain form overflows, underflows or cancels
    "softplus": (lambda x: gx.log(1 + gx.exp(x)), [1000, -50, 0], [1000, np.exp(-50), np.log(2)]),
    "log_sigmoid": (lambda x: gx.log(gx.sigmoid(x)), [-200, 50], [-200, -np.exp(-50)]),
    "log(1-sigmoid)": (lambda x: gx.log(1 - gx.sigmoid(x)), [200, -50], [-200, -np.exp(-50)]),
    "expm1": (lambda x: gx.exp(x) - 1, [1e-10], [1e-10]),
    "-expm1": (lambda x: 1 - gx.exp(x), [1e-10], [-1e-10]),
    "log1p": (lambda x: gx.log(1 + x), [1e-10], [1e-10]),
    "sigmoid": (lambda x: gx.exp(x) / (1 + gx.exp(x)), [1000, -50], [1, np.exp(-50)]),
    "tanh": (lambda x: (gx.exp(x) - gx.exp(-x)) / (gx.exp(x) + gx.exp(-x)), [100, 1e-9], [1, 1e-9]),
    "norm": (lambda x: gx.sqrt(x * x), [1e30, -1e-30], [1e30, 1e-30]),
    "erfc": (lambda x: 1 - F["erf"](x), [6], [2.1519736712498913e-17]),
    "logsumexp": (lambda x: gx.log(gx.exp(x).sum()), [1000, 1000], 1000 + np.log(2)),
    "logsumexp of inf": (lambda x: gx.log(gx.exp(x).sum()), [np.inf, 0], np.inf),
    "logsumexp of -inf": (lambda x: gx.log(gx.exp(x).sum()), [-np.inf, -np.inf], -np.inf),
    "softmax": (lambda x: bare_softmax(x, 0), [1000, 0], [1, 0]),
    "log_softmax": (lambda x: gx.log(bare_softmax(x, 0)), [1000, 0], [0, -1000]),
    "log of softmax": (lambda x: gx.log(gx.softmax(x)), [1000, 0], [0, -1000]),
    "gradient of softplus": (
        lambda x: gx.grad(gx.log(1 + gx.exp(x)).sum(), x), [1000, -1000], [1, 0]),
    "gradient of logsumexp": (
        lambda x: gx.grad(-gx.log(gx.exp(x).sum()), x), [1000, 0], [-1, 0]),
    "gradient of softmax": (
        lambda x: gx.grad(bare_softmax(x, 0)[0], x), [101, 100], LOGISTIC * np.array([1, -1])),
    "gradient of tanh": (
        lambda x: gx.grad(((gx.exp(x) - gx.exp(-x)) / (gx.exp(x) + gx.exp(-x))).sum(), x),
        [100, 0], [0, 1]),
    "second derivative of softplus": (
        lambda x: second(gx.log(1 + gx.exp(x)).sum(), x), [100, 1, 0], [0, LOGISTIC, 0.25]),
    "second derivative of logsumexp": (
        lambda x: second(gx.log(gx.exp(x).sum()), x, [1, 0]), [101, 100],
        LOGISTIC * np.array([1, -1])),
    "gradient of log of softmax": (
        lambda x: gx.grad(gx.log(gx.softmax(x))[1], x), [1000, 0], [-1, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAR)
def test_stable_forms_reach_where_plain_ones_fail(name: str) -> None:
    function, argument, exact = FAR[name]
    x = gx.input("x", (len(argument),))
    graph, _ = simplify(Graph.of({"y": function(x)}), select_rules())
    (found,) = evaluate(graph.roots, {x: np.array(argument, "float32")})
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def norm(x: Node) -> Node:
    return gx.sqrt(gx.square(x).sum())


def two_choices(x: Node, h: Node) -> Node:
    return gx.where(x > 0, h, 0) + gx.where(x > 0.5, 2 * h, 0)


SAFE = {  # functions whose choice avoids a pole at 0, and their gradients at [0, 4]
    "root": (lambda x: gx.where(x > 0, gx.sqrt(x), 0), [0, 0.25]),
    "log, the other way round": (lambda x: gx.where(x <= 0, 0, gx.log(x)), [0, 0.25]),
    "power": (lambda x: gx.where(x > 0, x**-0.5, 0), [0, -0.0625]),
    "quotient": (lambda x: gx.where(x > 0, 3 - 1 / x, 0), [0, 0.0625]),
    "twice used": (lambda x: gx.where(x > 0, gx.sqrt(x) * x + gx.sqrt(x), 0), [0, 3.25]),
    "chain": (lambda x: gx.where(x > 0, gx.exp(-gx.sqrt(x) * 2), 1), [0, -0.5 * np.exp(-4)]),
    "nested": (
        lambda x: gx.where(x >= 0, gx.where(x > 0, gx.sqrt(x), 0), 0), [0, 0.25]),
    "two choices": (lambda x: two_choices(x, gx.log(x)), [0, 0.75]),
    "two choices, mixed": (
        lambda x: gx.where(x <= 0, 0, gx.log(x)) + two_choices(x, -gx.log(x)), [0, -0.5]),
    "choices over rows": (
        lambda x: two_choices(x.reshape((2, 1)), gx.log(x.reshape((2, 1)) * np.ones(3, "f4"))),
        [0, 2.25]),
    "norm of a row": (
        lambda x: gx.where((x * 0).sum() > 0, norm(x * 0), 0) * x, [0, 0]),
    "rows": (
        lambda x: gx.where(x > 0, x / gx.sqrt(x.reshape((2, 1)) * np.ones((1, 3), "float32")
                           ).sum(1), 0), [0, 1 / 12]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFE)
def test_a_choice_that_avoids_a_pole_has_a_finite_gradient(name: str) -> None:
    function, exact = SAFE[name]
    x = gx.input("x", (2,))
    graph, _ = simplify(Graph.of({"g": gx.grad(function(x).sum(), x)}), select_rules())
    (found,) = evaluate(graph.roots, {x: np.array([0, 4], "float32")})
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("function", [lambda x: two_choices(x, gx.log(x)), SAFE["root"][0]])
def test_a_safe_gradient_has_the_same_bits_whatever_is_compiled_with_it(function: Any) -> None:
    x = gx.input("x", (3,))
    gradient = gx.grad(function(x).sum(), x)
    twins = [gx.where(x > 0, 1.0, 0.0), gx.where(x > 0.5, 2.0, 0.0)]
    given = {x: np.array([0, 0.25, 3], "float32")}

    def last_of(*outputs: Node) -> np.ndarray:
        graph = Graph.of({f"y{i}": node for i, node in enumerate(outputs)})
        return evaluate(simplify(graph, select_rules())[0].roots, given)[-1]

    alone = last_of(gradient)
    assert np.all(np.isfinite(alone))
    assert same_bits(alone, last_of(*twins, gradient))
    kept, _ = simplify(Graph.of({"a": twins[0], "b": twins[1] / x}), select_rules())
    assert same_bits(alone, last_of(gx.grad(function(x).sum(), x)))
    assert np.isnan(evaluate(kept.roots, given)[1][0])  # 0 / 0, which the user wrote


def test_gradients_through_many_choices_grow_linearly() -> None:
    sizes = []
    for depth in (10, 20, 40):
        x = h = gx.input("x", (3,))
        for _ in range(depth):
            h = two_choices(h, gx.log(h))
        gradient = Graph.of({"g": gx.grad(h.sum(), x)})
        sizes.append(len(simplify(gradient, select_rules())[0].nodes) / len(gradient.nodes))
    assert max(sizes) < 2


def test_a_quotient_by_the_sums_of_other_rows_is_no_softmax() -> None:
    x = gx.input("x", (3, 3))
    e = gx.exp(x)
    y = e / e.sum(1)  # element i, j over the sum of row j
    other = e * gx.sigmoid(-x).sum(1)  # likewise: not one by one
    graph = Graph.of({"y": y, "g": gx.grad((y * y).sum(), x), "other": other})
    given = {x: np.random.default_rng(0).standard_normal((3, 3)).astype("float32")}
    after, _ = simplify(graph, select_rules())
    for was, now in zip(evaluate(graph.roots, given), evaluate(after.roots, given), strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-6)


def test_products_that_users_write_stay() -> None:
    c, x, f = gx.input("c", (3,), "bool"), gx.input("x", (3,)), gx.input("f", (3,))
    product = gx.where(c, x, 0) * f  # 0 * inf is NaN, and the user said so
    cotangent = gx.grad(product.sum(), f)  # its other factor is the user's own choice, too
    graph = Graph.of({"product": product, "gradient": cotangent * f})
    after, hits = simplify(graph, select_rules())
    assert not any(name.startswith("cotangent") for name in hits)
    given = {c: np.array([True, False, True]), x: np.ones(3, "f4"), f: np.full(3, np.inf, "f4")}
    assert np.isnan(evaluate([after.roots[0]], given)[0][1])


# -- the driver


def test_a_graph_that_no_rule_fits_is_the_same_object() -> None:
    x = gx.input("x", (3,))
    graph = Graph.of({"y": gx.tanh(x) + x})
    after, hits = simplify(graph, select_rules())
    assert after is graph
    assert hits == {}


def test_rules_can_be_switched() -> None:
    x = gx.input("x", (3,))
    graph = Graph.of({"y": x * 0 + x * 1})
    assert simplify(graph, select_rules())[1] == {"multiply_one": 1}
    assert simplify(graph, select_rules({"multiply_one": False}))[0] is graph
    switched = select_rules({"multiply_zero": True, "add_zero": True})
    assert simplify(graph, switched)[0].roots[0] is x


def test_an_unknown_rule_is_refused_with_close_names() -> None:
    with pytest.raises(CompileError, match=r"multiply_ones.*did you mean 'multiply_one'"):
        select_rules({"multiply_ones": False})


def test_names_of_rules_are_unique_and_defaults_keep_something() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES) >= 45
    assert all(rule.keeps in ("bits", "value") for rule in select_rules())
    assert {rule.name for rule in RULES} - {rule.name for rule in select_rules()} == {
        "multiply_zero", "zero_over", "subtract_self", "divide_self",
    }  # fmt: skip


@pytest.mark.parametrize(
    "rules",
    [
        [bits("there", p.sin(x), p.cos(x)), bits("back", p.cos(x), p.sin(x))],
        [bits("there", p.sin(x), p.cos(p.sin(x))), bits("back", p.cos(x), p.sin(p.cos(x)))],
        [bits("there", p.sin(x), p.sin(x + 1)), bits("back", p.tan(x), x)],
    ],
)
def test_rules_that_undo_one_another_are_named(rules: list[Rule]) -> None:
    graph = Graph.of({"y": F["sin"](gx.input("x", (3,)))})
    with pytest.raises(CompileError, match=r"without end: .*there"):
        simplify(graph, rules)


def test_a_rule_that_changes_the_type_is_refused() -> None:
    graph = Graph.of({"y": gx.exp(gx.input("x", (3,)))})
    with pytest.raises(CompileError, match=r"rule 'flat'.*float32\[3\].*float32\[1, 3\]"):
        simplify(graph, [bits("flat", p.exp(x), lambda m: m.x.reshape((1, 3)))])
    with pytest.raises(CompileError, match="rule 'broken' failed on exp"):
        simplify(graph, [bits("broken", p.exp(x), lambda m: m.x.reshape((5,)))])


def test_work_is_linear_in_nodes_and_needs_no_recursion() -> None:
    asked = 0

    def count(_: Any) -> bool:
        nonlocal asked
        asked += 1
        return True

    rules = [bits("negatives", p.negative(-x), x), bits("count", x * 1, x, when=count)]
    steps: dict[int, int] = {}
    for length in (2_000, 20_000):
        y = start = gx.input("x", (2,))
        for _ in range(length):
            y, asked = gx.tanh(F["negative"](-y)) * 1, 0
        after, hits = simplify(Graph.of({"y": y}), rules)
        assert hits == {"count": length, "negatives": length}
        assert after.nodes[0] is start
        steps[length] = asked
    assert steps[20_000] == 10 * steps[2_000]


def test_new_nodes_are_credited_to_the_line_and_role_of_the_old() -> None:
    x = gx.input("x", (3,))
    y = gx.log(1 + gx.exp(x))
    after, _ = simplify(Graph.of({"y": y}), select_rules())
    assert after.roots[0].op is OPS["softplus"]
    assert after.roots[0].sites == y.sites
    gradient, _ = simplify(Graph.of({"g": gx.grad(gx.relu(x * 1).sum(), x)}), select_rules())
    assert gradient.roots[0].backward


def test_the_page_of_rules_is_up_to_date(root: Any) -> None:
    page = (root / "docs" / "rules.md").read_text()
    assert page == rule_table_markdown(), "run python -m graphc.report.rule_table > docs/rules.md"


# -- what they add up to


def digits_step() -> Graph:
    """A training step of a 64-128-64-10 network, batch 64: SGD with momentum."""
    rng = np.random.default_rng(0)
    x, labels = gx.input("x", (64, 64)), gx.input("labels", (64,), "int32")
    h, params = x, []
    for i, (m, n) in enumerate(((64, 128), (128, 64), (64, 10))):
        w = gx.param(f"w{i}", rng.standard_normal((m, n)).astype("float32") / 8)
        b = gx.param(f"b{i}", np.zeros(n, "float32"))
        h = h @ w + b if i == 2 else gx.relu(h @ w + b)
        params += [w, b]
    loss = gx.softmax_cross_entropy(h, labels)
    updates: dict[Any, Node] = {}
    for param, gradient in zip(params, gx.grad(loss, params), strict=True):
        v = gx.param(f"v_{param.name}", np.zeros(param.shape, "float32"))
        updates[v] = 0.9 * v + gradient
        updates[param] = param - 0.1 * updates[v]
    return Graph.of({"loss": loss}, updates)


def test_the_digits_step_loses_all_that_is_superfluous() -> None:
    graph = digits_step()
    after, _ = simplify(graph, select_rules())
    ops = [node.op.name for node in after.nodes]
    assert "transpose" not in ops
    assert "stop_gradient" not in ops
    # a row's maximum, its weight, and the labels become columns; nothing else is reshaped
    assert ops.count("reshape") == 3
    assert ops.count("contract") == 8
    assert all(n.ndim == 0 for n in after.nodes if n.op is OPS["const"])
    assert simplify(after, select_rules())[0] is after
    rng = np.random.default_rng(1)
    given = {
        graph.inputs[0]: rng.standard_normal((64, 64)).astype("float32"),
        graph.inputs[1]: rng.integers(0, 10, 64).astype("int32"),
    }
    pairs = zip(evaluate(graph.roots, given), evaluate(after.roots, given), strict=True)
    for was, now in pairs:
        np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-6)


def test_layers_over_three_axes_are_computed_over_two() -> None:
    x, t = gx.input("x", (4, 6, 8)), gx.input("t", (4, 6), "int32")
    w = gx.param("w", np.ones((8, 5), "float32"))
    b = gx.param("b", np.ones(5, "float32"))
    loss = gx.softmax_cross_entropy(gx.tanh(x @ w + b), t)
    after, _ = simplify(Graph.of({"w": gx.grad(loss, w), "b": gx.grad(loss, b)}), select_rules())
    computed = [n for n in after.nodes if n.op.kind is not Kind.SOURCE]
    assert all(n.ndim <= 2 for n in computed)
