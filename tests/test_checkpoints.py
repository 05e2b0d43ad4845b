"""Runs that are saved, killed and resumed end bitwise equal to those that were not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trainer import VALIDATION, Shuffled, X, Y, network, same, values

import graphc as gx
from graphc import nn, train
from graphc.nn.tensor_file import read_tensors, write_tensors

OPTIMIZERS: dict[str, Callable[[], train.Optimizer]] = {
    "SGD, warm-up": lambda: train.SGD(train.Warmup(train.Cosine(0.1, 6), 2), momentum=0.9),
    "Adam, plateau": lambda: train.Adam(train.ReduceOnPlateau(0.05, patience=1, min_change=0.2)),
    "AdamW": lambda: train.AdamW(0.01),
    "Adagrad": lambda: train.Adagrad(0.1),
}


def trainer(optimizer: str = "SGD, warm-up", **options: Any) -> train.Trainer:
    model = network(nn.Dropout(0.6, "classic"))
    return train.Trainer(
        model, "softmax_cross_entropy", OPTIMIZERS[optimizer](), ["accuracy"], seed=5, **options
    )


def finish(made: train.Trainer, *callbacks: train.Callback, epochs: int = 6) -> train.Trainer:
    made.fit(Shuffled(), epochs, VALIDATION, callbacks)
    return made


class Save(train.Callback):
    """Saves at some steps, in the middle of epochs, too."""

    def __init__(self, folder: Path, *steps: int) -> None:
        self.folder, self.steps = folder, steps

    def on_step(self, trainer: train.Trainer) -> None:
        if trainer.step in self.steps:
            trainer.save(self.folder / f"at-{trainer.step}.safetensors")


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("optimizer", ["SGD, warm-up", "Adam, plateau"])
def test_a_resumed_run_ends_bitwise_equal(optimizer: str, tmp_path: Path) -> None:
    """Epochs have 4 steps: 1 and 9 lie within, 8 at the end of one."""
    whole = finish(trainer(optimizer), Save(tmp_path, 1, 8, 9))
    for step in (1, 8, 9):
        other = trainer(optimizer)
        other.restore(tmp_path / f"at-{step}.safetensors")
        assert other.step == step
        finish(other)
        assert same(values(other.model), values(whole.model))
        assert other.history.rows == whole.history.rows
        states = {n: p.value for n, p in other.state().items()}
        assert same(states, {n: p.value for n, p in whole.state().items()})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_optimizers_resume(optimizer: str, tmp_path: Path) -> None:
    whole = finish(trainer(optimizer, backend="numpy"), Save(tmp_path, 6), epochs=3)
    other = trainer(optimizer, backend="numpy")
    other.restore(tmp_path / "at-6.safetensors")
    finish(other, epochs=3)
    assert same(values(other.model), values(whole.model))


def test_early_stopping_resumes(tmp_path: Path) -> None:
    """The best weights and the patience are kept, in whatever order callbacks stand."""

    def stopping() -> train.EarlyStopping:
        return train.EarlyStopping("val_loss", patience=2, min_change=0.3)

    def keep() -> train.Checkpoint:
        return train.Checkpoint(tmp_path, keep=10, monitor="val_loss")

    first = stopping()
    whole = finish(trainer(backend="numpy"), keep(), first, epochs=30)
    assert first.reason
    for path in sorted(tmp_path.glob("step-*")):
        other, second = trainer(backend="numpy"), stopping()
        other.restore(path)
        finish(other, second, keep(), epochs=30)
        assert second.reason == first.reason
        assert same(values(other.model), values(whole.model)), path
        assert other.history.stopped == first.reason


def test_callbacks_find_their_own_states(tmp_path: Path) -> None:
    """A run that goes on without one of them, or with one more, is none the worse for it."""

    def keep(folder: str) -> train.Checkpoint:
        return train.Checkpoint(tmp_path / folder, monitor="loss")

    stopping = train.EarlyStopping("val_accuracy", patience=9)
    finish(trainer(backend="numpy"), stopping, keep("a"), epochs=2)
    other, alone = trainer(backend="numpy"), keep("b")
    other.restore(tmp_path / "a")
    finish(other, alone, epochs=2)  # nothing is left to do
    assert alone.state()["best"] == min(other.history["loss"])
    more, again = train.EarlyStopping("val_accuracy"), keep("c")
    other.restore(tmp_path / "a")
    finish(other, train.EarlyStopping("val_accuracy"), again, more, epochs=2)
    assert again.state() == alone.state()
    assert more.state()["best"] == -np.inf


def test_a_saved_run_that_has_ended_trains_on(tmp_path: Path) -> None:
    """Saved outside of fit: the next fit makes all its epochs."""
    whole = trainer(backend="numpy")
    finish(whole, epochs=2).save(tmp_path / "a.safetensors")
    other = trainer(backend="numpy")
    other.restore(tmp_path / "a.safetensors")
    assert finish(other, epochs=3).epoch == 5
    assert same(values(other.model), values(finish(whole, epochs=3).model))


def test_frozen_parameters_and_a_plain_function_resume(tmp_path: Path) -> None:
    """Velocities of what was frozen later are kept; a function's params are found in its graph."""

    def made() -> tuple[train.Trainer, gx.Param]:
        w = gx.param("w", nn.init.glorot_uniform((4, 3)))
        b = gx.param("b", np.zeros(3, "float32"))
        return train.Trainer(lambda x: x @ w + b, "softmax_cross_entropy",
                             train.SGD(0.1, momentum=0.9), backend="numpy"), w  # fmt: skip

    whole, w = made()
    whole.fit((X, Y), 3)
    w.trainable = False
    whole.fit((X, Y), 2)
    whole.save(tmp_path / "a.safetensors")
    other, v = made()
    other.restore(tmp_path / "a.safetensors")
    assert not v.trainable
    for run, p in ((whole, w), (other, v)):
        p.trainable = True
        run.fit((X, Y), 2)
    assert v.value.tobytes() == w.value.tobytes()


