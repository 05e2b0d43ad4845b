"""The CUDA dialect: a program as one CUDA C text, and the launches that run it.

Each kernel of the schedule becomes one function or a few. What a thread does never depends on how
many threads there are, and no two threads add to one float, so that results are bitwise the same in
every run.

    elementwise, join     threads share the points, vectors of them at a time    cuda_simple.py
    row, full             groups of threads share rows; long ones by chunks      cuda_rows.py
    column                tiles of columns; many rows by chunks                  cuda_columns.py
    contraction           cuBLASLt; integers by tiles                            cuda_products.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphc.codegen.cuda_columns import print_columns
from graphc.codegen.cuda_epilogues import find_choices
from graphc.codegen.cuda_function import CudaPrinted
from graphc.codegen.cuda_products import print_product
from graphc.codegen.cuda_rows import print_rows
from graphc.codegen.cuda_simple import print_elementwise, print_join
from graphc.codegen.function import nameless
from graphc.codegen.launches import Address, Choice, KernelLaunch, Launch, ProductLaunch
from graphc.codegen.shape import arrange
from graphc.codegen.tables import Tables
from graphc.schedule.records import Kernel, Program

ALIGNMENT = 256  # bytes, of everything in scratch


@dataclass(frozen=True)
class CudaProgram:
    """The text, with includes to be spliced, and what to do with it."""

    text: str
    kernel_sources: tuple[str, ...]
    launches: tuple[Launch, ...]
    partials: tuple[int, ...]  # bytes of the scratch buffers
    choices: tuple[Choice, ...] = ()


def print_program(
    program: Program, draws: Mapping[int, int], sizes: Mapping[str, int], precision: str = "float32"
) -> CudaProgram:
    """Print a program. `draws`: numbers of the random draws, by identity; `sizes`: the values of
    symbolic dimensions; `precision`: how float32 matrices are multiplied.

    Kernels that differ in their buffers only are one function.
    """
    tables = Tables(program, draws, sizes)
    known: dict[str, str] = {}  # the text without names of its own -> the function that does it
    texts: list[str] = []
    sources: list[str] = []
    launches: list[Launch] = []
    scratch = _Scratch()
    for number, kernel in enumerate(program.kernels):
        printed = _print(tables, kernel, number, precision)
        renamed: dict[str, str] = {}
        source: list[str] = [printed.comment] if printed.comment else []
        for name, text in printed.functions:
            first = known.setdefault(nameless(text, printed.slots.names, kernel.name), name)
            if first == name:
                texts.append(text)
            else:
                text = f"/* runs as {first}, with other buffers */\n{text}"
            renamed[name] = first
            source.append(text)
        sources.append("\n\n".join(source))
        place = scratch.places(tables.partials)
        for launch in printed.launches:
            moved = scratch.moved(launch, place)
            if isinstance(moved, KernelLaunch):
                moved = replace(moved, function=renamed[moved.function])
            launches.append(moved)
    body = "\n\n".join(["\n".join(tables.reductions.values()), *texts])
    includes = ["device.cuh"]
    includes += ["random.h"] if "gx_draw_" in body else []
    includes += ["product.cuh"] if "gx_product_tile" in body else []
    head = "\n".join(f'#include "{name}"' for name in includes)
    return CudaProgram(
        f"{head}\n\n{body.strip()}\n", tuple(sources), tuple(launches), scratch.partials,
        find_choices(program, launches),
    )  # fmt: skip


@dataclass
class _Scratch:
    """One scratch buffer for all kernels: what one leaves there no other reads."""

    nbytes: int = 0
    _seen: int = 0

    def places(self, partials: Sequence[int]) -> Mapping[int, int]:
        """Where those lie that the latest kernel asked for."""
        found: dict[int, int] = {}
        end = 0
        for number in range(self._seen, len(partials)):
            found[number] = end
            end += -(-partials[number] // ALIGNMENT) * ALIGNMENT
        self._seen, self.nbytes = len(partials), max(self.nbytes, end)
        return found

    def moved(self, launch: Launch, place: Mapping[int, int]) -> Launch:
        """The launch with its scratch at those places."""

        def there(address: Any) -> Any:
            if isinstance(address, Address) and isinstance(address.slot, int):
                return Address(0, place[address.slot] + address.offset)
            return address

        if isinstance(launch, KernelLaunch):
            return replace(launch, arguments=tuple(map(there, launch.arguments)))
        if isinstance(launch, ProductLaunch):
            return replace(launch, a=there(launch.a), b=there(launch.b), c=there(launch.c))
        return launch

    @property
    def partials(self) -> tuple[int, ...]:
        """The scratch buffers of the program."""
        return (self.nbytes,) if self.nbytes else ()


def _print(tables: Tables, kernel: Kernel, number: int, precision: str) -> CudaPrinted:
    if kernel.pieces:
        return print_join(tables, kernel, number)
    if kernel.contraction is not None:
        return print_product(tables, kernel, number, precision)
    if kernel.form == "elementwise":
        return print_elementwise(tables, kernel, number)
    lead, inner, lane = arrange(kernel)
    if lane is None:
        return print_rows(tables, kernel, lead, inner, number)
    return print_columns(tables, kernel, lead, inner, lane, number)
