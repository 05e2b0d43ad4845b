"""Activation functions, in forms that neither overflow nor cancel."""

from __future__ import annotations

from graphc.ir.build import unary
from graphc.ir.op import FUNCTIONS

tanh = unary(
    "tanh", "The hyperbolic tangent.", "tanh x",
    eval=lambda xp, x: xp.tanh(x), vjp={0: lambda g, out, x: g * (1 - out * out)},
    c="gx_tanh({0})", cost=8.0,
)  # fmt: skip

sigmoid = unary(
    "sigmoid", "The logistic function.", "1 / (1 + e^-x)",
    eval=lambda xp, x: xp.reciprocal(1 + xp.exp(-x)),
    vjp={0: lambda g, out, x: g * (out * (1 - out))},
    c="1 / (1 + gx_exp(-{0}))", cost=12.0,
)  # fmt: skip

relu = unary(
    "relu", "The rectifier; its derivative at 0 is 0.", "max(x, 0)", mode="arithmetic",
    eval=lambda xp, x: xp.maximum(x, 0),
    vjp={0: lambda g, out, x: FUNCTIONS["where"](out > 0, g, 0)},
    c="gx_maximum({0}, 0)", avoid=(0.0,),
)  # fmt: skip
