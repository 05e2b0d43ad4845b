"""Checkers for users' tests and ours: close values, gradients, random graphs, what was compiled,
kernels of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.autodiff import grad
from graphc.backends.cuda.own_kernels import run_kernel
from graphc.errors import DeviceMemoryError, EmulatorError, GraphcError, InputError
from graphc.evaluate import evaluate, evaluate_all
from graphc.executable import Executable
from graphc.ir.build import as_node
from graphc.ir.dim import Dim
from graphc.ir.graph import Graph, bind, is_external, topological
from graphc.ir.node import Node, Param, describe, intern
from graphc.ir.op import OPS, F, Kind, Op
from graphc.ir.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    FLOATS,
    INT32,
    NARROW,
    DType,
    as_dtype,
    kind_of,
    static_shape,
)
from graphc.ops.sources import Constant
from graphc.tolerances import TOLERANCES, disagreement

__all__ = (
    "DeviceMemoryError", "EmulatorError", "RandomGraph", "assert_close", "assert_compiled",
    "check_grads", "random_graph", "run_kernel",
)  # fmt: skip


def assert_close(actual: Any, expected: Any, what: str = "value", *, exact: bool = False) -> None:
    """Raise AssertionError unless shapes and dtypes are equal and the values agree.

    Floats agree within the dtype's `accumulated` tolerance of the largest finite value, NaN and inf
    only with themselves; integers, bools, and everything if `exact`, must be equal.
    """
    problem = disagreement(actual, expected, exact=exact)
    assert not problem, f"{what}: {problem}"


# -- derivatives against differences

STEP = 1e-5  # central differences: truncation and rounding errors are both about 1e-10 in float64
GRADIENT_TOLERANCE = 1e-4  # finds a derivative that is 0.05 % off


def check_grads(
    outputs: Node | Sequence[Node],
    inputs: Node | Sequence[Node],
    values: Mapping[Any, Any],
    order: int = 2,
    *,
    seed: int = 0,
) -> None:
    """Compare derivatives with central differences in random directions, up to an order.

    `values` gives arrays by node or by name; parameters not in it have their current value, and
    symbolic sizes are those of the arrays. The graph is rebuilt in float64. Keep the values at
    least 1e-3 away from kinks. Raises AssertionError with the order, the nodes, their lines and
    both numbers for the first derivative that is more than 0.01 % off, InputError for a value that
    is missing or of another shape.
    """
    ys = [outputs] if isinstance(outputs, Node) else list(outputs)
    xs = [inputs] if isinstance(inputs, Node) else list(inputs)
    given = {n: _given(n, values) for n in topological([*ys, *xs]) if is_external(n)}
    bound = _with_sizes([*ys, *xs], given)
    wide = in_float64(list(bound.values()))
    at = {wide[bound[n]]: value for n, value in given.items()}
    rng = np.random.default_rng(seed)
    scalar = _weighted([wide[bound[y]] for y in ys], rng)
    names = ", ".join(describe(y) for y in ys)
    points = [wide[bound[x]] for x in xs]
    lines = " and ".join(dict.fromkeys(str(site) for y in ys for site in y.sites))
    for k in range(1, order + 1):
        gradients = grad(scalar, points, allow_unused=True)
        for x, point, gradient in zip(xs, points, gradients, strict=True):
            what = f"derivative {k} of {names} (made at {lines}) by {describe(x)}"
            _compare(scalar, point, gradient, at, rng, what)
        scalar = _weighted(gradients, rng)


def in_float64(roots: Sequence[Node]) -> dict[Node, Node]:
    """Every node below the roots, mapped to the same graph float64 for other floats."""
    wide: dict[Node, Node] = {}
    for node in topological(roots):
        attrs = tuple((key, _wide(value)) for key, value in node.attrs)
        wide[node] = intern(node.op, tuple(wide[i] for i in node.inputs), attrs)
    return wide


def _wide(value: Any) -> Any:
    if isinstance(value, Constant) and value.dtype in FLOATS:
        return Constant(FLOAT64, value.shape, value.array().astype(FLOAT64).tobytes())
    return FLOAT64 if isinstance(value, np.dtype) and value in FLOATS else value


def _given(node: Node, values: Mapping[Any, Any]) -> np.ndarray:
    found = values.get(node, values.get(node.name))
    if found is None and not isinstance(node, Param):
        raise InputError(f"check_grads: no value is given for {describe(node)}")
    value = node.value if found is None and isinstance(node, Param) else np.asarray(found)
    if kind_of(value.dtype) not in "biuf":
        raise InputError(f"check_grads: the value of {describe(node)} has dtype {value.dtype}")
    return value.astype(FLOAT64) if node.dtype in FLOATS else value.astype(node.dtype)


def _with_sizes(roots: Sequence[Node], given: Mapping[Node, np.ndarray]) -> dict[Node, Node]:
    """The roots and inputs, each mapped to itself with the sizes of the given values put in."""
    nodes = list(dict.fromkeys([*roots, *given]))
    graph = Graph.raw(tuple((str(i), n) for i, n in enumerate(nodes)), ())
    sizes: dict[str, int] = {}
    for node, value in given.items():
        for extent, n in zip(node.shape, value.shape, strict=False):
            if isinstance(extent, Dim) and extent == Dim.symbol(name := min(extent.symbols())):
                sizes.setdefault(name, n)
    missing = sorted(graph.symbols - set(sizes))
    if missing:
        raise InputError(f"check_grads: no input has the size {missing[0]} as an axis of its own")
    bound = dict(zip(nodes, bind(graph, sizes).roots, strict=True))
    for node, value in given.items():
        if bound[node].shape != value.shape:
            known = "".join(f"; {name} = {n}" for name, n in sizes.items())
            raise InputError(
                f"check_grads: the value of {describe(node)} has shape {value.shape}{known}"
            )
    return bound


def _weighted(nodes: Sequence[Node], rng: np.random.Generator) -> Node:
    """A scalar: the sum of all elements of all nodes, each with a random weight."""
    terms = [(n * as_node(rng.uniform(0.5, 1.5, n.shape))).sum() for n in nodes]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _compare(
    scalar: Node,
    point: Node,
    gradient: Node,
    at: Mapping[Node, np.ndarray],
    rng: np.random.Generator,
    what: str,
) -> None:
    base = at[point] if point in at else evaluate([point], at)[0]
    direction = rng.choice([-1.0, 1.0], base.shape) * rng.uniform(0.5, 1.5, base.shape)
    step = STEP * max(1.0, float(np.abs(base).max(initial=0)))
    (slope,) = evaluate([gradient], at)
    exact = float((slope * direction).sum())
    high = float(evaluate([scalar], {**at, point: base + step * direction})[0])
    low = float(evaluate([scalar], {**at, point: base - step * direction})[0])
    numeric = (high - low) / (2 * step)
    noise = 1e-14 * max(1.0, abs(high)) / step
    if not abs(exact - numeric) <= GRADIENT_TOLERANCE * max(abs(exact), abs(numeric)) + noise:
        raise AssertionError(
            f"{what}: {exact:.9g}, but differences give {numeric:.9g}; if the values are within "
            "1e-3 of a kink or a tie, move them away from it"
        )


# -- random graphs


@dataclass(slots=True)
class RandomGraph:
    """Outputs by name, updates of parameters, and arrays for the inputs by name."""

    seed: int
    outputs: dict[str, Node]
    updates: dict[Param, Node]
    values: dict[str, np.ndarray]


def random_graph(seed: int, dtype: Any = None) -> RandomGraph:
    """A graph made by a random walk over the op table, the same one for the same seed.

    About 5 to 60 nodes of all kinds but random ones, sizes 0 to 9, with floats of `dtype`, or else
    mostly of float32; some with gradients and with updates of parameters. Its values are tame:
    finite, away from kinks and ties, and float32 (or `dtype`) gives what float64 gives.
    """
    walk = _Walk(np.random.default_rng(seed), None if dtype is None else as_dtype(dtype))
    for _ in range(walk.rng.integers(2, 14)):
        walk.step()
    outputs, updates = walk.finish()
    return RandomGraph(seed, outputs, updates, walk.inputs)


LARGEST = 50.0  # of a value along the walk
MARGIN = 1e-3  # from kinks, ties and jumps


@dataclass(slots=True)
class _Walk:
    """The walk: a pool of nodes to draw operands from, each with its value."""

    rng: np.random.Generator
    wanted: DType | None = None
    dtype: DType = FLOAT32
    sizes: list[int] = field(default_factory=list[int])
    pool: list[Node] = field(default_factory=list[Node])
    inputs: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    values: dict[Node, np.ndarray] = field(default_factory=dict[Node, np.ndarray])

    def __post_init__(self) -> None:
        rng = self.rng
        drawn = FLOAT64 if rng.random() < 0.15 else FLOAT32
        self.dtype = self.wanted or drawn
        common = [int(n) for n in rng.integers(2, 10, 3)]
        self.sizes = [*common, *common, int(rng.choice([0, 1, 1, 1, 4]))]
        for i in range(rng.integers(1, 4)):
            value = self.draw(self.shape(int(rng.integers(0, 4))))
            if rng.random() < 0.5:
                self.keep(F.input(f"x{i}", value.shape, self.dtype), value)
                self.inputs[f"x{i}"] = value
            else:
                self.keep(F.param(f"p{i}", value), value)

    # -- choices

    def shape(self, ndim: int) -> tuple[int, ...]:
        return tuple(int(self.rng.choice(self.sizes)) for _ in range(ndim))

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.uniform(-2, 2, shape).astype(self.dtype)

    def pick(self, wanted: Callable[[Node], bool] = lambda n: n.dtype in FLOATS) -> Node:
        """A random node of the pool, late ones more often; a new constant if none fits."""
        fitting = [n for n in self.pool if wanted(n)]
        if not fitting:
            return as_node(self.draw((3,)))
        place = int(len(fitting) * np.sqrt(self.rng.random()))
        return fitting[place]

    def axes(self, x: Node) -> tuple[int, ...] | None:
        """Trailing, leading, some or all axes."""
        cut = int(self.rng.integers(0, x.ndim + 1))
        some = tuple(i for i in range(x.ndim) if self.rng.random() < 0.5)
        ways = [None, tuple(range(cut, x.ndim)), tuple(range(cut)), some]
        return ways[self.rng.integers(len(ways))]

    def op(self, kind: Kind, arity: int = 1) -> Op[...]:
        return ARITIES[kind, arity][self.rng.integers(len(ARITIES[kind, arity]))]

    # -- steps

    def step(self) -> None:
        move = MOVES[self.rng.integers(len(MOVES))]
        try:
            node = move(self)
        except GraphcError:  # sizes that do not fit: this step is left out
            return
        self.keep(node)

    def keep(self, node: Node, value: np.ndarray | None = None) -> None:
        """Enter a node into the pool, unless its value is not tame."""
        if value is None:
            self.values.update(self.value_of(node))
            value = self.values[node]
        self.values[node] = value
        finite = bool(np.isfinite(value).all()) if value.dtype in FLOATS else True
        if finite and np.abs(value.astype(FLOAT64)).max(initial=0) < LARGEST:
            self.pool.append(node)

    def value_of(self, *nodes: Node) -> dict[Node, np.ndarray]:
        return evaluate_all(topological(nodes), self.values)

    def fit(self, op: Op[...], x: Node) -> Node:
        """`x`, moved into the domain of the op and away from its kinks if need be."""
        value = self.value_of(x)[x]
        low, high = op.domain
        if value.size and not (value.min() >= low and value.max() <= high):
            middle, half = (low + high) / 2, (high - low) / 2
            x = middle + (0.9 * half) * (x / (1 + abs(x)))
            value = self.value_of(x)[x]
        near = [bool((np.abs(value - a) < MARGIN).any()) for a in op.avoid]
        if any(near):
            x = x * x + (max(op.avoid) + 0.25)
        return x

    def finish(self) -> tuple[dict[str, Node], dict[Param, Node]]:
        """Outputs, gradients and updates, as far as they are tame."""
        rng = self.rng
        outputs = {"last": self.pool[-1]}
        for i in range(rng.integers(0, 3)):
            outputs[f"out{i}"] = self.pool[rng.integers(len(self.pool))]
        updates: dict[Param, Node] = {}
        trained: list[tuple[Param, Node]] = []
        if rng.random() < 0.6:
            loss = sum_of([n for n in outputs.values() if n.dtype in FLOATS])
            points = [n for n in self.values if is_external(n) and n.dtype in FLOATS]
            outputs["loss"] = loss
            for point, g in zip(points, grad(loss, points, allow_unused=True), strict=True):
                if isinstance(point, Param) and rng.random() < 0.6:
                    trained.append((point, g))
                else:
                    outputs[f"d_{point.name}"] = g
        for point, g in trained:
            updates.update(UPDATES[rng.integers(len(UPDATES))](self, point, g))
        tame = self.tame([*outputs.values(), *updates.values()])
        outputs = {name: n for name, n in outputs.items() if n in tame}
        updates = {p: n for p, n in updates.items() if n in tame}
        return outputs or {"first": self.pool[0]}, updates

    @property
    def limit(self) -> float:
        """By how much of the largest value a root may differ from what float64 gives."""
        share = 0.5 if self.dtype in NARROW else 0.1
        return share * TOLERANCES[self.dtype if self.dtype in NARROW else FLOAT32].accumulated

    def tame(self, roots: Sequence[Node]) -> set[Node]:
        """The roots that are finite and not large, and that float64 agrees with."""
        wide = in_float64(roots)
        at = {wide[n]: _wide_value(v) for n, v in self.values.items() if n in wide and not n.inputs}
        exact = evaluate([wide[r] for r in roots], at)
        narrow = self.value_of(*roots)
        return {r for r, e in zip(roots, exact, strict=True) if _agree(narrow[r], e, self.limit)}


def _wide_value(value: np.ndarray) -> np.ndarray:
    return value.astype(FLOAT64) if value.dtype in FLOATS else value


def _agree(narrow: np.ndarray, exact: np.ndarray, limit: float) -> bool:
    if narrow.dtype not in FLOATS:
        return bool(np.array_equal(narrow, exact))
    scale = max(float(np.abs(exact).max(initial=0)), 1e-3)
    close = np.abs(_wide_value(narrow) - exact).max(initial=0) <= limit * scale
    return bool(np.isfinite(exact).all() and scale < 1e4 and close)


def sum_of(nodes: Sequence[Node]) -> Node:
    """The sum of all elements of all nodes; 0 for none."""
    total = as_node(0.0)
    for node in nodes:
        part = node.sum()
        total = part if total.op.kind is Kind.SOURCE else total + part
    return total


# -- updates: what a program may do with its parameters at the end of a step


def _descent(_: _Walk, p: Param, g: Node) -> dict[Param, Node]:
    return {p: p - 0.1 * g}


def _momentum(walk: _Walk, p: Param, g: Node) -> dict[Param, Node]:
    """A second parameter that is read by the update of the first, and updated itself."""
    velocity = _companion(walk, p)
    moved = 0.9 * velocity + g
    return {velocity: moved, p: p - 0.1 * moved}


def _swap(walk: _Walk, p: Param, _: Node) -> dict[Param, Node]:
    """Both new values are old ones: each must be read before the other is written."""
    other = _companion(walk, p)
    return {p: other, other: p}


def _swap_and_move(walk: _Walk, p: Param, g: Node) -> dict[Param, Node]:
    """The old value of each goes into the new value of the other."""
    other = _companion(walk, p)
    return {p: other - 0.1 * g, other: 0.5 * (p + other)}


def _centred(_: _Walk, p: Param, g: Node) -> dict[Param, Node]:
    """Each new element depends on all old ones: nothing may be overwritten before the sum is."""
    return {p: p - 0.1 * g.mean() - 0.5 * p.mean()}


UPDATES: tuple[Callable[[_Walk, Param, Node], dict[Param, Node]], ...] = (
    _descent, _momentum, _swap, _swap_and_move, _centred, _centred,
)  # fmt: skip


def _companion(walk: _Walk, p: Param) -> Param:
    """A parameter of the same type as another."""
    value = walk.draw(static_shape(p.type)).astype(p.dtype)
    other: Param = F.param(f"{p.name}_other", value)
    walk.values[other] = value
    return other


# -- moves


def _unary(walk: _Walk) -> Node:
    op = walk.op(Kind.ELEMENTWISE)
    x = walk.fit(op, walk.pick())
    if not op.vjp and x.dtype in FLOATS:  # a step function: away from its jumps
        value = walk.value_of(x)[x]
        low, high = (op.eval(np, value + m) for m in (-MARGIN, MARGIN))  # type: ignore[misc]
        return op(x) if np.array_equal(low, high) else x - 1
    return op(x)


def _binary(walk: _Walk) -> Node:
    """Two nodes of the pool, or one with its own row or column statistics, broadcast back."""
    op = walk.op(Kind.ELEMENTWISE, 2)
    x = walk.fit(op, walk.pick())
    y = walk.fit(op, walk.pick(lambda n: n.dtype == x.dtype and _broadcasts(n, x)))
    if walk.rng.random() < 0.2 and x.ndim:
        y = walk.fit(op, x.mean(axis=int(walk.rng.integers(x.ndim)), keepdims=True))
    x, y = (y, x) if walk.rng.random() < 0.3 else (x, y)
    values = walk.value_of(x, y)
    gap = np.abs(values[x] - values[y])
    if (op.avoid or not op.vjp) and (gap < MARGIN).any():
        return x + y
    return op(x, y)


def _broadcasts(a: Node, b: Node) -> bool:
    return all(m in (n, 1) or n == 1 for m, n in zip(a.shape[::-1], b.shape[::-1], strict=False))


def _scaled(walk: _Walk) -> Node:
    x = walk.pick()
    factor = float(walk.rng.choice([2.0, 0.5, -1.0, 1.0, 3.0]))
    return [x * factor, x + factor, factor - x, x / factor][walk.rng.integers(4)]


def _reduction(walk: _Walk) -> Node:
    op = walk.op(Kind.REDUCTION)
    x, keepdims = walk.fit(op, walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)), False
    keepdims = bool(walk.rng.random() < 0.5)
    axes = walk.axes(x)
    if op.identity is None:  # of an order: no near ties, and one axis for those that give a place
        if _near_ties(walk.value_of(x)[x]):
            return x.mean(axes, keepdims)
        axes = int(walk.rng.integers(x.ndim)) if not op.combine else axes
    return op(x, axis=axes, keepdims=keepdims)


def _near_ties(value: np.ndarray) -> bool:
    return bool((np.diff(np.sort(value.ravel())) < MARGIN).any())


def _product(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    n = int(walk.rng.integers(1, 10))
    w = walk.pick(lambda n: n.dtype == x.dtype and n.ndim == 2 and x.shape[-1:] == n.shape[:1])
    if w.ndim != 2:
        value = walk.draw((*x.shape[-1:], n)).astype(x.dtype)  # type: ignore[arg-type]
        w = as_node(value) if walk.rng.random() < 0.5 else as_node(value.T.copy()).T
    return 0.5 * (x @ w)


def _layer(walk: _Walk) -> Node:
    """A product, a bias and an activation; at times with a residual."""
    x, op = _product(walk), walk.op(Kind.ELEMENTWISE)
    bias = as_node(walk.draw(x.shape[-1:]).astype(x.dtype))  # type: ignore[arg-type]
    y = walk.fit(op, x + bias)
    return op(y) + x if walk.rng.random() < 0.3 else op(y) if op.vjp else y


def _cross_entropy(walk: _Walk) -> Node:
    """With labels that are an input."""
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    name = f"labels{len(walk.inputs)}"
    labels = walk.rng.integers(0, max(*x.shape[-1:], 1), x.shape[:-1]).astype(INT32)  # type: ignore[arg-type]
    node = F.input(name, labels.shape, INT32)
    walk.inputs[name], walk.values[node] = labels, labels
    return F.softmax_cross_entropy(x, node, walk.rng.choice(["mean", "sum", "none"]))


def _softmax(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    return [F.softmax, F.log_softmax, F.logsumexp, F.var][walk.rng.integers(4)](x, axis=-1)


def _picked(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    rows, n = x.shape[:-1], x.shape[-1:]
    labels = walk.rng.integers(0, max(int(n[0]) if n else 1, 1), rows)  # type: ignore[arg-type]
    return F.pick(x, as_node(labels.astype(INT32)))


def _transposed(walk: _Walk) -> Node:
    x = walk.pick()
    return x.transpose(tuple(int(i) for i in walk.rng.permutation(x.ndim)))


def _reshaped(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    return [lambda: x.reshape(-1), lambda: x.reshape((x.shape[0], -1)), lambda: x[None]][
        walk.rng.integers(3)
    ]()


def _sliced(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    choices = [slice(1, None), slice(None, None, -1), slice(None, None, 2), slice(0, 2), 0, -1]
    return x[tuple(choices[walk.rng.integers(len(choices))] for _ in x.shape[:2])]


def _joined(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim > 0)
    y = walk.pick(lambda n: n.dtype == x.dtype and n.shape[1:] == x.shape[1:] and n.ndim == x.ndim)
    if y.ndim != x.ndim or walk.rng.random() < 0.3:
        return F.pad(x, int(walk.rng.integers(1, 3)))
    return F.concatenate([x, y])


def _masked(walk: _Walk) -> Node:
    """A choice by a comparison, kept away from its jump, or by an index."""
    x = walk.pick()
    if walk.rng.random() < 0.3 and x.ndim:
        return F.where(F.iota(x.shape) > 1, x, 0.5)
    low, high = sorted(float(v) for v in walk.rng.uniform(-1, 1, 2))
    value = walk.value_of(x)[x]
    if (np.abs(value - low) < MARGIN).any() or (np.abs(value - high) < MARGIN).any():
        return x - low
    inside = (x > low) & ~(x > high)
    return F.where(inside if walk.rng.random() < 0.5 else x < high, x, x * 0.25)


def _broadcast(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype in FLOATS and n.ndim < 3)
    return x.broadcast_to((int(walk.rng.integers(1, 5)), *x.shape))


def _cast(walk: _Walk) -> Node:
    x = walk.pick(lambda n: n.dtype == BOOL or n.dtype.kind == "i")
    return x.astype(walk.dtype)


MOVES: tuple[Callable[[_Walk], Node], ...] = (
    _unary, _unary, _unary, _unary, _unary, _unary, _layer, _layer, _cross_entropy, _binary,
    _binary, _binary, _binary, _scaled, _scaled,
    _reduction, _reduction, _product, _product, _softmax, _picked, _transposed, _reshaped, _sliced,
    _joined, _masked, _broadcast, _cast,
)  # fmt: skip


def _takes(op: Op[...], arity: int) -> bool:
    """Whether the op takes so many floats and nothing else."""
    try:
        return len(op(*[as_node([1.0])] * arity).inputs) == arity
    except (GraphcError, TypeError):
        return False


ARITIES = {
    (kind, arity): [
        op for op in OPS.values() if op.kind is kind and not op.resolve and _takes(op, arity)
    ]
    for kind, arity in ((Kind.ELEMENTWISE, 1), (Kind.ELEMENTWISE, 2), (Kind.REDUCTION, 1))
}


# -- what was compiled


def assert_compiled(
    exe: Executable, *, kernels: int | Sequence[str] | None = None, peak_nbytes: int | None = None
) -> None:
    """Raise AssertionError unless the executable has at most this many launches, or launches of
    exactly these forms in order, and plans at most this many bytes."""
    reports = exe.kernels
    found = [f"{k.name} ({k.kernel.form}): {k.reason}" for k in reports]
    shown = "\n  ".join(["", *found])
    if isinstance(kernels, int):
        assert len(reports) <= kernels, f"{len(reports)} kernels, at most {kernels} wanted:{shown}"
    elif kernels is not None:
        forms = [k.kernel.form for k in reports]
        assert forms == list(kernels), f"kernels {forms}, wanted {list(kernels)}:{shown}"
    if peak_nbytes is not None:
        planned = exe.plan.peak_nbytes
        assert planned <= peak_nbytes, f"{planned} bytes planned, at most {peak_nbytes} wanted"
