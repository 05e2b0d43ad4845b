"""The CUDA dialect: every form of kernel compiles for every generation of GPUs, without spills and
with vector loads; its text serves all sizes; and it reads well."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product as all_of
from typing import Any

import numpy as np
import pytest
from programs import forms, merged, training_step

import graphc as gx
from graphc.backends.cuda.nvrtc import compile_ptx, resource_usage
from graphc.backends.cuda.target import LIKES
from graphc.codegen.cuda import CudaProgram, print_program
from graphc.codegen.launches import FillLaunch, KernelLaunch, ProductLaunch
from graphc.codegen.sources import splice
from graphc.ir.graph import Graph, bind
from graphc.ir.philox import number_draws
from graphc.rewrite.engine import simplify
from graphc.rewrite.rules import select_rules
from graphc.rewrite.widen import widen
from graphc.schedule.lower import lower
from graphc.schedule.memory import plan_memory
from graphc.schedule.order import schedule
from graphc.testing import random_graph

GENERATIONS = ("sm_80", "sm_90", "sm_100")
SIZES = [(37, 5), (33, 1025), (300, 700), (6000, 20), (1, 7), (0, 3), (64, 64)]
AT_ONCE = 25


def printed(
    outputs: Mapping[str, gx.Node] | Sequence[gx.Node], updates: Any = None,
    sizes: Mapping[str, int] | None = None,
) -> CudaProgram:  # fmt: skip
    """A program as CUDA C."""
    named = outputs if isinstance(outputs, Mapping) else {f"o{i}": n for i, n in enumerate(outputs)}
    declared = Graph.of(named, updates)
    rules, known = select_rules(None), dict(sizes or {})
    graph, _ = widen(bind(declared, known, training=True), rules)
    graph, _ = simplify(graph, rules)
    program = lower(plan_memory(schedule(graph, LIKES)))
    return print_program(program, number_draws(declared.nodes), known)


# -- NVRTC


def check_compiles(program: CudaProgram, arch: str) -> None:
    """A program compiles, and no kernel of it spills registers."""
    usage = resource_usage(splice(program.text), arch)
    kernels = set(re.findall(r"__global__ void __launch_bounds__\(\d+\)\n(\w+)\(", program.text))
    assert set(usage) == kernels
    assert kernels >= {x.function for x in program.launches if isinstance(x, KernelLaunch)}
    assert {name: u.spilled for name, u in usage.items() if u.spilled} == {}


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(("arch", "size"), [*all_of(GENERATIONS, SIZES)], ids=str)
def test_every_form_compiles(arch: str, size: tuple[int, int]) -> None:
    check_compiles(printed([node for made in forms(*size).values() for node in made]), arch)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(("arch", "first"), [*all_of(GENERATIONS, range(0, 100, AT_ONCE))])
def test_random_graphs_compile(arch: str, first: int) -> None:
    program = merged([random_graph(seed) for seed in range(first, first + AT_ONCE)])
    check_compiles(printed(program.outputs, program.updates), arch)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes_compile(dtype: str) -> None:
    program = merged([random_graph(seed, dtype) for seed in range(AT_ONCE)])
    check_compiles(printed(program.outputs, program.updates), "sm_90")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(("rows", "index"), [((1 << 15) - 1, "int"), (1 << 15, "int64_t")])
def test_indices_are_wide_where_there_are_many_elements(rows: int, index: str) -> None:
    x = gx.input("x", (rows, 1 << 15))
    for node in (gx.softmax(x), x.sum(0), x.sum(), x.T + 1, gx.concatenate([x, x[:1]])):
        check_compiles(printed([node]), "sm_90")
    assert f"gx_first<{index}>" in printed([gx.exp(x)]).text


def vector_moves(program: CudaProgram) -> dict[str, tuple[list[str], list[str]]]:
    """For each kernel the loads and the stores of vectors in its PTX: "v4.f32"."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    _, *parts = re.split(r"\.entry (\w+)\(", compile_ptx(splice(program.text), "sm_90"))
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        loads, stores = (
            re.findall(rf"{which}\.global(?:\.nc)?\.(v\d\.\w+)", text) for which in ("ld", "st")
        )
        found[name] = loads, stores
    return found


VECTORS = [
    ("float32", (1000, 64), "v4.f32"), ("float64", (1000, 64), "v2.f64"),
    ("float16", (1000, 64), "v4.u32"), ("bfloat16", (1000, 64), "v4.u32"),
    ("int32", (1000, 64), "v4.u32"), ("float32", (64001,), "v4.f32"),
]  # fmt: skip


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(("dtype", "shape", "vector"), VECTORS, ids=str)
def test_neighbours_move_together(dtype: str, shape: tuple[int, ...], vector: str) -> None:
    x, y = gx.input("x", shape, dtype), gx.input("y", shape, dtype)
    (moves,) = vector_moves(printed([x * y])).values()
    loads, stores = moves
    assert loads
    assert len(loads) == 2 * len(stores), moves
    assert {*loads, *stores} == {vector}


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(("columns", "vector"), [(64, "v4.f32"), (66, "v2.f32")])
def test_rows_bound_vectors(columns: int, vector: str) -> None:
    x, row = gx.input("x", (100, columns)), gx.input("row", (columns,))
    (moves,) = vector_moves(printed([x + row])).values()
    assert {move for some in moves for move in some} == {vector}


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers_wrap_around(dtype: str) -> None:
    """The compiler does not hold k + 1 > k for true, nor k * k >= 0, and need not load k then."""
    k = gx.input("k", (1024,), dtype)
    for made in (k + 1 > k, k * k >= 0):
        ((loads, _),) = vector_moves(printed([made])).values()
        assert loads


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    ("join", "vectors"),
    [
        (lambda x, y: gx.concatenate([x, y]), {"v4.f32"}),
        (lambda x, y: gx.concatenate([x, y[:, :6]], 1), {"v2.f32"}),
        (lambda x, y: gx.pad(x[:, 2:], 4), {"v2.f32"}),
        (lambda x, _: gx.pad(x, 1), set()),
    ],
)
def test_joins_move_vectors(join: Any, vectors: set[str]) -> None:
    x, y = gx.input("x", (10, 8)), gx.input("y", (10, 8))
    found = vector_moves(printed([join(x, y)]))
    ((loads, stores),) = (moves for name, moves in found.items() if "fill" not in name)
    assert loads == stores
    assert {*loads} == vectors


