"""Trains a small network on handwritten digits: the whole road from declaring to a test accuracy.

64-128-64-10, relu, softmax cross-entropy, mini-batches of 64, SGD with momentum written with
`gx.grad` and `updates`. Data: the 1 797 scanned digits that scikit-learn brings along. `make train`
runs this.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sklearn.datasets import load_digits

import graphc as gx

SIZES, BATCH, EPOCHS, RATE, MOMENTUM = (64, 128, 64, 10), 64, 40, 0.05, 0.9
random = np.random.default_rng(0)

# -- data: pixels scaled to 0..1, a fixed split into 1 437 training and 360 test samples
digits = load_digits()
order = random.permutation(len(digits.target))
x = (digits.data[order] / 16).astype("float32")
labels = digits.target[order].astype("int32")
x_train, x_test, y_train, y_test = x[:1437], x[1437:], labels[:1437], labels[1437:]

# -- the network; the batch size stays a symbol, so that one program serves any number of samples
pixels = gx.input("pixels", ("batch", 64))
truth = gx.input("truth", ("batch",), "int32")
weights: list[gx.Param] = []
h = pixels
for i, (m, n) in enumerate(pairwise(SIZES)):
    w = gx.param(f"w{i}", (random.standard_normal((m, n)) * np.sqrt(2 / m)).astype("float32"))
    b = gx.param(f"b{i}", np.zeros(n, "float32"))
    h = h @ w + b
    if n != SIZES[-1]:
        h = gx.relu(h)
    weights += [w, b]
loss = gx.softmax_cross_entropy(h, truth)
accuracy = gx.mean(gx.argmax(h, axis=-1) == truth)

# -- one step of SGD with momentum: v = mu v + gradient, w = w - rate v
updates: dict[gx.Param, gx.Node] = {}
for weight, gradient in zip(weights, gx.grad(loss, weights), strict=True):
    velocity = gx.param(f"velocity_{weight.name}", np.zeros(weight.shape, "float32"))
    updates[velocity] = MOMENTUM * velocity + gradient
    updates[weight] = weight - RATE * updates[velocity]

measures = {"loss": loss, "accuracy": accuracy}
step = gx.compile(measures, updates=updates, sizes={"batch": BATCH}, name="digits_step")
test = gx.compile(measures, sizes={"batch": len(x_test)}, name="digits_test")

print(step.explain())
step.save_dot(Path("out/digits"))
print("DOT of each stage: out/digits/")

# -- training: every epoch sees the samples in another order, in full batches
columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
batches = len(x_train) // BATCH
with Progress(*columns) as progress:
    bar = progress.add_task("training", total=EPOCHS * batches)
    for epoch in range(EPOCHS):
        order = random.permutation(len(x_train))
        seen = []
        for i in range(batches):
            chosen = order[i * BATCH : (i + 1) * BATCH]
            seen.append(step(pixels=x_train[chosen], truth=y_train[chosen]))
            progress.advance(bar)
        means = {name: np.mean([s[name] for s in seen]) for name in measures}
        progress.console.print(
            f"epoch {epoch + 1:2}  loss {means['loss']:.4f}  accuracy {means['accuracy']:.4f}"
        )

print(f"test accuracy: {float(test(pixels=x_test, truth=y_test)['accuracy']):.4f}")
