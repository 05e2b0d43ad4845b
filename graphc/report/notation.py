"""The notation that text and pictures share: names of buffers, accesses, statements, bytes."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import unique_names
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.text import attributes, scalar_text, word
from graphc.schedule.records import (
    Access,
    Buffer,
    Kernel,
    Level,
    Line,
    Literal,
    Load,
    Place,
    Region,
    Schedule,
    Slab,
    Statement,
    Value,
)

LOOPS = "ijklmnpqrstuvw"  # letters of the loops of a space, outermost first
LONGEST = 60  # characters of a C expression that still reads at a glance

Names = Mapping[Node, str]


def schedule_names(schedule: Schedule) -> dict[Node, str]:
    """Names for every node a schedule mentions: those of its graph first."""
    graph = schedule.graph
    mentioned = [n for kernel in schedule.kernels for n in kernel_nodes(kernel)]
    if all(node in graph.names for node in mentioned):
        return graph.names
    return unique_names(dict.fromkeys([*graph.nodes, *mentioned]))


def kernel_nodes(kernel: Kernel) -> tuple[Node, ...]:
    """Every node computed in a kernel, once."""
    return tuple(dict.fromkeys([*kernel.nodes, *(s.node for s in kernel.statements)]))


def buffer_name(buffer: Buffer, names: Names) -> str:
    """The name of a node, a line of it, a slab, or a copy on its way to a parameter; in quotes
    where it is no plain word."""
    node = buffer.node if isinstance(buffer, Line) else buffer
    if isinstance(node, Node):
        return word(names.get(node, node.name))
    if isinstance(node, Slab):
        return f"slab({buffer_name(node.members[0], names)}, +{len(node.members) - 1})"
    return word(node.name)


def members(buffer: Buffer) -> tuple[Buffer, ...]:
    """What lies in a buffer: itself, or the members of a slab."""
    return buffer.members if isinstance(buffer, Slab) else (buffer,)


def buffer_type(buffer: Buffer) -> str:
    """Dtype and shape of a buffer, as in `float32[64, 128]`."""
    return f"{buffer.dtype.name}[{', '.join(map(str, buffer.shape))}]"


def nbytes_text(nbytes: int) -> str:
    """Bytes in the largest binary unit that leaves at least one: `32 KiB`, `1.5 MiB`."""
    return _scaled(nbytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def flops_text(flops: int) -> str:
    """A count of floating-point operations: `2.1 MFLOP`."""
    return _scaled(flops, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def _scaled(amount: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(amount) < step:
            return f"{amount:.3g} {unit}" if amount < 100 else f"{amount:.0f} {unit}"
        amount /= step
    return f"{amount:.3g} {units[-1]}"


def seconds_text(seconds: float) -> str:
    """A time in milliseconds with three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


def duration_text(seconds: float) -> str:
    """A time in the unit that suits it, with three digits: `12.3 us`."""
    return _scaled(seconds * 1e9, 1000, ("ns", "us", "ms", "s"))


def percent_text(share: float) -> str:
    """A share of 1: `31 %`, with a decimal below ten."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def extents_text(shape: tuple[object, ...]) -> str:
    """A space in words: `64 x 128`, `1 point` for none."""
    return " x ".join(map(str, shape)) if shape else "1 point"


def space_text(kernel: Kernel) -> str:
    """The loops of a kernel: `i<64, j<10; reduces j`."""
    loops = [f"{LOOPS[i % len(LOOPS)]}<{n}" for i, n in enumerate(kernel.space)]
    reduced = ", ".join(_letters(kernel)[i] for i in kernel.inner)
    return (", ".join(loops) or "one point") + (f"; reduces {reduced}" if reduced else "")


def index_text(access: Access, letters: str = LOOPS) -> str:
    """The element an access addresses, as a sum: `128*i + j`."""
    terms = [
        letters[i % len(letters)] if stride == 1 else f"{stride}*{letters[i % len(letters)]}"
        for i, stride in enumerate(access.strides)
        if stride
    ]
    if access.offset or not terms:
        terms.append(str(access.offset))
    return " + ".join(terms).replace("+ -", "- ")


def access_text(access: Access, names: Names, letters: str = LOOPS) -> str:
    """A read or written element: `w1[64*i + j]`."""
    return f"{buffer_name(access.base, names)}[{index_text(access, letters)}]"


def statement_text(kernel: Kernel, statement: Statement, names: Names) -> str:
    """What a statement computes: `add_0 = contract_0 + b0[j]`."""
    return f"{word(names[statement.node])} = {_computed(kernel, statement, names)}"


def _computed(kernel: Kernel, statement: Statement, names: Names) -> str:
    arguments = [_argument(kernel, a, names) for a in statement.args]
    node = statement.node
    if kernel.contraction is not None and statement is kernel.statements[0]:
        return _product_text(kernel, names)
    if statement.is_copy and len(arguments) == 1:
        return arguments[0]
    if statement.is_reduction:
        over = ", ".join(_letters(kernel)[i] for i in kernel.inner)
        return f"{node.op.name} over {over} of {', '.join(arguments)}"
    return c_text(node, arguments) or call_text(node, arguments)


def call_text(node: Node, arguments: list[str]) -> str:
    """An op applied to arguments, with its attributes: `clip(x, low=0)`."""
    return f"{node.op.name}({', '.join([*arguments, *attributes(node)])})"


def c_text(node: Node, arguments: list[str]) -> str | None:
    """The op's C expression over the arguments, or None where it has none or a long one."""
    if node.op.kind is not Kind.ELEMENTWISE or not node.op.c:
        return None
    attrs = {key: getattr(value, "name", value) for key, value in node.attrs}
    try:
        text = node.op.c.format(*arguments, **attrs).replace("gx_", "")
    except (IndexError, KeyError):
        return None
    return text if len(text) <= LONGEST else None


