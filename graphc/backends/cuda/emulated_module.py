"""CUDA C compiled for the CPU by the system's C++ compiler, and its kernels launched there.

What makes the text C++, and what finds errors while it runs, is `kernels/emulator.h`.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from graphc.backends.cache import object_cache
from graphc.backends.cuda.emulated_memory import (
    PAGE,
    UNUSED,
    EmulatorError,
    Fence,
    Memory,
    Pages,
    forbid,
)
from graphc.backends.toolchain import (
    Language,
    Refused,
    Toolchain,
    compile_object,
    details,
    find_toolchain,
)
from graphc.codegen.sources import read

ORDERS = ("ascending", "descending", "random")
NAME = "kernel.cu"  # of a text, in what the compiler says of it
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:BOUNDS\s*)?void\s+(?:BOUNDS\s*)?(\w+)\s*\(([^()]*)\)'.replace(
        "BOUNDS", r"__launch_bounds__\s*\(([^(),]*)[^()]*\)"
    )
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
LINE = re.compile(r"\bline (\d+)")
MOST_THREADS = 1024
MOST_BLOCKS = 2**31 - 1

# -O1 because the time to compile counts: tests compile hundreds of texts, and run each a few times.
REQUIRED = ("-std=gnu++17", "-O1", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared",
            "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-nodefaultlibs")  # fmt: skip
OPTIONAL = (
    ("-march=native", "-mcpu=native"),
    ("-fno-math-errno",),
    ("-fno-asynchronous-unwind-tables",),
    ("-fno-sanitize-recover=all",),
    ("-fsanitize=alignment,bounds,null,integer-divide-by-zero",),  # emulator.h has what they call
)
PROBE = """
GX_EXPORT int graphc_probe(double *values)
{
    values[0] = exp(values[0]);
    for (int i = 1; i < 64; i++)
        values[i] = 2 * values[i] + 1;
    return 0;
}
"""


class Launch(ctypes.Structure):
    """The record `gx_launch` of kernels/emulator.h."""

    _fields_ = (
        ("arguments", ctypes.c_void_p),
        ("blocks", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("order", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("stacks", ctypes.c_void_p),
        ("stack_nbytes", ctypes.c_int64),
        ("guard_nbytes", ctypes.c_int64),
        ("fences", ctypes.POINTER(Fence)),
        ("fence_count", ctypes.c_int64),
        ("microseconds", ctypes.c_int64),
        ("broken_fence", ctypes.c_int64),
        ("broken_byte", ctypes.c_int64),
        ("address", ctypes.c_void_p),
        ("access", ctypes.c_int64),
        ("misaligned", ctypes.c_int64),
        ("message", ctypes.c_char * 512),
    )


class KernelRecord(ctypes.Structure):
    """The record `gx_kernel` of kernels/emulator.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("letters", ctypes.c_char_p),
        ("pointees", ctypes.c_char_p),
        ("constants", ctypes.c_char_p),
        ("bound", ctypes.c_int64),
        ("call", ctypes.c_void_p),
    )


