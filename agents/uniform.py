"""Uniform random play: the zero of human-normalized scores, and the template for a new agent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv
from rl_lab.seeding import generator


class Uniform(Agent):
    """Acts uniformly at random and learns nothing."""

    def __init__(self, config: AgentConfig, task: Task) -> None:
        self._num_actions = task.num_actions
        self._rng = generator(task.seed, "exploration")
        self._acting_rng = generator(task.seed, "acting")

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """Play."""
        env.reset()
        while env.steps < steps:
            env.step(self._rng.integers(0, self._num_actions, env.num_games))

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Random actions [B], from a stream of their own: how often it is asked does not change the training."""
        return self._acting_rng.integers(0, self._num_actions, len(observations))

    def save(self, directory: Path) -> None:
        """Nothing to save."""

    def load(self, directory: Path) -> None:
        """Nothing to load."""
