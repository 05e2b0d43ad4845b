"""From what users write to nodes: conversion of operands, promotion of dtypes, broadcasting.

Promotion. Nodes among themselves: the float dtypes must agree (else DTypeError); an integer or
bool node beside a float one takes its dtype; otherwise bool < int32 < int64. Python and NumPy
scalars and arrays are weak: they take the nodes' dtype, and only their category counts (a float
makes an integer node float32). Beside a 16-bit float, what its dtype cannot hold exactly is rounded
with the result and not before (comparisons excepted).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.dim import Dim
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import FUNCTIONS, OPS, Kind, Op, register
from graphc.ir.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    FLOATS,
    INT32,
    INT64,
    NARROW,
    DType,
    TensorType,
    as_dtype,
    as_shape,
    fits,
    kind_of,
)

Mode = Literal["arithmetic", "float", "any", "compare", "bits"]
"""What an op computes in: arithmetic (bool becomes int32), float (anything else becomes float32),
any (as it comes), compare (as it comes, with numbers rounded to the nodes' dtype: a float16 0.1 is
equal to 0.1), bits (bool and integers only)."""


def as_node(value: Operand, dtype: DType | None = None) -> Node:
    """`value` as a node: itself, a size, or a constant (of `dtype`, if that is given)."""
    if dtype is not None and dtype in NARROW:
        return _as_narrow(value, dtype)
    if isinstance(value, Node):
        return value if dtype is None else FUNCTIONS["astype"](value, dtype)
    if isinstance(value, Dim):
        return make(OPS["size"], dim=value, dtype=dtype or INT32)
    return FUNCTIONS["const"](value, dtype)


def _as_narrow(value: Operand, dtype: DType) -> Node:
    """An operand for 16-bit floats: what the dtype cannot hold exactly (0.1, a count of 100 000) is
    kept in float32, so that only results are rounded."""
    if isinstance(value, Node) and value.dtype == dtype:
        return value
    if not isinstance(value, Node | Dim):
        narrow, wide = const_array(value, dtype, "const"), const_array(value, FLOAT32, "const")
        if np.array_equal(narrow.astype(FLOAT32), wide, equal_nan=True):
            return FUNCTIONS["const"](narrow)
    return stored(as_node(value, FLOAT32), dtype)


def stored(x: Node, dtype: DType) -> Node:
    """`x` as a float of `dtype`, rounded where it is stored. Unlike with `astype`, nobody asked for
    the rounding: users of the value in between may have it unrounded (rule `drop_rounding`)."""
    return x if x.dtype == dtype else make(OPS["astype"], (x,), dtype=dtype, stored=True)


def placeholder(name: str, like: TensorType) -> Node:
    """An input of its own, to be replaced or to drop out before anything is run."""
    return FUNCTIONS["input"](name, like.shape, like.dtype)


def real_array(value: Any, op: str = "const") -> np.ndarray:
    """`value` as an array of numbers or bools; DTypeError for anything else, ragged lists too."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DTypeError(explain(op, f"not an array of numbers: {error}", ())) from None
    if kind_of(array.dtype) not in "biuf":
        shown = repr(value) if len(repr(value)) < 60 else f"an array of dtype {array.dtype}"
        raise DTypeError(
            explain(op, f"{shown} has dtype {array.dtype}; need real numbers or bools", ())
        )
    return array


def shape_for(op: str, shape: Any, nodes: Sequence[Node] = ()) -> tuple[int | Dim, ...]:
    """`shape` as sizes; a ShapeError names the op, the operands and the user's line."""
    try:
        return as_shape(shape)
    except ShapeError as error:
        raise ShapeError(explain(op, str(error), nodes)) from None


def dtype_for(op: str, dtype: Any, nodes: Sequence[Node] = ()) -> DType:
    """`dtype` as a supported one; a DTypeError names the op, the operands and the user's line."""
    try:
        return as_dtype(dtype)
    except DTypeError as error:
        raise DTypeError(explain(op, str(error), nodes)) from None


