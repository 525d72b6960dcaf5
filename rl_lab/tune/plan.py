"""What a tune searches: one agent, its games and seeds, and the ranges of its hyperparameters, checked before any play.

A trial is an experiment with one value of each range. It is made as the runs of a sweep are: games x seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl_lab.agent import keeps_state
from rl_lab.checks import LARGEST_INTEGER, require_at_least, require_between, require_word
from rl_lab.config import from_table, read_toml
from rl_lab.errors import LabError, did_you_mean
from rl_lab.experiment import ExperimentConfig
from rl_lab.files import shipped_folder, toml_path
from rl_lab.records import TUNES
from rl_lab.scores import DEFAULT_TABLE, score_table
from rl_lab.sweep.plan import PlannedRun, Sweep, expand, flat, plain_types
from rl_lab.tune.pruning import NoPruning, Pruning, read_pruning
from rl_lab.tune.ranges import Range, Value, is_range, read_range

STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "to go on with"}
"""What became of a trial, by Optuna's words for it."""
REASON = "reason"
"""Why a trial failed: the name of this among its user attributes."""
IMPORTANCES = "importances.png"
"""The picture of a report that studies with few trials, or with one score, do not have."""
LEAST_FOR_IMPORTANCES = 10
"""Finished trials: PED-ANOVA compares the best tenth of them with all, and of fewer it takes chance for certainty."""
Settings = Mapping[str, Value]
"""A value of each range, by the names of the flags: agent.learning_rate."""


@dataclass(frozen=True, kw_only=True)
class Tune:
    """A file of configs/tune/, or one's own."""

    name: str
    """Of the study: its folder is runs/tunes/<name>."""
    agent: str
    """A config as in `rl-lab train` (a name or a path), or an agent (a name or a .py file), with dqn/quick."""
    games: list[str]
    """Games and suites, all with human scores: what is tuned for is the mean of their human-normalized scores."""
    seeds: list[int]
    """Of the runs of each trial; results need others."""
    trials: int
    """How many settings are tried."""
    trials_at_once: int = 1
    """Trials that train together. The next settings are chosen without knowing how these end, so fewer learn more."""
    random_trials: int = 10
    """Trials, finished or pruned, before the sampler (TPE) learns from them (Optuna's default)."""
    sampler_seed: int = 0
    """The same seed gives the same trials."""
    pruner: dict[str, Any]
    """name = "median", "successive_halving" or "none", and the pruner's own keys."""
    overrides: dict[str, Any]
    """Values for all trials, as in a sweep."""
    ranges: dict[str, Any]
    """For each hyperparameter that is tuned {low, high}, with step or log, or {choices}."""

    def __post_init__(self) -> None:
        require_word(self, "name")
        require_at_least(self, 1, "trials", "trials_at_once", "random_trials")
        require_between(self, 0, LARGEST_INTEGER, "sampler_seed")
        self._sweep({})  # checks what a sweep has, too
        read_pruning(self.pruner)
        if not self.ranges:
            raise LabError("ranges are empty; allowed is at least one hyperparameter with its range")
        twice = [key for key in self.ranges if key in self.overrides]
        if twice:
            raise LabError(f"{twice[0]} is in the ranges and in the overrides; leave one out")

    @property
    def pruning(self) -> Pruning:
        """When a trial is given up."""
        return read_pruning(self.pruner)

    def runs_of(
        self, settings: Settings, runs: Path, agent_files: Sequence[str], *, suffix: str = ""
    ) -> list[PlannedRun]:
        """Games x seeds with these settings; LabError for what `rl-lab train` would refuse."""
        return expand(self._sweep(settings), runs, agent_files, suffix=suffix)

    def _sweep(self, settings: Settings) -> Sweep:
        return Sweep(
            name=self.name,
            agents=[self.agent],
            games=self.games,
            seeds=self.seeds,
            overrides={**self.overrides, **settings},
            matrix={},
        )


