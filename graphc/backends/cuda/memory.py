"""The device memory of a prepared program: where each of its buffers lies.

Temporaries lie in one slab, as planned. What else has a fixed place (scratch, constants, slots of
inputs and results, what the runner asks for) lies in one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.base import Options
from graphc.backends.cuda.device import Block, Device, DeviceMemoryError
from graphc.backends.cuda.parameters import Parameters
from graphc.backends.host_memory import constant_value
from graphc.codegen.tables import Slot
from graphc.schedule.records import Buffer, Program, Region, buffer_nbytes

ALIGNMENT = 256  # bytes, of every room


class Arena:
    """Room for temporaries, shared by the specialisations of one executable: as large as the
    largest of them needs."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.block: Block | None = None

    @property
    def nbytes(self) -> int:
        return self.block.nbytes if self.block is not None else 0

    def missing(self, nbytes: int) -> int:
        """Bytes to be allocated so that there are `nbytes`."""
        return nbytes if self.nbytes < nbytes else 0

    def reserve(self, nbytes: int) -> None:
        """Grow to at least `nbytes`; programs bound to the old block look again when called."""
        if self.missing(nbytes):
            self.block = self.device.allocate(nbytes)


@dataclass
class Rooms:
    """Rooms in a block that is still to be allocated."""

    nbytes: int = 0

    def take(self, nbytes: int) -> int:
        """The offset of a new room."""
        offset = self.nbytes
        self.nbytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return offset


class DeviceMemory(Parameters):
    """Addresses of everything that a program reads and writes, `at`.

    Whoever needs `rooms` beside takes them first; `allocate` then gives all of them addresses.
    """

    def __init__(
        self, program: Program, device: Device, options: Options, partials: Sequence[int]
    ) -> None:
        super().__init__(program, device, program.param_slabs)
        self.rooms = Rooms()
        self._offsets: dict[Slot, int] = {
            number: self.rooms.take(nbytes) for number, nbytes in enumerate(partials)
        }
        self._constants = self.buffers(Region.CONSTANT)
        for buffer in self._constants:
            self.give_room(buffer)
        self.arena: Arena = options.shared.setdefault("device arena", Arena(device))
        self._block: Block | None = None
        self._arena_block: Block | None = None

    def buffers(self, region: Region) -> list[Buffer]:
        """The program's buffers in one kind of memory."""
        return [b for b, place in self.program.places.items() if place.region is region]

    def give_room(self, buffer: Buffer) -> None:
        """A fixed place for a buffer."""
        self._offsets[buffer] = self.rooms.take(buffer_nbytes(buffer))

    def place(self, buffer: Buffer, offset: int) -> None:
        """Let a buffer lie in a room that was taken for it."""
        self._offsets[buffer] = offset

    def address(self, offset: int) -> int:
        """Of a room."""
        return self._block.address + offset if self._block is not None else 0

    def allocate(self) -> None:
        """Allocate, upload the constants, move the parameters. Raises DeviceMemoryError before
        anything was moved if that is more than there is."""
        with self.device.active():
            self._check_room()
            self.arena.reserve(self.program.plan.peak_nbytes)
            if self.rooms.nbytes:
                self._block = self.device.allocate(self.rooms.nbytes)
            for slot, offset in self._offsets.items():
                self.at[slot] = self.address(offset)
            for buffer in self._constants:
                if buffer_nbytes(buffer):
                    self.device.upload(self.at[buffer], constant_value(buffer))
        self.find()

    def find(self) -> None:
        """Look up where parameters and temporaries are."""
        super().find()
        self._arena_block = self.arena.block
        start = self._arena_block.address if self._arena_block is not None else 0
        for buffer in self.buffers(Region.ARENA):
            self.at[buffer] = start + self.program.places[buffer].offset
        for buffer in self.buffers(Region.PARAM):
            owner = self.program.places[buffer].owner
            assert owner is not None
            self.at[buffer] = self.at[owner]

    def _is_current(self) -> bool:
        return super()._is_current() and self.arena.block is self._arena_block

    def _check_room(self) -> None:
        arena = self.arena.missing(self.program.plan.peak_nbytes)
        params, free = self.missing_nbytes, self.device.free_nbytes()
        needed = arena + self.rooms.nbytes + params
        if needed > free:
            raise DeviceMemoryError(
                f"the program needs {needed} bytes of {self.device.name}, of which {free} are "
                f"free: {arena} for temporaries, {self.rooms.nbytes} for slots and scratch, "
                f"{params} for parameters; take smaller sizes, or let go of other programs"
            )
