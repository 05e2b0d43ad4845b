"""The C expressions of the elementwise ops, compiled, against their `eval`."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import graphc as gx
from graphc.errors import DTypeError
from graphc.ir.node import Node
from graphc.ir.op import OPS, Kind, Op
from graphc.ir.tensor_type import DTYPES, NARROW, DType

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

COMPUTED = [d for d in DTYPES if d not in NARROW]  # 16-bit floats are only loaded and stored
C_TYPES = {"bool": "bool", "int32": "int32_t", "int64": "int64_t", "float32": "float",
           "float64": "double"}  # fmt: skip
SUFFIXES = {"bool": "b8", "int32": "i32", "int64": "i64", "float32": "f32", "float64": "f64"}
FLOATING = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-40, 3e38, 88.0, -103.0]
WHOLE = [0, 1, -1, 2, 3, -7, 9]
FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=c99", "-ffp-contract=off"]


def values(dtype: DType, rng: np.random.Generator) -> np.ndarray:
    if dtype.kind == "f":
        return np.concatenate([FLOATING, rng.normal(size=8), rng.uniform(0, 9, 4)]).astype(dtype)
    return np.array(WHOLE).astype(dtype)


def rows() -> list[tuple[Op[...], Node]]:
    """Each elementwise op on operands of each dtype that its record takes as it is."""
    found: list[tuple[Op[...], Node]] = []
    for op in OPS.values():
        if op.kind is not Kind.ELEMENTWISE:
            continue
        for dtype in COMPUTED:
            x, c = gx.input("x", (1,), dtype), gx.input("c", (1,), "bool")
            two = "y" in op.__signature__.parameters
            for operands in ([c, x, x],) if op is gx.where else ([x, x],) if two else ([x],):
                targets = [t for t in COMPUTED if t != dtype] if op is gx.astype else [None]
                for target in targets:
                    try:
                        node = op(*operands, *([target] if target else []))
                    except DTypeError:  # bits of floats
                        continue
                    taken = all(a is b for a, b in zip(node.inputs, operands, strict=False))
                    if node.op is op and taken:
                        found.append((op, node))
    return found


ROWS = rows()


def function(name: str, op: Op[...], node: Node) -> str:
    """A C function that applies the op's expression to whole arrays."""
    types = [C_TYPES[i.dtype.name] for i in node.inputs]
    first, result = node.inputs[0].dtype.name, node.dtype.name
    expression = op.c.format(
        *[f"x{i}[i]" for i in range(len(types))], T=C_TYPES[first], t=SUFFIXES[first],
        R=C_TYPES[result], r=SUFFIXES[result],
    )  # fmt: skip
    operands = "".join(f"const {t} *x{i}, " for i, t in enumerate(types))
    unused = "".join(f"(void)x{i}; " for i in range(len(types)))
    return (
        f"void {name}({operands}{C_TYPES[result]} *out, int64_t n) {{ {unused}\n"
        f"    for (int64_t i = 0; i < n; i++) out[i] = {expression};\n}}\n"
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, root: Path) -> ctypes.CDLL:
    """All functions in one library."""
    folder = tmp_path_factory.mktemp("scalar")
    texts = [function(f"row{i}", op, node) for i, (op, node) in enumerate(ROWS)]
    source, library = folder / "rows.c", folder / "rows.so"
    source.write_text('#include "scalar.h"\n\n' + "\n".join(texts))
    command = ["gcc", *FLAGS, "-shared", "-fPIC", f"-I{root / 'kernels'}", source, "-o", library]
    subprocess.run([*map(str, command), "-lm"], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize(
    "number", range(len(ROWS)), ids=[f"{op.name}-{n.inputs[-1].dtype}" for op, n in ROWS]
)
def test_expression(number: int, compiled: ctypes.CDLL) -> None:
    op, node = ROWS[number]
    rng = np.random.default_rng(1)
    columns = [values(i.dtype, rng) for i in node.inputs]
    operands = [np.ascontiguousarray(a).ravel() for a in np.meshgrid(*columns, indexing="ij")]
    if op is gx.power and node.dtype.kind == "i":
        operands[1] = abs(operands[1])
    if op is gx.astype and node.dtype.kind == "i":  # out of range is undefined in C
        operands = [a[np.isfinite(a) & (np.abs(a) < 2**31)] for a in operands]
    with np.errstate(all="ignore"):
        assert op.eval is not None
        expected = np.asarray(op.eval(np, *operands, **dict(node.attrs)))
    assert expected.dtype == node.dtype
    got = np.empty(expected.shape, node.dtype)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*operands, got)]
    getattr(compiled, f"row{number}")(*pointers, ctypes.c_int64(got.size))
    if node.dtype.kind == "f":
        relative = 1e-6 if node.dtype == "float32" else 1e-14
        np.testing.assert_allclose(got, expected, rtol=relative, atol=np.finfo(node.dtype).tiny)
        if op not in (gx.maximum, gx.minimum, gx.relu):  # of 0 and -0 either is the larger
            zero = expected == 0
            assert np.array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))
    else:
        assert np.array_equal(got, expected)


def test_rows_cover_all_elementwise_ops() -> None:
    assert {op for op, _ in ROWS} == {o for o in OPS.values() if o.kind is Kind.ELEMENTWISE}
    assert len(ROWS) > 100
