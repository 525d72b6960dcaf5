"""The from-scratch DQN: when it learns, what it draws from, what it saves, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lab.agent import Task, load_agent
from rl_lab.atari import AtariVectorEnv, Episode, named_protocol
from rl_lab.augmentation import Pixels, random_intensities, random_shifts
from rl_lab.errors import LabError, LabWarning
from rl_lab.replay import Batch, Draw
from rl_lab.saved import SavedFiles
from rl_lab.values import VALUES
from tests.fakes import EveryStep

if TYPE_CHECKING:
    from agents.dqn import DQN, DQNConfig

PONG_ACTIONS = 6


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def dqn_class() -> type[DQN]:
    """As the lab loads it."""
    return cast("type[DQN]", load_agent("dqn"))


def small_config() -> DQNConfig:
    """Learns after 32 steps; an update costs milliseconds."""
    return dqn_class().Config(
        name="dqn",
        network="mnih2013",
        replay_capacity=400,
        batch_size=4,
        learning_starts_steps=32,
        update_every_steps=4,
        target_update_steps=20,
        epsilon_decay_steps=100,
    )


def new_agent(config: DQNConfig | None = None, *, num_games: int = 1, seed: int = 0, total_steps: int = 10_000) -> DQN:
    """Without what only training needs."""
    task = Task(num_actions=PONG_ACTIONS, num_games=num_games, total_steps=total_steps, seed=seed)
    return dqn_class()(config or small_config(), task)


def ready_agent(config: DQNConfig | None = None, *, num_games: int = 1, seed: int = 0) -> DQN:
    """Ready to train."""
    agent = new_agent(config, num_games=num_games, seed=seed)
    agent.prepare()
    return agent


def play(agent: DQN, steps: int, *, num_games: int = 1, seed: int = 0, log: EveryStep | None = None) -> EveryStep:
    """Train on Pong for `steps` agent steps over all games."""
    log = log or EveryStep()
    env = AtariVectorEnv("Pong", named_protocol("nature2015"), num_games, np.random.SeedSequence(seed), training=True)
    env.reset()
    agent.train(env, steps, log)
    return log


def digest(network: nn.Module) -> str:
    """Of every byte of the weights."""
    return hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in network.state_dict().values())).hexdigest()


def learned(config: DQNConfig, *, steps: int, seed: int = 0) -> str:
    """The weights after `steps` in two games, as a digest."""
    agent = ready_agent(config, num_games=2, seed=seed)
    play(agent, steps, num_games=2, seed=seed)
    return digest(agent.network)


def bold_config() -> DQNConfig:
    """Steps so large that TD errors leave [-1, 1] after a few updates."""
    return replace(small_config(), learning_rate=0.1)


@pytest.fixture(scope="module")
def boldly_learned() -> str:
    """The weights after 80 steps of the bold configuration."""
    torch.set_num_threads(1)
    return learned(bold_config(), steps=80)


def noise_observations(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 84, 84), np.uint8)


def global_generators() -> tuple[object, ...]:
    """The states of the generators that everybody shares."""
    numpy_state = np.random.get_state(legacy=False)["state"]
    return numpy_state["key"].tobytes(), numpy_state["pos"], torch.get_rng_state().numpy().tobytes(), random.getstate()


@pytest.mark.parametrize(
    ("num_games", "update_every_steps", "expected"),
    # Learning runs beside the newest step and does not see it: (N - games - 32) // update_every_steps.
    [(1, 4, 19), (1, 8, 9), (8, 4, 18), (8, 16, 4)],
)
def test_updates_after_112_steps_are_what_the_config_says(
    num_games: int, update_every_steps: int, expected: int
) -> None:
    config = replace(small_config(), update_every_steps=update_every_steps)
    log = play(ready_agent(config, num_games=num_games), 112, num_games=num_games)
    assert log.metrics[-1]["train/n_updates"] == expected


@pytest.mark.parametrize("sampling", ["uniform", "prioritized"])
def test_several_updates_at_once_are_several_batches_of_the_sampling_thread(
    sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = ready_agent(replace(small_config(), updates_at_once=3, replay_sampling=sampling))
    threads: list[threading.Thread] = []
    sample = agent.sample

    def noted() -> tuple[Batch, Draw | None]:
        threads.append(threading.current_thread())
        return sample()

    monkeypatch.setattr(agent, "sample", noted)
    log = play(agent, 60)
    assert [metrics["train/n_updates"] for metrics in log.metrics[35:42]] == [0, 3, 3, 3, 3, 6, 6]
    assert log.metrics[-1]["train/n_updates"] == len(threads) == 18
    assert threading.main_thread() not in threads


def test_resets_come_before_the_update_after_each_period(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(replace(small_config(), reset_every_updates=5))
    resets: list[int] = []
    monkeypatch.setattr(agent, "reset", lambda: resets.append(agent._updates))
    play(agent, 73)
    assert (agent._updates, resets) == (10, [5])  # a network that was just reset is never evaluated
    play(agent, 4, seed=1)
    assert (agent._updates, resets) == (11, [5, 10])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_reset_leaves_the_replay_and_its_priorities_and_of_the_rest_a_share_of_the_convolutions(
    precision: str,
) -> None:
    config = replace(prioritized_config(), optimizer="adam", precision=precision, reset_shrink=0.7)
    agent = ready_agent(config)
    play(agent, 60)
    priorities = agent.replay.save().files["priorities.safetensors"]
    online, target = copy.deepcopy(agent.network), copy.deepcopy(agent._target_network)
    assert agent._optimizer.state
    agent.reset()
    assert not agent._optimizer.state
    assert agent.replay.save().files["priorities.safetensors"] == priorities
    heads = []
    for network, before in ((agent.network, online), (agent._target_network, target)):
        new, old = ([weight.float() for weight in each.parameters()] for each in (network, before))
        # Torch7's weights lie within the bound: 0.3 of it is how far fresh ones can be from 0.7 of the old.
        bound = 0.3 / (4 * 8 * 8) ** 0.5
        assert 0.9 * bound < (new[0] - 0.7 * old[0]).abs().max() < 1.02 * bound  # bf16 rounds
        hidden, head = -4, -2
        assert not torch.allclose(new[hidden], old[hidden], atol=1e-2)
        assert not torch.allclose(new[head], old[head], atol=1e-2)
        heads.append(new[head])
    assert not torch.allclose(heads[0], heads[1], atol=1e-2)
    # What acts and learns is the network that was reset.
    for learners, full in zip(agent._learner.parameters(), agent.network.parameters(), strict=True):
        assert torch.equal(learners, full.to(learners.dtype))


def test_each_reset_draws_weights_of_its_own_from_the_seed() -> None:
    heads = []
    for seed, updates in ((0, 5), (0, 5), (0, 10), (1, 5)):
        agent = ready_agent(replace(small_config(), target_update_steps=0), seed=seed)
        agent._updates = updates
        agent.reset()
        heads.append([*agent.network.parameters()][-2])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[3])


def test_beyond_the_rainbow_learns_with_all_its_parts_in_one_update() -> None:
    config = replace(
        prioritized_config(),
        network="impala",
        impala_pool=6,
        spectral_norm=True,
        hidden_units=16,
        dueling=True,
        noisy=True,
        values="implicit_quantile",
        quantiles=8,
        munchausen=True,
        n_step=3,
        max_gradient_norm=10.0,
        optimizer="adam",
    )
    agent = ready_agent(config)
    before = [weight.detach().clone() for weight in agent.network.parameters()]
    play(agent, 37)
    assert agent._updates == 1
    assert agent._last_loss.isfinite()
    assert (agent._last_priorities > 0).all()
    assert agent._last_q_values.shape == (4, PONG_ACTIONS)
    assert not any(torch.equal(new, old) for new, old in zip(agent.network.parameters(), before, strict=True))


def test_there_is_no_update_before_learning_starts() -> None:
    agent = ready_agent()
    before = digest(agent.network)
    log = play(agent, 36)
    assert [metrics["train/n_updates"] for metrics in log.metrics] == [0.0] * 36
    assert digest(agent.network) == before


def test_loss_is_reported_from_the_first_update_on() -> None:
    log = play(ready_agent(), 60)
    assert all(("train/loss" in metrics) == (metrics["train/n_updates"] > 0) for metrics in log.metrics)
    assert "train/loss" in log.metrics[-1]


def test_training_goes_on_where_the_last_iteration_stopped() -> None:
    agent = ready_agent()
    parts = play(agent, 50).metrics + play(agent, 50, seed=1).metrics
    whole = play(ready_agent(), 100).metrics
    for tag in ("train/n_updates", "rollout/exploration_rate"):
        assert [metrics[tag] for metrics in parts] == [metrics[tag] for metrics in whole]


@pytest.mark.parametrize(("num_games", "copy_steps"), [(1, [20, 40, 60, 80]), (8, [24, 40, 64, 80])])
def test_target_network_is_copied_exactly_at_its_period_and_frozen_otherwise(
    num_games: int, copy_steps: list[int]
) -> None:
    agent = ready_agent(num_games=num_games)
    online, target = [digest(agent.network)], [digest(agent._target_network)]

    def look() -> None:
        online.append(digest(agent.network))
        target.append(digest(agent._target_network))

    play(agent, 96, num_games=num_games, log=EveryStep(look))
    assert target[0] == online[0]
    for index in range(1, len(target)):
        steps = (index - 1) * num_games  # those that learning has seen
        assert target[index] == (online[index] if steps in copy_steps else target[index - 1])
    assert len(set(target)) == 4  # the copy before learning starts changes nothing


def averaging_config(rate: float) -> DQNConfig:
    return replace(small_config(), target_update_steps=0, target_rate=rate)


def test_target_network_goes_its_share_of_the_way_after_each_update_and_not_between() -> None:
    agent = ready_agent(replace(averaging_config(0.3), learning_rate=0.001))
    average, updates = agent._target_weights.clone(), 0
    online: list[Tensor] = []

    def look() -> None:
        nonlocal average, updates
        if agent._updates > updates:
            average, updates = 0.7 * average + 0.3 * agent._weights.values.detach(), agent._updates
        online.append(agent._weights.values.detach().clone())
        assert torch.allclose(agent._target_weights, average, rtol=1e-5, atol=1e-7)

    play(agent, 60, log=EveryStep(look))
    assert updates == 6
    assert not torch.allclose(online[-1], online[0], atol=1e-4)


def test_the_average_of_weights_that_stay_is_theirs_but_for_what_is_left_of_its_start() -> None:
    agent = ready_agent(replace(averaging_config(0.5), learning_rate=1e-12))
    play(agent, 40)
    agent._target_weights.zero_()
    for _ in range(3):
        agent.update(agent.replay.sample(4, np.random.default_rng(0)))
    assert torch.allclose(agent._target_weights, 0.875 * agent._weights.values)  # 1 - 0.5 ** 3
    target = torch.cat([weight.flatten() for weight in agent._target_network.parameters()])
    assert target.norm().item() == pytest.approx(agent._target_weights.norm().item(), rel=1e-5)


def test_without_target_network_the_online_network_is_the_target() -> None:
    agent = ready_agent(replace(small_config(), target_update_steps=0))
    play(agent, 60)
    assert agent._target_network is agent.network


class SameValues(nn.Module):
    """The same action values for every observation."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self._values = torch.tensor([values])

    def forward(self, observations: Tensor) -> Tensor:
        """[B, A]"""
        return self._values.expand(len(observations), -1)


