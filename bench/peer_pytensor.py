"""PyTensor: `function` with updates of shared variables, nothing copied in or out.

Its default mode compiles through Numba. The C mode finds no BLAS when PyTensor comes from PyPI, and
then takes two to three times as long for the networks; for formulas the two are about equal. Inputs
are trusted, which skips the checks of every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from .workloads import MOMENTUM, RATE, Arrays, Job, Prepared, Workload


def make(workload: Workload, job: Job) -> Prepared:
    """The workload's step in PyTensor."""
    return MAKERS[workload.kind](job)


def network(job: Job) -> Prepared:
    params = {p.name: p.value for p in job.updates}
    names = [k for k in params if not k.startswith("v_")]
    weights = [_shared(k, params[k]) for k in names]
    velocities = [_shared(f"v_{k}", np.zeros_like(params[k])) for k in names]
    x, labels = _variables(job)
    h, last = x, len(weights) // 2 - 1
    for i in range(last + 1):
        h = h @ weights[2 * i] + weights[2 * i + 1]
        h = pt.maximum(h, np.float32(0)) if i < last else h
    loss = cross_entropy_of(h, labels)
    updates: list[tuple[Any, Any]] = []
    for w, v, slope in zip(weights, velocities, pytensor.grad(loss, weights), strict=True):
        velocity = np.float32(MOMENTUM) * v + slope
        updates += [(v, velocity), (w, w - np.float32(RATE) * velocity)]

    def state() -> Arrays:
        return {s.name: s.get_value() for s in [*weights, *velocities]}

    return _prepared([x, labels], [loss], job, updates, state)


def cross_entropy_of(z: Any, labels: Any) -> Any:
    return -pt.special.log_softmax(z, axis=1)[pt.arange(z.shape[0]), labels].mean()


def formula_of(a: Any, b: Any, c: Any) -> Any:
    return pt.tanh(a * b + c) * pt.sigmoid(a) + pt.maximum(b, np.float32(0)) * c


def elementwise(job: Job) -> Prepared:
    variables = _variables(job)
    return _prepared(variables, [formula_of(*variables)], job)


def elementwise_gradient(job: Job) -> Prepared:
    variables = _variables(job)
    return _prepared(variables, pytensor.grad(formula_of(*variables).sum(), variables), job)


def cross_entropy(job: Job) -> Prepared:
    z, labels = _variables(job)
    loss = cross_entropy_of(z, labels)
    return _prepared([z, labels], [loss, pytensor.grad(loss, z)], job)


def _variables(job: Job) -> list[Any]:
    return [pt.tensor(k, dtype=str(a.dtype), shape=a.shape) for k, a in job.inputs.items()]


def _shared(name: str, value: np.ndarray) -> Any:
    return pytensor.shared(value, name=name, borrow=True, shape=value.shape)


def _prepared(
    variables: Sequence[Any],
    outputs: Sequence[Any],
    job: Job,
    updates: Sequence[tuple[Any, Any]] = (),
    state: Callable[[], Arrays] = dict,
) -> Prepared:
    function = pytensor.function(
        [pytensor.In(v, borrow=True) for v in variables],
        [pytensor.Out(o, borrow=True) for o in outputs],
        updates=updates,
    )
    function.trust_input = True
    arrays, names = list(job.inputs.values()), tuple(job.outputs)

    def step() -> Mapping[str, Any]:
        return dict(zip(names, function(*arrays), strict=True))

    return Prepared(step, state, {})


MAKERS: dict[str, Callable[[Job], Prepared]] = {
    "network": network,
    "elementwise": elementwise,
    "elementwise gradient": elementwise_gradient,
    "cross-entropy": cross_entropy,
}
