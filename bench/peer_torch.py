"""PyTorch, eager and compiled. Updates are in place.

Eager code asks `torch.autograd.grad` for the gradients and updates all parameters in one call, the
kernel of `torch.optim.SGD(fused=True)` without the optimizer's own overhead; compiled code has the
backward pass inside the compiled function, through `torch.func`. On the CPU every call is finished
when it returns; on a GPU the inputs lie there, in sets that take turns, and PyTorch runs behind.
The mode "reduce-overhead" records CUDA graphs; they may be replayed without copies of parameters,
which they change, if the addresses of these are marked as fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy as cross_entropy_of

from .gpu import in_turn, input_sets
from .workloads import MOMENTUM, RATE, Job, Prepared, Step, Workload


@dataclass(frozen=True)
class How:
    """On which device, and in which mode of `torch.compile`; "" is eager."""

    mode: str
    gpu: bool

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(
            function, fullgraph=True, mode=None if self.mode == "default" else self.mode
        )

    def place(self, a: np.ndarray) -> Any:
        """Over the memory of NumPy's array, or on the GPU; labels as int64, as the losses want."""
        if a.dtype.kind == "V":  # bfloat16
            t = torch.from_numpy(a.view("int16").copy()).view(torch.bfloat16)
        else:
            t = torch.from_numpy(a)
        t = t if t.is_floating_point() else t.long()
        return t.to("cuda") if self.gpu else t

    def sets(self, job: Job) -> list[list[Any]]:
        return [[self.place(a) for a in s.values()] for s in input_sets(job.inputs, self.gpu)]

    def prepared(self, step: Step, state: Callable[[], Any]) -> Prepared:
        if not self.gpu:
            return Prepared(step, state, {})
        return Prepared(self._marked(step), state, {}, torch.cuda.synchronize, stopwatch)

    def _marked(self, step: Step) -> Step:
        """CUDA graphs reuse the memory of the results of the step before."""
        if self.mode != "reduce-overhead":
            return step

        def marked() -> Mapping[str, Any]:
            torch.compiler.cudagraph_mark_step_begin()
            return step()

        return marked


def stopwatch() -> Callable[[], float]:
    """Start CUDA events; what is returned stops them: seconds."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def stop() -> float:
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return stop


def make(workload: Workload, job: Job, *, mode: str = "", gpu: bool = False) -> Prepared:
    """The workload's step in PyTorch, eager or through `torch.compile` in a mode of it."""
    torch.backends.cuda.matmul.allow_tf32 = workload.precision == "tf32"
    return MAKERS[workload.kind](job, How(mode, gpu))


