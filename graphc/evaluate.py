"""Node-by-node evaluation over an array module: the reference for folding, checking and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import CompileError
from graphc.ir.graph import is_external, topological
from graphc.ir.node import Node, Param, describe
from graphc.ir.op import MOVES, Array, Kind
from graphc.ir.philox import LANES, Draws, group_count, number_draws
from graphc.ir.tensor_type import NARROW, computed_in


def evaluate(
    roots: Iterable[Node],
    values: Mapping[Node, Array] | None = None,
    xp: Any = np,
    draws: Draws | None = None,
) -> list[Array]:
    """The values of `roots`, each node computed by its op's `eval`, in topological order.

    `values` gives the inputs; parameters not in it have their current value. `draws` gives the
    random numbers: seed 0, step 0 and numbers in this order if it is None.
    """
    wanted = list(roots)
    done = evaluate_all(topological(wanted), values or {}, xp, draws)
    return [done[node] for node in wanted]


def evaluate_all(
    order: Sequence[Node],
    values: Mapping[Node, Array],
    xp: Any = np,
    draws: Draws | None = None,
) -> dict[Node, Array]:
    """The value of every node of a topological order."""
    draws = Draws(0, 0, number_draws(order)) if draws is None else draws
    done: dict[Node, Array] = {}
    with np.errstate(all="ignore"):
        for node in order:
            if node in values:
                done[node] = values[node]
            elif isinstance(node, Param):
                done[node] = xp.asarray(node.value)
            elif node.op.eval is None or is_external(node):
                raise CompileError(f"no value was given for {describe(node)}")
            elif node.op.kind is Kind.RANDOM:
                done[node] = draw(node, draws, xp)
            else:
                arguments = [done[i] for i in node.inputs]
                done[node] = xp.asarray(_value(node, arguments, xp))
    return done


def _value(node: Node, arguments: Sequence[Array], xp: Any) -> Array:
    """The value of a node. 16-bit floats are computed in float32, then rounded."""
    assert node.op.eval is not None
    types = [node.dtype, *(i.dtype for i in node.inputs)]
    if node.op.kind in MOVES or not any(dtype in NARROW for dtype in types):
        return node.op.eval(xp, *arguments, **dict(node.attrs))
    wide = [a.astype(computed_in(a.dtype)) for a in arguments]
    attrs = {key: computed_in(value) for key, value in node.attrs}
    return xp.asarray(node.op.eval(xp, *wide, **attrs)).astype(node.dtype)


def draw(node: Node, draws: Draws, xp: Any = np) -> Array:
    """The value of one random node."""
    return draw_part(node, draws, 0, node.type.size, xp).reshape(node.shape)


def draw_part(node: Node, draws: Draws, start: int, count: int, xp: Any = np) -> Array:
    """`count` elements of a random node, flat, from element `start` on."""
    assert node.op.eval is not None
    skip = start % LANES
    words = draws.words(node.attr("identity"), start // LANES, group_count(skip + count), xp)
    return node.op.eval(xp, words, **dict(node.attrs))[skip : skip + count]
