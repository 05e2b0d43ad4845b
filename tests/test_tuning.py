"""Choices by a clock: what is timed, what is kept, and that no choice changes what is computed."""

from __future__ import annotations

import ctypes
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from programs import in_threads

import graphc as gx
from graphc import backends
from graphc.backends.base import Availability, Options
from graphc.backends.cache import object_cache
from graphc.backends.cuda import device_peaks, runner, tuning
from graphc.backends.cuda.cublaslt import Multiplier
from graphc.backends.cuda.cuda_backend import backend_on
from graphc.backends.cuda.device import DeviceError, Facts
from graphc.backends.cuda.emulated_device import EmulatedDevice, EmulatedEvent
from graphc.backends.cuda.runner import CudaRunner
from graphc.backends.cuda.tuning import Answers, Budget, Clock, fill_random
from graphc.codegen.cuda import print_program
from graphc.codegen.launches import Product
from graphc.ir.philox import Draws
from graphc.testing import assert_close

KEEPS_NAN = tuning.keeps_nan.__wrapped__
FACTS = Facts("A GPU", "sm_90", 4, (("driver", "13.0"), ("cuBLASLt", "13.0.2")), timed=True)


class Clocked(EmulatedDevice):
    """A device with a clock that goes as a test wants it: `kernel` seconds for each kernel, and for
    each product what `product(product, candidate)` says."""

    def __init__(
        self, kernel: float = 1e-3, product: Callable[[Product, int], float] = lambda p, i: 1e-3
    ) -> None:
        super().__init__()
        self.facts, self.kernel, self.product = FACTS, kernel, product
        self.now = 0.0
        self.ran: list[tuple[Product, int]] = []

    def launcher(
        self, function: Any, blocks: int, threads: int, arguments: Sequence[int | float]
    ) -> Callable[[], None]:
        launch = super().launcher(function, blocks, threads, arguments)

        def both() -> None:
            launch()
            self._do(lambda: self.go_on(self.kernel))

        return both

    def multiplier(self, product: Product) -> Callable[[int, int, int, int], None]:
        return Timed(self, product)

    def event(self) -> EmulatedEvent:
        return Moment(self)

    def go_on(self, seconds: float) -> None:
        self.now += seconds

    def multiply(self, plan: Any, candidate: int, *addresses: int) -> None:
        plan.choose(candidate)
        plan(*addresses, 0)
        self.ran.append((plan.product, candidate))
        self.go_on(self.product(plan.product, candidate))


class Moment(EmulatedEvent):
    """A moment of that clock."""

    def __init__(self, device: Clocked) -> None:
        super().__init__(device._do)
        self.device = device

    def _now(self) -> None:
        self.seconds = self.device.now


