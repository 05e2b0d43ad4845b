"""What a network has learnt from one task, when there are few samples of another.

Two moves: from the digits 0 to 4 to the digits 5 to 9, and from all ten digits to whether a digit
is odd. Three ways to learn the second task, with several seeds: from scratch; a new head on the
frozen layers, whose features are computed once; and all layers trained on after that, with a
smaller rate. It needs graphc[examples,plot].
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from graphc import nn, train

Part = tuple[np.ndarray, np.ndarray]
Found = dict[int, np.ndarray]  # by the samples of each class: test accuracies [seeds, ways]
MOVES = (train.Shift(1), train.Rotate(15), train.Zoom(0.85, 1.15))
WAYS = ("from scratch", "new head", "fine-tuned")


def new_digits(x: np.ndarray, y: np.ndarray, _seed: int) -> tuple[Part, Part]:
    """0 to 4 as the first task, 5 to 9 as the second."""
    low, high = y < 5, y >= 5
    return (x[low], y[low]), (x[high], y[high] - 5)


def new_question(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Part, Part]:
    """Which digit it is as the first task, whether it is odd, of other images, as the second."""
    first, (x, y) = train.split(x, y, [0.5, 0.5], seed=seed)
    return first, (x, y % 2)


def make_model(classes: int, seed: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dense(64, 128, activation="relu"),
        nn.Dense(128, 64, activation="relu"),
        nn.Dense(64, classes),
        seed=seed,
    )


def fit(
    model: nn.Sequential, data: Part, epochs: int, rate: float | train.Schedule, seed: int,
    augment: Sequence[train.Augmentation] = (), cache: bool = False,
) -> train.Trainer:  # fmt: skip
    trainer = train.Trainer(
        model, "softmax_cross_entropy", train.Adam(rate), ["accuracy"], cache_features=cache
    )
    size = 64 if augment else min(25, len(data[0]))
    batches = train.Batches(*data, size=size, image_shape=(8, 8), augment=augment, seed=seed)
    trainer.fit(batches, epochs, progress=False)
    return trainer


def few(x: np.ndarray, y: np.ndarray, each: int, seed: int) -> tuple[Part, Part]:
    """So many samples of each class, and all others."""
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = np.concatenate([order[y[order] == label][:each] for label in np.unique(y)])
    others = np.setdiff1d(order, chosen)
    return (x[chosen], y[chosen]), (x[others], y[others])


def compare(path: Path, data: Part, test: Part, epochs: int, seed: int) -> list[float]:
    """The test accuracy after each of the three ways to learn from `data`."""
    classes = len(np.unique(data[1]))
    scratch = fit(make_model(classes, seed), data, 2 * epochs, 0.003, seed)  # as many in all

    model = make_model(classes, seed)
    model.load(path, strict=False)  # the head, if it is of another size, stays as it is
    model.replace_last(nn.Dense(64, classes, seed=100 + seed))
    model.freeze("layers.0*", "layers.1*")
    head = fit(model, data, epochs, 0.003, seed, cache=True).evaluate(*test)
    model.unfreeze("*")
    tuned = fit(model, data, epochs, 0.001, seed)
    results = scratch.evaluate(*test), head, tuned.evaluate(*test)
    return [result["accuracy"] for result in results]


def move(
    task: Callable[..., tuple[Part, Part]], epochs: int, samples: Sequence[int], seeds: int
) -> Found:
    """Learn the first task, then the second in three ways, from so many samples of each class."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    rows: dict[int, list[list[float]]] = {each: [] for each in samples}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.safetensors"
        for seed in range(seeds):
            first, second = task(x, y, seed)
            model = make_model(len(np.unique(first[1])), seed)
            fit(model, first, epochs, train.Cosine(0.002, epochs), seed, MOVES)
            model.save(path)
            for each in samples:
                rows[each].append(compare(path, *few(*second, each, seed), epochs, seed))
    return {each: np.array(values) for each, values in rows.items()}


def report(title: str, found: Found) -> None:
    print(f"{title:21}   " + "  ".join(f"{way:>18}" for way in WAYS))
    for each, values in found.items():
        cells = [f"{c.mean():.3f} ({c.min():.3f}-{c.max():.3f})" for c in values.T]
        better = int((values[:, 2] > values[:, 0]).sum())
        cells.append(f"tuned better: {better} of {len(values)}")
        print(f"{each:8} of each class   {'  '.join(cells)}")


def draw(moves: dict[str, Found], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (title, found) in zip(figure.subplots(1, len(moves)), moves.items(), strict=True):
        for way, name in enumerate(WAYS):
            means = [rows[:, way].mean() for rows in found.values()]
            axes.plot(list(found), means, label=f"{name}, mean")
            for each, rows in found.items():
                axes.plot([each] * len(rows), rows[:, way], ".", color=f"C{way}", alpha=0.6)
        axes.set(xscale="log", title=title, xlabel="samples of each class", ylabel="test accuracy")
        axes.set_xticks(list(found), [str(each) for each in found])
        axes.minorticks_off()
        axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(
    epochs: int = 60, samples: Sequence[int] = (1, 2, 5, 10, 20), seeds: int = 5,
    picture: Path | None = None,
) -> dict[str, Found]:  # fmt: skip
    """Compare the three ways for both moves; returns the accuracies by move."""
    tasks = {"5 to 9, after 0 to 4": new_digits, "odd, after ten digits": new_question}
    moves = {title: move(task, epochs, samples, seeds) for title, task in tasks.items()}
    for title, found in moves.items():
        report(title, found)
    if picture is not None:
        draw(moves, picture)
    return moves


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/transfer.png"))
