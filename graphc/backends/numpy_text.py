"""The text of one kernel and what its names stand for, before any memory is there.

A name is bound to a view of a buffer, to scratch, or to a ready object; the backend makes arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from keyword import iskeyword
from typing import Any, Literal

import numpy as np

from graphc.backends.steps import Scalar
from graphc.ir.op import OPS
from graphc.ir.tensor_type import DType
from graphc.schedule.records import Access, Kernel

NUMPY_NAMES = frozenset(dir(np))
THREADED = 1 << 24  # multiplies' worth of work from which threads pay


@dataclass(frozen=True, slots=True)
class Binding:
    """What a name of the text stands for.

    view: a part of a buffer; slot: scratch; own: memory of the kernel's own that all blocks share
    (that of the name in `value`, if there is one); object: `value`; draw: a function that draws
    random numbers. `cut`: a block's function takes its rows only.
    """

    kind: Literal["view", "slot", "own", "object", "draw"]
    dtype: DType | None = None
    shape: tuple[int, ...] = ()
    access: Access | None = None
    slot: int = -1
    value: Any = None
    cut: bool = False
    viewed: DType | None = None  # seen as integers of the same width


class Names:
    """Unique identifiers for the generated text, none of them a keyword or a function's name."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = set(reserved)

    def fresh(self, wanted: str) -> str:
        """`wanted` as an identifier, with a number behind it if it is taken."""
        base = wanted
        if not (wanted.isascii() and wanted.isidentifier()):
            base = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in wanted)
            base = base if base and not base[0].isdigit() else f"v{base}"
        name, number = base, 2
        while name in self._taken or _is_reserved(name):
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        return name


def _is_reserved(name: str) -> bool:
    functions = name in NUMPY_NAMES or name in OPS or name == "evaluate"
    return functions or name.endswith("_reduce") or iskeyword(name)


@dataclass
class KernelText:
    """The printed kernel: its lines, and a binding for each name in them."""

    kernel: Kernel
    names: Names
    blocked: bool
    step: int = 0  # rows of a block
    before: list[str] = field(default_factory=list)  # once, before the blocks
    lines: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)  # once, after the blocks
    bindings: dict[str, Binding] = field(default_factory=dict)
    slots: list[tuple[DType, tuple[int, ...]]] = field(default_factory=list)
    _known: dict[Any, str] = field(default_factory=dict[Any, str])

    @property
    def threaded(self) -> bool:
        """Whether handing blocks to threads costs less than it saves."""
        costs = (s.node.op.cost for s in self.kernel.statements)
        return self.blocks > 1 and self.kernel.size * sum(costs) >= THREADED

    @property
    def blocks(self) -> int:
        return -(-self.kernel.space[0] // self.step) if self.blocked else 1

    def view(
        self, wanted: str, access: Access, shape: tuple[int, ...], dtype: DType, cut: bool = True
    ) -> str:
        """A name for a view of a buffer; `cut`: a block takes its rows, if it has more than one."""
        cut = cut and self.blocked and shape[0] > 1
        return self._bind(
            (access, shape, cut), wanted, Binding("view", dtype, shape, access, cut=cut)
        )

    def slot(self, wanted: str, dtype: DType, shape: tuple[int, ...], cut: bool = False) -> str:
        """A name for scratch that any kernel may use after this one."""
        name = self.names.fresh(wanted)
        self.slots.append((dtype, shape))
        self.bindings[name] = Binding("slot", dtype, shape, slot=len(self.slots) - 1, cut=cut)
        return name

    def whole(self, wanted: str, dtype: DType, shape: tuple[int, ...], cut: bool = False) -> str:
        """Scratch for the whole space: a slot, or memory of its own if blocks are to share it."""
        if not self.blocked:
            return self.slot(wanted, dtype, shape)
        name = self.names.fresh(wanted)
        self.bindings[name] = Binding("own", dtype, shape, cut=cut)
        return name

    def shared(self, key: Any, wanted: str, value: np.ndarray) -> str:
        """A name for a constant array, one for each key."""
        return self._bind(key, wanted, Binding("object", value.dtype, value=value))

    def constant(self, value: Scalar, dtype: DType) -> str:
        """A name for a constant of shape (): faster in a call than a Python number."""
        array = np.array(value, dtype)
        wanted = f"c_{value}".replace("-", "minus_").replace(".", "p").replace("+", "")
        return self.shared((array.tobytes(), dtype), wanted, array)

    def function(self, name: str, value: Any) -> str:
        """Bind a function, or anything else, under a name of its own; returns the name."""
        self.bindings.setdefault(name, Binding("object", value=value))
        return name

    def bits(self, name: str, dtype: DType) -> str:
        """The same array seen as integers."""
        bound = self.bindings[name]
        if bound.dtype == dtype:
            return name
        if self.blocked and bound.cut:
            return f"{name}.view({self.function(dtype.name, dtype)})"
        value = bound.value.view(dtype) if bound.kind == "object" else bound.value
        seen = replace(bound, value=value, viewed=dtype)
        return self._bind(("bits", name, dtype), f"{name}_bits", seen)

    def scalar(self, name: str) -> np.ndarray | None:
        """The value that a name stands for, if it is a constant of shape ()."""
        value = self.bindings[name].value
        return value if isinstance(value, np.ndarray) and not value.ndim else None

    def _bind(self, key: Any, wanted: str, binding: Binding) -> str:
        if key not in self._known:
            self._known[key] = self.names.fresh(wanted)
            self.bindings[self._known[key]] = binding
        return self._known[key]
