"""Augmentation: where pixels land, what labels become, and what is refused."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from graphc.errors import InputError
from graphc.train import augment
from graphc.train import images as images_of
from graphc.train.augment import (
    Augmentation,
    Crop,
    Cutout,
    Flip,
    Mixup,
    Noise,
    Rotate,
    Shift,
    Zoom,
)
from graphc.train.chain import EXPAND_ROWS, NAMES, expand

Array = Any
ALL = [
    Shift(1), Shift(2, "straight"), Crop(1), Crop(2, "reflect"), Crop(1, "edge"), Flip(),
    Flip(False, True), Flip(True, True), Rotate(20), Rotate([-5, 90]), Zoom(0.8, 1.2), Noise(1),
    Cutout(2), Mixup(0.4, classes=5),
]  # fmt: skip
SHAPES = [(5, 4), (5, 4, 1), (5, 4, 3)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(n: int, shape: tuple[int, ...], dtype: Any = "float32") -> Array:
    values = rng(9).random((n, *shape)) * (1 if np.dtype(dtype).kind in "fV" else 200)
    return values > 100 if dtype == "bool" else values.astype(dtype)


def one_bright(n: int, h: int, w: int, at: tuple[int, int]) -> Array:
    images = np.zeros((n, h, w), np.float32)
    images[:, *at] = 1
    return images


def only(chain: Augmentation, images: Array, seed: int = 0) -> Array:
    return chain.apply(images, np.zeros(len(images), int), rng(seed))[0]


# -- what holds for all of them


@pytest.mark.parametrize(
    "shape", [(3, 4, 8), (4, 16, 8), (1, 128, 9), (3, 6, 7), (1, 4, 4), (4, 16, 16), (8, 8, 4)]
)
def test_few_rows_of_pixels_are_not_taken_for_channels(shape: tuple[int, ...]) -> None:
    assert only(Flip(), pictures(4, shape)).shape == (4, *shape)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "uint8", "int64", "bool", "b16"]
)
@pytest.mark.parametrize("change", ALL, ids=repr)
def test_shape_dtype_and_sources_are_kept(change: Augmentation, dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "b16" else dtype
    for shape in SHAPES:
        images, labels = pictures(7, shape, kind), np.arange(7) % 5
        before = images.copy(), labels.copy()
        changed, mapped = change.apply(images, labels, rng())
        assert changed.shape == images.shape
        assert changed.dtype == images.dtype
        assert len(mapped) == 7
        assert not np.shares_memory(changed, images)
        assert np.array_equal(images, before[0])
        assert np.array_equal(labels, before[1])
        if not isinstance(change, Mixup):
            assert np.array_equal(mapped, labels)


@pytest.mark.parametrize("change", ALL, ids=repr)
def test_draws_are_seeded(change: Augmentation) -> None:
    images, labels = pictures(20, (5, 4)), np.arange(20) % 5
    one, again, other = (change.apply(images, labels, rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("change", ALL, ids=repr)
def test_channels_change_alike(change: Augmentation) -> None:
    if isinstance(change, Noise):
        return
    plain = pictures(6, (5, 4))
    colour = np.stack([plain, 2 * plain], axis=-1)
    changed = only(change, colour)
    assert np.allclose(changed[..., 0], only(change, plain), atol=1e-6)
    assert np.allclose(changed[..., 1], 2 * changed[..., 0], atol=1e-6)


def test_records_are_frozen_and_all_are_named() -> None:
    with pytest.raises(FrozenInstanceError):
        Shift(1).pixels = 2
    assert Shift(1) == Shift(1, "all")
    defined = [n for n, v in vars(augment).items() if isinstance(v, type) and v.__name__ == n]
    assert [n for n in defined if issubclass(getattr(augment, n), Augmentation)] == [
        "Augmentation",
        *NAMES,
    ]


# -- shift and crop


@pytest.mark.parametrize(
    ("directions", "count"), [("all", 25), ("straight", 9), ("horizontal", 5), ("vertical", 5)]
)
def test_every_shift_is_asked_for_once(directions: Any, count: int) -> None:
    shift = Shift(2, directions)
    assert len(set(shift.offsets)) == len(shift.offsets) == count
    assert shift.offsets[0] == (0, 0)
    assert directions == "all" or all(down * right == 0 for down, right in shift.offsets)
    images, labels = expand(one_bright(3, 7, 6, (3, 3)), [4, 5, 6], shift, "all")
    assert len(images) == 3 * count
    assert np.array_equal(labels, [4, 5, 6] * count)
    for k, (down, right) in enumerate(shift.offsets):
        expected = one_bright(3, 7, 6, (3 + down, 3 + right))
        assert np.array_equal(images[3 * k : 3 * k + 3], expected)


def test_every_shift_is_drawn_and_equally_often() -> None:
    shift = Shift(1)
    images = only(shift, one_bright(9000, 5, 5, (2, 2)))
    assert (images.sum(axis=(1, 2)) == 1).all()
    counts = images.sum(axis=0)
    assert counts.sum() == counts[1:4, 1:4].sum()
    assert abs(counts[1:4, 1:4] - 1000).max() < 150  # 5 standard deviations


@pytest.mark.parametrize(("directions", "axis"), [("vertical", 0), ("horizontal", 1)])
def test_shifts_of_one_direction_are_drawn_in_that_one(directions: Any, axis: int) -> None:
    images = only(Shift(1, directions), one_bright(500, 5, 5, (2, 2)))
    counts = images.sum(axis=(0, 2 - axis))
    assert counts.tolist()[::4] == [0, 0]
    assert counts[1:4].min() > 100
    assert images.sum(axis=(0, 1 + axis))[2] == 500


def test_a_shift_leaves_the_frame_and_fills() -> None:
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert Shift(1, fill=-1).moved(image, 1, 1).tolist() == [[[-1, -1, -1], [-1, 0, 1]]]
    assert Shift(1, fill=-1).moved(image, -1, 0).tolist() == [[[3, 4, 5], [-1, -1, -1]]]
    assert Shift(1, fill=-1).moved(image, 0, -1).tolist() == [[[1, 2, -1], [4, 5, -1]]]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_a_crop_is_a_window_of_the_padded_image(mode: Any) -> None:
    image = pictures(1, (4, 5))
    options: dict[str, Any] = {"constant_values": 3} if mode == "constant" else {}
    padded = np.pad(image[0], 2, mode, **options)
    windows = [padded[i : i + 4, j : j + 5].tobytes() for i in range(5) for j in range(5)]
    found = {x.tobytes() for x in only(Crop(2, mode, fill=3), np.repeat(image, 2000, axis=0))}
    assert found == set(windows)


# -- flips, rotation, zoom


@pytest.mark.parametrize(
    ("flip", "axes"), [(Flip(True, False, 1), [2]), (Flip(False, True, 1), [1]),
                       (Flip(True, True, 1), [1, 2])],
)  # fmt: skip
def test_flips_mirror_and_twice_give_back(flip: Flip, axes: list[int]) -> None:
    images = pictures(3, (4, 5, 3))
    once = only(flip, images)
    assert np.array_equal(once, np.flip(images, axes))
    assert np.array_equal(only(flip, once), images)


def test_flips_are_drawn_each_on_its_own() -> None:
    images = np.broadcast_to(np.arange(4.0).reshape(1, 2, 2), (4000, 2, 2))
    corner = only(Flip(True, True, 0.25), images)[:, 0, 0]
    shares = np.bincount(corner.astype(int)) / 4000
    assert abs(shares - [0.5625, 0.1875, 0.1875, 0.0625]).max() < 0.04


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3), (360, 0), (270, 3)])
@pytest.mark.parametrize("side", [4, 5])
def test_right_angles_are_rot90(degrees: float, turns: int, side: int) -> None:
    images = pictures(3, (side, side))
    turned = only(Rotate((degrees, degrees)), images)
    assert np.allclose(turned, np.rot90(images, turns, axes=(1, 2)), atol=1e-6)


def test_a_bright_pixel_turns_by_its_own_angle() -> None:
    images = only(Rotate(45), one_bright(400, 41, 41, (20, 38)))  # 18 right of the centre
    rows, columns = np.indices((41, 41)) - 20
    weight = images.sum(axis=(1, 2))
    down, right = (images * rows).sum((1, 2)) / weight, (images * columns).sum((1, 2)) / weight
    assert np.allclose(np.hypot(down, right), 18, atol=0.3)
    angles = np.rad2deg(np.arctan2(-down, right))
    assert angles.min() < -40
    assert angles.max() > 40
    assert abs(angles).max() < 46


@pytest.mark.parametrize("shape", [(6, 9), (7, 4, 3)])
@pytest.mark.parametrize("change", [Rotate(180, fill=2), Zoom(0.3, 3, fill=-1)], ids=repr)
def test_images_read_together_are_as_each_of_them_alone(
    change: Augmentation, shape: tuple[int, ...]
) -> None:
    images = pictures(5, shape, "float64")
    seen: list[Any] = []

    def read(images: Array, back: Array, fill: float) -> Array:
        seen.append(back)
        return images_of.resample(images, back, fill)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "resample", read)
        changed = only(change, images)
    for i, image in enumerate(images):
        back = np.moveaxis(seen[0], 2, 0)[i]
        centre = (np.array(shape[:2]) - 1) / 2
        for old, new in zip(np.atleast_3d(image).T, np.atleast_3d(changed[i]).T, strict=True):
            wanted = affine_transform(
                old.T, back, centre - back @ centre, order=1, mode="grid-constant",
                cval=change.fill,
            )  # fmt: skip
            assert np.allclose(new.T, wanted, atol=1e-12)


def test_zoom_by_two_and_by_half() -> None:
    ramp = np.broadcast_to(np.arange(9.0) - 4, (2, 9, 9))
    assert np.allclose(only(Zoom(2, 2), ramp), ramp / 2)
    small = only(Zoom(0.5, 0.5, fill=7), ramp)
    assert np.allclose(small[:, 2:7, 2:7], 2 * ramp[:, 2:7, 2:7])
    assert (small[:, :2] == 7).all()
    assert np.allclose(only(Zoom(1, 1), ramp), ramp)


def test_zooms_are_drawn_within_their_range() -> None:
    ramp = np.broadcast_to(np.arange(9.0) - 4, (500, 9, 9))
    factors = 4 / only(Zoom(1.5, 2.5), ramp)[:, 4, 8]
    assert 1.5 <= factors.min() < 1.55
    assert 2.45 < factors.max() <= 2.5


# -- noise, cutout, mixup


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_has_its_deviation(dtype: str) -> None:
    images = np.full((50, 40, 40), 5, dtype)
    noise = only(Noise(0.3), images) - images
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 0.3) < 0.01
    assert noise.std(axis=0).min() > 0.1


def test_noise_of_integers_is_rounded_within_their_range() -> None:
    images = np.array([0, 128, 255], np.uint8).reshape(1, 1, 3).repeat(2000, axis=0)
    low, _, high = only(Noise(10), images)[:, 0].astype(float).T
    assert low.max() < 80
    assert high.min() > 180
    assert (low == 0).mean() > 0.4
    middle = only(Noise(1), images)[:, 0, 1].astype(float)
    assert abs(middle.mean() - 128) < 0.1
    assert abs(middle.std() - 1) < 0.1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cutout_is_a_square_about_any_pixel(size: int) -> None:
    images = np.ones((3000, 6, 5), np.float32)
    holes = only(Cutout(size, fill=-2), images)
    assert set(np.unique(holes)) == {-2, 1}
    expected = set()
    for row in range(6):
        for column in range(5):
            image, top, left = images[0].copy(), row - size // 2, column - size // 2
            image[max(0, top) : top + size, max(0, left) : left + size] = -2
            expected.add(image.tobytes())
    assert {hole.tobytes() for hole in holes} == expected


def test_mixup_mixes_images_and_labels_alike() -> None:
    n = 300
    images = np.eye(n, dtype=np.float32).reshape(n, 10, 30)
    mixed, rows = Mixup(0.5, classes=n).apply(images, np.arange(n), rng())
    assert np.allclose(mixed.reshape(n, n), rows, atol=1e-6)  # each is its own label
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert rows.min() >= 0
    assert ((rows > 0).sum(axis=1) <= 2).all()
    share = np.diag(rows)
    assert abs(share.mean() - 0.5) < 0.1
    assert abs(share.var() - 0.125) < 0.03  # of Beta(a, a): 1 / (4 (2 a + 1))


@pytest.mark.parametrize("kind", ["float16", ml_dtypes.bfloat16, "float32", "float64"], ids=str)
@pytest.mark.parametrize("rows", [(), (1,), (4,)])
def test_mixup_mixes_floats_as_they_are(rows: tuple[int, ...], kind: Any) -> None:
    """Targets of regression, and shares of classes, of the samples of a table."""
    table = rng(3).random((60, 4)).astype(kind)
    labels = 10 * table[:, 0] if not rows else 10 * table[:, : rows[0]]
    mixed, targets = Mixup(0.5).apply(table, labels, rng())
    assert (mixed.dtype, targets.dtype, targets.shape) == (table.dtype, labels.dtype, labels.shape)
    assert not np.array_equal(targets, labels)
    wanted = (10 * mixed.astype("float64"))[:, : rows[0] if rows else 1].reshape(labels.shape)
    near = 0.1 if np.dtype(kind).itemsize == 2 else 1e-5
    assert np.allclose(targets.astype("float64"), wanted, atol=near)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5), (3, 8, 8)])
def test_samples_of_any_shape_can_be_mixed_and_noisy(shape: tuple[int, ...]) -> None:
    x, y = pictures(6, shape), np.arange(6.0)
    mixed, targets = expand(x, y, [Mixup(1.0), Noise(0.1)], 3)
    assert (mixed.shape, targets.shape) == ((18, *shape), (18,))
    assert np.array_equal(targets[:6], y)
    assert set(y) != set(targets[6:])


# -- expanding


@pytest.mark.parametrize("shape", [(20,), (5, 4), (5, 4, 1)])
def test_expand_keeps_the_samples_first_and_labels_right(shape: tuple[int, ...]) -> None:
    n = EXPAND_ROWS + 100  # more than one block
    value = 1 + np.arange(n, dtype=np.float32).reshape(n, *[1] * len(shape))
    x = np.broadcast_to(value, (n, *shape))
    chain, image_shape = [Flip(), Shift(1)], (5, 4) if len(shape) == 1 else None
    images, labels = expand(x, np.arange(n), chain, 3, image_shape=image_shape)
    assert images.shape == (3 * n, *shape)
    assert np.array_equal(images[:n], x)
    assert np.array_equal(labels, np.tile(np.arange(n), 3))
    assert np.array_equal(images.reshape(3 * n, -1).max(axis=1), 1 + labels)
    assert not np.array_equal(images[n : 2 * n], images[2 * n :])
    assert not np.array_equal(images[:n], images[n : 2 * n])


def test_expand_is_seeded() -> None:
    x, y = pictures(10, (4, 4)), np.arange(10)
    one, again, other = (expand(x, y, Noise(1.0), 2, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[10:], other[10:])
    assert np.array_equal(expand(x, y, Noise(1.0), 1)[0], x)


def test_expand_with_mixup_makes_rows_of_all_labels_and_mixes_classes_of_a_sorted_set() -> None:
    n = 2 * EXPAND_ROWS
    x, y = np.zeros((n, 1, 1), np.float32), np.arange(n) // EXPAND_ROWS
    x[:, 0, 0] = y
    images, rows = expand(x, y, Mixup(1.0, classes=2), 2)
    assert rows.shape == (2 * n, 2)
    assert np.array_equal(rows[:n], np.eye(2)[y])
    assert np.allclose(rows[:, 1], images[:, 0, 0], atol=1e-6)
    assert 0.3 < ((rows[n:] > 0).sum(axis=1) == 2).mean() < 0.7


def test_a_chain_is_applied_in_order() -> None:
    x = one_bright(50, 5, 5, (2, 2))
    both, _ = expand(x, np.zeros(50), [Shift(1), Cutout(5)], 2)
    assert both[50:].sum() < 50
    images, _ = expand(x, np.zeros(50), [Cutout(5), Noise(0.1)], 2)
    assert (images[50:] != 0).all()


# -- refusals

IMAGES, LABELS = pictures(4, (6, 5)), np.arange(4)
FLAT = IMAGES.reshape(4, 30)


class Without(Augmentation):
    """Some other numbers of images and labels than it is given."""

    def __init__(self, images: int, labels: int) -> None:
        self.counts = images, labels

    def apply(self, images: Array, labels: Array, rng: object) -> tuple[Array, Array]:  # noqa: ARG002
        return images[: self.counts[0]], labels[: self.counts[1]]


class Lost(Augmentation):
    """Forgets the labels."""

    def apply(self, images: Array, labels: Array, rng: object) -> Any:  # noqa: ARG002
        return images


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Shift(0), "Shift: pixels is 0; need an integer of at least 1"),
    (lambda: Shift(1.5), "Shift: pixels is 1.5; need an integer"),
    (lambda: Shift(1, "up"),
     "directions is 'up'; need 'all', 'straight', 'horizontal' or 'vertical'"),
    (lambda: Shift(1, fill=np.nan), "fill is nan; need a finite number"),
    (lambda: only(Shift(5), IMAGES), "pixels is 5; for images of 6 x 5 pixels need an integer of "
     "at most 4"),
    (lambda: Crop(-1), "Crop: padding is -1; need an integer of at least 1"),
    (lambda: Crop(1, "wrap"), "mode is 'wrap'; need 'constant', 'edge' or 'reflect'"),
    (lambda: only(Crop(5), IMAGES), "Crop: padding is 5; for images of 6 x 5"),
    (lambda: Flip(False, False), "horizontal and vertical are False; need at least one"),
    (lambda: Flip(probability=0), "probability is 0; need a finite number above 0 and at most 1"),
    (lambda: Flip(probability=1.1), "probability is 1.1; need"),
    (lambda: Rotate(0), "degrees is 0; need a finite number above 0 and at most 180"),
    (lambda: Rotate(181), "degrees is 181"),
    (lambda: Rotate((3, -3)), "degrees is (3, -3); need a number or a pair (low, high)"),
    (lambda: Rotate((3, 361)), "degrees is 361; need a finite number of at least -360"),
    (lambda: Rotate("a"), "degrees is 'a'; need a finite number"),
    (lambda: Zoom(0, 1), "Zoom: low is 0; need a finite number above 0"),
    (lambda: Zoom(1, 0.5), "Zoom: high is 0.5; need a finite number of at least 1"),
    (lambda: Noise(0), "Noise: std is 0; need a finite number above 0"),
    (lambda: Noise(np.inf), "Noise: std is inf"),
    (lambda: Noise(True), "Noise: std is True"),
    (lambda: Cutout(0), "Cutout: size is 0"),
    (lambda: only(Cutout(6), IMAGES), "Cutout: size is 6; for images of 6 x 5 pixels need an "
     "integer of at most 5"),
    (lambda: Mixup(0, 3), "Mixup: alpha is 0"),
    (lambda: Mixup(0.2).apply(IMAGES, LABELS, rng()), "Mixup: y is int64[4]; integer labels need "
     "classes="),
    (lambda: Mixup(0.2).apply(IMAGES, LABELS.astype(str), rng()), "without it need floats"),
    (lambda: Mixup(0.2, 1), "Mixup: classes is 1; need an integer of at least 2"),
    (lambda: Mixup(0.2, 3).apply(IMAGES, LABELS, rng()), "label 3 is out of range, at y[3]"),
    (lambda: Mixup(0.2, 3).apply(IMAGES, LABELS / 2, rng()), "y is float64[4]; need integer class "
     "labels [n]; without classes= floats are mixed as they are"),
    (lambda: only(Noise(0.9), IMAGES.astype("uint8")), "Noise: std is 0.9, in units of the images, "
     "and rounding to uint8 takes that away; need a std of at least 1, or images as floats, such "
     "as (x / 255).astype('float32')"),
    (lambda: only(Noise(1), IMAGES.astype(str)), "need real numbers"),
    (lambda: only(Flip(), IMAGES * 1j), "Flip: the images are complex64[4,6,5]; need real"),
    (lambda: Flip("no"), "Flip: horizontal is 'no'; need True or False"),
    (lambda: Flip(vertical=1), "Flip: vertical is 1; need True or False"),
    *[(lambda s=s: only(Rotate(20), pictures(4, s)), f"Rotate: images of shape {s} have their "
       "channels first; need [n, h, w, channels]: x.transpose(0, 2, 3, 1)")
      for s in [(1, 28, 28), (3, 8, 8), (3, 5, 5)]],
    (lambda: expand(pictures(4, (192,)), LABELS, Flip(), 2, image_shape=(3, 8, 8)),
     "have their channels first"),
    (lambda: expand(IMAGES, LABELS, Without(3, 4), 2), "Without: of 4 images of shape (6, 5), "
     "apply made arrays of shape (3, 6, 5) and (4,); need images of the same shape, and as many"),
    (lambda: expand(IMAGES, LABELS, Without(4, 3), 2), "shape (4, 6, 5) and (3,)"),
    (lambda: expand(IMAGES, LABELS, [Without(3, 3), Shift(1)], 2), "shape (3, 6, 5) and (3,)"),
    (lambda: expand(IMAGES, LABELS, Lost(), 2), "Lost: of 4 images"),
    (lambda: only(Cutout(2, fill=0.5), IMAGES.astype("uint8")), "Cutout: fill is 0.5; for images "
     "of dtype uint8 need an integer from 0 to 255"),
    (lambda: only(Shift(1, fill=-1), IMAGES.astype("uint8")), "Shift: fill is -1; for images"),
    (lambda: expand(FLAT, LABELS, Shift(1), "all"), "expand: x is float32[4,30], which has no "
     "image shape; Shift needs image_shape=(h, w)"),
    (lambda: expand(FLAT, LABELS, [Noise(1), Flip()], 2), "no image shape; Flip needs image_shape"),
    (lambda: expand([[1, 2], [3]], [0, 1], Noise(1), 2), "expand: x is no array: "),
    (lambda: expand(IMAGES, LABELS, Shift(1), "all", seed=-1), "seed is -1; need"),
    (lambda: expand(IMAGES, LABELS, Shift(1), 0), "times is 0; need an integer of at least 1"),
    (lambda: expand(IMAGES, LABELS, [], 2), "augment is empty; need some of Shift"),
    (lambda: expand(IMAGES, LABELS, Flip(), "all"), 'times="all" is for one Shift alone'),
    (lambda: expand(IMAGES, LABELS, [Shift(1), Flip()], "all"), "for one Shift alone"),
    (lambda: expand(IMAGES, LABELS[1:], Flip(), 2), "sizes differ"),
    (lambda: expand(IMAGES, LABELS, Shift(5), 2), "pixels is 5"),
    (lambda: expand(IMAGES, LABELS, Shift(5), "all"), "pixels is 5"),
    (lambda: expand(IMAGES, LABELS, Shift(1), 2, image_shape=(5, 6)), "does not fit x"),
    *[(lambda a=a: only(a, FLAT), "the images are float32[4,30]; need [n, h, w]")
      for a in ALL if a.of_images],
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_name_the_argument_and_what_is_allowed(number: int) -> None:
    act, message = REFUSED[number]
    with pytest.raises(InputError) as caught:
        act()
    assert message in str(caught.value)
