"""One small program of every form of kernel on a backend, against NumPy: for compute-sanitizer.

    python -m bench.gpu_kernels [BACKEND]     cuda, if nothing is said

The forms are those of tests/programs.py. Ends with status 1 where something failed or differs.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphc as gx
from graphc.resources import checkout
from graphc.tolerances import disagreement

from .gpu import on_host

SIZES = ((5, 7), (33, 260))  # within a warp, and beyond a block


def main(backend: str = "cuda") -> int:
    """Run all; a line each. How many did not give what NumPy gives."""
    root = checkout()
    if root is None:
        raise gx.GraphcError("bench.gpu_kernels needs a checkout, for tests/programs.py")
    sys.path.insert(0, str(root / "tests"))
    programs: Any = importlib.import_module("programs")
    bad = 0
    for rows, columns in SIZES:
        for name, nodes in programs.forms(rows, columns).items():
            found = _outcome(nodes, programs.given(nodes), backend)
            bad += found != "ok"
            print(f"{name} {rows} x {columns}: {found}", flush=True)
    print(f"{bad} failed" if bad else "all forms ran and agree with NumPy")
    return bad


def _outcome(nodes: Sequence[gx.Node], inputs: dict[str, np.ndarray], backend: str) -> str:
    try:
        exe = gx.compile(list(nodes), backend=backend)
        got = [on_host(a) for a in exe(inputs)]
    except Exception:
        traceback.print_exc()
        return "failed"
    expected = gx.compile(list(nodes), backend="numpy")(inputs)
    pairs = enumerate(zip(got, expected, strict=True))
    found = [(i, what) for i, (have, want) in pairs if (what := disagreement(have, want))]
    return "; ".join(f"output {i}: {what}" for i, what in found) or "ok"


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
