"""What runs in the process of one contestant: prepare its step, then time calls when asked to.

The parent (process.py) passes one JSON object as argument. The worker answers with a line of JSON
once it is ready, and then each line `CALLS` with a line of JSON; it ends with its input.
A contestant that fails ends the process, with the error on standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from time import perf_counter, process_time, sleep
from typing import Any, TextIO

import numpy as np

from .gpu import on_host
from .workloads import STEPS_COMPARED, Prepared, Step, find

NAP = 0.02  # seconds; Linux brings the time of other threads up to date at ticks of up to 10 ms
AWAKE = 0.25  # of one core: above this share, some thread spins
PATIENCE = 1.0  # seconds
COMPARED = 2**22  # elements of a result


def main(own_import: float) -> None:
    """Serve the job that the argument describes; `own_import` is how long graphc's import took."""
    replies = _private_output()
    prepared, report = prepare(json.loads(sys.argv[1]), own_import)
    replies.write(json.dumps(report) + "\n")
    replies.flush()
    for line in sys.stdin:
        answer = {**turn(prepared, int(line)), "asleep": settle()}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def prepare(job: dict[str, Any], own_import: float = 0.0) -> tuple[Prepared, dict[str, Any]]:
    """Make the step, take the first calls and write their results; what each of that took."""
    workload = find(job["case"])
    imported, _ = _timed(lambda: importlib.import_module(job["needs"]))
    declared, declaration = _timed(workload.build)
    module, _, function = job["make"].partition(":")
    make = getattr(importlib.import_module(module), function)
    made, prepared = _timed(lambda: make(workload, declaration, **job["options"]))
    step = waited(prepared)
    first, found = _timed(step)
    for _ in range(STEPS_COMPARED - 1):
        found = step()
    if job["results"]:
        # a copy of what may lie in the contestant's own memory
        arrays = {k: thinned(on_host(v)) for k, v in {**found, **prepared.state()}.items()}
        np.savez(job["results"], **arrays)
    once = min(_timed(step)[0] for _ in range(3))
    settle()
    return prepared, {
        "import": own_import if job["needs"] == "graphc" else imported,
        "declare": declared, "make": made, "first call": first, "once": once,
        "facts": prepared.facts,
    }  # fmt: skip


def thinned(a: np.ndarray) -> np.ndarray:
    """A large array's elements at equal distances: enough to see that it is wrong."""
    return a if a.size <= COMPARED else a.reshape(-1)[:: -(-a.size // COMPARED)]


def waited(prepared: Prepared) -> Step:
    """A step that is finished when it returns."""
    step, wait = prepared.step, prepared.wait
    if wait is None:
        return step

    def both() -> Mapping[str, Any]:
        found = step()
        wait()
        return found

    return both


def turn(prepared: Prepared, calls: int) -> dict[str, float]:
    """Seconds per step, each call waited for; on a device also "queued", where only the last one
    is, and what the device's own clock says of that. The call before them is not timed.

    It fills the caches, into which the contestant before has put its own arrays, as no training
    loop does, and it wakes the threads.
    """
    step = waited(prepared)
    step()
    begin = perf_counter()
    for _ in range(calls):
        step()
    found = {"seconds": perf_counter() - begin}
    if prepared.wait is not None:
        found |= _queued(prepared, calls)
    return {name: seconds / calls / prepared.steps for name, seconds in found.items()}


def _queued(prepared: Prepared, calls: int) -> dict[str, float]:
    assert prepared.wait is not None
    found: dict[str, float] = {}
    begin = perf_counter()
    stop = prepared.stopwatch() if prepared.stopwatch else None
    for _ in range(calls):
        prepared.step()
    if stop:
        found["device"] = stop()
    prepared.wait()
    return {"queued": perf_counter() - begin, **found}


def settle() -> bool:
    """Wait until the threads of this process sleep; whether they do.

    OpenMP and the BLAS let theirs spin for a while after the last call, in the time of whoever
    comes next.
    """
    end = perf_counter() + PATIENCE
    while perf_counter() < end:
        before = process_time()
        sleep(NAP)
        if process_time() - before < AWAKE * NAP:
            return True
    return False


def _private_output() -> TextIO:
    """The pipe to the parent; what a library prints goes to standard error instead."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = perf_counter()
    found = function()
    return perf_counter() - begin, found
