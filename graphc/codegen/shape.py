"""Choices that depend on a kernel alone, and that every dialect makes in the same way: how its
loops are arranged, what it keeps, how long it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphc.ir.dim import origin
from graphc.ir.op import Kind
from graphc.schedule.records import Access, Kernel, Level, Value

DEAR = 4.0  # cost from which a value is kept rather than computed again
CHUNK = 1 << 16  # elements of a chunk of a long reduction
STRETCH = 512  # columns that are accumulated at a time: they stay in L1
MOST_CHUNKS = 64

FLOPS = 1e11  # per second of one core: rough figures, to decide what is worth sharing
MULTIPLY = 2.5e-11  # seconds of an element and a unit of cost
SHORT, SLOWER = 32, 4.0  # loops of fewer steps fill no vectors: they take so many times as long
IN_CACHE = 1 << 20  # bytes
BYTES, BYTES_AFAR = 1e11, 1.5e10  # per second, from the caches and from memory


def arrange(kernel: Kernel) -> tuple[list[int], list[int], int | None]:
    """The loops of a reduction: around it, reduced, and the one over columns if that is innermost.

    A search for an index goes through one column at a time.
    """
    outer = list(kernel.outer)
    last = len(kernel.space) - 1
    if outer and outer[-1] == last and not searches(kernel):
        return outer[:-1], list(kernel.inner), last
    return outer, list(kernel.inner), None


def searches(kernel: Kernel) -> list[int]:
    """The reductions that give an index: they cannot be joined from parts."""
    return [
        i for i, s in enumerate(kernel.statements)
        if s.node.op.kind is Kind.REDUCTION and not s.node.op.combine
    ]  # fmt: skip


def draws(kernel: Kernel) -> list[int]:
    """The statements that draw random numbers."""
    return [i for i, s in enumerate(kernel.statements) if s.node.op.kind is Kind.RANDOM]


def is_symbolic(size: int) -> bool:
    """Whether a size depends on sizes that each call brings."""
    return not isinstance(origin(size), int)


def stretch_count(columns: int) -> int:
    """In how many stretches columns are reduced: `gx_stretches` of kernels/program.h."""
    return -(-int(columns) // STRETCH)


def chunk_count(extent: int, total: int, columns: int) -> int:
    """Into how many chunks a long reduction is cut: `gx_chunks` of kernels/program.h."""
    wanted = int(total) // CHUNK // stretch_count(columns) if columns else 0
    return max(1, min(MOST_CHUNKS, int(extent), wanted))


def is_chunked(kernel: Kernel, inner: Sequence[int], columns: int) -> bool:
    """Whether a reduction to few values is cut into chunks, whose results are joined in order."""
    if searches(kernel) or draws(kernel):
        return False
    count = chunk_count(kernel.space[inner[0]], kernel.size, columns)
    return is_symbolic(kernel.size) or count > 1


def needed(kernel: Kernel, roots: Iterable[int]) -> set[int]:
    """The statements that `roots` are computed from, with themselves, up to reductions."""
    found: set[int] = set()
    stack = list(roots)
    while stack:
        i = stack.pop()
        if i in found:
            continue
        found.add(i)
        if not kernel.statements[i].is_reduction:
            stack += operands(kernel, i)
    return found


def operands(kernel: Kernel, number: int) -> list[int]:
    """The statements whose values a statement takes."""
    return [a.index for a in kernel.statements[number].args if isinstance(a, Value)]


def kept_values(kernel: Kernel) -> list[list[int]]:
    """For each stage of a row kernel the full-level values that a later stage needs and that are
    kept: dear ones, and all where a store may already have overwritten what they come from.
    """
    statements = kernel.statements
    stages = range(max((s.stage for s in statements), default=0) + 1)
    stores = [s.value for s in kernel.stores if statements[s.value].level is Level.FULL]
    first_store = min((statements[i].stage for i in stores), default=len(stages))
    kept: list[dict[int, None]] = [{} for _ in stages]
    for stage in reversed(stages):  # what a stage keeps is one of the things it has to compute
        reductions = [i for i, s in enumerate(statements) if s.is_reduction and s.stage == stage]
        stack = [j for i in reductions + list(kept[stage]) for j in operands(kernel, i)]
        stack += [i for i in stores if statements[i].stage == stage]
        seen: set[int] = set()
        while stack:
            i = stack.pop()
            statement = statements[i]
            drawn = statement.node.op.kind is Kind.RANDOM
            if i in seen or statement.level is Level.OUTER or drawn:
                continue
            seen.add(i)
            dear = statement.node.op.cost >= DEAR and not statement.is_copy
            if statement.stage < stage and (dear or first_store < stage):
                kept[statement.stage].setdefault(i)
            else:
                stack += operands(kernel, i)
    return [list(k) for k in kept]


def spread(kernel: Kernel) -> Kernel:
    """A contraction kernel over (*batch, m, n): the loops that were joined, taken apart again."""
    c = kernel.contraction
    assert c is not None
    factors = (*c.batch, c.m, c.n)

    def moved(access: Access) -> Access:
        return replace(access, strides=_spread_strides(access.strides, kernel.space, factors))

    return replace(
        kernel,
        space=factors,
        operands=tuple(moved(a) for a in kernel.operands),
        stores=tuple(replace(s, access=moved(s.access)) for s in kernel.stores),
    )


def _spread_strides(
    strides: Sequence[int], space: Sequence[int], factors: Sequence[int]
) -> tuple[int, ...]:
    """Strides over the factors of which each loop of `space` is a run of neighbours."""
    found = [0] * len(factors)
    at = len(factors) - 1
    for extent, stride in zip(reversed(space), reversed(strides), strict=True):
        covered = 1
        while at >= 0 and (covered != extent or factors[at] == 1):
            found[at] = stride * covered if factors[at] != 1 else 0
            covered = covered * factors[at]
            at -= 1
    return tuple(found)


def estimate(kernel: Kernel) -> float:
    """Seconds that a kernel takes on one core, roughly."""
    product = kernel.contraction.flops / FLOPS if kernel.contraction is not None else 0.0
    costs = sum(s.node.op.cost for s in kernel.statements if not s.is_copy)
    if kernel.space and kernel.space[-1] < SHORT:
        costs *= SLOWER
    nbytes = int(kernel.nbytes)
    moved = nbytes / (BYTES if nbytes <= IN_CACHE else BYTES_AFAR)
    return max(product + int(kernel.size) * costs * MULTIPLY, moved)
