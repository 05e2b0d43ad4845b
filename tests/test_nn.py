"""Layers and initialisers: values, names, files of parameters, freezing; bad input."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc import nn, train
from graphc.nn import tensor_file
from graphc.train.network import below

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 4)).astype("float32")


def apply(model: Any, x: np.ndarray, training: bool | None = None, seed: int = 0) -> np.ndarray:
    """A model's output for an array."""
    node = model(gx.input("x", ("batch", *x.shape[1:]), x.dtype))
    return gx.compile(node, training=training, seed=seed)(x=x)


def values(model: nn.Layer) -> dict[str, np.ndarray]:
    return {n: p.value for n, p in model.parameters().items()}


# -- initialisers


def spread(shape: tuple[int, ...], name: str) -> float:
    """The standard deviation that the paper asks for, of a weight [inputs, outputs]."""
    i, o = shape[-2] * math.prod(shape[:-2]), shape[-1] * math.prod(shape[:-2])
    return math.sqrt({"glorot": 2 / (i + o), "he": 2 / i, "lecun": 1 / i}[name.split("_")[0]])


@pytest.mark.parametrize("name", ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal",
                                  "lecun_normal"])  # fmt: skip
@pytest.mark.parametrize("shape", [(300, 200), (9, 40, 60)])
def test_spread_of_initial_values(name: str, shape: tuple[int, ...]) -> None:
    drawn = nn.init.INITIALISERS[name](shape, seed=3)
    wanted = spread(shape, name)
    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    assert abs(drawn.std() / wanted - 1) < 0.02
    assert abs(drawn.mean()) < 0.02 * wanted
    if name.endswith("uniform"):
        assert np.abs(drawn).max() <= wanted * math.sqrt(3) * (1 + 1e-6)
        assert np.abs(drawn).max() >= wanted * math.sqrt(3) * 0.99
    else:
        assert np.abs(drawn).max() > 3 * wanted


