"""Node-by-node evaluation over an array module: the reference for folding, checking and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphc.errors import CompileError
from graphc.ir.graph import is_external, topological
from graphc.ir.node import Node, Param, describe
from graphc.ir.op import Array


def evaluate(
    roots: Iterable[Node], values: Mapping[Node, Array] | None = None, xp: Any = np
) -> list[Array]:
    """The values of `roots`, each node computed by its op's `eval`, in topological order.

    `values` gives the inputs; parameters not in it have their current value.
    """
    wanted = list(roots)
    done = evaluate_all(topological(wanted), values or {}, xp)
    return [done[node] for node in wanted]


def evaluate_all(
    order: Iterable[Node], values: Mapping[Node, Array], xp: Any = np
) -> dict[Node, Array]:
    """The value of every node of a topological order."""
    done: dict[Node, Array] = {}
    with np.errstate(all="ignore"):
        for node in order:
            if node in values:
                done[node] = values[node]
            elif isinstance(node, Param):
                done[node] = xp.asarray(node.value)
            elif node.op.eval is None or is_external(node):
                raise CompileError(f"no value was given for {describe(node)}")
            else:
                arguments = [done[i] for i in node.inputs]
                done[node] = xp.asarray(node.op.eval(xp, *arguments, **dict(node.attrs)))
    return done
