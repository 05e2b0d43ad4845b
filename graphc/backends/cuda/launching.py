"""Launch records bound to addresses: what to call, in order, to run a program once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from graphc.backends.cuda.device import Device
from graphc.codegen.launches import (
    Address,
    FillLaunch,
    KernelArgument,
    KernelLaunch,
    Launch,
    ProductLaunch,
    State,
)
from graphc.codegen.tables import Slot

Call = Callable[[], None]
Bound = tuple[int | float, ...]


class Launches:
    """The launches of a program. A call that is bound to the same addresses again is kept."""

    def __init__(
        self, device: Device, launches: Sequence[Launch], functions: Callable[[str], Any]
    ) -> None:
        self.device, self.launches = device, launches
        self._functions = {
            launch.function: functions(launch.function)
            for launch in launches
            if isinstance(launch, KernelLaunch)
        }
        self._multipliers = {
            launch.product: device.multiplier(launch.product)
            for launch in launches
            if isinstance(launch, ProductLaunch)
        }
        self._bound: list[tuple[Bound, Call] | None] = [None] * len(launches)

    def bind(self, at: Mapping[Slot, int], state: int) -> list[Call]:
        """What to call in order, with buffers where `at` says, and the state of the draws."""
        calls: list[Call] = []
        for i, launch in enumerate(self.launches):
            arguments = _arguments(launch, at, state)
            bound = self._bound[i]
            if bound is None or bound[0] != arguments:
                bound = self._bound[i] = arguments, self._call(launch, arguments)
            calls.append(bound[1])
        return calls

    def _call(self, launch: Launch, arguments: Bound) -> Call:
        if isinstance(launch, KernelLaunch):
            blocks = launch.blocks
            if launch.per_multiprocessor:
                most = launch.per_multiprocessor * self.device.facts.multiprocessors
                blocks = min(blocks, most)
            function = self._functions[launch.function]
            return self.device.launcher(function, blocks, launch.threads, arguments)
        if isinstance(launch, ProductLaunch):
            return partial(self._multipliers[launch.product], *map(int, arguments))
        return partial(self.device.fill, int(arguments[0]), launch.nbytes)


def _arguments(launch: Launch, at: Mapping[Slot, int], state: int) -> Bound:
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
