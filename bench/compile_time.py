"""What a user waits for before the first step: importing, and compiling against graph size."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

import graphc as gx

from .contestants import Contestant
from .measure import ContestantError
from .process import Worker, fresh
from .workloads import BY_NAME, Job

GRAPH_SIZES = (250, 500, 1000, 2000, 4000)
CHAIN = 50_000
WIDTH = 64

IMPORTS = """
from time import perf_counter as now
begin = now(); import numpy; middle = now(); import graphc; end = now()
print(middle - begin, end - middle)
"""
IN_PROCESS = """
import sys
from graphc.resources import load_bench
load_bench()
from graphc_bench import compile_time
print(getattr(compile_time, sys.argv[1])(sys.argv[2]))
"""
QUICK = 3.0  # seconds: what takes less is measured three times


def import_seconds(_: Sequence[Contestant] = (), times: int = 7) -> dict[str, float]:
    """Seconds of `import numpy`, and of `import graphc` after it, each in a fresh process.

    The first process, which may have to write byte code, is not counted.
    """
    fresh(IMPORTS)
    rows = [[float(s) for s in fresh(IMPORTS).split()] for _ in range(times)]
    return {"numpy": median(r[0] for r in rows), "graphc": median(r[1] for r in rows)}


def first_steps(contestants: Sequence[Contestant], case: str = "digits") -> list[dict[str, Any]]:
    """What a new process waits for until its first step is done, a row for each compiler."""
    return [first_step(c, case) for c in contestants if c.kind != "by hand" and not c.missing()]


def first_step(contestant: Contestant, case: str) -> dict[str, Any]:
    """Seconds to import, and from there to the first step's results, in fresh processes.

    "empty cache" is with an empty folder for what is kept between processes; "filled cache", where
    something is kept, with the folder that such a process has left; "again" is one more compilation
    in a process that has compiled the same before. Declaring graphc's graph counts, as tracing does
    for the others.
    """
    row: dict[str, Any] = {"contestant": contestant.name, "title": contestant.title}
    try:
        imports, empty, filled = _empty_and_filled(contestant, case)
    except ContestantError as error:
        return {**row, "failed": str(error)}
    row |= {"import": imports, "empty cache": empty, "filled cache": filled}
    if contestant.kind == "backend":
        with TemporaryDirectory() as folder:
            kept = contestant.cached_in(Path(folder))
            backend = contestant.options["backend"]
            row["again"] = float(fresh(IN_PROCESS, "compile_again", backend, environment=kept))
    return row


def _empty_and_filled(contestant: Contestant, case: str) -> tuple[float, float, float | None]:
    imports: list[float] = []
    empty: list[float] = []
    filled: list[float] = []
    while len(empty) < (3 if max(empty, default=0) < QUICK else 1):
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            kept = contestant.cached_in(Path(folder))
            for found in (empty, filled):
                if found is filled and not any(Path(folder).iterdir()):
                    continue
                with Worker(contestant, case, environment=kept) as worker:
                    said = worker.report
                imports.append(said["import"])
                declared = said["declare"] if contestant.kind == "backend" else 0.0
                found.append(declared + said["make"] + said["first call"])
    return median(imports), median(empty), median(filled) if filled else None


def compile_again(backend: str, times: int = 15) -> float:
    """Seconds that one more compilation of the digits step takes, declaring it not counted."""
    job = BY_NAME["digits"].build()
    return median([_compile(job, backend)[0] for _ in range(times + 1)][1:])


def call_rows(contestants: Sequence[Contestant]) -> dict[str, float]:
    """Seconds per call of the least program, in a fresh process for each backend that can run."""
    chosen = [c for c in contestants if c.kind == "backend" and not c.missing()]
    return {c.title: float(fresh(IN_PROCESS, "call_seconds", c.name)) for c in chosen}


def call_seconds(backend: str, rounds: int = 25, calls: int = 1000) -> float:
    """Seconds per call of a program that adds one number to a parameter of one element."""
    exe = gx.compile(gx.param("p", np.zeros((), "float32")) + 1, backend=backend)
    exe()
    return median(timeit.repeat(exe, number=calls, repeat=rounds)) / calls


def by_size(
    _: Sequence[Contestant] = (), sizes: tuple[int, ...] = GRAPH_SIZES, times: int = 5
) -> list[dict[str, Any]]:
    """Seconds to compile a graph and its gradient, for graphs of about so many nodes."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        found = [_compile(residual(size), "numpy") for _ in range(times)]
        seconds = median(f[0] for f in found)
        rows.append({"nodes": found[0][1], "seconds": seconds})
    return rows


def long_chain(_: Sequence[Contestant] = (), length: int = CHAIN) -> dict[str, Any]:
    """Seconds from declaring a chain of so many nodes to the value of its gradient."""
    begin = perf_counter()
    x = gx.input("x", (WIDTH,))
    y = x
    for i in range(length):
        y = gx.tanh(y) if i % 2 else y * 1.01
    slope = gx.grad(y.sum(), x)
    exe = gx.compile({"y": y, "slope": slope}, backend="numpy")
    found = exe(x=np.linspace(-1, 1, WIDTH, dtype="float32"))
    seconds = perf_counter() - begin
    return {"length": length, "seconds": seconds, "finite": bool(np.isfinite(found["y"]).all())}


def residual(nodes: int) -> Job:
    """About so many nodes: elementwise layers with skips and a parameter each, and the gradient."""
    x = gx.input("x", (WIDTH,))
    before, h = x, x
    weights: list[gx.Param] = []
    for i in range(max(1, nodes // 10)):  # each layer is about 10 nodes, gradient included
        w = gx.param(f"w{i}", np.full(WIDTH, 0.5, "float32"))
        before, h = h, gx.tanh(h * w) + before
        weights.append(w)
    loss = gx.mean(h)
    grads = {f"d{i}": g for i, g in enumerate(gx.grad(loss, weights))}
    return Job({"loss": loss, **grads}, {}, {"x": np.ones(WIDTH, "float32")})


def _compile(job: Job, backend: str) -> tuple[float, int]:
    begin = perf_counter()
    exe = gx.compile(job.outputs, updates=job.updates, backend=backend)
    return perf_counter() - begin, len(exe.stages["declared"].record.nodes)


PARTS: dict[str, Callable[[Sequence[Contestant]], Any]] = {
    "import": import_seconds, "compile": first_steps, "call": call_rows, "size": by_size,
    "chain": long_chain,
}  # fmt: skip
