"""The first rung: nodes run one by one over the device's array module, as `evaluate` does.

It needs neither a compiler of kernels nor a library of products, so it stands in where those are
missing. Every node is a launch or several, and makes an array of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphc.backends.base import Options
from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.device import Device, Event
from graphc.backends.cuda.device_peaks import device_peaks
from graphc.backends.cuda.faults import told, waiting, watched
from graphc.backends.cuda.parameters import Parameters
from graphc.backends.peaks import Peaks
from graphc.evaluate import evaluate_all
from graphc.ir.node import Node
from graphc.ir.op import Kind
from graphc.ir.philox import Draws
from graphc.schedule.records import Program


class EagerRunner:
    """A program on a device, node by node; `xp` is the module whose arrays `device.fresh` makes,
    `why` says what keeps the program from being compiled."""

    scratch_nbytes = 0

    def __init__(
        self, program: Program, options: Options, device: Device, xp: Any, why: str
    ) -> None:
        self.program, self.device, self.xp = program, device, xp
        self.graph = program.schedule.graph
        self.notes = (f"node by node, not compiled: {why}",)
        self.source = "".join(f"{node.name} = {node.op.name}\n" for node in self._computed())
        self.kernel_sources = ["" for _ in program.kernels]
        self._kernel_of = {n: i for i, kernel in enumerate(program.kernels) for n in kernel.nodes}
        self._inputs = [(options.inputs.index(n.name), n) for n in self.graph.inputs]
        self.parameters = Parameters(program, device, ())
        self._work = watched(device, options.name, program)
        with told(device):
            self.parameters.find()

    def __call__(
        self, inputs: Sequence[Any], draws: Draws, count: Callable[[], None] = lambda: None
    ) -> list[Any]:
        self._work.pending = True
        with told(self.device), self.parameters.held():
            return self._run(inputs, lambda values: self._evaluate(values, draws), count)

    def run_many(
        self, inputs: Sequence[Any], draws: Draws, count: int, done: Callable[[int], None]
    ) -> list[Any]:
        """`count` steps, on the slices of the inputs along their leading axis."""
        with self.device.active():
            made = [self.device.fresh((count, *shape), buffer.dtype)
                    for _, buffer, shape in self.program.results]  # fmt: skip
        for i in range(count):
            step = Draws(draws.seed, draws.step + i, draws.numbers)
            results = self([array[i] for array in inputs], step, lambda: done(1))
            with self.device.active():
                for (_, address), result in zip(made, results, strict=True):
                    self._copy_from(result, address + i * result.nbytes, result.nbytes)
        return [array for array, _ in made]

    def time_kernels(self, inputs: Sequence[Any], draws: Draws, repeat: int) -> list[list[float]]:
        """The device's seconds for the nodes of each kernel, in each of `repeat` runs."""
        found = [[0.0] * repeat for _ in self.program.kernels]
        for run in range(repeat):
            marks: list[tuple[Node, Event, Event]] = []
            with told(self.device), self.parameters.held():
                self._run(inputs, lambda values, m=marks: self._evaluate_timed(values, draws, m))
                self.device.synchronize()
            for node, start, end in marks:
                if node in self._kernel_of:
                    found[self._kernel_of[node]][run] += end.seconds_since(start)
        return found

    def synchronize(self) -> None:
        """Wait for the device."""
        with self.device.active(), waiting(self.device):
            self.device.synchronize()

    def peaks(self) -> Peaks:
        """What the device reaches at most."""
        return device_peaks(self.device, self._product)

    def _product(self, n: int) -> Callable[[], None]:
        """What multiplies two random matrices [n, n]."""
        values = np.random.default_rng(0).standard_normal((n, n), np.float32)
        a, b, c = (self.xp.array(values) for _ in range(3))

        def work() -> None:
            self.xp.matmul(a, b, out=c)

        return work

    @contextmanager
    def unchanged(self) -> Generator[None]:
        """Parameters have their old values at its end, whatever ran meanwhile."""
        with self.parameters.unchanged():
            yield

    # -- a step

    def _run(
        self,
        inputs: Sequence[Any],
        evaluate: Callable[[dict[Node, Any]], dict[Node, Any]],
        count: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Results and new values are computed first; then all parameters change together, and the
        step counts."""
        values: dict[Node, Any] = {n: self._given(inputs[i]) for i, n in self._inputs}
        for param in self.graph.params:
            values[param] = self._copied(
                self.parameters.at[param], param.storage.array.shape, param.dtype
            )
        done = evaluate(values)
        results = [self._owned(node, done[node]) for _, node in self.graph.outputs]
        new = [self._owned(node, done[node]) for _, node in self.graph.updates]
        self.parameters.update(lambda: (self._store(new), count()))
        return results

    def _store(self, new: Sequence[Any]) -> None:
        for (param, _), value in zip(self.graph.updates, new, strict=True):
            self._copy_from(value, self.parameters.at[param], param.type.nbytes)

    def _copy_from(self, array: Any, to: int, nbytes: int) -> None:
        if nbytes:
            found = self.device.admit(array)
            assert found is not None
            self.device.copy(to, found[0], nbytes)

    def _computed(self) -> list[Node]:
        return [node for node in self.graph.nodes if node.op.kind is not Kind.SOURCE]

    def _evaluate(self, values: dict[Node, Any], draws: Draws) -> dict[Node, Any]:
        return evaluate_all(self.graph.nodes, values, self.xp, draws)

    def _evaluate_timed(
        self, values: dict[Node, Any], draws: Draws, marks: list[tuple[Node, Event, Event]]
    ) -> dict[Node, Any]:
        """The same with the points in time before and after each node."""
        for node in self.graph.nodes:
            start, end = self.device.event(), self.device.event()
            start.record()
            values |= {node: self._one(node, values, draws)}
            end.record()
            marks.append((node, start, end))
        return values

    def _one(self, node: Node, values: dict[Node, Any], draws: Draws) -> Any:
        return evaluate_all((*node.inputs, node), values, self.xp, draws)[node]

    # -- arrays

    def _given(self, given: Any) -> Any:
        if isinstance(given, DeviceArray):
            return self._copied(given.address, given.shape, given.dtype)
        array, address = self.device.fresh(given.shape, given.dtype)
        if given.nbytes:
            self.device.upload(address, np.ascontiguousarray(given))
        return array

    def _copied(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        array, to = self.device.fresh(shape, dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes:
            self.device.copy(to, address, nbytes)
        return array

    def _owned(self, node: Node, value: Any) -> Any:
        """A contiguous array that nothing else refers to."""
        return self.xp.array(value, dtype=node.dtype, order="C")
