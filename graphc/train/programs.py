"""Executables that are kept as long as they would be made of the same things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Programs:
    """Executables by name. They belong to a graph, and are dropped with it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Any], Any]] = {}

    def get(self, name: str, made_of: list[Any], make: Callable[[], Any]) -> Any:
        """That of this name, made anew if it was made of other objects than these."""
        if name not in self._kept or not are_same(self._kept[name][0], made_of):
            self._kept[name] = (made_of, make())
        return self._kept[name][1]

    def clear(self) -> None:
        """Make anew what is needed next."""
        self._kept.clear()


def are_same(have: Sequence[Any], want: Sequence[Any]) -> bool:
    """Whether both hold the same objects; `==` of nodes would build a node."""
    return len(have) == len(want) and all(a is b for a, b in zip(have, want, strict=True))
