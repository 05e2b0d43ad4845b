"""Data for training: batches in a reproducible order, splits, scaling, and what is refused."""

import gc
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphc.errors import CheckpointError, InputError
from graphc.train.augment import Augmentation, Flip, Mixup, Noise, Shift
from graphc.train.data import Batches
from graphc.train.data_checks import (
    check_finite,
    check_integer_labels,
    check_labels,
    check_range,
    check_shares,
    paired,
)
from graphc.train.prefetch import prefetch
from graphc.train.scale import Scale, Standardise
from graphc.train.split import split

Array = Any
N = 100
X = np.arange(N * 6, dtype=np.float32).reshape(N, 6)  # row i starts with 6 i
Y = np.arange(N)


def gathered(batches: Iterator[tuple[Array, Array]] | Batches) -> tuple[Array, Array]:
    xs, ys = zip(*batches, strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def same(a: Iterator[tuple[Array, Array]], b: Iterator[tuple[Array, Array]]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(np.array_equal(p, q) for one, two in pairs for p, q in zip(one, two, strict=True))


def prefetchers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "graphc-prefetch"]


# -- batches


@pytest.mark.parametrize(
    ("size", "drop_last", "sizes"),
    [
        (32, False, [32, 32, 32, 4]), (32, True, [32, 32, 32]), (50, False, [50, 50]),
        (50, True, [50, 50]), (1, False, [1] * N), (1, True, [1] * N), (N, True, [N]),
        ("all", False, [N]), ("all", True, [N]), (np.int64(99), False, [99, 1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_has_every_sample_once(
    size: Any, drop_last: bool, sizes: list[int], shuffle: bool
) -> None:
    batches = Batches(X, Y, size, drop_last=drop_last, shuffle=shuffle)
    made = list(batches)
    assert [len(x) for x, _ in made] == [len(y) for _, y in made] == sizes
    assert len(batches) == len(sizes)
    assert (batches.samples, batches.size) == (N, sizes[0])
    x, y = gathered(iter(made))
    assert len(set(y.tolist())) == sum(sizes)
    assert np.array_equal(x, X[y])  # labels follow their samples
    assert np.array_equal(y, Y[: len(y)]) is not shuffle
    assert (x.dtype, y.dtype) == (X.dtype, Y.dtype)


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    batches, again = Batches(X, Y, 32, seed=7), Batches(X, Y, 32, seed=7)
    first, second = list(batches), list(batches)
    assert batches.next_epoch == 2
    assert same(again.epoch(1), iter(second))  # in any order
    assert same(again.epoch(0), iter(first))
    assert again.next_epoch == 0  # looking at an epoch does not advance
    assert not same(iter(first), iter(second))
    assert not same(again.epoch(0), Batches(X, Y, 32, seed=8).epoch(0))
    assert not same(again.epoch(8), Batches(X, Y, 32, seed=8).epoch(7))
    high, highest = (Batches(X, Y, 32, seed=2**64 - n) for n in (2, 1))
    assert not same(high.epoch(0), highest.epoch(0))  # every bit counts
    again.next_epoch = 1  # a resumed run
    assert same(iter(again), iter(second))


@pytest.mark.parametrize("depth", [0, 2])
def test_an_epoch_resumes_in_its_middle(depth: int) -> None:
    batches = Batches(X, Y, 8, (2, 3), [Shift(1), Noise(0.5)], prefetch=depth)
    assert same(batches.epoch(3, start=5), iter(list(batches.epoch(3))[5:]))
    assert list(batches.epoch(3, start=len(batches))) == []
    batches.seed = 1
    assert not same(batches.epoch(3, start=5), Batches(X, Y, 8, (2, 3), Shift(1)).epoch(3, 5))


def test_each_batch_draws_its_own_changes() -> None:
    x = np.zeros((8, 4, 4), np.float32)
    batches = Batches(x, np.arange(8), 4, augment=Noise(1.0))
    made = [x for number in (0, 1) for x, _ in batches.epoch(number)]
    assert len({x.tobytes() for x in made}) == 4
    assert x.max() == 0  # the data set is as it was


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"size": "all", "shuffle": False}])
def test_batches_are_fresh_arrays(options: dict[str, Any]) -> None:
    for x, y in Batches(X, Y, **options):
        assert type(x) is type(y) is np.ndarray
        assert not np.shares_memory(x, X)
        assert not np.shares_memory(y, Y)
        assert x.flags.c_contiguous


def test_the_order_of_an_epoch_is_fixed_for_all_releases() -> None:
    """Checkpoints resume by seed and epoch, so this order is a promise."""
    (_, y), *_ = Batches(X, Y, 8, seed=3).epoch(2)
    rng = np.random.Generator(np.random.Philox(key=(3, 2)))
    assert y.tolist() == rng.permutation(N)[:8].tolist()


def test_flat_images_stay_flat_and_shaped_ones_shaped() -> None:
    flat, _ = next(iter(Batches(X, Y, 4, (2, 3), Shift(1))))
    shaped, _ = next(iter(Batches(X.reshape(N, 2, 3), Y, 4, augment=[Shift(1)])))
    assert flat.shape == (4, 6)
    assert shaped.shape == (4, 2, 3)
    assert np.array_equal(flat, shaped.reshape(4, 6))


def test_mixup_makes_rows_of_labels() -> None:
    batches = Batches(X, Y, 4, (2, 3), [Mixup(1.0, classes=N), Noise(0.1)])
    x, y = next(iter(batches))
    assert (x.shape, y.shape, y.dtype) == ((4, 6), (4, N), np.float32)


def sparse(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def test_memory_maps_are_not_loaded(tmp_path: Path) -> None:
    x = sparse(tmp_path / "x.npy", (4000, 16, 1024), "float32")  # 262 MB
    y = sparse(tmp_path / "y.npy", (4000,), "int64")
    y[:] = np.arange(4000)
    x[:, 0, 0] = y
    tracemalloc.start()
    for options in ({}, {"shuffle": False}, {"prefetch": 2}):
        image, label = next(Batches(x, y, 4, **options).epoch(0))
        assert image[:, 0, 0].tolist() == label.tolist()
        assert type(image) is np.ndarray
    moved, label = next(Batches(x, y, 4, augment=[Shift(1, "horizontal")]).epoch(0))
    assert {image.max() for image in moved} <= {0, *label}
    check_finite("x", x)
    check_labels("y", y, 4000)
    Standardise().fit(x)
    Scale().fit(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_batches_say_what_they_are() -> None:
    assert repr(Batches(X, Y, 4)) == "Batches(float32[100,6], int64[100], size=4)"
    moving = repr(Batches(X.reshape(N, 2, 3), Y, "all", augment=Flip()))
    assert moving == f"Batches(float32[100,2,3], int64[100], size=100, augment=[{Flip()!r}])"


# -- prefetching


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_prefetching_changes_nothing(depth: int) -> None:
    options: dict[str, Any] = {"size": 8, "image_shape": (2, 3), "augment": [Shift(1), Noise(1.0)]}
    plain, ahead = Batches(X, Y, **options), Batches(X, Y, **options, prefetch=depth)
    for _ in range(2):
        assert same(iter(plain), iter(ahead))
    assert prefetchers() == []


def test_a_bounded_number_waits() -> None:
    made: list[int] = []
    seen = threading.Semaphore(0)

    def numbers() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            seen.release()
            yield i

    values = prefetch(numbers(), 3)
    assert next(values) == 0
    for _ in range(4):  # the one that was read and three more
        assert seen.acquire(timeout=10)
    assert not seen.acquire(timeout=0.05)
    assert made == [0, 1, 2, 3]
    assert list(values) == list(range(1, 100))


class Faulty(Augmentation):
    """Fails at its third batch."""

    count = 0

    def apply(self, images: Array, labels: Array, rng: object) -> tuple[Array, Array]:  # noqa: ARG002
        self.count += 1
        if self.count == 3:
            raise ZeroDivisionError("third batch")
        return images, labels


def test_what_the_thread_raises_is_raised_in_its_place() -> None:
    batches = iter(Batches(X, Y, 8, (2, 3), Faulty(), prefetch=4))
    next(batches)
    next(batches)
    with pytest.raises(ZeroDivisionError, match="third batch"):
        next(batches)
    assert prefetchers() == []


@dataclass(frozen=True)
class Slow(Augmentation):
    """Takes its time."""

    def apply(self, images: Array, labels: Array, rng: object) -> tuple[Array, Array]:  # noqa: ARG002
        time.sleep(0.03)
        return images, labels


def leave_by_break(batches: Batches, seconds: float) -> None:
    for _ in batches:
        time.sleep(seconds)
        break


def leave_by_error(batches: Batches, seconds: float) -> None:
    with suppress(KeyError):
        for _ in batches:
            time.sleep(seconds)
            raise KeyError


def leave_by_closing(batches: Batches, seconds: float) -> None:
    made: Any = iter(batches)
    next(made)
    time.sleep(seconds)
    assert len(prefetchers()) == 1
    made.close()


def leave_unstarted(batches: Batches, seconds: float) -> None:
    iter(batches)
    time.sleep(seconds)


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_error, leave_by_closing, leave_unstarted]
)
@pytest.mark.parametrize(  # the thread is at work, or waits for room
    ("chain", "seconds"), [([Slow()], 0), ([], 0.05)], ids=["working", "waiting"]
)
def test_the_thread_ends_with_its_reader(
    leave: Callable[[Batches, float], None], chain: list[Augmentation], seconds: float
) -> None:
    leave(Batches(X, Y, 1, (2, 3), chain, prefetch=2), seconds)
    assert prefetchers() == []


def test_a_reader_may_be_collected_by_its_own_thread() -> None:
    dropped, collected = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        yield 0
        assert dropped.wait(10)
        gc.collect()  # finds the reader, which is in a circle
        collected.set()
        yield 1

    values = prefetch(numbers(), 2)
    assert next(values) == 0
    (thread,) = prefetchers()
    circle: list[Any] = [values]
    circle.append(circle)
    gc.disable()
    try:
        del values, circle
        dropped.set()
        assert collected.wait(10)
    finally:
        gc.enable()
    thread.join(10)
    assert not thread.is_alive()


def test_a_program_that_ends_in_an_epoch_ends() -> None:
    program = (
        "import numpy as np; from graphc.train.data import Batches\n"
        "b = iter(Batches(np.zeros((99, 2)), np.zeros(99), 1, prefetch=2)); next(b)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- split


def test_parts_are_disjoint_and_labels_follow() -> None:
    y = Y % 3
    parts = split(X, y, [0.5, 0.3, 0.1])
    assert [len(part) for part, _ in parts] == [50, 30, 10]
    rows = np.concatenate([x[:, 0] for x, _ in parts])
    assert len(set(rows.tolist())) == 90
    for x, labels in parts:
        assert np.array_equal(labels, (x[:, 0] / 6).astype(int) % 3)
        assert not np.array_equal(np.sort(x[:, 0]), x[:, 0])  # shuffled


def test_classes_keep_their_shares_to_within_a_sample() -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        weights = rng.dirichlet(np.ones(rng.integers(1, 6)))
        fractions = rng.dirichlet(np.ones(rng.integers(1, 5))) * rng.choice([1, 0.7])
        y = rng.choice(len(weights), size=400, p=weights)
        if fractions.min() < 0.02:
            continue
        parts = split(np.zeros((400, 1)), y, fractions.tolist(), seed=trial)
        for fraction, (_, labels) in zip(fractions, parts, strict=True):
            exact = fraction * np.bincount(y, minlength=9)
            assert abs(np.bincount(labels, minlength=9) - exact).max() < 1
            assert abs(len(labels) - fraction * 400) < 2


def test_whole_shares_are_met_exactly() -> None:
    y = np.array([0] * 3 + [1] * 10)
    parts = split(np.zeros((13, 1)), y, [0.5, 0.25, 0.25])  # 1.5 and 5 of the first
    assert np.bincount(parts[0][1]).tolist() == [1, 5]
    y = np.array([0] * 12 + [1] * 100)
    parts = split(np.zeros((len(y), 1)), y, [0.29, 0.355, 0.355])
    assert (parts[0][1] == 1).sum() == 29  # 0.29 * 100 is a little less


def test_a_split_is_a_function_of_its_seed() -> None:
    y = Y % 4
    one, two, other = (split(X, y, [0.8, 0.2], seed=seed) for seed in (5, 5, 6))
    assert same(iter(one), iter(two))
    assert set(one[1][0][:, 0]) != set(other[1][0][:, 0])
    assert set(one[1][0][:, 0]) != set(X[80:, 0])


def test_regression_splits_without_classes() -> None:
    target = X[:, 0] / 7
    (a, _), (b, targets) = split(X, target, (0.75, 0.25), stratify=False)
    assert (len(a), len(b)) == (75, 25)
    assert np.array_equal(targets, b[:, 0] / 7)


# -- scaling


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int64"])
@pytest.mark.parametrize("scaler", [Standardise(), Scale(), Scale(-2, 3)])
def test_scaling(scaler: Standardise | Scale, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.random((500, 4)) * 100).astype(dtype)
    x[:, 2] = 7  # constant
    z = scaler.fit(x).transform(x)
    assert z.dtype == (dtype if "float" in dtype else "float32")
    wide = z.astype(np.float64)
    tolerance = 2e-2 if dtype == "float16" else 1e-6
    others = [0, 1, 3]
    if isinstance(scaler, Standardise):
        assert abs(wide.mean(axis=0)).max() < tolerance
        assert abs(wide[:, others].std(axis=0) - 1).max() < tolerance
        assert (z[:, 2] == 0).all()
    else:
        low, high = scaler.state()["low"], scaler.state()["high"]
        assert abs(wide[:, others].min(axis=0) - low).max() < tolerance
        assert abs(wide[:, others].max(axis=0) - high).max() < tolerance
        assert (z[:, 2] == low).all()
    back = scaler.inverse(z)
    assert (back[:, 2] == 7).all()
    assert abs(back - x.astype(np.float64)).max() < 100 * tolerance
    again = type(scaler).from_state(scaler.state())
    assert np.array_equal(again.transform(x), z)
    assert np.array_equal(again.inverse(z), back)


def test_scaling_knows_the_training_part_only() -> None:
    train, test = np.array([[0.0], [10.0]]), np.array([[20.0]])
    assert Scale().fit(train).transform(test).tolist() == [[2.0]]
    assert Standardise().fit(train).transform(test).tolist() == [[3.0]]


def test_images_are_scaled_pixel_by_pixel_and_constants_by_rounding() -> None:
    x = np.full((1000, 2, 2), 0.1)  # the mean of these is not 0.1 in floating point
    x[:, 0, 0] = np.arange(1000)
    z = Standardise().fit(x).transform(x)
    assert z.shape == x.shape
    assert (z[:, 1] == 0).all()


def test_bfloat16_is_scaled() -> None:
    x = np.arange(8, dtype=np.float32)[:, None].astype(ml_dtypes.bfloat16)
    assert Scale().fit_transform(x).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-170, "float64"), (1e-290, "float64"), (1e300, "float64"), (1e-37, "float32"),
     (1e38, "float32"), (0, "float64"), (1e-310, "float64")],
)  # fmt: skip
def test_columns_of_any_size_are_scaled(size: float, dtype: str) -> None:
    """Squares of these, or their distances, have no place among the numbers of their dtype."""
    x = (np.array([[-1.0], [0.0], [3.0]]) * size).astype(dtype)
    steps = np.array([[0.0], [1.0], [4.0]]) * (size > 1e-300)
    z = Scale().fit_transform(x)
    assert np.allclose(z, steps / 4)
    y = Standardise().fit_transform(x)
    assert np.allclose(y, (steps - steps.mean()) / (steps.std() or 1))
    assert y.dtype == z.dtype == dtype


