"""Sums of products over named axes: einsum, tensordot, outer, dot. All become transposes, reshapes,
sums and one matrix product.

A factor is a node with one label per axis. Two factors are joined in three steps: sum out what only
one of them has; sort the axes into batch, free and contracted ones; multiply as matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.build import as_node, normalise_axes, promote
from graphc.ir.dim import Dim, product
from graphc.ir.node import Node, Operand, explain
from graphc.ir.op import F, composite

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Factor:
    """A node and the label of each of its axes."""

    node: Node
    labels: Labels

    def size(self, label: str) -> int | Dim:
        return self.node.shape[self.labels.index(label)]

    def sizes(self, labels: Labels) -> tuple[int | Dim, ...]:
        return tuple(self.size(label) for label in labels)


@composite
def einsum(subscripts: str, *operands: Operand) -> Node:
    """NumPy's einsum of one or two operands, such as `einsum("ij,jk->ik", a, b)`.

    A label repeated within an operand takes the diagonal; `...` stands for any leading axes. Raises
    ShapeError for malformed subscripts and sizes that disagree.
    """
    if not isinstance(subscripts, str) or len(operands) not in (1, 2):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ShapeError(explain("einsum", "takes a str of subscripts and one or two operands", ()))
    nodes = promote("einsum", operands)
    terms, result = _parse(subscripts.replace(" ", ""), nodes)
    factors = [_diagonal(Factor(n, t)) for n, t in zip(nodes, terms, strict=True)]
    if len(factors) == 1:
        return _arrange(_sum_out(factors[0], result), result).node
    return _contract(_agree(factors[0], factors[1], nodes), result).node


@composite
def tensordot(a: Operand, b: Operand, axes: int | Sequence[int | Sequence[int]] = 2) -> Node:
    """The sum of products over axes of `a` and axes of `b`: an int n takes the last n of `a` and
    the first n of `b`, a pair of sequences names them."""
    x, y = promote("tensordot", [a, b])
    pairs = _pairs(x, y, axes)
    shared = {j: f"a{i}" for i, j in pairs}
    left = Factor(x, tuple(f"a{i}" for i in range(x.ndim)))
    right = Factor(y, tuple(shared.get(j, f"b{j}") for j in range(y.ndim)))
    for label in shared.values():
        if left.size(label) != right.size(label):
            raise ShapeError(explain("tensordot", f"sizes of paired axes differ: {pairs}", [x, y]))
    result = tuple(n for n in left.labels + right.labels if n not in shared.values())
    return _contract((left, right), result).node


def _pairs(x: Node, y: Node, axes: Any) -> list[tuple[int, int]]:
    """The axes of x and y that are summed together."""
    if isinstance(axes, int | np.integer):
        count = int(axes)
        if not 0 <= count <= min(x.ndim, y.ndim):
            raise ShapeError(explain("tensordot", f"axes {axes} are more than there are", [x, y]))
        return [(x.ndim - count + i, i) for i in range(count)]
    given: list[Any] = list(axes) if isinstance(axes, Sequence | np.ndarray) else []
    if len(given) != 2:
        raise ShapeError(
            explain("tensordot", f"axes {axes!r}: need an int, or a pair: axes of the left operand "
                    "and axes of the right one", [x, y])
        )  # fmt: skip
    first, second = (list[Any](np.atleast_1d(n)) for n in given)
    normalise_axes("tensordot", first, x.ndim, [x])
    normalise_axes("tensordot", second, y.ndim, [y])
    if len(first) != len(second):
        raise ShapeError(explain("tensordot", f"axes {axes} do not pair up", [x, y]))
    return [(int(i) % x.ndim, int(j) % y.ndim) for i, j in zip(first, second, strict=True)]


@composite
def outer(a: Operand, b: Operand) -> Node:
    """The products of all pairs: `a` and `b` are flattened, out[i, j] = a[i] b[j]."""
    x, y = as_node(a), as_node(b)
    return x.reshape((product(x.shape), 1)) * y.reshape((1, product(y.shape)))


@composite
def dot(a: Operand, b: Operand) -> Node:
    """NumPy's dot: a product for scalars, else the sum over the last axis of `a` and the last but
    one of `b` (the last of a vector)."""
    x, y = as_node(a), as_node(b)
    if x.ndim == 0 or y.ndim == 0:
        return x * y
    if x.ndim <= 2 and y.ndim <= 2:
        return x @ y
    return tensordot(x, y, ((x.ndim - 1,), (max(y.ndim - 2, 0),)))


# -- reading subscripts


def _parse(subscripts: str, nodes: Sequence[Node]) -> tuple[list[Labels], Labels]:
    inputs, arrow, output = subscripts.partition("->")
    parts = inputs.split(",")
    if len(parts) != len(nodes):
        raise ShapeError(
            explain("einsum", f"{subscripts!r} has {len(parts)} terms; need {len(nodes)}", nodes)
        )
    terms = [_labels(part, n, nodes) for part, n in zip(parts, nodes, strict=True)]
    rest = max((t for term in terms if (t := _dots(term))), key=len, default=())
    if arrow:
        head, dots, tail = output.partition("...")
        result = (*head, *(rest if dots else ()), *tail)
    else:  # implicit: the labels that occur once, sorted
        everything = [label for term in terms for label in term]
        result = (
            *rest,
            *sorted(n for n in set(everything) - set(rest) if everything.count(n) == 1),
        )
    known = {label for term in terms for label in term}
    if len(set(result)) < len(result) or not known.issuperset(result):
        raise ShapeError(
            explain("einsum", f"{subscripts!r}: each label of the result must occur once there and "
                    "be one of the operands'", nodes)
        )  # fmt: skip
    return terms, result


def _labels(term: str, node: Node, nodes: Sequence[Node]) -> Labels:
    """One label per axis; the axes under `...` are called .1, .2, ... from the last one back."""
    head, dots, tail = term.partition("...")
    hidden = node.ndim - len(head) - len(tail)
    if hidden < 0 or (hidden and not dots) or (not (head + tail).isalpha() and head + tail):
        raise ShapeError(
            explain("einsum", f"term {term!r} needs one letter for each axis of {node.type}", nodes)
        )
    return (*head, *(f".{i}" for i in range(hidden, 0, -1)), *tail)


def _dots(labels: Labels) -> Labels:
    return tuple(n for n in labels if n.startswith("."))


# -- joining factors


def _diagonal(x: Factor) -> Factor:
    """Labels made unique: x[i, i] for a label that stands twice."""
    for label in x.labels:
        while x.labels.count(label) > 1:
            first = x.labels.index(label)
            second = x.labels.index(label, first + 1)
            shape = x.node.shape
            if shape[first] != shape[second]:
                raise ShapeError(explain("einsum", f"sizes of {label!r} differ", [x.node]))
            here = F.iota(shape, first) == F.iota(shape, second)
            node = F.where(here, x.node, 0).sum(second)
            x = Factor(node, x.labels[:second] + x.labels[second + 1 :])
    return x


def _agree(a: Factor, b: Factor, nodes: Sequence[Node]) -> tuple[Factor, Factor]:
    """Unit axes dropped where the other factor has the full size; other sizes must be equal."""
    for label in a.labels:
        if label not in b.labels or a.size(label) == b.size(label):
            continue
        if a.size(label) == 1:
            a = _sum_label(a, label)
        elif b.size(label) == 1:
            b = _sum_label(b, label)
        else:
            sizes = f"{a.size(label)} and {b.size(label)}"
            raise ShapeError(explain("einsum", f"sizes of {label!r} differ: {sizes}", nodes))
    return a, b


def _sum_label(x: Factor, label: str) -> Factor:
    return _sum_out(x, tuple(n for n in x.labels if n != label))


def _sum_out(x: Factor, kept: Labels) -> Factor:
    """Summed over the axes whose labels are not kept."""
    axes = [i for i, label in enumerate(x.labels) if label not in kept]
    return Factor(x.node.sum(axes), tuple(n for n in x.labels if n in kept)) if axes else x


def _arrange(x: Factor, labels: Labels) -> Factor:
    """The axes in another order."""
    return Factor(x.node.transpose(tuple(x.labels.index(n) for n in labels)), labels)


def _contract(factors: tuple[Factor, Factor], result: Labels) -> Factor:
    a = _sum_out(factors[0], factors[1].labels + result)
    b = _sum_out(factors[1], factors[0].labels + result)
    batch = tuple(n for n in a.labels if n in b.labels and n in result)
    inner = tuple(n for n in a.labels if n in b.labels and n not in result)
    left = tuple(n for n in a.labels if n not in b.labels)
    right = tuple(n for n in b.labels if n not in a.labels)
    lead = a.sizes(batch)
    m, k, n = product(a.sizes(left)), product(a.sizes(inner)), product(b.sizes(right))
    rows = _arrange(a, batch + left + inner).node.reshape((*lead, m, k))
    columns = _arrange(b, batch + inner + right).node.reshape((*lead, k, n))
    joined = rows @ columns if inner else rows * columns  # [lead, m, 1] * [lead, 1, n]
    shape = (*lead, *a.sizes(left), *b.sizes(right))
    return _arrange(Factor(joined.reshape(shape), batch + left + right), result)
