"""A GPU, through CuPy: the only module that imports it.

Memory comes from CuPy's pools and work goes to its current stream, so that programs and the
caller's own CuPy code share memory and order. CuPy refuses matrix products while a stream is
recorded and compiles only where a device is: for both CUDA's own libraries are called.
"""

from __future__ import annotations

import contextlib
import gc
import math
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from graphc.backends.base import Availability
from graphc.backends.cuda.cublaslt import WORKSPACE_NBYTES, CublasLt, Multiplier, Plan
from graphc.backends.cuda.device import DeviceError, DeviceMemoryError, Event, Facts
from graphc.backends.cuda.driver import NO_DRIVER, driver_version
from graphc.backends.cuda.libraries import load_library
from graphc.backends.cuda.nvrtc import compile_cubin, nvrtc
from graphc.codegen.launches import Product
from graphc.errors import BackendUnavailable
from graphc.ir.tensor_type import DType

DRIVER_FILE = Path("/proc/driver/nvidia/version")
DLPACK_CUDA = 2  # kDLCUDA
LASTING_STREAMS = (0, 1)  # the default stream, which no one destroys
PER_THREAD_STREAM = 2  # another stream in each thread
LOST = frozenset({700, 702, 710, 714, 715, 716, 717, 718, 719})  # after these no call works


class _Block:
    """Memory of the pool. It goes back to the stream that it was allocated on, which then must not
    overtake work of other streams that still uses it."""

    __slots__ = ("_device", "_memory", "_stream", "address", "nbytes")

    def __init__(self, device: CupyDevice, memory: Any, nbytes: int, stream: Any) -> None:
        self._device, self._memory, self._stream = device, memory, stream
        self.address, self.nbytes = int(memory.ptr), nbytes

    def __del__(self) -> None:
        try:
            self._device.follow(self._stream)
        except Exception:  # the end of the process, or a device that is lost
            return


class _Recording:
    """A CUDA graph, made ready."""

    __slots__ = ("_launch",)

    def __init__(self, graph: Any) -> None:
        self._launch = graph.launch  # on the current stream

    def replay(self) -> None:
        try:
            self._launch()
        except RuntimeError as error:
            raise _fault("a recorded step cannot be launched", error) from error


class _Recorder:
    recording: _Recording


class _Event:
    """An event of CUDA, recorded on the current stream."""

    __slots__ = ("_elapsed", "event")

    def __init__(self, cuda: Any) -> None:
        self.event, self._elapsed = cuda.Event(), cuda.get_elapsed_time

    def record(self) -> None:
        self.event.record()

    def wait(self) -> None:
        try:
            self.event.synchronize()
        except RuntimeError as error:
            raise _late(error) from error

    def seconds_since(self, earlier: Any) -> float:
        return self._elapsed(earlier.event, self.event) / 1e3


