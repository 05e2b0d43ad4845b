"""The NumPy backend: always there, no compiler. A program becomes one Python function over NumPy
calls whose arrays are all bound beforehand, so that a call allocates nothing but its results.

Small inputs are copied into fixed slots and small results out of them; large ones are bound anew
when their address changes. Large kernels run in blocks, on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from math import prod
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from graphc.backends.base import Availability, Backend, Options
from graphc.backends.host_memory import HostMemory, extent_in_memory
from graphc.backends.interrupts import uninterrupted
from graphc.backends.numpy_kernel import print_kernel
from graphc.backends.numpy_text import Binding, KernelText, Names
from graphc.backends.threads import Team, available_threads, quiet_context, run_in_turn
from graphc.evaluate import draw_part
from graphc.ir.node import Node
from graphc.ir.philox import Draws
from graphc.ir.storage import aligned_empty
from graphc.ir.tensor_type import DType
from graphc.schedule.records import (
    Buffer,
    Kernel,
    Program,
    Store,
    Target,
)

RESERVED = ("copyto", "matmul", "lo", "hi", "worker", "run_blocks", "run_in_turn", "step")
T = TypeVar("T")
INLINE = 1500  # lines: a longer program is a function per kernel


class NumpyRunner:
    """A program bound to memory."""

    notes = ()

    def __init__(self, program: Program, options: Options) -> None:
        self.program = program
        self.input_names = options.inputs
        self.threads = options.threads or available_threads()
        self.team = Team(self.threads)
        self.context = quiet_context()
        self.draws = Draws(0, 0, options.numbers)
        self.graph = program.schedule.graph
        self.memory = HostMemory(program, options)
        self.environment: dict[str, Any] = {"copyto": np.copyto, "matmul": np.matmul}
        self.names_of: dict[Buffer, list[tuple[str, Binding]]] = {}
        self.names = Names(RESERVED)
        self.whole_names: dict[str, str] = {}
        self._timed: list[Callable[[], None]] | None = None
        self.texts = [
            print_kernel(k, self.graph.names, self.names, lambda s, k=k: self._overlapping(k, s))
            for k in program.kernels
        ]
        self.scratch = [self._scratch() for _ in range(self.threads)]
        self._name_all()
        self.memory.attach(self)
        self._assemble()

    # -- calls

    def __call__(self, inputs: Sequence[np.ndarray], draws: Draws) -> list[np.ndarray]:
        self.draws = draws
        return self.memory.run(inputs, self._uninterrupted_step)

    def _uninterrupted_step(self) -> None:
        if self.memory.updates:
            uninterrupted(self.run_step)
        else:
            self.run_step()

    def run_step(self) -> None:
        """Run the generated function, without NumPy's warnings."""
        self._run(self.step)

    def time_kernels(
        self, inputs: Sequence[np.ndarray], draws: Draws, repeat: int
    ) -> list[list[float]]:
        """Seconds of each kernel in each of `repeat` runs, each kernel as a function of its own."""
        functions = self._kernel_functions()
        runs: list[list[float]] = []
        self.draws = draws
        for _ in range(repeat):
            self.memory.run(
                inputs, lambda: runs.append(self._run(lambda: _time_in_turn(functions)))
            )
        return [[run[i] for run in runs] for i in range(len(functions))]

    def synchronize(self) -> None:
        """A call is done when it returns."""

    def unchanged(self) -> AbstractContextManager[None]:
        """Parameters have their old values at its end, whatever ran meanwhile."""
        return self.memory.unchanged()

    def _run(self, function: Callable[[], T]) -> T:
        """Call what may update parameters; if it fails midway, their values count as lost."""
        try:
            return self.context.run(function)
        except BaseException as error:
            self.memory.invalidate(error)
            raise

    # -- printing

    def _overlapping(self, kernel: Kernel, store: Store) -> set[Buffer]:
        """What a kernel reads that shares memory with a store."""
        home, first, last = extent_in_memory(self.program, store.access.base)
        found: set[Buffer] = set()
        for access in kernel.reads:
            other, start, end = extent_in_memory(self.program, access.base)
            if home == other and first < end and start < last:
                found.add(access.base)
        return found

    # -- memory

    def _scratch(self) -> np.ndarray:
        sizes = [sum(_padded(d, s) for d, s in text.slots) for text in self.texts]
        return aligned_empty((max([1, *sizes]),), np.dtype("uint8"))

    @property
    def scratch_nbytes(self) -> int:
        own = (prod(b.shape) * b.dtype.itemsize for t in self.texts
               for b in t.bindings.values()
               if b.kind == "own" and b.dtype and not b.value)  # fmt: skip
        return self.threads * self.scratch[0].nbytes + sum(own)

    # -- names to arrays

    def _name_all(self) -> None:
        """Bind the names that no call changes, and note which stand for views of a buffer."""
        for text in self.texts:
            offsets = _offsets(text)
            for local, binding in text.bindings.items():
                name = self._whole_name(text, local)
                if binding.kind == "view":
                    assert binding.access is not None
                    self.names_of.setdefault(binding.access.base, []).append((name, binding))
                elif binding.kind == "slot":
                    arrays = [_slot(s, offsets[binding.slot], binding) for s in self.scratch]
                    self.environment[name] = arrays if binding.cut else arrays[0]
                elif binding.kind == "own" and binding.value:
                    shared = self.environment[self._whole_name(text, binding.value)]
                    self.environment[name] = shared.reshape(binding.shape)
                elif binding.kind == "own":
                    self.environment[name] = aligned_empty(binding.shape, _dtype(binding))
                elif binding.kind == "draw":
                    self.environment[name] = self._drawer(binding.value)
                else:
                    self.environment[name] = binding.value

    def bind(self, buffer: Buffer, array: np.ndarray) -> None:
        """Point every name for this buffer to where it lies now."""
        flat = array.reshape(-1)
        for name, binding in self.names_of.get(buffer, ()):
            self.environment[name] = _strided(flat, binding)

    def release(self, buffer: Buffer) -> None:
        """Keep no view of an array that is the caller's."""
        for name, _ in self.names_of.get(buffer, ()):
            self.environment[name] = None

    def _whole_name(self, text: KernelText, name: str) -> str:
        """The name of the whole array, where a block's function uses the name for its rows."""
        if not text.bindings[name].cut:
            return name
        if name not in self.whole_names:
            self.whole_names[name] = self.names.fresh(f"{name}_all")
        return self.whole_names[name]

    def _prologue(self, text: KernelText) -> list[str]:
        """The rows of this block of every array that is cut."""
        lines: list[str] = []
        for name, binding in text.bindings.items():
            if binding.cut:
                rows = "[worker][: hi - lo]" if binding.kind == "slot" else "[lo:hi]"
                lines.append(f"{name} = {self._whole_name(text, name)}{rows}")
        return lines

    def _drawer(self, node: Node) -> Callable[[np.ndarray, int], None]:
        def draw_into(out: np.ndarray, start: int) -> None:
            out[...] = draw_part(node, self.draws, start, out.size).reshape(out.shape)

        return draw_into

    # -- assembling the text

    def _assemble(self) -> None:
        """Make the one function that runs a step out of the kernels' lines."""
        functions: list[str] = []
        body: list[str] = []
        self.kernel_lines: list[list[str]] = []
        self.kernel_sources: list[str] = []
        whole = sum(len(t.lines) for t in self.texts) > INLINE
        for text in self.texts:
            header = f"# {describe_kernel(text.kernel)}"
            lines = list(text.before)
            function = ""
            if text.blocked and text.lines:
                name = self.names.fresh(f"{text.kernel.name}_block")
                function = _function(f"{name}(lo, hi, worker)", self._prologue(text) + text.lines)
                run = "run_blocks" if text.threaded else "run_in_turn"
                lines.append(f"{run}({name}, {text.kernel.space[0]}, {text.step})")
            else:
                lines += text.lines
            lines += text.after
            self.kernel_sources.append("\n".join(filter(None, [function, header, *lines])))
            if function:
                functions.append(function)
            if not text.kernel.size and not text.after and not text.kernel.inner:
                self.kernel_lines.append([])
                continue  # no elements, nothing to do
            self.kernel_lines.append([header, *lines])
            if whole:
                name = self.names.fresh(text.kernel.name)
                functions.append(_function(f"{name}()", [header, *lines]))
                body.append(f"{name}()")
            else:
                body += [header, *lines]
        self.source = "\n\n".join([*functions, _function("step()", body)]) + "\n"
        self.environment.update(run_blocks=self.team.run, run_in_turn=run_in_turn)
        exec(compile(self.source, "<graphc numpy program>", "exec"), self.environment)
        self.step: Callable[[], None] = self.environment["step"]

    def _kernel_functions(self) -> list[Callable[[], None]]:
        """A function for each kernel, made when first asked for: a step has their lines in one."""
        if self._timed is None:
            names = [self.names.fresh(f"{text.kernel.name}_alone") for text in self.texts]
            source = "\n\n".join(
                _function(f"{name}()", lines)
                for name, lines in zip(names, self.kernel_lines, strict=True)
            )
            exec(compile(source, "<graphc numpy kernels>", "exec"), self.environment)
            self._timed = [self.environment[name] for name in names]
        return self._timed


