"""cuBLASLt: matrix products by ctypes, because CuPy refuses its own while a stream is recorded.

A `Plan` holds all that is made once for a `Product`; executing it is one foreign call that
allocates nothing. The library thinks in columns: a row-major c = a @ b is its c^T = b^T @ a^T, so b
goes first, no matrix is copied, and the bias, which it adds to each column of c^T, runs along the
rows of c.

The numbers are those of cublasLt.h and library_types.h.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

from graphc.backends.cuda.device import DeviceError
from graphc.codegen.launches import Product

WORKSPACE_NBYTES = 32 << 20  # what NVIDIA advises for sm_90
BIAS_ALIGNMENT = 16  # bytes: kernels with a bias load vectors of it, whatever was promised
MOST_ALIGNED = 256  # bytes: beyond, no algorithm is chosen by it
CANDIDATES = 8

ELEMENT_NBYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType
COMPUTE = {"float32": 68, "tf32": 77, "bf16": 75}  # cublasComputeType_t of float32, by precision
COMPUTE_FLOAT64 = 70
EPILOGUE = {"": 1, "RELU": 2, "BIAS": 4, "RELU_BIAS": 6}  # cublasLtEpilogue_t
TRANSPOSE_A, TRANSPOSE_B, DO_AFTER, BIAS_POINTER = 3, 4, 7, 8  # cublasLtMatmulDescAttributes_t
BATCH_COUNT, BATCH_STEP = 5, 6  # cublasLtMatrixLayoutAttribute_t
MAX_WORKSPACE, REDUCTION_SCHEMES = 1, 3  # cublasLtMatmulPreferenceAttributes_t
MIN_ALIGNMENTS = (5, 6, 7, 8)
REDUCE_IN_COMPUTE_TYPE = 2  # cublasLtReductionScheme_t: partial sums are not rounded to 16 bits


class Result(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`: an algorithm, and what it needs."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace_nbytes", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_ADDRESS = ctypes.c_void_p
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Create": (_ADDRESS,),
    "Destroy": (_ADDRESS,),
    "MatmulDescCreate": (_ADDRESS, ctypes.c_int, ctypes.c_int),
    "MatmulDescDestroy": (_ADDRESS,),
    "MatmulDescSetAttribute": (_ADDRESS, ctypes.c_int, _ADDRESS, ctypes.c_size_t),
    "MatrixLayoutCreate": (
        _ADDRESS, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64,
    ),
    "MatrixLayoutDestroy": (_ADDRESS,),
    "MatrixLayoutSetAttribute": (_ADDRESS, ctypes.c_int, _ADDRESS, ctypes.c_size_t),
    "MatmulPreferenceCreate": (_ADDRESS,),
    "MatmulPreferenceDestroy": (_ADDRESS,),
    "MatmulPreferenceSetAttribute": (_ADDRESS, ctypes.c_int, _ADDRESS, ctypes.c_size_t),
    "MatmulAlgoGetHeuristic": (*(_ADDRESS,) * 7, ctypes.c_int, _ADDRESS, _ADDRESS),
    "Matmul": (*(_ADDRESS,) * 14, ctypes.c_size_t, _ADDRESS),
}  # fmt: skip


class CublasLt:
    """The library, and one handle for the device that is current while it is made.

    `chosen`: for a product and the alignment of its operands, which of the candidates was fastest.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, arguments in _ARGUMENTS.items():
            getattr(library, f"cublasLt{name}").argtypes = arguments
        library.cublasLtGetVersion.restype = ctypes.c_size_t
        library.cublasLtGetStatusName.restype = ctypes.c_char_p
        self.chosen: dict[tuple[Product, int], int] = {}
        self.handle = ctypes.c_void_p()
        self.call("Create", "a handle", ctypes.byref(self.handle))
        self.matmul: Callable[..., int] = library.cublasLtMatmul

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.destroy("", self.handle)

    @property
    def version(self) -> str:
        """As NVIDIA writes it: "13.0.2"."""
        number = int(self._library.cublasLtGetVersion())
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"

    def call(self, function: str, what: str, *arguments: Any) -> None:
        """Call a function; DeviceError, naming what it was asked for, if it refuses."""
        status = getattr(self._library, f"cublasLt{function}")(*arguments)
        if status:
            raise self.refusal(function, what, status)

    def refusal(self, function: str, what: str, status: int) -> DeviceError:
        """The error for a status."""
        name = self._library.cublasLtGetStatusName(status) or b"an unknown status"
        return DeviceError(f"cublasLt{function} gives {name.decode()} for {what}")

    def make(self, kind: str, what: str, *arguments: Any) -> ctypes.c_void_p:
        """A new descriptor."""
        made = ctypes.c_void_p()
        self.call(f"{kind}Create", what, ctypes.byref(made), *arguments)
        return made

    def destroy(self, kind: str, made: ctypes.c_void_p) -> None:
        """Give a descriptor (or, of kind "", the handle) back."""
        try:  # of modules, too, nothing may be left at the end of a process
            getattr(self._library, f"cublasLt{kind}Destroy")(made)
        except Exception:
            return

    def put(self, kind: str, what: str, made: ctypes.c_void_p, number: int, value: Any) -> None:
        """Set an attribute of a descriptor."""
        arguments = made, number, ctypes.byref(value), ctypes.sizeof(value)
        self.call(f"{kind}SetAttribute", what, *arguments)


