"""Bare zips of stable-baselines3 and sb3-contrib: the file says which algorithm plays, unless --agent does."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import A2C

from rl_lab.agent import Task, load_agent
from rl_lab.cli.main import Parser
from rl_lab.cli.saved import LoadedAgent, add_saved, load_saved
from rl_lab.errors import LabError
from rl_lab.sb3.games import BenchGames
from rl_lab.sb3.saving import save_model

BREAKOUT_ACTIONS = 4


@pytest.fixture(autouse=True)
def in_an_empty_folder_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def save(agent: str) -> NDArray[np.int64]:
    """Save an agent with fresh weights as model.zip; what it plays."""
    agent_type = load_agent(agent)
    saved = agent_type(agent_type.Config(name=agent), Task(BREAKOUT_ACTIONS, num_games=1, total_steps=0, seed=7))
    Path("model.zip").write_bytes(saved.save()["model.zip"])
    return saved.act(observations())


def observations() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (32, 4, 84, 84), np.uint8)


def load(*flags: str) -> LoadedAgent:
    parser = Parser(allow_abbrev=False)
    add_saved(parser)
    return load_saved(parser.parse_args(["model.zip", "--game", "Breakout", *flags]), "cpu")


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("agent", ["sb3_dqn", "sb3_ppo", "sb3_qrdqn"])
def test_a_zip_plays_by_its_own_algorithm(agent: str, flagged: bool) -> None:
    actions = save(agent)
    loaded = load("--agent", agent) if flagged else load()
    assert type(loaded.agent) is load_agent(agent)
    assert loaded.protocol.name == "sb3_zoo"
    assert loaded.agent.act(observations()).tolist() == actions.tolist()


def test_a_zip_is_not_played_by_another_agent_that_is_named() -> None:
    save("sb3_ppo")
    with pytest.raises(LabError, match=r"policy\.pth.* allowed is the network of stable-baselines3's CnnPolicy with 4"):
        load("--agent", "sb3_dqn")
    with pytest.raises(
        LabError, match=r"^--agent is dqn, but model\.zip is a model of .*allowed: sb3_dqn, sb3_ppo, sb3"
    ):
        load("--agent", "dqn")


def test_a_zip_of_another_algorithm_is_refused_in_one_line() -> None:
    Path("model.zip").write_bytes(save_model(A2C("CnnPolicy", BenchGames(1, BREAKOUT_ACTIONS)))["model.zip"])
    with pytest.raises(LabError, match=r"^model\.zip is of another algorithm than .*'stable_baselines3\.common\.polic"):
        load()


@pytest.mark.parametrize("policy", [None, [], {}, {"__module__": 3}, {"__module__": "a\n" * 100}])
def test_a_zip_that_names_no_known_policy_is_refused_in_one_line(policy: object) -> None:
    with zipfile.ZipFile("model.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": policy}))
    with pytest.raises(LabError, match=r"^model\.zip is of another algorithm than .*--agent names one of") as refused:
        load()
    assert "\n" not in str(refused.value)
