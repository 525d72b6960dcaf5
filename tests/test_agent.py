from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_lab.agent import AgentConfig, Task, agent_names, load_agent
from rl_lab.errors import LabError

MINIMAL = """
from dataclasses import dataclass
from rl_lab.agent import Agent, AgentConfig

@dataclass(frozen=True, kw_only=True)
class MineConfig(AgentConfig):
    boldness: float = 0.5

class Mine(Agent):
    Config = MineConfig
    def __init__(self, config, task): ...
    def train(self, env, steps, log): ...
    def act(self, observations): ...
    def save(self, directory): ...
    def load(self, directory): ...
"""


def test_the_lab_comes_with_six_agents() -> None:
    assert agent_names() == ("apex_dqn", "dqn", "sb3_dqn", "sb3_ppo", "sb3_qrdqn", "uniform")


def test_an_agent_without_values_is_a_whole_agent() -> None:
    agent = load_agent("uniform")(AgentConfig(name="uniform"), Task(num_actions=4, num_games=1, total_steps=0, seed=0))
    assert agent.action_values(np.zeros((2, 4, 84, 84), np.uint8)) is None


def test_one_file_makes_one_class(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINIMAL)
    assert load_agent(str(path)) is load_agent(str(tmp_path / "." / "mine.py"))


def test_two_files_of_one_name_make_two_agents(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINIMAL)
    assert load_agent(str(tmp_path / "a" / "mine.py")) is not load_agent(str(tmp_path / "b" / "mine.py"))


def test_an_agent_that_imports_another_is_still_one_agent(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from rl_lab.agent import load_agent\nDQN = load_agent('dqn')\n" + MINIMAL)
    assert load_agent(str(path)).__name__ == "Mine"


def test_unknown_agent_gives_the_nearest_name() -> None:
    with pytest.raises(LabError, match="no agent 'dnq'; did you mean 'dqn'"):
        load_agent("dnq")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no agent file"):
        load_agent(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("text", "found"), [("x = 1\n", "defines none"), (MINIMAL + "\nclass Other(Mine): ...", "Mine, Other")]
)
def test_a_file_defines_exactly_one_agent(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(LabError, match=found):
        load_agent(str(path))


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\ny = (\n")
    with pytest.raises(LabError, match=r"mine\.py, line 2"):
        load_agent(str(path))


def test_an_agent_file_whose_import_fails_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import no_such_module\n")
    with pytest.raises(LabError, match=r"mine\.py cannot be run: No module named 'no_such_module'"):
        load_agent(str(path))