@pytest.mark.parametrize("shape", [(6, 6), (8, 3), (3, 8), (2, 2, 3)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    flat = nn.init.orthogonal(shape, gain=2.0, seed=1, dtype="float64").reshape(-1, shape[-1])
    small = flat.T @ flat if flat.shape[0] >= flat.shape[1] else flat @ flat.T
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)


def test_orthogonal_is_uniform() -> None:
    """Without the signs of R, LAPACK's Q begins with a number below 0."""
    first = [nn.init.orthogonal((3, 3), seed=s)[0, 0] for s in range(100)]
    assert abs(np.mean(np.sign(first))) < 0.3
    assert abs(np.mean(np.square(first)) - 1 / 3) < 0.1


def test_an_initialiser_with_settings() -> None:
    layer = nn.Dense(40, 30, weight=nn.init.normal(mean=5, std=2), bias=nn.init.constant(value=3))
    seed = (0, *b"weight")
    assert np.array_equal(layer.weight.value, nn.init.normal((40, 30), 5, 2, seed=seed))
    assert np.array_equal(layer.bias.value, np.full(30, 3))


def test_simple_initialisers() -> None:
    assert np.array_equal(nn.init.zeros(3), np.zeros(3))
    assert np.array_equal(nn.init.ones((2, 2)), np.ones((2, 2)))
    assert np.array_equal(nn.init.constant(2, 7.5), [7.5, 7.5])
    drawn = nn.init.uniform((1000,), 2, 3, seed=1)
    assert drawn.min() >= 2
    assert drawn.max() < 3
    assert abs(nn.init.normal((10000,), 5, 2, seed=1).std() - 2) < 0.1


def test_seeds_and_dtypes() -> None:
    a, b = gx.init.he_normal((4, 4), seed=0), gx.init.he_normal((4, 4), seed=1)
    assert np.array_equal(a, nn.init.he_normal((4, 4)))
    assert not np.array_equal(a, b)
    assert nn.init.he_normal((4, 4), dtype="bfloat16").dtype.name == "bfloat16"
    assert nn.init.he_normal((4, 4), dtype="float64").dtype.name == "float64"


def test_each_initialiser_cites_its_source() -> None:
    for name, function in nn.init.INITIALISERS.items():
        cited = name in ("zeros", "ones", "constant", "normal", "uniform")
        assert cited or any(str(y) in (function.__doc__ or "") for y in range(1990, 2020)), name


def test_import_stays_quick() -> None:
    """Neither nn nor train is loaded before it is asked for, and safetensors not even then."""
    said = subprocess.run(
        [sys.executable, "-c", "import graphc as gx, sys; a = set(sys.modules); gx.init; gx.nn; "
         "gx.train; print('graphc.nn' in a, 'graphc.train' in a, 'safetensors' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.split() == ["False", "False", "False"]


# -- layers against NumPy


@pytest.mark.usefixtures("backend")
def test_dense() -> None:
    layer = nn.Dense(4, 3, activation="tanh", bias="ones")
    w, b = layer.weight.value, layer.bias.value
    np.testing.assert_allclose(apply(layer, X), np.tanh(X @ w + b), rtol=1e-5, atol=1e-6)
    bare = nn.Dense(4, 3, bias=None)
    for bias, names in ((None, ["weight"]), (False, ["weight"]), (True, ["weight", "bias"])):
        assert list(nn.Dense(4, 3, bias=bias).parameters()) == names
    np.testing.assert_allclose(apply(bare, X), X @ bare.weight.value, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("backend")
def test_layer_norm() -> None:
    layer = nn.LayerNorm(4, epsilon=1e-3)
    layer.scale.value, layer.shift.value = np.arange(4.0), np.ones(4)
    distance = X - X.mean(-1, keepdims=True)
    wanted = distance / np.sqrt(X.var(-1, keepdims=True) + 1e-3) * np.arange(4) + 1
    np.testing.assert_allclose(apply(layer, X), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("backend")
def test_flatten_residual_and_functions() -> None:
    inner = nn.Dense(4, 4, "relu")
    model = nn.Sequential(nn.Flatten(), nn.Residual(inner), lambda x: 2 * x, nn.Activation(gx.exp))
    x = X.reshape(5, 2, 2)
    wanted = np.exp(2 * (X + np.maximum(X @ inner.weight.value + inner.bias.value, 0)))
    np.testing.assert_allclose(apply(model, x), wanted, rtol=1e-4)


@pytest.mark.usefixtures("backend")
def test_dropout_layer() -> None:
    x = np.ones((64, 50), "float32")
    classic, inverted = nn.Dropout(0.8, "classic"), nn.Dropout(0.8)
    np.testing.assert_allclose(apply(classic, x), 0.8 * x, rtol=1e-6)
    np.testing.assert_array_equal(apply(inverted, x), x)
    kept = apply(classic, x, training=True, seed=5)
    assert set(np.unique(kept)) == {0.0, 1.0}
    assert abs(kept.mean() - 0.8) < 0.03
    np.testing.assert_allclose(apply(inverted, x, training=True, seed=5), kept / 0.8, rtol=1e-6)


@pytest.mark.parametrize("name", list(nn.ACTIVATIONS))
def test_activation_by_name(name: str) -> None:
    wanted = gx.compile(getattr(gx, name)(gx.input("x", ("batch", 4))), backend="numpy")(x=X)
    node = nn.Activation(name)(gx.input("x", ("batch", 4)))
    np.testing.assert_array_equal(gx.compile(node, backend="numpy")(x=X), wanted)


@pytest.mark.parametrize(
    ("activation", "name"),
    [("relu", "he_normal"), (gx.relu, "he_normal"), ("selu", "lecun_normal"),
     (None, "glorot_uniform"), ("tanh", "glorot_uniform"), (lambda x: x, "glorot_uniform")],
)  # fmt: skip
def test_default_initialiser_suits_the_activation(activation: Any, name: str) -> None:
    start = nn.init.INITIALISERS[name]((6, 5), seed=(0, *b"weight"))
    np.testing.assert_array_equal(nn.Dense(6, 5, activation).weight.value, start)


# -- names and seeds


def small(**options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Dense(4, 4, "relu"), nn.Residual(nn.LayerNorm(4), nn.Dense(4, 4)), nn.Dense(4, 4),
        **options,
    )  # fmt: skip


def test_names_are_paths() -> None:
    model = small()
    names = [
        "layers.0.weight", "layers.0.bias", "layers.1.layers.0.scale", "layers.1.layers.0.shift",
        "layers.1.layers.1.weight", "layers.1.layers.1.bias", "layers.2.weight", "layers.2.bias",
    ]  # fmt: skip
    assert list(model.parameters()) == names
    assert [p.name for p in model.parameters().values()] == names
    assert next(iter(small(name="net").parameters())) == "net.layers.0.weight"


def test_layers_differ_and_models_agree() -> None:
    a, b, c = values(small()), values(small()), values(small(seed=1))
    assert not np.array_equal(a["layers.0.weight"], a["layers.2.weight"])
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not np.array_equal(a["layers.0.weight"], c["layers.0.weight"])
    fixed = nn.Sequential(nn.Dense(4, 4, "relu", seed=9), seed=1)
    again = nn.Sequential(nn.Dense(4, 4, "relu", seed=9), seed=2)
    assert np.array_equal(values(fixed)["layers.0.weight"], values(again)["layers.0.weight"])


def test_a_layer_of_ones_own() -> None:
    class Scale(nn.Layer):
        factor: gx.Param

        def __init__(self, size: int) -> None:
            super().__init__()
            self.declare("factor", (size,), nn.init.ones)

        def forward(self, x: gx.Node) -> gx.Node:
            return x * self.factor

    class Net(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.scale = Scale(4)
            self.hidden = [nn.Dense(4, 4), nn.Dense(4, 4)]

        def forward(self, x: gx.Node) -> gx.Node:
            return self.hidden[1](self.hidden[0](self.scale(x)))

    net = Net()
    assert list(net.parameters())[:2] == ["scale.factor", "hidden.0.weight"]
    before = apply(net, X)
    net.scale.factor.value = np.full(4, 2.0)
    assert not np.array_equal(apply(net, X), before)
    with pytest.raises(AttributeError, match="Net has no attribute 'weight'"):
        net.weight  # noqa: B018


def test_a_layer_used_twice_has_one_parameter() -> None:
    tied = nn.Dense(4, 4, "tanh")
    model = nn.Sequential(tied, tied)
    assert list(model.parameters()) == ["layers.0.weight", "layers.0.bias"]
    w, b = tied.weight.value, tied.bias.value
    wanted = np.tanh(np.tanh(X @ w + b) @ w + b)
    np.testing.assert_allclose(apply(model, X), wanted, rtol=1e-5, atol=1e-6)


def test_values_move_into_a_larger_model() -> None:
    body = small()
    body.layers[0].weight.value = np.full((4, 4), 0.5)
    body.freeze("layers.0.weight")
    whole = nn.Sequential(body, nn.Dense(4, 2))
    moved = whole.parameters()["layers.0.layers.0.weight"]
    assert np.array_equal(moved.value, np.full((4, 4), 0.5))
    assert not moved.trainable
    gx.compile(whole(gx.input("x", ("batch", 4))), backend="numpy")  # all names differ


def test_layers_of_a_model_with_values_are_copied_into_another() -> None:
    """Values and what is frozen come along; the model they are from stays as it is."""
    old = changed(small())
    old.freeze("layers.0*")
    before, kept = values(old), old.parameters()
    new = nn.Sequential(*old.layers[1:], nn.Dense(4, 7))  # other names than in the old one
    assert list(new.parameters()) == [
        "layers.0.layers.0.scale", "layers.0.layers.0.shift", "layers.0.layers.1.weight",
        "layers.0.layers.1.bias", "layers.1.weight", "layers.1.bias", "layers.2.weight",
        "layers.2.bias",
    ]  # fmt: skip
    assert np.array_equal(new.layers[1].weight.value, before["layers.2.weight"])
    again = nn.Sequential(*old[:-1], nn.Dense(4, 7))
    assert [n for n, p in again.parameters().items() if not p.trainable] == [
        "layers.0.weight", "layers.0.bias",
    ]  # fmt: skip
    changed(new), changed(again)
    assert all(old.parameters()[n] is p for n, p in kept.items())
    assert all(np.array_equal(v, before[n]) for n, v in values(old).items())


def test_a_deep_copy_is_a_model_of_its_own() -> None:
    old = changed(small())
    new = copy.deepcopy(old)
    assert all(np.array_equal(v, values(old)[n]) for n, v in values(new).items())
    before = apply(old, X)
    changed(new)
    assert np.array_equal(apply(old, X), before)
    assert not np.array_equal(apply(new, X), before)


def test_a_layer_that_another_model_took_is_told() -> None:
    """Neither model has values yet: the later one has the layers, the earlier one says so."""
    old = small()
    new = nn.Sequential(*old.layers[1:])
    assert next(iter(new.parameters())) == "layers.0.layers.0.scale"
    told = r"layers\.1, Residual.* become layers\.0 of another model"
    for use in (old.parameters, old.summary, lambda: old.save("never"), old.made_of):
        with pytest.raises(gx.InputError, match=told):
            use()
    other = small()
    nn.Sequential(*other.layers[1:])  # is gone at once
    assert list(other.parameters()) == list(small().parameters())


def test_a_trunk_at_the_same_place_of_two_models_is_shared() -> None:
    trunk = nn.Sequential(nn.Dense(4, 3))
    one, two = nn.Sequential(trunk, nn.Dense(3, 2)), nn.Sequential(trunk, nn.Dense(3, 1))
    changed(one)
    assert one[0] is two[0]
    assert two.parameters()["layers.0.layers.0.weight"] is one[0][0].weight
    three = nn.Sequential(trunk, nn.Dense(3, 1))  # the others are in use
    assert three[0] is not trunk
    assert np.array_equal(three[0][0].weight.value, one[0][0].weight.value)


class Assembled(nn.Layer):
    """Puts its layers together anew whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Dense(4, 5), nn.Dense(5, 3)

    def forward(self, x: gx.Node) -> gx.Node:
        return nn.Sequential(
            self.first, nn.Activation("tanh"), nn.Residual(nn.Flatten()), self.last
        )(x)


def test_layers_put_together_within_a_forward_are_trained_themselves() -> None:
    model = Assembled()
    names = ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert list(model.parameters()) == names
    trunk = nn.Sequential(nn.Dense(4, 3))
    for made in (model, lambda x: nn.Sequential(*trunk.layers, nn.Activation("relu"))(x)):
        trainer = train.Trainer(made, "softmax_cross_entropy", train.SGD(0.1), backend="numpy")
        trainer.fit((X, np.zeros(5, "int32")), 2, progress=False)
        owner = model if made is model else trunk
        assert {*trainer.network.params.values()} == {*owner.parameters().values()}
    assert list(model.parameters()) == names


class Tied(nn.Layer):
    """Owns a parameter that was made by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Dense(4, 2)
        self.shift = gx.param("b", np.arange(4, dtype="float32"), trainable=False)

    def forward(self, x: gx.Node) -> gx.Node:
        return self.encoder(x) @ self.encoder.weight.T + self.shift


def test_a_parameter_made_by_hand_is_owned(tmp_path: Path) -> None:
    model = nn.Sequential(Tied())
    assert list(model.parameters())[-1] == "layers.0.encoder.bias"
    assert not model[0].shift.trainable
    assert model.parameters()["layers.0.shift"] is model[0].shift
    model[0].shift.value = np.ones(4)
    model.save(tmp_path / "a.safetensors")
    other = nn.Sequential(Tied())
    assert other.load(tmp_path / "a.safetensors").complete
    assert np.array_equal(other[0].shift.value, np.ones(4))
    copied = copy.deepcopy(other)
    assert copied[0].shift is not other[0].shift
    with pytest.raises(gx.InputError, match="parameters in a list"):
        model[0].shifts = [gx.param("a", np.zeros(2))]


def test_a_layer_out_of_a_model_that_is_gone_keeps_its_name_and_values() -> None:
    whole = nn.Sequential(nn.Flatten(), nn.Dense(4, 3), seed=3)
    alone = nn.Sequential(nn.Flatten(), nn.Dense(4, 3), seed=3)[1]
    assert alone.weight.name == whole[1].weight.name == "layers.1.weight"
    assert np.array_equal(alone.weight.value, whole[1].weight.value)
    head = whole[-1]
    whole.replace_last(nn.Dense(4, 7))
    assert nn.Sequential(head)[0] is head


def test_a_copy_shares_what_is_no_layer() -> None:
    old = nn.Activation("relu")
    old.module = np  # cannot be copied
    assert copy.deepcopy(nn.Sequential(old))[0].module is np


def test_threads_that_ask_first_get_the_same_parameters() -> None:
    for _ in range(20):
        model = nn.Dense(4, 3)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(getattr, [model] * 8, ["weight"] * 8))
        assert len(set(found)) == 1


def test_a_layer_shared_by_blocks_stays_shared() -> None:
    tied = nn.Dense(4, 4, "tanh")
    tied.weight.value = np.eye(4)
    model = nn.Sequential(nn.Residual(tied), nn.Residual(nn.Flatten(), tied))
    assert list(model.parameters()) == ["layers.0.layers.0.weight", "layers.0.layers.0.bias"]
    new = nn.Sequential(nn.Flatten(), *model.layers)
    assert list(new.parameters()) == ["layers.1.layers.0.weight", "layers.1.layers.0.bias"]
    assert new[1][0] is new[2][1]
    assert new[1][0] is not tied
    assert np.array_equal(apply(new, X), apply(model, X))


def test_summary_and_places() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Residual(nn.Dense(4, 4, "relu")), nn.Dense(4, 2))
    model.freeze("layers.2.bias")
    assert "[" not in model.summary()
    apply(model, X)
    assert [line.split() for line in model.summary().splitlines()] == [
        ["path", "layer", "output", "parameters", "frozen"],
        ["layers.0", "Flatten()", "[batch,", "4]", "0", "0"],
        ["layers.1.layers.0", "Dense(4,", "4,", "relu)", "[batch,", "4]", "20", "0"],
        ["layers.2", "Dense(4,", "2)", "[batch,", "2]", "10", "2"],
        ["sum", "[batch,", "2]", "30", "2"],
    ]
    assert len(model) == 3
    assert model[-1] is model.layers[2]
    trunk = model[:2]
    assert isinstance(trunk, nn.Sequential)
    assert trunk[1] is not model[1]
    assert np.array_equal(trunk[1][0].weight.value, model[1][0].weight.value)


def test_replace_last() -> None:
    model = small()
    first = model.parameters()["layers.0.weight"]
    model.replace_last(nn.Dense(4, 2))
    assert model.parameters()["layers.0.weight"] is first
    assert model.parameters()["layers.2.weight"].shape == (4, 2)
    assert apply(model, X).shape == (5, 2)


def test_freeze_and_unfreeze() -> None:
    model = small()
    assert model.freeze("layers.0*", "*bias") == [
        "layers.0.weight", "layers.0.bias", "layers.1.layers.1.bias", "layers.2.bias",
    ]  # fmt: skip
    assert [n for n, p in model.parameters().items() if p.trainable] == [
        "layers.1.layers.0.scale", "layers.1.layers.0.shift", "layers.1.layers.1.weight",
        "layers.2.weight",
    ]  # fmt: skip
    model.unfreeze("*")
    assert all(p.trainable for p in model.parameters().values())
    with pytest.raises(gx.InputError, match=r"'head\*' matches no parameter; there are layers.0"):
        model.freeze("head*")


# -- files


def changed(model: nn.Layer) -> nn.Layer:
    for p in model.parameters().values():
        p.value = RNG.standard_normal(p.shape)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_save_and_load(tmp_path: Path, dtype: str) -> None:
    model, other = changed(nn.Dense(4, 3, dtype=dtype)), nn.Dense(4, 3, dtype=dtype)
    model.save(tmp_path / "a.safetensors")
    report = other.load(tmp_path / "a.safetensors")
    assert report.matched == ("weight", "bias")
    assert report.complete
    for name, value in values(model).items():
        assert value.tobytes() == values(other)[name].tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_partial_load_reports(tmp_path: Path) -> None:
    source = changed(nn.Sequential(nn.Dense(4, 3), nn.Dense(3, 2), nn.Dense(2, 2)))
    source.save(tmp_path / "a.safetensors")
    target = nn.Sequential(nn.Dense(4, 3), nn.Dense(3, 5), nn.Activation("relu"), nn.Dense(5, 1))
    before = values(target)
    with pytest.raises(gx.CheckpointError, match=r"misshapen: layers\.1\.weight is float32"):
        target.load(tmp_path / "a.safetensors")
    assert all(np.array_equal(v, before[n]) for n, v in values(target).items())
    report = target.load(tmp_path / "a.safetensors", strict=False)
    assert report.matched == ("layers.0.weight", "layers.0.bias")
    assert report.missing == ("layers.3.weight", "layers.3.bias")
    assert report.unexpected == ("layers.2.bias", "layers.2.weight")
    assert report.misshapen["layers.1.weight"] == ("float32[3, 2]", "float32[3, 5]")
    assert np.array_equal(values(target)["layers.0.weight"], values(source)["layers.0.weight"])
    assert np.array_equal(values(target)["layers.3.weight"], before["layers.3.weight"])


def test_a_file_of_another_program_loads(tmp_path: Path) -> None:
    """Without our checksum, in float64 for float32."""
    from safetensors.numpy import save_file

    layer = nn.Dense(4, 3)
    w, b = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
    save_file({"weight": w, "bias": b}, tmp_path / "b.safetensors")
    layer.load(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(layer.weight.value, w.astype("float32"))
    save_file({"weight": w.astype("int32"), "bias": b}, tmp_path / "c.safetensors")
    with pytest.raises(gx.CheckpointError, match="weight is int32"):
        layer.load(tmp_path / "c.safetensors")


def test_a_tensor_of_a_foreign_dtype_is_unexpected(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path, layer = tmp_path / "a.safetensors", nn.Dense(2, 1)
    save_file({**values(layer), "mask": np.ones(4, "uint8")}, path)
    data = path.read_bytes()
    for dtype in (b'"U8"', b'"F8_E4M3"'):  # NumPy has no such floats
        size = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + size].rstrip().replace(b'"U8"', dtype)
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
        with pytest.raises(gx.CheckpointError, match="unexpected: mask"):
            layer.load(path)
        assert layer.load(path, strict=False).unexpected == ("mask",)


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path, strict: bool) -> None:
    path = tmp_path / "a.safetensors"
    small().save(path)
    with pytest.raises(gx.CheckpointError, match=r"matched: none.*nothing of it does"):
        nn.Dense(4, 4).load(path, strict=strict)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "truncated in the header": lambda d: d[:20],
    "truncated in the data": lambda d: d[:-3],
    "a bit flipped in the data": lambda d: flip(d, len(d) - 5),
    "a bit flipped in the length": lambda d: flip(d, 0),
    "longer": lambda d: d + b"\0\0\0\0",
    "another format": lambda d: b"\x80\x04\x95pickle of something, long enough to be read" * 9,
    "a text": lambda d: b"weights: none\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_and_change_nothing(tmp_path: Path, damage: str) -> None:
    path, layer = tmp_path / "a.safetensors", nn.Dense(4, 3)
    changed(nn.Dense(4, 3)).save(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = values(layer)
    for strict in (True, False):
        with pytest.raises(gx.CheckpointError, match=r"a\.safetensors"):
            layer.load(path, strict=strict)
    assert all(np.array_equal(v, before[n]) for n, v in values(layer).items())


def test_every_flipped_bit_of_the_header_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor_file.write_tensors(path, {"w": np.arange(3.0)}, {"note": "hello"})
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(flip(whole, at))
        try:
            tensors, texts = tensor_file.read_tensors(path)
        except gx.CheckpointError:
            continue
        # the name of the checksum itself was hit: then the file reads as one of another program
        assert len(texts) == 2, at
        assert tensors["w"].tolist() == [0, 1, 2]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    layer = nn.Dense(2, 2)
    with pytest.raises(gx.CheckpointError, match="cannot be read"):
        layer.load(tmp_path / "none.safetensors")
    with pytest.raises(gx.CheckpointError, match="cannot be written"):
        layer.save(tmp_path / "none" / "a.safetensors")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, layer = tmp_path / "a.safetensors", nn.Dense(4, 3)
    layer.save(path)
    old = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", full)
    changed(layer)
    with pytest.raises(gx.CheckpointError, match="No space left"):
        layer.save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# -- bad input

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: nn.Dense(0, 3), "inputs=0: need an int of 1 or more"),
    (lambda: nn.Dense(3, 2.5), "outputs=2.5"),
    (lambda: nn.Dense(3, 2, "reluu"), "activation='reluu': need relu, leaky_relu"),
    (lambda: nn.Dense(3, 2, nn.Activation), "need relu, leaky_relu"),
    (lambda: nn.Dense(3, 2, weight="he"), "weight='he': need zeros, ones"),
    (lambda: nn.Dropout(0.0), "keep=0.0: need a number, 0 < keep <= 1"),
    (lambda: nn.Dropout(1.5), "keep=1.5"),
    (lambda: nn.Dropout(True), "keep=True"),
    (lambda: nn.Dropout(0.5, "other"), "form='other': need 'inverted' or 'classic'"),
    (lambda: nn.LayerNorm(-1), "size=-1"),
    (lambda: nn.LayerNorm(3, epsilon=0), "epsilon=0: need a number above 0"),
    (lambda: nn.Activation("softplu"), "activation='softplu'"),
    (lambda: nn.Sequential(nn.Dense), "is no layer"),
    (lambda: nn.Sequential("relu"), "'relu' is no layer"),
    (lambda: nn.Sequential().replace_last(nn.Flatten()), "there is no layer"),
    (lambda: nn.Dense(3, 2)(np.ones((1, 3))), "Dense of ndarray: a layer takes a node"),
    (lambda: nn.init.he_normal((3, 0)), "shape"),
    (lambda: nn.init.he_normal((3, 2), seed=-1), "seed -1"),
    (lambda: nn.init.orthogonal((3,)), "needs two axes"),
    (lambda: nn.init.normal(sdt=1), "normal(shape, mean, std, seed, dtype): got an unexpected"),
    (lambda: nn.init.normal(seed=1), "normal without a shape: seed and dtype come from the layer"),
    (lambda: nn.Dense(3, 2, weight=np.ones((3, 2))), "values that are known are set with .value"),
    (lambda: nn.Dense(3, 2, bias=0.1), "bias=0.1: need zeros, ones, constant"),
    (lambda: nn.Dense(3, 2, weight=lambda s: s), "or a function (shape, *, seed, dtype) -> array"),
    (lambda: nn.LayerNorm(3, epsilon="a"), "epsilon='a': need a number above 0"),
    (lambda: setattr(nn.Sequential(), "more", [[nn.Flatten()]]), "more: layers in a dict or in a"),
    (lambda: setattr(nn.Sequential(), "more", {"a": nn.Flatten()}), "more: layers in a dict"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(gx.InputError) as caught:
        make()
    assert message in str(caught.value)


def test_bad_types_and_shapes() -> None:
    with pytest.raises(gx.DTypeError, match="int32"):
        nn.init.zeros(3, dtype="int32")
    for dtype in ("int32", "float99", "bool"):
        with pytest.raises(gx.DTypeError, match=dtype):
            nn.Dense(4, 3, dtype=dtype)
    x = gx.input("x", ("batch", 64))
    for layer, message in (
        (nn.LayerNorm(1), r"LayerNorm\(1\) of <x .*64\]>: the last axis must have size 1"),
        (nn.Sequential(nn.Dense(64, 1), nn.LayerNorm(64)), r"1\]>: the last axis .* size 64"),
        (nn.Residual(nn.Dense(64, 1)), r"Residual: <x .*64\]> and .*, 1\]>, differ"),
    ):
        with pytest.raises(gx.ShapeError, match=message):
            layer(x)
    with pytest.raises(gx.ShapeError, match=r"layers\.1\.weight"):
        nn.Sequential(nn.Dense(4, 3), nn.Dense(4, 3))(gx.input("x", ("batch", 4)))
    with pytest.raises(gx.ShapeError, match="Flatten"):
        nn.Flatten()(gx.input("x", ("batch",)))
    wrong = nn.Dense(3, 2, weight=lambda shape, **_: np.ones((1, 1)))
    with pytest.raises(gx.ShapeError, match="weight: the initial value is"):
        wrong.parameters()
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Layer()(gx.input("x", (1,)))


# -- the lines of the user that errors name


class Squared(nn.Layer):
    """A layer with nodes of its own around another one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Dense(4, 4, "tanh")  # the line of tanh

    def forward(self, x: gx.Node) -> gx.Node:
        return self.body(x) * x  # the line of the product


def line_of(words: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"# {words}")]
    return f"test_nn.py:{number}"


def test_nodes_of_a_layer_are_made_where_the_layer_is() -> None:
    relu = nn.Dense(4, 4, "relu")  # the line of relu
    softplus = nn.Activation("softplus")  # the line of softplus
    model = nn.Sequential(relu, Squared(), gx.exp, nn.Residual(nn.Residual(softplus)), name="all")
    x = gx.input("x", ("batch", 4))
    made = {n.op.name: n for n in below(model(x)) if n.inputs}
    for words in ("relu", "tanh", "softplus"):
        assert [str(site) for site in made[words].sites] == [line_of(f"the line of {words}")]
    assert line_of("the line of the product") in map(str, made["multiply"].sites)
    here = gx.exp(x).sites[-1]
    assert here.file == __file__, "outside of layers nothing is left of their lines"


def test_errors_and_losses_name_the_line_of_the_layer_and_of_the_trainer() -> None:
    wide = nn.Dense(4, 3)  # the line of the wide layer
    with pytest.raises(gx.ShapeError, match=line_of("the line of the wide layer")):
        nn.Sequential(wide, nn.Dense(4, 2))(gx.input("x", ("batch", 4)))
    trainer = train.Trainer(wide, "softmax_cross_entropy", train.SGD(0.1))  # the trainer's line
    trainer.evaluate(X, np.zeros(5, "int32"))
    assert [*map(str, trainer.network.outputs["loss"].sites)] == [line_of("the trainer's line")]


# -- models that are put together while they are called


def trained(model: Any, **options: Any) -> train.Trainer:
    trainer = train.Trainer(model, "softmax_cross_entropy", train.SGD(0.1), backend="numpy")
    trainer.fit((X, np.zeros(5, "int32")), 2, progress=False, **options)
    return trainer


def test_slices_within_a_function_are_of_the_layers_themselves() -> None:
    body = nn.Sequential(nn.Dense(4, 4), nn.Dense(4, 4), nn.Dense(4, 2))
    made = trained(lambda x: body[2](body[:2](x)))
    assert {*made.network.params.values()} == {*body.parameters().values()}


def test_a_function_renames_nothing_that_has_values() -> None:
    trunk, one, two = nn.Dense(4, 4), nn.Dense(4, 2, name="one"), nn.Dense(4, 3, name="two")
    first = trained(lambda x: nn.Sequential(trunk, one)(x))
    trained(lambda x: nn.Sequential(gx.tanh, trunk, two)(x))
    before = trunk.weight.value
    first.fit((X, np.zeros(5, "int32")), 1, progress=False)
    assert not np.array_equal(trunk.weight.value, before)
    model = nn.Sequential(nn.Dense(4, 2))
    names = list(model.parameters())
    trained(lambda x: nn.Sequential(model, nn.Flatten())(x)).predict(X)
    assert list(model.parameters()) == names


def test_a_layer_without_parameters_of_its_own_predicts() -> None:
    flat = train.Trainer(nn.Flatten(), "mse", train.SGD(0.1), backend="numpy")
    assert flat.predict(np.ones((2, 3, 4))).shape == (2, 12)


def test_a_declared_parameter_is_set_by_its_value() -> None:
    layer = nn.Dense(4, 3)
    with pytest.raises(gx.InputError, match=r"weight is a parameter: set weight\.value"):
        layer.weight = np.ones((4, 3))  # type: ignore[assignment]
    with pytest.raises(gx.ShapeError, match=r"weight: .* has shape \(2, 2\), need \(4, 3\)"):
        layer.weight = gx.param("w", np.ones((2, 2)))
    layer.weight = gx.param("w", np.ones((4, 3), "float32"))
    assert layer.weight.name == "weight"
    layer._hidden = gx.param("h", np.zeros(2))  # type: ignore[attr-defined]
    assert layer._hidden.shape == (2,)  # type: ignore[attr-defined]


def test_a_layer_used_twice_in_a_model_in_use_is_shared() -> None:
    model = Assembled()
    model.parameters()
    model.again = model.first  # type: ignore[attr-defined]
    assert model.again is model.first  # type: ignore[attr-defined]
