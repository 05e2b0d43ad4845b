"""One CUDA kernel in the making: its parameters and launches, and how a thread handles elements.

A thread handles `width` neighbours at a time, which it loads and stores by one instruction each
where strides and offsets allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.codegen.expression import Context, Scope, c_type, index, size_name, size_text
from graphc.codegen.function import BaseFunction, indented, sizes_in
from graphc.codegen.launches import Address, KernelArgument, KernelLaunch, Launch, State
from graphc.codegen.shape import is_symbolic, needed
from graphc.codegen.tables import Slot, Slots, Tables, value_of
from graphc.ir.dim import Extent
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.schedule.records import Access, Kernel, Store

THREADS = 256  # of a block, where nothing asks for another number
ENOUGH = 64  # blocks for each multiprocessor: eight times what it holds, of few registers
VECTOR = 16  # bytes that one instruction moves
NARROW_INDEX = 1 << 30  # elements up to which indices are 32-bit: 64-bit division is slow
CPP_KEYWORDS = (  # those that C does not have
    "alignas", "alignof", "and_eq", "bitand", "bitor", "catch", "class", "compl", "concept",
    "const_cast", "consteval", "constexpr", "constinit", "co_await", "co_return", "co_yield",
    "decltype", "delete", "dynamic_cast", "explicit", "export", "friend", "mutable", "namespace",
    "new", "noexcept", "not_eq", "nullptr", "operator", "or_eq", "private", "protected", "public",
    "reinterpret_cast", "requires", "static_assert", "static_cast", "template", "this",
    "thread_local", "throw", "try", "typeid", "typename", "using", "virtual", "xor", "xor_eq",
)  # fmt: skip
OWN_NAMES = (  # those of the printers, of CUDA and of C++
    "e", "n", "t", "v", "row", "rows", "chunk", "chunks", "active", "state", "unit", "tile",
    "x", "y", "threadIdx", "blockIdx", "blockDim", "gridDim", "warpSize", *CPP_KEYWORDS,
)  # fmt: skip
UNROLL = "#pragma unroll"


class CudaFunction(BaseFunction):
    """A kernel; parameters collect while its body is printed."""

    def __init__(
        self, tables: Tables, kernel: Kernel, slots: Slots, number: int, ndim: int | None = None
    ) -> None:
        super().__init__(tables, kernel, slots, ndim, OWN_NAMES)
        self.context.computed = _wrapping
        self.number = number  # of the kernel in the program
        self.index = "int" if _reach(kernel) < NARROW_INDEX else "int64_t"
        self._parameters: dict[str, KernelArgument] = {}  # declaration -> argument
        self._states: dict[int, str] = {}  # number of a draw -> what it draws from

    # -- parameters

    def _declare_pointer(self, name: str, kind: str, slot: Slot) -> None:
        self._parameters[f"{kind}{name}"] = Address(slot)

    def _sized_number(self, node: Node) -> str:
        name = f"number_{self.tables.number(node)}"
        self._parameters[f"double {name}"] = float(value_of(node))
        return name

    def argument(self, name: str, value: int) -> str:
        """A number that depends on the sizes of a call, as a parameter; its name."""
        self._parameters[f"int64_t {name}"] = int(value)
        return f"({self.index}){name}"

    def scratch(self, wanted: str, kind: str, slot: int) -> str:
        """The name of a pointer to a scratch buffer."""
        name = self.names.fresh(wanted)
        self._declare_pointer(name, f"{kind} *", slot)
        return name

    def extent(self, value: int, divisor: int = 1) -> str:
        """A size in index type, divided by what divides it."""
        if not is_symbolic(value):
            return str(int(value) // divisor)
        text = size_text(value)
        return f"({self.index}){text}" if divisor == 1 else f"({self.index})({text} / {divisor})"

    # -- loops

    def unravelled(self, flat: str, loops: Sequence[int]) -> list[str]:
        """The loop variables from the number of a point among those loops."""
        return unravel(flat, [(self.loops[i], self.kernel.space[i], 1) for i in loops], self)

    def draws(self, roots: Iterable[int], first: Sequence[str], width: int) -> list[str]:
        """What the elements from point `first` on draw, each draw into an array of its own."""
        lines: list[str] = []
        for number in sorted(needed(self.kernel, roots)):
            node = self.kernel.statements[number].node
            if node.op.kind is not Kind.RANDOM:
                continue
            array = self.names.fresh(f"{self.context.names[number]}_drawn")
            lines += [
                f"{c_type(node.dtype)} {array}[{width}];",
                self.draw_into(number, array, self.flat(first), str(width), self._state(number)),
            ]
            self.context.kept[number] = lambda _, a=array: f"{a}[{'0' if width == 1 else 'e'}]"
        return lines

    def _state(self, number: int) -> str:
        place = self.draw_number(number)
        self._parameters["const uint32_t *state"] = State()
        return self._states.setdefault(place, f"state_{place}")

    # -- the text

    def text(self, name: str, body: Sequence[str], comment: str, threads: int = THREADS) -> str:
        """The whole kernel."""
        for symbol in sizes_in(body):
            self._parameters[f"int64_t {size_name(symbol)}"] = int(self.tables.sizes[symbol])
        states = [
            f"const uint32_t {state}[5] = {{state[0], state[1], {place}u, state[2], state[3]}};"
            for place, state in self._states.items()
        ]
        self.slots.names |= {
            *self.names.given,
            *(p.split()[-1].lstrip("*") for p in self._parameters),
        }
        head = f'extern "C" __global__ void __launch_bounds__({threads})\n{name}('
        parameters = _wrapped(head, list(self._parameters))
        return f"/* {comment} */\n{parameters}\n{{\n{indented([*states, *body])}\n}}"

    def launch(
        self, name: str, blocks: int, threads: int = THREADS, per_multiprocessor: int = 0
    ) -> KernelLaunch:
        """The launch of what `text` has printed."""
        arguments = tuple(self._parameters.values())
        return KernelLaunch(name, arguments, blocks, threads, self.number, per_multiprocessor)


@dataclass(frozen=True)
class CudaPrinted:
    """A kernel's functions with their launches, in order; `slots` knows the names made up."""

    functions: tuple[tuple[str, str], ...]  # name, text
    launches: tuple[Launch, ...]
    slots: Slots
    comment: str = ""  # of what no function does


