"""The C of the ops, compiled: against their `eval`, and against exact values."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc.errors import DTypeError
from graphc.ir.node import Node
from graphc.ir.op import OPS, Kind, Op
from graphc.ir.philox import Draws
from graphc.ir.tensor_type import DTYPES, NARROW, DType
from graphc.resources import load_bench

load_bench()
from graphc_bench import accuracy  # noqa: E402

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


# -- how accurate the functions are, and that a loop over them can be cut anywhere

HOT = ("exp", "exp2", "expm1", "log", "log2", "log1p", "tanh", "sigmoid", "softplus", "sqrt",
       "rsqrt", "erf", "erfc", "sinh", "cosh", "arctan", "sin", "cos", "tan", "power")  # fmt: skip
FUSED = (
    "gx_tanh_f32(x[i] * y[i] + x[i]) * gx_sigmoid_f32(x[i]) + gx_maximum_f32(y[i], 0) * x[i]",
    "x[i] * gx_tanh_f32(gx_softplus_f32(x[i]))",
    "-(y[i] * gx_log_f32(gx_maximum_f32(x[i], 1.2e-38f)))",
    "x[i] > 0 ? x[i] : gx_expm1_f32(gx_minimum_f32(x[i], 0))",
    "0.5f * x[i] * gx_erfc_f32(-x[i] * 0.70710678f)",
    "gx_power_f32(gx_maximum_f32(x[i], 0), 0.5f) + gx_power_f32(y[i], 3)",
    "gx_sign_f32(x[i]) * gx_log1p_f32(gx_abs_f32(x[i]))",
)  # choices before and after a function, which compilers like to turn into branches
FEW = {"stride": 30011, "exact": 100}
WORST = 4.0  # units in the last place


@pytest.fixture(scope="module", params=["float32", "float64"])
def functions(request: pytest.FixtureRequest) -> tuple[list[accuracy.Function], np.dtype]:
    dtype = np.dtype(request.param)
    return accuracy.compiled(accuracy.REFERENCES, dtype), dtype


def test_within_four_units_and_specials_as_numpy(functions: Any) -> None:
    rows = accuracy.measure(*functions, **FEW)
    assert {r.name for r in rows} == set(accuracy.REFERENCES) - set(accuracy.COMPOSITES)
    assert not [r for r in rows if r.ulp > WORST or not r.specials]


def test_planted_errors_are_found(functions: Any) -> None:
    compiled, dtype = functions
    tanh = dict(compiled)["tanh"]
    planted = {
        "five units off": lambda x: tanh(x) * dtype.type(1 + 10 * np.finfo(dtype).eps),
        "flushed": lambda x: np.where(np.abs(x) < np.finfo(dtype).tiny, 0, tanh(x)),
        "no -0": lambda x: tanh(x) + 0,
        "no NaN": lambda x: np.nan_to_num(tanh(x)),
        "wrong far out": lambda x: np.where(np.abs(x) > 1e30, 0.5, tanh(x)),
    }
    for fault, function in planted.items():
        (row,) = accuracy.measure([("tanh", function)], dtype, **FEW)
        assert row.ulp > WORST or not row.specials, fault


def test_composites_can_be_measured() -> None:
    silu = ("silu", lambda x: x * gx.sigmoid.eval(np, x))
    (row,) = accuracy.measure([silu], np.dtype("float32"), **FEW)
    assert row.name == "silu"


def test_a_loop_can_be_cut_anywhere(functions: Any) -> None:
    """The elements alone, one at a time, have the bits they have in a vector."""
    compiled, dtype = functions
    rng = np.random.default_rng(2)
    x = np.concatenate([accuracy.SPECIAL, rng.normal(size=30), 1e5 * rng.normal(size=8)])
    x = x.astype(dtype)
    y = rng.permutation(x)
    for name, function in compiled:
        whole = function(x, y)
        alone = np.concatenate([function(x[i : i + 1], y[i : i + 1]) for i in range(x.size)])
        assert np.array_equal(whole, alone, equal_nan=True), name


def test_float32_loops_vectorise(root: Path, tmp_path: Path) -> None:
    version = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True)
    machine = subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True, check=True)
    if int(version.stdout.split(".")[0]) < 12 or not machine.stdout.startswith("x86_64"):
        pytest.skip("measured with gcc 12 on x86-64")
    flags = [f if f != "-march=native" else "-march=x86-64-v3" for f in accuracy.FLAGS]
    expressions = [OPS[name].c.format("x[i]", "y[i]", t="f32") for name in HOT]
    for expression in (*expressions, *FUSED):
        source = tmp_path / "loop.c"
        source.write_text(
            '#include "scalar.h"\nvoid f(const float *x, const float *y, float *out, int64_t n) {\n'
            f"(void)y; for (int64_t i = 0; i < n; i++) out[i] = {expression};\n}}\n"
        )
        command = ["gcc", *flags, "-fopt-info-vec", f"-I{root / 'kernels'}", "-c", source,
                   "-o", tmp_path / "out.o"]  # fmt: skip
        told = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        assert "loop vectorized" in told.stderr, expression


# -- reductions, 16-bit storage, random draws

REDUCTIONS = [
    (op, dtype) for op in OPS.values() if op.kind is Kind.REDUCTION for dtype in COMPUTED
    if op(x := gx.input("x", (2,), dtype), 0).inputs[0] is x  # else it casts first
]  # fmt: skip
RESULTS = {"uniform": ("float32", "float64"), "normal": ("float32", "float64"),
           "bernoulli": ("bool",)}  # fmt: skip
CONVERSIONS = {"from_f16": ("uint16_t", "float"), "to_f16": ("float", "uint16_t"),
               "from_bf16": ("uint16_t", "float"), "to_bf16": ("float", "uint16_t")}  # fmt: skip


def reduction(number: int, op: Op[...], dtype: DType) -> str:
    """A C function that reduces an array as generated code does; into `out`."""
    T, t = C_TYPES[dtype.name], SUFFIXES[dtype.name]  # noqa: N806
    start = op.start.format(t=t) if op.identity is None else str(op.identity)
    index = not op.combine
    step = f"best = {op.c.format('best', 'x[i]', t=t)};"
    if index:
        step = f"if ({op.c.format('x[i]', 'best', t=t)}) {{ best = x[i]; at = i; }}"
    return (
        f"void reduction{number}(const {T} *x, int64_t n, {'int64_t' if index else T} *out) {{\n"
        f"    {T} best = ({T}){start}; int64_t at = 0;\n"
        f"    for (int64_t i = 0; i < n; i++) {step}\n"
        f"    (void)at; *out = {'at' if index else 'best'};\n}}\n"
    )


def draw(name: str, dtype: str) -> str:
    call = OPS[name].c.format(
        "out", "first", "count", "state", r=SUFFIXES[dtype], threshold="threshold"
    )
    return (
        f"void {name}_{dtype}({C_TYPES[dtype]} *out, int64_t first, int64_t count, "
        f"const uint32_t *state, uint32_t threshold) {{ (void)threshold; {call}; }}\n"
    )


@pytest.fixture(scope="module", params=["-O2", "-O3 -march=native -fno-trapping-math"])
def parts(request: Any, tmp_path_factory: pytest.TempPathFactory, root: Path) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("parts")
    texts = [reduction(i, op, dtype) for i, (op, dtype) in enumerate(REDUCTIONS)]
    texts += [draw(name, dtype) for name, dtypes in RESULTS.items() for dtype in dtypes]
    texts += [
        f"void {name}(const {source} *x, {target} *out, int64_t n) {{\n"
        f"    for (int64_t i = 0; i < n; i++) out[i] = gx_{name}(x[i]);\n}}\n"
        for name, (source, target) in CONVERSIONS.items()
    ]
    source, library = folder / "parts.c", folder / "parts.so"
    source.write_text('#include "random.h"\n\n' + "\n".join(texts))
    flags = [f for f in FLAGS if f != "-O2"] + request.param.split()
    command = ["gcc", *flags, "-shared", "-fPIC", f"-I{root / 'kernels'}", source, "-o", library]
    subprocess.run([*map(str, command), "-lm"], check=True)
    return ctypes.CDLL(str(library))


def pointers(*arrays: np.ndarray) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(a.ctypes.data) for a in arrays]


@pytest.mark.parametrize(
    "number", range(len(REDUCTIONS)), ids=[f"{op.name}-{dtype}" for op, dtype in REDUCTIONS]
)
def test_reduction(number: int, parts: ctypes.CDLL) -> None:
    op, dtype = REDUCTIONS[number]
    assert op.eval is not None
    rows: list[list[Any]] = [[3, 1, 3, 0], [-2, 5, 5, -2], [1, 1], [0]]
    if dtype.kind == "f":
        inf, nan = np.inf, np.nan
        rows += [[inf, -inf], [-inf, -inf], [1, nan, 2, nan], [nan, 9], [-inf, nan], [inf, inf]]
    elif dtype.kind == "i":
        rows += [[np.iinfo(dtype).min] * 2, [np.iinfo(dtype).max] * 2]
    for row in rows:
        x = np.array(row).astype(dtype)
        with np.errstate(all="ignore"):
            expected = np.asarray(op.eval(np, x, axes=(0,)))
        got = np.empty((), expected.dtype)
        source, target = pointers(x, got)
        parts[f"reduction{number}"](source, ctypes.c_int64(x.size), target)
        assert np.array_equal(got, expected, equal_nan=dtype.kind == "f"), row


def test_sixteen_bits(parts: ctypes.CDLL) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    halves = np.arange(2**16, dtype=np.uint16)
    edges = np.concatenate([(halves.astype(np.uint32) << 16) + d for d in (0, 1, 0x7FFF, 0x8000)])
    edges = np.concatenate([edges, (halves.astype(np.uint32) << 13) + 0x1000])
    bits = np.concatenate([edges, np.arange(0, 2**32, 10007, dtype=np.uint32)])
    floats = bits.astype(np.uint32).view(np.float32)
    for name, half in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        wide = np.empty(halves.size, np.float32)
        parts[f"from_{name}"](*pointers(halves, wide), ctypes.c_int64(halves.size))
        with np.errstate(all="ignore"):
            assert np.array_equal(wide, halves.view(half).astype(np.float32), equal_nan=True)
            expected = floats.astype(half)
        narrow = np.empty(floats.size, np.uint16)
        parts[f"to_{name}"](*pointers(floats, narrow), ctypes.c_int64(floats.size))
        nan = np.isnan(floats)
        assert np.array_equal(narrow[~nan], expected.view(np.uint16)[~nan])
        assert np.isnan(narrow.view(half)[nan].astype(np.float32)).all()


@pytest.mark.parametrize(("name", "dtype"), [(n, t) for n in RESULTS for t in RESULTS[n]])
def test_draws_have_the_bits_of_the_reference(name: str, dtype: str, parts: ctypes.CDLL) -> None:
    seed, step, groups, p = 0x123456789ABCDEF, (7 << 32) + 5, 2000, 0.3
    words = Draws(seed, step, {1: 3}).words(1, 0, groups)
    attrs = {"dtype": np.dtype(dtype), "shape": (), "identity": 1}
    evaluate = OPS[name].eval
    assert evaluate is not None
    expected = evaluate(np, words, **attrs, **({"p": p} if name == "bernoulli" else {}))
    low = 0xFFFFFFFF
    state = np.array([seed & low, seed >> 32, 3, step & low, step >> 32], np.uint32)
    threshold = ctypes.c_uint32(round(p * 2**24))
    for first, count in ((0, 4 * groups), (1, 2), (3, 5), (5, 1003), (7, 1), (8, 4), (2, 0)):
        got = np.zeros(count, dtype)
        out, words_of_state = pointers(got, state)
        place = ctypes.c_int64(first), ctypes.c_int64(count)
        parts[f"{name}_{dtype}"](out, *place, words_of_state, threshold)
        wanted = expected[first : first + count]
        if name == "normal":
            np.testing.assert_array_max_ulp(got, wanted, maxulp=8)
        else:
            assert np.array_equal(got, wanted)


def test_records_of_reductions_and_draws_have_their_c() -> None:
    for op in OPS.values():
        if op.kind is Kind.REDUCTION:
            assert op.c
            assert op.start or op.identity is not None
        elif op.kind is Kind.RANDOM:
            assert op.c
