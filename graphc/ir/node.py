"""A node: an op applied to nodes. Equal nodes are one object: common subexpressions need no pass.

    node = op(inputs..., attrs) : type

Operators and methods of `Node` are looked up in the op table; the rules that convert operands
(promotion, broadcasting) are in `ir/build.py`.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from types import FrameType
from typing import Any, Literal, NamedTuple

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.dim import Dim, Extent, origins
from graphc.ir.op import FUNCTIONS, OPS, Op
from graphc.ir.storage import Storage
from graphc.ir.tensor_type import BOOL, DType, TensorType

Attrs = tuple[tuple[str, Hashable], ...]
Operand = Any  # a Node, a Dim, or anything NumPy makes a real array of

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
MAX_SITES = 3  # user lines remembered for one interned node


class Site(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


class Node:
    """An op applied to inputs, with attributes and a type. Immutable and interned.

    `sites` (lines where the user made it) are a note for people and no part of its identity.
    `backward` tells whether a derivative made it: such a node is another object than an equal one
    that the user wrote, because the where-safe rules may change the one and not the other.
    """

    __slots__ = ("__weakref__", "attrs", "backward", "inputs", "op", "sites", "type")

    op: Op[...]
    inputs: tuple[Node, ...]
    attrs: Attrs
    type: TensorType
    sites: tuple[Site, ...]
    backward: bool

    @property
    def shape(self) -> tuple[int | Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    @property
    def name(self) -> str:
        """The declared name of an input or parameter; the op's name for any other node."""
        return str(dict(self.attrs).get("name", self.op.name))

    def attr(self, key: str) -> Any:
        """The value of one attribute."""
        return dict(self.attrs)[key]

    def __repr__(self) -> str:
        return f"<{describe(self)}>"

    # -- operators, each one row of the op table
    def __add__(self, other: Operand) -> Node:
        return OPS["add"](self, other)

    def __radd__(self, other: Operand) -> Node:
        return OPS["add"](other, self)

    def __sub__(self, other: Operand) -> Node:
        return OPS["subtract"](self, other)

    def __rsub__(self, other: Operand) -> Node:
        return OPS["subtract"](other, self)

    def __mul__(self, other: Operand) -> Node:
        return OPS["multiply"](self, other)

    def __rmul__(self, other: Operand) -> Node:
        return OPS["multiply"](other, self)

    def __truediv__(self, other: Operand) -> Node:
        return OPS["divide"](self, other)

    def __rtruediv__(self, other: Operand) -> Node:
        return OPS["divide"](other, self)

    def __pow__(self, other: Operand) -> Node:
        return OPS["power"](self, other)

    def __rpow__(self, other: Operand) -> Node:
        return OPS["power"](other, self)

    def __matmul__(self, other: Operand) -> Node:
        return FUNCTIONS["matmul"](self, other)

    def __rmatmul__(self, other: Operand) -> Node:
        return FUNCTIONS["matmul"](other, self)

    def __neg__(self) -> Node:
        return OPS["negative"](self)

    def __pos__(self) -> Node:
        return self

    def __abs__(self) -> Node:
        return OPS["abs"](self)

    def __lt__(self, other: Operand) -> Node:
        return OPS["less"](self, other)

    def __le__(self, other: Operand) -> Node:
        return OPS["less_equal"](self, other)

    def __gt__(self, other: Operand) -> Node:
        return OPS["greater"](self, other)

    def __ge__(self, other: Operand) -> Node:
        return OPS["greater_equal"](self, other)

    def __eq__(self, other: Operand) -> Node:  # pyright: ignore[reportIncompatibleMethodOverride]
        return OPS["equal"](self, other)

    def __ne__(self, other: Operand) -> Node:  # pyright: ignore[reportIncompatibleMethodOverride]
        return OPS["not_equal"](self, other)

    def __and__(self, other: Operand) -> Node:
        return OPS["bitwise_and"](self, other)

    def __rand__(self, other: Operand) -> Node:
        return OPS["bitwise_and"](other, self)

    def __or__(self, other: Operand) -> Node:
        return OPS["bitwise_or"](self, other)

    def __ror__(self, other: Operand) -> Node:
        return OPS["bitwise_or"](other, self)

    def __invert__(self) -> Node:
        return OPS["invert"](self)

    __hash__ = object.__hash__

    # -- methods with NumPy's arguments
    @property
    def T(self) -> Node:  # noqa: N802 -- NumPy's name
        return self.transpose()

    def __getitem__(self, index: Any) -> Node:
        return FUNCTIONS["getitem"](self, index)

    def sum(self, axis: int | Iterable[int] | None = None, keepdims: bool = False) -> Node:
        return FUNCTIONS["sum"](self, axis, keepdims)

    def mean(self, axis: int | Iterable[int] | None = None, keepdims: bool = False) -> Node:
        return FUNCTIONS["mean"](self, axis, keepdims)

    def max(self, axis: int | Iterable[int] | None = None, keepdims: bool = False) -> Node:
        return FUNCTIONS["max"](self, axis, keepdims)

    def min(self, axis: int | Iterable[int] | None = None, keepdims: bool = False) -> Node:
        return FUNCTIONS["min"](self, axis, keepdims)

    def reshape(self, *shape: Any) -> Node:
        """The same elements in row-major order under another shape; one size may be -1."""
        return FUNCTIONS["reshape"](self, shape[0] if _is_sequence(shape) else shape)

    def transpose(self, *axes: Any) -> Node:
        """Axes in another order; all reversed if none is given."""
        return FUNCTIONS["transpose"](self, axes[0] if _is_sequence(axes) else axes or None)

    def astype(self, dtype: Any) -> Node:
        return FUNCTIONS["astype"](self, dtype)

    def broadcast_to(self, shape: Any) -> Node:
        return FUNCTIONS["broadcast_to"](self, shape)

    # -- NumPy's protocol
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Node:
        function = _ufunc(ufunc.__name__)
        if method != "__call__" or kwargs or function is None:
            given = f" with {', '.join(kwargs)}" if kwargs else ""
            raise TypeError(
                f"np.{ufunc.__name__}{'' if method == '__call__' else '.' + method}{given} has no "
                f"graph form for {describe(self)}; use the functions of graphc (gx.sum, ...)"
            )
        return function(*inputs)

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Node:
        name = function.__name__
        if name not in NUMPY_FUNCTIONS:
            raise TypeError(f"np.{name} has no graph form; use graphc's functions (gx.sum, ...)")
        found = FUNCTIONS[name]
        _refuse_unknown(function, found, args, kwargs)
        try:
            inspect.signature(found).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"np.{name} of a node: {error}; see help(gx.{name})") from None
        return found(*args, **kwargs)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"{describe(self)} has no value yet: compile it, then call it (gx.compile(node)(...))"
        )

    def __bool__(self) -> Literal[True]:
        raise TypeError(
            f"{describe(self)} has no truth value: it stands for an array. Use gx.where(condition, "
            "a, b) to choose by value; nodes are compared by `is`, so write any(p is q for q in "
            "nodes) instead of `p in nodes`"
        )

    def __iter__(self) -> Any:
        raise TypeError(
            f"{describe(self)} cannot be iterated over; take parts with x[i], x[a:b] or gx.stack"
        )

    def __len__(self) -> int:
        raise TypeError(f"{describe(self)} has no len(); use .shape[0]")