WORDS = {
    "P": "pointer", "?": "bool", "b": "char", "B": "unsigned char", "h": "short",
    "H": "unsigned short", "i": "int", "I": "unsigned", "l": "int64_t", "L": "uint64_t",
    "q": "int64_t", "Q": "uint64_t", "f": "float", "d": "double",
}  # fmt: skip
Cell = Any  # a number of ctypes, of any type
CELLS: dict[str, Any] = {
    "P": ctypes.c_uint64, "?": ctypes.c_bool, "b": ctypes.c_int8, "B": ctypes.c_uint8,
    "h": ctypes.c_int16, "H": ctypes.c_uint16, "i": ctypes.c_int32, "I": ctypes.c_uint32,
    "l": ctypes.c_long, "L": ctypes.c_ulong, "q": ctypes.c_int64, "Q": ctypes.c_uint64,
    "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip


class Misaligned(EmulatorError):
    """An access to an address that is no multiple of what its type wants."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of a module.

    `letters` tell the types of its parameters, as in `struct`, `pointees` those of what pointers
    lead to, `constants` whether nothing is written there; kernels/emulator.h says more.
    `parameters`: their names; `bound`: threads of a block at most, 0 if nothing is declared.
    """

    name: str
    number: int
    letters: str
    pointees: str
    constants: str
    parameters: tuple[str, ...]
    bound: int
    module: Module

    def count(self, arguments: Sequence[Any]) -> None:
        """EmulatorError if there are more or fewer arguments than parameters."""
        if len(arguments) != len(self.letters):
            raise EmulatorError(
                f"kernel {self.name} has {len(self.letters)} parameters, "
                f"but {len(arguments)} arguments are given"
            )

    def cells(self, arguments: Sequence[int | float]) -> list[Cell]:
        """The arguments as the kernel's parameters; EmulatorError if one does not fit."""
        self.count(arguments)
        return [self._cell(i, value) for i, value in enumerate(arguments)]

    def declaration(self, number: int) -> str:
        """A parameter in words: its parameter n is int64_t."""
        pointee = self.pointees[number]
        what = WORDS[self.letters[number]]
        if what == "pointer" and pointee in WORDS:
            const = "const " * (self.constants[number] == "c")
            what = f"a pointer to {const}{WORDS[pointee]}"
        return f"its parameter {self.parameters[number]} is {what}"

    def _cell(self, number: int, value: int | float) -> Cell:
        kind = CELLS[self.letters[number]]
        if self.letters[number] in "fd":
            return kind(value)
        cell = kind(value) if isinstance(value, int) else None
        if cell is None or cell.value != value:
            raise EmulatorError(
                f"argument {number + 1} of kernel {self.name} is {value}, "
                f"but {self.declaration(number)}"
            )
        return cell

    def run(
        self,
        blocks: int,
        threads: int,
        cells: Sequence[Cell],
        memory: Memory,
        order: str,
        seed: int,
        seconds: float = 0,
    ) -> None:
        """Launch it, and wait; raises EmulatorError with what was found. With `seconds`, of the
        processor's time, it ends after them, or when an interrupt comes."""
        if not (0 < blocks <= MOST_BLOCKS and 0 < threads <= MOST_THREADS):
            raise EmulatorError(
                f"kernel {self.name} on {blocks} blocks of {threads} threads: there can be 1 to "
                f"{MOST_BLOCKS} blocks of 1 to {MOST_THREADS} threads"
            )
        if self.bound and threads > self.bound:
            raise EmulatorError(
                f"kernel {self.name} on blocks of {threads} threads: its __launch_bounds__ are "
                f"{self.bound}"
            )
        places = (ctypes.c_void_p * len(cells))(*map(ctypes.addressof, cells))
        with memory.held():
            fences = memory.fences()
            launch = Launch(
                ctypes.addressof(places), blocks, threads, ORDERS.index(order), seed,
                _stacks().start, STACK_NBYTES, PAGE, fences, len(fences),
                math.ceil(seconds * 1e6),
            )  # fmt: skip
            if not self.module.emulate(self.number, ctypes.byref(launch)):
                wrong = Misaligned if launch.misaligned else EmulatorError
                raise wrong(self._words(launch, memory))

    def _words(self, launch: Launch, memory: Memory) -> str:
        """What went wrong in a launch."""
        message = launch.message.decode(errors="replace")
        where = memory.describe(launch.address) if launch.address else ""
        if where:
            message += f", {where}"
        if launch.broken_fence >= 0:
            fence = launch.fences[launch.broken_fence]
            ctypes.memset(fence.start, UNUSED, fence.nbytes)  # so that it is said once
            written = memory.describe(fence.start + launch.broken_byte)
            message = message or f"kernel {self.name}: a write: {written}"
        return self.module.with_lines(message)


class Module:
    """A text compiled and loaded; its kernels by name."""

    def __init__(self, text: str) -> None:
        self.text = text
        declared = _declared(text)
        rows = "".join(f"GX_KERNEL({d.name}, {d.bound}) " for d in declared)
        source = f'{read("emulator.h")}#line 1 "{NAME}"\n{text}\n{_table(rows)}'
        toolchain = _toolchain()
        try:
            library = object_cache().use(
                toolchain.key(source),
                lambda path: compile_object(toolchain, source, path),
                # Python's lock is kept: signals belong to the process, so one launch at a time.
                lambda path: ctypes.PyDLL(str(path)),
            )
        except Refused as error:  # by a compiler that takes other texts
            raise EmulatorError(self.with_lines(error.said)) from error
        self.emulate = library.gx_emulate
        self.emulate.argtypes = [ctypes.c_int, ctypes.c_void_p]
        records = (KernelRecord * len(declared)).in_dll(library, "gx_kernels")
        self.kernels = {
            d.name: Kernel(
                d.name, i, record.letters.decode(), record.pointees.decode(),
                record.constants.decode(), d.parameters, record.bound, self,
            )
            for i, (d, record) in enumerate(zip(declared, records, strict=True))
        }  # fmt: skip

    def __call__(self, name: str) -> Kernel:
        if name not in self.kernels:
            raise EmulatorError(
                f"no kernel {name!r}: there are {', '.join(self.kernels) or 'none'}, each declared "
                'as: extern "C" __global__ void name(...)'
            )
        return self.kernels[name]

    def with_lines(self, message: str) -> str:
        """A message, followed by the lines of the text that it names."""
        numbers = [*LINE.findall(message), *re.findall(rf"{NAME}:(\d+)", message)]
        lines = _numbered(self.text)
        shown = [f"\n  {n} | {lines[n]}" for n in dict.fromkeys(map(int, numbers)) if n in lines]
        return message + "".join(shown)


class Declared(NamedTuple):
    """A kernel as its text declares it."""

    name: str
    bound: str
    parameters: tuple[str, ...]


def _declared(text: str) -> list[Declared]:
    """The kernels of a text, in order; EmulatorError for what the emulator has not."""
    text = COMMENT.sub(" ", text)
    if re.search(r"\bextern\s+__shared__", text):
        raise EmulatorError(
            "the emulator has no extern __shared__ memory: declare the array with its size, as "
            "__shared__ float name[256], which can be a template's argument or a macro"
        )
    found: dict[str, Declared] = {}
    for before, behind, name, parameters in KERNEL.findall(text):
        names = [re.sub(r"[^\w]*$", "", p).rpartition(" ")[2] for p in parameters.split(",")]
        names = [re.findall(r"\w+", name)[-1] for name in names if name.strip()]
        found[name] = Declared(name, (before or behind).strip() or "0", tuple(names))
    return list(found.values())


def _table(rows: str) -> str:
    return f"GX_EXPORT const gx_kernel gx_kernels[] = {{{rows}{{0, 0, 0, 0, 0, 0}}}};\n"


def _numbered(text: str) -> dict[int, str]:
    """The lines of a text by number, as #line counts them; of two with one number, the later."""
    lines: dict[int, str] = {}
    number = 1
    for line in text.splitlines():
        directive = re.match(r"#line (\d+)", line)
        if directive:
            number = int(directive.group(1))
            continue
        lines[number] = line
        number += 1
    return lines


def compiler_details() -> Mapping[str, str]:
    """What was found; raises BackendUnavailable if there is no C++ compiler that works."""
    return details(_toolchain(), object_cache())


def _toolchain() -> Toolchain:
    names = ("CXX", "PATH", "GRAPHC_CACHE_DIR")
    return _find(*map(os.environ.get, names))


@lru_cache(maxsize=8)
def _find(*_environment: str | None) -> Toolchain:
    probe = read("emulator.h") + _table("") + PROBE
    language = Language(
        "C++", "c++", "CXX", ("c++", "g++", "clang++"), REQUIRED, OPTIONAL, ("-lm", "-lc"), probe
    )
    return find_toolchain(language=language)


STACK_NBYTES = (1 << 16) + PAGE  # of a thread; a GPU's registers and local memory are less


@cache
def _stacks() -> Pages:
    """Room for the stacks of a block, a page that cannot be accessed below each."""
    pages = Pages(MOST_THREADS * STACK_NBYTES)
    for i in range(MOST_THREADS):
        forbid(pages.start + i * STACK_NBYTES, PAGE)
    return pages
