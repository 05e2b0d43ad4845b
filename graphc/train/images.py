"""Arithmetic over a batch of images [n, h, w] or [n, h, w, channels], behind the augmentations."""

import numpy as np

from graphc.train.data_checks import Array


def enlarge(images: Array, k: int, mode: str, fill: float) -> Array:
    """Images with k more pixels on each side: [n, h + 2k, w + 2k, ...]."""
    if mode != "constant":
        widths = [(0, 0), (k, k), (k, k), (0, 0)][: images.ndim]
        return np.pad(images, widths, mode=mode)  # pyright: ignore[reportArgumentType, reportCallIssue]
    n, h, w, *channels = images.shape
    padded = np.full((n, h + 2 * k, w + 2 * k, *channels), fill, images.dtype)
    padded[:, k : k + h, k : k + w] = images
    return padded


def cut(padded: Array, top: Array | int, left: Array | int, shape: tuple[int, ...]) -> Array:
    """From each padded image the window whose corner is (top, left): an array of `shape`."""
    views = np.lib.stride_tricks.sliding_window_view(padded, shape[1:3], axis=(1, 2))
    views = np.moveaxis(views, (-2, -1), (3, 4))  # [n, top, left, h, w, ...]
    return views[np.arange(shape[0]), top, left]


def resample(images: Array, back: Array, fill: float) -> Array:
    """Images whose pixel at p, from the centre, is the old one's at back @ p: back [2, 2, n].

    Bilinear between the four pixels about a place: those of all images are read by one index each
    from a list of all pixels. Outside is `fill`, blended in over the last pixel.
    """
    n, h, w = images.shape[:3]
    centre = np.array([h - 1, w - 1]) / 2
    grid = np.indices((h, w)).reshape(2, -1) - centre[:, None]
    places = np.einsum("ijn,jp->inp", back, grid) + (1 + centre)[:, None, None]
    padded = enlarge(images.astype(wide_dtype(images), copy=False), 1, "constant", fill)
    pixels = padded.reshape(n * (h + 2) * (w + 2), -1)
    last = np.array([h, w])[:, None, None]
    places = places.clip(0, last + 1)
    top, left = corner = np.minimum(places.astype(np.intp), last)
    down, right = (places - corner).astype(pixels.dtype)[..., None]
    first = (np.arange(n)[:, None] * (h + 2) + top) * (w + 2) + left
    upper, lower = (
        _between(pixels.take(i, axis=0), pixels.take(i + 1, axis=0), right)
        for i in (first, first + w + 2)
    )
    return narrow(_between(upper, lower, down).reshape(images.shape), images)


def _between(a: Array, b: Array, share: Array) -> Array:
    """a + share * (b - a), in the place of b."""
    b -= a
    b *= share
    b += a
    return b


def mix(a: Array, other: Array, own: Array) -> Array:
    """Row by row own * a + (1 - own) * a[other]."""
    share = own.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1))
    return share * a + (1 - share) * a[other]


def wide_dtype(images: Array) -> np.dtype[np.generic]:
    """The dtype to compute in: at least float32."""
    return np.result_type(images.dtype, np.float32)


def narrow(values: Array, images: Array) -> Array:
    """Computed values in the dtype of the images; integers rounded, within their range."""
    dtype = images.dtype
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        return np.clip(np.rint(values), ends.min, ends.max).astype(dtype)
    return values.astype(dtype, copy=False)
