"""The native backend: a program as one C translation unit, compiled by the system's compiler and
run by one foreign call.

The compiled object is found by the content of its text, so that a program that was compiled once,
by any process, starts at once. Sizes that are symbolic are arguments: a new batch size plans its
memory anew, and calls the same object.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any

import numpy as np

from graphc.backends.base import Availability, Backend, Options
from graphc.backends.cache import object_cache
from graphc.backends.host_memory import HostMemory
from graphc.backends.native_parts import plan_steps
from graphc.backends.threads import available_threads
from graphc.backends.toolchain import Toolchain, compile_object, details, find_toolchain
from graphc.codegen.host import HostProgram, print_program
from graphc.codegen.sources import read, splice
from graphc.errors import BackendUnavailable
from graphc.ir.philox import MASK, Draws
from graphc.ir.storage import aligned_empty
from graphc.schedule.records import Buffer, Program, Target

ELEMENTS = {"f32": "float", "f64": "double", "i32": "int32_t", "i64": "int64_t"}


class Frame(ctypes.Structure):
    """`gx_call` of kernels/program.h."""

    _fields_ = (
        ("sizes", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        *((f"multiply_{element}", ctypes.c_void_p) for element in ELEMENTS),
        ("scratch", ctypes.c_void_p),
        ("scratch_nbytes", ctypes.c_int64),
        ("seed", ctypes.c_uint32 * 2),
        ("step", ctypes.c_uint32 * 2),
    )


class StepRecord(ctypes.Structure):
    """`gx_step` of kernels/runtime.c."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("at", ctypes.c_void_p),
        ("parts", ctypes.c_int32),
        ("barrier", ctypes.c_int32),
    )


