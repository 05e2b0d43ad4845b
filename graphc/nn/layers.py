"""The layers: each a few lines of graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import inf
from numbers import Integral, Real
from typing import Any

import graphc as gx
from graphc.nn.activations import Function, as_activation, initialiser_for
from graphc.nn.init import Initialiser
from graphc.nn.layer import Layer, is_building


class Dense(Layer):
    """y = activation(x @ weight + bias): float[..., inputs] -> float[..., outputs].

    `activation`: a name or a function of a node; `weight`, `bias`: initialisers, by name or as
    functions. The default of `weight` suits the activation: He's for relu and its like, LeCun's for
    selu, Glorot's for the others. `bias=False` or None leaves the bias out, True is "zeros".
    """

    weight: gx.Param
    bias: gx.Param

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str | Function | None = None,
        *,
        weight: str | Initialiser | None = None,
        bias: str | Initialiser | bool | None = "zeros",
        dtype: str = "float32",
        name: str = "",
        seed: int | None = None,
    ) -> None:
        super().__init__(name=name, seed=seed)
        _check_size("inputs", inputs)
        _check_size("outputs", outputs)
        self.inputs, self.outputs = int(inputs), int(outputs)
        self.activation = None if activation is None else as_activation(activation)
        start = initialiser_for(activation) if weight is None else weight
        self.declare("weight", (self.inputs, self.outputs), start, dtype)
        self.has_bias = bias is not None and bias is not False
        if bias is not None and bias is not False:
            self.declare("bias", (self.outputs,), "zeros" if bias is True else bias, dtype)

    def forward(self, x: gx.Node) -> gx.Node:
        y = x @ self.weight
        y = y + self.bias if self.has_bias else y
        return y if self.activation is None else self.activation(y)

    def __repr__(self) -> str:
        last = "" if self.activation is None else f", {_name(self.activation)}"
        return f"Dense({self.inputs}, {self.outputs}{last})"


class Activation(Layer):
    """An activation function as a layer, by name or as a function of a node."""

    def __init__(self, activation: str | Function) -> None:
        super().__init__()
        self.function = as_activation(activation)

    def forward(self, x: gx.Node) -> gx.Node:
        return self.function(x)

    def __repr__(self) -> str:
        return f"Activation({_name(self.function)})"


class Dropout(Layer):
    """Keeps each element with probability `keep` while training; Srivastava et al. 2014.

    `form`: "inverted" divides what is kept by `keep`, and evaluation is the identity; "classic"
    keeps values as they are, and evaluation multiplies by `keep`.
    """

    def __init__(self, keep: float, form: str = "inverted") -> None:
        super().__init__()
        if isinstance(keep, bool) or not isinstance(keep, Real) or not 0 < keep <= 1:
            raise gx.InputError(f"keep={keep!r}: need a number, 0 < keep <= 1")
        if form not in ("inverted", "classic"):
            raise gx.InputError(f"form={form!r}: need 'inverted' or 'classic'")
        self.keep, self.form = float(keep), form

    def forward(self, x: gx.Node) -> gx.Node:
        return gx.dropout(x, self.keep, form=self.form)

    def __repr__(self) -> str:
        return f"Dropout(keep={self.keep})"


class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift over the last axis, of `size` elements.

    Ba, Kiros and Hinton 2016, Layer Normalization, eq. 3 and 4. ShapeError where the last axis has
    another size.
    """

    scale: gx.Param
    shift: gx.Param

    def __init__(
        self, size: int, *, epsilon: float = 1e-5, dtype: str = "float32", name: str = ""
    ) -> None:
        super().__init__(name=name)
        _check_size("size", size)
        if isinstance(epsilon, bool) or not isinstance(epsilon, Real) or not 0 < epsilon < inf:
            raise gx.InputError(f"epsilon={epsilon!r}: need a number above 0")
        self.size, self.epsilon = int(size), float(epsilon)
        self.declare("scale", (self.size,), "ones", dtype)
        self.declare("shift", (self.size,), "zeros", dtype)

    def forward(self, x: gx.Node) -> gx.Node:
        if x.shape[-1:] != (self.size,):
            raise gx.ShapeError(f"{self!r} of {x!r}: the last axis must have size {self.size}")
        distance = x - x.mean(axis=-1, keepdims=True)
        variance = (distance * distance).mean(axis=-1, keepdims=True)
        return distance * gx.rsqrt(variance + self.epsilon) * self.scale + self.shift

    def __repr__(self) -> str:
        return f"LayerNorm({self.size})"


class Flatten(Layer):
    """[batch, ...] -> [batch, elements]."""

    def forward(self, x: gx.Node) -> gx.Node:
        if x.ndim < 2:
            raise gx.ShapeError(f"Flatten: {x!r} needs an axis for the batch and one more")
        return x.reshape((x.shape[0], -1))

    def __repr__(self) -> str:
        return "Flatten()"


class Sequential(Layer):
    """Layers, or plain functions of a node, one after the other: parameters `layers.0.weight`."""

    layers: tuple[Layer | Function, ...]

    def __init__(self, *layers: Layer | Function, name: str = "", seed: int | None = None) -> None:
        super().__init__(name=name, seed=seed)
        for layer in layers:
            _check_layer(layer)
        self.layers = layers

    def forward(self, x: gx.Node) -> gx.Node:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer | Function]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Any:
        """One layer, or a Sequential of several: of copies, or within a `forward` of themselves."""
        found = self.layers[index]
        if not isinstance(found, tuple):
            return found
        return Sequential(*(found if is_building() else copy.deepcopy(found)))

    def replace_last(self, layer: Layer | Function) -> None:
        """Put another layer in the place of the last one: a new head on trained layers."""
        _check_layer(layer)
        if not self.layers:
            raise gx.InputError("replace_last: there is no layer")
        self.layers = (*self.layers[:-1], layer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


class Residual(Sequential):
    """x + f(x), where f is the layers one after the other.

    He, Zhang, Ren and Sun 2016, Deep Residual Learning for Image Recognition, eq. 1. ShapeError
    where f(x) has another shape than x.
    """

    def forward(self, x: gx.Node) -> gx.Node:
        y = super().forward(x)
        if y.shape != x.shape:
            raise gx.ShapeError(f"Residual: {x!r} and what its layers make of it, {y!r}, differ")
        return x + y


def _name(function: Function) -> str:
    return getattr(function, "__name__", repr(function))


def _check_layer(layer: Any) -> None:
    if not callable(layer) or isinstance(layer, type):
        raise gx.InputError(f"{layer!r} is no layer: need a layer, or a function of a node")


def _check_size(argument: str, size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise gx.InputError(f"{argument}={size!r}: need an int of 1 or more")
