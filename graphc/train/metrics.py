"""What is reported beside the loss: a node of each batch, and how batches make one value.

A metric may be given by name, as a `Metric`, or as a function (prediction, target) -> scalar node,
whose batches are averaged by their number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc as gx
from graphc.train.data_checks import shown, whole
from graphc.train.losses import Function

Combine = Callable[[np.ndarray, np.ndarray], Any]  # ([batches, ...], rows [batches]) -> the value
COLUMNS = {"epoch", "loss", "penalty", "rate"}  # of the history, beside the metrics


def mean_over_rows(values: np.ndarray, rows: np.ndarray) -> float:
    """The mean of the batches' means, each weighted by its rows."""
    return float(rows @ values.astype(np.float64, copy=False) / rows.sum())


@dataclass(frozen=True)
class Metric:
    """`node`: (prediction, target) -> a node per batch, scalar unless there is a `combine`: (values
    [batches, ...], rows [batches]) -> the value of all. `mode`: "min" or "max" is better."""

    name: str
    node: Function
    mode: str | None = None
    combine: Combine = mean_over_rows

    def check(self, made: Any) -> None:
        """InputError unless batches of any size give nodes that can be put together."""
        if self.combine is mean_over_rows:
            fits, need = not getattr(made, "ndim", 0), "a scalar node; try .mean()"
        else:
            fits = all(isinstance(n, int) for n in getattr(made, "shape", ()))
            need = "a node whose shape does not depend on the batch"
        if not fits or not isinstance(made, gx.Node):
            raise gx.InputError(f"metrics: {self.name} gave {shown(made)}; need {need}")


def accuracy(prediction: gx.Node, target: gx.Node) -> gx.Node:
    """The share of rows whose largest element stands at the label. Predictions are
    [batch, ..., classes], labels integers [batch, ...], or rows of probabilities of the
    predictions' shape, whose label is the largest."""
    labels, _ = _labels("accuracy", prediction, target)
    return gx.mean(gx.argmax(prediction, axis=-1) == labels)


def binary_accuracy(threshold: float = 0.0) -> Metric:
    """The share of elements on the right side of `threshold`: 0 for logits, 0.5 for probabilities.
    By its name it takes 0.5 where the loss is binary_cross_entropy, else 0. Targets are of the
    predictions' shape: bools, or numbers that are True above 0.5."""

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        _check_equal_shapes("binary_accuracy", prediction, target)
        truth = target if target.dtype.name == "bool" else target > 0.5
        return gx.mean((prediction > threshold) == truth)

    return Metric("binary_accuracy", node, "max")


def top_k(k: int) -> Metric:
    """The share of rows whose label is among the k largest elements. Of equal elements that of the
    lower index comes first, as in argmax; a label whose element is NaN is not among them. Shapes as
    in `accuracy`; k is at most the number of classes."""
    k = whole("top_k", "k", k, 1)
    name = f"top_{k}"

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        labels, classes = _labels(name, prediction, target)
        if k > classes:
            raise gx.InputError(f"top_k: k={k}, but the model has {classes} outputs")
        own = gx.expand_dims(gx.pick(prediction, labels), -1)
        is_before = gx.arange(classes) < gx.expand_dims(labels, -1)
        ahead = ~(prediction <= own) | ((prediction == own) & is_before)  # NaN is never <=
        return gx.mean(ahead.sum(axis=-1) < k)

    return Metric(name, node, "max")


def confusion_matrix(classes: int) -> Metric:
    """How often each label (row) was taken for each class (column): float64 [classes, classes].
    Shapes as in `accuracy`; `classes` is the number of the model's outputs."""
    classes = whole("confusion_matrix", "classes", classes, 2)

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        labels, outputs = _labels("confusion_matrix", prediction, target)
        if classes != outputs:
            raise gx.InputError(
                f"confusion_matrix: classes={classes}, but the model has {outputs} outputs"
            )
        true, found = (
            gx.one_hot(n, classes).reshape((-1, classes))
            for n in (labels, gx.argmax(prediction, axis=-1))
        )
        return true.T @ found

    return Metric("confusion_matrix", node, None, lambda v, rows: v.astype(np.float64).sum(axis=0))


