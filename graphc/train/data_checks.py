"""What data and settings must be before training starts: each refusal names the argument and what
is allowed."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import graphc as gx

Array = NDArray[Any]
BLOCK_NBYTES = 1 << 20  # data are read in blocks: a memory map is never in memory as a whole


def check_data(x: ArrayLike, y: ArrayLike, classes: int | None = None) -> None:
    """Raise gx.InputError unless x [n, ...] and y [n, ...] can be trained on.

    Numbers only, no NaN or infinity, the same n >= 1. With `classes`: y holds integers from 0 to
    classes - 1, or one row of `classes` probabilities per sample. Reads memory maps in blocks.
    """
    x, y = paired("check_data", x, y)
    for name, array in (("x", x), ("y", y)):
        _check_finite(name, array)
    if classes is None:
        return
    if y.ndim == 2 and y.dtype.kind not in "biu":
        _check_rows(y, whole("check_data", "classes", classes, 1))
    else:
        check_labels("check_data", y, classes)


def paired(who: str, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """x and y as arrays of the same length, at least 1; views, not copies, of arrays."""
    arrays = np.asarray(x), np.asarray(y)
    for name, array in zip("xy", arrays, strict=True):
        if array.ndim == 0:
            raise gx.InputError(f"{who}: {name} is a single value; need one row per sample")
    n, labels = (len(array) for array in arrays)
    if n != labels:
        raise gx.InputError(f"{who}: sizes differ: x has {n} samples and y has {labels}")
    if n == 0:
        raise gx.InputError(f"{who}: x and y are empty; need at least 1 sample")
    return arrays


def check_labels(who: str, y: Array, classes: int) -> None:
    """Raise gx.InputError unless y [n] holds integers from 0 to classes - 1."""
    classes = whole(who, "classes", classes, 1)
    check_integer_labels(who, y)
    for start, block in blocks(y):
        low, high = block.min(), block.max()
        if low < 0 or high >= classes:
            at = int(np.argmax((block < 0) | (block >= classes)))
            raise gx.InputError(
                f"{who}: y[{start + at}] is {block[at]}; "
                f"labels of classes={classes} are integers from 0 to {classes - 1}"
            )


def check_integer_labels(who: str, y: Array, remedy: str = "") -> None:
    """Raise gx.InputError, ending with `remedy`, unless y is a vector of integers."""
    if y.ndim != 1 or y.dtype.kind not in "biu":
        raise gx.InputError(f"{who}: y is {described(y)}; need integer class labels [n]{remedy}")


def blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """Consecutive rows, about a MiB each, with the number of the first."""
    rows = max(1, BLOCK_NBYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def described(array: Array) -> str:
    """For instance float32[100,64]."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind in "biu":
        return
    if array.dtype.kind not in "fV" or array.dtype.fields is not None:  # V: bfloat16
        raise gx.InputError(f"check_data: {name} is {described(array)}; need real numbers")
    for start, block in blocks(array):
        bad = ~np.isfinite(block)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), block.shape)
            place = ", ".join(str(i) for i in (start + at[0], *at[1:]))
            raise gx.InputError(
                f"check_data: {name}[{place}] is {block[at]}; "
                "every value must be finite: drop or fill such samples first"
            )


def _check_rows(y: Array, classes: int) -> None:
    if y.shape[1] != classes:
        raise gx.InputError(
            f"check_data: y is {described(y)}; with classes={classes} need integer labels [n] "
            f"or rows of probabilities [n, {classes}]"
        )
    for start, block in blocks(y):
        sums = block.sum(axis=1, dtype=np.float64)
        bad = (block < 0).any(axis=1) | (abs(sums - 1) > 1e-2 + classes * _epsilon(y))
        if bad.any():
            at = start + int(np.argmax(bad))
            raise gx.InputError(
                f"check_data: y[{at}] is no row of probabilities: "
                f"need values of at least 0 with the sum 1, found the sum {sums[at - start]:.6g}"
            )


def _epsilon(array: Array) -> float:
    return 2.0 ** -np.finfo(array.dtype).nmant if array.dtype.kind == "f" else 2.0**-7


def whole(who: str, name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int from low to high; anything else is an gx.InputError."""
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or number > (high or number):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise gx.InputError(f"{who}: {name} is {value!r}; need an integer {allowed}")
    return number


def real(
    who: str,
    name: str,
    value: object,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    above: bool = False,
) -> float:
    """`value` as a finite float from low (or above it) to high; else an gx.InputError."""
    number = float(value) if isinstance(value, int | float | np.number) else np.nan
    inside = np.isfinite(number) and low <= number <= high and not (above and number == low)
    if not inside or isinstance(value, bool):
        lower = "" if low == -np.inf else f" {'above' if above else 'of at least'} {low:g}"
        upper = "" if high == np.inf else f"{' and' if lower else ''} at most {high:g}"
        raise gx.InputError(f"{who}: {name} is {value!r}; need a finite number{lower}{upper}")
    return number


def flag(who: str, name: str, value: object) -> bool:
    """`value`, which must be True or False: a text such as "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise gx.InputError(f"{who}: {name} is {value!r}; need True or False")
    return bool(value)


def one_of(who: str, name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise gx.InputError unless `value` is one of the allowed names."""
    if value not in allowed:
        raise gx.InputError(f"{who}: {name} is {value!r}; need {listed(map(repr, allowed))}")


def listed(names: Iterable[str]) -> str:
    """For instance a, b or c."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
