"""The workloads: each one a graphc program and the same arithmetic written by hand in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import graphc as gx

Arrays = dict[str, np.ndarray]
Step = Callable[[], Mapping[str, Any]]

RATE, MOMENTUM = 0.01, 0.9
STEPS_COMPARED = 3  # before anything is timed
ELEMENTS = 4 * 1024 * 1024


class Job(NamedTuple):
    """A program to compile and the arrays to call it with."""

    outputs: dict[str, gx.Node]
    updates: dict[gx.Param, gx.Node]
    inputs: Arrays


class Prepared(NamedTuple):
    """A contestant's step, its parameters by name at that moment, and facts about it."""

    step: Step
    state: Callable[[], Arrays]
    facts: dict[str, Any]


class Work(NamedTuple):
    """What no implementation can avoid: FLOPs of matrix products, bytes read or written."""

    flops: int
    nbytes: int


@dataclass(frozen=True)
class Workload:
    """`build()` declares the program; `reference(inputs, params)` gives the hand-written step.

    The reference returns the same outputs by name and changes the arrays of `params` in place, so
    that results and parameters of both can be compared. `kind` says which function of a peer makes
    the same step; `flops` are those of the matrix products.
    """

    name: str
    about: str
    kind: str
    build: Callable[[], Job]
    reference: Callable[[Arrays, Arrays], Step]
    flops: int = 0

    def work(self, job: Job) -> Work:
        """Each input read, each output written, each parameter and its velocity read and written.

        Bytes count once, and they count where everything would fit into the caches, too.
        """
        inputs = sum(a.nbytes for a in job.inputs.values())
        outputs = sum(node.type.nbytes for node in job.outputs.values())
        state = sum(p.type.nbytes for p in job.updates)
        return Work(self.flops, inputs + outputs + 2 * state)


# -- training steps: forward, backward, SGD with momentum ----------------------------------------


def network(sizes: tuple[int, ...], batch: int) -> Job:
    """A relu network with softmax cross-entropy, and one step of SGD with momentum on it."""
    random = np.random.default_rng(0)
    x = gx.input("x", (batch, sizes[0]))
    labels = gx.input("labels", (batch,), "int32")
    h, weights = x, list[gx.Param]()
    for i, (m, n) in enumerate(pairwise(sizes)):
        scale = np.sqrt(2 / m)
        w = gx.param(f"w{i}", (random.standard_normal((m, n)) * scale).astype("float32"))
        b = gx.param(f"b{i}", np.zeros(n, "float32"))
        h = h @ w + b
        if i < len(sizes) - 2:
            h = gx.relu(h)
        weights += [w, b]
    loss = gx.softmax_cross_entropy(h, labels)
    updates: dict[gx.Param, gx.Node] = {}
    for p, g in zip(weights, gx.grad(loss, weights), strict=True):
        v = gx.param(f"v_{p.name}", np.zeros(p.shape, "float32"))
        updates[v] = MOMENTUM * v + g
        updates[p] = p - RATE * updates[v]
    inputs = {
        "x": random.standard_normal((batch, sizes[0])).astype("float32"),
        "labels": random.integers(0, sizes[-1], batch).astype("int32"),
    }
    return Job({"loss": loss}, updates, inputs)


def network_flops(sizes: tuple[int, ...], batch: int) -> int:
    """2 batch m n for each of x @ w, x.T @ g and g @ w.T; the first layer needs no last one."""
    products = [2 * batch * m * n for m, n in pairwise(sizes)]
    return 3 * sum(products) - products[0]


def network_by_hand(inputs: Arrays, params: Arrays) -> Step:
    """The step of `network`, temporaries reused wherever NumPy allows it."""
    x, labels = inputs["x"], inputs["labels"]
    rows, batch = np.arange(len(x)), np.float32(len(x))
    last = sum(name.startswith("w") for name in params) - 1

    def step() -> Mapping[str, Any]:
        taken = [x]
        for i in range(last + 1):
            h = taken[-1] @ params[f"w{i}"]
            h += params[f"b{i}"]
            if i < last:
                np.maximum(h, 0, out=h)
            taken.append(h)
        z = taken[-1]
        z -= z.max(axis=1, keepdims=True)
        g = np.exp(z)
        total = g.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[rows, labels]).mean()
        g /= total
        g[rows, labels] -= 1
        g /= batch
        for i in reversed(range(last + 1)):
            h, w, b = taken[i], params[f"w{i}"], params[f"b{i}"]
            slope_w, slope_b = h.T @ g, g.sum(axis=0)
            if i:
                g = g @ w.T
                g *= h > 0
            momentum(w, params[f"v_w{i}"], slope_w)
            momentum(b, params[f"v_b{i}"], slope_b)
        return {"loss": loss}

    return step


