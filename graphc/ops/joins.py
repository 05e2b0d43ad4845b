"""Several pieces in one buffer: concatenation, and placing into zeros (padding).

A record's `pieces(out, *inputs, **attrs)` gives for each input a layout into the output: where its
elements go. `fill(**attrs)` is what lies between them, None where the pieces cover everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import InputError, ShapeError
from graphc.ir.build import as_node, const_array, declare, normalise_axes, promote
from graphc.ir.layout import Layout, contiguous_strides, strided
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import F, Kind, composite
from graphc.ir.tensor_type import TensorType, static_shape


def _joined(*types: TensorType, axis: int) -> TensorType:
    first = types[0]
    for other in types[1:]:
        if (
            other.shape[:axis] != first.shape[:axis]
            or other.shape[axis + 1 :] != first.shape[axis + 1 :]
        ):
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
        return F.slice(g, starts, [1] * g.ndim, inputs[index].shape)

    return vjp


def _behind_another(out: TensorType, *inputs: TensorType, axis: int) -> tuple[Layout, ...]:
    strides = contiguous_strides(static_shape(out))
    layouts: list[Layout] = []
    start = 0
    for piece in inputs:
        shape = static_shape(piece)
        layouts.append(strided(shape, start * strides[axis], strides))
        start += shape[axis]
    return tuple(layouts)


@declare(
    Kind.JOIN,
    "the pieces one behind another along an axis",
    infer=_joined,
    pieces=_behind_another,
    eval=lambda xp, *arrays, axis: xp.concatenate(arrays, axis),
    vjp=_part,
)
def concatenate(arrays: Sequence[Operand], axis: int = 0) -> Node:
    """The arrays one behind another along an existing axis."""
    nodes = _several("concatenate", arrays)
    if any(n.ndim != nodes[0].ndim for n in nodes):
        raise ShapeError(explain("concatenate", "the numbers of dimensions differ", nodes))
    (axis,) = normalise_axes("concatenate", axis, nodes[0].ndim, nodes)
    return nodes[0] if len(nodes) == 1 else make(concatenate, tuple(nodes), axis=axis)


@composite
def stack(arrays: Sequence[Operand], axis: int = 0) -> Node:
    """Arrays of one shape, one behind another along a new axis."""
    nodes = _several("stack", arrays)
    if any(n.shape != nodes[0].shape for n in nodes):
        raise ShapeError(explain("stack", "the shapes differ; need equal ones", nodes))
    (axis,) = normalise_axes("stack", axis, nodes[0].ndim + 1, nodes)
    shape = nodes[0].shape
    return concatenate([n.reshape((*shape[:axis], 1, *shape[axis:])) for n in nodes], axis)


def _several(op: str, arrays: Sequence[Operand]) -> list[Node]:
    if isinstance(arrays, Node):
        raise ShapeError(explain(op, "takes a list of arrays, not one node", [arrays]))
    given = list(arrays)
    if not given:
        raise ShapeError(explain(op, "needs at least one array", ()))
    return promote(op, given, "any")


# -- placing


def _region(low: Any, gaps: Any, shape: Any) -> tuple[slice, ...]:
    """Where the elements of a placed array of this shape go."""
    return tuple(
        slice(a, a + (k + 1) * (n - 1) + 1, k + 1) if n else slice(0, 0)
        for a, k, n in zip(low, gaps, shape, strict=True)
    )


def _placed(x: TensorType, shape: Any, low: Any, gaps: Any, value: Any) -> TensorType:
    """Every element must have its place; checked for sizes that are known, again when bound."""
    for a, gap, n, extent in zip(low, gaps, x.shape, shape, strict=True):
        if not all(isinstance(v, int) for v in (a, n, extent)):
            continue
        if extent < 0 or (n and (a < 0 or a + (gap + 1) * (n - 1) >= extent)):
            raise ShapeError(f"{x} does not fit into {shape} from {low} on")
    return TensorType(shape, x.dtype)


def _place(xp: Any, x: Any, shape: Any, low: Any, gaps: Any, value: Any) -> Any:
    out = xp.full(shape, value.array().item(), x.dtype)
    out[_region(low, gaps, x.shape)] = x
    return out


def _unplace(g: Node, out: Node, x: Node, shape: Any, low: Any, gaps: Any, value: Any) -> Node:
    return F.slice(g, low, [k + 1 for k in gaps], x.shape)


def _inside(
    out: TensorType, x: TensorType, shape: Any, low: Any, gaps: Any, value: Any
) -> tuple[Layout, ...]:
    strides = contiguous_strides(static_shape(out))
    offset = sum(a * s for a, s in zip(low, strides, strict=True)) if x.size else 0
    steps = tuple((k + 1) * s for k, s in zip(gaps, strides, strict=True))
    return (strided(static_shape(x), offset, steps),)


@declare(
    Kind.JOIN,
    "out[low + (gaps + 1) * i] = x[i], elsewhere `value`",
    infer=_placed,
    eval=_place,
    vjp={0: _unplace},
    pieces=_inside,
    fill=lambda shape, low, gaps, value: value.array().item(),
)
def place(x: Operand, shape: Any, low: Any, gaps: Any = None, value: Any = 0) -> Node:
    """`x` put into an array of `shape` filled with `value`: from `low` on, with gaps between."""
    x = as_node(x)
    spaces = tuple(gaps) if gaps is not None else (0,) * x.ndim
    held = F.const(value, x.dtype).attr("value")  # as constants are: 0.0 is not -0.0
    return make(place, (x,), shape=tuple(shape), low=tuple(low), gaps=spaces, value=held)


@composite
def pad(
    x: Operand, pad_width: Any, mode: str = "constant", constant_values: float | int = 0
) -> Node:
    """`x` with `constant_values` around it. `pad_width`: one int, one pair (before, after), or one
    pair for each axis, as in NumPy; "constant" is the only mode."""
    x = as_node(x)
    if mode != "constant":
        raise InputError(explain("pad", f"mode {mode!r}: only 'constant' is known", [x]))
    widths = _widths(x, pad_width)
    value = const_array(constant_values, x.dtype, "pad")
    if value.ndim:
        raise ShapeError(explain("pad", "constant_values must be one number", [x]))
    if not any(before or after for before, after in widths):
        return x
    shape = [a + n + b for (a, b), n in zip(widths, x.shape, strict=True)]
    return place(x, shape, [a for a, _ in widths], value=value)


def _widths(x: Node, pad_width: Any) -> list[tuple[int, int]]:
    try:
        pairs = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    except ValueError:
        pairs = np.asarray(0.5)
    if pairs.dtype.kind != "i" or (pairs < 0).any():
        raise ShapeError(
            explain("pad", f"pad_width {pad_width!r}: need whole numbers, 0 or more, as one int, "
                    f"one pair, or {x.ndim} pairs", [x])
        )  # fmt: skip
    return [(int(a), int(b)) for a, b in pairs]
