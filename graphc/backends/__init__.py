"""Backends: what runs a program. `auto` takes the first usable one of `ORDER`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from graphc.backends.base import Availability, Backend
from graphc.backends.native_backend import NATIVE
from graphc.backends.numpy_backend import NUMPY
from graphc.errors import BackendUnavailable, CompileError

PLANNED = {"cuda": "not part of this version"}
BACKENDS: Mapping[str, Backend] = {NATIVE.name: NATIVE, NUMPY.name: NUMPY}
ORDER = ("cuda", "native", "numpy")


def devices() -> dict[str, Availability]:
    """Every backend by name: whether it can run here, why not, and what was found."""
    return {
        name: BACKENDS[name].probe() if name in BACKENDS else Availability(False, PLANNED[name])
        for name in ORDER
    }


def choose(name: str) -> tuple[Backend, str]:
    """The backend of this name, or for "auto" the first that can run; and the reason.

    Raises CompileError for an unknown name, BackendUnavailable for one that cannot run here.
    """
    if name == "auto":
        found = devices()
        passed = [f"{n} is {found[n].reason}" for n in ORDER if not found[n].usable]
        chosen = next(n for n in ORDER if found[n].usable)
        return BACKENDS[chosen], "; ".join(["auto", *passed])
    if name.partition(":")[0] not in (*ORDER, "emulator"):
        near = difflib.get_close_matches(name, ("auto", *ORDER), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CompileError(f"backend {name!r} is unknown: need auto, {', '.join(ORDER)}{hint}")
    if name not in BACKENDS:
        raise BackendUnavailable(
            f"backend {name!r} is not part of this version; use backend='auto' or 'numpy'"
        )
    backend = BACKENDS[name]
    available = backend.probe()
    if not available.usable:
        raise BackendUnavailable(f"backend {name!r}: {available.reason}")
    return backend, f"{name}: as asked for"
