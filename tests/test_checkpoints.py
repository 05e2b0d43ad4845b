"""Runs that are saved, killed and resumed end bitwise equal to those that were not."""

from __future__ import annotations

import json
import os
import shutil
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
from test_trainer import VALIDATION, Scripted, Shuffled, X, Y, network, same, values

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
    options = {"seed": 5, "metrics": ["accuracy"], **options}
    return train.Trainer(model, "softmax_cross_entropy", OPTIMIZERS[optimizer](), **options)


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
        other = trainer(optimizer, seed=6)
        other.restore(tmp_path / f"at-{step}.safetensors")
        assert other.step == step
        finish(other)
        assert same(values(other.model), values(whole.model))
        assert other.history.rows == whole.history.rows
        assert other.history.to_csv() == whole.history.to_csv()  # the order of the columns, too
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

    def keep(folder: str) -> train.Checkpoint:
        return train.Checkpoint(tmp_path / folder, keep=10, monitor="val_loss")

    first = stopping()
    whole = finish(trainer(backend="numpy"), keep("whole"), first, epochs=30)
    assert first.reason
    for path in sorted((tmp_path / "whole").glob("step-*")):
        other, second = trainer(backend="numpy"), stopping()
        other.restore(path)
        finish(other, second, keep(path.stem), epochs=30)
        assert second.reason == first.reason
        assert same(values(other.model), values(whole.model)), path
        assert other.history.stopped == first.reason
        assert other.history.best_epoch == first.best_epoch


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
    assert other.history.stopped.startswith("nothing was trained: this run has made 2 of 2 epochs")
    more, again = train.EarlyStopping("val_accuracy"), keep("c")
    other.restore(tmp_path / "a")
    finish(other, train.EarlyStopping("val_accuracy"), again, more, epochs=2)
    assert again.state()["best"] == alone.state()["best"]
    assert more.state()["best"] == -np.inf


def test_a_saved_run_that_has_ended_trains_on(tmp_path: Path) -> None:
    """Saved outside of fit: the next fit makes all its epochs."""
    whole = trainer(backend="numpy")
    finish(whole, epochs=2).save(tmp_path / "a.safetensors")
    other = trainer(backend="numpy")
    other.restore(tmp_path / "a.safetensors")
    assert finish(other, epochs=3).epoch == 5
    assert same(values(other.model), values(finish(whole, epochs=3).model))


def test_a_finished_run_leaves_nothing_to_new_callbacks(tmp_path: Path) -> None:
    path, stopping = tmp_path / "a.safetensors", train.EarlyStopping(patience=1)
    made = trainer(backend="numpy")
    made.fit(Shuffled(), 9, VALIDATION, [Scripted([1, 2]), stopping])
    assert made.epoch == 2
    made.save(path)
    other, later = trainer(backend="numpy"), train.EarlyStopping(patience=3)
    other.restore(path)
    assert len(other.fit(Shuffled(), 4, VALIDATION, [Scripted([9] * 6), later])) == 6
    assert later.best_epoch == 3


def test_a_schedule_that_was_set_later_resumes(tmp_path: Path) -> None:
    def begun() -> train.Trainer:
        made = trainer(backend="numpy")
        finish(made, epochs=3).optimizer.rate = train.Cosine(0.1, epochs=3)
        return made

    whole = finish(begun(), Save(tmp_path, 18), epochs=3)
    other = trainer(backend="numpy")
    other.optimizer.rate = train.Cosine(0.1, epochs=3)
    other.restore(tmp_path / "at-18.safetensors")
    finish(other, epochs=3)
    assert other.history.rows == whole.history.rows
    assert same(values(other.model), values(whole.model))
    assert whole.history["rate"][-1] == pytest.approx(train.Cosine(0.1, 3).rate(2.75))