class Param(Node):
    """A node whose value is owned by the user and shared by all programs that use it."""

    __slots__ = ("storage", "trainable")

    storage: Storage
    trainable: bool

    @property
    def value(self) -> np.ndarray:
        """A copy of the current value; setting it copies the new value in."""
        return self.storage.read(self.name)

    @value.setter
    def value(self, value: Any) -> None:
        self.storage.write(value, self.name)


UFUNC_NAMES = {"absolute": "abs", "true_divide": "divide"}  # where NumPy's name is another

NUMPY_FUNCTIONS = {
    "all", "any", "argmax", "argmin", "broadcast_to", "clip", "concatenate", "dot", "einsum",
    "expand_dims", "flip", "max", "mean", "min", "outer", "pad", "prod", "reshape", "squeeze",
    "stack", "std", "sum", "swapaxes", "tensordot", "transpose", "var", "where",
}  # fmt: skip
"""What np.name(node, ...) may call; other names of NumPy mean something else here, or nothing."""


def _logical_not(x: Node) -> Node:
    return OPS["invert"](x) if x.dtype == BOOL else OPS["equal"](x, 0)


def _ufunc(name: str) -> Callable[..., Node] | None:
    """The function of the table for one of NumPy's ufuncs."""
    if name == "logical_not":
        return _logical_not
    return FUNCTIONS.get(UFUNC_NAMES.get(name, name))


def _refuse_unknown(function: Any, found: Any, args: tuple[Any, ...], names: Iterable[str]) -> None:
    """Raise TypeError for arguments that NumPy's function takes and graphc's does not."""
    known = list(inspect.signature(found).parameters)
    strange = [name for name in names if name not in known]
    # by place: after the operands the names must be ours, too (np.sum(x, 0, dtype))
    given = _places(function)[2 : len(args)]
    strange += [name for name in given if name not in known]
    if strange:
        raise TypeError(
            f"np.{function.__name__} of a node takes no {', '.join(strange)}: use "
            f"gx.{found.__name__}({', '.join(known)}), with .astype for another dtype"
        )


