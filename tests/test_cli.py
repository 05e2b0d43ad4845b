"""The command line: what it prints, what it writes, and one line with status 2 for wrong usage."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.cli import main

MODEL = """
import graphc as gx

def step():
    x, w = gx.input("x", ("batch", 3)), gx.param("w", [1.0, 2.0, 3.0])
    loss = gx.mean(gx.tanh(x @ w))
    return {"loss": loss}, {w: w - 0.1 * gx.grad(loss, w)}

def fixed():
    return gx.exp(gx.input("x", (3,)))

def wrong():
    return gx.input("x", (3,)) + gx.input("y", (4,))

def faulty():
    return 1 / 0

number = 3
"""
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's dot")


@pytest.fixture(autouse=True)
def _model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cli_model.py").write_text(MODEL)
    (tmp_path / "cli_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("graphc ")


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    out = capsys.readouterr().out
    assert "numpy      usable" in out
    assert "native" in out
    assert "\nemulator   " in out


def test_inspect_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "cli_model:step", "--size", "batch=4"]) == 0
    out = capsys.readouterr().out
    for stage in ("declared", "bound", "simplified", "fused", "planned", "lowered"):
        assert f"stage {stage}\n" in out
    assert "w <- " in out
    assert "float32[4, 3]" in out


def test_inspect_prints_one_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "cli_model:fixed", "--stage", "fused"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("stage fused\n")
    assert out.count("stage ") == 1


def test_inspect_writes_dot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "cli_model:step", "--size", "batch=4", "--out", "a.dot"]) == 0
    assert capsys.readouterr().out == "stage fused written to a.dot\n"
    assert (tmp_path / "a.dot").read_text().startswith("digraph {")


@needs_dot
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_inspect_draws(name: str, start: bytes, tmp_path: Path) -> None:
    assert main(["inspect", "cli_model:fixed", "--stage", "declared", "--out", name]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)


def test_inspect_says_how_to_get_graphviz(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["inspect", "cli_model:fixed", "--out", "a.svg"]) == 2
    error = capsys.readouterr().err
    assert "apt install graphviz" in error
    assert error.count("\n") == 1


WRONG = {
    "": "Missing command",
    "frobnicate": "No such command 'frobnicate'",
    "inspect": "Missing argument 'MODULE:FUNCTION'",
    "inspect cli_model": "need MODULE:FUNCTION",
    "inspect :step": "need MODULE:FUNCTION",
    "inspect no_such_module:step": "No module named 'no_such_module'",
    "inspect cli_model.py:step": "write cli_model:step",
    "inspect cli_broken:step": "No module named 'nothing_of_this_name' at cli_broken.py:1",
    "inspect cli_model:no_such": "has no function 'no_such'",
    "inspect cli_model:number": "has no function 'number'",
    "inspect cli_model:wrong": "add: ",
    "inspect cli_model:faulty": "ZeroDivisionError: division by zero at cli_model.py:",
    "inspect cli_model:fixed --stage baked": "the stages are declared, ",
    "inspect cli_model:step --stage fused": "--size batch=64",
    "inspect cli_model:step --size batch": "need NAME=N",
    "inspect cli_model:step --size batch=-1": "need NAME=N",
    "inspect cli_model:step --size other=4": "batch",
    "inspect cli_model:fixed --out a.pdf": ".dot, .svg or .png",
    "inspect cli_model:fixed --out missing/a.dot": "No such file or directory",
    "inspect cli_model:fixed --nonsense": "No such option",
    "bench --case no-such-case": "no-such-case",
    "bench --backend no-such-backend": "no-such-backend",
    "bench --plot FILE.jpeg": "need a name that ends in .png",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("graphc: ")
    assert captured.err.count("\n") == 1
    assert WRONG[line] in captured.err


def test_a_real_process(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graphc.cli", "inspect", "cli_model:fixed", "--stage"]
    environment = {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "declared"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "exp_0 = exp(x) : float32[3]" in done.stdout
    done = subprocess.run(
        [*command, "baked"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_the_command_line_is_cheap_to_import(root: Path) -> None:
    code = "import sys, graphc.cli; print({'typer', 'rich', 'graphviz'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "set()\n"
