"""Malignant or benign, from thirty measures of the cells in an image: classification in two.

Data: the 569 cases of Street, Wolberg and Mangasarian 1993, Nuclear feature extraction for breast
tumor diagnosis, that scikit-learn brings along. It needs graphc[examples,plot].
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

from graphc import nn, train

CLASSES = ("malignant", "benign")


def draw(history: train.History, confusion: np.ndarray, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    curves, matrix = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, label in (("loss", "training, with dropout"), ("val_loss", "validation")):
        curves.plot(history["epoch"], history[name], label=label)
    curves.set(title="cross-entropy", xlabel="epoch", ylim=(0, 0.5))
    curves.legend()
    matrix.imshow(confusion, cmap="Blues", vmax=confusion.max() * 1.5)
    for row, column in np.ndindex(2, 2):
        matrix.text(column, row, f"{confusion[row, column]:.0f}", ha="center", va="center")
    matrix.set(title="test cases", xlabel="predicted", ylabel="true")
    matrix.set_xticks((0, 1), CLASSES)
    matrix.set_yticks((0, 1), CLASSES, rotation=90, va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(epochs: int = 200, seed: int = 0, picture: Path | None = None) -> float:
    """Train and test; returns the test accuracy."""
    found = load_breast_cancer()
    x, y = found.data.astype("float32"), found.target.astype("int32")
    parts = train.split(x, y, [0.6, 0.2, 0.2], seed=seed)
    scale = train.Standardise().fit(parts[0][0])  # on the training part alone
    training, validation, test = [(scale.transform(a), b) for a, b in parts]

    model = nn.Sequential(
        nn.Dense(30, 16, activation="relu"), nn.Dropout(0.8), nn.Dense(16, 2), seed=seed
    )
    metrics = ["accuracy", train.confusion_matrix(2)]
    trainer = train.Trainer(
        model, "softmax_cross_entropy", train.Adam(0.003), metrics, penalties=[train.L2(0.003)]
    )
    stopping = train.EarlyStopping(patience=15)
    history = trainer.fit(
        train.Batches(*training, size=32, seed=seed), epochs, validation, [stopping], progress=False
    )

    values = trainer.evaluate(*test)
    print(stopping.reason or f"all {epochs} epochs were used")
    for name, row in zip(CLASSES, values["confusion_matrix"], strict=True):
        print(f"{name:9}  taken for malignant {row[0]:3.0f} times, for benign {row[1]:3.0f}")
    print(f"test accuracy: {values['accuracy']:.4f}")
    if picture is not None:
        draw(history, values["confusion_matrix"], picture)
    return values["accuracy"]


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/breast_cancer.png"))
