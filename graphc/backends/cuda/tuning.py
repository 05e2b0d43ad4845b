"""What only a clock can tell: which of the library's algorithms for a product is the fastest, and
whether one product with an epilogue beats a product and a kernel after it.

It is timed once, before a program's first step, on the program's own buffers: all that is computed
there is overwritten by the step. What was found is kept in a file of the cache folder: a JSON
object of devices (with the versions of all that has a say), each an object of questions and
answers. The file spares time and nothing else: without it, or with nonsense in it, the same things
are timed anew; and no answer changes what a program computes, beyond the order of sums in products.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import numpy as np

from graphc.backends.cache import object_cache
from graphc.backends.cuda.cublaslt import Multiplier, describe, extents
from graphc.backends.cuda.device import Device, DeviceError, Facts, Recording
from graphc.backends.cuda.launching import Call, Launches, arguments_of
from graphc.codegen.launches import Address, Launch, Product, ProductLaunch
from graphc.codegen.tables import Slot
from graphc.errors import BackendUnavailable
from graphc.ir.tensor_type import as_dtype
from graphc.schedule.records import Program, Region, Slab

# For all sizes of an executable together. A training step of a few layers has about ten products of
# up to eight algorithms, each timed in well under a millisecond: all of it fits, and a cold start
# of half a second stays one. Of a program with more to do the largest products come first, where
# most is to be gained; one that would not fit into what is left lets smaller ones go first, and is
# tried again in the next process, which has only the rest to do.
SECONDS = 0.1
LONG_ENOUGH = 2e-4  # seconds of a measurement; of work that takes longer, one run is one
MOST_RUNS = 16  # in a measurement
TRIES = 2  # measurements, of which the faster counts
FILE = "tuning"  # the note's name
MOST_ANSWERS = 4096  # for one device; the oldest are forgotten
SIDE = 16  # of the matrices with which the library is asked whether it keeps NaN
PATTERN = 1 << 14  # values, repeated in operands


@dataclass
class Budget:
    """Seconds that may still be spent on measuring."""

    left: float = SECONDS

    @contextmanager
    def spent(self) -> Generator[None]:
        """What is done in it costs its time."""
        start = perf_counter()
        try:
            yield
        finally:
            self.left -= perf_counter() - start


class Tuning:
    """Makes the choices of a program, once its addresses are known."""

    def __init__(self, device: Device, program: Program, budget: Budget) -> None:
        self.program, self.budget = program, budget
        self.clock = Clock(device, budget)
        self.device = device

    def __call__(self, launches: Launches, at: Mapping[Slot, int], state: int) -> None:
        one = _Tuning(self, launches, at, state, Answers(self.device.facts))
        launches.take(one.decide())
        one.answers.keep()


@dataclass
class _Tuning:
    """The same for some addresses."""

    of: Tuning
    launches: Launches
    at: Mapping[Slot, int]
    state: int
    answers: Answers

    def decide(self) -> list[int]:
        """The choices to take; the algorithms of all products are chosen on the way."""
        products = [
            (i, launch)
            for i, launch in enumerate(self.launches.launches)
            if isinstance(launch, ProductLaunch)
        ]
        products.sort(key=lambda item: -_flops(item[1]))
        return [i for i, launch in products if self._takes_epilogue(i, launch)]

    def _takes_epilogue(self, first: int, plain: ProductLaunch) -> bool:
        """Whether the product does what comes after it, too: if nothing is known, it does, which
        spares a launch and a pass over memory."""
        instead = self.launches.choices.get(first)
        if instead is None or not self._is_faithful(instead):
            self._choose_algorithm(plain)
            return False
        question = f"epilogue: {describe(instead.product)}"
        known = self.answers.get(question)
        if known != 1:
            self._choose_algorithm(plain)
        if known != 0:
            self._choose_algorithm(instead)
        if known in (0, 1):
            return known == 1
        separate = self._work([plain, self.launches.launches[first + 1]])
        if not self.of.clock.fits(separate, 2):
            return True
        two = self.of.clock.seconds(separate)
        one = self.of.clock.seconds(self._work([instead]))
        self.answers.put(question, int(one < two))
        return one < two

    def _is_faithful(self, launch: ProductLaunch) -> bool:
        """Whether an epilogue computes what our kernel does: NaN stays NaN, which the library does
        not promise."""
        return "RELU" not in launch.product.epilogue or keeps_nan(self.of.device)

    def _choose_algorithm(self, launch: ProductLaunch) -> None:
        multiplier = self.launches.multipliers[launch.product]
        if not isinstance(multiplier, Multiplier):
            return
        a, b, c, bias = map(int, arguments_of(launch, self.at, self.state))
        plan = multiplier.plan(a, b, c)
        question = f"{describe(launch.product)}, operands at multiples of {plan.alignment}"
        known = self.answers.get(question)
        if known is not None and known < plan.candidates:
            plan.choose(known)
            return
        if plan.candidates < 2 or not self._lies_in(launch.c, Region.ARENA, Region.RESULT):
            return  # nothing to choose; or something of value is where the result goes
        self._fill(launch, (a, b))
        call = partial(multiplier, a, b, c, bias)
        if self.of.clock.fits(call, plan.candidates):
            self.answers.put(question, plan.tune(self.of.clock.seconds, call))

    def _work(self, launches: Sequence[Launch]) -> Call:
        """These launches, one after another."""
        calls = [self.launches.call(x, arguments_of(x, self.at, self.state)) for x in launches]

        def work() -> None:
            for call in calls:
                call()

        return work

    def _lies_in(self, address: Address, *regions: Region) -> bool:
        """Whether an address is scratch, or of a buffer in memory of this kind."""
        slot = address.slot
        return isinstance(slot, int) or (
            not isinstance(slot, Slab) and self.of.program.places[slot].region in regions
        )

    def _fill(self, launch: ProductLaunch, addresses: Sequence[int]) -> None:
        """Let the operands that a step computes itself hold random values: a device is faster on
        zeros."""
        sizes, dtype = extents(launch.product), as_dtype(launch.product.dtype)
        for operand, address, nbytes in zip((launch.a, launch.b), addresses, sizes, strict=False):
            if self._lies_in(operand, Region.ARENA):
                fill_random(self.of.device, address, nbytes, dtype)


class Clock:
    """Seconds that a device takes for some work, as it takes them in a recording."""

    def __init__(self, device: Device, budget: Budget) -> None:
        self.device, self.budget = device, budget

    def fits(self, work: Call, times: int) -> bool:
        """Whether so many measurements of the work can be paid for."""
        if self.budget.left <= 0:
            return False
        with self.budget.spent():
            work()  # libraries load what they need
            once = self._run(work)
        return times * (2 + TRIES * _runs(once)) * once < self.budget.left

    def seconds(self, work: Call) -> float:
        """Infinity where the work is refused, or nothing is left to be spent."""
        if self.budget.left <= 0:
            return math.inf
        with self.budget.spent():
            try:
                work()
                runs = _runs(self._run(work))
                recorded = self._recorded(work, runs)
                return min(self._run(recorded) for _ in range(TRIES)) / runs
            except DeviceError as error:
                if error.late:
                    raise
                return math.inf

    def _run(self, work: Call) -> float:
        start, end = self.device.event(), self.device.event()
        start.record()
        work()
        end.record()
        end.wait()
        return end.seconds_since(start)

    def _recorded(self, work: Call, runs: int) -> Call:
        """So many runs in one launch, so that what the host takes for each does not count."""

        def many() -> None:
            for _ in range(runs):
                work()

        try:
            with self.device.record() as recorder:
                many()
            recording: Recording = recorder.recording
        except Exception:  # whatever a driver says: launches can be timed all the same
            return many
        return recording.replay


def _runs(once: float) -> int:
    return max(1, min(MOST_RUNS, math.ceil(LONG_ENOUGH / max(once, 1e-9))))


def _flops(launch: ProductLaunch) -> int:
    p = launch.product
    return p.batch * p.m * p.n * p.k


@lru_cache(maxsize=16)
def keeps_nan(device: Device) -> bool:
    """Whether NaN passes through the library's rectifier."""
    product = Product(SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, "float32", "float32", epilogue="RELU")
    values = np.full((3, SIDE, SIDE), np.nan, np.float32)
    block = device.allocate(values.nbytes)
    a, b, c = (block.address + i * values[i].nbytes for i in range(3))
    values[1], values[2] = 1, 0
    device.upload(block.address, values)
    try:
        device.multiplier(product)(a, b, c, 0)
        device.download(values[2], c)
    except DeviceError as error:
        if error.late:
            raise
        return False
    return bool(np.isnan(values[2]).all())


