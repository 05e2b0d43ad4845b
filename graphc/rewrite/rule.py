"""A rule: a pattern, what it becomes, under which condition, and what that keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from graphc.ir.build import as_node
from graphc.ir.node import Node
from graphc.rewrite.pattern import Found, Pattern

Keeps = Literal["bits", "value", "nothing"]


class Match:
    """What a pattern found: `node` is the whole, wildcards are attributes (`m.x`)."""

    __slots__ = ("_found", "node")

    def __init__(self, node: Node, found: Found) -> None:
        self.node = node
        self._found = found

    def __getattr__(self, name: str) -> Any:
        return self._found[name]

    @property
    def found(self) -> Found:
        return self._found


Build = Callable[[Match], Node | None]


@dataclass(frozen=True, eq=False, slots=True)
class Rule:
    """`pattern` becomes `replacement`: a pattern, a number, or a function of the match that gives
    the new node, or None where the rule does not apply after all.

    `keeps`: "bits" (the same bits for every number, inf and -0 included; NaN stays NaN, but its
    sign and payload are not promised), "value" (equal up to rounding, or nearer to the exact
    value), "nothing" (off unless asked for by name). `doc`: one line for the table of rules.
    """

    name: str
    pattern: Pattern
    replacement: Pattern | float | Build
    when: Callable[[Match], bool] | None
    keeps: Keeps
    doc: str

    def build(self, match: Match) -> Node | None:
        """The node that replaces the match."""
        if isinstance(self.replacement, Pattern):
            return self.replacement.instantiate(match.found)
        if callable(self.replacement):
            return self.replacement(match)
        return as_node(self.replacement, match.node.dtype).broadcast_to(match.node.shape)


def bits(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None, keeps: Keeps = "bits",
) -> Rule:  # fmt: skip
    """A rule that keeps every bit."""
    return Rule(name, pattern, replacement, when, keeps, doc)


def value(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None,
) -> Rule:  # fmt: skip
    """A rule that keeps the value, or brings it nearer to the exact one."""
    return bits(name, pattern, replacement, doc, when, "value")


def nothing(
    name: str, pattern: Pattern, replacement: Pattern | float | Build, doc: str = "",
    when: Callable[[Match], bool] | None = None,
) -> Rule:  # fmt: skip
    """A rule that holds in algebra only: off by default."""
    return bits(name, pattern, replacement, doc, when, "nothing")
