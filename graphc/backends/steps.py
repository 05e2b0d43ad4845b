"""An op's `eval`, traced into single ufunc calls, so that it runs with `out=`, allocating nothing.

The array module handed to `eval` is a `Tracer`; what comes back is the list of calls it made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from graphc.ir.node import Attrs
from graphc.ir.op import Op
from graphc.ir.tensor_type import DType

Scalar = int | float | bool | np.generic


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument of a step: operand `index` of the op, or the result of an earlier step."""

    is_operand: bool
    index: int


@dataclass(frozen=True, slots=True)
class Step:
    """One call: a ufunc of NumPy or scipy.special by name, or `where`, or `cast`."""

    function: str
    args: tuple[Ref | Scalar, ...]
    dtype: DType  # of the result
    arg_dtype: DType  # of scalar arguments


@lru_cache(maxsize=4096)
def trace(op: Op[Any], dtypes: tuple[DType, ...], attrs: Attrs) -> tuple[Step, ...]:
    """The steps of an elementwise op on operands of these dtypes; the last one gives the result."""
    assert op.eval is not None
    tracer = Tracer(dtypes)
    operands = [Traced(tracer, Ref(True, i), d) for i, d in enumerate(dtypes)]
    result = op.eval(tracer, *operands, **dict(attrs))
    if result.ref.is_operand:
        result = tracer.call("positive", result)
    return tuple(tracer.steps[: result.ref.index + 1])


@lru_cache(maxsize=1024)
def ufunc(name: str) -> Any:
    """The ufunc of this name, from NumPy or else from scipy.special."""
    found = getattr(np, name, None)
    if isinstance(found, np.ufunc):
        return found
    import scipy.special

    return getattr(scipy.special, name)


class Tracer:
    """An array module that records what is asked of it."""

    is_tracer = True

    def __init__(self, dtypes: tuple[DType, ...]) -> None:
        self.dtypes = dtypes
        self.steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args: self.call(name, *args)

    def where(self, condition: Any, x: Any, y: Any) -> Traced:
        """Choice by value: its own kind of step, because NumPy's is slow and allocates."""
        dtype = np.result_type(*(getattr(v, "dtype", v) for v in (x, y)))
        return self._append("where", (condition, x, y), dtype, dtype)

    def cast(self, x: Any, dtype: Any) -> Traced:
        """The operand as another dtype."""
        return self._append("cast", (x,), np.dtype(dtype), np.dtype(dtype))

    def call(self, name: str, *args: Any) -> Traced:
        """A ufunc call; Python scalars are weak, as in NumPy."""
        given = tuple(a.dtype if isinstance(a, Traced) else _weak(a) for a in args)
        resolved = ufunc(name).resolve_dtypes((*given, None))
        for arg, want in zip(args, resolved, strict=False):
            assert not isinstance(arg, Traced) or arg.dtype == want, (
                f"{name} would cast {arg.dtype}"
            )
        return self._append(name, args, resolved[-1], resolved[len(args) - 1])

    def _append(self, name: str, args: Any, dtype: DType, arg_dtype: DType) -> Traced:
        refs = tuple(a.ref if isinstance(a, Traced) else a for a in args)
        self.steps.append(Step(name, refs, dtype, arg_dtype))
        return Traced(self, Ref(False, len(self.steps) - 1), dtype)


def _weak(value: Any) -> Any:
    return type(value) if isinstance(value, bool | int | float) else np.asarray(value).dtype


class Traced:
    """A value seen by the tracer: it knows its dtype and NumPy's operators."""

    def __init__(self, tracer: Tracer, ref: Ref, dtype: DType) -> None:
        self.tracer, self.ref, self.dtype = tracer, ref, dtype

    def astype(self, dtype: Any) -> Traced:
        return self.tracer.cast(self, dtype)

    def __neg__(self) -> Traced:
        return self.tracer.call("negative", self)

    def __abs__(self) -> Traced:
        return self.tracer.call("absolute", self)

    def __invert__(self) -> Traced:
        return self.tracer.call("invert", self)


def _operator(name: str, *, swapped: bool = False) -> Any:
    def method(self: Traced, other: Any) -> Traced:
        return (
            self.tracer.call(name, other, self) if swapped else self.tracer.call(name, self, other)
        )

    return method


for _symbol, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "and": "bitwise_and", "or": "bitwise_or",
}.items():  # fmt: skip
    setattr(Traced, f"__{_symbol}__", _operator(_name))
    setattr(Traced, f"__r{_symbol}__", _operator(_name, swapped=True))
for _symbol, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    setattr(Traced, f"__{_symbol}__", _operator(_name))
