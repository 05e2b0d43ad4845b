"""Rules: each alone by random substitution into its pattern, the driver, and what they add up to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.errors import CompileError
from graphc.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Derived, Node
from graphc.ir.op import FUNCTIONS as F, OPS
from graphc.report.rule_table import rule_table_markdown
from graphc.rewrite.engine import simplify
from graphc.rewrite.pattern import Call, Literal, Named, Number, Pattern, Viewed, Wild, p, wilds
from graphc.rewrite.rule import Rule
from graphc.rewrite.rules import RULES, select_rules

DTYPES = ("float32", "float64", "int32", "bool")
SHAPES = ((3, 5), (), (1, 4), (0, 2))
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1.2e-38, 3.4e38, -3.4e38, 1.0, -1.5]
EPSILON_SLACK = 8  # rounding errors of one element that a rule keeping the value may add

Build = Callable[[Callable[..., Node]], Node]  # given a maker of leaves: leaf(*shape, dtype=...)


# -- substitution


def sample(pattern: Any, leaf: Callable[[str], Node], number: Callable[[str], Any]) -> Any:
    """A pattern with nodes for its wildcards; views become none at all."""
    match pattern:
        case Wild():
            return leaf(pattern.name)
        case Number():
            return number(pattern.name)
        case Literal():
            return pattern.value
        case Named() | Viewed():
            return sample(pattern.part, leaf, number)
        case Call() if not pattern.attrs:
            return pattern.op(*(sample(arg, leaf, number) for arg in pattern.args))
        case _:
            raise AssertionError(f"{pattern} needs a row in EXAMPLES")


def substituted(rule: Rule, dtype: str, shape: tuple[int, ...], rng: Any) -> Node | None:
    """A graph that has the rule's form, or None where it has none over this dtype."""
    leaves: dict[str, Node] = {}
    numbers: dict[str, float] = {}

    def leaf(name: str) -> Node:
        given = "bool" if name == "cond" else dtype
        return leaves.setdefault(name, gx.input(name, shape, given))

    def number(name: str) -> Any:
        return numbers.setdefault(name, rng.choice([2.0, -0.25, 3.0, -5.0]))

    try:
        return sample(rule.pattern, leaf, number)
    except gx.GraphcError:
        return None


def x(leaf: Any) -> Node:
    return leaf(3, 4)


def with_views(choice: Callable[..., Node]) -> Node:
    """A choice over rows, transposed, repeated and cut."""
    condition, rows = gx.input("c", (3,), "bool"), gx.input("r", (3,))
    chosen = choice(condition, rows).reshape((3, 1)).broadcast_to((3, 5)).T
    return chosen[1:4]


def softmax_parts(leaf: Any, axis: int) -> tuple[Node, Node]:
    e = gx.exp(x(leaf))
    return e, gx.sum(e, axis, keepdims=True)


def log_softmax_cotangent(leaf: Any) -> Node:
    g, y, z, h = (leaf(3, 4) for _ in range(4))
    return (g / (y / z) / z + h) * y


