"""JAX: `jit`, the state donated, so that XLA may write the new parameters over the old ones.

On a GPU the inputs lie there, in sets that take turns, and a step returns before it is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .gpu import in_turn, input_sets
from .workloads import MOMENTUM, RATE, Arrays, Job, Prepared, Workload

# For a caller who waits for each step: to hand it to another thread doubles the time of small ones.
jax.config.update("jax_cpu_enable_async_dispatch", False)


PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def make(workload: Workload, job: Job, *, gpu: bool = False) -> Prepared:
    """The workload's step in JAX."""
    if gpu:
        jax.config.update("jax_default_matmul_precision", PRECISIONS[workload.precision])
    return MAKERS[workload.kind](job, gpu)


def prepared(step: Callable[[], Mapping[str, Any]], state: Callable[[], Arrays], gpu: bool) -> Any:
    """A step that is waited for: here on a CPU, by who asks for it on a GPU."""
    if not gpu:
        return Prepared(lambda: jax.block_until_ready(step()), state, {})
    last: list[Any] = []

    def begin() -> Mapping[str, Any]:
        last[:] = [step()]
        return last[0]

    return Prepared(begin, state, {}, wait=lambda: jax.block_until_ready(last))


def network(job: Job, gpu: bool) -> Prepared:
    params = {p.name: p.value for p in job.updates}
    sets = in_turn([jax.device_put((s["x"], s["labels"])) for s in input_sets(job.inputs, gpu)])
    weights = {k: jnp.array(v) for k, v in params.items() if not k.startswith("v_")}
    state = [weights, {k: jnp.zeros_like(w) for k, w in weights.items()}]
    last = sum(name.startswith("w") for name in weights) - 1

    def loss_of(w: Any, x: Any, labels: Any) -> Any:
        h = x
        for i in range(last + 1):
            h = h @ w[f"w{i}"] + w[f"b{i}"]
            h = jax.nn.relu(h) if i < last else h
        return cross_entropy_of(h, labels)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(w: Any, v: Any, x: Any, labels: Any) -> Any:
        loss, g = jax.value_and_grad(loss_of)(w, x, labels)
        v = jax.tree.map(lambda v, g: MOMENTUM * v + g, v, g)
        return loss, jax.tree.map(lambda w, v: w - RATE * v, w, v), v

    def step() -> Mapping[str, Any]:
        loss, state[0], state[1] = update(*state, *next(sets))
        return {"loss": loss}

    def values() -> Arrays:
        found = {**state[0], **{f"v_{k}": v for k, v in state[1].items()}}
        return {k: jax.device_get(a) for k, a in found.items()}

    return prepared(step, values, gpu)


def cross_entropy_of(z: Any, labels: Any) -> Any:
    return -jax.nn.log_softmax(z)[jnp.arange(len(z)), labels].mean()


def formula_of(a: Any, b: Any, c: Any) -> Any:
    return jnp.tanh(a * b + c) * jax.nn.sigmoid(a) + jax.nn.relu(b) * c


def elementwise(job: Job, gpu: bool) -> Prepared:
    return _of_inputs(lambda a, b, c: (formula_of(a, b, c),), job, gpu)


def elementwise_gradient(job: Job, gpu: bool) -> Prepared:
    return _of_inputs(jax.grad(lambda a, b, c: formula_of(a, b, c).sum(), (0, 1, 2)), job, gpu)


def cross_entropy(job: Job, gpu: bool) -> Prepared:
    return _of_inputs(jax.value_and_grad(cross_entropy_of), job, gpu)


def column_sums(job: Job, gpu: bool) -> Prepared:
    return _of_inputs(lambda x: (x.sum(0),), job, gpu)


def _of_inputs(function: Callable[..., Any], job: Job, gpu: bool) -> Prepared:
    compiled, names = jax.jit(function), tuple(job.outputs)
    sets = in_turn([jax.device_put(tuple(s.values())) for s in input_sets(job.inputs, gpu)])

    def step() -> Mapping[str, Any]:
        return dict(zip(names, compiled(*next(sets)), strict=True))

    return prepared(step, dict, gpu)


MAKERS: dict[str, Callable[[Job, bool], Prepared]] = {
    "network": network,
    "elementwise": elementwise,
    "elementwise gradient": elementwise_gradient,
    "cross-entropy": cross_entropy,
    "column sums": column_sums,
}
