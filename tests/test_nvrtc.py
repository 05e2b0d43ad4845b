"""NVRTC: the hand-written headers compile for each generation, errors say where, cubins stay."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphc.backends.cache import ObjectCache
from graphc.backends.cuda import libraries, nvrtc
from graphc.backends.cuda.nvrtc import compile_cubin, compile_ptx, parse_usage, resource_usage
from graphc.codegen.sources import splice
from graphc.errors import BackendUnavailable

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
HEADERS = '#include "scalar.h"\n#include "random.h"\n'
COPY = """\
extern "C" __global__ void copy(const float4 *__restrict__ x, float4 *y)
{
    y[threadIdx.x] = x[threadIdx.x];
}
"""
SPILLS = """\
extern "C" __global__ void __launch_bounds__(1024, 2) crowded(float *x)
{
    __shared__ float kept[64];
    float y[48];
    kept[threadIdx.x % 64] = x[threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 48; i++) y[i] = x[i * 64 + threadIdx.x];
    for (int j = 0; j < 9; j++) {
#pragma unroll
        for (int i = 0; i < 48; i++) y[i] = y[i] * kept[j] + y[(i + 1) % 48];
    }
#pragma unroll
    for (int i = 0; i < 48; i++) x[i * 64 + threadIdx.x] = y[i];
}
"""


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    """Skips all, saying why, where NVRTC is not installed."""
    try:
        nvrtc.nvrtc()
    except BackendUnavailable as error:
        pytest.skip(f"{error}; {nvrtc.MISSING}")


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache")


# -- the headers, in full


def functions(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Return type, name and parameters of each function that the headers define for CUDA."""
    macros = ("-D__CUDACC__", "-D__CUDACC_RTC__")
    command = ("gcc", "-E", "-P", *macros, "-x", "c", "-")
    found = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    flat = " ".join(found.stdout.split())
    start = r"static __device__ __forceinline__ "
    for kind, name, parameters in re.findall(start + r"(\w+) (\w+)\(([^)]*)\)", flat):
        yield kind, name, [] if parameters == "void" else re.split(r" *, *", parameters.strip())


def caller(kind: str, name: str, parameters: list[str]) -> str:
    """A kernel that calls a function with what memory holds, and stores what it gives."""
    values: list[str] = []
    for i, parameter in enumerate(parameters):
        declared = re.fullmatch(r"(?:const )?(\w+) (\*?)\w+(?:\[\d+\])?", parameter)
        assert declared, parameter
        pointer = "*" in parameter or "[" in parameter
        values.append(f"{'' if pointer else '*'}({declared[1]} *)(x + {64 * i})")
    call = f"{name}({', '.join(values)})"
    body = f"{call};" if kind == "void" else f"*({kind} *)y = {call};"
    return f'extern "C" __global__ void call_{name}(char *x, char *y) {{ {body} }}\n'


@pytest.fixture(scope="module")
def everything() -> str:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which expands the macros of the headers")
    headers = splice(HEADERS)
    found = list(functions(headers))
    names = [name for _, name, _ in found]
    assert len(set(names)) == len(names) > 150
    assert {"gx_exp_f32", "gx_draw_normal_f64", "gx_to_bf16", "gx_power_i64"} <= set(names)
    return headers + "".join(caller(*function) for function in found)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_function_of_the_headers_compiles(everything: str, arch: str) -> None:
    usage = resource_usage(everything, arch)
    assert len(usage) == everything.count("__global__")
    assert usage["call_gx_exp_f32"].registers < 32
    # Only CUDA's own functions of float64 have a stack, for huge arguments, and the loops over
    # parts of draws, which index the lanes of a group.
    heavy = {name for name, use in usage.items() if use.stack or use.spilled}
    expected = r"call_gx_(sin|cos|tan|normal_\w+)_f64|call_gx_(part_of|draw)_\w+"
    assert not {name for name in heavy if not re.fullmatch(expected, name)}


# -- flags


def test_vector_loads_show_in_the_ptx() -> None:
    ptx = compile_ptx(COPY, "sm_90")
    assert re.search(r"ld\.global\.nc\.v4\.[uf]32", ptx)
    assert re.search(r"st\.global\.v4\.[uf]32", ptx)
    assert ".target sm_90" in ptx


