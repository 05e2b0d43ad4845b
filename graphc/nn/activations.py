"""Activation functions by name, and the initialiser that suits the weights in front of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphc as gx

Function = Callable[[Any], gx.Node]

ACTIVATIONS: dict[str, tuple[Function, str]] = {
    "relu": (gx.relu, "he_normal"),
    "leaky_relu": (gx.leaky_relu, "he_normal"),
    "elu": (gx.elu, "he_normal"),
    "selu": (gx.selu, "lecun_normal"),
    "gelu": (gx.gelu, "he_normal"),
    "silu": (gx.silu, "he_normal"),
    "mish": (gx.mish, "he_normal"),
    "softplus": (gx.softplus, "he_normal"),
    "sigmoid": (gx.sigmoid, "glorot_uniform"),
    "hard_sigmoid": (gx.hard_sigmoid, "glorot_uniform"),
    "log_sigmoid": (gx.log_sigmoid, "glorot_uniform"),
    "tanh": (gx.tanh, "glorot_uniform"),
    "softsign": (gx.softsign, "glorot_uniform"),
    "softmax": (gx.softmax, "glorot_uniform"),
    "log_softmax": (gx.log_softmax, "glorot_uniform"),
}


def as_activation(activation: str | Function) -> Function:
    """The function of this name, or the function itself; InputError for anything else."""
    if callable(activation) and not isinstance(activation, type):
        return activation
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation][0]
    raise gx.InputError(
        f"activation={activation!r}: need {', '.join(ACTIVATIONS)}, or a function of a node"
    )


def initialiser_for(activation: str | Function | None) -> str:
    """The name of the initialiser for the weights in front of it: Glorot's where it is unknown."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation][1]
    named = (start for function, start in ACTIVATIONS.values() if function is activation)
    return next(named, "glorot_uniform")
