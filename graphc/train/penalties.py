"""Penalties added to the loss, and limits that hold after each update.

They are of weights, that is of parameters with two axes or more, unless `on` gives patterns over
names: `on="*"` means biases, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import graphc as gx
from graphc.nn.names import match
from graphc.train.schedules import positive

Patterns = str | Sequence[str] | None


def chosen(params: Mapping[str, gx.Param], on: Patterns) -> list[gx.Param]:
    """The weights among the parameters, or those that a pattern names."""
    if on is None:
        return [p for p in params.values() if p.ndim >= 2]
    return [params[n] for n in match(params, [on] if isinstance(on, str) else on)]


@dataclass(frozen=True)
class L1:
    """`strength` times the sum of |w|. Tibshirani 1996, Regression Shrinkage and Selection."""

    strength: float
    on: Patterns = None

    def __post_init__(self) -> None:
        positive("strength", self.strength, or_zero=True)

    def node(self, param: gx.Param) -> gx.Node:
        return self.strength * gx.l1(param)


@dataclass(frozen=True)
class L2:
    """`strength` times the sum of w^2 / 2, whose gradient is strength * w."""

    strength: float
    on: Patterns = None

    def __post_init__(self) -> None:
        positive("strength", self.strength, or_zero=True)

    def node(self, param: gx.Param) -> gx.Node:
        return self.strength * gx.l2(param)


@dataclass(frozen=True)
class MaxNorm:
    """After an update, the weights into one output are scaled to a norm of at most `limit`: those
    of one column, or of a weight of more axes, all at one index of its last axis. A bias is alone
    in that: with on="*", |bias| <= limit. Srivastava et al. 2014, Dropout, section 5.1."""

    limit: float
    on: Patterns = None

    def __post_init__(self) -> None:
        positive("limit", self.limit)

    def node(self, updated: gx.Node) -> gx.Node:
        """The new value of a parameter, limited."""
        into_one = tuple(range(updated.ndim - 1))
        norm = gx.sqrt((updated * updated).sum(axis=into_one, keepdims=True))
        return updated * (self.limit / gx.maximum(norm, self.limit))


Penalty = L1 | L2


def penalty(params: Mapping[str, gx.Param], penalties: Sequence[Penalty]) -> gx.Node | None:
    """The sum of all penalties of the parameters that can change, 0 if those are all frozen; None
    if no parameter has a penalty."""
    found = [(rule, p) for rule in penalties for p in chosen(params, rule.on)]
    terms = [rule.node(p) for rule, p in found if p.trainable]
    if found and not terms:
        return gx.const(0.0, found[0][1].dtype.name)
    return reduce(add, terms) if terms else None


def limited(
    params: Mapping[str, gx.Param], limits: Sequence[MaxNorm], updates: dict[gx.Param, gx.Node]
) -> dict[gx.Param, gx.Node]:
    """The updates with the limits applied to the new values."""
    found = dict(updates)
    for limit in limits:
        found.update({p: limit.node(found[p]) for p in chosen(params, limit.on) if p in found})
    return found