def test_arithmetic_is_exact() -> None:
    """Neither contracted, nor flushed to zero, nor divided approximately."""
    ptx = compile_ptx(
        'extern "C" __global__ void f(float *x) '
        "{ x[0] = x[1] * x[2] + x[3] / x[4] + sqrtf(x[5]); }",
        "sm_80",
    )
    assert "fma" not in ptx
    assert "ftz" not in ptx
    assert "approx" not in ptx
    assert {"mul.rn.f32", "div.rn.f32", "sqrt.rn.f32"} <= set(re.findall(r"[\w.]+", ptx))


def test_resource_usage() -> None:
    usage = resource_usage(COPY + SPILLS, "sm_90")
    assert set(usage) == {"copy", "crowded"}
    assert (usage["copy"].stack, usage["copy"].spilled, usage["copy"].shared) == (0, 0, 0)
    assert 0 < usage["copy"].registers <= 32
    assert usage["crowded"].registers == 32
    assert usage["crowded"].spilled > 0
    assert usage["crowded"].stack > 0
    assert usage["crowded"].shared == 256
    assert parse_usage("no kernel here") == {}


# -- errors


def test_errors_show_their_lines(cache: ObjectCache) -> None:
    warning = "int f(void) { int unused; return 1; }\n"
    text = (
        f"__device__ {warning}{COPY}\n__device__ float wrong(float x) {{ return x + missing; }}\n"
    )
    with pytest.raises(BackendUnavailable, match=r"graphc\.cu\(7\): error: .*missing") as caught:
        compile_cubin(text, "sm_90", cache)
    assert "return x + missing; }" in str(caught.value)
    assert "unused" not in str(caught.value)
    assert not list(cache.folder.iterdir())


def test_many_errors_are_cut(cache: ObjectCache) -> None:
    text = "".join(f"__device__ int f{i}() {{ return missing{i}; }}\n" for i in range(9))
    with pytest.raises(BackendUnavailable, match=r"missing3[\s\S]*and 5 more") as caught:
        compile_cubin(text, "sm_90", cache)
    assert "missing4" not in str(caught.value)


def test_text_that_includes_something(cache: ObjectCache) -> None:
    with pytest.raises(BackendUnavailable, match=r"could not open source file"):
        compile_cubin("#include <missing.h>\n", "sm_90", cache)


def test_unknown_architecture(cache: ObjectCache) -> None:
    for arch in ("sm_30", "sm_990"):
        with pytest.raises(BackendUnavailable, match=rf"cannot compile for {arch}, only for sm_"):
            compile_cubin(COPY, arch, cache)


def test_older_architecture_of_the_same_generation() -> None:
    compiler = nvrtc.nvrtc()
    assert compiler.nearest("sm_90") == "sm_90"
    assert compiler.nearest("sm_129") == f"sm_{max(a for a in compiler.architectures if a < 130)}"


def test_missing_library() -> None:
    with pytest.raises(BackendUnavailable, match="CUDA's library nothing cannot be loaded"):
        libraries.load_library("nothing")


# -- the cache


def test_cubin_is_kept(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []
    compiler = type(nvrtc.nvrtc())
    compile_text = compiler.compile

    def counted(self: nvrtc.Nvrtc, text: str, flags: tuple[str, ...]) -> nvrtc.Compiled:
        made.append(flags)
        return compile_text(self, text, flags)

    monkeypatch.setattr(compiler, "compile", counted)
    first = compile_cubin(COPY, "sm_90", cache)
    assert first.startswith(b"\x7fELF")
    assert compile_cubin(COPY, "sm_90", cache) == first
    assert len(made) == 1
    assert len(list(cache.folder.glob("*.cubin"))) == 1
    assert compile_cubin(COPY, "sm_80", cache) != first
    assert compile_cubin(COPY + "\n", "sm_90", cache)
    monkeypatch.setattr(nvrtc, "FLAGS", (*nvrtc.FLAGS, "-lineinfo"))
    compile_cubin(COPY, "sm_90", cache)
    monkeypatch.setattr(nvrtc.nvrtc(), "version", (99, 0))
    compile_cubin(COPY, "sm_90", cache)
    assert len(made) == 5
