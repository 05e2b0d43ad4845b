"""One kernel as Python source over NumPy: a line per call, every array bound to a name beforehand.

A kernel is printed whole (its lines go into the program's one function) or, when it is large, as a
function of a block of rows, `lo` to `hi`, which threads call for different blocks. The text is what
runs, and what `.source` shows.

Values live in stores, or in scratch slots that are reused as soon as a value dies. An outer-level
value has unit extents on the reduced loops, so that NumPy's broadcasting does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from graphc.backends.numpy_places import Call, Places, StorePlace, Variable
from graphc.backends.numpy_text import Binding, KernelText, Names
from graphc.backends.steps import Ref, Step, trace, ufunc
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.tensor_type import BOOL, INT64, DType
from graphc.schedule.records import (
    Access,
    Argument,
    Buffer,
    Kernel,
    Level,
    Load,
    Statement,
    Store,
    Value,
    buffer_shape,
)
from graphc.schedule.records import Literal as LiteralArgument

BITS = {1: np.dtype("int8"), 4: np.dtype("int32"), 8: np.dtype("int64")}
UNSIGNED = {4: np.dtype("uint32"), 8: np.dtype("uint64")}
BLOCK = 1 << 17  # points of a block of a large kernel: its scratch stays in the cache
SEARCHES = {"maximum": "argmax", "minimum": "argmin"}
SHORT_ROW = 64  # elements of a row
SMALL_PRODUCT = 1 << 21  # multiply-adds up to which a transposed operand is copied first
Axes = tuple[int, ...]


def print_kernel(
    kernel: Kernel,
    node_names: dict[Node, str],
    names: Names,
    overlapping: Callable[[Store], set[Buffer]],
) -> KernelText:
    """Print a kernel. `overlapping(store)`: what it reads that lies in the store's memory."""
    return _Printer(kernel, node_names, names, overlapping).run()


