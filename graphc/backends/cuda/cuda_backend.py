"""The backends "cuda", a GPU, and "emulator", which runs the same generated source on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from graphc.backends.base import Availability, Backend, Options, Runner
from graphc.backends.cuda.arrays import admit_on, fetch_from
from graphc.backends.cuda.cupy_device import cupy_device, probe
from graphc.backends.cuda.device import Device, DeviceError
from graphc.backends.cuda.eager import EagerRunner
from graphc.backends.cuda.emulated_device import EmulatedDevice
from graphc.backends.cuda.emulated_module import compiler_details
from graphc.backends.cuda.runner import CudaRunner, Printed
from graphc.backends.cuda.target import LIKES
from graphc.codegen.cuda import print_program
from graphc.errors import BackendUnavailable
from graphc.ir.tensor_type import TensorType
from graphc.schedule.records import Program

Print = Callable[[Program, Options], Printed]


def prepare(
    program: Program, options: Options, *, open_device: Callable[[], Device], printed: Print
) -> Runner:
    """A runner of the compiled program; of its nodes, one by one, where it cannot be compiled, or
    the library refuses a product, but the device has an array module."""
    device = open_device()
    try:
        return CudaRunner(program, printed(program, options), options, device)
    except (BackendUnavailable, DeviceError) as error:
        xp = getattr(device, "xp", None)
        if xp is None or (isinstance(error, DeviceError) and error.late):
            raise
        return EagerRunner(program, options, device, xp, str(error))


def backend_on(
    name: str,
    open_device: Callable[[], Device],
    probe: Callable[[], Availability],
    printed: Print,
) -> Backend:
    """The backend that runs programs on one device."""

    def admit(value: Any, what: str, wanted: TensorType) -> Any:
        return admit_on(open_device(), value, what, wanted)

    def fetch(value: Any) -> np.ndarray:
        return fetch_from(open_device(), value)

    made = partial(prepare, open_device=open_device, printed=printed)
    return Backend(name, LIKES, made, probe, admit, fetch)


# -- what is there


def _print(program: Program, options: Options) -> Printed:
    """The program as CUDA C."""
    return print_program(program, options.numbers, options.sizes, options.precision)


@cache
def _emulator() -> Device:
    return EmulatedDevice()


def _probe_emulator() -> Availability:
    try:
        return Availability(True, "a C++ compiler is there", compiler_details())
    except BackendUnavailable as error:
        return Availability(False, str(error))


def _probe_gpu(number: int) -> Availability:
    """Whether a GPU can be used, why not, and what was found. Never raises."""
    found = probe()
    if found.usable and number:
        try:
            cupy_device(number)
        except BackendUnavailable as error:
            return Availability(False, str(error), found.details)
    return found


def gpu(number: int) -> Backend:
    """The backend of one GPU."""
    name = f"cuda:{number}" if number else "cuda"
    opened = cache(partial(cupy_device, number))
    return backend_on(name, opened, partial(_probe_gpu, number), _print)


def emulator() -> Backend:
    """The backend that runs a GPU's programs on the CPU."""
    return backend_on("emulator", _emulator, _probe_emulator, _print)
