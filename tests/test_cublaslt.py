"""Matrix products by cuBLASLt's interface, on the library that stands in for it, against NumPy."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.backends.cuda.cublaslt import CublasLt, Multiplier, Plan, alignment_of, describe
from graphc.backends.cuda.device import DeviceError
from graphc.backends.cuda.libraries import load_stand_in
from graphc.codegen.launches import EPILOGUES, Product

DTYPES = {
    "float32": np.dtype("float32"),
    "float64": np.dtype("float64"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
WORKSPACE = 1 << 16


@pytest.fixture(scope="module")
def library() -> CublasLt:
    """The binding over the stand-in; skips, saying why, where no C compiler is."""
    import graphc as gx

    found = gx.devices()["native"]
    if not found.usable:
        pytest.skip(f"no C compiler for the stand-in: {found.reason}")
    return CublasLt(load_stand_in())


def aligned(nbytes: int, offset: int = 0) -> np.ndarray:
    """Bytes that start `offset` bytes after a multiple of 256."""
    room = np.zeros(nbytes + offset + 256, np.uint8)
    start = -room.ctypes.data % 256 + offset
    return room[start : start + nbytes]


@pytest.fixture(scope="module")
def workspace() -> Iterator[tuple[int, int]]:
    room = aligned(WORKSPACE)
    yield room.ctypes.data, WORKSPACE
    assert room.size == WORKSPACE


def product(m: int, k: int, n: int, dtype: str = "float32", **other: Any) -> Product:
    """A product of packed matrices; `pad`: elements after each row."""
    pad = other.pop("pad", 0)
    at, bt = other.get("a_transposed", False), other.get("b_transposed", False)
    a_row, b_row, c_row = (m if at else k) + pad, (k if bt else n) + pad, n + pad
    known = {"result": dtype, **other}
    if known.get("batch", 1) > 1:
        steps = (k if at else m) * a_row, (n if bt else k) * b_row, m * c_row
        known = {**dict(zip(("a_step", "b_step", "c_step"), steps, strict=True)), **known}
    return Product(m, n, k, a_row, b_row, c_row, dtype, **known)


@dataclass
class Operands:
    """Random arrays of a product, and what NumPy makes of them in float64."""

    it: Product
    offset: int = 0

    def __post_init__(self) -> None:
        p, self.random = self.it, np.random.default_rng(7)
        self.a = self.fill(p.dtype, *self.stored("a"), p.a_row, p.a_step)
        self.b = self.fill(p.dtype, *self.stored("b"), p.b_row, p.b_step)
        self.c = self.fill(p.result, p.m, p.n, p.c_row, p.c_step)
        self.bias = self.fill(p.result, 1, p.n, 0, 0, offset=0)

    def stored(self, name: str) -> tuple[int, int]:
        """Rows and columns of an operand as they lie in memory."""
        p = self.it
        shape = (p.m, p.k) if name == "a" else (p.k, p.n)
        return shape[::-1] if getattr(p, f"{name}_transposed") else shape

    def fill(
        self, dtype: str, rows: int, columns: int, row: int, step: int, offset: int = -1
    ) -> np.ndarray:
        size = step * (self.it.batch - 1) + row * (rows - 1) + columns
        values = self.random.standard_normal(size).astype(DTYPES[dtype])
        room = aligned(values.nbytes, self.offset if offset < 0 else offset).view(DTYPES[dtype])
        room[:] = values
        return room

    def run(self, library: CublasLt, workspace: tuple[int, int], alignment: int = 16) -> Plan:
        plan = Plan(library, self.it, workspace, alignment)
        self.execute(plan)
        return plan

    def execute(self, plan: Any) -> None:
        bias = self.bias.ctypes.data if "BIAS" in self.it.epilogue else 0
        plan(self.a.ctypes.data, self.b.ctypes.data, self.c.ctypes.data, bias, 0)

    def operand(self, name: str, i: int) -> np.ndarray:
        """Matrix i of a stack, in float64."""
        p, flat = self.it, getattr(self, name).astype(np.float64)
        rows, columns = self.stored(name)
        row, start = getattr(p, f"{name}_row"), i * getattr(p, f"{name}_step")
        matrix = np.stack([flat[start + j * row :][:columns] for j in range(rows)])
        return matrix.T if getattr(p, f"{name}_transposed") else matrix

    def expected(self) -> np.ndarray:
        """All of c, gaps between its rows included, after the product."""
        p, whole = self.it, self.c.astype(np.float64)
        for i in range(p.batch):
            c = p.alpha * self.operand("a", i) @ self.operand("b", i)
            for j in range(p.m):
                row = whole[i * p.c_step + j * p.c_row :][: p.n]
                row[:] = c[j] + (p.beta * row if p.beta else 0)
                if "BIAS" in p.epilogue:
                    row += self.bias.astype(np.float64)
                if "RELU" in p.epilogue:
                    np.maximum(row, 0, out=row)
        return whole


def check(library: CublasLt, workspace: tuple[int, int], it: Product, alignment: int = 16) -> None:
    operands = Operands(it, offset=alignment % 256)
    expected = operands.expected()
    operands.run(library, workspace, alignment)
    tolerance = TOLERANCE[it.result]
    np.testing.assert_allclose(
        operands.c.astype(np.float64), expected, tolerance, tolerance, err_msg=describe(it)
    )


SHAPES = [
    (1, 1, 1),
    (1, 5, 1),
    (3, 1, 7),
    (1, 4, 9),
    (9, 4, 1),
    (5, 3, 2),
    (16, 8, 32),
    (33, 17, 9),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_shapes_and_transposes(
    library: CublasLt, workspace: tuple[int, int], dtype: str, transposed: str
) -> None:
    turned = {f"{name}_transposed": True for name in transposed}
    for shape in SHAPES:
        for pad in (0, 3):
            check(library, workspace, product(*shape, dtype, pad=pad, **turned))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_with_a_result_of_float32(
    library: CublasLt, workspace: tuple[int, int], dtype: str
) -> None:
    check(library, workspace, product(7, 33, 5, dtype, result="float32"))
    check(library, workspace, product(7, 33, 5, dtype, result="float32", epilogue="RELU_BIAS"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1.0, -0.5])
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.25])
def test_alpha_and_beta(
    library: CublasLt, workspace: tuple[int, int], dtype: str, alpha: float, beta: float
) -> None:
    check(library, workspace, product(4, 6, 5, dtype, alpha=alpha, beta=beta, pad=1))


def test_without_beta_the_old_result_is_not_read(
    library: CublasLt, workspace: tuple[int, int]
) -> None:
    operands = Operands(product(3, 4, 5))
    operands.c[:] = np.nan
    operands.run(library, workspace)
    assert np.isfinite(operands.c).all()


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues(
    library: CublasLt, workspace: tuple[int, int], epilogue: str, dtype: str
) -> None:
    for shape in ((1, 3, 1), (4, 3, 6), (6, 3, 4)):
        for beta in (0.0, 0.5):
            check(library, workspace, product(*shape, dtype, epilogue=epilogue, beta=beta))
    stack = product(4, 3, 6, dtype, epilogue=epilogue, batch=3, a_transposed=True)
    check(library, workspace, stack)


@pytest.mark.parametrize(
    "steps", [{}, {"a_step": 0}, {"b_step": 0}, {"a_step": 0, "b_step": 0}, {"c_step": 64}]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_stacks(
    library: CublasLt, workspace: tuple[int, int], steps: dict[str, int], transposed: bool
) -> None:
    both = {"a_transposed": transposed, "b_transposed": not transposed}
    check(library, workspace, product(3, 4, 5, batch=4, beta=0.5, **both, **steps))


def test_a_single_row_has_no_distance_to_the_next(
    library: CublasLt, workspace: tuple[int, int]
) -> None:
    check(library, workspace, replace(product(1, 4, 5), a_row=0, c_row=0))
    check(library, workspace, replace(product(4, 1, 5), b_row=0))


def test_precisions_differ(library: CublasLt, workspace: tuple[int, int]) -> None:
    errors: list[float] = []
    for precision in ("float32", "tf32", "bf16"):
        operands = Operands(product(16, 64, 16, precision=precision))
        expected = operands.expected()
        operands.run(library, workspace)
        errors.append(float(np.abs(operands.c - expected).max()))
    assert errors[0] < 1e-5 < errors[1] < 3e-2
    assert 2 * errors[1] < errors[2] < 0.2


# -- alignment, workspace, bias


def test_alignment_of_addresses() -> None:
    assert alignment_of(512, 1024) == 256
    assert alignment_of(512, 1024 + 16, 32) == 16
    assert alignment_of(256 + 4) == 4
    assert alignment_of() == 256


@pytest.mark.parametrize("alignment", [4, 8, 16, 256])
def test_each_alignment_works_as_promised(
    library: CublasLt, workspace: tuple[int, int], alignment: int
) -> None:
    check(library, workspace, product(4, 3, 5), alignment)


def test_broken_promise_is_refused(library: CublasLt, workspace: tuple[int, int]) -> None:
    operands = Operands(product(4, 3, 5), offset=4)
    with pytest.raises(DeviceError, match=r"cublasLtMatmul gives CUBLAS_STATUS_NOT_SUPPORTED"):
        operands.run(library, workspace, 16)


def test_multiplier_goes_by_the_addresses(library: CublasLt, workspace: tuple[int, int]) -> None:
    it = product(4, 3, 5, epilogue="BIAS")
    streams: list[int] = []
    multiply = Multiplier(library, it, workspace, lambda: streams.append(3) or 3)
    for offset in (0, 4, 16, 8, 32):
        operands = Operands(it, offset)
        expected = operands.expected()
        operands.execute(lambda *addresses: multiply(*addresses[:4]))
        np.testing.assert_allclose(operands.c, expected, 1e-5, 1e-5)
    assert streams == [3] * 5
    at = {n: multiply.plan(256 + n, 512, 1024).alignment for n in (0, 4, 8, 16, 128)}
    assert at == {0: 256, 4: 4, 8: 4, 16: 16, 128: 16}
    with pytest.raises(DeviceError, match="no algorithm for addresses 0x102, "):
        multiply(258, 512, 1024, 2048)


def test_search_is_over_when_a_multiplier_is_made(
    library: CublasLt, workspace: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Because it fails while a stream is recorded."""
    operands = Operands(product(4, 3, 5), offset=4)
    multiply = Multiplier(library, operands.it, workspace, lambda: 0)
    monkeypatch.setattr(Plan, "_find_algorithms", lambda self: pytest.fail("searches"))
    operands.execute(lambda *addresses: multiply(*addresses[:4]))


