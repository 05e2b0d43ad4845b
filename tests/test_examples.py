"""The examples run as a reader runs them, outside the checkout, and reach what they promise.

Those that train for long are called with small sizes; their pages hold what the full ones give.
"""

import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def run(script: Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, script], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def main_of(root: Path, name: str) -> Callable[..., Any]:
    pytest.importorskip("sklearn")
    return runpy.run_path(str(root / "docs" / "examples" / f"{name}.py"))["main"]


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_digits(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    printed = run(root / "docs" / "examples" / "digits.py", tmp_path)
    last = re.fullmatch(r"test accuracy: (0\.\d+)", printed.strip().splitlines()[-1])
    assert last is not None
    assert float(last[1]) >= 0.975
    losses = [float(s) for s in re.findall(r"^epoch.*loss (\S+)", printed, re.MULTILINE)]
    assert losses[-1] < 0.05 * losses[0]
    drawn = {p.name for p in (tmp_path / "out" / "digits").glob("*.dot")}
    assert len(drawn) >= 5
    assert is_picture(tmp_path / "out" / "digits" / "digits.png")


def test_overfitting(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "overfitting.png"
    found = main_of(root, "overfitting")(epochs=8, samples=100, picture=picture)
    assert list(found) == ["nothing", "L2", "dropout", "early stopping", "augmentation"]
    ends = [history["loss"][-1] for history in found.values()]
    assert ends[0] < min(ends[1], ends[2], ends[4])  # each cure hinders learning by heart
    assert ends[3] == ends[0]  # it has not stopped yet, and changes nothing else
    assert is_picture(picture)


def test_transfer(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "transfer.png"
    moves = main_of(root, "transfer")(epochs=15, samples=(2, 10), seeds=2, picture=picture)
    assert len(moves) == 2
    for found, classes in zip(moves.values(), (5, 2), strict=True):
        assert [values.shape for values in found.values()] == [(2, 3), (2, 3)]
        assert found[10].mean() > max(found[2].mean(), 1.2 / classes)
    assert is_picture(picture)


def test_regression(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "regression.png"
    assert main_of(root, "regression")(epochs=60, picture=picture) > 0.3
    assert is_picture(picture)


def test_breast_cancer(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "breast_cancer.png"
    assert main_of(root, "breast_cancer")(picture=picture) >= 0.96
    assert is_picture(picture)


def test_neurons(root: Path, tmp_path: Path) -> None:
    assert "26 gradients agree" in run(root / "docs" / "examples" / "neurons.py", tmp_path)
    source = (tmp_path / "out" / "neurons" / "neurons.dot").read_text()
    assert source.count("tanh") >= 6
    assert source.count("multiply") >= 20
    has_dot = shutil.which("dot") is not None
    assert (tmp_path / "out" / "neurons" / "neurons.svg").exists() == has_dot


def test_gradients(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    main = runpy.run_path(str(root / "docs" / "examples" / "gradients.py"))["main"]
    found = main(epochs=3, picture=tmp_path / "gradients.png", backend="numpy")
    first, last = found["sigmoid"].readings[0], found["sigmoid"].readings[9]
    assert first.gradient < 1e-4 * last.gradient
    assert "vanishing" in found["sigmoid"].warnings
    first, last = found["relu"].readings[0], found["relu"].readings[9]
    assert 0.1 < first.gradient / last.gradient < 10
    assert found["relu"].warnings == {}
    assert "the gradient vanishes in layers.0" in capsys.readouterr().out
    assert (tmp_path / "gradients.png").read_bytes()[:4] == b"\x89PNG"
