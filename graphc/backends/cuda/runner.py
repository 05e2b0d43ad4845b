"""A program printed as CUDA C, loaded, bound to memory and run: replayed or launch by launch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from graphc.backends.base import Options
from graphc.backends.cuda.device import Device, DeviceError
from graphc.backends.cuda.device_peaks import device_peaks
from graphc.backends.cuda.faults import describe_kernel, tell, told, waiting, watched
from graphc.backends.cuda.launching import Decide, Launches
from graphc.backends.cuda.memory import DeviceMemory
from graphc.backends.cuda.tuning import Budget, Tuning
from graphc.backends.cuda.ways import (
    FUNCTIONS,
    Direct,
    Parts,
    Replayed,
    Way,
    is_replayed,
    reason,
    results_of,
)
from graphc.backends.peaks import Peaks
from graphc.codegen.launches import Choice, Launch
from graphc.codegen.sources import splice
from graphc.ir.philox import MASK, Draws
from graphc.schedule.records import Program

STATE_NBYTES = 16
MOST_EPILOGUES = 4  # in a note
STEP = '#include "step.cuh"\n'


class Printed(Protocol):
    """A program as text, and what to launch of it; `partials`: bytes of its scratch buffers."""

    @property
    def text(self) -> str: ...

    @property
    def kernel_sources(self) -> tuple[str, ...]: ...

    @property
    def launches(self) -> tuple[Launch, ...]: ...

    @property
    def partials(self) -> tuple[int, ...]: ...

    @property
    def choices(self) -> tuple[Choice, ...]: ...


class CudaRunner:
    """A program on a device."""

    def __init__(
        self, program: Program, printed: Printed, options: Options, device: Device
    ) -> None:
        self.device = device
        self.source, self.kernel_sources = printed.text, printed.kernel_sources
        self._state: tuple[int, int] | None = None  # seed and step that the device has
        self._reason = reason(program)
        with device.active():
            functions = device.load(splice(f"{printed.text}\n{STEP}"))
            launches = Launches(
                device, printed.launches, functions, printed.choices,
                lambda number: describe_kernel(program.kernels[number]),
                self._tuning(program, options) if device.facts.timed else None,
            )  # fmt: skip
            if not device.facts.timed:  # a fixed rule, by which the emulator runs epilogues
                launches.take(launches.choices)
        self.memory = DeviceMemory(program, device, options, printed.partials)
        self._parts = Parts(
            program, device, self.memory, launches,
            {name: functions(name) for name in FUNCTIONS},
            tuple((options.inputs.index(n.name), n) for n in program.schedule.graph.inputs),
            results_of(program),
            bool(options.numbers), self.memory.rooms.take(STATE_NBYTES),
        )  # fmt: skip
        self._way: Way = (Replayed if is_replayed(program) else Direct)(self._parts)
        self._work = watched(device, options.name, program)
        self._walked = False  # kernel by kernel
        with told(device):
            self.memory.allocate()

    def _tuning(self, program: Program, options: Options) -> Decide:
        """What chooses between launches by the clock."""
        budget: Budget = options.shared.setdefault("tuning", Budget())
        return Tuning(self.device, program, budget)

    @property
    def scratch_nbytes(self) -> int:
        """Bytes beside the arena and the parameters: scratch, constants, slots, tables."""
        return self.memory.rooms.nbytes

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether steps are replayed, and why; which products have an epilogue."""
        notes = (self._way.why_not or self._reason,)
        launches = self._parts.launches
        if launches.undecided:
            return *notes, f"{launches.undecided} epilogues to be timed by the first call"
        products = [launches.choices[i] for i in launches.taken]
        found = [f"{p.product.epilogue} in k{p.kernel}" for p in products[:MOST_EPILOGUES]]
        found += [f"{len(products) - len(found)} more"] * (len(products) > len(found))
        return (*notes, f"epilogues: {', '.join(found)}") if found else notes

    def __call__(self, inputs: Sequence[Any], draws: Draws) -> list[Any]:
        self._work.pending = True
        try:
            with self.memory.held():
                self._set_state(draws)
                results = self._way.run(inputs)
                self._state = draws.seed, draws.step + 1
        except DeviceError as error:
            tell(self.device, error)
            raise
        return results

    def run_many(
        self, inputs: Sequence[Any], draws: Draws, count: int, done: Callable[[int], None]
    ) -> list[Any]:
        """`count` steps, on the slices of the inputs along their leading axis."""
        self._work.pending = True
        with told(self.device), self.memory.held():
            self._set_state(draws)
            results = self._way.run_many(inputs, count, done)
            self._state = draws.seed, draws.step + count
        return results

    def time_kernels(self, inputs: Sequence[Any], draws: Draws, repeat: int) -> list[list[float]]:
        """The device's seconds for each kernel in each of `repeat` runs, its launches added up; 0
        for one that a product does as its epilogue. In the first run of all, each launch is waited
        for, so that a fault names its kernel."""
        found = [[0.0] * repeat for _ in self.kernel_sources]
        self._work.pending = True
        for run in range(repeat):
            with told(self.device), self.memory.held():
                self._set_state(draws)
                seconds = self._way.time(inputs, waits=not self._walked)
                self._walked = True
                self._state = draws.seed, draws.step  # which was not counted
            for launch, taken in zip(self._parts.launches.chosen, seconds, strict=True):
                found[launch.kernel][run] += taken
        return found

    def peaks(self) -> Peaks:
        """What the device reaches at most."""
        return device_peaks(self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        with self.device.active(), waiting(self.device):
            self.device.synchronize()

    @contextmanager
    def unchanged(self) -> Generator[None]:
        """Parameters have their old values at its end, whatever ran meanwhile."""
        with self.memory.unchanged():
            yield

    def _set_state(self, draws: Draws) -> None:
        """Let the device have the state of these draws. What it has at the end of a step is known
        once that has come to its end."""
        known, self._state = self._state, None
        if self._parts.draws and known != (draws.seed, draws.step):
            words = [draws.seed & MASK, draws.seed >> 32, draws.step & MASK, draws.step >> 32]
            address = self.memory.address(self._parts.state)
            self.device.upload(address, np.array(words, np.uint32))
