"""The device over CuPy, on a double of CuPy: order, recordings, arrays, errors, the probe."""

import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_cupy import Array, CUDARuntimeError, Event, FakeCupy, Graph, Module, Stream

from graphc.backends.cuda import cupy_device as module
from graphc.backends.cuda.cupy_device import CupyDevice, cupy_device, probe
from graphc.backends.cuda.device import Device, DeviceError, DeviceMemoryError
from graphc.backends.cuda.libraries import load_stand_in
from graphc.backends.cuda.tuning import Budget, Clock
from graphc.backends.native_backend import NATIVE
from graphc.cli import devices_text
from graphc.codegen.launches import Product
from graphc.errors import BackendUnavailable

ILLEGAL = CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access")
INVALID = CUDARuntimeError(9, "cudaErrorInvalidConfiguration: invalid configuration argument")


def forget() -> None:
    """What was found out about this machine, or about an invented one."""
    for cached in (probe, module._device):
        cached.cache_clear()


@pytest.fixture(scope="module")
def real_cupy() -> Any:
    """CuPy itself: loaded before its place is taken, as it cannot be loaded twice."""
    return pytest.importorskip("cupy")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCupy]:
    fake = FakeCupy(devices=2)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(module, "compile_cubin", lambda text, arch: f"{arch}: {text}".encode())
    forget()
    yield fake
    forget()


@pytest.fixture
def device(fake: FakeCupy) -> Device:
    return CupyDevice(fake.device)


def test_double_has_no_name_that_cupy_lacks(real_cupy: Any, fake: FakeCupy) -> None:
    cupy = real_cupy
    for mine, real in ((fake.cuda, cupy.cuda), (fake.runtime, cupy.cuda.runtime)):
        assert not set(vars(mine)) - set(dir(real))
    for mine, real in (
        (Stream, cupy.cuda.Stream),
        (Event, cupy.cuda.Event),
        (Graph, cupy.cuda.Graph),
        (Module, cupy.cuda.function.Module),
    ):
        methods = {name for name, value in vars(mine).items() if callable(value)}
        assert not methods - set(dir(real))
    assert {"ptr", "device_id"} <= set(dir(cupy.cuda.MemoryPointer))
    assert {"shape", "dtype", "data", "flags"} <= set(dir(cupy.ndarray))
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)
    for name in ("empty", "asarray", "from_dlpack", "get_default_memory_pool", "__version__"):
        assert hasattr(cupy, name)
    assert cupy.cuda.runtime.streamCaptureModeThreadLocal == 1


def test_cupy_is_imported_in_one_module(root: Path) -> None:
    wanted = re.compile(r"^\s*(import|from) cupy\b", re.MULTILINE)
    found = [p.name for p in (root / "graphc").rglob("*.py") if wanted.search(p.read_text())]
    assert found == ["cupy_device.py"]


# -- memory


def test_memory_goes_there_and_back(fake: FakeCupy, device: Device) -> None:
    with device.active():
        block = device.allocate(64)
        assert block.address % 256 == 0
        assert block.nbytes == 64
        staged = device.pinned(64)
        assert (staged.dtype, staged.shape) == (np.uint8, (64,))
        staged[:] = range(64)
        device.upload(block.address, staged)
        device.copy(block.address + 32, block.address, 32)
        device.fill(block.address + 60, 4)
        found = np.zeros(16, np.int32)
        device.download(found, block.address)
        expected = np.r_[:32, :28, 0, 0, 0, 0].astype(np.uint8)
        np.testing.assert_array_equal(found.view(np.uint8), expected)
    assert fake.said() == [
        ("copy", 1, 64, 0), ("copy", 3, 32, 0), ("fill", 0, 4, 0), ("copy", 2, 64, 0),
        ("synchronize", 0),
    ]  # fmt: skip


def test_nothing_to_allocate(device: Device) -> None:
    assert device.allocate(0).nbytes == 0
    assert device.pinned(0).size == 0


