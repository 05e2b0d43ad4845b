"""CuPy: the step written by hand, as in NumPy; each operation is a kernel, cuBLAS multiplies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import cupy

from .gpu import in_turn, input_sets, stopwatch, synchronize
from .workloads import Job, Prepared, Workload


def make(workload: Workload, job: Job) -> Prepared:
    """The workload's step in CuPy, over input sets on the GPU that take turns."""
    os.environ["CUPY_TF32"] = str(int(workload.precision == "tf32"))  # read at the first product
    params = {p.name: cupy.asarray(p.value) for p in job.updates}
    placed = [
        {name: cupy.asarray(a) for name, a in given.items()}
        for given in input_sets(job.inputs, rotate=True)
    ]
    step, sets = workload.reference(placed[0], params, cupy), in_turn(placed)

    def call() -> Mapping[str, Any]:
        return step(next(sets))

    return Prepared(call, lambda: params, {}, synchronize, stopwatch)
