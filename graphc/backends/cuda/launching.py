"""Launch records bound to addresses: what to call, in order, to run a program once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from graphc.backends.cuda.cublaslt import BIAS_ALIGNMENT
from graphc.backends.cuda.device import Device, DeviceError
from graphc.codegen.launches import (
    Address,
    Choice,
    FillLaunch,
    KernelArgument,
    KernelLaunch,
    Launch,
    Product,
    ProductLaunch,
    State,
)
from graphc.codegen.tables import Slot

Call = Callable[[], None]
Bound = tuple[int | float, ...]
Decide = Callable[["Launches", Mapping[Slot, int], int], None]


class Launches:
    """The launches of a program. A call that is bound to the same addresses again is kept.

    `choices`: by the index of the first, two launches that one product may do `instead`, if the
    library has it; `chosen`: what is launched. `decide` takes choices, once, when addresses are
    first known. `describe`: a kernel by its number, for messages.
    """

    def __init__(
        self,
        device: Device,
        launches: Sequence[Launch],
        functions: Callable[[str], Any],
        choices: Sequence[Choice] = (),
        describe: Callable[[int], str] = "kernel {}".format,
        decide: Decide | None = None,
    ) -> None:
        self.device, self.launches = device, launches
        self._describe, self._decide = describe, decide
        self._functions = {
            launch.function: functions(launch.function)
            for launch in launches
            if isinstance(launch, KernelLaunch)
        }
        self.multipliers: dict[Product, Callable[[int, int, int, int], None]] = {
            launch.product: device.multiplier(launch.product)
            for launch in launches
            if isinstance(launch, ProductLaunch)
        }
        self.choices = {c.first: c.instead for c in choices if self._is_possible(c.instead)}
        self.take(())

    @property
    def undecided(self) -> int:
        """How many choices are still to be made."""
        return len(self.choices) if self._decide is not None else 0

    def take(self, firsts: Collection[int]) -> None:
        """Launch one product in place of the two launches at each of these indices."""
        self.taken = tuple(sorted(firsts))
        spared = {i + 1 for i in self.taken}
        self.chosen: list[Launch] = [
            self.choices[i] if i in self.taken else launch
            for i, launch in enumerate(self.launches)
            if i not in spared
        ]
        self._bound: list[tuple[Bound, Call] | None] = [None] * len(self.chosen)

    def bind(self, at: Mapping[Slot, int], state: int) -> list[Call]:
        """What to call in order, with buffers where `at` says, and the state of the draws."""
        decide, self._decide = self._decide, None
        if decide is not None:
            decide(self, at, state)
        calls: list[Call] = []
        for i, launch in enumerate(self.chosen):
            arguments = arguments_of(launch, at, state)
            bound = self._bound[i]
            if bound is None or bound[0] != arguments:
                bound = self._bound[i] = arguments, self.call(launch, arguments)
            calls.append(bound[1])
        return calls

    def call(self, launch: Launch, arguments: Bound) -> Call:
        """What does a launch; its errors tell of which kernel it is."""
        call = self._unnamed(launch, arguments)

        def named() -> None:
            try:
                call()
            except DeviceError as error:
                if error.late:  # the error of some kernel before
                    raise
                raise DeviceError(f"{self._describe(launch.kernel)}: {error}") from error

        return named

    def names(self) -> list[str]:
        """For each of `chosen`, the kernel that it belongs to."""
        return [self._describe(launch.kernel) for launch in self.chosen]

    def _unnamed(self, launch: Launch, arguments: Bound) -> Call:
        if isinstance(launch, KernelLaunch):
            blocks = launch.blocks
            if launch.per_multiprocessor:
                most = launch.per_multiprocessor * self.device.facts.multiprocessors
                blocks = min(blocks, most)
            function = self._functions[launch.function]
            return self.device.launcher(function, blocks, launch.threads, arguments)
        if isinstance(launch, ProductLaunch):
            return partial(self.multipliers[launch.product], *map(int, arguments))
        return partial(self.device.fill, int(arguments[0]), launch.nbytes)

    def _is_possible(self, instead: ProductLaunch) -> bool:
        """Whether the library has a product with its epilogue. Every buffer starts at a multiple of
        what it asks of the bias."""
        if instead.bias is not None and instead.bias.offset % BIAS_ALIGNMENT:
            return False
        try:
            self.multipliers[instead.product] = self.device.multiplier(instead.product)
        except DeviceError:
            return False
        return True


def arguments_of(launch: Launch, at: Mapping[Slot, int], state: int) -> Bound:
    """A launch's arguments as numbers, addresses put in."""

    def value(argument: KernelArgument) -> int | float:
        if isinstance(argument, Address):
            return at[argument.slot] + argument.offset
        return state if isinstance(argument, State) else argument

    if isinstance(launch, KernelLaunch):
        return tuple(map(value, launch.arguments))
    if isinstance(launch, FillLaunch):
        return (value(launch.to),)
    bias = 0 if launch.bias is None else value(launch.bias)
    return (value(launch.a), value(launch.b), value(launch.c), bias)
