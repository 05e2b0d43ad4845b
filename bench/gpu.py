"""What contestants on a GPU share: inputs that no cache holds, clocks, and the GPU's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, cycle, repeat
from statistics import median
from typing import Any, TypeVar

import numpy as np

from .workloads import STEPS_COMPARED, Arrays

T = TypeVar("T")

ROTATED_NBYTES = 256 * 2**20  # of all input sets: more than twice the L2 cache of any GPU so far
MANY = 64  # steps of a call of run_many, where that many input sets are there
FEWEST = 4  # and at least so many

# -- inputs


def stacked(inputs: Arrays, least: int = 1) -> Arrays:
    """Input sets along a new first axis, at least so many and too large for a cache.

    The first is the one given; the others hold its rows turned round, at other addresses.
    """
    count = max(least, -(-ROTATED_NBYTES // sum(a.nbytes for a in inputs.values())))
    if count == 1:
        return {name: a[None] for name, a in inputs.items()}
    return {
        name: np.stack([np.roll(a, i, axis=0) for i in range(count)]) for name, a in inputs.items()
    }


def input_sets(inputs: Arrays, rotate: bool) -> list[Arrays]:
    """The sets one by one; only the given one where nothing is to be rotated."""
    if not rotate:
        return [inputs]
    stacks = stacked(inputs)
    count = len(next(iter(stacks.values())))
    return [{name: stack[i] for name, stack in stacks.items()} for i in range(count)]


def blocks(inputs: Arrays) -> list[Arrays]:
    """The sets as `run_many` takes them: one set alone, then blocks of equally many."""
    stacks = stacked(inputs, FEWEST)
    count = len(next(iter(stacks.values())))
    size = min(MANY, count)
    starts = range(0, count - size + 1, size)
    ranges = [slice(0, 1), *(slice(i, i + size) for i in starts)]
    return [{name: stack[r] for name, stack in stacks.items()} for r in ranges]


def in_turn(sets: Sequence[T], first: T | None = None) -> Iterator[T]:
    """The first set for as long as results are compared, then all in turn, for ever."""
    return chain(repeat(sets[0] if first is None else first, STEPS_COMPARED), cycle(sets))


def on_host(value: Any) -> np.ndarray:
    """An array of any library as NumPy's, bfloat16 as float32."""
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    found = value.get() if hasattr(value, "get") else np.asarray(value)  # CuPy has `get`
    return found.astype("float32") if found.dtype.kind == "V" else found


# -- CuPy's clocks


def synchronize() -> None:
    """Wait for all work of the GPU."""
    import cupy

    cupy.cuda.runtime.deviceSynchronize()


def stopwatch() -> Callable[[], float]:
    """Start CUDA events on the current stream; what is returned stops them: seconds."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()

    def stop() -> float:
        end.record()
        end.synchronize()
        return cupy.cuda.get_elapsed_time(begin, end) / 1e3

    return stop


# -- limits

COPY_NBYTES = 2**30  # of each of the two arrays
GEMM_SIZE = 8192
ROUNDS = 9
R_32F, R_16BF = 0, 14  # cudaDataType
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77  # cublasComputeType
PRODUCTS = {
    "float32": (R_32F, COMPUTE_32F), "tf32": (R_32F, COMPUTE_32F_FAST_TF32),
    "bfloat16": (R_16BF, COMPUTE_32F),
}  # fmt: skip


def limits() -> dict[str, Any]:
    """Bytes per second of a large copy, read plus written, and FLOPs per second of a large matrix
    product in each precision, by cuBLAS; of random numbers, for zeros are faster."""
    import cupy

    facts = cupy.cuda.runtime.getDeviceProperties(0)
    source = cupy.random.standard_normal(COPY_NBYTES // 4, dtype="float32")
    target = cupy.empty_like(source)
    copy = _seconds(lambda: cupy.copyto(target, source))
    return {
        "name": facts["name"].decode(), "multiprocessors": facts["multiProcessorCount"],
        "l2 bytes": facts["l2CacheSize"], "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(), "cupy": cupy.__version__,
        "bytes_per_second": 2 * COPY_NBYTES / copy,
        "flops_per_second": {name: _gemm_rate(*how) for name, how in PRODUCTS.items()},
    }  # fmt: skip


def _gemm_rate(dtype: int, compute: int, n: int = GEMM_SIZE) -> float:
    import cupy
    from cupy.cuda import cublas, device

    a, b = (cupy.random.standard_normal((n, n), dtype="float32") for _ in range(2))
    if dtype == R_16BF:  # the upper half of a float32 is a bfloat16
        a, b = ((m.view("uint32") >> 16).astype("uint16") for m in (a, b))
    c = cupy.empty_like(a)
    alpha, beta = np.ones(1, "float32"), np.zeros(1, "float32")

    def multiply() -> None:
        cublas.gemmEx(
            device.get_cublas_handle(), 0, 0, n, n, n, alpha.ctypes.data, a.data.ptr, dtype, n,
            b.data.ptr, dtype, n, beta.ctypes.data, c.data.ptr, dtype, n, compute, -1,
        )  # fmt: skip

    return 2 * n**3 / _seconds(multiply)


def _seconds(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    found: list[float] = []
    for _ in range(ROUNDS):
        stop = stopwatch()
        work()
        found.append(stop())
    return median(found)


def limit_seconds(gpu: Mapping[str, Any], flops: float, nbytes: float, precision: str) -> float:
    """The time that so many FLOPs of matrix products and so many bytes take at these limits."""
    return flops / gpu["flops_per_second"][precision] + nbytes / gpu["bytes_per_second"]
