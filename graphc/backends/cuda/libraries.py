"""Where CUDA's own libraries come from, and what stands in for one of them without a GPU."""

from __future__ import annotations

import ctypes

from graphc.backends.native_backend import load_objects
from graphc.codegen.sources import read
from graphc.errors import BackendUnavailable


def load_library(name: str) -> ctypes.CDLL:
    """One of CUDA's own libraries ("nvrtc", "cublasLt"), wherever it is installed, with those that
    it needs itself. Raises BackendUnavailable."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib(name).abs_path)
    except (ImportError, OSError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise BackendUnavailable(f"CUDA's library {name} cannot be loaded: {said}") from error


def load_stand_in() -> ctypes.CDLL:
    """A library with the interface of cuBLASLt that computes on the CPU."""
    return load_objects({"cublaslt": read("cublaslt_stand_in.c")})["cublaslt"]
