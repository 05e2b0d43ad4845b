"""PyTorch, eager and compiled. Updates are in place.

Eager code asks `torch.autograd.grad` for the gradients and updates all parameters in one call, the
kernel of `torch.optim.SGD(fused=True)` without the optimizer's own overhead; compiled code has the
backward pass inside the compiled function, through `torch.func`. Every call is finished when it
returns: on the CPU, PyTorch does not run behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy as cross_entropy_of

from .workloads import MOMENTUM, RATE, Arrays, Job, Prepared, Workload


def make(workload: Workload, job: Job, *, compiled: bool) -> Prepared:
    """The workload's step in PyTorch, eager or through `torch.compile` in its default mode."""
    return MAKERS[workload.kind](job, compiled)


def network(job: Job, compiled: bool) -> Prepared:
    params = {p.name: p.value for p in job.updates}
    x, labels = tensors(job)
    names = [k for k in params if not k.startswith("v_")]
    weights = [torch.from_numpy(params[k]) for k in names]
    velocities = [torch.zeros_like(w) for w in weights]
    last = len(weights) // 2 - 1

    def loss_of(weights: Any, x: Any, labels: Any) -> Any:
        h = x
        for i in range(last + 1):
            h = torch.addmm(weights[2 * i + 1], h, weights[2 * i])
            h = torch.relu(h) if i < last else h
        return cross_entropy_of(h, labels)

    def eager() -> Mapping[str, Any]:
        loss = loss_of(weights, x, labels)
        slopes = list(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            torch._fused_sgd_(
                weights, slopes, velocities, weight_decay=0.0, momentum=MOMENTUM, lr=RATE,
                dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
            )  # fmt: skip
        return {"loss": loss.detach()}

    @torch.compile(fullgraph=True)
    def update(weights: Any, velocities: Any, x: Any, labels: Any) -> Any:
        slopes, loss = torch.func.grad_and_value(loss_of)(weights, x, labels)
        for w, v, slope in zip(weights, velocities, slopes, strict=True):
            v.mul_(MOMENTUM).add_(slope)
            w.add_(v, alpha=-RATE)
        return loss

    def whole() -> Mapping[str, Any]:
        with torch.no_grad():
            return {"loss": update(weights, velocities, x, labels)}

    def state() -> Arrays:
        found = dict(zip(names, weights, strict=True))
        found |= {f"v_{k}": v for k, v in zip(names, velocities, strict=True)}
        return {k: t.detach().numpy() for k, t in found.items()}

    if not compiled:
        for w in weights:
            w.requires_grad_()
    return Prepared(whole if compiled else eager, state, {})


def formula_of(a: Any, b: Any, c: Any) -> Any:
    return torch.tanh(a * b + c) * torch.sigmoid(a) + torch.relu(b) * c


def elementwise(job: Job, compiled: bool) -> Prepared:
    def in_place(a: Any, b: Any, c: Any) -> Any:
        y = torch.addcmul(c, a, b).tanh_().mul_(torch.sigmoid(a))
        return y.addcmul_(torch.relu(b), c)

    function = torch.compile(formula_of, fullgraph=True) if compiled else in_place
    return _of_inputs(lambda *arrays: (function(*arrays),), job)


def elementwise_gradient(job: Job, compiled: bool) -> Prepared:
    def total(a: Any, b: Any, c: Any) -> Any:
        return formula_of(a, b, c).sum()

    if compiled:
        return _of_inputs(torch.compile(torch.func.grad(total, (0, 1, 2)), fullgraph=True), job)
    return _with_autograd(lambda *leaves: torch.autograd.grad(total(*leaves), leaves), job)


def cross_entropy(job: Job, compiled: bool) -> Prepared:
    if compiled:
        both = torch.compile(torch.func.grad_and_value(cross_entropy_of), fullgraph=True)
        return _of_inputs(lambda z, labels: reversed(both(z, labels)), job)

    def loss_and_slope(z: Any, labels: Any) -> Any:
        loss = cross_entropy_of(z, labels)
        return loss.detach(), *torch.autograd.grad(loss, z)

    return _with_autograd(loss_and_slope, job)


def tensors(job: Job) -> list[Any]:
    """The inputs over the memory of NumPy's arrays; labels as int64, as the losses want them."""
    found = [torch.from_numpy(a) for a in job.inputs.values()]
    return [t if t.is_floating_point() else t.long() for t in found]


def _of_inputs(function: Callable[..., Any], job: Job) -> Prepared:
    arrays, names = tensors(job), tuple(job.outputs)

    def step() -> Mapping[str, Any]:
        with torch.no_grad():
            return dict(zip(names, function(*arrays), strict=True))

    return Prepared(step, dict, {})


def _with_autograd(function: Callable[..., Any], job: Job) -> Prepared:
    arrays, names = tensors(job), tuple(job.outputs)
    for t in arrays:
        t.requires_grad_(t.is_floating_point())
    return Prepared(lambda: dict(zip(names, function(*arrays), strict=True)), dict, {})


MAKERS: dict[str, Callable[[Job, bool], Prepared]] = {
    "network": network,
    "elementwise": elementwise,
    "elementwise gradient": elementwise_gradient,
    "cross-entropy": cross_entropy,
}
