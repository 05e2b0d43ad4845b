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
BLOCK = 8192  # groups made at a time: what fits into the cache


def philox(counter: Array, key: tuple[int, int], xp: Any = np) -> Array:
    """Words [4, n] from counters [4, n] and two words of key: uint64 values below 2^32."""
    even, odd = counter[0::2], counter[1::2]  # (c0, c2) and (c1, c3)
    low, half, multipliers = xp.uint64(MASK), xp.uint64(32), _column(MULTIPLIERS, xp)
    rounds = xp.arange(ROUNDS, dtype=xp.uint64).reshape(ROUNDS, 1, 1)
    for keys in (_column(key, xp) + rounds * _column(WEYL, xp)) & low:
        product = (even * multipliers)[::-1]
        even, odd = (product >> half) ^ odd ^ keys, product & low
    return xp.stack([even[0], odd[0], even[1], odd[1]])


def _column(words: tuple[int, int], xp: Any) -> Array:
    return xp.asarray(words, dtype=xp.uint64).reshape(2, 1)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random stream of one step. `numbers`: identity of a random node -> number of its draw."""

    seed: int
    step: int
    numbers: Mapping[int, int]

    def words(self, identity: int, first_group: int, groups: int, xp: Any = np) -> Array:
        """uint32 [groups, 4]: the words of some groups of one draw."""
        rest = (self.numbers[identity], self.step & MASK, (self.step >> 32) & MASK)
        key = (self.seed & MASK, (self.seed >> 32) & MASK)
        words = xp.empty((groups, LANES), dtype=xp.uint32)
        for start in range(0, groups, BLOCK):
            count = min(BLOCK, groups - start)
            counter = xp.empty((4, count), dtype=xp.uint64)
            counter[0] = xp.arange(count, dtype=xp.uint64) + xp.uint64(first_group + start)
            for row, value in enumerate(rest, 1):
                counter[row] = value
            words[start : start + count] = philox(counter, key, xp).T
        return words


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
