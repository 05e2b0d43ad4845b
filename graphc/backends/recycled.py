"""Room for large results, used again once the caller has let go of the array that was in it.

A fresh array of some megabytes costs more than computing it: the system hands out its pages one by
one, each filled with zeros. Arrays that nobody holds any more give their room to the next call.
"""

from __future__ import annotations

import sys

import numpy as np

from graphc.ir.storage import ALIGNMENT
from graphc.ir.tensor_type import DType

KEPT = 2  # rooms for one result: the caller mostly holds the last result while the next is made


class Recycled:
    """The rooms of one result."""

    def __init__(self, shape: tuple[int, ...], dtype: DType) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._rooms: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An uninitialised array whose memory no other living array shares.

        Every view of a room keeps the room itself alive (NumPy's `base`), so that a room to which
        there is no reference but ours is free.
        """
        for room in self._rooms:
            if sys.getrefcount(room) == _UNUSED:
                return self._array(room)
        if len(self._rooms) == KEPT:
            del self._rooms[0]  # it belongs to whoever holds it
        room = np.empty(self.nbytes + ALIGNMENT, np.uint8)
        self._rooms.append(room)
        return self._array(room)

    def _array(self, room: np.ndarray) -> np.ndarray:
        start = -room.ctypes.data % ALIGNMENT
        return room[start : start + self.nbytes].view(self.dtype).reshape(self.shape)


def _count_unused() -> int:
    """What `sys.getrefcount` says, in a loop like that of `take`, of a room that is only kept."""
    rooms = [np.empty(1, np.uint8)]
    for room in rooms:
        return sys.getrefcount(room)
    raise AssertionError


_UNUSED = _count_unused()