class SetRate(train.Callback):
    """After one step, in the middle of an epoch or at its end."""

    def __init__(self, step: int, rate: train.Schedule) -> None:
        self.step, self.rate = step, rate

    def on_step(self, trainer: train.Trainer) -> None:
        if trainer.step == self.step:
            trainer.optimizer.rate = self.rate


@pytest.mark.parametrize("step", [6, 8])
def test_a_rate_that_a_callback_has_set_resumes(step: int, tmp_path: Path) -> None:
    """The trainer must be given it: one with another rate is refused, and left as it was."""
    rate, whole = train.Cosine(0.1, epochs=3), trainer("AdamW", backend="numpy")
    finish(whole, SetRate(step, rate), Save(tmp_path, 5, step, 9), epochs=3)
    first = step // 4
    assert whole.history["rate"][2] == rate.rate(2.75 - first)
    for saved in (5, step, 9):
        other = trainer("AdamW", backend="numpy")
        path = tmp_path / f"at-{saved}.safetensors"
        if saved >= step:
            with pytest.raises(gx.CheckpointError) as caught:
                other.restore(path)
            assert (
                f"{path} is of a run with the rate {rate!r}, and this optimizer has "
                "Constant(0.01): set trainer.optimizer.rate to that of the file before restore"
            ) in str(caught.value)
            assert other.step == 0
            other.optimizer.rate = train.Cosine(0.1, epochs=3)
        other.restore(path)
        finish(other, SetRate(step, rate), epochs=3) if saved < step else finish(other, epochs=3)
        assert other.history.rows == whole.history.rows
        assert same(values(other.model), values(whole.model))


def test_a_rate_that_was_set_between_two_fits_is_saved_as_such(tmp_path: Path) -> None:
    """Its epochs count from there, also in a file that was written before the next fit."""
    whole, other = trainer(backend="numpy"), trainer(backend="numpy")
    finish(whole, epochs=3)
    for made in (whole, other):
        made.optimizer.rate = train.Cosine(0.1, epochs=3)
    whole.save(tmp_path / "a.safetensors")
    other.restore(tmp_path / "a.safetensors")
    for made in (whole, other):
        finish(made, epochs=1)
        assert made.history["rate"][-1] == train.Cosine(0.1, 3).rate(0.75)


class Own(train.Schedule):
    """One of a user's: a function, which has another address each time, and a count."""

    def __init__(self, function: Callable[[float], float], seen: int = 0) -> None:
        self.function, self.seen = function, seen

    def rate(self, epoch: float) -> float:
        return self.function(epoch)

    def observe(self, row: Any) -> None:  # noqa: ARG002
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {"seen": np.int64(self.seen)}

    def load_state(self, state: Any) -> None:
        self.seen = state["seen"]


def test_schedules_and_callbacks_of_a_user_resume(tmp_path: Path) -> None:
    class Count(train.Callback):
        def __init__(self) -> None:
            self.held: dict[str, Any] = {}

        def state(self) -> dict[str, Any]:
            return {"n": np.int64(3), "x": np.float32(0.5), "pair": (np.int8(1), None),
                    "a": np.arange(3)}  # fmt: skip

        def load_state(self, state: Any) -> None:
            self.held = dict(state)

    path, count = tmp_path / "at-5.safetensors", Count()
    whole, other = trainer(backend="numpy"), trainer(backend="numpy")
    for made in (whole, other):
        made.optimizer.rate = Own(lambda epoch: 0.1 / (1 + epoch))
    finish(whole, Count(), Save(tmp_path, 5), epochs=2)
    other.restore(path)
    finish(other, count, epochs=2)
    assert other.history.rows == whole.history.rows
    assert count.held.pop("a").tolist() == [0, 1, 2]
    assert count.held == {"kind": "Count", "n": 3, "x": 0.5, "pair": [1, None]}


