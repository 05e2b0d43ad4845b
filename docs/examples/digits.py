"""Trains a small network on handwritten digits: from the data to a test accuracy.

64-128-64-10, relu and dropout, softmax cross-entropy, mini-batches of 64, SGD with momentum and a
rate that falls along a cosine. Data: the 1 797 scanned digits that scikit-learn brings along.
`make train` runs this; it needs graphc[examples,plot].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from graphc import nn, train


class Lines(train.Callback):
    """A line for each epoch."""

    def on_epoch(self, trainer: train.Trainer, row: Mapping[str, Any]) -> None:
        print(f"epoch {row['epoch']:3}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}")


def make_trainer(epochs: int, keep: float, seed: int) -> train.Trainer:
    model = nn.Sequential(
        nn.Dense(64, 128, activation="relu"),
        nn.Dropout(keep),
        nn.Dense(128, 64, activation="relu"),
        nn.Dropout(keep),
        nn.Dense(64, 10),
        seed=seed,
    )
    optimizer = train.SGD(train.Cosine(0.05, epochs), momentum=0.9)
    return train.Trainer(model, "softmax_cross_entropy", optimizer, ["accuracy"], seed=seed)


def draw(trainer: train.Trainer, x: np.ndarray, y: np.ndarray, path: Path) -> None:
    """The curves of training, and the test images that the network takes for another digit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    curves, images = figure.subfigures(1, 2, width_ratios=(3, 2))
    left, right = curves.subplots(1, 2)
    left.semilogy(trainer.history["loss"])
    left.set(title="training loss", xlabel="epoch")
    right.plot(trainer.history["accuracy"])
    right.set(title="training accuracy", xlabel="epoch")
    guesses = trainer.predict(x).argmax(axis=1)
    wrong = np.flatnonzero(guesses != y)
    images.suptitle(f"{len(wrong)} of {len(y)} test images: digit, taken for")
    for cell in images.subplots(2, 4).flat:
        cell.axis("off")
        if len(wrong):
            (i, *wrong) = wrong
            cell.imshow(x[i].reshape(8, 8), cmap="gray_r")
            cell.set_title(f"{y[i]}, {guesses[i]}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(epochs: int = 100, keep: float = 0.8, seed: int = 0, folder: Path | None = None) -> float:
    """Train, look at the compiled step, test; returns the test accuracy."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    training, (x_test, y_test) = train.split(x, y, [0.8, 0.2], seed=seed)

    trainer = make_trainer(epochs, keep, seed)
    batches = train.Batches(*training, size=64, seed=seed)
    trainer.fit(batches, epochs, callbacks=[Lines()], progress=False)

    if folder is not None:
        step = trainer.program("train")
        print(step.explain())
        step.save_dot(folder)
        draw(trainer, x_test, y_test, folder / "digits.png")
        print(f"curves, and DOT of each stage: {folder}/")
    accuracy = trainer.evaluate(x_test, y_test)["accuracy"]
    print(f"test accuracy: {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(folder=Path("out/digits"))
