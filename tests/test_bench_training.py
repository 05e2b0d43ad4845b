"""The benchmark of training: each contestant does what its row says, and the table is right."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from graphc.resources import load_bench

load_bench()
from graphc_bench import training  # noqa: E402

needs_sklearn = pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "EPOCHS", 5)
    monkeypatch.setattr(training, "ROUNDS", 3)


@needs_sklearn
def test_both_learn() -> None:
    for found in (training._graphc("0"), training._scikit_learn("0")):
        assert found["seconds"] > 0
        assert 0.8 < found["accuracy"] <= 1
    assert found["epochs"] == 5  # it did not stop early


@needs_sklearn
def test_a_step_is_timed_in_pairs() -> None:
    columns = training._step("1")["us"]
    assert columns["difference"] == [
        t - b for b, t in zip(columns["bare loop"], columns["Trainer"], strict=True)
    ]
    assert len(columns["difference"]) == 3


@needs_sklearn
def test_the_batches_of_both_are_as_large() -> None:
    (x, _), _ = training._digits(0)
    _, batches = training._trainer(training._digits(0)[0], 0)
    assert len(batches) == -(-len(x) // training.BATCH)


def test_turns_alternate_and_come_back_in_order() -> None:
    assert training._turned(["bare", "trained"], 1) == ["trained", "bare"]
    assert training._turned(training._turned([1, 2], 3), 3) == [1, 2]


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = {"graphc, empty cache": 1.0, "scikit-learn": 6.0, "scikit-learn, one thread": 4.0}
    rows = [
        {"contestant": name, "seed": seed, "seconds": s + seed / 10, "accuracy": 0.97 + seed / 100}
        for name, s in seconds.items()
        for seed in range(3)
    ]
    us = {"bare loop": [70.0] * 5, "Trainer": [90.0] * 5, "difference": [20.0] * 5}
    monkeypatch.setattr(training, "_end_to_end", lambda: rows)
    monkeypatch.setattr(training, "fresh", lambda *_: json.dumps({"threads": "1", "us": us}))
    monkeypatch.setattr(training, "_version", lambda: "1.9")
    training.main(tmp_path / "training.json")
    assert json.loads((tmp_path / "training.json").read_text())["end to end"] == rows
    text = capsys.readouterr().out
    # of 4.0 / 1.0, 4.1 / 1.1 and 4.2 / 1.2, the faster of scikit-learn's rows, the median
    assert "| graphc, empty cache | 1.100 s | 1.000 s | 1.200 s | 3.73 | 0.9800 | 0.9700 |" in text
    assert "| threads: 1 | 70.0 us (70.0 to 70.0) | 90.0 us (90.0 to 90.0) | 20.0 us" in text
