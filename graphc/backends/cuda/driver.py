"""NVIDIA's driver: whether it is there. Asked first, because it is quick to answer."""

from __future__ import annotations

import ctypes

from graphc.backends.base import Availability

NO_DRIVER = "needs an NVIDIA GPU with its driver, then: python3 -m pip install '.[cuda13]'"


def driver_version() -> int:
    """The newest CUDA that the driver runs: 13000 for 13.0. Raises OSError if there is no driver,
    RuntimeError if it does not answer."""
    version = ctypes.c_int()
    if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
        raise RuntimeError("it does not tell its version")
    return version.value


def without_driver() -> Availability | None:
    """What there is to say of a machine without a driver; None if it has one."""
    try:
        driver_version()
    except (OSError, RuntimeError) as error:
        why = f"no NVIDIA driver: {error}"
        return Availability(False, f"{why}; {NO_DRIVER}", {"missing": why, "install": NO_DRIVER})
    return None
