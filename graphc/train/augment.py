"""Augmentation: random changes of samples that keep what they show, batch by batch or to multiply
a data set.

Images are [n, h, w] or [n, h, w, channels]; 1 or 3 before a square are channels in the wrong place,
and refused. Noise and Mixup take samples of any shape, tables among them. Each augmentation is a
frozen record; `apply` returns new images and labels, keeps the dtype of the images, and draws from
the generator it is given.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

import graphc as gx
from graphc.train.data_checks import (
    Array,
    check_integer_labels,
    check_labels,
    described,
    flag,
    one_of,
    real,
    whole,
)
from graphc.train.images import cut, enlarge, mix, narrow, resample, wide_dtype

DIRECTIONS = ("all", "straight", "horizontal", "vertical")
PADDINGS = ("constant", "edge", "reflect")
CHANNELS = (1, 3)  # of gray and colour: before a square of pixels they are taken to come first
MOST_CHANNELS = 4  # of colour with opacity: a square as small may be pixels of so many channels


class Augmentation:
    """A random change of images; subclasses define `apply`.

    One that changes samples of any shape, not only images, says `of_images = False`.
    """

    of_images: bool = True
    fill: float = 0  # what stands where no pixel of the image is

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError unless such images, with these labels, can be changed."""
        who = type(self).__name__
        if images.dtype.kind not in "biufV" or images.dtype.fields is not None:  # V: bfloat16
            raise gx.InputError(f"{who}: the images are {described(images)}; need real numbers")
        if self.of_images:
            _check_image_shape(who, images)
        if images.dtype.kind in "biu":
            _check_integer_fill(who, self.fill, images.dtype)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Changed images of the same shape and dtype, and their labels."""
        raise NotImplementedError

    def plain(self, labels: Array) -> Array:
        """The labels of unchanged images in the form that `apply` gives labels."""
        return labels


@dataclass(frozen=True)
class Shift(Augmentation):
    """Move each image by up to `pixels` rows and columns; what comes in is `fill`.

    `directions`: "all" (rows and columns, diagonals among them), "straight" (rows or columns),
    "horizontal" or "vertical". Every shift, none among them, is as likely as any other.
    """

    pixels: int
    directions: Literal["all", "straight", "horizontal", "vertical"] = "all"
    fill: float = 0

    def __post_init__(self) -> None:
        whole("Shift", "pixels", self.pixels, 1)
        one_of("Shift", "directions", self.directions, DIRECTIONS)
        real("Shift", "fill", self.fill)

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Every (down, right) that an image may move by, (0, 0) first."""
        return _offsets(self.pixels, self.directions)

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError if an image could move out of its frame."""
        super().check(images, labels)
        _check_extent("Shift", "pixels", self.pixels, images, 1)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Shifted images."""
        self.check(images, labels)
        chosen = rng.integers(len(self.offsets), size=len(images))
        down, right = np.array(self.offsets)[chosen].T
        return self.moved(images, down, right), labels

    def moved(self, images: Array, down: Array | int, right: Array | int) -> Array:
        """The images moved down and right by given numbers of pixels, at most `pixels`."""
        padded = enlarge(images, self.pixels, "constant", self.fill)
        return cut(padded, self.pixels - down, self.pixels - right, images.shape)


@dataclass(frozen=True)
class Crop(Augmentation):
    """Pad each image on all sides and cut a window of its old size from a random place.

    `mode` says what stands in the padding: "constant" (`fill`), "edge" or "reflect".
    """

    padding: int
    mode: Literal["constant", "edge", "reflect"] = "constant"
    fill: float = 0

    def __post_init__(self) -> None:
        whole("Crop", "padding", self.padding, 1)
        one_of("Crop", "mode", self.mode, PADDINGS)
        real("Crop", "fill", self.fill)

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError if a window could miss its image."""
        super().check(images, labels)
        _check_extent("Crop", "padding", self.padding, images, 1)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Windows of the padded images."""
        self.check(images, labels)
        padded = enlarge(images, self.padding, self.mode, self.fill)
        top, left = rng.integers(2 * self.padding + 1, size=(2, len(images)))
        return cut(padded, top, left, images.shape), labels


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror each image with `probability`: left to right, upside down, or each of the two."""

    horizontal: bool = True
    vertical: bool = False
    probability: float = 0.5

    def __post_init__(self) -> None:
        flag("Flip", "horizontal", self.horizontal)
        flag("Flip", "vertical", self.vertical)
        if not (self.horizontal or self.vertical):
            raise gx.InputError(
                "Flip: horizontal and vertical are False; need at least one of them"
            )
        real("Flip", "probability", self.probability, 0, 1, above=True)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Images, some of them mirrored."""
        self.check(images, labels)
        result = images.copy()
        for axis, asked in ((1, self.vertical), (2, self.horizontal)):
            if asked:
                chosen = rng.random(len(images)) < self.probability
                result[chosen] = np.flip(result[chosen], axis)
        return result, labels