def _time_in_turn(functions: Sequence[Callable[[], None]]) -> list[float]:
    """Call one function after another; the seconds that each took."""
    clock = perf_counter
    times = [clock()]
    for function in functions:
        function()
        times.append(clock())
    return [end - start for start, end in pairwise(times)]


def describe_kernel(kernel: Kernel) -> str:
    """A kernel in a line: name, form, loops."""
    loops = " x ".join(map(str, kernel.space)) or "1"
    reduced = f", reduced over axes {kernel.inner}" if kernel.inner else ""
    return f"{kernel.name}: {kernel.form} over {loops}{reduced}"


def _function(signature: str, lines: Iterable[str]) -> str:
    body = [f"    {line}" for line in lines]
    if all(line.lstrip().startswith("#") for line in body):
        body.append("    pass")
    return "\n".join([f"def {signature}:", *body])


def _offsets(text: KernelText) -> list[int]:
    """Byte offsets of a kernel's scratch slots."""
    offsets: list[int] = []
    end = 0
    for dtype, shape in text.slots:
        offsets.append(end)
        end += _padded(dtype, shape)
    return offsets


def _padded(dtype: DType, shape: tuple[int, ...]) -> int:
    return -(-prod(shape) * dtype.itemsize // 64) * 64


def _dtype(binding: Binding) -> DType:
    assert binding.dtype is not None
    return binding.dtype


def _slot(scratch: np.ndarray, offset: int, binding: Binding) -> np.ndarray:
    dtype = _dtype(binding)
    flat = scratch[offset : offset + prod(binding.shape) * dtype.itemsize].view(dtype)
    return flat.reshape(binding.shape).view(binding.viewed or dtype)


def _strided(flat: np.ndarray, binding: Binding) -> np.ndarray:
    """The view of a flat buffer that an access describes."""
    assert binding.access is not None
    itemsize = flat.dtype.itemsize
    strides = tuple(s * itemsize for s in binding.access.strides)
    if 0 in binding.shape:
        return np.empty(binding.shape, binding.viewed or flat.dtype)
    view = np.ndarray(
        binding.shape, flat.dtype, flat, binding.access.offset * itemsize, strides
    )  # checked by NumPy against the buffer's bounds
    return view.view(binding.viewed) if binding.viewed else view


def _probe() -> Availability:
    details = {"numpy": np.__version__, "threads": str(available_threads())}
    return Availability(True, "always there", details)


NUMPY = Backend("numpy", Target("numpy", horizontal=1 << 16), NumpyRunner, _probe)