def network(job: Job, how: How) -> Prepared:
    params = {p.name: p.value for p in job.updates}
    sets = in_turn(how.sets(job))
    names = [k for k in params if not k.startswith("v_")]
    weights = [how.place(params[k]) for k in names]
    velocities = [torch.zeros_like(w) for w in weights]
    last = len(weights) // 2 - 1

    def loss_of(weights: Any, x: Any, labels: Any) -> Any:
        h = x
        for i in range(last + 1):
            h = torch.addmm(weights[2 * i + 1], h, weights[2 * i])
            h = torch.relu(h) if i < last else h
        return cross_entropy_of(h, labels)

    def eager() -> Mapping[str, Any]:
        loss = loss_of(weights, *next(sets))
        slopes = list(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            descend(weights, slopes, velocities)
        return {"loss": loss.detach()}

    @how.compile
    def update(weights: Any, velocities: Any, x: Any, labels: Any) -> Any:
        slopes, loss = torch.func.grad_and_value(loss_of)(weights, x, labels)
        for w, v, slope in zip(weights, velocities, slopes, strict=True):
            v.mul_(MOMENTUM).add_(slope)
            w.add_(v, alpha=-RATE)
        return loss

    def whole() -> Mapping[str, Any]:
        with torch.no_grad():
            return {"loss": update(weights, velocities, *next(sets))}

    def state() -> Mapping[str, Any]:
        found = dict(zip(names, weights, strict=True))
        found |= {f"v_{k}": v for k, v in zip(names, velocities, strict=True)}
        return found

    if how.mode == "reduce-overhead":
        for t in (*weights, *velocities):
            torch._dynamo.mark_static_address(t)
    if not how.mode:
        for w in weights:
            w.requires_grad_()
    return how.prepared(whole if how.mode else eager, state)


def descend(weights: list[Any], slopes: list[Any], velocities: list[Any]) -> None:
    """One call for all parameters; three in bfloat16, of which the CPU's fused kernel computes
    wrong velocities in PyTorch 2.13."""
    if weights[0].dtype == torch.bfloat16:
        torch._foreach_mul_(velocities, MOMENTUM)
        torch._foreach_add_(velocities, slopes)
        torch._foreach_add_(weights, velocities, alpha=-RATE)
        return
    torch._fused_sgd_(
        weights, slopes, velocities, weight_decay=0.0, momentum=MOMENTUM, lr=RATE, dampening=0.0,
        nesterov=False, maximize=False, is_first_step=False,
    )  # fmt: skip


def formula_of(a: Any, b: Any, c: Any) -> Any:
    return torch.tanh(a * b + c) * torch.sigmoid(a) + torch.relu(b) * c


def elementwise(job: Job, how: How) -> Prepared:
    def in_place(a: Any, b: Any, c: Any) -> Any:
        y = torch.addcmul(c, a, b).tanh_().mul_(torch.sigmoid(a))
        return y.addcmul_(torch.relu(b), c)

    function = how.compile(formula_of) if how.mode else in_place
    return _of_inputs(lambda *arrays: (function(*arrays),), job, how)


def elementwise_gradient(job: Job, how: How) -> Prepared:
    def total(a: Any, b: Any, c: Any) -> Any:
        return formula_of(a, b, c).sum()

    if how.mode:
        return _of_inputs(how.compile(torch.func.grad(total, (0, 1, 2))), job, how)
    return _with_autograd(lambda *leaves: torch.autograd.grad(total(*leaves), leaves), job, how)


def cross_entropy(job: Job, how: How) -> Prepared:
    if how.mode:
        both = how.compile(torch.func.grad_and_value(cross_entropy_of))
        return _of_inputs(lambda z, labels: reversed(both(z, labels)), job, how)

    def loss_and_slope(z: Any, labels: Any) -> Any:
        loss = cross_entropy_of(z, labels)
        return loss.detach(), *torch.autograd.grad(loss, z)

    return _with_autograd(loss_and_slope, job, how)


def column_sums(job: Job, how: How) -> Prepared:
    def function(x: Any) -> Any:
        return x.sum(0)

    chosen = how.compile(function) if how.mode else function
    return _of_inputs(lambda x: (chosen(x),), job, how)


def _of_inputs(function: Callable[..., Any], job: Job, how: How) -> Prepared:
    sets, names = in_turn(how.sets(job)), tuple(job.outputs)

    def step() -> Mapping[str, Any]:
        with torch.no_grad():
            return dict(zip(names, function(*next(sets)), strict=True))

    return how.prepared(step, dict)


def _with_autograd(function: Callable[..., Any], job: Job, how: How) -> Prepared:
    sets, names = how.sets(job), tuple(job.outputs)
    for t in (t for arrays in sets for t in arrays):
        t.requires_grad_(t.is_floating_point())
    turns = in_turn(sets)
    return how.prepared(lambda: dict(zip(names, function(*next(turns)), strict=True)), dict)


MAKERS: dict[str, Callable[[Job, How], Prepared]] = {
    "network": network,
    "elementwise": elementwise,
    "elementwise gradient": elementwise_gradient,
    "cross-entropy": cross_entropy,
    "column sums": column_sums,
}
