"""What `compile` returns: a callable program, its state, and every stage of its making."""

from __future__ import annotations

import difflib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from graphc.backends import Choice
from graphc.backends.base import Measuring, Repeating, Runner
from graphc.backends.interrupts import uninterrupted
from graphc.backends.peaks import measure_peaks
from graphc.checking import Check
from graphc.errors import CompileError, InputError
from graphc.ir.dim import Dim
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ir.philox import Draws
from graphc.ir.tensor_type import DType, TensorType
from graphc.report.explain import explain, summary
from graphc.report.profile import Profile
from graphc.report.stage import Stage
from graphc.schedule.records import Kernel, MemoryPlan, Program

MAX_SPECIALISATIONS = 8
Sizes = tuple[tuple[str, int], ...]
T = TypeVar("T")
Spec = tuple[str, tuple[int | Dim, ...], DType]  # of an input
STEPS = "k steps"  # the size of the leading axis; no size of a user's can have this name


@dataclass(frozen=True)
class Specialisation:
    """A program compiled for one set of sizes."""

    stages: tuple[Stage, ...]
    program: Program
    runner: Runner


@dataclass(frozen=True)
class KernelReport:
    """One launch: its name, the nodes computed, why it stands alone, its work and its source."""

    kernel: Kernel
    source: str

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.kernel.nodes

    @property
    def reason(self) -> str:
        return self.kernel.reason

    @property
    def flops(self) -> int:
        return self.kernel.flops

    @property
    def nbytes(self) -> int:
        return self.kernel.nbytes

    def __repr__(self) -> str:
        return f"<kernel {self.name}: {self.flops} FLOP, {self.nbytes} bytes>"


@dataclass(frozen=True)
class Structure:
    """How the outputs were given, so that a call returns them the same way."""

    names: tuple[str, ...]
    kind: type

    def packer(self) -> Callable[[list[Any]], Any]:
        """What makes the returned structure of a list of results."""
        if self.kind is dict:
            names = self.names
            return lambda values: dict(zip(names, values, strict=True))
        return itemgetter(0) if self.kind is Node else self.kind


