"""Philox4x32-10, a counter-based random generator: the same bits on every backend, in any order.

Salmon, Moraes, Dror, Shaw 2011, Parallel Random Numbers: As Easy as 1, 2, 3.

    key     = (seed low, seed high)
    counter = (group, number of the draw in the declared graph, step low, step high)

One counter gives four 32-bit words, for the four elements of a group: element e of a draw uses lane
e % 4 of group e // 4. A draw can so be made in any blocks, and made again instead of stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir.node import Node
from graphc.ir.op import Array, Kind

LANES = 4
MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt 3 - 1: added to the key after each round
ROUNDS = 10


def philox(counter: tuple[Array, ...], key: tuple[int, int], xp: Any = np) -> tuple[Array, ...]:
    """Four words from four words of counter and two of key: uint64 arrays of values below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    m0, m1, low = xp.uint64(MULTIPLIERS[0]), xp.uint64(MULTIPLIERS[1]), xp.uint64(MASK)
    half = xp.uint64(32)
    for _ in range(ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (
            (p1 >> half) ^ c1 ^ xp.uint64(k0),
            p1 & low,
            (p0 >> half) ^ c3 ^ xp.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


@dataclass(frozen=True, slots=True)
class Draws:
    """The random stream of one step. `numbers`: identity of a random node -> number of its draw."""

    seed: int
    step: int
    numbers: Mapping[int, int]

    def words(self, identity: int, first_group: int, groups: int, xp: Any = np) -> Array:
        """uint32 [groups, 4]: the words of some groups of one draw."""
        line = xp.arange(first_group, first_group + groups, dtype=xp.uint64)
        rest = (self.numbers[identity], self.step & MASK, (self.step >> 32) & MASK)
        counter = (line, *(xp.full(groups, value, dtype=xp.uint64) for value in rest))
        key = (self.seed & MASK, (self.seed >> 32) & MASK)
        return xp.stack(philox(counter, key, xp), axis=1).astype(xp.uint32)


def number_draws(nodes: Iterable[Node]) -> dict[int, int]:
    """Numbers 0, 1, ... for the random nodes of a topological order, by their identity."""
    numbers: dict[int, int] = {}
    for node in nodes:
        if node.op.kind is Kind.RANDOM:
            numbers.setdefault(node.attr("identity"), len(numbers))
    return numbers


def group_count(size: int) -> int:
    """How many groups of four cover `size` elements."""
    return -(-size // LANES)
