"""A double of CuPy: memory is the host's, streams and events write down what they are told."""

import ctypes
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class CUDARuntimeError(RuntimeError):
    """As CuPy's: with the number of the error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Memory:
    """A MemoryPointer over host memory."""

    def __init__(self, nbytes: int, device: int) -> None:
        self.room = np.full(nbytes + 256, 0xAB, np.uint8)
        self.ptr = self.room.ctypes.data + -self.room.ctypes.data % 256
        self.device_id = device


class Array:
    """A cupy.ndarray, as far as a device looks at it."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, device: int = 0) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.data = Memory(max(1, int(np.prod(shape)) * self.dtype.itemsize), device)
        self.flags = SimpleNamespace(c_contiguous=True)


class Stream:
    """A stream of a log; entered, it is the current one."""

    def __init__(self, fake: "FakeCupy", ptr: int, non_blocking: bool = False) -> None:
        self.fake, self.ptr, self.non_blocking = fake, ptr, non_blocking
        self.capturing = False

    def __enter__(self) -> "Stream":
        self.fake.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.fake.streams.pop() is self

    def wait_event(self, event: "Event") -> None:
        self.fake.say("wait", self.ptr, event.at)

    def begin_capture(self, mode: int) -> None:
        assert self.non_blocking
        self.capturing = True
        self.fake.say("begin", self.ptr, mode)

    def end_capture(self) -> "Graph":
        self.fake.say("end", self.ptr)
        self.capturing = False
        self.fake.fail_if_told("end_capture")
        return Graph(self.fake)


class Event:
    """Where on a stream it was recorded: the stream and the length of the log."""

    def __init__(self, fake: "FakeCupy") -> None:
        self.fake, self.at = fake, (-1, -1)

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.fake.streams[-1]
        self.fake.say("record", stream.ptr)
        self.at = (stream.ptr, len(self.fake.log))

    def synchronize(self) -> None:
        self.fake.say("wait for", self.at)
        self.fake.fail_if_told("synchronize")


class Graph:
    """What was captured."""

    def __init__(self, fake: "FakeCupy") -> None:
        self.fake = fake

    def upload(self) -> None:
        self.fake.say("upload graph", self.fake.streams[-1].ptr)

    def launch(self) -> None:
        self.fake.say("graph", self.fake.streams[-1].ptr)
        self.fake.fail_if_told("launch")


class Module:
    """A loaded cubin."""

    def __init__(self, fake: "FakeCupy") -> None:
        self.fake = fake

    def load(self, cubin: bytes) -> None:
        self.fake.say("load", cubin)
        self.fake.fail_if_told("load")

    def get_function(self, name: str) -> Callable[..., None]:
        def call(grid: tuple[int], block: tuple[int], arguments: tuple[Any, ...]) -> None:
            self.fake.say("launch", name, grid, block, arguments, self.fake.streams[-1].ptr)
            self.fake.fail_if_told("kernel")

        return call


class FakeCupy(ModuleType):
    """The module. `fail[what] = error` lets a call fail; `log` holds what was asked for."""

    def __init__(self, devices: int = 1) -> None:
        super().__init__("cupy")
        self.__version__ = "14.0.0"
        self.log: list[tuple[Any, ...]] = []
        self.fail: dict[str, BaseException] = {}
        self.null = Stream(self, 0)
        self.streams = [self.null]
        self.device, self.free = 0, 1 << 20
        self.pointers = iter(range(100, 1000))
        self.ndarray = Array
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 24)
        self.runtime = self._runtime(devices)
        self.cuda = SimpleNamespace(
            runtime=self.runtime, alloc=self.alloc, alloc_pinned_memory=bytearray,
            Stream=self.stream, Event=lambda disable_timing=False: Event(self),
            get_current_stream=lambda: self.streams[-1],
            get_elapsed_time=lambda a, b: float(b.at[1] - a.at[1]),
            function=SimpleNamespace(Module=lambda: Module(self)),
        )  # fmt: skip

    def say(self, *words: Any) -> None:
        self.log.append(words)

    def said(self) -> list[tuple[Any, ...]]:
        """The log, which begins anew."""
        log, self.log = self.log, []
        return log

    def fail_if_told(self, what: str) -> None:
        if what in self.fail:
            raise self.fail[what]

    def stream(self, non_blocking: bool = False) -> Stream:
        return Stream(self, next(self.pointers), non_blocking)

    def alloc(self, nbytes: int) -> Memory:
        if nbytes > self.free:
            raise OutOfMemoryError("Out of memory")
        return Memory(nbytes, self.device)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        if int(np.prod(shape)) * np.dtype(dtype).itemsize > self.free:
            raise OutOfMemoryError("Out of memory")
        return Array(shape, dtype, self.device)

    def asarray(self, value: Any) -> Array:
        self.fail_if_told("asarray")
        return value.array

    def from_dlpack(self, value: Any) -> Array:
        self.fail_if_told("from_dlpack")
        return value.array

    def _runtime(self, devices: int) -> SimpleNamespace:
        def copy(to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
            self.say("copy", kind, nbytes, stream)
            self.fail_if_told("copy")
            ctypes.memmove(to, source, nbytes)

        def fill(to: int, value: int, nbytes: int, stream: int) -> None:
            self.say("fill", value, nbytes, stream)
            self.fail_if_told("fill")
            ctypes.memset(to, value, nbytes)

        def synchronize(stream: int) -> None:
            self.say("synchronize", stream)
            self.fail_if_told("synchronize")

        def choose(device: int) -> None:
            self.device = device

        facts = {
            "name": b"A GPU", "major": 9, "minor": 0, "multiProcessorCount": 7,
            "totalGlobalMem": 8 << 30,
        }  # fmt: skip
        return SimpleNamespace(
            memcpyAsync=copy, memsetAsync=fill, streamSynchronize=synchronize, setDevice=choose,
            getDevice=lambda: self.device, getDeviceCount=lambda: devices,
            getDeviceProperties=lambda index: facts, driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            memGetInfo=lambda: (self.free, 8 << 30), memcpyHostToDevice=1, memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3, streamCaptureModeThreadLocal=1,
        )  # fmt: skip
