"""An op is one record: its type rule, value, derivative, and what the compiler may know of it.

Passes dispatch on the closed set of kinds below and on the record's flags, never on an op's name,
so that adding an op touches one place. Ops are registered once, in the write-once table `OPS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from graphc.errors import CompileError
from graphc.ir.layout import Layout
from graphc.ir.tensor_type import TensorType

if TYPE_CHECKING:
    from graphc.ir.node import Node

P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])
Array = Any  # an array of whichever module `eval` is given: NumPy or CuPy
Vjp = Callable[..., "Node"]


class Kind(Enum):
    """What a pass needs to know of an op; the set of kinds is closed, the set of ops open."""

    SOURCE = "source"  # no inputs: inputs, parameters, constants, iota
    ELEMENTWISE = "elementwise"  # out[i] = f(a[i], b[i], ...)
    REDUCTION = "reduction"  # attrs: axes (sorted, not negative), keepdims is always False
    CONTRACTION = "contraction"  # batched matrix product
    VIEW = "view"  # an index map: no arithmetic, no data of its own
    JOIN = "join"  # several pieces written into one buffer
    RANDOM = "random"  # a counter-based draw: recomputed, never stored for later
    GATHER = "gather"  # one element per row, chosen by a label


MOVES = (Kind.SOURCE, Kind.VIEW, Kind.JOIN)  # these give or move elements and compute nothing


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Op(Generic[P]):
    """One op. Calling it builds a node: `exp(x)`.

    `infer(*types, **attrs)` gives the type, or raises; `eval(xp, *arrays, **attrs)` the value over
    an array module; `vjp[i](g, out, *inputs, **attrs)` the cotangent of input i from the cotangent
    `g` of the output, written with the operators that users write, or None where input i has no
    derivative. An elementwise `eval` uses ufuncs, `xp.where` and `.astype` only, so that it can be
    traced into steps that run without allocation (`backends/steps.py`).

    `eval` of a random op is `eval(xp, words, **attrs)`: from uint32 words [groups, 4] to a flat
    array of groups * 4 elements (`ir/philox.py`).

    `c` is formatted with {0}, {1}, ... the operands (names, or in parentheses); {name} an
    attribute; {T} the C type of the first operand and {t} its suffix (f32 f64 i32 i64 b8), as in
    gx_exp_{t}; {R} and {r} the same of the result. `kernels/scalar.h` defines all gx_... helpers.

    `c` of a reduction joins two partial results, {0} and {1}. Of one that gives an index it is the
    condition that a later value {0} beats the best before it, {1}: the first of equals stays, the
    first NaN wins. Where a reduction has no `identity`, `start` is the C expression of the value it
    begins with (at index 0).

    `c` of a random op is the call that fills elements [{1}, {1} + {2}) of the draw, the first of
    them at address {0}: {3} is the state, five words (`kernels/random.h`). {threshold} is that of
    a draw with attribute p, round(p 2^24) as an unsigned number.
    """

    name: str
    kind: Kind
    formula: str
    build: Callable[P, Node]
    infer: Callable[..., TensorType]
    eval: Callable[..., Array] | None
    vjp: Mapping[int, Vjp] | Callable[[int], Vjp] = field(default_factory=dict)
    view: Callable[..., Layout | None] | None = None  # of a view: layout of its input -> its own
    pieces: Callable[..., tuple[Layout, ...]] | None = None  # of a join: where each input goes
    fill: Callable[..., float | None] | None = None  # of a join: what lies between the pieces
    resolve: Callable[..., Node] | None = None  # (*inputs, training=, **attrs): its form once bound
    c: str = ""  # C expression; its placeholders stand above
    start: str = ""  # of a reduction without identity: the C expression it begins with
    cost: float = 1.0  # time of one element, in multiplies
    commutative: bool = False
    algebra: str = (
        ""  # "sum" or "product": what a contraction can absorb as its own beta * c + a @ b
    )
    epilogue: str = ""  # what libraries call it that apply it to a product before it is stored
    combine: str = ""  # of a reduction: the ufunc that joins two partial results, if there is one
    identity: float | None = None  # of a reduction: the result over no elements
    domain: tuple[float, float] = (-3.0, 3.0)  # where generated tests draw samples
    avoid: tuple[float, ...] = ()  # kinks and poles, of operands and of the difference of two

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Node:
        return self.build(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.build)

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def __doc__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The call, as `help` shows none for what is no function; the constructor's text; the
        formula."""
        signature = self.__signature__.replace(return_annotation=inspect.Signature.empty)
        parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        call = f"{self.name}{signature.replace(parameters=parameters)}"
        return f"{call}\n\n{inspect.getdoc(self.build) or ''}\n\nFormula: {self.formula}"

    def vjp_of(self, index: int) -> Vjp | None:
        """The derivative rule of input `index`, or None if the op has none there."""
        return self.vjp(index) if callable(self.vjp) else self.vjp.get(index)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


_ops: dict[str, Op[...]] = {}
_functions: dict[str, Callable[..., Any]] = {}
OPS: Mapping[str, Op[...]] = MappingProxyType(_ops)
FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(_functions)  # ops and composites


class _ByName:
    """`F.where(c, x, y)` looks `where` up when it runs: a derivative may use ops of other files,
    which never import one another."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _functions[name]


F = _ByName()


def register(op: Op[P]) -> Op[P]:
    """Enter an op into the table; a name can be entered once."""
    if op.name in _functions:
        raise CompileError(f"op {op.name!r} is declared twice; an op is one declaration")
    _ops[op.name] = op
    _functions[op.name] = op
    return op


def composite(function: Function) -> Function:
    """Enter a plain function of ops, so that methods and NumPy's protocol find it by name."""
    name = function.__name__
    if name in _functions:
        raise CompileError(f"function {name!r} is declared twice")
    _functions[name] = function
    return function
