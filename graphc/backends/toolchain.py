"""The system's C compiler, or C++ compiler: which one, what it can do, how it makes an object.

What was found is remembered in the object cache, so that a process with nothing new to compile
starts no compiler. No shell is involved anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphc.backends.cache import ObjectCache, content_key, object_cache
from graphc.errors import BackendUnavailable

if TYPE_CHECKING:
    import subprocess

# What results and loading depend on. Never -ffast-math: NaN and infinities must survive.
REQUIRED = ("-std=gnu11", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-pthread",
            "-Werror=incompatible-pointer-types", "-Werror=int-conversion")  # fmt: skip
# What only speed depends on: of each group the first flag that the compiler takes, if any.
OPTIONAL = (
    ("-O3",),
    ("-march=native", "-mcpu=native"),
    ("-fno-math-errno",),
    ("-fno-trapping-math",),
    ("-fopenmp-simd",),
)
PROBE_SECONDS = 60.0
COMPILE_SECONDS = 600.0

# Proves that threads and the math library link, that the object can be loaded, and, by a loop that
# is vectorised, that this machine runs the instructions that the compiler chooses.
PROBE = """\
#include <math.h>
#include <pthread.h>

#ifdef __FAST_MATH__
#error "-ffast-math is on: NaN and infinities would be lost; take it out of CC"
#endif

enum { COUNT = 64 };

static void *fill(void *values)
{
    double *x = values;
    x[0] = exp(x[0]);
    for (int i = 1; i < COUNT; i++) x[i] = 2 * x[i] + 1;
    return 0;
}

int graphc_probe(double *values)
{
    pthread_t thread;
    return pthread_create(&thread, 0, fill, values) || pthread_join(thread, 0);
}
"""
CALL_PROBE = """\
import ctypes, sys
values = (ctypes.c_double * 64)()
try:
    failed = ctypes.CDLL(sys.argv[1]).graphc_probe(values)
except (OSError, AttributeError) as error:
    sys.exit(str(error))
sys.exit("its thread did not run" if failed or list(values) != [1.0] * 64 else 0)
"""


@dataclass(frozen=True, slots=True)
class Language:
    """How texts of a language are compiled.

    `variable` of the environment names the compiler; where it does not, `compilers` are looked for
    on PATH in this order. `required`: flags that results and loading depend on; `optional`: of each
    group the first flag that the compiler takes, if any. `probe`: a text with a function
    `graphc_probe`, which makes 64 ones of 64 zeros and returns 0. `instead`: what a user can do
    without a compiler.
    """

    name: str
    code: str  # as the compilers call it
    variable: str
    compilers: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[tuple[str, ...], ...]
    libraries: tuple[str, ...]
    probe: str
    instead: str = ""

    @property
    def remedy(self) -> str:
        return f"set {self.variable} to another compiler{self.instead}"


C = Language(
    "C", "c", "CC", ("cc", "gcc", "clang"), REQUIRED, OPTIONAL, ("-lm",), PROBE,
    instead=" or use backend='numpy'",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler that was seen to work.

    `command`: the program and the arguments that CC gave it; `cpu`: model, features and C library
    of the machine; `identity`: changes when the compiler, its arguments or the machine change.
    """

    language: Language
    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    cpu: str
    identity: str

    def key(self, source: str) -> str:
        """The key under which the object of a text is cached."""
        made_by = (self.identity, self.version, self.cpu, shlex.join(self.command))
        return content_key(
            source, *made_by, shlex.join(self.flags), shlex.join(self.language.libraries)
        )

    @property
    def refused(self) -> tuple[str, ...]:
        """The flags for speed that this compiler does not take."""
        groups = self.language.optional
        return tuple(group[0] for group in groups if not set(group) & set(self.flags))


def find_toolchain(
    cache: ObjectCache | None = None, timeout: float = PROBE_SECONDS, language: Language = C
) -> Toolchain:
    """The compiler named by CC, else the first of cc, gcc and clang that works; for another
    language, its own.

    A compiler that was tried before and has not changed since is not started. `timeout`: seconds
    for trying one. Raises BackendUnavailable with the compiler's own words.
    """
    cache = object_cache() if cache is None else cache
    cpu = describe_cpu()
    commands = {command: _identity(language, command, cpu) for command in _commands(language)}
    for command, identity in commands.items():
        known = _recall(language, command, identity, cpu, cache)
        if known is not None:
            return known
    reasons: list[str] = []
    for command, identity in commands.items():
        try:
            found = _try_out(Toolchain(language, command, "", (), cpu, identity), cache, timeout)
        except BackendUnavailable as error:
            reasons.append(str(error))
            continue
        text = json.dumps({"version": found.version, "flags": found.flags})
        cache.keep(f"toolchain-{identity}", text)
        return found
    raise BackendUnavailable("; ".join(reasons))


