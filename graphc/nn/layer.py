"""What all layers share: parameters named by path, saving, loading, freezing."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock
from typing import Any
from weakref import ref

import numpy as np

import graphc as gx
from graphc.nn.init import Initialiser, as_dtype, as_initialiser
from graphc.nn.names import LoadReport, compare, match
from graphc.nn.tensor_file import read_parameters, write_tensors
from graphc.nn.text_table import columns

Shape = tuple[int, ...]


_building: ContextVar[bool] = ContextVar("graphc.nn building", default=False)
_first_values = RLock()


@contextmanager
def building() -> Generator[None]:
    """While a model is called: layers that it puts together anew stay those that they are."""
    before = _building.set(True)
    try:
        yield
    finally:
        _building.reset(before)


def is_building() -> bool:
    """Whether a model is being called."""
    return _building.get()


@dataclass(frozen=True)
class Declared:
    """A parameter before it has a value."""

    shape: Shape
    initialiser: Initialiser
    dtype: str


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
    around it, or else 0. An attribute that is a `gx.param` declares one, with its values; to tie
    two layers, use a parameter of the one in the `forward` of the other.

    Errors and reports give the line that made the layer as that of its nodes, or the line in a
    `forward` of your own.

    A layer used twice within a model is named after its first place, and its parameters are shared.
    Where a layer becomes part of another one, values that it has are copied to their new names:
    graphs built before keep the old ones. A layer of a model in use, one whose `parameters()` were
    asked for (by a Trainer, `load`, `freeze`), stays there, and another model gets a copy, values
    and what is frozen included. So `nn.Sequential(*model.layers[:-1], nn.Dense(32, 3))` starts from
    a trained model and leaves that one as it is. Models made of a layer before they are in use
    share it if it has the same place in them, and raise InputError if not. Within a `forward`, or a
    model that is a function, layers are put together as they are.
    """

    def __init__(self, *, name: str = "", seed: int | None = None) -> None:
        self._declared: dict[str, Declared] = {}
        self._params: dict[str, gx.Param] = {}
        self._path, self._seed, self._seed_around = name, seed, 0
        self._around: ref[Layer] | None = None  # weak: no circle keeps the values of old models
        self._in_use = False  # whether someone has asked for all its parameters
        self._output = ""  # the shape of what it gave last
        self._site = gx.user_site()

    def declare(
        self, name: str, shape: Shape, initialiser: str | Initialiser, dtype: str = "float32"
    ) -> None:
        """Own a parameter, read as an attribute of this name: of a float dtype, its first values
        from an initialiser, by name or as a function."""
        self._declared[name] = Declared(
            shape, as_initialiser(initialiser, name), as_dtype(dtype).name
        )

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
        with gx.MadeAt(self._site), building():
            y = self.forward(x)
        self._output = f"[{', '.join(map(str, y.shape))}]" if isinstance(y, gx.Node) else ""
        return y

    # -- parameters

    def parameters(self) -> dict[str, gx.Param]:
        """All parameters by name, those of parts included, in the order of declaration.

        InputError if a layer has another place in another model, made before this was in use.
        """
        params = (layer._params[name] for layer in self._own() for name in layer._declared)
        return {p.name: p for p in params}

    def summary(self) -> str:
        """A table of the layers: path, shape of the output once the layer was called, number of
        parameters, and how many of them are frozen; the sums in the last line."""
        self.parameters()
        rows = [("path", "layer", "output", "parameters", "frozen")]
        total, frozen = 0, 0
        for path, layer in self._walk():
            own = {n: math.prod(what.shape) for n, what in layer._declared.items()}
            still = sum(n for name, n in own.items() if not layer._param(name).trainable)
            if own or not any(layer._parts()):
                words = (path, repr(layer), layer._output)
                rows.append((*words, str(sum(own.values())), str(still)))
            total, frozen = total + sum(own.values()), frozen + still
        rows.append(("sum", "", self._output, str(total), str(frozen)))
        return columns(rows, left=3)

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
        """Read parameters from a safetensors file by name: one of parameters alone, or one of a
        run, as `Trainer.save` and `Checkpoint` write them.

        CheckpointError, changing nothing, if the file is none, if none of it fits, or if `strict`
        and it does not hold exactly these parameters. Otherwise what matches in name and shape is
        loaded, and the report says what did not.
        """
        tensors = read_parameters(path)
        params = self.parameters()
        report = compare(params, tensors)
        nothing = bool(params) and not report.matched
        if nothing or (strict and not report.complete):
            hint = "nothing of it does" if nothing else "strict=False loads what fits"
            raise gx.CheckpointError(f"{os.fspath(path)} does not fit the model: {report}; {hint}")
        for name in report.matched:
            params[name].value = tensors[name].astype(params[name].dtype)
        return report

    def made_of(self) -> list[Any]:
        """The attributes, parts and parameters: the same objects as long as none was replaced."""
        found: list[Any] = []
        for layer in self._own():
            found.extend(layer._params.values())
            for name, value in vars(layer).items():
                if name[0] != "_":
                    found.extend(value if isinstance(value, tuple) else (value,))
        return found

    # -- names

    def __getattr__(self, name: str) -> gx.Param:
        if name in vars(self).get("_declared", ()):
            return self._param(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_declared" not in vars(self) and name != "_declared":
            raise TypeError(f"{type(self).__name__}: call super().__init__() first")
        held = tuple(value) if isinstance(value, list) else value
        parts = held if isinstance(held, tuple) else (held,)
        if any(_is_hidden(part) for part in parts) or (parts is held and _has_params(parts)):
            raise gx.InputError(
                f"{name}: layers in a dict or in a list of lists, and parameters in a list, are "
                "not found; keep them as attributes, or layers in one list or tuple"
            )
        if isinstance(held, gx.Param):
            self._adopt(name, held)
            return
        if name in vars(self).get("_declared", ()):
            raise gx.InputError(
                f"{name} is a parameter: set {name}.value to an array, or {name} to a gx.param"
            )
        if any(isinstance(part, Layer) for part in parts):
            copied: dict[int, Any] = {}  # a layer that comes twice is copied once
            mine = [copy.deepcopy(p, copied) if self._takes_copy_of(p) else p for p in parts]
            held = tuple(mine) if isinstance(held, tuple) else mine[0]
            object.__setattr__(self, name, held)
            self._place_parts(set())
        else:
            object.__setattr__(self, name, held)

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        """A layer of its own, part of no other, with the values that there are. Layers within it
        are copied, all else is shared."""
        made = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            held = value if isinstance(value, tuple) else (value,)
            mine = [copy.deepcopy(v, memo) if isinstance(v, Layer) else v for v in held]
            object.__setattr__(made, name, tuple(mine) if isinstance(value, tuple) else mine[0])
        params = {n: _renamed(p, p.name) for n, p in self._params.items()}
        vars(made).update(
            _declared=dict(self._declared), _params=params, _around=None, _in_use=False
        )
        made._place_parts(set())
        return made

    def __reduce__(self) -> Any:
        raise TypeError(
            "layers do not pickle: model.save(path) writes the parameters, copy.deepcopy copies"
        )

    def _adopt(self, name: str, param: gx.Param) -> None:
        """Own a parameter that the user has made: its values, under a name of this layer."""
        need = self._declared[name].shape if name in self._declared else param.shape
        if param.shape != need:
            raise gx.ShapeError(f"{name}: {param!r} has shape {param.shape}, need {need}")
        vars(self).pop(name, None)
        self.declare(
            name, tuple(map(int, param.shape)), lambda *_, **__: param.value, param.dtype.name
        )
        self._params.pop(name, None)
        self._param(name).trainable = param.trainable

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

    def _walk(self, path: str = "", seen: set[Layer] | None = None) -> Iterator[tuple[str, Layer]]:
        """This layer and all below it, each at its first place, with their paths from here."""
        seen = set() if seen is None else seen
        if self not in seen:
            seen.add(self)
            yield path, self
            for name, part in self._parts():
                yield from part._walk(_join(path, name), seen)

    def _own(self) -> Iterator[Layer]:
        """This layer and all below it, with all their parameters, in use from now on. InputError
        for one that has become part of another model."""
        is_outermost = self._owner() is None
        for path, layer in self._walk():
            full = _join(self._path, path)
            if is_outermost and layer._path != full:
                if layer._owner() is not None:
                    raise gx.InputError(
                        f"{full}, {layer!r}, has become {layer._path} of another model before this "
                        "one was in use: give that one copy.deepcopy(layer), or share it by models "
                        "that are functions: lambda x: head(trunk(x))"
                    )
                self._place_parts(set())  # the model that had taken it is gone
            layer._in_use = True
            for name in layer._declared.keys() - layer._params.keys():
                layer._param(name)
            yield layer

    def _owner(self) -> Layer | None:
        """The layer around this one, if there still is one."""
        around = self._around and self._around()
        is_held = around is not None and any(part is self for _, part in around._parts())
        return around if is_held else None

    def _outermost(self) -> Layer:
        owner = self._owner()
        return self if owner is None else owner._outermost()

    def _takes_copy_of(self, part: Any) -> bool:
        """Whether this is a layer of another model, which is in use, outside of any `forward`."""
        owner = part._owner() if isinstance(part, Layer) else None
        is_used = owner is not None and owner._in_use and not is_building()
        return is_used and part._outermost() is not self._outermost()

    def _stays(self, around: Layer) -> bool:
        """Whether this has its name already, while a model is being called: from the layer that it
        is part of, or from values that it has without one."""
        owner = self._owner()
        has_values = any(layer._params for _, layer in self._walk())
        return is_building() and owner is not around and (owner is not None or has_values)

    def _place_parts(self, seen: set[Layer]) -> None:
        """Name all that is below by its path. What stands in `seen` has its name."""
        seen.add(self)
        for name, part in self._parts():
            if part in seen or part._stays(self):
                continue
            part._path, part._seed_around = _join(self._path, name), self._seed_here
            part._around = ref(self)
            for own, old in part._params.items():
                full = _join(part._path, own)
                if old.name != full:
                    part._params[own] = _renamed(old, full)
            part._place_parts(seen)

    def _param(self, name: str) -> gx.Param:
        with _first_values:  # of two threads that ask, both get the same
            if name not in self._params:
                full, what = _join(self._path, name), self._declared[name]
                seed = (self._seed_here, *full.encode())
                value = np.asarray(what.initialiser(what.shape, seed=seed, dtype=what.dtype))
                if value.shape != what.shape:
                    raise gx.ShapeError(
                        f"{full}: the initial value is {value.shape}, not {what.shape}"
                    )
                self._params[name] = gx.param(full, value, dtype=what.dtype)
            return self._params[name]

    def _set_trainable(self, patterns: Sequence[str], trainable: bool) -> list[str]:
        params = self.parameters()
        chosen = match(params, patterns)
        for name in chosen:
            params[name].trainable = trainable
        return chosen


def _is_hidden(value: Any) -> bool:
    """Whether it is a dict or a list with layers or parameters in it, at any depth."""
    values = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | tuple | list) and any(
        isinstance(v, Layer | gx.Param) or _is_hidden(v) for v in values
    )


def _has_params(values: Sequence[Any]) -> bool:
    return any(isinstance(v, gx.Param) for v in values)


def _renamed(param: gx.Param, name: str) -> gx.Param:
    """Another parameter with the same values."""
    return gx.param(name, param.value, dtype=param.dtype.name, trainable=param.trainable)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
