"""The small training step that the goldens show: 5-6-3, relu, cross-entropy, momentum.

It has a file of its own because the goldens name its lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import graphc as gx


def step() -> tuple[dict[str, gx.Node], dict[Any, gx.Node]]:
    """Outputs and updates of one step, a batch of 7."""
    x = gx.input("x", (7, 5))
    labels = gx.input("labels", (7,), "int32")
    w0 = gx.param("w0", np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6))
    b0 = gx.param("b0", np.zeros(6, np.float32))
    w1 = gx.param("w1", np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3))
    b1 = gx.param("b1", np.zeros(3, np.float32))
    hidden = gx.relu(x @ w0 + b0)
    loss = gx.softmax_cross_entropy(hidden @ w1 + b1, labels)
    updates: dict[Any, gx.Node] = {}
    for p, gradient in zip([w0, b0, w1, b1], gx.grad(loss, [w0, b0, w1, b1]), strict=True):
        velocity = gx.param(f"v_{p.name}", np.zeros(p.shape, np.float32))
        updates[velocity] = 0.9 * velocity + gradient
        updates[p] = p - 0.1 * updates[velocity]
    return {"loss": loss}, updates


def symbolic() -> gx.Node:
    """A mean over a batch of any size."""
    return gx.mean(gx.exp(gx.input("x", ("batch", 3))))
