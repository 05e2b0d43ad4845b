"""What the CUDA backend asks of a device: memory, modules, launches, products, recordings.

`CupyDevice` is a GPU, `EmulatedDevice` runs the same generated source on the CPU. Addresses are
plain ints. Work is done in the order in which it was asked for (on the caller's current stream),
and may still be going on when a method returns; `download` and `synchronize` wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphc.codegen.launches import Product
from graphc.errors import DeviceError as DeviceError
from graphc.errors import DeviceMemoryError as DeviceMemoryError
from graphc.ir.tensor_type import DType


@dataclass(frozen=True, slots=True)
class Facts:
    """What a program and its user want to know of a device."""

    description: str  # "NVIDIA H200, 139 GiB"
    arch: str  # "sm_90"
    multiprocessors: int
    versions: tuple[tuple[str, str], ...] = ()  # of driver, runtime, NVRTC, cuBLASLt
    timed: bool = False  # whether its times tell which of two ways is the faster one


class Block(Protocol):
    """Device memory, given back when nothing refers to it; its start is a multiple of 256."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class Recording(Protocol):
    """Work that was recorded, to be done again: one launch, whatever it holds."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """What `Device.record` gives; `recording` is there once the context has been left."""

    @property
    def recording(self) -> Recording: ...


class Event(Protocol):
    """A point in the device's order of work."""

    def record(self) -> None: ...

    def wait(self) -> None:
        """Until the device has come to this point; at once if it was never recorded."""
        ...

    def seconds_since(self, earlier: Event) -> float: ...


class Device(Protocol):
    """One device."""

    @property
    def name(self) -> str:
        """As users write it: "cuda:0", "emulator"."""
        ...

    @property
    def facts(self) -> Facts: ...

    # -- memory

    def allocate(self, nbytes: int) -> Block:
        """Uninitialised memory; raises DeviceMemoryError."""
        ...

    def free_nbytes(self) -> int:
        """Bytes that can still be allocated."""
        ...

    def pinned(self, nbytes: int) -> np.ndarray:
        """Host memory (uint8) from which `upload` copies without waiting."""
        ...

    def upload(self, to: int, source: np.ndarray) -> None:
        """Copy a C-contiguous host array. Without waiting if it is pinned: do not change it
        meanwhile."""
        ...

    def download(self, into: np.ndarray, address: int) -> None:
        """Fill a C-contiguous host array; waits for all work before."""
        ...

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Within the device."""
        ...

    def fill(self, to: int, nbytes: int) -> None:
        """With zero bytes."""
        ...

    # -- arrays of the device's kind

    def admit(self, value: Any) -> tuple[int, tuple[int, ...], DType, Any] | None:
        """Address, shape, dtype of a C-contiguous array that lies on this device, and what keeps it
        alive; None for anything else. Work on other streams that makes it is waited for. Asked
        in every call, outside of `active`."""
        ...

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> tuple[Any, int]:
        """A new uninitialised array for a result, and its address."""
        ...

    # -- work

    def load(self, text: str) -> Callable[[str], Any]:
        """Compile (or find) a CUDA C text that includes nothing, load it; gives its functions by
        name. Raises BackendUnavailable, with the compiler's log, if that fails."""
        ...

    def launcher(
        self, function: Any, blocks: int, threads: int, arguments: Sequence[int | float]
    ) -> Callable[[], None]:
        """What launches a function with these arguments: an int is an address or an int64, a float
        a double."""
        ...

    def multiplier(self, product: Product) -> Callable[[int, int, int, int], None]:
        """What computes a product, given the addresses of a, b, c and the bias (0 if none)."""
        ...

    def record(self) -> AbstractContextManager[Recorder]:
        """Record the work asked for in the context instead of doing it. Nothing may be allocated,
        uploaded or downloaded meanwhile."""
        ...

    def event(self) -> Event: ...

    def synchronize(self) -> None:
        """Wait for all work; raises what went wrong in it."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """All of the above but `admit` happens in this context: the device is the current one, and
        work comes after what was asked for in earlier contexts, on whichever stream."""
        ...
