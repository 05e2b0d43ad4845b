"""Timing: alternating rounds of several contestants, so that all see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

ROUND_SECONDS = 0.02  # a round is long enough for the clock, short enough for many rounds
MIN_ROUNDS, MAX_ROUNDS = 7, 60


class ContestantError(Exception):
    """A contestant cannot go on; the message says why in a line."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        ordered = sorted(seconds)
        quarter = len(ordered) // 4
        return Timing(median(ordered), ordered[quarter], ordered[-1 - quarter])


def alternate(
    turns: Mapping[str, Callable[[int], float]], once: Mapping[str, float], seconds: float = 2.0
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds per call of each contestant in each round; and who dropped out, with the reason.

    `turns[name](calls)` makes so many calls and returns the seconds that one took; `once` says
    about how long a call takes. Each round takes all in turn, every second one backwards, and as
    many rounds are made as fit into `seconds` for the slowest. Whoever raises ContestantError is
    left out from then on.
    """
    if not turns:
        return {}, {}
    calls = {name: max(1, round(ROUND_SECONDS / max(once[name], 1e-9))) for name in turns}
    longest = max(once[name] * calls[name] for name in turns)
    rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / longest)))
    found: dict[str, list[float]] = {name: [] for name in turns}
    failed: dict[str, str] = {}
    for i in range(rounds):
        for name in list(found)[:: 1 if i % 2 == 0 else -1]:
            try:
                found[name].append(turns[name](calls[name]))
            except ContestantError as error:
                failed[name] = str(error)
                del found[name]
    return found, failed


def ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median over rounds of our time divided by the reference's in the same round."""
    return median(a / b for a, b in zip(ours, reference, strict=True))
