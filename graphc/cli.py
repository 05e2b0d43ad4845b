"""The command line: devices, inspect, bench. Wrong usage is one line on standard error."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graphc.backends import BACKENDS, devices
from graphc.backends.base import Availability
from graphc.compiler import compile as compile_graph
from graphc.errors import GraphcError
from graphc.report.stage import Stage
from graphc.resources import load_bench

PICTURES = (".svg", ".png")
GET_GRAPHVIZ = (
    "needs Graphviz's program `dot`, which is not on the PATH: apt install graphviz, "
    "brew install graphviz, or https://graphviz.org/download; or write FILE.dot instead"
)


class UsageError(Exception):
    """What the user asked for cannot be done; the message is the one line to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status, 0 or 2."""
    try:
        return int(_app()(None if argv is None else list(argv), standalone_mode=False) or 0)
    except (UsageError, GraphcError) as error:
        return _refuse(str(error))
    except BrokenPipeError:  # `graphc inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # what typer raises for wrong options can word itself
        wording = getattr(error, "format_message", None)
        if wording is None:
            raise
        return _refuse(wording() or "missing command; try graphc --help")


def _refuse(message: str) -> int:
    sys.stderr.write(f"graphc: {' '.join(message.split())}\n")
    return 2


def _app() -> Any:
    """The commands as a typer application."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, name="graphc")
    function = typer.Argument(metavar="MODULE:FUNCTION", help="Returns outputs, or with updates.")
    sizes = typer.Option([], "--size", metavar="NAME=N", help="Bind a symbolic size.")
    stage = typer.Option(
        "", help="declared, bound, widened, simplified, fused, planned or lowered."
    )
    picture = typer.Option("", "--out", metavar="FILE", help="A .dot, .svg or .png to write.")
    cases = typer.Option([], "--case", help="A benchmark to run; all by default.")
    backends = typer.Option([], "--backend", help="A backend to run on; all by default.")
    peers = typer.Option(
        False, "--peers",
        help="Compare with other libraries, too: on the GPU with --backend cuda, else on the CPU.",
    )  # fmt: skip
    sweep = typer.Option(False, "--sweep", help="Vary the size of a training step instead.")
    seconds = typer.Option(0.0, min=0.0, help="Begin nothing new after so many; 0: no limit.")
    results = typer.Option("", "--out", metavar="PATH", help="A JSON file to write, or a folder.")
    plot = typer.Option("", "--plot", metavar="FILE", help="A .png, .svg or .pdf to draw.")

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"graphc {installed_version()}")
            raise typer.Exit(0)

    show_version = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=print_version
    )

    @app.callback()
    def start(version: bool = show_version) -> None:
        """graphc: a static-graph compiler for arrays."""

    @app.command(name="devices")
    def list_devices() -> None:
        """Which backends can run here, and what the others lack."""
        typer.echo(devices_text(), nl=False)

    @app.command()
    def inspect(
        function: str = function, size: list[str] = sizes, stage: str = stage, out: str = picture
    ) -> None:
        """Compile what a function declares; print its stages, or draw one."""
        typer.echo(inspect_text(function, parse_sizes(size), stage, out), nl=False)

    @app.command()
    def bench(
        case: list[str] = cases, backend: list[str] = backends, peers: bool = peers,
        out: str = results, plot: str = plot, sweep: bool = sweep, seconds: float = seconds,
    ) -> None:  # fmt: skip
        """Time the benchmarks against NumPy by hand."""
        if sweep and (case or peers):
            raise UsageError("bench --sweep varies sizes on backends: no --case, no --peers")
        try:
            if sweep:
                load_bench("sweep").run(backend, out or None, seconds or None, plot or None)
            else:
                load_bench().run(case, backend, out or None, peers, plot or None, seconds or None)
        except OSError as error:
            raise UsageError(f"bench: {error}") from None

    return app


def installed_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("graphc")
    except PackageNotFoundError:
        return "(not installed: run from a checkout)"


