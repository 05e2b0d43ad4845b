"""Where the time of a call goes: the seconds of each kernel, held against what the machine can do.

The seconds come from the backend's runner, whatever its clock is; nothing here measures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from graphc.report.dot_graph import Heat, schedule_dot
from graphc.report.notation import (
    duration_text,
    flops_text,
    kernel_nodes,
    nbytes_text,
    percent_text,
)
from graphc.schedule.records import Kernel, Schedule

COLUMNS = 100
LONGEST_NAME = 31  # characters of a kernel's name in a table of so many columns
PROCESS, THREAD = 1, 1  # numbers in a trace; any will do


@dataclass(frozen=True)
class KernelProfile:
    """One kernel's time. `runs`: its seconds in each run; `share`: of the time of all kernels;
    `peak_flops_per_second` and `peak_bytes_per_second`: what the machine reaches at most."""

    kernel: Kernel
    runs: tuple[float, ...]
    share: float
    peak_flops_per_second: float
    peak_bytes_per_second: float

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def flops(self) -> int:
        return self.kernel.flops

    @property
    def nbytes(self) -> int:
        return self.kernel.nbytes

    @cached_property
    def quartiles(self) -> tuple[float, float, float]:
        """Seconds: the first quartile, the median and the third over all runs."""
        low, middle, high = np.quantile(self.runs, (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)

    @property
    def seconds(self) -> float:
        """The median over all runs."""
        return self.quartiles[1]

    @property
    def flops_per_second(self) -> float:
        return _per_second(self.flops, self.seconds)

    @property
    def bytes_per_second(self) -> float:
        return _per_second(self.nbytes, self.seconds)

    @property
    def bound(self) -> str:
        """What the machine needs more time for at its peak: "flops" or "bytes"."""
        return "flops" if self._flops_seconds >= self._bytes_seconds else "bytes"

    @property
    def peak_share(self) -> float:
        """The time that the machine needs at its peak rates, by the time taken (roofline model,
        Williams, Waterman and Patterson 2009). Above 1 where a cache beats main memory."""
        return _per_second(max(self._flops_seconds, self._bytes_seconds), self.seconds)

    @property
    def _flops_seconds(self) -> float:
        return self.flops / self.peak_flops_per_second

    @property
    def _bytes_seconds(self) -> float:
        return self.nbytes / self.peak_bytes_per_second

    def __repr__(self) -> str:
        return f"<kernel {self.name}: {duration_text(self.seconds)}, {percent_text(self.share)}>"


@dataclass(frozen=True)
class Profile:
    """The time of a program, kernel by kernel; `str` and `print` show it as a table.

    `runs`: for each kernel of the schedule, its seconds in each run; `calls`: seconds of ordinary
    calls with the same inputs; the peaks: a float32 product of matrices, and a large copy, on
    `peak_device`.
    """

    name: str
    backend: str
    schedule: Schedule
    runs: tuple[tuple[float, ...], ...]
    calls: tuple[float, ...]
    peak_flops_per_second: float
    peak_bytes_per_second: float
    peak_device: str

    @cached_property
    def kernels(self) -> tuple[KernelProfile, ...]:
        """The kernels in order."""
        peaks = self.peak_flops_per_second, self.peak_bytes_per_second
        medians = [float(np.median(runs)) for runs in self.runs]
        total = sum(medians)
        return tuple(
            KernelProfile(kernel, runs, seconds / total if total else 0.0, *peaks)
            for kernel, runs, seconds in zip(self.schedule.kernels, self.runs, medians, strict=True)
        )

    @property
    def seconds(self) -> float:
        """The time of all kernels: the sum of their medians."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def call_seconds(self) -> float:
        """The median time of an ordinary call, which takes no times within."""
        return float(np.median(self.calls))

    @property
    def overhead_seconds(self) -> float:
        """What a call takes beside its kernels: to check and place inputs, to launch, to make
        results. Negative where kernels that follow each other unwatched are faster."""
        return self.call_seconds - self.seconds

    def table(self) -> str:
        """At most 100 columns: a row for each kernel in order, the total, and an ordinary call."""
        width = max([len("a call"), *(len(k.name) for k in self.kernels)])
        width = min(LONGEST_NAME, max(width, len(self._total_title)))
        rows = [
            f"{self.name} on {self.backend}: {len(self.calls)} runs",
            _row(width, "kernel", "median", "quartiles", "share", "FLOP/s", "bytes/s", "of peak"),
            *(self._kernel_row(width, kernel) for kernel in self.kernels),
            self._total_row(width),
            _row(width, "a call", duration_text(self.call_seconds)) + f"  {self._overhead_text()}",
            f"peak of {self.peak_device}: "
            f"{_rate(flops_text, self.peak_flops_per_second)} in a float32 product, "
            f"{_rate(nbytes_text, self.peak_bytes_per_second)} in a copy",
        ]
        return "\n".join(row[:COLUMNS].rstrip() for row in rows) + "\n"

    def to_dot(self) -> str:
        """DOT source of the fused schedule; the more time a kernel takes, the hotter its colour."""
        hottest = max([k.share for k in self.kernels], default=0.0) or 1.0
        heats = [
            Heat(
                k.share / hottest,
                f"{percent_text(k.share)} of the time",
                f"{duration_text(k.seconds)}, {percent_text(k.share)} of the time, "
                f"{percent_text(k.peak_share)} of peak",
            )
            for k in self.kernels
        ]
        title = f"{self.name} on {self.backend} in {duration_text(self.seconds)}"
        return schedule_dot(self.schedule, None, title, heats)

    def chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the trace-event JSON that Perfetto (ui.perfetto.dev) and chrome://tracing open: an
        event for each kernel and run. Run follows run; the gaps between kernels are left out."""
        record = {"traceEvents": self._events(), "displayTimeUnit": "ns"}
        Path(path).write_text(json.dumps(record, allow_nan=False), encoding="utf-8")

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"<profile of {self.name} on {self.backend}: {len(self.kernels)} kernels, "
            f"{duration_text(self.seconds)}>"
        )

    # -- rows

    @property
    def _total_title(self) -> str:
        return f"total of {len(self.kernels)} kernels"

    def _kernel_row(self, width: int, kernel: KernelProfile) -> str:
        low, middle, high = kernel.quartiles
        return _row(
            width, kernel.name, duration_text(middle),
            f"{duration_text(low)} .. {duration_text(high)}", percent_text(kernel.share),
            _rate(flops_text, kernel.flops_per_second), _rate(nbytes_text, kernel.bytes_per_second),
            f"{percent_text(kernel.peak_share)} {kernel.bound}",
        )  # fmt: skip

    def _total_row(self, width: int) -> str:
        flops, nbytes = (sum(getattr(k, n) for k in self.kernels) for n in ("flops", "nbytes"))
        return _row(
            width, self._total_title, duration_text(self.seconds), "", percent_text(1.0),
            _rate(flops_text, _per_second(flops, self.seconds)),
            _rate(nbytes_text, _per_second(nbytes, self.seconds)),
        )  # fmt: skip

    def _overhead_text(self) -> str:
        outside = self.overhead_seconds
        if outside < 0:
            return f"{duration_text(-outside)} less than its kernels one by one"
        share = _per_second(outside, self.call_seconds)
        return f"{duration_text(outside)} of it outside the kernels ({percent_text(share)})"

    # -- the trace

    def _events(self) -> list[dict[str, Any]]:
        events = [
            _naming("process_name", f"{self.name} on {self.backend}"),
            _naming("thread_name", "kernels"),
        ]
        now = 0.0
        for run in range(len(self.calls)):
            for kernel in self.kernels:
                events.append(_event(kernel, run, now))
                now += kernel.runs[run]
        return events


def _naming(kind: str, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": PROCESS, "tid": THREAD, "args": {"name": name}}


def _event(kernel: KernelProfile, run: int, start: float) -> dict[str, Any]:
    """A complete event ("X"); its times are microseconds."""
    return {
        "name": kernel.name, "cat": kernel.kernel.form, "ph": "X",
        "ts": start * 1e6, "dur": kernel.runs[run] * 1e6, "pid": PROCESS, "tid": THREAD,
        "args": {
            "flops": kernel.flops, "nbytes": kernel.nbytes,
            "ops": [node.op.name for node in kernel_nodes(kernel.kernel)], "run": run,
        },
    }  # fmt: skip


def _per_second(amount: float, seconds: float) -> float:
    """A rate; 0 where a clock too coarse saw no time pass."""
    return amount / seconds if seconds else 0.0


def _rate(text: Any, per_second: float) -> str:
    return f"{text(round(per_second))}/s"


def _row(width: int, name: str, *cells: str) -> str:
    name = name if len(name) <= width else name[: width - 2] + ".."
    widths: Sequence[int] = (7, 17, 5, 12, 10, 11)
    padded = [f"{cell:>{n}}" for cell, n in zip(cells, widths, strict=False)]
    return " ".join([f"{name:<{width}}", *padded])
