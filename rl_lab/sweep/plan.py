"""What a sweep runs: agents x games x seeds x the cells of a matrix. Each run is flags of `rl-lab train`.

A cell of the matrix is an experiment of its own name, so that its runs have folders of their own and reports show it
as an agent beside the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.agent import agent_names, keeps_state
from rl_lab.atari import all_games, resolve_game
from rl_lab.checks import require_word
from rl_lab.config import PLAIN_TYPES, field_types, from_table, read_toml, typed
from rl_lab.errors import LabError, did_you_mean
from rl_lab.experiment import DEFAULT_CONFIG, WITHOUT_FLAG, ExperimentConfig, config_path, load_experiment
from rl_lab.files import shipped_folder, toml_path
from rl_lab.run import run_directory
from rl_lab.scores import suites

_OWN_KEYS = ("name", "game", "seed", "threads", "agent.name")
"""What the sweep itself says. Two runs of one thread do more than one of two: see `rl-lab bench scale`."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A file of configs/sweeps/, or one's own."""

    name: str
    """Of the sweep: its logs are kept under it."""
    agents: list[str]
    """Configs as in `rl-lab train` (names or paths), or agents (names or .py files), which go with dqn/quick."""
    games: list[str]
    """Games and suites."""
    seeds: list[int]
    overrides: dict[str, Any]
    """Values for all runs, by the names of the flags: total_steps, agent.n_step, protocol.name."""
    matrix: dict[str, Any]
    """Several values each: a cell has one of each key."""

    def __post_init__(self) -> None:
        require_word(self, "name")
        for key, kind in (("agents", str), ("games", str), ("seeds", int)):
            _require_list(getattr(self, key), key, (kind,))
        for key, values in self.matrix.items():
            _require_list(values, f"matrix.{key}", PLAIN_TYPES)
        for key in (*self.overrides, *self.matrix):
            if key in _OWN_KEYS:
                raise LabError(f"{key} cannot be overridden: agents, games and seeds say it, and each run has a thread")
        twice = [key for key in self.matrix if key in self.overrides]
        if twice:
            raise LabError(f"{twice[0]} is in the matrix and in the overrides; leave one out")


@dataclass(frozen=True)
class PlannedRun:
    """A run that a sweep is to have."""

    config: ExperimentConfig
    directory: Path
    flags: tuple[str, ...]
    """Of `rl-lab train`: they make this run."""
    agent_file: str | None
    """The .py file of one's own agent, which will be run."""
    until_steps: int | None = None
    """Agent steps after which an iteration's end is far enough for now; None is the whole budget."""
    keeps_state: bool = True
    """Whether its agent does: a run that was left goes on then, and is started anew otherwise."""

    @property
    def can_go_on(self) -> bool:
        """Whether there is something of it to go on with."""
        return _is_started(self.directory) and self.keeps_state

    @property
    def frames(self) -> int:
        """Emulator frames that are far enough for now."""
        steps = self.config.total_steps if self.until_steps is None else min(self.until_steps, self.config.total_steps)
        return steps * self.config.protocol.frame_skip

    def command(self) -> tuple[str, ...]:
        """The words after `rl-lab` that start the run, or go on with what is there of it."""
        until = () if self.until_steps is None else (f"--until-steps={self.until_steps}",)
        words = train_words(self.directory, self.flags, self.agent_file, keeps_state=self.keeps_state)
        return (*words, *until)


def train_words(directory: Path, flags: Sequence[str], agent_file: str | None, *, keeps_state: bool) -> tuple[str, ...]:
    """The words after `rl-lab` for the run of that folder; the arguments are as in `PlannedRun`."""
    if not _is_started(directory):
        return ("train", *flags)
    if not keeps_state:
        return ("train", *flags, "--overwrite")
    own_agent = () if agent_file is None else ("--agent", agent_file)
    return ("train", "--resume", str(directory), *own_agent)


def sweep_names() -> tuple[str, ...]:
    """The sweeps that come with the lab."""
    return tuple(sorted(path.stem for path in _shipped().glob("*.toml")))


