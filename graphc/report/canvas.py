"""A sheet to draw on: DOT source with safe quoting, and one style for every kind of thing drawn.

Roles differ by form and by colour (tints of the Okabe-Ito palette), so that a picture reads in
grey, too. Graphviz itself is not needed to write DOT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from graphc.ir.text import Role

NOTHING: Mapping[str, str] = MappingProxyType({})
FONT = "Helvetica,Arial,sans-serif"
GREY = "#8a8a8a"
GREEN = "#0a8f4d"
INK = "#333333"


@dataclass(frozen=True, slots=True)
class Style:
    """Form, fill and line of one kind of node."""

    shape: str
    fill: str
    line: str
    style: str = "filled"
    margin: str = "0.08,0.04"  # inches

    def attributes(self) -> dict[str, str]:
        return {
            "shape": self.shape, "style": self.style, "fillcolor": self.fill, "color": self.line,
            "margin": self.margin,
        }  # fmt: skip


STYLES: Mapping[Role, Style] = MappingProxyType({
    Role.INPUT: Style("invhouse", "#d3efdf", "#00704d"),
    Role.PARAM: Style("cylinder", "#fdeabf", "#a86f00"),
    Role.CONSTANT: Style("note", "#eeeeee", "#666666"),
    Role.FORWARD: Style("box", "#d8e9f8", "#00558c", "filled,rounded"),
    Role.BACKWARD: Style("box", "#fbdccb", "#b04a00", "filled,diagonals", "0.16,0.05"),
    Role.UPDATE: Style("component", "#eedcea", "#8a3d74"),
})  # fmt: skip
VIEW = Style("plain", "#ffffff", GREY, "")
GHOST = Style("box", "#ffffff", GREY, "dashed")
BUFFER = Style("tab", "#fff7d6", "#a86f00")
RESULT = Style("ellipse", "#d3efdf", "#00704d")
HEATS = ((0xF4, 0xF6, 0xF8), (0xFF, 0xE6, 0xA3), (0xF7, 0x9A, 0x76))  # ever darker in grey, too


Entry = tuple[str, Style, dict[str, str]]
"""A row of a legend: its word, its style, and further DOT attributes."""


def heat_color(heat: float) -> str:
    """A fill from pale grey (0) over yellow to red (1), on which ink reads well."""
    place = min(max(heat, 0.0), 1.0) * (len(HEATS) - 1)
    first = min(int(place), len(HEATS) - 2)
    mixed = (
        round(a + (b - a) * (place - first))
        for a, b in zip(HEATS[first], HEATS[first + 1], strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def visible(text: str) -> str:
    """Text on one line: what does not print is shown as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Canvas:
    """One picture. Ids are given by the caller; every label is literal text, whatever it holds."""

    def __init__(self, title: str) -> None:
        import graphviz

        self._library: Any = graphviz
        self._top: Any = graphviz.Digraph(
            graph_attr={
                "label": self.lines([title]), "labelloc": "t", "labeljust": "l", "fontsize": "20",
                "fontname": FONT, "ranksep": "0.35", "nodesep": "0.2", "newrank": "true",
            },
            node_attr={"fontname": FONT, "fontsize": "11", "fontcolor": INK, "height": "0.3"},
            edge_attr={"fontname": FONT, "fontsize": "9", "color": "#5a5a5a", "arrowsize": "0.6",
                       "fontcolor": "#5a5a5a"},
        )  # fmt: skip
        self._open: list[Any] = [self._top]

    @property
    def source(self) -> str:
        return self._top.source

    def lines(self, lines: Iterable[str], left: bool = False) -> str:
        """A label of several lines, each taken literally."""
        end = r"\l" if left else r"\n"
        # Graphviz reads &name; as a character even in plain labels
        safe = [str(self._library.escape(visible(line).replace("&", "&amp;"))) for line in lines]
        return self._library.nohtml(end.join(safe) + (end if left else ""))

    def node(
        self,
        key: str,
        lines: Sequence[str],
        style: Style,
        extra: Mapping[str, str] = NOTHING,
        left: bool = False,
    ) -> None:
        """A node with a label of several lines; `extra` are DOT attributes."""
        self._open[-1].node(key, self.lines(lines, left), **{**style.attributes(), **extra})

    def edge(
        self, tail: str, head: str, lines: Sequence[str] = (), tooltip: str = "", **extra: str
    ) -> None:
        """An edge; `tooltip` is the long form of its label."""
        if lines:
            extra["label"] = self.lines(lines)
        if tooltip:
            extra["tooltip"] = extra["labeltooltip"] = self.lines([tooltip])
        self._open[-1].edge(tail, head, **extra)

    def begin(self, key: str, lines: Sequence[str], **extra: str) -> None:
        """Open a cluster: what is drawn until `end` lies in it."""
        attributes = {"label": self.lines(lines, left=True), "labeljust": "l", "fontsize": "11"}
        self._open.append(self._library.Digraph(f"cluster_{key}", graph_attr=attributes | extra))

    def end(self) -> None:
        """Close the cluster opened last."""
        done = self._open.pop()
        self._open[-1].subgraph(done)

    def legend(self, entries: Iterable[Entry]) -> None:
        """A small box that shows each form used, with a word beside it."""
        self.begin("legend", ["legend"], color="#cccccc", fontcolor=GREY, fontsize="9")
        for i, (caption, style, extra) in enumerate(entries):
            self.node(f"legend{i}", [caption], style, {"fontsize": "9", **extra})
        self.end()