def compile_object(
    toolchain: Toolchain, source: str, target: Path, timeout: float = COMPILE_SECONDS
) -> None:
    """Compile a text, which may include system headers only, to a shared object at `target`.

    The object is there as a whole or not at all. Raises BackendUnavailable with the compiler's own
    words, OSError where nothing can be written beside `target`.
    """
    import tempfile  # where something is compiled: a warm start is faster without

    with tempfile.TemporaryDirectory(prefix="graphc-", dir=target.parent) as place:
        made = Path(place) / target.name
        language = toolchain.language
        files = ("-x", language.code, "-", "-o", str(made))
        command = (*toolchain.command, *toolchain.flags, *files, *language.libraries)
        done = _run(command, source, timeout, language)
        compiler = f"{language.name} compiler {shlex.join(toolchain.command)}"
        if done.failure:
            raise Refused(f"{compiler} {done.failure}", language.remedy)
        if not made.is_file():
            raise BackendUnavailable(
                f"{compiler} reported success and wrote no object; {language.remedy}"
            )
        made.replace(target)


def details(toolchain: Toolchain | None, cache: ObjectCache) -> Mapping[str, str]:
    """What `graphc devices` shows of a compiler and of the cache."""
    found: dict[str, str] = {}
    if toolchain is not None:
        found["compiler"] = shlex.join(toolchain.command)
        found["version"] = toolchain.version
        found["flags"] = shlex.join((*toolchain.flags, *toolchain.language.libraries))
        if toolchain.refused:
            found["refused flags"] = shlex.join(toolchain.refused)
    found["cache"] = str(cache.folder)
    if cache.reason:
        found["cache is temporary"] = cache.reason
    return found


def describe_cpu() -> str:
    """What objects made here depend on: model and features of the CPU, word size, C library."""
    system = os.uname()
    library = ""
    with contextlib.suppress(ValueError, OSError):  # a name that only glibc knows
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    try:
        with Path("/proc/cpuinfo").open(errors="replace") as file:
            features = "; ".join(_features(file))
    except OSError:  # not Linux: the name of the machine stands for its CPU
        features = system.nodename
    return f"{system.sysname} {system.machine} {sys.maxsize:#x} {library}; {features}"


def _features(lines: Iterator[str]) -> Iterator[str]:
    """The lasting facts about the first processor of /proc/cpuinfo."""
    facts = {"model name", "flags", "Features", "CPU implementer", "CPU part", "isa", "cpu"}
    for line in lines:
        name, _, value = line.partition(":")
        if not line.strip():
            return
        if name.strip() in facts:
            yield value.strip()


# -- which compiler


def _commands(language: Language) -> list[tuple[str, ...]]:
    """The compilers to try, as program and arguments."""
    if not hasattr(os, "geteuid"):
        raise BackendUnavailable("needs a POSIX system; use backend='numpy'")
    chosen = os.environ.get(language.variable, "").strip()
    if chosen:
        return [_chosen_command(language.variable, chosen)]
    paths = [path for name in language.compilers if (path := shutil.which(name))]
    if not paths:
        raise BackendUnavailable(
            f"no {language.name} compiler: none of {', '.join(language.compilers)} is on PATH; "
            f"install one or set {language.variable}"
        )
    # cc is often a link to one of the others. The name called is kept: some programs go by it.
    different = {os.path.realpath(path): path for path in reversed(paths)}
    return [(os.path.abspath(path),) for path in reversed(different.values())]


def _chosen_command(variable: str, chosen: str) -> tuple[str, ...]:
    """The program and the arguments that CC, or CXX, holds."""
    try:
        words = [chosen] if shutil.which(chosen) else shlex.split(chosen)  # a path may hold spaces
    except ValueError as error:
        raise BackendUnavailable(
            f"{variable}={chosen!r} cannot be split into words: {error}; correct or unset it"
        ) from error
    path = shutil.which(words[0])
    if path is None:
        raise BackendUnavailable(
            f"{variable}={chosen!r}: there is no program {words[0]!r}; correct or unset it"
        )
    return os.path.abspath(path), *words[1:]


def _identity(language: Language, command: Sequence[str], cpu: str) -> str:
    """Changes with the programs of a command (`ccache gcc` has two), its words and the machine."""
    flags = (*language.required, *sum(language.optional, ()), *language.libraries)
    facts = [cpu, language.code, *command, *flags, language.probe]
    for word in command:
        path = None if word.startswith("-") else shutil.which(word)
        if path is not None:
            found = os.stat(path)  # noqa: PTH116 - where the path leads
            facts.append(f"{os.path.realpath(path)} {found.st_size} {found.st_mtime_ns}")
    return content_key(*facts)


