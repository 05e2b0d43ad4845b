"""A run in a file: all that makes it end as if it had never been interrupted.

Arrays: parameters, optimizer states, results of the epoch in progress, states of callbacks. The
rest is a text of JSON: counters, seed, schedule, history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.nn.names import compare
from graphc.nn.tensor_file import PARAMETER, RUN, prefixed, read_tensors, under, write_tensors
from graphc.train.callbacks import checkpoints_in
from graphc.train.history import plain, rows_of
from graphc.train.network import Network, Signature, frozen
from graphc.train.schedules import Constant

if TYPE_CHECKING:
    from graphc.train.optimizers import Optimizer
    from graphc.train.trainer import Trainer

VERSION = 3
FACTS: dict[str, type | tuple[type, ...]] = {
    "signature": dict, "optimizer": str, "schedule": dict, "scheduled": int, "settings": str,
    "rate": float, "seed": int, "step": int, "epoch": int, "position": int, "source": dict,
    "began": (int, type(None)), "stopping": str, "callbacks": list, "written": dict,
    "history": list, "stopped": str, "best_epoch": (int, type(None)), "frozen": list,
}  # fmt: skip
Arrays = dict[str, np.ndarray]


def save_run(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write the run to a file, whole or not at all."""
    if trainer.loop is not None:
        trainer.loop.settle()  # results that are still on their way
        trainer.loop.follow()
    else:
        trainer.renew()
    run, optimizer = trainer.run, trainer.optimizer
    run.follow(optimizer.schedule, run.epoch)
    params = trainer.network.params
    arrays: Arrays = {
        **prefixed(PARAMETER, {n: p.value for n, p in params.items()}),
        **prefixed("optimizer", {n: p.value for n, p in optimizer.state(params.values()).items()}),
        **prefixed("epoch", run.totals.arrays()),
    }
    callbacks: list[dict[str, Any]] = []
    for i, state in enumerate(run.callbacks if trainer.loop is None else trainer.loop.states):
        held = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
        arrays.update(prefixed(f"callback.{i}", held))
        callbacks.append({k: v for k, v in state.items() if k not in held})
    history = trainer.history
    facts = {
        "version": VERSION, "signature": asdict(trainer.network.signature),
        "optimizer": type(optimizer).__name__, "schedule": _schedule(optimizer),
        "scheduled": run.scheduled, "settings": run.settings, "rate": run.rate,
        "seed": trainer.seed, "step": run.step, "epoch": run.epoch, "position": run.position,
        "source": run.source, "began": run.began, "stopping": run.stopping,
        "callbacks": callbacks, "written": run.written,
        "history": history.rows, "stopped": history.stopped, "best_epoch": history.best_epoch,
        "frozen": frozen(params),
    }  # fmt: skip
    write_tensors(path, arrays, {RUN: json.dumps(plain(facts))})


def holds_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file, or a folder with checkpoints in it."""
    file = Path(path)
    return bool(checkpoints_in(file)) if file.is_dir() else file.exists()


def restore_run(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Put the run of a file into the trainer; CheckpointError, changing nothing, if it does not
    fit."""
    file, arrays, facts = _read(Path(path))
    optimizer = trainer.optimizer
    if facts["optimizer"] != type(optimizer).__name__:
        raise gx.CheckpointError(
            f"{file} is of optimizer {facts['optimizer']}, not {type(optimizer).__name__}"
        )
    try:
        signature = Signature.read(facts["signature"])
        network = trainer.network_of(signature)
    except (gx.GraphcError, TypeError, ValueError) as error:
        raise gx.CheckpointError(f"{file} is of another model: {error}") from None
    params = network.params.values()
    states = optimizer.trial().make_states(params, under("optimizer", arrays))
    for part, own in ((PARAMETER, network.params), ("optimizer", states)):
        tensors = under(part, arrays)
        report = compare(own, tensors)
        if not report.complete:
            raise gx.CheckpointError(f"{file} does not fit this trainer ({part}): {report}")
        have = {n: tensors[n].dtype.name for n in own}
        _check_dtypes(have, {n: p.dtype.name for n, p in own.items()}, file)
    _check_dtypes({"x": signature.x_dtype}, {"x": network.x.dtype.name}, file)
    if facts["position"]:
        _check_results(trainer, network, under("epoch", arrays), file)
    _load_schedule(optimizer, facts, file)  # the last that may be refused
    trainer.take(network)
    _put(trainer, facts, arrays)
    if file in checkpoints_in(file.parent):  # which may have been moved
        trainer.run.written.setdefault(str(file.parent.resolve()), [])