@dataclass(frozen=True)
class Search:
    """A tune that was checked, in its place."""

    tune: Tune
    ranges: Mapping[str, Range]
    runs: Path
    """The folder that the user knows."""
    agent_files: Sequence[str]

    @property
    def folder(self) -> Path:
        """Of the study: all that belongs to it."""
        return self.runs / TUNES / self.tune.name

    @cached_property
    def base(self) -> list[PlannedRun]:
        """The runs of a trial without any setting of its own."""
        return self.tune.runs_of({}, self.folder / "runs", self.agent_files)

    @property
    def experiment(self) -> ExperimentConfig:
        """What all trials have in common, in the first game with the first seed."""
        return self.base[0].config

    @property
    def iterations(self) -> int:
        """Of a trial that is trained to its end."""
        return math.ceil(self.experiment.total_steps / self.experiment.iteration_steps)

    def trial(self, number: int, settings: Settings) -> list[PlannedRun]:
        """The runs of a trial; LabError where its settings do not fit together."""
        return self.tune.runs_of(settings, self.folder / "runs", self.agent_files, suffix=f"-trial-{number}")

    def definition(self) -> dict[str, Any]:
        """All that trials of one study have in common, as JSON has it."""
        tune = dataclasses.asdict(self.tune)
        del tune["name"], tune["trials"], tune["games"]
        tune["ranges"] = {key: dataclasses.asdict(value) for key, value in self.ranges.items()}
        tune["games"] = sorted({run.config.game for run in self.base})
        return tune | {"experiment": self.experiment.to_toml()}


def tune_names() -> tuple[str, ...]:
    """The tunes that come with the lab."""
    return tuple(sorted(path.stem for path in _shipped().glob("*.toml")))


def tune_path(name: str) -> Path:
    """The file of a name from `tune_names`, or a path ending in .toml; LabError with the nearest name otherwise."""
    return toml_path(name, "tune", tune_names(), _shipped())


def read_tune(path: Path) -> Tune:
    """The tune of a file; LabError with the file and the key for anything that is not as it should be."""
    table = {"overrides": {}, "pruner": {"name": "median"}, **read_toml(path)}
    if isinstance(table.get("games"), str):  # one suite
        table["games"] = [table["games"]]
    if isinstance(table["pruner"], str):  # without keys of its own
        table["pruner"] = {"name": table["pruner"]}
    if isinstance(table["overrides"], dict):
        table["overrides"] = flat(table["overrides"])
    if isinstance(table.get("ranges"), dict):
        table["ranges"] = flat(table["ranges"], is_range)
    return from_table(Tune, table, str(path))


def plan_search(tune: Tune, runs: Path, agent_files: Sequence[str] = ()) -> Search:
    """The tune in its place; LabError for ranges of what cannot be tuned, or with bounds that no run can have."""
    search = Search(tune, _ranges(tune, agent_files), runs, agent_files)
    human = score_table().human
    for run in search.base:
        if run.config.game not in human:
            raise LabError(
                f"{run.config.game} has no human score ({DEFAULT_TABLE}), so no mean can have it; leave it out"
            )
    for key, values in search.ranges.items():
        for bound in values.bounds:
            try:
                search.trial(0, {key: bound})
            except LabError as error:
                raise LabError(f"ranges.{key}: {error}") from error
    _require_pauses(search)
    return search


def _require_pauses(search: Search) -> None:
    """LabError for a pruner with an agent whose runs a pause ends or changes: each round of a tune is a pause."""
    agent = search.experiment.agent
    if isinstance(search.tune.pruning, NoPruning):
        return
    if not keeps_state(agent.name):
        raise LabError(
            f"the agent {agent.name} keeps no state, so its runs cannot pause for a pruner; define save_state and "
            'load_state, or give pruner.name = "none"'
        )
    if not agent.repeatable:
        raise LabError(
            f"the agent {agent.name} is not repeatable: a run that pauses for a pruner is another than one that does "
            'not; give pruner.name = "none"'
        )


def _ranges(tune: Tune, agent_files: Sequence[str]) -> dict[str, Range]:
    """Of hyperparameters: with another budget or protocol, a trial's score would mean something else."""
    config = tune.runs_of({}, Path(), agent_files)[0].config
    types = plain_types(config)
    tunable = [key for key in types if key.startswith("agent.") and key != "agent.name"]
    for key in tune.ranges:
        if key not in types:
            raise LabError(f"{tune.agent} has no {key!r} to tune{did_you_mean(key, tunable)}")
        if key not in tunable:
            raise LabError(
                f"{key} cannot be tuned: all trials have one budget and one protocol (allowed: {', '.join(tunable)})"
            )
    return {key: read_range(table, types[key], f"ranges.{key}") for key, table in tune.ranges.items()}


def _shipped() -> Path:
    return shipped_folder("configs") / "tune"
