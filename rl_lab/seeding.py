"""One root seed, a named generator for each consumer.

Streams are told apart by name, so that a new consumer changes none of the others.
"""

from __future__ import annotations

import zlib

import numpy as np

from rl_lab.errors import LabError

_GENERATOR_BITS = {"state": 128, "inc": 128, "has_uint32": 1, "uinteger": 32}
"""What PCG64 remembers (O'Neill 2014), by numpy's names."""


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


def generator_state(rng: np.random.Generator) -> dict[str, int]:
    """All that a generator made here needs to go on, as plain integers."""
    state = rng.bit_generator.state
    return {**state["state"], "has_uint32": state["has_uint32"], "uinteger": state["uinteger"]}


def restore_generator(rng: np.random.Generator, state: object) -> None:
    """Let a generator made here go on from a `generator_state`; LabError for what is none."""
    if not isinstance(state, dict) or state.keys() != _GENERATOR_BITS.keys():
        raise LabError(f"the saved state of a generator is damaged: it has {', '.join(_GENERATOR_BITS)}")
    for name, bits in _GENERATOR_BITS.items():
        if type(state[name]) is not int or not 0 <= state[name] < 2**bits:
            raise LabError(f"the saved state of a generator is damaged: {name} is an integer of {bits} bits")
    if state["inc"] % 2 == 0:
        # With such a step PCG64 can repeat one number for ever, which numpy may go on refusing, out of reach of Ctrl-C.
        raise LabError("the saved state of a generator is damaged: inc is even")
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state["state"], "inc": state["inc"]},
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }
