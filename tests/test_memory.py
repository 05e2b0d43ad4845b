"""The memory plan: no overlaps, a peak near the least possible, values written in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from programs import EACH, TARGETS, run, runner_of, scheduled, training_step

import graphc as gx
from graphc.backends.base import Options
from graphc.backends.numpy_backend import NumpyRunner
from graphc.errors import CompileError
from graphc.evaluate import evaluate
from graphc.schedule import memory
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.records import MemoryPlan, Region, Slab
from graphc.schedule.verify import verify_plan
from graphc.testing import assert_close, random_graph

ENOUGH = 1.05  # times the largest sum of bytes alive at once


def least_peak(plan: MemoryPlan) -> int:
    """The largest sum of aligned bytes alive at one kernel, counted by brute force."""
    largest = 0
    for at in range(len(plan.schedule.kernels) + 1):
        spans = {
            (a.offset, -(-a.nbytes // plan.alignment) * plan.alignment)
            for a in plan.allocations
            if a.first <= at <= a.last
        }
        largest = max(largest, sum(nbytes for _, nbytes in spans))
    return largest


@pytest.mark.parametrize("target", TARGETS)
def test_peak_of_random_graphs(target: str) -> None:
    for seed in range(150):
        graph = random_graph(seed)
        plan = plan_memory(scheduled(graph.outputs, graph.updates, TARGETS[target]))
        verify_plan(plan)
        assert plan.live_nbytes == least_peak(plan), seed
        assert plan.peak_nbytes <= ENOUGH * plan.live_nbytes, seed


def deep_chain() -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:
    """1 500 nodes and their gradient: far more than 600 buffers."""
    x = gx.input("x", (50,))
    y = x
    for _ in range(750):
        y = gx.sin(y) * x
    return {"y": y, "g": gx.grad(y.sum(), x)}, {}


def digits() -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:
    program = training_step()
    return program.outputs, program.updates


def deep_network() -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:
    """120 layers of many widths."""
    widths = np.random.default_rng(0).integers(4, 40, 120)
    program = training_step([int(n) for n in widths], 8)
    return program.outputs, program.updates


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("build", [digits, deep_chain, deep_network], ids=lambda b: b.__name__)
def test_peak_of_large_graphs(
    build: Callable[[], tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]], target: str
) -> None:
    plan = plan_memory(scheduled(*build(), TARGETS[target]))
    verify_plan(plan)
    assert plan.live_nbytes <= plan.peak_nbytes <= ENOUGH * plan.live_nbytes
    assert plan.naive_nbytes > 2 * plan.peak_nbytes


# -- placing random lives


Life = memory._Life


def random_lives(seed: int) -> list[Life]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 40, rng.integers(1, 120))
    return [
        Life(64 * int(rng.choice([0, 1, 1, 2, 4, 16, 64])), int(s), int(s + rng.integers(0, 15)))
        for s in starts
    ]


def overlapping(lives: list[Life]) -> list[tuple[Life, Life]]:
    return [
        (a, b)
        for i, a in enumerate(lives)
        for b in lives[:i]
        if a.first <= b.last
        and b.first <= a.last
        and max(a.offset, b.offset) < min(a.offset + a.nbytes, b.offset + b.nbytes)
    ]


@pytest.mark.parametrize("place", [memory._place_exactly, memory._place_by_time])
def test_placements_never_overlap(place: Callable[[list[Life]], int]) -> None:
    ratios: list[float] = []
    for seed in range(60):
        lives = random_lives(seed)
        peak = place(lives)
        assert not overlapping(lives)
        assert peak == max((life.offset + life.nbytes for life in lives), default=0)
        assert all(life.offset % 64 == 0 for life in lives)
        ratios.append(peak / max(memory._largest_sum(lives), 1))
    assert np.mean(ratios) < (1.02 if place is memory._place_exactly else 1.2)


# -- in place


def test_values_take_over_the_bytes_of_what_dies() -> None:
    x = gx.input("x", (6, 5))
    nodes = [x]
    for k in range(4):  # each statistic needs the whole of the value before it
        nodes.append(gx.sin(nodes[-1]) / gx.std(nodes[-1], 0) + k)
    made = scheduled([nodes[-1].sum(1)])
    plan = plan_memory(made)
    aliases = [a for a in plan.allocations if a.alias_of is not None]
    assert len(aliases) >= 2
    for allocation in aliases:
        assert allocation.alias_of is not None
        below = plan.by_buffer[allocation.alias_of]
        assert (below.offset, below.last) == (allocation.offset, allocation.first)
    given = np.random.default_rng(0).standard_normal((6, 5)).astype("float32")
    (have,) = run(runner_of(made), {"x": given})
    assert_close(have, evaluate([nodes[-1].sum(1)], {x: given})[0])


def test_operands_that_are_still_needed_are_not_overwritten() -> None:
    x = gx.input("x", (6, 6))
    e = gx.exp(x - x.mean(0))
    for y in (e + e.T, e @ e, gx.concatenate([e, e]), e[::-1] * e, e / e.sum(), e + e[0]):
        made = scheduled([y.sum(), y * 2], simplified=False)
        given = np.random.default_rng(0).standard_normal((6, 6)).astype("float32")
        for have, want in zip(
            run(runner_of(made), {"x": given}), evaluate([y.sum(), y * 2], {x: given}), strict=True
        ):
            assert_close(have, want)


# -- what is allocated


@pytest.mark.parametrize("target", TARGETS)
def test_the_arena_is_as_large_as_the_plan_says(target: str) -> None:
    program = training_step((8, 16, 4), 5)
    runner = runner_of(scheduled(program.outputs, program.updates, TARGETS[target]))
    plan = runner.program.plan
    assert runner.memory.arena.nbytes == plan.peak_nbytes > 0
    low = runner.memory.arena.array.ctypes.data
    assert low % plan.alignment == 0
    for allocation in plan.allocations:
        lies_at = runner.memory.bases[allocation.buffer].ctypes.data
        assert lies_at == low + allocation.offset
        members = allocation.buffer.members if isinstance(allocation.buffer, Slab) else ()
        for member in members:
            start = runner.memory.bases[member].ctypes.data
            assert lies_at <= start < lies_at + allocation.nbytes
            assert start % plan.alignment == 0


@EACH
def test_specialisations_share_one_arena() -> None:
    x = gx.input("x", ("batch", 50))
    y = gx.softmax(gx.exp(x - x.mean(0)) @ np.ones((50, 50), "float32")).sum()
    exe = gx.compile([y, gx.grad(y, x)])
    want: dict[int, list[np.ndarray]] = {}
    peaks: dict[int, int] = {}
    arenas: set[int] = set()
    for batch in (3, 30, 7, 3, 30):
        given = np.random.default_rng(batch).standard_normal((batch, 50)).astype("float32")
        made = exe(x=given)
        for have, before in zip(made, want.setdefault(batch, made), strict=True):
            assert np.array_equal(have, before)
        peaks[batch] = exe.plan.peak_nbytes
        arenas.add(id(exe._latest.runner.memory.arena))  # type: ignore[union-attr]
    assert len(arenas) == 1
    assert exe._latest.runner.memory.arena.nbytes == max(peaks.values())  # type: ignore[union-attr]


@EACH
def test_results_and_constants_lie_outside_the_arena() -> None:
    x = gx.input("x", (6, 5))
    table = gx.const(np.arange(30, dtype="float32").reshape(6, 5))
    exe = gx.compile([gx.exp(x) + table, gx.where(gx.iota((6, 5)) > 2, x, 0)])
    assert exe.plan.peak_nbytes == 0
    program = exe._latest.program  # type: ignore[union-attr]
    regions = {place.region for place in program.places.values()}
    assert regions == {Region.INPUT, Region.CONSTANT, Region.RESULT}
    assert exe.plan.naive_nbytes >= 2 * 30 * 4


# -- planted faults


def changed(plan: MemoryPlan, at: int, **change: object) -> MemoryPlan:
    allocations = list(plan.allocations)
    allocations[at] = replace(allocations[at], **change)  # type: ignore[arg-type]
    return replace(plan, allocations=tuple(allocations))


def at_once(plan: MemoryPlan) -> tuple[int, int]:
    """Two allocations that are alive at once, at different places."""
    for i, j in pairwise(range(len(plan.allocations))):
        a, b = plan.allocations[i], plan.allocations[j]
        if a.first < b.first <= a.last and a.offset != b.offset:
            return i, j
    raise AssertionError("no two buffers are alive at once")


def overlapped(plan: MemoryPlan) -> MemoryPlan:
    i, j = at_once(plan)
    return changed(plan, j, offset=plan.allocations[i].offset)


def partly_overlapped(plan: MemoryPlan) -> MemoryPlan:
    i, j = at_once(plan)
    a = plan.allocations[i]
    shifted = a.offset + max(64, a.nbytes // 2 // 64 * 64)
    return replace(changed(plan, j, offset=shifted), peak_nbytes=2 * plan.peak_nbytes)


def wrong_alias(plan: MemoryPlan) -> MemoryPlan:
    """A product over its own operand."""
    kernels = plan.schedule.kernels
    for i, allocation in enumerate(plan.allocations):
        product = kernels[allocation.first].contraction
        below = plan.by_buffer.get(product.a.base) if product is not None else None
        if below is not None and below.nbytes == allocation.nbytes:
            return changed(plan, i, offset=below.offset, alias_of=below.buffer)
    raise AssertionError("no product of an operand of its own size")


FAULTS: list[tuple[str, Callable[[MemoryPlan], MemoryPlan]]] = [
    ("alive at once and share", overlapped),
    ("alive at once and share", partly_overlapped),
    ("not aligned", lambda p: changed(p, 0, offset=p.allocations[0].offset + 4)),
    ("beyond the planned peak", lambda p: changed(p, 0, offset=p.peak_nbytes)),
    ("beyond the planned peak", lambda p: replace(p, peak_nbytes=p.peak_nbytes - 64)),
    ("which it still reads", wrong_alias),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_verifier_finds_planted_faults(number: int) -> None:
    message, change = FAULTS[number]
    plan = plan_of_square()
    verify_plan(plan)
    with pytest.raises(CompileError, match=message):
        verify_plan(change(plan))


def plan_of_square() -> MemoryPlan:
    """Square layers, so that products have the size of their operands."""
    program = training_step((8, 8, 8, 8), 8)
    return plan_memory(scheduled(program.outputs, program.updates))


def test_an_overlap_changes_the_results() -> None:
    """What the verifier looks for does harm: comparison would find it, too."""
    x = gx.input("x", (6, 6))
    e, f = gx.exp(x - x.mean(0)), gx.sin(x - x.max(0))
    y = e @ f + f @ e
    plan = plan_memory(scheduled([y]))
    given = np.random.default_rng(0).standard_normal((6, 6)).astype("float32")
    (want,) = evaluate([y], {x: given})
    for change, agrees in ((lambda p: p, True), (overlapped, False)):
        runner = NumpyRunner(lower(change(plan)), Options(1, ("x",)))
        (have,) = run(runner, {"x": given})
        assert np.allclose(have, want, rtol=1e-4) == agrees
