"""A model with its loss and metrics as a graph; the programs compiled from it belong to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import graphc as gx
from graphc.nn.layer import Layer, building
from graphc.train.losses import APPLIED, Function
from graphc.train.metrics import Metric
from graphc.train.optimizers import Optimizer
from graphc.train.penalties import MaxNorm, Penalty, limited, penalty
from graphc.train.programs import Programs

Model = Layer | Callable[[gx.Node], gx.Node]
Params = dict[str, gx.Param]
Shape = tuple[int, ...]
BATCH = "batch"  # the size that stays a symbol: the last, smaller batch needs no compiler


@dataclass(frozen=True)
class Signature:
    """Shape of one row and dtype, of x and of y."""

    x_shape: Shape
    x_dtype: str
    y_shape: Shape
    y_dtype: str

    @staticmethod
    def of(x: Any, y: Any, floats: str) -> Signature:
        """Of a batch: numbers become the model's `floats`, integers int32."""
        return Signature(tuple(x.shape[1:]), floats, (), floats).against(y, floats)

    def against(self, y: Any, floats: str) -> Signature:
        """The same with the targets of another batch."""
        stays = y.dtype.itemsize == 8 and not isinstance(y, np.ndarray)  # a device casts no arrays
        dtypes = {"i": "int64" if stays else "int32", "u": "int32", "b": "bool"}
        y_dtype = dtypes.get(y.dtype.kind, floats)
        return replace(self, y_shape=tuple(y.shape[1:]), y_dtype=y_dtype)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Signature:
        """That of `dataclasses.asdict`, of which JSON has made lists."""
        made: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**made)

    def check(self, other: Signature, name: str) -> None:
        """InputError, naming the other data, unless their rows are such ones."""
        check_row(name, "x", other.x_shape, self.x_shape)
        check_row(name, "y", other.y_shape, self.y_shape)
        if self != other:
            raise gx.InputError(
                f"{name}: y is {other.y_dtype}; that of the first batch is {self.y_dtype}"
            )


def check_row(name: str, what: str, have: Shape, need: Shape) -> None:
    """InputError for data whose rows are of another shape than those before."""
    if have != need:
        raise gx.InputError(
            f"{name}: rows of {what} have shape {have}; those that the model is trained on have "
            f"{need}"
        )


@dataclass(frozen=True, eq=False)
class Forward:
    """The model applied to rows of one shape, and what has been made of that."""

    x: gx.Node
    prediction: gx.Node
    params: Params
    networks: dict[Signature, Network] = field(default_factory=dict)
    programs: Programs = field(default_factory=Programs)


@dataclass(frozen=True, eq=False)
class Network:
    """The declared graph: with the loss and the metrics against targets."""

    forward: Forward
    signature: Signature
    outputs: dict[str, gx.Node]  # the loss and the metrics
    programs: Programs = field(default_factory=Programs)

    @property
    def x(self) -> gx.Node:
        """The input of the data."""
        return self.forward.x

    @property
    def prediction(self) -> gx.Node:
        """What the model makes of it."""
        return self.forward.prediction

    @property
    def params(self) -> Params:
        """The parameters of the model by name."""
        return self.forward.params

    @property
    def trainable(self) -> list[bool]:
        """Of each parameter, whether it changes."""
        return [p.trainable for p in self.params.values()]

    @property
    def classes(self) -> int:
        """The size of the prediction's last axis."""
        last = self.prediction.shape[-1] if self.prediction.ndim > 1 else 1
        return last if isinstance(last, int) else 1


def applied(model: Model, row: Shape, dtype: str) -> Forward:
    """Build the graph of a model for rows of this shape."""
    x = gx.input("x", (BATCH, *row), dtype)
    try:
        with building():
            prediction = model(x)
    except gx.ShapeError as error:
        cures = {0: "x[None] makes a batch of a single row", 1: ""}
        cure = cures.get(len(row), "nn.Flatten() as the first layer makes rows flat")
        hint = f"; rows of x have shape {row}: {cure}" if cure else ""
        raise gx.ShapeError(f"{error}{hint}") from error
    if not isinstance(prediction, gx.Node):
        raise gx.InputError(f"model: gave {type(prediction).__name__}, not a node")
    return Forward(x, prediction, parameters_of(model, prediction))


def declare(
    of: Forward, loss: Function, metrics: Sequence[Metric], signature: Signature
) -> Network:
    """The graph with loss and metrics for data of this signature, made once."""
    if signature not in of.networks:
        of.networks[signature] = _declared(of, loss, metrics, signature)
    return of.networks[signature]


