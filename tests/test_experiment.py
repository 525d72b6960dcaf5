from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rl_lab.errors import LabError
from rl_lab.experiment import config_names, config_path, load_experiment
from tests.tiny import tiny_dqn, tiny_experiment


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_config_is_complete_and_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = load_experiment(config_path(name))
    copy = tmp_path / "copy.toml"
    copy.write_text(config.to_toml())
    assert load_experiment(copy) == config


@pytest.mark.parametrize(
    "pair",
    [
        ("dqn/quick", "sb3_dqn/quick"),
        ("dqn/small", "sb3_dqn/small"),
        ("dqn/like", "sb3_dqn/like"),
        ("dqn/sb3_zoo", "sb3_dqn/zoo"),
    ],
)
def test_like_for_like_configs_share_every_number_that_both_have(pair: tuple[str, str]) -> None:
    ours, theirs = (load_experiment(config_path(name)) for name in pair)
    for mine, other in ((ours, theirs), (ours.agent, theirs.agent)):
        common = {field.name for field in dataclasses.fields(mine)} & {
            field.name for field in dataclasses.fields(other)
        }
        for field in common - {"name", "agent"}:
            assert getattr(mine, field) == getattr(other, field), field


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("total_steps = 400", "total_stesp = 400", r"unknown key 'total_stesp'; did you mean 'total_steps'\?"),
        ("seed = 0", "seed = 1.5", r"seed is 1\.5; allowed is an integer"),
        ("seed = 0", "seed = true", r"seed is True; allowed is an integer"),
        ("seed = 0", "seed = -1", r"seed is -1; allowed is 0 to"),
        ("total_steps = 400", "total_steps = 0", "total_steps is 0; allowed is 1 or more"),
        ("total_steps = 400", "total_steps = 401", "total_steps is 401; allowed are multiples of"),
        ('game = "Breakout"', 'game = "Brekout"', "no game 'Brekout'; did you mean 'Breakout'"),
        ('name = "tiny"', 'name = "../tiny"', r"name is '\.\./tiny'"),
        ('name = "tiny"\n', "", "the key 'name' is missing; it is a string"),
        ("learning_rate = 0.00025", "learning_rate = nan", r"\[agent\].*learning_rate is nan"),
        ("learning_rate = 0.00025", "learning_rate = -1e-4", r"\[agent\].*learning_rate is -0\.0001"),
        ("learning_rate = 0.00025", "learning_rat = 1e-4", r"\[agent\].*did you mean 'learning_rate'\?"),
        ("epsilon_end = 0.1", "epsilon_end = 1.5", r"epsilon_end is 1\.5; allowed is 0 to 1"),
        ("sticky_probability = 0.0", "sticky_probability = 7.0", r"\[protocol\].*sticky_probability is 7\.0"),
        ('name = "nature2015"', 'name = "nature15"', "no protocol 'nature15'; did you mean 'nature2015'"),
        ('name = "dqn"', 'name = "dqm"', "no agent 'dqm'; did you mean 'dqn'"),
        ("[agent]", "[agnet]", r"the table \[agent\] is missing"),
        ("[agent]", "[agent", "no readable TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_and_key(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = tiny_experiment().to_toml()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(LabError, match=message) as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 1")
    with pytest.raises(LabError, match=re.escape(str(path))):
        load_experiment(path)


def test_an_integer_serves_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml().replace("epsilon_end = 0.1", "epsilon_end = 0"))
    assert load_experiment(path).agent == tiny_dqn(epsilon_end=0.0)


def test_another_agent_comes_with_its_defaults_and_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    config = load_experiment(path, agent="uniform")
    assert (config.name, vars(config.agent)) == ("uniform-on-tiny", {"name": "uniform"})


def test_the_files_own_agent_keeps_its_hyperparameters(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    assert load_experiment(path, agent="dqn") == tiny_experiment()


def test_another_protocol_comes_with_its_evaluation_episodes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    assert load_experiment(path, protocol="atari100k").evaluation_episodes == 100


def test_a_file_that_names_code_runs_it_only_when_the_user_names_it_too(tmp_path: Path) -> None:
    witness, code, path = tmp_path / "was-run", tmp_path / "evil.py", tmp_path / "mine.toml"
    code.write_text(f"open({str(witness)!r}, 'w').close()")
    path.write_text(tiny_experiment().to_toml().replace('name = "dqn"', f'name = "{code}"'))
    with pytest.raises(LabError, match=r"names the agent file .* give its path with --agent"):
        load_experiment(path)
    assert not witness.exists()


def test_a_path_of_an_agent_makes_a_usable_name(tmp_path: Path) -> None:
    agent, path = tmp_path / "my agent.py", tmp_path / "mine.toml"
    agent.write_text("from rl_lab.agent import load_agent\nclass Mine(load_agent('uniform')): ...\n")
    path.write_text(tiny_experiment().to_toml())
    assert load_experiment(path, agent=str(agent)).name == "my-agent-on-tiny"


def test_our_like_config_holds_what_stable_baselines3_has_built_in() -> None:
    agent = vars(load_experiment(config_path("dqn/like")).agent)
    built_in = {"network": "nature", "double": False, "loss": "huber", "optimizer": "adam", "optimizer_epsilon": 1e-8}
    assert {name: agent[name] for name in built_in} == built_in


def test_unknown_config_gives_the_nearest_name() -> None:
    with pytest.raises(LabError, match="no config 'dqn/quik'; did you mean 'dqn/quick'"):
        config_path("dqn/quik")
