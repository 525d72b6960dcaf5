"""Agents that are ready to be timed: they train by the like configs, and learn and act from the start on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import AtariVectorEnv, game_actions
from rl_lab.benchmarks.measuring import Settings, seconds
from rl_lab.experiment import config_path, load_experiment
from rl_lab.seeding import seed_sequence

OURS, BASELINE = "dqn/like", "sb3_dqn/like"
_LEARNING_STARTS_STEPS = 128
_REPLAY_CAPACITY = 10_000
_LEAST_STEPS_PER_GAME = 32


class Training:
    """An agent and the games that it trains on, from turn to turn: starting them takes longer than a turn may."""

    def __init__(self, config: str, settings: Settings, *, num_games: int = 1, **changes: object) -> None:
        """`changes` are hyperparameters that differ from the config's. A turn has at least 32 steps of each game."""
        self._settings = settings
        self._steps = max(settings.steps, _LEAST_STEPS_PER_GAME * num_games)
        self._config = dataclasses.replace(
            load_experiment(config_path(config)),
            num_games=num_games,
            total_steps=self._steps * (settings.repetitions + 1),
            iteration_steps=self._steps,
            emulator_threads=settings.threads,
        )
        self.agent = self._ready_agent(changes)

    def steps_per_second(self) -> float:
        """Agent steps a second over one turn, over all games."""
        goal = self._env.steps + self._steps
        return self._steps / seconds(lambda: self.agent.train(self._env, goal, _NoLog()))

    @cached_property
    def _env(self) -> AtariVectorEnv:
        """Not made for an agent that does not play."""
        config = self._config
        env = AtariVectorEnv(
            config.game,
            config.protocol,
            config.num_games,
            seed_sequence(0, "bench"),
            training=True,
            num_threads=config.emulator_threads,
        )
        env.reset()
        return env

    @property
    def update_every_steps(self) -> int:
        """Agent steps between updates."""
        return int(vars(self._config.agent)["update_every_steps"])

    def _ready_agent(self, changes: Mapping[str, object]) -> Agent:
        config, settings = self._config, self._settings
        hyperparameters = {
            **vars(config.agent),
            "learning_starts_steps": _LEARNING_STARTS_STEPS,
            # Random actions cost nothing: the networks act from the start on, as they do in nine tenths of a run.
            "epsilon_decay_steps": _LEARNING_STARTS_STEPS,
            "replay_capacity": _REPLAY_CAPACITY,
            **changes,
        }
        agent_type = load_agent(config.agent.name)
        task = Task(
            len(game_actions(config.game, config.protocol)),
            config.num_games,
            config.total_steps,
            seed=0,
            device=settings.device,
        )
        agent = agent_type(agent_type.Config(**hyperparameters), task)
        agent.prepare()
        return agent


class _NoLog:
    """Metrics are not wanted."""

    def due(self) -> bool:
        """Never."""
        return False

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Nothing is kept."""

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        """Nothing is shown."""
