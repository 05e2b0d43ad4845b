"""NVRTC: a CUDA C text becomes a cubin for one architecture, without a driver or a device.

Called by ctypes, with flags of our own: CuPy's compiler asks for a device first, and flushes
denormal numbers to zero. A cubin is kept by content in the cache of compiled objects.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphc.backends.cache import ObjectCache, content_key, object_cache
from graphc.backends.cuda.libraries import load_library
from graphc.errors import BackendUnavailable

# What results depend on: no contraction where the source has none, denormal numbers and the
# rounding of division and square root as IEEE 754 has them.
FLAGS = (
    "--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true",
    "--extra-device-vectorization",
)  # fmt: skip
VERBOSE = "--ptxas-options=-v"
NAME = "graphc.cu"  # of the text, in messages
MISSING = "pip install 'nvidia-cuda-nvrtc==13.*' 'cuda-pathfinder>=1.9'"
SHOWN_ERRORS = 4


@dataclass(frozen=True, slots=True)
class Usage:
    """What one thread (block, for `shared`) of a kernel takes: registers, and bytes."""

    registers: int
    stack: int
    spilled: int
    shared: int


def compile_cubin(text: str, arch: str, cache: ObjectCache | None = None) -> bytes:
    """The cubin of a text that includes nothing, for an architecture ("sm_90"): from the cache, or
    compiled. Raises BackendUnavailable with the compiler's log."""
    compiler = nvrtc()
    flags = (*FLAGS, f"--gpu-architecture={compiler.nearest(arch)}")
    key = content_key(text, *flags, "NVRTC", *map(str, compiler.version))
    cache = object_cache() if cache is None else cache
    return cache.read(key, lambda: compiler.compile(text, flags).cubin, "cubin")


def compile_ptx(text: str, arch: str) -> str:
    """The PTX of a text: what shows whether a load is a vector load."""
    compiler = nvrtc()
    return compiler.compile(text, (*FLAGS, f"--gpu-architecture={compiler.nearest(arch)}")).ptx


def resource_usage(text: str, arch: str) -> dict[str, Usage]:
    """What each kernel of a text takes, by name, as the assembler says."""
    compiler = nvrtc()
    flags = (*FLAGS, VERBOSE, f"--gpu-architecture={compiler.nearest(arch)}")
    return parse_usage(compiler.compile(text, flags).log)


def parse_usage(log: str) -> dict[str, Usage]:
    """Read the log of the assembler, which tells kernel by kernel."""
    found: dict[str, Usage] = {}
    _, *parts = re.split(r"Compiling entry function '(\w+)'", log)
    for name, said in zip(parts[::2], parts[1::2], strict=True):

        def number(pattern: str, said: str = said) -> int:
            match = re.search(rf"(\d+) {pattern}", said)
            return int(match.group(1)) if match else 0

        spilled = number("bytes spill stores") + number("bytes spill loads")
        found[name] = Usage(
            number("registers"), number("bytes stack frame"), spilled, number("bytes smem")
        )
    return found


@lru_cache(maxsize=1)
def nvrtc() -> Nvrtc:
    """The compiler of this process; BackendUnavailable, with the remedy, if it is not there."""
    return Nvrtc(load_library("nvrtc"))


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler gave for a text."""

    cubin: bytes
    ptx: str
    log: str


class Nvrtc:
    """The library, by ctypes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.version = self._version()
        self.architectures = self._architectures()

    def nearest(self, arch: str) -> str:
        """The newest architecture known here whose cubins run on `arch`: the same, or an older one
        of the same generation ("sm_80" for "sm_86")."""
        wanted = int(arch.removeprefix("sm_"))
        fitting = [a for a in self.architectures if a <= wanted and a // 10 == wanted // 10]
        if not fitting:
            raise BackendUnavailable(
                f"NVRTC {'.'.join(map(str, self.version))} cannot compile for {arch}, only for "
                f"{', '.join(f'sm_{a}' for a in self.architectures)}; install another version: "
                f"{MISSING}"
            )
        return f"sm_{max(fitting)}"

    def compile(self, text: str, flags: Sequence[str]) -> Compiled:
        """Compile a text. Raises BackendUnavailable, with the errors and their lines."""
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), text.encode(), NAME.encode(), 0, None,
                   None)  # fmt: skip
        try:
            options = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
            status = self._library.nvrtcCompileProgram(program, len(flags), options)
            log = self._content(program, "ProgramLog").decode(errors="replace")
            if status:
                raise BackendUnavailable(
                    f"NVRTC refuses the program ({self._words(status)}): {_errors(log)}"
                )
            ptx = self._content(program, "PTX").decode(errors="replace")
            return Compiled(self._content(program, "CUBIN"), ptx.rstrip("\0"), log.rstrip("\0"))
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _content(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, content)
        return content.raw

    def _version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def _architectures(self) -> tuple[int, ...]:
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        found = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", found)
        return tuple(found)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, f"nvrtc{function}")(*arguments)
        if status:
            raise BackendUnavailable(f"nvrtc{function} failed: {self._words(status)}")

    def _words(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(status).decode(errors="replace")


def _errors(log: str) -> str:
    """The first errors of a log, each with the line of the source that it shows."""
    told = [part.strip() for part in re.split(r"\n\s*\n", log.strip("\0\n"))]
    errors = [part for part in told if re.search(r"\berror\b", part)]
    kept = [
        "\n".join(line.rstrip()[:200] for line in part.splitlines())
        for part in errors[:SHOWN_ERRORS]
    ]
    more = len(errors) - len(kept)
    return "\n".join(kept + [f"... and {more} more"] * (more > 0)) or log.strip("\0\n") or "no log"