def test_states_of_callbacks_outlast_a_second_save(tmp_path: Path) -> None:
    """Restored and saved again, with no fit between."""
    finish(trainer(backend="numpy"), train.EarlyStopping(), Save(tmp_path, 9), epochs=3)
    other, again = trainer(backend="numpy"), trainer(backend="numpy")
    other.restore(tmp_path / "at-9.safetensors")
    other.save(tmp_path / "b.safetensors")
    again.restore(tmp_path / "b.safetensors")
    for state, wanted in zip(again.run.callbacks, other.run.callbacks, strict=True):
        assert state["best"] == wanted["best"]
        assert state["best.layers.0.bias"].tobytes() == wanted["best.layers.0.bias"].tobytes()


def test_matrices_of_the_history_stay_arrays(tmp_path: Path) -> None:
    made = trainer(backend="numpy", metrics=[train.confusion_matrix(3)])
    finish(made, epochs=2).save(tmp_path / "a.safetensors")
    other = trainer(backend="numpy", metrics=[train.confusion_matrix(3)])
    other.restore(tmp_path / "a.safetensors")
    for a, b in zip(
        made.history["confusion_matrix"], other.history["confusion_matrix"], strict=True
    ):
        assert isinstance(b, np.ndarray)
        np.testing.assert_array_equal(a, b, strict=True)


BATCHES: list[tuple[Callable[[], Any], str]] = [
    (lambda: train.Batches(X[:60], Y[:60], 12), "batches is 5, not 4; size is 12, not 16"),
    (lambda: train.Batches(X[:60], Y[:60], 16, seed=1), "seed is 1, not 0"),
    (lambda: train.Batches(X[:60], Y[:60], 16, shuffle=False), "shuffle is False, not True"),
    (lambda: train.Batches(X[:61], Y[:61], 16), "samples is 61, not 60"),
    (lambda: train.Batches(X[:60], Y[:60], 16, drop_last=True), "drop_last is True, not False"),
    (Shuffled, "kind is Shuffled, not Batches"),
]  # fmt: skip


def test_an_epoch_goes_on_with_the_same_batches_alone(tmp_path: Path) -> None:
    """A refusal leaves the restored run as it was: the right ones go on."""

    def batches() -> train.Batches:
        return train.Batches(X[:60], Y[:60], 16, prefetch=2)

    whole = trainer(backend="numpy")
    whole.fit(batches(), 3, callbacks=[Save(tmp_path, 6)])
    other = trainer(backend="numpy")
    other.restore(tmp_path / "at-6.safetensors")
    for make, words in BATCHES:
        with pytest.raises(gx.InputError) as caught:
            other.fit(make(), 3)
        assert words in str(caught.value)
        assert "after 2 batches of epoch 2" in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(gx.InputError, match="need a folder"):
        other.fit(batches(), 3, callbacks=[train.Checkpoint(tmp_path / "file")])
    other.fit(batches(), 3)
    assert other.history.rows == whole.history.rows
    assert same(values(other.model), values(whole.model))


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


def test_states_of_all_parameters_have_one_dtype_whichever_are_frozen(tmp_path: Path) -> None:
    """A frozen float64 part counts, as it may be trained later."""

    def made() -> tuple[train.Trainer, gx.Param]:
        a, b = gx.param("a", np.eye(4)), gx.param("b", nn.init.glorot_uniform((4, 3)))
        model = lambda x: (x.astype("float64") @ a).astype("float32") @ b
        return train.Trainer(model, "softmax_cross_entropy", train.Adam(), backend="numpy"), a

    whole, a = made()
    a.trainable = False
    whole.fit((X, Y), 1)
    whole.save(tmp_path / "a.safetensors")
    other, _ = made()
    other.restore(tmp_path / "a.safetensors")
    for run in (whole, other):
        run.fit((X, Y), 1)
    assert whole.history.rows == other.history.rows


