"""A saved agent as the commands that play it take it: a run, a checkpoint, or a .zip of stable-baselines3."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import NamedTuple

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import Protocol, game_actions, named_protocol, resolve_game
from rl_lab.checkpoint import newest_checkpoint, verify
from rl_lab.errors import LabError, LabWarning
from rl_lab.saved import SavedFiles
from rl_lab.saved_agent import described_protocol, restore_agent

_ZIP_PROTOCOL = "sb3_zoo"
ZIP_AGENTS = {
    "stable_baselines3.dqn.policies": "sb3_dqn",
    "stable_baselines3.common.policies": "sb3_ppo",
    "sb3_contrib.qrdqn.policies": "sb3_qrdqn",
}
"""The module of the policy's class -> the agent that plays it."""


_AGENT_HELP = "your agent's .py file, if it is your own: it will be run; of a .zip: " + ", ".join(ZIP_AGENTS.values())


class LoadedAgent(NamedTuple):
    """An agent, the game and the protocol to play by, what is known of its training, and what it is called."""

    agent: Agent
    game: str
    protocol: Protocol
    trained: dict[str, object]
    name: str


def add_saved(parser: argparse.ArgumentParser) -> None:
    """The argument SAVED, and the flags that say how it is played."""
    parser.add_argument("saved", type=Path, metavar="SAVED", help="a run, a checkpoint, or an SB3 .zip")
    parser.add_argument("--protocol", metavar="NAME", help="rules to play by (default: those of the training)")
    parser.add_argument("--game", metavar="NAME", help="another game with the same actions; needed for a .zip")
    parser.add_argument("--agent", metavar="FILE", help=_AGENT_HELP)
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, metavar="INTEGER", help="0 is one for each core")


def load_saved(options: argparse.Namespace, device: str) -> LoadedAgent:
    """What the flags of `add_saved` name; LabError for what cannot be played."""
    return (_load_zip if options.saved.suffix == ".zip" else _load_checkpoint)(options, device)


def _load_checkpoint(options: argparse.Namespace, device: str) -> LoadedAgent:
    """An agent that the lab saved."""
    checkpoint = _checkpoint(options.saved)
    agent, description = restore_agent(checkpoint, agent_file=options.agent, device=device)
    trained = described_protocol(description)
    protocol = trained if options.protocol is None else named_protocol(options.protocol)
    game = resolve_game(options.game or description.game)
    actions = game_actions(game, protocol)
    if actions != tuple(description.actions):
        raise LabError(
            f"the agent was trained with {' '.join(description.actions)}, {game} has {' '.join(actions)}; "
            "let it play a game with its actions"
        )
    facts: dict[str, object] = {"trained_frames": description.frames, "trained_protocol": trained.label}
    return LoadedAgent(agent, game, protocol, facts, f"{description.experiment}, seed {description.seed}")


def _load_zip(options: argparse.Namespace, device: str) -> LoadedAgent:
    """A bare model of stable-baselines3 with the zoo's network; nothing in the file is run.

    It knows no names of actions.
    """
    path: Path = options.saved
    if options.game is None:
        raise LabError(f"{path} does not say which game it plays; give --game")
    if options.agent not in (None, *ZIP_AGENTS.values()):
        raise LabError(
            f"--agent is {options.agent}, but {path} is a model of stable-baselines3 (allowed: "
            f"{', '.join(ZIP_AGENTS.values())}; by default what the file says)"
        )
    if not os.path.isfile(path):  # pathlib raises for names that no file can have
        raise LabError(f"no file {path}; give a .zip saved by stable-baselines3's DQN or PPO, or sb3-contrib's QR-DQN")
    game, protocol = resolve_game(options.game), named_protocol(options.protocol or _ZIP_PROTOCOL)
    files = SavedFiles({"model.zip": path.resolve()})  # downloads may be links into a cache
    name = options.agent or _zip_agent(files, path)
    agent_type = load_agent(name)
    task = Task(len(game_actions(game, protocol)), num_games=1, total_steps=0, seed=0, device=device)
    agent = agent_type(agent_type.Config(name=name), task)
    agent.load(files)
    return LoadedAgent(agent, game, protocol, {}, path.name)


def _zip_agent(files: SavedFiles, path: Path) -> str:
    """The agent that plays a model of stable-baselines3; LabError for one of another algorithm."""
    from rl_lab.sb3.saving import read_settings  # which imports torch

    settings = read_settings(files)
    policy = settings.get("policy_class")
    module = policy.get("__module__") if isinstance(policy, dict) else None
    name = ZIP_AGENTS.get(str(module))
    # A2C has the policies of PPO, but clips nothing.
    if name is None or (name == "sb3_ppo" and "clip_range" not in settings):
        raise LabError(
            f"{path} is of another algorithm than stable-baselines3's DQN and PPO and sb3-contrib's QR-DQN: its policy "
            f"is of {str(module)[:100]!r}; if you know better, --agent names one of {', '.join(ZIP_AGENTS.values())}"
        )
    return name


def _checkpoint(saved: Path) -> Path:
    """The whole checkpoint that a path names: itself, or the newest of a run."""
    try:
        names = set(os.listdir(saved))
    except (FileNotFoundError, NotADirectoryError):
        names = set()
    except OSError as error:
        raise LabError(f"{saved} cannot be looked into: {error.strerror}; give a run or a checkpoint") from error
    if "manifest.json" in names:
        verify(saved, segments=False)
        return saved
    if not names & {"config.toml", "checkpoints"}:
        raise LabError(f"{saved} is no run and no checkpoint; give a run directory such as runs/Pong/dqn-quick/seed-0")
    checkpoint, problems = newest_checkpoint(saved)
    for problem in problems:
        warnings.warn(f"skipped a damaged checkpoint: {problem}", LabWarning, stacklevel=2)
    return checkpoint
