"""One function of C in the making, in either dialect: its names, and how it reads and writes."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Any

from graphc.codegen.expression import Context, Names, Scope, c_type, index, suffix
from graphc.codegen.tables import Slot, Slots, Tables
from graphc.ir.dim import origin
from graphc.ir.layout import contiguous_strides
from graphc.ir.node import Node
from graphc.ir.tensor_type import DType
from graphc.schedule.records import Access, Buffer, Kernel, Store

WORD = re.compile(r"[A-Za-z_]\w*")
COMMENT = re.compile(r"/\*.*?\*/")


class BaseFunction:
    """Collects what the body asks for while it is printed.

    `ndim`: how many loops it may have, those of the kernel's space if nothing is said; `taken`:
    names that the dialect uses itself. A dialect says how an address reaches a pointer
    (`_declare_pointer`) and what a constant made of sizes is called (`_sized_number`).
    """

    def __init__(
        self, tables: Tables, kernel: Kernel, slots: Slots, ndim: int | None = None,
        taken: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.tables, self.kernel, self.slots = tables, kernel, slots
        self.loops = loop_names(len(kernel.space) if ndim is None else ndim)
        loops = [f"{v}{n}" for v in self.loops for n in ("", "0", "1")]
        self.names = Names([*loops, *taken])
        values = [
            self.names.fresh(tables.names.get(s.node, s.node.op.name)) for s in kernel.statements
        ]
        self.context = Context(kernel, values, self.element_of, self._number)
        self._pointers: dict[tuple[Buffer, bool], str] = {}

    # -- memory

    def pointer(self, buffer: Buffer, written: bool = False) -> str:
        """The name of a pointer to a buffer, declared when first asked for."""
        key = (buffer, written)
        if key not in self._pointers:
            wanted = self.tables.names.get(buffer, "") if isinstance(buffer, Node) else buffer.name
            wanted = wanted or buffer.op.name if isinstance(buffer, Node) else wanted
            name = self.names.fresh(f"to_{wanted}" if written else wanted)
            kind = f"{'' if written else 'const '}{c_type(buffer.dtype)} *"
            self._declare_pointer(name, kind, buffer)
            self._pointers[key] = name
        return self._pointers[key]

    def partial(self, number: int, place: int) -> str:
        """The name of a pointer to the partial results of statement `number`."""
        name = self.names.fresh(f"{self.context.names[number]}_parts")
        self._declare_pointer(name, f"{c_type(self.dtype(number))} *", place)
        return name

    def _declare_pointer(self, name: str, kind: str, slot: Slot) -> None:
        raise NotImplementedError

    def _number(self, node: Node) -> str:
        """A constant of one element: as it is, or as an argument where it is made of sizes."""
        text = self.tables.plain_number(node)
        return text or f"({c_type(node.dtype)}){self._sized_number(node)}"

    def _sized_number(self, node: Node) -> str:
        raise NotImplementedError

    def element(self, access: Access, variables: Sequence[str], written: bool = False) -> str:
        """An element of a buffer."""
        return f"{self.pointer(access.base, written)}[{index(access, variables)}]"

    def element_of(self, operand: int, variables: Sequence[str]) -> str:
        """The element of an operand at a point."""
        return self.element(self.context.kernel.operands[operand], variables)

    def store(self, scope: Scope, store: Store) -> str:
        """The line that writes a value; what it needs is printed into the scope."""
        element = self.element(store.access, scope.variables, written=True)
        return f"{element} = {scope.value(store.value)};"

    def dtype(self, number: int) -> DType:
        """The dtype of a statement's value."""
        return self.context.kernel.statements[number].node.dtype

    # -- random numbers

    def draw_into(self, number: int, to: str, first: str, count: str, state: str) -> str:
        """Fill an array with `count` elements of a draw, from element `first` on."""
        node = self.context.kernel.statements[number].node
        attrs: dict[str, Any] = dict(node.attrs)
        threshold = f"{round(attrs.get('p', 0.0) * 2.0**24)}u"
        call = node.op.c.format(to, first, count, state, r=suffix(node.dtype), threshold=threshold)
        return f"{call};"

    def draw_number(self, number: int) -> int:
        """The number of a draw in the declared graph."""
        attrs: dict[str, Any] = dict(self.context.kernel.statements[number].node.attrs)
        return self.tables.draws[attrs["identity"]]

    def flat(self, variables: Sequence[str]) -> str:
        """The number of a point of the space, in row-major order."""
        space = self.context.kernel.space
        return index(Access(self.kernel.nodes[0], 0, contiguous_strides(space)), variables)

    # -- the text

    def comment(self) -> str:
        """What is fused here, and over which loops."""
        kernel = self.context.kernel
        loops = [f"{v} < {plain(n)}" for v, n in zip(self.loops, kernel.space, strict=True)]
        over = f" over {', '.join(loops)}" if loops else ""
        inner = ", ".join(self.loops[i] for i in kernel.inner)
        reduced = f", reduces {inner}" if inner else ""
        ops = ", ".join(dict.fromkeys(s.node.op.name for s in kernel.statements))
        return f"{kernel.form}{over}{reduced}: {ops}"


def loop_names(count: int) -> tuple[str, ...]:
    """Names of loop variables: i, j, k, ..."""
    return tuple("ijklopqrst"[n] if n < 10 else f"i{n}_" for n in range(count))


def plain(value: int) -> str:
    """A size as a reader of a comment wants it."""
    return str(origin(value))


def indented(lines: Iterable[str]) -> str:
    """Lines indented by the braces before them."""
    depth = 1
    made: list[str] = []
    for line in lines:
        depth -= line.startswith("}")
        made.append("    " * depth + line)
        depth += line.endswith("{")
    return "\n".join(made)


def sizes_in(lines: Iterable[str]) -> list[str]:
    """The symbolic sizes that lines mention, each once."""
    return list(dict.fromkeys(re.findall(r"\bsize_(\w+)", "\n".join(lines))))


def nameless(text: str, names: Container[str], prefix: str) -> str:
    """A function's text with every name that was made up for it, and those of functions that begin
    with `prefix`, replaced by a number, comments left out: equal for functions that do the same."""
    numbers: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        word = match.group()
        if word in names or word.startswith(prefix):
            return numbers.setdefault(word, f"${len(numbers)}")
        return word

    return WORD.sub(replaced, COMMENT.sub("", text))
