"""Kernels of one's own on the emulated device: checked, run in all orders, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.backends.cuda.emulated_memory import EmulatedBlock, Memory
from graphc.backends.cuda.emulated_module import ORDERS, WORDS, Kernel, Misaligned, Module
from graphc.codegen.sources import INCLUDE, splice
from graphc.errors import EmulatorError

ALL = "all"
CAPACITY = 1 << 40  # bytes: the machine's own limit comes first
VECTOR_NBYTES = 16
CHARS = {"b": "bB?", "B": "bB?"}  # what a pointer to bytes may lead to
KINDS = {"l": "q", "L": "Q"}  # letters of one size, on machines where long has 8 bytes


def run_kernel(
    text: str,
    name: str,
    blocks: int,
    threads: int,
    *arguments: np.ndarray | float | None,
    order: str = ALL,
    seed: int = 0,
    seconds: float = 60,
) -> None:
    """Run a kernel of a CUDA C text on the CPU, and find what it does wrong.

    The kernel is declared `extern "C" __global__ void name(...)`. Arrays are passed as pointers to
    what they hold, None as a null pointer: arrays are copied to memory that ends where no access is
    allowed, and back when the kernel has ended, but for those it takes as const. Files of
    `kernels/` can be included. The launch has one dimension: `blocks` times `threads`.

    `order` of the threads and blocks: "all", or one of "ascending", "descending" and "random", the
    latter by `seed`. With "all" the kernel runs in each of them, and what they leave must be equal
    in every bit. `seconds`: of the processor's time, after which a run is ended.

    Raises EmulatorError with block, thread and line for what went wrong, or where the text does not
    compile; BackendUnavailable without a C++ compiler. kernels/emulator.h lists what is found and
    what cannot be. Where something is wrong, no array has changed.

        double = '''
        #include "scalar.h"
        extern "C" __global__ void twice(float *x, int64_t n)
        {
            int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n)
                x[i] *= 2;
        }
        '''
        x = np.arange(1000, dtype=np.float32)
        run_kernel(double, "twice", 4, 256, x, x.size)
    """
    if order not in (ALL, *ORDERS):
        raise EmulatorError(f"order {order!r}: it is one of {', '.join((ALL, *ORDERS))}")
    if not seconds > 0:
        raise EmulatorError(f"seconds {seconds!r}: need more than 0")
    kernel = Module(splice(_keep_lines(text)))(name)
    given = _checked(kernel, arguments)
    orders = ORDERS if order == ALL else (order,)
    results = [_run(kernel, blocks, threads, given, o, seed, seconds) for o in orders]
    for other, which in zip(results[1:], orders[1:], strict=True):
        _compare(kernel, results[0], other, f"{orders[0]} and {which}")
    for i, values in results[0].items():
        if kernel.constants[i] != "c":
            given[i][...] = values


def _keep_lines(text: str) -> str:
    """A text whose lines have their numbers also after what they include has been put in."""
    lines = text.splitlines(keepends=True)
    return "".join(
        f"{line}#line {i + 2}\n" if INCLUDE.match(line) else line for i, line in enumerate(lines)
    )


# -- arguments


def _checked(kernel: Kernel, arguments: Sequence[Any]) -> list[Any]:
    """The arguments, with NumPy's numbers as Python's; EmulatorError where one does not fit."""
    kernel.count(arguments)
    return [_fitting(kernel, i, value) for i, value in enumerate(arguments)]


def _fitting(kernel: Kernel, number: int, value: Any) -> Any:
    def refuse(what: str) -> EmulatorError:
        words = kernel.declaration(number)
        return EmulatorError(
            f"argument {number + 1} of kernel {kernel.name} is {what}, but {words}"
        )

    if kernel.letters[number] != "P":
        if isinstance(value, np.generic):
            value = value.item()
        if not isinstance(value, bool | int | float):
            raise refuse(_kind(value))
        if isinstance(value, float) and kernel.letters[number] not in "fd":
            raise refuse(repr(value))
        return value
    if value is None:
        return None
    if not isinstance(value, np.ndarray):
        raise refuse(_kind(value))
    if not _fits(value.dtype, kernel.pointees[number]):
        raise refuse(f"an array of {value.dtype.name}")
    if kernel.constants[number] != "c" and not value.flags.writeable:
        raise refuse("an array that is read-only")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    return f"{value!r}, a number" if isinstance(value, int | float) else f"{type(value).__name__}"


def _fits(dtype: np.dtype[Any], pointee: str) -> bool:
    """Whether a pointer to `pointee` may lead to an array; types of the text's own to any."""
    if pointee not in WORDS:
        return not dtype.hasobject
    letters = CHARS.get(pointee, KINDS.get(pointee, pointee))
    return any(dtype == np.dtype(letter) for letter in letters)


# -- runs


def _run(
    kernel: Kernel,
    blocks: int,
    threads: int,
    given: Sequence[Any],
    order: str,
    seed: int,
    seconds: float,
) -> dict[int, np.ndarray]:
    """What the kernel leaves in the arrays, by their positions.

    They end exactly where no access is allowed. A kernel that reads vectors wants starts that are
    multiples of 16 bytes, as a GPU has them: it runs again with such ones.
    """
    try:
        return _run_aligned(kernel, blocks, threads, given, order, seed, seconds, 1)
    except Misaligned:
        return _run_aligned(kernel, blocks, threads, given, order, seed, seconds, VECTOR_NBYTES)


def _run_aligned(
    kernel: Kernel,
    blocks: int,
    threads: int,
    given: Sequence[Any],
    order: str,
    seed: int,
    seconds: float,
    alignment: int,
) -> dict[int, np.ndarray]:
    memory = Memory(CAPACITY, alignment)
    placed: dict[int, EmulatedBlock] = {}
    for i, value in enumerate(given):
        if isinstance(value, np.ndarray):
            what = kernel.parameters[i], value.dtype.itemsize
            placed[i] = memory.allocate(value.nbytes, what)
            placed[i].array()[...] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    values = [placed[i].address if i in placed else v or 0 for i, v in enumerate(given)]
    kernel.run(blocks, threads, kernel.cells(values), memory, order, seed, seconds)
    return {
        i: block.array().view(given[i].dtype).reshape(given[i].shape) for i, block in placed.items()
    }


def _compare(
    kernel: Kernel, one: dict[int, np.ndarray], other: dict[int, np.ndarray], orders: str
) -> None:
    """EmulatorError unless two runs have left the same bits."""
    for i, values in one.items():
        itemsize = values.dtype.itemsize
        bits = [np.frombuffer(v.tobytes(), np.uint8) for v in (values, other[i])]
        differ = np.flatnonzero(bits[0] != bits[1])
        if differ.size:
            at = int(differ[0]) // itemsize
            raise EmulatorError(
                f"kernel {kernel.name}: element {at} of {kernel.parameters[i]} is "
                f"{values.reshape(-1)[at]} or {other[i].reshape(-1)[at]}, as threads run in the "
                f"orders {orders}: a barrier is missing, or threads write to the same place"
            )
