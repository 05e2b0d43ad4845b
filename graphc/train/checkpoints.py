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
from graphc.train.callbacks import written
from graphc.train.history import plain, rows_of
from graphc.train.network import Network, Signature

if TYPE_CHECKING:
    from graphc.train.optimizers import Optimizer
    from graphc.train.trainer import Trainer

VERSION = 2
FACTS: dict[str, type | tuple[type, ...]] = {
    "signature": dict, "optimizer": str, "schedule": dict, "scheduled": int, "seed": int,
    "step": int, "epoch": int, "position": int, "source": dict, "began": (int, type(None)),
    "stopping": str, "callbacks": list, "history": list, "stopped": str,
    "best_epoch": (int, type(None)), "frozen": list,
}  # fmt: skip
Arrays = dict[str, np.ndarray]


def save_run(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write the run to a file, whole or not at all."""
    if trainer.loop is not None:
        trainer.loop.settle()  # results that are still on their way
    run, optimizer = trainer.run, trainer.optimizer
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
        "scheduled": run.scheduled, "seed": trainer.seed, "step": run.step, "epoch": run.epoch,
        "position": run.position, "source": run.source, "began": run.began,
        "stopping": run.stopping, "callbacks": callbacks, "history": plain(history.rows),
        "stopped": history.stopped, "best_epoch": history.best_epoch,
        "frozen": [n for n, p in params.items() if not p.trainable],
    }  # fmt: skip
    write_tensors(path, arrays, {RUN: json.dumps(facts)})


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
        network = trainer.network_of(Signature.read(facts["signature"]))
    except (gx.GraphcError, TypeError, ValueError) as error:
        raise gx.CheckpointError(f"{file} is of another model: {error}") from None
    params = network.params.values()
    states = optimizer.trial().make_states(params, under("optimizer", arrays))
    for part, own in ((PARAMETER, network.params), ("optimizer", states)):
        report = compare(own, under(part, arrays))
        if not report.complete:
            raise gx.CheckpointError(f"{file} does not fit this trainer ({part}): {report}")
    if facts["position"]:
        _check_results(trainer, network, under("epoch", arrays), file)
    _load_schedule(optimizer, facts["schedule"], file)  # the last that may be refused
    trainer.take(network)
    _put(trainer, facts, arrays)


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
    run.totals.load(under("epoch", arrays))
    run.callbacks = [
        {**state, **under(f"callback.{i}", arrays)} for i, state in enumerate(facts["callbacks"])
    ]
    history.rows, history.stopped = rows_of(facts["history"]), facts["stopped"]
    history.best_epoch = facts["best_epoch"]


def _schedule(optimizer: Optimizer) -> dict[str, Any]:
    return {"kind": type(optimizer.schedule).__name__, **optimizer.schedule.state()}


def _load_schedule(optimizer: Optimizer, saved: Mapping[str, Any], file: Path) -> None:
    """CheckpointError, changing nothing, for the state of another schedule."""
    own, schedule = _schedule(optimizer), optimizer.schedule
    if own.keys() != saved.keys() or own["kind"] != saved["kind"]:
        raise gx.CheckpointError(
            f"{file} is of a schedule {saved.get('kind')} that keeps {', '.join(saved)}; this "
            f"optimizer has {schedule!r}: give it such a one, and set optimizer.rate afterwards"
        )
    try:
        schedule.load_state(saved)
    except (TypeError, ValueError, KeyError) as error:
        schedule.load_state(own)
        raise gx.CheckpointError(f"{file} is damaged: its schedule: {error}") from None


def _check_results(trainer: Trainer, network: Network, results: Arrays, file: Path) -> None:
    """CheckpointError if the results of the epoch in progress are of other metrics."""
    have = {name.removeprefix("output.") for name in results if name != "rows"}
    need = {*network.outputs, *(["penalty"] if trainer.is_penalised(network) else [])}
    if have != need:
        raise gx.CheckpointError(
            f"{file} was written within an epoch with {', '.join(sorted(have))}; this trainer has "
            f"{', '.join(sorted(need))}: take the same metrics and penalties, or the checkpoint "
            "from the end of an epoch"
        )


def _read(path: Path) -> tuple[Path, Arrays, dict[str, Any]]:
    """The file itself, or the last checkpoint of a folder."""
    if not path.is_dir():
        return _read_file(path)
    found = written(path)
    if not found:
        raise gx.CheckpointError(f"{path} holds no checkpoint, step-*.safetensors")
    try:
        return _read_file(found[-1])
    except gx.CheckpointError as error:
        older = [str(p) for p in found[:-1] if _is_whole(p)]
        hint = f"; older and whole: {', '.join(older)}" if older else ""
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
