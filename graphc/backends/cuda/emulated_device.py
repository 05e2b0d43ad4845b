"""The emulated device: generated CUDA C run on the CPU, and checked while it runs.

What it finds and what it cannot find is written in `kernels/emulator.h`. Work is done at once, when
it is asked for; what is wrong with it is raised there, and the device can be used further.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np

from graphc.backends.cuda.cublaslt import (
    ELEMENT_NBYTES,
    WORKSPACE_NBYTES,
    CublasLt,
    Multiplier,
    extents,
)
from graphc.backends.cuda.device import Event, Facts
from graphc.backends.cuda.emulated_memory import EmulatedBlock, EmulatorError, Memory, view
from graphc.backends.cuda.emulated_module import ORDERS, Kernel, Module
from graphc.backends.cuda.libraries import load_stand_in
from graphc.backends.interrupts import uninterrupted
from graphc.codegen.launches import Product
from graphc.ir.tensor_type import DType

Work = Callable[[], None]


class EmulatedDevice:
    """A device of host memory, which runs CUDA C text on the CPU.

    `order` of the threads of a block, and of the blocks: "ascending", "descending", or "random" by
    `seed`, another one in each launch. What differs between orders is an error of a kernel.
    `capacity`: bytes that can be allocated. `alignment` of allocations, a power of two: a small one
    finds smaller steps past an end, a GPU's is 256. `at_end`: see Memory.
    """

    name = "emulator"
    facts = Facts("a device emulated on the CPU", "sm_90", 4)

    def __init__(
        self,
        order: str = "ascending",
        seed: int = 0,
        *,
        capacity: int = 1 << 34,
        alignment: int = 256,
        at_end: bool = True,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"order {order!r}: it is one of {', '.join(ORDERS)}")
        self.order = order
        self.memory = Memory(capacity, alignment, at_end=at_end)
        self._seed = seed * 0x1000003
        self._recording: EmulatedRecording | None = None
        self._lock = threading.RLock()

    # -- memory

    def allocate(self, nbytes: int) -> EmulatedBlock:
        """Memory filled with bytes 0xff; raises DeviceMemoryError."""
        self._refuse_recording("allocate")
        return self.memory.allocate(nbytes)

    def free_nbytes(self) -> int:
        return self.memory.free_nbytes

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def upload(self, to: int, source: np.ndarray) -> None:
        self._refuse_recording("upload")
        self._bytes(to, source.nbytes, "an upload")[:] = _flat(source)

    def download(self, into: np.ndarray, address: int) -> None:
        self._refuse_recording("download")
        _flat(into)[:] = self._bytes(address, into.nbytes, "a download")

    def copy(self, to: int, source: int, nbytes: int) -> None:
        def work() -> None:
            read = self._bytes(source, nbytes, "the source of a copy")
            self._bytes(to, nbytes, "the target of a copy")[:] = read

        self._do(work)

    def fill(self, to: int, nbytes: int) -> None:
        def work() -> None:
            self._bytes(to, nbytes, "a fill")[:] = 0

        self._do(work)

    def _bytes(self, address: int, nbytes: int, what: str) -> np.ndarray:
        self.memory.check(address, nbytes, what)
        return view(address, nbytes)

    # -- arrays of the device's kind

    def admit(self, value: Any) -> tuple[int, tuple[int, ...], DType, Any] | None:
        """An EmulatedArray of this device; NumPy arrays are the host's."""
        if not isinstance(value, EmulatedArray) or value.device is not self:
            return None
        return value.block.address, value.shape, value.dtype, value

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> tuple[np.ndarray, int]:
        """A NumPy array whose memory is the device's, filled with bytes 0xff."""
        block = self.allocate(math.prod(shape) * dtype.itemsize)
        return block.array().view(dtype).reshape(shape), block.address

    # -- work

    def load(self, text: str) -> Module:
        return Module(text)

    def launcher(
        self, function: Kernel, blocks: int, threads: int, arguments: Sequence[int | float]
    ) -> Work:
        """A GPU gets 8 bytes for each argument, whatever the kernel takes: so here its types must
        be those that the arguments have."""
        cells = function.cells(arguments)
        for i, (letter, value) in enumerate(zip(function.letters, arguments, strict=True)):
            if letter not in ("d" if isinstance(value, float) else "PqQlL"):
                wanted = "double" if isinstance(value, float) else "pointer or int64_t"
                raise EmulatorError(
                    f"argument {i + 1} of kernel {function.name} is {value!r}: its parameter has "
                    f"to be a {wanted}"
                )

        def work() -> None:
            self._seed += 1
            function.run(blocks, threads, cells, self.memory, self.order, self._seed)

        return lambda: self._do(work)

    def multiplier(self, product: Product) -> Callable[[int, int, int, int], None]:
        """The binding of cuBLASLt is the GPU's; what it calls stands in for the library."""
        workspace = self._workspace
        multiply = Multiplier(
            self._products, product, (workspace.address, workspace.nbytes), lambda: 0
        )

        def work(a: int, b: int, c: int, bias: int) -> None:
            for address, nbytes in zip((a, b, c), extents(product), strict=True):
                self.memory.check(address, nbytes, "an operand of a product")
            if bias:
                nbytes = product.n * ELEMENT_NBYTES[product.result]
                self.memory.check(bias, nbytes, "the bias of a product")
            multiply(a, b, c, bias)

        return lambda a, b, c, bias: self._do(partial(work, a, b, c, bias))

    @contextmanager
    def record(self) -> Generator[EmulatedRecorder]:
        self._refuse_recording("record")
        self._recording = EmulatedRecording()
        recorder = EmulatedRecorder(self._recording)
        try:
            yield recorder
        finally:
            self._recording = None

    def event(self) -> EmulatedEvent:
        return EmulatedEvent(self._do)

    def synchronize(self) -> None:
        self._refuse_recording("synchronize")

    @contextmanager
    def active(self) -> Generator[None]:
        """One thread at a time, or what one does would be recorded by another."""
        with self._lock:
            yield

    @cached_property
    def _products(self) -> CublasLt:
        return CublasLt(load_stand_in())

    @cached_property
    def _workspace(self) -> EmulatedBlock:
        return self.allocate(WORKSPACE_NBYTES)

    def _do(self, work: Work) -> None:
        """Do it, or record it."""
        if self._recording is None:
            work()
        else:
            self._recording.works.append(work)

    def _refuse_recording(self, what: str) -> None:
        if self._recording is not None:
            raise EmulatorError(f"{what}() while work is recorded")


