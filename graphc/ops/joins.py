"""Several pieces in one buffer: concatenation, and placing into zeros (padding).

A record's `pieces(types, attrs)` says where each input's elements go: a layout into the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.errors import ShapeError
from graphc.ir.build import as_node, declare, normalise_axes, promote
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import FUNCTIONS, Kind
from graphc.ir.tensor_type import TensorType


def _joined(*types: TensorType, axis: int) -> TensorType:
    first = types[0]
    for other in types[1:]:
        if other.shape[:axis] != first.shape[:axis] or other.shape[axis + 1 :] != first.shape[axis + 1 :]:
            raise ShapeError(f"shapes must agree but for axis {axis}")
    total = first.shape[axis]
    for other in types[1:]:
        total = total + other.shape[axis]
    return TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


def _part(index: int) -> Any:
    def vjp(g: Node, out: Node, *inputs: Node, axis: int) -> Node:
        start: Any = 0
        for piece in inputs[:index]:
            start = start + piece.shape[axis]
        starts = [start if i == axis else 0 for i in range(g.ndim)]
        return FUNCTIONS["slice"](g, starts, [1] * g.ndim, inputs[index].shape)

    return vjp


@declare(
    Kind.JOIN,
    "the pieces one behind another along an axis",
    infer=_joined,
    eval=lambda xp, *arrays, axis: xp.concatenate(arrays, axis),
    vjp=_part,
)
def concatenate(arrays: Sequence[Operand], axis: int = 0) -> Node:
    """The arrays one behind another along an existing axis."""
    nodes = promote("concatenate", list(arrays), "any")
    if not nodes:
        raise ShapeError(explain("concatenate", "needs at least one array", ()))
    if any(n.ndim != nodes[0].ndim for n in nodes):
        raise ShapeError(explain("concatenate", "the numbers of dimensions differ", nodes))
    (axis,) = normalise_axes("concatenate", axis, nodes[0].ndim, nodes)
    return nodes[0] if len(nodes) == 1 else make(concatenate, tuple(nodes), axis=axis)


def _region(low: Any, gaps: Any, shape: Any) -> tuple[slice, ...]:
    """Where the elements of a placed array of this shape go."""
    return tuple(
        slice(a, a + (k + 1) * (n - 1) + 1, k + 1) if n else slice(0, 0)
        for a, k, n in zip(low, gaps, shape, strict=True)
    )


def _place(xp: Any, x: Any, shape: Any, low: Any, gaps: Any, value: float) -> Any:
    out = xp.full(shape, value, x.dtype)
    out[_region(low, gaps, x.shape)] = x
    return out


def _unplace(g: Node, out: Node, x: Node, shape: Any, low: Any, gaps: Any, value: float) -> Node:
    return FUNCTIONS["slice"](g, low, [k + 1 for k in gaps], x.shape)


@declare(
    Kind.JOIN,
    "out[low + (gaps + 1) * i] = x[i], elsewhere `value`",
    infer=lambda x, shape, low, gaps, value: TensorType(shape, x.dtype),
    eval=_place,
    vjp={0: _unplace},
)
def place(x: Operand, shape: Any, low: Any, gaps: Any = None, value: float = 0) -> Node:
    """`x` put into an array of `shape` filled with `value`: from `low` on, with gaps between."""
    x = as_node(x)
    spaces = tuple(gaps) if gaps is not None else (0,) * x.ndim
    return make(place, (x,), shape=tuple(shape), low=tuple(low), gaps=spaces, value=value)
