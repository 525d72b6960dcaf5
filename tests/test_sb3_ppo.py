"""stable-baselines3's PPO on the bench: whole rollouts, one schedule over all iterations, files that are not run."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from rl_lab.agent import Task, load_agent
from rl_lab.atari import named_protocol
from rl_lab.errors import LabError
from rl_lab.saved import SavedFiles
from rl_lab.sb3.saving import restore_torch
from tests.fakes import EveryStep
from tests.test_sb3_dqn import BREAKOUT_ACTIONS, Episodes, breakout, in_folder, some_observations

if TYPE_CHECKING:
    from agents.sb3_ppo import SB3PPO, SB3PPOConfig

TOTAL_STEPS = 96


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def agent_class() -> type[SB3PPO]:
    """As the lab loads it."""
    return cast("type[SB3PPO]", load_agent("sb3_ppo"))


def small_config() -> SB3PPOConfig:
    """A rollout is 8 steps of each game."""
    return agent_class().Config(name="sb3_ppo", rollout_steps=8, batch_size=8, epochs=2)


def new_agent(
    config: SB3PPOConfig | None = None, *, num_games: int = 2, seed: int = 0, iteration_steps: int = 0
) -> SB3PPO:
    """Without what only training needs."""
    task = Task(BREAKOUT_ACTIONS, num_games, TOTAL_STEPS, seed=seed, iteration_steps=iteration_steps)
    return agent_class()(config or small_config(), task)


def trained_agent(iterations: tuple[int, ...], log: EveryStep, config: SB3PPOConfig | None = None) -> SB3PPO:
    """After iterations of so many steps in two games."""
    agent = new_agent(config)
    agent.prepare()
    for iteration, steps in enumerate(iterations):
        env = breakout(2, iteration=iteration)
        agent.train(env, steps, log)
        assert env.steps == steps
    return agent


# Work


def test_each_iteration_plays_its_steps_and_learns_from_each_rollout() -> None:
    log = EveryStep()
    agent = trained_agent((32, 64), log)
    assert agent.model.num_timesteps == TOTAL_STEPS
    assert agent.model._n_updates == 2 * TOTAL_STEPS / 16  # SB3 counts epochs
    assert [metrics["train/n_updates"] for metrics in log.metrics] == [2 * (step // 8) for step in range(48)]
    assert set(log.metrics[0]) == {"train/n_updates"}
    assert {"train/loss", "train/value_loss", "train/entropy_loss", "train/approx_kl"} < set(log.metrics[8])


def test_schedules_of_several_iterations_are_those_of_one() -> None:
    config = replace(small_config(), epochs=1)
    in_pieces, in_one = EveryStep(), EveryStep()
    agent = trained_agent((32, 64), in_pieces, config)
    trained_agent((96,), in_one, config)
    for tag, start in (("train/learning_rate", 2.5e-4), ("train/clip_range", 0.1)):
        expected = [start * (1 - rollout * 16 / TOTAL_STEPS) for rollout in range(1, 6) for _ in range(8)]
        for log in (in_pieces, in_one):
            assert [metrics[tag] for metrics in log.metrics[8:]] == pytest.approx(expected)
    assert agent.model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-18)


def test_a_lost_life_ends_the_return_while_the_game_goes_on() -> None:
    config = replace(small_config(), rollout_steps=48, batch_size=96, epochs=1)
    agent, episodes = new_agent(config), Episodes()
    agent.prepare()
    lives: list[int] = []
    env = breakout(2, protocol=named_protocol("sb3_zoo"), observer=episodes)
    agent.train(env, 96, EveryStep(lambda: lives.append(int(env.lives.sum()))))
    starts = agent.model.rollout_buffer.episode_starts  # [step, game], not shuffled
    lost = [step for step in range(1, 47) if lives[step] < lives[step - 1]]
    assert lost
    assert not episodes.finished
    assert np.flatnonzero(starts[1:].any(axis=1)).tolist() == lost


def test_the_end_of_an_iteration_keeps_its_bootstrap() -> None:
    agent = new_agent(replace(small_config(), learning_rate=1e-30, discount=0.5))
    agent.prepare()
    env = breakout(2)
    agent.train(env, 16, EveryStep())
    with torch.no_grad():
        values = agent.model.policy.predict_values(torch.from_numpy(env.observations)).numpy()[:, 0]
    assert abs(values).max() > 1e-3
    assert agent.model.rollout_buffer.rewards[-1] == pytest.approx(0.5 * values, abs=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, r"batch_size is 5 and a rollout 16 steps \(8 of 2 games\); allowed is a batch_size that"),
        ({"rollout_steps": 20}, r"the budget is 96; allowed is a multiple of 40"),
        ({"rollout_steps": 24}, r"the steps of an iteration are 32; allowed is a multiple of 48"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message) as error:
        new_agent(replace(small_config(), **changes), iteration_steps=32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"epochs": 0}, {"gae_lambda": 1.5}, {"clip_range": 0.0}])
def test_hyperparameters_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(LabError, match=rf"{next(iter(changes))} is .*; allowed is"):
        replace(small_config(), **changes)


def test_an_iteration_that_ends_within_a_rollout_is_refused_before_its_first_frame() -> None:
    agent, env = new_agent(), breakout(2)
    agent.prepare()
    with pytest.raises(LabError, match="are 24; allowed is a multiple of 16"):
        agent.train(env, 24, EveryStep())
    assert env.steps == 0


def test_a_policy_that_diverges_between_two_points_of_the_curves_is_one_line() -> None:
    never = cast("EveryStep", SimpleNamespace(due=lambda: False))
    with pytest.raises(LabError, match="the policy's chances are not finite: learning diverged"):
        trained_agent((TOTAL_STEPS,), never, replace(small_config(), learning_rate=1e30))


def test_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 500_000)
    with pytest.raises(LabError, match=r"rollout of 16 steps needs .* use --agent\.rollout-steps"):
        new_agent().prepare()


# Acting and files


def test_act_takes_the_most_probable_action_and_draws_no_random_number() -> None:
    agent = trained_agent((32,), EveryStep())
    state = torch.get_rng_state()
    actions = agent.act(some_observations())
    assert torch.equal(torch.get_rng_state(), state)
    observations = torch.from_numpy(some_observations())
    with torch.no_grad():
        log_probabilities = [
            agent.model.policy.evaluate_actions(observations, torch.full((64,), action))[1]
            for action in range(BREAKOUT_ACTIONS)
        ]
    assert actions.tolist() == torch.stack(log_probabilities).argmax(dim=0).tolist()


def test_a_loaded_agent_acts_like_the_saved_one_and_sb3_itself_reads_the_file(tmp_path: Path) -> None:
    agent = trained_agent((32,), EveryStep())
    path = tmp_path / "model.zip"
    path.write_bytes(agent.save()["model.zip"])
    expected = agent.act(some_observations())
    loaded = agent_class()(small_config(), Task(BREAKOUT_ACTIONS, num_games=1, total_steps=0, seed=1))
    assert not np.array_equal(loaded.act(some_observations()), expected)
    loaded.load(in_folder(tmp_path))
    for weights, own in zip(loaded.model.policy.parameters(), agent.model.policy.parameters(), strict=True):
        assert torch.equal(weights, own)
    assert np.array_equal(loaded.act(some_observations()), expected)
    upstream, _ = PPO.load(path, device="cpu").predict(some_observations(), deterministic=True)
    assert np.array_equal(upstream, expected)


def test_a_file_of_another_agent_is_refused_in_one_line(tmp_path: Path) -> None:
    dqn = load_agent("sb3_dqn")
    other = dqn(dqn.Config(name="sb3_dqn"), Task(BREAKOUT_ACTIONS, num_games=1, total_steps=0, seed=0))
    (tmp_path / "model.zip").write_bytes(other.save()["model.zip"])
    with pytest.raises(LabError, match=r"allowed is the network of stable-baselines3's PPO .* with 4 actions") as error:
        new_agent().load(in_folder(tmp_path))
    assert "\n" not in str(error.value)


def test_an_undefined_metric_is_left_out_of_metrics_and_state() -> None:
    agent = trained_agent((16,), EveryStep())
    agent.model.logger.record("train/explained_variance", math.nan)  # SB3's, where all returns are equal
    logged = json.loads(agent.save_state().files["state.json"])["logged"]
    assert "train/explained_variance" not in logged
    assert logged["train/value_loss"] == agent.model.logger.name_to_value["train/value_loss"]


def torch_state_at(left: int, position: int) -> str:
    """A state of torch's generator whose next word is at `position`, with `left` of them left."""
    data = bytearray(torch.get_rng_state().numpy().tobytes())
    struct.pack_into("<i", data, 8, left)
    struct.pack_into("<Q", data, 16, position)
    return data.hex()


@pytest.mark.parametrize(
    "state",
    [None, "", "zz", "00", "00" * 5056, *(torch_state_at(*place) for place in ((624, 624), (0, 0), (1, 2**40)))],
)
def test_what_is_no_state_of_torchs_generator_is_refused(state: object) -> None:
    before = torch.get_rng_state()
    with pytest.raises(LabError, match=r"state\.json is damaged: torch is no state"):
        restore_torch(state, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_agent_that_goes_on_from_a_saved_state_learns_as_one_that_never_stopped(tmp_path: Path) -> None:
    whole = trained_agent((16,), EveryStep())
    state = whole.save_state().files
    for name, data in {**whole.save(), **state}.items():
        (tmp_path / name).write_bytes(data)
    files = SavedFiles({path.name: path for path in tmp_path.iterdir()})
    whole.train(breakout(2, iteration=1), 16, EveryStep())
    resumed = new_agent(seed=1)
    resumed.load(files)
    resumed.prepare()
    resumed.load_state(files)
    assert resumed.save_state().files == state
    resumed.train(breakout(2, iteration=1), 16, EveryStep())
    for weights, own in zip(resumed.model.policy.parameters(), whole.model.policy.parameters(), strict=True):
        assert torch.equal(weights, own)
