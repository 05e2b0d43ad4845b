"""A device for tests: host memory, kernels by NumPy, work that is done as late as possible.

Work is queued and done when somebody waits, so that a host that overwrites what is still to be
copied is found. Each access is looked up among the living blocks, so that an address of memory that
was given back is found, too.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from graphc.backends import numpy_backend
from graphc.backends.base import Availability, Backend, Options
from graphc.backends.cuda.cuda_backend import backend_on
from graphc.backends.cuda.device import DeviceError, DeviceMemoryError, Event, Facts
from graphc.backends.numpy_backend import NumpyRunner
from graphc.codegen.launches import Address, Choice, KernelLaunch, Launch, Product, State
from graphc.errors import BackendUnavailable
from graphc.ir.philox import Draws
from graphc.ir.storage import aligned_empty
from graphc.ir.tensor_type import DType
from graphc.schedule.records import Buffer, Program, buffer_nbytes, buffer_shape

Work = Callable[[], None]


class Room:
    """A block of device memory."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.array = aligned_empty((nbytes,), np.dtype("uint8"), 256)
        self.array[...] = 0xFF  # NaN
        self.address: int = self.array.ctypes.data


@dataclass
class Remote:
    """An array on the device, of no other use to the host."""

    shape: tuple[int, ...]
    dtype: DType
    address: int
    room: Room

    def __getitem__(self, start: int) -> Remote:
        """What lies from an index of the first axis on."""
        nbytes = self.room.nbytes // max(1, self.shape[0])
        shape = (self.shape[0] - start, *self.shape[1:])
        return Remote(shape, self.dtype, self.address + start * nbytes, self.room)


class Tape:
    """Recorded work."""

    def __init__(self, device: StandIn, work: list[Work]) -> None:
        self.device, self.work = device, work

    @property
    def recording(self) -> Tape:
        return self

    def replay(self) -> None:
        self.device.replays += 1
        self.device.queue.extend(self.work)


class Mark:
    """An event; its seconds are the number of pieces of work done before it."""

    def __init__(self, device: StandIn) -> None:
        self.device, self.recorded, self.done = device, 0, 0

    def record(self) -> None:
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self.done, self.seconds = number, float(self.device.worked)

        self.device.do(reach)

    def wait(self) -> None:
        while self.done < self.recorded:
            self.device.work_once()
        self.device.refuse_if_lost()

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, Mark)
        return self.seconds - earlier.seconds


