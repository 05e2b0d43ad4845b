"""Seeing the gradients: what a step does to each layer, and what is wrong where it does not learn.

All figures are outputs of one program beside that of the steps: norms of gradients, updates and
weights, and what part of the activations lets no gradient through.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

import graphc as gx
from graphc.nn.text_table import columns
from graphc.train.callbacks import Callback
from graphc.train.data_checks import flag, whole
from graphc.train.network import Network, below, to_numpy
from graphc.train.source import as_source

if TYPE_CHECKING:
    from graphc.train.trainer import Trainer

FAR = 1e3  # between the gradients of two layers, as numbers per weight: vanishing, or exploding
LARGE_NORM = 1e4  # of a layer's gradient
LARGE_RATIO = 0.3  # of an update to the weights; 1e-3 is usual
MOST = 0.5  # of the units or elements of a layer
SATURATED = 0.975  # of tanh and of 2 sigmoid - 1: their slope is below 5 % of its largest
MIN_ROWS = 16  # a unit that gives 0 for fewer rows may be alive
TINY = 1e-30
LEGEND_ROWS = 20
BEFORE = "before any layer"
SATURATING = {"sigmoid": lambda y: abs(2 * y - 1), "tanh": abs}

REMEDIES = {
    "vanishing": "use relu or its like with He's initialisation, nn.LayerNorm between the layers, "
    "or nn.Residual around them",
    "exploding": "use a smaller rate, clip_norm=1 in the optimizer, smaller initial weights, or "
    "nn.LayerNorm between the layers",
    "large steps": "use a smaller rate, train.Warmup, or clip_norm=1 in the optimizer",
    "dead relus": "use a smaller rate, He's initialisation, or leaky_relu or elu",
    "saturation": "scale the data (train.Standardise), use smaller initial weights (Glorot's), "
    "nn.LayerNorm before the activation, or relu with He's initialisation",
}


@dataclass(frozen=True)
class Reading:
    """One layer at one step. None: it has no such thing, or is frozen.

    `gradient`: the norm of that of all its parameters, penalties included, before clipping;
    `per_weight` is its root mean square. `ratio`: norm of the update / norm of the parameters.
    `dead`: share of relu units that are 0 for every row of the batch. `saturated`: share of the
    elements of sigmoid and tanh where the slope is below 5 % of its largest.
    """

    step: int
    layer: str
    gradient: float | None = None
    per_weight: float | None = None
    ratio: float | None = None
    dead: float | None = None
    saturated: float | None = None


class GradientReport(Callback):
    """Looks at the gradients at step 1 and `every` steps from there; warns once of each trouble.

    The figures are those of a step from the parameters as they are, on the latest batch; nothing is
    changed. `readings` are in the order of steps and layers. `tell=False`: warnings are only kept,
    in `warnings`. With another trainer the report begins anew.
    """

    def __init__(self, every: int = 100, *, tell: bool = True) -> None:
        self.every = whole("GradientReport", "every", every, 1)
        self.tell = flag("GradientReport", "tell", tell)
        self.readings: list[Reading] = []
        self.warnings: dict[str, str] = {}  # kind of trouble -> words
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer, epochs: int, batches: int) -> None:
        if trainer is not self._trainer:
            self._trainer, self.readings, self.warnings = trainer, [], {}
        # a checkpoint may have been restored: later steps are made again
        self.readings = [r for r in self.readings if r.step <= trainer.step]

    def on_step(self, trainer: Trainer) -> None:
        loop = trainer.loop
        if loop is not None and (trainer.step - 1) % self.every == 0:
            self.look(trainer, loop.network, *loop.latest[:2])

    def look(self, trainer: Trainer, network: Network, x: Any, y: Any) -> list[Reading]:
        """Add what one batch of this network shows."""

        def make() -> Any:
            figures = {**network.outputs, **_figures(trainer, network)}  # whose inputs are x and y
            return trainer.compiled("gradients", figures, training=True)

        made_of = [trainer.optimizer, *network.trainable]
        outputs = network.programs.get("gradients", made_of, make)(x=x, y=y)
        found = {k: float(to_numpy(v)) for k, v in outputs.items() if k not in network.outputs}
        made = _readings(trainer.step, found, len(x), network)
        self.readings.extend(made)
        for kind, words in _troubles(made):
            if kind not in self.warnings:
                self.warnings[kind] = f"step {trainer.step}: {words}; try this: {REMEDIES[kind]}"
                if self.tell:
                    print(self.warnings[kind])  # noqa: T201 -- a report
        return made

    # -- what was seen

    @property
    def steps(self) -> list[int]:
        """When it looked."""
        return list(dict.fromkeys(r.step for r in self.readings))

    def table(self, step: int | None = None) -> str:
        """The layers at one step, the last if none is given; percentages of units or elements."""
        if not self.readings:
            raise gx.InputError("table: there is no reading yet; pass the report to fit")
        chosen = self.steps[-1] if step is None else step
        rows = [r for r in self.readings if r.step == chosen]
        if not rows:
            raise gx.InputError(f"step={step!r}: need one of {', '.join(map(str, self.steps))}")
        lines = [("layer", "gradient", "update/weight", "dead relus", "saturated")]
        lines += [
            (r.layer, _number(r.gradient), _number(r.ratio), _share(r.dead), _share(r.saturated))
            for r in rows
        ]
        return columns(lines, 1)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A curve for each layer over the steps; the figure of matplotlib, which is also saved if
        there is a path."""
        try:
            from matplotlib import colormaps
            from matplotlib.figure import Figure
        except ImportError:
            raise gx.InputError("plot: needs matplotlib: pip install matplotlib") from None
        titles = {"gradient": "norm of the gradient", "ratio": "update / weight",
                  "dead": "share of dead relus", "saturated": "share saturated"}  # fmt: skip
        shown = [k for k in titles if any(getattr(r, k) is not None for r in self.readings)]
        layers = list(dict.fromkeys(r.layer for r in self.readings))
        shades = colormaps["viridis"](np.linspace(0, 0.9, len(layers)))  # from first to last
        colours = dict(zip(layers, shades, strict=True))
        figure = Figure(figsize=(4 * max(len(shown), 1) + 1.5, 3.5), layout="constrained")
        lines: dict[str, Any] = {}
        for kind, axes in zip(
            shown, figure.subplots(1, max(len(shown), 1), squeeze=False)[0], strict=False
        ):
            for layer, steps, values in self._curves(kind):
                (lines[layer],) = axes.plot(
                    steps, values, marker=".", label=layer, color=colours[layer]
                )
            axes.set(xlabel="step", title=titles[kind])
            if kind in ("gradient", "ratio"):
                axes.set_yscale("log")
            else:
                axes.set_ylim(-0.03, 1.03)  # a line at 0 or 1 is seen in full
        named = [layer for layer in layers if layer in lines]
        figure.legend(
            [lines[n] for n in named], named, loc="outside right upper", fontsize="x-small",
            ncols=-(-len(named) // LEGEND_ROWS) or 1,
        )  # fmt: skip
        if path is not None:
            figure.savefig(path)
        return figure

    def _curves(self, kind: str) -> Iterator[tuple[str, list[int], list[float]]]:
        for layer in dict.fromkeys(r.layer for r in self.readings):
            seen = [r for r in self.readings if r.layer == layer and getattr(r, kind) is not None]
            if seen:
                yield layer, [r.step for r in seen], [getattr(r, kind) for r in seen]


def gradient_report(trainer: Trainer, x: Any, y: Any) -> GradientReport:
    """One look at the gradients that a step on rows (x, y) would have; nothing is changed."""
    source, report = as_source((x, y), "gradient_report"), GradientReport(tell=False)
    report.look(trainer, trainer.network_for(source), *next(source.epoch(0)))
    return report


# -- the graph


def _figures(trainer: Trainer, network: Network) -> dict[str, gx.Node]:
    """Figures by `what layer`; a norm as its largest element and the sum of squares beside it."""
    outputs, updates = trainer.training_graph(network)
    objective = reduce(add, [outputs[n] for n in ("loss", "penalty") if n in outputs])
    params = [p for p in network.params.values() if p.trainable]
    gradients = dict(zip(params, gx.grad(objective, params), strict=True))
    found: dict[str, gx.Node] = {}
    for layer, own in _by_layer(params).items():
        parts = {
            "gradient": [gradients[p] for p in own],
            "update": [updates[p] - p for p in own],
            "weight": list(own),
        }
        for what, nodes in parts.items():
            dtype = "float64" if any(n.dtype.name == "float64" for n in nodes) else "float32"
            wide = [n.astype(dtype) for n in nodes]
            largest = reduce(gx.maximum, [abs(n).max() for n in wide])
            scale = gx.maximum(largest, TINY)
            found[f"{what} largest {layer}"] = largest
            found[f"{what} squares {layer}"] = reduce(
                add, [gx.square(n / scale).sum() for n in wide]
            )
    for (what, layer), shares in _activations(network).items():
        found[f"{what} {layer}"] = reduce(gx.maximum, shares)
    return found


def _by_layer(params: Sequence[gx.Param]) -> dict[str, list[gx.Param]]:
    found: dict[str, list[gx.Param]] = {}
    for param in params:
        found.setdefault(_layer_of(param), []).append(param)
    return found


def _layer_of(param: gx.Param) -> str:
    return param.name.rsplit(".", 1)[0]


def _activations(network: Network) -> dict[tuple[str, str], list[gx.Node]]:
    """By (what, layer): the share of dead units of each relu, of saturated elements of each sigmoid
    and tanh. One that is multiplied by what depends on the data is a gate, or part of silu or mish:
    by a number or a mask it is not."""
    nodes = list(below(network.prediction))
    gates = {
        node
        for n in nodes
        if n.op.name == "multiply"
        for node, other in (n.inputs, n.inputs[::-1])
        if node.op.name in SATURATING and any(i is network.x for i in below(other))
    }
    found: dict[tuple[str, str], list[gx.Node]] = {}
    for node in reversed(nodes):
        name = node.op.name
        if name == "relu" and node.ndim > 1:
            alive = node.max(axis=tuple(range(node.ndim - 1))) > 0
            found.setdefault(("dead", _named_after(node)), []).append(1 - gx.mean(alive))
        elif name in SATURATING and node not in gates:
            share = gx.mean(SATURATING[name](node) > SATURATED)
            found.setdefault(("saturated", _named_after(node)), []).append(share)
    return found


def _named_after(node: gx.Node) -> str:
    """The layer of the parameters nearest below an activation."""
    level = [node]
    while level:
        for found in level:
            if isinstance(found, gx.Param):
                return _layer_of(found)
        level = list(dict.fromkeys(i for n in level for i in n.inputs))
    return BEFORE


# -- the figures


def _readings(
    step: int, found: Mapping[str, float], rows: int, network: Network
) -> list[Reading]:  # fmt: skip
    params = _by_layer(list(network.params.values()))
    before = f"dead {BEFORE}" in found or f"saturated {BEFORE}" in found
    names = [BEFORE, *params] if before else list(params)
    made: list[Reading] = []
    for layer in names:
        gradient, update, weight = (
            _norm(found, w, layer) for w in ("gradient", "update", "weight")
        )
        own = [p for p in params.get(layer, []) if p.trainable]
        size = sum(math.prod(int(str(n)) for n in p.shape) for p in own)
        made.append(
            Reading(
                step, layer, gradient,
                None if gradient is None else gradient / math.sqrt(size),
                None if update is None or not weight else update / weight,
                found.get(f"dead {layer}") if rows >= MIN_ROWS else None,
                found.get(f"saturated {layer}"),
            )
        )  # fmt: skip
    return made


def _norm(found: Mapping[str, float], what: str, layer: str) -> float | None:
    largest = found.get(f"{what} largest {layer}")
    if largest is None:
        return None
    return largest * math.sqrt(found[f"{what} squares {layer}"])


def _troubles(made: Sequence[Reading]) -> Iterator[tuple[str, str]]:
    """What is wrong, in words, by kind."""
    last = next((r for r in reversed(made) if r.per_weight), None)
    shut = max((i for i, r in enumerate(made) if r.dead == 1), default=-1)
    small, large = list[Reading](), list[Reading]()
    for i, r in enumerate(made):
        if r.gradient is None or r.per_weight is None:
            continue
        if not np.isfinite(r.gradient) or r.gradient > LARGE_NORM:
            large.append(r)
        elif last is not None and last.per_weight is not None:
            if r.per_weight * FAR < last.per_weight:
                small.extend([r] if i > shut else [])  # no gradient passes relus that are all dead
            elif r.per_weight > FAR * last.per_weight:
                large.append(r)
    end = "" if last is None else f", {last.per_weight:.1e} in {last.layer}"
    if small:
        values = f"{small[0].per_weight:.1e} per weight in {small[0].layer}{end}"
        yield "vanishing", f"the gradient vanishes in {_layers(small)}: it is {values}"
    if large:
        worst = f"its norm is {large[0].gradient:.1e} in {large[0].layer}"
        yield "exploding", f"the gradient explodes in {_layers(large)}: {worst}"
    steps = [r for r in made if r.ratio is not None and not r.ratio <= LARGE_RATIO]
    if steps and not large:
        words = f"the update is {_share(steps[0].ratio)} of the weights in {_layers(steps)}"
        yield "large steps", words
    dead = [r for r in made if r.dead is not None and r.dead > MOST]
    if dead:
        words = f"{_share(dead[0].dead)} of the relus are dead in {_layers(dead)}"
        yield "dead relus", f"{words}: they give 0 for every row of the batch and learn nothing"
    flat = [r for r in made if r.saturated is not None and r.saturated > MOST]
    if flat:
        words = f"{_share(flat[0].saturated)} of the activations are saturated in {_layers(flat)}"
        yield "saturation", f"{words}: hardly any gradient goes through them"


def _layers(rows: Sequence[Reading]) -> str:
    names = [r.layer for r in rows]
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, ... {names[-1]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
