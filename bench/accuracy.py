"""Measures the error of the scalar functions, in units of the last place; writes docs/accuracy.md.

    python -m bench.accuracy                  every op of kernels/scalar.h, compiled here, and the
                                              composites, as programs of the native backend
    report(measure(functions), path)          any other functions

A function is (name, callable on arrays). Its error is that against the exact value, in units of the
last place of the dtype there: a correctly rounded result has at most 0.5. float32 is measured on
every 997th of all bit patterns and on all near a special point, against float64, and the worst
point again against mpmath; float64 on random bit patterns and random values, against mpmath.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

import graphc as gx
from graphc.ir.op import FUNCTIONS, OPS
from graphc.ops.composite import SELU_ALPHA, SELU_SCALE
from graphc.resources import checkout, folder

Array = Any
Function = tuple[str, Callable[..., Array]]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
         "-fwrapv", "-fopenmp-simd", "-std=gnu11")  # fmt: skip
STRIDE = 997  # of the bit patterns of float32
NEAR = 500  # bit patterns on both sides of a special point
EXACT = 2000  # points of float64, each of which takes mpmath some 50 microseconds
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e-45, -1e-45, 3e38, -3e38]
)
WHOLE = np.array([2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 2.5, -7.0, 1e10, -(2.0**23 + 1), 2.0**24])
POINTS = (0.0, 1.0, 1.5, 2 / 3, 4 / 3, 1 / 3, 0.3466, 0.5, 2.0, 3.95, 4.0, 9.0, 10.05, 16.6, 20.0,
          40.0, 60.0, 87.3, 88.72, 89.41, 103.97, 126.0, 128.0, 149.0, np.pi / 2, np.pi, 2 * np.pi,
          1e5, 2.0**24, 2.0**126.4, 16367173 * 2.0**72)  # fmt: skip


def _gelu(m: Any, x: Any) -> Any:
    return x * m.erfc(-x / m.sqrt(2)) / 2


REFERENCES: dict[str, Callable[..., Any]] = {
    "exp": lambda m, x: m.exp(x),
    "exp2": lambda m, x: m.exp2(x),
    "expm1": lambda m, x: m.expm1(x),
    "log": lambda m, x: m.log(x),
    "log2": lambda m, x: m.log2(x),
    "log1p": lambda m, x: m.log1p(x),
    "sqrt": lambda m, x: m.sqrt(x),
    "rsqrt": lambda m, x: 1 / m.sqrt(x),
    "reciprocal": lambda m, x: 1 / x,
    "erf": lambda m, x: m.erf(x),
    "erfc": lambda m, x: m.erfc(x),
    "sin": lambda m, x: m.sin(x),
    "cos": lambda m, x: m.cos(x),
    "tan": lambda m, x: m.tan(x),
    "arctan": lambda m, x: m.arctan(x),
    "sinh": lambda m, x: m.sinh(x),
    "cosh": lambda m, x: m.cosh(x),
    "tanh": lambda m, x: m.tanh(x),
    "sigmoid": lambda m, x: 1 / (1 + m.exp(-x)),
    "softplus": lambda m, x: m.maximum(x, 0) + m.log1p(m.exp(-abs(x))),
    "power": lambda m, x, y: m.power(x, y),
    # composites: no C expression of their own, so that they are measured through a backend
    "gelu": _gelu,
    "silu": lambda m, x: x / (1 + m.exp(-x)),
    "log_sigmoid": lambda m, x: m.minimum(x, 0) - m.log1p(m.exp(-abs(x))),
    "mish": lambda m, x: x * m.tanh(m.maximum(x, 0) + m.log1p(m.exp(-abs(x)))),
    "elu": lambda m, x: m.where(x > 0, x, m.expm1(m.minimum(x, 0))),
    "selu": lambda m, x: SELU_SCALE * m.where(x > 0, x, SELU_ALPHA * m.expm1(m.minimum(x, 0))),
    "softsign": lambda m, x: x / (1 + abs(x)),
    "hard_sigmoid": lambda m, x: m.minimum(m.maximum(x / 6 + 0.5, 0), 1),
}  # the exact value of (module m, operands), m being _Wide (float64 arrays) or _Exact (mpmath)
COMPOSITES = ("gelu", "silu", "log_sigmoid", "mish", "elu", "selu", "softsign", "hard_sigmoid")


class _Wide:
    """NumPy and SciPy under one name."""

    erf, erfc = special.erf, special.erfc

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class _Exact:
    """Mpmath under NumPy's names, one number at a time."""

    def __init__(self) -> None:
        import mpmath

        self.mp = mpmath.mp
        self.mp.dps = 60
        self.arctan, self.minimum, self.maximum = self.mp.atan, min, max

    def exp2(self, x: Any) -> Any:
        return self.mp.mpf(2) ** x

    def log2(self, x: Any) -> Any:
        return self.mp.log(x, 2)

    def erf(self, x: Any) -> Any:
        return self.mp.erf(max(min(x, 40), -40))

    def erfc(self, x: Any) -> Any:
        return self.mp.erfc(max(min(x, 40), -40))  # 0 or 2 beyond, where mpmath gives up

    def where(self, condition: bool, x: Any, y: Any) -> Any:
        return x if condition else y

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mp, name)


