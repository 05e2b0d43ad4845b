"""Two ways to run a step: as one recording over fixed slots, or launch by launch over the caller's
arrays.

A recording costs the host one launch, but arrays that change with each call must be copied into
slots and out of them. Large ones cost more to copy than launches do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.device import Block, Device, DeviceError, Event, Recording
from graphc.backends.cuda.launching import Call, Launches
from graphc.backends.cuda.memory import ALIGNMENT, DeviceMemory
from graphc.backends.cuda.staging import BERTHS, WORD, Berth, Staging
from graphc.codegen.tables import Slot
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import DType
from graphc.report.notation import nbytes_text
from graphc.schedule.records import Buffer, Program, Region, buffer_nbytes

COPIED = 1 << 20  # bytes: up to here copying inputs and results costs less than many launches
SHARE = 20  # or up to one part in so many of all bytes that the kernels move
TOGETHER = 16  # steps in a recording of many, at most
LONGEST = 4096  # launches in a recording of many steps
THREADS = 256
Done = Callable[[int], None]
FUNCTIONS = ("gx_fetch", "gx_deliver", "gx_advance")  # of kernels/step.cuh


@dataclass(frozen=True, slots=True)
class Result:
    """What a call returns: a buffer under a shape. `early`: as it was before the first launch."""

    buffer: Buffer
    shape: tuple[int, ...]
    dtype: DType
    nbytes: int
    early: bool


def results_of(program: Program) -> tuple[Result, ...]:
    """The results in order; those that are sources show old values of parameters."""
    return tuple(
        Result(buffer, shape, buffer.dtype, buffer_nbytes(buffer),
               isinstance(buffer, Node) and buffer.op.kind is Kind.SOURCE)
        for _, buffer, shape in program.results
    )  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What a way of running needs: the bound program, where it lies, and who calls it."""

    program: Program
    device: Device
    memory: DeviceMemory
    launches: Launches
    functions: Mapping[str, Any]  # those of step.cuh
    inputs: tuple[tuple[int, Node], ...]  # with their positions in a call
    results: tuple[Result, ...]
    draws: bool
    state: int  # the offset of the state of the draws

    def fresh(self, *lead: int) -> tuple[list[Any], list[int]]:
        """New arrays for the results, and their addresses."""
        made = [self.device.fresh((*lead, *r.shape), r.dtype) for r in self.results]
        return [array for array, _ in made], [address for _, address in made]

    def run(self, step: Callable[[], object]) -> None:
        """Do what updates parameters, call by call."""
        self.memory.update(step)

    def replay(self, recording: Recording) -> None:
        """The same with one launch, which an interrupt finds done or not begun."""
        if isinstance(recording, InTurn):
            self.run(recording.replay)
            return
        try:
            recording.replay()
        except Exception as error:
            self.memory.invalidate(error)
            raise


class Way(Protocol):
    """A way to run. Everything is called while the memory is held."""

    @property
    def why_not(self) -> str:
        """Why it runs otherwise than `reason` says; "" if it does not."""
        ...

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """One step."""
        ...

    def run_many(self, inputs: Sequence[Any], count: int, done: Done) -> list[Any]:
        """One step for each index of the leading axes; `done` counts them, with the updates."""
        ...

    def time(self, inputs: Sequence[Any], waits: bool) -> list[float]:
        """One step without results and without counting it: the seconds of each launch. With
        `waits`, each is waited for, and a fault names its kernel."""
        ...


