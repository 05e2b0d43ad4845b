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

    The images lie above each other in a volume, so that one call reads all of them: image i has a
    coordinate map of its own in layer i. Outside is `fill`, blended in over the last pixel.
    """
    from scipy.ndimage import map_coordinates

    n, h, w = images.shape[:3]
    centre = np.array([h - 1, w - 1]) / 2
    grid = np.indices((h, w)).reshape(2, -1) - centre[:, None]
    places = np.einsum("ijn,jp->inp", back, grid) + centre[:, None, None]
    layer = np.broadcast_to(np.arange(n, dtype=np.float64)[:, None], places.shape[1:])
    coordinates = np.stack([layer, *places]).reshape(3, n, h, w)
    volumes = images.astype(wide_dtype(images), copy=False)[..., None].reshape(n, h, w, -1)
    read = [
        map_coordinates(volumes[..., c], coordinates, order=1, mode="grid-constant", cval=fill)
        for c in range(volumes.shape[3])
    ]
    return narrow(np.stack(read, axis=-1).reshape(images.shape), images)


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