class Plan:
    """A product made ready: descriptors, and the algorithms that the library proposes for it.

    `workspace`: address and bytes, at a multiple of 256, which no other work may use meanwhile.
    `alignment`: a power of two that divides the addresses of a, b and c. Raises DeviceError if the
    library has nothing for the product.
    """

    def __init__(
        self, library: CublasLt, product: Product, workspace: tuple[int, int], alignment: int = 16
    ) -> None:
        self.product, self.alignment = product, alignment
        self._what = f"{describe(product)}, operands at multiples of {alignment} bytes"
        self._library, self._workspace = library, workspace
        self._made: list[tuple[str, ctypes.c_void_p]] = []
        scale = ctypes.c_double if product.dtype == "float64" else ctypes.c_float
        self._alpha, self._beta = scale(product.alpha), scale(product.beta)
        self._bias = BIAS_ALIGNMENT if "BIAS" in product.epilogue else 0
        self._operation = self._describe_operation()
        self._left = self._layout(
            product.dtype, product.k, product.n, product.b_row, product.b_step,
            product.b_transposed,
        )  # fmt: skip
        self._right = self._layout(
            product.dtype, product.m, product.k, product.a_row, product.a_step,
            product.a_transposed,
        )  # fmt: skip
        self._result = self._layout(
            product.result, product.m, product.n, product.c_row, product.c_step
        )
        self._candidates = self._find_algorithms()
        self.choose(library.chosen.get((product, alignment), 0))
        self._arguments = self._fixed_arguments()

    def __call__(self, a: int, b: int, c: int, bias: int, stream: int) -> None:
        """Compute on a stream. With a bias, its address is a multiple of BIAS_ALIGNMENT."""
        if bias != self._bias:
            self._set_bias(bias)
        operation, alpha, left, right, beta, result = self._arguments
        status = self._library.matmul(
            self._library.handle, operation, alpha, b, left, a, right, beta, c, result, c, result,
            self._algorithm, *self._workspace, stream,
        )  # fmt: skip
        if status:
            raise self._library.refusal("Matmul", self._what, status)

    @property
    def candidates(self) -> int:
        """How many algorithms there are, the one that the library holds for the fastest first."""
        return len(self._candidates)

    def choose(self, number: int) -> None:
        """Use one of the candidates."""
        self._algorithm = ctypes.addressof(self._candidates[min(number, self.candidates - 1)])

    def tune(self, seconds: Callable[[Callable[[], None]], float], run: Callable[[], None]) -> int:
        """Time each candidate once and keep the fastest, here and for plans to come. `run` executes
        this plan on data of its own kind (never zeros); `seconds` runs it and tells how long."""
        taken: list[float] = []
        for number in range(self.candidates):
            self.choose(number)
            taken.append(seconds(run))
        best = min(range(len(taken)), key=taken.__getitem__)
        self._library.chosen[self.product, self.alignment] = best
        self.choose(best)
        return best

    def __del__(self) -> None:
        for kind, made in getattr(self, "_made", ()):
            self._library.destroy(kind, made)

    # -- descriptors

    def _new(self, kind: str, *arguments: Any) -> ctypes.c_void_p:
        made = self._library.make(kind, self._what, *arguments)
        self._made.append((kind, made))
        return made

    def _put(self, kind: str, made: ctypes.c_void_p, number: int, value: Any) -> None:
        self._library.put(kind, self._what, made, number, value)

    def _describe_operation(self) -> ctypes.c_void_p:
        product = self.product
        double = product.dtype == "float64"
        precision = product.precision if product.dtype == "float32" else "float32"
        compute = COMPUTE_FLOAT64 if double else COMPUTE[precision]
        made = self._new("MatmulDesc", compute, TYPES["float64" if double else "float32"])
        for number, value in (
            (TRANSPOSE_A, ctypes.c_int32(product.b_transposed)),
            (TRANSPOSE_B, ctypes.c_int32(product.a_transposed)),
            (DO_AFTER, ctypes.c_uint32(EPILOGUE[product.epilogue])),
        ):
            self._put("MatmulDesc", made, number, value)
        if self._bias:  # of this address the search looks at the alignment, and at nothing else
            self._put("MatmulDesc", made, BIAS_POINTER, ctypes.c_void_p(self._bias))
        return made

    def _layout(
        self, dtype: str, rows: int, columns: int, row: int, step: int, transposed: bool = False
    ) -> ctypes.c_void_p:
        """Of a row-major [rows, columns], stored as [columns, rows] if `transposed`: to the library
        its columns are what is stored one after another."""
        if transposed:
            rows, columns = columns, rows
        distance = row if rows > 1 else max(row, columns)  # of a single row there is none
        made = self._new("MatrixLayout", TYPES[dtype], columns, rows, distance)
        if self.product.batch > 1:
            count = ctypes.c_int32(self.product.batch)
            self._put("MatrixLayout", made, BATCH_COUNT, count)
            self._put("MatrixLayout", made, BATCH_STEP, ctypes.c_int64(step))
        return made

    def _find_algorithms(self) -> list[Result]:
        preference = self._new("MatmulPreference")
        values = [(MAX_WORKSPACE, ctypes.c_uint64(self._workspace[1]))]
        values += [(number, ctypes.c_uint32(self.alignment)) for number in MIN_ALIGNMENTS]
        if TYPES[self.product.result] in (TYPES["float16"], TYPES["bfloat16"]):
            values.append((REDUCTION_SCHEMES, ctypes.c_uint32(REDUCE_IN_COMPUTE_TYPE)))
        for number, value in values:
            self._put("MatmulPreference", preference, number, value)
        results, found = (Result * CANDIDATES)(), ctypes.c_int()
        self._library.call(
            "MatmulAlgoGetHeuristic", self._what, self._library.handle, self._operation,
            self._left, self._right, self._result, self._result, preference, CANDIDATES, results,
            ctypes.byref(found),
        )  # fmt: skip
        usable = [result for result in results[: found.value] if result.state == 0]
        if not usable:
            raise DeviceError(f"cuBLASLt knows no algorithm for {self._what}")
        return usable

    def _fixed_arguments(self) -> tuple[Any, ...]:
        return (
            self._operation, ctypes.addressof(self._alpha), self._left, self._right,
            ctypes.addressof(self._beta), self._result,
        )  # fmt: skip

    def _set_bias(self, bias: int) -> None:
        if not bias or not self._bias or bias % BIAS_ALIGNMENT:
            raise DeviceError(
                f"a bias at {bias:#x} for {self._what}; need an address that is a multiple of "
                f"{BIAS_ALIGNMENT}, and 0 only without a bias"
            )
        self._put("MatmulDesc", self._operation, BIAS_POINTER, ctypes.c_void_p(bias))
        self._bias = bias