def _put(trainer: Trainer, facts: Mapping[str, Any], arrays: Arrays) -> None:
    """All has been checked: take it over."""
    optimizer, params = trainer.optimizer, trainer.network.params
    values = {**under(PARAMETER, arrays), **under("optimizer", arrays)}
    for name, param in {**params, **optimizer.make_states(params.values(), values)}.items():
        param.value = values[name]
        if name in params:
            param.trainable = name not in facts["frozen"]
    optimizer.keep_states(values)
    run, history = trainer.run, trainer.history
    trainer.seed = facts["seed"]
    run.step, run.epoch, run.position = facts["step"], facts["epoch"], facts["position"]
    run.source, run.began, run.stopping = facts["source"], facts["began"], facts["stopping"]
    run.schedule, run.scheduled = optimizer.schedule, facts["scheduled"]
    run.rate, run.written, run.frozen = facts["rate"], facts["written"], facts["frozen"]
    run.settings = facts["settings"]
    run.totals.load(under("epoch", arrays), _columns(trainer, trainer.network))
    run.callbacks = [
        {**state, **under(f"callback.{i}", arrays)} for i, state in enumerate(facts["callbacks"])
    ]
    history.rows, history.stopped = rows_of(facts["history"]), facts["stopped"]
    history.best_epoch = facts["best_epoch"]


def _schedule(optimizer: Optimizer) -> dict[str, Any]:
    """Its settings and its state."""
    schedule = optimizer.schedule
    return {"settings": schedule.settings, **schedule.state()}


def _load_schedule(optimizer: Optimizer, facts: Mapping[str, Any], file: Path) -> None:
    """CheckpointError, changing nothing, for another schedule, or the state of another one. A
    number that a callback has set in the place of the fit's first schedule is set again."""
    own, schedule, saved = _schedule(optimizer), optimizer.schedule, facts["schedule"]
    if own["settings"] == facts["settings"] != saved.get("settings") and "base" in saved:
        constant = Constant(saved["base"])
        if constant.settings == saved["settings"]:
            optimizer.rate = constant
            return
    try:
        if fits := own.keys() == saved.keys():
            schedule.load_state(saved)  # first, as repr may show what a user's schedule has counted
            fits = _schedule(optimizer)["settings"] == saved["settings"]
    except (TypeError, ValueError, KeyError) as error:
        schedule.load_state(own)
        raise gx.CheckpointError(f"{file} is damaged: its schedule: {error}") from None
    if not fits:
        schedule.load_state(own)
        raise gx.CheckpointError(
            f"{file} is of a run with the rate {saved.get('settings')}, and this optimizer has "
            f"{schedule!r}: set trainer.optimizer.rate to that of the file before restore, to go "
            "on as it would have; another one may be set after it, and counts from there"
        )


def _check_dtypes(have: Mapping[str, str], need: Mapping[str, str], file: Path) -> None:
    """CheckpointError where the run of the file computes with other floats."""
    differ = [f"{n} is {have[n]}, need {need[n]}" for n in need if have[n] != need[n]]
    if differ:
        raise gx.CheckpointError(
            f"{file} is of a run in other dtypes: {', '.join(differ)}; make the model, or the "
            "trainer of a function, with the dtype of the file"
        )


def _columns(trainer: Trainer, network: Network) -> list[str]:
    """The names of a step's results, in their order."""
    return [*network.outputs, *(["penalty"] if trainer.is_penalised(network) else [])]


def _check_results(trainer: Trainer, network: Network, results: Arrays, file: Path) -> None:
    """CheckpointError if the results of the epoch in progress are of other metrics."""
    have = {name.removeprefix("output.") for name in results if name != "rows"}
    need = _columns(trainer, network)
    if have != set(need):
        raise gx.CheckpointError(
            f"{file} was written within an epoch with {', '.join(sorted(have))}; this trainer has "
            f"{', '.join(sorted(need))}: take the same metrics and penalties, or the checkpoint "
            "from the end of an epoch"
        )


def _read(path: Path) -> tuple[Path, Arrays, dict[str, Any]]:
    """The file itself, or the last checkpoint of a folder, the best if there is no other."""
    if not path.is_dir():
        return _read_file(path)
    found = checkpoints_in(path)
    if not found:
        raise gx.CheckpointError(
            f"{path} holds no checkpoint, step-*.safetensors or best.safetensors"
        )
    try:
        return _read_file(found[-1])
    except gx.CheckpointError as error:
        others = [str(p) for p in found[:-1] if _is_whole(p)]
        hint = f"; these are whole: {', '.join(others)}" if others else ""
        raise gx.CheckpointError(f"{error}{hint}") from None


def _is_whole(file: Path) -> bool:
    try:
        _read_file(file)
    except gx.CheckpointError:
        return False
    return True


def _read_file(file: Path) -> tuple[Path, Arrays, dict[str, Any]]:
    arrays, texts = read_tensors(file)
    if RUN not in texts:
        raise gx.CheckpointError(
            f"{file} is no checkpoint of a run, though a safetensors file; model.load reads "
            "parameters alone"
        )
    try:
        facts = json.loads(texts[RUN])
    except ValueError as error:
        raise gx.CheckpointError(f"{file} is damaged: {RUN}: {error}") from None
    version = facts.get("version") if isinstance(facts, dict) else None
    if version != VERSION:
        raise gx.CheckpointError(f"{file} has version {version}; need {VERSION}")
    for name, kind in FACTS.items():
        if not isinstance(facts.get(name, FACTS), kind):
            raise gx.CheckpointError(f"{file} is damaged: {RUN} has no {name}, or an unfit one")
    for name in ("callbacks", "history"):
        if not all(isinstance(item, dict) for item in facts[name]):
            raise gx.CheckpointError(f"{file} is damaged: {RUN} has an unfit item in {name}")
    return file, arrays, facts