def test_out_of_memory(fake: FakeCupy, device: Device) -> None:
    fake.free = 1000
    assert device.free_nbytes() == 1024
    with pytest.raises(DeviceMemoryError, match="cuda:0: 5000 bytes are planned and 1024 are free"):
        device.allocate(5000)
    with pytest.raises(DeviceMemoryError, match="cuda:0: 4000 bytes are planned"):
        device.fresh((10, 100), np.dtype("float32"))


# -- order


def test_default_stream_costs_no_event(fake: FakeCupy, device: Device) -> None:
    for _ in range(2):
        with device.active():
            pass
    assert fake.said() == []


def test_work_on_another_stream_comes_after(fake: FakeCupy, device: Device) -> None:
    with device.active():
        device.fill(device.allocate(4).address, 4)
    with fake.stream() as one, device.active():
        pass
    assert fake.said()[1:] == [("record", 0), ("wait", 100, (0, 2)), ("record", 100)]
    with one, device.active():
        pass
    assert fake.said() == [("record", 100)]
    with device.active():
        pass
    # The event behind the first stream's work is waited for; that stream may be gone by now.
    assert fake.said() == [("wait", 0, (100, 1))]
    with one, device.active():
        pass
    assert fake.said() == [("record", 0), ("wait", 100, (0, 1)), ("record", 100)]


def test_streams_of_threads_are_different(fake: FakeCupy, device: Device) -> None:
    per_thread = fake.stream()
    per_thread.ptr = 2
    for _ in range(2):
        with per_thread, device.active():
            pass
    assert fake.said() == [("record", 2), ("wait", 2, (2, 1)), ("record", 2)]


def test_threads_use_the_device_one_at_a_time(device: Device) -> None:
    inside = threading.Event()

    def use() -> None:
        with device.active():
            inside.set()

    other = threading.Thread(target=use)
    with device.active(), device.active():
        other.start()
        assert not inside.wait(0.05)
    other.join(10)
    assert inside.is_set()


def test_device_is_current_and_the_old_one_comes_back(fake: FakeCupy) -> None:
    other = CupyDevice(1)
    with other.active():
        assert fake.device == 1
    assert fake.device == 0
    with pytest.raises(ZeroDivisionError), other.active():
        raise ZeroDivisionError
    assert fake.device == 0


def test_memory_given_back_waits_for_its_last_use(fake: FakeCupy, device: Device) -> None:
    with device.active():
        block = device.allocate(4)
    with fake.stream(), device.active():
        pass
    fake.said()
    del block
    assert fake.said() == [("wait", 0, (100, 3))]
    with device.active():
        block = device.allocate(4)
    fake.said()
    del block
    assert fake.said() == []


# -- work


def test_launch_passes_eight_bytes_each(fake: FakeCupy, device: Device) -> None:
    with device.active():
        function = device.load("text")("scale")
        device.launcher(function, 3, 128, (1 << 40, 7, 0.5))()
    load, launch = fake.said()
    assert load == ("load", b"sm_90: text")
    assert launch[1:4] == ("scale", (3,), (128,))
    assert launch[4] == (1 << 40, 7, 0.5)
    assert [type(value) for value in launch[4]] == [np.int64, np.int64, np.float64]


def test_recording(fake: FakeCupy, device: Device) -> None:
    with device.active():
        launch = device.launcher(device.load("text")("step"), 1, 32, ())
        block = device.allocate(64)
        fake.said()
        gc.enable()
        with device.record() as recorder:
            assert not gc.isenabled()
            launch()
            device.fill(block.address, 64)
            with device.active():  # no order with other streams is recorded
                pass
        assert gc.isenabled()
        said = [words[:1] + words[-1:] for words in fake.said()]
        assert said == [("begin", 1), ("launch", 100), ("fill", 100), ("end", 100),
                        ("upload graph", 0)]  # fmt: skip
        with fake.stream():
            recorder.recording.replay()
        assert fake.said() == [("graph", 101)]
    with device.active():  # the stream of a recording has done no work
        pass
    assert fake.said() == []