def const_array(value: Any, dtype: Any, op: str) -> np.ndarray:
    """`value` as a C-contiguous array of a supported dtype; DTypeError if it does not fit.

    Without `dtype` an array keeps its own; a list or number is float32, bool, or int32 (int64 where
    it does not fit that).
    """
    if isinstance(value, Node):
        raise DTypeError(explain(op, "the value is a node; need an array or a number", [value]))
    array = real_array(value, op)
    if dtype is not None:
        wanted = dtype_for(op, dtype)
    elif isinstance(value, np.ndarray | np.generic):
        wanted = dtype_for(op, array.dtype)
    else:
        wanted = {"b": BOOL, "i": INT32, "u": INT64, "f": FLOAT32}[kind_of(array.dtype)]
        wanted = INT32 if wanted == INT64 and fits(array, INT32) else wanted
        wanted = INT64 if wanted == INT32 and not fits(array, INT32) else wanted
    if wanted.kind == "i" and not fits(array, wanted):
        shown = repr(value) if array.ndim == 0 else f"an array of {array.dtype.name}"
        raise DTypeError(explain(op, f"{shown} does not fit {wanted.name}", ()))
    with np.errstate(over="ignore"):  # a float too large for float32 is inf, as in NumPy
        return np.ascontiguousarray(array.astype(wanted)).reshape(array.shape)


def promote(op: str, operands: Sequence[Operand], mode: Mode = "arithmetic") -> list[Node]:
    """The operands as nodes of one dtype, found by the rules above."""
    nodes = [x for x in operands if isinstance(x, Node)]
    if any(n.dtype in FLOATS for n in nodes):
        operands = [_as_float_if_huge(x) for x in operands]
    weak = [
        x if isinstance(x, Dim) else real_array(x, op) for x in operands if not isinstance(x, Node)
    ]
    dtype = _joint(op, nodes, weak)
    if mode == "float" and dtype not in FLOATS:
        dtype = FLOAT32
    elif mode == "arithmetic" and dtype == BOOL:
        dtype = INT32
    elif mode == "bits" and dtype in FLOATS:
        raise DTypeError(
            explain(op, "takes bools or integers, not floats; compare first, as in x > 0", nodes)
        )
    if mode == "compare":
        operands = [
            x if isinstance(x, Node | Dim) else FUNCTIONS["const"](x, dtype) for x in operands
        ]
    return [as_node(x, dtype) for x in operands]


def _as_float_if_huge(value: Operand) -> Operand:
    """A Python int that no NumPy integer holds, as the float that it is beside floats."""
    huge = isinstance(value, int) and not -(2**63) <= value < 2**64 and value.bit_length() < 1024
    return float(value) if huge else value


def _joint(op: str, nodes: Sequence[Node], weak: Sequence[Any]) -> DType:
    floats = {n.dtype for n in nodes if n.dtype in FLOATS}
    if len(floats) > 1:
        names = " and ".join(sorted(d.name for d in floats))
        raise DTypeError(
            explain(
                op,
                f"{names} do not mix; cast one with .astype('float32'), or declare it with "
                "dtype='float32'",
                nodes,
            )
        )
    if floats:
        return floats.pop()
    strong = [n.dtype for n in nodes]
    kinds = {"i" if isinstance(x, Dim) else kind_of(x.dtype) for x in weak}
    if "f" in kinds:
        typed = [
            x.dtype for x in weak if isinstance(x, np.ndarray) and x.ndim and x.dtype in FLOATS
        ]
        return FLOAT32 if strong or not typed else _joint_float(typed)
    if INT64 in strong:
        return INT64
    if INT32 in strong or kinds & {"i", "u"}:
        return INT32
    return BOOL


def _joint_float(dtypes: Iterable[DType]) -> DType:
    """The smallest float dtype that holds those of all arrays."""
    found = set(dtypes)
    if len(found) == 1:
        return found.pop()
    return FLOAT64 if FLOAT64 in found else FLOAT32


