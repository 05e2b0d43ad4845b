"""The language in which a rule reads as algebra: `p.log(1 + p.exp(x))` -> `p.softplus(x)`.

    x, y, z         wildcards: any node; the same name twice means the same node
    c = number("c") a scalar constant, or a broadcast of one; stands for the scalar in replacements
    0, 1.0, -0.0    a constant of this value, of any dtype that can hold it, broadcast or not;
                    for floats the sign of zero counts
    x * y, -x       the operators that users write
    p.exp(x)        an op of the table by name; attributes by keyword, which may be wildcards, too
    views(x)        x under any number of views; in a replacement, the same views of another node
    named("n", ..)  what matched this part, for conditions
    every(ops, ..)  any of these ops over inputs of certain ops

Commutative ops match in both orders. A pattern is compiled once into closures. `could_match` looks
at ops only, so that the driver finds candidates by one look-up per node.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.errors import CompileError
from graphc.ir.graph import rebuild
from graphc.ir.node import Node, make
from graphc.ir.op import OPS, Kind, Op
from graphc.ir.tensor_type import BOOL, DTYPES, FLOATS, DType
from graphc.ops.sources import Constant, const
from graphc.ops.views import broadcast_to

Found = dict[str, Any]
Matcher = Callable[[Node, Found], bool]
OpTest = Callable[[Op[Any]], bool]
Term = Any  # a Pattern or a Python number, which stands for a constant


class Pattern:
    """A form that nodes may have. Subclasses say what they match and how they are built."""

    __slots__ = ()

    def accepts(self, op: Op[Any]) -> bool:
        """Whether a node of this op can match, as far as its op tells."""
        raise NotImplementedError

    def could_match(self, op: Op[Any], inputs: Iterable[Op[Any]]) -> bool:
        """Whether a node of this op over inputs of these ops can match."""
        raise NotImplementedError

    def variants(self) -> list[Pattern]:
        """This pattern with the operands of commutative ops in every order."""
        return [self]

    def matcher(self, seen: set[str]) -> Matcher:
        """A function that tests a node and notes what it finds; `seen`: names noted before."""
        raise NotImplementedError

    def instantiate(self, found: Found) -> Any:
        """The node that this pattern describes, given what its wildcards stand for."""
        raise NotImplementedError

    def __add__(self, other: Term) -> Call:
        return call("add", self, other)

    def __radd__(self, other: Term) -> Call:
        return call("add", other, self)

    def __sub__(self, other: Term) -> Call:
        return call("subtract", self, other)

    def __rsub__(self, other: Term) -> Call:
        return call("subtract", other, self)

    def __mul__(self, other: Term) -> Call:
        return call("multiply", self, other)

    def __rmul__(self, other: Term) -> Call:
        return call("multiply", other, self)

    def __truediv__(self, other: Term) -> Call:
        return call("divide", self, other)

    def __rtruediv__(self, other: Term) -> Call:
        return call("divide", other, self)

    def __pow__(self, other: Term) -> Call:
        return call("power", self, other)

    def __neg__(self) -> Call:
        return call("negative", self)

    def __invert__(self) -> Call:
        return call("invert", self)


@dataclass(frozen=True, eq=False, slots=True)
class Wild(Pattern):
    """Any node (or, as an attribute, any value)."""

    name: str

    def accepts(self, op: Op[Any]) -> bool:  # noqa: ARG002 -- any op will do
        return True

    def matcher(self, seen: set[str]) -> Matcher:
        name = self.name
        if name in seen:
            return lambda node, found: found[name] is node
        seen.add(name)
        return lambda node, found: _note(found, name, node)

    def instantiate(self, found: Found) -> Any:
        return found[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, slots=True)
class Number(Pattern):
    """A scalar constant or a broadcast of one; noted as the scalar."""

    name: str

    def accepts(self, op: Op[Any]) -> bool:
        return op is const or op is broadcast_to

    def matcher(self, seen: set[str]) -> Matcher:
        match_scalar = Wild(self.name).matcher(seen)

        def match(node: Node, found: Found) -> bool:
            scalar = scalar_node(node)
            return scalar is not None and match_scalar(scalar, found)

        return match

    def instantiate(self, found: Found) -> Any:
        return found[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, slots=True)
class Literal(Pattern):
    """A constant of one value: a scalar or a broadcast of one."""

    value: float
    spellings: dict[DType, bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spellings", _spellings(self.value))

    def accepts(self, op: Op[Any]) -> bool:
        return op is const or op is broadcast_to

    def matcher(self, seen: set[str]) -> Matcher:  # noqa: ARG002 -- it notes nothing
        return lambda node, _: self._is_spelled_by(scalar_node(node))

    def _is_spelled_by(self, scalar: Node | None) -> bool:
        if scalar is None:
            return False
        value = constant_of(scalar)
        return self.spellings.get(value.dtype) == value.data

    def instantiate(self, found: Found) -> Any:  # noqa: ARG002 -- the same for every match
        return self.value

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, eq=False, slots=True)
class Call(Pattern):
    """An op applied to patterns, with some of its attributes."""

    op: Op[Any]
    args: tuple[Pattern, ...]
    attrs: tuple[tuple[str, Any], ...]

    def accepts(self, op: Op[Any]) -> bool:
        return op is self.op

    def could_match(self, op: Op[Any], inputs: Iterable[Op[Any]]) -> bool:
        return op is self.op and all(
            arg.accepts(i) for arg, i in zip(self.args, inputs, strict=True)
        )

    def variants(self) -> list[Pattern]:
        choices = itertools.product(*(arg.variants() for arg in self.args))
        orders = [(self.op, args) for args in choices]
        if self.op.commutative and self.args[0] is not self.args[1]:
            orders += [(op, args[::-1]) for op, args in orders]
        return [Call(op, args, self.attrs) for op, args in orders]

    def matcher(self, seen: set[str]) -> Matcher:
        order = sorted(range(len(self.args)), key=lambda i: isinstance(self.args[i], Wild))
        parts = [(i, self.args[i].matcher(seen)) for i in order]
        attrs = [(key, _attr_test(value, seen)) for key, value in self.attrs]
        wanted = self.op

        def match(node: Node, found: Found) -> bool:
            if node.op is not wanted:
                return False
            inputs = node.inputs
            for i, part in parts:
                if not part(inputs[i], found):
                    return False
            return all(test(node.attr(key), found) for key, test in attrs)

        return match

    def instantiate(self, found: Found) -> Node:
        args = [arg.instantiate(found) for arg in self.args]
        if not self.attrs:
            return self.op(*args)
        attrs = {
            key: value.instantiate(found) if isinstance(value, Pattern) else value
            for key, value in self.attrs
        }
        return make(self.op, tuple(args), **attrs)

    def __str__(self) -> str:
        parts = [str(arg) for arg in self.args]
        sign = SIGNS.get(self.op.name)
        if sign and len(parts) == 1:
            return f"{sign}{_bracket(self.args[0])}"
        if sign:
            return f"{_bracket(self.args[0])} {sign} {_bracket(self.args[1])}"
        parts += [str(value) if isinstance(value, Wild) else f"{key}={value}"
                  for key, value in self.attrs]  # fmt: skip
        return f"{self.op.name}({', '.join(parts)})"


@dataclass(frozen=True, eq=False, slots=True)
class Named(Pattern):
    """A part of a pattern whose node the rule wants to see."""

    name: str
    part: Pattern

    def accepts(self, op: Op[Any]) -> bool:
        return self.part.accepts(op)

    def variants(self) -> list[Pattern]:
        return [Named(self.name, part) for part in self.part.variants()]

    def matcher(self, seen: set[str]) -> Matcher:
        name, part = self.name, self.part.matcher(seen)
        return lambda node, found: part(node, found) and _note(found, name, node)

    def __str__(self) -> str:
        return str(self.part)


@dataclass(frozen=True, eq=False, slots=True)
class Viewed(Pattern):
    """A part under any number of views, which are noted outermost first."""

    name: str
    part: Pattern

    def accepts(self, op: Op[Any]) -> bool:
        return op.kind is Kind.VIEW or self.part.accepts(op)

    def variants(self) -> list[Pattern]:
        return [Viewed(self.name, part) for part in self.part.variants()]

    def matcher(self, seen: set[str]) -> Matcher:
        name, part = self.name, self.part.matcher(seen)

        def match(node: Node, found: Found) -> bool:
            views: list[Node] = []
            while node.op.kind is Kind.VIEW:
                views.append(node)
                node = node.inputs[0]
            return part(node, found) and _note(found, name, views)

        return match

    def instantiate(self, found: Found) -> Node:
        return viewed(found[self.name], self.part.instantiate(found))

    def __str__(self) -> str:
        return f"{self.name}({self.part})"


@dataclass(frozen=True, eq=False, slots=True)
class Every(Pattern):
    """Any op that `ops` accepts, over inputs of ops that `each` accepts, one of them `some`."""

    text: str
    ops: OpTest
    each: OpTest
    some: OpTest

    def accepts(self, op: Op[Any]) -> bool:
        return self.ops(op)

    def could_match(self, op: Op[Any], inputs: Iterable[Op[Any]]) -> bool:
        given = list(inputs)
        if not self.ops(op) or not all(self.each(i) for i in given):
            return False
        return not given or any(self.some(i) for i in given)

    def matcher(self, seen: set[str]) -> Matcher:  # noqa: ARG002 -- it notes nothing
        return lambda node, _: self.could_match(node.op, [i.op for i in node.inputs])

    def __str__(self) -> str:
        return self.text


SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**",
         "negative": "-", "invert": "~"}  # fmt: skip


class Ops:
    """`p.exp(x)`: the pattern of an op of the table, by attribute."""

    def __getattr__(self, name: str) -> Callable[..., Call]:
        return lambda *args, **attrs: call(name, *args, **attrs)


p = Ops()


def call(op: str, *args: Term, **attrs: Any) -> Call:
    """The pattern of an op over patterns; Python numbers stand for constants."""
    if op not in OPS:
        raise CompileError(f"pattern: there is no op {op!r}")
    return Call(OPS[op], tuple(as_pattern(a) for a in args), tuple(attrs.items()))


def as_pattern(term: Term) -> Pattern:
    """A pattern as it is; a Python number as a literal."""
    return term if isinstance(term, Pattern) else Literal(term)


def wilds(names: str) -> tuple[Wild, ...]:
    """One wildcard for each name."""
    return tuple(Wild(name) for name in names.split())


def number(name: str) -> Number:
    return Number(name)


def named(name: str, part: Pattern) -> Named:
    return Named(name, part)


def views(part: Pattern, name: str = "views") -> Viewed:
    return Viewed(name, part)


def viewed(outermost_first: Sequence[Node], node: Node) -> Node:
    """The same views of another node of the same shape."""
    for view in reversed(outermost_first):
        node = rebuild(view, (node,))
    return node


def one_of(*names: str) -> OpTest:
    """Whether an op is one of those named."""
    ops = frozenset(OPS[name] for name in names)
    return ops.__contains__


def any_op(op: Op[Any]) -> bool:  # noqa: ARG001 -- any will do
    return True


def every(text: str, ops: OpTest, each: OpTest = any_op, some: OpTest = any_op) -> Every:
    """Any op that `ops` accepts, over inputs of ops that `each` accepts, one of them `some`, too;
    `text` describes it in tables."""
    return Every(text, ops, each, some)


def scalar_node(node: Node) -> Node | None:
    """The scalar constant that a node is, or repeats; else None."""
    if node.op is broadcast_to:
        node = node.inputs[0]
    return node if node.op is const and not node.type.shape else None


def constant_of(node: Node) -> Constant:
    """The value of a constant node."""
    return node.attrs[0][1]  # pyright: ignore[reportReturnType] -- its only attribute


def _note(found: Found, name: str, value: Any) -> bool:
    found[name] = value
    return True


def _attr_test(value: Any, seen: set[str]) -> Callable[[Any, Found], bool]:
    if not isinstance(value, Wild):
        return lambda given, _: bool(given == value)
    name = value.name
    if name in seen:
        return lambda given, found: bool(found[name] == given)
    seen.add(name)
    return lambda given, found: _note(found, name, given)


def _spellings(value: float) -> dict[DType, bytes]:
    """The bytes of a scalar of this value, for each dtype that can hold it exactly as meant."""
    exact = np.asarray(value)
    if isinstance(value, bool):
        return {BOOL: exact.tobytes()}
    whole = float(value).is_integer() and (value != 0 or not np.signbit(value))
    dtypes = [d for d in DTYPES if d in FLOATS or (whole and d != BOOL)]
    return {d: exact.astype(d).tobytes() for d in dtypes}


def _bracket(part: Pattern) -> str:
    inner = part.part if isinstance(part, Named) else part
    text = str(inner)
    return f"({text})" if isinstance(inner, Call) and inner.op.name in SIGNS else text
