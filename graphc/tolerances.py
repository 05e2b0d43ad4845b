"""How far two values may lie apart and still count as equal: one place, by dtype."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class Tolerance(NamedTuple):
    """Two values agree if they differ by at most this share of the largest one beside them."""

    relative: float  # of one op against a reference in the same precision
    accumulated: float  # of a whole graph, whose ops may be regrouped


TOLERANCES = {
    # of 16-bit floats one and four units in the last place: they are computed in float32
    np.dtype("float16"): Tolerance(1e-3, 4e-3),
    np.dtype(ml_dtypes.bfloat16): Tolerance(8e-3, 3.2e-2),
    np.dtype("float32"): Tolerance(2e-6, 2e-4),
    np.dtype("float64"): Tolerance(4e-15, 1e-10),
}


def disagreement(actual: Any, expected: Any, *, exact: bool = False) -> str:
    """In what two arrays differ, or "" where they agree.

    Floats agree within the dtype's `accumulated` tolerance of the largest finite value, NaN and inf
    only with themselves; integers, bools, and everything if `exact`, must be equal.
    """
    a, b = np.asarray(actual), np.asarray(expected)
    if a.dtype != b.dtype:
        return f"dtype {a.dtype}, expected {b.dtype}"
    if a.shape != b.shape:
        return f"shape {a.shape}, expected {b.shape}"
    if exact or a.dtype not in TOLERANCES:
        return "" if np.array_equal(a, b, equal_nan=a.dtype in TOLERANCES) else f"{a} is not {b}"
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return f"NaN or inf differ: {a}, expected {b}"
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return f"{a} is not {b}"
    limit = TOLERANCES[a.dtype].accumulated
    if a.dtype.itemsize < 4:  # differences and the bound of them, not rounded again
        a, b = a.astype("float32"), b.astype("float32")
    scale = max(float(np.abs(b[finite]).max(initial=0)), 1e-3)
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0)) / scale
    return f"off by {worst:.2e} of the largest value (limit {limit:.0e})" if worst > limit else ""
