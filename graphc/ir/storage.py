"""Where a parameter's value lives: a 64-byte aligned array that programs may move into a slab."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np

from graphc.errors import InputError
from graphc.ir.tensor_type import DType

ALIGNMENT = 64  # bytes: one cache line; an unaligned in-place subtract is four times slower


class Storage:
    """One value in host memory. `array` is replaced by `relocate`, and may lie in a `slab`.

    `changes` counts what makes programs look again: relocations and values that became invalid.
    """

    __slots__ = ("array", "invalid", "lock", "slab")
    changes: ClassVar[int] = 0

    array: np.ndarray
    slab: np.ndarray | None

    def __init__(self, value: np.ndarray) -> None:
        self.array = aligned_empty(value.shape, value.dtype)
        self.array[...] = value
        self.lock = threading.RLock()
        self.slab = None
        self.invalid = ""

    def read(self, name: str) -> np.ndarray:
        """A copy; raises InputError if a fault left the value undefined."""
        with self.lock:
            self.check(name)
            return self.array.copy()

    def write(self, value: Any, name: str) -> None:
        """Copy `value` in; raises InputError, changing nothing, if shape or dtype do not fit."""
        try:
            given = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"param {name}: the new value is not an array: {error}") from None
        wanted = f"{self.array.dtype.name}{list(self.array.shape)}"
        if given.shape != self.array.shape:
            raise InputError(f"param {name}: the new value has shape {given.shape}; need {wanted}")
        weak = not isinstance(value, np.ndarray | np.generic)
        casting = "unsafe" if weak and given.dtype.kind in "bif" else "same_kind"
        if given.dtype.kind not in "bif" or not np.can_cast(given.dtype, self.array.dtype, casting):
            raise InputError(
                f"param {name}: the new value is {given.dtype}; need {wanted}: cast it yourself "
                f"with .astype({self.array.dtype.name!r})"
            )
        with self.lock:
            self.array[...] = given
            self.invalid = ""

    def relocate(self, slab: np.ndarray, start: int, lock: threading.RLock) -> None:
        """Move the value into a flat slab, from element `start` on, guarded by the slab's lock."""
        size = self.array.size
        array = slab[start : start + size].reshape(self.array.shape)
        with self.lock:
            array[...] = self.array
            self.array, self.slab, self.lock = array, slab, lock
            Storage.changes += 1

    def invalidate(self, why: str) -> None:
        """Mark the value as undefined: a fault stopped an update midway."""
        self.invalid = why
        Storage.changes += 1

    def check(self, name: str) -> None:
        """Raise InputError if the value was lost in the middle of an update."""
        if self.invalid:
            raise InputError(
                f"the value of {name} is undefined: {self.invalid}; set it with p.value = ..."
            )


def aligned_empty(shape: tuple[int, ...], dtype: DType, alignment: int = ALIGNMENT) -> np.ndarray:
    """An uninitialised C-contiguous array whose first byte lies at a multiple of `alignment`."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes].view(dtype).reshape(shape)
