"""Nodes without inputs: what a program is given (inputs, parameters) and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import DTypeError, InputError, ShapeError
from graphc.ir.build import as_node, const_array, declare, dtype_for, normalise_axes, shape_for
from graphc.ir.dim import Dim, Extent
from graphc.ir.layout import strided
from graphc.ir.node import Node, Operand, Param, explain, intern, make, new_identity
from graphc.ir.op import F, Kind, composite
from graphc.ir.storage import Storage
from graphc.ir.tensor_type import (
    INT32,
    INT64,
    DType,
    TensorType,
)


def _declared(name: str, shape: tuple[int | Dim, ...], dtype: DType, **_: Any) -> TensorType:
    return TensorType(shape, dtype)


@declare(Kind.SOURCE, "a value given with each call", infer=_declared, eval=None)
def input(
    name: str, shape: int | str | Dim | Sequence[int | str | Dim], dtype: Any = "float32"
) -> Node:
    """A value given with each call, by `name`.

    `shape`: ints, Dims, or a str for a symbolic dimension, such as `("batch", 64)`.
    Raises ShapeError for sizes that are no sizes, DTypeError for unsupported dtypes.
    """
    return make(
        input,
        name=_name("input", name),
        shape=shape_for("input", shape),
        dtype=dtype_for("input", dtype),
        identity=new_identity(),
    )


@declare(Kind.SOURCE, "a value kept between calls", infer=_declared, eval=None, name="param")
def _param(name: str, value: Any, *, dtype: Any = None, trainable: bool = True) -> Param:
    """A value kept between calls: the record behind `param`, which says what it gives."""
    array = const_array(value, dtype, f"param {name}")
    attrs = (
        ("dtype", array.dtype), ("identity", new_identity()), ("name", _name("param", name)),
        ("shape", array.shape),
    )  # fmt: skip
    node = intern(_param, (), attrs, Param)
    assert isinstance(node, Param)
    node.storage, node.trainable = Storage(array), trainable
    return node


def param(name: str, value: Any, *, dtype: Any = None, trainable: bool = True) -> Param:
    """A value owned by the user and kept between calls; all programs that use it share it.

    `value`: array-like. An array keeps its dtype; a list or number is float32, int32 or bool.
    Read a copy with `p.value`, write with `p.value = array`.
    """
    node = _param(name, value, dtype=dtype, trainable=trainable)
    assert isinstance(node, Param)
    return node


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant's value, hashable by dtype, shape and bytes: 0.0 is not -0.0, 1 is not True.

    `sized`: made of symbolic sizes, so that it has another value where they have. Generated code
    then takes it as an argument, and no rule asks for its value.
    """

    dtype: DType
    shape: tuple[int, ...]
    data: bytes
    sized: bool = False

    def array(self) -> np.ndarray:
        """The value, read-only."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)

    def __str__(self) -> str:
        return np.array2string(self.array(), threshold=6, separator=", ").replace("\n", "")


@declare(
    Kind.SOURCE,
    "a value known when the graph is declared",
    infer=lambda value: TensorType(value.shape, value.dtype),
    eval=lambda xp, value: xp.asarray(value.array()),
)
def const(value: Any, dtype: Any = None) -> Node:
    """A constant. `value`: array-like, copied. An array keeps its dtype; a list or number is
    float32, int32 or bool."""
    return constant(const_array(value, dtype, "const"), sized=isinstance(value, Extent))


def constant(array: np.ndarray, sized: bool = False) -> Node:
    """A constant of a value as it is, an array of a supported dtype."""
    return make(const, value=Constant(array.dtype, array.shape, array.tobytes(), sized))


def _known_size(dim: int | Dim, dtype: DType, training: bool) -> Node:
    return size(dim, dtype)


@declare(
    Kind.SOURCE,
    "a size, once it is known",
    infer=lambda dim, dtype: TensorType((), dtype),
    eval=lambda xp, dim, dtype: xp.asarray(dim, dtype),
    resolve=_known_size,
)
def size(dim: int | Dim, dtype: Any = "int32") -> Node:
    """A dimension as a number of shape (): what `loss / x.shape[0]` divides by."""
    if isinstance(dim, int):
        return const(dim, dtype)
    if not isinstance(dim, Dim):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShapeError(explain("size", f"{dim!r} is not a size; use x.shape[i]", ()))
    return make(size, dim=dim, dtype=dtype_for("size", dtype))


def _iota(xp: Any, shape: tuple[int, ...], axis: int, dtype: DType) -> Any:
    line = xp.arange(shape[axis], dtype=dtype)
    return xp.broadcast_to(line.reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape)


@declare(
    Kind.SOURCE,
    "out[..., i, ...] = i",
    infer=lambda shape, axis, dtype: TensorType(shape, dtype),
    eval=_iota,
    view=lambda shape, axis, dtype: strided(
        shape, 0, tuple(int(i == axis) for i in range(len(shape)))
    ),
)
def iota(shape: Any, axis: int = -1, dtype: Any = "int64") -> Node:
    """The index along `axis`, at every place of an array of this shape."""
    extents = shape_for("iota", shape)
    if not extents:
        raise ShapeError(explain("iota", "needs at least one dimension", ()))
    (axis,) = normalise_axes("iota", axis, len(extents))
    return make(iota, shape=extents, axis=axis, dtype=dtype_for("iota", dtype))


@composite
def arange(start: Any, stop: Any = None, step: int | float = 1, dtype: Any = None) -> Node:
    """start, start + step, ... up to but without `stop`; `arange(n)` counts from 0.

    int64 for ints and Dims, float32 if any is a float, or `dtype`. A symbolic size may stand for
    `start` and `stop` where `step` is 1.
    """
    start, stop = (0, start) if stop is None else (start, stop)
    parts = (start, stop, step)
    if any(isinstance(v, bool) or not isinstance(v, int | float | np.number | Dim) for v in parts):
        raise DTypeError(explain("arange", f"{parts} must be numbers or sizes", ()))
    if step == 0:
        raise ShapeError(explain("arange", "the step is 0", ()))
    whole = all(isinstance(v, int | np.integer | Dim) for v in parts)
    wanted = dtype_for("arange", dtype or ("int64" if whole else "float32"))
    if not isinstance(start, Dim) and not isinstance(stop, Dim):
        return const(np.arange(start, stop, step).astype(wanted))
    if step != 1:
        raise ShapeError(explain("arange", "symbolic sizes go in steps of 1", ()))
    line = iota((stop - start,), 0, wanted)
    return line if isinstance(start, int) and start == 0 else line + start


@composite
def one_hot(labels: Operand, size: int | Dim, dtype: Any = "float32") -> Node:
    """Rows of `size` with 1 at the label, else 0: integers [...] -> [..., size]. A label that is
    out of range gives a row of zeros."""
    labels = as_node(labels)
    if labels.dtype not in (INT32, INT64):
        raise DTypeError(
            explain("one_hot", f"labels are {labels.dtype.name}; need integers", [labels])
        )
    columns = iota((*labels.shape, size), -1, labels.dtype)
    return F.equal(columns, labels.reshape((*labels.shape, 1))).astype(dtype)


def _name(op: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(explain(op, f"name {name!r}: need a str that is not empty", ()))
    return name
