"""Saved agents: directories that are either whole or absent, each file with its SHA-256 in a manifest.

A checkpoint is written under another name, then renamed: what has the right name and a manifest that fits is whole.

    checkpoints/000001000000/         the frames
      agent/agent.json                which agent, for which game, trained under which protocol
      agent/...                       what the agent itself saves: weights
      manifest.json                   written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import Protocol
from rl_lab.checks import LARGEST_INTEGER, require_between
from rl_lab.config import from_table
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig

FORMAT = 1
_KEPT = 2


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
        if not self.actions or not all(isinstance(action, str) for action in self.actions):
            raise LabError(f"actions are {self.actions!r}; allowed are names such as NOOP, one or more")


def save_checkpoint(run: Path, agent: Agent, config: ExperimentConfig, *, actions: Sequence[str], steps: int) -> Path:
    """Write a checkpoint of the run, then delete all but the newest two; the new one's directory."""
    frames = steps * config.protocol.frame_skip
    final = run / "checkpoints" / f"{frames:012d}"
    temporary = final.with_suffix(".partial")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed while it saved
    (temporary / "agent").mkdir(parents=True)
    agent.save(temporary / "agent")
    description = Description(
        format=FORMAT,
        experiment=config.name,
        game=config.game,
        seed=config.seed,
        actions=list(actions),
        steps=steps,
        frames=frames,
        protocol=vars(config.protocol),
        agent=vars(config.agent),
    )
    (temporary / "agent" / "agent.json").write_text(json.dumps(vars(description), indent=2), encoding="utf-8")
    write_manifest(temporary)
    temporary.rename(final)
    _sync(final.parent)
    for old in checkpoints(run)[:-_KEPT]:
        shutil.rmtree(old)
    return final


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint directories, oldest first, whole or not."""
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdecimal())


def newest_checkpoint(run: Path) -> Path:
    """The run's newest whole checkpoint; LabError where there is none, naming what is wrong with the newest."""
    problems: list[LabError] = []
    for directory in reversed(checkpoints(run)):
        try:
            check_manifest(directory)
        except LabError as error:
            problems.append(error)
        else:
            return directory
    if problems:
        raise LabError(f"{run} has no whole checkpoint: {problems[0]}")
    raise LabError(f"{run} has no checkpoint yet; the first one is written after its first iteration")


def check_manifest(directory: Path) -> None:
    """LabError unless the directory holds exactly the files of its manifest, byte for byte."""
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        expected = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{path} is no readable manifest ({error}); the checkpoint is not whole") from error
    found = {name: _digest(directory / name) for name in _file_names(directory)}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise LabError(f"{directory / name} is not as its manifest says: missing, added or changed")


def read_description(directory: Path) -> Description:
    """agent.json of a saved agent; LabError where it is none."""
    path = directory / "agent.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"{path} describes no saved agent: {error}") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise LabError(f"{path} is not of format {FORMAT}; it was saved by another version of rl-lab")
    return from_table(Description, table, str(path))


def restore_agent(directory: Path, *, agent_file: str | None = None, device: str) -> tuple[Agent, Description]:
    """The agent saved in a checkpoint's `agent/`, ready to act.

    A saved agent of the user's own file names code; it is run only if the user names that file too (`agent_file`), so
    that a folder from a stranger runs nothing.
    """
    description = read_description(directory)
    name = description.agent.get("name")
    if not isinstance(name, str):
        raise LabError(f"{directory / 'agent.json'} names no agent")
    if name.endswith(".py") and agent_file is None:
        raise LabError(f"{directory} was trained by the agent file {name}; give its path with --agent: it will be run")
    agent_type = load_agent(agent_file or name)
    config = from_table(agent_type.Config, description.agent, str(directory / "agent.json"))
    task = Task(num_actions=len(description.actions), num_games=1, total_steps=0, seed=description.seed, device=device)
    agent = agent_type(config, task)
    agent.load(directory)
    return agent, description


def described_protocol(description: Description) -> Protocol:
    """The protocol that the agent was trained under."""
    return from_table(Protocol, description.protocol, "agent.json: protocol")


def write_manifest(directory: Path) -> None:
    """Sync every file, then name them all with their digests."""
    names = _file_names(directory)
    for name in names:
        _sync(directory / name)
    manifest = {"format": FORMAT, "sha256": {name: _digest(directory / name) for name in names}}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _sync(directory / "manifest.json")
    _sync(directory)


def _file_names(directory: Path) -> list[str]:
    """Files below the directory but for the manifest, as POSIX paths."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in files if path != directory / "manifest.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file or a directory's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
