"""Exponentials, logarithms and powers."""

from __future__ import annotations

from graphc.ir.build import unary

exp = unary(
    "exp", "The exponential.", "e^x",
    eval=lambda xp, x: xp.exp(x), vjp={0: lambda g, out, x: g * out},
    c="gx_exp({0})", cost=8.0,
)  # fmt: skip

log = unary(
    "log", "The natural logarithm; NaN below 0, -inf at 0.", "ln x",
    eval=lambda xp, x: xp.log(x), vjp={0: lambda g, out, x: g / x},
    c="gx_log({0})", cost=8.0, domain=(0.1, 4.0),
)  # fmt: skip

square = unary(
    "square", "The square.", "x * x", mode="arithmetic",
    eval=lambda xp, x: xp.multiply(x, x), vjp={0: lambda g, out, x: g * (x + x)},
    c="{0} * {0}",
)  # fmt: skip
