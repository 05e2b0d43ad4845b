"""What a machine can do at most: the two rates that a program's time is held against.

Both are measured, never looked up: a processor's nominal rates say little about a virtual machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from time import perf_counter

import numpy as np

from graphc.backends.threads import available_threads

GEMM_SIZE = 1024
COPY_NBYTES = 128 * 2**20  # of each of the two arrays: together more than the caches hold
GEMM_TIMES, COPY_TIMES = 12, 6


@dataclass(frozen=True, slots=True)
class Peaks:
    """Float32 FLOPs of a matrix product and bytes of a copy, read plus written, per second.
    `device`: what reaches them."""

    flops_per_second: float
    bytes_per_second: float
    device: str = "the CPU"

    def seconds(self, flops: float, nbytes: float) -> float:
        """The time that so many FLOPs of matrix products and so many bytes take at these rates."""
        return flops / self.flops_per_second + nbytes / self.bytes_per_second


@functools.cache
def measure_peaks() -> Peaks:
    """Measure both rates of the CPU, once per process; it takes about half a second.

    FLOPs: NumPy's BLAS multiplies two float32 matrices of 1024 x 1024 on as many threads as it is
    set to; 2 n^3 FLOPs. Bytes: each core copies its share of 128 MiB to another array; what is
    read and what is written both count. Of several tries the fastest counts, for a peak is what
    the machine reaches when nothing disturbs it. Arrays that stay in a cache can beat the second.
    """
    return Peaks(_gemm_rate(), _copy_rate())


def _gemm_rate() -> float:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((GEMM_SIZE, GEMM_SIZE), dtype="float32") for _ in range(2))
    out = np.empty_like(a)
    return 2 * GEMM_SIZE**3 / _best(lambda: np.matmul(a, b, out=out), GEMM_TIMES)


def _copy_rate() -> float:
    source, target = (np.ones(COPY_NBYTES // 4, "float32") for _ in range(2))
    threads = available_threads()
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

    def copy() -> None:
        others = [Thread(target=np.copyto, args=pair) for pair in pairs[1:]]
        for other in others:
            other.start()
        np.copyto(*pairs[0])
        for other in others:
            other.join()

    return 2 * source.nbytes / _best(copy, COPY_TIMES)


def _best(work: Callable[[], object], times: int) -> float:
    work()  # touches every page, wakes every thread
    seconds: list[float] = []
    for _ in range(times):
        begin = perf_counter()
        work()
        seconds.append(perf_counter() - begin)
    return min(seconds)