def _declared(
    of: Forward, loss: Function, metrics: Sequence[Metric], signature: Signature
) -> Network:
    y = gx.input("y", (BATCH, *signature.y_shape), signature.y_dtype)
    outputs = {"loss": _against(y, of.prediction, loss)}
    if not isinstance(outputs["loss"], gx.Node) or outputs["loss"].ndim:
        raise gx.InputError(f"loss: need a scalar node, not {outputs['loss']!r}; try .mean()")
    for metric in metrics:
        outputs[metric.name] = _against(y, of.prediction, metric.node)
        metric.check(outputs[metric.name])
    for name, output in outputs.items():
        _refuse_all_pairs(name, output, of.prediction, y)
    for node, what in ((of.x, "x"), (y, "the target")):
        if not any(node is n for output in outputs.values() for n in below(output)):
            raise gx.InputError(f"loss: neither it nor a metric depends on {what}")
    return Network(of, signature, outputs)


def _against(y: gx.Node, prediction: gx.Node, function: Function) -> gx.Node:
    """What a loss or a metric makes; where it does not take such targets, with what to do."""
    try:
        return function(prediction, y)
    except (gx.ShapeError, gx.DTypeError) as error:
        cure = _cure(prediction, y)
        hint = f"; in the data: {cure}" if cure else ""
        raise type(error)(f"{error}{hint}") from error


def _cure(prediction: gx.Node, y: gx.Node) -> str:
    """How targets that do not fit would: those of another number of axes, one-hot integers."""
    rows = "..." if max(prediction.ndim, y.ndim) > 2 else ":"
    is_integer = y.dtype.name.startswith("int")
    if prediction.shape == (*y.shape, 1):
        return f"y[{rows}, None]"
    if y.shape == (*prediction.shape, 1) or (is_integer and y.shape == (*prediction.shape[:-1], 1)):
        return f"y[{rows}, 0]"
    if is_integer and y.shape == prediction.shape:
        return "y.argmax(-1) gives labels, y.astype('float32') rows of probabilities"
    return ""


def _refuse_all_pairs(name: str, output: gx.Node, prediction: gx.Node, y: gx.Node) -> None:
    """InputError where something of the prediction and something of the target, one [n, 1] and the
    other [n], are broadcast to [n, n]: each row against all others. Losses of pairs, such as one of
    the differences p - p.T, have such nodes, but of two predictions, of two targets or of [1, n].
    """
    n = y.shape[0]
    for node in below(output):
        met = [_before_broadcast(i, n) for i in node.inputs if i.shape.count(n) > 1]
        shapes = {m.shape for m in met}
        of_target = {m for m in met if any(part is y for part in below(m))}
        if shapes == {(n,), (n, 1)} and len(of_target) == 1:
            of, to = (next(m for m in met if (m in of_target) == told) for told in (False, True))
            cure = _cure(prediction, y)
            raise gx.InputError(
                f"{name}: {node!r} holds every prediction against every target, as {of!r} and "
                f"{to!r} are broadcast; "
                + (f"in the data: {cure}" if cure else "make both [n, 1], or both [n]")
            )


def warn_of_two_activations(loss: Function, prediction: gx.Node) -> None:
    """UserWarning where a model ends with what its loss applies once more."""
    activation: Any = APPLIED.get(loss)
    if activation is None:
        return
    inner = (n for n in below(prediction) if n is not prediction and n.type == prediction.type)
    if any(activation(n) is prediction for n in inner):  # equal nodes are one object
        text = (
            f"the model ends with {activation.__name__}, which {loss.__name__} applies, too: leave "
            "the last activation out"
        )
        warnings.warn_explicit(text, UserWarning, *gx.user_site())


def _before_broadcast(node: gx.Node, n: Any) -> gx.Node:
    """The only input of a node [n, n], if it has n once: it was broadcast along the other."""
    inputs = node.inputs
    return inputs[0] if len(inputs) == 1 and inputs[0].shape.count(n) == 1 else node


def parameters_of(model: Model, prediction: gx.Node) -> Params:
    """The parameters that the prediction is made of: in the model's order, or in the graph's.
    InputError for two of one name."""
    found = [n for n in below(prediction) if isinstance(n, gx.Param)]
    reached = {p.name: p for p in reversed(found)}
    for p in found:
        if reached[p.name] is not p:
            raise gx.InputError(
                f"model: two parameters are named {p.name!r}; give layers names, such as "
                "nn.Dense(64, 10, name='head'), or put them into an nn.Sequential"
            )
    if not isinstance(model, Layer):
        return reached
    own = {name: p for name, p in model.parameters().items() if reached.get(name) is p}
    return {**own, **reached}


def frozen(params: Params) -> list[str]:
    """The names of those that do not change."""
    return [name for name, p in params.items() if not p.trainable]


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
