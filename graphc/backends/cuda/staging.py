"""What the host tells a step: a page-locked block, copied by one upload to a fixed place on the
device.

It begins with a table of words: the index of the step, and the addresses of the caller's arrays (0
for none). Behind it lie the slots of small inputs, so that those that come from the host are where
they are wanted with the same upload. A ring of such blocks lets the host fill one while others are
still being copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.backends.cuda.device import Device, Event
from graphc.backends.cuda.memory import ALIGNMENT
from graphc.ir.node import Node
from graphc.schedule.records import buffer_shape

SMALL = 1 << 16  # bytes: up to here an input has its slot in the staging block
BERTHS = 4  # steps that the host may be ahead
WORD = 8  # bytes


@dataclass
class Berth:
    """One page-locked block, the event after the step that it was made for, and what that step
    still needs of the caller's."""

    block: np.ndarray
    event: Event
    words: memoryview  # faster than an array, one by one
    slots: dict[Node, np.ndarray]
    keep: list[Any] = field(default_factory=list[Any])


class Staging:
    """`nbytes`: of the place on the device; `offsets`: where in it the slots of inputs lie."""

    def __init__(self, words: int, inputs: Sequence[Node]) -> None:
        self.words = words
        self.table_nbytes = self.nbytes = _padded(words * WORD)
        self.offsets: dict[Node, int] = {}
        self.ends: dict[Node, int] = {}  # bytes to be uploaded for a slot to be among them
        for node in inputs:
            if node.type.nbytes <= SMALL:
                self.offsets[node] = self.nbytes
                self.ends[node] = self.nbytes + node.type.nbytes
                self.nbytes += _padded(node.type.nbytes)
        self._berths: list[Berth] = []
        self._next = 0

    def take(self, device: Device) -> Berth:
        """A block that nothing is copied from any more."""
        if len(self._berths) < BERTHS:
            self._berths.append(self._berth(device))
        berth = self._berths[self._next]
        self._next = (self._next + 1) % BERTHS
        berth.event.wait()
        berth.keep.clear()
        return berth

    def __del__(self) -> None:
        """Page-locked memory is given to the next who asks, whatever is still copied from it."""
        try:
            for berth in self._berths:
                berth.event.wait()
        except Exception:  # the end of the process, or a lost device
            return

    def _berth(self, device: Device) -> Berth:
        block = device.pinned(self.nbytes)
        slots = {
            node: block[start : start + node.type.nbytes]
            .view(node.dtype)
            .reshape(buffer_shape(node))
            for node, start in self.offsets.items()
        }
        words = block.data[: self.words * WORD].cast("Q")
        return Berth(block, device.event(), words, slots)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
