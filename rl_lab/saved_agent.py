"""A saved agent: what it needs to act, and a description: what it is, for which game, trained under which protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import Protocol
from rl_lab.checkpoint import saved_files
from rl_lab.checks import LARGEST_INTEGER, require_between
from rl_lab.config import from_table
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig
from rl_lab.untrusted import read_json

FORMAT = 1
_DESCRIPTION = "agent.json"
_MOST_ACTIONS = 18
"""Of an Atari game. A network has an output for each: more would be memory for whatever a file says."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a saved agent, besides its weights."""

    format: int
    experiment: str
    game: str
    seed: int
    actions: list[str]
    steps: int
    frames: int
    protocol: dict[str, Any]
    agent: dict[str, Any]

    def __post_init__(self) -> None:
        require_between(self, 0, LARGEST_INTEGER, "seed")
        if not 1 <= len(self.actions) <= _MOST_ACTIONS or not all(isinstance(action, str) for action in self.actions):
            raise LabError(f"actions are {self.actions!r}; allowed are 1 to {_MOST_ACTIONS} names such as NOOP")


def describe(config: ExperimentConfig, *, actions: Sequence[str], steps: int) -> Description:
    """The agent of a run after so many agent steps."""
    return Description(
        format=FORMAT,
        experiment=config.name,
        game=config.game,
        seed=config.seed,
        actions=list(actions),
        steps=steps,
        frames=steps * config.protocol.frame_skip,
        protocol=vars(config.protocol),
        agent=vars(config.agent),
    )


def agent_files(agent: Agent, description: Description) -> dict[str, bytes]:
    """The files of agent/ in a checkpoint."""
    return {**agent.save(), _DESCRIPTION: json.dumps(vars(description), indent=2).encode()}


def read_description(checkpoint: Path) -> Description:
    """agent.json of a checkpoint; LabError where it is none."""
    path = checkpoint / "agent" / _DESCRIPTION
    table = read_json(path)
    if table.get("format") != FORMAT:
        raise LabError(f"{path} is of format {table.get('format')!r}; this version of rl-lab reads format {FORMAT}")
    return from_table(Description, table, str(path))


def restore_agent(checkpoint: Path, *, agent_file: str | None = None, device: str) -> tuple[Agent, Description]:
    """The agent saved in a checkpoint, ready to act.

    A saved agent of the user's own file names code; it is run only if the user names that file too (`agent_file`), so
    that a folder from a stranger runs nothing.
    """
    description = read_description(checkpoint)
    name = description.agent.get("name")
    if not isinstance(name, str):
        raise LabError(f"{checkpoint} names no agent")
    if name.endswith(".py") and agent_file is None:
        raise LabError(f"{checkpoint} was trained by the agent file {name}; give its path with --agent: it will be run")
    agent_type = load_agent(agent_file or name)
    config = from_table(agent_type.Config, description.agent, str(checkpoint / "agent" / _DESCRIPTION))
    task = Task(num_actions=len(description.actions), num_games=1, total_steps=0, seed=description.seed, device=device)
    agent = agent_type(config, task)
    agent.load(saved_files(checkpoint, "agent"))
    return agent, description


def described_protocol(description: Description) -> Protocol:
    """The protocol that the agent was trained under."""
    return from_table(Protocol, description.protocol, "agent.json: protocol")