NOTHING = CudaPrinted((), (), Slots(), "/* nothing to do */")


def one_of(made: Mapping[bool, CudaPrinted], chosen: bool) -> CudaPrinted:
    """Several ways to do a kernel, all of them in the text; the launches are those of one."""
    slots = Slots(names=set().union(*(one.slots.names for one in made.values())))
    functions = tuple(f for one in made.values() for f in one.functions)
    return CudaPrinted(functions, made[chosen].launches, slots)


def unravel(flat: str, loops: Sequence[tuple[str, int, int]], function: CudaFunction) -> list[str]:
    """Loop variables (name, extent, step) from a flat number, the last one running fastest."""
    lines: list[str] = []
    rest = flat
    for n, (name, extent, step) in reversed([*enumerate(loops)]):
        count = function.extent(extent, step)
        value = f"{rest} % {count}" if n else rest
        if step > 1:
            value = f"{step} * ({value})" if n else f"{step} * {value}"
        lines.append(f"const {function.index} {name} = {value};")
        if rest == flat and n:
            rest = f"{flat} / {count}"
        elif n:
            rest = f"{rest} / {count}"
    return lines[::-1]


# -- elements of a thread


@dataclass
class Lanes:
    """The statements at `width` neighbours along loop `loop`, from point `first` on.

    `held`: operands that lie in registers already, or are to be loaded into them: expressions of
    where. `guard`: a condition of every store, if there is one.
    """

    function: CudaFunction
    width: int
    loop: int
    first: Sequence[str]
    held: dict[int, str] = field(default_factory=dict[int, str])
    guard: str = ""
    _before: list[str] = field(default_factory=list[str])
    _body: list[str] = field(default_factory=list[str])
    _after: list[str] = field(default_factory=list[str])
    _packs: dict[int, str] = field(default_factory=dict[int, str])

    def scope(self, around: Scope | None = None) -> Scope:
        """Where the statements are printed; operands are read as packs from now on."""
        context: Context = self.function.context
        context.load = self._load
        return Scope(context, tuple(self.function.loops), [], around)

    def _load(self, operand: int, variables: Sequence[str]) -> str:
        function, access = self.function, self.function.kernel.operands[operand]
        here = bool(variables) and variables[self.loop] == function.loops[self.loop]
        if here and operand in self.held:
            return self.held[operand]
        if not here or self.width == 1 or access.strides[self.loop] != 1:
            return function.element(access, variables)
        if operand not in self._packs:
            pointer = function.pointer(access.base)
            name = self._packs[operand] = function.names.fresh(f"{pointer}_{self.width}")
            self._before.append(f"const {self._kind(access)} {name} = {self.loaded(operand)};")
        return f"{self._packs[operand]}.at[e]"

    def loaded(self, operand: int) -> str:
        """The expression that loads an operand's pack (or element)."""
        access, width = self._access(operand), self._width_of(operand)
        element = f"{self.function.pointer(access.base)}[{self._place(access)}]"
        return element if width == 1 else f"gx_load<{width}>(&{element})"

    def _place(self, access: Access) -> str:
        return index(access, self.first)

    def _kind(self, access: Access) -> str:
        return pack_type(access.base.dtype, self.width)

    def kind(self, operand: int) -> str:
        """The type of what `loaded` gives: a pack where neighbours lie side by side."""
        return pack_type(self._access(operand).base.dtype, self._width_of(operand))

    def which(self, operand: int) -> str:
        """How one of the neighbours is chosen from what `loaded` gives."""
        return ".at[e]" if self._width_of(operand) > 1 else ""

    def _access(self, operand: int) -> Access:
        return self.function.kernel.operands[operand]

    def _width_of(self, operand: int) -> int:
        return self.width if self._access(operand).strides[self.loop] == 1 else 1

    def before(self, line: str) -> None:
        """A line ahead of the loop over the neighbours."""
        self._before.append(line)

    def add(self, line: str) -> None:
        """A line at each of the neighbours."""
        self._body.append(line)

    def store(self, scope: Scope, store: Store) -> None:
        """Write a value."""
        function, access = self.function, store.access
        value = scope.value(store.value)
        if self.width == 1 or access.strides[self.loop] != 1:
            element = function.element(access, scope.variables, written=True)
            self._body.append(f"{self.condition}{element} = {value};")
            return
        pointer = function.pointer(access.base, written=True)
        name = function.names.fresh(f"{pointer}_{self.width}")
        self._before.append(f"{self._kind(access)} {name};")
        self._body.append(f"{name}.at[e] = {value};")
        self._after.append(f"{self.condition}gx_store(&{pointer}[{self._place(access)}], {name});")

    @property
    def condition(self) -> str:
        """What stands before every store."""
        return f"if ({self.guard}) " if self.guard else ""

    def lines(self, scope: Scope, draws: Sequence[str] = ()) -> list[str]:
        """All of it."""
        inner = [*scope.lines, *self._body]
        if self.width == 1:
            return [*draws, *self._before, *inner, *self._after]
        function = self.function
        v, first = function.loops[self.loop], self.first[self.loop]
        own = [f"const {function.index} {v} = {first} + e;"] if mentions(inner, v) else []
        return [
            *draws, *self._before, UNROLL, f"for (int e = 0; e < {self.width}; e++) {{", *own,
            *inner, "}", *self._after,
        ]  # fmt: skip


