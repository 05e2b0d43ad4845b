"""What a network has learnt from the digits 0 to 4, when there are few samples of 5 to 9.

Three ways, with several seeds: from scratch; a new head on the frozen layers; and all layers
trained on after that, with a smaller rate. It needs graphc[examples,plot].
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from graphc import nn, train

Part = tuple[np.ndarray, np.ndarray]
MOVES = (train.Shift(1), train.Rotate(15), train.Zoom(0.85, 1.15))
WAYS = ("from scratch", "new head", "fine-tuned")


def make_model(seed: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Dense(64, 128, activation="relu"),
        nn.Dense(128, 64, activation="relu"),
        nn.Dense(64, 5),
        seed=seed,
    )


def fit(
    model: nn.Sequential, data: Part, epochs: int, rate: float | train.Schedule, seed: int,
    augment: Sequence[train.Augmentation] = (),
) -> train.Trainer:  # fmt: skip
    trainer = train.Trainer(model, "softmax_cross_entropy", train.Adam(rate), ["accuracy"])
    size = 64 if augment else min(25, len(data[0]))
    batches = train.Batches(*data, size=size, image_shape=(8, 8), augment=augment, seed=seed)
    trainer.fit(batches, epochs, progress=False)
    return trainer


def few(x: np.ndarray, y: np.ndarray, each: int, seed: int) -> tuple[Part, Part]:
    """So many samples of each class, and all others."""
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = np.concatenate([order[y[order] == label][:each] for label in range(5)])
    others = np.setdiff1d(order, chosen)
    return (x[chosen], y[chosen]), (x[others], y[others])


def compare(path: Path, data: Part, test: Part, epochs: int, seed: int) -> list[float]:
    """The test accuracy after each of the three ways to learn from `data`."""
    scratch = fit(make_model(seed), data, epochs, 0.003, seed)

    model = make_model(seed)
    model.load(path)
    model.replace_last(nn.Dense(64, 5, seed=100 + seed))
    model.freeze("layers.0*", "layers.1*")
    head = fit(model, data, epochs, 0.003, seed).evaluate(*test)
    model.unfreeze("*")
    tuned = fit(model, data, epochs, 0.001, seed)
    results = scratch.evaluate(*test), head, tuned.evaluate(*test)
    return [result["accuracy"] for result in results]


def draw(found: dict[int, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for way, name in enumerate(WAYS):
        means = [rows[:, way].mean() for rows in found.values()]
        axes.plot(list(found), means, label=f"{name}, mean")
        for each, rows in found.items():
            axes.plot([each] * len(rows), rows[:, way], ".", color=f"C{way}", alpha=0.6)
    axes.set(xscale="log", xlabel="samples of each digit", ylabel="test accuracy, digits 5 to 9")
    axes.set_xticks(list(found), [str(each) for each in found])
    axes.minorticks_off()
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(
    epochs: int = 60, samples: Sequence[int] = (1, 2, 5, 10), seeds: int = 5,
    picture: Path | None = None,
) -> dict[int, np.ndarray]:  # fmt: skip
    """Compare the three ways; returns accuracies [seeds, ways] by the samples of each digit."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    low, high = y < 5, y >= 5
    rows: dict[int, list[list[float]]] = {each: [] for each in samples}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "low.safetensors"
        for seed in range(seeds):
            source = make_model(seed)
            fit(source, (x[low], y[low]), epochs, train.Cosine(0.002, epochs), seed, MOVES)
            source.save(path)
            for each in samples:
                data, test = few(x[high], y[high] - 5, each, seed)
                rows[each].append(compare(path, data, test, epochs, seed))
    found = {each: np.array(values) for each, values in rows.items()}
    print("samples of each digit   " + "  ".join(f"{way:>18}" for way in WAYS))
    for each, values in found.items():
        cells = [f"{c.mean():.3f} ({c.min():.3f}-{c.max():.3f})" for c in values.T]
        better = int((values[:, 2] > values[:, 0]).sum())
        print(f"{each:21}   {'  '.join(cells)}  fine-tuned better: {better} of {seeds}")
    if picture is not None:
        draw(found, picture)
    return found


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/transfer.png"))
