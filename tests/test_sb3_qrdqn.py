"""sb3-contrib's QR-DQN on the bench: what differs from stable-baselines3's DQN, with which it shares the rest."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN

from rl_lab.agent import Task, load_agent
from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.files import shipped_folder
from tests.fakes import EveryStep
from tests.test_sb3_dqn import BREAKOUT_ACTIONS, breakout, in_folder, some_observations

if TYPE_CHECKING:
    from agents.sb3_qrdqn import SB3QRDQN, SB3QRDQNConfig

QUANTILES = 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def agent_class() -> type[SB3QRDQN]:
    """As the lab loads it."""
    return cast("type[SB3QRDQN]", load_agent("sb3_qrdqn"))


def small_config() -> SB3QRDQNConfig:
    """Learns after 16 steps, once in 8 steps."""
    return agent_class().Config(
        name="sb3_qrdqn",
        replay_capacity=400,
        batch_size=4,
        learning_starts_steps=16,
        update_every_steps=8,
        target_update_steps=20,
        epsilon_decay_steps=40,
        quantiles=QUANTILES,
    )


def new_agent(config: SB3QRDQNConfig | None = None, *, num_games: int = 1, seed: int = 0) -> SB3QRDQN:
    """Without what only training needs; the budget is 400 steps."""
    task = Task(num_actions=BREAKOUT_ACTIONS, num_games=num_games, total_steps=400, seed=seed)
    return agent_class()(config or small_config(), task)


def trained_agent(log: EveryStep, *, num_games: int = 1) -> SB3QRDQN:
    """After two iterations of 24 steps."""
    agent = new_agent(num_games=num_games)
    agent.prepare()
    for iteration in range(2):
        env = breakout(num_games, iteration=iteration)
        agent.train(env, 24, log)
        assert env.steps == 24
    return agent


@pytest.mark.parametrize("num_games", [1, 2])
def test_each_iteration_plays_its_steps_and_updates_once_every_so_many(num_games: int) -> None:
    agent = trained_agent(EveryStep(), num_games=num_games)
    assert agent.model.num_timesteps == 48
    assert agent.model._n_updates == (48 - 16) / 8


def test_epsilon_goes_on_over_iterations() -> None:
    log = EveryStep()
    trained_agent(log)
    rates = [metrics["rollout/exploration_rate"] for metrics in log.metrics]
    # The rate of step t was set after step t - 1; before learning every action is random.
    assert rates[16:] == pytest.approx([max(1 - 0.99 * step / 40, 0.01) for step in range(16, 48)])


def test_values_are_means_of_the_quantiles_and_the_greatest_is_taken() -> None:
    log = EveryStep()
    agent = trained_agent(log)
    with torch.no_grad():
        quantiles = agent.model.quantile_net(torch.from_numpy(some_observations()))
    assert quantiles.shape == (64, QUANTILES, BREAKOUT_ACTIONS)
    values = agent.action_values(some_observations())
    assert np.allclose(values, quantiles.numpy().mean(axis=1))
    assert values.argmax(axis=1).tolist() == agent.act(some_observations()).tolist()
    assert log.histograms["train/q_values"].shape == (4, BREAKOUT_ACTIONS)
    assert {"train/loss", "train/q_mean", "train/learning_rate", "train/n_updates"} < set(log.metrics[-1])


def test_a_loaded_agent_acts_like_the_saved_one_and_sb3_itself_reads_the_file(tmp_path: Path) -> None:
    agent = trained_agent(EveryStep())
    path = tmp_path / "model.zip"
    path.write_bytes(agent.save()["model.zip"])
    expected = agent.act(some_observations())
    loaded = new_agent(seed=1)
    assert not np.array_equal(loaded.act(some_observations()), expected)
    loaded.load(in_folder(tmp_path))
    assert np.array_equal(loaded.act(some_observations()), expected)
    upstream, _ = QRDQN.load(path, device="cpu").predict(some_observations(), deterministic=True)
    assert np.array_equal(upstream, expected)


def test_another_number_of_quantiles_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(new_agent(replace(small_config(), quantiles=5)).save()["model.zip"])
    with pytest.raises(LabError, match=r"allowed is .* sb3-contrib's CnnPolicy with 4 actions and 8 quantiles$"):
        new_agent().load(in_folder(tmp_path))
    with pytest.raises(LabError, match="quantiles is 0; allowed is 1 to 1000"):
        replace(small_config(), quantiles=0)


def test_no_limit_of_the_gradient_is_none_to_sb3() -> None:
    assert new_agent().model.max_grad_norm is None
    assert new_agent(replace(small_config(), max_gradient_norm=7.0)).model.max_grad_norm == 7.0


def test_without_sb3_contrib_the_agent_is_listed_and_training_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    shutil.copy(shipped_folder("agents") / "sb3_qrdqn.py", tmp_path / "copy.py")
    assert load_agent(str(tmp_path / "copy.py")).__doc__  # the file runs
    assert main(["list", "agents"]) == 0
    assert "sb3-contrib's QR-DQN" in capsys.readouterr().out
    assert main(["train", "sb3_qrdqn/like", "--runs", str(tmp_path / "runs")]) == 2
    errors = capsys.readouterr().err
    assert "use pip install -c constraints.txt -e '.[contrib]'" in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
