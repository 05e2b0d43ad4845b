"""How far diabetes has gone on after a year, from ten values of a patient: regression.

Data: the 442 patients of Efron, Hastie, Johnstone and Tibshirani 2004, Least Angle Regression,
that scikit-learn brings along. It needs graphc[examples,plot].
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

from graphc import nn, train


def least_squares(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """Predictions of the best linear function, to compare with."""
    design, design_test = (np.column_stack([a, np.ones(len(a))]) for a in (x, x_test))
    return design_test @ np.linalg.lstsq(design, y)[0]


def r2(prediction: np.ndarray, target: np.ndarray) -> float:
    """1 - squared errors / squared distances from the mean."""
    return float(1 - ((prediction - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def draw(prediction: np.ndarray, target: np.ndarray, history: train.History, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    curves, points = figure.subplots(1, 2)
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        curves.plot(history["epoch"], history[name], label=label)
    curves.set(title="mean squared error, standardised", xlabel="epoch", ylim=(0, 1.5))
    curves.legend()
    points.plot(target, prediction, ".")
    ends = [target.min(), target.max()]
    points.plot(ends, ends, color="gray", linewidth=1)
    points.set(title="test patients", xlabel="measured", ylabel="predicted")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(epochs: int = 300, seed: int = 0, picture: Path | None = None) -> float:
    """Train and test; returns the R2 of the test patients."""
    found = load_diabetes(scaled=False)
    x, y = found.data.astype("float32"), found.target.astype("float32")[:, None]
    parts = train.split(x, y, [0.6, 0.2, 0.2], stratify=False, seed=seed)
    (x_train, y_train), _, (x_test, y_test) = parts

    # mean and deviation come from the training part alone: the others are as if not yet seen
    of_x, of_y = train.Standardise().fit(x_train), train.Standardise().fit(y_train)
    training, validation, test = [(of_x.transform(a), of_y.transform(b)) for a, b in parts]

    model = nn.Sequential(
        nn.Dense(10, 32, activation="relu"), nn.Dropout(0.7), nn.Dense(32, 1), seed=seed
    )
    trainer = train.Trainer(model, "mse", train.Adam(0.001), ["r2"], penalties=[train.L2(0.05)])
    stopping = train.EarlyStopping(patience=20)
    history = trainer.fit(
        train.Batches(*training, size=32, seed=seed), epochs, validation, [stopping], progress=False
    )

    prediction = of_y.inverse(trainer.predict(test[0]))
    linear = least_squares(x_train, y_train, x_test)
    print(stopping.reason or f"all {epochs} epochs were used")
    print(f"mean error: {np.abs(prediction - y_test).mean():.1f}, of values around {y.mean():.0f}")
    print(f"R2 of least squares: {r2(linear, y_test):.3f}")
    print(f"test R2: {r2(prediction, y_test):.3f}")
    if picture is not None:
        draw(prediction, y_test, history, picture)
    return r2(prediction, y_test)


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/regression.png"))