class Job(ctypes.Structure):
    """`gx_job` of kernels/runtime.c."""

    _fields_ = (
        ("call", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("seconds", ctypes.c_void_p),
        ("alone", ctypes.c_double),
        ("stay", ctypes.c_int64),
        ("backoff", ctypes.c_int64),
    )


class NativeRunner:
    """A program compiled and bound to memory."""

    notes = ()

    def __init__(self, program: Program, options: Options) -> None:
        printed = print_program(program, options.numbers, options.sizes)
        self.source, self.kernel_sources = printed.text, printed.kernel_sources
        self.threads = options.threads or available_threads()
        self.steps = plan_steps(program, printed, self.threads)
        self._kernel_of = [launch.kernel for launch in printed.launches]
        if all(step.parts == 1 for step in self.steps):
            self.threads = 1
        objects = load_objects(
            {
                "runtime": read("runtime.c"),
                **{e: f"#define GX_T {ELEMENTS[e]}\n{read('product.c')}" for e in printed.products},
                "program": printed.text,
            }
        )
        self._keep: list[Any] = [objects]
        self._lay_out(printed)
        self.frame = Frame()
        self._fill_frame(printed, objects, options.sizes)
        self._steps = self._table(printed, objects["program"])
        self._job = Job(
            ctypes.addressof(self.frame), ctypes.addressof(self._steps), len(self.steps),
            self.threads,
        )  # fmt: skip
        # one foreign call: an interrupt waits for its end
        self._step = partial(_function(objects["runtime"].gx_run), ctypes.addressof(self._job))
        self.draws = bool(options.numbers)
        self.memory = HostMemory(program, options)
        self.memory.attach(self)

    def __call__(self, inputs: Sequence[np.ndarray], draws: Draws) -> list[np.ndarray]:
        if self.draws:
            self._set_draws(draws)
        return self.memory.run(inputs, self._step)

    def time_kernels(
        self, inputs: Sequence[np.ndarray], draws: Draws, repeat: int
    ) -> list[list[float]]:
        """Seconds of each kernel in each of `repeat` runs, those of its launches added up. All
        threads wait for each other around each launch, which a call does only where it must."""
        seconds = (ctypes.c_double * max(1, len(self.steps)))()
        found = [[0.0] * repeat for _ in self.kernel_sources]
        self._set_draws(draws)
        self._job.seconds = ctypes.addressof(seconds)
        try:
            for run in range(repeat):
                self.memory.run(inputs, self._step)
                for kernel, taken in zip(self._kernel_of, seconds, strict=False):
                    found[kernel][run] += taken
        finally:
            self._job.seconds = None
        return found

    def synchronize(self) -> None:
        """A call is done when it returns."""

    def unchanged(self) -> AbstractContextManager[None]:
        """Parameters have their old values at its end, whatever ran meanwhile."""
        return self.memory.unchanged()

    def _set_draws(self, draws: Draws) -> None:
        frame = self.frame
        frame.seed[0], frame.seed[1] = draws.seed & MASK, draws.seed >> 32 & MASK
        frame.step[0], frame.step[1] = draws.step & MASK, draws.step >> 32 & MASK

    def bind(self, buffer: Buffer, array: np.ndarray) -> None:
        """Note where a buffer lies now."""
        address = array.ctypes.data
        for place in self._places.get(buffer, ()):
            self._at[place] = address

    def release(self, buffer: Buffer) -> None:
        """An address keeps nothing alive."""

    @property
    def scratch_nbytes(self) -> int:
        """Bytes used beside the arena: rows, blocks of products, partial results."""
        return sum(room.nbytes for room in self._keep if isinstance(room, np.ndarray))

    # -- the frame

    def _lay_out(self, printed: HostProgram) -> None:
        """One table of addresses, a stretch for each launch, and the scratch that parts share."""
        slots = [slot for launch in printed.launches for slot in launch.slots]
        self._at = (ctypes.c_void_p * max(1, len(slots)))()
        partials = [self._room(nbytes) for nbytes in printed.partials]
        self._places: dict[Buffer, list[int]] = {}
        for place, slot in enumerate(slots):
            if isinstance(slot, int):
                self._at[place] = partials[slot]
            else:
                self._places.setdefault(slot, []).append(place)

    def _room(self, nbytes: int) -> int:
        room = aligned_empty((max(64, nbytes),), np.dtype("uint8"))
        self._keep.append(room)
        return room.ctypes.data

    def _fill_frame(
        self, printed: HostProgram, objects: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> None:
        frame = self.frame
        self._sizes = (ctypes.c_int64 * max(1, len(printed.symbols)))(
            *(sizes[s] for s in printed.symbols)
        )
        self._numbers = (ctypes.c_double * max(1, len(printed.numbers)))(*printed.numbers)
        nbytes = printed.row_nbytes
        for element, depth in printed.products.items():
            product = objects[element]
            needed = product.gx_product_scratch
            needed.argtypes, needed.restype = (ctypes.c_int64,), ctypes.c_int64
            nbytes = max(nbytes, needed(depth))
            entry = ctypes.cast(product.gx_product_part, ctypes.c_void_p)
            setattr(frame, f"multiply_{element}", entry)
        frame.sizes = ctypes.addressof(self._sizes)
        frame.numbers = ctypes.addressof(self._numbers)
        frame.scratch_nbytes = -(-nbytes // 64) * 64 + 64
        frame.scratch = self._room(frame.scratch_nbytes * self.threads)

    def _table(self, printed: HostProgram, program: ctypes.CDLL) -> Any:
        """The launches: function, addresses, parts, and whether it waits."""
        count = len(printed.functions)
        entries = (ctypes.c_void_p * max(1, count)).in_dll(program, "gx_launches")
        functions = dict(zip(printed.functions, entries, strict=False))
        records = (StepRecord * max(1, len(self.steps)))()
        at = ctypes.addressof(self._at)
        for i, (launch, step) in enumerate(zip(printed.launches, self.steps, strict=True)):
            records[i] = StepRecord(functions[launch.function], at, step.parts, step.barrier)
            at += len(launch.slots) * ctypes.sizeof(ctypes.c_void_p)
        return records


def _function(entry: Any) -> Callable[[int], None]:
    """A function of one address; a prototype of its own is called faster than one found by name."""
    address = ctypes.cast(entry, ctypes.c_void_p).value
    assert address is not None
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


# -- objects

_loaded: dict[str, ctypes.CDLL] = {}


def load_objects(texts: Mapping[str, str]) -> dict[str, ctypes.CDLL]:
    """Compile (or find) and load several C texts; those to be compiled, at the same time."""
    toolchain = _toolchain()
    keys = {name: toolchain.key(splice(text)) for name, text in texts.items()}
    missing = [name for name, key in keys.items() if key not in _loaded]

    cache = object_cache()

    def load(name: str) -> None:
        text = splice(texts[name])
        _loaded[keys[name]] = cache.load(
            keys[name], lambda path: compile_object(toolchain, text, path)
        )

    if sum(cache.note(keys[name]) is None for name in missing) > 1:
        from concurrent.futures import ThreadPoolExecutor  # the first time: compilers side by side

        with ThreadPoolExecutor(len(missing)) as pool:
            list(pool.map(load, missing))
    else:
        for name in missing:
            load(name)
    return {name: _loaded[key] for name, key in keys.items()}


def _toolchain() -> Toolchain:
    names = ("CC", "PATH", "GRAPHC_CACHE_DIR")
    found = _find(*map(os.environ.get, names))
    if isinstance(found, BackendUnavailable):
        raise BackendUnavailable(str(found))
    return found


@lru_cache(maxsize=8)
def _find(*_environment: str | None) -> Toolchain | BackendUnavailable:
    """What was found, or why nothing: a compiler that does not work is not tried again."""
    try:
        return find_toolchain()
    except BackendUnavailable as error:
        return error


def _probe() -> Availability:
    try:
        toolchain = _toolchain()
        return Availability(
            True, "a C compiler is there", {**details(toolchain, object_cache()),
                                            "threads": str(available_threads())}
        )  # fmt: skip
    except BackendUnavailable as error:
        return Availability(False, str(error))


NATIVE = Backend("native", Target("native", beta=True), NativeRunner, _probe)