class StandIn:
    """The device. `kernels` are the functions of its one module, by name."""

    def __init__(self, capacity: int = 1 << 30, records: bool = True) -> None:
        self.name, self.facts = "stand-in", Facts("host memory", "none", 2)
        self.capacity, self.records = capacity, records
        self.kernels: dict[str, Callable[..., None]] = {
            "gx_fetch": self._fetch, "gx_deliver": self._deliver, "gx_advance": self._advance
        }  # fmt: skip
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.replays = self.uploads = self.worked = self.active_contexts = 0
        self.faults: list[BaseException] = []  # raised by launches that are asked for
        self.illegal = ""  # the function in which the device will be lost, by its name
        self.lost = False
        self._lock = threading.RLock()
        self._living: dict[int, np.ndarray] = {}
        self._starts: list[int] = []
        self.used = 0

    # -- memory

    def allocate(self, nbytes: int) -> Room:
        self._outside_recordings()
        if nbytes > self.free_nbytes():
            raise DeviceMemoryError(f"{nbytes} bytes wanted, {self.free_nbytes()} are free")
        room = Room(nbytes)
        self._living[room.address] = room.array
        bisect.insort(self._starts, room.address)
        self.used += nbytes
        weakref.finalize(room, _give_back, weakref.ref(self), room.address, nbytes)
        return room

    def free_nbytes(self) -> int:
        return self.capacity - self.used

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        """Living memory."""
        if not nbytes:
            return np.empty(0, np.uint8)
        start = self._starts[bisect.bisect_right(self._starts, address) - 1]
        offset = address - start
        assert 0 <= offset <= self._living[start].size - nbytes, "an address of no living memory"
        return self._living[start][offset : offset + nbytes]

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8).view(Pinned)

    def upload(self, to: int, source: np.ndarray) -> None:
        self._outside_recordings()
        self.refuse_if_lost()
        assert source.flags.c_contiguous
        self.uploads += 1
        held = source if isinstance(source, Pinned) else source.copy()

        def work() -> None:
            self.bytes_at(to, held.nbytes)[...] = held.reshape(-1).view(np.uint8)

        self.do(work)

    def download(self, into: np.ndarray, address: int) -> None:
        self._outside_recordings()
        assert into.flags.c_contiguous
        self.synchronize()
        into.reshape(-1).view(np.uint8)[...] = self.bytes_at(address, into.nbytes)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        def work() -> None:
            self.bytes_at(to, nbytes)[...] = self.bytes_at(source, nbytes)

        self.do(work)

    def fill(self, to: int, nbytes: int) -> None:
        def work() -> None:
            self.bytes_at(to, nbytes)[...] = 0

        self.do(work)

    # -- arrays

    def admit(self, value: Any) -> tuple[int, tuple[int, ...], DType, Any] | None:
        found = isinstance(value, Remote)
        return (value.address, value.shape, value.dtype, value) if found else None

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> tuple[Any, int]:
        room = self.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        return Remote(shape, dtype, room.address, room), room.address

    def array(self, value: Any) -> Remote:
        """A NumPy array on the device."""
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        with self.active():
            remote, address = self.fresh(value.shape, value.dtype)
            self.upload(address, value)
        return remote

    # -- work

    def do(self, work: Work) -> None:
        assert self.active_contexts
        (self.queue if self.recording is None else self.recording).append(work)

    def work_once(self) -> None:
        self.worked += 1
        self.queue.pop(0)()

    def synchronize(self) -> None:
        while self.queue:
            self.work_once()
        self.refuse_if_lost()

    def refuse_if_lost(self) -> None:
        """As CUDA does in every call after an illegal access."""
        if self.lost:
            raise DeviceError("an illegal access", late=True)

    def load(self, text: str) -> Callable[[str], Any]:
        assert "#include" not in text
        return self.kernels.__getitem__

    def launcher(
        self, function: Any, blocks: int, threads: int, arguments: Sequence[int | float]
    ) -> Work:
        assert blocks >= 1
        assert 1 <= threads <= 1024

        def launch() -> None:
            if self.faults:
                raise self.faults.pop()
            self.refuse_if_lost()
            self.do(lambda: self._execute(function, arguments))

        return launch

    def _execute(self, function: Any, arguments: Sequence[int | float]) -> None:
        if self.illegal and function is self.kernels[self.illegal]:
            self.lost = True
        if not self.lost:
            function(*arguments)

    def multiplier(self, product: Product) -> Callable[[int, int, int, int], None]:
        def multiply(a: int, b: int, c: int, bias: int) -> None:
            self.do(lambda: self._multiply(product, a, b, c, bias))

        return multiply

    def _multiply(self, p: Product, a: int, b: int, c: int, bias: int) -> None:
        plain = (p.a_transposed, p.b_transposed, p.epilogue, bias)
        assert plain == (False, False, "", 0)
        left = self.bytes_at(a, p.m * p.k * 4).view(np.float32).reshape(p.m, p.k)
        right = self.bytes_at(b, p.k * p.n * 4).view(np.float32).reshape(p.k, p.n)
        out = self.bytes_at(c, p.m * p.n * 4).view(np.float32).reshape(p.m, p.n)
        out[...] = np.float32(p.alpha) * (left @ right)

    @contextmanager
    def record(self) -> Generator[Tape]:
        if not self.records:
            raise RuntimeError("no recordings here")
        self._outside_recordings()
        tape = Tape(self, [])
        self.recording = tape.work
        try:
            yield tape
        finally:
            self.recording = None

    def event(self) -> Mark:
        return Mark(self)

    @contextmanager
    def active(self) -> Generator[None]:
        with self._lock:
            self.active_contexts += 1
            try:
                yield
            finally:
                self.active_contexts -= 1

    def _outside_recordings(self) -> None:
        assert self.active_contexts
        assert self.recording is None

    # -- what kernels/step.cuh does

    def _entries(self, rooms: int, arrays: int, count: int) -> list[tuple[int, int, int]]:
        places = self.bytes_at(rooms, 16 * count).view(np.int64).reshape(count, 2)
        given = self.bytes_at(arrays, 8 * count).view(np.int64)
        return [(int(a), int(n), int(g)) for (a, n), g in zip(places, given, strict=True) if g]

    def _fetch(self, rooms: int, arrays: int, index: int, count: int) -> None:
        step = int(self.bytes_at(index, 8).view(np.int64)[0])
        for address, nbytes, given in self._entries(rooms, arrays, count):
            self.bytes_at(address, nbytes)[...] = self.bytes_at(given + step * nbytes, nbytes)

    def _deliver(self, rooms: int, arrays: int, index: int, count: int) -> None:
        step = int(self.bytes_at(index, 8).view(np.int64)[0])
        for address, nbytes, given in self._entries(rooms, arrays, count):
            self.bytes_at(given + step * nbytes, nbytes)[...] = self.bytes_at(address, nbytes)

    def _advance(self, state: int, index: int) -> None:
        for counter in (self.bytes_at(state + 8, 8), self.bytes_at(index, 8)):
            counter.view(np.uint64)[:] += np.uint64(1)


