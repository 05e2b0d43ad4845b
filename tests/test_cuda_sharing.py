"""The CUDA dialect: threads that share a row read what they need before one of them writes over it,
and what a name of the user's becomes is a name in CUDA C, too."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_cuda_codegen import check_compiles, printed

import graphc as gx
from graphc import backends
from graphc.backends.base import Availability
from graphc.backends.cuda.cuda_backend import backend_on
from graphc.backends.cuda.emulated_device import EmulatedDevice
from graphc.backends.cuda.emulated_module import ORDERS
from graphc.backends.cuda.nvrtc import compile_ptx
from graphc.codegen.cuda import print_program
from graphc.codegen.sources import splice
from graphc.ir.graph import Graph

ROWS, COLUMNS = 19, 100


@pytest.fixture(params=ORDERS)
def ordered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that runs the threads of a block in some order."""
    device = EmulatedDevice(request.param)
    made = backend_on(
        "ordered", lambda: device, lambda: Availability(True, "emulated"),
        lambda program, options: print_program(program, options.numbers, options.sizes),
    )  # fmt: skip
    monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "ordered": made})
    return "ordered"


def ptx_of(nodes: list[gx.Node]) -> str:
    return compile_ptx(splice(printed(nodes).text), "sm_90")


def compare(node: gx.Node, backend: str) -> None:
    """The same on NumPy and on another backend."""
    rng = np.random.default_rng(0)
    inputs = {n.name: n for n in Graph.of({"out": node}).inputs}
    arrays = {
        name: rng.standard_normal(n.shape).astype("float32")  # type: ignore[arg-type]
        if name == "x"
        else rng.integers(0, COLUMNS, ROWS).astype("int32")
        for name, n in inputs.items()
    }
    exe = gx.compile(node, backend=backend)
    have, want = exe(**arrays), gx.compile(node, backend="numpy")(**arrays)
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_a_gather_precedes_stores_in_place(ordered: str) -> None:
    """Each thread reads the element of the label, which one of them writes over."""
    x, labels = gx.input("x", (ROWS, COLUMNS)), gx.input("labels", (ROWS,), "int32")
    one = gx.const(np.eye(COLUMNS, dtype="float32"))
    made = 2 * (x @ one)
    compare((made - gx.pick(made, labels)[:, None]) @ one, ordered)


def test_a_gather_from_what_threads_keep(ordered: str) -> None:
    """What other threads keep in registers cannot be read directly."""
    x, labels = gx.input("x", (ROWS, COLUMNS)), gx.input("labels", (ROWS,), "int32")
    compare(gx.pick(gx.softmax(x), labels), ordered)


def test_rows_done_twice_write_once() -> None:
    """Threads past the last row repeat it: they must not write what others keep in scratch."""
    x = gx.input("x", (ROWS, 8))
    kept = [gx.tanh(x * k) for k in range(1, 20)]
    text = printed([sum((y * y.sum(1, keepdims=True) for y in kept[1:]), kept[0])]).text
    written = re.findall(r"^.*tanh_\d+_row\w*\[8 \* i \+ j\] = .*$", text, re.MULTILINE)
    assert len(written) > 16
    assert all(line.strip().startswith("if (active) ") for line in written)


NAMES = ["n", "e", "class", "new", "this", "state_0", "number_0", "size_batch", "threadIdx", "int"]


@pytest.mark.usefixtures("nvrtc")
def test_names_of_inputs_are_no_words_of_cuda() -> None:
    labels, outputs = gx.input("labels", (8,), "int32"), list[gx.Node]()
    for name in NAMES:
        x = gx.input(name, (8, 100))
        loss = gx.softmax_cross_entropy(x, labels)
        outputs += [loss, gx.grad(loss, x), gx.exp(x).sum(0), x.T + 1, gx.dropout(x, 0.5)]
    check_compiles(printed(outputs), "sm_90")


@pytest.mark.usefixtures("nvrtc")
def test_columns_load_several_rows_before_they_store() -> None:
    x, y = gx.input("x", (4096, 64)), gx.input("y", (4096, 64))
    made = gx.where(x > 0, y, 0.0)
    (text,) = re.findall(r"\.entry \w+_chunks\(.*?\n}", ptx_of([made, made.sum(0)]), re.DOTALL)
    moves = re.findall(r"\b(ld|st)\.global", text)
    assert moves[: moves.index("st")].count("ld") == 8


@pytest.mark.parametrize("rows", [1, 31, 33, 300])
def test_columns_in_place(ordered: str, rows: int) -> None:
    """The masked gradient takes the place of what it is made from."""
    x, one = gx.input("x", (rows, 40)), gx.const(np.eye(40, dtype="float32"))
    made = gx.where(x > 0, x @ one, 0.0)
    compare(made.sum(0) + (made @ one).sum(0), ordered)
