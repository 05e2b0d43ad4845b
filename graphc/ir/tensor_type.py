"""The type of a tensor: its shape (ints and symbolic dimensions) and its dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.dim import Dim, Extent, product

DType = np.dtype[Any]

BOOL = np.dtype("bool")
INT32 = np.dtype("int32")
INT64 = np.dtype("int64")
FLOAT16 = np.dtype("float16")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype("float32")
FLOAT64 = np.dtype("float64")
DTYPES = (BOOL, INT32, INT64, FLOAT16, BFLOAT16, FLOAT32, FLOAT64)
FLOATS = frozenset({FLOAT16, BFLOAT16, FLOAT32, FLOAT64})
NARROW = frozenset({FLOAT16, BFLOAT16})
"""The floats of 16 bits. Values are stored in them; arithmetic is done in float32."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and dtype of a value; `float32[64, batch]` in text."""

    shape: tuple[int | Dim, ...]
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements; raises ShapeError while a dimension is symbolic."""
        total = product(self.shape)
        if isinstance(total, Dim):
            raise ShapeError(f"{self} has no size yet: bind {', '.join(sorted(total.symbols()))}")
        return total

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


def as_dtype(dtype: Any) -> DType:
    """The supported dtype that `dtype` (a str, type or NumPy dtype) names; else DTypeError."""
    try:
        found = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        found = None
    if found is None or found not in DTYPES:
        names = ", ".join(d.name for d in DTYPES)
        shown = dtype if found is None else found.name
        raise DTypeError(f"dtype {shown!s} is not supported; use one of {names}")
    return DTYPES[DTYPES.index(found)]  # the one object of this dtype: inputs are compared by `is`


def kind_of(dtype: DType) -> str:
    """NumPy's letter for a kind of dtype: b, i, u, f, or another for what is no real number.

    NumPy calls bfloat16 "V", which is also the kind of what is no number at all.
    """
    return "f" if dtype == BFLOAT16 else dtype.kind


def is_same_kind(source: DType, target: DType) -> bool:
    """Whether a cast is of NumPy's kind "same_kind". bfloat16 is cast like float16: NumPy takes it
    for a number that fits an integer, and not for a kind of float16."""
    source, target = (FLOAT16 if d == BFLOAT16 else d for d in (source, target))
    return np.can_cast(source, target, "same_kind")


def computed_in(dtype: Any) -> Any:
    """The dtype in which values of a dtype are computed: float32 for 16-bit floats, else itself.
    What is no dtype (any attribute of a node) comes back as it is."""
    return FLOAT32 if isinstance(dtype, np.dtype) and dtype in NARROW else dtype


def as_shape(shape: int | str | Dim | Sequence[int | str | Dim]) -> tuple[int | Dim, ...]:
    """A shape from ints, Dims and names of symbolic dimensions; one extent alone is a 1-D shape."""
    if isinstance(shape, int | str | Dim | np.integer):
        shape = (shape,)
    return tuple(as_extent(extent) for extent in shape)


def as_extent(extent: Any) -> int | Dim:
    """One size: a non-negative int, a Dim, or the name of a symbolic dimension."""
    if isinstance(extent, Dim):
        return extent
    if isinstance(extent, str):
        return Dim.symbol(extent)
    if isinstance(extent, bool) or not isinstance(extent, int | np.integer):
        raise ShapeError(
            f"size {extent!r} in a shape: need an int, a Dim, or a str naming a symbolic dimension"
        )
    if extent < 0:
        raise ShapeError(f"size {extent} in a shape is negative; sizes are 0 or more")
    return extent if isinstance(extent, Extent) else int(extent)


def static_shape(of: TensorType) -> tuple[int, ...]:
    """The shape as ints; raises ShapeError while a dimension is symbolic."""
    for extent in of.shape:
        if isinstance(extent, Dim):
            raise ShapeError(f"{of} is not bound yet: give a value for {extent}")
    return of.shape  # pyright: ignore[reportReturnType]


def fits(array: np.ndarray, dtype: DType) -> bool:
    """Whether an integer dtype can hold all values of an array."""
    if array.dtype.kind == "b" or not array.size:
        return True
    limits = np.iinfo(dtype)
    low, high = array.min(), array.max()  # NaN fails both comparisons
    return bool(low >= limits.min and high <= limits.max)
