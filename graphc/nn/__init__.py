"""Layers and initialisers, written with graphc's public names alone."""

from graphc.nn import init
from graphc.nn.activations import ACTIVATIONS
from graphc.nn.layer import Layer, LoadReport
from graphc.nn.layers import (
    Activation,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    Residual,
    Sequential,
)

__all__ = [
    "ACTIVATIONS", "Activation", "Dense", "Dropout", "Flatten", "Layer", "LayerNorm", "LoadReport",
    "Residual", "Sequential", "init",
]  # fmt: skip
