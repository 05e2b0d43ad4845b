"""The driver: rewrites a graph from its sources to its outputs until no rule fires anywhere.

Each node is rebuilt over its simplified inputs, then replaced as long as a rule fires on it; nodes
that a replacement makes go the same way. Every node is settled once, so that the work is linear in
the nodes ever made. Candidate rules are found by one look-up per node, by its op and its inputs'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from graphc.errors import CompileError, GraphcError
from graphc.ir.graph import Graph, rebuild
from graphc.ir.node import Derived, Node, describe
from graphc.ir.op import Op
from graphc.rewrite.pattern import Found, Matcher, Pattern
from graphc.rewrite.rule import Match, Rule

REWRITES_PER_NODE = 32  # beyond this the rules undo one another
NAMED_IN_LOOP = 24  # the last rewrites, whose rules are named when they do


class Candidate(NamedTuple):
    """One order of a rule's operands, compiled."""

    rule: Rule
    pattern: Pattern
    match: Matcher


class RuleTable(dict[tuple[Op[Any], ...], tuple[Candidate, ...]]):
    """Ops of a node and its inputs -> the candidates among the rules, in the order of the rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self.candidates = tuple(
            Candidate(rule, pattern, pattern.matcher(set()))
            for rule in rules
            for pattern in rule.pattern.variants()
        )

    def __missing__(self, ops: tuple[Op[Any], ...]) -> tuple[Candidate, ...]:
        op, *inputs = ops
        found = tuple(c for c in self.candidates if c.pattern.could_match(op, inputs))
        self[ops] = found
        return found


@lru_cache(maxsize=32)
def _table(rules: tuple[Rule, ...]) -> RuleTable:
    return RuleTable(rules)


def simplify(graph: Graph, rules: Sequence[Rule]) -> tuple[Graph, dict[str, int]]:
    """The graph with no rule left to fire, and how often each rule fired.

    The same graph object if none did. All sizes must be ints. Raises CompileError where a rule
    changes a type, where rules undo one another, or where a replacement cannot be built.
    """
    run = _Run(_table(tuple(rules)), REWRITES_PER_NODE * (len(graph.nodes) + 32))
    for node in graph.nodes:
        run.settle(node)
    return graph.map(run.settled.__getitem__), run.hits


class _Run:
    """The state of one simplification."""

    def __init__(self, table: RuleTable, limit: int) -> None:
        self.table = table
        self.left = limit
        self.settled: dict[Node, Node] = {}  # node -> what it has become for good
        self.hits: dict[str, int] = {}
        self.recent: deque[str] = deque(maxlen=NAMED_IN_LOOP)

    def settle(self, root: Node) -> None:
        """Enter `root` and all that it leads to into `settled`."""
        settled = self.settled
        becomes: dict[Node, Node] = {}  # nodes replaced whose replacements are not settled yet
        stack = [root]
        while stack:
            node = stack[-1]
            if node in settled:
                stack.pop()
                continue
            successor = becomes.get(node)
            if successor is not None:
                if successor not in settled:
                    raise self.loop()
                settled[node] = settled[successor]
                continue
            waiting = [i for i in node.inputs if i not in settled]
            if waiting:
                stack += waiting
                continue
            successor = self.step(node)
            if successor is node:
                settled[node] = node
            else:
                becomes[node] = successor
                stack.append(successor)

    def step(self, node: Node) -> Node:
        """The node over its settled inputs, or else what the first rule that fires makes of it."""
        inputs = [self.settled[i] for i in node.inputs]
        for new, old in zip(inputs, node.inputs, strict=True):
            if new is not old:
                return rebuild(node, tuple(inputs))
        for rule, _, match in self.table[(node.op, *[i.op for i in inputs])]:
            found: Found = {}
            if not match(node, found):
                continue
            replaced = _apply(rule, Match(node, found))
            if replaced is not node:
                self.count(rule)
                return replaced
        return node

    def count(self, rule: Rule) -> None:
        self.hits[rule.name] = self.hits.get(rule.name, 0) + 1
        self.recent.append(rule.name)
        self.left -= 1
        if self.left < 0:
            raise self.loop()

    def loop(self) -> CompileError:
        names = ", ".join(sorted(set(self.recent)))
        return CompileError(
            f"simplify: these rules undo one another without end: {names}; switch one of them off "
            "with compile(..., rules={name: False})"
        )


def _apply(rule: Rule, match: Match) -> Node:
    """What the rule makes of the match; the node itself where it does not apply."""
    node = match.node
    if rule.when is not None and not rule.when(match):
        return node
    try:
        with Derived(node.sites, node.backward):
            replaced = rule.build(match)
    except GraphcError as error:
        raise CompileError(f"rule {rule.name!r} failed on {describe(node)}: {error}") from error
    if replaced is None:
        return node
    if replaced.type != node.type:
        raise CompileError(
            f"rule {rule.name!r} changed the type: {describe(node)} became {describe(replaced)}"
        )
    return replaced
