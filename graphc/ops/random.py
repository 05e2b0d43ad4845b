"""Random draws: each is a node with an identity of its own, and a function of seed, step and place.

`eval` turns words [groups, 4] of Philox into a flat array of elements; see `ir/philox.py`. The
draws are standard ones, scaled by ordinary ops: their bounds may be nodes and have gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.errors import DTypeError, InputError
from graphc.ir.build import declare, dtype_for, shape_for, stored
from graphc.ir.node import Node, Operand, explain, make, new_identity
from graphc.ir.op import F, Kind, composite
from graphc.ir.tensor_type import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOATS,
    NARROW,
    DType,
    TensorType,
    computed_in,
)

DIGITS = {FLOAT16: 11, BFLOAT16: 8}  # binary ones, of a 16-bit float between 0.5 and 1


def _drawn(shape: Any, dtype: DType, **_: Any) -> TensorType:
    return TensorType(shape, dtype)


def _fraction(words: Any, dtype: DType, offset: int = 0) -> Any:
    """Words as fractions of 1, of 24 bits in float32 and 32 in float64; `offset` in last places."""
    if dtype == FLOAT32:
        return ((words >> 8).astype(dtype) + dtype.type(offset)) * dtype.type(2.0**-24)
    return (words.astype(dtype) + dtype.type(offset)) * dtype.type(2.0**-32)


def _uniform(xp: Any, words: Any, shape: Any, dtype: DType, identity: int) -> Any:
    return _fraction(words, dtype).reshape(-1)


def _normal(xp: Any, words: Any, shape: Any, dtype: DType, identity: int) -> Any:
    """Box and Muller 1958, from the pairs of lanes (0, 1) and (2, 3)."""
    radius = xp.sqrt(-2 * xp.log(_fraction(words[:, 0::2], dtype, offset=1)))  # of (0, 1]
    angle = _fraction(words[:, 1::2], dtype) * dtype.type(2 * math.pi)
    pairs = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=-1)
    return pairs.reshape(-1)


def _bernoulli(xp: Any, words: Any, shape: Any, dtype: DType, identity: int, p: float) -> Any:
    return ((words >> 8) < np.uint32(round(p * 2.0**24))).reshape(-1)


def _draw(op: Any, shape: Any, dtype: Any, **parameters: Any) -> Node:
    found = dtype_for(op.name, dtype)
    if found not in FLOATS and found != BOOL:
        raise DTypeError(explain(op.name, f"draws floats, not {found.name}", ()))
    extents, identity = shape_for(op.name, shape), new_identity()
    drawn = make(op, shape=extents, dtype=computed_in(found), identity=identity, **parameters)
    return stored(drawn, found)


@declare(
    Kind.RANDOM,
    "u ~ U[0, 1)",
    infer=_drawn,
    eval=_uniform,
    c="gx_draw_uniform_{r}({0}, {1}, {2}, {3})",
    cost=16.0,
)
def uniform(shape: Any, dtype: Any = "float32") -> Node:
    """A draw from [0, 1): 24 random bits in float32, 32 in float64; in float16 and bfloat16 the
    first 11 and 8 of those of float32, since rounding them could give 1."""
    found = dtype_for("uniform", dtype)
    if found not in NARROW:
        return _draw(uniform, shape, found)
    scale = 2.0 ** DIGITS[found]
    return stored(F.floor(_draw(uniform, shape, FLOAT32) * scale) * (1 / scale), found)


@declare(
    Kind.RANDOM,
    "z ~ N(0, 1)",
    infer=_drawn,
    eval=_normal,
    c="gx_draw_normal_{r}({0}, {1}, {2}, {3})",
    cost=32.0,
)
def normal(shape: Any, dtype: Any = "float32") -> Node:
    """A draw from the standard normal distribution, by Box and Muller."""
    return _draw(normal, shape, dtype)


@declare(
    Kind.RANDOM,
    "b ~ (u < round(p 2^24)), u of 24 bits",
    infer=_drawn,
    eval=_bernoulli,
    c="gx_draw_bernoulli_{r}({0}, {1}, {2}, {3}, {threshold})",
    cost=12.0,
)
def bernoulli(shape: Any, p: float) -> Node:
    """Bools that are True with probability `p`, compared as integers: exact on every backend.

    Raises InputError unless 0 <= p <= 1.
    """
    if isinstance(p, bool) or not isinstance(p, int | float | np.number) or not 0 <= p <= 1:
        raise InputError(explain("bernoulli", f"p {p!r}: need a number, 0 <= p <= 1", ()))
    return _draw(bernoulli, shape, BOOL, p=float(p))


@composite
def random_uniform(shape: Any, low: Operand = 0, high: Operand = 1, dtype: Any = "float32") -> Node:
    """A draw from [low, high), another one in each step; `low` and `high` may be nodes that
    broadcast to `shape`, with gradients. It is u * (high - low) + low with u from [0, 1), which may
    round to `high` itself, unless the bounds are 0 and 1."""
    u = uniform(shape, dtype)
    if not _is(low, 0) or not _is(high, 1):
        u = u * (high - low)
    return u if _is(low, 0) else u + low


@composite
def random_normal(shape: Any, mean: Operand = 0, std: Operand = 1, dtype: Any = "float32") -> Node:
    """A draw from the normal distribution, another one in each step; `mean` and `std` may be nodes
    that broadcast to `shape`, with gradients."""
    z = normal(shape, dtype)
    z = z if _is(std, 1) else z * std
    return z if _is(mean, 0) else z + mean


def _is(value: Operand, number: int) -> bool:
    return isinstance(value, int | float) and value == number