def test_without_workspace(library: CublasLt) -> None:
    check(library, (0, 0), product(4, 3, 5))
    assert Plan(library, product(4, 3, 5), (0, 0)).candidates == 1


def test_workspace_that_is_too_small_or_crooked(
    library: CublasLt, workspace: tuple[int, int]
) -> None:
    operands = Operands(product(4, 3, 5))
    plan = operands.run(library, workspace)
    address, nbytes = workspace
    for bad in ((address, 100), (address + 16, nbytes - 16), (0, nbytes)):
        plan._workspace = bad
        with pytest.raises(DeviceError, match="CUBLAS_STATUS_INVALID_VALUE"):
            operands.execute(plan)


def test_workspace_is_written_to(library: CublasLt) -> None:
    """So that a workspace which overlaps something is seen."""
    room = aligned(WORKSPACE)
    Operands(product(4, 3, 5)).run(library, (room.ctypes.data, WORKSPACE))
    assert room.any()


def test_bias_that_changes_and_that_is_wrong(library: CublasLt, workspace: tuple[int, int]) -> None:
    operands = Operands(product(4, 3, 5, epilogue="BIAS"))
    plan = Plan(library, operands.it, workspace)
    for _ in range(2):
        operands.bias = operands.fill("float32", 1, 5, 0, 0, offset=16)
        expected = operands.expected()
        operands.execute(plan)
        np.testing.assert_allclose(operands.c, expected, 1e-5, 1e-5)
    a, b, c = operands.a.ctypes.data, operands.b.ctypes.data, operands.c.ctypes.data
    for bias in (0, operands.bias.ctypes.data + 4):
        with pytest.raises(DeviceError, match=r"a bias at 0x.* for float32\[4, 3\]"):
            plan(a, b, c, bias, 0)
    with pytest.raises(DeviceError, match="0 only without a bias"):
        Plan(library, product(4, 3, 5), workspace)(a, b, c, operands.bias.ctypes.data, 0)


