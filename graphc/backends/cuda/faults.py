"""Faults that show late: whose they may be, what is lost, and how to find the kernel.

A device works while the host goes on, so an illegal access shows when somebody waits: at a later
call, at a look at a value, in another program. Then every program is suspected whose work nobody
has waited for yet.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from graphc.backends.cuda.device import Device, DeviceError
from graphc.ir.node import Param
from graphc.report.notation import kernel_nodes
from graphc.schedule.records import Kernel, Program

MOST_NAMES = 8  # in a message
MOST_KERNELS = 16


@dataclass(eq=False)
class Work:
    """What a program has asked of a device. `pending`: nobody has waited for all of it."""

    name: str
    program: Program
    pending: bool = False

    def lose(self, error: DeviceError) -> str:
        """Count as lost what the program updates; what there is to say about it."""
        self.pending = False
        kernels = _some([describe_kernel(k) for k in self.program.kernels], MOST_KERNELS)
        said = f"the program {self.name!r} was running: {kernels}"
        updates = [p for p, _ in self.program.schedule.graph.updates]
        for param in updates:
            invalidate(param, error)
        names = _some([p.name for p in updates], MOST_NAMES)
        return said + (f"; the values that it updates count as lost: {names}" if updates else "")


_known: WeakKeyDictionary[Device, WeakKeyDictionary[Work, None]] = WeakKeyDictionary()
_knowing = threading.RLock()  # one thread compiles while another waits


def watched(device: Device, name: str, program: Program) -> Work:
    """The work of a program, to be suspected as long as the record lives."""
    work = Work(name, program)
    with _knowing:
        _known.setdefault(device, WeakKeyDictionary())[work] = None
    return work


def _pending(device: Device) -> list[Work]:
    """The works that nobody has waited for."""
    with _knowing:
        return [work for work in _known.get(device, ()) if work.pending]


def invalidate(param: Param, error: BaseException) -> None:
    """A fault stopped an update: the parameter's value counts as lost."""
    param.storage.invalidate(f"{error!r} stopped an update midway")


def tell(device: Device, error: DeviceError) -> None:
    """Raise a late fault with all that is known about it; return where nothing is to be added."""
    suspects = _pending(device)
    if not error.late or not suspects:
        return
    said = [str(error), *(work.lose(error) for work in suspects)]
    said.append(
        "to find the kernel, call exe.profile(inputs) first in a new process: it waits after each "
        "kernel and names the one that fails"
    )
    raise DeviceError("; ".join(said), late=True) from error


@contextmanager
def told(device: Device) -> Generator[None]:
    """A late fault that shows in it is told with all that is known."""
    try:
        yield
    except DeviceError as error:
        tell(device, error)
        raise


@contextmanager
def waiting(device: Device) -> Generator[None]:
    """The same for who waits for all work of the device: without a fault, nobody is suspected."""
    with told(device):
        yield
    for work in _pending(device):
        work.pending = False


def describe_kernel(kernel: Kernel) -> str:
    """A kernel and its ops: kernel k3_add_relu (add, relu)."""
    ops = dict.fromkeys(node.op.name for node in kernel_nodes(kernel))
    return f"kernel {kernel.name} ({_some(list(ops), MOST_NAMES)})"


def _some(names: list[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