@dataclass(frozen=True)
class Rotate(Augmentation):
    """Turn each image about its centre, counterclockwise, by a random angle.

    `degrees`: angles from -degrees to degrees, or a pair (low, high). Bilinear; what comes in is
    `fill`.
    """

    degrees: float | tuple[float, float]
    fill: float = 0

    def __post_init__(self) -> None:
        if isinstance(self.degrees, tuple | list):
            _check_range("Rotate", "degrees", self.degrees, -360, 360)
        else:
            real("Rotate", "degrees", self.degrees, 0, 180, above=True)
        real("Rotate", "fill", self.fill)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Turned images."""
        self.check(images, labels)
        d = self.degrees
        low, high = d if isinstance(d, tuple | list) else (-d, d)
        angles = np.deg2rad(rng.uniform(low, high, len(images)))
        sin, cos = np.sin(angles), np.cos(angles)
        back = np.array([[cos, sin], [-sin, cos]])
        return resample(images, back, self.fill), labels


@dataclass(frozen=True)
class Zoom(Augmentation):
    """Enlarge each image about its centre by a random factor from low to high; below 1 it shrinks.

    Bilinear; what comes in is `fill`.
    """

    low: float
    high: float
    fill: float = 0

    def __post_init__(self) -> None:
        real("Zoom", "low", self.low, 0, above=True)
        real("Zoom", "high", self.high, self.low)
        real("Zoom", "fill", self.fill)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Zoomed images."""
        self.check(images, labels)
        back = 1 / rng.uniform(self.low, self.high, len(images))
        none = np.zeros_like(back)
        matrix = np.array([[back, none], [none, back]])
        return resample(images, matrix, self.fill), labels


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add normal noise of standard deviation `std`, in units of the samples [n, ...].

    Integer samples are rounded and stay within their dtype; they need a `std` of at least 1.
    """

    std: float
    of_images = False

    def __post_init__(self) -> None:
        real("Noise", "std", self.std, 0, above=True)

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError if rounding to integers would take the noise away."""
        super().check(images, labels)
        if images.dtype.kind in "biu" and self.std < 1:
            raise gx.InputError(
                f"Noise: std is {self.std!r}, in units of the images, and rounding to "
                f"{images.dtype} takes that away; need a std of at least 1, or images as floats, "
                "such as (x / 255).astype('float32')"
            )

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Noisy images."""
        self.check(images, labels)
        wide = wide_dtype(images)
        noise = rng.standard_normal(images.shape, np.float64 if wide == "float64" else np.float32)
        noise *= self.std
        noise += images
        return narrow(noise, images), labels


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Set a square of size x size pixels of each image to `fill`; its centre is any pixel.

    The square is cut off at the frame (DeVries and Taylor 2017, arXiv:1708.04552).
    """

    size: int
    fill: float = 0

    def __post_init__(self) -> None:
        whole("Cutout", "size", self.size, 1)
        real("Cutout", "fill", self.fill)

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError if the square is larger than an image."""
        super().check(images, labels)
        _check_extent("Cutout", "size", self.size, images)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Images with a hole each."""
        self.check(images, labels)
        n, h, w = images.shape[:3]
        rows = self._covered(rng.integers(h, size=(n, 1)), h)
        columns = self._covered(rng.integers(w, size=(n, 1)), w)
        result = images.copy()
        result[rows[:, :, None] & columns[:, None, :]] = self.fill
        return result, labels

    def _covered(self, centre: Array, extent: int) -> Array:
        """Which of the pixels 0 ... extent - 1 the square covers: [n, extent]."""
        past = np.arange(extent) - (centre - self.size // 2)
        return (past >= 0) & (past < self.size)


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Mix each sample [...] with another of its batch, l * own + (1 - l) * other, l from
    Beta(alpha, alpha), and its label alike.

    With `classes`, labels are integers from 0 to classes - 1, which become rows of probabilities
    [n, classes] in float32. Without, they are floats [n, ...], such rows or targets of regression,
    and keep their dtype. Integer samples are rounded.

    Zhang, Cisse, Dauphin and Lopez-Paz 2018 (arXiv:1710.09412).
    """

    alpha: float
    classes: int | None = None
    of_images = False

    def __post_init__(self) -> None:
        real("Mixup", "alpha", self.alpha, 0, above=True)
        if self.classes is not None:
            whole("Mixup", "classes", self.classes, 2)

    def check(self, images: Array, labels: Array) -> None:
        """Raise gx.InputError unless labels are as `classes` says."""
        super().check(images, labels)
        if self.classes is None:
            if labels.dtype.kind not in "fV" or labels.dtype.fields is not None:  # V: bfloat16
                raise gx.InputError(
                    f"Mixup: y is {described(labels)}; integer labels need classes=, their "
                    "number; without it need floats"
                )
            return
        check_integer_labels("Mixup", labels, "; without classes= floats are mixed as they are")
        check_labels("Mixup", labels, self.classes)

    def apply(self, images: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Mixed images, and mixed rows of probabilities or targets."""
        self.check(images, labels)
        n = len(images)
        own = rng.beta(self.alpha, self.alpha, n)
        other = rng.permutation(n)
        wide = images.astype(wide_dtype(images), copy=False)
        rows = self.plain(labels)
        return narrow(mix(wide, other, own), images), mix(rows, other, own)

    def plain(self, labels: Array) -> Array:
        """One-hot rows, float32, of integer labels; floats as they are."""
        if self.classes is None:
            return labels
        return np.eye(self.classes, dtype=np.float32)[labels.astype(np.intp)]


@lru_cache
def _offsets(k: int, directions: str) -> tuple[tuple[int, int], ...]:
    reach = range(-k, k + 1)
    every = [(down, right) for down in reach for right in reach]
    keep = {
        "all": lambda down, right: True,
        "straight": lambda down, right: down == 0 or right == 0,
        "horizontal": lambda down, right: down == 0,
        "vertical": lambda down, right: right == 0,
    }[directions]
    return tuple(sorted((o for o in every if keep(*o)), key=lambda o: o != (0, 0)))


def _check_image_shape(who: str, images: Array) -> None:
    if images.ndim not in (3, 4):
        raise gx.InputError(
            f"{who}: the images are {described(images)}; need [n, h, w] or "
            "[n, h, w, channels]: reshape flat ones, or give image_shape to Batches or expand"
        )
    first, *others = images.shape[1:]
    if first in CHANNELS and len(others) == 2 and others[0] == others[1] > MOST_CHANNELS:
        raise gx.InputError(
            f"{who}: images of shape {images.shape[1:]} have their channels first; "
            "need [n, h, w, channels]: x.transpose(0, 2, 3, 1)"
        )


def _check_integer_fill(who: str, fill: float, dtype: np.dtype[Any]) -> None:
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if fill != int(fill) or not low <= fill <= high:
        raise gx.InputError(
            f"{who}: fill is {fill!r}; for images of dtype {dtype} need an integer "
            f"from {low} to {high}"
        )


def _check_extent(who: str, name: str, value: int, images: Array, less: int = 0) -> None:
    h, w = images.shape[1:3]
    if value > min(h, w) - less:
        raise gx.InputError(
            f"{who}: {name} is {value}; for images of {h} x {w} pixels "
            f"need an integer of at most {min(h, w) - less}"
        )


def _check_range(who: str, name: str, ends: tuple[float, ...], low: float, high: float) -> None:
    numbers = [real(who, name, end, low, high) for end in ends]
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise gx.InputError(f"{who}: {name} is {ends!r}; need a number or a pair (low, high)")
