"""An interrupt of a program on a device: parameters and counts are those of whole steps."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.backends.cuda import ways
from graphc.backends.cuda.emulated_memory import PAGE, Memory, Pages
from graphc.backends.cuda.emulated_module import Kernel

STEPS = 20


@pytest.fixture(params=["replayed", "direct"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test both ways, whatever the sizes."""
    monkeypatch.setattr(ways, "COPIED", 1 << 40 if request.param == "replayed" else -1)
    monkeypatch.setattr(ways, "SHARE", 1 << 60)
    return request.param


@contextmanager
def interrupted(target: Any, name: str, at: int) -> Generator[list[int]]:
    """An interrupt comes when a method is called for the `at`-th time; counts the calls."""
    calls, before = [0], getattr(target, name)

    def called(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGINT)
        return before(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, called)
        yield calls


class Walk:
    """Parameters that move by draws, and one that counts the steps; several launches each."""

    def __init__(self, backend: str) -> None:
        self.p = gx.param("p", np.zeros(3, "float32"))
        self.q = gx.param("q", np.zeros((4, 5), "float32"))
        self.count = gx.param("count", np.zeros((), "int32"))
        x, drawn = gx.input("x", (3,)), gx.random_uniform((3,))
        updates = {
            self.p: self.p * 0.5 + x + drawn,
            self.q: self.q + self.p.sum() + self.q.sum(0),
            self.count: self.count + 1,
        }
        self.exe = gx.compile(drawn, updates=updates, backend=backend, seed=5)
        self.x = np.arange(3 * STEPS, dtype="float32").reshape(STEPS, 3)

    def state(self) -> list[bytes]:
        return [param.value.tobytes() for param in (self.p, self.q, self.count)]

    def steps_done(self) -> int:
        return int(self.count.value)


def states(backend: str) -> list[list[bytes]]:
    """After each number of steps, by calls alone."""
    walk = Walk(backend)
    found = [walk.state()]
    for x in walk.x:
        walk.exe(x=x)
        found.append(walk.state())
    return found


def call_each(walk: Walk, start: int = 0) -> None:
    for x in walk.x[start:]:
        walk.exe(x=x)


def call_many(walk: Walk, start: int = 0) -> None:
    if start < STEPS:
        walk.exe.run_many(x=walk.x[start:])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("call", [call_each, call_many])
def test_an_interrupt_comes_between_steps(call: Callable[..., None]) -> None:
    """Whichever launch it meets, those of the first step included; the rest is as without it."""
    expected = states("emulator")
    with interrupted(Kernel, "run", -1) as calls:
        call(Walk("emulator"))
    for at in (1, 2, 3, 4, 5, 6, 7, calls[0] // 2, calls[0] // 2 + 1, calls[0] - 1, calls[0]):
        walk = Walk("emulator")
        with interrupted(Kernel, "run", at), pytest.raises(KeyboardInterrupt):
            call(walk)
        done = walk.steps_done()
        assert done > 0
        assert walk.state() == expected[done], at
        call(walk, done)
        assert walk.state() == expected[STEPS], at


@pytest.mark.usefixtures("way")
def test_many_steps_end_early() -> None:
    walk = Walk("emulator")
    with interrupted(Kernel, "run", 3), pytest.raises(KeyboardInterrupt):
        call_many(walk)
    assert walk.steps_done() == 1


@pytest.mark.parametrize("backend", ["numpy", "emulator"])
def test_counts_agree_with_updates(backend: str) -> None:
    """An interrupt behind the last launch of a step still finds it counted."""
    expected, walk = states(backend), Walk(backend)
    runner = walk.exe._compiled("a test").runner
    with interrupted(type(runner), "__call__", 3), pytest.raises(KeyboardInterrupt):
        call_each(walk)
    done = walk.steps_done()
    assert done == 3
    call_each(walk, done)
    assert walk.state() == expected[STEPS]


def test_an_interrupt_at_the_end_of_a_block_is_not_lost() -> None:
    """Python ignores what is raised while it finalizes: so nothing of Python's runs there."""
    memory = Memory(1 << 30)
    blocks = [memory.allocate(100) for _ in range(2)]
    entered: list[str] = []
    sys.setprofile(lambda frame, event, _: entered.append(event) if event == "call" else None)
    blocks.clear()
    sys.setprofile(None)
    assert entered == []
    assert memory.free_nbytes == 1 << 30


def test_pages_are_given_back() -> None:
    memory = Memory(1 << 20)
    kept = memory.allocate(1 << 19)
    for _ in range(50):
        view = memory.allocate(1 << 19).array()
        assert view.sum() == 0xFF << 19
        del view
    del memory
    assert kept.array().sum() == 0xFF << 19  # whoever looks at it keeps its pages
    assert Pages(0).start % PAGE == 0
