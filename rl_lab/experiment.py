"""One experiment: an agent on a game under a protocol, with a budget and a seed. A file of configs/ is one of these."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.atari import MAX_PARALLEL_GAMES, Protocol, named_protocol, resolve_game
from rl_lab.checks import LARGEST_INTEGER, require_at_least, require_between, require_one_of, require_word
from rl_lab.config import PLAIN_TYPES, from_table, read_toml, to_toml, toml_comments
from rl_lab.errors import LabError
from rl_lab.files import shipped_folder, toml_path
from rl_lab.system import DEVICES, MAX_THREADS

DEFAULT_CONFIG = "dqn/quick"
"""The experiment that is meant where none is named."""
DEFAULT_RUNS = Path("runs")
"""Where `rl-lab train` keeps runs."""
WITHOUT_FLAG = {"protocol.evaluation_episodes": "evaluation_episodes"}
"""The fields that no flag sets, with the one that runs go by in place of each."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """All that a run depends on, besides the machine."""

    name: str
    """The experiment's name: the folder of its runs, and its row in comparisons."""
    game: str
    """The game, as in `rl-lab list games`."""
    seed: int = 0
    """Root of all random streams; one run is one seed."""
    total_steps: int
    """Budget in agent steps over all parallel games; one is frame_skip (4) emulator frames."""
    iteration_steps: int
    """Agent steps between evaluations. Each iteration starts new games; those unfinished at its end are not counted."""
    num_games: int = 1
    """Parallel games in training."""
    evaluation_episodes: int = 30
    """Full games in each evaluation."""
    log_every_steps: int = 1_000
    """Agent steps between two points of the training curves."""
    device: str = "auto"
    """Where networks run: auto (a GPU if there is one), cpu or cuda."""
    threads: int = 0
    """Processor threads for the networks; 0 is one for each core. Bitwise equal runs need equal threads."""
    emulator_threads: int = 1
    """Processor threads for the emulators; results do not depend on it."""
    protocol: Protocol
    """The rules of the game."""
    agent: AgentConfig
    """The agent and its hyperparameters."""

    def __post_init__(self) -> None:
        require_word(self, "name")
        if self.game != resolve_game(self.game):
            raise LabError(f"game is {self.game!r}; its name is {resolve_game(self.game)!r}")
        require_between(self, 0, LARGEST_INTEGER, "seed")
        require_between(self, 1, MAX_PARALLEL_GAMES, "num_games")
        require_at_least(self, 1, "total_steps", "iteration_steps", "evaluation_episodes", "log_every_steps")
        require_between(self, 0, MAX_THREADS, "threads")
        require_between(self, 1, MAX_THREADS, "emulator_threads")
        require_one_of(self, DEVICES, "device")
        for field in ("total_steps", "iteration_steps"):
            steps = getattr(self, field)
            if steps % self.num_games:
                near = max(steps // self.num_games, 1) * self.num_games
                raise LabError(
                    f"{field} is {steps}; allowed are multiples of the {self.num_games} games, such as {near}"
                )

    @property
    def total_frames(self) -> int:
        """Budget in emulator frames."""
        return self.total_steps * self.protocol.frame_skip

    def values(self) -> dict[str, object]:
        """Field -> value; the protocol's and the agent's have names such as protocol.noop_max and agent.n_step."""
        parts = {"": self, "protocol.": self.protocol, "agent.": self.agent}
        return {
            f"{prefix}{field}": value
            for prefix, part in parts.items()
            for field, value in vars(part).items()
            if type(value) in PLAIN_TYPES
        }

    def to_toml(self) -> str:
        """A complete TOML file: reading it back gives an equal experiment."""
        return to_toml(dataclasses.asdict(self))


def config_names() -> tuple[str, ...]:
    """The experiments that come with the lab, such as dqn/quick."""
    folder = shipped_folder("configs")
    names = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml"))
    return tuple(sorted(name for name in names if not name.startswith(("sweeps/", "tune/"))))


def config_path(name: str) -> Path:
    """The file of a name from `config_names`, or a path ending in .toml; LabError with the nearest name otherwise."""
    return toml_path(name, "config", config_names(), shipped_folder("configs"))


def load_experiment(path: Path, *, agent: str | None = None, protocol: str | None = None) -> ExperimentConfig:
    """Read an experiment; `agent` and `protocol` replace the file's own, with their defaults.

    LabError with the file, the key and the nearest key for anything that is not as it should be.
    """
    table = read_toml(path)
    for section in ("protocol", "agent"):
        if not isinstance(table.get(section), dict):
            raise LabError(f"{path}: the table [{section}] is missing; it has at least the key 'name'")
    if agent is not None:
        _replace_agent(table, agent)
    elif str(table["agent"].get("name")).endswith(".py"):
        raise LabError(
            f"{path} names the agent file {table['agent']['name']}; give its path with --agent: it will be run"
        )
    if protocol is not None:
        table["protocol"] = {"name": protocol}
        table["evaluation_episodes"] = named_protocol(protocol).evaluation_episodes
    table["protocol"] = _read_protocol(table["protocol"], f"{path} [protocol]")
    table["agent"] = _read_agent(table["agent"], f"{path} [agent]" if agent is None else f"agent {agent}")
    if isinstance(table.get("game"), str):
        table["game"] = resolve_game(table["game"])
    return from_table(ExperimentConfig, table, str(path))


def comments_beside(path: Path, *, agent: str, keeps_protocol: bool) -> dict[str, str]:
    """Field, such as agent.n_step -> the comment beside it, which may be empty, of all that an experiment has from the
    file: with this agent, and the file's own protocol or another.
    """
    foreign = set() if keeps_protocol else {"protocol", "evaluation_episodes"}
    if not _keeps_agent(read_toml(path), agent):
        foreign |= {"agent", "name"}
    return {field: comment for field, comment in toml_comments(path).items() if field.split(".")[0] not in foreign}


def _replace_agent(table: dict[str, Any], agent: str) -> None:
    """Another agent comes with its defaults and a name of its own; the file's own agent keeps its hyperparameters."""
    if _keeps_agent(table, agent):
        table["agent"]["name"] = agent
        return
    table["agent"] = {"name": agent}
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(agent).stem).lstrip("._-") or "agent"
    table["name"] = f"{stem}-on-{table.get('name')}"


def _keeps_agent(table: Mapping[str, Any], agent: str) -> bool:
    """Whether `agent` is the file's own, wherever its own file may be now."""
    own = str(table["agent"].get("name"))
    return agent == own or (agent.endswith(".py") and Path(agent).name == Path(own).name)


def _read_protocol(table: dict[str, Any], where: str) -> Protocol:
    """The named preset with the table's own fields in place of its."""
    preset = named_protocol(_name(table, where))
    return from_table(Protocol, {**dataclasses.asdict(preset), **table}, where)


def _read_agent(table: dict[str, Any], where: str) -> AgentConfig:
    return from_table(load_agent(_name(table, where)).Config, table, where)


def _name(table: dict[str, Any], where: str) -> str:
    name = table.get("name")
    if not isinstance(name, str):
        raise LabError(f"{where}: the key 'name' is {name!r}; it is a string")
    return name
