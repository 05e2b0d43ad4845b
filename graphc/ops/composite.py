"""Plain functions of ops: what users call that is no op of its own, in numerically stable forms."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from graphc.errors import InputError, ShapeError
from graphc.ir.build import as_node, normalise_axes, promote, stored
from graphc.ir.dim import product
from graphc.ir.node import Node, Operand, explain
from graphc.ir.op import composite
from graphc.ir.tensor_type import FLOATS, computed_in
from graphc.ops.activations import sigmoid, softplus
from graphc.ops.arithmetic import abs as abs_
from graphc.ops.arithmetic import by_mode, maximum, minimum, stop_gradient, where
from graphc.ops.comparisons import isfinite
from graphc.ops.exponential import erfc, exp, expm1, log, sqrt
from graphc.ops.gather import pick
from graphc.ops.random import bernoulli
from graphc.ops.reductions import max as max_
from graphc.ops.reductions import sum as sum_
from graphc.ops.trigonometry import tanh

Axis = int | Iterable[int] | None

SELU_SCALE = 1.0507009873554805  # Klambauer et al. 2017, Self-Normalizing Neural Networks, eq. 14
SELU_ALPHA = 1.6732632423543772


def _as_float(x: Operand, op: str) -> Node:
    return promote(op, [x], "float")[0]


def _widened(x: Node) -> Node:
    """`x` in the dtype that it is computed in. For what a 16-bit float may not hold in between: a
    sum of many elements, their count, a very small bound."""
    return x.astype(computed_in(x.dtype))


# -- statistics


@composite
def mean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Node:
    """The arithmetic mean along axes: sum / count; float32 for integers, NaN of no elements."""
    x = _as_float(x, "mean")
    axes = normalise_axes("mean", axis, x.ndim, [x])
    result = sum_(_widened(x), axes, keepdims) / product(tuple(x.shape[a] for a in axes))
    return stored(result, x.dtype)


@composite
def var(x: Operand, axis: Axis = None, keepdims: bool = False, *, ddof: int = 0) -> Node:
    """The variance along axes: the sum of squared distances from the mean / (count - ddof)."""
    x = _as_float(x, "var")
    axes = normalise_axes("var", axis, x.ndim, [x])
    wide = _widened(x)
    distance = wide - mean(wide, axes, keepdims=True)
    count = product(tuple(x.shape[a] for a in axes))
    return stored(sum_(distance * distance, axes, keepdims) / (count - ddof), x.dtype)


@composite
def std(x: Operand, axis: Axis = None, keepdims: bool = False, *, ddof: int = 0) -> Node:
    """The standard deviation along axes. Its gradient is NaN where all elements are equal."""
    return sqrt(var(x, axis, keepdims, ddof=ddof))


# -- activations


@composite
def clip(x: Operand, a_min: Operand = None, a_max: Operand = None) -> Node:
    """The elements limited to [a_min, a_max]; None leaves a side open. At a limit the element and
    the limit share the gradient."""
    x = as_node(x)
    x = x if a_min is None else maximum(x, a_min)
    return x if a_max is None else minimum(x, a_max)


@composite
def log_sigmoid(x: Operand) -> Node:
    """log(1 / (1 + e^-x)) = -softplus(-x)."""
    return -softplus(-_as_float(x, "log_sigmoid"))


@composite
def silu(x: Operand) -> Node:
    """The product x sigmoid(x), also called swish."""
    x = _as_float(x, "silu")
    return x * sigmoid(x)


@composite
def gelu(x: Operand) -> Node:
    """The Gaussian unit x Phi(x), exactly: through erfc, since 1 + erf cancels for x < 0.

    Phi is the normal distribution. Hendrycks and Gimpel 2016, Gaussian Error Linear Units.
    """
    x = _as_float(x, "gelu")
    return (0.5 * x) * erfc(x * -math.sqrt(0.5))


@composite
def mish(x: Operand) -> Node:
    """The product x tanh(softplus(x)). Misra 2019."""
    x = _as_float(x, "mish")
    return x * tanh(softplus(x))


@composite
def elu(x: Operand, alpha: float = 1.0) -> Node:
    """Exponential linear: x where positive, else alpha (e^x - 1), by expm1.

    Clevert et al. 2015. The derivative at 0 is alpha.
    """
    x = _as_float(x, "elu")
    positive = x > 0
    return where(positive, x, alpha * expm1(where(positive, 0, x)))  # no e^x that may overflow


@composite
def selu(x: Operand) -> Node:
    """Elu with the alpha and scale that keep mean 0 and variance 1 (Klambauer et al. 2017)."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


