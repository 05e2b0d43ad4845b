"""The host memory of a prepared program: where each of its buffers lies, call after call.

Temporaries lie in one arena, parameters in storages that programs share. Small inputs are copied
into fixed slots and small results out of them; large ones are bound anew with each call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import numpy as np

from graphc.backends.base import Options
from graphc.backends.interrupts import uninterrupted
from graphc.backends.recycled import Recycled
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.ir.storage import Storage, aligned_empty, laying_out
from graphc.schedule.records import (
    Buffer,
    Line,
    Program,
    Region,
    Slab,
    buffer_nbytes,
    buffer_shape,
)

SMALL = 1 << 16  # bytes: up to here copying costs less than binding


class Binder(Protocol):
    """What runs over the memory: it is told whenever a buffer has another address."""

    def bind(self, buffer: Buffer, array: np.ndarray) -> None:
        """From now on `buffer` is `array`, C-contiguous and aligned."""
        ...

    def release(self, buffer: Buffer) -> None:
        """The array of `buffer` belongs to the caller again: keep no reference to it."""
        ...


class Arena:
    """Room for temporaries, shared by the specialisations of one executable: as large as the
    largest of them needs."""

    def __init__(self) -> None:
        self.array = aligned_empty((0,), np.dtype("uint8"))

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def reserve(self, nbytes: int) -> None:
        """Grow to at least `nbytes`; programs bound to the old array look again when called."""
        if self.array.nbytes < nbytes:
            self.array = aligned_empty((nbytes,), np.dtype("uint8"))


class HostMemory:
    """Memory for everything that a program reads and writes.

    `run` is a call: it takes the inputs, lets the step run while the locks of all parameters are
    held, and returns fresh results.
    """

    def __init__(self, program: Program, options: Options) -> None:
        self.program = program
        self.graph = program.schedule.graph
        self.updates = [p for p, _ in self.graph.updates]
        self.bases: dict[Buffer, np.ndarray] = {}
        self.arena: Arena = options.shared.setdefault("arena", Arena())
        self.arena.reserve(program.plan.peak_nbytes)
        self._find_params()
        self._find_arena()
        self._place_results()
        self._place_inputs(options.inputs)
        self._visiting = [*self._direct, *(buffer for _, buffer in self._taken)]

    def attach(self, binder: Binder) -> None:
        """Tell `binder` where everything lies, now and whenever it changes."""
        self._binder = binder
        for buffer, array in self.bases.items():
            binder.bind(buffer, array)

    # -- a call

    def run(self, inputs: Sequence[np.ndarray], step: Callable[[], object]) -> list[np.ndarray]:
        """Take the inputs, run `step`, and return fresh arrays for the results, in order."""
        while True:
            with self._lock:  # an interrupt cannot leave it locked
                if self._changes == Storage.changes:
                    return self._run_locked(inputs, step)
            self._look_again()

    def _run_locked(
        self, inputs: Sequence[np.ndarray], step: Callable[[], object]
    ) -> list[np.ndarray]:
        if self.arena.array is not self._arena_array:
            self._find_arena()
            self._rebind(Region.ARENA)
        for position, slot in self._copied:
            slot[...] = inputs[position]
        if not self._visiting:
            early = [self.bases[buffer].copy() for buffer in self._early]
            step()
            return self._collect(early)
        try:
            self._bind_visitors(inputs)
            early = [self.bases[buffer].copy() for buffer in self._early]
            step()
            return self._collect(early)
        finally:
            self._release_visitors()

    def _look_again(self) -> None:
        """Another program moved parameters, or a value became invalid."""
        self._find_params()
        self._rebind(Region.PARAM)

    def _bind_visitors(self, inputs: Sequence[np.ndarray]) -> None:
        """Large arrays: inputs where the caller has them, results in fresh room."""
        for position, buffer in self._taken:
            given = inputs[position]
            if not (given.flags.c_contiguous and given.flags.aligned):
                given = np.ascontiguousarray(given)
            self.bases[buffer] = given
            self._binder.bind(buffer, given)
        for buffer, rooms in self._direct.items():
            self.bases[buffer] = fresh = rooms.take()
            self._binder.bind(buffer, fresh)

    def _release_visitors(self) -> None:
        for buffer in self._visiting:
            if self.bases.pop(buffer, None) is not None:
                self._binder.release(buffer)

    def _collect(self, early: list[np.ndarray]) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for buffer, shape, how in self._collected:
            if how == "early":
                array = early.pop(0)
            elif how == "copy":
                array = self.bases[buffer].copy()
            else:
                array = self.bases[buffer]
            results.append(array if array.shape == shape else array.reshape(shape))
        return results

    @contextmanager
    def unchanged(self) -> Generator[None]:
        """Hold the locks of all parameters, and give those that calls meanwhile update their old
        values back at the end, bit for bit. It takes as many bytes as they do."""
        while True:
            with laying_out, self._lock:  # a call within may have to look again
                if self._changes == Storage.changes:
                    old = [p.storage.array.copy() for p in self.updates]
                    try:
                        yield
                    finally:
                        uninterrupted(partial(self._restore, old))
                    return
            self._look_again()

    def _restore(self, old: Sequence[np.ndarray]) -> None:
        for param, value in zip(self.updates, old, strict=True):
            param.storage.array[...] = value
            param.storage.invalid = ""  # a call that failed midway has done no harm

    def invalidate(self, error: BaseException) -> None:
        """A step failed midway: the values that it was to update count as lost."""
        for param in self.updates:
            param.storage.invalidate(f"{error!r} stopped an update midway")

    # -- places

    def _place_results(self) -> None:
        results = self.program.results
        self._direct: dict[Buffer, Recycled] = {}
        for buffer, place in self.program.places.items():
            if place.region is Region.CONSTANT:
                self.bases[buffer] = constant_value(buffer)
            elif place.region is Region.RESULT:
                if buffer_nbytes(buffer) <= SMALL:
                    self.bases[buffer] = aligned_empty(buffer_shape(buffer), buffer.dtype)
                else:
                    self._direct[buffer] = Recycled(buffer_shape(buffer), buffer.dtype)
        self._collected: list[tuple[Buffer, tuple[int, ...], str]] = []
        self._early: list[Buffer] = []
        taken: set[Buffer] = set()
        for _, buffer, shape in results:
            how = "copy"
            if isinstance(buffer, Node) and buffer.op.kind is Kind.SOURCE:
                how = "early"
                self._early.append(buffer)
            elif buffer in self._direct and buffer not in taken:
                how = "take"
                taken.add(buffer)
            self._collected.append((buffer, shape, how))

    def _place_inputs(self, names: Sequence[str]) -> None:
        self._copied: list[tuple[int, np.ndarray]] = []
        self._taken: list[tuple[int, Buffer]] = []
        for node in self.graph.inputs:
            position = names.index(node.name)
            if node.type.nbytes <= SMALL:
                self.bases[node] = slot = aligned_empty(buffer_shape(node), node.dtype)
                self._copied.append((position, slot))
            else:
                self._taken.append((position, node))

    def _find_arena(self) -> None:
        """Look up where the temporaries lie now."""
        self._arena_array = self.arena.array
        for buffer, place in self.program.places.items():
            if place.region is Region.ARENA:
                self.bases[buffer] = _view(self._arena_array, place.offset, buffer)

    def _find_params(self) -> None:
        """Lay the parameters out as the program wants them, and look up where they are now."""
        with laying_out:
            for param in self.graph.params:
                param.storage.come_home()
            for slab in self.program.param_slabs:
                _lay_out(slab)
            storages = [p.storage for p in self.graph.params]
            Storage.share_lock(storages)
            changes = Storage.changes
            for param in self.graph.params:
                param.storage.check(param.name)
            for buffer, place in self.program.places.items():
                owner = place.owner
                if place.region is Region.PARAM and isinstance(owner, Param):
                    self.bases[buffer] = owner.storage.array
                elif place.region is Region.PARAM and isinstance(owner, Slab):
                    slab = slab_storages(owner)[0].slab
                    assert slab is not None
                    self.bases[buffer] = slab
            self._lock = storages[0].lock if storages else threading.RLock()
            self._changes = changes

    def _rebind(self, region: Region) -> None:
        for buffer, place in self.program.places.items():
            if place.region is region:
                self._binder.bind(buffer, self.bases[buffer])


def extent_in_memory(program: Program, buffer: Buffer) -> tuple[object, int, int]:
    """What lies where: a home (equal for buffers that may share bytes) and its first and last byte.

    Buffers overlap if their homes are equal and their ranges meet.
    """
    place = program.places[buffer]
    if place.region is Region.ARENA:
        return "arena", place.offset, place.offset + max(1, buffer_nbytes(buffer))
    return (id(place.owner), 0, 1)


def _view(arena: np.ndarray, offset: int, buffer: Buffer) -> np.ndarray:
    nbytes = buffer_nbytes(buffer)
    return arena[offset : offset + nbytes].view(buffer.dtype).reshape(buffer_shape(buffer))


def constant_value(buffer: Buffer) -> np.ndarray:
    """The value of a source that is known beforehand, or its distinct elements."""
    node = buffer.node if isinstance(buffer, Line) else buffer
    assert isinstance(node, Node)
    assert node.op.eval is not None
    value = np.asarray(node.op.eval(np, **dict(node.attrs)))
    if isinstance(buffer, Line):
        if not value.size:
            return np.zeros(buffer.shape, buffer.dtype)
        moving = tuple(slice(None) if s else 0 for s in buffer.layout.strides)
        value = value[moving].reshape(-1)
    return np.ascontiguousarray(value).reshape(buffer_shape(buffer))


def slab_storages(slab: Slab) -> list[Storage]:
    """The storages of the parameters in a slab, in order."""
    return [m.storage for m in slab.members if isinstance(m, Param)]


def _lay_out(slab: Slab) -> None:
    """Let the parameters of a slab lie one behind another, if they do not already."""
    storages = slab_storages(slab)
    home = storages[0].slab
    if (
        home is not None
        and home.size == slab.size
        and all(
            s.slab is home and s.array.ctypes.data == home.ctypes.data + start * home.itemsize
            for s, start in zip(storages, slab.starts, strict=True)
        )
    ):
        return
    home = aligned_empty((slab.size,), slab.dtype)
    home[...] = 0  # the gaps are computed on, too
    lock = threading.RLock()
    for storage, start in zip(storages, slab.starts, strict=True):
        storage.relocate(home, start, lock)