@dataclass(frozen=True, slots=True)
class Row:
    """The largest error of one function, at which operands; whether specials are as in NumPy."""

    name: str
    dtype: str
    ulp: float
    at: tuple[float, ...]
    points: int
    specials: bool


# -- functions in C


def compiled(names: Iterable[str], dtype: Any, flags: Sequence[str] = FLAGS) -> list[Function]:
    """The C expressions of ops, compiled in loops over whole arrays."""
    number, letter = ("float", "f32") if dtype == np.float32 else ("double", "f64")
    names = [n for n in names if n in OPS]
    text = '#include "scalar.h"\n' + "".join(_loop(n, number, letter) for n in names)
    with tempfile.TemporaryDirectory() as place:
        source, library = Path(place, "ops.c"), Path(place, "ops.so")
        source.write_text(text)
        include = f"-I{folder('kernels')}"
        command = ["cc", *flags, include, "-shared", "-fPIC", source, "-o", library, "-lm"]
        subprocess.run([*map(str, command)], check=True)
        loaded = ctypes.CDLL(str(library))
    return [(n, _caller(getattr(loaded, f"loop_{n}"), dtype)) for n in names]


def _loop(name: str, number: str, letter: str) -> str:
    expression = OPS[name].c.format("x[i]", "y[i]", T=number, t=letter, R=number, r=letter)
    return (
        f"void loop_{name}(const {number} *x, const {number} *y, {number} *out, int64_t n) {{\n"
        f"    (void)y;\n    for (int64_t i = 0; i < n; i++) out[i] = {expression};\n}}\n"
    )


def _caller(function: Any, dtype: Any) -> Callable[..., Array]:
    def call(x: Array, y: Array | None = None) -> Array:
        operands = [np.ascontiguousarray(a, dtype) for a in (x, x if y is None else y)]
        out = np.empty(operands[0].shape, dtype)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*operands, out)]
        function(*pointers, ctypes.c_int64(out.size))
        return out

    return call


# -- where to measure