class Multiplier:
    """A product on a device: a plan for each alignment that its operands may turn out to have.

    `stream` gives the stream to work on. All plans are made at once: a product that the library
    refuses is refused before anything runs, and while a stream is recorded the library must not be
    asked for algorithms.
    """

    def __init__(
        self,
        library: CublasLt,
        product: Product,
        workspace: tuple[int, int],
        stream: Callable[[], int],
    ) -> None:
        self._stream = stream
        self._plans = {MOST_ALIGNED: Plan(library, product, workspace, MOST_ALIGNED)}
        for alignment in (16, ELEMENT_NBYTES[product.dtype]):  # of vectors; of the elements alone
            with contextlib.suppress(DeviceError):  # matters only where it is needed
                self._plans[alignment] = Plan(library, product, workspace, alignment)

    def __call__(self, a: int, b: int, c: int, bias: int) -> None:
        self.plan(a, b, c)(a, b, c, bias, self._stream())

    def plan(self, a: int, b: int, c: int) -> Plan:
        """The plan for operands at these addresses."""
        alignment = alignment_of(a, b, c)
        for promised, plan in self._plans.items():  # the strictest first
            if promised <= alignment:
                return plan
        raise DeviceError(f"cuBLASLt knows no algorithm for addresses {a:#x}, {b:#x}, {c:#x}")


