"""JAX: `jit`, the state donated, so that XLA may write the new parameters over the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .workloads import MOMENTUM, RATE, Arrays, Job, Prepared, Workload

# For a caller who waits for each step: to hand it to another thread doubles the time of small ones.
jax.config.update("jax_cpu_enable_async_dispatch", False)


def make(workload: Workload, job: Job) -> Prepared:
    """The workload's step in JAX."""
    return MAKERS[workload.kind](job)


def network(job: Job) -> Prepared:
    params = {p.name: p.value for p in job.updates}
    x, labels = jnp.asarray(job.inputs["x"]), jnp.asarray(job.inputs["labels"])
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
        loss, state[0], state[1] = jax.block_until_ready(update(*state, x, labels))
        return {"loss": loss}

    def values() -> Arrays:
        found = {**state[0], **{f"v_{k}": v for k, v in state[1].items()}}
        return {k: jax.device_get(a) for k, a in found.items()}

    return Prepared(step, values, {})


def cross_entropy_of(z: Any, labels: Any) -> Any:
    return -jax.nn.log_softmax(z)[jnp.arange(len(z)), labels].mean()


def formula_of(a: Any, b: Any, c: Any) -> Any:
    return jnp.tanh(a * b + c) * jax.nn.sigmoid(a) + jax.nn.relu(b) * c


def elementwise(job: Job) -> Prepared:
    return _of_inputs(lambda a, b, c: (formula_of(a, b, c),), job)


def elementwise_gradient(job: Job) -> Prepared:
    return _of_inputs(jax.grad(lambda a, b, c: formula_of(a, b, c).sum(), (0, 1, 2)), job)


def cross_entropy(job: Job) -> Prepared:
    return _of_inputs(jax.value_and_grad(cross_entropy_of), job)


def _of_inputs(function: Callable[..., Any], job: Job) -> Prepared:
    compiled, names = jax.jit(function), tuple(job.outputs)
    arrays = [jnp.asarray(a) for a in job.inputs.values()]

    def step() -> Mapping[str, Any]:
        found = jax.block_until_ready(compiled(*arrays))
        return dict(zip(names, found, strict=True))

    return Prepared(step, dict, {})


MAKERS: dict[str, Callable[[Job], Prepared]] = {
    "network": network,
    "elementwise": elementwise,
    "elementwise gradient": elementwise_gradient,
    "cross-entropy": cross_entropy,
}
