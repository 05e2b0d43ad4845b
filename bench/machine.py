"""The facts without which a time means nothing: processor, cores, versions, threads, revision."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import graphc as gx

from .process import fresh, last_line

THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

PEAKS = """
import json
from dataclasses import asdict
from graphc.backends.peaks import measure_peaks
print(json.dumps(asdict(measure_peaks())))
"""

GPU = """
import json
from graphc.resources import load_bench
load_bench()
from graphc_bench.gpu import limits
print(json.dumps(limits()))
"""


def facts() -> dict[str, Any]:
    """What a reader needs to compare a result with another."""
    return {
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas(),
        "thread settings": {k: os.environ[k] for k in THREAD_SETTINGS if k in os.environ},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "revision": revision(),
    }


def peaks() -> dict[str, float]:
    """The fields of graphc.backends.peaks.Peaks, measured in a process of its own."""
    return json.loads(fresh(PEAKS))


def gpu_limits() -> dict[str, Any]:
    """What gpu.limits() says, measured in a process of its own; {} if that fails."""
    try:
        return json.loads(fresh(GPU))
    except gx.GraphcError as error:
        print(f"bench: the limits of the GPU are not known: {last_line(str(error))}")
        return {}


def processor() -> str:
    """The processor's own name for itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def blas() -> str:
    """The BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    found = config["Build Dependencies"]["blas"]
    return f"{found['name']} {found['version']}"


def revision() -> str:
    """The git revision of the checkout, marked where files differ from it; "" in a wheel."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return done.stdout.strip()
