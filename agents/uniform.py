"""Uniform random play: the zero of human-normalized scores, and the template for a new agent."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.seeding import generator, generator_state, restore_generator


class Uniform(Agent):
    """Acts uniformly at random and learns nothing."""

    def __init__(self, config: AgentConfig, task: Task) -> None:
        self._task = task
        self._rng = generator(task.seed, "exploration")
        self._begin_acting()

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """Play."""
        while env.steps < steps and not env.pause_requested:
            env.step(self._rng.integers(0, self._task.num_actions, env.num_games))
        self._begin_acting()

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Random actions [B], from a stream of their own: how often it is asked does not change the training."""
        return self._acting_rng.integers(0, self._task.num_actions, len(observations))

    def save(self) -> dict[str, bytes]:
        """Nothing to save."""
        return {}

    def load(self, files: SavedFiles) -> None:
        """Nothing to load."""

    def save_state(self) -> SavedState:
        """generator.json: the place in the stream of actions."""
        return SavedState({"generator.json": json.dumps(generator_state(self._rng)).encode()})

    def load_state(self, files: SavedFiles) -> None:
        """Go on in the stream of actions."""
        restore_generator(self._rng, files.read_json("generator.json"))
        self._begin_acting()

    def _begin_acting(self) -> None:
        # Anew after each training, and by where that ended: an evaluation that was cut off is repeated to the bit.
        self._acting_rng = generator(self._task.seed, "acting", generator_state(self._rng)["state"] % 2**32)
