"""Plain functions of ops: what users call that is no op of its own, in numerically stable forms."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.errors import GraphcError
from graphc.ir.build import as_node, normalise_axes
from graphc.ir.dim import product
from graphc.ir.node import Node, Operand
from graphc.ir.op import composite
from graphc.ops.arithmetic import stop_gradient
from graphc.ops.exponential import exp, log
from graphc.ops.gather import pick
from graphc.ops.reductions import max as max_, sum as sum_

Axis = int | Iterable[int] | None


@composite
def mean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """The arithmetic mean along axes: sum / count; float32 for integers."""
    x = as_node(x)
    axes = normalise_axes("mean", axis, x.ndim, [x])
    return sum_(x, axes, keepdims) / product(tuple(x.shape[a] for a in axes))


@composite
def softmax_cross_entropy(logits: Operand, labels: Operand, reduction: str = "mean") -> Node:
    """-log softmax(logits)[label], over rows: `logits` [..., n], integer `labels` [...].

    lse - z[label] with lse = log(sum(exp(z - m))) + m and m the row's maximum, which needs no
    gradient; one kernel together with its gradient.
    """
    z, labels = as_node(logits), as_node(labels)
    m = stop_gradient(max_(z, axis=-1, keepdims=True))
    lse = log(sum_(exp(z - m), axis=-1)) + m.reshape(z.shape[:-1])
    losses = lse - pick(z, labels)
    return reduce_loss(losses, reduction)


def reduce_loss(losses: Node, reduction: str) -> Node:
    """The mean over all elements, their sum, or the losses as they are."""
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum_(losses)
    if reduction == "none":
        return losses
    raise GraphcError(f"reduction {reduction!r}: need 'mean', 'sum' or 'none'")
