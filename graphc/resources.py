"""Finds the folders that ship beside the package: `kernels/` (C sources) and `bench/` (benchmarks).

In a checkout they stand beside `graphc/`; a wheel carries copies inside the package. The checkout
wins, because an editable install copies such files once and then lets them go stale.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The root of the checkout that this package runs from; None when it runs from a wheel."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def folder(name: str) -> Path:
    """The folder `kernels` or `bench`; FileNotFoundError, naming the places, if it is in none."""
    root = checkout()
    places = [PACKAGE / f"_{name}"] if root is None else [root / name, PACKAGE / f"_{name}"]
    for place in places:
        if place.is_dir():
            return place
    shown = " nor ".join(map(str, places))
    raise FileNotFoundError(f"folder {name!r} is not at {shown}; install graphc again")


def load_bench(module: str = "runner") -> ModuleType:
    """A module of the benchmarks, loaded from wherever their folder is."""
    if "graphc_bench" not in sys.modules:
        _load_package("graphc_bench", folder("bench"))
    return importlib.import_module(f"graphc_bench.{module}")


def _load_package(name: str, path: Path) -> None:
    spec = spec_from_file_location(
        name, path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
