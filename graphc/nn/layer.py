"""What all layers share: parameters named by path, saving, loading, freezing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import graphc as gx
from graphc.nn.init import Initialiser
from graphc.nn.tensor_file import read_tensors, write_tensors

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Declared:
    """A parameter before it has a value."""

    shape: Shape
    initialiser: Initialiser
    dtype: str


@dataclass(frozen=True)
class LoadReport:
    """What `load` found: names of parameters, and for misshapen ones (in the file, needed)."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: dict[str, tuple[str, str]]

    @property
    def complete(self) -> bool:
        """Whether the file and the model hold the same parameters."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        wrong = [f"{n} is {have}, need {need}" for n, (have, need) in self.misshapen.items()]
        rows = {
            "matched": self.matched, "missing": self.missing, "unexpected": self.unexpected,
            "misshapen": wrong,
        }  # fmt: skip
        return "; ".join(f"{k}: {', '.join(names) or 'none'}" for k, names in rows.items())


class Layer:
    """A function of nodes that owns parameters. Subclasses declare them and write `forward`.


        class Scale(nn.Layer):
            def __init__(self, size):
                super().__init__()
                self.declare("factor", (size,), nn.init.ones)

            def forward(self, x):
                return x * self.factor

    Layers kept as attributes, alone or in a list or tuple, are its parts: `self.body = nn.Dense()`
    gives parameters `body.weight` and `body.bias`. A parameter gets its value when it is first
    asked for, from the seed and its path: equal models start equal, no two layers of one do.
    `name` stands before the paths of a layer that is part of no other. `seed`: that of the layer
    around it, or else 0.

    Errors and reports give the line that made the layer as that of its nodes, or the line in a
    `forward` of your own.

    Where a layer whose parameters have values becomes part of another one, they are copied to their
    new names: graphs built before keep the old ones.
    """

    def __init__(self, *, name: str = "", seed: int | None = None) -> None:
        self._declared: dict[str, Declared] = {}
        self._params: dict[str, gx.Param] = {}
        self._path, self._seed, self._seed_around = name, seed, 0
        self._site = gx.user_site()

    def declare(
        self, name: str, shape: Shape, initialiser: Initialiser, dtype: str = "float32"
    ) -> None:
        """Own a parameter, read as an attribute of this name."""
        self._declared[name] = Declared(shape, initialiser, dtype)

    def forward(self, x: gx.Node) -> gx.Node:
        """The graph of the layer."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x)")

    def __call__(self, x: gx.Node) -> gx.Node:
        """Build the nodes of the layer."""
        if not isinstance(x, gx.Node):
            raise gx.InputError(
                f"{type(self).__name__} of {type(x).__name__}: a layer takes a node, such as "
                "gx.input(...); Trainer.predict takes arrays"
            )
        with gx.MadeAt(self._site):
            return self.forward(x)

    # -- parameters

    def parameters(self) -> dict[str, gx.Param]:
        """All parameters by name, those of parts included, in the order of declaration."""
        own = [self._param(name) for name in self._declared]
        found = {p.name: p for p in own}
        for _, part in self._parts():
            found.update(part.parameters())
        return found

    def freeze(self, *patterns: str) -> list[str]:
        """Keep parameters as they are: those whose names match a pattern such as `layers.0*`.

        Returns their names. A `Trainer` computes no gradient of theirs. InputError if a pattern
        matches none.
        """
        return self._set_trainable(patterns, False)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Let parameters change again; patterns as in `freeze`, `*` for all."""
        return self._set_trainable(patterns, True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all parameters to a safetensors file, whole or not at all."""
        write_tensors(path, {n: p.value for n, p in self.parameters().items()}, {})

    def load(self, path: str | os.PathLike[str], strict: bool = True) -> LoadReport:
        """Read parameters from a safetensors file by name.

        CheckpointError, changing nothing, if the file is none, or if `strict` and it does not hold
        exactly these parameters. Otherwise what matches in name and shape is loaded, and the report
        says what did not.
        """
        tensors, _ = read_tensors(path)
        params = self.parameters()
        report = compare(params, tensors)
        if strict and not report.complete:
            raise gx.CheckpointError(
                f"{os.fspath(path)} does not fit the model: {report}; strict=False loads what fits"
            )
        for name in report.matched:
            params[name].value = tensors[name].astype(params[name].dtype)
        return report

    def made_of(self) -> list[Any]:
        """The attributes, parts and parameters: the same objects as long as none was replaced."""
        found: list[Any] = [*self.parameters().values()]
        for name, value in vars(self).items():
            if not name.startswith("_"):
                found.extend(value if isinstance(value, tuple) else [value])
        for _, part in self._parts():
            found.extend(part.made_of())
        return found

    # -- names

    def __getattr__(self, name: str) -> gx.Param:
        if not name.startswith("_") and name in self._declared:
            return self._param(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_declared" not in vars(self) and name != "_declared":
            raise TypeError(f"{type(self).__name__}: call super().__init__() first")
        object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        for path, part in self._parts():
            if path == name or path.startswith(name + "."):
                part._place(_join(self._path, path), self._seed_here)

    @property
    def _seed_here(self) -> int:
        return self._seed_around if self._seed is None else self._seed

    def _parts(self) -> Iterator[tuple[str, Layer]]:
        """The layers among the attributes, with their paths."""
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, tuple):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Layer))

    def _place(self, path: str, seed: int) -> None:
        """Take the place `path` in a layer around this one."""
        self._path, self._seed_around = path, seed
        for name, old in self._params.items():
            full = _join(path, name)
            if old.name != full:
                self._params[name] = gx.param(full, old.value, trainable=old.trainable)
        for name, part in self._parts():
            part._place(_join(path, name), self._seed_here)

    def _param(self, name: str) -> gx.Param:
        if name not in self._params:
            full, what = _join(self._path, name), self._declared[name]
            seed = (self._seed_here, *full.encode())
            value = what.initialiser(what.shape, seed=seed, dtype=what.dtype)
            if value.shape != what.shape:
                raise gx.ShapeError(f"{full}: the initial value is {value.shape}, not {what.shape}")
            self._params[name] = gx.param(full, value, dtype=what.dtype)
        return self._params[name]

    def _set_trainable(self, patterns: Sequence[str], trainable: bool) -> list[str]:
        if not patterns or not all(isinstance(p, str) for p in patterns):
            raise gx.InputError(
                f"patterns {patterns!r}: need some over names, such as 'layers.0*', or '*' for all"
            )
        params = self.parameters()
        chosen = match(params, patterns)
        for name in chosen:
            params[name].trainable = trainable
        return chosen


def match(names: Any, patterns: Sequence[str]) -> list[str]:
    """The names that match any of the patterns, in their order; InputError if one matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise gx.InputError(
                f"pattern {pattern!r} matches no parameter; there are {', '.join(names) or 'none'}"
            )
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]


def compare(params: dict[str, gx.Param], tensors: dict[str, Any]) -> LoadReport:
    """What of the tensors fits the parameters of the same names."""
    common = [name for name in params if name in tensors]
    misshapen = {
        n: (_describe(tensors[n]), _describe(params[n]))
        for n in common
        if tensors[n].shape != params[n].shape or not _is_float(tensors[n].dtype)
    }
    return LoadReport(
        tuple(n for n in common if n not in misshapen),
        tuple(n for n in params if n not in tensors),
        tuple(sorted(n for n in tensors if n not in params)),
        misshapen,
    )


def _is_float(dtype: Any) -> bool:
    return dtype.name in ("float16", "bfloat16", "float32", "float64")


def _describe(array: Any) -> str:
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
