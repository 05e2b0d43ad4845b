"""The cost functions by name: those of graphc, (prediction, target) -> scalar node."""

from __future__ import annotations

from collections.abc import Callable

import graphc as gx
from graphc.train.data_checks import shown

Function = Callable[[gx.Node, gx.Node], gx.Node]

LOSSES: dict[str, Function] = {
    "mse": gx.mse,
    "mae": gx.mae,
    "huber": gx.huber,
    "softmax_cross_entropy": gx.softmax_cross_entropy,
    "sigmoid_cross_entropy": gx.sigmoid_cross_entropy,
    "binary_cross_entropy": gx.binary_cross_entropy,
}
APPLIED: dict[Function, Callable[[gx.Node], gx.Node]] = {  # what a loss makes of the predictions
    gx.softmax_cross_entropy: gx.softmax,
    gx.sigmoid_cross_entropy: gx.sigmoid,
}


def as_loss(loss: str | Function) -> Function:
    """The function of this name, or the function itself; InputError for anything else."""
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    raise gx.InputError(
        f"loss={shown(loss)}: need {', '.join(LOSSES)}, or a function (prediction, target) -> node"
    )