@composite
def leaky_relu(x: Operand, slope: float = 0.01) -> Node:
    """The rectifier that leaks: x where positive, else slope * x; its slope at 0 is `slope`."""
    x = _as_float(x, "leaky_relu")
    return where(x > 0, x, slope * x)


@composite
def hard_sigmoid(x: Operand) -> Node:
    """A piecewise linear sigmoid: x/6 + 1/2 limited to [0, 1]."""
    return clip(_as_float(x, "hard_sigmoid") / 6 + 0.5, 0, 1)


@composite
def softsign(x: Operand) -> Node:
    """A sigmoid without exponentials: x / (1 + |x|)."""
    x = _as_float(x, "softsign")
    return x / (1 + abs_(x))


# -- softmax


def _shifted(x: Operand, axis: Axis, op: str) -> Node:
    """Less the largest element, which needs no gradient: exp of this never overflows."""
    x = _as_float(x, op)
    return x - stop_gradient(max_(x, axis=axis, keepdims=True))


@composite
def softmax(x: Operand, axis: Axis = -1) -> Node:
    """e^x / sum e^x along `axis`. NaN where all elements are -inf, as in SciPy."""
    e = exp(_shifted(x, axis, "softmax"))
    return e / sum_(e, axis, keepdims=True)


@composite
def log_softmax(x: Operand, axis: Axis = -1) -> Node:
    """log(softmax(x)) along `axis`, without ever forming a quotient that may be 0."""
    shifted = _shifted(x, axis, "log_softmax")
    return shifted - log(sum_(exp(shifted), axis, keepdims=True))


@composite
def logsumexp(x: Operand, axis: Axis = -1, keepdims: bool = False) -> Node:
    """log(sum e^x) along `axis`: log(sum e^(x - m)) + m with m = max x, or 0 if that is infinite.
    -inf where all elements are -inf, as in SciPy. Its gradient is softmax(x)."""
    x = _as_float(x, "logsumexp")
    largest = stop_gradient(max_(x, axis=axis, keepdims=True))
    m = where(isfinite(largest), largest, 0)
    result = log(sum_(exp(x - m), axis, keepdims=True)) + m
    axes = normalise_axes("logsumexp", axis, x.ndim, [x])
    kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return result if keepdims else result.reshape(kept)


# -- losses


def _reduce(losses: Node, reduction: str) -> Node:
    """The mean over all losses, their sum, or the losses as they are."""
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum_(losses)
    if reduction == "none":
        return losses
    raise InputError(
        explain("loss", f"reduction {reduction!r}: need 'mean', 'sum' or 'none'", [losses])
    )


def _pair(op: str, prediction: Operand, target: Operand) -> tuple[Node, Node]:
    x, t = promote(op, [prediction, target], "float")
    if x.shape != t.shape and x.ndim and t.ndim:
        raise ShapeError(
            explain(op, "prediction and target differ in shape, and broadcasting them would hide a "
                    "mistake; need equal shapes", [x, t])
        )  # fmt: skip
    return x, t


@composite
def mse(prediction: Operand, target: Operand, reduction: str = "mean") -> Node:
    """The squared error, (prediction - target)^2, of arrays of equal shape."""
    x, t = _pair("mse", prediction, target)
    distance = x - t
    return _reduce(distance * distance, reduction)


@composite
def mae(prediction: Operand, target: Operand, reduction: str = "mean") -> Node:
    """The absolute error, |prediction - target|, of arrays of equal shape."""
    x, t = _pair("mae", prediction, target)
    return _reduce(abs_(x - t), reduction)


@composite
def huber(
    prediction: Operand, target: Operand, delta: float = 1.0, reduction: str = "mean"
) -> Node:
    """r^2 / 2 for |r| <= delta, else delta (|r| - delta/2), where r = prediction - target.

    Huber 1964. As c (r - c/2) with c = r limited to [-delta, delta]: smooth at the joints, too.
    """
    x, t = _pair("huber", prediction, target)
    r = x - t
    c = clip(r, -delta, delta)
    return _reduce(c * (r - 0.5 * c), reduction)


