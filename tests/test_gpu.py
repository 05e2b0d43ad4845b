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
from programs import assert_same, forms, given
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


def step_with_dropout() -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:
    rng = np.random.default_rng(0)
    x, labels = gx.input("x", (24, 20)), gx.input("labels", (24,), "int32")
    w, v = (gx.param(n, (0.3 * rng.standard_normal(s)).astype("float32"))
            for n, s in (("w", (20, 33)), ("v", (33, 7))))  # fmt: skip
    loss = gx.softmax_cross_entropy(gx.dropout(gx.relu(x @ w), 0.4) @ v, labels)
    return {"loss": loss, "w": w}, {p: p - 0.1 * gx.grad(loss, p) for p in (w, v)}


def steps(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.standard_normal((count, 24, 20)).astype("float32"),
        "labels": rng.integers(0, 7, (count, 24)).astype("int32"),
    }


def test_replayed_steps_are_those_of_launches_one_by_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, arrays = backends.BACKENDS[name].fetch, steps(20)
    made: list[list[np.ndarray]] = []
    for replayed, many in ((True, False), (False, False), (True, True), (False, True)):
        monkeypatch.setattr(cuda_runner, "is_replayed", lambda _, r=replayed: r)
        outputs, updates = step_with_dropout()
        exe = gx.compile(outputs, updates=updates, backend=name, seed=3)
        if many:
            found: Mapping[str, Any] = {k: fetch(a) for k, a in exe.run_many(arrays).items()}
        else:
            one = [exe({k: a[i] for k, a in arrays.items()}) for i in range(20)]
            found = {k: np.stack([fetch(results[k]) for results in one]) for k in outputs}
        assert ("launch by launch" not in exe.backend_reason) or not replayed
        made.append([found["loss"], found["w"], *(p.value for p in updates)])
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
