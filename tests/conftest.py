"""What all tests share: a fixed random search for hypothesis, and the root of the checkout."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("graphc", deadline=None, derandomize=True)
settings.load_profile("graphc")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout that holds graphc/, tests/ and docs/."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test compiles gets into the user's cache folder, or comes out of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew")


@pytest.fixture
def golden(root: Path, request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden/, or write it there with --update-golden."""

    def compare(name: str, text: str) -> None:
        path = root / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert text == path.read_text(), f"{path} differs; look, then pytest --update-golden"

    return compare