def pack_type(dtype: object, width: int) -> str:
    """The type of so many neighbours."""
    kind = c_type(dtype)  # type: ignore[arg-type]
    return kind if width == 1 else f"gx_pack<{kind}, {width}>"


def mentions(lines: Iterable[str], word: str) -> bool:
    """Whether C lines use a name."""
    pattern = re.compile(rf"\b{re.escape(word)}\b")
    return any(pattern.search(line) for line in lines)


def vector_width(
    function: CudaFunction,
    loop: int,
    *,
    tail: bool = False,
    accesses: Iterable[Access] | None = None,
) -> int:
    """How many neighbours along `loop` a thread may handle at a time: as many as fill a vector,
    where all stores, and at least one access, move whole vectors. `tail`: whether what is left over
    is handled one by one."""
    kernel = function.kernel
    given = list(accesses) if accesses is not None else [
        *kernel.operands, *(s.access for s in kernel.stores)
    ]  # fmt: skip
    packed = [a for a in given if a.strides[loop] == 1]
    if not packed:
        return 1
    width = VECTOR // max(a.base.dtype.itemsize for a in packed)
    while width > 1 and not _fits(kernel, packed, loop, width, tail):
        width //= 2
    return max(1, width)


def _fits(kernel: Kernel, packed: Iterable[Access], loop: int, width: int, tail: bool) -> bool:
    whole = divides(width, kernel.space[loop]) or tail
    return whole and all(
        divides(width, a.offset)
        and all(divides(width, s) for i, s in enumerate(a.strides) if i != loop)
        for a in packed
    )


def divides(width: int, value: int) -> bool:
    """Whether a size is a multiple of `width`, whatever its symbols are."""
    if isinstance(value, Extent):
        return all(coefficient % width == 0 for _, coefficient in value.dim.terms)
    return int(value) % width == 0


def _reach(kernel: Kernel) -> int:
    """The largest number of an element that the kernel addresses, or of a point of its space."""
    accesses = [(a, kernel.space) for a in (*kernel.operands, *(s.access for s in kernel.stores))]
    accesses += [(a, piece.shape) for piece in kernel.pieces for a in (piece.source, piece.target)]
    reached = (
        int(access.offset)
        + sum(abs(int(s)) * max(0, int(n) - 1) for s, n in zip(access.strides, space, strict=True))
        for access, space in accesses
    )
    return max([int(kernel.size), *reached])


def _wrapping(node: Node, text: str) -> str:
    """An expression of integers that wraps around, as NumPy's do."""
    computes = node.dtype.kind == "i" and all(i.dtype.kind == "i" for i in node.inputs)
    return f"gx_wrapping({text})" if computes and not text.startswith("gx_") else text


def _wrapped(head: str, parameters: Sequence[str]) -> str:
    """A function's head, its parameters over as many lines as they need."""
    *before, start = head.split("\n")
    lines = [start]
    for i, parameter in enumerate(parameters):
        part = parameter + ("," if i + 1 < len(parameters) else ")")
        if len(lines[-1]) + len(part) + 1 > 100:
            lines.append(" " * (len(start) if len(start) < 50 else 8) + part)
        else:
            lines[-1] += part if lines[-1].endswith("(") else f" {part}"
    return "\n".join([*before, *lines]) if parameters else f"{head})"