# -- refusals


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"a_row": 2}, "INVALID_VALUE"),
        ({"b_row": 4}, "INVALID_VALUE"),
        ({"c_row": 4}, "INVALID_VALUE"),
        ({"m": 0}, "INVALID_VALUE"),
        ({"dtype": "float64"}, "NOT_SUPPORTED"),
        ({"dtype": "float16", "result": "bfloat16"}, "NOT_SUPPORTED"),
        ({"result": "float64"}, "NOT_SUPPORTED"),
    ],
)
def test_refusals_name_product_and_status(
    library: CublasLt, workspace: tuple[int, int], change: dict[str, Any], status: str
) -> None:
    bad = replace(product(4, 3, 5), **change)
    with pytest.raises(DeviceError, match=f"CUBLAS_STATUS_{status} for ") as caught:
        Plan(library, bad, workspace)
    assert describe(bad) in str(caught.value)


def test_algorithm_of_another_product(library: CublasLt, workspace: tuple[int, int]) -> None:
    operands = Operands(product(4, 3, 5))
    plan, other = operands.run(library, workspace), Plan(library, product(4, 3, 6), workspace)
    plan._algorithm = other._algorithm
    with pytest.raises(DeviceError, match="CUBLAS_STATUS_INVALID_VALUE"):
        operands.execute(plan)


