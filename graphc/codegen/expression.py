"""Expressions and statements in C: what host C and CUDA C share. A dialect adds loops and memory.

A statement of a kernel becomes one line, `const float add_0 = x[8*i + j] + b[j];`, with the
expression that the op's record declares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir.dim import Dim, Quotient, origin
from graphc.ir.node import Node
from graphc.ir.tensor_type import DType
from graphc.schedule.records import Access, Argument, Kernel, Level, Literal, Value

TYPES = {
    "bool": ("bool", "b8"), "int32": ("int32_t", "i32"), "int64": ("int64_t", "i64"),
    "float32": ("float", "f32"), "float64": ("double", "f64"),
    "float16": ("uint16_t", "f16"), "bfloat16": ("uint16_t", "bf16"),
}  # fmt: skip
STORAGE = ("float16", "bfloat16")  # kept as 16 bits, computed with as float
KEYWORDS = frozenset({  # of C
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else",
    "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register",
    "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef",
    "union", "unsigned", "void", "volatile", "while", "bool", "true", "false", "asm", "typeof",
    "and", "or", "not", "near", "far", "main",
    # names that the printers use themselves
    "call", "at", "part", "parts", "block", "batch", "product", "stack", "first", "last", "chunk",
    "chunks",
})  # fmt: skip


FUNCTION = re.compile(r"k\d+_")  # what kernels are called
OWN_PREFIXES = ("gx_", "_", "size_", "number_", "state_")
PREDEFINED = frozenset({"linux", "unix", "errno", "math_errhandling"})  # macros in small letters


def c_type(dtype: DType) -> str:
    """The C type that holds an element in memory."""
    return TYPES[dtype.name][0]


def value_type(dtype: DType) -> str:
    """The C type of a value in a statement."""
    return "float" if dtype.name in STORAGE else c_type(dtype)


def suffix(dtype: DType) -> str:
    """The suffix of helpers for this type, as in gx_exp_f32."""
    return TYPES[dtype.name][1]


def identifier(wanted: str) -> str:
    """`wanted`, made a word that C takes as a name."""
    word = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in wanted)
    return word if word and not word[0].isdigit() else f"v{word}"


def _is_reserved(word: str) -> bool:
    """Whether C's headers, the compiler or our own sources may have made a macro or a type of a
    word: NULL, M_PI, int64_t, linux."""
    ours = word.startswith(OWN_PREFIXES) or FUNCTION.match(word) is not None
    return ours or word.isupper() or word.endswith("_t") or word in PREDEFINED


class Names:
    """Names that are unique within one function."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.given = {*taken}
        self._taken = {*KEYWORDS, *taken}

    def fresh(self, wanted: str) -> str:
        """`wanted` as an identifier, with a number behind it if it is taken."""
        base = name = identifier(wanted)
        if _is_reserved(base):
            base = name = f"v_{base}"
        number = 2
        while name in self._taken:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        self.given.add(name)
        return name


# -- numbers


def size_text(value: int) -> str:
    """A size, stride or offset: a number, or a polynomial of symbolic sizes in parentheses."""
    dim = origin(value)
    if isinstance(dim, int):
        return str(int(value))
    text = _polynomial(dim)
    return text if text.isidentifier() else f"({text})"


def _polynomial(dim: Dim) -> str:
    terms: list[str] = []
    for monomial, coefficient in dim.terms:
        factors = [
            f"gx_floor_divide({_polynomial(atom.numerator)}, {_polynomial(atom.denominator)})"
            if isinstance(atom, Quotient)
            else size_name(atom)
            for atom in monomial
        ]
        if coefficient != 1 or not factors:
            factors.insert(0, str(coefficient))
        terms.append(" * ".join(factors))
    return " + ".join(terms).replace("+ -", "- ")


def size_name(symbol: str) -> str:
    """The C name of a symbolic size."""
    return f"size_{symbol}"


def index(access: Access, variables: Sequence[str]) -> str:
    """The element that an access addresses, as a sum over loop variables: `64*i + j`."""
    terms: list[str] = []
    for stride, variable in zip(access.strides, variables, strict=True):
        if stride == 0 or variable == "0":
            continue
        if stride == 1:
            terms.append(variable)
        else:
            plain = variable if variable.isidentifier() else f"({variable})"
            terms.append(f"{size_text(stride)} * {plain}")
    if access.offset or not terms:
        terms.append(size_text(access.offset))
    return " + ".join(terms).replace("+ -", "- ")


