"""Lowering: the place of every buffer, so that a backend only has to follow."""

from __future__ import annotations

from graphc.ir.graph import is_external
from graphc.ir.node import Node, Param
from graphc.ir.op import Kind
from graphc.schedule.order import expand
from graphc.schedule.records import (
    Buffer,
    Line,
    MemoryPlan,
    Place,
    Program,
    Region,
    Schedule,
    Slab,
)


def lower(plan: MemoryPlan) -> Program:
    """The program of a planned schedule."""
    schedule = plan.schedule
    places: dict[Buffer, Place] = {}
    for allocation in plan.allocations:
        offset = allocation.offset
        places[allocation.buffer] = Place(Region.ARENA, offset)
        if isinstance(allocation.buffer, Slab):
            _place_members(allocation.buffer, places, offset)
    slabs: list[Slab] = []
    for buffer, home in schedule.in_place.items():
        if isinstance(home, Slab):
            slabs.append(home)
            places[home] = places[buffer] = Place(Region.PARAM, owner=home)
        for member, param in zip(expand(buffer), expand(home), strict=True):
            places[member] = Place(Region.PARAM, owner=param)
    for buffer in _mentioned(schedule):
        if buffer not in places:
            places[buffer] = _outside(buffer)
            if isinstance(buffer, Slab):
                slabs.append(buffer)
    return Program(plan, places, tuple(dict.fromkeys(slabs)))


def _place_members(slab: Slab, places: dict[Buffer, Place], offset: int) -> None:
    for member, start in zip(slab.members, slab.starts, strict=True):
        places[member] = Place(Region.ARENA, offset + start * slab.dtype.itemsize)


def _mentioned(schedule: Schedule) -> list[Buffer]:
    bases = [a.base for k in schedule.kernels for a in (*k.reads, *k.writes)]
    bases += [buffer for _, buffer, _ in schedule.results]
    return [*dict.fromkeys(bases), *schedule.graph.params]


def _outside(buffer: Buffer) -> Place:
    """The place of a buffer that is no temporary."""
    if isinstance(buffer, Param | Slab):
        return Place(Region.PARAM, owner=buffer)
    if isinstance(buffer, Line):
        return Place(Region.CONSTANT, owner=buffer)
    assert isinstance(buffer, Node), buffer
    if is_external(buffer):
        return Place(Region.INPUT, owner=buffer)
    if buffer.op.kind is Kind.SOURCE:
        return Place(Region.CONSTANT, owner=buffer)
    return Place(Region.RESULT, owner=buffer)
