"""One C function of the host dialect in the making: its names, its memory, its loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from graphc.codegen.expression import Scope, c_type, size_name, size_text
from graphc.codegen.function import BaseFunction, indented, sizes_in
from graphc.codegen.shape import is_symbolic, needed
from graphc.codegen.tables import Slot, Slots, Tables
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.schedule.records import Kernel, Store

FIRST_AXIS = 16  # extent from which the outermost loop is the one that parts share
ROW_UNIT = 8  # rows of a part come in multiples of this, as those of a product do
FLAT_UNIT = 64  # elements of an innermost loop: whole cache lines
STACK = 1 << 14  # bytes of arrays that a function may have on the stack
SIMD = "#pragma omp simd"


class Function(BaseFunction):
    """A function that does one part of a launch; declarations collect while the body is printed.

    `stack`: bytes of arrays that it may have on the stack. What is beyond lies in the part's
    scratch.
    """

    def __init__(
        self, tables: Tables, kernel: Kernel, slots: Slots, ndim: int | None = None,
        stack: int = STACK,
    ) -> None:  # fmt: skip
        super().__init__(tables, kernel, slots, ndim)
        self._declared: list[str] = []
        self._arrays: list[str] = []
        self._stack, self._most_stack = 0, stack
        self._diverted: dict[Store, tuple[str, Callable[[Sequence[str]], str]]] = {}
        self._scratch: list[str] = []  # sizes of what lies in the part's scratch so far
        self._scratch_nbytes = 0

    # -- memory

    def _declare_pointer(self, name: str, kind: str, slot: Slot) -> None:
        self._declared.append(f"{kind}const {name} = ({kind})at[{self.slots.number(slot)}];")

    def _sized_number(self, node: Node) -> str:
        return f"call->numbers[{self.tables.number(node)}]"

    def store(self, scope: Scope, store: Store) -> str:
        """The line that writes a value; what it needs is printed into the scope."""
        if store in self._diverted:
            array, place = self._diverted[store]
            return f"{array}[{place(scope.variables)}] = {scope.value(store.value)};"
        return super().store(scope, store)

    def divert(self, store: Store, room: int, place: Callable[[Sequence[str]], str]) -> None:
        """Let a store write to an array of `room` elements, at `place` of the loop variables."""
        self._diverted[store] = self.array(store.value, "run", room), place

    def flush(self, first: Sequence[str], count: str) -> list[str]:
        """Send what diverted stores wrote, `count` elements from the point `first` on, past the
        caches to where it belongs."""
        lines: list[str] = []
        for store, (array, _) in self._diverted.items():
            to = self.element(store.access, first, written=True)
            nbytes = f"({count}) * {self.dtype(store.value).itemsize}"
            lines.append(f"gx_stream(&{to}, {array}, {nbytes});")
        self._diverted = {}
        return lines

    def array(self, number: int, what: str, count: int) -> str:
        """Room for `count` values of a statement: on the stack if short, else in the part's
        scratch."""
        dtype = self.dtype(number)
        name = self.names.fresh(f"{self.context.names[number]}_{what}")
        nbytes = max(1, int(count)) * dtype.itemsize
        if not is_symbolic(count) and self._stack + nbytes <= self._most_stack:
            self._stack += nbytes
            self._arrays.append(f"_Alignas(64) {c_type(dtype)} {name}[{max(1, count)}];")
            return name
        place = " + ".join(["part * call->scratch_nbytes", *self._scratch])
        kind = f"{c_type(dtype)} *"
        self._declared.append(f"{kind}const {name} = ({kind})(call->scratch + {place});")
        self._scratch.append(f"gx_padded({size_text(count)} * {dtype.itemsize})")
        self._scratch_nbytes += -(-nbytes // 64) * 64
        self.tables.row_nbytes = max(self.tables.row_nbytes, self._scratch_nbytes)
        return name

    # -- loops

    def loop(self, number: int, first: str = "0", last: str = "") -> str:
        """The head of a loop."""
        v, last = self.loops[number], last or size_text(self.context.kernel.space[number])
        return f"for (int64_t {v} = {first}; {v} < {last}; {v}++) {{"

    def nest(self, loops: Sequence[int], body: list[str], shared: int | None = None) -> list[str]:
        """`body` inside loops, the first one outermost; parts share the loop `shared`."""
        for loop in reversed(loops):
            if loop == shared:
                body = [*self.bounds(loop), self.loop(loop, "first", "last"), *body, "}"]
            else:
                body = [self.loop(loop), *body, "}"]
        return body

    def bounds(self, loop: int) -> tuple[str, str]:
        """`first` and `last` of this part, of a loop that parts share."""
        extent, unit = size_text(self.context.kernel.space[loop]), self.unit(loop)
        return (
            f"const int64_t first = gx_start({extent}, {unit}, part, parts);",
            f"const int64_t last = gx_start({extent}, {unit}, part + 1, parts);",
        )

    def unit(self, loop: int) -> int:
        """In multiples of how many steps a loop is shared."""
        return FLAT_UNIT if loop == len(self.context.kernel.space) - 1 else ROW_UNIT

    def shared(self, loops: Sequence[int]) -> int:
        """The loop that parts share: the outermost, or the longest if that is short."""
        space = self.context.kernel.space
        if is_symbolic(space[loops[0]]) or space[loops[0]] >= FIRST_AXIS:
            return loops[0]
        return max(loops, key=lambda loop: space[loop])

    def blocks(self, loop: int, step: int, first: str, last: str, body: Iterable[str]) -> list[str]:
        """`body` for stretches of a loop, from i0 to i1, of at most `step` steps."""
        v = self.loops[loop]
        return [
            f"for (int64_t {v}0 = {first}; {v}0 < {last}; {v}0 += {step}) {{",
            f"const int64_t {v}1 = gx_least({v}0 + {step}, {last});",
            *body,
            "}",
        ]

    # -- random numbers: drawn for a run of elements, then read

    def draw(self, number: int, to: str, first: str, count: str) -> str:
        """Fill an array with `count` elements of a draw, from element `first` on."""
        words = ("call->seed[0], call->seed[1]", f"{self.draw_number(number)}u",
                 "call->step[0], call->step[1]")  # fmt: skip
        state = f"(const uint32_t[5]){{{', '.join(words)}}}"
        return self.draw_into(number, to, first, count, state)

    def drawn(
        self, roots: Iterable[int], variables: Sequence[str], loop: int, count: str, room: int
    ) -> list[str]:
        """Fill arrays with what a run of loop `loop` draws; `variables` is where the run begins."""
        lines: list[str] = []
        start = variables[loop]
        for number in sorted(needed(self.context.kernel, roots)):
            if self.context.kernel.statements[number].node.op.kind is not Kind.RANDOM:
                continue
            array = self.array(number, "run", room)
            lines.append(self.draw(number, array, self.flat(variables), count))
            self.context.kept[number] = lambda v, a=array: (
                f"{a}[{v[loop]}]" if start == "0" else f"{a}[{v[loop]} - {start}]"
            )
        return lines

    # -- the text

    def text(self, name: str, body: Sequence[str], comment: str, kind: str = "GX_LAUNCH") -> str:
        """The whole function; `kind` is the macro of kernels/program.h that declares it."""
        lines = [*self._declared, *self._arrays, *body]
        sizes = [
            f"const int64_t {size_name(s)} = call->sizes[{self.tables.symbols[s]}];"
            for s in sizes_in(lines)
        ]
        self.slots.names |= self.names.given
        return f"/* {comment} */\n{kind}({name})\n{{\n{indented([*sizes, *lines])}\n}}"
