"""What a backend is: a target for fusion, and a way to make a program run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphc.ir.philox import Draws
from graphc.schedule.records import Program, Target


@dataclass(frozen=True, slots=True)
class Options:
    """How a program is to be run.

    `threads`: None for all cores this process may use; `inputs`: the names of the declared inputs,
    in the order in which a call hands them over; `numbers`: of the random draws; `sizes`: of the
    symbolic dimensions; `shared`: what a backend lets the specialisations of one executable share,
    which never run at once.
    """

    threads: int | None = None
    inputs: tuple[str, ...] = ()
    numbers: Mapping[int, int] = field(default_factory=dict[int, int])
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    shared: dict[str, Any] = field(default_factory=dict[str, Any])


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

    def __call__(self, inputs: Sequence[Any], draws: Draws) -> list[Any]:
        """Run once: arrays for the declared inputs in order, fresh arrays for its outputs."""
        ...

    def time_kernels(self, inputs: Sequence[Any], draws: Draws, repeat: int) -> list[list[float]]:
        """Run `repeat` times, kernel by kernel: for each kernel of the program in order, its
        seconds in each run. A run like any other: it updates parameters; its results are lost."""
        ...

    def unchanged(self) -> AbstractContextManager[None]:
        """While it lasts, no one else reads or writes the program's parameters; at its end they
        have their old values, bit for bit, whatever this runner did meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here, why (not), and what was found."""

    usable: bool
    reason: str
    details: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend by name. `prepare(program, options)` makes a runner; `probe()` never raises."""

    name: str
    target: Target
    prepare: Callable[[Program, Options], Runner]
    probe: Callable[[], Availability]
