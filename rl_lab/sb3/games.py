"""The bench's parallel games as stable-baselines3 sees them, and one iteration of learning in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from rl_lab.atari import AtariVectorEnv
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.errors import LabError


def learn(model: BaseAlgorithm, env: AtariVectorEnv, steps: int, total_steps: int, report: Callable[[], None]) -> None:
    """One `learn` of SB3, until `env.steps` is `steps`; `report` is called after each step.

    The model was built with `BenchGames`. `env.steps` ends there exactly where what is left are whole rounds of SB3's.
    """
    games = model.get_env()
    assert isinstance(games, BenchGames)
    games.attach(env, steps)
    model.set_env(games)  # makes SB3 forget its last observation and reset
    model.learn(
        steps - env.steps,  # SB3 counts from here on
        callback=_PinAndReport(total_steps, report),
        # SB3 clears the values that metrics are read from whenever it writes its own log.
        log_interval=sys.maxsize,
        reset_num_timesteps=False,
    )


def require_whole_rounds(steps: int, what: str, steps_per_round: int) -> None:
    """LabError unless `steps` are a number of rounds: SB3 does not stop within one."""
    if steps % steps_per_round:
        raise LabError(
            f"{what} {steps}; allowed is a multiple of {steps_per_round}, since stable-baselines3 plays in rounds of "
            f"{steps_per_round} steps between updates"
        )


class BenchGames(VecEnv):
    """The bench's parallel games as SB3 sees them; `attach` puts the games of the next iteration behind it."""

    def __init__(self, num_games: int, num_actions: int) -> None:
        observation_space = spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8)
        super().__init__(num_games, observation_space, spaces.Discrete(num_actions))
        self._env: AtariVectorEnv | None = None
        self._last_step = 0

    def attach(self, env: AtariVectorEnv, steps: int) -> None:
        """Play in `env` from now on, until it has made `steps` agent steps."""
        self._env = env
        self._last_step = steps

    def reset(self) -> NDArray[np.uint8]:
        return self._attached.observations  # the bench has reset them

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._attached.send(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """A lost life that ends the return is an end to SB3 like any other, only that the game goes on after it."""
        step = self._attached.recv()
        # The end of an iteration cuts every game like a time limit, so that no n-step return reaches into the next one.
        is_cut = ~step.terminated & (step.truncated | (self._attached.steps >= self._last_step))
        ends = step.terminated | is_cut
        infos: list[dict[str, Any]] = [  # Any as in SB3's own signature
            {"terminal_observation": observation, "TimeLimit.truncated": bool(cut)} if end else {}
            for observation, cut, end in zip(step.next_observations, is_cut, ends, strict=True)
        ]
        return step.observations, step.rewards, ends, infos

    def close(self) -> None:
        """The bench owns the games."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[None]:
        if attr_name != "render_mode":  # SB3 asks every environment for this one
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError

    def env_method(
        self, method_name: str, *method_args: object, indices: VecEnvIndices = None, **method_kwargs: object
    ) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: object, indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self.num_envs

    @property
    def _attached(self) -> AtariVectorEnv:
        assert self._env is not None, "no games are attached"
        return self._env


class _PinAndReport(BaseCallback):
    """What SB3 calls while it learns."""

    def __init__(self, total_steps: int, report: Callable[[], None]) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._report = report

    def _on_training_start(self) -> None:
        # SB3 anneals epsilon over the steps of the current `learn`: its horizon is pinned to the whole experiment.
        self.model._total_timesteps = self._total_steps

    def _on_step(self) -> bool:
        self._report()
        return True
