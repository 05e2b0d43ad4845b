"""The C compiler: found, tried, remembered; and what is said of one that does not work."""

import ctypes
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from graphc.backends import toolchain as module
from graphc.backends.cache import ObjectCache
from graphc.backends.toolchain import (
    OPTIONAL,
    PROBE,
    REQUIRED,
    Toolchain,
    compile_object,
    describe_cpu,
    details,
    find_toolchain,
)
from graphc.errors import BackendUnavailable

REAL = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or ""
needs_compiler = pytest.mark.skipif(not REAL, reason="needs a C compiler")
ANSWER = "int answer(void) { return 42; }\n"
PASS_ON = f'exec {REAL} "$@"'
# Runs the next lines with $out, the object that is to be written.
WITH_OUT = 'for word; do if [ "$last" = -o ]; then out=$word; fi; last=$word; done\n'

Script = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "cache")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Make a shell script the compiler that CC names."""

    def make(body: str, name: str = "compiler", arguments: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + body + "\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", f"{path} {arguments}")
        return path

    return make


def counting(log: Path, body: str = PASS_ON) -> str:
    return f"echo call >> {shlex.quote(str(log))}\n{body}"


def calls(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def loaded(toolchain: Toolchain, source: str, cache: ObjectCache) -> ctypes.CDLL:
    return cache.load(toolchain.key(source), lambda path: compile_object(toolchain, source, path))


# -- a compiler that works


@needs_compiler
def test_the_systems_compiler(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    toolchain = find_toolchain(cache)
    assert os.path.realpath(toolchain.command[0]) == os.path.realpath(REAL)
    assert toolchain.flags[: len(REQUIRED)] == REQUIRED
    assert toolchain.version
    assert loaded(toolchain, ANSWER, cache).answer() == 42
    shown = details(toolchain, cache)
    assert shown["compiler"] == toolchain.command[0]
    assert shown["flags"].endswith(" -lm")
    assert shown["cache"] == str(cache.folder)
    assert set(shown) - {"refused flags"} == {"compiler", "version", "flags", "cache"}


@needs_compiler
def test_nan_and_infinity_survive(cache: ObjectCache) -> None:
    source = (
        "#include <math.h>\nint odd(float x) { return isnan(x) + 2 * isinf(x) + 4 * (x != x); }"
    )
    odd = loaded(find_toolchain(cache), source, cache).odd
    odd.argtypes = [ctypes.c_float]
    assert [odd(x) for x in (1.0, float("nan"), float("inf"))] == [0, 5, 2]


@needs_compiler
def test_product_and_sum_are_rounded_apart(cache: ObjectCache) -> None:
    source = "double f(double a, double b, double c) { return a * b + c; }"
    f = loaded(find_toolchain(cache), source, cache).f
    f.argtypes, f.restype = [ctypes.c_double] * 3, ctypes.c_double
    a = 1 + 2.0**-30
    assert f(a, a, -1.0) == a * a - 1


@needs_compiler
def test_fast_math_is_refused(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"-ffast-math", "-Ofast"} & {*REQUIRED, *sum(OPTIONAL, ())}
    monkeypatch.setenv("CC", f"{REAL} -ffast-math")
    with pytest.raises(BackendUnavailable, match="NaN and infinities would be lost"):
        find_toolchain(cache)


@needs_compiler
def test_arguments_in_cc(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for number in (1, 2):
        monkeypatch.setenv("CC", f"{REAL} -DNUMBER='{number} + 40'")
        toolchain = find_toolchain(cache)
        assert toolchain.command[1:] == (f"-DNUMBER={number} + 40",)
        source = "int f(void) { return NUMBER; }"
        assert loaded(toolchain, source, cache).f() == number + 40
        keys |= {toolchain.identity, toolchain.key(source)}
    assert len(keys) == 4


@needs_compiler
@pytest.mark.parametrize("quote", [str, shlex.quote], ids=["bare", "quoted"])
def test_path_with_spaces(
    script: Script, cache: ObjectCache, monkeypatch: pytest.MonkeyPatch, quote: Callable[[str], str]
) -> None:
    path = script(PASS_ON, name="a folder/my cc")
    monkeypatch.setenv("CC", quote(str(path)))
    toolchain = find_toolchain(cache)
    assert toolchain.command == (str(path),)
    assert loaded(toolchain, ANSWER, cache).answer() == 42


@needs_compiler
def test_words_of_a_compiler_that_succeeds_do_not_matter(
    script: Script, cache: ObjectCache
) -> None:
    script('echo "warning: error in the weather" >&2\n' + PASS_ON)
    assert loaded(find_toolchain(cache), ANSWER, cache).answer() == 42


# -- flags


def refusing(*patterns: str, instead: str = PASS_ON) -> str:
    tests = "".join(f'{p}) echo "error: unknown option $word" >&2; exit 1;; ' for p in patterns)
    return f'for word; do case "$word" in {tests}esac; done\n{instead}'


@needs_compiler
@pytest.mark.parametrize("patterns", [["-m*=native"], ["-fopenmp-simd", "-fno-trapping-math"]])
def test_refused_flags_are_dropped_one_by_one(
    script: Script, cache: ObjectCache, patterns: list[str]
) -> None:
    script(refusing(*patterns))
    toolchain = find_toolchain(cache)
    expected = {p.replace("-m*", "-march") for p in patterns}
    assert set(toolchain.refused) == expected
    assert len(toolchain.flags) == len(REQUIRED) + len(OPTIONAL) - len(expected)
    assert loaded(toolchain, ANSWER, cache).answer() == 42
    assert set(details(toolchain, cache)["refused flags"].split()) == expected
    assert find_toolchain(cache) == toolchain


@needs_compiler
def test_second_choice_of_a_flag(script: Script, cache: ObjectCache) -> None:
    """As on 64-bit ARM, where some compilers know -mcpu=native only."""
    drop = 'for word; do shift; [ "$word" = -mcpu=native ] || set -- "$@" "$word"; done\n'
    script(refusing("-march=native", instead=drop + PASS_ON))
    toolchain = find_toolchain(cache)
    assert "-mcpu=native" in toolchain.flags
    assert "-march=native" not in toolchain.flags
    assert toolchain.refused == ()


@needs_compiler
@pytest.mark.parametrize("flag", REQUIRED)
def test_flags_that_results_depend_on_are_not_dropped(
    script: Script, cache: ObjectCache, flag: str
) -> None:
    script(refusing(flag))
    with pytest.raises(BackendUnavailable, match=f"error: unknown option {flag}"):
        find_toolchain(cache)


# -- compilers that do not work


def test_none_on_path(tmp_path: Path, cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="none of cc, gcc, clang is on PATH; install one"):
        find_toolchain(cache)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no-such-compiler -O2", "there is no program 'no-such-compiler'"),
        ("''", "there is no program ''"),
        ("cc 'unbalanced", "cannot be split into words: No closing quotation"),
    ],
)
def test_cc_that_names_nothing(
    value: str, words: str, cache: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", value)
    with pytest.raises(BackendUnavailable, match=words) as caught:
        find_toolchain(cache)
    assert "correct or unset it" in str(caught.value)


def test_no_posix(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid")
    with pytest.raises(BackendUnavailable, match="POSIX system; use backend='numpy'"):
        find_toolchain(cache)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('echo "cc1 is missing" >&2; exit 4', r"failed \(4\): cc1 is missing;.*backend='numpy'"),
        ("exit 3", r"failed \(3\): no message"),
        ("exec false", r"failed \(1\): no message"),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("exit 0", "reported success and wrote no object"),
        (WITH_OUT + 'echo garbage > "$out"', r"does not run: it failed \(1\): /[^\n]*; "),
        (WITH_OUT + ': > "$out"', "does not run"),
        ('[ "$1" = --version ] || exit 5\necho 1.0', r"failed \(5\)"),
    ],
    ids=["words", "silent", "false", "killed", "nothing", "garbage", "empty", "only a version"],
)
def test_broken(script: Script, cache: ObjectCache, body: str, words: str) -> None:
    script(body)
    with pytest.raises(BackendUnavailable, match=f"(?s){words}"):
        find_toolchain(cache)
    assert not list(cache.folder.glob("graphc-toolchain-*"))


def test_not_a_program(tmp_path: Path, cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compiler"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(BackendUnavailable, match="cannot be started: Exec format error"):
        find_toolchain(cache)


@needs_compiler
def test_object_that_kills_its_process(script: Script, cache: ObjectCache) -> None:
    """As one with instructions that this CPU lacks; the process of these tests lives on."""
    bomb = "__attribute__((constructor)) static void bomb(void) { __builtin_trap(); }"
    script(f'[ "$1" = --version ] || {{ cat; echo "{bomb}"; }} | {REAL} "$@"')
    with pytest.raises(BackendUnavailable, match="was ended by SIG"):
        find_toolchain(cache)


@needs_compiler
def test_probe_gives_a_wrong_answer(script: Script, cache: ObjectCache) -> None:
    script(f"sed 's/+ 1;/+ 2;/' | {REAL} \"$@\"")
    with pytest.raises(BackendUnavailable, match="its thread did not run"):
        find_toolchain(cache)


@needs_compiler
def test_executable_that_only_embeds_python_is_not_started(
    script: Script, cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    host = script(counting(log), name="drawing-program")
    monkeypatch.setattr(sys, "executable", str(host))
    monkeypatch.setenv("CC", REAL)
    assert find_toolchain(cache).command == (REAL,)
    assert calls(log) == 0


@pytest.mark.parametrize("stage", ["", '[ "$1" = --version ] && exit\n'])
def test_slow_one_is_ended_with_its_children(
    script: Script, cache: ObjectCache, tmp_path: Path, stage: str
) -> None:
    alive = tmp_path / "alive"
    script(f"{stage}(sleep 0.8; echo yes > {alive}) & sleep 30")
    start = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"ended after 0\.\d+ s without an answer"):
        find_toolchain(cache, timeout=0.3)
    assert time.monotonic() - start < 25  # it sleeps for 30 s
    time.sleep(0.9)
    assert not alive.exists()


def test_interrupt_ends_the_compiler(script: Script, cache: ObjectCache, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    alive = tmp_path / "alive"
    script(f"(sleep 0.6; echo yes > {alive}) & sleep 0.6")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            find_toolchain(cache)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.8)
    assert not alive.exists()


@needs_compiler
def test_second_compiler_if_the_first_is_broken(
    script: Script, cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script(counting(log, "exit 1"), name="bin/cc")
    path = script(PASS_ON, name="bin/gcc")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    found = find_toolchain(cache)
    assert found.command == (str(path),)
    before = calls(log)
    assert before > 0
    assert find_toolchain(cache) == found
    assert calls(log) == before  # what is known to work comes before what is to be tried


def test_reasons_of_all_that_are_broken(
    script: Script, cache: ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cc", "gcc"):
        script(f"echo {name} has gone >&2; exit 1", name=f"bin/{name}")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BackendUnavailable, match=r"(?s)cc has gone.*gcc has gone"):
        find_toolchain(cache)


# -- what is remembered


@needs_compiler
def test_nothing_is_started_when_nothing_changed(
    script: Script, cache: ObjectCache, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    path = script(counting(log))
    first = find_toolchain(cache)
    assert loaded(first, ANSWER, cache).answer() == 42
    before = calls(log)
    assert before == 3  # its version, the probe, the program
    again = ObjectCache(cache.folder)
    second = find_toolchain(again)
    assert second == first
    assert loaded(second, ANSWER, again).answer() == 42
    assert calls(log) == before
    os.utime(path, (1, 1))  # as after an upgrade
    third = find_toolchain(again)
    assert calls(log) == before + 2
    assert third.identity != first.identity
    assert third.key(ANSWER) != first.key(ANSWER)


@needs_compiler
def test_each_program_of_a_command_counts(
    script: Script, cache: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = script(PASS_ON)
    launcher = script('exec "$@"', name="launcher")
    monkeypatch.setenv("CC", f"{launcher} {compiler}")
    first = find_toolchain(cache)
    assert first.command == (str(launcher), str(compiler))
    os.utime(compiler, (1, 1))
    assert find_toolchain(cache).identity != first.identity


@needs_compiler
def test_another_cpu_is_another_toolchain(
    cache: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_toolchain(cache)
    monkeypatch.setattr(module, "describe_cpu", lambda: "another")
    second = find_toolchain(cache)
    assert second.cpu == "another"
    assert second.identity != first.identity
    assert second.key(ANSWER) != first.key(ANSWER)


@needs_compiler
@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "null",
        "[]",
        "{}",
        '{"version": 1, "flags": []}',
        '{"version": "1", "flags": null}',
        '{"version": "1", "flags": [["-O3"]]}',
        '{"version": "1", "flags": ["-O3"]}',
    ],
)
def test_spoiled_memory_is_not_believed(cache: ObjectCache, text: str) -> None:
    found = find_toolchain(cache)
    cache.keep(f"toolchain-{found.identity}", text)
    assert find_toolchain(cache) == found


@needs_compiler
def test_remembered_flags_are_known_ones(cache: ObjectCache) -> None:
    found = find_toolchain(cache)
    (note,) = cache.folder.glob("graphc-toolchain-*")
    text = note.read_text()
    for known, spoiled in (('"-O3"', '"-Ofast"'), (json.dumps(found.version), "1")):
        assert known in text
        note.write_text(text.replace(known, spoiled))
        assert find_toolchain(cache) == found


def test_changing_facts_about_the_cpu_are_left_out() -> None:
    text = "processor: 0\nmodel name\t: A\ncpu MHz: {}\nflags: sse avx\nbogomips: {}\n\nflags: no\n"
    said = [list(module._features(iter(text.format(n, n).splitlines()))) for n in (1, 2)]
    assert said == [["A", "sse avx"]] * 2
    assert describe_cpu() == describe_cpu()


# -- a program


@needs_compiler
def test_program_that_does_not_compile(cache: ObjectCache, tmp_path: Path) -> None:
    toolchain = find_toolchain(cache)
    place = tmp_path / "place"
    place.mkdir()
    source = "#warning first\n" * 30 + "int f(void) { return missing; }\n"
    with pytest.raises(BackendUnavailable, match=r"failed \(1\): .*31.*missing") as caught:
        compile_object(toolchain, source, place / "f.so")
    assert "use backend='numpy'" in str(caught.value)
    assert not list(place.iterdir())
    with pytest.raises(BackendUnavailable, match="without an answer"):
        compile_object(toolchain, PROBE, place / "f.so", timeout=0)
    assert not list(place.iterdir())
    compile_object(toolchain, ANSWER, place / "f.so")
    assert [path.name for path in place.iterdir()] == ["f.so"]


@needs_compiler
def test_object_is_replaced_and_not_written_over(cache: ObjectCache, tmp_path: Path) -> None:
    """Who has loaded the old one keeps it."""
    toolchain, target, kept = find_toolchain(cache), tmp_path / "f.so", tmp_path / "kept.so"
    compile_object(toolchain, ANSWER, target)
    os.link(target, kept)
    before = kept.read_bytes()
    compile_object(toolchain, ANSWER.replace("answer", "other"), target)
    assert kept.read_bytes() == before != target.read_bytes()


def test_long_complaints_are_cut() -> None:
    said = "\n".join(f"x.c:{i}: error: " + "y" * 500 for i in range(100))
    kept = module._excerpt(said).splitlines()
    assert len(kept) == 9
    assert kept[-1] == "..."
    assert max(map(len, kept)) == 200
    assert module._excerpt("\n \n") == "no message"


def test_complaint_starts_at_its_first_error_or_with_what_leads_to_it() -> None:
    warning, led, error = "x.c:1: warning: odd", "ld: no room", "cc: error: ld failed"
    assert module._excerpt(f"{led}\n{error}") == f"{led}\n{error}"
    assert module._excerpt(f"{warning}\n  code\n\n{error}\nend") == f"{error}\nend"