def broadcast(op: str, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with `broadcast_to` inserted where their shapes differ (NumPy's rule).

    A symbolic size equals only itself; it is never stretched, but a literal 1 stretches to it.
    """
    shapes = [n.shape for n in nodes]
    if all(shape == shapes[0] for shape in shapes[1:]):
        return list(nodes)
    shape = broadcast_shapes(op, shapes, nodes)
    return [FUNCTIONS["broadcast_to"](n, shape) for n in nodes]


def broadcast_shapes(
    op: str, shapes: Iterable[tuple[int | Dim, ...]], nodes: Sequence[Node] = ()
) -> tuple[int | Dim, ...]:
    """The common shape, or a ShapeError that names the operands."""
    result: list[int | Dim] = []
    for shape in shapes:
        longer, shorter = (result, shape) if len(result) >= len(shape) else (shape, result)
        joined = list(longer)
        for i in range(1, len(shorter) + 1):
            a, b = longer[-i], shorter[-i]
            if a != b and a != 1 and b != 1:
                message = f"shapes do not broadcast: {a} against {b} on axis -{i}"
                symbolic = isinstance(a, Dim) or isinstance(b, Dim)
                remedy = "a symbolic size equals only itself" if symbolic else "need equal or 1"
                raise ShapeError(explain(op, f"{message}; {remedy}; try .reshape", nodes))
            joined[-i] = b if a == 1 else a
        result = joined
    return tuple(result)


def normalise_axes(
    op: str, axis: int | Iterable[int] | None, ndim: int, nodes: Sequence[Node] = ()
) -> tuple[int, ...]:
    """Sorted non-negative axes; all of them for None. ShapeError if out of range or repeated."""
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    for a in given:
        if isinstance(a, bool) or not isinstance(a, int | np.integer):
            raise ShapeError(explain(op, f"axis {a!r} is not an int", nodes))
        if not -ndim <= a < ndim:
            raise ShapeError(explain(op, f"axis {a} is out of range for {ndim} dimensions", nodes))
    axes = sorted(int(a) % ndim for a in given)
    if len(set(axes)) < len(axes):
        raise ShapeError(explain(op, f"axis {axis} names one axis twice", nodes))
    return tuple(axes)


# -- constructors of elementwise ops -------------------------------------------------------------


def same_type(first: TensorType, *_: TensorType, **__: Any) -> TensorType:
    """The type rule of an elementwise op whose result is of its operands' type."""
    return first


def bool_type(first: TensorType, *_: TensorType, **__: Any) -> TensorType:
    """The type rule of a comparison."""
    return TensorType(first.shape, BOOL)


def apply(op: Op[...], *operands: Operand, mode: Mode = "arithmetic", **attrs: Any) -> Node:
    """Promote and broadcast the operands, then make the node."""
    return make(op, tuple(broadcast(op.name, promote(op.name, operands, mode))), **attrs)


def unary(
    name: str, doc: str, formula: str, *, mode: Mode = "float", **record: Any
) -> Op[[Operand]]:
    """Declare an elementwise op of one operand."""

    def build(x: Operand, /) -> Node:
        return apply(op, x, mode=mode)

    op = _declare(name, doc, formula, build, record)
    return op


def binary(
    name: str, doc: str, formula: str, *, mode: Mode = "arithmetic", **record: Any
) -> Op[[Operand, Operand]]:
    """Declare an elementwise op of two operands, broadcast as in NumPy."""

    def build(x: Operand, y: Operand, /) -> Node:
        return apply(op, x, y, mode=mode)

    op = _declare(name, doc, formula, build, record)
    return op


def declare(
    kind: Kind, formula: str, *, name: str = "", **record: Any
) -> Callable[[Callable[..., Node]], Op[...]]:
    """Declare an op whose constructor has a signature of its own; decorates that constructor."""

    def wrap(build: Callable[..., Node]) -> Op[...]:
        return register(
            Op(name=name or build.__name__, kind=kind, formula=formula, build=build, **record)
        )

    return wrap


def _declare(
    name: str, doc: str, formula: str, build: Callable[..., Node], record: dict[str, Any]
) -> Op[...]:
    build.__doc__ = doc
    build.__name__ = name
    record.setdefault("infer", same_type)
    return register(Op(name=name, kind=Kind.ELEMENTWISE, formula=formula, build=build, **record))


__all__ = [
    "apply", "as_dtype", "as_node", "binary", "bool_type", "broadcast", "broadcast_shapes",
    "const_array", "declare", "dtype_for", "normalise_axes", "placeholder", "promote", "real_array",
    "same_type", "shape_for", "stored", "unary",
]  # fmt: skip
