"""Threads over the blocks of a large kernel. NumPy's ufuncs release the interpreter's lock."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_pool: ThreadPoolExecutor | None = None


def available_threads() -> int:
    """The cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def quiet_context() -> contextvars.Context:
    """A context in which NumPy gives no warnings: NaN and inf are values like others."""
    context = contextvars.copy_context()
    context.run(np.seterr, all="ignore")
    return context


def run_in_turn(block: Callable[[int, int, int], None], extent: int, step: int) -> None:
    """Call `block(lo, hi, 0)` for every block of `step` rows out of `extent`, in this thread."""
    for lo in range(0, extent, step):
        block(lo, min(lo + step, extent), 0)


class Team:
    """Runs a block function over all blocks, each block once, in whatever thread is free.

    Which thread takes a block changes nothing: blocks are cut at fixed places and write to places
    of their own, so that results are the same bits for any number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.contexts = [quiet_context() for _ in range(threads)]

    def run(self, block: Callable[[int, int, int], None], extent: int, step: int) -> None:
        """Call `block(lo, hi, worker)` for every block of `step` rows out of `extent`."""
        starts = iter(range(0, extent, step))
        workers = min(self.threads, -(-extent // step))
        others = [
            _executor().submit(self.contexts[w].run, _drain, block, starts, extent, step, w)
            for w in range(1, workers)
        ]
        try:
            _drain(block, starts, extent, step, 0)
        finally:
            for other in others:
                other.result()


def _drain(
    block: Callable[[int, int, int], None],
    starts: Iterator[int],
    extent: int,
    step: int,
    worker: int,
) -> None:
    for lo in starts:  # `next` on a range iterator is atomic under the interpreter's lock
        block(lo, min(lo + step, extent), worker)


def _executor() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor  # where there is work for threads

        _pool = ThreadPoolExecutor(max(1, available_threads()), thread_name_prefix="graphc")
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a child has the pool's record but not its threads
    os.register_at_fork(after_in_child=_forget_pool)
