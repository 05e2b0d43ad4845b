"""Reductions: one value from many, along axes. Records drop the axes; `keepdims` is a reshape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from graphc.errors import ShapeError
from graphc.ir.build import as_node, normalise_axes
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import FUNCTIONS, Kind, Op, register
from graphc.ir.tensor_type import BOOL, INT32, TensorType

Axis = int | Iterable[int] | None


def _reduced(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    return TensorType(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


def spread(value: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """A reduced value repeated over the axes that were reduced, to the shape of `x`."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return value.reshape(shape).broadcast_to(x.shape)


def reduction(name: str, doc: str, formula: str, *, mode: str = "arithmetic", **record: Any) -> Op[...]:
    """Declare a reduction along `axis` (an int, several, or None for all)."""

    def build(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
        x = as_node(x)
        if mode == "arithmetic" and x.dtype == BOOL:
            x = x.astype(INT32)
        elif mode == "bool" and x.dtype != BOOL:
            x = FUNCTIONS["not_equal"](x, 0)
        axes = normalise_axes(name, axis, x.ndim, [x])
        if op.identity is None and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(explain(name, f"of no elements has no value (axes {axes})", [x]))
        # with no axes this is still a node: a max over nothing is a copy the rules remove
        result = make(op, (x,), axes=axes) if axes else x
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return result.reshape(shape) if keepdims else result

    build.__name__, build.__doc__ = name, doc
    record.setdefault("infer", _reduced)
    op = register(Op(name=name, kind=Kind.REDUCTION, formula=formula, build=build, **record))
    return op


def _share_ties(g: Node, out: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """Ties share the gradient evenly."""
    ties = (x == spread(out, x, axes)).astype(x.dtype)
    return spread(g / ties.sum(axes), x, axes) * ties


sum = reduction(
    "sum", "The sum along axes; of bools, their count as int32.", "sum_i x[i]",
    eval=lambda xp, x, axes: xp.sum(x, axis=axes, dtype=x.dtype),
    vjp={0: lambda g, out, x, axes: spread(g, x, axes)},
    combine="add", identity=0.0,
)  # fmt: skip

max = reduction(
    "max", "The largest element along axes; NaN if there is one.",
    "max_i x[i]; ties share the gradient", mode="any",
    eval=lambda xp, x, axes: xp.max(x, axis=axes), vjp={0: _share_ties}, combine="maximum",
)  # fmt: skip

