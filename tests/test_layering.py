"""The house stands as docs/design.md draws it: imports point down, one op lives in one place."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import networkx
import pytest

from graphc.ir.op import FUNCTIONS, OPS

ROOT = Path(__file__).resolve().parent.parent
ROWS = (  # a module imports only from rows below its own; names of one row never import each other
    ("cli", "testing"), ("train",), ("nn",), ("",), ("compiler",), ("executable",),
    ("checking",), ("backends",), ("codegen",), ("report",), ("evaluate",), ("schedule",),
    ("rewrite",), ("autodiff",), ("ops",), ("ir",), ("errors", "resources", "tolerances"),
)  # fmt: skip
HEIGHT = {name: -i for i, row in enumerate(ROWS) for name in row}
HEAVY = {
    "networkx", "scipy", "matplotlib", "graphviz", "typer", "rich", "cupy", "platformdirs",
    "safetensors",
}  # fmt: skip
NAMES_OPS = {  # may name ops: operators, conversions, composites, rules, the public names
    "__init__.py", "ir/node.py", "ir/build.py", "ops/composite.py", "rewrite/pattern.py",
    "rewrite/rules.py", "rewrite/shape_rules.py", "rewrite/stable_rules.py",
}  # fmt: skip
WORDS = {"input", "param", "const", "size", "sum", "all"}  # ops whose names are plain words, too

Import = tuple[ast.stmt, str, str, bool, bool]  # statement, module, name, at the top, types only


def sources() -> dict[str, str]:
    """Every file of graphc/ by its path below the package."""
    package = ROOT / "graphc"
    return {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*.py")}


def imports(source: str) -> Iterator[Import]:
    """Each imported name, with where its statement stands."""

    def walk(body: ast.AST, top: bool, types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(body):
            if isinstance(child, ast.Import):
                yield from ((child, a.name, "", top, types) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from ((child, child.module or "", a.name, top, types) for a in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from walk(child, top, True)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, top and not inside, types)

    yield from walk(ast.parse(source), True, False)


def row_of(module: str) -> str:
    """The folder or file of graphc/ that a dotted module name belongs to."""
    return module.split(".")[1] if "." in module else ""


def _is_loaded_on_demand(path: str, top: bool) -> bool:
    """Whether a module is loaded on demand: by the package's own __getattr__, or
    when a program is compiled for a GPU."""
    return path in ("__init__.py", "backends/cuda/__init__.py") and not top


def upward(path: str, source: str) -> list[str]:
    """Imports of graphc modules that do not stand in a row below."""
    own = "" if path == "__init__.py" else path.split("/")[0].removesuffix(".py")
    bad: list[str] = []
    for _, module, name, top, types in imports(source):
        if module.split(".")[0] != "graphc" or _is_loaded_on_demand(path, top):
            continue
        if path == "__init__.py" and types:  # names for editors, loaded on demand
            continue
        target = row_of(module) or (name if name in HEIGHT else "")
        inside = target == own and "/" in path
        if not inside and HEIGHT[target] >= HEIGHT[own]:
            bad.append(f"{path} imports {module}.{name}, which is not below it")
    return bad


def badly_placed(path: str, source: str) -> list[str]:
    """Imports of graphc hidden in functions or not by name, and heavy ones that are not hidden."""
    bad: list[str] = []
    for statement, module, name, top, types in imports(source):
        first = module.split(".")[0]
        place = f"{path}:{statement.lineno}"
        if isinstance(statement, ast.ImportFrom) and statement.level:
            bad.append(f"{place}: relative import")
        elif _is_loaded_on_demand(path, top):
            continue
        elif (
            first == "graphc"
            and (not top or not name or name == "*")
            and not (top and _is_gx(statement))
        ):
            bad.append(f"{place}: import graphc's modules at the top, by explicit name")
        elif first in HEAVY and top and not types:
            bad.append(f"{place}: import {first} inside the function that needs it")
    return bad


def _is_gx(statement: ast.stmt) -> bool:
    """`import graphc as gx`, as users write it: for what stands on the public names."""
    return ast.unparse(statement) == "import graphc as gx"


def private(path: str, source: str) -> list[str]:
    """What nn/ and train/ import of graphc beside its public names, and gx anywhere else."""
    outer = path.split("/")[0] in ("nn", "train")
    bad: list[str] = []
    for statement, module, _, _, _ in imports(source):
        if not outer and _is_gx(statement):
            bad.append(f"{path}: import graphc as gx: only nn/ and train/ stand on that")
        allowed = _is_gx(statement) or row_of(module) in ("nn", "train")
        if outer and module.split(".")[0] == "graphc" and not allowed:
            bad.append(f"{path} imports {module}: nn and train know `import graphc as gx` alone")
    return bad


def siblings(path: str, source: str) -> list[str]:
    """Imports between files of ops/ (composites and the folder's own list excepted)."""
    if not path.startswith("ops/") or path in ("ops/composite.py", "ops/__init__.py"):
        return []
    found = [m for _, m, _, _, _ in imports(source) if m.startswith("graphc.ops")]
    return [f"{path} imports {m}: write it with methods of Node" for m in found]


def named_ops(path: str, source: str) -> list[str]:
    """Ops of the table that a file names: by import, by look-up, by comparison or as a string.

    The records in ops/ write derivatives, so they look functions up; they may not compare names.
    """
    if path in NAMES_OPS or path.split("/")[0] in ("nn", "train"):
        return []
    record = path.startswith("ops/")
    bad: list[str] = []
    for _, module, name, _, _ in imports(source):
        if not record and module.startswith("graphc") and name in OPS:
            bad.append(f"{path} imports op {name}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            asked = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and _is_op(n)]
            about_op = any(
                isinstance(n, ast.Attribute) and n.attr == "name" for n in ast.walk(node)
            )
            bad += [f"{path}:{n.lineno} asks for op {n.value!r}" for n in asked if about_op]
        elif record:
            continue
        elif isinstance(node, ast.Subscript) and _is_op(node.slice):
            if ast.unparse(node.value) in ("OPS", "FUNCTIONS"):
                bad.append(f"{path}:{node.lineno} looks up {ast.unparse(node.slice)}")
        elif path.startswith("backends/"):  # its strings name functions of NumPy
            continue
        elif isinstance(node, ast.Constant) and _is_op(node) and node.value not in WORDS:
            bad.append(f"{path}:{node.lineno} names op {node.value!r}")
    return bad


def _is_op(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPS


CHECKS: tuple[Callable[[str, str], list[str]], ...] = (
    upward, badly_placed, private, siblings, named_ops,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_house(check: Callable[[str, str], list[str]]) -> None:
    assert [line for path, source in sources().items() for line in check(path, source)] == []


PLANTED = [
    (upward, "ir/dim.py", "from graphc.ops.arithmetic import add"),
    (upward, "schedule/fuse.py", "from graphc.report.dot import draw"),
    (upward, "cli.py", "from graphc.testing import check_grads"),
    (upward, "compiler.py", "from graphc import grad"),
    (badly_placed, "autodiff.py", "def f():\n    from graphc.ir.node import Node"),
    (badly_placed, "autodiff.py", "import graphc.ir.node"),
    (badly_placed, "report/dot.py", "import networkx"),
    (upward, "nn/layer.py", "from graphc.train.losses import LOSSES"),
    (badly_placed, "nn/layer.py", "def f():\n    import graphc as gx"),
    (private, "train/trainer.py", "from graphc.ir.node import Node"),
    (private, "train/trainer.py", "from graphc import grad"),
    (private, "schedule/fuse.py", "import graphc as gx"),
    (siblings, "ops/exponential.py", "from graphc.ops.arithmetic import add"),
    (named_ops, "rewrite/engine.py", "if node.op.name == 'multiply': pass"),
    (named_ops, "ops/views.py", "if node.op.name == 'multiply': pass"),
    (named_ops, "schedule/fuse.py", "CHEAP = ('add',)"),
    (named_ops, "schedule/fuse.py", "from graphc.ops.arithmetic import add"),
    (named_ops, "autodiff.py", "OPS['input']"),
]


@pytest.mark.parametrize(("check", "path", "source"), PLANTED)
def test_planted_fault_is_found(
    check: Callable[[str, str], list[str]], path: str, source: str
) -> None:
    assert len(check(path, source)) >= 1


def test_no_folder_imports_in_a_circle() -> None:
    graph = networkx.DiGraph()
    for path, source in sources().items():
        module = "graphc." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        graph.add_edges_from((module, m) for _, m, _, _, types in imports(source) if not types)
    assert list(networkx.simple_cycles(graph)) == []


def test_every_file_says_what_it_does() -> None:
    silent = [p for p, s in sources().items() if not ast.get_docstring(ast.parse(s))]
    assert silent == []


def test_import_loads_numpy_and_nothing_heavy() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import graphc, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "numpy" in loaded
    assert {m.split(".")[0] for m in loaded} & (HEAVY | {"hypothesis", "sklearn"}) == set()


def test_the_table_is_not_empty() -> None:
    assert len(OPS) >= 25
    assert set(OPS) <= set(FUNCTIONS)