def alignment_of(*addresses: int) -> int:
    """The largest power of two, up to MOST_ALIGNED, that divides all of them."""
    bits = MOST_ALIGNED
    for address in addresses:
        bits |= address
    return bits & -bits


def describe(product: Product) -> str:
    """A product in words: float32[3, 4] @ float32[4, 5] -> float32[3, 5]."""
    p = product
    stack = f"{p.batch} x " if p.batch > 1 else ""
    said = [
        f"{stack}{p.dtype}[{p.m}, {p.k}] @ {p.dtype}[{p.k}, {p.n}] -> {p.result}[{p.m}, {p.n}]",
        f"rows {p.a_row}, {p.b_row}, {p.c_row} elements apart",
    ]
    if p.batch > 1:
        said.append(f"matrices {p.a_step}, {p.b_step}, {p.c_step}")
    transposed = [name for name in "ab" if getattr(p, f"{name}_transposed")]
    said += [f"{' and '.join(transposed)} transposed"] * bool(transposed)
    said += [f"alpha {p.alpha}"] * (p.alpha != 1) + [f"beta {p.beta}"] * (p.beta != 0)
    said += [f"epilogue {p.epilogue}"] * bool(p.epilogue)
    said += [f"precision {p.precision}"] * (p.precision != "float32")
    return ", ".join(said)


def extents(product: Product) -> tuple[int, int, int]:
    """Bytes from the first to the last element of a, b and c."""
    p = product
    stored = (
        ((p.k, p.m) if p.a_transposed else (p.m, p.k), p.a_row, p.a_step, p.dtype),
        ((p.n, p.k) if p.b_transposed else (p.k, p.n), p.b_row, p.b_step, p.dtype),
        ((p.m, p.n), p.c_row, p.c_step, p.result),
    )
    a, b, c = (
        ((p.batch - 1) * step + (rows - 1) * row + columns) * ELEMENT_NBYTES[dtype]
        for (rows, columns), row, step, dtype in stored
    )
    return a, b, c
