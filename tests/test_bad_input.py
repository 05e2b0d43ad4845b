"""Bad input is refused before anything is trained: each message names the argument and what is
allowed.

The table goes by the kinds of mistakes. Nothing may be compiled before an entry of it is refused,
and no parameter may change.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as gx
from graphc import nn, train

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4)).astype("float32")
Y = np.arange(40, dtype="int32") % 3
ONE = (Y[:, None] > 0).astype("float32")
SHARES = np.eye(3, dtype="float32")[Y]
BAD = X.copy()
BAD[5, 2] = np.nan

Case = tuple[Callable[[], Any], str]
ONE_OUTPUT: dict[str, Any] = {"loss": "mse", "last": 1}


def trainer(loss: Any = "softmax_cross_entropy", last: int = 3, **options: Any) -> train.Trainer:
    model = nn.Sequential(nn.Dense(4, 8, "relu"), nn.Dense(8, last))
    optimizer = options.pop("optimizer", None) or train.SGD(0.1)
    return train.Trainer(model, loss, optimizer, **{"backend": "numpy", **options})


def fit(x: Any, y: Any, *args: Any, **options: Any) -> Callable[[], Any]:
    """A call of `fit` that trains on arrays, and is checked to change nothing."""

    def call() -> Any:
        made = trainer(**options)
        before = {n: p.value for n, p in made.model.parameters().items()}
        try:
            return made.fit((x, y), 1, *args)
        finally:
            for name, p in made.model.parameters().items():
                assert np.array_equal(p.value, before[name])

    return call


def fit_list(*pairs: Any) -> Callable[[], Any]:
    return lambda: trainer().fit(list(pairs), 1)


LABELS: list[Case] = [
    (fit(X, Y + 1), "batches: label 3 is out of range, at y[2]; with 3 classes need labels 0 to 2"),
    (fit(X, Y - 1), "batches: label -1 is out of range"),
    (fit(X, (Y + 3).astype("uint8")), "label 3 is out of range"),
    (lambda: trainer().fit(train.Batches(X, Y + 1, 8), 1), "batches: label 3 is out of range"),
    (fit_list((X, Y), (X[:8], Y[:8] + 5)), "batches[1]: label 5 is out of range"),
    (fit(X, Y, (X, Y + 7)), "validation: label 7 is out of range"),
    (lambda: trainer().evaluate(X, Y + 7), "data: label 7 is out of range"),
    (fit(X, SHARES - 0.5), "batches: y holds -0.5, out of range; need values 0 to 1"),
    (fit(X, SHARES / 2), "the sum 0.5; need rows of 3 probabilities with the sum 1, or integer"),
    (fit(X, 5 * ONE, loss="sigmoid_cross_entropy", last=1), "y holds 5, out of range; need values"),
    (fit(X, -ONE, loss="binary_cross_entropy", last=1), "y holds -1, out of range; need values"),
    (fit(X, SHARES[:, :2]), "softmax_cross_entropy"),
    (fit(X, Y[:, None]), "need logits [..., n] and integer labels [...]"),
    (fit(X, Y.astype("float32")), "cast labels with .astype('int32')"),
    (fit(X, Y > 1), "labels are bool; need integers"),
    (fit(X, Y[:, None] + np.int64(2**31), **ONE_OUTPUT), "batches: y[0] holds 2147483648, out of "
     "range; need integers from -2147483648 to 2147483647, or floats: y.astype('float32')"),
    (lambda: train.gradient_report(trainer(), X, Y + 7), "report: label 7 is out of range"),
]  # fmt: skip

SIZES: list[Case] = [
    (fit(X, Y[:9]), "batches: sizes differ: x has 40 rows, y 9"),
    (lambda: train.Batches(X, Y[:9]), "Batches: sizes differ: x has 40 rows, y 9"),
    (lambda: train.split(X, Y[:9], (0.5, 0.5)), "split: sizes differ"),
    (fit(X, Y, (X, Y[:9])), "validation: sizes differ: x has 40 rows, y 9"),
    (lambda: trainer().evaluate(X, Y[:9]), "data: sizes differ"),
    (fit_list((X, Y), (X, Y[:9])), "batches[1]: sizes differ: x has 40 rows, y 9"),
    (fit_list((X, Y), (X[:, :3], Y)), "batches[1]: rows of x have shape (3,); those that the"),
    (fit(X, Y, (X[:, :3], Y)), "validation: rows of x have shape (3,); those that the model is "),
    (fit_list((X, SHARES), (X, Y)), "batches[1]: rows of y have shape (); those that the model is"),
    (fit_list((X, Y), (X, Y / 2)), "batches[1]: y is float32; that of the first batch is int32"),
    (fit(X, Y, (X, Y / 2)), "validation: softmax_cross_entropy: float labels are one row of"),
    (fit(X, SHARES, (X, SHARES[:, :2])), "validation: softmax_cross_entropy: float labels are one"),
    (fit(X[:, :3], Y), "matmul: inner sizes differ: x float32[batch, 3] @ layers.0.weight"),
    (fit(X, X[:, 0], loss="mse", last=1), "prediction and target differ in shape"),
]  # fmt: skip

NUMBERS: list[Case] = [
    (fit(BAD, Y), "batches: x is nan at [5, 2]; need finite numbers"),
    (fit(X, BAD[:, 2:3], loss="mse", last=1), "batches: y is nan at [5, 0]; need finite numbers"),
    (fit(X * np.inf, Y), "batches: x is"),
    (lambda: trainer().fit(train.Batches(BAD, Y, 8), 1), "batches: x is nan at [5, 2]"),
    (fit_list((X, Y), (BAD, Y)), "batches[1]: x is nan at [5, 2]"),
    (fit(X, Y, (BAD, Y)), "validation: x is nan at [5, 2]"),
    (fit(X.astype("str"), Y), "batches: x has dtype <U32; need real numbers or bools"),
    (fit(X.astype("complex64"), Y), "batches: x has dtype complex64; need real numbers or bools"),
    (fit(X.astype(object), Y), "batches: x has dtype object; need real numbers or bools"),
    (fit(X, Y.astype("datetime64[D]")), "batches: y has dtype datetime64[D]; need real numbers"),
    (fit([[1, 2], [3]], [0, 1]), "batches: x is no array: its rows differ in length; pad or cut"),
    (lambda: trainer().predict([[1, 2], [3]]), "x is no array: its rows differ in length; pad or"),
    (fit(X, np.array(["cat", "dog"])[Y % 2]), "batches: y has dtype <U3; need real numbers or bools"
     "; number the classes: classes, y = np.unique(y, return_inverse=True)"),
]  # fmt: skip

FLAT: dict[str, Any] = {"loss": lambda p, t: gx.mean(gx.square(p - t)), "last": 1}
FIRST = X[:, 0]


def plain(p: gx.Node, t: gx.Node) -> gx.Node:
    """A loss that takes all shapes."""
    return gx.mean(p) * gx.mean(t)


def first(loss: Any, y: Any) -> Callable[[], Any]:
    """A model whose prediction has the batch as its only axis."""
    return lambda: train.Trainer(
        lambda x: x @ gx.param("w", np.ones(4, "float32")), loss, train.SGD(0.1)
    ).fit((X, y), 1)


PAIRS: list[Callable[[gx.Node, gx.Node], gx.Node]] = [  # losses of pairs of rows
    lambda p, t: gx.mean(gx.softplus(p.T - p) * (t.reshape((-1, 1)) > t).astype("float32")),
    lambda p, t: gx.mean(gx.relu(p - p[:, 0]) * (t.reshape((-1, 1)) - t)),
    lambda p, t: gx.mean(gx.square(p @ p.T - t.reshape((-1, 1)) * t)),
]


CURES: list[Case] = [  # what to do to targets of another shape
    (fit(X, FIRST, **ONE_OUTPUT), "in the data: y[:, None]"),
    (first("mse", ONE), "in the data: y[:, 0]"),
    (fit(X, Y[:, None]), "in the data: y[:, 0]"),
    (fit(X, SHARES.astype(int)), "in the data: y.argmax(-1) gives labels, y.astype('float32') "),
    (fit(X, FIRST, **FLAT), "are broadcast; in the data: y[:, None]"),
    (fit(X, Y, **FLAT), "are broadcast; in the data: y[:, None]"),
    (first(FLAT["loss"], ONE), "are broadcast; in the data: y[:, 0]"),
    (fit(X, FIRST[:, None], loss=lambda p, t: gx.square(p[:, 0] - t).mean(), last=1),
     "are broadcast; make both [n, 1], or both [n]"),
    (fit(X, FIRST, loss=plain, last=1, metrics=[train.Metric("own", FLAT["loss"])]),
     "own: <subtract(broadcast_to(add(...)), broadcast_to(y)) float32[batch, batch]> holds"),
]  # fmt: skip

METRICS: list[Case] = [
    (fit(X, Y, metrics=[train.confusion_matrix(4)]), "classes=4, but the model has 3 outputs"),
    (fit(X, Y, metrics=[train.top_k(9)]), "top_k: k=9, but the model has 3 outputs"),
    (lambda: train.confusion_matrix(1), "classes is 1; need an integer of at least 2"),
    (lambda: train.top_k(X), "top_k: k is float32[40,4]; need an integer of at least 1"),
    (fit(X, Y, metrics=[lambda p, t: t == 1]), "bool[batch]>; need a scalar node; try .mean()"),
    (fit(X, Y, metrics=[lambda p, t: 1.5]), "gave 1.5; need a scalar node"),
    (fit(X, Y, metrics=[train.Metric("m", lambda p, t: p, None, len)]), "metrics: m gave <"),
    (fit(X, Y, metrics=[train.Metric("m", lambda p, t: p, None, len)]), "not depend on the batch"),
    (lambda: trainer(metrics=[train.Metric("rate", gx.mse)]), "'rate' is the name of another col"),
    (lambda: trainer(metrics=[train.Metric("val_x", gx.mse)]), "metrics: 'val_x' is the name of"),
    (lambda: trainer(metrics=["r2", "r2"]), "one of its own: train.Metric('name', function)"),
] + [
    (fit(X, y, loss=plain, last=last, metrics=[metric]), words)
    for y, last, metric, words in [
        (Y[:, None], 3, "accuracy", "accuracy: need integer labels [batch], or a row of proba"),
        (Y[:, None], 3, train.top_k(2), "top_2: need integer labels [batch]"),
        (Y[:, None], 3, train.confusion_matrix(3), "confusion_matrix: need integer labels [batch]"),
        (Y[:, None], 3, "accuracy", "in the data: y[:, 0]"),
        (Y / 2, 3, "accuracy", "the target is <y float32[batch]>, the prediction <"),
        (FIRST, 1, "binary_accuracy", "differ in shape; in the data: y[:, None]"),
        (FIRST, 1, "r2", "differ in shape; in the data: y[:, None]"),
        (FIRST, 1, "mean_absolute_error", "in the data: y[:, None]"),
    ]
]  # fmt: skip

SHIFTED = train.Batches(X, Y, 8, (2, 2), augment=train.Flip())
HABITS: list[Case] = [
    (lambda: trainer().fit(X, Y), "epochs is int32[40]; need an integer of at least 1; pass fit(("),
    (lambda: trainer().fit(X, Y.tolist()), "..; need an integer of at least 1; pass fit((x, y), "),
    (lambda: trainer(penalties=X), "penalties=float32[40,4]: need a list of train.L1"),
    (lambda: trainer(metrics=[X]), "metrics: float32[40,4] is unknown; need accuracy"),
    (lambda: trainer(backend="gpu"), "backend='gpu': need auto, cuda, cuda:N"),
    (lambda: trainer(backend=None), "backend=None: need auto, cuda"),
    (lambda: trainer().predict(SHIFTED), "x is train.Batches: need an array; predict(batches.x)"),
    (lambda: trainer().predict(X[0]), "rows of x have shape (): x[None] makes a batch of a single"),
    (fit(X.reshape(-1, 2, 2), Y), "rows of x have shape (2, 2): nn.Flatten() as the first layer"),
    (lambda: train.Trainer(lambda x: nn.Dense(8, 3)(nn.Dense(4, 8)(x)), "mse", train.SGD(0.1)).fit(
        (X, X), 1), "model: two parameters are named 'bias'; give layers names, such as nn.Dense"),
    (fit(X, Y, SHIFTED), "validation: augment=[Flip(horizontal=True"),
    (lambda: trainer().evaluate(SHIFTED), "changes the rows that are to be measured; pass arrays"),
    (fit(X, Y, train.Batches(X, Y, 9, drop_last=True)), "validation: drop_last leaves out rows;"),
]  # fmt: skip

EMPTY: list[Case] = [
    (fit(X[:0], Y[:0]), "batches: the data set is empty: x has shape (0, 4)"),
    (fit_list(), "batches: there is no batch; the data set is empty"),
    (fit(X, Y, (X[:0], Y[:0])), "validation: the data set is empty"),
    (lambda: train.Batches(X[:0], Y[:0]), "Batches: the data set is empty: x has shape (0, 4)"),
    (fit(X, None), "batches: y has no rows; need an array [rows, ...]"),
    (lambda: trainer().fit(X, 1), "batches: need pairs (x, y) of arrays"),
    (fit(X, Y, 5), "validation: need train.Batches, arrays (x, y), or an iterable"),
]

BATCHES: list[Case] = [
    (lambda: train.Batches(X, Y, 64), "size=64 is larger than the set of 40 samples; need an "
     'integer from 1 to 40, or size="all"'),
    (lambda: train.Batches(X, Y, 0), "size is 0; need an integer of at least 1"),
    (lambda: train.Batches(X, Y, 2.5), "size is 2.5; need an integer of at least 1"),
    (lambda: train.Batches(X, Y, 8, augment=[train.Shift(1)]), "Shift needs image_shape=(h, w)"),
    (lambda: train.Batches(X, Y, 8, (2, 2), augment=["shift"]), "augment holds 'shift'; need"),
]  # fmt: skip

NAMES: list[Case] = [
    (lambda: trainer("cross_entropy"), "loss='cross_entropy': need mse, mae, huber, softmax_"),
    (lambda: trainer(["mse"]), "loss=['mse']: need mse, mae"),
    (lambda: trainer(metrics=["acc"]), "metrics: 'acc' is unknown; need accuracy, binary_accuracy"),
    (lambda: trainer(optimizer="sgd"), "optimizer='sgd': need train.SGD(0.1), train.Adam(), ..."),
    (lambda: trainer(penalties=["l2"]), "penalties=['l2']: need a list of train.L1, train.L2"),
    (lambda: nn.Dense(4, 3, "rellu"), "activation='rellu': need relu, leaky_relu"),
    (lambda: nn.Dense(4, 3, ["relu"]), "activation=['relu']: need relu"),
    (lambda: nn.Activation("softplu"), "activation='softplu': need relu"),
    (lambda: nn.Dense(4, 3, weight="he"), "weight='he': need zeros, ones"),
    (lambda: nn.Dense(4, 3, bias=["one"]), "bias=['one']: need zeros, ones"),
    (lambda: nn.Sequential("dense"), "'dense' is no layer: need a layer, or a function of a node"),
    (lambda: nn.Sequential(nn.Dense), "is no layer: need a layer, or a function of a node"),
    (lambda: nn.Sequential(nn.Flatten()).replace_last(None), "None is no layer: need a layer"),
    (lambda: train.Trainer("mlp", "mse", train.SGD(0.1)), "model='mlp': need a layer"),
    (lambda: nn.Dense(4, 3).freeze("layers*"), "'layers*' matches no parameter; there are weight"),
    (lambda: nn.Dense(4, 3).freeze(), "need some over names, such as 'layers.0*', or '*' for all"),
    (lambda: nn.Dense(4, 3).unfreeze(["*"]), "need some over names, such as 'layers.0*'"),
    (fit(X, ONE, loss="mse", last=1, metrics=["accuracy"]), "binary_accuracy is for a single"),
]  # fmt: skip

SETTINGS: list[Case] = [
    (lambda: nn.Dropout(0), "keep=0: need a number, 0 < keep <= 1"),
    (lambda: nn.Dropout(-0.5), "keep=-0.5: need a number, 0 < keep <= 1"),
    (lambda: nn.Dropout(1.01), "keep=1.01: need a number, 0 < keep <= 1"),
    (lambda: nn.Dropout(float("nan")), "keep=nan: need a number, 0 < keep <= 1"),
    (lambda: nn.Dropout("0.5"), "keep='0.5': need a number, 0 < keep <= 1"),
    (lambda: gx.dropout(gx.input("x", (3,)), 0), "keep 0: need a number, 0 < keep <= 1"),
    (lambda: train.EarlyStopping(patience=0), "patience is 0; need an integer of at least 1"),
    (lambda: train.EarlyStopping(patience=-1), "patience is -1; need an integer of at least 1"),
    (lambda: train.EarlyStopping(patience=1.5), "patience is 1.5; need an integer of at least 1"),
    (lambda: train.ReduceOnPlateau(0.1, patience=0), "patience is 0; need an integer of at least"),
    (lambda: train.EarlyStopping(None), "monitor=None: need a name, such as 'val_loss'"),
    (lambda: train.EarlyStopping(restore="no"), "restore is 'no'; need True or False"),
    (lambda: train.Checkpoint("a", on_interrupt=1), "on_interrupt is 1; need True or False"),
    (lambda: train.Checkpoint("a", steps=0), "steps is 0; need an integer of at least 1"),
    (lambda: train.EarlyStopping("val_loss", mode="low"), "mode is 'low'; need 'min' or 'max'"),
    (lambda: trainer().fit((X, Y), 0), "fit: epochs is 0; need an integer of at least 1"),
    (lambda: train.SGD(0), "rate=0: need a number > 0"),
    (lambda: train.Adam("0.1"), "rate='0.1': need a number > 0"),
    (lambda: train.SGD(0.1, momentum=1), "momentum=1: need a number, 0 <= momentum < 1"),
    (lambda: train.SGD(0.1, factors=["head"]), "factors=['head']: need a dict of patterns"),
    (fit(X, Y, optimizer=train.SGD(0.1, factors={"head*": 1})), "factors: pattern 'head*' matches"),
    (fit(X, Y, optimizer=train.AdamW(on=5)), "patterns 5: need some over names, such as 'layers.0"),
    (fit(X, Y, penalties=[train.L2(0.1, on="")]), "pattern '' matches no parameter; there are"),
    (lambda: trainer(cache_features="yes"), "cache_features is 'yes'; need an integer of at least "
     "0, True or False"),
    (lambda: trainer(cache_features=-1), "cache_features is -1; need an integer of at least 0"),
    *[(lambda e=e: train.GradientReport(e), f"every is {e}; need an integer of at least 1")
      for e in (0, 1.5, True)],
    (lambda: nn.Dense("4", 3), "inputs='4': need an int of 1 or more"),
    (lambda: train.split(X, Y, (0.5, 0.6)), "the sum of fractions is 1.1; need at most 1"),
]  # fmt: skip

CASES = [
    pytest.param(call, words, id=f"{name}-{i}")
    for name, cases in {
        "labels": LABELS, "sizes": SIZES, "numbers": NUMBERS, "empty": EMPTY, "batches": BATCHES,
        "names": NAMES, "settings": SETTINGS, "cures": CURES, "metrics": METRICS, "habits": HABITS,
    }.items()
    for i, (call, words) in enumerate(cases)
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), CASES)
def test_it_is_refused(
    call: Callable[[], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was compiled before the input was refused")

    monkeypatch.setattr(gx, "compile", compiled)
    with pytest.raises((gx.InputError, gx.ShapeError, gx.DTypeError)) as caught:
        call()
    assert words in str(caught.value)


def test_rows_that_a_trained_model_does_not_take() -> None:
    made = trainer()
    made.fit((X, Y), 1)
    for x, words in (
        (X[0], "x has shape (4,), that of a single row; predict(x[None]) takes it as one"),
        (X[:, :3], "data: rows of x have shape (3,); those that the model is trained on have (4,)"),
    ):
        with pytest.raises(gx.InputError) as caught:
            made.predict(x)
        assert words in str(caught.value)
    made.predict(np.stack([X] * 9))  # rows (40, 4), which 40 rows of (4,) are not taken for
    assert made.predict(X).shape == (40, 3)
    whole = made.evaluate(train.Batches(X, Y, 8, drop_last=True))  # 5 times 8 are all
    assert whole["loss"] == pytest.approx(made.evaluate(X, Y)["loss"])


@pytest.mark.parametrize("loss", PAIRS)
def test_losses_of_pairs_of_rows_are_taken(loss: Any) -> None:
    assert len(trainer(loss, last=1).fit((X, FIRST), 1)) == 1


def test_a_monitor_that_no_row_will_hold() -> None:
    with pytest.raises(gx.InputError, match=r"'val_loss': no .*; there is loss, rate; pass valid"):
        trainer().fit((X, Y), 1, callbacks=[train.EarlyStopping()])
    with pytest.raises(gx.InputError, match=r"'val_r2': no .*; there is loss, val_loss, rate$"):
        trainer().fit((X, Y), 1, (X, Y), [train.EarlyStopping("val_r2")])


# -- files


def files(folder: Path) -> Iterator[Path]:
    """Files that are no safetensors, or empty, or a folder, or not there."""
    np.save(folder / "a.npy", X)
    np.savez(folder / "a.npz", weight=X)
    (folder / "a.pkl").write_bytes(pickle.dumps({"weight": X}))
    (folder / "a.txt").write_text("weight")
    (folder / "empty.safetensors").touch()
    (folder / "folder").mkdir()
    yield from sorted(folder.iterdir())
    yield folder / "none.safetensors"


def test_files_of_other_formats(tmp_path: Path) -> None:
    model, made = nn.Dense(4, 3), trainer()
    layer, whole = model.weight.value, made.model.parameters()["layers.0.weight"].value
    for path in files(tmp_path):
        for read in (model.load, lambda p: model.load(p, strict=False), made.restore):
            with pytest.raises(gx.CheckpointError) as caught:
                read(path)
            assert str(path) in str(caught.value)
    assert np.array_equal(model.weight.value, layer)
    assert np.array_equal(made.model.parameters()["layers.0.weight"].value, whole)


def test_files_of_another_kind_or_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    nn.Dense(4, 5).save(path)
    with pytest.raises(
        gx.CheckpointError, match=r"does not fit the model: .*weight is float32\[4, 5"
    ):
        nn.Dense(4, 3).load(path)
    with pytest.raises(gx.CheckpointError, match=r"is no checkpoint of a run.*model\.load reads"):
        trainer().restore(path)


# -- what cannot be seen before


class Windows:
    """Three steps of a series each, which it keeps as `x` and `y`: no rows of its batches."""

    x, y = np.full(43, np.nan), np.arange(9)

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))


def test_what_a_stream_is_made_of_is_its_own() -> None:
    assert len(trainer().fit(Windows(), 1, Windows())) == 1


class Stream:
    """Batches that are made on the way; the third holds a label that is out of range."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from ((X[:8], Y[:8] + 5 * (i == 2)) for i in range(4))


