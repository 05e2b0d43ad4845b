"""The graphs of a trainer's model: one for each shape of rows, and of these one for each kind of
targets, all of the same parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphc as gx
from graphc.nn.layer import Layer
from graphc.train.losses import Function
from graphc.train.metrics import Metric
from graphc.train.network import (
    Forward,
    Model,
    Network,
    Shape,
    Signature,
    applied,
    check_row,
    declare,
    warn_of_two_activations,
)
from graphc.train.programs import are_same


class Graphs:
    """What has been declared of a model, as long as it is made of the same things.

    `dtype`: that of the numbers in the data. `site`: what errors give as the line of the graphs.
    """

    def __init__(
        self, loss: Function, metrics: Sequence[Metric], dtype: str | None, site: Any
    ) -> None:
        self._loss, self._metrics, self._dtype, self._site = loss, metrics, dtype, site
        self._made_of: list[Any] = []
        self.floats = "float32"  # the dtype given, or else the widest of a layer's parameters
        self.forwards: dict[Shape, Forward] = {}  # by the shape of a row

    def of(self, model: Model) -> Graphs:
        """Those of this model: none, without programs, if it is another than before, or made of
        others."""
        made_of = [model, *(model.made_of() if isinstance(model, Layer) else [])]
        if not are_same(made_of, self._made_of):
            self._model, self._made_of, self.forwards = model, made_of, {}
            found = {p.dtype.name for p in made_of if isinstance(p, gx.Param)}
            widest = (d for d in ("float64", "float32", *sorted(found)) if d in found)
            self.floats = self._dtype or next(widest, "float32")
        return self

    def forward(self, row: Shape, name: str = "data") -> Forward:
        """The model on rows of this shape. It is called once for each shape, so that a function
        that makes parameters makes them once; of another shape it must take the same ones."""
        if row not in self.forwards:
            try:
                with gx.MadeAt(self._site):
                    made = applied(self._model, row, self.floats)
                    warn_of_two_activations(self._loss, made.prediction)
            except gx.ShapeError:
                for known in self.forwards:
                    check_row(name, "x", row, known)
                raise
            for known in self.forwards.values():
                if not are_same([*made.params.values()], [*known.params.values()]):
                    raise gx.InputError(
                        f"model: for rows of another shape, {row}, it makes parameters anew; make "
                        "them outside of the function, or write an nn.Layer"
                    )
            self.forwards[row] = made
        return self.forwards[row]

    def network(self, of: Forward, signature: Signature) -> Network:
        """The graph against targets of this signature; `of` may be a part of the model, too."""
        with gx.MadeAt(self._site):
            return declare(of, self._loss, self._metrics, signature)

    def networks(self) -> list[Network]:
        """All of the whole model."""
        return [n for of in self.forwards.values() for n in of.networks.values()]
