"""A 3-4-2 network neuron by neuron: a node for each weight, a product for each edge, a chain of
sums for each neuron. As two matrix products, it gives the same outputs and gradients.

Run it to check that, and to write pictures: DOT always, SVG and PNG where Graphviz is installed.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import graphc as gx

SIZES = (3, 4, 2)
random = np.random.default_rng(0)
matrices = [random.standard_normal((m, n)).astype("float32") for m, n in ((3, 4), (4, 2))]
biases = [random.standard_normal(n).astype("float32") for n in (4, 2)]
values = random.standard_normal(3).astype("float32")
targets = 0.5, -0.5


def neurons() -> tuple[list[gx.Node], dict[str, gx.Param]]:
    """The network of scalars: its two outputs, and its parameters by name."""
    params: dict[str, gx.Param] = {}

    def param(name: str, value: np.float32) -> gx.Param:
        params[name] = gx.param(name, value)
        return params[name]

    signals: list[gx.Node] = [gx.input(f"x{i}", ()) for i in range(SIZES[0])]
    for layer, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        following: list[gx.Node] = []
        for j in range(matrix.shape[1]):
            total = param(f"b{layer}_{j}", bias[j])
            for i, signal in enumerate(signals):
                total = total + signal * param(f"w{layer}_{i}{j}", matrix[i, j])
            following.append(gx.tanh(total))
        signals = following
    return signals, params


def layers() -> tuple[gx.Node, list[gx.Param]]:
    """The same network as matrix products: its output vector, and its parameters."""
    h, params = gx.input("x", (SIZES[0],)), list[gx.Param]()
    for layer, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        w, b = gx.param(f"w{layer}", matrix), gx.param(f"b{layer}", bias)
        h = gx.tanh(h @ w + b)
        params += [w, b]
    return h, params


def run_neurons() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Outputs, and the gradient of each scalar parameter by its name."""
    outputs, params = neurons()
    (y0, y1), (t0, t1) = outputs, targets
    loss = (y0 - t0) ** 2 + (y1 - t1) ** 2
    slopes = dict(zip(params, gx.grad(loss, list(params.values())), strict=True))
    exe = gx.compile({"y": gx.stack(outputs), **slopes})
    found = exe(**{f"x{i}": values[i] for i in range(SIZES[0])})
    return found.pop("y"), found


def run_layers() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same from the matrix form, its gradients taken apart into scalars."""
    output, params = layers()
    loss = gx.sum((output - np.array(targets)) ** 2)
    found = gx.compile([output, *gx.grad(loss, params)])(x=values)
    slopes: dict[str, np.ndarray] = {}
    for layer in range(2):
        matrix, bias = found[1 + 2 * layer], found[2 + 2 * layer]
        for j in range(matrix.shape[1]):
            slopes[f"b{layer}_{j}"] = bias[j]
            slopes |= {f"w{layer}_{i}{j}": matrix[i, j] for i in range(matrix.shape[0])}
    return found[0], slopes


def draw(folder: Path) -> None:
    """Write neurons.dot, and neurons.svg and neurons.png where Graphviz is installed."""
    outputs, _ = neurons()
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "neurons.dot"
    exe = gx.compile({"y0": outputs[0], "y1": outputs[1]})
    source.write_text(exe.to_dot("declared"))
    if shutil.which("dot") is None:
        print(f"{source}; install Graphviz (the program `dot`) for pictures")
        return
    for kind in ("svg", "png"):
        subprocess.run(["dot", f"-T{kind}", source, "-o", folder / f"neurons.{kind}"], check=True)
    print(f"{source}, .svg, .png")


def main() -> None:
    y, slopes = run_neurons()
    expected_y, expected_slopes = run_layers()
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-6)
    assert slopes.keys() == expected_slopes.keys()
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, expected_slopes[name], rtol=1e-5, atol=1e-6)
    print(f"outputs {y} and {len(slopes)} gradients agree with the matrix form")
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "out/neurons"))


if __name__ == "__main__":
    main()
