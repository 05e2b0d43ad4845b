"""The host dialect: a program as one C translation unit of launches (see kernels/program.h).

Each kernel is a function that does one part of its work, so that threads share it: a run of the
outermost loop, of chunks of a long reduction, or of the rows or columns of a product. How work is
cut never depends on the number of threads, so neither do the results, to the last bit.

    elementwise   loops over the space, the innermost one vectorised           host_simple.py
    join          a copy for each piece
    row           for each row a loop per stage, outer values between them     host_rows.py
    full          as a row; long ones by chunks, joined in order
    column        accumulators for a stretch of columns, reduced loops around  host_columns.py
    contraction   product.c, which hands each block to the epilogue            host_products.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.codegen.function import nameless
from graphc.codegen.host_columns import print_columns
from graphc.codegen.host_products import print_product
from graphc.codegen.host_rows import print_rows
from graphc.codegen.host_simple import Printed, Share, print_elementwise, print_join
from graphc.codegen.shape import arrange, estimate
from graphc.codegen.tables import Slot, Tables, value_of
from graphc.schedule.records import Kernel, Program


@dataclass(frozen=True)
class Launch:
    """A function of the text, the buffers it is called with, the kernel it belongs to, how parts
    share it, and for how long it keeps one core busy, roughly."""

    function: str
    slots: tuple[Slot, ...]
    kernel: int
    share: Share
    seconds: float


@dataclass(frozen=True)
class HostProgram:
    """The text, and all that is needed to call it: what the entries of the frame's tables are."""

    text: str
    functions: tuple[str, ...]  # in the order of the text's gx_launches
    kernel_sources: tuple[str, ...]
    launches: tuple[Launch, ...]
    partials: tuple[int, ...]  # bytes of the shared scratch buffers
    symbols: tuple[str, ...]
    numbers: tuple[float, ...]
    row_nbytes: int  # of scratch, for one part
    products: Mapping[str, int]  # element type -> the largest inner size


def print_program(
    program: Program, draws: Mapping[int, int], sizes: Mapping[str, int]
) -> HostProgram:
    """Print a program. `draws`: numbers of the random draws, by identity; `sizes`: the values of
    symbolic dimensions.

    Kernels that differ in their buffers only, as those of repeated layers do, are one function: the
    compiler's time goes with what is different in a graph, not with its length.
    """
    tables = Tables(program, draws, sizes)
    launches: list[Launch] = []
    sources: list[str] = []
    known: dict[str, str] = {}  # the text without names of its own -> the function that does it
    texts: list[str] = []
    for number, kernel in enumerate(program.kernels):
        seconds = estimate(kernel)
        source: list[str] = []
        for one in _print(tables, kernel):
            text = "\n\n".join(one.functions)
            name = known.setdefault(nameless(text, one.slots.names, one.name), one.name)
            if name == one.name:
                texts.append(text)
            else:
                text = f"/* runs as {name}, with other buffers */\n{text}"
            source.append(text)
            slots = tuple(one.slots.numbers)
            launches.append(Launch(name, slots, number, one.share, seconds * one.share.work))
        sources.append("\n\n".join(source))
    table = ",\n".join(f"    {name}" for name in known.values()) or "    NULL"
    drawing = ["random.h"] if any("gx_draw_" in t for t in texts) else []
    parts = [
        "\n".join(f'#include "{name}"' for name in ("program.h", "scalar.h", *drawing)),
        "\n".join(tables.reductions.values()),
        *texts,
        f"gx_launch *const gx_launches[] = {{\n{table}\n}};",
    ]
    return HostProgram(
        "\n\n".join(filter(None, parts)) + "\n",
        tuple(known.values()), tuple(sources), tuple(launches), tuple(tables.partials),
        tuple(tables.symbols), tuple(value_of(n) for n in tables.numbers), tables.row_nbytes,
        tables.products,
    )  # fmt: skip


def _print(tables: Tables, kernel: Kernel) -> list[Printed]:
    if kernel.pieces:
        return print_join(tables, kernel)
    if kernel.contraction is not None:
        return [print_product(tables, kernel)]
    if kernel.form == "elementwise":
        return [print_elementwise(tables, kernel)]
    lead, inner, lane = arrange(kernel)
    if lane is None:
        return print_rows(tables, kernel, lead, inner)
    return print_columns(tables, kernel, lead, inner, lane)