def _give_back(there: weakref.ref[StandIn], address: int, nbytes: int) -> None:
    """What a room ends with. It keeps no device alive, whose kernels keep their graphs, whose
    parameters keep their rooms: none of them would ever go."""
    device = there()
    if device is None:
        return
    device.used -= nbytes

    def forget() -> None:
        device._starts.remove(address)
        del device._living[address]

    device.queue.append(forget)  # in the order of work, as pools of memory do


class NumpyStandIn(StandIn):
    """A device that compiles nothing, and has NumPy for its array module. Its work is done at once,
    since nobody waits before looking at a NumPy array."""

    xp = np

    def load(self, text: str) -> Callable[[str], Any]:
        raise BackendUnavailable(f"no compiler of kernels for {len(text)} characters")

    def do(self, work: Work) -> None:
        super().do(work)
        self.synchronize()

    def bytes_at(self, address: int, nbytes: int) -> np.ndarray:
        memory = (ctypes.c_char * nbytes).from_address(address) if nbytes else b""
        return np.frombuffer(memory, np.uint8)

    def admit(self, value: Any) -> tuple[int, tuple[int, ...], DType, Any] | None:
        return (value.ctypes.data, value.shape, value.dtype, value)

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> tuple[Any, int]:
        array = np.empty(shape, dtype)
        return array, array.ctypes.data


class Pinned(np.ndarray):
    """Host memory that is copied from while the host goes on."""


# -- programs for it


@dataclass(frozen=True)
class Text:
    """A printed program."""

    text: str
    kernel_sources: tuple[str, ...]
    launches: tuple[Launch, ...]
    partials: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()


class Kernels(NumpyRunner):
    """The kernels of a program as NumPy functions, bound to whatever memory a launch names."""

    def __init__(self, program: Program, options: Options) -> None:
        with mock.patch.object(numpy_backend, "HostMemory"):
            super().__init__(program, Options(1, options.inputs, options.numbers))

    def run(self, number: int, arrays: Mapping[Buffer, np.ndarray], draws: Draws) -> None:
        self.draws = draws
        for buffer, array in arrays.items():
            self.bind(buffer, array)
        self.context.run(self._kernel_functions()[number])


def print_on(device: StandIn, program: Program, options: Options) -> Text:
    """A program with one launch for each kernel, whose function is NumPy's."""
    kernels = Kernels(program, options)
    launches: list[Launch] = []
    for number, kernel in enumerate(program.kernels):
        buffers = list(dict.fromkeys(a.base for a in (*kernel.reads, *kernel.writes)))
        name = f"{kernel.name}_{id(kernels)}"
        device.kernels[name] = _function(device, kernels, number, buffers)
        arguments = (State(), *(Address(b) for b in buffers))
        launches.append(KernelLaunch(name, arguments, 10**6, 256, number, 2))
    sources = tuple(f"// {kernel.name}" for kernel in program.kernels)
    return Text("\n".join(sources), sources, tuple(launches))


def _function(
    device: StandIn, kernels: Kernels, number: int, buffers: Sequence[Buffer]
) -> Callable[..., None]:
    def function(state: int, *addresses: int) -> None:
        assert all(address % 256 == 0 for address in addresses)
        words = [int(w) for w in device.bytes_at(state, 16).view(np.uint32)]
        draws = Draws(words[0] | words[1] << 32, words[2] | words[3] << 32, kernels.draws.numbers)
        arrays = {
            b: device.bytes_at(a, buffer_nbytes(b)).view(b.dtype).reshape(buffer_shape(b))
            for b, a in zip(buffers, addresses, strict=True)
        }
        kernels.run(number, arrays, draws)

    return function


def stand_in_backend(device: StandIn) -> Backend:
    """What runs programs on it."""
    return backend_on(
        device.name, lambda: device, lambda: Availability(True, "a stand-in"),
        lambda program, options: print_on(device, program, options),
    )  # fmt: skip
