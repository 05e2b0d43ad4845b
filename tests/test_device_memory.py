"""Device memory: as large as planned, in slabs, given back, and refused in time."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from programs import training_step
from stand_in import StandIn, stand_in_backend

import graphc as gx
from graphc import backends
from graphc.backends.cuda.device import DeviceMemoryError
from graphc.backends.cuda.parameters import DeviceValue
from graphc.backends.cuda.runner import CudaRunner
from graphc.schedule.records import Slab


def runner_of(exe: Any) -> CudaRunner:
    return exe._compiled("a test").runner


def home(param: gx.Param) -> DeviceValue:
    found = param.storage.away
    assert isinstance(found, DeviceValue)
    return found


def test_what_is_allocated_is_what_was_planned(device: StandIn) -> None:
    program = training_step((16, 32, 10), 8)
    exe = gx.compile(program.outputs, updates=program.updates, backend="stand-in")
    slabs = {id(home(p).block): home(p).block.nbytes for p in program.updates}
    assert len(slabs) == 2  # parameters and velocities, each as one flat stretch
    scratch = exe.stages["lowered"].notes["scratch_nbytes"]
    assert device.used == exe.plan.peak_nbytes + scratch + sum(slabs.values())
    exe(program.inputs)
    exe(program.inputs)
    assert device.used == exe.plan.peak_nbytes + scratch + sum(slabs.values())


@pytest.mark.usefixtures("device")
def test_slabs_are_aligned_and_lie_as_the_program_says() -> None:
    program = training_step((5, 7, 3), 2)
    exe = gx.compile(program.outputs, updates=program.updates, backend="stand-in")
    slabs = runner_of(exe).memory.slabs
    assert slabs
    for slab in slabs:
        assert isinstance(slab, Slab)
        for member, start in zip(slab.members, slab.starts, strict=True):
            assert isinstance(member, gx.Param)
            assert home(member).address == home(member).block.address + start * 4
            assert home(member).address % 256 == 0


def test_memory_is_given_back(device: StandIn) -> None:
    x = gx.input("x", (300, 300))
    p = gx.param("p", np.ones((300, 300), "float32"))
    exe = gx.compile(gx.tanh(x) @ p, updates={p: p * 2}, backend="stand-in")
    exe(x=np.ones((300, 300), "float32"))
    assert device.used
    del exe
    gc.collect()
    assert device.used == home(p).block.nbytes
    assert (p.value == 2).all()
    gx.compile(p + 1, backend="numpy")()
    gc.collect()
    assert device.used == 0


def test_specialisations_share_the_arena(device: StandIn) -> None:
    x = gx.input("x", ("batch", 8))
    w = gx.param("w", np.eye(8, dtype="float32") * 2)
    exe = gx.compile(gx.softmax((gx.exp(x) @ w) @ w), backend="stand-in")
    fetch = backends.BACKENDS["stand-in"].fetch
    small, large = np.ones((2, 8), "float32"), np.ones((64, 8), "float32")
    first = fetch(exe(x=small))
    peaks = [exe.plan.peak_nbytes]
    scratch = [runner_of(exe).scratch_nbytes]
    exe(x=large)
    peaks.append(exe.plan.peak_nbytes)
    scratch.append(runner_of(exe).scratch_nbytes)
    again = exe(x=small)  # its arena was let go of: it looks for the new one
    assert np.array_equal(fetch(again), first)
    del again
    gc.collect()
    assert peaks[1] > peaks[0]
    assert device.used == max(peaks) + sum(scratch) + home(w).block.nbytes


def test_too_little_memory_is_told_before_anything_is_moved(device: StandIn) -> None:
    device.capacity = 200_000
    p = gx.param("p", np.arange(40_000, dtype="float32"))
    with pytest.raises(DeviceMemoryError, match=r"needs \d+ bytes.*200000 are free.*160000 for p"):
        gx.compile(gx.exp(p).sum() * gx.tanh(p), updates={p: p + 1}, backend="stand-in")
    assert p.storage.away is None
    assert np.array_equal(p.value, np.arange(40_000, dtype="float32"))
    gc.collect()
    device.capacity = 1 << 20
    gx.compile([], updates={p: p + 1}, backend="stand-in")()
    assert np.array_equal(p.value, np.arange(40_000, dtype="float32") + 1)


def test_a_call_without_room_for_its_parameters_changes_nothing(device: StandIn) -> None:
    p = gx.param("p", np.arange(40_000, dtype="float32"))
    exe = gx.compile([], updates={p: p + 1}, backend="stand-in")
    on_host = gx.compile([], updates={p: p * 2}, backend="numpy")
    exe()
    on_host()  # the value comes home
    gc.collect()
    device.capacity = device.used + 100_000
    expected = (np.arange(40_000, dtype="float32") + 1) * 2
    with pytest.raises(DeviceMemoryError, match="160000"):
        exe()
    assert np.array_equal(p.value, expected)
    device.capacity = 1 << 20
    exe()
    assert np.array_equal(p.value, expected + 1)


def test_constants_are_uploaded_once(device: StandIn) -> None:
    c = gx.const(np.random.default_rng(0).standard_normal((5, 7)), "float32")
    x = gx.input("x", (3, 5))
    exe = gx.compile(x @ c, backend="stand-in")
    given = np.ones((3, 5), "float32")
    exe(x=given)
    before = device.uploads
    exe(x=given)
    assert device.uploads == before + 1  # the input, with its table


@pytest.mark.usefixtures("device")
def test_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values go from one device to another by way of the host."""
    other = StandIn()
    known = {**backends.BACKENDS, "other": stand_in_backend(other)}
    monkeypatch.setattr(backends, "BACKENDS", known)
    p, q = gx.param("p", np.ones(5)), gx.param("q", np.zeros(3))
    one = gx.compile([], updates={p: p * 3, q: q + 1}, backend="stand-in")
    two = gx.compile([], updates={p: p + 1, q: q * 2}, backend="other")
    for exe in (one, two, two, one, two):
        exe()
    assert (p.value == ((1 * 3 + 1 + 1) * 3) + 1).all()
    assert (q.value == ((1 * 2 * 2) + 1) * 2).all()
    gc.collect()
    assert home(p).device is other
