"""Layers and initialisers, written with graphc's public names alone."""

from typing import TYPE_CHECKING

from graphc.nn.activations import ACTIVATIONS
from graphc.nn.layer import Layer
from graphc.nn.layers import (
    Activation,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    Residual,
    Sequential,
)
from graphc.nn.names import LoadReport

if TYPE_CHECKING:  # a module is an attribute of its package once it has been loaded, as it is here
    from graphc.nn import init

__all__ = [
    "ACTIVATIONS", "Activation", "Dense", "Dropout", "Flatten", "Layer", "LayerNorm", "LoadReport",
    "Residual", "Sequential", "init",
]  # fmt: skip
