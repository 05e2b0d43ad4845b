"""Ten layers of sigmoid against ten of relu: where the gradient goes, and what comes of it.

The same digits, sizes, rate and batches; Glorot's initial weights before sigmoid, He's before relu.
It needs graphc[examples,plot].
"""

import sys
from itertools import pairwise
from pathlib import Path

from sklearn.datasets import load_digits

from graphc import nn, train

DEPTH, WIDTH = 10, 32


def make_model(activation: str) -> nn.Sequential:
    """The default of a weight suits its activation: He's for relu, Glorot's for sigmoid."""
    sizes = [64, *[WIDTH] * DEPTH]
    hidden = [nn.Dense(m, n, activation=activation) for m, n in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Dense(WIDTH, 10))


def draw(
    reports: dict[str, train.GradientReport], histories: dict[str, train.History], path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, report) in enumerate(reports.items()):
        for step, line in ((report.steps[0], "-"), (report.steps[-1], ":")):
            norms = [r.gradient for r in report.readings if r.step == step]
            label, layers = f"{name}, step {step}", range(1, len(norms) + 1)
            left.plot(layers, norms, line, marker=".", color=f"C{i}", label=label)
        right.plot(histories[name]["epoch"], histories[name]["loss"], label=name)
    left.set(yscale="log", xlabel="layer", title="norm of the gradient")
    right.set(xlabel="epoch", title="training loss")
    left.legend(fontsize="small")
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main(
    epochs: int = 20, picture: Path | None = None, backend: str = "auto"
) -> dict[str, train.GradientReport]:
    """Train both; returns what was seen of their gradients."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    (x, y), test = train.split(x, y, (0.8, 0.2))
    reports: dict[str, train.GradientReport] = {}
    histories: dict[str, train.History] = {}
    for activation in ("sigmoid", "relu"):
        optimizer = train.SGD(0.02, momentum=0.9)
        trainer = train.Trainer(
            make_model(activation), "softmax_cross_entropy", optimizer, ["accuracy"],
            backend=backend,
        )  # fmt: skip
        report = train.GradientReport(every=50)
        print(f"-- {DEPTH} layers of {activation}")
        histories[activation] = trainer.fit(
            train.Batches(x, y, 64), epochs, callbacks=[report], progress=False
        )
        print(report.table(1))
        print(f"test accuracy: {trainer.evaluate(*test)['accuracy']:.3f}")
        reports[activation] = report
    if picture is not None:
        draw(reports, histories, picture)
    return reports


if __name__ == "__main__":
    main(picture=Path(sys.argv[1] if len(sys.argv) > 1 else "out/gradients.png"))