def literal(value: Any, dtype: DType) -> str:
    """A constant of a dtype, exact; of a 16-bit float, whose value is given as its bits."""
    if dtype.name in STORAGE:
        return f"{value:#06x}"
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind in "iu":
        number = int(value)
        if number == np.iinfo(dtype).min:  # its absolute value does not fit
            return f"gx_lowest_{suffix(dtype)}()"
        text = str(number) if dtype.itemsize <= 4 else f"INT64_C({abs(number)})"
        return f"({text if number >= 0 else '-' + text.lstrip('-')})" if number < 0 else text
    of = dtype if dtype.name == "float64" else np.dtype("float32")
    short = "f64" if dtype.name == "float64" else "f32"
    number = of.type(value)
    if math.isnan(number):
        return f"gx_nan_{short}()"
    if math.isinf(number):
        return f"gx_{'highest' if number > 0 else 'lowest'}_{short}()"
    text = repr(number.item()) if short == "f64" else np.format_float_scientific(number, trim="0")
    if short == "f32":
        plain = np.format_float_positional(number, trim="0")
        text = (plain if len(plain) <= len(text) + 3 else text) + "f"
    return f"({text})" if text.startswith("-") else text


# -- statements


def expression(node: Node, args: Sequence[str]) -> str:
    """What an elementwise op computes, from C expressions of its operands: names, loads, numbers.

    Operands and result of a 16-bit dtype are converted: arithmetic is done in float.
    """
    operand = node.inputs[0].dtype if node.inputs else node.dtype
    given = [
        f"gx_from_{suffix(i.dtype)}({a})" if i.dtype.name in STORAGE else a
        for i, a in zip(node.inputs, args, strict=True)
    ]
    first, result = _computed(operand), _computed(node.dtype)
    attrs = {key: value for key, value in node.attrs if key != "dtype"}  # it is {R}
    text = node.op.c.format(
        *given, T=value_type(first), t=suffix(first), R=value_type(result), r=suffix(result),
        **attrs,
    )  # fmt: skip
    return f"gx_to_{suffix(node.dtype)}({text})" if node.dtype.name in STORAGE else text


def _computed(dtype: DType) -> DType:
    return np.dtype("float32") if dtype.name in STORAGE else dtype


@dataclass
class Context:
    """What the statements of one kernel are printed from: names, and how operands are read.

    `load(operand, variables)` gives the C expression of an operand at a point; `number(node)` that
    of a constant; `computed(node, text)` that of what an op computes by `text`.
    """

    kernel: Kernel
    names: Sequence[str]  # of the statements
    load: Callable[[int, Sequence[str]], str]
    number: Callable[[Node], str]
    kept: dict[int, Callable[[Sequence[str]], str]] = field(
        default_factory=dict[int, Callable[[Sequence[str]], str]]
    )  # full-level values that lie in memory, by statement
    computed: Callable[[Node, str], str] = lambda _, text: text


@dataclass
class Scope:
    """One place in the loops. A statement is printed there when a value is first asked for; one
    that is the same for all points of the inner loops goes to the scope around.

    `variables`: one C expression per loop of the kernel's space.
    """

    context: Context
    variables: Sequence[str]
    lines: list[str]
    around: Scope | None = None
    known: dict[int, str] = field(default_factory=dict[int, str])

    def value(self, number: int) -> str:
        """The name (or expression) of statement `number` here, printing what it needs."""
        found = self._find(number)
        if found is not None:
            return found
        if self._belongs_around(number):
            assert self.around is not None
            return self.around.value(number)
        for i in sorted(self._missing(number)):
            self._print(i)
        return self.known[number]

    def _belongs_around(self, number: int) -> bool:
        outer = self.context.kernel.statements[number].level is Level.OUTER
        return outer and self.around is not None

    def _missing(self, number: int) -> set[int]:
        """The statements that must be printed here before `number` is known, and itself."""
        missing: set[int] = set()
        stack = [number]
        while stack:
            i = stack.pop()
            if i in missing or self._find(i) is not None or self._belongs_around(i):
                continue
            missing.add(i)
            args = self.context.kernel.statements[i].args
            stack += [a.index for a in args if isinstance(a, Value)]
        return missing

    def _print(self, number: int) -> None:
        statement = self.context.kernel.statements[number]
        args = [self.argument(a) for a in statement.args]
        node, name = statement.node, self.context.names[number]
        text = args[0] if statement.is_copy else self.context.computed(node, expression(node, args))
        self.lines.append(f"const {c_type(node.dtype)} {name} = {text};")
        self.known[number] = name

    def argument(self, argument: Argument) -> str:
        """The C expression of an argument."""
        if isinstance(argument, Value):
            return self.value(argument.index)
        if isinstance(argument, Literal):
            return self.context.number(argument.node)
        return self.context.load(argument.index, self.variables)

    def _find(self, number: int) -> str | None:
        if number in self.known:
            return self.known[number]
        kept = self.context.kept.get(number)
        if kept is not None:
            return kept(self.variables)
        return self.around._find(number) if self.around is not None else None


def joined(op_c: str, dtype: DType, left: str, right: str) -> str:
    """What a reduction makes of two partial results (or, for an index, whether the left wins)."""
    kind, short = value_type(dtype), suffix(_computed(dtype))
    return op_c.format(left, right, T=kind, t=short, R=kind, r=short)
