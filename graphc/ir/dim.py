"""Symbolic dimensions: integer polynomials in named sizes, in a normal form, so that equal ones
compare equal.

    Dim      = sum of  coefficient * product of atoms
    atom     = symbol name | quotient (Dim // Dim that does not divide exactly)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphc.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Quotient:
    """`numerator // denominator` where the division is not exact as polynomials."""

    numerator: Dim
    denominator: Dim

    def __str__(self) -> str:
        return f"({self.numerator})//({self.denominator})"


Atom = str | Quotient
Monomial = tuple[Atom, ...]  # sorted by text; () is the constant term


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is known only when the program is bound, such as `batch` or `2*batch + 1`.

    A symbol equals only itself and never broadcasts, not even where it is later bound to 1.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def symbol(name: str) -> Dim:
        """The dimension called `name`, an identifier; raises ShapeError for anything else."""
        if not name.isidentifier():
            raise ShapeError(f"symbolic dimension {name!r}: need an identifier, such as 'batch'")
        return Dim((((name,), 1),))

    def symbols(self) -> set[str]:
        """The names that must be known to turn this dimension into a number."""
        return {name for monomial, _ in self.terms for atom in monomial for name in _names(atom)}

    def bind(self, sizes: Mapping[str, int]) -> int | Dim:
        """The dimension with the named sizes put in: an int once all its symbols are known."""
        total: int | Dim = 0
        for monomial, coefficient in self.terms:
            product: int | Dim = coefficient
            for atom in monomial:
                product = product * _bind_atom(atom, sizes)
            total = total + product
        return total

    def __add__(self, other: int | Dim) -> int | Dim:
        terms = dict(self.terms)
        for monomial, coefficient in _terms(other):
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return _normal(terms)

    def __mul__(self, other: int | Dim) -> int | Dim:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = tuple(sorted(left + right, key=str))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return _normal(terms)

    def __neg__(self) -> int | Dim:
        return self * -1

    def __sub__(self, other: int | Dim) -> int | Dim:
        return self + other * -1

    def __rsub__(self, other: int) -> int | Dim:
        return self * -1 + other

    def __floordiv__(self, other: int | Dim) -> int | Dim:
        return floor_divide(self, other)

    def __rfloordiv__(self, other: int) -> int | Dim:
        return floor_divide(other, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __bool__(self) -> bool:
        raise ShapeError(f"the size {self} is symbolic: it has no truth value before it is bound")

    def __int__(self) -> int:
        raise ShapeError(f"the size {self} is symbolic: it has no value before it is bound")

    __index__ = __int__

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            names = "*".join(map(str, monomial))
            if not names:
                parts.append(str(coefficient))
            elif coefficient == 1:
                parts.append(names)
            else:
                parts.append(f"-{names}" if coefficient == -1 else f"{coefficient}*{names}")
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__


class Extent(int):
    """A size that is bound: an int that remembers the dimension it is the value of.

    Arithmetic carries the dimension along, so that strides and offsets made of sizes know where
    they come from, and generated code can name a size instead of repeating its value: it then
    serves every value. It is equal to a plain int: caches that hold sizes have `origins` in their
    keys. Where the memory is lost, the code is only less general.
    """

    dim: Dim
    exist: ClassVar[bool] = False  # whether any was ever made

    @staticmethod
    def of(value: int | Dim, dim: int | Dim) -> int | Dim:
        """`value` as the value of `dim`, where it is known and `dim` is not."""
        if not isinstance(value, int) or not isinstance(dim, Dim):
            return value
        Extent.exist = True
        extent = Extent(value)
        extent.dim = dim
        return extent

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return int(self) + other
        return _extent(int(self) + int(other), self.dim + origin(other))

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int):
            return int(self) * other
        return _extent(int(self) * int(other), self.dim * origin(other))

    def __neg__(self) -> int:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + other * -1

    def __rsub__(self, other: Any) -> Any:
        return self * -1 + other

    __radd__, __rmul__ = __add__, __mul__


def origin(value: int) -> int | Dim:
    """The dimension that a size is the value of, or the size itself."""
    return value.dim if isinstance(value, Extent) else value


def origins(value: Any) -> Any:
    """The same for each size in tuples of tuples; None for what is no bound size."""
    if isinstance(value, Extent):
        return value.dim
    return tuple(map(origins, value)) if type(value) is tuple else None


def _extent(value: int, dim: int | Dim) -> int:
    made = Extent.of(value, dim)
    assert isinstance(made, int)
    return made


def floor_divide(a: int | Dim, b: int | Dim) -> int | Dim:
    """`a // b`: exact where the polynomials divide term by term, else kept as one quotient atom.

    Raises ShapeError where b is 0.
    """
    if isinstance(b, int) and b == 0:
        raise ShapeError(f"{a} // 0: a size cannot be divided by 0")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    exact = _divide_exactly(a, b)
    if exact is not None:
        return exact
    numerator = a if isinstance(a, Dim) else Dim((((), a),))
    denominator = b if isinstance(b, Dim) else Dim((((), b),))
    return Dim((((Quotient(numerator, denominator),), 1),))


def product(extents: tuple[int | Dim, ...]) -> int | Dim:
    """The product of sizes, 1 for none: the number of elements of a shape."""
    total: int | Dim = 1
    for extent in extents:
        total = total * extent
    return total


def _terms(value: int | Dim) -> tuple[tuple[Monomial, int], ...]:
    return value.terms if isinstance(value, Dim) else (((), value),)


def _normal(terms: Mapping[Monomial, int]) -> int | Dim:
    kept = [(monomial, c) for monomial, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    # constants last, the rest by degree and name: 2*batch + 1
    return Dim(tuple(sorted(kept, key=lambda t: (t[0] == (), -len(t[0]), str(t[0])))))


def _divide_exactly(a: int | Dim, b: int | Dim) -> int | Dim | None:
    """Term-by-term division by a single-term divisor, or None where it leaves a remainder."""
    divisors = _terms(b)
    if len(divisors) != 1:
        return None
    divisor, coefficient = divisors[0]
    quotient: dict[Monomial, int] = {}
    for monomial, c in _terms(a):
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        quotient[tuple(rest)] = c // coefficient
    return _normal(quotient)


def _names(atom: Atom) -> Iterator[str]:
    if isinstance(atom, str):
        yield atom
    else:
        yield from atom.numerator.symbols() | atom.denominator.symbols()


def _bind_atom(atom: Atom, sizes: Mapping[str, int]) -> int | Dim:
    if isinstance(atom, str):
        return sizes[atom] if atom in sizes else Dim.symbol(atom)
    return floor_divide(atom.numerator.bind(sizes), atom.denominator.bind(sizes))
