"""Where a parameter's value lives: a 64-byte aligned array that programs may move into a slab, or
the memory of a device. It has one home at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import numpy as np

from graphc.errors import InputError
from graphc.ir.tensor_type import DType, TensorType, fits, is_same_kind, kind_of

ALIGNMENT = 64  # bytes: one cache line; an unaligned in-place subtract is four times slower


laying_out = threading.RLock()
"""Held while a program moves parameters, so that programs of two threads do not at once. It comes
before the locks of values: whoever holds one of those must not ask for it."""


class Away(Protocol):
    """The value where it lies outside of host memory."""

    def read(self, into: np.ndarray) -> None:
        """Fill a C-contiguous array of the value's shape and dtype."""
        ...

    def write(self, value: np.ndarray) -> None:
        """Copy a C-contiguous array of the value's shape and dtype in."""
        ...


class Storage:
    """One value. `away` is its home, or None where it lies in host memory: then `array` is the
    value. `array` is replaced by `relocate`, and may lie in a `slab`.

    `changes` counts what makes programs look again: relocations and values that became invalid.
    """

    __slots__ = ("array", "away", "invalid", "lock", "slab")
    changes: ClassVar[int] = 0

    array: np.ndarray
    slab: np.ndarray | None
    away: Away | None

    def __init__(self, value: np.ndarray) -> None:
        self.array = aligned_empty(value.shape, value.dtype)
        self.array[...] = value
        self.lock = threading.RLock()
        self.slab = None
        self.away = None
        self.invalid = ""

    def read(self, name: str) -> np.ndarray:
        """A copy; raises InputError if a fault left the value undefined."""
        with self.locked():
            self.check(name)
            if self.away is None:
                return self.array.copy()
            value = np.empty(self.array.shape, self.array.dtype)
            self.away.read(value)
            return value

    def write(self, value: Any, name: str) -> None:
        """Copy `value` in; raises InputError, changing nothing, if shape or dtype do not fit."""
        wanted = TensorType(self.array.shape, self.array.dtype)
        given = admit(value, f"param {name}", wanted)
        if given.shape != self.array.shape:
            raise InputError(f"param {name} has shape {given.shape}; need {wanted}")
        with self.locked():
            if self.away is None:
                self.array[...] = given
            else:
                self.away.write(given)
            self.invalid = ""

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lock; it may change while we wait for it, when a program moves the value."""
        while True:
            lock = self.lock
            with lock:
                if lock is self.lock:
                    yield
                    return

    def relocate(self, slab: np.ndarray, start: int, lock: threading.RLock) -> None:
        """Move the value into a flat slab, from element `start` on, guarded by the slab's lock."""
        size = self.array.size
        array = slab[start : start + size].reshape(self.array.shape)
        with self.locked():
            array[...] = self.array
            self.array, self.slab, self.lock = array, slab, lock
            _changed()

    def leave(self, home: Away) -> None:
        """The value lies at `home` from now on: whoever holds the lock has copied it there."""
        self.away = home
        _changed()

    def come_home(self) -> None:
        """Bring the value back to host memory, if it is not there."""
        with self.locked():
            if self.away is not None:
                self.away.read(self.array)
                self.away = None
                _changed()

    @staticmethod
    def share_lock(storages: Sequence[Storage]) -> None:
        """Guard several values by one lock, because one program uses them all: one lock is taken
        faster than many. Programs whose values are shared, directly or through other programs, wait
        for each other."""
        locks = {id(s.lock): s.lock for s in storages}
        if len(locks) < 2:
            return
        ordered = [locks[key] for key in sorted(locks)]
        for lock in ordered:
            lock.acquire()
        try:
            for storage in storages:
                storage.lock = ordered[0]
            _changed()
        finally:
            for lock in reversed(ordered):
                lock.release()

    def invalidate(self, why: str) -> None:
        """Mark the value as undefined: a fault stopped an update midway."""
        self.invalid = why
        _changed()

    def check(self, name: str) -> None:
        """Raise InputError if the value was lost in the middle of an update."""
        if self.invalid:
            raise InputError(
                f"the value of {name} is undefined: {self.invalid}; set it with p.value = ..."
            )


_counting = threading.Lock()


def _changed() -> None:
    """Tell programs to look again."""
    with _counting:
        Storage.changes += 1


def admit(value: Any, what: str, wanted: TensorType) -> np.ndarray:
    """`value` as an array of the wanted dtype, of whatever shape.

    Casts of NumPy's kind "same_kind" are done, and lists and numbers are weak; InputError, naming
    `what`, for anything else: no numbers, a float for an integer, integers that do not fit.
    """
    if hasattr(value, "op"):
        raise InputError(f"{what} is a node; need an array: {wanted}")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not an array of numbers: {error}") from None
    if kind_of(array.dtype) not in "biuf":
        raise InputError(f"{what} has dtype {array.dtype}; need real numbers or bools: {wanted}")
    dtype = wanted.dtype
    weak = not hasattr(value, "dtype") and dtype.kind != "b"
    loses = kind_of(array.dtype) == "f" and dtype.kind == "i"
    if loses or not (weak or is_same_kind(array.dtype, dtype)):
        raise InputError(
            f"{what} has dtype {array.dtype}; need {wanted}: cast it yourself with "
            f".astype({dtype.name!r})"
        )
    if dtype.kind == "i" and not fits(array, dtype):
        raise InputError(f"{what} has values that do not fit {dtype.name}")
    with np.errstate(over="ignore"):  # a float64 too large for float32 is inf
        return array.astype(dtype, order="C")


def aligned_empty(shape: tuple[int, ...], dtype: DType, alignment: int = ALIGNMENT) -> np.ndarray:
    """An uninitialised C-contiguous array whose first byte lies at a multiple of `alignment`."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes].view(dtype).reshape(shape)