def _labels(name: str, prediction: gx.Node, target: gx.Node) -> tuple[gx.Node, int]:
    """Integer labels [batch, ...], of rows of probabilities the index of the largest; and the
    number of classes."""
    classes = prediction.shape[-1] if prediction.ndim > 1 else 1
    if not isinstance(classes, int) or classes < 2:
        raise gx.InputError(
            f"{name}: the prediction is {prediction!r}; need [batch, classes] with 2 classes or "
            "more; binary_accuracy is for a single output"
        )
    if target.shape == prediction.shape:
        return gx.argmax(target, axis=-1), classes
    if target.shape != prediction.shape[:-1] or not target.dtype.name.startswith("int"):
        raise gx.ShapeError(
            f"{name}: need integer labels [batch], or a row of probabilities for each prediction; "
            f"the target is {target!r}, the prediction {prediction!r}"
        )
    return target, classes


def _check_equal_shapes(name: str, prediction: gx.Node, target: gx.Node) -> None:
    if prediction.shape != target.shape:
        raise gx.ShapeError(
            f"{name}: prediction {prediction!r} and target {target!r} differ in shape"
        )


def _r2_parts(prediction: gx.Node, target: gx.Node) -> gx.Node:
    """Of a batch, for each output: the sum of squared errors, the mean target, its sum of squared
    distances. Targets are counted from the first, so that those that are all equal have exactly
    their value as mean and 0 as distances."""
    _check_equal_shapes("r2", prediction, target)
    y, p = (n.reshape((n.shape[0], -1)) for n in (target, prediction))
    above = y - y[:1]
    mean = above.mean(axis=0)
    distances = gx.square(above - mean).sum(axis=0)
    return gx.stack([gx.square(p - y).sum(axis=0), y[0] + mean, distances])


def _r2(parts: np.ndarray, rows: np.ndarray) -> float:
    """1 - squared errors / squared distances from the mean, averaged over the outputs. Of a target
    that is constant: 1 if it is met, else 0. As scikit-learn's r2_score. Chan, Golub and LeVeque
    1983 for the distances of several batches from the mean of all."""
    errors, means, distances = parts.astype(np.float64).swapaxes(0, 1)  # [batches, outputs] each
    above = means - means[0]  # exactly 0 where all are equal
    between = rows @ (above - np.average(above, axis=0, weights=rows)) ** 2
    error, total = errors.sum(axis=0), distances.sum(axis=0) + between
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(total == 0, error == 0, 1 - error / total).mean())


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", accuracy, "max"),
        binary_accuracy(),
        Metric("mean_absolute_error", lambda p, t: gx.mae(p, t), "min"),
        Metric("mean_squared_error", lambda p, t: gx.mse(p, t), "min"),
        Metric("r2", _r2_parts, "max", _r2),
    )
}


def as_metrics(metrics: Sequence[str | Metric | Function], loss: Function) -> list[Metric]:
    """The metrics beside this loss; InputError for unknown names and for those of two columns."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise gx.InputError(f"metrics={shown(metrics)}: need a list of names, metrics or functions")
    known = METRICS
    if loss is gx.binary_cross_entropy:  # of probabilities
        known = {**METRICS, "binary_accuracy": binary_accuracy(0.5)}
    found = [_as_metric(m, known) for m in metrics]
    names = [m.name for m in found]
    for name in names:
        if name in COLUMNS or name.startswith("val_") or names.count(name) > 1:
            raise gx.InputError(
                f"metrics: {name!r} is the name of another column of the history; give one of its "
                "own: train.Metric('name', function)"
            )
    return found


def _as_metric(metric: Any, known: Mapping[str, Metric]) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in known:
        return known[metric]
    if callable(metric):
        function: Any = metric
        return Metric(getattr(function, "__name__", "metric"), function)
    raise gx.InputError(
        f"metrics: {shown(metric)} is unknown; need {', '.join(known)}, top_k(k), "
        "confusion_matrix(classes), or a function (prediction, target) -> scalar node"
    )
