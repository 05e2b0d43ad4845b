"""Standardising and scaling of features: fitted on the training part, applied to every part."""

import os
from collections.abc import Mapping
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

import graphc as gx
from graphc.nn.tensor_file import read_tensors, write_tensors
from graphc.train.data_checks import Array, as_array, blocks, described, real

NARROW = 1e-300  # a column whose values lie no further apart counts as constant


class _Scaler:
    """x [n, ...] -> (x - offset) / factor + low, for each place of a sample.

    Floats keep their dtype; integers become float32. The arithmetic is at least float32's, float64
    for wide integers, and where offset or factor have no place among the numbers of float32.
    """

    _offset: Array | None = None
    _factor: Array | None = None
    _low = 0.0

    def fit(self, x: ArrayLike) -> Self:
        """Take what is needed from x [n, ...]."""
        raise NotImplementedError

    def fit_transform(self, x: ArrayLike) -> Array:
        """Fit to x, and x on that scale."""
        return self.fit(x).transform(x)

    def transform(self, x: ArrayLike) -> Array:
        """x on the fitted scale."""
        x, offset, factor = self._ready(x)
        return ((x - offset) / factor + self._low).astype(_float(x.dtype), copy=False)

    def inverse(self, x: ArrayLike) -> Array:
        """What `transform` made x from; exact for constant columns, else up to rounding."""
        x, offset, factor = self._ready(x)
        return ((x - self._low) * factor + offset).astype(_float(x.dtype), copy=False)

    def _ready(self, x: ArrayLike) -> tuple[Array, Array, Array]:
        who = type(self).__name__
        x = _numbers(who, x)
        if self._offset is None or self._factor is None:
            raise gx.InputError(f"{who}: not fitted yet; call fit(x) with the training part first")
        if x.shape[1:] != self._offset.shape:
            raise gx.InputError(
                f"{who}: x is {described(x)}; fitted on samples of shape {self._offset.shape}: "
                "need [n, ...] of such"
            )
        wide = np.result_type(x.dtype, np.float32)
        ends, factor = np.finfo(wide), self._factor
        fit = (factor >= ends.tiny) & (factor <= ends.max) & (abs(self._offset) <= ends.max)
        wide = wide if fit.all() else np.float64
        return x, self._offset.astype(wide), self._factor.astype(wide)

    def state(self) -> dict[str, Array]:
        """What was fitted, as arrays for a checkpoint."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """The scaler that `state` was taken from."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was fitted to a safetensors file, whole or not at all."""
        write_tensors(path, self.state(), {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The scaler that `save` wrote; CheckpointError for a file that is none, or damaged."""
        return cls.from_state(read_tensors(path)[0])


class Standardise(_Scaler):
    """To mean 0 and standard deviation 1 in each column; a constant column becomes 0."""

    def fit(self, x: ArrayLike) -> Self:
        """Take mean and standard deviation (of the population) from x [n, ...]."""
        x, low, width = _ranges("Standardise", x)
        unit = np.where(width == 0, 1.0, width)  # what is squared lies between -1 and 1

        def moment(power: int, about: Array | float) -> Array:
            parts = (((b - low) / unit - about) ** power for _, b in blocks(x))
            return reduce(np.add, (p.sum(axis=0) for p in parts)) / len(x)

        mean = moment(1, 0)
        self._offset = low + unit * mean
        self._factor = np.where(width == 0, 1.0, unit * np.sqrt(moment(2, mean)))
        return self

    def state(self) -> dict[str, Array]:
        """What was fitted, as arrays for a checkpoint; empty before."""
        if self._offset is None or self._factor is None:
            return {}
        return {"mean": self._offset, "deviation": self._factor}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """The scaler that `state` was taken from."""
        new = cls()
        if state:
            new._offset, new._factor = _states("Standardise", state, "mean", "deviation")
        return new


class Scale(_Scaler):
    """To [low, high] in each column; a constant column becomes low."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self._low = real("Scale", "low", low)
        self._high = real("Scale", "high", high, self._low, above=True)
        real("Scale", "high - low", self._high - self._low)

    def fit(self, x: ArrayLike) -> Self:
        """Take the smallest and the largest value of each column from x [n, ...]."""
        _, low, width = _ranges("Scale", x)
        self._offset = low
        self._factor = np.where(width == 0, 1.0, width / (self._high - self._low))
        return self

    def state(self) -> dict[str, Array]:
        """The range, and what was fitted, as arrays for a checkpoint."""
        found = {"low": np.array(self._low), "high": np.array(self._high)}
        if self._offset is None or self._factor is None:
            return found
        return {**found, "minimum": self._offset, "factor": self._factor}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """The scaler that `state` was taken from."""
        new = cls(*(float(end) for end in _states("Scale", state, "low", "high")))
        if "minimum" in state:
            new._offset, new._factor = _states("Scale", state, "minimum", "factor")
        return new


def _ranges(who: str, x: ArrayLike) -> tuple[Array, Array, Array]:
    """x, the smallest value of each column, and how far above it the largest is, in float64."""
    x = _numbers(who, x)
    if x.ndim < 2 or len(x) == 0:
        raise gx.InputError(f"{who}: x is {described(x)}; need at least one sample: [n, ...]")
    low = reduce(np.minimum, (b.min(axis=0) for _, b in blocks(x))).astype(np.float64)
    high = reduce(np.maximum, (b.max(axis=0) for _, b in blocks(x))).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise gx.InputError(f"{who}: x has a NaN or an infinity; drop or fill such samples first")
    with np.errstate(over="ignore"):
        width = high - low
    if not np.isfinite(width).all():
        raise gx.InputError(f"{who}: x has values further apart than 1.8e308; need smaller numbers")
    return x, low, np.where(width < NARROW, 0.0, width)


def _numbers(who: str, x: ArrayLike) -> Array:
    x = as_array(f"{who}: x", x)
    if x.dtype.kind not in "biufV" or x.dtype.fields is not None:  # V: bfloat16
        raise gx.InputError(f"{who}: x is {described(x)}; need real numbers")
    return x


def _states(who: str, state: Mapping[str, Array], *names: str) -> list[Array]:
    missing = [name for name in names if name not in state]
    if missing:
        raise gx.InputError(f"{who}.from_state: {missing[0]!r} is missing; found {sorted(state)}")
    return [np.array(state[name], np.float64) for name in names]


def _float(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return dtype if dtype.kind in "fV" else np.dtype(np.float32)
