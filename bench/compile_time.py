"""What a user waits for before the first step: importing, and compiling against graph size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import graphc as gx

from .workloads import BY_NAME, Job

GRAPH_SIZES = (250, 500, 1000, 2000, 4000)
CHAIN = 50_000
WIDTH = 64

IMPORTS = """
from time import perf_counter as now
begin = now(); import numpy; middle = now(); import graphc; end = now()
print(middle - begin, end - middle)
"""
FIRST_COMPILE = """
import json
from graphc.resources import load_bench
load_bench()
from graphc_bench.compile_time import compile_step
first = compile_step()
print(json.dumps({"first": first, "warm": sorted(compile_step() for _ in range(15))[7]}))
"""


def import_seconds(times: int = 7) -> dict[str, float]:
    """Seconds of `import numpy`, and of `import graphc` after it, each in a fresh process.

    The first process, which may have to write byte code, is not counted.
    """
    _fresh(IMPORTS)
    rows = [[float(s) for s in _fresh(IMPORTS).split()] for _ in range(times)]
    return {"numpy": median(r[0] for r in rows), "graphc": median(r[1] for r in rows)}


def compile_seconds() -> dict[str, float]:
    """Seconds to compile the digits step: first in a fresh process, and once it is warm."""
    return json.loads(_fresh(FIRST_COMPILE))


def compile_step() -> float:
    """Seconds that one compilation of the digits step takes, declaring it not counted."""
    job = BY_NAME["digits"].build()
    return _compile(job)[0]


def by_size(sizes: tuple[int, ...] = GRAPH_SIZES, times: int = 5) -> list[dict[str, Any]]:
    """Seconds to compile a graph and its gradient, for graphs of about so many nodes."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        found = [_compile(residual(size)) for _ in range(times)]
        seconds = median(f[0] for f in found)
        rows.append({"nodes": found[0][1], "seconds": seconds})
    return rows


def long_chain(length: int = CHAIN) -> dict[str, Any]:
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


def _compile(job: Job) -> tuple[float, int]:
    begin = perf_counter()
    exe = gx.compile(job.outputs, updates=job.updates, backend="numpy")
    return perf_counter() - begin, len(exe.stages["declared"].record.nodes)


def _fresh(program: str) -> str:
    """What a program prints in a process of its own, with byte code cached as for users."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    if done.returncode:
        raise gx.GraphcError(f"bench: a fresh process failed:\n{done.stderr}")
    return done.stdout


PARTS: dict[str, Callable[[], Any]] = {
    "import": import_seconds, "compile": compile_seconds, "size": by_size, "chain": long_chain,
}  # fmt: skip
