"""Views: index maps without arithmetic. Inside kernels they cost nothing.

Each record's `view` turns the layout of the input into the layout of the output, or gives None
where the elements do not lie on straight lines (some reshapes of transposed data): that is a copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.build import as_node, broadcast_shapes, declare, normalise_axes, shape_for
from graphc.ir.dim import Dim, product
from graphc.ir.layout import Layout, reshape_layout, strided
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import F, Kind, composite
from graphc.ir.tensor_type import TensorType

Shape = tuple[int | Dim, ...]


# -- broadcast_to


def _broadcast_layout(layout: Layout, shape: tuple[int, ...]) -> Layout:
    lead = len(shape) - len(layout.shape)
    kept = (
        s if n == m else 0
        for s, n, m in zip(layout.strides, layout.shape, shape[lead:], strict=True)
    )
    return strided(shape, layout.offset, (0,) * lead + tuple(kept))


def _sum_to(g: Node, out: Node, x: Node, shape: Shape) -> Node:
    lead = g.ndim - x.ndim
    axes = [i for i in range(g.ndim) if i < lead or (x.shape[i - lead] == 1 and g.shape[i] != 1)]
    return g.sum(axis=axes).reshape(x.shape)


@declare(
    Kind.VIEW,
    "out[i, j, ...] = x[j, ...], unit axes repeated",
    infer=lambda x, shape: TensorType(shape, x.dtype),
    eval=lambda xp, x, shape: xp.broadcast_to(x, shape),
    vjp={0: _sum_to},
    view=_broadcast_layout,
)
def broadcast_to(x: Operand, shape: Any) -> Node:
    """`x` repeated to `shape` by NumPy's rule."""
    x = as_node(x)
    shape = shape_for("broadcast_to", shape, [x])
    if x.shape == shape:
        return x
    if broadcast_shapes("broadcast_to", [x.shape, shape], [x]) != shape:
        raise ShapeError(explain("broadcast_to", f"cannot stretch to {shape}", [x]))
    return make(broadcast_to, (x,), shape=shape)


# -- reshape


def _reshaped(x: TensorType, shape: Shape) -> TensorType:
    have, want = product(x.shape), product(shape)
    if isinstance(have, int) and isinstance(want, int) and have != want:
        raise ShapeError(f"{have} elements do not fit the shape {shape}")
    return TensorType(shape, x.dtype)


@declare(
    Kind.VIEW,
    "the elements in row-major order under another shape",
    infer=_reshaped,
    eval=lambda xp, x, shape: xp.reshape(x, shape),
    vjp={0: lambda g, out, x, shape: g.reshape(x.shape)},
    view=reshape_layout,
)
def reshape(x: Operand, shape: Any) -> Node:
    """The same elements in row-major order under another shape; one size may be -1."""
    x = as_node(x)
    given = (shape,) if isinstance(shape, int | str | Dim | np.integer) else tuple(shape)
    unknown = [i for i, n in enumerate(given) if isinstance(n, int | np.integer) and n == -1]
    if len(unknown) > 1:
        raise ShapeError(explain("reshape", f"{given} has two sizes -1; one at most", [x]))
    known = [1 if i in unknown else n for i, n in enumerate(given)]
    extents = list(shape_for("reshape", known, [x]))
    have = product(x.shape)
    if unknown:
        rest = product(tuple(extents))
        extents[unknown[0]] = -1 if rest == 0 else have // rest
    # a symbolic size // a number may turn out not to divide: that is seen when it is bound
    deferred = unknown and isinstance(have, Dim)
    if -1 in extents or (not deferred and product(tuple(extents)) != have):
        raise ShapeError(explain("reshape", f"{have} elements do not fit the shape {given}", [x]))
    return x if tuple(extents) == x.shape else make(reshape, (x,), shape=tuple(extents))


def _size_one(x: Node, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(i for i, n in enumerate(x.shape) if n == 1)
    axes = normalise_axes("squeeze", axis, x.ndim, [x])
    if any(x.shape[i] != 1 for i in axes):
        raise ShapeError(explain("squeeze", f"axes {axes} are not all of size 1", [x]))
    return axes


@composite
def squeeze(x: Operand, axis: Any = None) -> Node:
    """Without its axes of size 1, or without the given ones, which must be of size 1."""
    x = as_node(x)
    dropped = _size_one(x, axis)
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in dropped))


