"""The package installs and runs outside the checkout: as a wheel, and as an editable install."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

PARTS = ("graphc", "kernels", "bench", "pyproject.toml", "README.md", "LICENSE")
PROGRAM = """
import sys
import numpy as np
import graphc as gx
from graphc.resources import folder, load_bench

x, w = gx.input("x", (2, 3)), gx.param("w", np.ones((3, 2), "float32"))
loss = gx.mean((x @ w) ** 2)
exe = gx.compile({"loss": loss, "slope": gx.grad(loss, w)}, backend="numpy")
found = exe(x=np.ones((2, 3)))
assert abs(found["loss"] - 9) < 1e-6 and found["slope"].shape == (3, 2)
assert callable(load_bench().run)
print(gx.__file__, folder("kernels"), folder("bench"), sep="\\n")
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that sees neither the checkout nor this environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fresh_environment(place: Path) -> Path:
    """A new virtual environment with our third-party packages, but nothing of graphc."""
    venv.create(place, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python"


def install(python: Path, what: list[str | Path], cwd: Path) -> None:
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps",
        "--no-index", "--no-build-isolation", "--ignore-installed", *what, cwd=cwd,
    )  # fmt: skip


def copy_of(root: Path, place: Path) -> Path:
    """The parts of the checkout that a package is made of, somewhere else."""
    ignored = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, place / part, ignore=ignored)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / part, place / part)
    return place


def files(folder: Path) -> set[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix() for p in found}


def test_wheel(root: Path, tmp_path: Path) -> None:
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path,
        copy_of(root, tmp_path / "checkout"), cwd=tmp_path,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "checkout")
    python = fresh_environment(tmp_path / "env")
    install(python, list(tmp_path.glob("*.whl")), tmp_path)
    package, kernels, bench = map(Path, run(python, "-c", PROGRAM, cwd=tmp_path).split())
    assert package.is_relative_to(tmp_path / "env")
    assert kernels.parent == bench.parent == package.parent
    assert files(kernels) == files(root / "kernels")
    assert files(bench) == files(root / "bench")
    beside = {p.name for p in package.parent.parent.iterdir()}
    assert beside.isdisjoint({"kernels", "bench", "tests", "docs"})
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert version in run(python.parent / "graphc", "--version", cwd=tmp_path)


def test_editable_install_reads_the_checkout(root: Path, tmp_path: Path) -> None:
    checkout = copy_of(root, tmp_path / "checkout")
    python = fresh_environment(tmp_path / "env")
    install(python, ["-e", checkout], tmp_path)
    (checkout / "kernels" / "later.h").write_text("// written after the install\n")
    package, kernels, bench = map(Path, run(python, "-c", PROGRAM, cwd=tmp_path).split())
    assert package == checkout / "graphc" / "__init__.py"
    assert (kernels, bench) == (checkout / "kernels", checkout / "bench")
    assert "later.h" in files(kernels)


def test_dependencies_are_what_is_imported(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = {line.split(">=")[0] for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    extra = {line.split(">=")[0] for line in extras["peers"] + extras["plot"]}
    extra.add("mpmath")  # of `dev`, for bench/accuracy.py
    extra.add("sklearn")  # of `examples`, for bench/training.py
    extra |= {"cupy", "cuda"}  # of `cuda12` and `cuda13`: CuPy, and cuda-pathfinder
    imported: set[str] = set()
    for path in [*(root / "graphc").rglob("*.py"), *(root / "bench").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) - {"graphc"} == declared | extra


@pytest.mark.parametrize("part", [p for p in PARTS if p != "graphc"])
def test_parts_of_the_package_exist(root: Path, part: str) -> None:
    assert (root / part).exists()