def fill_random(device: Device, address: int, nbytes: int, dtype: np.dtype[Any]) -> None:
    """Fill memory with values of a normal distribution."""
    size = min(PATTERN, nbytes // dtype.itemsize)
    values = np.random.default_rng(0).standard_normal(size, np.float32).astype(dtype)
    if size:
        device.upload(address, values)
    done = values.nbytes
    while done < nbytes:
        more = min(done, nbytes - done)
        device.copy(address + done, address, more)
        done += more


# -- the file


class Answers:
    """What is known of one device: a number for each question."""

    def __init__(self, facts: Facts) -> None:
        versions = (f"{name} {version}" for name, version in facts.versions)
        self.device = ", ".join([facts.description, facts.arch, *versions])
        self._known = _read().get(self.device, {})
        self._new: dict[str, int] = {}

    def get(self, question: str) -> int | None:
        return self._known.get(question)

    def put(self, question: str, answer: int) -> None:
        self._known[question] = self._new[question] = answer

    def keep(self) -> None:
        """Add what is new to the file as it is now. Of two processes that do at the same time one
        may lose its answers, which are then found anew."""
        if self._new:
            everything = _read()
            mine = everything.get(self.device, {}) | self._new
            everything[self.device] = dict(list(mine.items())[-MOST_ANSWERS:])
            with suppress(BackendUnavailable):
                object_cache().keep(FILE, json.dumps(everything, indent=1))


def _read() -> dict[str, dict[str, int]]:
    """The file's content, as far as it is what it should be."""
    try:
        found: Any = json.loads(object_cache().note(FILE) or "{}")
    except (BackendUnavailable, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        device: {q: a for q, a in answers.items() if type(a) is int and a >= 0}
        for device, answers in found.items()
        if isinstance(answers, dict)
    }
