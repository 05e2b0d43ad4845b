"""The table of all ops as Markdown, generated from their records: `docs/ops.md`.

`python -m graphc.report.op_table > docs/ops.md` writes the page; a test compares the two.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any

from graphc.ir.op import FUNCTIONS, OPS, Kind, Op

HEAD = """# The ops

Generated from the op records by `python -m graphc.report.op_table > docs/ops.md`. An op is one
declaration (see `docs/adding_an_op.md`); passes know its kind and its record, never its name.

- **derivative**: for which operands there is a rule.
- **cost**: the time of one element, in multiplies.
- **flags**: `commutative`; of a reduction the ufunc that joins partial results and the value over
  no elements; `resolved`: it takes another form when the graph is bound.
"""

TITLES = {
    Kind.SOURCE: "Sources: no operands",
    Kind.ELEMENTWISE: "Elementwise",
    Kind.REDUCTION: "Reductions",
    Kind.CONTRACTION: "Contractions",
    Kind.VIEW: "Views: index maps without arithmetic",
    Kind.JOIN: "Joins: several pieces in one buffer",
    Kind.RANDOM: "Random draws",
    Kind.GATHER: "Gathers",
}


def op_table_markdown() -> str:
    """The page: one table of ops for each kind, and one of the functions made of ops."""
    parts = [HEAD]
    for kind, title in TITLES.items():
        parts.append(f"\n## {title}\n")
        rows = [_op_row(op) for op in _sorted(OPS.values()) if op.kind is kind]
        parts.append(_table(("op", "formula", "derivative", "cost", "flags"), rows))
    parts.append("\n## Functions made of ops\n")
    composites = [f for f in FUNCTIONS.values() if not isinstance(f, Op)]
    parts.append(
        _table(("function", "what it is"), [_function_row(f) for f in _sorted(composites)])
    )
    return "\n".join(parts)


def _sorted(functions: Iterable[Any]) -> list[Any]:
    return sorted(functions, key=lambda f: f.__name__)


def _op_row(op: Op[...]) -> tuple[str, ...]:
    return (_code(_call(op)), _code(op.formula), _derivative(op), f"{op.cost:g}", _flags(op))


def _function_row(function: Callable[..., Any]) -> tuple[str, ...]:
    summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return (_code(_call(function)), _plain(summary))


def _call(function: Any) -> str:
    """The name with its parameters, without types."""
    parameters = [
        p.replace(annotation=p.empty)
        for p in inspect.signature(function).parameters.values()
        if p.kind is not p.POSITIONAL_ONLY
    ]
    operands = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.POSITIONAL_ONLY
    ]
    return f"{function.__name__}({', '.join([*operands, *map(str, parameters)])})"


def _derivative(op: Op[...]) -> str:
    if callable(op.vjp):
        return "all"
    return ", ".join(str(i) for i in sorted(op.vjp)) or "none"


def _flags(op: Op[...]) -> str:
    flags = ["commutative"] if op.commutative else []
    flags += [f"`{op.combine}`"] if op.combine else []
    flags += [f"empty: {op.identity:g}"] if op.identity is not None else []
    flags += ["resolved"] if op.resolve else []
    return ", ".join(flags)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _code(text: str) -> str:
    return f"`{_plain(text)}`"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(op_table_markdown())
