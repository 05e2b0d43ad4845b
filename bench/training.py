"""Training end to end against scikit-learn, and what the Trainer adds to a step.

    python -m bench.training FILE.json       measures, writes the file, prints its tables

End to end is from arrays in memory to the test accuracy: declaring, compiling, training, testing.
Imports come before. Both train 64-128-64-10 on the same samples with the same batches, epochs,
rate and momentum; the rate is constant and nothing regularises, as `MLPClassifier` offers no more.
Every run is a process of its own; the contestants take turns. scikit-learn runs with its own
threads and, in a second row, with one; the ratio is to the faster of both in the same turn.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np

from .machine import facts
from .measure import Timing, ratio
from .process import fresh

BATCH, EPOCHS, RATE, MOMENTUM = 64, 100, 0.05, 0.9
SEEDS, REPEATS, ROUNDS = 5, 3, 25
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

RUN = """
import sys
from graphc.resources import load_bench
load_bench()
from graphc_bench import training
training.answer(*sys.argv[1:])
"""

Row = dict[str, Any]


def main(path: Path) -> None:
    """Measure all, and write it."""
    load = os.getloadavg()
    result = {
        "machine": {**facts(), "scikit-learn": _version(), "load before": load},
        "settings": {
            "network": "64-128-64-10", "batch": BATCH, "epochs": EPOCHS, "rate": RATE,
            "momentum": MOMENTUM, "seeds": SEEDS, "repeats": REPEATS,
        },
        "end to end": _end_to_end(),
        "step": [json.loads(fresh(RUN, "step", threads)) for threads in ("1", "default")],
    }  # fmt: skip
    result["machine"]["load after"] = os.getloadavg()
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(to_markdown(result))


def answer(what: str, argument: str) -> None:
    """What one process measures, as JSON on standard output."""
    measure: dict[str, Callable[[str], Row]] = {
        "graphc": _graphc, "scikit-learn": _scikit_learn, "step": _step
    }  # fmt: skip
    print(json.dumps(measure[what](argument)))


# -- end to end


def _end_to_end() -> list[Row]:
    """A row for each run: contestant, seed, seconds, test accuracy."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as filled:
        fresh(RUN, "graphc", "0", environment={"GRAPHC_CACHE_DIR": filled})
        for repeat in range(REPEATS):
            for seed in range(SEEDS):
                with tempfile.TemporaryDirectory() as empty:
                    turns = {
                        "graphc, empty cache": ("graphc", {"GRAPHC_CACHE_DIR": empty}),
                        "graphc, filled cache": ("graphc", {"GRAPHC_CACHE_DIR": filled}),
                        "scikit-learn": ("scikit-learn", {}),
                        "scikit-learn, one thread": ("scikit-learn", ONE_THREAD),
                    }
                    order = list(turns)[:: 1 if (seed + repeat) % 2 == 0 else -1]
                    for name in order:
                        what, environment = turns[name]
                        found = json.loads(fresh(RUN, what, str(seed), environment=environment))
                        rows.append({"contestant": name, "seed": seed, **found})
    return rows


def _graphc(seed: str) -> Row:
    training, test = _digits(int(seed))
    begin = perf_counter()
    trainer, batches = _trainer(training, int(seed))
    trainer.fit(batches, EPOCHS, progress=False)
    accuracy = trainer.evaluate(*test)["accuracy"]
    return {"seconds": perf_counter() - begin, "accuracy": accuracy}


def _scikit_learn(seed: str) -> Row:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)  # it is to make all epochs
    training, test = _digits(int(seed))
    begin = perf_counter()
    model = MLPClassifier(
        (128, 64), solver="sgd", alpha=0, batch_size=BATCH, learning_rate_init=RATE,
        max_iter=EPOCHS, momentum=MOMENTUM, nesterovs_momentum=False, tol=0,
        n_iter_no_change=EPOCHS, random_state=int(seed),
    )  # fmt: skip
    accuracy = float(model.fit(*training).score(*test))
    return {"seconds": perf_counter() - begin, "accuracy": accuracy, "epochs": model.n_iter_}


