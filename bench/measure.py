"""Timing: alternating rounds of several contestants, so that all see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

ROUND_SECONDS = 0.02  # a round is long enough for the clock, short enough for many rounds
MIN_ROUNDS, MAX_ROUNDS = 7, 60


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
    steps: Mapping[str, Callable[[], Any]], seconds: float = 2.0
) -> dict[str, list[float]]:
    """Seconds per call of each step in each round.

    How many calls make a round, and how many rounds fit into `seconds` for each step, is found by a
    warm-up of every step. Each round takes all steps in turn, every second one backwards. A turn
    begins with a call that is not timed: the step before has filled the caches with its own arrays,
    which no training loop does.
    """
    calls = {name: _calls_per_round(step) for name, step in steps.items()}
    one = max(_time(step, calls[name]) * calls[name] for name, step in steps.items())
    rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, int(seconds / one)))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            steps[name]()
            found[name].append(_time(steps[name], calls[name]))
    return found


def ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """The median over rounds of our time divided by the reference's in the same round."""
    return median(a / b for a, b in zip(ours, reference, strict=True))


def _calls_per_round(step: Callable[[], Any]) -> int:
    step()
    once = min(_time(step, 1) for _ in range(3))
    return max(1, round(ROUND_SECONDS / max(once, 1e-9)))


def _time(step: Callable[[], Any], calls: int) -> float:
    begin = perf_counter()
    for _ in range(calls):
        step()
    return (perf_counter() - begin) / calls
