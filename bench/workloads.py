"""The workloads: each one a graphc program and the same arithmetic written by hand in NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import graphc as gx

Arrays = dict[str, np.ndarray]
Step = Callable[[], Mapping[str, Any]]
StepOf = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # of the inputs

RATE, MOMENTUM = 0.01, 0.9
STEPS_COMPARED = 3  # before anything is timed
ELEMENTS = 4 * 1024 * 1024
CLASSES = 10


class Job(NamedTuple):
    """A program to compile and the arrays to call it with."""

    outputs: dict[str, gx.Node]
    updates: dict[gx.Param, gx.Node]
    inputs: Arrays


class Prepared(NamedTuple):
    """A contestant's step, its parameters by name at that moment, and facts about it.

    A device works on while the step has returned: `wait` waits for it. `stopwatch` starts a clock
    of the device's own and returns what stops it, the seconds. A call makes `steps` steps, once
    those calls are over whose results are compared, which make one.
    """

    step: Step
    state: Callable[[], Mapping[str, Any]]
    facts: dict[str, Any]
    wait: Callable[[], Any] | None = None
    stopwatch: Callable[[], Callable[[], float]] | None = None
    steps: int = 1


class Work(NamedTuple):
    """What no implementation can avoid: FLOPs of matrix products, bytes read or written."""

    flops: int
    nbytes: int


@dataclass(frozen=True)
class Workload:
    """`build()` declares the program; `reference` gives the hand-written step.

    `reference(inputs, params, xp)` gives a function of the inputs, over NumPy or a module like it.
    It returns the same outputs by name and changes the arrays of `params` in place, so that results
    and parameters of both can be compared. `kind` says which function of a peer makes the same
    step; `flops` are those of the matrix products, done in `precision`: "float32", "tf32", or
    "bfloat16" where all arrays are stored so.
    """

    name: str
    about: str
    kind: str
    build: Callable[[], Job]
    reference: Callable[[Mapping[str, Any], Mapping[str, Any], Any], StepOf]
    flops: int = 0
    precision: str = "float32"

    def work(self, job: Job) -> Work:
        """Each input read, each output written, each parameter and its velocity read and written.

        Bytes count once, and they count where everything would fit into the caches, too.
        """
        inputs = sum(a.nbytes for a in job.inputs.values())
        outputs = sum(node.type.nbytes for node in job.outputs.values())
        state = sum(p.type.nbytes for p in job.updates)
        return Work(self.flops, inputs + outputs + 2 * state)


# -- training steps: forward, backward, SGD with momentum ----------------------------------------


def network(sizes: tuple[int, ...], batch: int, dtype: str = "float32") -> Job:
    """A relu network with softmax cross-entropy, and one step of SGD with momentum on it."""
    random = np.random.default_rng(0)
    x = gx.input("x", (batch, sizes[0]), dtype)
    labels = gx.input("labels", (batch,), "int32")
    h, weights = x, list[gx.Param]()
    for i, (m, n) in enumerate(pairwise(sizes)):
        scale = np.sqrt(2 / m)
        value = (random.standard_normal((m, n)) * scale).astype("float32")
        w = gx.param(f"w{i}", value, dtype=dtype)
        b = gx.param(f"b{i}", np.zeros(n, "float32"), dtype=dtype)
        h = h @ w + b
        if i < len(sizes) - 2:
            h = gx.relu(h)
        weights += [w, b]
    loss = gx.softmax_cross_entropy(h, labels)
    updates: dict[gx.Param, gx.Node] = {}
    for p, g in zip(weights, gx.grad(loss, weights), strict=True):
        v = gx.param(f"v_{p.name}", np.zeros(p.shape, "float32"), dtype=dtype)
        updates[v] = MOMENTUM * v + g
        updates[p] = p - RATE * updates[v]
    inputs = {
        "x": random.standard_normal((batch, sizes[0])).astype(x.dtype),
        "labels": random.integers(0, sizes[-1], batch).astype("int32"),
    }
    return Job({"loss": loss}, updates, inputs)


def network_flops(sizes: tuple[int, ...], batch: int) -> int:
    """2 batch m n for each of x @ w, x.T @ g and g @ w.T; the first layer needs no last one."""
    products = [2 * batch * m * n for m, n in pairwise(sizes)]
    return 3 * sum(products) - products[0]


def network_by_hand(inputs: Mapping[str, Any], params: Mapping[str, Any], xp: Any) -> StepOf:
    """The step of `network`, temporaries reused wherever NumPy allows it."""
    rows, batch = xp.arange(len(inputs["x"])), np.float32(len(inputs["x"]))
    last = sum(name.startswith("w") for name in params) - 1

    def step(given: Mapping[str, Any]) -> Mapping[str, Any]:
        x, labels = given["x"], given["labels"]
        taken = [x]
        for i in range(last + 1):
            h = taken[-1] @ params[f"w{i}"]
            h += params[f"b{i}"]
            if i < last:
                xp.maximum(h, 0, out=h)
            taken.append(h)
        z = taken[-1]
        z -= z.max(axis=1, keepdims=True)
        g = xp.exp(z)
        total = g.sum(axis=1, keepdims=True)
        loss = (xp.log(total[:, 0]) - z[rows, labels]).mean()
        g /= total
        g[rows, labels] -= 1
        g /= batch
        for i in reversed(range(last + 1)):
            h, w, b = taken[i], params[f"w{i}"], params[f"b{i}"]
            slope_w, slope_b = h.T @ g, g.sum(axis=0)
            if i:
                g = g @ w.T
                g *= h > 0
            momentum(w, params[f"v_w{i}"], slope_w, xp)
            momentum(b, params[f"v_b{i}"], slope_b, xp)
        return {"loss": loss}

    return step


def momentum(p: Any, v: Any, slope: Any, xp: Any) -> None:
    """v = mu v + slope; p = p - rate v. In place; `slope` is used up."""
    v *= MOMENTUM
    v += slope
    xp.multiply(v, RATE, out=slope)
    p -= slope


# -- elementwise -----------------------------------------------------------------------------------


def formula(times: int) -> tuple[gx.Node, list[gx.Node], Arrays]:
    """Over `times` ELEMENTS."""
    random = np.random.default_rng(1)
    count = times * ELEMENTS
    a, b, c = (gx.input(name, (count,)) for name in "abc")
    y = gx.tanh(a * b + c) * gx.sigmoid(a) + gx.relu(b) * c
    arrays = {name: random.standard_normal(count, dtype="float32") for name in "abc"}
    return y, [a, b, c], arrays


def elementwise(times: int = 1) -> Job:
    y, _, arrays = formula(times)
    return Job({"y": y}, {}, arrays)


def elementwise_by_hand(_: Mapping[str, Any], __: Mapping[str, Any], xp: Any) -> StepOf:
    """The formula as it stands: NumPy reuses the temporaries of an expression by itself."""

    def step(given: Mapping[str, Any]) -> Mapping[str, Any]:
        a, b, c = (given[name] for name in "abc")
        return {"y": xp.tanh(a * b + c) * (1 / (1 + xp.exp(-a))) + xp.maximum(b, 0) * c}

    return step


def elementwise_gradient(times: int = 1) -> Job:
    y, wrt, arrays = formula(times)
    da, db, dc = gx.grad(y.sum(), wrt)
    return Job({"da": da, "db": db, "dc": dc}, {}, arrays)


def elementwise_gradient_by_hand(_: Mapping[str, Any], __: Mapping[str, Any], xp: Any) -> StepOf:
    def step(given: Mapping[str, Any]) -> Mapping[str, Any]:
        a, b, c = (given[name] for name in "abc")
        t = xp.tanh(a * b + c)
        s = 1 / (1 + xp.exp(-a))
        u = s * (1 - t * t)
        return {
            "da": u * b + t * s * (1 - s),
            "db": u * a + c * (b > 0),
            "dc": u + xp.maximum(b, 0),
        }

    return step


# -- sums over the rows ----------------------------------------------------------------------------


def column_sums(columns: int = 4096) -> Job:
    rows = 16 * ELEMENTS // columns
    x = gx.input("x", (rows, columns))
    values = np.random.default_rng(3).standard_normal((rows, columns), dtype="float32")
    return Job({"total": x.sum(0)}, {}, {"x": values})


def column_sums_by_hand(_: Mapping[str, Any], __: Mapping[str, Any], xp: Any) -> StepOf:
    return lambda given: {"total": xp.sum(given["x"], axis=0)}


# -- softmax cross-entropy with its gradient -------------------------------------------------------


def cross_entropy(rows: int = 8192, classes: int = 1024) -> Job:
    random = np.random.default_rng(2)
    z, labels = gx.input("z", (rows, classes)), gx.input("labels", (rows,), "int32")
    loss = gx.softmax_cross_entropy(z, labels)
    inputs = {
        "z": random.standard_normal((rows, classes), dtype="float32"),
        "labels": random.integers(0, classes, rows).astype("int32"),
    }
    return Job({"loss": loss, "dz": gx.grad(loss, z)}, {}, inputs)


def cross_entropy_by_hand(inputs: Mapping[str, Any], _: Mapping[str, Any], xp: Any) -> StepOf:
    rows, count = xp.arange(len(inputs["z"])), np.float32(len(inputs["z"]))

    def step(given: Mapping[str, Any]) -> Mapping[str, Any]:
        logits, labels = given["z"], given["labels"]
        z = logits - logits.max(axis=1, keepdims=True)
        chosen = z[rows, labels]
        xp.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True)
        loss = (xp.log(total[:, 0]) - chosen).mean()
        z /= total
        z[rows, labels] -= 1
        z /= count
        return {"loss": loss, "dz": z}

    return step


# -- the tables ------------------------------------------------------------------------------------


def training(name: str, sizes: tuple[int, ...], batch: int, precision: str = "float32") -> Workload:
    about = f"training step {'-'.join(map(str, sizes))}, batch {batch}"
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    return Workload(
        name, about if precision == "float32" else f"{about}, {precision}", "network",
        lambda: network(sizes, batch, dtype), network_by_hand, network_flops(sizes, batch),
        precision,
    )  # fmt: skip


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
LARGE = (  # what fills a GPU
    training("wide-4096", (1024, 2048, 2048, 1024), 4096),
    training("wide-4096-tf32", (1024, 2048, 2048, 1024), 4096, "tf32"),
    training("wide-4096-bf16", (1024, 2048, 2048, 1024), 4096, "bfloat16"),
    Workload(
        "elementwise-64M", "tanh(a*b+c)*sigmoid(a)+relu(b)*c, 64 M elements", "elementwise",
        lambda: elementwise(16), elementwise_by_hand,
    ),
    Workload(
        "elementwise-gradient-64M", "gradient of its sum, 64 M elements", "elementwise gradient",
        lambda: elementwise_gradient(16), elementwise_gradient_by_hand,
    ),
    Workload(
        "cross-entropy-4096", "softmax cross-entropy 8192 x 4096 with gradient", "cross-entropy",
        lambda: cross_entropy(8192, 4096), cross_entropy_by_hand,
    ),
    Workload(
        "column-sums", "sum over the rows of 16384 x 4096", "column sums",
        column_sums, column_sums_by_hand,
    ),
)  # fmt: skip
BY_NAME = {workload.name: workload for workload in (*WORKLOADS, *LARGE)}
# What is measured on a GPU, in the order of what is missed most where time is short.
ON_GPU = ("digits", *(w.name for w in LARGE), "mnist", "wide", "tiny")


def square_name(width: int, batch: int) -> str:
    """A training step of two hidden layers, as wide as its input."""
    return f"width {width} batch {batch}"


def find(name: str) -> Workload:
    """A workload of the tables, or one that `square_name` has named; KeyError for another."""
    numbers = re.fullmatch(r"width (\d+) batch (\d+)", name)
    if not numbers:
        return BY_NAME[name]
    width, batch = map(int, numbers.groups())
    return training(name, (width, width, width, CLASSES), batch)
