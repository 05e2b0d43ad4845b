"""What all tests share: a fixed random search for hypothesis, and the root of the checkout."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("graphc", deadline=None, derandomize=True)
settings.load_profile("graphc")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout that holds graphc/, tests/ and docs/."""
    return Path(__file__).resolve().parent.parent
