"""Who takes part: the steps by hand in NumPy, graphc's backends, and other libraries.

A contestant is a row of data that names a function. A process of its own (worker.py) imports and
calls that function, so that nothing of a library is loaded where another one is measured.

A peer (peer_jax.py and its like) is written as those who know the library write it. What is
measured is the latency of a step: the state is handed over without copies, everything is compiled
beforehand, each call is waited for, and threads are left at the library's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import graphc as gx

from .workloads import Job, Prepared, Workload


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
        return "not installed; pip install 'graphc[peers]'"

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
    """The step written by hand; it reports, too, what no implementation of it can avoid."""
    values = {p.name: p.value for p in job.updates}
    work = workload.work(job)
    step = workload.reference(job.inputs, values)
    return Prepared(step, lambda: values, {"flops": work.flops, "bytes": work.nbytes})


def on_backend(workload: Workload, job: Job, *, backend: str) -> Prepared:
    """The compiled program on one of graphc's backends."""
    exe = gx.compile(job.outputs, updates=job.updates, backend=backend, name=workload.name)
    inputs = job.inputs
    facts = {"launches": len(exe.kernels), "peak bytes": exe.plan.peak_nbytes}
    return Prepared(lambda: exe(**inputs), lambda: {p.name: p.value for p in job.updates}, facts)


BY_HAND = Contestant("by hand", "NumPy by hand", "by hand", f"{__name__}:by_hand", needs="numpy")
_HERE = __package__
_INDUCTOR = ("TORCHINDUCTOR_CACHE_DIR", "{}")
PEERS = (
    Contestant(
        "jax", "JAX", "peer", f"{_HERE}.peer_jax:make", needs="jax",
        environment={"JAX_PLATFORMS": "cpu"},
    ),
    Contestant(
        "torch", "torch eager", "peer", f"{_HERE}.peer_torch:make", {"compiled": False},
        needs="torch",
    ),
    Contestant(
        "torch.compile", "torch.compile", "peer", f"{_HERE}.peer_torch:make", {"compiled": True},
        needs="torch", cache=_INDUCTOR,
    ),
    Contestant(
        "pytensor", "PyTensor", "peer", f"{_HERE}.peer_pytensor:make", needs="pytensor",
        cache=("PYTENSOR_FLAGS", "base_compiledir={}"),
    ),
)  # fmt: skip


def backends() -> tuple[Contestant, ...]:
    """graphc's backends, those that cannot run here with the reason."""
    return tuple(
        Contestant(
            name, f"backend {name}", "backend", f"{__name__}:on_backend", {"backend": name},
            cache=("GRAPHC_CACHE_DIR", "{}"), reason="" if device.usable else device.reason,
        )
        for name, device in gx.devices().items()
    )  # fmt: skip
