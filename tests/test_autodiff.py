"""Derivatives: structure, values against differences, errors, and what is never computed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.errors import GradientError, InputError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir.graph import topological
from graphc.ir.node import Node, make
from graphc.ir.op import OPS
from graphc.testing import check_grads, random_graph

RNG = np.random.default_rng(3)


def network() -> tuple[list[Node], Node]:
    """Parameters and loss of a small network in float64."""
    w = gx.param("w", RNG.normal(size=(4, 3)))
    b = gx.param("b", RNG.normal(size=3))
    x = gx.const(RNG.normal(size=(5, 4)))
    return [w, b], gx.softmax_cross_entropy(gx.tanh(x @ w + b), np.array([0, 2, 1, 1, 0]))


def test_structure_comes_back() -> None:
    (w, b), loss = network()
    one = gx.grad(loss, w)
    assert one.shape == w.shape
    assert gx.grad(loss, [w, b])[0] is one
    assert gx.grad(loss, (w, b))[0] is one
    assert gx.grad(loss, {"w": w})["w"] is one
    assert gx.grad(loss, []) == []
    check_grads(loss, [w, b], {})


def test_errors() -> None:
    x, i = gx.input("x", (3,)), gx.input("i", (), "int32")
    for wrong, message in (
        (lambda: gx.grad(x, x), r"grad: of x float32\[3\]: need a float scalar; try y.sum\(\)"),
        (lambda: gx.grad(i, x), r"need a float scalar; try .astype\('float32'\)"),
        (lambda: gx.hvp(i, [x], [np.ones(3)]), r"^hvp: of i .* try .astype\('float32'\)"),
        (lambda: gx.hvp(x.sum(), x, [np.ones(3)]), r"^hvp: inputs is x .* write \[x\]"),
        (lambda: gx.hvp(x.sum(), [x], np.ones(3)), r"^hvp: vectors is ndarray; takes a list"),
        (lambda: gx.vjp(x, [x], [x]), r"^vjp: outputs is x float32\[3\]; takes a list"),
        (lambda: gx.vjp([x], [x], x), "^vjp: cotangents is x"),
        (lambda: gx.jvp([x], x, [x]), "^jvp: inputs is x"),
        (lambda: gx.jvp([x], [i], [np.int32(1)]), r"^jvp: by i .*dtype='float32'"),
        (lambda: gx.vjp([i], [x], [np.int32(1)]), r"^vjp: of i .*\.astype\('float32'\)"),
        (lambda: gx.grad(3.0, x), "of 3.0"),  # type: ignore[arg-type]
        (lambda: gx.grad(x.sum(), gx.input("z", (3,))), "allow_unused=True for zeros; at te"),
        (lambda: gx.grad(gx.floor(x).sum(), x), "through differentiable ops"),
        (lambda: gx.grad(gx.stop_gradient(x).sum(), x), "does not depend"),
        (lambda: gx.grad((x * i).sum(), i), "only float nodes have gradients; declare it with dty"),
        (lambda: gx.grad(x.sum(), [3]), "not a node"),
        (lambda: gx.vjp([x], [x], []), "1 nodes but 0 cotangents"),
    ):  # fmt: skip
        with pytest.raises(GradientError, match=message):
            wrong()
    for wrong, message in (
        (lambda: gx.vjp([x], [x], [np.ones(2)]), "vjp: cotangent"),
        (lambda: gx.jvp([x], [x], [x[:1]]), "jvp: tangent"),
        (lambda: gx.hvp(x.sum(), [x], [np.ones(2)]), "hvp: vector"),
    ):
        with pytest.raises(ShapeError, match=rf"^{message} float32\[.\] does not fit x"):
            wrong()
    assert evaluate([gx.grad(x.sum(), gx.const([1.0]), allow_unused=True)])[0].tolist() == [0]


def test_jvp_against_differences() -> None:
    inputs, loss = network()
    direction = [RNG.normal(size=n.shape) for n in inputs]
    y = gx.exp(inputs[0]).sum(0) * inputs[1]
    pushed = gx.jvp([loss, y], inputs, direction)
    step = 1e-6
    ends = [
        evaluate([loss, y], {n: n.value + s * d for n, d in zip(inputs, direction, strict=True)})
        for s in (-step, step)
    ]
    for got, low, high in zip(evaluate(pushed), *ends, strict=True):
        np.testing.assert_allclose(got, (high - low) / (2 * step), rtol=1e-6)
    unused = gx.jvp([loss], [gx.input("z", (2,))], [np.ones(2)])
    assert float(evaluate(unused)[0]) == 0


def test_hvp_is_symmetric_and_right() -> None:
    inputs, loss = network()
    u = [RNG.normal(size=n.shape) for n in inputs]
    v = [RNG.normal(size=n.shape) for n in inputs]
    hu, hv = evaluate(gx.hvp(loss, inputs, u)), evaluate(gx.hvp(loss, inputs, v))

    def inner(a: Any, b: Any) -> float:
        return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))

    np.testing.assert_allclose(inner(v, hu), inner(u, hv), rtol=1e-12)
    step = 1e-5
    gradients = gx.grad(loss, inputs)
    low, high = (
        evaluate(gradients, {n: n.value + s * d for n, d in zip(inputs, u, strict=True)})
        for s in (-step, step)
    )
    for got, a, b in zip(hu, low, high, strict=True):
        np.testing.assert_allclose(got, (b - a) / (2 * step), rtol=1e-5, atol=1e-8)


def test_vjp_is_the_transpose_of_jvp() -> None:
    x, y = gx.param("x", RNG.normal(size=(3, 2))), gx.param("y", RNG.normal(size=(2,)))
    outputs = [gx.sin(x @ y), gx.softmax(x * y)]
    tangents = [RNG.normal(size=n.shape) for n in (x, y)]
    cotangents = [RNG.normal(size=n.shape) for n in outputs]
    pushed = evaluate(gx.jvp(outputs, [x, y], tangents))
    pulled = evaluate(gx.vjp(outputs, [x, y], cotangents))
    left = sum(float((a * b).sum()) for a, b in zip(pushed, cotangents, strict=True))
    right = sum(float((a * b).sum()) for a, b in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_higher_orders() -> None:
    x = gx.param("x", np.array(0.7))
    y: Node = gx.sin(x) * x**3
    for _ in range(4):
        y = gx.grad(y, x)
    t = 0.7  # the fourth derivative of x^3 sin x
    exact = (t**3 - 36 * t) * np.sin(t) + (24 - 12 * t**2) * np.cos(t)
    np.testing.assert_allclose(evaluate([y])[0], exact, rtol=1e-12)
    check_grads(gx.tanh(x) * x, x, {}, order=4)


def test_stop_gradient_is_a_constant() -> None:
    x = gx.param("x", np.array([1.0, 2.0]))
    g = gx.grad((x * gx.stop_gradient(x * x)).sum(), x)
    assert evaluate([g])[0].tolist() == [1, 4]


def test_only_the_gradients_asked_for_are_computed() -> None:
    """Of 20 layers the gradient of the last weight needs no node of the walk through the others."""
    x = gx.input("x", (8, 16))
    weights = [gx.param(f"w{i}", np.ones((16, 16), "f4")) for i in range(20)]
    h: Node = x
    for w in weights:
        h = gx.tanh(h @ w)
    loss = h.sum()
    forward = set(topological([loss]))
    last = set(topological([gx.grad(loss, weights[-1])])) - forward
    first = set(topological([gx.grad(loss, weights[0])])) - forward
    every = set(topological(gx.grad(loss, weights))) - forward
    contractions = [sum(n.op.name == "contract" for n in s) for s in (last, first, every)]
    assert contractions == [1, 20, 39]
    assert len(last) < 12
    assert len(first) < 20 * 8


def test_rules_of_other_operands_are_not_even_asked() -> None:
    def never(*_: Any) -> Node:
        raise AssertionError("the gradient of an operand nobody asked for")

    multiply = OPS["multiply"]
    planted = replace(multiply, vjp={0: lambda g, out, x, y: g * y, 1: never})
    x, y = gx.param("x", np.ones(3)), gx.param("y", np.ones(3))
    assert gx.grad(make(planted, (x, y)).sum(), x).shape == (3,)
    with pytest.raises(AssertionError, match="nobody asked for"):
        gx.grad(make(planted, (x, y)).sum(), y)


def test_nodes_say_whether_they_are_backward() -> None:
    (w, _), loss = network()
    g = gx.grad(loss, w)
    forward = topological([loss])
    made = [n for n in topological([g]) if n not in set(forward)]
    assert made
    assert all(n.backward for n in made if n.inputs)  # a constant is nobody's
    assert not any(n.backward for n in forward)


def test_a_long_chain_needs_no_recursion() -> None:
    x = gx.param("x", np.array(1.0))
    y: Node = x
    for i in range(50_000):
        y = y * 1.00001 if i % 2 else y + 1e-6
    (value,) = evaluate([gx.grad(y, x)])
    np.testing.assert_allclose(value, 1.00001**25_000, rtol=1e-9)


# -- the checker itself


@pytest.mark.parametrize("off", [1.0005, 0.9995, 0.0, -1.0])
def test_check_grads_finds_a_wrong_rule(off: float) -> None:
    tanh = OPS["tanh"]
    planted = replace(tanh, vjp={0: lambda g, out, _: g * (1 - out * out) * off})
    x = gx.input("x", (3, 4))
    at = {"x": RNG.uniform(-1, 1, (3, 4))}
    check_grads(make(tanh, (x,)), x, at)
    with pytest.raises(
        AssertionError, match=r"derivative 1 of tanh\(x\) .* by x .*differences give"
    ):
        check_grads(make(planted, (x,)), x, at, order=1)


def test_check_grads_finds_a_wrong_second_order() -> None:
    square = OPS["square"]
    planted = replace(square, vjp={0: lambda g, _, x: g * gx.stop_gradient(x + x)})
    x = gx.input("x", (3,))
    check_grads(make(planted, (x,)), x, {x: np.ones(3)}, order=1)
    with pytest.raises(AssertionError, match="derivative 2"):
        check_grads(make(planted, (x,)), x, {x: np.ones(3)})


def test_check_grads_takes_sizes_from_the_values() -> None:
    x, w = gx.input("x", ("n", 3)), gx.input("w", (3, "k"))
    y = (x @ w).sum() / x.shape[0]
    values = {"x": RNG.normal(size=(4, 3)), w: RNG.normal(size=(3, 2))}
    check_grads(y, [x, w], values)
    for wrong, message in (
        ({"x": np.ones((4, 3))}, "no value is given for w float32"),
        ({**values, "x": np.ones((4, 2))}, r"value of x float32\[n, 3\] has shape \(4, 2\)"),
        ({**values, "x": np.ones(4)}, r"has shape \(4,\)"),
        ({**values, "x": "text"}, "has dtype"),
    ):
        with pytest.raises(InputError, match=message):
            check_grads(y, [x, w], wrong)
    odd = gx.input("odd", (2 * x.shape[0],))
    with pytest.raises(InputError, match="no input has the size"):
        check_grads(odd.sum(), odd, {"odd": np.ones(4)})


def test_check_grads_speaks_of_lines_and_kinks() -> None:
    x = gx.input("x", (1,))
    y = gx.relu(x)
    with pytest.raises(AssertionError, match=r"\(made at test_autodiff.py:\d+\).*of a kink or a"):
        check_grads(y, x, {"x": [1e-7]}, order=1)


def test_random_graphs_update_what_others_read() -> None:
    """Among the updates: swaps, reads of other updated parameters, sums over all old elements."""
    swaps = reads = sums = 0
    for seed in range(60):
        updates = random_graph(seed).updates
        for p, new in updates.items():
            below = topological([new])
            swaps += any(new is q for q in updates)
            reads += any(q is not p and n is q for q in updates for n in below)
            sums += any(n.op.name == "sum" and n.inputs[0] is p for n in below)
    assert min(swaps, reads, sums) > 3


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_have_right_gradients(seed: int) -> None:
    graph = random_graph(seed)
    smooth = [n for name, n in graph.outputs.items() if n.dtype.kind == "f" and name[:2] != "d_"]
    inputs = [n for n in topological(smooth) if n.name[0] in "xp" and not n.inputs and n.attrs]
    inputs = [n for n in inputs if n.op.name in ("input", "param")]
    if inputs and smooth:
        check_grads(smooth, inputs, graph.values, order=1)


def test_random_graphs_are_deterministic() -> None:
    one, two = random_graph(11), random_graph(11)
    assert list(one.outputs) == list(two.outputs)
    assert [str(n.type) for n in one.outputs.values()] == [
        str(n.type) for n in two.outputs.values()
    ]
    for name, value in one.values.items():
        assert np.array_equal(value, two.values[name])