def sweep_path(name: str) -> Path:
    """The file of a name from `sweep_names`, or a path ending in .toml; LabError with the nearest name otherwise."""
    return toml_path(name, "sweep", sweep_names(), _shipped())


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file; LabError with the file and the key for anything that is not as it should be."""
    table = {"overrides": {}, "matrix": {}, **read_toml(path)}
    if isinstance(table.get("games"), str):  # one suite
        table["games"] = [table["games"]]
    for key in ("overrides", "matrix"):
        if isinstance(table[key], dict):
            table[key] = flat(table[key])
    return from_table(Sweep, table, str(path))


def expand(sweep: Sweep, runs: Path, agent_files: Sequence[str] = (), *, suffix: str = "") -> list[PlannedRun]:
    """All runs of the sweep, in folders below `runs`; of agents' own files only those in `agent_files` are run.

    `suffix` is added to the names of all experiments. LabError for what `rl-lab train` would refuse before it builds an
    agent, for a run that is planned twice, and for an agent's file that no experiment uses.
    """
    games = [game for name in sweep.games for game in _games(name)]
    planned: dict[Path, PlannedRun] = {}
    for agent, cell in itertools.product(sweep.agents, _cells(sweep.matrix)):
        config, flags, agent_file = _experiment(agent, {**sweep.overrides, **cell}, agent_files)
        # Of the values as the experiment has them: 0 and 0.0 are one.
        chosen = {key: config.values()[key] for key in cell}
        config = dataclasses.replace(config, name=config.name + suffix + _suffix(chosen))
        goes_on = keeps_state(config.agent.name)
        for game, seed in itertools.product(games, sweep.seeds):
            one = dataclasses.replace(config, game=game, seed=seed)
            own = (f"--name={one.name}", f"--game={game}", f"--seed={seed}", f"--runs={runs}")
            run = PlannedRun(one, run_directory(runs, one), (*flags, *own), agent_file, keeps_state=goes_on)
            if run.directory in planned:
                raise LabError(
                    f"{one.name} on {game}, seed {seed} is planned twice; name each agent, game and seed once, and "
                    "give configs names of their own"
                )
            planned[run.directory] = run
    used = {run.agent_file for run in planned.values()}
    for file in agent_files:
        if file not in used:
            raise LabError(f"no experiment uses the agent file {file}; leave it out of --agent, or name it as an agent")
    return list(planned.values())


def _experiment(
    agent: str, changes: Mapping[str, object], agent_files: Sequence[str]
) -> tuple[ExperimentConfig, tuple[str, ...], str | None]:
    """An agent's experiment with changes, the flags of `rl-lab train` that say the same, and the agent's own file."""
    is_file = agent.endswith(".py")
    if is_file and agent not in agent_files:
        raise LabError(f"the sweep names the agent file {agent}; give its path with --agent, too: it will be run")
    has_config = not is_file and agent not in agent_names()
    config_name = agent if has_config else DEFAULT_CONFIG
    agent_file = agent if is_file else _named_file(config_path(config_name), agent_files)
    chosen = agent_file if has_config else agent
    protocol = changes.get("protocol.name")
    config = load_experiment(
        config_path(config_name), agent=chosen, protocol=None if protocol is None else str(protocol)
    )
    values = _values(config, {"threads": 1, **changes}, agent)
    flags = (
        config_name,
        *(() if chosen is None else ("--agent", chosen)),
        *(_flag(key, value) for key, value in values.items()),
    )
    return _changed(config, values, agent), flags, agent_file


def _named_file(path: Path, agent_files: Sequence[str]) -> str | None:
    """Of `agent_files` the one that the experiment at `path` names; None if it names none of them."""
    table = read_toml(path).get("agent")
    name = str(table.get("name")) if isinstance(table, dict) else ""
    return next((file for file in agent_files if Path(file).name == Path(name).name), None)


def _values(config: ExperimentConfig, changes: Mapping[str, object], agent: str) -> dict[str, object]:
    """The changes, with numbers for integers; LabError for a key that the experiment has not, or a wrong type."""
    types = plain_types(config)
    for key in changes:
        if key not in types:
            near = did_you_mean(WITHOUT_FLAG.get(key, key), types)
            raise LabError(f"{agent} has no {key!r} to override{near}")
    return {key: typed(value, types[key], f"{key} for {agent}") for key, value in changes.items()}


def plain_types(config: ExperimentConfig) -> dict[str, type]:
    """Type of each plain field of the experiment, its protocol and its agent that has a flag, by the flag's name."""
    parts = {"": config, "protocol.": config.protocol, "agent.": config.agent}
    return {
        f"{prefix}{name}": kind
        for prefix, part in parts.items()
        for name, kind in field_types(type(part)).items()
        if kind in PLAIN_TYPES and f"{prefix}{name}" not in WITHOUT_FLAG
    }


