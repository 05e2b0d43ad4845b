"""What all tests share: a fixed random search for hypothesis, the checkout, a cache, backends."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from stand_in import StandIn, stand_in_backend

import graphc as gx
from graphc import backends
from graphc.backends import native_parts
from graphc.backends.cache import VARIABLE
from graphc.backends.cuda import nvrtc as nvrtc_module

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


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout that holds graphc/, tests/ and docs/."""
    return Path(__file__).resolve().parent.parent


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


@pytest.fixture(params=["numpy", "native"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test on each backend: what `compile` takes if the test names none."""
    if request.param == "native":
        request.getfixturevalue("native")
    monkeypatch.setattr(backends, "ORDER", (request.param,))
    return request.param


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
