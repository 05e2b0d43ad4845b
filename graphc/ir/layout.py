"""Where the elements of a view lie in the buffer below it: an offset and one stride per axis.

Strides and offsets count elements; stride 0 repeats an element; unit axes always have stride 0, so
that two layouts of one shape that address the same elements are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from graphc.ir.dim import Extent, origins


@dataclass(frozen=True, slots=True)
class Layout:
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Row-major from the buffer's first element, without gaps."""
        return self.offset == 0 and self.strides == contiguous_strides(self.shape)


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides; 0 for unit axes."""
    return _contiguous_strides(shape, origins(shape) if Extent.exist else None)


@lru_cache(maxsize=4096)
def _contiguous_strides(shape: tuple[int, ...], _origins: Any) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(0 if extent == 1 else step)
        step *= extent
    return tuple(reversed(strides))


def contiguous(shape: tuple[int, ...]) -> Layout:
    """The layout of a buffer of its own."""
    return Layout(shape, 0, contiguous_strides(shape))


def strided(shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> Layout:
    """A layout with unit axes normalised."""
    return Layout(
        shape, offset, tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True))
    )


def reshape_layout(layout: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The same elements, in order, under another shape, or None where that needs a copy (or where
    the numbers of elements differ)."""
    if prod(layout.shape) != prod(shape):
        return None
    if 0 in shape:
        return contiguous(shape)
    old = [(n, s) for n, s in zip(layout.shape, layout.strides, strict=True) if n != 1]
    strides = [0] * len(shape)
    i = j = 0
    while i < len(old) and j < len(shape):
        if shape[j] == 1:
            j += 1
            continue
        first_i, first_j, have, want = i, j, old[i][0], shape[j]
        while have != want:  # grow the smaller side until both cover the same elements
            if have < want:
                i += 1
                have *= old[i][0]
            else:
                j += 1
                want *= shape[j]
        for k in range(first_i, i):  # the old axes of the run must be one straight line
            if old[k][1] != old[k + 1][0] * old[k + 1][1]:
                return None
        step = old[i][1]
        for k in range(j, first_j - 1, -1):
            strides[k] = step
            step *= shape[k]
        i, j = i + 1, j + 1
    return strided(shape, layout.offset, tuple(strides))