class Executable:
    """A compiled program: call it with arrays by input name.

    Calls of one executable are serialised; parameters are shared with every other executable that
    uses them. `exe.stages`, `exe.kernels`, `exe.plan`, `exe.explain()` and `exe.to_dot()` show what
    was compiled; with symbolic sizes they show the latest specialisation.
    """

    def __init__(
        self,
        graph: Graph,
        structure: Structure,
        specialise: Callable[[Mapping[str, int]], Specialisation],
        *,
        choice: Choice,
        name: str,
        seed: int,
        numbers: Mapping[int, int],
        check: Check | None,
    ) -> None:
        self.graph, self.name = graph, name
        self._choice = choice
        self._pack, self._specialise, self._check = structure.packer(), specialise, check
        self._numbers, self._seed, self._step = numbers, _as_seed(seed), 0
        self._draws = Draws(self._seed, 0, numbers)
        self._specs: list[Spec] = [(n.name, n.shape, n.dtype) for n in graph.inputs]
        self._symbols = frozenset(graph.symbols)
        self._known: OrderedDict[Sizes, Specialisation] = OrderedDict()
        self._latest: Specialisation | None = None
        self._latest_sizes: Mapping[str, int] = {}
        self._lock = threading.RLock()

    # -- running

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """Run once. Inputs by name, as keywords or a mapping; arrays or array-likes.

        Returns fresh arrays in the structure of `outputs`, of the backend's kind: NumPy's, or on a
        device its own. Raises InputError, changing nothing, for missing, unknown or unfit inputs
        and for sizes that disagree.
        """
        given = named if inputs is None else _by_name(inputs, named)
        with self._lock:
            arrays, chosen = self._choose(given, self._admit)
            results = self._step_of(chosen, arrays)
        return self._pack(results)

    def run_many(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """Run k times: every input has a leading axis of k steps, and so has every result.

        The same as k calls, bit for bit, random draws and updates included; on a device Python is
        not asked between the steps. With `check`, results are NumPy arrays everywhere. Raises
        InputError as a call does, before the first step.
        """
        given = named if inputs is None else _by_name(inputs, named)
        if not self._specs:
            raise InputError("run_many: no input says how many steps to run; call it in a loop")
        with self._lock:
            (arrays, count), chosen = self._choose(given, self._admit_many)
            runner = chosen.runner
            if isinstance(runner, Repeating) and self._check is None:
                results = runner.run_many(arrays, self._draws, count, self._advance)
            else:
                results = self._run_each(chosen, arrays, count)
        return self._pack(results)

    def _step_of(self, chosen: Specialisation, arrays: Sequence[Any]) -> list[Any]:
        """One step, counted where it draws. An interrupt finds updates and count done, or not."""
        if not self._numbers:
            return self._run(chosen, arrays)
        found: list[Any] = []

        def step() -> None:
            found.extend(self._run(chosen, arrays))
            self._advance(1)

        uninterrupted(step) if self.graph.updates else step()
        return found

    def _run(self, chosen: Specialisation, arrays: Sequence[Any]) -> list[Any]:
        """One step, checked if that was asked for."""
        if self._check is None:
            return chosen.runner(arrays, self._draws)
        fetch = self._choice.backend.fetch
        return self._check.run(chosen.stages, chosen.runner, arrays, self._draws, fetch)

    def _run_each(
        self, chosen: Specialisation, arrays: Sequence[Any], count: int
    ) -> list[np.ndarray]:
        """Step by step, results in arrays of NumPy's."""
        fetch = self._choice.backend.fetch
        given = [fetch(array) for array in arrays]
        results = [
            np.empty((count, *shape), buffer.dtype) for _, buffer, shape in chosen.program.results
        ]
        for i in range(count):
            made = self._step_of(chosen, [array[i, ...] for array in given])
            for result, value in zip(results, made, strict=True):
                result[i] = fetch(value)
        return results

    def _advance(self, count: int) -> None:
        """The random stream moves on."""
        self._step += count
        self._draws = Draws(self._seed, self._step, self._numbers)

    def profile(self, inputs: Mapping[str, Any] | None = None, repeat: int = 10) -> Profile:
        """Where the time of a call goes: seconds, FLOP/s and bytes/s of each kernel.

        `inputs`: arrays by name, as a call takes them. Runs `repeat` times kernel by kernel and as
        often as an ordinary call (without `check`), and measures the peaks of the CPU or of the
        device once per process. Nothing changes: parameters that are updated have their old values
        afterwards, bit for bit, and a call draws the random numbers that it would have drawn.
        Meanwhile other threads wait for the parameters. Raises InputError as a call does, and for
        a `repeat` below 1.
        """
        if isinstance(repeat, bool) or not isinstance(repeat, int | np.integer) or repeat < 1:
            raise InputError(f"repeat {repeat!r}: need an int of 1 or more")
        given = _by_name(inputs, {})
        with self._lock:
            arrays, chosen = self._choose(given, self._admit)
            with chosen.runner.unchanged():
                chosen.runner.time_kernels(arrays, self._draws, 1)  # kernel by kernel: a fault of
                self._time_call(given)  # one is told as its own; the caches are warm from here
                # half of the calls before and half after: a machine that slows down slows both
                calls = [self._time_call(given) for _ in range(repeat // 2)]
                runs = chosen.runner.time_kernels(arrays, self._draws, int(repeat))
                calls += [self._time_call(given) for _ in range(repeat - repeat // 2)]
        runner = chosen.runner
        peaks = runner.peaks() if isinstance(runner, Measuring) else measure_peaks()
        return Profile(
            self.name, self.backend, chosen.program.schedule, tuple(map(tuple, runs)),
            tuple(calls), peaks.flops_per_second, peaks.bytes_per_second, peaks.device,
        )  # fmt: skip

    def _time_call(self, given: Mapping[str, Any]) -> float:
        """Seconds of what a call does; the random stream stays where it is."""
        start = perf_counter()
        arrays, chosen = self._choose(given, self._admit)
        results = self._pack(chosen.runner(arrays, self._draws))
        chosen.runner.synchronize()
        seconds = perf_counter() - start
        del results  # giving back its memory is the caller's time
        return seconds

    def synchronize(self) -> None:
        """Wait until the work of all calls is done: on a device, calls return before that."""
        if self._latest is not None:
            self._latest.runner.synchronize()

    def seed(self, seed: int, step: int = 0) -> None:
        """Restart the random stream with this seed, where it stands after `step` calls."""
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise CompileError(f"step {step!r}: need an int of 0 or more")
        with self._lock:
            self._seed, self._step = _as_seed(seed), int(step)
            self._draws = Draws(self._seed, self._step, self._numbers)

    def specialize(self, **sizes: int) -> Executable:
        """Compile for these symbolic sizes without a call; returns the executable itself."""
        with self._lock:
            self._get(tuple(sorted(check_sizes(self.graph, sizes).items())))
        return self

    def _choose(
        self, given: Mapping[str, Any], admit: Callable[[Mapping[str, Any]], tuple[T, Sizes]]
    ) -> tuple[T, Specialisation]:
        """The inputs as `admit` gives them, and the program for their sizes, compiled if needed."""
        admitted, sizes = admit(given)
        if not sizes and self._latest:
            return admitted, self._latest
        backend = self._choice.backend
        chosen = self._get(sizes)
        if self._choice.backend is not backend:  # which could not compile for these sizes
            admitted, _ = admit(given)
        return admitted, chosen

    def _get(self, sizes: Sizes) -> Specialisation:
        found = self._known.get(sizes)
        if found is None:
            found = self._specialise(dict(sizes))
            if len(self._known) >= MAX_SPECIALISATIONS:
                self._known.popitem(last=False)
            self._known[sizes] = found
        self._known.move_to_end(sizes)
        self._latest, self._latest_sizes = found, dict(sizes)
        return found

    # -- inputs

    def _admit(self, given: Mapping[str, Any]) -> tuple[list[Any], Sizes]:
        """The inputs as arrays that the backend takes, and the sizes that they tell."""
        arrays: list[Any] = []
        sizes: dict[str, int] = {}
        told_by: dict[str, str] = {}
        for name, shape, dtype in self._specs:
            array = given.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype:
                array = self._convert(name, given, shape, dtype)
            if array.shape != shape:
                _match(name, array.shape, shape, dtype, sizes, told_by)
            arrays.append(array)
        if len(given) != len(self._specs):
            self._refuse_unknown(given)
        if self._symbols:
            self._complete([array.shape for array in arrays], sizes)
        return arrays, tuple(sorted(sizes.items())) if sizes else ()

    def _admit_many(self, given: Mapping[str, Any]) -> tuple[tuple[list[Any], int], Sizes]:
        """The same with a leading axis before each declared shape, whose size comes with them."""
        steps = _size_of(STEPS)
        arrays: list[Any] = []
        sizes: dict[str, int] = {}
        told_by: dict[str, str] = {}
        for name, shape, dtype in self._specs:
            array = given.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype:
                array = self._convert(name, given, (steps, *shape), dtype)
            _match(name, array.shape, (steps, *shape), dtype, sizes, told_by)
            arrays.append(array)
        self._refuse_unknown(given)
        count = sizes.pop(STEPS)
        if self._symbols:
            self._complete([array.shape[1:] for array in arrays], sizes)
        return (arrays, count), tuple(sorted(sizes.items()))

    def _complete(self, shapes: Sequence[tuple[int, ...]], sizes: dict[str, int]) -> None:
        """Learn the sizes that stand in sums and products only, and check all extents."""
        extents = [
            (name, n, extent)
            for (name, declared, _), shape in zip(self._specs, shapes, strict=True)
            for n, extent in zip(shape, declared, strict=True)
            if isinstance(extent, Dim)
        ]
        for _ in self._symbols - set(sizes):
            for name, n, extent in extents:
                _solve(name, n, extent, sizes)
        for symbol in sorted(self._symbols - set(sizes)):
            if symbol not in self._latest_sizes:
                raise InputError(
                    f"the inputs do not tell the size {symbol!r}; call "
                    f"exe.specialize({symbol}=...) before"
                )
            sizes[symbol] = self._latest_sizes[symbol]
        for name, n, extent in extents:
            if extent.bind(sizes) != n:
                raise InputError(f"input {name!r} has {n} where {extent} = {extent.bind(sizes)}")

    def _convert(self, name: str, given: Mapping[str, Any], shape: Any, dtype: DType) -> Any:
        wanted = TensorType(shape, dtype)
        if name not in given:
            self._refuse_unknown(given)
            raise InputError(f"input {name!r} is missing; need {wanted}")
        return self._choice.backend.admit(given[name], f"input {name!r}", wanted)

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        names = [name for name, _, _ in self._specs]
        unknown = sorted(str(name) for name in given if name not in names)
        if not unknown:
            return
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"unknown input {', '.join(map(repr, unknown))}; the inputs are "
            f"{', '.join(map(repr, names)) or 'none'}{hint}"
        )

    # -- looking

    @property
    def backend(self) -> str:
        """The name of the backend that runs the program."""
        return self._choice.backend.name

    @property
    def backend_reason(self) -> str:
        """Why it is this one, what others lack, and how it runs where there is a choice."""
        notes = self._latest.runner.notes if self._latest is not None else ()
        return "; ".join([self._choice.reason, *notes])

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The stages by name, in order; only "declared" before symbolic sizes are known."""
        if self._latest is None:
            return MappingProxyType({"declared": Stage("declared", self.graph)})
        return MappingProxyType({stage.name: stage for stage in self._latest.stages})

    @property
    def kernels(self) -> tuple[KernelReport, ...]:
        """The launches in order."""
        found = self._compiled("kernels")
        sources = found.runner.kernel_sources
        return tuple(
            KernelReport(k, s) for k, s in zip(found.program.kernels, sources, strict=True)
        )

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan: `.peak_nbytes`, `.naive_nbytes`, `.allocations`."""
        return self._compiled("plan").program.plan

    @property
    def source(self) -> str:
        """The generated source of the whole program."""
        return self._compiled("source").runner.source

    def explain(self) -> str:
        """What was compiled, in a screenful."""
        found = self._compiled("explain()")
        return explain(
            name=self.name, backend=self.backend, backend_reason=self.backend_reason,
            stages=found.stages, program=found.program,
        )  # fmt: skip

    def to_dot(self, stage: str = "fused") -> str:
        """DOT source of one stage."""
        return self._stage(stage).to_dot()

    def save_dot(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the DOT source of every stage to `folder`; returns the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths: list[str] = []
        for number, (name, stage) in enumerate(self.stages.items()):
            path = target / f"{number}_{name}.dot"
            path.write_text(stage.to_dot(), encoding="utf-8")
            paths.append(str(path))
        return paths

    def __str__(self) -> str:
        found = self._latest
        stages = tuple(self.stages.values())
        return summary(
            name=self.name, backend=self.backend, backend_reason=self.backend_reason,
            stages=stages, program=found.program if found else None,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<executable {self.name} on {self.backend}: {len(self.graph.nodes)} nodes>"

    def _stage(self, name: str) -> Stage:
        stages = self.stages
        if name not in stages:
            raise CompileError(
                f"stage {name!r} is unknown; there are {', '.join(stages)}" + self._remedy()
            )
        return stages[name]

    def _compiled(self, what: str) -> Specialisation:
        if self._latest is None:
            raise CompileError(f"{what}: nothing is compiled yet" + self._remedy())
        return self._latest

    def _remedy(self) -> str:
        if self._latest is not None:
            return ""
        sizes = ", ".join(f"{s}=..." for s in sorted(self.graph.symbols))
        return f": the sizes are symbolic; call exe.specialize({sizes}), or call it once"


def _by_name(inputs: Any, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arrays of a call by name, from a mapping and keywords."""
    if inputs is None:
        return named
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"{type(inputs).__name__} given; pass arrays by name, as keywords or a mapping"
        )
    return {**inputs, **named}


def check_sizes(graph: Graph, sizes: Mapping[str, Any]) -> dict[str, int]:
    """The sizes as ints; raises CompileError for missing, unknown or negative ones."""
    missing, unknown = graph.symbols - set(sizes), set(sizes) - graph.symbols
    for problem, names in (("unknown", unknown), ("missing", missing)):
        if names:
            known = ", ".join(sorted(graph.symbols)) or "none"
            raise CompileError(
                f"sizes: {problem} {', '.join(sorted(names))}; the symbolic sizes are {known}"
            )
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise CompileError(f"sizes: {name} = {size!r}; need an int of 0 or more")
    return {name: int(size) for name, size in sizes.items()}


def _match(
    name: str, have: tuple[int, ...], want: tuple[int | Dim, ...], dtype: DType,
    sizes: dict[str, int], told_by: dict[str, str],
) -> None:  # fmt: skip
    """Compare a shape with the declared one, learning the sizes of plain symbols, and from whom."""
    if len(have) != len(want):
        raise InputError(_misfit(name, have, want, dtype))
    for n, extent in zip(have, want, strict=True):
        if isinstance(extent, Dim):
            symbol = _plain_symbol(extent)
            if symbol is None:
                continue
            told_by.setdefault(symbol, name)
            if sizes.setdefault(symbol, n) != n:
                raise InputError(
                    f"input {name!r} has shape {have}, where {symbol} = {n}, but input "
                    f"{told_by[symbol]!r} has {symbol} = {sizes[symbol]}; sizes of one name must "
                    "agree"
                )
        elif n != extent:
            raise InputError(_misfit(name, have, want, dtype))


def _solve(name: str, n: int, extent: Dim, sizes: dict[str, int]) -> None:
    """Learn the one size that is left in a linear extent: 2*batch + 1 = 7 says batch = 3."""
    rest = extent.bind(sizes)
    terms = dict(rest.terms) if isinstance(rest, Dim) else {}
    constant = terms.pop((), 0)
    if len(terms) != 1:
        return
    ((atoms, factor),) = terms.items()
    if len(atoms) != 1 or not isinstance(atoms[0], str):
        return
    size, remainder = divmod(n - constant, factor)
    if remainder or size < 0:
        raise InputError(f"input {name!r} has {n} where {extent} is needed: no size fits")
    sizes[atoms[0]] = size


def _size_of(symbol: str) -> Dim:
    return Dim((((symbol,), 1),))


def _plain_symbol(extent: Dim) -> str | None:
    symbols = extent.symbols()
    symbol = next(iter(symbols))
    return symbol if len(symbols) == 1 and extent == _size_of(symbol) else None


def _misfit(name: str, have: Any, want: Any, dtype: DType) -> str:
    wanted = f"{dtype.name}[{', '.join(map(str, want))}]"
    return f"input {name!r} has shape {have}; need {wanted}"


def _as_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise CompileError(f"seed {seed!r}: need an int")
    return int(seed) & (2**64 - 1)
