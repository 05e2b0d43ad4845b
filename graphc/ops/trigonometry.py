"""Circular and hyperbolic functions, in radians."""

from __future__ import annotations

from graphc.ir.build import unary
from graphc.ir.op import F

sin = unary(
    "sin", "The sine.", "sin x",
    eval=lambda xp, x: xp.sin(x), vjp={0: lambda g, out, x: g * F.cos(x)},
    c="gx_sin_{t}({0})", cost=10.0,
)  # fmt: skip

cos = unary(
    "cos", "The cosine.", "cos x",
    eval=lambda xp, x: xp.cos(x), vjp={0: lambda g, out, x: -g * F.sin(x)},
    c="gx_cos_{t}({0})", cost=10.0,
)  # fmt: skip

tan = unary(
    "tan", "The tangent.", "tan x",
    eval=lambda xp, x: xp.tan(x), vjp={0: lambda g, out, x: g * (out * out + 1)},
    c="gx_tan_{t}({0})", cost=12.0, domain=(-1.2, 1.2),
)  # fmt: skip

arctan = unary(
    "arctan", "The angle in (-pi/2, pi/2) whose tangent is x.", "arctan x",
    eval=lambda xp, x: xp.arctan(x), vjp={0: lambda g, out, x: g / (x * x + 1)},
    c="gx_arctan_{t}({0})", cost=10.0,
)  # fmt: skip

sinh = unary(
    "sinh", "The hyperbolic sine, exact near 0.", "(e^x - e^-x) / 2",
    eval=lambda xp, x: xp.sinh(x), vjp={0: lambda g, out, x: g * F.cosh(x)},
    c="gx_sinh_{t}({0})", cost=10.0,
)  # fmt: skip

cosh = unary(
    "cosh", "The hyperbolic cosine.", "(e^x + e^-x) / 2",
    eval=lambda xp, x: xp.cosh(x), vjp={0: lambda g, out, x: g * F.sinh(x)},
    c="gx_cosh_{t}({0})", cost=10.0,
)  # fmt: skip

tanh = unary(
    "tanh", "The hyperbolic tangent.", "sinh x / cosh x",
    eval=lambda xp, x: xp.tanh(x), vjp={0: lambda g, out, x: g * (1 - out * out)},
    c="gx_tanh_{t}({0})", cost=8.0,
)  # fmt: skip