@pytest.mark.parametrize(("double", "expected"), [(False, 10.0), (True, 4.0)])
def test_online_network_chooses_in_double_dqn_and_the_target_network_values(double: bool, expected: float) -> None:
    agent = ready_agent(replace(small_config(), double=double))
    agent._learner, agent._target_network = SameValues([0.0, 1.0]), SameValues([10.0, 4.0])
    target = next_step(agent)
    assert (target.policy_t * target.q_t).sum(dim=1).tolist() == [expected] * 3
    assert target.r_t.tolist() == [1.0] * 3


def next_step(agent: DQN) -> Any:
    """What three transitions with reward 1, discount 1 and action 0 are learned towards."""
    ones, observations = torch.ones(3), torch.zeros((3, 4, 84, 84), dtype=torch.uint8)
    return agent._target(observations, torch.zeros(3, dtype=torch.int64), ones, ones, observations)


def test_munchausen_softens_the_policy_and_rewards_its_logarithm_both_of_the_target_network() -> None:
    config = replace(small_config(), munchausen=True, munchausen_temperature=2.0, munchausen_scale=0.5)
    agent = ready_agent(config)
    agent._learner, agent._target_network = SameValues([7.0, 1.0]), SameValues([0.0, 2 * math.log(3)])
    target = next_step(agent)
    assert target.policy_t[0].tolist() == pytest.approx([0.25, 0.75])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert target.r_t.tolist() == pytest.approx([1 + 0.5 * -1.0 + 2 * entropy] * 3)  # 2 ln(1/4) is clipped to -1