def test_attributes_of_a_wrong_size_or_number(library: CublasLt) -> None:
    made = library.make("MatmulDesc", "a test", 68, 0)
    for number, value in ((3, ctypes.c_int64(1)), (8, ctypes.c_int32(1)), (99, ctypes.c_int32(1))):
        with pytest.raises(DeviceError, match="INVALID_VALUE for a test"):
            library.put("MatmulDesc", "a test", made, number, value)
    library.destroy("MatmulDesc", made)


def test_rows_one_after_another_have_no_epilogue(
    library: CublasLt, workspace: tuple[int, int]
) -> None:
    """Which is why b goes first."""
    plan = Plan(library, product(4, 4, 4, epilogue="RELU"), workspace)
    library.put("MatrixLayout", "a test", plan._result, 1, ctypes.c_int32(1))
    with pytest.raises(DeviceError, match="NOT_SUPPORTED"):
        plan._find_algorithms()


# -- candidates and ends


def test_tuning_keeps_the_fastest(library: CublasLt, workspace: tuple[int, int]) -> None:
    operands = Operands(product(6, 3, 5))
    plan = operands.run(library, workspace)
    assert plan.candidates == 2
    seconds = iter([1.0, 2.0, 2.0, 1.0])
    ran: list[int] = []

    def run() -> None:
        ran.append(plan._algorithm)
        operands.execute(plan)

    def timed(action: Any) -> float:
        action()
        return next(seconds)

    for best in (0, 1):
        assert plan.tune(timed, run) == best
        assert plan._algorithm == ran[-2:][best]
    assert len(set(ran)) == 2
    again, whole = (Plan(library, operands.it, workspace, n) for n in (16, 256))
    assert again._algorithm == ctypes.addressof(again._candidates[1])  # remembered
    assert whole._algorithm == ctypes.addressof(whole._candidates[0])  # for that alignment only


def test_descriptors_are_given_back(library: CublasLt, workspace: tuple[int, int]) -> None:
    live = load_stand_in().gx_stand_in_live
    live.restype = ctypes.c_int64
    before = live()
    plans = [Plan(library, product(4, 3, 5), workspace) for _ in range(3)]
    assert live() == before + 15
    with pytest.raises(DeviceError):
        Plan(library, replace(product(4, 3, 5), a_row=1), workspace)
    del plans
    assert live() == before
    own = CublasLt(load_stand_in())
    assert live() == before + 1
    del own
    assert live() == before


def test_version(library: CublasLt) -> None:
    assert library.version == "13.0.0"
