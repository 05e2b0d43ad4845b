"""Reductions: one value from many, along axes. Records drop the axes; `keepdims` is a reshape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graphc.errors import ShapeError
from graphc.ir.build import as_node, normalise_axes
from graphc.ir.dim import Dim, product
from graphc.ir.node import Node, Operand, make
from graphc.ir.op import F, Kind, Op, register
from graphc.ir.tensor_type import BOOL, INT32, INT64, TensorType

Axis = int | Iterable[int] | None


# -- type rules


def _reduced(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    return TensorType(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)


def _reduced_some(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    """Of a reduction that has no value over no elements; checked again when sizes are bound."""
    if 0 in [x.shape[a] for a in axes]:
        raise ShapeError(f"no elements along axes {axes} of {x}; need at least one")
    return _reduced(x, axes)


def _reduced_index(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    return TensorType(_reduced_some(x, axes).shape, INT64)


# -- constructors


def _build(op: Op[...], x: Node, axes: tuple[int, ...], keepdims: bool) -> Node:
    result = make(op, (x,), axes=axes)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return result.reshape(kept) if keepdims else result


def reduction(
    name: str, doc: str, formula: str, *, mode: str = "arithmetic", **record: Any
) -> Op[...]:
    """Declare a reduction along `axis` (an int, several, or None for all).

    `mode`: arithmetic (bool becomes int32), any (as it comes), bool (anything else is `x != 0`).
    """

    def build(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
        x = as_node(x)
        if mode == "arithmetic" and x.dtype == BOOL:
            x = x.astype(INT32)
        elif mode == "bool" and x.dtype != BOOL:
            x = F.not_equal(x, 0)
        axes = normalise_axes(name, axis, x.ndim, [x])
        return _build(op, x, axes, keepdims) if axes else x  # over no axes there is nothing to do

    return (op := _declared(name, doc, formula, build, record))


def index_reduction(name: str, doc: str, formula: str, **record: Any) -> Op[...]:
    """Declare a reduction that gives a position along one axis (None: in the flattened array)."""

    def build(x: Operand, axis: int | None = None, keepdims: bool = False) -> Node:
        x = as_node(x)
        if axis is None:
            found = _build(op, x.reshape((product(x.shape),)), (0,), False)
            return found.reshape((1,) * x.ndim) if keepdims else found
        return _build(op, x, normalise_axes(name, axis, x.ndim, [x]), keepdims)

    return (op := _declared(name, doc, formula, build, {"infer": _reduced_index, **record}))


def _declared(name: str, doc: str, formula: str, build: Any, record: dict[str, Any]) -> Op[...]:
    build.__name__, build.__doc__ = name, doc
    has_value = record.get("identity") is not None
    record.setdefault("infer", _reduced if has_value else _reduced_some)
    return register(Op(name=name, kind=Kind.REDUCTION, formula=formula, build=build, **record))


# -- derivatives


def spread(value: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """A reduced value repeated over the axes that were reduced, to the shape of `x`."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return value.reshape(shape).broadcast_to(x.shape)


def _share_ties(g: Node, out: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """Ties share the gradient evenly."""
    ties = (x == spread(out, x, axes)).astype(x.dtype)
    return spread(g / ties.sum(axes), x, axes) * ties


def _product_of_others(g: Node, out: Node, x: Node, axes: tuple[int, ...]) -> Node:
    """The derivative by x[i] is the product of all others: rows [n, n], ones on the diagonal.

    It takes n^2 steps, but out / x[i] would be NaN at zeros, and this is exact there to all orders.
    """
    kept = [i for i in range(x.ndim) if i not in axes]
    order = (*kept, *axes)
    lead = tuple(x.shape[i] for i in kept)
    n: int | Dim = product(tuple(x.shape[i] for i in axes))
    square = (*lead, n, n)
    rows = x.transpose(order).reshape((*lead, 1, n)).broadcast_to(square)
    others = F.where(F.iota(square, -1) == F.iota(square, -2), 1, rows)
    flat = F.prod(others, axis=-1) * g.reshape((*lead, 1))
    back = tuple(order.index(i) for i in range(x.ndim))
    return flat.reshape(tuple(x.shape[i] for i in order)).transpose(back)


# -- records

sum = reduction(
    "sum", "The sum along axes; of bools, their count as int32.", "sum_i x[i]",
    eval=lambda xp, x, axes: xp.sum(x, axis=axes, dtype=x.dtype),
    vjp={0: lambda g, out, x, axes: spread(g, x, axes)},
    combine="add", identity=0.0, c="{0} + {1}",
)  # fmt: skip

prod = reduction(
    "prod", "The product along axes. Its gradient is exact at zeros and costs n^2 for n factors.",
    "prod_i x[i]",
    eval=lambda xp, x, axes: xp.prod(x, axis=axes, dtype=x.dtype),
    vjp={0: _product_of_others}, combine="multiply", identity=1.0, c="{0} * {1}",
    domain=(-1.5, 1.5),
)  # fmt: skip

max = reduction(
    "max", "The largest element along axes; NaN if there is one.",
    "max_i x[i]; ties share the gradient", mode="any",
    eval=lambda xp, x, axes: xp.max(x, axis=axes), vjp={0: _share_ties}, combine="maximum",
    c="gx_maximum_{t}({0}, {1})", start="gx_lowest_{t}()",
)  # fmt: skip

min = reduction(
    "min", "The smallest element along axes; NaN if there is one.",
    "min_i x[i]; ties share the gradient", mode="any",
    eval=lambda xp, x, axes: xp.min(x, axis=axes), vjp={0: _share_ties}, combine="minimum",
    c="gx_minimum_{t}({0}, {1})", start="gx_highest_{t}()",
)  # fmt: skip

any = reduction(
    "any", "Whether any element along axes is not 0.", "x[0] or x[1] or ...", mode="bool",
    eval=lambda xp, x, axes: xp.any(x, axis=axes), combine="logical_or", identity=0.0,
    c="{0} | {1}",
)  # fmt: skip

all = reduction(
    "all", "Whether all elements along axes are not 0.", "x[0] and x[1] and ...", mode="bool",
    eval=lambda xp, x, axes: xp.all(x, axis=axes), combine="logical_and", identity=1.0,
    c="{0} & {1}",
)  # fmt: skip

argmax = index_reduction(
    "argmax", "The index of the first largest element, or of the first NaN, as int64.",
    "the first i with x[i] = max x",
    eval=lambda xp, x, axes: xp.argmax(x, axis=axes[0]),
    c="gx_beats_max_{t}({0}, {1})", start="gx_lowest_{t}()",
)  # fmt: skip

argmin = index_reduction(
    "argmin", "The index of the first smallest element, or of the first NaN, as int64.",
    "the first i with x[i] = min x",
    eval=lambda xp, x, axes: xp.argmin(x, axis=axes[0]),
    c="gx_beats_min_{t}({0}, {1})", start="gx_highest_{t}()",
)  # fmt: skip