# -- kept files


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    made = trainer(backend="numpy")
    finish(made, train.Checkpoint(tmp_path, keep=2, monitor="val_loss"), epochs=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors", "step-0000000016.safetensors", "step-0000000020.safetensors",
    ]  # fmt: skip
    best = trainer(backend="numpy")
    best.restore(tmp_path / "best.safetensors")
    losses = made.history["val_loss"]
    assert best.epoch == 1 + losses.index(min(losses))
    assert best.evaluate(*VALIDATION)["loss"] == pytest.approx(min(losses), rel=1e-6)


class Die(train.Callback):
    """As by kill -9: nothing is called any more."""

    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:  # noqa: ARG002
        if trainer.epoch == 3:
            raise SystemExit


def test_a_run_that_died_before_its_first_checkpoint_goes_on_from_the_best(tmp_path: Path) -> None:
    def keep(folder: str) -> train.Checkpoint:
        return train.Checkpoint(tmp_path / folder, epochs=5, monitor="val_loss")

    whole = finish(trainer(backend="numpy"), keep("whole"))
    with pytest.raises(SystemExit):
        finish(trainer(backend="numpy"), keep("a"), Die())
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["best.safetensors"]
    other = trainer(backend="numpy")
    other.restore(tmp_path / "a")
    finish(other, keep("a"))
    assert other.history.rows == whole.history.rows
    for name in (p.name for p in (tmp_path / "whole").iterdir()):
        one, two = (read_tensors(tmp_path / folder / name)[0] for folder in ("a", "whole"))
        assert same(one, two), name


def test_the_last_are_kept_over_several_fits(tmp_path: Path) -> None:
    """Whatever objects there are, in one process or the next, and by folder."""
    made = trainer("AdamW", backend="numpy")
    for i in range(3):
        finish(made, train.Checkpoint(tmp_path / "a", keep=2), epochs=1)
        finish(made, train.Checkpoint(tmp_path / "b", keep=1), epochs=1)
        if i == 1:
            made = trainer("AdamW", backend="numpy")
            made.restore(tmp_path / "b")
            made.run.began = None  # the fit of the file had ended
    found = {f: sorted(int(p.stem[5:]) for p in (tmp_path / f).iterdir()) for f in "ab"}
    assert found == {"a": [12, 20], "b": [24]}


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".step-0000000004.safetensors.{dead.pid}.tmp", f".best.safetensors.{dead.pid}.tmp",
             f".step-0000000005.safetensors.{os.getpid()}.tmp", f".mine.{dead.pid}.tmp", ".x.tmp",
             ".step-0000000004.safetensors.1.tmp"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path), epochs=1)
    assert {p.name for p in tmp_path.iterdir()} == {"step-0000000004.safetensors", *names[2:]}


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    """And no file of it is removed or written over, by a run that goes on in it neither."""
    folder = tmp_path / "runs"
    old = finish(
        trainer("AdamW", backend="numpy"), train.Checkpoint(folder, monitor="loss"), epochs=5
    )
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(files) == [
        "best.safetensors", "step-0000000016.safetensors", "step-0000000020.safetensors",
    ]  # fmt: skip
    for restored in (None, "step-0000000016.safetensors"):
        made = trainer("AdamW", backend="numpy")
        if restored:
            made.restore(folder / restored)
        before = made.step
        with pytest.raises(gx.InputError) as caught:
            finish(made, train.Checkpoint(folder), epochs=2)
        assert "step-0000000020.safetensors" in str(caught.value)
        cure = f"at step {before}: trainer.restore({str(folder)!r}) before fit goes on from there"
        assert cure in str(caught.value)
        assert made.step == before
    again = trainer(
        "AdamW", backend="numpy"
    )  # the whole script once more, after its end, as it was told
    again.restore(folder)
    finish(again, train.Checkpoint(folder, monitor="loss"), epochs=5)
    assert again.history.stopped.startswith("nothing was trained: this run has made 5 of 5 epochs")
    (folder / "step-0000000016.safetensors").unlink()
    (folder / "step-0000000020.safetensors").unlink()
    with pytest.raises(gx.InputError, match=r"holds best\.safetensors, and"):
        finish(
            trainer("AdamW", backend="numpy"), train.Checkpoint(folder, monitor="loss"), epochs=2
        )
    assert (folder / "best.safetensors").read_bytes() == files["best.safetensors"]
    finish(old, train.Checkpoint(folder, keep=1), epochs=1)
    (folder / "step-0000000005.safetensors").write_bytes(b"of another")
    going_on = trainer("AdamW", backend="numpy")
    going_on.restore(folder / "step-0000000024.safetensors")
    finish(going_on, train.Checkpoint(folder, keep=1), epochs=2)  # of these one is made
    assert sorted(p.name for p in folder.glob("step-*")) == [
        "step-0000000005.safetensors", "step-0000000028.safetensors",
    ]  # fmt: skip


