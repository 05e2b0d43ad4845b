"""Who takes part: the steps by hand in NumPy, graphc's backends, and other libraries.

A contestant is a row of data that names a function. A process of its own (worker.py) imports and
calls that function, so that nothing of a library is loaded where another one is measured.

A peer (peer_jax.py and its like) is written as those who know the library write it. What is
measured is the latency of a step: the state is handed over without copies, everything is compiled
beforehand, each call is waited for, and threads are left at the library's default. On a GPU the
throughput is measured, too: many calls and one wait; inputs come from sets that no cache holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import graphc as gx

from . import gpu
from .gpu import on_host
from .workloads import Arrays, Job, Prepared, Step, Workload

Place = Callable[[Arrays], Mapping[str, Any]]  # where a backend wants its inputs


@dataclass(frozen=True)
class Contestant:
    """`make` is "module:function"; the function takes a workload, its job and the `options`.

    `needs` is the module that it is measured with, also the name of its distribution; `environment`
    is set for its process. `cache` is the variable, and the form of its value, that names a folder
    for what it keeps between processes; None if it keeps nothing. `reason` says why it cannot run.
    """

    name: str
    title: str
    kind: str  # "by hand", "backend" or "peer"
    make: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needs: str = "graphc"
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    cache: tuple[str, str] | None = None
    reason: str = ""

    def missing(self) -> str:
        """Why it cannot run here, and what helps; "" if it can."""
        if self.reason or find_spec(self.needs):
            return self.reason
        extra = "cuda13" if self.needs == "cupy" else "peers"
        return f"not installed; pip install 'graphc[{extra}]'"

    def facts(self) -> dict[str, str]:
        """What a reader of results needs to know of it."""
        return {"name": self.name, "title": self.title, "kind": self.kind, "version": self.found()}

    def found(self) -> str:
        """The version of what it needs; "" where that is not a distribution."""
        try:
            return version(self.needs)
        except PackageNotFoundError:
            return ""

    def cached_in(self, folder: Path) -> dict[str, str]:
        """What to set so that it keeps its files in this folder."""
        return {self.cache[0]: self.cache[1].format(folder)} if self.cache else {}


def by_hand(workload: Workload, job: Job) -> Prepared:
    """The step written by hand; it reports, too, what no implementation of it can avoid.

    What is stored as bfloat16 is float32 here: exacter, and NumPy does not multiply the other.
    """
    values = {p.name: on_host(p.value) for p in job.updates}
    inputs = {name: on_host(a) for name, a in job.inputs.items()}
    work = workload.work(job)
    step = workload.reference(inputs, values, np)
    facts = {"flops": work.flops, "bytes": work.nbytes}
    return Prepared(lambda: step(inputs), lambda: values, facts)


def on_backend(workload: Workload, job: Job, *, backend: str, many: bool = False) -> Prepared:
    """The compiled program on one of graphc's backends; `many` steps a call where that is asked."""
    exe = gx.compile(
        job.outputs, updates=job.updates, backend=backend, name=workload.name,
        precision={"bfloat16": "bf16"}.get(workload.precision, workload.precision),
    )  # fmt: skip
    facts = {"launches": len(exe.kernels), "peak bytes": exe.plan.peak_nbytes}
    on_gpu = backend == "cuda"
    place = _on_the_gpu if on_gpu else _as_it_is
    step, steps = _runs(exe, job, place) if many else (_calls(exe, job, place, on_gpu), 1)
    clocks = (gpu.synchronize, gpu.stopwatch) if on_gpu else (None, None)
    return Prepared(step, lambda: {p.name: p.value for p in job.updates}, facts, *clocks, steps)


def _calls(exe: Any, job: Job, place: Place, rotate: bool) -> Step:
    if not rotate:
        inputs = job.inputs
        return lambda: exe(**inputs)
    sets = gpu.in_turn([place(given) for given in gpu.input_sets(job.inputs, rotate)])
    return lambda: exe(next(sets))


def _runs(exe: Any, job: Job, place: Place) -> tuple[Step, int]:
    """A step that is a call of `run_many`, and how many it makes."""
    first, *others = gpu.blocks(job.inputs)
    turns = gpu.in_turn([place(block) for block in others], place(first))
    steps = len(next(iter(others[0].values())))

    def step() -> Mapping[str, Any]:
        return {name: found[-1] for name, found in exe.run_many(next(turns)).items()}

    return step, steps


def _as_it_is(arrays: Arrays) -> Mapping[str, Any]:
    return arrays


def _on_the_gpu(arrays: Arrays) -> Mapping[str, Any]:
    import cupy

    return {name: cupy.asarray(a) for name, a in arrays.items()}


BY_HAND = Contestant("by hand", "NumPy by hand", "by hand", f"{__name__}:by_hand", needs="numpy")
_HERE = __package__
_INDUCTOR = ("TORCHINDUCTOR_CACHE_DIR", "{}")
PEERS = (
    Contestant(
        "jax", "JAX", "peer", f"{_HERE}.peer_jax:make", needs="jax",
        environment={"JAX_PLATFORMS": "cpu"},
    ),
    Contestant("torch", "torch eager", "peer", f"{_HERE}.peer_torch:make", needs="torch"),
    Contestant(
        "torch.compile", "torch.compile", "peer", f"{_HERE}.peer_torch:make", {"mode": "default"},
        needs="torch", cache=_INDUCTOR,
    ),
    Contestant(
        "pytensor", "PyTensor", "peer", f"{_HERE}.peer_pytensor:make", needs="pytensor",
        cache=("PYTENSOR_FLAGS", "base_compiledir={}"),
    ),
)  # fmt: skip
GPU_PEERS = (
    *(replace(c, options={**c.options, "gpu": True}) for c in PEERS if c.needs == "torch"),
    Contestant(
        "reduce-overhead", "torch.compile, reduce-overhead", "peer", f"{_HERE}.peer_torch:make",
        {"mode": "reduce-overhead", "gpu": True}, needs="torch", cache=_INDUCTOR,
    ),
    Contestant(
        "jax", "JAX", "peer", f"{_HERE}.peer_jax:make", {"gpu": True}, needs="jax",
        environment={"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    ),
    Contestant("cupy", "CuPy by hand", "peer", f"{_HERE}.peer_cupy:make", needs="cupy"),
)  # fmt: skip


def backends() -> tuple[Contestant, ...]:
    """graphc's backends, the simplest first, those that cannot run here with the reason.

    A GPU has another row, for many steps a call.
    """
    found: list[Contestant] = []
    for name, device in reversed(gx.devices().items()):
        row = Contestant(
            name, f"backend {name}", "backend", f"{__name__}:on_backend", {"backend": name},
            cache=("GRAPHC_CACHE_DIR", "{}"), reason="" if device.usable else device.reason,
        )  # fmt: skip
        found.append(row)
        if name == "cuda" and device.usable:
            options = {"backend": name, "many": True}
            title = f"backend {name}, run_many"
            found.append(replace(row, name=f"{name} run_many", title=title, options=options))
    return tuple(found)
