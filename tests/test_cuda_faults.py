"""Faults of a device: which kernel, whose work, what is lost, how to find out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from programs import in_threads
from stand_in import NumpyStandIn, StandIn, stand_in_backend

import graphc as gx
from graphc import backends
from graphc.backends.cuda.device import DeviceError
from graphc.backends.cuda.device_peaks import device_peaks
from graphc.backends.cuda.faults import waiting, watched

pytestmark = pytest.mark.usefixtures("way")


class Programs:
    """One that updates `a` and fails in its second kernel, and one that updates `b`."""

    def __init__(self, device: StandIn) -> None:
        self.a, self.b = (gx.param(n, np.ones(4, "float32")) for n in "ab")
        total = gx.exp(self.a).sum()
        self.exe: Any = gx.compile(
            [total], updates={self.a: self.a + total}, backend="stand-in", name="train"
        )
        self.other: Any = gx.compile(
            [self.b * 1], updates={self.b: self.b * 2}, backend="stand-in", name="other"
        )
        self.reader: Any = gx.compile(self.b * 3, backend="stand-in", name="reader")
        self.names = [kernel.name for kernel in self.exe.kernels]
        self.functions = [n for name in self.names for n in device.kernels if name in n]


LOOKS: dict[str, Callable[[Programs], Any]] = {
    "wait": lambda p: p.exe.synchronize(),
    "wait elsewhere": lambda p: p.reader.synchronize(),
    "value": lambda p: p.a.value,
    "value of another": lambda p: p.b.value,
    "next call": lambda p: [p.exe() for _ in range(9)],
    "call of another": lambda p: [p.other() for _ in range(9)],
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_late_fault_tells_all_that_is_known(look: str, device: StandIn) -> None:
    programs = Programs(device)
    programs.exe()
    programs.other()
    programs.exe.synchronize()  # all is well until here, and nobody is suspected
    device.illegal = programs.functions[-1]
    programs.exe()
    if "call" in look:
        device.lost = True  # whenever the device may come to it
    with pytest.raises(DeviceError) as caught:
        LOOKS[look](programs)
    said = str(caught.value)
    first = programs.names[0]
    assert said.startswith(f"an illegal access; the program 'train' was running: kernel {first} (")
    assert f"kernel {programs.names[-1]} (add)" in said
    assert "the values that it updates count as lost: a" in said
    assert "call exe.profile(inputs) first in a new process" in said
    assert ("'other'" in said) == (look == "call of another")
    assert "'reader'" not in said
    with pytest.raises(gx.InputError, match=r"the value of a is undefined.*an illegal access"):
        _ = programs.a.value
    with pytest.raises(gx.InputError, match="the value of a is undefined"):
        programs.exe()


def test_profile_names_the_kernel_of_a_late_fault(device: StandIn) -> None:
    programs = Programs(device)
    device.illegal = programs.functions[-1]
    name = programs.names[-1]
    with pytest.raises(DeviceError, match=rf"^kernel {name} \(add\) failed: an illegal access$"):
        programs.exe.profile()
    with pytest.raises(gx.InputError, match="the value of a is undefined"):
        _ = programs.a.value


def test_values_that_cannot_be_restored_count_as_lost(
    device: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(device)
    programs.exe()

    def refuse(*_: int) -> None:
        raise DeviceError("no copies any more")

    with (
        pytest.raises(DeviceError, match="no copies any more"),
        programs.exe._compiled("a test").runner.unchanged(),
    ):
        monkeypatch.setattr(device, "copy", refuse)
    with pytest.raises(gx.InputError, match=r"the value of a is undefined.*no copies any more"):
        _ = programs.a.value


def test_an_illegal_launch_names_kernel_and_ops(device: StandIn) -> None:
    programs = Programs(device)
    device.faults.append(DeviceError("too many threads"))
    with pytest.raises(DeviceError, match=r"^kernel k0_exp_sum \(exp, sum\): too many threads$"):
        programs.exe()
    with pytest.raises(gx.InputError, match=r"the value of a is undefined.*too many threads"):
        _ = programs.a.value
    assert (programs.b.value == 1).all()


def test_a_lost_launch_is_not_the_fault_of_its_kernel(device: StandIn, way: str) -> None:
    """CUDA tells of an earlier fault at the next launch."""
    programs = Programs(device)
    device.faults.append(DeviceError("an earlier fault", late=True))
    with pytest.raises(DeviceError, match=r"^an earlier fault; the program 'train' ") as caught:
        programs.exe()
    assert "kernel k0_exp_sum (exp, sum): an" not in str(caught.value), way


def test_many_kernels_and_parameters_are_cut_short(device: StandIn) -> None:
    params = [gx.param(f"p{i}", np.ones(i + 1, "float32")) for i in range(20)]
    exe = gx.compile([], updates={p: p + gx.exp(p).sum() for p in params}, backend="stand-in")
    exe()
    device.lost = True
    with pytest.raises(DeviceError, match=r"count as lost: p0, .* and 12 more; to find"):
        exe.synchronize()
    assert all(p.storage.invalid for p in params)


def test_programs_that_are_gone_are_not_suspected(device: StandIn) -> None:
    programs = Programs(device)
    programs.exe()
    del programs.exe
    device.lost = True
    with pytest.raises(DeviceError, match=r"^an illegal access$"):
        programs.reader.synchronize()


def test_programs_are_made_while_others_wait(device: StandIn) -> None:
    program = Programs(device).exe._compiled("a test").program

    def make() -> None:
        kept = [watched(device, str(i), program) for i in range(300)]
        assert len(kept) == 300

    def wait() -> None:
        for _ in range(100):
            with waiting(device):
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads([make, wait, wait])
    finally:
        sys.setswitchinterval(before)


def test_node_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    device = NumpyStandIn()
    monkeypatch.setattr(
        backends, "BACKENDS", {**backends.BACKENDS, "stand-in": stand_in_backend(device)}
    )
    p = gx.param("p", np.ones(4, "float32"))
    exe = gx.compile([], updates={p: p + 1}, backend="stand-in", name="eager")
    exe()
    device.lost = True
    with pytest.raises(DeviceError, match=r"the program 'eager' .* count as lost: p; "):
        exe.synchronize()


# -- peaks


def test_peaks_are_those_of_the_device(device: StandIn) -> None:
    programs = Programs(device)
    profile = programs.exe.profile(repeat=1)
    runner = programs.exe._compiled("a test").runner
    peaks = runner.peaks()
    assert peaks is runner.peaks()
    assert peaks.device == "host memory"
    assert profile.peak_flops_per_second == peaks.flops_per_second == 2 * 64**3 / 2
    assert profile.peak_bytes_per_second == peaks.bytes_per_second == 2 * (1 << 20) / 2
    assert "peak of host memory: " in profile.table()


def test_where_memory_is_short_less_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    device = StandIn(capacity=40 << 20)
    device.facts = type(device.facts)("small", "none", 2, timed=True)
    sizes: list[int] = []
    copy = device.copy
    monkeypatch.setattr(device, "copy", lambda *a: (sizes.append(a[2]), copy(*a))[1])
    peaks = device_peaks(device)
    assert sizes[-1] == 4 << 20  # two of them are less than a quarter
    assert peaks.flops_per_second == 2 * 512**3 / 2
    assert device.used < 1 << 20
