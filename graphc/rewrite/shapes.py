"""Arithmetic on shapes for the rules about views: which axes of one shape make which of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.ir.node import Node
from graphc.ir.tensor_type import static_shape

Shape = tuple[int, ...]
Group = tuple[tuple[int, ...], tuple[int, ...]]


def shape_of(node: Node) -> Shape:
    """The shape of a node of a bound graph."""
    return static_shape(node.type)


def padded(shape: Shape, ndim: int) -> Shape:
    """`shape` with unit axes before it, as broadcasting sees it."""
    return (1,) * (ndim - len(shape)) + shape


def without_leading_ones(shape: Shape) -> Shape:
    """`shape` without the unit axes before its first other one."""
    first = next((i for i, n in enumerate(shape) if n != 1), len(shape))
    return shape[first:]


def without_ones(shape: Iterable[int]) -> Shape:
    return tuple(n for n in shape if n != 1)


def dropped(shape: Sequence[int], axes: Iterable[int]) -> Shape:
    """`shape` without some of its axes."""
    gone = set(axes)
    return tuple(n for i, n in enumerate(shape) if i not in gone)


def axis_groups(old: Shape, new: Shape) -> list[Group]:
    """Runs of axes that hold the same elements in both shapes, as short as possible.

    (6, 5) and (2, 3, 1, 5): [((0,), (0, 1)), ((), (2,)), ((1,), (3,))]. Both shapes have the same,
    non-zero number of elements.
    """
    groups: list[Group] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and old[i] == 1:
            groups.append(((i,), ()))
            i += 1
            continue
        if j < len(new) and new[j] == 1:
            groups.append(((), (j,)))
            j += 1
            continue
        i, j, group = _one_group(old, new, i, j)
        groups.append(group)
    return groups


def _one_group(old: Shape, new: Shape, i: int, j: int) -> tuple[int, int, Group]:
    first_i, first_j = i, j
    have, want = old[i], new[j]
    i, j = i + 1, j + 1
    while have != want:
        if have < want:
            have *= old[i]
            i += 1
        else:
            want *= new[j]
            j += 1
    return i, j, (tuple(range(first_i, i)), tuple(range(first_j, j)))


def regrouped(source: Shape, old: Shape, new: Shape) -> Shape | None:
    """What `source`, which broadcasts to `old`, must become so that it broadcasts to `new` with the
    same elements in the same order; None where no shape will do."""
    lead = padded(source, len(old))
    result = [1] * len(new)
    for before, after in axis_groups(old, new):
        if all(lead[i] == old[i] for i in before):
            for j in after:
                result[j] = new[j]
        elif any(lead[i] != 1 for i in before):
            return None
    return tuple(result)


def reduced_groups(old: Shape, new: Shape, axes: Sequence[int]) -> Shape | None:
    """The axes of `old` that make up the reduced `axes` of `new`; None if they do not line up."""
    gone: list[int] = []
    for before, after in axis_groups(old, new):
        hit = [j for j in after if j in axes and new[j] != 1]
        if not hit:
            continue
        if len(hit) < len([j for j in after if new[j] != 1]):
            return None
        gone += before
    return tuple(gone)