def test_epsilon_is_1_until_learning_starts_and_follows_the_schedule_then() -> None:
    rates = [metrics["rollout/exploration_rate"] for metrics in play(ready_agent(), 120).metrics]
    assert rates[:31] == [1.0] * 31
    # After 32, 50, 99, 100 and 120 steps: 1 - 0.9 * steps / 100, at least 0.1.
    assert [rates[steps - 1] for steps in (32, 50, 99, 100, 120)] == pytest.approx([0.712, 0.55, 0.109, 0.1, 0.1])


class RecordingEnv(AtariVectorEnv):
    """Two games of Pong that keep the actions sent."""

    def __init__(self) -> None:
        super().__init__("Pong", named_protocol("nature2015"), 2, np.random.SeedSequence(0), training=True)
        self.sent: list[NDArray[np.int64]] = []
        self.reset()

    def send(self, actions: NDArray[np.int64]) -> None:
        """Keep them."""
        self.sent.append(actions.copy())
        super().send(actions)


def test_play_is_uniform_until_learning_starts() -> None:
    env = RecordingEnv()
    ready_agent(replace(small_config(), learning_starts_steps=1_200), num_games=2).train(env, 1_200, EveryStep())
    counts = np.bincount(np.concatenate(env.sent), minlength=PONG_ACTIONS)
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 5 + 6 * math.sqrt(10)  # mean and six standard deviations at 5 degrees of freedom