def _changed(config: ExperimentConfig, values: Mapping[str, object], agent: str) -> ExperimentConfig:
    """The experiment with the values in place of its own; LabError where one is out of range."""

    def of(prefix: str) -> dict[str, Any]:
        keys = (key for key in values if key.rpartition(".")[0] == prefix)
        return {key.rpartition(".")[2]: values[key] for key in keys}

    try:
        # Checked once, when all values are in place: a budget and its parts may only fit together.
        return dataclasses.replace(
            config,
            protocol=dataclasses.replace(config.protocol, **of("protocol")),
            agent=dataclasses.replace(config.agent, **of("agent")),
            **of(""),
        )
    except LabError as error:
        raise LabError(f"{agent}: {error}") from error


def _flag(key: str, value: object) -> str:
    """The flag of `rl-lab train` for a value."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def _cells(matrix: Mapping[str, Sequence[object]]) -> Iterator[dict[str, object]]:
    """Every choice of one value of each key; a single empty one for no matrix."""
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _suffix(cell: Mapping[str, object]) -> str:
    """What a cell adds to the experiment's name, such as -n_step-3-double-true."""
    words = (
        f"-{key.removeprefix('agent.')}-{str(value).lower() if isinstance(value, bool) else value}"
        for key, value in cell.items()
    )
    return re.sub(r"[^A-Za-z0-9._-]", "_", "".join(words))


def _games(name: str) -> Sequence[str]:
    """Of a suite, or the one game."""
    if name in suites():
        return suites()[name].games
    try:
        return (resolve_game(name),)
    except LabError:
        near = did_you_mean(name, (*suites(), *all_games()))
        raise LabError(f"no game or suite {name!r}{near} (`rl-lab list games` and `suites` show all)") from None


def flat(table: Mapping[str, Any], is_value: Callable[[object], bool] = lambda value: False) -> dict[str, Any]:
    """The values of nested tables by names with dots: both ways to write `agent.n_step` in TOML mean the same.

    `is_value` tells which tables are values themselves. LabError for a name that is given in both ways.
    """
    values: dict[str, Any] = {}
    for name, value in _leaves(table, is_value):
        if name in values:
            raise LabError(f"{name} is given twice, in two ways to write it; leave one out")
        values[name] = value
    return values


def _leaves(table: Mapping[str, Any], is_value: Callable[[object], bool]) -> Iterator[tuple[str, Any]]:
    """Each value of nested tables with its name."""
    for key, value in table.items():
        if isinstance(value, dict) and not is_value(value):
            yield from ((f"{key}.{name}", inner) for name, inner in _leaves(value, is_value))
        else:
            yield key, value


def _require_list(values: object, key: str, kinds: tuple[type, ...]) -> None:
    """LabError unless it is a list of something, of these types."""
    if not isinstance(values, list) or not values or any(type(value) not in kinds for value in values):
        words = " or ".join(
            {int: "integers", str: "strings", float: "numbers", bool: "true and false"}[k] for k in kinds
        )
        raise LabError(f"{key} is {repr(values)[:200]}; allowed is a list of at least one of {words}")


def _is_started(directory: Path) -> bool:
    return (directory / "config.toml").is_file()


def _shipped() -> Path:
    return shipped_folder("configs") / "sweeps"
