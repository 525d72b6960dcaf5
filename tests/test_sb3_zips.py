"""Bare zips of stable-baselines3 and sb3-contrib: the file says which algorithm plays, unless --agent does."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3 import A2C
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

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


def fresh(agent: str, num_games: int = 1) -> Any:  # Any: an agent of SB3's, with its model
    """With weights as they are drawn."""
    agent_type = load_agent(agent)
    return agent_type(agent_type.Config(name=agent), Task(BREAKOUT_ACTIONS, num_games, total_steps=0, seed=7))


def save(agent: str) -> NDArray[np.int64]:
    """Save an agent with fresh weights as model.zip; what it plays."""
    saved = fresh(agent)
    Path("model.zip").write_bytes(saved.save()["model.zip"])
    actions: NDArray[np.int64] = saved.act(observations())
    return actions


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


@pytest.mark.parametrize("aliases", [(), ("pi_features_extractor", "vf_features_extractor")], ids=["1.6", "1.7"])
def test_a_zip_of_an_older_ppo_plays_as_it_did(aliases: tuple[str, ...]) -> None:
    actions = save("sb3_ppo")
    with zipfile.ZipFile("model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
    older = nn.Module()  # as SB3 1.6 and 1.7 built it
    torso = NatureCNN(gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8))
    for name in ("features_extractor", *aliases):
        older.add_module(name, torso)
    empty = {name: nn.Sequential() for name in ("shared_net", "policy_net", "value_net")}
    older.add_module("mlp_extractor", nn.Module())
    for name, part in empty.items():
        older.get_submodule("mlp_extractor").add_module(name, part)
    older.add_module("action_net", nn.Linear(512, BREAKOUT_ACTIONS))
    older.add_module("value_net", nn.Linear(512, 1))
    older.load_state_dict({name: weights[name] for name in older.state_dict()})
    file = io.BytesIO()
    torch.save(older.state_dict(), file)
    with zipfile.ZipFile("model.zip", "w") as archive:
        for name, data in {**members, "policy.pth": file.getvalue()}.items():
            archive.writestr(name, data)
    assert load().agent.act(observations()).tolist() == actions.tolist()


def test_a_zip_may_be_a_link() -> None:
    actions = save("sb3_dqn")
    Path("model.zip").rename("cached")
    Path("model.zip").symlink_to("cached")
    assert load().agent.act(observations()).tolist() == actions.tolist()


@pytest.mark.parametrize("agent", ["sb3_dqn", "sb3_ppo", "sb3_qrdqn"])
def test_a_zip_with_a_weight_that_is_not_finite_is_refused_in_one_line(agent: str) -> None:
    model = fresh(agent).model
    next(model.policy.parameters()).data[0] = torch.nan
    Path("model.zip").write_bytes(save_model(model)["model.zip"])
    with pytest.raises(LabError, match=r"^model\.zip: a weight is not finite: its training diverged"):
        load()


def test_a_zip_of_an_agent_of_64_games_says_what_plays_it() -> None:
    model = fresh("sb3_dqn", num_games=64).model
    model._last_obs = model._last_original_obs = np.zeros((64, 4, 84, 84), np.uint8)
    Path("model.zip").write_bytes(save_model(model)["model.zip"])
    assert type(load().agent) is load_agent("sb3_dqn")


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
