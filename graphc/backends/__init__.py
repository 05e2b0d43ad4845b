"""Backends: what runs a program. `auto` takes the first usable one of `ORDER`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.backends.base import Availability, Backend
from graphc.backends.cuda import CUDA, EMULATOR, on_gpu
from graphc.backends.native_backend import NATIVE
from graphc.backends.numpy_backend import NUMPY
from graphc.errors import BackendUnavailable, CompileError

BACKENDS: Mapping[str, Backend] = {b.name: b for b in (CUDA, NATIVE, NUMPY, EMULATOR)}
ORDER = ("cuda", "native", "numpy")  # the emulator is for tests: only by name


def devices() -> dict[str, Availability]:
    """Every backend by name: whether it can run here, why not, and what was found."""
    return {name: BACKENDS[name].probe() for name in ORDER}


@dataclass
class Choice:
    """The backend that a program runs on, why, and what comes next if it cannot compile it."""

    backend: Backend
    reason: str
    others: list[Backend] = field(default_factory=list[Backend])

    def fall_back(self, error: BackendUnavailable) -> None:
        """Take the next backend; raises the error where none was to be chosen freely."""
        if not self.others:
            raise BackendUnavailable(f"backend {self.backend.name!r}: {error}") from error
        self.reason += f"; {self.backend.name} failed: {error}"
        self.backend = self.others.pop(0)


def choose(name: str) -> Choice:
    """The backend of this name, or for "auto" the first that can run.

    Raises CompileError for an unknown name, BackendUnavailable for one that cannot run here.
    """
    if name == "auto":
        found = devices()
        passed = [f"{n} is not usable: {found[n].reason}" for n in ORDER if not found[n].usable]
        first, *others = [BACKENDS[n] for n in ORDER if found[n].usable]
        return Choice(first, "; ".join(["auto", *passed]), others)
    backend = _named(name)
    if backend is None:
        raise CompileError(
            f"backend {name!r} is unknown: need auto, cuda, cuda:N (the GPU of a number), native, "
            f"numpy or emulator{_hint(name)}"
        )
    available = backend.probe()
    if not available.usable:
        raise BackendUnavailable(
            f"backend {name!r}: {available.reason}; or use backend='auto' or 'numpy'"
        )
    return Choice(backend, f"{name}: as asked for")


def _hint(name: object) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(str(name), ("auto", *ORDER, EMULATOR.name), 1)
    return f"; did you mean {near[0]!r}?" if near and ":" not in str(name) else ""


def _named(name: object) -> Backend | None:
    """The backend of a name; "cuda:1" is that of the second GPU."""
    if not isinstance(name, str):
        return None
    base, colon, number = name.partition(":")
    if base == CUDA.name and number.isascii() and number.isdigit():
        return on_gpu(int(number))
    return None if colon else BACKENDS.get(name)
