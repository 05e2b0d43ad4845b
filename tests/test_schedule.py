"""Fusion: which kernels a formula becomes, why edges stay, and that kernels compute the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from programs import BETA, TARGETS, run, runner_of, scheduled, training_step

import graphc as gx
from graphc.backends import numpy_kernel
from graphc.backends.numpy_backend import NUMPY
from graphc.errors import CompileError
from graphc.evaluate import evaluate
from graphc.ir.node import make
from graphc.ir.op import OPS, Kind
from graphc.schedule.records import Access, Kernel, Level, Schedule, Slab, Value
from graphc.schedule.verify import verify_schedule
from graphc.testing import assert_close, random_graph

X, Y = gx.input("x", (6, 5)), gx.input("y", (6, 5))
Z, R, Q = gx.input("z", (5, 6)), gx.input("r", (6, 4)), gx.input("q", (6, 1))
V, B = gx.input("v", (7,)), gx.input("b", (4,))
LABELS = gx.input("labels", (6,), "int32")
W = gx.param("w", np.linspace(-1, 1, 20, dtype="float32").reshape(5, 4))
SCALE, SHIFT = gx.param("scale", np.ones(5, "float32")), gx.param("shift", np.ones(5, "float32"))


def draw_inputs(made: Schedule) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        n.name: (rng.standard_normal(n.shape) if n.type.is_float else rng.integers(0, 5, n.shape))  # type: ignore[arg-type]
        .astype(n.dtype)
        for n in made.graph.inputs
    }  # fmt: skip


def assert_computes(made: Schedule, nodes: Sequence[gx.Node]) -> None:
    """The schedule, run kernel by kernel, gives what node-by-node evaluation gives."""
    inputs = draw_inputs(made)
    expected = evaluate(nodes, {n: inputs[n.name] for n in made.graph.inputs})
    for have, want in zip(run(runner_of(made), inputs), expected, strict=True):
        assert_close(have, want)


# -- which kernels a formula becomes


def layer_norm(x: gx.Node) -> gx.Node:
    centred = x - gx.mean(x, axis=-1, keepdims=True)
    spread = gx.mean(centred * centred, axis=-1, keepdims=True)
    return centred * gx.rsqrt(spread + 1e-5) * SCALE + SHIFT


def with_gradient(loss: gx.Node, *wrt: gx.Node) -> list[gx.Node]:
    return [loss, *gx.grad(loss, list(wrt))]


MIXED = gx.tanh(X * Y + X) * gx.sigmoid(X) + gx.relu(Y) * X
DROPPED = gx.dropout(X, 0.5)
FORMULAS: dict[str, tuple[list[gx.Node], list[str]]] = {
    "elementwise": ([MIXED], ["elementwise"]),
    "its gradients": (gx.grad(MIXED.sum(), [X, Y]), ["elementwise"]),
    "its sum and gradients": (with_gradient(MIXED.sum(), X, Y), ["full"]),
    "broadcast operands": ([X * SCALE + Q], ["elementwise"]),
    "softmax": ([gx.softmax(X)], ["row"]),
    "log-softmax": ([gx.log_softmax(X)], ["row"]),
    "logsumexp": ([gx.logsumexp(X)], ["row"]),
    "variance": ([gx.var(X, axis=-1)], ["row"]),
    "layer norm": ([layer_norm(X)], ["row"]),
    "gradient of softmax": ([gx.grad((gx.softmax(X) * Y).sum(), X)], ["row"]),
    "gradient of layer norm": ([gx.grad((layer_norm(X) * Y).sum(), X)], ["row"]),
    "softmax of one vector": ([gx.softmax(V)], ["row"]),
    "norm clipping": ([X / gx.sqrt((X * X).sum())], ["row"]),
    "cross-entropy per row": ([gx.softmax_cross_entropy(X, LABELS, "none")], ["row"]),
    "cross-entropy": (
        with_gradient(gx.softmax_cross_entropy(X, LABELS), X), ["row", "full"]
    ),
    "row sums of a formula": ([(gx.exp(X) * Y).sum(1)], ["row"]),
    "column sums of a formula": ([(gx.exp(X) * Y).sum(0)], ["column"]),
    "full sum of a formula": ([(gx.exp(X) * Y).sum()], ["full"]),
    "what follows a sum": ([gx.sqrt(gx.mean(X * X, axis=0)) + 1], ["column"]),
    "squared error and gradient": (with_gradient(gx.mse(gx.tanh(X), Y), X), ["full"]),
    "several sums": ([gx.exp(X).sum(1), gx.exp(X).max(1), gx.exp(X)], ["row"]),
    "bias and activation": ([gx.relu(X @ W + B)], ["contraction"]),
    "residual": ([gx.tanh(X @ W + B) + R], ["contraction"]),
    "transposed operands": ([gx.relu(Z.T @ W), gx.tanh(X.T @ R)], ["contraction"] * 2),
    "epilogue merged with another user": (
        [gx.exp(R) + X @ W, 2 * gx.exp(R)], ["contraction"]
    ),
    "operand with gaps": ([gx.relu(X[:, ::2] @ W[:3])], ["elementwise", "contraction"]),
    "operand turned round": ([X[:, ::-1] @ W], ["elementwise", "contraction"]),
    "part of an operand": ([X[::2, 1:] @ W[1:]], ["contraction"]),
    "batches": ([gx.tanh(X.reshape(2, 3, 5) @ W + B)], ["contraction"]),
    "attention": (
        [gx.softmax((X @ Y.T) * 0.3) @ X], ["contraction", "row", "contraction"]
    ),
    "dropout and its gradient": (
        [DROPPED.sum(1), gx.grad((DROPPED * Y).sum(), X)], ["row", "elementwise"]
    ),
    "join": ([gx.concatenate([gx.exp(X), Y])], ["elementwise", "join"]),
    "views are free": ([gx.exp(X[:, ::-1]) * X.reshape(30).reshape(6, 5) + Z.T], ["elementwise"]),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_becomes_kernels(name: str, target: str) -> None:
    nodes, forms = FORMULAS[name]
    made = scheduled(nodes, target=TARGETS[target])
    assert sorted(k.form for k in made.kernels) == sorted(forms), made.kernels
    for product in (k.contraction for k in made.kernels):
        if product is not None:  # a BLAS can read the operands
            assert all(1 in access.strides[-2:] for access in (product.a, product.b))
            assert all(min(access.strides[-2:]) > 0 for access in (product.a, product.b))
    if not any(n.op.kind is Kind.RANDOM for n in made.graph.nodes):
        assert_computes(made, nodes)


def test_draws_are_made_again_and_never_stored() -> None:
    h = gx.dropout(gx.tanh(X @ W), 0.5)
    loss = gx.mean((h @ h.T) ** 2)  # the product parts the forward mask from the backward one
    made = scheduled([loss, gx.grad(loss, W)], {W: W - gx.grad(loss, W)})
    drawn = [s.node for k in made.kernels for s in k.statements if s.node.op.kind is Kind.RANDOM]
    assert len(drawn) >= 2
    assert len(set(drawn)) == 1  # forward and backward draw the same numbers
    assert not any(n.op.kind is Kind.RANDOM for n in made.stored if isinstance(n, gx.Node))
    wanted = scheduled([DROPPED, gx.random_uniform((3,))])  # unless they are wanted as results
    assert any(n.op.kind is Kind.RANDOM for n in wanted.stored if isinstance(n, gx.Node))


# -- training steps


@pytest.mark.parametrize("target", TARGETS)
def test_digits_step(target: str) -> None:
    program = training_step()
    made = scheduled(program.outputs, program.updates, TARGETS[target])
    runner = runner_of(made)
    for step in range(4):
        given = {n: program.inputs[n.name] for n in made.graph.inputs}
        expected = evaluate([*program.outputs.values(), *program.updates.values()], given)
        (loss,) = run(runner, program.inputs, step)
        for have, want in zip([loss, *(p.value for p in program.updates)], expected, strict=True):
            assert_close(have, want, f"step {step}")


def test_launches_of_the_digits_step() -> None:
    program = training_step()
    flat = scheduled(program.outputs, program.updates)
    assert len(flat.kernels) <= 15
    assert [k.form for k in flat.kernels].count("row") == 1
    assert [k.form for k in flat.kernels].count("contraction") == 8
    last = flat.kernels[-1]  # all twelve updates at once, over slabs of params and gradients
    assert (last.form, len(last.nodes)) == ("elementwise", 4 * 6)
    homes = [slab for slab in flat.in_place.values() if isinstance(slab, Slab)]
    assert {p for home in homes for p in home.members} == set(program.updates)
    assert not flat.notes

    fused = scheduled(program.outputs, program.updates, BETA)
    assert len(fused.kernels) == 13
    marked = [k for k in fused.kernels if k.beta is not None]
    assert len(marked) == 3
    for kernel in marked:
        assert kernel.beta is not None
        old = kernel.operands[kernel.beta.operand].base
        assert old.name.startswith("v_w")  # beta * v + x.T @ d, in place
        total = next(s for s in kernel.stores if s.value == kernel.beta.total)
        assert fused.in_place[total.access.base] is old
        assert kernel.beta.scale.node.op.kind is Kind.SOURCE
        assert len(kernel.stores) == 2  # the weight itself is updated while the tile is hot


def test_beta_only_where_it_holds() -> None:
    g = X.T @ R
    rows: list[tuple[gx.Node, list[gx.Node], int]] = [
        (0.9 * W + g, [], 1),
        (g + 0.5 * W, [], 1),
        (0.9 * W + g, [g], 0),  # the product itself is wanted
        (0.9 * W + g, [2 * g], 0),  # or used twice
        (0.9 * W + g, [(0.9 * W + g) * g], 0),
        (0.9 * W + g * g, [], 0),
        (W * W + g, [], 0),  # no number before the old value
        (0.9 * W[::-1] + g, [], 0),  # elsewhere in it
    ]
    for new, outputs, count in rows:
        made = scheduled(outputs, {W: new}, BETA)
        assert sum(k.beta is not None for k in made.kernels) == count, new
        inputs = draw_inputs(made)
        (expected,) = evaluate([new], {n: inputs[n.name] for n in made.graph.inputs})
        old = W.value
        run(runner_of(made), inputs)
        assert_close(W.value, expected)
        W.value = old


@pytest.mark.parametrize("name", FORMULAS)
def test_products_of_a_library_stand_alone(name: str) -> None:
    nodes, forms = FORMULAS[name]
    made = scheduled(nodes, target=replace(NUMPY.target, epilogue=False))
    products = [k for k in made.kernels if k.contraction is not None]
    assert all(len(k.statements) == len(k.stores) == 1 and not k.operands for k in products)
    assert (len(products) > 0) == ("contraction" in forms)
    if not any(n.op.kind is Kind.RANDOM for n in made.graph.nodes):
        assert_computes(made, nodes)


def test_why_products_stand_alone() -> None:
    made = scheduled([T.sum(0), T.max(1)], {W: W - X.T @ R}, replace(NUMPY.target, epilogue=False))
    reasons = {e.reason for e in made.edges if e.producer.op.kind is Kind.CONTRACTION}
    assert reasons == {"the library's product writes its result alone"}
    assert not any("epilogue" in e.reason for e in made.edges)


# -- why edges are not fused: one small graph for each reason

E, T, F = gx.exp(X), gx.tanh(X @ W + B), gx.exp(Q)
SINE = gx.sin(X)
TURNED = gx.cos(E[::-1])
LONG = X
for _ in range(300):
    LONG = gx.sin(LONG)
REASONS: list[tuple[str, list[gx.Node], dict[Any, gx.Node]]] = [
    ("operand of a contraction", [gx.exp(X) @ W], {}),
    ("a join moves whole pieces", [gx.exp(gx.concatenate([X, Y]))], {}),
    ("parameter updates are kernels of their own", [], {W: W - 0.1 * (X.T @ R)}),
    ("another iteration space: (6, 5) into (6,)", [X.sum(1).sum()], {}),
    ("reduces other axes", [(X / X.sum(1, keepdims=True)).sum(0)], {}),
    ("reduction over a contraction's tile", [R.sum(1, keepdims=True) + X @ W], {}),
    ("reduction of a reduction",
     [gx.max(X.sum(1, keepdims=True).broadcast_to((6, 5)), 1)], {}),
    ("a column result is complete only after the last element", [X - X.mean(0)], {}),
    ("read through a view that moves its elements", [E.T + Z], {}),
    ("read through a view that moves its elements", [E[::-1] + X], {}),
    ("reduction over a contraction's tile", [(X @ W).sum(1)], {}),
    ("one contraction per kernel", [X @ W + Y @ W], {}),
    ("would be recomputed 6 times", [gx.exp(B) + R], {}),
    ("would close a cycle of kernels", [E + gx.concatenate([E[3:], E[:3]])], {}),
    # the exponential would join the third output, which reaches the cosine through the second one:
    # that was not so yet when the cosine was placed
    ("would close a cycle of kernels", [E, SINE + TURNED[::-1], SINE[::-1] * E], {}),
    ("fused with another user; merging the two would close a cycle", [E * E.sum(0)], {}),
    ("fused with another user, whose loops are others", [E.sum(0), E.sum(1)], {}),
    ("several users: stays in the epilogue of its contraction", [T.sum(0), T.max(1)], {}),
    ("used both per element and per row",
     [F * F.sum(1, keepdims=True) + (F.sum(1) + F.reshape(6)).reshape(6, 1)], {}),
    ("cut: at most 128 statements", [LONG], {}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "outputs", "updates"), REASONS, ids=[r for r, _, _ in REASONS])
def test_reason(reason: str, outputs: list[gx.Node], updates: dict[Any, gx.Node]) -> None:
    made = scheduled(outputs, updates, simplified=False)
    assert reason in {e.reason for e in made.edges}
    old = {p: p.value for p in updates}
    assert_computes(made, outputs)
    for p, value in old.items():
        p.value = value


def test_a_huge_tensor_is_not_one_row() -> None:
    x = gx.input("x", (400, 500))
    made = scheduled([x / x.sum()])
    assert [k.form for k in made.kernels] == ["full", "elementwise"]
    assert "a full result is complete only after the last element" in {e.reason for e in made.edges}


def test_every_edge_is_decided() -> None:
    program = training_step((8, 16, 4), 5)
    schedules = [scheduled(program.outputs, program.updates, target) for target in TARGETS.values()]
    schedules += [scheduled(outputs) for outputs, _ in FORMULAS.values()]
    for made in schedules:
        where = {n: k for k in made.kernels for n in k.nodes}
        for edge in made.edges:
            assert edge.fused != bool(edge.reason)
            assert (edge.saved_nbytes > 0) == edge.fused
            together = where[edge.producer] is where[edge.consumer]
            assert together or not edge.fused, edge
        decided = {(e.producer, e.consumer) for e in made.edges}
        for node in where:
            for source in node.inputs:
                if source in where and source.op.kind is not Kind.RANDOM:
                    assert (source, node) in decided


# -- long kernels are cut


def test_long_kernels_are_cut_where_the_fewest_values_cross() -> None:
    """Six values wide, except at one waist: the cut is there."""
    values = [gx.sin(X + k) for k in range(6)]
    for k in range(90):
        if k in (12, 57):  # a waist
            waist = values[0]
            for v in values[1:]:
                waist = waist + v
            values = [gx.cos(waist + j) for j in range(6)]
        values[k % 6] = gx.sin(values[k % 6] * values[(k + 1) % 6])
    total = values[0]
    for v in values[1:]:
        total = total + v
    made = scheduled([total], target=replace(BETA, max_statements=64), simplified=False)
    assert max(len(k.statements) for k in made.kernels) <= 64
    assert min(len(k.stores) for k in made.kernels[:-1]) == 1  # a cut at a waist
    assert_computes(made, [total])


def test_a_very_long_chain_is_cut_everywhere() -> None:
    y = X
    for k in range(2000):
        y = gx.sin(y) if k % 2 else y * 1.01
    made = scheduled([y])
    assert len(made.kernels) == -(-len(made.graph.nodes) // 128)
    assert all(len(k.stores) == 1 for k in made.kernels)
    assert_computes(made, [y])


# -- the whole, on random graphs


@pytest.mark.parametrize("block", [numpy_kernel.BLOCK, 12])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("part", range(3))
def test_random_graphs(part: int, target: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third of 300 seeds; each on both targets, whole and in blocks."""
    monkeypatch.setattr(numpy_kernel, "BLOCK", block)
    for seed in range(part, 300, 3):
        graph = random_graph(seed)
        made = scheduled(graph.outputs, graph.updates, TARGETS[target])
        old = {p: p.value for p in graph.updates}
        given = {n: graph.values[n.name] for n in made.graph.inputs}
        expected = evaluate([*graph.outputs.values(), *graph.updates.values()], given)
        results = run(runner_of(made), graph.values)
        for have, want in zip([*results, *(p.value for p in old)], expected, strict=True):
            assert_close(have, want, f"seed {seed}")


