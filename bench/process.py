"""The parent's side of a contestant: its process, what it answers, and how it fails.

A process of its own for each means that thread pools do not meet, that no library sees the settings
or the memory of another, and that one that dies takes nothing with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any

import numpy as np

import graphc as gx

from .contestants import Contestant
from .measure import ContestantError

START_SECONDS = 900  # torch.compile and PyTensor may compile for minutes on a slow machine
TURN_SECONDS = 300
LINE = 200  # characters of an error that are shown

WORKER = """
import numpy
from time import perf_counter as now
begin = now()
import graphc
seconds = now() - begin
from graphc.resources import load_bench
load_bench()
from graphc_bench.worker import main
main(seconds)
"""


class Worker:
    """A contestant in its process, ready to be timed; a context manager that ends the process.

    `report` is what the worker said of its beginnings, `results` what its first steps gave.
    Raises ContestantError, here and in `turn`, with the last line of what went wrong.
    """

    def __init__(
        self,
        contestant: Contestant,
        case: str,
        results: Path | None = None,
        environment: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> None:
        self._results = results
        self.others: dict[str, list[float]] = {}  # what else a turn has measured, by name
        self.restless = False  # whether its threads went on spinning after a turn
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in close()
        job = {
            "case": case, "make": contestant.make, "options": dict(contestant.options),
            "needs": contestant.needs, "results": str(results) if results else "",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(job)],
            env=user_environment({**contestant.environment, **(environment or {})}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        try:
            self.report: dict[str, Any] = json.loads(self._answer(patience or START_SECONDS))
        except BaseException:
            self.close()
            raise

    def results(self) -> dict[str, np.ndarray]:
        """Outputs and parameters after the first steps."""
        assert self._results is not None
        with np.load(self._results) as found:
            return dict(found)

    def turn(self, calls: int) -> float:
        """Seconds per step of so many calls, after one that is not timed."""
        pipe = self._process.stdin
        assert pipe is not None
        with suppress(OSError):  # it may have died since; the answer says how
            pipe.write(f"{calls}\n")
            pipe.flush()
        answer: dict[str, Any] = json.loads(self._answer(TURN_SECONDS))
        self.restless |= not answer.pop("asleep")
        seconds = answer.pop("seconds")
        for name, other in answer.items():
            self.others.setdefault(name, []).append(other)
        return seconds

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was written to a dead process
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _answer(self, seconds: float) -> str:
        assert self._process.stdout is not None
        late: list[bool] = []

        def expire() -> None:
            late.append(True)
            self._process.kill()

        alarm = Timer(seconds, expire)
        alarm.daemon = True
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if line:
            return line
        status = self._process.wait()
        raise ContestantError(f"no answer in {seconds:g} s" if late else self._why(status))

    def _why(self, status: int) -> str:
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        return last_line(text) or f"its process ended with status {status}"


def last_line(text: str) -> str:
    """The last line of an error that says something, cut to what a table can show."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1] if len(lines[-1]) <= LINE else lines[-1][: LINE - 3] + "..."


def fresh(program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints in a process of its own; GraphcError with its error if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=user_environment(environment or {}), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise gx.GraphcError(f"bench: a fresh process failed:\n{done.stderr}")
    return done.stdout


def user_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with byte code cached, as it is for users, and `extra`."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **extra}