# -- kept files


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    made, left_over = trainer(backend="numpy"), tmp_path / ".step-0000000004.safetensors.1.tmp"
    left_over.write_bytes(b"half")
    finish(made, train.Checkpoint(tmp_path, keep=2, monitor="val_loss"), epochs=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors", "step-0000000016.safetensors", "step-0000000020.safetensors",
    ]  # fmt: skip
    best = trainer(backend="numpy")
    best.restore(tmp_path / "best.safetensors")
    losses = made.history["val_loss"]
    assert best.epoch == 1 + losses.index(min(losses))
    assert best.evaluate(*VALIDATION)["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_checkpoints_by_steps_and_epochs(tmp_path: Path) -> None:
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path / "a", steps=5, keep=9), epochs=4)
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path / "b", epochs=2, keep=9), epochs=4)
    found = {f: [int(p.stem[5:]) for p in sorted((tmp_path / f).iterdir())] for f in "ab"}
    assert found == {"a": [5, 10, 15], "b": [8, 16]}


def test_a_model_reads_the_parameters_of_a_run_and_a_run_no_model(tmp_path: Path) -> None:
    made = finish(trainer(backend="numpy"), epochs=1)
    made.save(tmp_path / "run.safetensors")
    made.model.save(tmp_path / "model.safetensors")
    with pytest.raises(gx.CheckpointError, match="no checkpoint of a run"):
        made.restore(tmp_path / "model.safetensors")
    other = trainer(backend="numpy").model
    assert other.load(tmp_path / "run.safetensors").complete
    for name, p in other.parameters().items():
        assert np.array_equal(p.value, made.model.parameters()[name].value)


# -- files that do not fit


def snapshot(made: train.Trainer) -> Any:
    states = {n: p.value.tobytes() for n, p in made.state().items()}
    rows = json.dumps(made.history.rows)
    return states, rows, made.step, made.epoch, made.seed, made.optimizer.schedule.state()