# Graphs for the patterns with attributes; each is built with the dtype under test.
EXAMPLES: dict[str, list[Build]] = {
    "compress_constant": [lambda leaf: leaf(2, 3) + gx.const(np.full((2, 3), -0.0), leaf.dtype)],
    "fold_constants": [
        lambda leaf: gx.exp(gx.const([[1.5, -np.inf], [np.nan, 0.0]], leaf.dtype)),
        lambda leaf: gx.const([[1, 2, 3], [4, 5, 6]], leaf.dtype).T,
    ],
    "view_in_place": [
        lambda leaf: F["slice"].build(x(leaf), [0, 0], [1, 1], [3, 4]) if False else _raw_view(leaf)
    ],
    "transpose_twice": [
        lambda leaf: leaf(2, 3, 4).transpose((1, 2, 0)).transpose((2, 1, 0)),
        lambda leaf: x(leaf).T.T,
    ],
    "reshape_twice": [lambda leaf: x(leaf).reshape(2, 6).reshape(12)],
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
        lambda leaf: abs(leaf(6, 4)).reshape(2, 3, 4) * gx.iota((2, 3, 4), -1, leaf.dtype),
    ],
    "elementwise_of_transposes": [lambda leaf: x(leaf).T * leaf(3, 4).T - 2],
    "reshape_of_elementwise": [
        lambda leaf: (leaf(12).reshape(3, 4) * gx.abs(leaf(3, 1).broadcast_to((3, 4)))).reshape(12)
    ],
    "pick_of_reshape": [
        lambda leaf: gx.pick(leaf(6, 4).reshape(2, 3, 4), leaf(2, 3, dtype="int32"))
    ],
    "cast_of_cast": [
        lambda leaf: leaf(4, dtype="float32").astype("float64").astype("float32"),
        lambda leaf: leaf(4, dtype="int32").astype("int64").astype("float32"),
        lambda leaf: leaf(4, dtype="bool").astype(leaf.dtype).astype("bool"),
    ],
    "abs_of_nonnegative": [lambda leaf: abs(abs(x(leaf))), lambda leaf: abs(gx.square(x(leaf)))],
    "log_softmax": [
        lambda leaf: gx.log(softmax_parts(leaf, -1)[0] / softmax_parts(leaf, -1)[1]),
        lambda leaf: gx.log(softmax_parts(leaf, 0)[0] / softmax_parts(leaf, 0)[1]),
    ],
    "softmax": [lambda leaf: softmax_parts(leaf, -1)[0] / softmax_parts(leaf, -1)[1]],
    "logsumexp": [
        lambda leaf: gx.log(gx.exp(x(leaf)).sum(-1)), lambda leaf: gx.log(gx.exp(x(leaf)).sum())
    ],
    "softmax_cotangent": [
        lambda leaf: (leaf(3) / gx.exp(x(leaf)).sum(1)).reshape((3, 1)) * gx.exp(x(leaf))
    ],
    "softmax_cotangent_negative": [
        lambda leaf: (-(leaf(3) / gx.exp(x(leaf)).sum(1))).reshape((3, 1)) * gx.exp(x(leaf))
    ],
    "reduce_ones": [
        lambda leaf: leaf(1, 3, 1).max((0, 2)),
        lambda leaf: leaf(3, 1, 2).max((1, 2)),
        lambda leaf: leaf(3, 1).sum(1),
    ],
    "sum_of_sum": [lambda leaf: leaf(2, 3, 4).sum(1).sum((0, 1)), lambda leaf: x(leaf).sum(0).sum()],
    "prod_of_prod": [lambda leaf: gx.prod(gx.prod(x(leaf), 1))],
    "choose_twice": [lambda leaf: leaf(2, 3, 4).max(2).max(0), lambda leaf: x(leaf).min(0).min()],
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
    "sum_of_negative": [lambda leaf: (-x(leaf)).sum(0)],
    "sum_of_row_choice": [
        lambda leaf: gx.where(leaf(3, 1, dtype="bool"), x(leaf), 0).sum(1),
        lambda leaf: gx.where(leaf(4, dtype="bool"), x(leaf), 0).sum(0),
    ],
    "transpose_into_left": [lambda leaf: leaf(4, 3).T @ leaf(4, 2)],
    "transpose_into_right": [lambda leaf: leaf(2, 3, 4) @ leaf(2, 5, 4).transpose((0, 2, 1))],
    "concatenate_nested": [
        lambda leaf: gx.concatenate([leaf(2, 3), gx.concatenate([leaf(1, 3), leaf(2, 3)])])
    ],
    "concatenate_empty": [lambda leaf: gx.concatenate([leaf(2, 3), leaf(0, 3)])],
    "concatenate_slices": [
        lambda leaf: _pieces(leaf(8), slice(1, 3), slice(3, 7)),
        lambda leaf: _pieces(leaf(8), slice(6, 3, -1), slice(3, 1, -1)),
    ],
    "slice_of_concatenate": [
        lambda leaf: gx.concatenate([leaf(2, 3), leaf(4, 3)])[4:1:-1],
        lambda leaf: gx.concatenate([leaf(2, 3), leaf(4, 3)])[:2, 1:],
    ],
    "slice_of_place": [lambda leaf: gx.pad(x(leaf), 2)[3:5, 5:1:-2]],
    "place_everywhere": [lambda leaf: F["place"](x(leaf), (3, 4), (0, 0))],
    "place_twice": [lambda leaf: gx.pad(gx.pad(x(leaf), 1), 2)],
    "add_placed": [
        lambda leaf: F["place"](leaf(2, 3), (7, 3), (3, 0)) + F["place"](leaf(1, 3), (7, 3), (2, 0))
    ],
    "cotangent_of_log_softmax": [log_softmax_cotangent],
}  # fmt: skip
VIEWED = {  # cotangents through views, beside those without
    "cotangent_times": lambda: with_views(lambda c, r: gx.where(c, r, 0)) * gx.input("f", (3, 3)),
    "cotangent_times_else": lambda: with_views(lambda c, r: gx.where(c, 0, r)) * gx.input("f", (3, 3)),
    "cotangent_over": lambda: with_views(lambda c, r: gx.where(c, r, 0)) / gx.input("f", (3, 3)),
    "cotangent_over_else": lambda: with_views(lambda c, r: gx.where(c, 0, r)) / gx.input("f", (3, 3)),
    "cotangent_negative": lambda: -with_views(lambda c, r: gx.where(c, r, 0)),
    "cotangent_negative_else": lambda: -with_views(lambda c, r: gx.where(c, 0, r)),
}  # fmt: skip
