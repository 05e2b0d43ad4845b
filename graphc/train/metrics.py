"""What is reported beside the loss: a node of each batch, and how batches make one value.

A metric may be given by name, as a `Metric`, or as a function (prediction, target) -> scalar node,
whose batches are averaged by their number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphc as gx

Function = Callable[[gx.Node, gx.Node], gx.Node]
Combine = Callable[[np.ndarray, np.ndarray], Any]  # ([batches, ...], rows [batches]) -> the value


def mean_over_rows(values: np.ndarray, rows: np.ndarray) -> float:
    """The mean of the batches' means, each weighted by its rows."""
    return float(rows @ values.astype(np.float64, copy=False) / rows.sum())


@dataclass(frozen=True)
class Metric:
    """`node`: (prediction, target) -> a node per batch. `mode`: "min" or "max" is better."""

    name: str
    node: Function
    mode: str | None = None
    combine: Combine = mean_over_rows


def accuracy(prediction: gx.Node, target: gx.Node) -> gx.Node:
    """The share of rows whose largest element stands at the label; labels are integers [batch], or
    rows of probabilities."""
    if prediction.ndim < 2 or prediction.shape[-1] == 1:
        raise gx.InputError(
            f"accuracy: the prediction is {prediction!r}; need [batch, classes] with 2 classes or "
            "more; binary_accuracy is for a single output"
        )
    labels = gx.argmax(target, axis=-1) if target.shape == prediction.shape else target
    return gx.mean(gx.argmax(prediction, axis=-1) == labels)


def binary_accuracy(threshold: float = 0.0) -> Metric:
    """The share of elements on the right side of `threshold`: 0 for logits, 0.5 for probabilities;
    targets are bools, or numbers that are True above 0.5."""

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        truth = target if target.dtype.name == "bool" else target > 0.5
        return gx.mean((prediction > threshold) == truth)

    return Metric("binary_accuracy", node, "max")


def top_k(k: int) -> Metric:
    """The share of rows whose label is among the k largest elements; equal ones count for it."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise gx.InputError(f"k={k!r}: need an int of 1 or more")

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        of_label = gx.expand_dims(gx.pick(prediction, target), -1)
        return gx.mean((prediction > of_label).sum(axis=-1) < k)

    return Metric(f"top_{k}", node, "max")


def confusion_matrix(classes: int) -> Metric:
    """How often each label (row) was taken for each class (column): float64 [classes, classes]."""

    def node(prediction: gx.Node, target: gx.Node) -> gx.Node:
        found = gx.one_hot(gx.argmax(prediction, axis=-1), classes)
        return gx.one_hot(target, classes).T @ found

    return Metric("confusion_matrix", node, None, lambda v, rows: v.astype(np.float64).sum(axis=0))


def _r2_parts(prediction: gx.Node, target: gx.Node) -> gx.Node:
    """Of a batch: the sum of squared errors, the mean target, its sum of squared distances."""
    y = target.reshape((-1,))
    error, distance = prediction.reshape((-1,)) - y, y - y.mean()
    return gx.stack([(error * error).sum(), y.mean(), (distance * distance).sum()])


def _r2(parts: np.ndarray, rows: np.ndarray) -> float:
    """1 - squared errors / squared distances from the mean; Chan, Golub and LeVeque 1983 for the
    distances of several batches from the mean of all."""
    errors, means, distances = parts.astype(np.float64).T
    mean = np.average(means, weights=rows)
    total = distances.sum() + (rows * (means - mean) ** 2).sum()
    return float(1 - errors.sum() / total) if total else float("nan")


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


def as_metrics(metrics: Sequence[str | Metric | Function]) -> list[Metric]:
    """The metrics; InputError for unknown names and for two of one name."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise gx.InputError(f"metrics={metrics!r}: need a list of names, metrics or functions")
    found = [_as_metric(m) for m in metrics]
    names = [m.name for m in found]
    if len({*names, "loss", "penalty"}) < len(names) + 2:
        raise gx.InputError(f"metrics: {', '.join(names)} need names of their own, not 'loss'")
    return found


def _as_metric(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if callable(metric):
        function: Any = metric
        return Metric(getattr(function, "__name__", "metric"), function)
    raise gx.InputError(
        f"metrics: {metric!r} is unknown; need {', '.join(METRICS)}, top_k(k), "
        "confusion_matrix(classes), or a function (prediction, target) -> scalar node"
    )