class EmulatedArray:
    """An array that lies on an emulated device, as a user of a GPU would pass it; `get` copies."""

    def __init__(self, device: EmulatedDevice, values: Any) -> None:
        array = np.asarray(values, order="C")
        self.device = device
        self.shape = array.shape
        self.dtype = array.dtype
        self.block = device.allocate(array.nbytes)
        device.upload(self.block.address, array)

    def get(self) -> np.ndarray:
        return self.block.array().view(self.dtype).reshape(self.shape).copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array of a device is copied to become one of the host")
        return self.get() if dtype is None else self.get().astype(dtype)


class EmulatedRecording:
    """Work in the order in which it was recorded."""

    def __init__(self) -> None:
        self.works: list[Work] = []

    def replay(self) -> None:
        """All of it: on a GPU it is one launch, of which an interrupt leaves no half."""
        uninterrupted(self._work)

    def _work(self) -> None:
        for work in self.works:
            work()


class EmulatedRecorder:
    """What `record` gives."""

    def __init__(self, recording: EmulatedRecording) -> None:
        self.recording = recording


class EmulatedEvent:
    """A moment of the host's clock."""

    def __init__(self, do: Callable[[Work], None]) -> None:
        self._do = do
        self.seconds = 0.0

    def record(self) -> None:
        self._do(self._now)

    def _now(self) -> None:
        self.seconds = time.perf_counter()

    def wait(self) -> None:
        """All work has been done."""

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, EmulatedEvent)
        return self.seconds - earlier.seconds


def _flat(array: np.ndarray) -> np.ndarray:
    """The bytes of a C-contiguous array."""
    if not array.flags.c_contiguous:
        raise EmulatorError("an array of the host that is copied has to be C-contiguous")
    return array.reshape(-1).view(np.uint8)
