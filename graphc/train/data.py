"""Mini-batches of arrays or memory maps, in an order that is a pure function of seed and epoch."""

from collections.abc import Iterator, Sequence
from typing import Literal

from numpy.typing import ArrayLike

import graphc as gx
from graphc.train.augment import Augmentation
from graphc.train.chain import augmentations, augmented, check_chain, shape_of_images
from graphc.train.data_checks import Array, described, flag, paired, whole
from graphc.train.draws import generator
from graphc.train.prefetch import prefetch

Batch = tuple[Array, Array]


class Batches:
    """The samples of x [n, ...] and y [n, ...] in batches; each iteration is one epoch.

    `size` is the number of samples of a batch, or "all". The last batch may be smaller, unless
    `drop_last`. `augment` changes the samples of each batch anew; where it is about images, flat
    ones [n, h*w] need `image_shape`, (h, w) or (h, w, channels), and stay flat. `prefetch`
    batches are made ahead in a thread; it pays where reading or changing them is slow. Batches are
    fresh arrays; x and y are read a batch at a time and never copied as a whole, so they may be
    memory maps.

    `next_epoch` is the number of the epoch that the next iteration gives; set it to resume.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        size: int | Literal["all"] = 64,
        image_shape: Sequence[int] | None = None,
        augment: Augmentation | Sequence[Augmentation] = (),
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        prefetch: int = 0,
    ) -> None:
        self.x, self.y = paired("Batches", x, y)
        self.samples = len(self.x)
        self.size = _batch_size(size, self.samples)
        self.augment = augmentations("Batches", augment)
        self.image_shape = shape_of_images("Batches", self.x, image_shape, self.augment)
        check_chain(self.augment, self.x, self.y, self.image_shape)
        self.seed = whole("Batches", "seed", seed, 0, 2**64 - 1)
        self.shuffle = flag("Batches", "shuffle", shuffle)
        self.drop_last = flag("Batches", "drop_last", drop_last)
        self.prefetch = whole("Batches", "prefetch", prefetch, 0)
        self.next_epoch = 0

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return self.samples // self.size if self.drop_last else -(-self.samples // self.size)

    def __repr__(self) -> str:
        changes = f", augment={list(self.augment)}" if self.augment else ""
        return f"Batches({described(self.x)}, {described(self.y)}, size={self.size}{changes})"

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch, which counts as begun."""
        batches = self.epoch(self.next_epoch)
        self.next_epoch += 1
        return batches

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from batch `start` on: the same ones whenever asked."""
        number = whole("Batches.epoch", "number", number, 0, 2**64 - 1)
        start = whole("Batches.epoch", "start", start, 0, len(self))
        batches = self._batches(number, start)
        return prefetch(batches, self.prefetch) if self.prefetch else batches

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        x, y, size = self.x, self.y, self.size
        order = generator(self.seed, epoch).permutation(self.samples) if self.shuffle else None
        for i in range(start, len(self)):
            rows = slice(i * size, (i + 1) * size)
            if order is None:
                batch = x[rows].copy(), y[rows].copy()
            else:
                batch = x.take(order[rows], axis=0), y.take(order[rows], axis=0)
            if self.augment:
                rng = generator(self.seed, epoch, 1 + i)
                batch = augmented(*batch, self.augment, self.image_shape, rng)
            yield batch


def _batch_size(size: object, samples: int) -> int:
    if size == "all":
        return samples
    found = whole("Batches", "size", size, 1)
    if found > samples:
        raise gx.InputError(
            f"Batches: size={found} is larger than the set of {samples} samples; "
            f'need an integer from 1 to {samples}, or size="all"'
        )
    return found