def momentum(p: np.ndarray, v: np.ndarray, slope: np.ndarray) -> None:
    """v = mu v + slope; p = p - rate v. In place; `slope` is used up."""
    v *= MOMENTUM
    v += slope
    np.multiply(v, RATE, out=slope)
    p -= slope


# -- elementwise -----------------------------------------------------------------------------------


def formula() -> tuple[gx.Node, list[gx.Node], Arrays]:
    random = np.random.default_rng(1)
    a, b, c = (gx.input(name, (ELEMENTS,)) for name in "abc")
    y = gx.tanh(a * b + c) * gx.sigmoid(a) + gx.relu(b) * c
    arrays = {name: random.standard_normal(ELEMENTS, dtype="float32") for name in "abc"}
    return y, [a, b, c], arrays


def elementwise() -> Job:
    y, _, arrays = formula()
    return Job({"y": y}, {}, arrays)


def elementwise_by_hand(inputs: Arrays, _: Arrays) -> Step:
    """The formula as it stands: NumPy reuses the temporaries of an expression by itself."""
    a, b, c = (inputs[name] for name in "abc")

    def step() -> Mapping[str, Any]:
        return {"y": np.tanh(a * b + c) * (1 / (1 + np.exp(-a))) + np.maximum(b, 0) * c}

    return step


def elementwise_gradient() -> Job:
    y, wrt, arrays = formula()
    da, db, dc = gx.grad(y.sum(), wrt)
    return Job({"da": da, "db": db, "dc": dc}, {}, arrays)


def elementwise_gradient_by_hand(inputs: Arrays, _: Arrays) -> Step:
    a, b, c = (inputs[name] for name in "abc")

    def step() -> Mapping[str, Any]:
        t = np.tanh(a * b + c)
        s = 1 / (1 + np.exp(-a))
        u = s * (1 - t * t)
        return {
            "da": u * b + t * s * (1 - s),
            "db": u * a + c * (b > 0),
            "dc": u + np.maximum(b, 0),
        }

    return step


# -- softmax cross-entropy with its gradient -------------------------------------------------------


def cross_entropy() -> Job:
    rows, classes = 8192, 1024
    random = np.random.default_rng(2)
    z, labels = gx.input("z", (rows, classes)), gx.input("labels", (rows,), "int32")
    loss = gx.softmax_cross_entropy(z, labels)
    inputs = {
        "z": random.standard_normal((rows, classes), dtype="float32"),
        "labels": random.integers(0, classes, rows).astype("int32"),
    }
    return Job({"loss": loss, "dz": gx.grad(loss, z)}, {}, inputs)


def cross_entropy_by_hand(inputs: Arrays, _: Arrays) -> Step:
    logits, labels = inputs["z"], inputs["labels"]
    rows, count = np.arange(len(logits)), np.float32(len(logits))

    def step() -> Mapping[str, Any]:
        z = logits - logits.max(axis=1, keepdims=True)
        chosen = z[rows, labels]
        np.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - chosen).mean()
        z /= total
        z[rows, labels] -= 1
        z /= count
        return {"loss": loss, "dz": z}

    return step


def training(name: str, sizes: tuple[int, ...], batch: int) -> Workload:
    about = f"training step {'-'.join(map(str, sizes))}, batch {batch}"
    flops = network_flops(sizes, batch)
    return Workload(name, about, "network", lambda: network(sizes, batch), network_by_hand, flops)


WORKLOADS = (
    training("tiny", (64, 32, 10), 32),
    training("digits", (64, 128, 64, 10), 64),
    training("mnist", (784, 512, 256, 10), 128),
    training("wide", (1024, 2048, 2048, 1024), 256),
    Workload(
        "elementwise", "tanh(a*b+c)*sigmoid(a)+relu(b)*c, 4 M elements", "elementwise",
        elementwise, elementwise_by_hand,
    ),
    Workload(
        "elementwise-gradient", "gradient of its sum in a, b and c", "elementwise gradient",
        elementwise_gradient, elementwise_gradient_by_hand,
    ),
    Workload(
        "cross-entropy", "softmax cross-entropy 8192 x 1024 with gradient", "cross-entropy",
        cross_entropy, cross_entropy_by_hand,
    ),
)  # fmt: skip
BY_NAME = {workload.name: workload for workload in WORKLOADS}
