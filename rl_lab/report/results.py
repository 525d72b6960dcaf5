"""What a run came to: its evaluations and its training curve, over frames and over hours of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.errors import LabError, did_you_mean
from rl_lab.events import TRAINING_TAG
from rl_lab.records import (
    checked_score,
    find_runs,
    read_config,
    read_evaluations,
    read_metrics,
    read_provenance,
    read_status,
    training_seconds,
)

_NOT_SETTINGS = (
    "seed",
    "total_steps",
    "evaluation_episodes",
    "log_every_steps",
    "device",
    "threads",
    "emulator_threads",
)
"""Neither do they change results, but for the budget and the episodes, which stand beside each score."""


@dataclass(frozen=True)
class Point:
    """A score at one moment of a run's training."""

    frames: int
    """Emulator frames of training."""
    hours: float | None
    """Of training, without evaluations; None where the run's metrics do not reach so far."""
    score: float
    """Mean raw score: over the evaluation's episodes, or over the last 100 training episodes, or all if fewer."""
    episodes: int | None
    """Of the evaluation; None for a training return."""


@dataclass(frozen=True)
class Run:
    """One seed of an experiment."""

    directory: Path
    game: str
    experiment: str
    seed: int
    state: str
    """running, finished, interrupted or failed."""
    protocol: str
    """Label of the protocol that the run was trained and evaluated under."""
    fingerprint: str
    rules: Mapping[str, object]
    """The protocol field by field."""
    settings: Mapping[str, object]
    """All of the experiment but its seed, its protocol and what does not change results, flat."""
    provenance: Mapping[str, object]
    evaluations: tuple[Point, ...]
    """Ascending in frames, at least one."""
    training: tuple[Point, ...]
    """Mean return of the last 100 training episodes, or of all if fewer, ascending in frames; empty before any."""


def read_runs(paths: Iterable[Path], games: Sequence[str] = ()) -> tuple[list[Run], list[Path]]:
    """The runs below the paths, each once, and those that have no evaluation yet; only of `games`, if any.

    LabError for a game that no run has, and for damaged records.
    """
    directories = sorted({run.resolve(): run for path in paths for run in find_runs(path)}.values())
    configs = {directory: read_config(directory) for directory in directories}
    played = {config["game"] for config in configs.values()}
    for game in games:
        if game not in played:
            raise LabError(f"no run of {game!r}{did_you_mean(game, played)} (allowed: {', '.join(sorted(played))})")
    runs: list[Run] = []
    unevaluated: list[Path] = []
    for directory, config in configs.items():
        if games and config["game"] not in games:
            continue
        evaluations = read_evaluations(directory)
        if evaluations:
            runs.append(_read(directory, config, evaluations))
        else:
            unevaluated.append(directory)
    return runs, unevaluated


def _read(directory: Path, config: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> Run:
    metrics, path = read_metrics(directory), directory / "metrics.jsonl"
    hours = [seconds / 3600 for seconds in training_seconds(metrics)]
    hours_at = dict(zip((point["frames"] for point in metrics), hours, strict=True))
    last = evaluations[-1]
    if last["game"] != config["game"]:
        raise LabError(f"{directory}: config.toml says {config['game']}, evaluations.jsonl {last['game']}")
    return Run(
        directory=directory,
        game=config["game"],
        experiment=config["name"],
        seed=config["seed"],
        state=read_status(directory).state,
        protocol=last["protocol"],
        fingerprint=last["protocol_fingerprint"],
        rules=config["protocol"],
        settings=_settings(config),
        provenance=read_provenance(directory),
        evaluations=tuple(
            Point(record["frames"], hours_at.get(record["frames"]), record["mean_score"], record["episodes"])
            for record in evaluations
        ),
        training=tuple(
            Point(record["frames"], hours_at[record["frames"]], checked_score(record[TRAINING_TAG], path), None)
            for record in metrics
            if TRAINING_TAG in record
        ),
    )


def _settings(config: Mapping[str, Any]) -> dict[str, object]:
    flat = {f"agent.{name}": value for name, value in config["agent"].items()}
    return flat | {
        name: value for name, value in config.items() if not isinstance(value, dict) and name not in _NOT_SETTINGS
    }
