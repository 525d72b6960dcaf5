"""Runs side by side: the last evaluation of each, grouped into one entry for each game and experiment.

Scores of different protocols or budgets do not compare, so a game's entries must agree in both unless the user insists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rl_lab.errors import LabError
from rl_lab.records import find_runs, last_evaluation, read_config


@dataclass(frozen=True)
class Result:
    """One seed's last evaluation."""

    game: str
    experiment: str
    seed: int
    frames: int
    protocol: str
    fingerprint: str
    score: float
    """Mean raw score over the evaluation's episodes."""
    episodes: int
    settings: Mapping[str, object]
    """All of the experiment but its seed and what does not change results, flat."""


@dataclass(frozen=True)
class Entry:
    """All seeds of one experiment on one game."""

    game: str
    experiment: str
    results: tuple[Result, ...]

    @property
    def score(self) -> float:
        """Mean over seeds."""
        return fmean(result.score for result in self.results)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return stdev(result.score for result in self.results) if len(self.results) > 1 else None

    @property
    def frames(self) -> tuple[int, ...]:
        """The distinct budgets, sorted."""
        return tuple(sorted({result.frames for result in self.results}))

    @property
    def episodes(self) -> tuple[int, ...]:
        """The distinct numbers of episodes behind a seed's score, sorted."""
        return tuple(sorted({result.episodes for result in self.results}))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The distinct protocols, as label and fingerprint, sorted."""
        return tuple(sorted({f"{result.protocol} {result.fingerprint}" for result in self.results}))


def read_results(paths: Iterable[Path]) -> tuple[list[Result], list[Path]]:
    """The results below the paths, each run once, and the runs that have no evaluation yet."""
    results: list[Result] = []
    without: list[Path] = []
    for directory in sorted({run.resolve(): run for path in paths for run in find_runs(path)}.values()):
        evaluation = last_evaluation(directory)
        if evaluation is None:
            without.append(directory)
            continue
        config = read_config(directory)
        results.append(
            Result(
                game=evaluation["game"],
                experiment=config["name"],
                seed=config["seed"],
                frames=evaluation["frames"],
                protocol=evaluation["protocol"],
                fingerprint=evaluation["protocol_fingerprint"],
                score=evaluation["mean_score"],
                episodes=evaluation["episodes"],
                settings=_settings(config),
            )
        )
    return results, without


def group(results: Sequence[Result]) -> list[Entry]:
    """One entry for each game and experiment, sorted."""
    grouped: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        grouped[result.game, result.experiment].append(result)
    return [Entry(game, experiment, tuple(found)) for (game, experiment), found in sorted(grouped.items())]


def differences(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What keeps the entries of a game from being compared, by game; empty where nothing does."""
    found: dict[str, list[str]] = {}
    for game in sorted({entry.game for entry in entries}):
        of_game = [entry for entry in entries if entry.game == game]
        reasons = []
        if len({frames for entry in of_game for frames in entry.frames}) > 1:
            budgets = (f"{e.experiment} {' and '.join(f'{frames:,}' for frames in e.frames)}" for e in of_game)
            reasons.append(f"frames ({', '.join(budgets)})")
        if len({protocol.rpartition(" ")[2] for entry in of_game for protocol in entry.protocols}) > 1:
            rules = (f"{e.experiment} {' and '.join(e.protocols)}" for e in of_game)
            reasons.append(f"protocols ({', '.join(rules)})")
        for entry in of_game:
            reasons += _not_one_experiment(entry)
        if reasons:
            found[game] = reasons
    return found


def _not_one_experiment(entry: Entry) -> list[str]:
    """What keeps an entry's results from being seeds of one experiment."""
    reasons = []
    names = {name for result in entry.results for name in result.settings}
    different = sorted(n for n in names if len({str(result.settings.get(n)) for result in entry.results}) > 1)
    if different:
        reasons.append(f"settings under the name {entry.experiment} ({', '.join(different)})")
    seeds = [result.seed for result in entry.results]
    if len(set(seeds)) < len(seeds):
        reasons.append(f"runs of one seed of {entry.experiment} ({', '.join(map(str, sorted(seeds)))})")
    return reasons


def _settings(config: Mapping[str, Any]) -> dict[str, object]:
    flat = {f"agent.{name}": value for name, value in config["agent"].items()}
    flat |= {name: value for name, value in config.items() if not isinstance(value, dict)}
    # The budget and the protocol are told apart by the evaluation's frames and fingerprint.
    for name in (
        "seed",
        "total_steps",
        "evaluation_episodes",
        "log_every_steps",
        "device",
        "threads",
        "emulator_threads",
    ):
        flat.pop(name, None)
    return flat


def require_comparable(entries: Sequence[Entry]) -> None:
    """LabError naming what differs, unless each game has one protocol and budget, and each entry one experiment."""
    for game, reasons in differences(entries).items():
        raise LabError(
            f"{game}: different {' and '.join(reasons)}; give runs that agree, or --mixed to see all, marked"
        )