# -- devices


def devices_text() -> str:
    """A paragraph for each backend: whether it is usable, why, and what was found."""
    lines: list[str] = []
    for name, device in devices().items():
        lines += _device_lines(name, device)
    emulator = BACKENDS["emulator"].probe()
    lines += _device_lines("emulator", emulator, "for tests and for writing kernels; ")
    return "\n".join(lines) + "\n"


def _device_lines(name: str, device: Availability, purpose: str = "") -> list[str]:
    """What is missing is among the details, where there are any."""
    state = "usable" if device.usable else "not usable"
    said = purpose + ("" if "missing" in device.details else device.reason)
    head = f"{name:<10} {state}" + (f": {said}" if said else "")
    return [head, *(f"{'':<10} {key}: {value}" for key, value in device.details.items())]


# -- inspect


def inspect_text(target: str, sizes: Mapping[str, int], stage: str, out: str) -> str:
    """Compile what `target` declares; the text to print, after writing the file if there is one."""
    path = Path(out) if out else None
    if path is not None and path.suffix not in (".dot", *PICTURES):
        raise UsageError(f"--out {out}: need a name that ends in .dot, .svg or .png")
    outputs, updates = declared(target)
    executable = compile_graph(outputs, updates=updates, sizes=sizes or None)
    stages: Mapping[str, Stage] = executable.stages
    if stage and stage not in stages:
        raise UsageError(f"--stage {stage}: {_available(stages, sizes)}")
    if path is None:
        chosen = [stages[stage]] if stage else list(stages.values())
        return "\n".join(s.text() for s in chosen)
    name = stage or ("fused" if "fused" in stages else "declared")
    write_picture(stages[name].to_dot(), path)
    return f"stage {name} written to {path}\n"


def _available(stages: Mapping[str, Stage], sizes: Mapping[str, int]) -> str:
    there = f"the stages are {', '.join(stages)}"
    if len(stages) == 1 and not sizes:
        return f"{there}; bind the symbolic sizes for more, as in --size batch=64"
    return there


def parse_sizes(given: Sequence[str]) -> dict[str, int]:
    """`["batch=64"]` as a mapping."""
    sizes: dict[str, int] = {}
    for item in given:
        name, equals, number = item.partition("=")
        if not (equals and name.isidentifier() and number.isascii() and number.isdigit()):
            raise UsageError(f"--size {item}: need NAME=N, such as --size batch=64")
        sizes[name] = int(number)
    return sizes


def declared(target: str) -> tuple[Any, Mapping[Any, Any] | None]:
    """Call MODULE:FUNCTION; what it returns, as outputs and updates."""
    function = find_function(target)
    try:
        returned = function()
    except GraphcError:
        raise
    except Exception as error:
        raise UsageError(f"{target}() failed: {_in_words(error)}") from error
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping):
        return returned
    return returned, None


def find_function(target: str) -> Callable[[], Any]:
    """The function that MODULE:FUNCTION names, looked for in the current folder, too."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"{target!r}: need MODULE:FUNCTION, such as model:step")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except GraphcError:
        raise
    except Exception as error:
        hint = f"; write {module_name[:-3]}:{name}" if module_name.endswith(".py") else ""
        raise UsageError(f"module {module_name!r}: {_in_words(error)}{hint}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"module {module_name!r} has no function {name!r}")
    return function


def _in_words(error: Exception) -> str:
    """The error and the last line of code it went through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{at}"


def write_picture(source: str, path: Path) -> None:
    """Write DOT source as it is, or drawn by Graphviz where the name asks for a picture."""
    import graphviz

    data = source.encode()
    if path.suffix in PICTURES:
        try:
            data = graphviz.Source(source).pipe(format=path.suffix[1:])
        except graphviz.ExecutableNotFound:
            raise UsageError(f"--out {path}: {path.suffix} {GET_GRAPHVIZ}") from None
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"--out {path}: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(main())
