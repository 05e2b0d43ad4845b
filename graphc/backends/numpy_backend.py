"""The NumPy backend: always there, no compiler. A program becomes one Python function over NumPy
calls whose arrays are all bound beforehand, so that a call allocates nothing but its results.

Small inputs are copied into fixed slots and small results out of them; large ones are bound anew
when their address changes. Large kernels run in blocks, on threads.
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports] -- without the enums of `signal`: 10 x faster
import threading
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphc.backends.base import Availability, Backend, Options
from graphc.backends.numpy_kernel import print_kernel
from graphc.backends.numpy_text import Binding, KernelText, Names
from graphc.backends.threads import Team, available_threads, quiet_context, run_in_turn
from graphc.evaluate import draw_part
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.ir.philox import Draws
from graphc.ir.storage import Storage, aligned_empty
from graphc.ir.tensor_type import DType
from graphc.schedule.records import (
    Buffer,
    Kernel,
    Line,
    Program,
    Region,
    Slab,
    Store,
    Target,
    buffer_nbytes,
    buffer_shape,
)

SMALL = 1 << 16  # bytes: up to here copying costs less than binding
RESERVED = ("copyto", "matmul", "lo", "hi", "worker", "run_blocks", "run_in_turn", "step")
INLINE = 1500  # lines: a longer program is a function per kernel
_laying_out = threading.RLock()  # programs of two threads do not move parameters at once


class Arena:
    """Room for temporaries, shared by the specialisations of one executable: as large as the
    largest of them needs."""

    def __init__(self) -> None:
        self.array = aligned_empty((0,), np.dtype("uint8"))

    def reserve(self, nbytes: int) -> None:
        """Grow to at least `nbytes`; programs bound to the old array look again when called."""
        if self.array.nbytes < nbytes:
            self.array = aligned_empty((nbytes,), np.dtype("uint8"))


class NumpyRunner:
    """A program bound to memory."""

    def __init__(self, program: Program, options: Options) -> None:
        self.program = program
        self.input_names = options.inputs
        self.threads = options.threads or available_threads()
        self.team = Team(self.threads)
        self.context = quiet_context()
        self.draws = Draws(0, 0, options.numbers)
        self.graph = program.schedule.graph
        self.updates = [p for p, _ in self.graph.updates]
        self.arena: Arena = options.shared.setdefault("arena", Arena())
        self.arena.reserve(program.plan.peak_nbytes)
        self.bases: dict[Buffer, np.ndarray] = {}
        self.environment: dict[str, Any] = {"copyto": np.copyto, "matmul": np.matmul}
        self.names_of: dict[Buffer, list[tuple[str, Binding]]] = {}
        self.names = Names(RESERVED)
        self.whole_names: dict[str, str] = {}
        self.texts = [
            print_kernel(k, self.graph.names, self.names, lambda s, k=k: self._overlapping(k, s))
            for k in program.kernels
        ]
        self._allocate()
        self._bind_all()
        self._assemble()

    # -- calls

    def __call__(self, inputs: Sequence[np.ndarray], draws: Draws) -> list[np.ndarray]:
        if self.arena.array is not self.arena_array:
            self._find_arena()
            self._rebind(Region.ARENA)
        locks = self._lock_params()
        try:
            self.draws = draws
            for position, buffer, slot in self.slots:
                if slot is not None:
                    slot[...] = inputs[position]
                else:
                    self._take_input(buffer, inputs[position])
            early = [array.copy() for array in self._early()]
            for buffer, shape, dtype in self.direct_results:
                self.bases[buffer] = np.empty(shape, dtype)
                self._bind(buffer)
            if self.updates:
                _uninterrupted(self.run_step)
            else:
                self.run_step()
            return self._collect(early)
        finally:
            for lock in locks:
                lock.release()

    def run_step(self) -> None:
        """Run the generated function, without NumPy's warnings. If it fails midway, the values that
        it was to update count as lost."""
        try:
            self.context.run(self.step)
        except BaseException as error:
            for param in self.updates:
                param.storage.invalidate(f"{error!r} stopped an update midway")
            raise

    def _lock_params(self) -> list[threading.RLock]:
        """Take the locks of all parameters, at the addresses that the program is bound to."""
        while True:
            locks = self.locks
            for lock in locks:
                lock.acquire()
            if self.changes == Storage.changes:
                return locks
            for lock in locks:
                lock.release()
            self._refresh_params()

    def _take_input(self, buffer: Buffer, given: np.ndarray) -> None:
        if not (given.flags.c_contiguous and given.flags.aligned):
            given = np.ascontiguousarray(given)
        self.bases[buffer] = given
        self._bind(buffer)

    def _early(self) -> list[np.ndarray]:
        """Results that are sources: copied before the step, which may update them."""
        return [self.bases[buffer] for buffer in self.early_results]

    def _collect(self, early: list[np.ndarray]) -> list[np.ndarray]:
        """Fresh arrays for the results, in order."""
        sources = iter(early)
        results: list[np.ndarray] = []
        for buffer, shape, how in self.collected:
            if how == "early":
                array = next(sources)
            else:
                array = self.bases[buffer]
                if how == "copy":
                    array = array.copy()
            results.append(array if array.shape == shape else array.reshape(shape))
        for buffer in self.visiting:  # arrays of the user's are not kept alive
            self.bases.pop(buffer, None)
            for name, _ in self.names_of.get(buffer, ()):
                self.environment[name] = None
        return results

    # -- printing

    def _overlapping(self, kernel: Kernel, store: Store) -> set[Buffer]:
        """What a kernel reads that shares memory with a store."""
        home, first, last = self._extent(store.access.base)
        found: set[Buffer] = set()
        for access in kernel.reads:
            other, start, end = self._extent(access.base)
            if home == other and first < end and start < last:
                found.add(access.base)
        return found

    def _extent(self, buffer: Buffer) -> tuple[Any, int, int]:
        place = self.program.places[buffer]
        if place.region is Region.ARENA:
            return "arena", place.offset, place.offset + max(1, buffer_nbytes(buffer))
        return (id(place.owner), 0, 1)

    # -- memory

    def _allocate(self) -> None:
        """Memory for everything that has a fixed address."""
        places = self.program.places
        self._find_params()
        self._find_arena()
        results = {b for _, b, _ in self.program.results}
        self.direct_results: list[tuple[Buffer, tuple[int, ...], DType]] = []
        for buffer, place in places.items():
            if place.region is Region.CONSTANT:
                self.bases[buffer] = _constant(buffer)
            elif place.region is Region.RESULT:
                assert buffer in results
                if buffer_nbytes(buffer) <= SMALL:
                    self.bases[buffer] = aligned_empty(buffer_shape(buffer), buffer.dtype)
                else:
                    self.direct_results.append((buffer, buffer_shape(buffer), buffer.dtype))
        self.slots: list[tuple[int, Buffer, np.ndarray | None]] = []
        for node in self.graph.inputs:
            small = node.type.nbytes <= SMALL
            slot = aligned_empty(buffer_shape(node), node.dtype) if small else None
            if slot is not None:
                self.bases[node] = slot
            self.slots.append((self.input_names.index(node.name), node, slot))
        self.collected: list[tuple[Buffer, tuple[int, ...], str]] = []
        self.early_results: list[Buffer] = []
        taken: set[Buffer] = set()
        self.direct = {buffer for buffer, _, _ in self.direct_results}
        for _, buffer, shape in self.program.results:
            how = "copy"
            if isinstance(buffer, Node) and buffer.op.kind is Kind.SOURCE:
                how = "early"
                self.early_results.append(buffer)
            elif buffer in self.direct and buffer not in taken:
                how = "take"
                taken.add(buffer)
            self.collected.append((buffer, shape, how))
        self.visiting = [*self.direct, *(b for _, b, slot in self.slots if slot is None)]
        self.scratch = [self._scratch() for _ in range(self.threads)]

    def _find_arena(self) -> None:
        """Look up where the temporaries lie now."""
        self.arena_array = self.arena.array
        for buffer, place in self.program.places.items():
            if place.region is Region.ARENA:
                self.bases[buffer] = _view(self.arena_array, place.offset, buffer)

    def _find_params(self) -> None:
        """Lay the parameters out as the program wants them, and look up where they are now."""
        with _laying_out:
            for slab in self.program.param_slabs:
                _lay_out(slab)
            changes = Storage.changes
            for param in self.graph.params:
                param.storage.check(param.name)
            for buffer, place in self.program.places.items():
                owner = place.owner
                if place.region is Region.PARAM and isinstance(owner, Param):
                    self.bases[buffer] = owner.storage.array
                elif place.region is Region.PARAM and isinstance(owner, Slab):
                    slab = _storages(owner)[0].slab
                    assert slab is not None
                    self.bases[buffer] = slab
            self._sort_locks()
            self.changes = changes

    def _refresh_params(self) -> None:
        """Another program moved parameters, or a value became invalid: look again."""
        self._find_params()
        self._rebind(Region.PARAM)

    def _rebind(self, region: Region) -> None:
        for buffer, place in self.program.places.items():
            if place.region is region:
                self._bind(buffer)

    def _sort_locks(self) -> None:
        """One lock per storage or slab, always taken in the same order."""
        storages = [p.storage for p in self.graph.params]
        self.locks = list({id(s.lock): s.lock for s in storages}.values())
        self.locks.sort(key=id)

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

    def _bind_all(self) -> None:
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
        for buffer in self.names_of:
            if buffer in self.bases:
                self._bind(buffer)

    def _bind(self, buffer: Buffer) -> None:
        """Point every name for this buffer to where it lies now."""
        base = self.bases[buffer]
        flat = base.reshape(-1)
        for name, binding in self.names_of.get(buffer, ()):
            self.environment[name] = _strided(flat, binding)

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
                continue  # no elements, nothing to do
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


def _uninterrupted(run: Callable[[], None]) -> None:
    """Let an interrupt wait for the end of the step, so that no update is left half done."""
    handler: Any = None
    if threading.current_thread() is threading.main_thread():
        handler = _signal.getsignal(_signal.SIGINT)
    if not callable(handler):
        run()
        return
    pending: list[Any] = []
    _signal.signal(_signal.SIGINT, lambda *args: pending.append(args))
    try:
        run()
    finally:
        _signal.signal(_signal.SIGINT, handler)
    if pending:
        handler(*pending[0])


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


def _view(arena: np.ndarray, offset: int, buffer: Buffer) -> np.ndarray:
    nbytes = buffer_nbytes(buffer)
    return arena[offset : offset + nbytes].view(buffer.dtype).reshape(buffer_shape(buffer))


def _constant(buffer: Buffer) -> np.ndarray:
    """The value of a source that is known beforehand, or its distinct elements."""
    node = buffer.node if isinstance(buffer, Line) else buffer
    assert isinstance(node, Node)
    assert node.op.eval is not None
    value = np.asarray(node.op.eval(np, **dict(node.attrs)))
    if isinstance(buffer, Line):
        if not value.size:
            return np.zeros(buffer.shape, buffer.dtype)
        moving = tuple(slice(None) if s else 0 for s in buffer.layout.strides)
        value = value[moving].reshape(-1)
    return np.ascontiguousarray(value).reshape(buffer_shape(buffer))


def _storages(slab: Slab) -> list[Storage]:
    return [m.storage for m in slab.members if isinstance(m, Param)]


def _lay_out(slab: Slab) -> None:
    """Let the parameters of a slab lie one behind another, if they do not already."""
    storages = _storages(slab)
    home = storages[0].slab
    if (
        home is not None
        and home.size == slab.size
        and all(
            s.slab is home and s.array.ctypes.data == home.ctypes.data + start * home.itemsize
            for s, start in zip(storages, slab.starts, strict=True)
        )
    ):
        return
    home = aligned_empty((slab.size,), slab.dtype)
    home[...] = 0  # the gaps are computed on, too
    lock = threading.RLock()
    for storage, start in zip(storages, slab.starts, strict=True):
        storage.relocate(home, start, lock)


def _probe() -> Availability:
    details = {"numpy": np.__version__, "threads": str(available_threads())}
    return Availability(True, "always there", details)


NUMPY = Backend("numpy", Target("numpy", horizontal=1 << 16), NumpyRunner, _probe)