@pytest.mark.usefixtures("backend")
def test_a_label_of_a_stream_is_named_where_it_comes() -> None:
    """And the parameters are those before its step."""
    made = trainer(backend="auto")
    with pytest.raises(gx.InputError) as caught:
        made.fit(Stream(), 1)
    assert str(caught.value).startswith("step 3, batch 3 of epoch 1: label 5 is out of range")
    before = trainer(backend="auto")
    before.fit([(X[:8], Y[:8])] * 2, 1)
    for name, p in made.model.parameters().items():
        assert np.array_equal(p.value, before.model.parameters()[name].value)
    assert made.step == 2


def test_numbers_of_numpy_are_numbers() -> None:
    assert nn.Dense(np.int64(4), np.int32(3)).weight.shape == (4, 3)
    assert nn.Dropout(np.float32(0.5)).keep == 0.5
    assert train.SGD(np.float32(0.5)).schedule.rate(0) == 0.5
    stopping = train.EarlyStopping("loss", patience=np.int64(3))
    assert len(trainer().fit((X, Y), np.int32(2), callbacks=[stopping])) == 2
    assert train.Checkpoint("a", epochs=np.int64(2), keep=np.uint8(3)).keep == 3
    assert train.GradientReport(every=np.int64(5)).every == 5
    assert train.top_k(np.int64(2)).name == "top_2"
    assert train.confusion_matrix(np.uint8(3)).name == "confusion_matrix"
    assert trainer(cache_features=np.int64(10**6)).fit((X, Y), np.uint8(1))["epoch"] == [1]