def test_play_is_greedy_where_epsilon_is_0() -> None:
    config = replace(
        small_config(), epsilon_start=0.0, epsilon_end=0.0, learning_starts_steps=4, update_every_steps=10_000
    )
    agent, env = ready_agent(config, num_games=2), RecordingEnv()
    agent.train(env, 80, EveryStep())
    # The same play once more: no update was due, so that the weights are the same.
    again = AtariVectorEnv("Pong", env.protocol, 2, np.random.SeedSequence(0), training=True)
    observations = again.reset()
    greedy = []
    for actions in env.sent:
        greedy.append(agent.act(observations))
        observations = again.step(actions).observations
    assert np.array_equal(greedy[2:], env.sent[2:])
    assert not np.array_equal(greedy[:2], env.sent[:2])  # random before learning starts


def test_same_seed_gives_the_same_bytes() -> None:
    assert learned(small_config(), steps=200) == learned(small_config(), steps=200)


def test_two_seeds_start_from_two_networks() -> None:
    assert digest(new_agent(seed=0).network) != digest(new_agent(seed=1).network)


def test_two_seeds_learn_two_networks() -> None:
    assert learned(small_config(), steps=60, seed=0) != learned(small_config(), steps=60, seed=1)


@pytest.mark.filterwarnings("ignore:the network values states beyond")  # it learns fast, to differ soon
@pytest.mark.parametrize(
    "change",
    [
        {"network": "nature"},
        {"initialization": "he"},
        {"precision": "bf16"},
        {"double": True},
        {"n_step": 3},
        {"discount": 0.9},
        {"loss": "squared"},
        {"optimizer": "adam"},
        {"learning_rate": 0.001},
        {"rmsprop_decay": 0.9},
        {"optimizer_epsilon": 0.01},
        {"max_gradient_norm": 0.001},
        {"batch_size": 5},
        {"replay_capacity": 20},
        {"target_update_steps": 0},
        {"network": "data_efficient"},
        {"network": "impala", "hidden_units": 16},
        {"hidden_units": 64},
        {"layer_norm": True},
        {"dropout": 0.5},
        {"noisy": True},
        {"dueling": True},
        {"munchausen": True},
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"values": "categorical"},
        {"values": "quantile"},
        {"values": "implicit_quantile", "quantiles": 4},
        {"updates_at_once": 2},
        {"target_update_steps": 0, "target_rate": 0.1},
        {"reset_every_updates": 5},
    ],
    ids=lambda change: ",".join(f"{key}={value}" for key, value in change.items()),
)
def test_every_hyperparameter_changes_what_is_learned(change: dict[str, Any], boldly_learned: str) -> None:
    assert learned(replace(bold_config(), **change), steps=80) != boldly_learned


@pytest.mark.filterwarnings("ignore:the network values states beyond")
@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"network": "impala", "hidden_units": 16}, {"impala_width": 2}),
        ({"network": "impala", "hidden_units": 16}, {"impala_pool": 6}),
        ({"network": "impala", "hidden_units": 16}, {"spectral_norm": True}),
        ({"noisy": True}, {"noisy_sigma": 0.1}),
        ({"values": "categorical"}, {"atoms": 21}),
        ({"values": "categorical"}, {"v_min": -5.0}),
        ({"values": "categorical"}, {"v_max": 5.0}),
        ({"values": "quantile"}, {"quantiles": 10}),
        ({"values": "implicit_quantile", "quantiles": 4}, {"cosines": 8}),
        ({"munchausen": True}, {"munchausen_temperature": 0.3}),
        ({"munchausen": True}, {"munchausen_scale": 0.5}),
        ({"munchausen": True, "munchausen_temperature": 1.0}, {"munchausen_clip": -0.01}),
        ({"optimizer": "sgd"}, {"momentum": 0.9}),
        ({"optimizer": "adamw"}, {"weight_decay": 0.1}),
        ({"target_update_steps": 0, "target_rate": 0.1}, {"target_rate": 0.2}),
        ({"reset_every_updates": 3}, {"reset_shrink": 0.5}),
    ],
    ids=lambda settings: ",".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_hyperparameter_of_a_switch_changes_what_is_learned(base: dict[str, Any], change: dict[str, Any]) -> None:
    config = replace(bold_config(), **base)
    assert learned(replace(config, **change), steps=60) != learned(config, steps=60)


