"""The emulated device: right kernels give what NumPy gives, and wrong ones are found and named."""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import graphc as gx
from graphc.backends.cuda.device import Device, DeviceMemoryError
from graphc.backends.cuda.emulated_device import EmulatedArray, EmulatedDevice
from graphc.backends.cuda.emulated_memory import EmulatorError
from graphc.backends.cuda.emulated_module import ORDERS, Module
from graphc.codegen.launches import Product
from graphc.codegen.sources import splice
from graphc.errors import BackendUnavailable
from graphc.testing import run_kernel

try:
    Module("")
except BackendUnavailable as error:
    pytest.skip(f"no C++ compiler: {error}", allow_module_level=True)

SIZES = (0, 1, 31, 33, 1023, 1025)
KERNELS = """\
#include "random.h"
template <class T, int N> struct alignas(sizeof(T) * N) gx_pack { T at[N]; };

// y = 2 x + c, by packs where x and y let it
extern "C" __global__ void __launch_bounds__(256)
axpb(const float *__restrict__ x, float *__restrict__ y, int64_t n, double c)
{
    int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    auto f = [&](float value) { return 2 * value + (float)c; };
    for (int64_t i = first; i < n / 4; i += stride) {
        gx_pack<float, 4> pack = ((const gx_pack<float, 4> *)x)[i];
        for (int k = 0; k < 4; k++)
            pack.at[k] = f(pack.at[k]);
        ((gx_pack<float, 4> *)y)[i] = pack;
    }
    for (int64_t i = n / 4 * 4 + first; i < n; i += stride)
        y[i] = f(__ldg(x + i));
}

template <class T> __device__ T warp_sum(T value)
{
    for (int d = 16; d > 0; d /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, d);
    return value;
}

template <class T> __device__ T block_sum(T value)
{
    __shared__ T parts[32];
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0;
    value = warp_sum(value);
    __syncthreads();
    return value;
}

// the sum and the sum of squares of each row
extern "C" __global__ void row_sums(const double *x, double *sums, int64_t n)
{
    double s = 0, q = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        double value = x[blockIdx.x * n + i];
        s += value;
        q += value * value;
    }
    s = block_sum(s), q = block_sum(q);
    if (threadIdx.x == 0)
        sums[2 * blockIdx.x] = s, sums[2 * blockIdx.x + 1] = q;
}

extern "C" __global__ void row_counts(const float *x, int64_t *counts, int64_t n)
{
    int64_t positive = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        positive += x[blockIdx.x * n + i] > 0;
    positive = block_sum(positive);
    if (threadIdx.x == 0)
        counts[blockIdx.x] = positive;
}

extern "C" __global__ void transpose(const float *x, float *y, int64_t rows, int64_t columns)
{
    __shared__ float tile[32][33];
    int64_t tiles = (columns + 31) / 32;
    int64_t top = blockIdx.x / tiles * 32, left = blockIdx.x % tiles * 32;
    int lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < 32; i += blockDim.x / 32)
        if (top + i < rows && left + lane < columns)
            tile[i][lane] = x[(top + i) * columns + left + lane];
    __syncthreads();
    for (int i = threadIdx.x / 32; i < 32; i += blockDim.x / 32)
        if (left + i < columns && top + lane < rows)
            y[(left + i) * rows + top + lane] = tile[lane][i];
}
"""


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    return request.param