# -- planted faults


def planted(change: Callable[[Schedule], Schedule]) -> None:
    program = training_step((8, 16, 4), 5)
    verify_schedule(change(scheduled(program.outputs, program.updates)))


def with_kernel(made: Schedule, form: str, change: Callable[[Kernel], Kernel]) -> Schedule:
    """The schedule with its first kernel of a form changed."""
    at = next(i for i, k in enumerate(made.kernels) if k.form == form)
    kernels = list(made.kernels)
    kernels[at] = change(kernels[at])
    return replace(made, kernels=tuple(kernels))


def later_argument(kernel: Kernel) -> Kernel:
    first, *rest = kernel.statements
    return replace(kernel, statements=(replace(first, args=(Value(len(rest)),)), *rest))


def early_stage(kernel: Kernel) -> Kernel:
    statements = tuple(replace(s, stage=0) for s in kernel.statements)
    return replace(kernel, statements=statements)


def full_after_column(kernel: Kernel) -> Kernel:
    """A column sum, then its square root at every element."""
    node = make(OPS["sqrt"], (kernel.statements[-1].node,))
    total = len(kernel.statements) - 1
    late = replace(
        kernel.statements[-1], node=node, args=(Value(total),), level=Level.FULL, stage=1
    )
    return replace(kernel, statements=(*kernel.statements, late))


