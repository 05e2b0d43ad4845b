"""graphc: a static-graph compiler for arrays."""

import importlib
from typing import TYPE_CHECKING

from graphc.autodiff import grad, hvp, jvp, vjp
from graphc.errors import (
    BackendUnavailable,
    CheckpointError,
    CompileError,
    DeviceError,
    DeviceMemoryError,
    DTypeError,
    EmulatorError,
    GradientError,
    GraphcError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from graphc.ir.dim import Dim
from graphc.ir.node import MadeAt, Node, Param, user_site
from graphc.ops.activations import relu, sigmoid, softplus
from graphc.ops.arithmetic import (
    abs,
    add,
    astype,
    divide,
    floor,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    reciprocal,
    sign,
    square,
    stop_gradient,
    subtract,
    where,
)
from graphc.ops.comparisons import (
    bitwise_and,
    bitwise_or,
    equal,
    greater,
    greater_equal,
    invert,
    isfinite,
    isnan,
    less,
    less_equal,
    not_equal,
)
from graphc.ops.composite import (
    binary_cross_entropy,
    clip,
    dropout,
    elu,
    gelu,
    hard_sigmoid,
    huber,
    l1,
    l2,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    mae,
    mean,
    mish,
    mse,
    selu,
    sigmoid_cross_entropy,
    silu,
    softmax,
    softmax_cross_entropy,
    softsign,
    std,
    var,
)
from graphc.ops.contractions import matmul
from graphc.ops.einsum import dot, einsum, outer, tensordot
from graphc.ops.exponential import erf, erfc, exp, exp2, expm1, log, log1p, log2, rsqrt, sqrt
from graphc.ops.gather import pick
from graphc.ops.joins import concatenate, pad, stack
from graphc.ops.random import bernoulli, random_normal, random_uniform
from graphc.ops.reductions import all, any, argmax, argmin, max, min, prod, sum
from graphc.ops.sources import arange, const, input, iota, one_hot, param
from graphc.ops.trigonometry import arctan, cos, cosh, sin, sinh, tan, tanh
from graphc.ops.views import (
    broadcast_to,
    expand_dims,
    flip,
    reshape,
    squeeze,
    swapaxes,
    transpose,
)

if TYPE_CHECKING:
    from graphc import nn, testing, train
    from graphc.backends import devices
    from graphc.compiler import compile
    from graphc.nn import init
    from graphc.report.dot import to_dot

# loaded when first used: declaring a graph needs none of it, and `import graphc` stays quick
LAZY = {
    "compile": "graphc.compiler",
    "devices": "graphc.backends",
    "to_dot": "graphc.report.dot",
    "testing": "graphc.testing",
    "init": "graphc.nn.init",
    "nn": "graphc.nn",
    "train": "graphc.train",
}


def __getattr__(name: str) -> object:
    if name not in LAZY:
        raise AttributeError(f"module 'graphc' has no attribute {name!r}")
    module = importlib.import_module(LAZY[name])
    found = module if LAZY[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
