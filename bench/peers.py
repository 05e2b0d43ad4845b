"""The same workloads in other compilers, for those that are installed: `graphc bench --peers`.

A peer is measured as its users run it: compiled beforehand, its state handed over without copies,
each call waited for (the latency of a step, not the throughput of many).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from .workloads import (
    MOMENTUM,
    RATE,
    Arrays,
    Step,
    cross_entropy_by_hand,
    elementwise_by_hand,
    elementwise_gradient_by_hand,
    network_by_hand,
)

Reference = Callable[[Arrays, Arrays], Step]


def jax_network(inputs: Arrays, params: Arrays) -> Step:
    import jax

    last = sum(name.startswith("w") for name in params) - 1
    x, labels = jax.numpy.asarray(inputs["x"]), jax.numpy.asarray(inputs["labels"])
    rows = jax.numpy.arange(len(inputs["x"]))
    weights = {k: jax.numpy.array(v) for k, v in params.items() if not k.startswith("v_")}
    state = [weights, {k: jax.numpy.zeros_like(w) for k, w in weights.items()}]

    def loss_of(w: Any, x: Any, labels: Any) -> Any:
        h = x
        for i in range(last + 1):
            h = h @ w[f"w{i}"] + w[f"b{i}"]
            h = jax.nn.relu(h) if i < last else h
        return -jax.nn.log_softmax(h)[rows, labels].mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(w: Any, v: Any, x: Any, labels: Any) -> Any:
        loss, g = jax.value_and_grad(loss_of)(w, x, labels)
        v = jax.tree.map(lambda v, g: MOMENTUM * v + g, v, g)
        return loss, jax.tree.map(lambda w, v: w - RATE * v, w, v), v

    def step() -> Mapping[str, Any]:
        loss, state[0], state[1] = jax.block_until_ready(update(*state, x, labels))
        return {"loss": loss}

    return step


def jax_formula(inputs: Arrays, _: Arrays) -> Step:
    import jax

    return _jax_step(partial(_formula, jax), inputs, ["y"])


def jax_formula_gradient(inputs: Arrays, _: Arrays) -> Step:
    import jax

    def total(a: Any, b: Any, c: Any) -> Any:
        return _formula(jax, a, b, c)[0].sum()

    return _jax_step(jax.grad(total, (0, 1, 2)), inputs, ["da", "db", "dc"])


def jax_cross_entropy(inputs: Arrays, _: Arrays) -> Step:
    import jax

    rows = jax.numpy.arange(len(inputs["z"]))

    def loss_of(z: Any, labels: Any) -> Any:
        return -jax.nn.log_softmax(z)[rows, labels].mean()

    return _jax_step(jax.value_and_grad(loss_of), inputs, ["loss", "dz"])


def _formula(jax: Any, a: Any, b: Any, c: Any) -> Any:
    y = jax.numpy.tanh(a * b + c) * jax.nn.sigmoid(a) + jax.nn.relu(b) * c
    return (y,)


def _jax_step(function: Callable[..., Any], inputs: Arrays, names: list[str]) -> Step:
    import jax

    compiled = jax.jit(function)
    arrays = [jax.numpy.asarray(a) for a in inputs.values()]

    def step() -> Mapping[str, Any]:
        found = jax.block_until_ready(compiled(*arrays))
        return dict(zip(names, found, strict=True))

    return step


PEERS: dict[str, dict[Reference, Reference]] = {
    "jax": {
        network_by_hand: jax_network,
        elementwise_by_hand: jax_formula,
        elementwise_gradient_by_hand: jax_formula_gradient,
        cross_entropy_by_hand: jax_cross_entropy,
    },
}


def reason_missing(peer: str) -> str:
    """Why a peer cannot run here, and what installs it; "" if it can."""
    return "" if find_spec(peer) else f"{peer} is not installed; try pip install 'graphc[peers]'"