def _places(function: Any) -> list[str]:
    """The names of what a NumPy function takes by position; none if it takes any number (einsum),
    or if it is one of those written in C that do not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


class Origin(NamedTuple):
    """Whom a new node is to be credited to while a pass makes nodes in the user's name."""

    sites: tuple[Site, ...]
    backward: bool


class _Maker(threading.local):
    origin: Origin | None = None
    mark: tuple[FrameType, Site] | None = None


class Derived:
    """`with Derived(sites, backward):` nodes made inside are credited to these sites."""

    __slots__ = ("origin", "outer")

    def __init__(self, sites: tuple[Site, ...], backward: bool) -> None:
        self.origin = Origin(sites, backward)

    def __enter__(self) -> None:
        self.outer = _maker.origin
        _maker.origin = self.origin

    def __exit__(self, *_: object) -> None:
        _maker.origin = self.outer


class MadeAt:
    """`with gx.MadeAt(site):` what graphc's own functions make inside is noted as made at this line
    rather than at the one that called them: a layer's nodes at the line that made the layer. Lines
    of the user's own that are called inside still count first.
    """

    __slots__ = ("outer", "site")

    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self) -> None:
        self.outer = _maker.mark
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        _maker.mark = (frame, self.site)

    def __exit__(self, *_: object) -> None:
        _maker.mark = self.outer


_table: weakref.WeakValueDictionary[tuple[Any, ...], Node] = weakref.WeakValueDictionary()
_table_lock = threading.Lock()
_maker = _Maker()
_identities = itertools.count()


def make(op: Op[...], inputs: tuple[Node, ...] = (), /, **attrs: Hashable) -> Node:
    """The one node with this op, these inputs and these attributes (sorted by name)."""
    return intern(op, inputs, tuple(sorted(attrs.items())))


def intern(op: Op[...], inputs: tuple[Node, ...], attrs: Attrs, cls: type[Node] = Node) -> Node:
    """Look a node up, or infer its type and enter it. Errors name the operands and their lines."""
    origin = _maker.origin
    backward = bool(inputs) and origin is not None and origin.backward
    key: tuple[Any, ...] = (op, attrs, backward, *map(id, inputs))  # a node keeps its inputs alive
    if Extent.exist:
        key = (*key, origins(tuple(value for _, value in attrs)))
    node = _table.get(key)
    if node is None:
        try:
            inferred = op.infer(*(i.type for i in inputs), **dict(attrs))
        except GraphcError as error:
            raise type(error)(explain(op.name, str(error), inputs)) from None
        node = cls.__new__(cls)
        node.op, node.inputs, node.attrs, node.type = op, inputs, attrs, inferred
        node.sites = () if origin is None else origin.sites
        node.backward = backward
        with _table_lock:  # of two threads that make one node, both get the first
            node = _table.setdefault(key, node)
    if origin is None and len(node.sites) < MAX_SITES:
        site = user_site()
        if site not in node.sites:
            node.sites = (*node.sites, site)
    return node


def new_identity() -> int:
    """A number for a node that equals only itself: an input, a parameter, a random draw."""
    return next(_identities)


def user_site() -> Site:
    """The innermost line on the stack that is not graphc's own, or what `MadeAt` puts for it."""
    frame, mark = sys._getframe(1), _maker.mark  # pyright: ignore[reportPrivateUsage]
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        if mark is not None and frame is mark[0]:
            return mark[1]
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno)


def describe(node: Node, depth: int = 2) -> str:
    """A node in words for messages: its expression to some depth, and its type."""
    return f"{_expression(node, depth)} {node.type}"


def explain(op: str, message: str, operands: Iterable[Node]) -> str:
    """An error message with the operands, the lines that made them, and the user's line."""
    shown = list(operands)
    parts = [f"{op}: {message}"]
    if shown:
        if not all(describe(n) in message for n in shown):
            parts.append("operands: " + ", ".join(describe(n) for n in shown))
        made = {
            f"{_expression(n, 1)} made at {' and '.join(map(str, n.sites))}"
            for n in shown
            if n.sites and n.op.name != "const"
        }
        parts.extend(sorted(made))
    origin = _maker.origin
    here = (origin.sites[:1] or ("?",))[0] if origin else user_site()
    return "; ".join(parts) + f"; at {here}"


def _expression(node: Node, depth: int) -> str:
    if not node.inputs:
        return node.name
    if depth == 0:
        return f"{node.op.name}(...)"
    return f"{node.op.name}({', '.join(_expression(i, depth - 1) for i in node.inputs)})"


def _is_sequence(args: tuple[Any, ...]) -> bool:
    return len(args) == 1 and (args[0] is None or isinstance(args[0], tuple | list))
