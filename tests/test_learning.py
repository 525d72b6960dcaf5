"""Agents learn: a small game whose optimum is known is played almost perfectly after minutes of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rl_lab.agent import Agent, Task, load_agent
from tests.fakes import OPTIMUM, CatchEnv, as_atari

if TYPE_CHECKING:
    from agents.dqn import DQN
    from agents.sb3_dqn import SB3DQN

NUM_GAMES = 4
TOTAL_STEPS = 5_600
"""Three seeds of three reached the optimum by 4,000 steps."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class LastMetrics:
    """A metric log that is due at each step and keeps the newest."""

    def __init__(self) -> None:
        self.metrics: Mapping[str, float] = {}

    def due(self) -> bool:
        return True

    def __call__(self, metrics: Mapping[str, float]) -> None:
        self.metrics = metrics

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None: ...


def greedy_score(agent: Agent, episodes: int = 100) -> float:
    """Mean score over fresh episodes."""
    env = CatchEnv(num_games=20, seed=1_000)
    observations = env.reset()
    while len(env.scores) < episodes:
        observations = env.step(agent.act(observations)).observations
    return fmean(env.scores[:episodes])


def new_dqn(seed: int, **changes: Any) -> Agent:
    """Our DQN with the 2013 network: small, since the game is."""
    agent_class = cast("type[DQN]", load_agent("dqn"))
    config = agent_class.Config(
        name="dqn",
        network="mnih2013",
        replay_capacity=5_000,
        learning_starts_steps=400,
        update_every_steps=4,
        target_update_steps=200,
        epsilon_decay_steps=TOTAL_STEPS // 2,
        optimizer="adam",
        optimizer_epsilon=1e-8,
        learning_rate=1e-3,
    )
    config = dataclasses.replace(config, **changes)
    return agent_class(config, Task(CatchEnv.num_actions, NUM_GAMES, TOTAL_STEPS, seed))


def test_an_untrained_dqn_does_not_play_catch() -> None:
    assert greedy_score(new_dqn(seed=0)) < 0.5 * OPTIMUM


def test_dqn_learns_to_play_catch() -> None:
    agent = new_dqn(seed=0)
    agent.prepare()
    for iteration in range(2):
        agent.train(as_atari(CatchEnv(NUM_GAMES, seed=iteration)), TOTAL_STEPS // 2, LastMetrics())
    assert greedy_score(agent) > 0.9 * OPTIMUM


HEADS: dict[str, dict[str, Any]] = {
    "dueling": {"dueling": True},
    "categorical": {"values": "categorical", "atoms": 21, "v_min": -2.0, "v_max": 2.0},
    "quantile": {"values": "quantile", "quantiles": 20},
    "implicit quantile": {"values": "implicit_quantile", "quantiles": 8},
    "dueling categorical with noise alone": {
        **{"values": "categorical", "atoms": 21, "v_min": -2.0, "v_max": 2.0, "dueling": True, "double": True},
        **{"noisy": True, "epsilon_start": 0.0, "epsilon_end": 0.0},
    },
    "dueling implicit quantile of Munchausen": {
        **{"values": "implicit_quantile", "quantiles": 8, "dueling": True, "munchausen": True}
    },
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_every_head_learns_to_play_catch(head: dict[str, Any]) -> None:
    quick = {"network": "data_efficient", "hidden_units": 64, "initialization": "he", "n_step": 3}
    agent = new_dqn(seed=0, **{**quick, "target_update_steps": 100, "epsilon_decay_steps": TOTAL_STEPS // 2, **head})
    agent.prepare()
    agent.train(as_atari(CatchEnv(NUM_GAMES, seed=0)), TOTAL_STEPS, LastMetrics())
    assert greedy_score(agent) > 0.9 * OPTIMUM


def test_sb3_dqn_trains_on_the_same_game() -> None:
    agent_class = cast("type[SB3DQN]", load_agent("sb3_dqn"))
    config = agent_class.Config(
        name="sb3_dqn",
        replay_capacity=1_000,
        learning_starts_steps=100,
        target_update_steps=100,
        epsilon_decay_steps=200,
    )
    agent = agent_class(config, Task(CatchEnv.num_actions, NUM_GAMES, total_steps=400, seed=0))
    agent.prepare()
    log = LastMetrics()
    agent.train(as_atari(CatchEnv(NUM_GAMES, seed=0)), 400, log)
    assert log.metrics["train/n_updates"] == (400 - 100) / 4 - 1  # the last update follows the last metric
    assert log.metrics["train/loss"] > 0