class Timed(Multiplier):
    """The binding, told by the clock; a recording keeps the algorithm that was chosen for it."""

    def __init__(self, device: Clocked, product: Product) -> None:
        room = device._workspace
        super().__init__(device._products, product, (room.address, room.nbytes), lambda: 0)
        self.device = device

    def __call__(self, a: int, b: int, c: int, bias: int) -> None:
        plan = self.plan(a, b, c)
        candidate = [*map(ctypes.addressof, plan._candidates)].index(plan._algorithm)
        self.device._do(lambda: self.device.multiply(plan, candidate, a, b, c, bias))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a file of its own, and time enough."""
    if not gx.devices()["native"].usable or not backends.BACKENDS["emulator"].probe().usable:
        pytest.skip("no C or C++ compiler")
    monkeypatch.setattr(tuning, "FILE", f"tuning-{uuid.uuid4().hex}")
    monkeypatch.setattr(runner, "Budget", lambda: Budget(1e9))
    monkeypatch.setattr(tuning, "keeps_nan", lambda device: True)  # asked beside all else
    monkeypatch.setattr(device_peaks, "GEMM_SIZE", 64)  # the device is none
    monkeypatch.setattr(device_peaks, "COPY_NBYTES", 1 << 20)


class Case:
    """A layer compiled for a device; its values."""

    x = np.random.default_rng(0).standard_normal((9, 12)).astype("float32")

    def __init__(self, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        made = backend_on(
            "clocked", lambda: device, lambda: Availability(True, "a test"),
            lambda p, o: print_program(p, o.numbers, o.sizes, o.precision),
        )  # fmt: skip
        monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "clocked": made})
        rng = np.random.default_rng(1)
        shapes = {"w": (12, 16), "b": (16,), "v": (16, 4)}
        w, b, v = (gx.param(n, rng.standard_normal(s).astype("float32")) for n, s in shapes.items())
        result = gx.relu(gx.input("x", (9, 12)) @ w + b) @ v
        self.exe: Any = gx.compile(result, backend="clocked")
        self.expected = np.maximum(self.x @ w.value + b.value, 0) @ v.value

    def run(self) -> None:
        assert_close(np.asarray(self.exe(x=self.x)), self.expected)

    @property
    def launches(self) -> Any:
        return self.exe._compiled("a test").runner._parts.launches


# -- the choice


@pytest.mark.parametrize("size", [2, 33])
@pytest.mark.parametrize("epilogue", ["BIAS", "RELU", "RELU_BIAS"])
def test_both_ways_give_equal_results(size: int, epilogue: str) -> None:
    rng = np.random.default_rng(size)
    given = rng.standard_normal((2, size, 5)).astype("float32")
    w, b = (
        gx.param(n, rng.standard_normal(s).astype("float32"))
        for n, s in (("w", (5, size)), ("b", size))
    )
    y = gx.input("x", given.shape[1:]) @ w
    y = y + b if "BIAS" in epilogue else y
    exe: Any = gx.compile(gx.relu(y) if "RELU" in epilogue else y, backend="emulator")
    assert f"epilogues: {epilogue} in k0" in exe.explain()
    program = exe._compiled("a test").program
    printed = print_program(program, {}, {})
    assert len(printed.choices) == 1
    apart = CudaRunner(
        program, replace(printed, choices=()), Options(inputs=("x",)), EmulatedDevice()
    )
    assert not any("epilogue" in note for note in apart.notes)
    for x in given:
        assert_close(exe(x=x), apart([x], Draws(0, 0, {}))[0])


@pytest.mark.parametrize(("together", "candidate"), [(1.5e-3, 1), (2.5e-3, 0), (1e-7, 1)])
def test_the_faster_way_is_taken(
    together: float, candidate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel and a product take 2 ms; with an epilogue, the product takes so many seconds."""

    def seconds(product: Product, i: int) -> float:
        return (together if product.epilogue else 1e-3) * (1 if i == candidate else 1.25)

    device = Clocked(1e-3, seconds)
    case = Case(device, monkeypatch)
    assert "1 epilogues to be timed by the first call" in case.exe.explain()
    case.run()
    taken = together < 2e-3
    assert case.launches.taken == ((0,) if taken else ())
    assert ("epilogues: RELU_BIAS in k0" in case.exe.explain()) == taken
    device.ran.clear()
    case.run()
    ran = [(p.epilogue, i) for p, i in device.ran]
    assert ran == [("RELU_BIAS" if taken else "", candidate), ("", candidate)]
    profile = case.exe.profile({"x": case.x}, repeat=2)
    assert [kernel.seconds > 0 for kernel in profile.kernels] == [True, not taken, True]


def test_what_is_known_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in (1e-3, 1e-9):  # in a later process the clock would say something else
        device = Clocked(kernel, lambda p, i: 1.5e-3 if p.epilogue else 2e-3 - i * 1e-3)
        case = Case(device, monkeypatch)
        case.run()
        assert case.launches.taken == (0,)
        assert device.ran[-1][1] == 1
    assert len(device.ran) == 2
    kept = json.loads(object_cache().note(tuning.FILE) or "")
    (found,) = kept.values()
    assert list(kept) == ["A GPU, sm_90, driver 13.0, cuBLASLt 13.0.2"]
    assert sorted(found.values()) == [0, 1, 1, 1]  # three products, and the epilogue
    assert any(q.startswith("epilogue: float32[9, 12] @ float32[12, 16]") for q in found)
    device = Clocked()
    device.facts = replace(FACTS, versions=(("driver", "13.0"), ("cuBLASLt", "13.1.0")))
    Case(device, monkeypatch).run()
    assert len(device.ran) > 2
    assert len(json.loads(object_cache().note(tuning.FILE) or "")) == 2


