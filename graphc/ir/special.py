"""Where the special functions of an array module live: SciPy's for NumPy, CuPy's for CuPy."""

from __future__ import annotations

import importlib
from typing import Any


def special(xp: Any) -> Any:
    """The module with `erf`, `erfc` for arrays of `xp`. A tracer (`xp.is_tracer`) has its own."""
    if getattr(xp, "is_tracer", False):
        return xp
    home = "scipy.special" if xp.__name__ == "numpy" else "cupyx.scipy.special"
    return importlib.import_module(home)
