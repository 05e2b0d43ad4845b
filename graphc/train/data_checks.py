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
SHOWN = 100  # characters of a wrong argument


def as_array(what: str, values: ArrayLike) -> Array:
    """The values as an array: a view, not a copy, of one."""
    try:
        return np.asarray(values)
    except ValueError:
        raise gx.InputError(
            f"{what} is no array: its rows differ in length; pad or cut them to one length"
        ) from None


def paired(who: str, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """x and y as arrays of the same length, at least 1; views, not copies, of arrays."""
    arrays = as_array(f"{who}: x", x), as_array(f"{who}: y", y)
    check_rows(who, *arrays)
    return arrays


def check_rows(who: str, x: Any, y: Any) -> None:
    """Raise gx.InputError for x and y without rows, or of different lengths."""
    for name, array in (("x", x), ("y", y)):
        if not getattr(array, "ndim", 0):
            raise gx.InputError(f"{who}: {name} has no rows; need an array [rows, ...]")
    if len(x) != len(y):
        raise gx.InputError(f"{who}: sizes differ: x has {len(x)} rows, y {len(y)}")
    if not len(x):
        raise gx.InputError(f"{who}: the data set is empty: x has shape {x.shape}")


def check_finite(what: str, array: Any, of_texts: str = "") -> None:
    """Raise gx.InputError, saying where, for what is no number, NaN or infinite in a host array;
    `of_texts` is the remedy for strings."""
    if not isinstance(array, np.ndarray) or array.dtype.kind in "biu":
        return
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        remedy = of_texts if array.dtype.kind in "OSU" else ""
        raise gx.InputError(f"{what} has dtype {array.dtype}; need real numbers or bools{remedy}")
    for start, block in blocks(array):
        finite = np.isfinite(block)
        if not finite.all():
            at = [int(i) for i in np.argwhere(~finite)[0]]
            place = [start + at[0], *at[1:]]
            raise gx.InputError(f"{what} is {block[tuple(at)]} at {place}; need finite numbers")


def check_labels(who: str, y: Array, classes: int) -> None:
    """Raise gx.InputError unless y [n] holds integers from 0 to classes - 1."""
    check_integer_labels(who, y)
    check_range(who, y, whole(who, "classes", classes, 1))


def check_integer_labels(who: str, y: Array, remedy: str = "") -> None:
    """Raise gx.InputError, ending with `remedy`, unless y is a vector of integers."""
    if y.ndim != 1 or y.dtype.kind not in "biu":
        raise gx.InputError(f"{who}: y is {described(y)}; need integer class labels [n]{remedy}")


def check_range(who: str, labels: Array, classes: int) -> None:
    """Raise gx.InputError unless integer labels [n, ...] are from 0 to classes - 1."""
    for start, block in blocks(labels):
        wrong = (block < 0) | (block >= classes)
        if wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), block.shape)
            place = [start + int(at[0]), *map(int, at[1:])]
            raise gx.InputError(
                f"{who}: label {block[at]} is out of range, at y{place}; with {classes} classes "
                f"need labels 0 to {classes - 1}"
            )


def check_integers_fit(who: str, y: Array) -> None:
    """Raise gx.InputError for integers of more than the 32 bits that targets have."""
    ends = np.iinfo(np.int32)
    for start, block in blocks(y):
        wrong = (block < ends.min) | (block > ends.max)
        if wrong.any():
            at = start + int(np.argwhere(wrong)[0][0])
            raise gx.InputError(
                f"{who}: y[{at}] holds {block[wrong][0]}, out of range; need integers from "
                f"{ends.min} to {ends.max}, or floats: y.astype('float32')"
            )


def check_shares(who: str, y: Array, classes: int | None = None) -> None:
    """Raise gx.InputError for targets outside of [0, 1], or, where there are classes, for rows of
    them whose sum is not 1."""
    for start, block in blocks(y):
        wrong = (block < 0) | (block > 1)
        if wrong.any():
            raise gx.InputError(
                f"{who}: y holds {float(block[wrong][0]):g}, out of range; need values 0 to 1"
            )
        if classes is None:
            continue
        sums = block.sum(axis=-1, dtype=np.float64)
        off = abs(sums - 1) > 1e-2 + classes * _epsilon(y)
        if off.any():
            at = start + int(np.argwhere(off)[0][0])
            raise gx.InputError(
                f"{who}: y[{at}] is a row with the sum {sums[off][0]:.6g}; need rows of {classes} "
                f"probabilities with the sum 1, or integer labels 0 to {classes - 1}"
            )


def blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """Consecutive rows, about a MiB each, with the number of the first."""
    rows = max(1, BLOCK_NBYTES * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def described(array: Any) -> str:
    """For instance float32[100,64]."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def shown(value: Any) -> str:
    """A wrong argument in a message: of an array its dtype and shape, of others not too much."""
    if isinstance(value, np.ndarray):
        return described(value)
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _epsilon(array: Array) -> float:
    return 2.0 ** -np.finfo(array.dtype).nmant if array.dtype.kind == "f" else 2.0**-7


def whole(
    who: str, name: str, value: object, low: int, high: int | None = None, remedy: str = ""
) -> int:
    """`value` as an int from low to high; anything else is a gx.InputError, which ends with
    `remedy`."""
    try:
        number = operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < low or number > (high or number):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise gx.InputError(f"{who}: {name} is {shown(value)}; need an integer {allowed}{remedy}")
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
    """`value` as a finite float from low (or above it) to high; else a gx.InputError."""
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
