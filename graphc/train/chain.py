"""A list of augmentations as one: checked, applied to a batch, or used to multiply a data set."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

import graphc as gx
from graphc.train.augment import Augmentation, Mixup, Shift
from graphc.train.data_checks import Array, described, listed, paired, whole
from graphc.train.draws import EXPAND, generator

Shape = tuple[int, ...]
EXPAND_ROWS = 1024  # images that `expand` changes at a time
NAMES = ("Shift", "Crop", "Flip", "Rotate", "Zoom", "Noise", "Cutout", "Mixup")


def expand(
    x: ArrayLike,
    y: ArrayLike,
    augment: Augmentation | Sequence[Augmentation],
    times: int | Literal["all"],
    seed: int = 0,
    image_shape: Sequence[int] | None = None,
) -> tuple[Array, Array]:
    """A data set `times` as large: the samples as they are, then times - 1 changed copies of them.

    Copy k of sample i stands at k*n + i. times="all", for one Shift alone, gives a copy for every
    shift, in the order of `Shift.offsets`.
    """
    x, y = paired("expand", x, y)
    chain = augmentations("expand", augment)
    if not chain:
        raise gx.InputError(f"expand: augment is empty; need some of {listed(NAMES)}")
    shape = shape_of_images("expand", x, image_shape, chain)
    check_chain(chain, x, y, shape)
    rng = generator(whole("expand", "seed", seed, 0, 2**64 - 1), 0, EXPAND)
    if times == "all":
        return _every_shift(x, y, chain, shape)
    times = whole("expand", "times", times, 1)
    n, plain = len(x), y
    for augmentation in chain:
        plain = augmentation.plain(plain)
    images = np.empty((times * n, *x.shape[1:]), x.dtype)
    labels = np.empty((times * n, *plain.shape[1:]), plain.dtype)
    images[:n], labels[:n] = x, plain
    for start in range(n, times * n, n):
        order = rng.permutation(n)  # Mixup pairs samples of one block
        for rows in np.split(order, range(EXPAND_ROWS, n, EXPAND_ROWS)):
            changed = augmented(x[rows], y[rows], chain, shape, rng)
            images[start + rows], labels[start + rows] = changed
    return images, labels


def _every_shift(
    x: Array, y: Array, chain: tuple[Augmentation, ...], shape: Shape
) -> tuple[Array, Array]:
    shift = chain[0]
    if len(chain) > 1 or not isinstance(shift, Shift):
        raise gx.InputError('expand: times="all" is for one Shift alone; else give an integer')
    n, offsets = len(x), shift.offsets
    images = np.empty((len(offsets) * n, *x.shape[1:]), x.dtype)
    for k, (down, right) in enumerate(offsets):
        for start in range(0, n, EXPAND_ROWS):
            block = x[start : start + EXPAND_ROWS]
            moved = shift.moved(block.reshape(-1, *shape), down, right)
            images[k * n + start : k * n + start + len(block)] = moved.reshape(block.shape)
    return images, np.concatenate([y] * len(offsets))


def augmented(
    x: Array, y: Array, chain: Sequence[Augmentation], shape: Shape, rng: np.random.Generator
) -> tuple[Array, Array]:
    """x and y after all augmentations in order; flat images stay flat."""
    images = x.reshape(len(x), *shape)
    for augmentation in chain:
        images, y = _checked(augmentation, augmentation.apply(images, y, rng), images)
    return images.reshape(x.shape), y


def _checked(augmentation: Augmentation, made: Any, images: Array) -> tuple[Array, Array]:
    """What `apply` of an augmentation, maybe of a user's own, made of images."""
    pair: Any = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    shapes = [np.shape(array) for array in pair]
    if shapes[0] != images.shape or shapes[1][:1] != images.shape[:1]:
        raise gx.InputError(
            f"{type(augmentation).__name__}: of {len(images)} images of shape {images.shape[1:]}, "
            f"apply made arrays of shape {shapes[0]} and {shapes[1]}; need images of the same "
            "shape, and as many labels: return images, labels"
        )
    return pair


def augmentations(
    who: str, augment: Augmentation | Sequence[Augmentation]
) -> tuple[Augmentation, ...]:
    """The augmentations of an argument `augment`: one, or a list."""
    chain = augment if isinstance(augment, list | tuple) else (augment,)
    found = tuple(a for a in chain if isinstance(a, Augmentation))
    if len(found) < len(chain):
        wrong = next(a for a in chain if not isinstance(a, Augmentation))
        raise gx.InputError(
            f"{who}: augment holds {wrong!r}; need augmentations: {listed(NAMES)}, "
            "for instance augment=[train.Shift(1)]"
        )
    if sum(isinstance(a, Mixup) for a in found) > 1:
        raise gx.InputError(f"{who}: augment has more than one Mixup; need at most one")
    return found


def check_chain(chain: Sequence[Augmentation], x: Array, y: Array, shape: Shape) -> None:
    """Raise gx.InputError unless the samples, as images of this shape, can be augmented."""
    for augmentation in chain:
        augmentation.check(x[:1].reshape(1, *shape), y)


def shape_of_images(
    who: str, x: Array, image_shape: Sequence[int] | None, chain: Sequence[Augmentation]
) -> Shape:
    """The shape of one image: image_shape where given, else that of the samples."""
    if image_shape is None:
        needing = [type(a).__name__ for a in chain if a.of_images]
        if needing and x.ndim not in (3, 4):
            raise gx.InputError(
                f"{who}: x is {described(x)}, which has no image shape; {needing[0]} needs "
                "image_shape=(h, w) or (h, w, channels)"
            )
        return x.shape[1:]
    if not isinstance(image_shape, Sequence) or len(image_shape) not in (2, 3):
        raise gx.InputError(
            f"{who}: image_shape is {image_shape!r}; need (h, w) or (h, w, channels)"
        )
    shape = tuple(whole(who, "image_shape", extent, 1) for extent in image_shape)
    if x.shape[1:] not in (shape, (math.prod(shape),)):
        raise gx.InputError(
            f"{who}: image_shape={shape} does not fit x, {described(x)}; need samples of shape "
            f"{shape} or flat ones of {math.prod(shape)}"
        )
    return shape
