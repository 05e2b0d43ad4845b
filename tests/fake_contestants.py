"""Contestants for test_bench.py, each with a habit; they run in a process of their own."""

import importlib
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphc_bench import workloads
from graphc_bench.contestants import by_hand
from graphc_bench.workloads import BY_NAME, Job, Prepared, Workload


def talks(workload: Workload, job: Job) -> Prepared:
    """As by hand, but it prints where the answers of the process go."""
    prepared = by_hand(workload, job)

    def step() -> Mapping[str, Any]:
        os.write(1, b"a library has something to say\n")
        return prepared.step()

    return prepared._replace(step=step)


def fails(workload: Workload, job: Job) -> Prepared:
    raise RuntimeError(f"cannot do {workload.name} with {len(job.inputs)} inputs")


def is_wrong(workload: Workload, job: Job) -> Prepared:
    prepared = by_hand(workload, job)
    return prepared._replace(step=lambda: {"loss": prepared.step()["loss"] * 1.01})


def forgets_its_parameters(workload: Workload, job: Job) -> Prepared:
    return by_hand(workload, job)._replace(state=dict)


def dies_midway(workload: Workload, job: Job, *, status: int) -> Prepared:
    """By hand for ten calls; then its process is gone, with or without a word."""
    prepared = by_hand(workload, job)
    calls = iter(range(10))

    def step() -> Mapping[str, Any]:
        if next(calls, None) is None:
            if status:
                os._exit(status)
            raise MemoryError("nothing left")
        return prepared.step()

    return prepared._replace(step=step)


def never_answers(workload: Workload, job: Job) -> Prepared:
    time.sleep(60)
    return by_hand(workload, job)


def keeps_spinning(workload: Workload, job: Job) -> Prepared:
    """Like a thread pool that never goes to sleep."""

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()
    return by_hand(workload, job)


def keeps_files(workload: Workload, job: Job) -> Prepared:
    """Slow to make, until the folder that it is told holds what it needs."""
    folder = Path(os.environ["FAKE_CACHE"])
    if not any(folder.iterdir()):
        time.sleep(0.3)
        (folder / "compiled").write_text("done")
    return by_hand(workload, job)


def every_kind(workload: Workload, job: Job, *, make: str, options: dict[str, Any]) -> Prepared:
    """What another `make` gives for the workload, and besides for small ones of all other kinds."""
    module, _, function = make.partition(":")
    maker = getattr(importlib.import_module(module), function)
    workloads.ELEMENTS = 1000
    found: dict[str, Any] = {}
    for other in ("elementwise", "elementwise-gradient", "cross-entropy"):
        prepared = maker(BY_NAME[other], BY_NAME[other].build(), **options)
        found |= {f"{other} {k}": v for k, v in prepared.step().items()}
    prepared = maker(workload, job, **options)
    return prepared._replace(step=lambda: {**prepared.step(), **found})


def on_a_device(workload: Workload, job: Job, *, nap: float = 0.0) -> Prepared:
    """By hand, but results are there only once they have been waited for."""
    prepared, pending = by_hand(workload, job), list[dict[str, Any]]()

    def step() -> Mapping[str, Any]:
        found = dict[str, Any]()
        pending.append(found)
        return found

    def wait() -> None:
        for found in pending:
            found.update(prepared.step())
            time.sleep(nap)
        pending.clear()

    return prepared._replace(step=step, wait=wait, stopwatch=lambda: lambda: 0.5)