def _digits(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test part: 1 438 and 359 samples, float32."""
    from sklearn.datasets import load_digits

    from graphc import train

    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    return train.split(x, y, [0.8, 0.2], seed=seed)


def _trainer(
    training: tuple[np.ndarray, np.ndarray], seed: int, threads: int | None = None
) -> tuple[Any, Any]:
    from graphc import nn, train

    model = nn.Sequential(
        nn.Dense(64, 128, activation="relu"), nn.Dense(128, 64, activation="relu"),
        nn.Dense(64, 10), seed=seed,
    )  # fmt: skip
    optimizer = train.SGD(RATE, momentum=MOMENTUM)
    trainer = train.Trainer(
        model, "softmax_cross_entropy", optimizer, ["accuracy"], threads=threads, seed=seed
    )
    return trainer, train.Batches(*training, size=BATCH, seed=seed)


# -- one step


def _step(threads: str) -> Row:
    """Microseconds per step of the Trainer with shuffled batches, and of calls in a bare loop over
    the batches of one epoch, made before; in alternating rounds."""
    training, _ = _digits(0)
    trainer, batches = _trainer(training, 0, None if threads == "default" else int(threads))
    trainer.fit(batches, 2, progress=False)
    program, made = trainer.program("train"), list(batches.epoch(0))

    def bare() -> None:
        for _ in range(EPOCHS):
            for x, y in made:
                program(x=x, y=y)

    def trained() -> None:
        trainer.fit(batches, EPOCHS, progress=False)

    steps = EPOCHS * len(made)
    rounds = [[_microseconds(f, steps) for f in _turned([bare, trained], i)] for i in range(ROUNDS)]
    pairs = [_turned(r, i) for i, r in enumerate(rounds)]
    columns = {
        "bare loop": [b for b, _ in pairs], "Trainer": [t for _, t in pairs],
        "difference": [t - b for b, t in pairs],
    }  # fmt: skip
    return {"threads": threads, "backend": program.backend, "us": columns}


def _turned(pair: list[Any], i: int) -> list[Any]:
    return pair if i % 2 == 0 else pair[::-1]


def _microseconds(f: Callable[[], None], steps: int) -> float:
    begin = perf_counter()
    f()
    return (perf_counter() - begin) / steps * 1e6


# -- the table


def to_markdown(result: Row) -> str:
    """The result as tables."""
    machine, settings = result["machine"], result["settings"]
    loads = [f"{machine[when][0]:.1f}" for when in ("load before", "load after")]
    lines = [
        f"Measured on {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}, NumPy {machine['numpy']} ({machine['blas']}), scikit-learn "
        f"{machine['scikit-learn']}, {machine['date']}, revision {machine['revision']}; load "
        f"average {loads[0]} before and {loads[1]} after.",
        "",
        f"Digits, {settings['network']}, batches of {settings['batch']}, {settings['epochs']} "
        f"epochs, {settings['seeds']} seeds, {settings['repeats']} runs each:",
        "",
        "| contestant | time | from | to | scikit-learn's time / its | accuracy, mean | least |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *_contestants(result["end to end"]),
        "",
        "| digits step, backend native | bare loop | Trainer | difference |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["step"]:
        cells = [_spread(row["us"][name]) for name in ("bare loop", "Trainer", "difference")]
        lines.append(f"| threads: {row['threads']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _contestants(rows: list[Row]) -> list[str]:
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    by_name = {n: [r for r in rows if r["contestant"] == n] for n in sorted(names)}
    peers = [[r["seconds"] for r in rows] for n, rows in by_name.items() if "scikit" in n]
    reference = [min(turn) for turn in zip(*peers, strict=True)]
    lines: list[str] = []
    for name, found in by_name.items():
        seconds = [r["seconds"] for r in found]
        accuracies = [r["accuracy"] for r in found]
        faster = ratio(reference, seconds)
        lines.append(
            f"| {name} | {median(seconds):.3f} s | {min(seconds):.3f} s | {max(seconds):.3f} s | "
            f"{faster:.2f} | {mean(accuracies):.4f} | {min(accuracies):.4f} |"
        )
    return lines


def _spread(us: list[float]) -> str:
    timing = Timing.of(us)
    return f"{timing.median:.1f} us ({timing.low:.1f} to {timing.high:.1f})"


def _version() -> str:
    from importlib.metadata import version

    return version("scikit-learn")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "bench/results/training-2026-11.json"))
