"""Large replay memories for the suites: a recording of real random play, written over and over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, named_protocol
from rl_lab.atari.vector_env import OBSERVATION_SHAPE, Step
from rl_lab.benchmarks.measuring import Settings
from rl_lab.replay import ReplayMemory
from rl_lab.replay.frames import bytes_per_frame
from rl_lab.system import available_memory_bytes

Recording = Sequence[tuple[NDArray[np.uint8], NDArray[np.int64], Step]]
"""Observations, actions and what they led to, one entry a step of all games."""

NUM_GAMES = 8
_RECORDED_STEPS = 20_000


def memory_bytes(storage: str, transitions: int) -> int:
    """What a replay memory of this size may take."""
    return transitions * bytes_per_frame(storage, OBSERVATION_SHAPE[1:]) * 11 // 10


def those_that_fit(needed_bytes: Mapping[str, int], *, at_once: bool = True) -> tuple[list[str], list[str]]:
    """The names of what this machine's memory can hold beside a recording, and a note for each that was left out."""
    free = available_memory_bytes() - _RECORDED_STEPS * math.prod(OBSERVATION_SHAPE)
    fitting, notes = [], []
    for name, needed in needed_bytes.items():
        if needed < free:
            fitting.append(name)
            free -= needed if at_once else 0
        else:
            notes.append(f"left out: {name}, which needs {needed / 1e9:.1f} GB of memory")
    return fitting, notes


def record(game: str, settings: Settings) -> Recording:
    """Random play over `NUM_GAMES` games: 20,000 agent steps, or as many as the memories to fill are for."""
    env = AtariVectorEnv(
        game, named_protocol("nature2015"), NUM_GAMES, np.random.SeedSequence(0), training=True, num_threads=2
    )
    rng = np.random.default_rng(0)
    observations, recording = env.reset(), []
    for _ in range(min(_RECORDED_STEPS, settings.transitions) // NUM_GAMES):
        actions = rng.integers(0, env.num_actions, NUM_GAMES)
        step = env.step(actions)
        recording.append((observations, actions, step))
        observations = step.observations
    return recording


def fill(memory: ReplayMemory, recording: Recording, transitions: int) -> None:
    """Write the recording again and again, as if every pass were new games."""
    for k in range(transitions // NUM_GAMES):
        place = k % len(recording)
        if place == 0 and k:
            memory.cut(recording[-1][2].observations)
        memory.add(*recording[place])
    memory.cut(recording[place][2].observations)
