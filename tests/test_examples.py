"""The examples run as a reader runs them, outside the checkout, and reach what they promise."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run(script: Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, script], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_digits(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    printed = run(root / "docs" / "examples" / "digits.py", tmp_path)
    last = re.fullmatch(r"test accuracy: (0\.\d+)", printed.strip().splitlines()[-1])
    assert last is not None
    assert float(last[1]) >= 0.965
    losses = [float(s) for s in re.findall(r"^epoch.*loss (\S+)", printed, re.MULTILINE)]
    assert losses[-1] < 0.05 * losses[0]
    drawn = {p.name for p in (tmp_path / "out" / "digits").glob("*.dot")}
    assert len(drawn) >= 5


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
