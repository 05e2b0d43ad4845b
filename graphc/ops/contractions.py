"""The matrix product, batched, with transposes as flags, so that none is ever made."""

from __future__ import annotations

from typing import Any

from graphc.errors import ShapeError
from graphc.ir.build import broadcast_shapes, declare, promote
from graphc.ir.dim import Dim, product
from graphc.ir.node import Node, Operand, describe, explain, make
from graphc.ir.op import Kind, composite
from graphc.ir.tensor_type import TensorType


def _matrix(x: TensorType, transposed: bool) -> tuple[int | Dim, int | Dim]:
    rows, columns = x.shape[-2:]
    return (columns, rows) if transposed else (rows, columns)


def _infer(a: TensorType, b: TensorType, transpose_a: bool, transpose_b: bool) -> TensorType:
    m, k = _matrix(a, transpose_a)
    k_b, n = _matrix(b, transpose_b)
    if k != k_b:
        raise ShapeError(
            f"inner sizes differ: {a} @ {b}; need x.shape[-1] == w.shape[-2]; try w.T or x.T"
        )
    return TensorType((*a.shape[:-2], m, n), a.dtype)


def swap(x: Any) -> Any:
    """The last two axes exchanged, of a node or an array."""
    return x.transpose((*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _eval(xp: Any, a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    return xp.matmul(swap(a) if transpose_a else a, swap(b) if transpose_b else b)


def _vjp_a(g: Node, out: Node, a: Node, b: Node, transpose_a: bool, transpose_b: bool) -> Node:
    if transpose_a:  # c = a^T b'  ->  da = b' g^T
        return make(contract, (b, g), transpose_a=transpose_b, transpose_b=True)
    return make(contract, (g, b), transpose_a=False, transpose_b=not transpose_b)


def _vjp_b(g: Node, out: Node, a: Node, b: Node, transpose_a: bool, transpose_b: bool) -> Node:
    if transpose_b:  # c = a' b^T  ->  db = g^T a'
        return make(contract, (g, a), transpose_a=True, transpose_b=transpose_a)
    return make(contract, (a, g), transpose_a=not transpose_a, transpose_b=False)


@declare(
    Kind.CONTRACTION,
    "out[..., i, j] = sum_k a[..., i, k] b[..., k, j]",
    infer=_infer,
    eval=_eval,
    vjp={0: _vjp_a, 1: _vjp_b},
)
def contract(a: Node, b: Node) -> Node:
    """The product of two stacks of matrices of equal leading shape: [..., m, k] @ [..., k, n].
    Attributes say which operand is stored transposed."""
    return make(contract, (a, b), transpose_a=False, transpose_b=False)


@composite
def matmul(x: Operand, y: Operand) -> Node:
    """The matrix product with NumPy's meaning: vectors are promoted, leading axes broadcast.

    Raises ShapeError if the inner sizes differ, DTypeError for float32 with float64.
    """
    a, b = promote("matmul", [x, y])
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(explain("matmul", "needs at least one dimension each; try x * y", [a, b]))
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ShapeError(_inner_sizes_differ(a, b))
    left = a.reshape((1, *a.shape)) if a.ndim == 1 else a
    right = b.reshape((*b.shape, 1)) if b.ndim == 1 else b
    shape = list(_stacked(left, right, a, b))
    if b.ndim == 1:
        shape.pop()
    if a.ndim == 1:
        shape.pop(len(shape) - (0 if b.ndim == 1 else 1) - 1)
    return _product(left, right, a, b).reshape(tuple(shape))


def _stacked(left: Node, right: Node, a: Node, b: Node) -> tuple[int | Dim, ...]:
    lead = broadcast_shapes("matmul", [left.shape[:-2], right.shape[:-2]], [a, b])
    return (*lead, left.shape[-2], right.shape[-1])


def _product(left: Node, right: Node, a: Node, b: Node) -> Node:
    if right.ndim == 2 and left.ndim > 2:  # one large product instead of a stack of small ones
        return contract(left.reshape((product(left.shape[:-1]), left.shape[-1])), right)
    lead = _stacked(left, right, a, b)[:-2]
    return contract(
        left.broadcast_to((*lead, *left.shape[-2:])),
        right.broadcast_to((*lead, *right.shape[-2:])),
    )


def _inner_sizes_differ(a: Node, b: Node) -> str:
    shown = f"{describe(a)} @ {describe(b)}"
    remedy = "need x.shape[-1] == w.shape[-2]"
    if a.ndim == b.ndim == 2:
        fits = [_transposed(b, "right")] if a.shape[-1] == b.shape[-1] else []
        fits += [_transposed(a, "left")] if a.shape[0] == b.shape[0] else []
        remedy += f"; try {' or '.join(dict.fromkeys(fits))}" if fits else ""
    return explain("matmul", f"inner sizes differ: {shown}; {remedy}", [a, b])


def _transposed(node: Node, side: str) -> str:
    """How to write the transpose: by name, if the node has one."""
    return f".T of the {side} operand" if node.inputs else f"{node.name}.T"