def samples(name: str, dtype: Any, stride: int = STRIDE, exact: int = EXACT) -> list[Array]:
    """Operands: of float32 dense in its bit patterns, of float64 random."""
    rng = np.random.default_rng(1)
    if name == "power":
        return _pairs(dtype, 20 * exact if dtype == np.float32 else exact, rng)
    if dtype == np.float32:
        dense = np.arange(0, 2**32, stride, dtype=np.uint32)
        near = np.array(POINTS, dtype).view(np.uint32).astype(np.int64)
        near = np.abs(near[:, None] + np.arange(-NEAR, NEAR)).ravel().astype(np.uint32)
        bits = np.concatenate([dense, near, near | np.uint32(2**31)])
        return [bits.view(dtype)]
    bits = rng.integers(0, 2**64, exact // 4, dtype=np.uint64).view(np.float64)
    small = np.exp2(rng.uniform(-60, 10, exact)) * rng.choice([-1, 1], exact)
    middle = rng.uniform(-3, 3, exact)
    wide = rng.uniform(-750, 750, exact // 4)
    return [np.concatenate([bits, small, middle, wide, POINTS, np.negative(POINTS)])]


def _pairs(dtype: Any, count: int, rng: np.random.Generator) -> list[Array]:
    """Positive bases over the whole range, exponents that give results over the whole range."""
    info = np.finfo(dtype)
    lowest, highest = float(info.minexp) - info.nmant, float(info.maxexp)
    x = np.concatenate([np.exp2(rng.uniform(lowest, highest, count)), rng.uniform(0.5, 2, count)])
    x = x.astype(dtype)
    with np.errstate(all="ignore"):
        y = (rng.uniform(lowest - 2, highest + 2, x.size) / np.log2(x)).astype(dtype)
    return [x, y]


# -- errors


def spacing(exact: Array, dtype: Any) -> Array:
    """The unit in the last place of `dtype` at float64 values."""
    info = np.finfo(dtype)
    _, exponent = np.frexp(exact)
    return np.exp2(np.maximum(exponent - 1, info.minexp) - float(info.nmant))


def errors(got: Array, exact: Array) -> Array:
    """Of float32 results against float64 values, in units of the last place."""
    limit = 2.0**128  # what inf stands for where the exact value rounds to it
    with np.errstate(all="ignore"):
        exact = np.clip(exact, -limit, limit)
        distance = np.abs(np.clip(got.astype(np.float64), -limit, limit) - exact)
        ulp = distance / spacing(np.minimum(np.abs(exact), np.nextafter(limit, 0)), np.float32)
    both_nan = np.isnan(got) & np.isnan(exact)
    return np.where(both_nan, 0, np.where(np.isnan(ulp), np.inf, ulp))


def exact_error(name: str, got: float, operands: Sequence[float], dtype: Any, m: _Exact) -> float:
    """Of one finite result at finite operands, against mpmath."""
    exact = REFERENCES[name](m, *[m.mp.mpf(float(x)) for x in operands])
    info = np.finfo(dtype)
    limit = m.mp.mpf(2) ** int(info.maxexp)
    exact = max(-limit, min(limit, exact))
    value = max(-limit, min(limit, m.mp.mpf(float(got))))
    exponent = int(m.mp.frexp(exact)[1]) - 1
    exponent = max(min(exponent, int(info.maxexp) - 1), int(info.minexp))
    return float(abs(value - exact) / m.mp.mpf(2) ** (exponent - int(info.nmant)))


def specials_equal(name: str, function: Callable[..., Array], dtype: Any) -> bool:
    """Whether NaN, inf, signed zeros and denormals come out as NumPy has them."""
    with np.errstate(all="ignore"):
        x = SPECIAL.astype(dtype)
        operands = [x]
        if name == "power":
            x = np.concatenate([SPECIAL, WHOLE]).astype(dtype)
            operands = [a.ravel() for a in np.meshgrid(x, x)]
        got = np.asarray(function(*operands))
        expected = np.asarray(REFERENCES[name](_Wide(), *[a.astype(float) for a in operands]))
        expected = expected.astype(dtype)
        near = np.abs(got - expected) <= 4 * np.spacing(np.abs(expected))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | near
    signed = np.signbit(got) == np.signbit(expected)
    return bool(np.all(same & (signed | np.isnan(got) | (expected != 0))))


def measure(
    functions: Iterable[Function], dtype: Any, stride: int = STRIDE, exact: int = EXACT
) -> list[Row]:
    """The largest error of each function over its samples."""
    m = _Exact() if exact else None
    rows: list[Row] = []
    for name, function in functions:
        operands = samples(name, dtype, stride, exact or EXACT)
        with np.errstate(all="ignore"):
            got = np.asarray(function(*operands))
            wide = REFERENCES[name](_Wide(), *[a.astype(float) for a in operands])
        if dtype == np.float32:
            ulp = errors(got, np.asarray(wide))
        else:
            assert m is not None
            ulp = _exact_errors(name, got, operands, wide, m)
        worst = int(np.argmax(ulp))
        at = tuple(float(a[worst]) for a in operands)
        largest = float(ulp[worst])
        if dtype == np.float32 and m is not None and np.isfinite(at).all():
            largest = exact_error(name, float(got[worst]), at, dtype, m)
        right = specials_equal(name, function, dtype)
        rows.append(Row(name, np.dtype(dtype).name, largest, at, got.size, right))
    return rows


def _exact_errors(
    name: str, got: Array, operands: Sequence[Array], wide: Array, m: _Exact
) -> Array:
    """Of float64 results; where the exact value is not finite, only whether it is the same."""
    ulp = np.where((got == wide) | (np.isnan(got) & np.isnan(wide)), 0.0, np.inf)
    for i in np.flatnonzero(np.isfinite(got) & np.isfinite(wide)):
        ulp[i] = exact_error(name, got[i], [a[i] for a in operands], np.float64, m)
    return ulp


# -- the table

ABOUT = """\
# Accuracy of the scalar functions

Written by `python -m bench.accuracy`: the largest error found of each op, in units of the last
place of its dtype against the exact value (0.5 is a correctly rounded result), and the argument
there. float32: every 997th of all bit patterns and 1000 around each special point, against float64
and, the worst, mpmath. float64: random bit patterns and values, against mpmath. Specials: NaN, inf,
signed zeros and denormals come out as NumPy has them.

Compiled by {0} on {1}.
In float64 the ops marked * call the C library, whose errors they have.

"""
ABOUT_COMPOSITES = """
## Composites

Functions made of these ops, as programs of the native backend. Each op is as exact as above; what
is larger here comes from rounding between them, where the function itself is steep or near 0: erfc
of a rounded argument far out (gelu), products of denormals (silu, mish), the zero of a sum
(hard_sigmoid).

"""


def report(rows: Iterable[Row], path: Path) -> None:
    """Write the table."""
    rows = list(rows)
    ops = [r for r in rows if r.name not in COMPOSITES]
    lines = [*ABOUT.format(_compiler(), platform.machine()).splitlines(), *_table(ops)]
    if len(ops) < len(rows):
        composites = [r for r in rows if r.name in COMPOSITES]
        lines += [*ABOUT_COMPOSITES.splitlines(), *_table(composites)]
    path.write_text("\n".join(lines) + "\n")


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| function | dtype | ulp | at | points | specials |", "|" + " --- |" * 6]
    for r in rows:
        at = ", ".join(f"{x:.9g}" if r.dtype == "float32" else repr(x) for x in r.at)
        star = " *" if r.dtype == "float64" and r.name in LIBRARY else ""
        right = "yes" if r.specials else "NO"
        right = "-" if r.name in COMPOSITES else right
        lines.append(f"| {r.name}{star} | {r.dtype} | {r.ulp:.2f} | {at} | {r.points} | {right} |")
    return lines


def program(name: str, dtype: Any, backend: str = "native") -> Callable[..., Array]:
    """A function of one array as a program of a backend."""
    exe = gx.compile(FUNCTIONS[name](gx.input("x", ("n",), dtype)), backend=backend)
    return lambda x: exe(x=x)


LIBRARY = ("exp2", "log2", "power", "erf", "erfc", "sin", "cos", "tan", "arctan", "sinh", "cosh")


def _compiler() -> str:
    shown = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()[0]


def main() -> None:
    """Measure both dtypes and write the table."""
    rows: list[Row] = []
    for dtype in (np.float32, np.float64):
        rows += measure(compiled(REFERENCES, dtype), dtype)
        rows += measure([(name, program(name, dtype)) for name in COMPOSITES], dtype)
    report(rows, (checkout() or Path()) / "docs" / "accuracy.md")
    for r in rows:
        print(f"{r.name:12s} {r.dtype} {r.ulp:9.3f}  {r.at}  {'' if r.specials else 'SPECIALS'}")


if __name__ == "__main__":
    main()
