"""Nodes without inputs: what a program is given (inputs, parameters) and what it knows (constants)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import DTypeError, InputError, ShapeError
from graphc.ir.build import declare, normalise_axes, real_array
from graphc.ir.dim import Dim
from graphc.ir.node import Node, Param, explain, intern, make, new_identity
from graphc.ir.op import Kind
from graphc.ir.storage import Storage
from graphc.ir.tensor_type import (
    BOOL,
    FLOAT32,
    INT32,
    INT64,
    DType,
    TensorType,
    as_dtype,
    as_shape,
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
        input, name=_name(name), shape=as_shape(shape), dtype=as_dtype(dtype), identity=new_identity()
    )


@declare(Kind.SOURCE, "a value kept between calls", infer=_declared, eval=None, name="param")
def _param(
    name: str, value: Any, *, dtype: Any = None, trainable: bool = True
) -> Param:
    array = const_array(value, dtype, f"param {name}")
    attrs = (
        ("dtype", array.dtype), ("identity", new_identity()), ("name", _name(name)),
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
    """A constant's value, hashable: equal dtype, shape and bytes (0.0 is not -0.0, 1 is not True)."""

    dtype: DType
    shape: tuple[int, ...]
    data: bytes

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
    array = const_array(value, dtype, "const")
    return make(const, value=Constant(array.dtype, array.shape, array.tobytes()))


@declare(
    Kind.SOURCE,
    "a size, once it is known",
    infer=lambda dim, dtype: TensorType((), dtype),
    eval=lambda xp, dim, dtype: xp.asarray(dim, dtype),
)
def size(dim: int | Dim, dtype: Any = "int32") -> Node:
    """A dimension as a number of shape (): what `loss / x.shape[0]` divides by."""
    if isinstance(dim, int):
        return const(dim, dtype)
    return make(size, dim=dim, dtype=as_dtype(dtype))


def _iota(xp: Any, shape: tuple[int, ...], axis: int, dtype: DType) -> Any:
    line = xp.arange(shape[axis], dtype=dtype)
    return xp.broadcast_to(line.reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape)


@declare(
    Kind.SOURCE,
    "out[..., i, ...] = i",
    infer=lambda shape, axis, dtype: TensorType(shape, dtype),
    eval=_iota,
)
def iota(shape: Any, axis: int = -1, dtype: Any = "int64") -> Node:
    """The index along `axis`, at every place of an array of this shape."""
    extents = as_shape(shape)
    if not extents:
        raise ShapeError(explain("iota", "needs at least one dimension", ()))
    (axis,) = normalise_axes("iota", axis, len(extents))
    return make(iota, shape=extents, axis=axis, dtype=as_dtype(dtype))


def const_array(value: Any, dtype: Any, op: str) -> np.ndarray:
    """`value` as an array of a supported dtype, C-contiguous."""
    if isinstance(value, Node):
        raise DTypeError(explain(op, "the value is a node; need an array or a number", [value]))
    array = real_array(value, op)
    if dtype is not None:
        wanted = as_dtype(dtype)
        limits = np.iinfo(wanted) if wanted.kind == "i" else None
        if limits and array.size and array.dtype.kind in "iuf":
            if array.max() > limits.max or array.min() < limits.min:
                raise DTypeError(explain(op, f"{value!r} does not fit {wanted.name}", ()))
    elif isinstance(value, np.ndarray | np.generic):
        wanted = as_dtype(array.dtype)
    else:
        wanted = {"b": BOOL, "i": INT32, "u": INT32, "f": FLOAT32}[array.dtype.kind]
        if wanted == INT32 and array.size and (abs(array.max()) > 2**31 - 1 or array.min() < -(2**31)):
            wanted = INT64
    return np.ascontiguousarray(array.astype(wanted)).reshape(array.shape)


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"name {name!r}: need a str that is not empty")
    return name
