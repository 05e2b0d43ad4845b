"""The parameters of a program on a device: their home while programs of this device use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from graphc.backends.cuda.device import Block, Device, DeviceError
from graphc.backends.cuda.faults import invalidate, waiting
from graphc.backends.host_memory import slab_storages
from graphc.backends.interrupts import uninterrupted
from graphc.codegen.tables import Slot
from graphc.ir.node import Param
from graphc.ir.storage import Storage, laying_out
from graphc.schedule.records import Program, Slab, buffer_nbytes


@dataclass(frozen=True, slots=True, eq=False)
class DeviceValue:
    """A parameter's value on a device; `block` is the memory that it lies in."""

    device: Device
    block: Block
    address: int

    def read(self, into: np.ndarray) -> None:
        if into.nbytes:
            with self.device.active(), waiting(self.device):
                self.device.download(into, self.address)

    def write(self, value: np.ndarray) -> None:
        if value.nbytes:
            with self.device.active():
                self.device.upload(self.address, value)


class Parameters:
    """Addresses of the parameters, `at`, laid out in `slabs` where a program wants that.

    `version` counts how often something got another address.
    """

    def __init__(self, program: Program, device: Device, slabs: Sequence[Slab]) -> None:
        self.program, self.device, self.slabs = program, device, slabs
        graph = program.schedule.graph
        self.params, self.updates = graph.params, [p for p, _ in graph.updates]
        self.at: dict[Slot, int] = {}
        self.version = 0

    # -- a call

    @contextmanager
    def held(self) -> Generator[None]:
        """While it lasts, everything lies where `at` says, and no one else uses the parameters."""
        while True:
            with self._lock:  # an interrupt cannot leave it locked
                if self._is_current():
                    with self.device.active():
                        yield
                    return
            self._look_again()

    @contextmanager
    def unchanged(self) -> Generator[None]:
        """Hold the locks of all parameters, and give those that calls meanwhile update their old
        values back at the end, bit for bit. It takes as many bytes of the device as they do."""
        while True:
            with laying_out, self._lock:  # a call within may have to look again
                if self._is_current():
                    with self.device.active():
                        saved = [self._saved(param) for param in self.updates]
                    try:
                        yield
                    except BaseException:
                        with suppress(DeviceError):  # what went wrong before tells more
                            uninterrupted(partial(self._restore, saved))
                        raise
                    uninterrupted(partial(self._restore, saved))
                    return
            self._look_again()

    def _saved(self, param: Param) -> Block | None:
        if not param.type.nbytes:
            return None
        block = self.device.allocate(param.type.nbytes)
        self.device.copy(block.address, self.at[param], param.type.nbytes)
        return block

    def _restore(self, saved: Sequence[Block | None]) -> None:
        try:
            with self.device.active(), waiting(self.device):
                for param, block in zip(self.updates, saved, strict=True):
                    if block is not None:
                        home = param.storage.away
                        assert isinstance(home, DeviceValue)
                        self.device.copy(home.address, block.address, param.type.nbytes)
                self.device.synchronize()
        except DeviceError as error:
            self.invalidate(error)
            raise
        for param in self.updates:
            param.storage.invalid = ""  # a call that failed midway has done no harm

    def update(self, step: Callable[[], object]) -> None:
        """Do what updates parameters. An interrupt waits for its end, when all is well; if it fails
        midway, the values are lost."""

        def whole() -> None:
            try:
                step()
            except BaseException as error:
                self.invalidate(error)
                raise

        uninterrupted(whole)

    def invalidate(self, error: BaseException) -> None:
        """A step failed midway: the values that it was to update count as lost."""
        for param in self.updates:
            invalidate(param, error)

    def _is_current(self) -> bool:
        return self._changes == Storage.changes

    def _look_again(self) -> None:
        """Parameters moved, or a value became invalid."""
        before = dict(self.at)
        self.find()
        if before != self.at:
            self.version += 1

    # -- where they are

    @property
    def missing_nbytes(self) -> int:
        """Bytes of those that are to be moved here."""
        return sum(p.type.nbytes for p in self.params if not self._is_here(p.storage))

    def find(self) -> None:
        """Let the parameters lie on the device as the program wants them, and look up where.
        Raises DeviceMemoryError where there is no room: those that were not moved are unharmed."""
        with laying_out:
            for slab in self.slabs:
                self._lay_out(slab)
            storages = [p.storage for p in self.params]
            for storage in storages:
                if not self._is_here(storage):
                    self._move(storage, self._room(max(1, storage.array.nbytes)))
            Storage.share_lock(storages)
            changes = Storage.changes
            for param in self.params:
                param.storage.check(param.name)
            for slot in (*self.params, *self.slabs):
                self.at[slot] = _address_of(slot)
            self._lock = storages[0].lock if storages else threading.RLock()
            self._changes = changes

    def _is_here(self, storage: Storage) -> bool:
        home = storage.away
        return isinstance(home, DeviceValue) and home.device is self.device

    def _lay_out(self, slab: Slab) -> None:
        """Let the parameters of a slab lie one behind another, if they do not already."""
        storages = slab_storages(slab)
        offsets = [start * slab.dtype.itemsize for start in slab.starts]
        home = storages[0].away
        if (
            isinstance(home, DeviceValue)
            and home.block.nbytes >= buffer_nbytes(slab)
            and all(
                isinstance(s.away, DeviceValue)
                and s.away.block is home.block
                and s.away.address == home.block.address + offset
                for s, offset in zip(storages, offsets, strict=True)
            )
            and home.device is self.device
        ):
            return
        block = self._room(buffer_nbytes(slab))  # the gaps are computed on, too
        for storage, offset in zip(storages, offsets, strict=True):
            self._move(storage, block, offset)

    def _room(self, nbytes: int) -> Block:
        """New memory, of zeros."""
        with self.device.active():
            block = self.device.allocate(nbytes)
            self.device.fill(block.address, nbytes)
            return block

    def _move(self, storage: Storage, block: Block, offset: int = 0) -> None:
        """Take a value to where it is to be. The locks of values come before the device."""
        value = DeviceValue(self.device, block, block.address + offset)
        with storage.locked():
            here = storage.away
            if isinstance(here, DeviceValue) and here.device is self.device:
                with self.device.active():
                    self.device.copy(value.address, here.address, storage.array.nbytes)
            else:
                if here is not None:
                    here.read(storage.array)
                value.write(storage.array)
            storage.leave(value)


def _address_of(owner: Param | Slab) -> int:
    storage = owner.storage if isinstance(owner, Param) else slab_storages(owner)[0]
    home = storage.away
    assert isinstance(home, DeviceValue)
    return home.address if isinstance(owner, Param) else home.block.address
