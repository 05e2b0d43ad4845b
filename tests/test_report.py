"""Looking: text and DOT of every stage, marks, names of any kind, explain, and the verifier."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary
from xml.etree import ElementTree

import pytest
from golden.training_step import step, symbolic
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc as gx
from graphc.errors import CompileError
from graphc.ir import node as node_module
from graphc.ir.graph import Graph
from graphc.ir.text import Role, graph_text, roles, verify_graph
from graphc.report.canvas import GREEN, GREY, STYLES, Canvas, visible
from graphc.report.changes import changes
from graphc.report.dot import to_dot
from graphc.report.explain import explain, summary
from graphc.report.stage import Stage
from graphc.report.text import text

NAMES = ("declared", "simplified", "fused", "planned", "lowered")
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's dot")

# -- the grammar of the DOT that is written, one statement a line

WORD = r'(?:[A-Za-z_][A-Za-z_0-9]*|"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?)'
ATTRS = rf"\[{WORD}={WORD}(?: {WORD}={WORD})*\]"
STATEMENT = re.compile(
    rf"\t*(?:digraph {{|subgraph {WORD} {{|}}|{WORD} -> {WORD}(?: {ATTRS})?"
    rf"|(?:graph|node|edge) {ATTRS}|{WORD}={WORD}(?: {WORD}={WORD})*|{WORD}(?: {ATTRS})?)"
)


def check_dot(source: str) -> None:
    """Every line is a statement, braces match, and every edge joins declared nodes."""
    lines = source.rstrip("\n").split("\n")
    depth = 0
    for line in lines:
        assert STATEMENT.fullmatch(line), line
        depth += line.endswith("{") - (line.strip() == "}")
    assert depth == 0
    declared = set(re.findall(r"^\t+(\w+) \[", source, re.MULTILINE))
    for tail, head in re.findall(r"^\t+(\w+) -> (\w+)", source, re.MULTILINE):
        assert {tail, head} <= declared


@pytest.fixture(scope="module", autouse=True)
def own_nodes() -> Iterator[None]:
    """An equal node that another test's graph keeps alive would be this one's, made in both places:
    here no node is known yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_module, "_table", WeakValueDictionary())
        yield


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    outputs, updates = step()
    return dict(gx.compile(outputs, updates=updates, backend="numpy").stages)


# -- goldens


@pytest.mark.parametrize("stage", NAMES)
def test_text_of_every_stage(
    stage: str, stages: dict[str, Stage], golden: Callable[[str, str], None]
) -> None:
    notes = {k: v for k, v in stages[stage].notes.items() if k != "source"}
    golden(f"{stage}.txt", replace(stages[stage], notes=notes).text())


@pytest.mark.parametrize("stage", NAMES)
def test_dot_of_every_stage(
    stage: str, stages: dict[str, Stage], golden: Callable[[str, str], None]
) -> None:
    source = stages[stage].to_dot()
    check_dot(source)
    golden(f"{stage}.dot", source)


def test_equal_programs_have_equal_texts(stages: dict[str, Stage]) -> None:
    outputs, updates = step()
    again = gx.compile(outputs, updates=updates, backend="numpy").stages
    for name in NAMES:
        assert again[name].text() == stages[name].text()
        assert again[name].to_dot() == stages[name].to_dot()
        assert str(__file__).rpartition("/")[0] not in again[name].text()


@needs_dot
@pytest.mark.parametrize("stage", NAMES)
def test_graphviz_draws_every_stage(stage: str, stages: dict[str, Stage]) -> None:
    assert run_dot(stages[stage].to_dot(), "png").startswith(b"\x89PNG")