def test_recording_that_fails_inside(fake: FakeCupy, device: Device) -> None:
    with device.active():
        with pytest.raises(ZeroDivisionError), device.record():
            raise ZeroDivisionError
        assert fake.said() == [("begin", 100, 1), ("end", 100)]
        assert fake.streams == [fake.null]
        assert gc.isenabled()
        with device.record():
            pass
        assert fake.said()[0] == ("begin", 101, 1)


def test_recording_that_is_refused(fake: FakeCupy, device: Device) -> None:
    fake.fail["end_capture"] = CUDARuntimeError(901, "cudaErrorStreamCaptureInvalidated")
    with (
        device.active(),
        pytest.raises(DeviceError, match=r"the work cannot be recorded: .*Invalidated"),
        device.record(),
    ):
        pass
    assert fake.streams == [fake.null]


def test_product(fake: FakeCupy, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    if not NATIVE.probe().usable:
        pytest.skip("no C compiler for the stand-in")
    monkeypatch.setattr(module, "load_library", lambda name: load_stand_in())
    monkeypatch.setattr(module, "nvrtc", lambda: SimpleNamespace(version=(13, 0)))
    fake.free = 64 << 20
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((3, 4), np.float32)
    with device.active():
        room = [device.allocate(array.nbytes) for array in (a, b)]
        for block, array in zip(room, (a, b), strict=True):
            device.upload(block.address, array)
        c = np.zeros((2, 4), np.float32)
        result = device.allocate(c.nbytes)
        multiply = device.multiplier(Product(2, 4, 3, 3, 4, 4, "float32", "float32"))
        multiply(room[0].address, room[1].address, result.address, 0)
        device.download(c, result.address)
    np.testing.assert_array_equal(c, a @ b)
    assert dict(device.facts.versions) == {
        "driver": "13.0", "CuPy": "14.0.0", "NVRTC": "13.0", "cuBLASLt": "13.0.0",
    }  # fmt: skip
    assert (device.facts.description, device.facts.arch) == ("A GPU, 8 GiB", "sm_90")
    assert device.facts.multiprocessors == 7


def test_events(fake: FakeCupy, device: Device) -> None:
    with device.active():
        start, end = device.event(), device.event()
        start.record()
        device.fill(device.allocate(4).address, 4)
        end.record()
        end.wait()
    assert end.seconds_since(start) == pytest.approx(2e-3)
    assert fake.said()[-1] == ("wait for", (0, 3))


def test_measuring_replays_a_recording(fake: FakeCupy, device: Device) -> None:
    with device.active():
        launch = device.launcher(device.load("text")("scale"), 1, 32, ())
        fake.said()
        assert 0 < Clock(device, Budget(10.0)).seconds(launch) < float("inf")
    said = [words[0] for words in fake.said()]
    once = ["launch", "record", "launch", "record", "wait for"]
    replay = ["record", "graph", "record", "wait for"]
    assert said == [*once, "begin", "launch", "end", "upload graph", *replay, *replay]


# -- errors


def test_launch_error_names_the_kernel(fake: FakeCupy, device: Device) -> None:
    fake.fail["kernel"] = INVALID
    launch = device.launcher(device.load("text")("scale"), 3, 4096, ())
    with pytest.raises(DeviceError, match=r"kernel scale .* 3 x 4096 threads: .*invalid") as caught:
        launch()
    assert "any more" not in str(caught.value)
    assert not caught.value.late


def test_sticky_errors(fake: FakeCupy, device: Device) -> None:
    with device.active():
        launch = device.launcher(device.load("text")("scale"), 1, 32, ())
        with device.record() as recorder:
            pass
        at = device.allocate(8).address
        fake.fail = dict.fromkeys(("synchronize", "launch", "kernel", "copy", "fill"), ILLEGAL)
        for action in (
            launch,
            lambda: device.upload(at, np.zeros(1)),
            lambda: device.copy(at, at, 8),
            lambda: device.fill(at, 8),
            device.synchronize,
            lambda: device.download(np.zeros(1), at),
            device.event().wait,
            recorder.recording.replay,
        ):
            with pytest.raises(DeviceError, match=r"illegal memory access; .* any more") as caught:
                action()
            assert caught.value.late
            assert str(caught.value).startswith("work on the device failed")  # not this call


def test_cubin_that_does_not_load(fake: FakeCupy, device: Device) -> None:
    fake.fail["load"] = CUDARuntimeError(209, "CUDA_ERROR_NO_BINARY_FOR_GPU")
    with pytest.raises(BackendUnavailable, match=r"NO_BINARY_FOR_GPU; .*pip install '\.\["):
        device.load("text")


# -- arrays


def of(array: Array, **protocols: Any) -> Any:
    """An array of another library."""
    return SimpleNamespace(array=array, **protocols)


def test_admitted_arrays(fake: FakeCupy, device: Device) -> None:
    for dtype in ("float32", "int64", "bool", ml_dtypes.bfloat16):
        array = Array((2, 3), dtype)
        by_interface = of(array, __cuda_array_interface__={})
        by_dlpack = of(array, __dlpack_device__=lambda: (2, 0))
        for value in (array, by_interface, by_dlpack):
            found = device.admit(value)
            assert found == (array.data.ptr, (2, 3), np.dtype(dtype), array)
    # As torch does for bfloat16: it has the interface, and refuses.
    both = of(array, __cuda_array_interface__={}, __dlpack_device__=lambda: (2, 0))
    fake.fail["asarray"] = TypeError("unsupported dtype")
    found = device.admit(both)
    assert found is not None
    assert found[3] is array


def test_refused_arrays(fake: FakeCupy, device: Device) -> None:
    array, elsewhere, crooked = Array((2, 3), "float32"), Array((2,), "int32", 1), Array((2,), "f4")
    crooked.flags.c_contiguous = False
    for value in (
        elsewhere,
        crooked,
        of(elsewhere, __cuda_array_interface__={}),
        of(array, __dlpack_device__=lambda: (1, 0)),
        of(array, __dlpack_device__=lambda: (2, 1)),
        np.zeros(3),
        np.float32(1),
        [1.0],
        1.5,
        None,
    ):
        assert device.admit(value) is None
    fake.fail = dict.fromkeys(("asarray", "from_dlpack"), BufferError("no"))
    value = of(array, __cuda_array_interface__={}, __dlpack_device__=lambda: (2, 0))
    assert device.admit(value) is None


def test_fresh_arrays(device: Device) -> None:
    array, address = device.fresh((2, 3), np.dtype(ml_dtypes.bfloat16))
    assert (array.shape, array.dtype) == ((2, 3), np.dtype(ml_dtypes.bfloat16))
    assert address == array.data.ptr


# -- probe


@pytest.mark.skipif(
    subprocess.run(["which", "nvidia-smi"], capture_output=True, check=False).returncode == 0,
    reason="a GPU may be here",
)
def test_without_a_driver_cupy_is_not_imported() -> None:
    said = subprocess.run(
        [sys.executable, "-c",
         "import sys, time; from graphc.backends.cuda.cupy_device import probe\n"
         "start = time.perf_counter(); found = probe(); seconds = time.perf_counter() - start\n"
         "print(found.usable, 'cupy' in sys.modules, seconds < 0.4, found.details['install'])\n"
         "print(found.reason)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.startswith(
        "False False True needs an NVIDIA GPU with its driver, then: python3 -m pip install"
    )
    assert "no NVIDIA driver: libcuda.so.1" in said


@pytest.fixture
def machine(fake: FakeCupy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCupy:
    """A machine on which all steps of the probe succeed."""
    if not NATIVE.probe().usable:
        pytest.skip("no C compiler for the stand-in")
    said = tmp_path / "version"
    said.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release")
    monkeypatch.setattr(module, "DRIVER_FILE", said)
    monkeypatch.setattr(module, "driver_version", lambda: 13010)
    monkeypatch.setattr(module, "load_library", lambda name: load_stand_in())
    monkeypatch.setattr(module, "nvrtc", lambda: SimpleNamespace(version=(13, 0)))
    real = CupyDevice.launcher

    def launcher(self: CupyDevice, function: Any, *rest: Any) -> Any:
        launch, (address, value) = real(self, function, *rest), rest[-1]
        self.upload(address, np.array([value], np.int32))
        return launch

    monkeypatch.setattr(CupyDevice, "launcher", launcher)
    return fake


@pytest.mark.usefixtures("machine")
def test_probe_finds_all() -> None:
    found = probe()
    assert found.usable, found.reason
    assert found.details == {
        "driver": "580.65.06, for CUDA up to 13.1", "CuPy": "14.0.0", "CUDA": "13.0",
        "NVRTC": "13.0", "cuBLASLt": "13.0.0",
        "GPU 0": "A GPU, compute capability 9.0, 8 GiB",
        "GPU 1": "A GPU, compute capability 9.0, 8 GiB", "free": "0.0 GiB of GPU 0",
    }  # fmt: skip
    assert probe() is found
    assert cupy_device(0) is cupy_device(0)
    assert cupy_device(1).name == "cuda:1"
    for index in (2, -1):
        with pytest.raises(BackendUnavailable, match=f"cuda:{index}: there are GPUs 0 to 1 only"):
            cupy_device(index)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m, f: m.setitem(sys.modules, "cupy", None), "CuPy cannot be imported"),
        (lambda m, f: setattr(f.runtime, "getDeviceCount", lambda: 0), "CuPy finds no GPU: none"),
        (lambda m, f: setattr(f, "free", 0), "the GPU has no memory to give: cuda:0: 256 bytes"),
        (lambda m, f: m.setattr(module, "nvrtc", lambda: 1 / 0), "CUDA's compiler is not there"),
        (
            lambda m, f: m.setattr(module, "load_library", lambda name: 1 / 0),
            "CUDA's matrix products are not there",
        ),
        (lambda m, f: f.fail.update(kernel=INVALID), "a kernel does not run: kernel gx_probe"),
        (
            lambda m, f: m.setattr(CupyDevice, "launcher", lambda *_: lambda: None),
            "a kernel does not run: it stored",
        ),
    ],
)
def test_probe_names_the_step_and_the_remedy(
    machine: FakeCupy, monkeypatch: pytest.MonkeyPatch, spoil: Any, reason: str
) -> None:
    spoil(monkeypatch, machine)
    start = time.perf_counter()
    found = probe()
    assert time.perf_counter() - start < 20
    assert not found.usable
    assert found.reason.startswith(reason)
    assert found.details["missing"].startswith(reason)
    assert (
        found.details["install"]
        == "run: python3 -m pip install '.[cuda13]' in a checkout of graphc"
    )
    with pytest.raises(BackendUnavailable, match=reason):
        cupy_device(0)


@pytest.mark.usefixtures("machine")
def test_the_command_line_shows_all_or_what_is_missing(
    fake: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphc.backends.cuda.without_driver", lambda: None)
    text = devices_text()
    for line in (
        "cuda       usable: a GPU is there: A GPU, compute capability 9.0, 8 GiB",
        "driver: 580.65.06, for CUDA up to 13.1",
        "CUDA: 13.0",
        "cuBLASLt: 13.0.0",
        "emulator   usable: for tests and for writing kernels; a C++ compiler is there",
    ):
        assert line in text
    forget()
    fake.fail["kernel"] = INVALID
    lines = devices_text().splitlines()
    assert lines[0] == "cuda       not usable"
    assert (
        "           install: run: python3 -m pip install '.[cuda13]' in a checkout of graphc"
        in lines
    )
    assert any(line.startswith("           missing: a kernel does not run: ") for line in lines)


@pytest.mark.usefixtures("machine")
def test_remedy_fits_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "driver_version", lambda: 12080)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "python3 -m pip install '.[cuda12]'" in probe().reason
