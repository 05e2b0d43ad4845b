"""Choosing one element per row by an integer label."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.errors import DTypeError, ShapeError
from graphc.ir.build import as_node, declare
from graphc.ir.node import Node, Operand, explain, make
from graphc.ir.op import F, Kind
from graphc.ir.tensor_type import FLOATS, INT32, INT64, TensorType


def _eval(xp: Any, x: Any, labels: Any) -> Any:
    found = xp.take_along_axis(x, xp.clip(labels, 0, x.shape[-1] - 1)[..., None], -1)[..., 0]
    outside = (labels < 0) | (labels >= x.shape[-1])
    return xp.where(outside, x.dtype.type(np.nan if x.dtype in FLOATS else 0), found)


def _vjp(g: Node, out: Node, x: Node, labels: Node) -> Node:
    columns = F.iota(x.shape, -1, labels.dtype)
    chosen = columns == labels.reshape((*labels.shape, 1))
    return F.where(chosen, g.reshape((*g.shape, 1)), 0)


def _picked(x: TensorType, labels: TensorType) -> TensorType:
    if x.shape[-1] == 0:
        raise ShapeError(f"there is nothing to pick from in {x}")
    return TensorType(labels.shape, x.dtype)


@declare(
    Kind.GATHER,
    "out[i] = x[i, labels[i]]; NaN (0 for integers) where the label is out of range",
    infer=_picked,
    eval=_eval,
    vjp={0: _vjp},
)
def pick(x: Operand, labels: Operand) -> Node:
    """One element per row of the last axis: `x` [..., n], integer `labels` [...] -> [...]."""
    x, labels = as_node(x), as_node(labels)
    if labels.dtype not in (INT32, INT64):
        raise DTypeError(
            explain("pick", f"labels are {labels.dtype.name}; need integers", [x, labels])
        )
    if x.ndim == 0 or x.shape[:-1] != labels.shape:
        raise ShapeError(
            explain("pick", "need one label per row: labels.shape == x.shape[:-1]", [x, labels])
        )
    return make(pick, (x, labels))
