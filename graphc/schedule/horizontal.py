"""Horizontal fusion: the updates of all parameters as one flat kernel over slabs.

Updates of the same form (same statements, same dtypes, same scalars) differ only in the buffers
they read and write. Laid one behind another in slabs, they become one elementwise kernel over one
loop: for small parameters that saves more time than the arithmetic takes. The update of a large one
runs as soon as its gradient is there, while that is still in the cache.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from graphc.ir.layout import contiguous_strides
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.schedule.records import (
    Access,
    Buffer,
    Kernel,
    Literal,
    Load,
    Slab,
    Store,
    Target,
    Value,
)


def merge_updates(
    kernels: Sequence[Kernel], updates: set[Node], outputs: set[Node], target: Target
) -> list[Kernel]:
    """The kernels with those of parameter updates that have the same form merged into one each."""
    written = {access.base for kernel in kernels for access in kernel.writes}
    classes: dict[Hashable, list[Kernel]] = {}
    result: list[Kernel] = []
    for kernel in kernels:
        signature = None
        if kernel.size <= target.horizontal and any(n in updates for n in kernel.nodes):
            signature = _signature(kernel, written, outputs)
        if signature is None:
            result.append(kernel)
        else:
            classes.setdefault(signature, []).append(kernel)
    slabs: dict[tuple[Buffer, ...], Slab] = {}
    taken: set[Buffer] = set()
    for alike in classes.values():
        columns = _columns(alike)
        made = {c: make_slab(c, _step(columns, target.alignment)) for c in columns}
        new = [buffer for c in made if c not in slabs for buffer in c]
        clash = len(set(new)) < len(new) or not taken.isdisjoint(new)  # a buffer has one place
        clash |= any(slabs[c].starts != made[c].starts for c in made if c in slabs)
        if len(alike) == 1 or clash:
            result += alike
            continue
        slabs |= {c: slab for c, slab in made.items() if c not in slabs}
        taken |= set(new)
        result.append(_merged(alike, slabs))
    return result


def make_slab(members: Sequence[Buffer], step: int) -> Slab:
    """The members one behind another, each start at a multiple of `step` elements."""
    nodes = [m for m in members if isinstance(m, Node)]
    starts: list[int] = []
    end = 0
    for node in nodes:
        starts.append(end)
        end += -(-node.type.size // step) * step
    return Slab(_slab_name(nodes), tuple(nodes), tuple(starts), end)


def slab_like(slab: Slab, members: Sequence[Node]) -> Slab:
    """Other members of the same sizes, at the same places of a slab of their own."""
    return Slab(_slab_name(members), tuple(members), slab.starts, slab.size)


def _slab_name(members: Sequence[Node]) -> str:
    return f"slab of {members[0].name} and {len(members) - 1} more"


def _step(columns: Iterable[tuple[Buffer, ...]], alignment: int) -> int:
    """Elements between possible starts: one loop counts elements of all columns, and those of the
    smallest dtype are to be aligned, too."""
    return max(1, *(alignment // buffer.dtype.itemsize for c in columns for buffer in c))


def _signature(kernel: Kernel, written: set[Buffer], outputs: set[Node]) -> Hashable | None:
    """What two updates must share to be merged, or None where the kernel cannot be flat: a draw
    depends on the place of its elements."""
    draws = any(s.node.op.kind is Kind.RANDOM for s in kernel.statements)
    if kernel.form != "elementwise" or not kernel.size or draws:
        return None
    whole = contiguous_strides(kernel.space)
    operands: list[Hashable] = []
    for access in (*kernel.operands, *(s.access for s in kernel.stores)):
        if access.offset == 0 and access.strides == whole and kernel.size > 1:
            base = access.base
            if not isinstance(base, Node) or base in outputs:
                return None
            if not isinstance(base, Param) and base not in written:
                return None
            operands.append(("whole", base.dtype, isinstance(base, Param)))
        elif not any(access.strides):
            operands.append(("scalar", id(access.base), access.offset))
        else:
            return None
    statements = tuple(
        (
            s.node.op,
            s.node.dtype,
            _plain(s.node.attrs),
            tuple(_argument(a) for a in s.args),
            s.level,
        )
        for s in kernel.statements
    )
    return (tuple(operands), statements, tuple(s.value for s in kernel.stores))


def _plain(attrs: Iterable[tuple[str, Hashable]]) -> Hashable:
    return tuple(attrs)


def _argument(argument: Value | Load | Literal) -> Hashable:
    return argument.node if isinstance(argument, Literal) else argument


def _columns(alike: Sequence[Kernel]) -> list[tuple[Buffer, ...]]:
    """For each whole operand and store of the form, the buffers that the kernels put there."""
    first = [*alike[0].operands, *(s.access for s in alike[0].stores)]
    return [
        tuple([*k.operands, *(s.access for s in k.stores)][i].base for k in alike)
        for i, access in enumerate(first)
        if any(access.strides)
    ]


def _merged(alike: Sequence[Kernel], slabs: Mapping[tuple[Buffer, ...], Slab]) -> Kernel:
    first = alike[0]

    def flat(i: int, access: Access) -> Access:
        if not any(access.strides):
            return replace(access, strides=(0,))
        column = tuple([*k.operands, *(s.access for s in k.stores)][i].base for k in alike)
        return Access(slabs[column], 0, (1,))

    operands = tuple(flat(i, access) for i, access in enumerate(first.operands))
    stores = tuple(
        Store(s.value, flat(len(operands) + i, s.access)) for i, s in enumerate(first.stores)
    )
    size = next(s.access.base for s in stores).shape[0]
    return replace(
        first, space=(int(size),), operands=operands, stores=stores,
        reason=f"the updates of {len(alike)} parameters as one flat kernel",
        nodes=tuple(n for k in alike for n in k.nodes),
    )  # fmt: skip