@composite
def softmax_cross_entropy(logits: Operand, labels: Operand, reduction: str = "mean") -> Node:
    """-log softmax(logits) at the label, or weighted with probabilities, over rows.

    `logits` [..., n]; `labels`: integers [...], or rows of probabilities [..., n]. The mean is over
    rows. With labels: lse - z[label] with lse = log(sum(exp(z - m))) + m and m the row's maximum,
    which needs no gradient; one kernel together with its gradient.
    """
    z = _as_float(logits, "softmax_cross_entropy")
    given = as_node(labels)
    if given.dtype in FLOATS:
        return _reduce(_against_probabilities(z, labels), reduction)
    if z.ndim == 0 or z.shape[:-1] != given.shape:
        raise ShapeError(
            explain("softmax_cross_entropy", "need logits [..., n] and integer labels [...], or "
                    "probabilities [..., n]", [z, given])
        )  # fmt: skip
    m = stop_gradient(max_(z, axis=-1, keepdims=True))
    lse = log(sum_(exp(z - m), axis=-1)) + m.reshape(z.shape[:-1])
    return _reduce(lse - pick(z, given), reduction)


def _against_probabilities(z: Node, probabilities: Operand) -> Node:
    z, p = promote("softmax_cross_entropy", [z, probabilities])
    if z.ndim == 0 or z.shape != p.shape:
        raise ShapeError(
            explain("softmax_cross_entropy", "float labels are one row of probabilities for each "
                    "row of logits: need equal shapes; cast labels with .astype('int32')", [z, p])
        )  # fmt: skip
    return -sum_(p * log_softmax(z), axis=-1)


@composite
def sigmoid_cross_entropy(logits: Operand, targets: Operand, reduction: str = "mean") -> Node:
    """-t log sigmoid(z) - (1 - t) log sigmoid(-z), through softplus: exact for large |z| and smooth
    at 0. `targets`: probabilities (or bools) of the shape of `logits`."""
    z, t = _pair("sigmoid_cross_entropy", logits, targets)
    return _reduce(t * softplus(-z) + (1 - t) * softplus(z), reduction)


@composite
def binary_cross_entropy(probabilities: Operand, targets: Operand, reduction: str = "mean") -> Node:
    """-t log p - (1 - t) log(1 - p), for probabilities and targets of equal shape.

    p and 1 - p are taken as no smaller than the dtype's smallest normal number (1.2e-38 in
    float32 and 16-bit floats), so that a probability of exactly 0 or 1 gives at most 87.3 (708.4 in
    float64) instead of inf or NaN, and a gradient without NaN. Where there are logits, prefer
    `sigmoid_cross_entropy`.
    """
    given, target = _pair("binary_cross_entropy", probabilities, targets)
    p, t = _widened(given), _widened(target)
    least = float(np.finfo(p.dtype).tiny)
    losses = -(t * log(maximum(p, least)) + (1 - t) * log(maximum(1 - p, least)))
    return _reduce(stored(losses, given.dtype), reduction)


# -- penalties


@composite
def l1(x: Operand) -> Node:
    """The sum of |x|."""
    return sum_(abs_(_as_float(x, "l1")))


@composite
def l2(x: Operand) -> Node:
    """The sum of x^2 / 2, whose gradient is x."""
    x = _as_float(x, "l2")
    return 0.5 * sum_(x * x)


# -- dropout


@composite
def dropout(x: Operand, keep: float, *, form: str = "inverted") -> Node:
    """Each element is kept with probability `keep`, else 0; another draw in each step.

    Inverted: kept values are divided by `keep` in training; evaluation is the identity.
    Classic: kept values stay as they are; evaluation multiplies by `keep`.
    Srivastava et al. 2014. `compile(training=False)` gives the evaluation form.
    """
    x = _as_float(x, "dropout")
    if not isinstance(keep, int | float | np.number) or not 0 < keep <= 1:
        raise InputError(explain("dropout", f"keep {keep!r}: need a number, 0 < keep <= 1", [x]))
    keep = float(keep)
    kept = by_mode(bernoulli(x.shape, keep), True)
    # the mode chooses the condition and a factor: the gradient has one path, not a sum of two
    if form == "inverted":
        return where(kept, x / by_mode(as_node(keep, x.dtype), 1.0), 0)
    if form == "classic":
        return where(kept, x * by_mode(as_node(1.0, x.dtype), keep), 0)
    raise InputError(explain("dropout", f"form {form!r}: need 'inverted' or 'classic'", [x]))
