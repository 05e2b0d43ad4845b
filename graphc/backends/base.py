"""What a backend is: a target for fusion, and a way to make a program run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphc.backends.peaks import Peaks
from graphc.ir.philox import Draws
from graphc.ir.storage import admit
from graphc.ir.tensor_type import TensorType
from graphc.schedule.records import Program, Target


@dataclass(frozen=True, slots=True)
class Options:
    """How a program is to be run.

    `threads`: None for all cores this process may use; `inputs`: the names of the declared inputs,
    in the order in which a call hands them over; `numbers`: of the random draws; `sizes`: of the
    symbolic dimensions; `shared`: what a backend lets the specialisations of one executable share,
    which never run at once; `precision`: of float32 products on a GPU, "float32", "tf32" or "bf16";
    `name`: of the program, for messages.
    """

    threads: int | None = None
    inputs: tuple[str, ...] = ()
    numbers: Mapping[int, int] = field(default_factory=dict[int, int])
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    shared: dict[str, Any] = field(default_factory=dict[str, Any])
    precision: str = "float32"
    name: str = "program"


class Runner(Protocol):
    """A prepared program."""

    @property
    def source(self) -> str:
        """What runs, as text."""
        ...

    @property
    def kernel_sources(self) -> Sequence[str]:
        """The text of each kernel."""
        ...

    @property
    def scratch_nbytes(self) -> int:
        """Bytes that the program uses beside the arena."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """How it runs, where there is more than one way, and why."""
        ...

    def __call__(self, inputs: Sequence[Any], draws: Draws) -> list[Any]:
        """Run once: arrays for the declared inputs in order, fresh arrays for its outputs. It may
        return before the work is done: whoever looks at a result or a parameter waits for it."""
        ...

    def synchronize(self) -> None:
        """Wait until the work of all calls is done."""
        ...

    def time_kernels(self, inputs: Sequence[Any], draws: Draws, repeat: int) -> list[list[float]]:
        """Run `repeat` times, kernel by kernel: for each kernel of the program in order, its
        seconds in each run. A run like any other: it updates parameters; its results are lost."""
        ...

    def unchanged(self) -> AbstractContextManager[None]:
        """While it lasts, no one else reads or writes the program's parameters; at its end they
        have their old values, bit for bit, whatever this runner did meanwhile."""
        ...


@runtime_checkable
class Repeating(Protocol):
    """A runner that does many steps faster than one by one."""

    def run_many(
        self, inputs: Sequence[Any], draws: Draws, count: int, done: Callable[[int], None]
    ) -> list[Any]:
        """Run `count` times, on the slices of the inputs along their leading axis, with the draws
        of this step and those that follow: fresh arrays with such an axis. The same, bit for bit,
        as that many calls. `done` is told of each group of steps together with their updates, so
        that an interrupt finds as many counted as were done."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A runner that does not work on the CPU, and knows what its device reaches at most."""

    def peaks(self) -> Peaks:
        """Measured once per device and process."""
        ...


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here, why (not), and what was found."""

    usable: bool
    reason: str
    details: Mapping[str, str] = field(default_factory=dict[str, str])


def on_host(value: Any) -> np.ndarray:
    """What an array is on the host where arrays are NumPy's: itself."""
    return value


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend by name. `prepare(program, options)` makes a runner; `probe()` never raises.

    `admit(value, what, wanted)` makes of what a user passes an array that the runner takes, with a
    `shape` of whatever kind; it raises InputError, naming `what`, for a dtype that does not fit.
    `fetch` gives such an array, or a result, as NumPy's.
    """

    name: str
    target: Target
    prepare: Callable[[Program, Options], Runner]
    probe: Callable[[], Availability]
    admit: Callable[[Any, str, TensorType], Any] = admit
    fetch: Callable[[Any], np.ndarray] = on_host