@composite
def expand_dims(x: Operand, axis: Any) -> Node:
    """With new axes of size 1 at these positions of the result."""
    x = as_node(x)
    given: Any = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    ndim = x.ndim + len(given)
    axes = normalise_axes("expand_dims", given, ndim, [x])
    rest = iter(x.shape)
    return reshape(x, tuple(1 if i in axes else next(rest) for i in range(ndim)))


# -- transpose


def _transposed(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    return TensorType(tuple(x.shape[a] for a in axes), x.dtype)


@declare(
    Kind.VIEW,
    "out[i_axes] = x[i]",
    infer=_transposed,
    eval=lambda xp, x, axes: xp.transpose(x, axes),
    vjp={0: lambda g, out, x, axes: g.transpose(tuple(axes.index(i) for i in range(len(axes))))},
    view=lambda layout, axes: Layout(
        tuple(layout.shape[a] for a in axes), layout.offset, tuple(layout.strides[a] for a in axes)
    ),
)
def transpose(x: Operand, axes: Any = None) -> Node:
    """The axes in another order; all reversed if None."""
    x = as_node(x)
    given: Any = (axes,) if isinstance(axes, int | np.integer) else axes
    order = tuple(range(x.ndim))[::-1] if given is None else tuple(given)
    sorted_axes = normalise_axes("transpose", order, x.ndim, [x])
    if len(sorted_axes) != x.ndim:
        raise ShapeError(explain("transpose", f"axes {order} must name each axis once", [x]))
    order = tuple(int(a) % x.ndim for a in order)
    return x if order == tuple(range(x.ndim)) else make(transpose, (x,), axes=order)


@composite
def swapaxes(x: Operand, axis1: int, axis2: int) -> Node:
    """Two axes exchanged."""
    x = as_node(x)
    (a,) = normalise_axes("swapaxes", axis1, x.ndim, [x])
    (b,) = normalise_axes("swapaxes", axis2, x.ndim, [x])
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return transpose(x, order)


# -- slices


def _sliced(x: TensorType, start: Shape, step: tuple[int, ...], shape: Shape) -> TensorType:
    """Every element must be there; checked for sizes that are known, again when bound."""
    for a, s, n, extent in zip(start, step, shape, x.shape, strict=True):
        if isinstance(n, int) and n < 0:
            raise ShapeError(f"a slice of {n} elements, from {a} on, of {x}")
        if n == 0 or isinstance(a, Dim) or isinstance(n, Dim) or isinstance(extent, Dim):
            continue
        if not (0 <= a < extent and 0 <= a + s * (n - 1) < extent):
            raise ShapeError(f"{n} elements from {a} on in steps of {s} leave the axis of {extent}")
    return TensorType(shape, x.dtype)


def _slice_eval(xp: Any, x: Any, start: Any, step: Any, shape: Any) -> Any:
    index = (_slice(a, s, n) for a, s, n in zip(start, step, shape, strict=True))
    return x[tuple(index)]


def _slice(start: int, step: int, count: int) -> slice:
    stop = start + step * count
    return slice(start, stop if stop >= 0 else None, step) if count else slice(0, 0)


def _slice_layout(layout: Layout, start: Any, step: Any, shape: Any) -> Layout:
    offset = layout.offset
    if 0 not in shape:
        offset += sum(a * s for a, s in zip(start, layout.strides, strict=True))
    strides = tuple(s * k for s, k in zip(layout.strides, step, strict=True))
    return strided(shape, offset, strides)


def _slice_vjp(g: Node, out: Node, x: Node, start: Any, step: Any, shape: Any) -> Node:
    """Put the pieces back where they came from, with zeros between: a pad with gaps."""
    flipped = tuple(i for i, s in enumerate(step) if s < 0)
    g = F.flip(g, flipped) if flipped else g
    low = [a + s * (n - 1) if s < 0 else a for a, s, n in zip(start, step, shape, strict=True)]
    gaps = [abs(s) - 1 for s in step]
    return F.place(g, x.shape, low, gaps)


@declare(
    Kind.VIEW,
    "out[i] = x[start + step * i]",
    infer=_sliced,
    eval=_slice_eval,
    vjp={0: _slice_vjp},
    view=_slice_layout,
    name="slice",
)
def slice_(x: Operand, start: Any, step: Any, shape: Any) -> Node:
    """Every `step`-th element from `start` on, `shape` of them along each axis; steps may be
    negative. Users write `x[a:b:c]`."""
    x = as_node(x)
    if tuple(shape) == x.shape and set(step) <= {1}:
        return x
    return make(slice_, (x,), start=tuple(start), step=tuple(step), shape=tuple(shape))


@composite
def flip(x: Operand, axis: Any = None) -> Node:
    """The elements in reverse order along the given axes (all for None)."""
    x = as_node(x)
    axes = normalise_axes("flip", axis, x.ndim, [x])
    start = [x.shape[i] - 1 if i in axes else 0 for i in range(x.ndim)]
    return slice_(x, start, [-1 if i in axes else 1 for i in range(x.ndim)], x.shape)


@composite
def getitem(x: Node, index: Any) -> Node:
    """`x[index]` with ints, slices, None and Ellipsis, as in NumPy."""
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if isinstance(item, bool | np.bool_ | Node | list | np.ndarray):
            raise ShapeError(
                explain("getitem", f"index {item!r}: takes ints, slices, None and ...; "
                        "choose by value with gx.where or gx.pick", [x])
            )  # fmt: skip
    given = sum(item is not None and item is not Ellipsis for item in items)
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if given > x.ndim or len(dots) > 1:
        raise ShapeError(explain("getitem", f"index {index!r} has too many parts", [x]))
    at = dots[0] if dots else len(items)
    items[at : at + 1] = [slice(None)] * (x.ndim - given)
    start: list[int | Dim] = []
    step: list[int] = []
    taken: list[int | Dim] = []
    shape: list[int | Dim] = []
    for item in items:
        if item is None:
            shape.append(1)
            continue
        extent = x.shape[len(start)]
        if isinstance(item, slice):
            first, stride, count = _bounds(x, item, extent)
            shape.append(count)
        else:
            first, stride, count = _position(x, item, extent), 1, 1
        start.append(first)
        step.append(stride)
        taken.append(count)
    return slice_(x, start, step, taken).reshape(tuple(shape))


def _bounds(x: Node, item: slice, extent: int | Dim) -> tuple[int | Dim, int, int | Dim]:
    ends = (item.start, item.stop)
    if isinstance(extent, int) and not any(isinstance(v, Dim) for v in ends):
        try:
            first, stop, stride = item.indices(extent)
        except (TypeError, ValueError) as error:
            raise ShapeError(explain("getitem", f"slice {item}: {error}", [x])) from None
        return first, stride, len(range(first, stop, stride))
    if item.start is None and item.stop is None and item.step == -1:
        return extent - 1, -1, extent
    if item.step in (None, 1) and all(v is None or _is_place(v) for v in ends):
        first = _from_end(0 if item.start is None else item.start, extent)
        return first, 1, (extent if item.stop is None else _from_end(item.stop, extent)) - first
    raise ShapeError(
        explain("getitem", f"slice {item} with symbolic sizes, of {extent}: takes whole axes, "
                "reversed ones and plain ranges; a range must fit when the sizes are known", [x])
    )  # fmt: skip


def _is_place(value: Any) -> bool:
    return isinstance(value, int | np.integer | Dim) and not isinstance(value, bool)


def _from_end(position: Any, extent: int | Dim) -> int | Dim:
    if isinstance(position, Dim):
        return position
    return extent + int(position) if position < 0 else int(position)


def _position(x: Node, item: Any, extent: int | Dim) -> int | Dim:
    if _is_place(item):
        if isinstance(extent, Dim) or isinstance(item, Dim):
            return _from_end(item, extent)
        if -extent <= item < extent:
            return int(item) % extent
        raise ShapeError(explain("getitem", f"index {item} is out of range for {extent}", [x]))
    raise ShapeError(explain("getitem", f"index {item!r}: takes ints, slices, None and ...", [x]))
