"""Gradient descent: each optimizer turns gradients into updates, its own state included.

    updates = train.Adam(0.001).updates({w: gx.grad(loss, w)})      for gx.compile(..., updates=)

g is the gradient after clipping, r the rate. States are Params, named after their parameter. The
rate is a Param, too: a new rate compiles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import reduce, wraps
from numbers import Real
from operator import add
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import numpy as np

import graphc as gx
from graphc.train.penalties import Patterns, chosen
from graphc.train.schedules import Constant, Schedule, as_schedule, positive

Updates = dict[gx.Param, gx.Node]

Made = TypeVar("Made", bound=type)


@dataclass_transform(eq_default=False, field_specifiers=(field,))
def settings(cls: Made) -> Made:
    """A dataclass whose constructor says which names there are where one is misspelt. What it has
    made is closed: settings are part of the compiled step, and a new one would go unnoticed."""
    made: Any = dataclass(eq=False, repr=False)(cls)
    init = made.__init__

    @wraps(init)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        strange = [repr(n) for n in given if n not in _names(made)]
        if strange:
            name, there = type(self).__name__, ", ".join(_names(made))
            raise gx.InputError(f"{name} takes no {', '.join(strange)}; it takes {there}")
        init(self, *args, **given)
        if type(self) is made:
            self._closed = True

    made.__init__ = checked
    return made


@settings
class Optimizer:
    """What they share: the rate, clipping, and factors of the rate.

    `rate`: a number or a schedule; another one may be set at any time, in a callback, too, and is
    that of the next step: states go on. All else is fixed. A copy has the settings and a copy of
    the schedule, but no states. `clip_value`: gradients are limited to +-clip_value element by
    element.
    `clip_norm`: where the norm of all gradients together is larger, they are scaled down
    to it (Pascanu, Mikolov and Bengio 2013, On the difficulty of training recurrent neural
    networks, algorithm 1); after `clip_value`. `factors`: pattern over names -> factor of the rate;
    of several patterns that match, the last counts. One object is for one trainer at a time: states
    that are not of a parameter, such as Adam's count of steps, are shared.
    """

    rate: float | Schedule
    _: KW_ONLY
    clip_value: float | None = None
    clip_norm: float | None = None
    factors: Mapping[str, float] | None = None
    states: tuple[str, ...] = field(init=False, default=())  # of each parameter, in its shape
    scalars: ClassVar[tuple[str, ...]] = ()  # of some parameters, one number each
    shared: ClassVar[tuple[str, ...]] = ()  # of all together
    _closed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                setattr(self, name, positive(name, getattr(self, name)))
        given = self.factors or {}
        if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
            raise gx.InputError(f"factors={given!r}: need a dict of patterns and numbers")
        self.factors = {k: positive(f"factors[{k!r}]", v, or_zero=True) for k, v in given.items()}
        self._without_states()
        self._rate = self.schedule.rate(0.0)

    def _without_states(self) -> None:
        self.frozen: Mapping[str, gx.Param] = {}  # without gradients; patterns may name them, too
        self._shared: dict[str, gx.Param] = {}  # one for all parameters, such as the rate
        self._states: dict[gx.Param, dict[str, gx.Param]] = {}

    def __copy__(self) -> Self:
        return deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.trial()
        other._without_states()
        other.__dict__.update(deepcopy(vars(other), memo))
        return other

    @property
    def schedule(self) -> Schedule:
        """The rate over time."""
        return as_schedule(self.rate)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._closed and name not in ("rate", "frozen") and not name.startswith("_"):
            known, what = _names(type(self)), f"{type(self).__name__}.{name}"
            if name in known:
                raise gx.InputError(
                    f"{what} is fixed: make another optimizer, trainer.optimizer = ...; rate alone "
                    "can be set"
                )
            raise gx.InputError(f"{what}: there is no such setting; there are {', '.join(known)}")
        object.__setattr__(self, name, as_schedule(value) if name == "rate" else value)

    def __repr__(self) -> str:
        rate = self.schedule.base if type(self.schedule) is Constant else self.schedule
        rest = {n: getattr(self, n) for n in _names(type(self)) if n != "rate"}
        cells = [repr(rate), *(f"{n}={v!r}" for n, v in rest.items() if v not in (None, {}))]
        return f"{type(self).__name__}({', '.join(cells)})"

    def updates(self, gradients: Mapping[gx.Param, gx.Node]) -> Updates:
        """The new values of the parameters whose gradients are given, and of their states: the
        updates of `gx.compile`. The rate is `rate` at its epoch 0, until `set_rate` gives another.
        """
        if not isinstance(gradients, Mapping) or not all(
            isinstance(p, gx.Param) for p in gradients
        ):
            raise gx.InputError("gradients: need a dict, {param: its gradient}, of gx.param(...)")
        self._refuse_unmatched([*(p.name for p in gradients), *self.frozen])
        rate = self._shared_state("rate", gradients, self._rate)
        found: Updates = {}
        for param, gradient in self._clipped(gradients).items():
            scaled = _like(rate, param) * self._factor(param.name)
            found.update(self._checked(param, self.rule(param, gradient, scaled)))
        return found

    def _checked(self, param: gx.Param, updates: Any) -> Updates:
        """What a rule gave; InputError for what a step or a checkpoint would miss."""
        own = {param, *self._states.get(param, {}).values()}
        if not isinstance(updates, dict) or param not in updates or not updates.keys() <= own:
            raise gx.InputError(
                f"{type(self).__name__}.rule: need a dict of the new values of {param.name} and of "
                "states that self.state_of gave"
            )
        return updates

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Updates:
        """The new value of one parameter and of its states, which `state_of` gives."""
        raise NotImplementedError

    def state_of(self, param: gx.Param, name: str) -> gx.Param:
        """A state of a parameter, in its shape and dtype, at first zeros: one of those that the
        class attribute `states` names, which checkpoints hold."""
        if name not in (*self.states, *self.scalars):
            raise gx.InputError(
                f"{type(self).__name__} has no state {name!r}: name it in the class, "
                f"states = ({', '.join(map(repr, (*self.states, name)))},)"
            )
        states = self._states.setdefault(param, {})
        if name not in states:
            start = np.float32(0) if name in self.scalars else np.zeros(param.shape, param.dtype)
            states[name] = gx.param(f"{param.name}.{name}", start)
        return states[name]

    def set_rate(self, rate: float) -> None:
        """The rate of the next steps."""
        if rate != self._rate:
            self._rate = rate
            if "rate" in self._shared:
                self._shared["rate"].value = rate

    def state(self, params: Iterable[gx.Param]) -> dict[str, gx.Param]:
        """The states of these parameters and those of all, by name; the rate has its schedule."""
        own = [s for p in params for s in self._states.get(p, {}).values()]
        shared = [s for name, s in self._shared.items() if name != "rate"]
        return {s.name: s for s in [*own, *shared]}

    def trial(self) -> Self:
        """Another one with the same states, which keeps those that it makes to itself."""
        other = object.__new__(type(self))
        other.__dict__.update(vars(self))
        other._shared = dict(self._shared)
        other._states = {p: dict(states) for p, states in self._states.items()}
        return other

    def make_states(self, params: Iterable[gx.Param], names: Iterable[str]) -> dict[str, gx.Param]:
        """The states of these names, as far as they are states of these parameters or of all: what
        a checkpoint needs, whichever parameters were frozen when."""
        params, wanted = list(params), set(names)
        for param in params:
            for kind in (*self.states, *self.scalars):
                if f"{param.name}.{kind}" in wanted:
                    self.state_of(param, kind)
        for kind in self.shared:
            self._shared_state(kind, params, 0.0)
        return {n: p for n, p in self.state(params).items() if n in wanted}

    def keep_states(self, names: Container[str]) -> None:
        """Forget all states of other names: those parameters begin anew when they are trained."""
        for param, states in list(self._states.items()):
            kept = {kind: s for kind, s in states.items() if s.name in names}
            self._states[param] = kept
            if not kept:
                del self._states[param]

    def _shared_state(self, name: str, params: Iterable[gx.Param], value: float) -> gx.Param:
        if name not in self._shared:  # of one dtype, whichever parameters are frozen
            dtype = "float64" if _any_float64([*params, *self.frozen.values()]) else "float32"
            self._shared[name] = gx.param(f"optimizer.{name}", value, dtype=dtype)
        return self._shared[name]

    def _clipped(self, gradients: Mapping[gx.Param, gx.Node]) -> dict[gx.Param, gx.Node]:
        found = dict(gradients)
        if self.clip_value is not None:
            found = {p: gx.clip(g, -self.clip_value, self.clip_value) for p, g in found.items()}
        if self.clip_norm is not None:
            wide = "float64" if _any_float64(found) else "float32"
            terms = [gx.square(g.astype(wide)).sum() for g in found.values()]
            norm = gx.sqrt(reduce(add, terms))
            scale = self.clip_norm / gx.maximum(norm, self.clip_norm)
            found = {p: g * scale.astype(g.dtype) for p, g in found.items()}
        return found

    def _factor(self, name: str) -> float:
        factors = self.factors or {}
        matching = [f for pattern, f in factors.items() if fnmatchcase(name, pattern)]
        return matching[-1] if matching else 1.0

    def _refuse_unmatched(self, names: list[str]) -> None:
        for pattern in self.factors or {}:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise gx.InputError(
                    f"factors: pattern {pattern!r} matches none of {', '.join(names)}"
                )


@settings
class SGD(Optimizer):
    """Gradient descent: w' = w - r g. With momentum m: v' = m v + g and w' = w - r v'; with
    Nesterov's: w' = w - r (g + m v').

    Polyak 1964; Sutskever, Martens, Dahl and Hinton 2013, On the importance of initialization and
    momentum, eq. 1 to 4. As in PyTorch, v holds gradients, and r is applied to it; scikit-learn's v
    holds steps, v' = m v - r g: the same parameters as long as r does not change.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.momentum = _share("momentum", self.momentum)
        self.states = ("velocity",) if self.momentum else ()
        if not isinstance(self.nesterov, bool | np.bool_):
            raise gx.InputError(f"nesterov={self.nesterov!r}: need True or False")
        if self.nesterov and not self.momentum:
            raise gx.InputError("nesterov=True: needs momentum > 0")

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Updates:
        if not self.momentum:
            return {param: param - rate * gradient}
        velocity = self.state_of(param, "velocity")
        after = self.momentum * velocity + gradient
        step = gradient + self.momentum * after if self.nesterov else after
        return {velocity: after, param: param - rate * step}


@settings
class Adagrad(Optimizer):
    """s' = s + g^2, w' = w - r g / (sqrt(s') + epsilon).

    Duchi, Hazan and Singer 2011, Adaptive Subgradient Methods, with diagonal matrices.
    """

    states = ("squares",)

    rate: float | Schedule = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.epsilon = positive("epsilon", self.epsilon)

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Updates:
        squares = self.state_of(param, "squares")
        after = squares + gradient * gradient
        return {squares: after, param: param - rate * gradient / (gx.sqrt(after) + self.epsilon)}


@settings
class RMSProp(Optimizer):
    """s' = d s + (1 - d) g^2, w' = w - r g / (sqrt(s') + epsilon), with decay d.

    Tieleman and Hinton 2012, Neural Networks for Machine Learning, lecture 6.5.
    """

    states = ("squares",)

    rate: float | Schedule = 0.001
    decay: float = 0.9
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decay = _share("decay", self.decay)
        self.epsilon = positive("epsilon", self.epsilon)

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Updates:
        squares = self.state_of(param, "squares")
        after = self.decay * squares + (1 - self.decay) * (gradient * gradient)
        return {squares: after, param: param - rate * gradient / (gx.sqrt(after) + self.epsilon)}


@settings
class Adam(Optimizer):
    """m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g^2, and at step t, from 1 on,
    w' = w - r (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + epsilon).

    Kingma and Ba 2015, Adam, algorithm 1. PyTorch has the same formula; scikit-learn's is the other
    form of section 2, w' = w - r sqrt(1 - b2^t) / (1 - b1^t) m' / (sqrt(v') + epsilon), whose
    epsilon weighs differently. For a parameter that was frozen at first, t counts from where it is
    trained, so that its first steps are no larger than r.
    """

    states = ("first_moment", "second_moment")
    scalars = ("began",)  # the steps before its first one, of a parameter that came later
    shared = ("steps",)

    rate: float | Schedule = 0.001
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.beta1, self.beta2 = _share("beta1", self.beta1), _share("beta2", self.beta2)
        self.epsilon = positive("epsilon", self.epsilon)

    def updates(self, gradients: Mapping[gx.Param, gx.Node]) -> Updates:
        steps = self._shared_state("steps", gradients, 0.0)
        made = steps.value
        for param, states in list(self._states.items()):
            if param not in gradients and not self._has_run(states):
                del self._states[param]  # of a report, or of a program that was only looked at
        for param in gradients:
            states = self._states.get(param)
            if made > 0 and (states is None or ("began" in states and not self._has_run(states))):
                self.state_of(param, "began").value = made
        return {**super().updates(gradients), steps: steps + 1}

    def _has_run(self, states: Mapping[str, gx.Param]) -> bool:
        """Whether a step has changed the moments."""
        return any(s.value.any() for kind, s in states.items() if kind in self.states)

    def rule(self, param: gx.Param, gradient: gx.Node, rate: gx.Node) -> Updates:
        first, second = self.state_of(param, "first_moment"), self.state_of(param, "second_moment")
        m = self.beta1 * first + (1 - self.beta1) * gradient
        v = self.beta2 * second + (1 - self.beta2) * (gradient * gradient)
        mean = m / self._correction(self.beta1, param)
        scale = gx.sqrt(v / self._correction(self.beta2, param)) + self.epsilon
        return {first: m, second: v, param: self.decayed(param, rate) - rate * mean / scale}

    def decayed(self, param: gx.Param, rate: gx.Node) -> gx.Node:
        """The parameter that the step is taken from."""
        return param

    def _correction(self, beta: float, param: gx.Param) -> gx.Node | float:
        """1 - beta^t, as -expm1(t log beta), which cancels nothing where beta^t is close to 1."""
        if not beta:
            return 1.0
        t, began = self._shared["steps"] + 1, self._states[param].get("began")
        if began is not None:
            t = t - _like(began, t)
        return _like(-gx.expm1(t * math.log(beta)), param)


@settings
class AdamW(Adam):
    """Adam with decoupled weight decay: w' = w - r d w - r (...), of weights, not biases, unless
    `on` gives patterns over names (`on="*"` for all, as in PyTorch).

    Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2.
    """

    decay: float = 0.01
    on: Patterns = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decay = positive("decay", self.decay, or_zero=True)
        self._decaying: set[str] = set()

    def updates(self, gradients: Mapping[gx.Param, gx.Node]) -> Updates:
        params = {**{p.name: p for p in gradients}, **self.frozen}
        self._decaying = {p.name for p in chosen(params, self.on)}
        return super().updates(gradients)

    def decayed(self, param: gx.Param, rate: gx.Node) -> gx.Node:
        return param - rate * self.decay * param if param.name in self._decaying else param


def _like(scalar: gx.Node, param: gx.Node) -> gx.Node:
    """A scalar in the dtype of another node: nodes of different floats do not mix."""
    return scalar if scalar.dtype == param.dtype else scalar.astype(param.dtype)


def _any_float64(nodes: Iterable[gx.Node]) -> bool:
    return any(n.dtype.name == "float64" for n in nodes)


def _names(kind: type[Optimizer]) -> list[str]:
    """The settings of a class."""
    return [f.name for f in fields(kind) if f.init]


def _share(argument: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise gx.InputError(f"{argument}={value!r}: need a number, 0 <= {argument} < 1")
    return float(value)
