"""Initial values of parameters: plain functions from a shape and a seed to an array.

    init.he_normal((64, 128), seed=0)               float32[64, 128], the same in every run
    nn.Dense(64, 128, weight=init.normal(std=0.1))  without a shape: an initialiser, for a layer

A weight is [inputs, outputs], as in x @ w: its fan-in is the number of inputs that one output adds
up, its fan-out the number of outputs. Axes before these two multiply both, as those of a kernel do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

import graphc as gx

Shape = int | Sequence[int]
Seed = int | Sequence[int]
Initialiser = Callable[..., np.ndarray]  # (shape, *, seed, dtype) -> array


def _or_later(function: Initialiser) -> Callable[..., Any]:
    """The function; called without a shape, an initialiser with the settings that were given."""

    @wraps(function)
    def found(*shape: Any, **settings: Any) -> Any:
        if shape or "shape" in settings:
            return function(*shape, **settings)
        try:
            inspect.signature(function).bind((), **settings)
        except TypeError as error:
            names = ", ".join(inspect.signature(function).parameters)
            raise gx.InputError(f"{function.__name__}({names}): {error}") from None
        if {"seed", "dtype"} & set(settings):
            raise gx.InputError(
                f"{function.__name__} without a shape: seed and dtype come from the layer"
            )
        return partial(found, **settings)

    return found


@_or_later
def zeros(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """All 0: the usual start of a bias. `seed` is there because every initialiser takes one."""
    return constant(shape, 0.0, seed=seed, dtype=dtype)


@_or_later
def ones(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """All 1: the usual start of a scale."""
    return constant(shape, 1.0, seed=seed, dtype=dtype)


@_or_later
def constant(
    shape: Shape, value: float = 0.0, *, seed: Seed = 0, dtype: Any = "float32"
) -> np.ndarray:
    """All `value`."""
    _generator(seed)
    return np.full(_sizes(shape), value, as_dtype(dtype))


@_or_later
def normal(
    shape: Shape, mean: float = 0.0, std: float = 0.01, *, seed: Seed = 0, dtype: Any = "float32"
) -> np.ndarray:
    """Draws from the normal distribution N(mean, std^2)."""
    drawn = _generator(seed).standard_normal(_sizes(shape))
    return (drawn * std + mean).astype(as_dtype(dtype))


@_or_later
def uniform(
    shape: Shape, low: float = -0.05, high: float = 0.05, *, seed: Seed = 0, dtype: Any = "float32"
) -> np.ndarray:
    """Draws from the uniform distribution U[low, high)."""
    return _generator(seed).uniform(low, high, _sizes(shape)).astype(as_dtype(dtype))


@_or_later
def glorot_uniform(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """U[-a, a) with a = sqrt(6 / (fan_in + fan_out)), for tanh, sigmoid and no activation.

    Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward neural
    networks, eq. 16.
    """
    fan_in, fan_out = _fans(shape)
    limit = math.sqrt(6 / (fan_in + fan_out))
    return uniform(shape, -limit, limit, seed=seed, dtype=dtype)


@_or_later
def glorot_normal(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """N(0, 2 / (fan_in + fan_out)). Glorot and Bengio 2010, eq. 12."""
    fan_in, fan_out = _fans(shape)
    return normal(shape, std=math.sqrt(2 / (fan_in + fan_out)), seed=seed, dtype=dtype)


@_or_later
def he_uniform(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """U[-a, a) with a = sqrt(6 / fan_in), whose variance is that of `he_normal`.

    He, Zhang, Ren and Sun 2015, Delving Deep into Rectifiers, eq. 10.
    """
    limit = math.sqrt(6 / _fans(shape)[0])
    return uniform(shape, -limit, limit, seed=seed, dtype=dtype)


@_or_later
def he_normal(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """N(0, 2 / fan_in), for relu and its like. He, Zhang, Ren and Sun 2015, eq. 10."""
    return normal(shape, std=math.sqrt(2 / _fans(shape)[0]), seed=seed, dtype=dtype)


@_or_later
def lecun_normal(shape: Shape, *, seed: Seed = 0, dtype: Any = "float32") -> np.ndarray:
    """N(0, 1 / fan_in), for selu.

    LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp, eq. 16; for selu: Klambauer et al.
    2017, Self-Normalizing Neural Networks.
    """
    return normal(shape, std=math.sqrt(1 / _fans(shape)[0]), seed=seed, dtype=dtype)


@_or_later
def orthogonal(
    shape: Shape, gain: float = 1.0, *, seed: Seed = 0, dtype: Any = "float32"
) -> np.ndarray:
    """A matrix with orthonormal columns (or rows, if there are fewer), times `gain`.

    Q of a QR decomposition of normal draws, its signs those of R's diagonal, so that Q is uniform
    over the orthogonal matrices. Saxe, McClelland and Ganguli 2014, Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks.
    """
    sizes = _sizes(shape)
    if len(sizes) < 2:
        raise gx.InputError(f"orthogonal: shape {sizes} needs two axes or more")
    rows, columns = math.prod(sizes[:-1]), sizes[-1]
    drawn = _generator(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    q = q if rows >= columns else q.T
    return (gain * q).reshape(sizes).astype(as_dtype(dtype))


INITIALISERS: dict[str, Initialiser] = {
    f.__name__: f
    for f in (
        zeros, ones, constant, normal, uniform, glorot_uniform, glorot_normal, he_uniform,
        he_normal, lecun_normal, orthogonal,
    )
}  # fmt: skip


def as_initialiser(initialiser: str | Initialiser, argument: str) -> Initialiser:
    """The initialiser of this name, or the function itself; InputError for anything else."""
    if callable(initialiser) and not isinstance(initialiser, type) and _is_called_so(initialiser):
        return initialiser
    if isinstance(initialiser, str) and initialiser in INITIALISERS:
        return INITIALISERS[initialiser]
    raise gx.InputError(
        f"{argument}={initialiser!r}: need {', '.join(INITIALISERS)}, one of these with settings, "
        "such as nn.init.normal(std=0.1), or a function (shape, *, seed, dtype) -> array; values "
        "that are known are set with .value = array"
    )


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype by graphc's names, bfloat16 included; DTypeError unless it is a float."""
    found = gx.const(0, dtype).dtype
    if found.name not in ("float16", "bfloat16", "float32", "float64"):
        raise gx.DTypeError(f"dtype {found.name}: a parameter is float, for its gradient")
    return found


def _is_called_so(initialiser: Initialiser) -> bool:
    try:
        inspect.signature(initialiser).bind((), seed=0, dtype="float32")
    except TypeError:
        return False
    except ValueError:  # one written in C that does not say
        return True
    return True


def _sizes(shape: Shape) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise gx.InputError(f"shape {shape!r}: need ints of 1 or more")
    return tuple(int(n) for n in sizes)


def _fans(shape: Shape) -> tuple[int, int]:
    """The number of inputs that one output adds up, and of outputs that one input goes to."""
    sizes = _sizes(shape)
    if len(sizes) < 2:
        return (math.prod(sizes), math.prod(sizes))
    positions = math.prod(sizes[:-2])
    return positions * sizes[-2], positions * sizes[-1]


def _generator(seed: Seed) -> np.random.Generator:
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise gx.InputError(f"seed {seed!r}: need an int of 0 or more, or several") from None