class _Function:
    """A kernel, and its name for messages."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Any) -> None:
        self.name, self.call = name, call


class _Active:
    """The context in which a device is used; entered twice for each step, so without ceremony.

    One thread at a time: work of two on streams of their own would mix, while products share a
    workspace, and the order of streams knows one latest piece of work.
    """

    __slots__ = ("_device", "_get", "_index", "_lock", "_previous", "_set")

    def __init__(self, device: CupyDevice, runtime: Any) -> None:
        self._device, self._index = device, device.index
        self._get, self._set = runtime.getDevice, runtime.setDevice
        self._lock, self._previous = device.lock, self._index

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._previous = self._get()
            if self._previous != self._index:
                self._set(self._index)
            self._device.arrive()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._device.leave()
            if self._previous != self._index:
                self._set(self._previous)
        finally:
            self._lock.release()


class CupyDevice:
    """One GPU. Take it from `cupy_device`: there is one for each number."""

    def __init__(self, index: int) -> None:
        self._cupy: Any = _import_cupy()
        self.xp = self._cupy  # the array module of the first rung
        cuda = self._cuda = self._cupy.cuda
        runtime = self._runtime = cuda.runtime
        self.index, self.name = index, f"cuda:{index}"
        self._current: Callable[[], Any] = cuda.get_current_stream
        self._copy: Callable[..., None] = runtime.memcpyAsync
        self._fill: Callable[..., None] = runtime.memsetAsync
        self._up, self._down = runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost
        self._across = runtime.memcpyDeviceToDevice
        self._ndarray, self._empty = self._cupy.ndarray, self._cupy.empty
        self._last: Any = None  # the stream of the latest work
        self._marked = False  # whether the event `_mark` lies behind that work
        self._recording = False
        self.lock = threading.RLock()  # of those who use the device: see _Active

    @property
    def facts(self) -> Facts:
        return self._facts

    @cached_property
    def _facts(self) -> Facts:
        found = self._properties
        gib = found["totalGlobalMem"] / 2**30
        return Facts(
            f"{found['name'].decode()}, {gib:.0f} GiB",
            self._arch,
            found["multiProcessorCount"],
            (
                ("driver", _cuda_version(self._runtime.driverGetVersion())),
                ("CuPy", self._cupy.__version__),
                ("NVRTC", ".".join(map(str, nvrtc().version))),
                ("cuBLASLt", self._products.version),
            ),
            timed=True,
        )

    # -- memory

    def allocate(self, nbytes: int) -> _Block:
        """Uninitialised memory; raises DeviceMemoryError."""
        try:
            memory = self._cuda.alloc(max(nbytes, 1))
        except MemoryError as error:
            raise self._out_of_memory(nbytes) from error
        except RuntimeError as error:
            raise _fault("memory cannot be allocated", error) from error
        return _Block(self, memory, nbytes, self._current())

    def free_nbytes(self) -> int:
        """Bytes that can still be allocated: of the device, and of CuPy's pool for it."""
        pool = self._cupy.get_default_memory_pool()
        return int(self._runtime.memGetInfo()[0] + pool.free_bytes())

    def pinned(self, nbytes: int) -> np.ndarray:
        """Host memory (uint8) from which `upload` copies without waiting."""
        memory = self._cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def upload(self, to: int, source: np.ndarray) -> None:
        """Copy a C-contiguous host array."""
        at = source.__array_interface__["data"][0]
        try:
            self._copy(to, at, source.nbytes, self._up, self._current().ptr)
        except RuntimeError as error:
            raise _fault("nothing can be copied to the device", error) from error

    def download(self, into: np.ndarray, address: int) -> None:
        """Fill a C-contiguous host array; waits for all work before."""
        at, stream = into.__array_interface__["data"][0], self._current().ptr
        try:
            self._copy(at, address, into.nbytes, self._down, stream)
            self._runtime.streamSynchronize(stream)
        except RuntimeError as error:
            raise _late(error) from error

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Within the device."""
        try:
            self._copy(to, source, nbytes, self._across, self._current().ptr)
        except RuntimeError as error:
            raise _fault("nothing can be copied within the device", error) from error

    def fill(self, to: int, nbytes: int) -> None:
        """With zero bytes."""
        try:
            self._fill(to, 0, nbytes, self._current().ptr)
        except RuntimeError as error:
            raise _fault("memory cannot be filled", error) from error

    # -- arrays

    def admit(self, value: Any) -> tuple[int, tuple[int, ...], DType, Any] | None:
        """Address, shape, dtype and owner of a C-contiguous array on this device, else None."""
        array = value if type(value) is self._ndarray else self._convert(value)
        if array is None:
            return None
        data = array.data
        if data.device_id != self.index or not array.flags.c_contiguous:
            return None
        return data.ptr, array.shape, array.dtype, array

    def fresh(self, shape: tuple[int, ...], dtype: DType) -> tuple[Any, int]:
        """A new uninitialised array, and its address."""
        try:
            array = self._empty(shape, dtype)
        except MemoryError as error:
            raise self._out_of_memory(math.prod(shape) * dtype.itemsize) from error
        except RuntimeError as error:
            raise _fault("memory cannot be allocated", error) from error
        return array, array.data.ptr

    def _convert(self, value: Any) -> Any:
        """An array of another library as CuPy's, without a copy; None if it is not of this device.
        Both protocols let the current stream wait for what makes the array."""
        if isinstance(value, np.ndarray | np.generic | float | int):
            return None
        with self.active():
            return self._converted(value)

    def _converted(self, value: Any) -> Any:
        with contextlib.suppress(Exception):  # torch refuses some dtypes in the first protocol only
            if hasattr(value, "__cuda_array_interface__"):
                return self._cupy.asarray(value)
        with contextlib.suppress(Exception):
            if value.__dlpack_device__() == (DLPACK_CUDA, self.index):
                return self._cupy.from_dlpack(value)
        return None

    def _out_of_memory(self, nbytes: int) -> DeviceMemoryError:
        return DeviceMemoryError(
            f"{self.name}: {nbytes} bytes are planned and {self.free_nbytes()} are free; give "
            "memory back (cupy.get_default_memory_pool().free_all_blocks() in other programs), or "
            "use smaller sizes"
        )

    # -- work

    def load(self, text: str) -> Callable[[str], Any]:
        """Compile (or find) a CUDA C text, load it; gives its functions by name."""
        module = self._cuda.function.Module()
        try:
            module.load(compile_cubin(text, self._arch))
        except RuntimeError as error:
            if isinstance(error, BackendUnavailable):
                raise
            raise BackendUnavailable(
                f"{self.name} does not load what NVRTC {nvrtc().version} made for {self._arch}: "
                f"{error}; {_remedy()}"
            ) from error
        return lambda name: _Function(name, module.get_function(name))

    def launcher(
        self, function: Any, blocks: int, threads: int, arguments: Sequence[int | float]
    ) -> Callable[[], None]:
        """What launches a function; each argument is passed in 8 bytes."""
        wide = tuple(
            np.float64(value) if isinstance(value, float) else np.int64(value)
            for value in arguments
        )
        call, grid, block = function.call, (blocks,), (threads,)

        def launch() -> None:
            try:
                call(grid, block, wide)
            except RuntimeError as error:
                said = f"kernel {function.name} cannot be launched on {blocks} x {threads} threads"
                raise _fault(said, error) from error

        return launch

    def multiplier(self, product: Product) -> Callable[[int, int, int, int], None]:
        """What computes a product, given the addresses of a, b, c and the bias (0 if none)."""
        workspace = self._workspace
        return Multiplier(
            self._products, product, (workspace.address, workspace.nbytes),
            lambda: self._current().ptr,
        )  # fmt: skip

    def tiny_product(self, a: int, c: int) -> None:
        """c = a @ a, float32[16, 16], without the memory that products are given otherwise."""
        product = Product(16, 16, 16, 16, 16, 16, "float32", "float32")
        Plan(self._products, product, (0, 0))(a, a, c, 0, self._current().ptr)

    @contextmanager
    def record(self) -> Generator[_Recorder]:
        """Record the work asked for in the context instead of doing it."""
        recorder, stream = _Recorder(), self._cuda.Stream(non_blocking=True)
        with stream, self._while_recording():
            # Of this thread only: what others allocate meanwhile does not spoil the recording.
            stream.begin_capture(self._runtime.streamCaptureModeThreadLocal)
            try:
                yield recorder
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    stream.end_capture()
                raise
            try:
                graph = stream.end_capture()
            except RuntimeError as error:
                raise _fault("the work cannot be recorded", error) from error
        graph.upload()
        recorder.recording = _Recording(graph)

    def event(self) -> Event:
        return _Event(self._cuda)

    def synchronize(self) -> None:
        """Wait for all work; raises what went wrong in it."""
        try:
            self._runtime.streamSynchronize(self._current().ptr)
        except RuntimeError as error:
            raise _late(error) from error

    # -- order

    def active(self) -> AbstractContextManager[None]:
        """The device is the current one, and work comes after that of earlier contexts."""
        return _Active(self, self._runtime)

    def arrive(self) -> None:
        """Let the current stream come after all work so far."""
        if not self._recording:
            stream = self._current()
            self.follow(stream)
            self._last, self._marked = stream, False

    def follow(self, stream: Any) -> None:
        """Let a stream come after all work so far."""
        last = self._last
        if last is None or self._recording:
            return
        if last.ptr == stream.ptr and stream.ptr != PER_THREAD_STREAM:
            return
        if not self._marked:
            self._mark.record(last)
        stream.wait_event(self._mark)

    def leave(self) -> None:
        """Note where the work so far ends, unless its stream will still be there to be asked."""
        if not self._recording and self._last.ptr not in LASTING_STREAMS:
            self._mark.record(self._last)
            self._marked = True

    @contextmanager
    def _while_recording(self) -> Generator[None]:
        """No order with other streams is asked for, and no cycle is collected: a module that is
        unloaded meanwhile would spoil the recording."""
        enabled = gc.isenabled()
        gc.disable()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False
            if enabled:
                gc.enable()

    # -- what is made when it is first needed

    @cached_property
    def _properties(self) -> Mapping[str, Any]:
        return self._runtime.getDeviceProperties(self.index)

    @cached_property
    def _arch(self) -> str:
        return f"sm_{self._properties['major']}{self._properties['minor']}"

    @cached_property
    def _mark(self) -> Any:
        return self._cuda.Event(disable_timing=True)

    @cached_property
    def _products(self) -> CublasLt:
        with self.active():  # a handle belongs to the device that is current
            return CublasLt(load_library("cublasLt"))

    @cached_property
    def _workspace(self) -> _Block:
        return self.allocate(WORKSPACE_NBYTES)


def _fault(what: str, error: RuntimeError) -> DeviceError:
    """The error of a call; of work before it, where CUDA says that the device is lost."""
    if getattr(error, "status", 0) in LOST:
        return _late(error)
    return DeviceError(f"{what}: {error}")


def _late(error: RuntimeError) -> DeviceError:
    """The error of work that was waited for."""
    lost = getattr(error, "status", 0) in LOST
    said = "; this process cannot use the device any more" if lost else ""
    return DeviceError(f"work on the device failed: {error}{said}", late=True)


# -- whether it works here


def cupy_device(index: int) -> CupyDevice:
    """The GPU of a number; BackendUnavailable if there is none."""
    found = probe()
    if not found.usable:
        raise BackendUnavailable(found.reason)
    count = _import_cupy().cuda.runtime.getDeviceCount()
    if not 0 <= index < count:
        raise BackendUnavailable(f"cuda:{index}: there are GPUs 0 to {count - 1} only")
    return _device(index)


@lru_cache
def _device(index: int) -> CupyDevice:
    return CupyDevice(index)


@lru_cache(maxsize=1)
def probe() -> Availability:
    """Whether programs run on a GPU here, found out once, step by step; never raises."""
    details: dict[str, str] = {}
    for what, step in _STEPS:
        try:
            details.update(step())
        except Exception as error:
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            remedy = _remedy()
            lacking = {"missing": f"{what}: {said}", "install": remedy}
            return Availability(False, f"{what}: {said}; {remedy}", details | lacking)
    return Availability(True, f"a GPU is there: {details['GPU 0']}", details)


def _driver() -> Mapping[str, str]:
    """Asked before CuPy is imported: without a driver that would be time lost."""
    newest = f"for CUDA up to {_cuda_version(driver_version())}"
    return {"driver": f"{_driver_release()}, {newest}".removeprefix(", ")}


def _cupy() -> Mapping[str, str]:
    cupy = _import_cupy()
    return {"CuPy": cupy.__version__, "CUDA": _cuda_version(cupy.cuda.runtime.runtimeGetVersion())}


def _gpus() -> Mapping[str, str]:
    runtime = _import_cupy().cuda.runtime
    count = runtime.getDeviceCount()
    if not count:
        raise RuntimeError("none is there, or CUDA_VISIBLE_DEVICES hides it")
    found: dict[str, str] = {}
    for index in range(count):
        facts = runtime.getDeviceProperties(index)
        name = facts["name"].decode()
        found[f"GPU {index}"] = (
            f"{name}, compute capability {facts['major']}.{facts['minor']}, "
            f"{facts['totalGlobalMem'] / 2**30:.0f} GiB"
        )
    return found


def _memory() -> Mapping[str, str]:
    device = _device(0)
    with device.active():
        device.allocate(256)
        return {"free": f"{device.free_nbytes() / 2**30:.1f} GiB of GPU 0"}


def _compiler() -> Mapping[str, str]:
    return {"NVRTC": ".".join(map(str, nvrtc().version))}


def _library() -> Mapping[str, str]:
    device, found = _device(0), np.ones(256, np.float32)
    with device.active():
        block = device.allocate(2048)
        device.fill(block.address, 2048)
        device.tiny_product(block.address, block.address + 1024)
        device.download(found, block.address + 1024)
    if found.any():
        raise RuntimeError("a product of zeros is not zero")
    return {"cuBLASLt": dict(device.facts.versions)["cuBLASLt"]}


PROBE = 'extern "C" __global__ void gx_probe(int *x, long long n) { x[0] = (int)n; }\n'


def _launch() -> Mapping[str, str]:
    device, found = _device(0), np.zeros(1, np.int32)
    with device.active():
        block = device.allocate(256)
        device.launcher(device.load(PROBE)("gx_probe"), 1, 1, (block.address, 42))()
        device.download(found, block.address)
    if found[0] != 42:
        raise RuntimeError(f"it stored {found[0]} instead of 42")
    return {}


_STEPS: tuple[tuple[str, Callable[[], Mapping[str, str]]], ...] = (
    ("no NVIDIA driver", _driver),
    ("CuPy cannot be imported", _cupy),
    ("CuPy finds no GPU", _gpus),
    ("the GPU has no memory to give", _memory),
    ("CUDA's compiler is not there", _compiler),
    ("CUDA's matrix products are not there", _library),
    ("a kernel does not run", _launch),
)


def _import_cupy() -> Any:
    import cupy  # pyright: ignore[reportMissingImports]

    return cupy


def _driver_release() -> str:
    """The driver's own version, such as 580.65.06; "" where the kernel does not tell it."""
    try:
        said = DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", said)
    return found.group() if found else ""


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _remedy() -> str:
    """The command that installs what the driver can run, or what there is to do before."""
    try:
        extra = "cuda12" if driver_version() < 13000 else "cuda13"
    except (OSError, RuntimeError):
        return NO_DRIVER
    return f"run: python3 -m pip install '.[{extra}]' in a checkout of graphc"
