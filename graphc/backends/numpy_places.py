"""Where the values of a kernel live while it runs: in their stores, in the store of a later value
that is not written yet, or in scratch slots that are reused as soon as a value dies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphc.ir.tensor_type import DType
from graphc.schedule.records import Level, Store


@dataclass(eq=False)
class Variable:
    """A value while a kernel is printed. `lives_in`: the name of the array that holds it."""

    name: str
    dtype: DType
    level: Level
    last_use: int = -1
    store: Store | None = None
    lives_in: str = ""


@dataclass
class Call:
    """A call whose result has no place yet: `write(argument names, result name)` gives lines."""

    write: Callable[[list[str], str], list[str]]
    args: list[Variable | str]
    out: Variable
    elementwise: bool = True  # may write over an argument that dies here
    combine: str = ""  # of a reduction: how partial results are joined
    early: bool = False  # made once, before the blocks, and used in them


@dataclass(frozen=True)
class StorePlace:
    """The array of a store, and the operands of the kernel that share memory with it."""

    name: str
    shared_with: frozenset[str] = frozenset()


@dataclass
class Places:
    """Gives each result its place, call by call."""

    calls: Sequence[Call]
    stores: Mapping[Variable, StorePlace]
    new_slot: Callable[[Variable], str]
    free: dict[tuple[DType, Level], list[str]] = field(default_factory=dict)
    owner: dict[str, Variable] = field(default_factory=dict)
    written_at: dict[Variable, int] = field(default_factory=dict)
    last_read: dict[str, int] = field(default_factory=dict)  # of operands

    def __post_init__(self) -> None:
        self.store_names = {place.name for place in self.stores.values()}
        for at, call in enumerate(self.calls):
            if call.out in self.stores:
                self.written_at[call.out] = at
            for arg in call.args:
                if isinstance(arg, Variable):
                    arg.last_use = at
                    if arg.lives_in and arg.store is None:  # a product, placed beforehand
                        self.owner[arg.lives_in] = arg
                else:
                    self.last_read[arg] = at

    def settle(self, at: int) -> list[str]:
        """Place the result of call `at`; returns the names of its arguments."""
        call = self.calls[at]
        names = [a if isinstance(a, str) else a.lives_in for a in call.args]
        if call.elementwise:
            self._release(call, at)
        if call.out in self.stores:
            call.out.lives_in = self.stores[call.out].name
        elif not call.out.lives_in:
            call.out.lives_in = self._find(at, call)
            self.owner[call.out.lives_in] = call.out
        if not call.elementwise:
            self._release(call, at)
        if call.out.last_use < at:
            self._give_up([call.out])
        return names

    def _find(self, at: int, call: Call) -> str:
        spare = self.free.get((call.out.dtype, call.out.level))
        if spare:
            return spare.pop()
        return self._borrow(at, call) or self.new_slot(call.out)

    def _borrow(self, at: int, call: Call) -> str:
        """The array of a store that is written later: less scratch to keep in the cache."""
        out = call.out
        for variable, place in self.stores.items():
            until = self.written_at[variable]
            fits = variable.dtype == out.dtype and variable.level is out.level
            over = out.last_use < until or (out.last_use == until and self.calls[until].elementwise)
            if not (fits and at < until and over) or place.name in self.owner:
                continue
            if all(self._is_done(name, at, call) for name in place.shared_with):
                return place.name
        return ""

    def _is_done(self, operand: str, at: int, call: Call) -> bool:
        last = self.last_read.get(operand, -1)
        return last < at or (last == at and call.elementwise)

    def _release(self, call: Call, at: int) -> None:
        variables = (a for a in call.args if isinstance(a, Variable))
        self._give_up(v for v in variables if v.last_use == at)

    def _give_up(self, dead: Iterable[Variable]) -> None:
        for variable in dict.fromkeys(dead):
            if self.owner.get(variable.lives_in) is not variable:
                continue
            del self.owner[variable.lives_in]
            if variable.lives_in not in self.store_names:
                self.free.setdefault((variable.dtype, variable.level), []).append(variable.lives_in)
