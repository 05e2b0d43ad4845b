"""What a program for a GPU does, launch by launch: plain data, which a real device and an emulated
one read alike.

An address is a buffer of the program (or a scratch buffer, by number) and an offset in bytes;
where buffers lie is the runner's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.tables import Slot


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a buffer, `offset` bytes from its start."""

    slot: Slot
    offset: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """The address of what random draws depend on: uint32 [seed low, high, step low, high]."""


KernelArgument = Address | State | int | float
"""A pointer, an int64 (a size), or a double (a constant made of sizes): 8 bytes each."""


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """A generated function on `blocks` blocks of `threads` threads.

    `per_multiprocessor`: where blocks share the work in strides, so many for each multiprocessor
    are enough; 0 where every one of `blocks` is needed. `kernel`: the number of the kernel that it
    belongs to.
    """

    function: str
    arguments: tuple[KernelArgument, ...]
    blocks: int
    threads: int
    kernel: int
    per_multiprocessor: int = 0


@dataclass(frozen=True, slots=True)
class Product:
    """c = alpha op(a) @ op(b) + beta c, all row-major: op(a) [m, k], op(b) [k, n], c [m, n].

    A transposed operand is stored as [k, m] (or [n, k]). `a_row`: elements between the stored rows
    of a; `a_step`: between the matrices of a stack of `batch` (0 repeats one). `dtype` is that of a
    and b, `result` that of c. `epilogue`: what is done to c before it is stored, "" or one of
    EPILOGUES; with BIAS in its name, a vector [n] of c's dtype is added to each row. `precision`:
    how float32 is multiplied, "float32", "tf32" or "bf16".
    """

    m: int
    n: int
    k: int
    a_row: int
    b_row: int
    c_row: int
    dtype: str
    result: str
    a_transposed: bool = False
    b_transposed: bool = False
    batch: int = 1
    a_step: int = 0
    b_step: int = 0
    c_step: int = 0
    alpha: float = 1.0
    beta: float = 0.0
    epilogue: str = ""
    precision: str = "float32"


EPILOGUES = ("BIAS", "RELU", "RELU_BIAS")  # in the words of cuBLASLt


@dataclass(frozen=True, slots=True)
class ProductLaunch:
    """A matrix product by the library."""

    product: Product
    a: Address
    b: Address
    c: Address
    kernel: int
    bias: Address | None = None


@dataclass(frozen=True, slots=True)
class FillLaunch:
    """`nbytes` zero bytes."""

    to: Address
    nbytes: int
    kernel: int


Launch = KernelLaunch | ProductLaunch | FillLaunch


@dataclass(frozen=True, slots=True)
class Choice:
    """The launches `first` and the one after it, which finishes its product, may be replaced by one
    product with an epilogue. Which is faster depends on the device: it is measured, not guessed."""

    first: int
    instead: ProductLaunch
