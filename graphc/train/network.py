"""A model with its loss and metrics as a graph, and the programs that are compiled from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import graphc as gx
from graphc.nn.layer import Layer
from graphc.train.metrics import Metric
from graphc.train.optimizers import Optimizer
from graphc.train.penalties import MaxNorm, Penalty, limited, penalty

Model = Layer | Callable[[gx.Node], gx.Node]
Params = dict[str, gx.Param]
BATCH = "batch"  # the size that stays a symbol: the last, smaller batch needs no compiler


@dataclass(frozen=True)
class Signature:
    """Shape of one row and dtype, of x and of y."""

    x_shape: tuple[int, ...]
    x_dtype: str
    y_shape: tuple[int, ...]
    y_dtype: str

    @staticmethod
    def of(x: Any, y: Any, floats: str) -> Signature:
        """Of a batch: numbers become the model's `floats`, integer labels stay integers."""
        dtypes = {"i": "int64" if y.dtype.itemsize == 8 else "int32", "u": "int32", "b": "bool"}
        y_dtype = dtypes.get(y.dtype.kind, floats)
        return Signature(tuple(x.shape[1:]), floats, tuple(y.shape[1:]), y_dtype)

    def takes(self, other: Signature) -> bool:
        """Whether a graph of this signature runs such data, too: integers of either width."""
        whole = self.y_dtype.startswith("int") and other.y_dtype.startswith("int")
        return self == (replace(other, y_dtype=self.y_dtype) if whole else other)


@dataclass(frozen=True)
class Network:
    """The declared graph."""

    signature: Signature
    x: gx.Node
    prediction: gx.Node
    outputs: dict[str, gx.Node]  # the loss and the metrics
    params: Params

    @property
    def classes(self) -> int:
        """The size of the prediction's last axis."""
        last = self.prediction.shape[-1] if self.prediction.ndim > 1 else 1
        return last if isinstance(last, int) else 1


def declare(
    model: Model, loss: Callable[[gx.Node, gx.Node], gx.Node], metrics: Sequence[Metric],
    signature: Signature,
) -> Network:  # fmt: skip
    """Build the graph for rows of this signature."""
    x = gx.input("x", (BATCH, *signature.x_shape), signature.x_dtype)
    y = gx.input("y", (BATCH, *signature.y_shape), signature.y_dtype)
    prediction = model(x)
    if not isinstance(prediction, gx.Node):
        raise gx.InputError(f"model: gave {type(prediction).__name__}, not a node")
    outputs = {"loss": loss(prediction, y)}
    if not isinstance(outputs["loss"], gx.Node) or outputs["loss"].ndim:
        raise gx.InputError(f"loss: need a scalar node, not {outputs['loss']!r}; try .mean()")
    outputs.update({m.name: m.node(prediction, y) for m in metrics})
    for node, what in ((x, "x"), (y, "the target")):
        if not any(node is n for output in outputs.values() for n in below(output)):
            raise gx.InputError(f"loss: neither it nor a metric depends on {what}")
    return Network(signature, x, prediction, outputs, parameters_of(model, prediction))


def parameters_of(model: Model, prediction: gx.Node) -> Params:
    """The parameters that the prediction is made of: in the model's order, or in the graph's."""
    found = [n for n in below(prediction) if isinstance(n, gx.Param)]
    reached = {p.name: p for p in reversed(found)}
    if not isinstance(model, Layer):
        return reached
    own = {name: p for name, p in model.parameters().items() if reached.get(name) is p}
    return {**own, **reached}


def below(root: gx.Node) -> Iterator[gx.Node]:
    """A node and all that it is made of, users before inputs."""
    seen: set[gx.Node] = set()
    left = [root]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            yield node
            left.extend(node.inputs)


def training_graph(
    network: Network, optimizer: Optimizer, penalties: Sequence[Penalty],
    limits: Sequence[MaxNorm],
) -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:  # fmt: skip
    """The outputs and the updates of one step. Frozen parameters have no gradient in it."""
    trainable = {n: p for n, p in network.params.items() if p.trainable}
    if not trainable:
        raise gx.InputError("model: no parameter can change; unfreeze some")
    outputs = dict(network.outputs)
    objective, extra = outputs["loss"], penalty(network.params, penalties)
    if extra is not None:
        outputs["penalty"] = extra
        objective = objective + extra
    gradients = gx.grad(objective, list(trainable.values()))
    optimizer.frozen = {n: p for n, p in network.params.items() if not p.trainable}
    updates = optimizer.updates(dict(zip(trainable.values(), gradients, strict=True)))
    return outputs, limited(network.params, limits, updates)


def to_numpy(array: Any) -> np.ndarray:
    """A result on the host, whatever the backend."""
    fetch = getattr(array, "get", None)
    return np.asarray(fetch() if callable(fetch) else array)
