"""The backends "cuda", a GPU, and "emulator", which runs the same generated source on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from graphc.backends.base import Availability, Backend, Options, Runner
from graphc.backends.cuda.arrays import admit_on, fetch_from
from graphc.backends.cuda.device import Device
from graphc.backends.cuda.eager import EagerRunner
from graphc.backends.cuda.runner import CudaRunner, Printed
from graphc.errors import BackendUnavailable
from graphc.ir.tensor_type import TensorType
from graphc.schedule.records import Program, Target

# Parameters are updated by one flat kernel, whatever their size: a launch costs more than a pass
# over them. Products are the library's.
LIKES = Target("cuda", beta=False, epilogue=False, horizontal=1 << 62, alignment=256)

Print = Callable[[Program, Options], Printed]


def prepare(
    program: Program, options: Options, *, open_device: Callable[[], Device], printed: Print
) -> Runner:
    """A runner of the compiled program; of its nodes, one by one, where it cannot be compiled but
    the device has an array module."""
    device = open_device()
    try:
        return CudaRunner(program, printed(program, options), options, device)
    except BackendUnavailable as error:
        xp = getattr(device, "xp", None)
        if xp is None:
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
    raise BackendUnavailable("the CUDA dialect is not part of this version")


@cache
def _gpu(number: int) -> Device:
    raise BackendUnavailable(f"device {number}: not part of this version")


@cache
def _emulator() -> Device:
    raise BackendUnavailable("not part of this version")


def _probe_gpu(number: int) -> Availability:
    """Whether a GPU can be used, why not, and what was found. Never raises."""
    try:
        _gpu(number)
    except BackendUnavailable:
        return Availability(False, "not part of this version")
    return Availability(True, "there")


def _probe_emulator() -> Availability:
    try:
        _emulator()
    except BackendUnavailable as error:
        return Availability(False, str(error))
    return Availability(True, "a C++ compiler is there")


def cuda(number: int = 0) -> Backend:
    """The backend of one GPU: "cuda" or "cuda:0", "cuda:1", ..."""
    name = f"cuda:{number}" if number else "cuda"
    return backend_on(name, partial(_gpu, number), partial(_probe_gpu, number), _print)


CUDA = cuda()
EMULATOR = backend_on("emulator", _emulator, _probe_emulator, _print)
