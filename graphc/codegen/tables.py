"""What a program's text refers to by number: buffers, symbolic sizes, and constants made of sizes.

A dialect prints `at[3]` or `call->sizes[0]`; these tables say what that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.codegen.expression import STORAGE, c_type, joined, literal, suffix
from graphc.codegen.shape import is_symbolic
from graphc.errors import BackendUnavailable
from graphc.ir.dim import Extent
from graphc.ir.layout import contiguous_strides
from graphc.ir.node import Node
from graphc.ir.tensor_type import DType
from graphc.ops.sources import Constant
from graphc.schedule.records import Buffer, Kernel, Program, Region, Store, buffer_nbytes

STREAM_FROM = 1 << 25  # bytes that a kernel moves

Slot = Buffer | int
"""What an entry of a launch's `at` is the address of: a buffer, or a shared scratch buffer by
number."""


@dataclass
class Slots:
    """The entries of one launch's `at`, and the names that its functions have made up."""

    numbers: dict[Slot, int] = field(default_factory=dict[Slot, int])
    names: set[str] = field(default_factory=set[str])

    def number(self, slot: Slot) -> int:
        """The place of a buffer in `at`."""
        return self.numbers.setdefault(slot, len(self.numbers))


@dataclass
class Tables:
    """Filled while kernels are printed.

    `draws`: numbers of the random draws, by identity; `sizes`: values of the symbolic dimensions.
    """

    program: Program
    draws: Mapping[int, int]
    sizes: Mapping[str, int]
    names: Mapping[Node, str] = field(init=False)
    partials: list[int] = field(default_factory=list[int])  # bytes of shared scratch buffers
    symbols: dict[str, int] = field(init=False)
    numbers: dict[Node, int] = field(default_factory=dict[Node, int])
    reductions: dict[str, str] = field(default_factory=dict[str, str])  # declarations, by name
    row_nbytes: int = 0  # scratch that one part needs for rows
    products: dict[str, int] = field(default_factory=dict[str, int])  # largest inner size, by type

    def __post_init__(self) -> None:
        self.names = self.program.schedule.graph.names
        found: set[str] = set()
        for kernel in self.program.kernels:
            for value in _named_sizes(kernel):
                found |= self._checked(kernel, value)
        self.symbols = {symbol: i for i, symbol in enumerate(sorted(found))}

    def _checked(self, kernel: Kernel, value: Extent) -> set[str]:
        """The symbols of a size, which must have the value that they give it."""
        symbols = value.dim.symbols()
        if not symbols <= set(self.sizes) or value.dim.bind(self.sizes) != value:
            raise BackendUnavailable(
                f"{kernel.name}: the size {int(value)} is not {value.dim} for {dict(self.sizes)}; "
                "this is a defect of graphc: please report the graph"
            )
        return symbols

    def streamed(self, kernel: Kernel) -> list[Store]:
        """The stores of an elementwise kernel that go past the caches: results, where it moves more
        than a cache holds. Not of symbolic sizes, as the text would not serve all of them. Row
        kernels, which compute more for each byte, lose by it."""
        if is_symbolic(kernel.size) or kernel.nbytes < STREAM_FROM:
            return []
        whole = contiguous_strides(kernel.space)
        return [
            s for s in kernel.stores
            if self.program.places[s.access.base].region is Region.RESULT
            and s.access.strides == whole and buffer_nbytes(s.access.base) >= STREAM_FROM // 16
        ]  # fmt: skip

    def partial(self, nbytes: int) -> int:
        """The number of a new scratch buffer that all parts of a launch share."""
        self.partials.append(nbytes)
        return len(self.partials) - 1

    def plain_number(self, node: Node) -> str:
        """A constant of one element as C, or "" where it is made of sizes: that is an argument."""
        value = value_of(node)
        sized = any(isinstance(v, Constant) and v.sized for _, v in node.attrs)
        return "" if sized and float(value) == value else literal(value, node.dtype)

    def number(self, node: Node) -> int:
        """The place of a constant made of sizes among all of them."""
        return self.numbers.setdefault(node, len(self.numbers))

    def reduction(self, node: Node) -> str:
        """The name by which the vectoriser knows a reduction."""
        combine = joined(node.op.c, node.dtype, "omp_out", "omp_in")
        return self._declared(node, node.dtype, combine)

    def search(self, node: Node) -> str:
        """The same of a reduction that gives an index: its best value."""
        dtype = node.inputs[0].dtype
        wins = joined(node.op.c, dtype, "omp_in", "omp_out")
        return self._declared(node, dtype, f"{wins} ? omp_in : omp_out")

    def _declared(self, node: Node, dtype: DType, combine: str) -> str:
        name = f"{node.op.name}_{suffix(dtype)}"
        self.reductions[name] = (
            f"#pragma omp declare reduction({name} : {c_type(dtype)} : omp_out = {combine}) "
            f"initializer(omp_priv = {start_of(node)})"
        )
        return name


def value_of(node: Node) -> Any:
    """The number that a constant of one element is; of a 16-bit float its bits."""
    assert node.op.eval is not None
    return stored(np.asarray(node.op.eval(np, **dict(node.attrs))))


def stored(value: np.ndarray) -> Any:
    """One element as the text has it: a number, or the bits of a 16-bit float."""
    return (value.view(np.uint16) if value.dtype.name in STORAGE else value).item()


def start_of(node: Node) -> str:
    """What a reduction starts from, in C; one that gives an index, its best value."""
    if node.op.identity is not None:
        return literal(node.op.identity, node.dtype)
    dtype = node.inputs[0].dtype
    return node.op.start.format(t=suffix(dtype), T=c_type(dtype))


def _named_sizes(kernel: Kernel) -> Iterable[Extent]:
    """The sizes of the loops and accesses of a kernel that generated code may call by name."""
    sizes: list[int] = [*kernel.space]
    for access in (*kernel.reads, *kernel.writes):
        sizes += (access.offset, *access.strides)
    for piece in kernel.pieces:
        sizes += piece.shape
    if kernel.contraction is not None:
        c = kernel.contraction
        sizes += (*c.batch, c.m, c.n, c.k)
    return (value for value in sizes if isinstance(value, Extent))
