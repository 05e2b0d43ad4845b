"""Derivatives as graphs. A cotangent of v is d(output)/dv; the walk hands cotangents from each node
to its inputs by the op's vjp rule (chain rule), in reverse topological order, and adds what arrives
twice.

    vjp(outputs, inputs, cotangents)     sum_j cotangent_j * d output_j / d input_i
    grad(y, wrt)                         vjp of a scalar with cotangent 1
    jvp(outputs, inputs, tangents)       by vjp of vjp: the vjp is linear in its cotangents
    hvp(y, inputs, vectors)              vjp of grad: the Hessian is symmetric

Only nodes between the inputs and the outputs are visited, so only gradients that were asked for are
ever made. All results are ordinary nodes and can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from graphc.errors import GradientError, ShapeError
from graphc.ir.build import as_node, placeholder
from graphc.ir.graph import topological
from graphc.ir.node import Derived, Node, describe, explain
from graphc.ir.tensor_type import FLOATS

T = TypeVar("T")


@overload
def grad(y: Node, wrt: Node, *, allow_unused: bool = False) -> Node: ...
@overload
def grad(y: Node, wrt: list[Any], *, allow_unused: bool = False) -> list[Node]: ...
@overload
def grad(y: Node, wrt: tuple[Any, ...], *, allow_unused: bool = False) -> tuple[Node, ...]: ...
@overload
def grad(y: Node, wrt: dict[Any, Any], *, allow_unused: bool = False) -> dict[Any, Node]: ...
def grad(y: Node, wrt: Any, *, allow_unused: bool = False) -> Any:
    """The gradient of a scalar `y` with respect to a node, or a list, tuple or dict of nodes.

    Returns nodes of the shapes of `wrt`, in the same structure. Raises GradientError if `y` is not
    a float scalar, if a node is not float, or if `y` does not depend on it (zeros instead with
    `allow_unused=True`).
    """
    _check_scalar("grad", y)
    keys: list[Any] | None = None
    if isinstance(wrt, dict):
        keys, nodes = list(wrt), list(wrt.values())
    else:
        nodes = list(wrt) if isinstance(wrt, list | tuple) else [wrt]
    with_none = _cotangents("grad", [y], nodes, [_ones_like(y)])
    grads: list[Node] = []
    for node, cotangent in zip(nodes, with_none, strict=True):
        if cotangent is None and not allow_unused:
            raise GradientError(
                explain("grad", f"{describe(y)} does not depend on {describe(node)} through "
                        "differentiable ops; pass allow_unused=True for zeros", ())
            )  # fmt: skip
        grads.append(_zeros_like(node) if cotangent is None else cotangent)
    if keys is not None:
        return dict(zip(keys, grads, strict=True))
    if isinstance(wrt, Node):
        return grads[0]
    return tuple(grads) if isinstance(wrt, tuple) else grads


def vjp(outputs: Sequence[Node], inputs: Sequence[Node], cotangents: Sequence[Any]) -> list[Node]:
    """For each input, the sum over outputs of cotangent * d output / d input.

    Each cotangent has its output's shape. Inputs that no output depends on get zeros. Raises
    GradientError for nodes that are not float and for what is no list, ShapeError where a cotangent
    does not fit.
    """
    _check_lists("vjp", outputs=outputs, inputs=inputs, cotangents=cotangents)
    seeds = _fit("vjp", "cotangent", outputs, cotangents)
    return _pulled("vjp", outputs, inputs, seeds)


def _pulled(
    op: str, outputs: Sequence[Node], inputs: Sequence[Node], seeds: Sequence[Node]
) -> list[Node]:
    found = _cotangents(op, outputs, inputs, seeds)
    return [_zeros_like(i) if c is None else c for i, c in zip(inputs, found, strict=True)]


def jvp(outputs: Sequence[Node], inputs: Sequence[Node], tangents: Sequence[Any]) -> list[Node]:
    """For each output, the sum over inputs of d output / d input * tangent.

    By double vjp: u -> vjp(u) is linear, so its own vjp at the tangents is the jvp, and the dummy u
    drops out. Each tangent has its input's shape. Raises GradientError for nodes that are not float
    and for what is no list, ShapeError where a tangent does not fit.
    """
    _check_lists("jvp", outputs=outputs, inputs=inputs, tangents=tangents)
    _check_floats("jvp", "of", outputs)
    directions = _fit("jvp", "tangent", inputs, tangents)
    dummies = [placeholder("cotangent", y.type) for y in outputs]
    pulled = _cotangents("jvp", outputs, inputs, dummies)
    used = [(c, t) for c, t in zip(pulled, directions, strict=True) if c is not None]
    pushed = _cotangents("jvp", [c for c, _ in used], dummies, [t for _, t in used])
    return [_zeros_like(y) if c is None else c for y, c in zip(outputs, pushed, strict=True)]


def hvp(y: Node, inputs: Sequence[Node], vectors: Sequence[Any]) -> list[Node]:
    """The Hessian of the scalar `y` times the vectors: one node of each input's shape.

    Each vector has its input's shape. Inputs that `y` does not depend on get zeros. Raises
    GradientError if `y` is not a float scalar, for inputs that are not float and for what is no
    list, ShapeError where a vector does not fit.
    """
    _check_lists("hvp", inputs=inputs, vectors=vectors)
    _check_scalar("hvp", y)
    _check_floats("hvp", "by", inputs)
    directions = _fit("hvp", "vector", inputs, vectors)
    return _pulled("hvp", grad(y, list(inputs), allow_unused=True), inputs, directions)


def _check_scalar(op: str, y: Any) -> None:
    if isinstance(y, Node) and not y.ndim and y.dtype in FLOATS:
        return
    shown = describe(y) if isinstance(y, Node) else repr(y)
    remedy = "try y.sum() or gx.mean(y)"
    if isinstance(y, Node) and y.dtype not in FLOATS:
        remedy = "try .astype('float32') before the first op that is to be differentiated"
    raise GradientError(explain(op, f"of {shown}: need a float scalar; {remedy}", ()))


def _check_lists(op: str, **given: Any) -> None:
    """One node in place of a list of one is a slip that would surface far away."""
    for what, value in given.items():
        if not isinstance(value, list | tuple):
            shown = describe(value) if isinstance(value, Node) else type(value).__name__
            raise GradientError(
                explain(op, f"{what} is {shown}; takes a list: write [x] for one x", ())
            )


def _check_floats(op: str, role: str, nodes: Sequence[Any]) -> None:
    for node in nodes:
        if not isinstance(node, Node):
            raise GradientError(explain(op, f"{role} {node!r}: not a node", ()))
        if node.dtype not in FLOATS:
            raise GradientError(
                explain(op, f"{role} {describe(node)}: only float nodes have gradients; declare it "
                        "with dtype='float32', or differentiate by its .astype('float32')", [node])
            )  # fmt: skip


def _cotangents(
    op: str, outputs: Sequence[Node], inputs: Sequence[Node], seeds: Sequence[Node]
) -> list[Node | None]:
    """The walk. None for inputs that no output depends on through differentiable ops."""
    _check_floats(op, "by", inputs)
    wanted = set(inputs)
    order = topological(outputs)
    active = _between(order, wanted)
    arrived: dict[Node, Node] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        if output in active:
            _arrive(arrived, output, seed)
    for node in reversed(order):
        g = arrived.get(node)
        if g is None:
            continue
        attrs = dict(node.attrs)
        for index, source in enumerate(node.inputs):
            if source not in active:
                continue
            rule = node.op.vjp_of(index)
            if rule is None:
                continue
            with Derived(node.sites, True):
                _arrive(arrived, source, rule(g, node, *node.inputs, **attrs))
    return [arrived.get(node) for node in inputs]


def _between(order: Sequence[Node], wanted: set[Node]) -> set[Node]:
    """The float nodes that depend on a wanted one."""
    active: set[Node] = set()
    for node in order:
        if node.dtype in FLOATS and (node in wanted or any(i in active for i in node.inputs)):
            active.add(node)
    return active


def _arrive(arrived: dict[Node, Node], node: Node, cotangent: Node) -> None:
    before = arrived.get(node)
    if before is None:
        arrived[node] = cotangent
        return
    with Derived(node.sites, True):
        arrived[node] = before + cotangent


def _ones_like(y: Node) -> Node:
    with Derived(y.sites, True):
        return as_node(1.0, y.dtype)


def _zeros_like(node: Node) -> Node:
    with Derived(node.sites, True):
        return as_node(0.0, node.dtype).broadcast_to(node.shape)


def _fit(op: str, what: str, nodes: Sequence[Node], values: Sequence[Any]) -> list[Node]:
    if len(nodes) != len(values):
        raise GradientError(explain(op, f"{len(nodes)} nodes but {len(values)} {what}s", ()))
    _check_floats(op, "of" if what == "cotangent" else "by", nodes)
    fitted: list[Node] = []
    for node, value in zip(nodes, values, strict=True):
        given = value if isinstance(value, Node) else as_node(value, node.dtype)
        if given.shape != node.shape or given.dtype != node.dtype:
            raise ShapeError(
                explain(op, f"{what} {given.type} does not fit {describe(node)}", [given])
            )
        fitted.append(given)
    return fitted
