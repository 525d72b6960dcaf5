from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch

from rl_lab.atari import named_protocol
from rl_lab.errors import LabError, LabWarning
from rl_lab.guards import require_finite_weights, warn_of_divergence
from tests.fakes import EveryStep
from tests.test_dqn import play, ready_agent, small_config


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_weight_that_is_not_finite_is_an_error(value: float) -> None:
    weights = torch.ones(1_000)
    require_finite_weights(weights)
    weights[500] = value
    with pytest.raises(LabError, match="learning diverged"):
        require_finite_weights(weights)


@pytest.mark.parametrize(("q_value", "bound"), [(100.1, "100"), (-100.1, "100")])
def test_values_beyond_what_rewards_allow_are_a_warning_with_the_bound(q_value: float, bound: str) -> None:
    with pytest.warns(LabWarning, match=rf"beyond \+-{bound}, "):
        warn_of_divergence(torch.tensor([[0.0, q_value]]), reward_clip=1, discount=0.99)


@pytest.mark.parametrize(
    ("q_value", "reward_clip", "discount"), [(99.9, 1, 0.99), (199.0, 2, 0.99), (1e9, 0, 0.99), (1e9, 1, 1.0)]
)
def test_values_within_the_bound_or_without_one_are_no_warning(
    q_value: float, reward_clip: float, discount: float
) -> None:
    warn_of_divergence(torch.tensor([[q_value]]), reward_clip=reward_clip, discount=discount)


def test_the_warning_is_shown_once() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for q_value in (200.0, 300.0):
            warn_of_divergence(torch.tensor([[q_value]]), reward_clip=1, discount=0.99)
    assert len(shown) == 1


@pytest.mark.parametrize(("q_value", "temperature"), [(-189.0, 0.03), (390.0, 2.0)])
def test_what_munchausen_adds_to_a_reward_is_no_divergence(q_value: float, temperature: float) -> None:
    config = dataclasses.replace(small_config(), munchausen=True, discount=0.99, munchausen_temperature=temperature)
    agent = ready_agent(config)
    agent._updates, agent._last_q_values = 1, torch.full((1, 6), q_value)
    agent._guard(named_protocol("nature2015"))
    agent._last_q_values *= 1.8
    with pytest.warns(LabWarning, match="learning may diverge"):
        agent._guard(named_protocol("nature2015"))


def test_dqn_stops_when_a_weight_is_lost() -> None:
    agent = ready_agent()

    class LosesAWeight(EveryStep):
        def due(self) -> bool:
            if agent._updates == 3:
                agent._weights.values.data[7] = math.nan
            return agent._updates == 3

    with pytest.raises(LabError, match="a weight of the network is not finite"):
        play(agent, 400, log=LosesAWeight())


def test_dqn_warns_of_values_that_no_play_can_earn() -> None:
    agent = ready_agent()
    agent.network.state_dict()["7.bias"] += 1_000
    with pytest.warns(LabWarning, match="beyond"):
        play(agent, 400)
