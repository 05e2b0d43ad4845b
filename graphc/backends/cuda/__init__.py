"""The CUDA backend: a program as one CUDA C text, run by one graph launch per step.

The rest of the folder is loaded when a program is compiled for it: where there is no GPU, nobody
should wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from graphc.backends.base import Availability, Backend
from graphc.backends.cuda.driver import without_driver
from graphc.backends.cuda.target import LIKES


@cache
def on_gpu(number: int = 0) -> Backend:
    """The backend of one GPU: "cuda" or "cuda:0", "cuda:1", ..."""

    @cache
    def loaded() -> Backend:
        from graphc.backends.cuda.cuda_backend import gpu

        return gpu(number)

    def probe() -> Availability:
        return without_driver() or loaded().probe()

    return _on_demand(f"cuda:{number}" if number else "cuda", loaded, probe)


def _emulator() -> Backend:
    @cache
    def loaded() -> Backend:
        from graphc.backends.cuda.cuda_backend import emulator

        return emulator()

    return _on_demand("emulator", loaded, lambda: loaded().probe())


def _on_demand(
    name: str, loaded: Callable[[], Backend], probe: Callable[[], Availability]
) -> Backend:
    """A backend that is loaded when it is used."""
    return Backend(
        name, LIKES,
        lambda program, options: loaded().prepare(program, options),
        probe,
        lambda value, what, wanted: loaded().admit(value, what, wanted),
        lambda value: loaded().fetch(value),
    )  # fmt: skip


CUDA = on_gpu()
EMULATOR = _emulator()
