"""A run in a file: all that makes it end as if it had never been interrupted.

Arrays: parameters, optimizer states, results of the epoch in progress, states of callbacks. The
rest is a text of JSON: counters, seed, schedule, history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.nn.layer import compare
from graphc.nn.tensor_file import PARAMETER, RUN, prefixed, read_tensors, under, write_tensors
from graphc.train.callbacks import written
from graphc.train.history import plain
from graphc.train.network import Signature

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

VERSION = 1
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
    for i, callback in enumerate(trainer.callbacks):
        state = callback.state()
        held = {k: v for k, v in state.items() if isinstance(v, np.ndarray)}
        arrays.update(prefixed(f"callback.{i}", held))
        plain_ones = {k: v for k, v in state.items() if k not in held}
        callbacks.append({"kind": type(callback).__name__, **plain_ones})
    facts = {
        "version": VERSION, "signature": vars_of(trainer.network.signature),
        "optimizer": type(optimizer).__name__, "schedule": optimizer.schedule.state(),
        "seed": trainer.seed, "step": run.step, "epoch": run.epoch, "position": run.position,
        "began": run.began, "stopping": run.stopping, "callbacks": callbacks,
        "history": plain(trainer.history.rows), "stopped": trainer.history.stopped,
        "frozen": [n for n, p in params.items() if not p.trainable],
    }  # fmt: skip
    write_tensors(path, arrays, {RUN: json.dumps(facts)})


def restore_run(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Put the run of a file into the trainer; CheckpointError, changing nothing, if it does not
    fit."""
    file = _last(Path(path))
    arrays, texts = read_tensors(file)
    facts = _facts(texts, file)
    optimizer = trainer.optimizer
    if facts["optimizer"] != type(optimizer).__name__:
        raise gx.CheckpointError(
            f"{file} is of optimizer {facts['optimizer']}, not {type(optimizer).__name__}"
        )
    try:
        network = trainer.declare(Signature(**_tuples(facts["signature"])))
    except gx.GraphcError as error:
        raise gx.CheckpointError(f"{file} is of another model: {error}") from None
    params = network.params
    states = optimizer.make_states(params.values(), under("optimizer", arrays))
    for part, own in ((PARAMETER, params), ("optimizer", states)):
        report = compare(own, under(part, arrays))
        if not report.complete:
            raise gx.CheckpointError(f"{file} does not fit this trainer ({part}): {report}")
    _put(trainer, facts, arrays, {**params, **states})
    trainer.forget_programs()  # the optimizer may have other states than before


def _put(
    trainer: Trainer, facts: Mapping[str, Any], arrays: Arrays, own: Mapping[str, gx.Param]
) -> None:
    """All has been checked: take it over."""
    values = {**under(PARAMETER, arrays), **under("optimizer", arrays)}
    for name, param in own.items():
        param.value = values[name]
        if name in trainer.network.params:
            param.trainable = name not in facts["frozen"]
    trainer.optimizer.keep_states(values)
    run = trainer.run
    trainer.seed = int(facts["seed"])
    run.step, run.epoch, run.position = (int(facts[k]) for k in ("step", "epoch", "position"))
    run.began, run.stopping = facts["began"], str(facts["stopping"])
    run.totals.load(under("epoch", arrays))
    run.callbacks = [
        {**state, **under(f"callback.{i}", arrays)} for i, state in enumerate(facts["callbacks"])
    ]
    trainer.optimizer.schedule.load_state(facts["schedule"])
    trainer.history.rows, trainer.history.stopped = list(facts["history"]), str(facts["stopped"])


def _last(path: Path) -> Path:
    """The file itself, or the last checkpoint of a folder."""
    if not path.is_dir():
        return path
    found = written(path)
    if not found:
        raise gx.CheckpointError(f"{path} holds no checkpoint, step-*.safetensors")
    return found[-1]


def _facts(texts: Mapping[str, str], file: Path) -> dict[str, Any]:
    if RUN not in texts:
        raise gx.CheckpointError(
            f"{file} is no checkpoint of a run, though a safetensors file; model.load reads "
            "parameters alone"
        )
    facts = json.loads(texts[RUN])
    if facts.get("version") != VERSION:
        raise gx.CheckpointError(f"{file} has version {facts.get('version')}; need {VERSION}")
    return facts


def vars_of(signature: Signature) -> dict[str, Any]:
    """The fields of a signature for JSON."""
    return {k: getattr(signature, k) for k in Signature.__dataclass_fields__}


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