def test_the_end_is_kept_as_fit_left_it(tmp_path: Path) -> None:
    """Also between two checkpoints, and with the parameters of the best epoch."""
    stopping, keep = train.EarlyStopping(patience=9), train.Checkpoint(tmp_path, epochs=2)
    made = trainer(backend="numpy")
    made.fit(Shuffled(), 5, VALIDATION, [Scripted([5, 4, 3, 4, 5]), keep, stopping])
    other = trainer(backend="numpy")
    other.restore(tmp_path)
    assert (other.epoch, other.history.rows) == (5, made.history.rows)
    assert same(values(other.model), values(made.model))
    other.fit(Shuffled(), 5, VALIDATION, [train.EarlyStopping(patience=9)])
    assert other.history.stopped.startswith("nothing was trained")
    assert other.history.best_epoch == 3
    assert same(values(other.model), values(made.model))


def test_checkpoints_by_steps_and_epochs(tmp_path: Path) -> None:
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path / "a", steps=5, keep=9), epochs=4)
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path / "b", epochs=2, keep=9), epochs=4)
    found = {f: [int(p.stem[5:]) for p in sorted((tmp_path / f).iterdir())] for f in "ab"}
    assert found == {"a": [5, 10, 15, 16], "b": [8, 16]}


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


def changed(**new: Any) -> Callable[[Path], None]:
    """Facts of other values; those of `...` are left out."""

    def change(path: Path) -> None:
        tensors, texts = read_tensors(path)
        facts = {**json.loads(texts["graphc.run"]), **new}
        kept = {k: v for k, v in facts.items() if v is not ...}
        write_tensors(path, tensors, {"graphc.run": json.dumps(kept)})

    return change


def with_text(text: str) -> Callable[[Path], None]:
    return lambda path: write_tensors(path, read_tensors(path)[0], {"graphc.run": text})


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
    "of another version": (changed(version=99), "version 99; need 3"),
    "no JSON": (with_text("{"), "is damaged: graphc.run"),
    "a list": (with_text("[1]"), "version None; need 3"),
    "without a step": (changed(step=...), "graphc.run has no step, or an unfit one"),
    "steps in words": (changed(step="many"), "graphc.run has no step, or an unfit one"),
    "an odd history": (changed(history=[1]), "an unfit item in history"),
    "an odd signature": (changed(signature={"x": 1}), "is of another model"),
    "of other metrics": (changed(position=3), "accuracy, loss: take the same metrics"),
    "of another schedule": (
        changed(schedule={"settings": "Constant(0.1)"}),
        "a run with the rate Constant(0.1), and this optimizer has Warmup(Cosine(0.1, ",
    ),
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