def run_dot(source: str, form: str) -> bytes:
    done = subprocess.run(["dot", f"-T{form}"], input=source.encode(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


# -- what the pictures show


def test_roles_differ_by_colour_and_by_form(stages: dict[str, Stage]) -> None:
    assert len({s.fill for s in STYLES.values()}) == len(Role)
    assert len({(s.shape, s.style) for s in STYLES.values()}) == len(Role)
    source = stages["declared"].to_dot()
    found = roles(stages["declared"].record)
    assert set(found.values()) == set(Role)
    for style in STYLES.values():
        assert f'fillcolor="{style.fill}"' in source
        assert re.search(rf"shape={style.shape}\b", source)


def test_marks_show_what_a_stage_removed_and_added() -> None:
    def shifted(y: gx.Node) -> Graph:
        return Graph.of({"y": y + 2.0})

    x = gx.input("x", (3,))
    before, after = shifted(gx.exp(x * 1.0)), shifted(gx.sin(x))
    diff = changes(before, after)
    assert {n.op.name for n in diff.removed} == {"multiply", "exp", "const", "broadcast_to"}
    assert [n.op.name for n in diff.added] == ["sin"]
    source = Stage("simplified", after, before).to_dot()
    check_dot(source)
    (added,) = [line for line in source.splitlines() if '"sin_0\\n' in line]
    assert GREEN in added
    assert "penwidth=3" in added
    (removed,) = [line for line in source.splitlines() if '"exp_0\\n' in line]
    assert GREY in removed
    assert "style=dashed" in removed


def test_what_was_rebuilt_over_other_operands_is_kept() -> None:
    def chain(y: gx.Node) -> Graph:
        return Graph.of({"y": gx.tanh(gx.exp(y))})

    x = gx.input("x", (3,))
    diff = changes(chain(x * 1.0), chain(x))
    assert {n.op.name for n in diff.removed} == {"multiply", "const", "broadcast_to"}
    assert not diff.added


def test_views_and_scalars_stand_in_labels() -> None:
    x, b = gx.input("x", (2, 3)), gx.input("b", (3,))
    source = to_dot((x + b) * 0.5)
    assert "broadcast_to" in source
    assert "* 0.5" in source
    assert len(re.findall(r"^\tn\d+ \[", source, re.MULTILINE)) == 4  # x, b, add, multiply


def test_every_kernel_is_a_cluster_with_its_cost(stages: dict[str, Stage]) -> None:
    schedule, source = stages["fused"].record, stages["fused"].to_dot()
    for i, kernel in enumerate(schedule.kernels):
        assert f"subgraph cluster_k{i} {{" in source
        assert kernel.name in source
        assert kernel.form in source
    assert source.count("FLOP") >= len(schedule.kernels)
    for edge in schedule.edges:
        if not edge.fused:
            assert f"not fused: {edge.reason}" in source
        assert edge.reason in stages["fused"].text()
    assert "fused: saves" in source


def test_planned_stage_shows_offsets_and_live_ranges(stages: dict[str, Stage]) -> None:
    plan, source = stages["planned"].record, stages["planned"].to_dot()
    assert plan.allocations
    for a in plan.allocations:
        assert f"arena {a.offset}..{a.offset + a.nbytes}" in source
        assert f"kernels {a.first}-{a.last}" in source
        bar = "".join(
            "#" if a.first <= k <= a.last else "." for k in range(len(plan.schedule.kernels))
        )
        assert f"{a.first:>3}-{a.last:<3}  {bar}" in stages["planned"].text()


def test_lowered_stage_shows_places_and_source(stages: dict[str, Stage]) -> None:
    stage = stages["lowered"]
    assert "@ arena+" in stage.to_dot()
    assert "x (input)" in stage.text()
    noted = replace(stage, notes={"source": "for i in range(3): pass", "threads": 2}).text()
    assert noted.endswith("threads: 2\nsource:\nfor i in range(3): pass\n")


def test_binding_sizes_marks_nothing() -> None:
    stages = gx.compile(symbolic(), sizes={"batch": 4}, backend="numpy").stages
    assert list(stages)[:3] == ["declared", "bound", "simplified"]
    assert "changed: 0 nodes removed, 0 added" in stages["bound"].text()
    assert "float32[batch, 3]" in stages["declared"].to_dot()
    assert "float32[4, 3]" in stages["bound"].to_dot()


# -- anything can be drawn


def test_to_dot_draws_anything(stages: dict[str, Stage]) -> None:
    x = gx.input("x", (3,))
    drawn = [x, gx.exp(x), *(s.record for s in stages.values()), *stages.values()]
    for thing in drawn:
        check_dot(to_dot(thing))
    assert to_dot(SimpleNamespace(to_dot=lambda: "digraph {}")) == "digraph {}"
    for thing in (3, Stage, None):
        with pytest.raises(CompileError, match="cannot be drawn"):
            to_dot(thing)
        with pytest.raises(CompileError):
            text(thing)


NASTY = [
    '"', "'", "\\", "\\N", "\\l", "a\\", "\\\\", '\\"', '"]', "a:b", "a:b:c", "<b>bold</b>", "<",
    "<>", "<<b>>", "&amp;", "&", "&#65;", "two\nlines", "tab\there", "\r", "\x00", "\x7f", "é",
    "日本語", "😀", "\ud800", "\u2028", "\u202e", "{a|b}", "[x]", "digraph", "node", "->", ";",
    "// c", "/* c */", "#", "%", " ", "$HOME", "=", ",",
]  # fmt: skip


def drawing(names: list[str]) -> str:
    """One graph with these names for inputs, params and outputs."""
    leaves = [gx.input(name, (2,)) for name in names]
    updated = gx.param(names[0] + " as a param", [1.0, 2.0])
    return to_dot(Graph.raw(tuple((n.name, gx.exp(n)) for n in leaves), ((updated, updated + 1),)))


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(), min_size=1), min_size=1, max_size=4, unique=True))
def test_any_name_gives_valid_dot(names: list[str]) -> None:
    check_dot(drawing(names))