def is_replayed(program: Program) -> bool:
    """Whether copying inputs into slots and results out of them is worth it."""
    copied, moved = _traffic(program)
    return copied <= max(COPIED, moved // SHARE)


def reason(program: Program) -> str:
    """The same in words."""
    copied, moved = _traffic(program)
    way = "replayed as one recording" if is_replayed(program) else "launch by launch"
    return (
        f"{way}: {nbytes_text(copied)} of inputs and results beside {nbytes_text(moved)} that "
        "kernels move"
    )


def _traffic(program: Program) -> tuple[int, int]:
    """Bytes of inputs and results, and bytes that the kernels move."""
    copied = sum(n.type.nbytes for n in program.schedule.graph.inputs)
    copied += sum(buffer_nbytes(buffer) for _, buffer, _ in program.results)
    return copied, sum(kernel.nbytes for kernel in program.kernels)


def in_turn(calls: Sequence[Call]) -> None:
    """Call one after another."""
    for call in calls:
        call()


def timed(device: Device, calls: Sequence[Call], names: Sequence[str], waits: bool) -> list[float]:
    """The same; the device's seconds for each. With `waits`, each is waited for, and a fault tells
    the name of the one that has failed."""
    if waits:
        device.synchronize()  # what fails here was there before
    events = [device.event() for _ in range(len(calls) + 1)]
    events[0].record()
    for call, event, name in zip(calls, events[1:], names, strict=True):
        call()
        event.record()
        if waits:
            _wait(event, name)
    device.synchronize()
    return [end.seconds_since(start) for start, end in pairwise(events)]


def _wait(event: Event, name: str) -> None:
    try:
        event.wait()
    except DeviceError as error:
        raise DeviceError(f"{name} failed: {error}") from error


# -- one recording


class InTurn:
    """What is replayed where nothing can be recorded: the same calls, one after another."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls

    def replay(self) -> None:
        in_turn(self.calls)


class Replayed:
    """Steps as recordings: fetch inputs, deliver early results, launch, deliver the others, count.

    The first step runs call by call, because libraries load lazily what no recording may load; and
    all of them do where recording fails, which `why_not` then tells.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.why_not = parts, ""
        self.early = [r for r in parts.results if r.early]
        self.late = [r for r in parts.results if not r.early]
        order = sorted(range(len(parts.results)), key=lambda i: not parts.results[i].early)
        self._order = order  # of results in the table: the early ones first
        nodes = [node for _, node in parts.inputs]
        self.staging = Staging(1 + len(nodes) + len(parts.results), nodes)
        memory = parts.memory
        self._base = memory.rooms.take(self.staging.nbytes)
        for node in nodes:
            if node in self.staging.offsets:
                memory.place(node, self._base + self.staging.offsets[node])
            else:
                memory.give_room(node)
        for buffer in memory.buffers(Region.RESULT):
            memory.give_room(buffer)
        self._rooms = memory.rooms.take(2 * WORD * self.staging.words)
        self._version = -1
        self._ran = False
        self._recordings: dict[tuple[int, bool, bool], Recording] = {}

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        arrays, addresses = self.parts.fresh()
        recording = self._recording(1, counting=False, fetching=_any_on_device(inputs))
        berth = self._stage(inputs, addresses)
        try:
            self.parts.replay(recording)
        except KeyboardInterrupt:  # at its end
            berth.event.record()
            raise
        self._ran = True
        berth.event.record()
        return arrays

    def run_many(self, inputs: Sequence[Any], count: int, done: Done) -> list[Any]:
        given = [_on_device(self.parts.device, array) for array in inputs]
        arrays, addresses = self.parts.fresh(count)
        berth = self._stage(given, addresses)
        left = count
        try:
            while left:
                together = self._together(left)
                recording = self._recording(together, counting=True, fetching=bool(given))
                self.parts.run(lambda r=recording, n=together: (r.replay(), done(n)))
                self._ran = True
                left -= together
        except KeyboardInterrupt:  # between steps
            berth.event.record()
            raise
        berth.event.record()
        return arrays

    def _together(self, left: int) -> int:
        """How many of so many steps the next recording has."""
        most = min(TOGETHER, max(1, LONGEST // max(1, len(self.parts.launches.chosen))))
        return most if self._ran and left >= most else 1

    def time(self, inputs: Sequence[Any], waits: bool) -> list[float]:
        fetch, deliver, launches, _ = self._calls()
        berth = self._stage(inputs, [0] * len(self.parts.results))
        found: list[float] = []

        def step() -> None:
            in_turn([*fetch, *deliver])
            names = self.parts.launches.names()
            found.extend(timed(self.parts.device, launches, names, waits))

        self.parts.run(step)
        berth.event.record()
        return found

    # -- before the replay

    def _stage(self, inputs: Sequence[Any], addresses: Sequence[int]) -> Berth:
        """Tell the step where the caller's arrays are, and upload what comes from the host."""
        parts, staging = self.parts, self.staging
        berth = staging.take(parts.device)
        words, end = berth.words, staging.table_nbytes
        words[0] = 0  # the index of the step
        for word, (position, node) in enumerate(parts.inputs, 1):
            given = inputs[position]
            words[word] = 0
            if isinstance(given, DeviceArray):
                words[word] = given.address
                berth.keep.append(given.keep)
            elif node in berth.slots:
                berth.slots[node][...] = given
                end = staging.ends[node]  # the slots are in this order
            elif given.nbytes:
                parts.device.upload(parts.memory.at[node], np.ascontiguousarray(given))
        for word, i in enumerate(self._order, 1 + len(parts.inputs)):
            words[word] = addresses[i]
        parts.device.upload(parts.memory.address(self._base), berth.block[:end])
        return berth

    # -- recordings

    def _recording(self, steps: int, counting: bool, fetching: bool) -> Recording:
        """A number of steps. The device counts them if there are draws or several steps, and
        fetches inputs if it has any: those of the host come with the table. The very first step
        does both, so that all functions are loaded."""
        fetch, deliver, launches, after = self._calls()
        key = steps, counting, fetching
        found = self._recordings.get(key)
        if found is not None:
            return found
        first = not self._ran
        step = [*(fetch if fetching or first else ()), *deliver, *launches, *after]
        if counting or self.parts.draws or first:
            step.append(self._advance)
        if first:
            return InTurn(step * steps)
        found = self._recordings[key] = self._recorded(step * steps)
        return found

    def _recorded(self, calls: Sequence[Call]) -> Recording:
        if self.why_not:
            return InTurn(calls)
        try:
            with self.parts.device.record() as recorder:
                in_turn(calls)
            return recorder.recording
        except Exception as error:  # whatever a driver says: launches work all the same
            self.why_not = f"launch by launch, as recording failed: {error}"
            return InTurn(calls)

    def _calls(self) -> tuple[list[Call], list[Call], list[Call], list[Call]]:
        """Fetching, early delivery, launches, late delivery: bound to where everything lies."""
        memory = self.parts.memory
        if self._version != memory.version:
            self._recordings.clear()
            self._bound = self._bind()
            self._version = memory.version
        return self._bound

    def _bind(self) -> tuple[list[Call], list[Call], list[Call], list[Call]]:
        parts, at = self.parts, self.parts.memory.at
        table, rooms = parts.memory.address(self._base), parts.memory.address(self._rooms)
        groups: list[list[Buffer]] = [
            [node for _, node in parts.inputs],
            [r.buffer for r in self.early],
            [r.buffer for r in self.late],
        ]
        entries = [(at[b], buffer_nbytes(b)) for group in groups for b in group]
        if entries:
            parts.device.upload(rooms, np.array(entries, np.int64))
        calls: list[list[Call]] = []
        first = 0
        for group, name in zip(groups, ("gx_fetch", "gx_deliver", "gx_deliver"), strict=True):
            arguments = (
                rooms + 2 * WORD * first, table + WORD * (1 + first), table, len(group)
            )  # fmt: skip
            largest = max(map(buffer_nbytes, group), default=0)
            calls.append([self._mover(name, arguments, largest)] if largest else [])
            first += len(group)
        state = parts.memory.address(parts.state)
        self._advance = parts.device.launcher(parts.functions["gx_advance"], 1, 1, (state, table))
        return calls[0], calls[1], parts.launches.bind(at, state), calls[2]

    def _mover(self, name: str, arguments: Sequence[int], largest: int) -> Call:
        """A launch that copies some arrays, the largest of so many bytes: each has its own blocks,
        whose threads copy 16 bytes in a go."""
        device, count = self.parts.device, arguments[-1]
        most = max(1, 8 * device.facts.multiprocessors // count)
        blocks = count * min(-(-largest // (16 * THREADS)), most)
        return device.launcher(self.parts.functions[name], blocks, THREADS, arguments)


def _any_on_device(inputs: Sequence[Any]) -> bool:
    return any(isinstance(given, DeviceArray) for given in inputs)


def _on_device(device: Device, array: Any) -> DeviceArray:
    """An array with a leading axis where the device can fetch from it."""
    if isinstance(array, DeviceArray):
        return array
    copy, address = device.fresh(array.shape, array.dtype)
    if array.nbytes:
        device.upload(address, np.ascontiguousarray(array))
    return DeviceArray(address, array.shape, array.dtype, copy)


# -- launch by launch


class Direct:
    """Launches one by one, with the addresses of the caller's arrays. Those that are not aligned,
    and what comes from the host, go through slots, allocated when first needed."""

    why_not = ""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._slots: dict[Buffer, Block] = {}
        self._index = parts.memory.rooms.take(WORD)
        self._kept: deque[tuple[Event, list[Any]]] = deque()  # the caller's arrays, by call

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        arrays, addresses = self.parts.fresh()
        self._step(inputs, addresses)
        self._keep(inputs)
        return arrays

    def run_many(self, inputs: Sequence[Any], count: int, done: Done) -> list[Any]:
        arrays, addresses = self.parts.fresh(count)
        sizes = [result.nbytes for result in self.parts.results]
        try:
            for i in range(count):
                targets = [a + i * nbytes for a, nbytes in zip(addresses, sizes, strict=True)]
                self._step([array[i] for array in inputs], targets, lambda: done(1))
        except KeyboardInterrupt:  # between steps
            self._keep(inputs)
            raise
        self._keep(inputs)
        return arrays

    def time(self, inputs: Sequence[Any], waits: bool) -> list[float]:
        parts = self.parts
        arrays, addresses = parts.fresh()
        _, launches, _ = self._calls(inputs, addresses)
        found: list[float] = []
        names = parts.launches.names()
        parts.run(lambda: found.extend(timed(parts.device, launches, names, waits)))
        del arrays  # until here the launches wrote to them
        return found

    def _step(
        self, inputs: Sequence[Any], targets: Sequence[int], count: Call = lambda: None
    ) -> None:
        before, launches, after = self._calls(inputs, targets)
        if self.parts.draws:
            after.append(self._advance())
        self.parts.run(lambda: in_turn([*before, *launches, *after, count]))

    def _calls(
        self, inputs: Sequence[Any], targets: Sequence[int]
    ) -> tuple[list[Call], list[Call], list[Call]]:
        """Early results, launches, and what is left to be copied into results."""
        parts = self.parts
        at: dict[Slot, int] = dict(parts.memory.at)
        for position, node in parts.inputs:
            at[node] = self._given(node, inputs[position])
        results = list(zip(parts.results, targets, strict=True))
        wanted = {r.buffer: a for r, a in results if _is_aligned(a)}
        for buffer in parts.memory.buffers(Region.RESULT):
            at[buffer] = wanted[buffer] if buffer in wanted else self._slot(buffer)
        launches = parts.launches.bind(at, parts.memory.address(parts.state))
        early = [self._copy(a, at[r.buffer], r.nbytes) for r, a in results if r.early]
        late = [self._copy(a, at[r.buffer], r.nbytes) for r, a in results
                if not r.early and a != at[r.buffer]]  # fmt: skip
        return early, launches, late

    def _given(self, node: Node, given: Any) -> int:
        """Where an input is for this step."""
        device = self.parts.device
        if isinstance(given, DeviceArray):
            if _is_aligned(given.address):
                return given.address
            slot = self._slot(node)
            if given.nbytes:
                device.copy(slot, given.address, given.nbytes)
            return slot
        slot = self._slot(node)
        if given.nbytes:
            device.upload(slot, np.ascontiguousarray(given))
        return slot

    def _slot(self, buffer: Buffer) -> int:
        if buffer not in self._slots:
            self._slots[buffer] = self.parts.device.allocate(max(1, buffer_nbytes(buffer)))
        return self._slots[buffer].address

    def _copy(self, to: int, source: int, nbytes: int) -> Call:
        copy: Callable[[int, int, int], None] = self.parts.device.copy
        return lambda: copy(to, source, nbytes) if nbytes else None

    def _advance(self) -> Call:
        parts = self.parts
        arguments = (parts.memory.address(parts.state), parts.memory.address(self._index))
        return parts.device.launcher(parts.functions["gx_advance"], 1, 1, arguments)

    def _keep(self, inputs: Sequence[Any]) -> None:
        """Let go of the arrays of a call only when the device has read them: their memory may be
        another library's, which does not wait for this one's work."""
        event = self.parts.device.event()
        event.record()
        self._kept.append((event, [given for given in inputs if isinstance(given, DeviceArray)]))
        if len(self._kept) > BERTHS:
            self._kept[0][0].wait()
            self._kept.popleft()


def _is_aligned(address: int) -> bool:
    return address % ALIGNMENT == 0
