"""The random generators of the data: each a pure function of seed, epoch and place, so that a
resumed run sees what an uninterrupted one would have seen."""

import numpy as np

SPLIT, EXPAND = 2**64 - 1, 2**64 - 2  # places that no batch of an epoch has


def generator(seed: int, epoch: int, place: int = 0) -> np.random.Generator:
    """A Philox generator: (seed, epoch) is its key; places are 2^192 draws apart."""
    words = np.array([seed, epoch, 0, 0, 0, place], np.uint64)
    return np.random.Generator(np.random.Philox(key=words[:2], counter=words[2:]))