def draw(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(dtype)


def blocks_of(n: int, each: int) -> int:
    return max(1, -(-n // each))


# -- right kernels


@pytest.mark.parametrize("n", SIZES)
def test_elementwise(n: int, order: str) -> None:
    x, y = draw(n), np.zeros(n, np.float32)
    run_kernel(KERNELS, "axpb", 3, 96, x, y, n, 0.5, order=order, seed=n)
    assert np.array_equal(y, 2 * x + np.float32(0.5))


@pytest.mark.parametrize("n", SIZES)
def test_block_reduction(n: int, order: str) -> None:
    x, sums = draw(5, n, dtype=np.float64), np.zeros((5, 2))
    run_kernel(KERNELS, "row_sums", 5, 256, x, sums, n, order=order, seed=n)
    np.testing.assert_allclose(sums, np.stack([x.sum(1), (x * x).sum(1)], 1), atol=1e-12)
    counts = np.zeros(5, np.int64)
    run_kernel(KERNELS, "row_counts", 5, 1024, draw(5, n), counts, n, order=order, seed=n)
    assert np.array_equal(counts, (draw(5, n) > 0).sum(1))


@pytest.mark.parametrize("n", SIZES)
def test_transpose_by_tiles(n: int, order: str) -> None:
    x, y = draw(n, 37), np.zeros((37, n), np.float32)
    blocks = max(1, blocks_of(n, 32) * blocks_of(37, 32))
    run_kernel(KERNELS, "transpose", blocks, 256, x, y, n, 37, order=order, seed=n)
    assert np.array_equal(y, x.T)


SHUFFLES = """\
#include "scalar.h"
template <class T> __device__ void all_kinds(const T *x, T *out)
{
    T value = x[threadIdx.x], *row = out + threadIdx.x;
    row[0] = __shfl_sync(0xffffffffu, value, 5);
    row[64] = __shfl_sync(0xffffffffu, value, (int)threadIdx.x + 3, 8);
    row[128] = __shfl_up_sync(0xffffffffu, value, 2);
    row[192] = __shfl_down_sync(0xffffffffu, value, 3, 16);
    row[256] = __shfl_xor_sync(0xffffffffu, value, 7);
    row[320] = __shfl_xor_sync(0xffffffffu, value, 12, 8);
}
extern "C" __global__ void shuffles_f(const float *x, float *out) { all_kinds(x, out); }
extern "C" __global__ void shuffles_d(const double *x, double *out) { all_kinds(x, out); }
extern "C" __global__ void shuffles_q(const int64_t *x, int64_t *out) { all_kinds(x, out); }
extern "C" __global__ void shuffles_h(const short *x, short *out) { all_kinds(x, out); }
extern "C" __global__ void votes(const int *x, unsigned *out)
{
    int is = x[threadIdx.x], lane = threadIdx.x & 31;
    out[threadIdx.x] = __ballot_sync(0xffffffffu, is);
    out[64 + threadIdx.x] = __any_sync(0xffffffffu, is) + 2 * __all_sync(0xffffffffu, is);
    if (lane < 8) { // two groups of lanes, each with its own mask
        unsigned all = 0;
        for (int i = 0; i < 3; i++)
            all += __ballot_sync(0xffu, lane > i);
        out[128 + threadIdx.x] = all;
        __syncwarp(0xffu);
    } else {
        out[128 + threadIdx.x] = __ballot_sync(0xffffff00u, lane & 1);
    }
    __syncwarp();
}
"""
LANE = np.arange(64) & 31


@pytest.mark.parametrize(("letter", "dtype"), [("f", "f4"), ("d", "f8"), ("q", "i8"), ("h", "i2")])
def test_shuffles(letter: str, dtype: str, order: str) -> None:
    x, out = (100 * draw(64)).astype(dtype), np.zeros((6, 64), dtype)
    run_kernel(SHUFFLES, f"shuffles_{letter}", 1, 64, x, out, order=order)
    lanes = [
        np.full(64, 5),
        LANE // 8 * 8 + (np.arange(64) + 3) % 8,
        np.where(LANE < 2, LANE, LANE - 2),
        np.where(LANE % 16 + 3 > 15, LANE, LANE + 3),
        LANE ^ 7,
        np.where((LANE ^ 12) > LANE // 8 * 8 + 7, LANE, LANE ^ 12),
    ]
    warp = np.arange(64) & 32
    assert np.array_equal(out, np.stack([x[warp + source] for source in lanes]))


@pytest.mark.parametrize("given", [0, 1, 2])
def test_votes(given: int, order: str) -> None:
    x = [np.zeros(64), np.ones(64), np.arange(64) % 3 == 0][given].astype(np.int32)
    out = np.zeros((3, 64), np.uint32)
    run_kernel(SHUFFLES, "votes", 1, 64, x, out, order=order)
    for lanes in (slice(0, 32), slice(32, 64)):
        bits = sum(int(value) << i for i, value in enumerate(x[lanes]))
        assert (out[0, lanes] == bits).all()
        assert (out[1, lanes] == (bits != 0) + 2 * (bits == 0xFFFFFFFF)).all()
    assert (out[2].reshape(2, 32)[:, :8] == 0xFE + 0xFC + 0xF8).all()
    assert (out[2].reshape(2, 32)[:, 8:] == 0xAAAAAA00).all()


FUNCTIONS = """\
#include "random.h"
extern "C" __global__ void functions(float x, double y, float *f, double *d, int *i)
{
    f[0] = __uint_as_float(__float_as_uint(x) + 1), f[1] = __int_as_float(__float_as_int(x) - 1);
    f[2] = __fmaf_rn(x, x, -1), f[3] = min(__int_as_float(0x7fc00000), x), f[4] = exp(x);
    f[5] = rsqrtf(x), f[6] = max(__int_as_float(0x7fc00000), x), f[7] = gx_tanh_f32(x);
    d[0] = __longlong_as_double(__double_as_longlong(y) + 1), d[1] = __fma_rn(y, y, -1);
    d[2] = exp(y), d[3] = max(x, y), d[4] = pow(y, y), d[5] = gx_exp_f64(y);
    i[0] = __umulhi(0x80000000u, 6), i[1] = max(-1, 2u) == 0xffffffffu, i[2] = min(7ll, 3ll);
    i[3] = __popc(0xf0f), i[4] = __clz(1), i[5] = warpSize, i[6] = isnan(x - x), i[7] = __ffs(8);
    i[8] = atomicAdd(i + 9, 5), atomicMax(i + 10, 9);
}
"""


def test_stacks_of_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used where there is no switch of our own, the errors included."""
    monkeypatch.setenv("CXX", "c++ -DGX_UCONTEXT")
    x, sums = draw(5, 1000, dtype=np.float64), np.zeros((5, 2))
    run_kernel(KERNELS, "row_sums", 5, 256, x, sums, 1000)
    np.testing.assert_allclose(sums, np.stack([x.sum(1), (x * x).sum(1)], 1), atol=1e-12)
    past = r"block 0, thread 0: (read of|access to) .*, element 256 of parameter x, which has 200"
    with pytest.raises(EmulatorError, match=past):
        run_kernel(KERNELS, "row_sums", 5, 256, x[0, :200], sums, 1000)


def test_functions() -> None:
    x, y = np.float32(1.1), 1.1
    f, d, i = np.zeros(8, np.float32), np.zeros(6), np.zeros(11, np.int32)
    run_kernel(FUNCTIONS, "functions", 1, 1, float(x), y, f, d, i)
    wide = float(x)
    exact = [np.nextafter(x, np.float32(2)), np.nextafter(x, np.float32(0)), wide * wide - 1, x,
             np.exp(wide), wide**-0.5, x, np.tanh(wide)]  # fmt: skip
    np.testing.assert_allclose(f, np.array(exact, np.float32), rtol=2e-7)
    assert np.array_equal(f[[0, 1, 3, 6]], np.array(exact, np.float32)[[0, 1, 3, 6]])
    exact = [np.nextafter(y, 2), y * y - 1, np.exp(y), max(y, wide), y**y, np.exp(y)]
    np.testing.assert_allclose(d, exact, rtol=1e-15)
    assert d[0] == exact[0]
    assert d[3] == exact[3]
    assert i.tolist() == [3, 1, 3, 8, 31, 32, 0, 4, 0, 5, 9]


def test_arrays_that_cannot_be_written_are_read() -> None:
    x, y = np.broadcast_to(np.float32(1.5), 31), np.zeros(31, np.float32)
    run_kernel(KERNELS, "axpb", 1, 64, x, y, 31, 0.25)
    assert y.tolist() == [3.25] * 31


def test_types_of_parameters_are_converted_or_refused() -> None:
    text = 'extern "C" __global__ void put(int *out, int n, float x, bool b) '
    text += "{ out[0] = n; out[1] = (int)(4 * x); out[2] = b; }"
    out = np.zeros(3, np.int32)
    run_kernel(text, "put", 1, 1, out, -7, 0.25, True)
    assert out.tolist() == [-7, 1, 1]
    with pytest.raises(EmulatorError, match="has 4 parameters, but 3 arguments"):
        run_kernel(text, "put", 1, 1, out, -7, 0.25)
    for wrong in (2**31, 0.5):
        with pytest.raises(EmulatorError, match=r"argument 2 of kernel put is .*is int"):
            run_kernel(text, "put", 1, 1, out, wrong, 0.25, True)
    with pytest.raises(EmulatorError, match="no kernel 'get': there are put"):
        run_kernel(text, "get", 1, 1)
    for blocks, threads in ((0, 1), (1, 0), (1, 1025)):
        with pytest.raises(EmulatorError, match="1 to 1024 threads"):
            run_kernel(text, "put", blocks, threads, out, -7, 0.25, True)


def test_orders() -> None:
    text = """extern "C" __global__ void who(int *next, int *order)
    { order[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x; }"""

    def seen(order: str, seed: int = 0) -> list[int]:
        out = np.zeros(210, np.int32)
        run_kernel(text, "who", 3, 70, np.zeros(1, np.int32), out, order=order, seed=seed)
        assert sorted(out) == list(range(210))
        return out.tolist()

    assert seen("ascending") == list(range(210))
    assert seen("descending") == list(range(210))[::-1]
    assert seen("random", 1) == seen("random", 1) != seen("random", 2)
    assert {seen("random", seed)[0] // 70 for seed in range(9)} == {0, 1, 2}


# -- wrong kernels

REVERSE = """\
extern "C" __global__ void reverse(const float *x, float *y)
{
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    BARRIER
    y[threadIdx.x] = all[63 - threadIdx.x];
}
"""


def test_a_barrier_that_is_missing(order: str) -> None:
    x, y = draw(64), np.zeros(64, np.float32)
    run_kernel(REVERSE.replace("BARRIER", "__syncthreads();"), "reverse", 1, 64, x, y, order=order)
    assert np.array_equal(y, x[::-1])
    run_kernel(REVERSE.replace("BARRIER", ""), "reverse", 1, 64, x, y, order=order)
    assert 10 < np.isnan(y).sum() < 54


def test_shared_memory_does_not_outlive_a_block() -> None:
    text = """template <class T> __device__ T keep(T value)
    { __shared__ T kept; if (blockIdx.x == 0) kept = value; return kept; }
    extern "C" __global__ void leak(float *y) { y[blockIdx.x] = keep(1.f); }"""
    y = np.zeros(3, np.float32)
    run_kernel(text, "leak", 3, 1, y)
    assert np.array_equal(y, [1, np.nan, np.nan], equal_nan=True)


IN_BLOCK_2 = """\
extern "C" __global__ void wrong(float *x, const float *z, int64_t n)
{
    int i = threadIdx.x;
    __shared__ float shared[64];
    struct alignas(16) four { float at[4]; };
    if (blockIdx.x != 2) return;
    FAULT
}
"""
TELLS = platform.machine() == "x86_64" and sys.platform == "linux"
READ, WRITE = ("read of" if TELLS else "access to", "write to" if TELLS else "access to")
READ, WRITE = f"{READ} address 0x\\w+", f"{WRITE} address 0x\\w+"
FAULTS: dict[str, tuple[str, str]] = {
    "divergent barrier": (
        "if (i < 40) { __syncthreads(); }\n else { __syncthreads(); }",
        r"thread 0: divergent: it waits at __syncthreads\(\) in line 7, but thread 40 waits at "
        r"__syncthreads\(\) in line 8\n  7 \| .*i < 40.*\n  8 \|  else",
    ),
    "early exit at a barrier": (
        "if (i == 5) return;\n __syncthreads();",
        r"thread 0: waits at __syncthreads\(\) in line 8 for thread 5, which has ended",
    ),
    "early exit at a shuffle": (
        "if (i == 37) return;\n x[i] = __shfl_xor_sync(0xffffffffu, x[i], 1);",
        r"thread 32: waits at __shfl_xor_sync\(\) in line 8 for thread 37, which has ended",
    ),
    "a warp at another place": (
        "if (i < 8) __syncthreads(); else if (i < 32) __syncwarp();\n __syncthreads();",
        r"thread 0: divergent: it waits at __syncthreads\(\) in line 7, but thread 8 waits at "
        r"__syncwarp\(\) in line 7 with its mask",
    ),
    "different masks": (
        "__any_sync(i & 1 ? 0xffffffffu : 0x55555555u, 1); __syncwarp();",
        r"thread 0: divergent|thread 1: divergent",
    ),
    "lane not in its mask": (
        "__syncwarp(0xfffffffeu);",
        r"thread 0: the mask 0xfffffffe of __syncwarp\(\) in line 7 lacks the lane itself",
    ),
    "read past the end": (
        "if (i == 9) x[0] = z[n];", f"thread 9: {READ}, element 64 of parameter z, which has 64",
    ),
    "write past the end": (
        "if (i == 9) x[n + 1] = 1;", f"thread 9: {WRITE}, element 65 of parameter x, which has 64",
    ),
    "write far before the start": (
        "if (i == 9) x[-2000] = 1;", f"thread 9: {WRITE}, element -2000 of parameter x",
    ),
    "write before the start": (
        "if (i == 9) x[-1] = 1;", "kernel wrong: a write: element -1 of parameter x, which has 64",
    ),
    "misaligned vector": (
        "if (i == 3) ((four *)x)[0] = *(const four *)(z + i);",
        r"thread 3: (misaligned access in line 7: .* multiple of 16|access to a misaligned)",
    ),
    "null pointer": ("if (i == 3) *(float *)(n - n) = 1;", r"thread 3: access .* (null|nil)"),
    "index in shared memory": (
        "shared[i + 1] = 1; x[0] = shared[i / 2];",
        r"thread 63: index 64 is outside the array in line 7",
    ),
    "division by zero": (
        "x[i] = n / (5 - i);", r"thread 5: (whole number divided by zero in line 7|.*signal)",
    ),
    "no end of the stack": (
        "auto f = [](auto self, int64_t m) -> int64_t {\n"
        "volatile char large[999]; large[0] = m; return m ? self(self, m + 1) + large[0] : 0; };\n"
        "if (i == 1) x[i] = f(f, n);", f"thread 1: {WRITE}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str) -> None:
    code, message = FAULTS[fault]
    x, z = draw(64), draw(64)
    before = x.copy()
    with pytest.raises(EmulatorError, match=message) as caught:
        run_kernel(IN_BLOCK_2.replace("FAULT", code), "wrong", 4, 64, x, z, 64)
    assert "kernel wrong" in str(caught.value)
    assert "block 2" in str(caught.value) or "a write" in str(caught.value)
    assert np.array_equal(x, before)  # of a launch that failed nothing comes back
    run_kernel(KERNELS, "axpb", 2, 64, x, z, 64, 1.0)  # and the process goes on
    assert np.array_equal(z, 2 * x + 1)


def test_signals_have_their_old_handlers_afterwards() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGFPE, lambda number, _: seen.append(number))
    try:
        with pytest.raises(EmulatorError):
            run_kernel(KERNELS, "axpb", 1, 1, None, None, 100, 1.0)
        os.kill(os.getpid(), signal.SIGFPE)
        assert seen == [signal.SIGFPE]
    finally:
        signal.signal(signal.SIGFPE, before)


def test_a_block_without_the_lanes_of_a_mask() -> None:
    text = 'extern "C" __global__ void wrong() { __syncwarp(); }'
    with pytest.raises(EmulatorError, match=r"thread 32: waits .* for lane 8 of its warp, which a"):
        run_kernel(text, "wrong", 1, 40)


def test_a_text_that_does_not_compile() -> None:
    text = '#include "scalar.h"\nextern "C" __global__ void bad(float *x)\n{\n    x[0] = y;\n}\n'
    with pytest.raises(
        EmulatorError, match=r"^[^;]*kernel\.cu:4.*\by\b[^|;]*\n  4 \|     x\[0\] = y;"
    ):
        run_kernel(text, "bad", 1, 1, np.zeros(1))


# -- kernels of a user's own


@pytest.mark.parametrize("n", [1, 3, 37, 1001])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_reads_past_the_end_are_found_at_any_size(n: int, dtype: str) -> None:
    ctype = {"f4": "float", "f8": "double", "i2": "short"}[dtype]
    text = f"""extern "C" __global__ void next(const {ctype} *x, {ctype} *y, int n)
    {{ for (int i = 0; i < n; i++) y[i] = x[i + 1]; }}"""
    x = draw(n).astype(dtype)
    with pytest.raises(EmulatorError, match=f"{READ}, element {n} of parameter x, which has {n}$"):
        run_kernel(text, "next", 1, 1, x, x.copy(), n)


def test_vectors_start_where_those_of_a_gpu_do() -> None:
    """Also those of an array that does not end with a whole vector."""
    x, y = draw(37), np.zeros(37, np.float32)
    run_kernel(KERNELS, "axpb", 3, 96, x, y, 37, 0.5)
    assert np.array_equal(y, 2 * x + np.float32(0.5))


def test_orders_are_compared() -> None:
    x, y = draw(64), np.zeros(64, np.float32)
    run_kernel(REVERSE.replace("BARRIER", "__syncthreads();"), "reverse", 1, 64, x, y)
    assert np.array_equal(y, x[::-1])
    before = y.copy()
    with pytest.raises(
        EmulatorError, match=r"reverse: element \d+ of y is .* orders ascending and"
    ):
        run_kernel(REVERSE.replace("BARRIER", ""), "reverse", 1, 64, x, y)
    assert np.array_equal(y, before)
    race = 'extern "C" __global__ void last(int *x) { *x = threadIdx.x; }'
    with pytest.raises(EmulatorError, match="element 0 of x is 31 or 0"):
        run_kernel(race, "last", 1, 32, np.zeros(1, "i4"))
    with pytest.raises(EmulatorError, match="order 'each': it is one of all, ascending"):
        run_kernel(race, "last", 1, 32, np.zeros(1, "i4"), order="each")


TYPED = """extern "C" __global__ void __launch_bounds__(2 * 32)
typed(const float *x, float4 *y, unsigned char *z, int64_t n, float f) { }
"""


def test_types_of_arguments() -> None:
    x, y, z = np.ones(8, "f4"), np.ones(8, "f4"), np.ones(8, bool)
    x.flags.writeable = False
    for n in (8, np.int64(8), np.int32(8)):
        run_kernel(TYPED, "typed", 1, 64, x, y, z, n, np.float32(1))
    run_kernel(TYPED, "typed", 1, 64, None, None, None, 1, 1)
    wrong: tuple[tuple[int, Any, str], ...] = (
        (0, np.ones(8), "array of float64, but its parameter x is a pointer to const float$"),
        (1, x, "read-only, but its parameter y is a pointer to float$"),
        (1, np.ones(8, "i4"), "array of int32, but its parameter y is a pointer to float$"),
        (0, 16, "16, a number, but its parameter x is a pointer to const float$"),
        (3, np.array(8), "an array of int64, but its parameter n is int64_t$"),
        (3, 0.5, "0.5, but its parameter n is int64_t$"),
        (4, "1", "str, but its parameter f is float$"),
    )
    for number, value, words in wrong:
        arguments: list[Any] = [x, y, z, 8, 1.0]
        arguments[number] = value
        with pytest.raises(
            EmulatorError, match=f"argument {number + 1} of kernel typed is .*{words}"
        ):
            run_kernel(TYPED, "typed", 1, 64, *arguments)
    with pytest.raises(EmulatorError, match="65 threads: its __launch_bounds__ are 64"):
        run_kernel(TYPED, "typed", 1, 65, x, y, z, 8, 1.0)


SPIN = """extern "C" __global__ void spin(volatile int *x)
{ if (threadIdx.x == 3) x[0] = 1; else if (threadIdx.x == 1) while (x[0] == 0) { } }"""


def test_a_kernel_without_an_end() -> None:
    with pytest.raises(EmulatorError, match=r"spin, block 0, thread 1: it has run for 0\.05 sec"):
        run_kernel(SPIN, "spin", 1, 32, np.zeros(1, "i4"), seconds=0.05)
    run_kernel(SPIN, "spin", 1, 32, np.zeros(1, "i4"), order="descending")
    with pytest.raises(EmulatorError, match="seconds 0: need more"):
        run_kernel(SPIN, "spin", 1, 32, np.zeros(1, "i4"), seconds=0)


def interrupted(seconds: float, run: Callable[[], None]) -> None:
    """Again and again, until an interrupt comes from outside."""
    command = ["sh", "-c", f"sleep {seconds}; kill -INT {os.getpid()}"]
    os.posix_spawn("/bin/sh", command, os.environ)
    while True:
        run()


@pytest.mark.parametrize("ucontext", [False, True])
def test_an_interrupt_ends_a_kernel(ucontext: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if ucontext:
        monkeypatch.setenv("CXX", "c++ -DGX_UCONTEXT")
    Module(SPIN)
    before, start = signal.getsignal(signal.SIGINT), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(0.2, lambda: run_kernel(SPIN, "spin", 1, 32, np.zeros(1, "i4")))
    assert time.monotonic() - start < 20
    assert signal.getsignal(signal.SIGINT) is before
    x = draw(64)
    run_kernel(KERNELS, "axpb", 2, 64, x, x.copy(), 64, 1.0)  # and the process goes on


# an interrupt may find a file of the cache being read
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_moment_of_a_launch() -> None:
    """Between threads and blocks, too, where there is no thread to be left."""
    text = 'extern "C" __global__ void work(int *x) { __syncthreads(); x[blockIdx.x] = 1; }'
    x = np.zeros(3000, "i4")
    Module(text)
    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            interrupted(0.01, lambda: run_kernel(text, "work", 3000, 2, x, order="ascending"))


VECTORS = """extern "C" __global__ void vectors(const float4 *x, float *y, int2 *z)
{
    float4 v = x[0];
    float2 w = make_float2(v.x + v.y, v.z + v.w);
    uchar4 c = make_uchar4(1, 2, 3, 250 + 5);
    y[0] = w.x, y[1] = w.y, y[2] = c.w;
    y[3] = __expf(v.x), y[4] = __fdividef(v.y, v.z), y[5] = __powf(v.y, v.z);
    y[6] = __fadd_rn(v.x, v.y), y[7] = __saturatef(v.w);
    float s, k;
    __sincosf(v.x, &s, &k);
    y[8] = s, y[9] = k;
    z[0] = make_int2(alignof(float3) + 16 * alignof(double4), __brev(1u) >> 31);
    z[1] = make_int2(__float2int_rd(-1.5f), __mulhi(1 << 30, 8));
}"""


def test_vectors_and_intrinsics_of_nvrtc() -> None:
    x, y, z = np.arange(1, 5, dtype="f4"), np.zeros(10, "f4"), np.zeros(4, "i4")
    run_kernel(VECTORS, "vectors", 1, 1, x, y, z)
    wanted = [3, 7, 255, np.e, 2 / 3, 8, 3, 1, np.sin(1), np.cos(1)]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    assert z.tolist() == [4 + 16 * 16, 1, -2, 2]


def test_what_is_not_there_is_said() -> None:
    text = 'extern "C" __global__ void k(float *x) { extern __shared__ float s[]; x[0] = s[0]; }'
    with pytest.raises(EmulatorError, match="no extern __shared__ memory: declare"):
        run_kernel(text, "k", 1, 1, np.zeros(1, "f4"))
    assert EmulatorError is gx.EmulatorError is gx.testing.EmulatorError


# -- the device


@pytest.fixture
def device() -> EmulatedDevice:
    return EmulatedDevice()


def test_it_is_a_device(device: EmulatedDevice) -> None:
    as_declared: Device = device
    assert as_declared.name == "emulator"
    assert (device.facts.arch, device.facts.multiprocessors) == ("sm_90", 4)
    with device.active():
        start, end = device.event(), device.event()
        start.wait()
        start.record()
        end.record()
        device.synchronize()
    assert 0 <= end.seconds_since(start) < 1


def test_what_another_thread_does_is_not_recorded(device: EmulatedDevice) -> None:
    with device.active():
        block = device.allocate(4)
    asked, used = threading.Event(), threading.Event()

    def use() -> None:
        asked.set()
        with device.active():
            device.upload(block.address, np.ones(4, np.uint8))
        used.set()

    other = threading.Thread(target=use)
    with device.active(), device.record() as recorder:
        other.start()
        asked.wait(10)
        assert not used.wait(0.05)
        device.fill(block.address, 4)
    other.join(10)
    assert used.is_set()
    assert len(recorder.recording.works) == 1


@pytest.mark.parametrize("nbytes", [0, 1, 255, 256, 257, 4096, 70000])
@pytest.mark.parametrize("at_end", [True, False])
def test_memory(nbytes: int, at_end: bool) -> None:
    device = EmulatedDevice(at_end=at_end)
    block = device.allocate(nbytes)
    assert block.address % 256 == 0
    assert block.nbytes == nbytes
    got = np.zeros(nbytes, np.uint8)
    device.download(got, block.address)
    assert (got == 0xFF).all()
    source = device.pinned(nbytes)
    source[:] = np.arange(nbytes) % 251
    device.upload(block.address, source)
    other = device.allocate(nbytes)
    device.copy(other.address, block.address, nbytes)
    device.fill(block.address, nbytes // 2)
    device.download(got, other.address)
    assert np.array_equal(got, source)
    device.download(got, block.address)
    source[: nbytes // 2] = 0
    assert np.array_equal(got, source)
    for work in (lambda: device.fill(block.address, nbytes + 1),
                 lambda: device.copy(block.address - 1, other.address, nbytes + 1),
                 lambda: device.upload(block.address, np.zeros(nbytes + 1, np.uint8))):  # fmt: skip
        with pytest.raises(EmulatorError, match=r"past the end|before the start|bytes at"):
            work()


def test_out_of_memory() -> None:
    device = EmulatedDevice(capacity=4096)
    first = device.allocate(2000)
    assert device.free_nbytes() == 2048
    with pytest.raises(DeviceMemoryError, match="2048 free bytes, not 2049"):
        device.allocate(2049)
    second = device.allocate(2048)
    del first
    assert device.free_nbytes() == 2048
    del second
    result, _ = device.fresh((16, 16), np.dtype(np.float64))
    view = result[2:4]
    del result
    assert device.free_nbytes() == 2048
    assert np.isnan(view).all()
    del view
    assert device.free_nbytes() == 4096


def test_memory_given_back_while_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a collection of garbage does, which may come at any time."""
    device = EmulatedDevice(capacity=4096)
    blocks = [device.allocate(256) for _ in range(4)]
    real = device.memory._rounded

    def rounded(nbytes: int) -> int:
        blocks.clear()
        return real(nbytes)

    monkeypatch.setattr(device.memory, "_rounded", rounded)
    device.free_nbytes()
    assert device.free_nbytes() == 4096


@pytest.mark.parametrize("at_end", [True, False])
def test_both_ends_of_an_allocation(at_end: bool) -> None:
    device = EmulatedDevice(at_end=at_end)
    poke = device.load('extern "C" __global__ void poke(char *x, int64_t i) { x[i] = 1; }')("poke")
    block = device.allocate(1000)
    for place, words in ((-1, "1 bytes before the start"), (1000, "0 bytes past the end")):
        for _ in range(2):
            with pytest.raises(EmulatorError, match=f"poke.*{words} of 1000 bytes"):
                device.launcher(poke, 1, 1, [block.address, place])()
        device.launcher(poke, 1, 1, [block.address, place // 2])() if place > 0 else None
    old = block.address
    del block
    with pytest.raises(EmulatorError, match=WRITE):
        device.launcher(poke, 1, 1, [old, 0])()


def test_arguments_have_the_eight_bytes_of_a_gpu(device: EmulatedDevice) -> None:
    text = 'extern "C" __global__ void k(float *p, int64_t n, double x, int m, float y) {}'
    kernel = device.load("#include <stdint.h>\n" + text)("k")
    with pytest.raises(EmulatorError, match=r"argument 4 .* int64_t"):
        device.launcher(kernel, 1, 1, [0, 1, 2.0, 3, 4.0])
    with pytest.raises(EmulatorError, match=r"argument 3 .* int64_t"):
        device.launcher(kernel, 1, 1, [0, 1, 2, 3, 4.0])


def test_arrays(device: EmulatedDevice) -> None:
    values = draw(3, 4)
    array = EmulatedArray(device, values.T)
    assert (array.shape, array.dtype) == ((4, 3), np.float32)
    assert np.array_equal(array.get(), values.T)
    assert np.array_equal(np.asarray(array), values.T)
    assert np.asarray(array, np.float64).dtype == np.float64
    found = device.admit(array)
    assert found is not None
    assert found[:3] == (array.block.address, (4, 3), np.float32)
    assert device.admit(values) is None
    assert EmulatedDevice().admit(array) is None


def test_a_recording_equals_direct_launches(order: str) -> None:
    def steps(device: EmulatedDevice, x: int, y: int) -> Callable[[], None]:
        axpb = device.load(splice(KERNELS))("axpb")
        to_y = device.launcher(axpb, 3, 64, [x, y, 1000, 0.25])
        multiply = device.multiplier(Product(10, 10, 100, 100, 10, 10, "float32", "float32"))

        def step() -> None:
            to_y()
            device.copy(x, y, 4000)
            device.fill(y + 400, 3600)
            multiply(x, x, y, 0)

        return step

    results: list[np.ndarray] = []
    for recorded in (False, True):
        device = EmulatedDevice(order, 5)
        x, y = EmulatedArray(device, draw(1000) / 10), EmulatedArray(device, np.zeros(1000, "f4"))
        step = steps(device, x.block.address, y.block.address)
        if recorded:
            with device.record() as recorder:
                step()
            assert np.array_equal(x.get(), draw(1000) / 10)
            step = recorder.recording.replay
        for _ in range(3):
            step()
        results += [x.get(), y.get()]
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[1], results[3])
    assert results[1][:100].any()


def test_an_interrupt_waits_for_the_end_of_a_recording(device: EmulatedDevice) -> None:
    with device.active(), device.record() as recorder:
        pass
    done: list[str] = []
    recorder.recording.works += [
        lambda: done.append("first"), lambda: signal.raise_signal(signal.SIGINT),
        lambda: done.append("last"),
    ]  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        recorder.recording.replay()
    assert done == ["first", "last"]


def test_a_recording_has_no_copies_between_host_and_device(device: EmulatedDevice) -> None:
    refused: tuple[Callable[[], object], ...] = (
        lambda: device.allocate(1),
        lambda: device.fresh((1,), np.dtype("f4")),
        lambda: device.upload(0, draw(1)),
        lambda: device.download(draw(1), 0),
        lambda: device.synchronize(),
        lambda: device.record().__enter__(),
    )
    with device.record():
        for work in refused:
            with pytest.raises(EmulatorError, match="while work is recorded"):
                work()
    device.synchronize()


# -- products

PRODUCTS = (
    Product(5, 7, 3, 3, 7, 7, "float32", "float32"),
    Product(5, 7, 3, 9, 8, 11, "float64", "float64", alpha=0.5, beta=2.0),
    Product(4, 6, 5, 4, 5, 6, "float32", "float32", True, True, epilogue="RELU_BIAS"),
    Product(4, 6, 5, 5, 6, 6, "float16", "float32", batch=3, a_step=20, b_step=0, c_step=24),
    Product(4, 6, 5, 5, 5, 6, "bfloat16", "bfloat16", False, True, epilogue="BIAS"),
    Product(4, 6, 5, 5, 6, 6, "float32", "float32", epilogue="RELU"),
)


@pytest.mark.parametrize("p", PRODUCTS, ids=str)
def test_products(p: Product, device: EmulatedDevice) -> None:
    given, result = (np.dtype(getattr(ml_dtypes, d, None) or d) for d in (p.dtype, p.result))
    a, b, c, bias = (
        EmulatedArray(device, np.random.default_rng(i).normal(size=100).astype(t))
        for i, t in enumerate((given, given, result, result))
    )
    expected = c.get().astype(np.float64)

    def at(values: np.ndarray, row: int, step: int, batch: int, transposed: bool, i: int, j: int):
        i, j = (j, i) if transposed else (i, j)
        return float(values[batch * step + i * row + j])

    for s in range(p.batch):
        for i in range(p.m):
            for j in range(p.n):
                total = sum(
                    at(a.get(), p.a_row, p.a_step, s, p.a_transposed, i, k)
                    * at(b.get(), p.b_row, p.b_step, s, p.b_transposed, k, j)
                    for k in range(p.k)
                )
                place = s * p.c_step + i * p.c_row + j
                total = p.alpha * total + p.beta * float(c.get()[place])
                total += float(bias.get()[j]) if "BIAS" in p.epilogue else 0
                expected[place] = max(total, 0) if "RELU" in p.epilogue else total
    at_bias = bias.block.address if "BIAS" in p.epilogue else 0
    device.multiplier(p)(*(array.block.address for array in (a, b, c)), at_bias)
    tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-12}[result.itemsize]
    np.testing.assert_allclose(c.get().astype(float), expected, rtol=tolerance, atol=tolerance)


def test_what_the_header_does_not_have_is_not_taken_for_a_kernel() -> None:
    text = '// extern "C" __global__ void one() {}\n/* extern "C" __global__ void two() {} */\n'
    text += 'extern "C" __global__ __launch_bounds__(64) void three() {}\n'
    assert list(Module(text).kernels) == ["three"]
    with pytest.raises(EmulatorError, match="there are three"):
        Module(text)("one")