@pytest.mark.parametrize(
    "settings",
    [{"noisy": True}, {"dropout": 0.5}, {"values": "implicit_quantile", "quantiles": 4}],
    ids=lambda settings: next(iter(settings)),
)
def test_networks_that_draw_act_the_same_again_and_change_nothing_by_it(settings: dict[str, Any]) -> None:
    config, observations = replace(small_config(), **settings), noise_observations(8)
    agent = ready_agent(config)
    play(agent, 60)
    before = global_generators(), agent._network_rng.bit_generator.state, digest(agent.network)
    assert np.array_equal(agent.act(observations), agent.act(observations))
    assert (global_generators(), agent._network_rng.bit_generator.state, digest(agent.network)) == before
    again = ready_agent(config)
    play(again, 60)
    assert digest(again.network) == digest(agent.network)


@pytest.mark.parametrize("values", VALUES)
def test_td_errors_of_the_last_batch_are_those_of_mean_values(values: str) -> None:
    agent = ready_agent(replace(small_config(), values=values, quantiles=8))
    play(agent, 60)
    q_values, td_error = agent._last_q_values, agent._last_td_error
    assert q_values.shape == (4, PONG_ACTIONS)
    assert td_error.shape == (4,)
    assert 0 < td_error.abs().max() < 1