JUNK = [
    "{", "[]", "3", "null", "\0", '{"DEVICE": 3}', '{"DEVICE": [1]}', "[" * 100000,
    '{"DEVICE": {"epilogue: x": "y", "z": -1, "u": true, "v": 1.5}, "other": {"q": 7}}',
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_foreign_content_is_ignored_and_replaced(
    junk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Answers(FACTS).device
    object_cache().keep(tuning.FILE, junk.replace("DEVICE", name))
    device = Clocked(1e-3, lambda p, i: 1e-3)
    Case(device, monkeypatch).run()
    kept = json.loads(object_cache().note(tuning.FILE) or "")
    assert len(kept[name]) == 4
    assert kept.get("other") in (None, {"q": 7})


def test_answers_that_fit_nothing_are_found_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clocked(1e-3, lambda p, i: 1e-3)
    Case(device, monkeypatch).run()
    kept = json.loads(object_cache().note(tuning.FILE) or "")
    for found in kept.values():
        found.update(dict.fromkeys(found, 99))
    object_cache().keep(tuning.FILE, json.dumps(kept))
    device = Clocked(1e-3, lambda p, i: 1e-3)
    Case(device, monkeypatch).run()
    kept = json.loads(object_cache().note(tuning.FILE) or "")
    assert all(answer in (0, 1) for answer in kept[Answers(FACTS).device].values())


def test_writers_at_the_same_time_keep_each_others_answers() -> None:
    first, second = Answers(FACTS), Answers(replace(FACTS, arch="sm_80"))
    third = Answers(FACTS)
    for number, answers in enumerate((first, second, third)):
        answers.put(f"question {number}", number)
        answers.keep()
    assert [Answers(FACTS).get(f"question {n}") for n in range(3)] == [0, None, 2]

    def write(number: int) -> Callable[[], None]:
        def answer() -> None:
            for i in range(20):
                answers = Answers(FACTS)
                answers.put(f"{number}-{i}", i)
                answers.keep()

        return answer

    in_threads([write(number) for number in range(3)])
    assert Answers(FACTS).get("question 0") == 0  # what was lost, if any, is single answers


def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MOST_ANSWERS", 3)
    for number in range(5):
        answers = Answers(FACTS)
        answers.put(str(number), number)
        answers.keep()
    assert [Answers(FACTS).get(str(n)) for n in range(5)] == [None, None, 2, 3, 4]


# -- what it may cost


def test_without_time_to_spend_a_rule_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Budget", lambda: Budget(0.0))
    device = Clocked(1e-9, lambda p, i: 1.0)
    case = Case(device, monkeypatch)
    case.run()
    assert case.launches.taken == (0,)
    assert len(device.ran) == 2
    assert object_cache().note(tuning.FILE) is None


def test_large_products_let_smaller_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger product would take more than there is; the smaller one is timed all the same."""
    monkeypatch.setattr(runner, "Budget", lambda: Budget(60.0))
    device = Clocked(1e-3, lambda p, i: 1e3 if p.n == 16 else 1e-3)
    case = Case(device, monkeypatch)
    case.run()
    (kept,) = json.loads(object_cache().note(tuning.FILE) or "").values()
    assert [question.split(" ->")[0] for question in kept] == ["float32[9, 16] @ float32[16, 4]"]
    assert case.launches.taken == (0,)


def test_specialisations_share_the_time_to_spend(monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[Budget] = []

    def budget() -> Budget:
        budgets.append(Budget(1e9))
        return budgets[-1]

    monkeypatch.setattr(runner, "Budget", budget)
    Case(Clocked(), monkeypatch)
    exe = gx.compile(gx.input("x", ("n", 3)) @ np.ones((3, 2), "float32"), backend="clocked")
    count = len(budgets)
    left: list[float] = []
    for n in (2, 5):
        exe(x=np.ones((n, 3), "float32"))
        shared = exe._compiled("a test").runner._parts.launches  # type: ignore[attr-defined]
        assert not shared.undecided
        left.append(min(b.left for b in budgets[count:]))
    assert left[1] < left[0] < 1e9


def test_a_measurement_is_of_many_short_runs() -> None:
    device = Clocked()
    for each, runs in ((1e-6, 16), (6e-5, 4), (3e-3, 1)):
        done: list[int] = []

        def one(each: float = each, done: list[int] = done) -> None:
            done.append(1)
            device.go_on(each)

        clock = Clock(device, Budget(10.0))
        assert clock.seconds(partial(device._do, one)) == pytest.approx(each)
        assert len(done) == 2 + 2 * runs
        assert 0 < clock.budget.left < 10


def test_what_cannot_be_recorded_is_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clocked()
    monkeypatch.setattr(device, "record", lambda: 1 / 0)
    clock = Clock(device, Budget(10.0))
    assert clock.seconds(lambda: device.go_on(1e-4)) == pytest.approx(1e-4)


def test_refused_work_takes_for_ever_and_a_lost_device_is_told() -> None:
    clock = Clock(Clocked(), Budget(10.0))

    def refuse(late: bool) -> None:
        raise DeviceError("planted", late=late)

    assert clock.seconds(lambda: refuse(late=False)) == float("inf")
    with pytest.raises(DeviceError, match="planted"):
        clock.seconds(lambda: refuse(late=True))


# -- what it must not do


def test_epilogues_that_the_library_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(Clocked):
        def multiplier(self, product: Product) -> Any:
            if product.epilogue:
                raise DeviceError("no such thing")
            return super().multiplier(product)

    case = Case(Without(), monkeypatch)
    case.run()
    assert case.launches.taken == ()
    assert case.launches.choices == {}
    assert "epilogue" not in case.exe.explain()


def test_an_epilogue_that_loses_nan_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "keeps_nan", lambda device: False)
    case = Case(Clocked(), monkeypatch)
    case.run()
    assert not case.launches.taken
    assert len(case.launches.chosen) == 3


@pytest.mark.parametrize("keeps", [True, False])
def test_whether_the_library_keeps_nan(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device, download = EmulatedDevice(), EmulatedDevice.download

    def lost(device: EmulatedDevice, into: np.ndarray, address: int) -> None:
        download(device, into, address)
        np.nan_to_num(into, copy=False)

    if not keeps:
        monkeypatch.setattr(EmulatedDevice, "download", lost)
    assert KEEPS_NAN(device) is keeps


def test_a_bias_that_does_not_lie_right() -> None:
    b = gx.param("b", np.arange(40, dtype="float32"))
    w = gx.param("w", np.ones((3, 16), "float32"))
    for start in (4, 3):
        exe = gx.compile(gx.input("x", (2, 3)) @ w + b[start : start + 16], backend="emulator")
        assert ("epilogues: BIAS" in exe.explain()) == (start == 4)
        made = exe(x=np.ones((2, 3), "float32"))
        assert (np.asarray(made) == 3 + np.arange(start, start + 16)).all()


def test_timing_harms_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call returns old values, though a product goes where the parameter is."""
    device = Clocked()
    Case(device, monkeypatch)
    x = gx.input("x", (4, 4))
    p = gx.param("p", np.eye(4, dtype="float32"))
    q = gx.param("q", np.full((4, 4), 2, "float32"))
    exe = gx.compile([p], updates={p: x @ q}, backend="clocked")
    (old,) = exe(x=np.full((4, 4), 3, "float32"))
    assert (np.asarray(old) == np.eye(4)).all()
    assert (p.value == 24).all()


def test_operands_are_filled_with_random_values() -> None:
    device = EmulatedDevice()
    for dtype, count in (("float32", 1), ("float16", 100), ("float32", 50_001), ("float64", 0)):
        values = np.zeros(count, dtype)
        block = device.allocate(values.nbytes)
        fill_random(device, block.address, values.nbytes, values.dtype)
        device.download(values, block.address)
        assert np.isfinite(values).all()
        assert (np.abs(values) > 0).all()
        assert len(set(values.tolist())) >= count // 10
