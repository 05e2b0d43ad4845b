"""A network that is too large for its 200 digits learns them by heart; four cures, side by side.

Each variant adds one thing to the first; dropout comes with a limit on the weights, as in
Srivastava et al. 2014. Run it to train them all and to draw their validation curves; it needs
graphc[examples,plot].
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from graphc import nn, train

Part = tuple[np.ndarray, np.ndarray]
MOVES = (train.Rotate(10), train.Noise(0.3))


def parts(samples: int, seed: int) -> list[Part]:
    """So many digits to learn from; of the rest, half for validation and half for the test."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    share = samples / len(y)
    return train.split(x, y, [share, (1 - share) / 2, (1 - share) / 2], seed=seed)


def fit(
    data: Sequence[Part], epochs: int, *, keep: float = 1.0,
    augment: Sequence[train.Augmentation] = (), penalties: Sequence[train.L2] = (),
    limits: Sequence[train.MaxNorm] = (), callbacks: Sequence[train.Callback] = (),
) -> tuple[train.History, float]:  # fmt: skip
    """The history of one variant and its test accuracy."""
    training, validation, test = data
    model = nn.Sequential(
        nn.Dense(64, 256, activation="relu"),
        nn.Dropout(keep),
        nn.Dense(256, 256, activation="relu"),
        nn.Dropout(keep),
        nn.Dense(256, 10),
    )
    trainer = train.Trainer(
        model, "softmax_cross_entropy", train.Adam(0.003), ["accuracy"], penalties=penalties,
        limits=limits,
    )  # fmt: skip
    batches = train.Batches(*training, size=20, image_shape=(8, 8), augment=augment)
    history = trainer.fit(batches, epochs, validation, callbacks, progress=False)
    return history, trainer.evaluate(*test)["accuracy"]


def draw(found: dict[str, train.History], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = dict(zip(("val_loss", "val_accuracy"), figure.subplots(1, 2), strict=True))
    for name, history in found.items():
        for monitored, cell in axes.items():
            values = history[monitored]
            (line,) = cell.plot(history["epoch"], values, label=name, linewidth=1)
            if history.stopped:
                cell.plot(len(values), values[-1], "o", color=line.get_color())
    axes["val_loss"].set(title="validation loss", xlabel="epoch", ylim=(0.1, 0.4))
    axes["val_accuracy"].set(title="validation accuracy", xlabel="epoch", ylim=(0.88, 0.98))
    axes["val_accuracy"].legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(
    epochs: int = 150, samples: int = 200, seed: int = 0, picture: Path | None = None
) -> dict[str, train.History]:
    """Train every variant; returns their histories."""
    data = parts(samples, seed)
    stopping = train.EarlyStopping("val_loss", patience=10)
    results = {
        "nothing": fit(data, epochs),
        "L2": fit(data, epochs, penalties=[train.L2(0.001)]),
        "dropout": fit(data, epochs, keep=0.5, limits=[train.MaxNorm(1.0)]),
        "early stopping": fit(data, epochs, callbacks=[stopping]),
        "augmentation": fit(data, epochs, augment=MOVES),
    }
    print(f"{'':14}  epochs  training loss  validation loss  test accuracy")
    for name, (history, accuracy) in results.items():
        last = history.rows[stopping.best_epoch - 1 if history.stopped else -1]
        print(
            f"{name:14}  {len(history):6}  {last['loss']:13.4f}  {last['val_loss']:15.4f}  "
            f"{accuracy:13.4f}"
        )
    print(f"early stopping: {stopping.reason or 'never'}")
    found = {name: history for name, (history, _) in results.items()}
    if picture is not None:
        draw(found, picture)
    return found


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/overfitting.png"))