@pytest.mark.filterwarnings("ignore:the network values states beyond")  # it learns fast, to differ soon
@pytest.mark.parametrize(
    "change",
    [
        {"replay_sampling": "uniform"},
        {"priority_exponent": 0.3},
        {"importance_exponent_start": 0.0},
        {"importance_exponent_end": 0.0},
        {"importance_annealing_steps": 40},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_hyperparameter_of_prioritized_replay_changes_what_is_learned(change: dict[str, Any]) -> None:
    config = replace(bold_config(), replay_sampling="prioritized", importance_annealing_steps=60)
    assert learned(replace(config, **change), steps=80) != learned(config, steps=80)


AUGMENTED: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "none": lambda frames, _: frames,
    "shift": random_shifts,
    "shift_and_intensity": lambda frames, rng: random_intensities(random_shifts(frames, rng), rng),
}


@pytest.mark.parametrize("sampling", ["uniform", "prioritized"])
@pytest.mark.parametrize("kind", AUGMENTED)
def test_both_observations_of_a_batch_are_augmented_as_the_config_says(kind: str, sampling: str) -> None:
    agent = ready_agent(replace(small_config(), replay_sampling=sampling, augmentation=kind))
    play(agent, 40)
    replay_rng, augmentation_rng = copy.deepcopy((agent._replay_rng, agent._augmentation_rng))
    batch, _ = agent.sample()
    plain, _ = agent.replay.draw(4, replay_rng, 1.0)
    expected = [AUGMENTED[kind](frames, augmentation_rng) for frames in (plain.observations, plain.next_observations)]
    assert np.array_equal(batch.observations, expected[0])
    assert np.array_equal(batch.next_observations, expected[1])
    assert np.array_equal(batch.observations, plain.observations) == (kind == "none")
    assert batch.observations.dtype == (np.float32 if kind == "shift_and_intensity" else np.uint8)
    assert np.array_equal(batch.actions, plain.actions)


class Prioritized:
    """The replay of an agent, which notes what it is asked and told in which order."""

    def __init__(self, agent: DQN, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.importance_exponents: list[float] = []
        self.draws: list[Draw] = []
        self.updates: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._draw, self._update = agent.replay.draw, agent.replay.update_priorities
        monkeypatch.setattr(agent.replay, "draw", self.draw)
        monkeypatch.setattr(agent.replay, "update_priorities", self.update_priorities)

    def draw(self, batch_size: int, rng: np.random.Generator, importance_exponent: float) -> tuple[Batch, Draw | None]:
        batch, draw = self._draw(batch_size, rng, importance_exponent)
        assert draw is not None
        self.calls.append("sample")
        self.importance_exponents.append(importance_exponent)
        self.draws.append(draw)
        return batch, draw

    def update_priorities(
        self, games: NDArray[np.int64], indices: NDArray[np.int64], priorities: NDArray[np.float32]
    ) -> None:
        self._update(games, indices, priorities)
        self.calls.append("update")
        self.updates.append((indices, priorities))


def prioritized_config() -> DQNConfig:
    return replace(small_config(), replay_sampling="prioritized", importance_annealing_steps=50)


def test_priorities_are_the_absolute_td_errors_of_the_transitions_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(prioritized_config())
    replay = Prioritized(agent, monkeypatch)
    play(agent, 60)
    assert replay.calls == ["sample", "update"] * 6
    for draw, (indices, priorities) in zip(replay.draws, replay.updates, strict=True):
        assert np.array_equal(draw.indices, indices)
        assert (priorities > 0).all()
    assert np.array_equal(replay.updates[-1][1], agent._last_td_error.abs().numpy())


@pytest.mark.parametrize("values", [name for name in VALUES if name != "scalar"])
def test_priorities_of_distributions_are_the_losses(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(replace(prioritized_config(), values=values, quantiles=8, importance_exponent_start=0.0))
    agent.config = replace(agent.config, importance_exponent_end=0.0)  # all weights are 1
    replay = Prioritized(agent, monkeypatch)
    play(agent, 40)
    assert replay.updates[-1][1].mean() == pytest.approx(agent._last_loss.item(), rel=1e-5)


def test_batches_of_one_step_are_all_drawn_before_a_priority_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(replace(prioritized_config(), update_every_steps=1), num_games=2)
    replay = Prioritized(agent, monkeypatch)
    play(agent, 40, num_games=2)
    assert replay.calls == ["sample", "sample", "update", "update"] * 3


def test_importance_exponent_follows_its_schedule_over_agent_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(prioritized_config())
    replay = Prioritized(agent, monkeypatch)
    play(agent, 64)
    # Updates at steps 36 to 60: 0.4 + 0.6 * step / 50, at most 1.
    expected = [0.832, 0.88, 0.928, 0.976, 1.0, 1.0, 1.0]
    assert replay.importance_exponents == pytest.approx(expected)


def test_the_loss_of_each_transition_has_its_weight() -> None:
    agent = ready_agent(replace(small_config(), loss="squared"))
    play(agent, 40)
    batch = agent.replay.sample(4, np.random.default_rng(0))
    td_errors = td_errors_of(agent, batch)
    weights = np.array([1, 0.5, 0.25, 0], np.float32)
    agent.update(batch, weights)
    assert agent._last_loss.item() == pytest.approx(float((weights * td_errors**2).mean() / 2), rel=1e-5)


def td_errors_of(agent: DQN, batch: Batch) -> NDArray[np.float32]:
    """r + discount * max Q_target(s', a') - Q(s, a)."""
    with torch.no_grad():
        q_tm1, q_t = (
            agent.network(torch.from_numpy(batch.observations)),
            agent._target_network(torch.from_numpy(batch.next_observations)),
        )
    td_errors: NDArray[np.float32] = (
        batch.returns
        + batch.discounts * q_t.max(dim=1).values.numpy()
        - q_tm1.numpy()[np.arange(len(batch.actions)), batch.actions]
    )
    return td_errors


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
def test_gradients_are_clipped_as_torch_does(max_norm: float) -> None:
    agent = ready_agent()
    before = torch.rand(agent._weights.values.shape, generator=torch.Generator().manual_seed(0))
    agent._weights.values.grad = before.clone()
    agent._weights.clip_gradients(max_norm)
    ours = agent._weights.values.grad.clone()
    agent._weights.values.grad = before.clone()
    nn.utils.clip_grad_norm_([agent._weights.values], max_norm)
    assert torch.allclose(ours, agent._weights.values.grad, rtol=1e-5)
    assert torch.equal(ours, before) == (max_norm > 1)


@pytest.mark.filterwarnings("ignore:the network values states beyond")  # it learns fast, to differ soon
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_storages_learn_the_same_to_the_byte(precision: str) -> None:
    config = replace(bold_config(), precision=precision)
    assert learned(replace(config, replay_storage="zstd", replay_chunk_frames=5), steps=80) == learned(config, steps=80)


class StopsAt100:
    """Watches an environment, and stops it like Ctrl-C."""

    def on_steps(self, total_steps: int) -> None:
        """Before each step."""
        if total_steps == 100:
            raise KeyboardInterrupt

    def asks_for_pause(self) -> bool:
        return False

    def on_episode(self, episode: Episode) -> None:
        """Not of interest."""


def test_a_stop_while_batches_are_drawn_leaves_no_thread() -> None:
    agent = ready_agent()
    env = AtariVectorEnv(
        "Pong", named_protocol("nature2015"), 1, np.random.SeedSequence(0), training=True, observer=StopsAt100()
    )
    env.reset()
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        agent.train(env, 200, EveryStep())
    assert threading.active_count() == threads
    assert agent._updates > 0


def test_an_error_in_the_sampling_thread_is_an_error_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent()

    def fail(batch_size: int, rng: np.random.Generator) -> Batch:
        raise LabError("no batch today")

    monkeypatch.setattr(agent.replay, "sample", fail)
    with pytest.raises(LabError, match="no batch today"):
        play(agent, 200)


def test_a_machine_without_fast_bf16_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    with pytest.warns(LabWarning, match=r"bf16, which this cpu computes no faster than fp32: --agent.precision fp32"):
        ready_agent(replace(small_config(), precision="bf16"))


def test_training_leaves_the_global_generators_alone() -> None:
    before = global_generators()
    play(ready_agent(), 100)
    assert global_generators() == before


def test_acting_draws_no_random_number() -> None:
    agent, observations = ready_agent(), noise_observations(8)
    before = global_generators()
    own = agent._exploration_rng.bit_generator.state, agent._replay_rng.bit_generator.state
    assert np.array_equal(agent.act(observations), agent.act(observations))
    assert global_generators() == before
    assert (agent._exploration_rng.bit_generator.state, agent._replay_rng.bit_generator.state) == own


def test_the_action_of_the_greatest_value_is_taken() -> None:
    agent = new_agent()
    observations = noise_observations(16)
    values = agent.action_values(observations)
    assert values.shape == (16, PONG_ACTIONS)
    assert values.dtype == np.float32
    assert values.argmax(axis=1).tolist() == agent.act(observations).tolist()
    assert np.ptp(values) > 0


def test_actions_do_not_depend_on_what_else_is_in_the_batch() -> None:
    agent, observations = new_agent(), noise_observations(8)
    one_by_one = np.concatenate([agent.act(observations[index : index + 1]) for index in range(8)])
    assert np.array_equal(agent.act(observations), one_by_one)


def test_acting_takes_no_memory_for_replay() -> None:
    agent = new_agent(replace(small_config(), replay_capacity=10**15))
    assert agent.act(noise_observations(2)).shape == (2,)


def test_loaded_agent_acts_like_the_saved_one(tmp_path: Path) -> None:
    saved, loaded, observations = ready_agent(seed=0), new_agent(seed=1), noise_observations(64)
    play(saved, 60)
    weights_in(tmp_path, saved)
    assert not np.array_equal(loaded.act(observations), saved.act(observations))
    loaded.load(in_folder(tmp_path))
    assert np.array_equal(loaded.act(observations), saved.act(observations))
    assert digest(loaded.network) == digest(saved.network)


def weights_in(directory: Path, agent: DQN) -> Path:
    path = directory / "weights.safetensors"
    path.write_bytes(agent.save()["weights.safetensors"])
    return path


def in_folder(directory: Path) -> SavedFiles:
    return SavedFiles({"weights.safetensors": directory / "weights.safetensors"})


def refusal(directory: Path) -> str:
    """What loading the directory is refused with; one line that names the file."""
    with pytest.raises(LabError) as refused:
        new_agent().load(in_folder(directory))
    message = str(refused.value)
    assert "\n" not in message
    assert "weights.safetensors" in message
    return message


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = weights_in(tmp_path, new_agent())
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(tmp_path)


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04 a pickle, perhaps")
    assert refusal(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights_in(tmp_path, new_agent(replace(small_config(), network="nature")))
    assert refusal(tmp_path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", -0.001),
        ("learning_rate", 0.0),
        ("optimizer_epsilon", 0.0),
        ("max_gradient_norm", -1.0),
        ("batch_size", 0),
        ("n_step", 0),
        ("update_every_steps", 0),
        ("learning_starts_steps", 0),
        ("replay_capacity", -1),
        ("target_update_steps", -1),
        ("epsilon_decay_steps", -1),
        ("epsilon_start", 1.5),
        ("epsilon_end", -0.1),
        ("discount", math.nan),
        ("replay_sampling", "rank"),
        ("priority_exponent", 1.1),
        ("priority_exponent", -0.1),
        ("importance_exponent_start", math.nan),
        ("importance_exponent_end", 2.0),
        ("importance_annealing_steps", -1),
        ("rmsprop_decay", 1.01),
        ("network", "resnet"),
        ("loss", "mse"),
        ("optimizer", "lion"),
        ("values", "expectile"),
        ("impala_width", 0),
        ("hidden_units", -1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("noisy_sigma", 0.0),
        ("noisy_sigma", 1_000.0),
        ("atoms", 1),
        ("quantiles", 0),
        ("cosines", 0),
        ("munchausen_temperature", 0.0),
        ("munchausen_temperature", 1e-40),
        ("munchausen_scale", 1.5),
        ("munchausen_clip", 0.5),
        ("momentum", math.nan),
        ("weight_decay", -0.1),
        ("weight_decay", 2.0),
        ("impala_pool", -1),
        ("impala_pool", 12),
        ("updates_at_once", 0),
        ("updates_at_once", 257),
        ("target_rate", -0.1),
        ("target_rate", math.nan),
        ("target_rate", 1.1),
        ("reset_every_updates", -1),
        ("reset_shrink", -0.1),
        ("reset_shrink", 1.1),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    with pytest.raises(LabError, match=f"^{field} is {value!r}; allowed is "):
        replace(small_config(), **{field: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"munchausen": True, "values": "categorical"},
            "values is categorical; allowed with it is only that munchausen",
        ),
        ({"munchausen": True, "double": True}, "double is true; allowed with it is only that munchausen is false"),
        (
            {"double": True, "target_update_steps": 0},
            r"no target network \(target_update_steps and target_rate are 0\); allowed with it is only that double is "
            "false",
        ),
        ({"spectral_norm": True}, "network is mnih2013; allowed with it is only that spectral_norm is false"),
        ({"spectral_norm": True, "network": "impala", "precision": "bf16"}, "precision is bf16; allowed with it"),
        ({"impala_pool": 6}, "network is mnih2013; allowed with it is only that impala_pool is 0"),
        ({"target_rate": 0.005}, "target_rate is 0.005; allowed with it is only that target_update_steps is 0"),
        (
            {"target_rate": 0.005, "target_update_steps": 0, "precision": "bf16"},
            "precision is bf16; allowed with it is only that target_rate is 0",
        ),
        ({"momentum": 0.9, "optimizer": "adam"}, "optimizer is adam; allowed with it is only that momentum is 0"),
        ({"weight_decay": 0.1}, "optimizer is rmsprop; allowed with it is only that weight_decay is 0"),
        ({"v_min": 10.0}, "v_min is 10.0 and v_max 10.0; allowed is a v_min below v_max"),
        ({"v_max": math.nan}, "v_min is -10.0 and v_max nan; allowed is a v_min below v_max"),
        ({"v_min": -math.inf}, "v_min is -inf and v_max 10.0; allowed is a v_min below v_max"),
        ({"v_max": 1e308}, r"v_min is -10.0 and v_max 1e\+308; allowed is .*from -1000000 to 1000000"),
        ({"v_min": 10 - 1e-12}, "v_min is 9.99.* and v_max 10.0; allowed is a v_min below v_max, by a thousandth"),
        ({"v_min": -1e-50, "v_max": 1e-50}, "v_min is -1e-50 and v_max 1e-50; allowed is a v_min below v_max"),
        (
            {"v_min": 999e3, "v_max": 1e6},
            "atoms is 51 with v_min 999000.0 and v_max 1000000.0; allowed is up to 11 there",
        ),
    ],
)
def test_switches_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=f"^{message}"):
        replace(small_config(), **settings)


def test_a_batch_larger_than_the_replay_is_refused() -> None:
    with pytest.raises(LabError, match="batch_size is 32 and replay_capacity 31"):
        replace(small_config(), batch_size=32, replay_capacity=31)


def test_a_batch_larger_than_the_steps_before_learning_is_refused() -> None:
    with pytest.raises(LabError, match="batch_size is 33 and learning_starts_steps 32"):
        replace(small_config(), batch_size=33)


def test_learning_that_would_start_beyond_the_budget_is_refused() -> None:
    with pytest.raises(LabError, match="learning_starts_steps is 32 and the budget 32 steps"):
        new_agent(total_steps=32)


def test_a_network_that_does_not_fit_into_memory_is_refused_before_it_takes_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest: dict[str, Any] = {
        "network": "impala",
        "impala_width": 8,
        "hidden_units": 4_096,
        "dueling": True,
        "noisy": True,
    }
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 2_000_000_000)
    monkeypatch.setattr(nn.Module, "to_empty", None)  # what would allocate
    with pytest.raises(LabError, match=r"^a network of 530,935,528 weights needs 2\.1 GB, 2\.0 GB free; use fewer"):
        new_agent(replace(small_config(), values="categorical", atoms=300, **largest))


def test_a_batch_that_the_machine_cannot_learn_from_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(small_config(), replay_capacity=10_000, learning_starts_steps=5_000)
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 400_000_000)
    new_agent(replace(config, batch_size=500)).prepare()
    with pytest.raises(LabError, match=r"^learning from batches of 5,000, beside the replay memory, needs .* GB free"):
        new_agent(replace(config, batch_size=5_000)).prepare()


def test_batches_that_wait_count_with_four_bytes_a_pixel_where_intensities_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(
        small_config(), replay_capacity=1_000, batch_size=100, learning_starts_steps=100, updates_at_once=10
    )
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 200_000_000)
    new_agent(replace(config, augmentation="shift")).prepare()  # 57 MB of them
    with pytest.raises(LabError, match=r"^learning from batches of 100, beside the replay memory, needs 0\.3 GB"):
        new_agent(replace(config, augmentation="shift_and_intensity")).prepare()


def test_nothing_is_refused_for_memory_once_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ready_agent(replace(small_config(), reset_every_updates=2))
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 0)
    play(agent, 64)
    assert agent._updates == 7  # with resets before the third, the fifth and the seventh


def test_replay_that_the_machine_cannot_hold_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = new_agent(replace(small_config(), replay_capacity=10_000))
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 20_000_000)
    with pytest.raises(LabError, match=r"needs .* GB, .* GB free; use .*--agent\.replay-capacity"):
        agent.prepare()
