"""What a device can do at most, measured by its own clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from graphc.backends.cuda.device import Device
from graphc.backends.cuda.launching import Call
from graphc.backends.cuda.tuning import fill_random
from graphc.backends.peaks import Peaks
from graphc.codegen.launches import Product

COPY_NBYTES = 256 << 20  # of each of two buffers: caches of the second level hold 60 MB or so
GEMM_SIZE = 4096  # enough work for every multiprocessor, and done in a few milliseconds
SMALL_COPY_NBYTES, SMALL_GEMM_SIZE = 1 << 20, 64  # where time says nothing anyway
SHARE = 4  # at most one part in so many of the free memory is taken for a measurement
TRIES = 5  # of which the fastest counts
FLOAT32 = np.dtype("float32")

_known: WeakKeyDictionary[Device, Peaks] = WeakKeyDictionary()


def device_peaks(device: Device, product: Callable[[int], Call] | None = None) -> Peaks:
    """Both rates of a device, measured once in a process, while it is active. `product(n)` makes
    what multiplies two float32 matrices [n, n]; else the library for products does."""
    if device not in _known:
        with device.active():
            flops = _gemm_rate(device, product or partial(_product, device))
            _known[device] = Peaks(flops, _copy_rate(device), device.facts.description)
    return _known[device]


def _gemm_rate(device: Device, product: Callable[[int], Call]) -> float:
    size = GEMM_SIZE if device.facts.timed else SMALL_GEMM_SIZE
    while size > SMALL_GEMM_SIZE and 3 * FLOAT32.itemsize * size * size > _spare(device):
        size //= 2
    return 2 * size**3 / _best(device, product(size))


def _product(device: Device, n: int) -> Call:
    """The library multiplies random matrices; the blocks live as long as what is returned."""
    nbytes = FLOAT32.itemsize * n * n
    a, b, c = (device.allocate(nbytes) for _ in range(3))
    for block in (a, b):
        fill_random(device, block.address, nbytes, FLOAT32)
    multiply = device.multiplier(Product(n, n, n, n, n, n, "float32", "float32"))
    return lambda: multiply(a.address, b.address, c.address, 0)


def _copy_rate(device: Device) -> float:
    nbytes = COPY_NBYTES if device.facts.timed else SMALL_COPY_NBYTES
    while nbytes > SMALL_COPY_NBYTES and 2 * nbytes > _spare(device):
        nbytes //= 2
    source, target = device.allocate(nbytes), device.allocate(nbytes)
    fill_random(device, source.address, nbytes, FLOAT32)
    copy = partial(device.copy, target.address, source.address, nbytes)
    return 2 * nbytes / _best(device, copy)


def _spare(device: Device) -> int:
    return device.free_nbytes() // SHARE


def _best(device: Device, work: Call) -> float:
    """Seconds of the fastest of several tries, the first of which does not count."""
    events: list[tuple[Any, Any]] = []
    work()
    for _ in range(TRIES):
        start, end = device.event(), device.event()
        start.record()
        work()
        end.record()
        events.append((start, end))
    device.synchronize()
    return max(1e-9, min(end.seconds_since(start) for start, end in events))