class _Printer:
    def __init__(
        self,
        kernel: Kernel,
        node_names: dict[Node, str],
        names: Names,
        overlapping: Callable[[Store], set[Buffer]],
    ) -> None:
        blocked = kernel.size > BLOCK and not kernel.pieces and _can_block(kernel)
        rows = max(1, BLOCK // max(1, prod(kernel.space[1:])))
        self.text = KernelText(kernel, names, blocked, rows)
        self.kernel, self.node_names = kernel, node_names
        self.overlapping = overlapping
        self.reduces_rows = blocked and 0 in kernel.inner  # blocks give partial results

    def run(self) -> KernelText:
        if self.kernel.pieces:
            self._join()
            return self.text
        self.variables: list[Variable] = []
        stores = {s.value: s for s in self.kernel.stores}
        self.calls: list[Call] = []
        for i, statement in enumerate(self.kernel.statements):
            name = self.node_names.get(statement.node, statement.node.op.name)
            variable = Variable(name, statement.node.dtype, statement.level, store=stores.get(i))
            self.variables.append(variable)
            count = len(self.calls)
            self._statement(statement, variable)
            if self.reduces_rows and _precedes_reductions(statement):
                for call in self.calls[count:]:
                    call.early = True
        self.calls.sort(key=lambda call: not call.early)
        for store in self.kernel.stores:  # a second buffer for the same value
            if stores[store.value] is not store:
                self._copy(self.variables[store.value], store)
        self._assign()
        return self.text

    # -- statements to calls

    def _statement(self, statement: Statement, out: Variable) -> None:
        op, kind = statement.node.op, statement.node.op.kind
        if kind is Kind.CONTRACTION:
            self._product(out)
        elif statement.is_copy:
            args = [self._argument(a, statement.level) for a in statement.args]
            self._call(lambda a, o: [f"copyto({o}, {a[0]})"], args, out)
        elif kind is Kind.REDUCTION:
            self._reduction(statement, out)
        elif kind is Kind.GATHER:
            self._gather(statement, out)
        elif kind is Kind.RANDOM:
            self._draw(statement, out)
        else:
            dtypes = tuple(self._dtype(a) for a in statement.args)
            args = [self._argument(a, statement.level) for a in statement.args]
            self._steps(trace(op, dtypes, statement.node.attrs), args, out)

    def _steps(self, steps: tuple[Step, ...], args: list[Variable | str], out: Variable) -> None:
        results: list[Variable] = []
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            result = out if last else self._temporary(out, step.dtype)
            results.append(result)
            given = [
                self.text.constant(a, step.arg_dtype)
                if not isinstance(a, Ref)
                else (args[a.index] if a.is_operand else results[a.index])
                for a in step.args
            ]
            if step.function == "where":
                self._where(step, given, result)
            elif step.function == "cast":
                self._call(lambda a, o: [f'copyto({o}, {a[0]}, "unsafe")'], given, result)
            else:
                self._ufunc(step, given, result)

    def _ufunc(self, step: Step, args: list[Variable | str], out: Variable) -> None:
        name = self.text.function(step.function, ufunc(step.function))
        keyword = ""
        if name in ("maximum", "minimum"):  # deprecate a positional `out`, are slow with scalars
            keyword = "out="
            if out.level is Level.FULL:
                args = [self._line_of(a, step.arg_dtype) for a in args]
        self._call(lambda a, o: [f"{name}({', '.join(a)}, {keyword}{o})"], args, out)

    def _line_of(self, argument: Variable | str, dtype: DType) -> Variable | str:
        """A scalar constant repeated along the innermost loop; other arguments as they are."""
        if isinstance(argument, Variable) or not self.kernel.space:
            return argument
        value = self.text.scalar(argument)
        if value is None:
            return argument
        cut = self.text.blocked and len(self.kernel.space) == 1
        extent = self.text.step if cut else self.kernel.space[-1]
        line = np.full(extent, value, dtype)
        name = self.text.shared((value.tobytes(), dtype, extent), f"{argument}_line", line)
        return f"{name}[: hi - lo]" if cut else name

    def _where(self, step: Step, args: list[Variable | str], out: Variable) -> None:
        """Choice on the bits: exact for NaN and inf, and ten times faster than np.where."""
        condition, x, y = args
        bits = BITS[step.dtype.itemsize]
        for name in ("bitwise_and", "bitwise_xor", "subtract", "negative"):
            self.text.function(name, ufunc(name))
        mask = self._temporary(out, bits)
        self._call(lambda a, o: [f"copyto({o}, {a[0]})"], [condition], mask)
        if self._is_zero(y) or self._is_zero(x):
            kept, fill = (
                (x, "negative({0}, {0})") if self._is_zero(y) else (y, "subtract({0}, {1}, {0})")
            )
            one = self.text.constant(1, bits)
            write = lambda a, o: [
                fill.format(a[1], one),
                f"bitwise_and({self.text.bits(a[0], bits)}, {a[1]}, {self.text.bits(o, bits)})",
            ]
            self._call(write, [kept, mask], out)
            return
        mix = self._temporary(out, step.dtype)

        def see(name: str) -> str:
            return self.text.bits(name, bits)

        def write_mix(a: list[str], o: str) -> list[str]:
            return [
                f"negative({a[2]}, {a[2]})",
                f"bitwise_xor({see(a[0])}, {see(a[1])}, {see(o)})",
                f"bitwise_and({see(o)}, {a[2]}, {see(o)})",
            ]

        def write_out(a: list[str], o: str) -> list[str]:
            return [f"bitwise_xor({see(a[0])}, {see(a[1])}, {see(o)})"]

        self._call(write_mix, [x, y, mask], mix, elementwise=False)
        self._call(write_out, [mix, y], out)

    def _reduction(self, statement: Statement, out: Variable) -> None:
        op, inner = statement.node.op, self.kernel.inner
        x = self._repeated(statement.args[0])
        if not op.combine:
            self.text.function("evaluate", _evaluate)
            node = self.text.function(self.text.names.fresh("node"), statement.node)
            write = lambda a, o: [f"evaluate({node}, {inner}, {a[0]}, {o})"]
        elif op.combine == "add" and not self.text.blocked and self._sums_by_product(statement):
            rows, columns = self.kernel.space
            shape = (columns, 1) if inner == (1,) else (1, rows)
            ones = self.text.shared(("ones", shape, out.dtype), "ones", np.ones(shape, out.dtype))
            pair = "{0}, {1}" if inner == (1,) else "{1}, {0}"
            write = lambda a, o: [f"matmul({pair.format(a[0], ones)}, {o})"]
        elif op.combine in SEARCHES and self._searches():
            self._extreme(SEARCHES[op.combine], x, out)
            return
        else:
            reduce_name = self.text.function(f"{op.combine}_reduce", ufunc(op.combine).reduce)
            write = lambda a, o: [f"{reduce_name}({a[0]}, {inner}, None, {o}, True)"]
        self.calls.append(Call(write, [x], out, False, op.combine))

    def _searches(self) -> bool:
        """Whether short rows: there, finding the place and taking it is three times as fast."""
        space = self.kernel.space
        short = len(space) == 2 and self.kernel.inner == (1,) and space[1] <= SHORT_ROW
        return short and not self.text.blocked

    def _extreme(self, search: str, x: Variable | str, out: Variable) -> None:
        index = self._temporary(out, INT64)
        starts = self._row_starts()
        self.text.function("add", ufunc("add"))
        find = Call(
            lambda a, o: [f"{a[0]}.{search}(1, {o}, keepdims=True)", f"add({o}, {starts}, {o})"],
            [x], index, elementwise=False,
        )  # fmt: skip
        take = Call(
            lambda a, o: [f'{a[0]}.take({a[1]}, None, {o}, "clip")'], [x, index], out,
            elementwise=False,
        )  # fmt: skip
        self.calls += [find, take]

    def _row_starts(self) -> str:
        """The flat index of the first element of each row, of all rows or of a block's."""
        rows, columns = self._shape(Level.OUTER), self.kernel.space[-1]
        held = min(self.text.step, rows[0]) if self.text.blocked else rows[0]
        count = held * prod(rows[1:])
        starts = (np.arange(count, dtype=INT64) * columns).reshape(held, *rows[1:])
        name = self.text.shared(("rows", held, rows, columns), "row_starts", starts)
        return f"{name}[: hi - lo]" if self.text.blocked else name

    def _sums_by_product(self, statement: Statement) -> bool:
        """A product with ones takes half the time of a small sum along one of two axes."""
        return (
            len(self.kernel.space) == 2
            and len(self.kernel.inner) == 1
            and statement.node.type.is_float
        )

    def _gather(self, statement: Statement, out: Variable) -> None:
        """Flat indexing, then NaN (0 for integers) where the label is out of range."""
        x = self._repeated(statement.args[0])
        labels = self._argument(statement.args[1], Level.OUTER)
        first = self._row_starts()
        unsigned = UNSIGNED[self._dtype(statement.args[1]).itemsize]  # a negative label is large
        last = self.text.constant(self.kernel.space[-1] - 1, unsigned)
        missing = self.text.constant(np.nan if out.dtype.kind == "f" else 0, out.dtype)
        index, outside = self._temporary(out, INT64), self._temporary(out, BOOL)
        for name in ("add", "greater"):
            self.text.function(name, ufunc(name))
        self._call(lambda a, o: [f"add({a[0]}, {first}, {o})"], [labels], index, elementwise=False)
        self._call(
            lambda a, o: [f"greater({self.text.bits(a[0], unsigned)}, {last}, {o})"],
            [labels], outside, elementwise=False,
        )  # fmt: skip
        self._call(
            lambda a, o: [
                f'{a[0]}.take({a[1]}, None, {o}, "clip")',
                f"copyto({o}, {missing}, where={a[2]})",
            ],
            [x, index, outside], out, elementwise=False,
        )  # fmt: skip

    def _draw(self, statement: Statement, out: Variable) -> None:
        draw = self.text.names.fresh(f"draw_{out.name}")
        self.text.bindings[draw] = Binding("draw", value=statement.node)
        row = prod(self.kernel.space[1:])
        start = f"lo * {row}" if self.text.blocked else "0"
        self._call(lambda a, o: [f"{draw}({o}, {start})"], [], out)

    def _product(self, out: Variable) -> None:
        """The whole product at once, by the BLAS and its threads."""
        c = self.kernel.contraction
        assert c is not None
        names: list[str] = []
        for node, access, rows, columns in zip(
            self.kernel.statements[0].node.inputs, (c.a, c.b), (c.m, c.k), (c.k, c.n), strict=True
        ):
            shape = (*c.batch, rows, columns)
            wanted = node.name if not node.inputs else self.node_names.get(node, node.op.name)
            names.append(self.text.view(wanted, access, shape, node.dtype, cut=False))
        a, b = names
        if _is_transposed(c.b) and not c.batch and c.m * c.n * c.k <= SMALL_PRODUCT:
            straight = self.text.whole(f"{b}_copied", out.dtype, (c.k, c.n))
            self.text.before.append(
                f"copyto({straight}, {b})  # a small product is faster untransposed"
            )
            b = straight
        place = self._place_of_product(out)
        shaped = self.text.names.fresh(f"{place}_matrix")
        bound = self.text.bindings[place]
        self.text.bindings[shaped] = Binding(
            bound.kind, bound.dtype, (*c.batch, c.m, c.n), _flat_access(bound.access, c),
            slot=bound.slot, value=place if bound.kind == "own" else None,
        )  # fmt: skip
        self.text.before.append(f"matmul({a}, {b}, {shaped})")

    def _place_of_product(self, out: Variable) -> str:
        """The product's own store, else that of a later value which overwrites it, else scratch."""
        own = out.store
        if own is None:
            last = max(
                (i for i, s in enumerate(self.kernel.statements) if Value(0) in s.args), default=0
            )
            for store in self.kernel.stores:
                statement = self.kernel.statements[store.value]
                same = statement.node.dtype == out.dtype and statement.level is Level.FULL
                if same and store.value >= last and not self.overlapping(store):
                    own = store
                    break
        if own is not None:
            out.lives_in = self._store_name(own, self.kernel.statements[own.value].node)
            return out.lives_in
        out.lives_in = self.text.whole(out.name, out.dtype, self.kernel.space, cut=True)
        return out.lives_in

    def _copy(self, value: Variable, store: Store) -> None:
        twin = Variable(value.name, value.dtype, value.level, store=store)
        self._call(lambda a, o: [f"copyto({o}, {a[0]})"], [value], twin)

    def _call(
        self,
        write: Callable[[list[str], str], list[str]],
        args: list[Variable | str],
        out: Variable,
        elementwise: bool = True,
    ) -> None:
        self.calls.append(Call(write, args, out, elementwise))

    # -- calls to lines: each value gets a place

    def _assign(self) -> None:
        stores: dict[Variable, StorePlace] = {}
        for call in self.calls:
            if call.out.store is not None:
                stores[call.out] = self._store_place(call.out.store)
        places = Places(self.calls, stores, self._level_slot)
        for at, call in enumerate(self.calls):
            names = places.settle(at)
            self._emit(call, names)

    def _store_place(self, store: Store) -> StorePlace:
        shared = self.overlapping(store)
        bindings = self.text.bindings.items()
        operands = [n for n, b in bindings if b.access and b.access.base in shared]
        name = self._store_name(store, self.kernel.statements[store.value].node)
        return StorePlace(name, frozenset(operands))

    def _emit(self, call: Call, names: list[str]) -> None:
        place, out = call.out.lives_in, call.out
        if not self.reduces_rows or out.level is Level.FULL:
            self.text.lines += call.write(names, place)
            return
        if call.combine:  # a reduction over the blocked axis: one partial result per block
            partial = self.text.names.fresh(f"{place}_partial")
            shape = (self.text.blocks, *self._shape(Level.OUTER))
            self.text.bindings[partial] = Binding("own", out.dtype, shape)
            self.text.lines += call.write(names, f"{partial}[lo // {self.text.step}]")
            reduce_name = self.text.function(f"{call.combine}_reduce", ufunc(call.combine).reduce)
            self.text.after.append(f"{reduce_name}({partial}, 0, None, {place})")
            return
        lines = self.text.before if call.early else self.text.after
        lines += call.write(names, place)

    # -- names

    def _argument(self, argument: Argument, level: Level, whole: bool = False) -> Variable | str:
        if isinstance(argument, Value):
            return self.variables[argument.index]
        if isinstance(argument, LiteralArgument):
            node = argument.node
            assert node.op.eval is not None
            value = np.asarray(node.op.eval(np, **dict(node.attrs))).item()
            return self.text.constant(value, node.dtype)
        access = self.kernel.operands[argument.index]
        shape = self._shape(level)
        if not whole and 0 not in shape:  # NumPy repeats unit extents for free
            shape = tuple(1 if not s else n for n, s in zip(shape, access.strides, strict=True))
        base = access.base
        wanted = self.node_names.get(base, "") if isinstance(base, Node) else base.name
        return self.text.view(wanted or base.name, access, shape, base.dtype)

    def _repeated(self, argument: Argument) -> Variable | str:
        """What is reduced, at every point of the space: constants and values per row are copied."""
        x = self._argument(argument, Level.FULL, whole=True)
        if isinstance(argument, Load) or (isinstance(x, Variable) and x.level is Level.FULL):
            return x
        filled = Variable("repeated", self._dtype(argument), Level.FULL)
        self._call(lambda a, o: [f"copyto({o}, {a[0]})"], [x], filled, elementwise=False)
        return filled

    def _dtype(self, argument: Argument) -> DType:
        if isinstance(argument, Value):
            return self.variables[argument.index].dtype
        if isinstance(argument, Load):
            return self.kernel.operands[argument.index].base.dtype
        return argument.node.dtype

    def _shape(self, level: Level) -> tuple[int, ...]:
        outer = level is Level.OUTER
        return tuple(
            1 if outer and i in self.kernel.inner else n for i, n in enumerate(self.kernel.space)
        )

    def _store_name(self, store: Store, node: Node) -> str:
        level = self.kernel.statements[store.value].level
        base = store.access.base
        wanted = self.node_names.get(base, node.op.name) if isinstance(base, Node) else base.name
        return self.text.view(wanted, store.access, self._shape(level), node.dtype)

    def _level_slot(self, variable: Variable) -> str:
        shape = self._shape(variable.level)
        cut = self.text.blocked and not (self.reduces_rows and variable.level is Level.OUTER)
        if cut:
            shape = (min(self.text.step, shape[0]), *shape[1:])
        return self.text.slot(variable.name, variable.dtype, shape, cut)

    def _temporary(self, like: Variable, dtype: DType) -> Variable:
        return Variable(f"{like.name}_t", dtype, like.level)

    def _is_zero(self, argument: Variable | str) -> bool:
        value = None if isinstance(argument, Variable) else self.text.scalar(argument)
        return value is not None and not any(value.tobytes())

    def _join(self) -> None:
        out = self.kernel.pieces[0].target.base
        wanted = self.node_names.get(out, "join") if isinstance(out, Node) else out.name
        if self.kernel.fill is not None:
            whole = Access(out, 0, (1,))
            name = self.text.view(wanted, whole, (prod(buffer_shape(out)),), out.dtype)
            fill = self.text.constant(self.kernel.fill, out.dtype)
            self.text.lines.append(f"{name}.fill({fill})")
        for piece in self.kernel.pieces:
            source = self.text.view(
                f"{piece.source.base.name}_part", piece.source, piece.shape, out.dtype
            )
            target = self.text.view(f"{wanted}_part", piece.target, piece.shape, out.dtype)
            self.text.lines.append(f"copyto({target}, {source})")


def _precedes_reductions(statement: Statement) -> bool:
    """Whether a value is the same in all blocks, and known before the first."""
    return statement.level is Level.OUTER and not statement.stage and not statement.is_reduction


def _can_block(kernel: Kernel) -> bool:
    """Whether partial results of blocks can be joined, if blocks cut a reduced loop."""
    if not kernel.space or kernel.space[0] < 2:
        return False
    return 0 not in kernel.inner or all(
        s.node.op.combine for s in kernel.statements if s.is_reduction
    )


def _is_transposed(access: Access) -> bool:
    down, across = access.strides[-2:]
    return down == 1 and across > 1


def _flat_access(access: Access | None, c: Any) -> Access | None:
    """The access of a contiguous store, seen as the matrices of the product."""
    if access is None:
        return None
    strides: list[int] = []
    step = 1
    for extent in reversed((*c.batch, c.m, c.n)):
        strides.insert(0, step)
        step *= extent
    return Access(access.base, access.offset, tuple(strides))


def _evaluate(node: Node, inner: Axes, x: np.ndarray, out: np.ndarray) -> None:
    """A reduction without a ufunc (argmax): by the op's own value, which allocates."""
    assert node.op.eval is not None
    out[...] = node.op.eval(np, x, axes=inner).reshape(out.shape)