def other_version(path: Path) -> None:
    tensors, texts = read_tensors(path)
    facts = json.loads(texts["graphc.run"])
    write_tensors(path, tensors, {"graphc.run": json.dumps({**facts, "version": 99})})


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(bytes(data))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged"),
    "corrupt": (flipped, "checksum"),
    "foreign": (lambda p: p.write_bytes(b"PK\x03\x04" * 200), "no safetensors file"),
    "missing": (lambda p: p.unlink(), "cannot be read"),
    "an empty folder": (lambda p: (p.unlink(), p.mkdir()), "holds no checkpoint"),
    "of another version": (other_version, "version 99; need 1"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_checkpoints_change_nothing(how: str, tmp_path: Path) -> None:
    spoil, message = SPOILT[how]
    path, made = tmp_path / "run.safetensors", trainer(backend="numpy")
    finish(trainer(backend="numpy"), epochs=2).save(path)
    finish(made, epochs=1)
    spoil(path)
    before = snapshot(made)
    with pytest.raises(gx.CheckpointError, match="run.safetensors") as caught:  # noqa: RUF043
        made.restore(path)
    assert message in str(caught.value)
    assert snapshot(made) == before
    finish(made, epochs=1)


@pytest.mark.parametrize(
    ("other", "message"),
    [(lambda: train.Trainer(network(), "softmax_cross_entropy", train.Adam()), "optimizer SGD"),
     (lambda: train.Trainer(network(nn.Dropout(0.6)), "softmax_cross_entropy", train.SGD(0.1)),
      r"\(optimizer\): .*unexpected: layers\.0\.bias\.velocity"),
     (lambda: train.Trainer(nn.Sequential(nn.Dense(4, 3)), "softmax_cross_entropy",
                            train.SGD(0.1, 0.9)), r"\(parameter\): "),
     (lambda: train.Trainer(nn.Sequential(nn.Dense(5, 3)), "softmax_cross_entropy",
                            train.SGD(0.1, 0.9)), "of another model: matmul")],
)  # fmt: skip
def test_checkpoints_of_other_models_are_refused(
    other: Callable[[], train.Trainer], message: str, tmp_path: Path
) -> None:
    finish(trainer(backend="numpy"), epochs=1).save(tmp_path / "a.safetensors")
    made = other()
    before = values(made.model)
    with pytest.raises(gx.CheckpointError, match=message):
        made.restore(tmp_path / "a.safetensors")
    assert same(before, values(made.model))
    assert made.step == 0


# -- kill -9

SCRIPT = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_checkpoints import finish, trainer
    from graphc import train

    folder, backend = Path(sys.argv[2]), sys.argv[3]
    made = trainer(backend=backend)
    if list(folder.glob("step-*")):
        made.restore(folder)
    finish(made, train.Checkpoint(folder, steps=1, keep=2), epochs=40)
    made.save(folder / "end.safetensors")
""")


def start(root: Path, folder: Path, backend: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, root / "tests", folder, backend],
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def steps_saved(folder: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in folder.glob("step-*")), default=0)


def test_a_killed_run_ends_bitwise_equal(root: Path, tmp_path: Path, backend: str) -> None:
    """Killed at random moments, most of them within a save: it saves after each step."""
    if backend == "emulator":
        pytest.skip("its start takes too long; the numpy and native runs show the same")
    chance = np.random.default_rng(len(backend))
    for _ in range(3):
        process = start(root, tmp_path, backend)
        goal = steps_saved(tmp_path) + int(chance.integers(5, 45))
        while steps_saved(tmp_path) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.005))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(root, tmp_path, backend).wait() == 0
    whole = finish(trainer(backend=backend), epochs=40)
    other = trainer(backend=backend)
    other.restore(tmp_path / "end.safetensors")
    assert other.step == 160
    assert same(values(other.model), values(whole.model))
    assert other.history.rows == whole.history.rows


def test_a_save_killed_midway_leaves_the_old_file(tmp_path: Path) -> None:
    """The process dies in fsync, when the new file is written but not yet named."""
    path = tmp_path / "a.safetensors"
    finish(trainer(backend="numpy"), epochs=1).model.save(path)
    old = path.read_bytes()
    script = textwrap.dedent(f"""
        import os, signal
        from graphc import nn
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        nn.Dense(400, 300).save({str(path)!r})
    """)
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == old
    left = [p for p in tmp_path.iterdir() if p != path]
    assert [p.suffix for p in left] == [".tmp"]