def _recall(
    language: Language, command: tuple[str, ...], identity: str, cpu: str, cache: ObjectCache
) -> Toolchain | None:
    """The remembered toolchain; None if there is none, or if what is kept makes no sense."""
    try:
        kept: Any = json.loads(cache.note(f"toolchain-{identity}") or "null")
        version, flags = kept["version"], tuple(kept["flags"])
    except (ValueError, TypeError, KeyError):
        return None
    required = language.required
    extra = set(flags[len(required) :]) - {flag for group in language.optional for flag in group}
    if not isinstance(version, str) or flags[: len(required)] != required or extra:
        return None
    return Toolchain(language, command, version, flags, cpu, identity)


# -- whether it works


class Refused(BackendUnavailable):
    """A compiler did not take a text. Where it takes others, its words alone are `said`."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(f"{said}; {remedy}")
        self.said = said


class _TimedOut(BackendUnavailable):
    """A program that was ended because it took too long."""


def _try_out(base: Toolchain, cache: ObjectCache, timeout: float) -> Toolchain:
    """The toolchain with its version and the flags that it takes."""
    deadline = time.monotonic() + timeout
    language = base.language
    asked = _run((*base.command, "--version"), "", timeout, language)
    version = asked.output.strip().partition("\n")[0] if not asked.failure else ""
    version = version or "unknown version"

    def proved(flags: tuple[str, ...]) -> Toolchain:
        toolchain = Toolchain(language, base.command, version, flags, base.cpu, base.identity)
        _prove(toolchain, cache, max(0.0, deadline - time.monotonic()))
        return toolchain

    try:
        return proved((*language.required, *(group[0] for group in language.optional)))
    except _TimedOut:
        raise
    except BackendUnavailable:  # some flag is refused, or it does not work at all
        found = proved(language.required)
    for group in language.optional:
        for flag in group:
            try:
                found = proved((*found.flags, flag))
                break
            except _TimedOut:
                raise
            except BackendUnavailable:
                continue
    return found


def _prove(toolchain: Toolchain, cache: ObjectCache, timeout: float) -> None:
    """Compile, load and run a small program, from the folder where all objects will be."""
    language = toolchain.language
    probe = language.probe

    def run(path: Path) -> None:
        # In a process of its own: an instruction that this CPU lacks would end this one. A program
        # that embeds Python names itself as the executable; there the object is only loaded.
        if not re.match(r"python|pypy", Path(sys.executable or "").name):
            ctypes.CDLL(str(path))
            return
        command = (sys.executable, "-I", "-S", "-c", CALL_PROBE, str(path))
        done = _run(command, "", timeout, language)
        if done.failure:
            raise OSError(
                f"an object made by {shlex.join(toolchain.command)} does not run: it {done.failure}"
            )

    cache.use(
        toolchain.key(probe), lambda path: compile_object(toolchain, probe, path, timeout), run
    )


# -- running programs


@dataclass(frozen=True, slots=True)
class _Done:
    output: str
    failure: str  # how the program failed, in its own words; empty if it did not


def _run(command: Sequence[str], text: str, timeout: float, language: Language) -> _Done:
    """Run a program on a text. One that takes too long is ended with all that it started."""
    import signal
    import subprocess

    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"}, process_group=0,
        )  # fmt: skip
    except OSError as error:
        raise BackendUnavailable(
            f"{command[0]} cannot be started: {error.strerror}; {language.remedy}"
        ) from error
    with process:
        try:
            output, complaint = process.communicate(text.encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise _TimedOut(
                f"{command[0]} was ended after {timeout:.3g} s without an answer; {language.remedy}"
            ) from None
        except BaseException:  # an interrupt: nothing outlives it
            _end(process)
            raise
    code = process.returncode
    said = output.decode(errors="replace"), complaint.decode(errors="replace")
    if code < 0:
        return _Done(said[0], f"was ended by {signal.Signals(-code).name}")
    return _Done(said[0], f"failed ({code}): {_excerpt(said[1] or said[0])}" if code else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program together with its own children: they hold the pipes open."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)  # SIGKILL
    process.wait()


def _excerpt(text: str, lines: int = 8, columns: int = 200) -> str:
    """The beginning of what a compiler said; warnings that precede its first error are left out."""
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(said) if re.search(r"\b(error|undefined)\b", line, re.I)]
    warned = any("warning" in line for line in said[: errors[0] if errors else 0])
    start = errors[0] if warned else 0
    kept = [line[:columns] for line in said[start : start + lines]]
    return "\n".join(kept + ["..."] * (len(said) > start + lines)) or "no message"
