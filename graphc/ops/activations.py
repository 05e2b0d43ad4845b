"""Activation functions that are ops of their own, in forms that neither overflow nor cancel.

Those that are plain combinations (gelu, silu, elu, ...) stand in `composite.py`.
"""

from __future__ import annotations

from graphc.ir.build import unary
from graphc.ir.op import F

sigmoid = unary(
    "sigmoid", "The logistic function.", "1 / (1 + e^-x)",
    eval=lambda xp, x: xp.reciprocal(1 + xp.exp(-x)),
    vjp={0: lambda g, out, x: g * (out * (1 - out))},
    c="gx_sigmoid_{t}({0})", cost=12.0,
)  # fmt: skip

relu = unary(
    "relu", "The rectifier; its derivative at 0 is 0.", "max(x, 0)", mode="arithmetic",
    eval=lambda xp, x: xp.maximum(x, 0),
    vjp={0: lambda g, out, x: F.where(out > 0, g, 0)},
    c="gx_maximum_{t}({0}, 0)", epilogue="RELU", avoid=(0.0,),
)  # fmt: skip

softplus = unary(
    "softplus", "A smooth rectifier; e^x never overflows.",
    "ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)",
    eval=lambda xp, x: xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.absolute(x))),
    # the derivative is sigmoid(x) = 1 - e^-out, taken from the output: x need not be kept
    vjp={0: lambda g, out, x: g * -F.expm1(-out)},
    c="gx_softplus_{t}({0})", cost=20.0,
)  # fmt: skip