def test_a_run_in_other_floats_is_refused(tmp_path: Path) -> None:
    """Of the parameters, of one state, of the data: nothing is rounded without a word."""

    def made(dtype: str) -> train.Trainer:
        return train.Trainer(nn.Sequential(nn.Dense(4, 3, dtype=dtype)), "softmax_cross_entropy",
                             train.AdamW(0.01), backend="numpy")  # fmt: skip

    wide, narrow = tmp_path / "wide.safetensors", tmp_path / "narrow.safetensors"
    for dtype, path in (("float64", wide), ("float32", narrow)):
        run = made(dtype)
        run.fit((X, Y), 1)
        run.save(path)
        made(dtype).restore(path)
    state, data = tmp_path / "state.safetensors", tmp_path / "data.safetensors"
    tensors, texts = read_tensors(narrow)
    name = "layers.0.bias.first_moment"
    doubled = {f"optimizer/{name}": tensors[f"optimizer/{name}"].astype("float64")}
    write_tensors(state, {**tensors, **doubled}, texts)
    shutil.copy(narrow, data)
    fields = json.loads(texts["graphc.run"])["signature"]
    changed(signature={**fields, "x_dtype": "float64"})(data)
    for path, dtype, words in (
        (wide, "float32", "layers.0.weight is float64, need float32, layers.0.bias is"),
        (narrow, "float64", "layers.0.weight is float32, need float64, layers.0.bias is"),
        (state, "float32", f"dtypes: {name} is float64, need float32; make"),
        (data, "float32", "dtypes: x is float64, need float32; make"),
    ):
        other = made(dtype)
        before = values(other.model)
        with pytest.raises(gx.CheckpointError) as caught:
            other.restore(path)
        assert words in str(caught.value)
        assert same(values(other.model), before)
        assert other.step == 0


def test_a_refused_run_leaves_no_trace(tmp_path: Path) -> None:
    """Of other shapes, or of a schedule that keeps other things: graph, parameters and states of
    the optimizer are those before, and the right file fits."""
    odd, path = tmp_path / "odd.safetensors", tmp_path / "run.safetensors"
    finish(trainer("Adam, plateau", backend="numpy"), epochs=1).save(path)
    shutil.copy(path, odd)
    tensors, texts = read_tensors(odd)
    tensors["optimizer/layers.2.bias.first_moment"] = np.zeros(7, "float32")
    write_tensors(odd, tensors, texts)
    made = trainer("Adam, plateau", backend="numpy")
    with pytest.raises(gx.CheckpointError, match=r"\(optimizer\): .*first_moment is float32\[7\]"):
        made.restore(odd)
    assert made.optimizer.state(made.model.parameters().values()) == {}
    with pytest.raises(gx.CompileError, match="has seen no data"):
        made.network  # noqa: B018 -- the property raises
    before = made.optimizer.schedule.state()
    settings = repr(made.optimizer.schedule)
    state = {"settings": settings, "now": "fast", "best": 1.0, "waited": 0}
    other = {**state, "now": 0.1, "settings": settings.replace("patience=1", "patience=2")}
    for wrong, words in (
        (state, "its schedule"), ({**state, "now": 0.1, "best": None}, "its schedule"),
        ({"settings": settings}, "of a run with the rate"), (other, "'val_loss', patience=2"),
    ):  # fmt: skip
        shutil.copy(path, odd)
        changed(schedule=wrong)(odd)
        with pytest.raises(gx.CheckpointError, match=words):
            made.restore(odd)
        assert made.optimizer.schedule.state() == before
        assert made.step == 0
    made.restore(path)
    assert made.step == 4


def test_whole_checkpoints_before_a_damaged_one_are_named(tmp_path: Path) -> None:
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path, keep=3), epochs=3)
    first, second, third = sorted(tmp_path.iterdir())
    flipped(third)
    first.write_bytes(b"nothing")
    made = trainer(backend="numpy")
    with pytest.raises(gx.CheckpointError) as caught:
        made.restore(tmp_path)
    assert str(caught.value).endswith(f"its checksum does not fit; these are whole: {second}")
    made.restore(second)
    assert made.step == 8


# -- kill -9

SCRIPT = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_checkpoints import finish, trainer
    from graphc import train

    folder, backend = Path(sys.argv[2]), sys.argv[3]
    made = trainer("Adam, plateau", backend=backend)
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
    whole = finish(trainer("Adam, plateau", backend=backend), epochs=40)
    other = trainer("Adam, plateau", backend=backend)
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