@pytest.mark.parametrize("scaler", [Standardise(), Scale(-1, 2)])
def test_scalers_are_saved(scaler: Standardise | Scale, tmp_path: Path) -> None:
    path, kind = tmp_path / "scale.safetensors", type(scaler)
    kind.from_state(scaler.state()).save(path)
    assert kind.load(path).state() == kind.from_state(scaler.state()).state()
    scaler.fit(X).save(path)
    assert np.array_equal(kind.load(path).transform(X), scaler.transform(X))
    path.write_text("something else")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        kind.load(path)


def test_an_unfitted_scaler_has_a_state_too() -> None:
    assert Standardise.from_state(Standardise().state()).state() == {}
    assert Scale.from_state(Scale(1, 2).state()).state() == {"low": 1, "high": 2}


# -- refusals

NAN = X.copy()
NAN[97, 4] = np.nan
INFINITE = np.where(Y == 3, np.inf, 1.0)
LONG = np.zeros((400_000, 2), np.float32)  # several blocks
LONG[-2, 1] = np.nan
ROWS = np.full((N, 4), 0.25, np.float32)


def test_good_data_pass() -> None:
    bfloat16 = ml_dtypes.bfloat16
    for array in (X, Y, Y % 2 == 0, X.astype(bfloat16), np.asarray(X.tolist())):
        check_finite("x", array)
    check_labels("y", Y, N)
    check_labels("y", Y % 2 == 0, 2)
    check_shares("y", ROWS, 4)
    check_shares("y", ROWS.astype(bfloat16), 4)