def out_of_bounds(kernel: Kernel) -> Kernel:
    first = kernel.operands[0]
    moved = replace(first, offset=first.offset + 1)
    return replace(kernel, operands=(moved, *kernel.operands[1:]))


def negative_stride(kernel: Kernel) -> Kernel:
    store = kernel.stores[0]
    turned = replace(store.access, strides=tuple(-s for s in store.access.strides))
    return replace(kernel, stores=(replace(store, access=turned), *kernel.stores[1:]))


def second_contraction(kernel: Kernel) -> Kernel:
    return replace(kernel, statements=(*kernel.statements, kernel.statements[0]))


def other_slab(kernel: Kernel) -> Kernel:
    """A flat kernel that reads its parameters from a slab in another order."""
    access = next(a for a in kernel.operands if isinstance(a.base, Slab))
    assert isinstance(access.base, Slab)
    slab = Slab("turned", access.base.members[::-1], access.base.starts, access.base.size)
    at = kernel.operands.index(access)
    turned = Access(slab, 0, access.strides)
    return replace(kernel, operands=(*kernel.operands[:at], turned, *kernel.operands[at + 1 :]))


FAULTS: list[tuple[str, Callable[[Schedule], Schedule]]] = [
    ("before it is computed", lambda s: replace(s, kernels=s.kernels[::-1])),
    ("before it is computed", lambda s: replace(s, kernels=s.kernels[1:])),
    ("reads the old value of", lambda s: replace(s, kernels=(*s.kernels, s.kernels[0]))),
    ("is never (computed|stored)", lambda s: replace(s, kernels=s.kernels[:-1])),
    ("uses a later statement", lambda s: with_kernel(s, "row", later_argument)),
    ("runs before its argument", lambda s: with_kernel(s, "row", early_stage)),
    ("follows a reduction in column form", lambda s: with_kernel(s, "column", full_after_column)),
    ("addresses elements", lambda s: with_kernel(s, "row", out_of_bounds)),
    ("addresses elements", lambda s: with_kernel(s, "column", negative_stride)),
    ("must be statement 0", lambda s: with_kernel(s, "contraction", second_contraction)),
    ("two slabs", lambda s: with_kernel(s, "elementwise", other_slab)),
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_verifier_finds_planted_faults(number: int) -> None:
    message, change = FAULTS[number]
    with pytest.raises(CompileError, match=message):
        planted(change)
    planted(lambda s: s)


def exchanged(kernel: Kernel) -> Kernel:
    """The first statement in which order matters, with its two arguments turned round."""
    for i, s in enumerate(kernel.statements):
        alike = len(s.args) == 2 and s.node.inputs[0].dtype == s.node.inputs[1].dtype
        if alike and s.args[0] != s.args[1] and not s.node.op.commutative:
            turned = replace(s, args=s.args[::-1])
            statements = (*kernel.statements[:i], turned, *kernel.statements[i + 1 :])
            return replace(kernel, statements=statements)
    return kernel


def test_comparison_finds_a_wrong_fusion() -> None:
    """A schedule that is well-formed but wrong is found by running it on random graphs."""
    wrong = found = 0
    for seed in range(40):
        graph = random_graph(seed)
        made = scheduled(graph.outputs)
        changed = replace(made, kernels=tuple(map(exchanged, made.kernels)))
        if changed.kernels == made.kernels:
            continue
        wrong += 1
        verify_schedule(changed)
        given = {n: graph.values[n.name] for n in made.graph.inputs}
        expected = evaluate(graph.outputs.values(), given)
        try:
            for have, want in zip(run(runner_of(changed), graph.values), expected, strict=True):
                assert_close(have, want)
        except AssertionError:
            found += 1
    assert wrong >= 10
    assert found >= 0.7 * wrong  # the rest are symmetric in their values
