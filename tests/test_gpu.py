"""What a GPU has to show beside the tests of all backends: a recording does what its launches do,
the library's epilogues what kernels do, and CuPy's functions what NumPy's do.

Each runs on what stands in for a GPU, too, so that the tests themselves are tested without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from programs import assert_same, dropout_step, forms, given
from stand_in import NumpyStandIn, stand_in_backend

import graphc as gx
from graphc import backends
from graphc.backends.cuda import runner as cuda_runner
from graphc.backends.cuda.cupy_device import CupyDevice
from graphc.backends.cuda.emulated_device import EmulatedDevice
from graphc.backends.cuda.launching import Launches
from graphc.backends.cuda.runner import CudaRunner
from graphc.errors import BackendUnavailable
from graphc.testing import assert_close

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["emulator", GPU])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that chooses as on a GPU: by what `_tuning` says."""
    found = backends.BACKENDS[request.param].probe()
    if not found.usable:
        pytest.skip(f"{request.param}: {found.reason}")
    monkeypatch.setattr(EmulatedDevice, "facts", replace(EmulatedDevice.facts, timed=True))
    choose(monkeypatch, takes=False)
    return request.param


def choose(monkeypatch: pytest.MonkeyPatch, *, takes: bool) -> None:
    """Take all epilogues or none, and the first algorithm for each product; nothing is timed."""

    def decide(launches: Launches, *_: Any) -> None:
        launches.take(launches.choices if takes else ())

    monkeypatch.setattr(CudaRunner, "_tuning", lambda *_: decide)


def test_replayed_steps_are_those_of_launches_one_by_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = backends.BACKENDS[name].fetch
    made: list[list[np.ndarray]] = []
    for replayed, many in ((True, False), (False, False), (True, True), (False, True)):
        monkeypatch.setattr(cuda_runner, "is_replayed", lambda _, r=replayed: r)
        program = dropout_step()
        p, *_ = program.updates
        exe = gx.compile({**program.outputs, "p": p}, updates=program.updates, backend=name, seed=3)
        arrays = {k: np.stack([np.roll(a, i, 0) for i in range(20)])
                  for k, a in program.inputs.items()}  # fmt: skip
        if many:
            found: Mapping[str, Any] = {k: fetch(a) for k, a in exe.run_many(arrays).items()}
        else:
            one = [exe({k: a[i] for k, a in arrays.items()}) for i in range(20)]
            found = {k: np.stack([fetch(results[k]) for results in one]) for k in one[0]}
        assert ("launch by launch" not in exe.backend_reason) or not replayed
        made.append([found["loss"], found["p"], *(p.value for p in program.updates)])
    for other in made[1:]:
        assert_same(other, made[0])


@pytest.mark.parametrize("epilogue", ["BIAS", "RELU", "RELU_BIAS"])
@pytest.mark.parametrize("size", [32, 33])
def test_epilogues_do_what_kernels_do(
    name: str, epilogue: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((50, 40)).astype("float32")
    w, b = (gx.param(n, rng.standard_normal(s).astype("float32"))
            for n, s in (("w", (40, size)), ("b", size)))  # fmt: skip
    y = gx.input("x", a.shape) @ w
    y = y + b if "BIAS" in epilogue else y
    y = gx.relu(y) if "RELU" in epilogue else y
    made: list[np.ndarray] = []
    for takes in (True, False):
        choose(monkeypatch, takes=takes)
        exe = gx.compile(y, backend=name)
        made.append(backends.BACKENDS[name].fetch(exe(x=a)))
        assert (f"epilogues: {epilogue} in k0" in exe.explain()) == takes
    assert_close(made[0], made[1])


@pytest.fixture(params=["stand-in", GPU])
def node_by_node(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend on which nothing can be compiled."""

    def refuse(device: object, text: str) -> Any:
        raise BackendUnavailable(f"refused on {device}: {len(text)} characters")

    known = {**backends.BACKENDS, "stand-in": stand_in_backend(NumpyStandIn())}
    monkeypatch.setattr(backends, "BACKENDS", known)
    monkeypatch.setattr(CupyDevice, "load", refuse)
    return request.param


@pytest.mark.parametrize("form", forms(5, 7))
def test_node_by_node_as_numpy(node_by_node: str, form: str) -> None:
    for size in ((5, 7), (33, 260)):
        nodes: Sequence[gx.Node] = forms(*size)[form]
        exe = gx.compile(nodes, backend=node_by_node)
        assert "node by node" in exe.backend_reason
        made, expected = exe(given(nodes)), gx.compile(nodes, backend="numpy")(given(nodes))
        for have, want in zip(made, expected, strict=True):
            assert_close(backends.BACKENDS[node_by_node].fetch(have), want, str(size))
