"""Memory of the emulated device: host memory between pages that nothing may touch.

Each allocation ends where such a page starts, as exactly as its alignment permits, so that a read
or a write past its end is found when it is made. The bytes that are left between an allocation and
the pages beside it are a fence: they are 0xff, and each launch is followed by a look whether they
still are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from graphc.errors import DeviceMemoryError
from graphc.errors import EmulatorError as EmulatorError

PAGE = mmap.PAGESIZE
GUARD_NBYTES = max(PAGE, 1 << 16)  # on each side of an allocation; nothing backs them
UNUSED = 0xFF  # in each byte of fresh memory: NaN in all kinds of floats, -1 in integers


class Fence(ctypes.Structure):
    """Bytes beside an allocation, which stay as they are; kernels/emulator.h reads it."""

    _fields_ = (("start", ctypes.c_void_p), ("nbytes", ctypes.c_int64))


@dataclass(frozen=True, slots=True)
class Place:
    """An allocation, and the accessible pages that hold it; `owner` keeps them."""

    start: int
    nbytes: int
    pages: int
    pages_nbytes: int
    owner: Pages
    name: str = ""
    itemsize: int = 1

    @property
    def fences(self) -> tuple[Fence, Fence]:
        end, last = self.start + self.nbytes, self.pages + self.pages_nbytes
        return Fence(self.pages, self.start - self.pages), Fence(end, last - end)

    def distance(self, address: int) -> str:
        """Where an address lies, in words."""
        if self.name:
            element, count = (address - self.start) // self.itemsize, self.nbytes // self.itemsize
            return f"element {element} of parameter {self.name}, which has {count}"
        if address < self.start:
            return f"{self.start - address} bytes before the start of {self.nbytes} bytes"
        past = address - self.start - self.nbytes
        if past < 0:
            return f"at byte {address - self.start} of {self.nbytes} bytes"
        return f"{past} bytes past the end of {self.nbytes} bytes"


class EmulatedBlock:
    """Memory that is given back when nothing refers to it."""

    __slots__ = ("__weakref__", "_memory", "address", "nbytes")

    def __init__(self, place: Place, memory: Memory) -> None:
        self.address = place.start
        self.nbytes = place.nbytes
        self._memory = memory  # which keeps the pages

    def array(self) -> np.ndarray:
        """Its bytes; the array keeps the block alive."""
        return view(self.address, self.nbytes, self)


class Memory:
    """All allocations of a device.

    `at_end` False puts them behind the page in front instead: then what finds accesses at once are
    those before a start, and those past an end are left to the fence.

    The end of a block is only noted, and its pages are given back at the next look at the memory:
    Python loses an interrupt that comes while it finalizes.
    """

    def __init__(self, capacity: int, alignment: int = 256, *, at_end: bool = True) -> None:
        self.capacity = capacity
        self.alignment = alignment
        self.at_end = at_end
        self._places: dict[int, Place] = {}
        self._blocks: dict[int, weakref.KeyedRef[int, EmulatedBlock]] = {}
        self._ended: list[weakref.KeyedRef[int, EmulatedBlock]] = []
        self._fences: ctypes.Array[Fence] | None = None
        self._holders = 0
        self._lock = threading.RLock()

    @property
    def free_nbytes(self) -> int:
        places = self._look()
        return self.capacity - sum(self._rounded(p.nbytes) for p in places)

    def allocate(self, nbytes: int, what: tuple[str, int] = ("", 1)) -> EmulatedBlock:
        """Memory with all bytes 0xff. `what`: the name of the parameter that it is for, and the
        bytes of one of its elements."""
        padded = self._rounded(nbytes)
        if padded > self.free_nbytes:
            raise DeviceMemoryError(
                f"the emulated device has {self.free_nbytes} free bytes, not {nbytes}"
            )
        pages_nbytes = -(-padded // PAGE) * PAGE
        pages = Pages(pages_nbytes)
        ctypes.memset(pages.start, UNUSED, pages_nbytes)
        start = pages.start + (pages_nbytes - padded if self.at_end else 0)
        place = Place(start, nbytes, pages.start, pages_nbytes, pages, *what)
        block = EmulatedBlock(place, self)
        with self._lock:
            self._blocks[start] = weakref.KeyedRef(block, self._ended.append, start)
            self._places[start] = place
            self._fences = None
        return block

    def fences(self) -> ctypes.Array[Fence]:
        """Of all allocations: two of each."""
        places = self._look()
        if self._fences is None:
            found = [fence for place in places for fence in place.fences]
            self._fences = (Fence * len(found))(*found)
        return self._fences

    def check(self, address: int, nbytes: int, what: str) -> None:
        """Raise EmulatorError if these bytes are not all in one allocation."""
        for place in self._look():
            if place.start <= address and address + nbytes <= place.start + place.nbytes:
                return
        if nbytes:
            where = self.describe(address + nbytes) or self.describe(address) or "in no allocation"
            raise EmulatorError(f"{what} of {nbytes} bytes at {address:#x} ends {where}")

    def describe(self, address: int) -> str:
        """Where an address lies in, or near, an allocation; "" if it does neither."""
        for place in self._look():
            last = place.pages + place.pages_nbytes + GUARD_NBYTES
            if place.pages - GUARD_NBYTES <= address < last:
                return place.distance(address)
        return ""

    def _rounded(self, nbytes: int) -> int:
        return -(-nbytes // self.alignment) * self.alignment

    @contextmanager
    def held(self) -> Generator[None]:
        """While it lasts, all allocations stay where they are, whether referred to or not."""
        self._look()
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    def _look(self) -> list[Place]:
        """All allocations; pages of blocks that have ended are given back."""
        with self._lock:
            while self._ended and not self._holders:
                start = self._ended[-1].key  # again, should an interrupt come here
                self._fences = None
                self._places.pop(start, None)
                self._blocks.pop(start, None)
                self._ended.pop()
            return list(self._places.values())


@dataclass(frozen=True, slots=True)
class _Bytes:
    """What NumPy asks for the bytes of an address; as an array's base it keeps `owner` alive."""

    __array_interface__: dict[str, Any]
    owner: object


def view(address: int, nbytes: int, owner: object = None) -> np.ndarray:
    """The bytes at an address as an array."""
    interface = {"shape": (nbytes,), "typestr": "|u1", "data": (address, False), "version": 3}
    return np.asarray(_Bytes(interface, owner))


# -- pages


class Pages:
    """New pages, whole ones, with pages before and after that cannot be accessed."""

    __slots__ = ("_mapped", "start")

    def __init__(self, nbytes: int) -> None:
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._mapped = mmap.mmap(-1, nbytes + 2 * GUARD_NBYTES, kind)  # it unmaps itself
        except (OSError, OverflowError) as error:
            raise DeviceMemoryError(f"no {nbytes} bytes: {error}") from error
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._mapped))
        self.start = first + GUARD_NBYTES
        forbid(first, GUARD_NBYTES)
        forbid(self.start + nbytes, GUARD_NBYTES)


def forbid(address: int, nbytes: int) -> None:
    """Let no one access these pages."""
    if _mprotect()(address, nbytes, 0):
        raise DeviceMemoryError(f"pages cannot be guarded: {os.strerror(ctypes.get_errno())}")


@cache
def _mprotect() -> Any:
    """The C library's function."""
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
