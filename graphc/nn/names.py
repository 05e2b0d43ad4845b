"""Parameters by name: those that patterns choose, and what of a file fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import graphc as gx


@dataclass(frozen=True)
class LoadReport:
    """What `load` found: names of parameters, and for misshapen ones (in the file, needed)."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: dict[str, tuple[str, str]]

    @property
    def complete(self) -> bool:
        """Whether the file and the model hold the same parameters."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        wrong = [f"{n} is {have}, need {need}" for n, (have, need) in self.misshapen.items()]
        rows = {
            "matched": self.matched, "missing": self.missing, "unexpected": self.unexpected,
            "misshapen": wrong,
        }  # fmt: skip
        return "; ".join(f"{k}: {', '.join(names) or 'none'}" for k, names in rows.items())


def match(names: Any, patterns: Sequence[str]) -> list[str]:
    """The names that match any of the patterns, in their order; InputError if one matches none."""
    if (
        not isinstance(patterns, Sequence)
        or not patterns
        or not all(isinstance(p, str) for p in patterns)
    ):
        raise gx.InputError(
            f"patterns {patterns!r}: need some over names, such as 'layers.0*', or '*' for all"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise gx.InputError(
                f"pattern {pattern!r} matches no parameter; there are {', '.join(names) or 'none'}"
            )
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


def compare(params: dict[str, gx.Param], tensors: dict[str, Any]) -> LoadReport:
    """What of the tensors fits the parameters of the same names."""
    common = [name for name in params if name in tensors]
    misshapen = {
        n: (_describe(tensors[n]), _describe(params[n]))
        for n in common
        if tensors[n].shape != params[n].shape or not _is_float(tensors[n].dtype)
    }
    return LoadReport(
        tuple(n for n in common if n not in misshapen),
        tuple(n for n in params if n not in tensors),
        tuple(sorted(n for n in tensors if n not in params)),
        misshapen,
    )


def _is_float(dtype: Any) -> bool:
    return dtype.name in ("float16", "bfloat16", "float32", "float64")


def _describe(array: Any) -> str:
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"
