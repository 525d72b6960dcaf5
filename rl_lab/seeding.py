"""One root seed, a named generator for each consumer.

Streams are told apart by name, so that a new consumer changes none of the others.
"""

from __future__ import annotations

import zlib

import numpy as np


def seed_sequence(root_seed: int, *names: str | int) -> np.random.SeedSequence:
    """The seed of the consumer called `names`, e.g. ("train", 3, "environment")."""
    words = [name if isinstance(name, int) else zlib.crc32(name.encode()) for name in names]
    # As entropy, trailing zeros would be lost: ("evaluation",) and ("evaluation", 0) would be one stream.
    return np.random.SeedSequence(root_seed, spawn_key=words)


def generator(root_seed: int, *names: str | int) -> np.random.Generator:
    """The numpy generator of the consumer called `names`."""
    return np.random.Generator(np.random.PCG64(seed_sequence(root_seed, *names)))


def integer_seed(root_seed: int, *names: str | int) -> int:
    """A seed in [0, 2**31) for a library that takes an integer."""
    return int(seed_sequence(root_seed, *names).generate_state(1)[0] >> 1)