def _product_text(kernel: Kernel, names: Names) -> str:
    """The sum over z, in row r and column c where the epilogue's loops are not the tile's."""
    product = kernel.contraction
    assert product is not None
    tile = (*product.batch, product.m, product.n)
    letters = LOOPS if kernel.space == tile else "defgh"[: len(product.batch)] + "rc"
    batch, m, n = letters[: len(tile) - 2], letters[len(tile) - 2], letters[len(tile) - 1]
    a = access_text(product.a, names, f"{batch}{m}z")
    b = access_text(product.b, names, f"{batch}z{n}")
    return f"sum over z<{product.k} of {a} * {b}"


def form_text(kernel: Kernel) -> str:
    """The form, and of a contraction its sizes: `contraction 64 x 10 @ 10 x 64`."""
    product = kernel.contraction
    if product is None:
        return kernel.form
    batch = f"{extents_text(product.batch)} times " if product.batch else ""
    return f"{kernel.form} {batch}{product.m} x {product.k} @ {product.k} x {product.n}"


def title_text(kernel: Kernel) -> str:
    """Form and space of a kernel; the sizes of a contraction say its space."""
    if kernel.contraction is not None:
        return form_text(kernel)
    if kernel.pieces:
        return f"{kernel.form} of {len(kernel.pieces)} pieces"
    return f"{kernel.form} over {extents_text(kernel.space)}"


def level_text(kernel: Kernel, statement: Statement) -> str:
    """How often a statement of a reducing kernel is computed: `per i`, `once`, or nothing if for
    every point."""
    if statement.level is Level.FULL or not kernel.inner:
        return ""
    outer = ", ".join(_letters(kernel)[i] for i in kernel.outer)
    return f"per {outer}" if outer else "once"


def _argument(kernel: Kernel, argument: Value | Load | Literal, names: Names) -> str:
    if isinstance(argument, Value):
        return word(names[kernel.statements[argument.index].node])
    if isinstance(argument, Load):
        return access_text(kernel.operands[argument.index], names)
    return scalar_text(argument.node) or argument.node.name


def _letters(kernel: Kernel) -> list[str]:
    return [LOOPS[i % len(LOOPS)] for i in range(len(kernel.space))]


def placed_text(buffer: Buffer, places: Mapping[Buffer, Place], names: Names) -> str:
    """A buffer and where it lies: `relu_0 @ arena+4096`, `x (input)`, `add_5 in param w`."""
    name, place = buffer_name(buffer, names), places.get(buffer)
    if place is None:
        return name
    if place.region is Region.ARENA:
        return f"{name} @ arena+{place.offset}"
    if place.owner is None or place.owner is buffer:
        return f"{name} ({place.region.value})"
    owner = f"{place.region.value} {buffer_name(place.owner, names)}"
    return f"{name} in {owner}" + (f"+{place.offset}" if place.offset else "")


def in_place_text(buffer: Buffer, schedule: Schedule, names: Names) -> str:
    """A written buffer, and the parameter that it is computed into: `add_5 into v`."""
    name, home = buffer_name(buffer, names), schedule.in_place.get(buffer)
    return name if home is None else f"{name} into {buffer_name(home, names)}"


def resolved(node: Node, pinned: set[Node]) -> tuple[Node, list[Node]]:
    """The node below a chain of views, and the views from below upwards; stops at pinned ones."""
    views: list[Node] = []
    while node.op.kind is Kind.VIEW and node not in pinned:
        views.append(node)
        (node,) = node.inputs
    return node, views[::-1]
