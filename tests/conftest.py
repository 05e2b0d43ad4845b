"""What all tests share: a fixed random search for hypothesis, the checkout, a cache, backends."""

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from stand_in import StandIn, stand_in_backend

import graphc as gx
from graphc import backends
from graphc.backends import native_parts
from graphc.backends.cache import VARIABLE
from graphc.backends.cuda import nvrtc as nvrtc_module
from graphc.backends.cuda import ways
from graphc.executable import Executable

if find_spec("hypothesis") is None:  # on a machine where nothing can be installed
    collect_ignore = ["test_ir.py", "test_report.py", "test_profile.py"]
else:
    from hypothesis import settings

    settings.register_profile("graphc", deadline=None, derandomize=True)
    settings.load_profile("graphc")

_cache: Path | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Nothing that a test compiles gets into the user's cache folder, or comes out of it. The
    processes of pytest-xdist share the folder that their parent has made."""
    global _cache
    if not hasattr(config, "workerinput"):
        _cache = Path(tempfile.mkdtemp(prefix="graphc-tests-"))
        os.environ[VARIABLE] = str(_cache)


def pytest_unconfigure() -> None:
    if _cache is not None:
        shutil.rmtree(_cache, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew")
    parser.addoption(
        "--backend", action="append", default=[], metavar="NAME",
        help="run the tests of all backends on this one, too: cuda",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        more = metafunc.config.getoption("--backend")
        marks = {"cuda": [pytest.mark.gpu]}
        names = dict.fromkeys(["numpy", "native", "emulator", *more])
        rows = [pytest.param(name, marks=marks.get(name, [])) for name in names]
        metafunc.parametrize("backend_name", rows)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    cuda = gx.devices()["cuda"] if marked else None
    if cuda is not None and not cuda.usable:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"cuda: {cuda.reason}"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout that holds graphc/, tests/ and docs/."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def compiled_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the programs that a test compiles, in their order."""
    names: list[str] = []
    compile_ = gx.compile

    def count(*args: Any, **options: Any) -> Any:
        names.append(options["name"])
        return compile_(*args, **options)

    monkeypatch.setattr(gx, "compile", count)
    return names


@pytest.fixture
def golden(root: Path, request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden/, or write it there with --update-golden."""

    def compare(name: str, text: str) -> None:
        path = root / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text(), f"{path} differs; look, then pytest --update-golden"

    return compare


@pytest.fixture
def native() -> None:
    """Skips the test, saying why, where the native backend cannot run."""
    found = gx.devices()["native"]
    if not found.usable:
        pytest.skip(f"native: {found.reason}")


@pytest.fixture
def nvrtc() -> None:
    """Skips the test, saying why, where NVRTC is not installed."""
    try:
        nvrtc_module.nvrtc()
    except gx.BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def backend(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test on each backend: what `compile` takes if the test names none."""
    found = backends.BACKENDS[backend_name].probe()
    if not found.usable:
        pytest.skip(f"{backend_name}: {found.reason}")
    monkeypatch.setattr(backends, "ORDER", (backend_name,))
    if backend_name == "cuda":
        for name in ("__call__", "run_many"):
            monkeypatch.setattr(Executable, name, _fetching(getattr(Executable, name)))
    return backend_name


def _fetching(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call whose results are NumPy arrays, as the tests of all backends want them."""

    def fetched(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: fetched(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(fetched(v) for v in value)
        return value.get() if hasattr(value, "__cuda_array_interface__") else value

    return lambda *args, **named: fetched(call(*args, **named))


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native programs are shared among threads however little there is to do."""
    monkeypatch.setattr(native_parts, "GRAIN", 1e-15)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A device that stands in for a GPU: backend "stand-in"."""
    made = StandIn()
    known = {**backends.BACKENDS, made.name: stand_in_backend(made)}
    monkeypatch.setattr(backends, "BACKENDS", known)
    return made


@pytest.fixture(params=["replayed", "direct"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: StandIn) -> str:
    """Runs a test on the device both ways, whatever the sizes."""
    assert device.name in backends.BACKENDS
    monkeypatch.setattr(ways, "COPIED", 1 << 40 if request.param == "replayed" else -1)
    monkeypatch.setattr(ways, "SHARE", 1 << 60)
    return request.param