def changed(rows: Array, at: tuple[int, int], value: float) -> Array:
    rows = rows.copy()
    rows[at] = value
    return rows


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: paired("set", X, Y[:-1]), "set: sizes differ: x has 100 rows, y 99"),
    (lambda: paired("set", X[:0], Y[:0]), "set: the data set is empty: x has shape (0, 6)"),
    (lambda: paired("set", 3, Y), "set: x has no rows; need an array [rows, ...]"),
    (lambda: paired("set", [[1, 2], [3]], [0, 1]), "set: x is no array: its rows differ in length"),
    (lambda: check_finite("x", NAN), "x is nan at [97, 4]; need finite numbers"),
    (lambda: check_finite("x", NAN.astype(ml_dtypes.bfloat16)), "x is nan at [97, 4]"),
    (lambda: check_finite("x", LONG), "x is nan at [399998, 1]"),
    (lambda: check_finite("y", INFINITE), "y is inf at [3]"),
    (lambda: check_finite("x", X.astype(str)), "need real numbers"),
    (lambda: check_finite("x", X * 1j), "x has dtype complex64; need real numbers"),
    (lambda: check_finite("y", Y.astype(object)), "y has dtype object; need real numbers"),
    (lambda: check_range("set", np.arange(400_000), 399_999), "label 399999 is out of range, at y"
     "[399999]; with 399999 classes need labels 0 to 399998"),
    (lambda: check_range("set", Y.reshape(50, 2), 10), "label 10 is out of range, at y[5, 0]"),
    (lambda: check_labels("set", Y - 1, 100), "set: label -1 is out of range, at y[0]"),
    (lambda: check_labels("set", Y * 1.0, 100), "y is float64[100]; need integer class labels [n]"),
    (lambda: check_labels("set", Y, 0), "classes is 0; need an integer of at least 1"),
    (lambda: check_integer_labels("set", Y[:, None]), "y is int64[100,1]; need integer class"),
    (lambda: check_shares("set", changed(ROWS, (8, 1), 0.5), 4), "set: y[8] is a row with the sum "
     "1.25; need rows of 4 probabilities"),
    (lambda: check_shares("set", changed(changed(ROWS, (8, 1), -0.25), (8, 0), 0.75), 4),
     "set: y holds -0.25, out of range; need values 0 to 1"),
    (lambda: Batches(X, Y[1:]), "Batches: sizes differ"),
    (lambda: Batches([], []), "empty"),
    (lambda: Batches(X, Y, 101), 'size=101 is larger than the set of 100 samples; need an integer '
     'from 1 to 100, or size="all"'),
    (lambda: Batches(X, Y, 0), "size is 0; need an integer of at least 1"),
    (lambda: Batches(X, Y, 6.5), "size is 6.5; need an integer"),
    (lambda: Batches(X, Y, True), "size is True; need an integer"),
    (lambda: Batches(X, Y, seed=-1), "seed is -1; need an integer from 0 to"),
    (lambda: Batches(X, Y, prefetch=-1), "prefetch is -1; need an integer of at least 0"),
    (lambda: Batches(X, Y).epoch(-1), "number is -1; need an integer"),
    (lambda: Batches(X, Y).epoch(0, 3), "start is 3; need an integer from 0 to 2"),
    (lambda: Batches(X, Y, augment=Shift(1)), "x is float32[100,6], which has no image shape; "
     "Shift needs image_shape=(h, w)"),
    (lambda: Batches([[1, 2], [3]], [0, 1]), "Batches: x is no array: "),
    (lambda: Batches(X[:2], [[0], [0, 1]]), "Batches: y is no array: "),
    (lambda: Batches(X, Y, shuffle="no"), "Batches: shuffle is 'no'; need True or False"),
    (lambda: Batches(X, Y, drop_last=1), "Batches: drop_last is 1; need True or False"),
    (lambda: split(X, Y, [1.0], stratify="yes"), "split: stratify is 'yes'; need True or False"),
    (lambda: Batches(X, Y, image_shape=(2, 4)), "image_shape=(2, 4) does not fit x, "
     "float32[100,6]; need samples of shape (2, 4) or flat ones of 8"),
    (lambda: Batches(X, Y, image_shape=(6,)), "need (h, w) or (h, w, channels)"),
    (lambda: Batches(X, Y, image_shape=(-2, -3)), "image_shape is -2; need an integer"),
    (lambda: Batches(X, Y, 8, (2, 3), ["shift"]), "augment holds 'shift'; need augmentations: "
     "Shift, Crop"),
    (lambda: Batches(X, Y, 8, (2, 3), "Shift"), "augment holds 'Shift'"),
    (lambda: Batches(X, Y, 8, (2, 3), Shift(2)), "pixels is 2; for images of 2 x 3 pixels"),
    (lambda: Batches(X, Y, 8, (2, 3), Mixup(1, 10)), "Mixup: label 10 is out of range, at y[10]"),
    (lambda: Batches(X, Y / 2, 8, (2, 3), Mixup(1, 10)), "Mixup: y is float64[100]; need integer"),
    (lambda: Batches(X, Y, 8, (2, 3), [Mixup(1, N)] * 2), "more than one Mixup"),
    (lambda: split(X, Y / 3, [0.5, 0.5]), "y is float64[100]; need integer class labels [n]; "
     "for regression targets pass stratify=False"),
    (lambda: split(X, X, [1.0]), "pass stratify=False"),
    (lambda: split(X, Y, [0.8, 0.3], False), "the sum of fractions is 1.1; need at most 1"),
    (lambda: split(X, Y, [1.2, -0.2]), "fractions is 1.2; need a finite number above 0 and at "
     "most 1"),
    (lambda: split(X, Y, []), "fractions is []; need a list of numbers"),
    (lambda: split(X, Y, 0.8), "fractions is 0.8; need a list"),
    (lambda: split(X, Y, [0.999, 0.001], False), "0.001 of 100 samples is none"),
    (lambda: split(X[:0], Y[:0], [1.0]), "empty"),
    (lambda: Standardise().transform(X), "Standardise: not fitted yet; call fit(x)"),
    (lambda: Scale().inverse(X), "Scale: not fitted yet"),
    (lambda: Scale().fit(X).transform(X[:, :3]), "x is float32[100,3]; fitted on samples of shape"),
    (lambda: Scale().fit(X).transform(X.astype(str)), "Scale: x is <U32[100,6]; need real numbers"),
    (lambda: Scale().fit(X).transform(X[0]), "x is float32[6]; fitted on samples of shape (6,): "
     "need [n, ...]"),
    (lambda: Scale(-1e308, 1e308), "Scale: high - low is inf; need a finite number"),
    (lambda: Scale().fit([[1], [2, 3]]), "Scale: x is no array: "),
    (lambda: Scale().fit(X[:0]), "need at least one sample"),
    (lambda: Standardise().fit(Y), "x is int64[100]; need at least one sample: [n, ...]"),
    (lambda: Standardise().fit(NAN), "x has a NaN or an infinity"),
    (lambda: Scale().fit([[-1e308], [1e308]]), "further apart than 1.8e308"),
    (lambda: Scale(1, 1), "high is 1; need a finite number above 1"),
    (lambda: Scale.from_state({"low": np.zeros(())}), "from_state: 'high' is missing"),
    (lambda: Standardise.from_state({"a": X}), "Standardise.from_state: 'mean' is missing"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_name_the_argument_and_what_is_allowed(number: int) -> None:
    act, message = REFUSED[number]
    with pytest.raises(InputError) as caught:
        act()
    assert message in str(caught.value)
