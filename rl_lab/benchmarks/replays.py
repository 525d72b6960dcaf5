"""Large replay memories for the suites: a recording of real random play, written over and over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, named_protocol
from rl_lab.atari.vector_env import Step
from rl_lab.replay import ReplayMemory

Recording = Sequence[tuple[NDArray[np.uint8], NDArray[np.int64], Step]]
"""Observations, actions and what they led to, one entry a step of all games."""

NUM_GAMES = 8


def record(game: str, steps: int) -> Recording:
    """Random play of `steps` agent steps over `NUM_GAMES` games."""
    env = AtariVectorEnv(
        game, named_protocol("nature2015"), NUM_GAMES, np.random.SeedSequence(0), training=True, num_threads=2
    )
    rng = np.random.default_rng(0)
    observations, recording = env.reset(), []
    for _ in range(steps // NUM_GAMES):
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