class FreezeAt(train.Callback):
    """Freezes the first layer at some step, and all of it no more at a later one."""

    def on_step(self, trainer: train.Trainer) -> None:
        model: Any = trainer.model
        if trainer.step == 7:
            model.freeze("layers.0*")
        if trainer.step == 14:
            model.unfreeze("*")


@pytest.mark.parametrize("step", [7, 10, 14, 15])
def test_what_a_callback_freezes_within_an_epoch_resumes(step: int, tmp_path: Path) -> None:
    whole = finish(trainer(backend="numpy"), FreezeAt(), Save(tmp_path, step))
    other = trainer(backend="numpy")
    other.restore(tmp_path / f"at-{step}.safetensors")
    finish(other, FreezeAt())
    assert same(values(other.model), values(whole.model))
    assert other.history.rows == whole.history.rows


class Halve(train.Callback):
    def on_epoch(self, trainer: train.Trainer, row: Any) -> None:
        trainer.optimizer.rate = row["rate"] / 2


def test_a_number_that_a_callback_has_set_is_set_again(tmp_path: Path) -> None:
    """The script that made the run is run again as it is."""
    whole = finish(trainer(backend="numpy"), Halve(), Save(tmp_path, 10))
    other = trainer(backend="numpy")
    other.restore(tmp_path / "at-10.safetensors")
    finish(other, Halve())
    assert same(values(other.model), values(whole.model))
    assert other.history.rows == whole.history.rows


def test_a_rate_of_a_callback_is_set_again_in_a_later_fit(tmp_path: Path) -> None:
    def script(made: train.Trainer, *callbacks: train.Callback) -> train.Trainer:
        while made.epoch < 6:
            finish(made, Halve(), *callbacks, epochs=3)
        return made

    whole = script(trainer("AdamW", backend="numpy"), Save(tmp_path, 18))
    other = trainer("AdamW", backend="numpy")
    other.restore(tmp_path / "at-18.safetensors")
    script(other)
    assert same(values(other.model), values(whole.model))
    assert other.history["rate"] == whole.history["rate"]


@pytest.mark.parametrize("step", [9, 16])
def test_a_penalty_of_what_is_frozen_is_0_and_resumes(step: int, tmp_path: Path) -> None:
    penalties = [train.L2(0.1, on="layers.0*")]
    whole = trainer(backend="numpy", penalties=penalties)
    finish(whole, FreezeAt(), Save(tmp_path, step), train.EarlyStopping("penalty", patience=9))
    assert [p == 0 for p in whole.history["penalty"]] == [False, False, True, False, False, False]
    other = trainer(backend="numpy", penalties=penalties)
    other.restore(tmp_path / f"at-{step}.safetensors")
    finish(other, FreezeAt())
    assert other.history.rows == whole.history.rows


def test_a_new_head_is_saved(tmp_path: Path) -> None:
    made = finish(trainer(backend="numpy"), epochs=1)
    made.model.replace_last(nn.Dense(8, 3, seed=9))  # type: ignore[union-attr]
    made.save(tmp_path / "a.safetensors")
    other = trainer(backend="numpy")
    other.model.load(tmp_path / "a.safetensors")  # type: ignore[union-attr]
    assert same(values(other.model), values(made.model))


def test_a_run_that_has_steps_leaves_the_folder_of_another_alone(tmp_path: Path) -> None:
    finish(trainer(backend="numpy"), train.Checkpoint(tmp_path, monitor="val_loss"), epochs=2)
    other = finish(trainer(backend="numpy"), epochs=3)
    with pytest.raises(gx.InputError, match="holds best.safetensors, step-0000000004"):  # noqa: RUF043
        finish(other, train.Checkpoint(tmp_path, monitor="val_loss"), epochs=1)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    again = trainer(backend="numpy")
    again.restore(moved)
    finish(again, train.Checkpoint(moved), epochs=3)