@pytest.mark.usefixtures("nvrtc")
def test_a_row_is_read_once() -> None:
    """A row that fits into registers: one load of each element for all stages."""
    x, labels = gx.input("x", (512, 1024)), gx.input("labels", (512,), "int32")
    loss = gx.softmax_cross_entropy(x, labels)
    moves = vector_moves(printed([loss, gx.grad(loss, x)]))
    loads, stores = next(m for name, m in moves.items() if "exp" in name)
    assert loads.count("v4.f32") == 8  # 32 threads with 8 vectors of 4
    assert stores.count("v4.f32") == 8


# -- one text for all sizes


def symbolic_step() -> tuple[dict[str, gx.Node], dict[gx.Param, gx.Node]]:
    rng = np.random.default_rng(0)
    x, labels = gx.input("x", ("batch", 64)), gx.input("labels", ("batch",), "int32")
    w, b = gx.param("w", rng.standard_normal((64, 32))), gx.param("b", np.zeros(32, "float32"))
    v = gx.param("v", rng.standard_normal((32, 10)).astype("float32"))
    h = gx.dropout(gx.relu(x @ w.astype("float32") + b), 0.5)
    loss = gx.softmax_cross_entropy(h @ v, labels)
    return {"loss": loss}, {
        p: p - 0.1 * g for p, g in zip([b, v], gx.grad(loss, [b, v]), strict=True)
    }


def test_a_new_batch_size_gives_the_same_text() -> None:
    outputs, updates = symbolic_step()
    programs = [printed(outputs, updates, {"batch": n}) for n in (37, 64, 100, 5000, 100_000)]
    assert len({p.text for p in programs}) == 1
    assert len({p.launches for p in programs}) == len(programs)


# -- launches


def test_a_training_step() -> None:
    """A product is a launch of the library's; all parameters are updated by one launch."""
    step = training_step()
    program = printed(step.outputs, step.updates)
    products = [x for x in program.launches if isinstance(x, ProductLaunch)]
    assert len(products) == 8
    assert len(program.launches) == 16
    last = program.launches[-1]
    assert isinstance(last, KernelLaunch)
    assert "slab" in program.kernel_sources[last.kernel]


def test_layers_alike_share_functions() -> None:
    h = gx.input("x", (64, 128))
    for i in range(10):
        h = gx.tanh(h @ gx.param(f"w{i}", np.eye(128, dtype="float32")) + 1)
    program = printed([h])
    assert len({x.function for x in program.launches if isinstance(x, KernelLaunch)}) == 1
    assert program.text.count("__global__") == 1


@pytest.mark.parametrize(
    ("a", "b", "kinds"),
    [
        (lambda x: x, lambda x: x, {ProductLaunch}),
        (lambda x: x[:, :0], lambda x: x[:0], {FillLaunch}),
        (lambda x: x[:0], lambda x: x, set()),
        (lambda x: x.astype("int32"), lambda x: x.astype("int32"), {KernelLaunch}),
    ],
)
def test_how_products_are_done(a: Any, b: Any, kinds: set[type]) -> None:
    x, y = gx.input("x", (8, 6)), gx.input("y", (6, 4))
    launches = printed([a(x) @ b(y)]).launches
    assert {type(x) for x in launches} == kinds


def test_scratch_is_shared_by_kernels() -> None:
    x = gx.input("x", (4096, 64))
    one, two = printed([x.sum(0)]), printed([x.sum(0), (x * x * x).sum(0), gx.exp(x + 1).sum()])
    assert one.partials
    assert len(two.partials) == 1


# -- what it reads like


def test_golden_kernels(golden: Any) -> None:
    """Kernels as a learner reads them: rows, columns by chunks, a transpose by tiles."""
    x, labels = gx.input("x", (128, 100)), gx.input("labels", (128,), "int32")
    scale = gx.param("scale", np.ones(100, "float32"))
    loss = gx.softmax_cross_entropy(gx.tanh(x * scale), labels)
    program = printed(
        {"loss": loss, "turned": x.T * 2}, {scale: scale - 0.1 * gx.grad(loss, scale)}
    )
    golden("digits_kernels.cu", program.text)
