"""Exponentials, logarithms, roots, and the error function."""

from __future__ import annotations

import math

from graphc.ir.build import unary
from graphc.ir.op import F
from graphc.ir.special import special

LN2 = math.log(2.0)

exp = unary(
    "exp", "The exponential.", "e^x",
    eval=lambda xp, x: xp.exp(x), vjp={0: lambda g, out, x: g * out},
    c="gx_exp_{t}({0})", cost=8.0,
)  # fmt: skip

exp2 = unary(
    "exp2", "Two to the power x.", "2^x",
    eval=lambda xp, x: xp.exp2(x), vjp={0: lambda g, out, x: g * (out * LN2)},
    c="gx_exp2_{t}({0})", cost=8.0,
)  # fmt: skip

expm1 = unary(
    "expm1", "The exponential less 1, exact near 0.", "e^x - 1",
    eval=lambda xp, x: xp.expm1(x), vjp={0: lambda g, out, x: g * (out + 1)},
    c="gx_expm1_{t}({0})", cost=8.0,
)  # fmt: skip

log = unary(
    "log", "The natural logarithm; NaN below 0, -inf at 0.", "ln x",
    eval=lambda xp, x: xp.log(x), vjp={0: lambda g, out, x: g / x},
    c="gx_log_{t}({0})", cost=8.0, domain=(0.1, 4.0),
)  # fmt: skip

log1p = unary(
    "log1p", "The natural logarithm of 1 + x, exact near 0.", "ln(1 + x)",
    eval=lambda xp, x: xp.log1p(x), vjp={0: lambda g, out, x: g / (x + 1)},
    c="gx_log1p_{t}({0})", cost=8.0, domain=(-0.8, 4.0),
)  # fmt: skip

log2 = unary(
    "log2", "The logarithm to base 2; NaN below 0, -inf at 0.", "ln x / ln 2",
    eval=lambda xp, x: xp.log2(x), vjp={0: lambda g, out, x: g / (x * LN2)},
    c="gx_log2_{t}({0})", cost=8.0, domain=(0.1, 4.0),
)  # fmt: skip

sqrt = unary(
    "sqrt", "The square root; NaN below 0. Its derivative at 0 is infinite.", "x^(1/2)",
    eval=lambda xp, x: xp.sqrt(x), vjp={0: lambda g, out, x: g / (out + out)},
    c="gx_sqrt_{t}({0})", cost=4.0, domain=(0.1, 4.0),
)  # fmt: skip

rsqrt = unary(
    "rsqrt", "One over the square root; inf at 0, NaN below.", "x^(-1/2)",
    eval=lambda xp, x: xp.reciprocal(xp.sqrt(x)),
    vjp={0: lambda g, out, x: g * (-0.5 * out * (out * out))},
    c="1 / gx_sqrt_{t}({0})", cost=6.0, domain=(0.2, 4.0),
)  # fmt: skip

erf = unary(
    "erf", "The error function.", "2/sqrt(pi) int_0^x e^(-t^2) dt",
    eval=lambda xp, x: special(xp).erf(x),
    vjp={0: lambda g, out, x: g * (F.exp(-(x * x)) * (2 / math.sqrt(math.pi)))},
    c="gx_erf_{t}({0})", cost=30.0,
)  # fmt: skip

erfc = unary(
    "erfc", "One less the error function, exact far out.", "1 - erf x",
    eval=lambda xp, x: special(xp).erfc(x),
    vjp={0: lambda g, out, x: g * (F.exp(-(x * x)) * (-2 / math.sqrt(math.pi)))},
    c="gx_erfc_{t}({0})", cost=30.0,
)  # fmt: skip