@needs_dot
def test_any_name_is_shown_as_it_is() -> None:
    source = drawing(NASTY)
    check_dot(source)
    svg = ElementTree.fromstring(run_dot(source, "svg"))  # noqa: S314 -- dot's own output
    shown = {
        "".join(t.itertext()).replace("\xa0", " ")
        for t in svg.iter("{http://www.w3.org/2000/svg}text")
    }
    for name in NASTY:
        assert visible(name) in shown or not visible(name).strip(), name


def test_a_label_alone_is_literal() -> None:
    assert 'label="<b>bold</b>"' in Canvas("<b>bold</b>").source


def test_names_are_quoted_in_text() -> None:
    graph = Graph.of({"two\nlines": gx.exp(gx.input("a b", (2,)))})
    assert "'a b' = input" in graph_text(graph)
    assert "'two\\nlines' = exp_0" in graph_text(graph)


# -- explain


@pytest.mark.parametrize("count", [1, 50])
def test_explain_fits_a_screen(stages: dict[str, Stage], count: int) -> None:
    program: Any = stages["lowered"].record
    schedule = replace(program.schedule, kernels=program.kernels * count)
    program = replace(program, plan=replace(program.plan, schedule=schedule))
    facts: Any = {
        "name": "step", "backend": "numpy", "backend_reason": "chosen",
        "stages": list(stages.values()), "program": program,
    }  # fmt: skip
    shown = explain(**facts)
    assert len(shown.splitlines()) <= 45
    assert max(map(len, shown.splitlines())) <= 100
    for part in ("declared", "FLOP", "KiB", "naive", "arena", "params", "fused", *NAMES):
        assert part in shown
    assert "operand of a contraction" in shown
    assert 6 <= len(summary(**facts).splitlines()) <= 10
    unbound = summary(**{**facts, "program": None, "stages": [stages["declared"]]})
    assert "specialize" in unbound


# -- the verifier


def plant(node: gx.Node, **changed: Any) -> gx.Node:
    """A copy of a node outside the table of nodes, with a fault."""
    copy = object.__new__(type(node))
    for slot in ("op", "inputs", "attrs", "type", "sites", "backward"):
        setattr(copy, slot, changed.get(slot, getattr(node, slot)))
    return copy


def broken() -> dict[str, Graph]:
    x, w = gx.input("x", (2, 3)), gx.param("w", [[1.0], [2.0], [3.0]])
    y = x @ w
    wrong = plant(y, type=x.type)
    astray = plant(y, inputs=(w, x))
    twin = gx.input("x", (4,))
    whole = Graph.of({"y": y})
    return {
        r"contract\(x, w\) float32\[2, 3\].* infers float32\[2, 1\]": Graph.of({"y": wrong}),
        r"contract\(w, x\).* has no type": Graph.of({"y": astray}),
        r"stands before its operand": replace(whole, nodes=whole.nodes[::-1]),
        r"stands twice": replace(whole, nodes=(*whole.nodes, y)),
        r"two nodes are named 'x'": Graph.raw((("y", y), ("z", gx.exp(twin))), ()),
        r"w float32\[3, 1\].* is updated by .*types differ": Graph.raw((), ((w, y),)),
        r"w .* is updated twice": Graph.raw((), ((w, w + 1), (w, w + 2))),
        r"output 'y' is contract": replace(whole, nodes=whole.nodes[:-1]),
        r"update of w .* is not part": replace(whole, updates=((w, w + 1),)),
    }  # fmt: skip


@pytest.mark.parametrize("message", broken())
def test_verifier_finds_planted_faults(message: str) -> None:
    with pytest.raises(CompileError, match=message):
        verify_graph(broken()[message])


def test_verifier_accepts_every_stage(stages: dict[str, Stage]) -> None:
    graphs = [s.record for s in stages.values() if isinstance(s.record, Graph)]
    assert len(graphs) == 2
    for graph in graphs:
        verify_graph(graph)


# -- networkx


def test_networkx_round_trip(stages: dict[str, Stage]) -> None:
    graph = stages["declared"].record
    assert isinstance(graph, Graph)
    exported = graph.to_networkx()
    assert list(exported) == [graph.names[n] for n in graph.nodes]
    for node in graph.nodes:
        found = exported.nodes[graph.names[node]]
        assert (found["op"], found["shape"]) == (node.op.name, node.shape)
        assert (found["dtype"], found["attrs"]) == (node.dtype.name, dict(node.attrs))
        assert found["role"] == ("backward" if node.backward else "forward")
        edges = exported.in_edges(graph.names[node], data="position")
        operands = [tail for tail, _, _ in sorted(edges, key=lambda e: e[2])]
        assert operands == [graph.names[i] for i in node.inputs]
