"""Matrix products of the native backend against NumPy's BLAS: one thread each, rounds in turn.

python -m bench.products FILE.json      writes GFLOP/s of both and prints a table
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import numpy as np

import graphc as gx

from . import machine
from .measure import alternate, ratio

SIZES = (
    (64, 128, 64), (64, 64, 128), (128, 512, 784), (784, 512, 128), (256, 2048, 1024),
    (1024, 1024, 1024), (2048, 2048, 256),
)  # fmt: skip
LAYOUTS = ("a @ b", "a.T @ b", "a @ b.T")


def measure(m: int, n: int, k: int, layout: str, seconds: float) -> dict[str, Any]:
    """[m, k] @ [k, n] in one layout: GFLOP/s of both, and NumPy's time divided by ours.

    Both write into the same memory in every call; ours hands each block of the product on to an
    epilogue, which here only stores it.
    """
    random = np.random.default_rng(0)
    a = random.standard_normal((k, m) if layout == "a.T @ b" else (m, k), dtype="float32")
    b = random.standard_normal((n, k) if layout == "a @ b.T" else (k, n), dtype="float32")
    p, q = gx.param("p", a), gx.param("q", b)
    left, right = (p.T if layout == "a.T @ b" else p), (q.T if layout == "a @ b.T" else q)
    c = gx.param("c", np.zeros((m, n), "float32"))
    exe = gx.compile([], updates={c: left @ right}, backend="native", threads=1)
    out = np.empty((m, n), "float32")
    x, y = (a.T if layout == "a.T @ b" else a), (b.T if layout == "a @ b.T" else b)
    turns = {"native": timed(exe), "numpy": timed(lambda: np.matmul(x, y, out=out))}
    found, _ = alternate(turns, {name: turn(3) for name, turn in turns.items()}, seconds)
    if not np.allclose(c.value, out, rtol=1e-3, atol=1e-3):
        raise gx.GraphcError(f"products: {layout} of {m} x {k} x {n} differ")
    rates = {name: 2e-9 * m * n * k / min(times) for name, times in found.items()}
    faster = ratio(found["numpy"], found["native"])
    return {"m": m, "n": n, "k": k, "layout": layout, **rates, "numpy / native": faster}


def timed(call: Callable[[], Any]) -> Callable[[int], float]:
    """Seconds per call, of so many calls."""

    def turn(calls: int) -> float:
        begin = perf_counter()
        for _ in range(calls):
            call()
        return (perf_counter() - begin) / calls

    return turn


def main(path: Path, seconds: float = 0.5) -> None:
    """Measure all sizes and layouts; write JSON, print a table."""
    rows = [measure(*size, layout, seconds) for size in SIZES for layout in LAYOUTS]
    path.write_text(json.dumps({"machine": machine.facts(), "products": rows}, indent=1) + "\n")
    print(f"{'m x n x k':>18} {'layout':8} {'native':>7} {'numpy':>7} GFLOP/s  numpy/native")
    for r in rows:
        size = f"{r['m']} x {r['n']} x {r['k']}"
        print(f"{size:>18} {r['layout']:8} {r['native']:7.1f} {r['numpy']:7.1f}          "
              f"{r['numpy / native']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
