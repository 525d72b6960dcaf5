"""Contenders and how they stand: scores of one kind, with aggregates, intervals, and what the seeds can tell apart.

Statistics are of human-normalized scores over the games that all contenders have. A bootstrap of three seeds gives
intervals that are too narrow, so whether two contenders differ is decided by a permutation test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rl_lab import statistics
from rl_lab.report.results import Run
from rl_lab.scores import Reference, ScoreTable
from rl_lab.statistics import Interval

Kind = Literal["evaluation", "training"]
"""Scores of evaluation episodes, or mean returns of the exploring agent while it trains. The two do not compare."""

MAX_PAIRED = 8
"""Contenders up to which all pairs are compared."""
SIGNIFICANCE = 0.05

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
STATISTICS: Mapping[str, Statistic] = {
    "iqm_over_runs": statistics.iqm_over_runs,
    "iqm_of_game_means": statistics.iqm_of_game_means,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality_gap": statistics.optimality_gap,
}


@dataclass(frozen=True)
class Cell:
    """A contender in one game."""

    scores: tuple[float, ...]
    """Raw, one a seed; where only a mean over seeds was published, that."""
    interval: Interval | None
    """95 %, of the mean over seeds; None for a single score."""
    runs: tuple[Run, ...] = ()
    """In the order of the scores; empty for a published agent."""
    episodes: tuple[int, ...] = ()
    """The distinct numbers of episodes behind a score."""
    frames: tuple[int, ...] = ()
    """The distinct numbers of training frames behind a score."""
    hours: tuple[float, ...] = ()
    """Of training behind each score, where they are known."""

    @property
    def seeds(self) -> tuple[tuple[int, int], ...]:
        """Of each run, and how many runs before it have the same one: it may be there twice, if the user insists."""
        seeds = [run.seed for run in self.runs]
        return tuple((seed, seeds[:index].count(seed)) for index, seed in enumerate(seeds))

    @property
    def score(self) -> float:
        """Mean over seeds."""
        return fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for a single score."""
        return stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Contender:
    """All seeds and games of one experiment at one budget under one protocol, or one published agent."""

    label: str
    """Tells it from all others."""
    frames: int | None
    """Of training behind each score; None where they differ or were not published."""
    protocol: str
    cells: Mapping[str, Cell]
    """By game."""
    fingerprint: str = ""
    """Of the protocol; empty for a published agent."""
    reference: Reference | None = None
    """The published agent, if it is one."""

    @property
    def is_mean(self) -> bool:
        """Whether a score is a published mean over seeds that are not known one by one."""
        return self.reference is not None and not self.reference.runs

    def scores(self, games: Sequence[str]) -> NDArray[np.float64]:
        """Raw scores (num_runs, num_games) of the seeds that all of the games have; there may be none."""
        cells = [self.cells[game] for game in games]
        if any(cell.runs for cell in cells):
            by_seed = [dict(zip(cell.seeds, cell.scores, strict=True)) for cell in cells]
            seeds = sorted(set.intersection(*map(set, by_seed)))
            return np.array([[scores[seed] for scores in by_seed] for seed in seeds]).reshape(-1, len(games))
        return np.array(list(zip(*(cell.scores for cell in cells), strict=False)))


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, which one seed does not have."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Aggregate:
    """A contender over the common games of its standing."""

    label: str
    normalized: NDArray[np.float64]
    """Human-normalized scores (num_runs, num_games), of the seeds that all of the games have."""
    estimates: Mapping[str, Estimate]
    """By name of the statistic; published means have no IQM over runs."""


@dataclass(frozen=True)
class Pair:
    """Two contenders over the games that both have."""

    first: str
    second: str
    num_games: int
    num_runs: tuple[int, int]
    """Seeds of the first and of the second that all of the games have."""
    probability: Estimate
    """That a run of the first beats one of the second in the same game, mean over games; ties count half."""
    p_value: float | None
    """Of a permutation test of that probability; None where either has one seed."""

    @property
    def verdict(self) -> str:
        """In plain words."""
        if self.p_value is None or self.p_value > SIGNIFICANCE:
            return f"{counted(min(self.num_runs), 'seed')} in {counted(self.num_games, 'game')} cannot tell these apart"
        better, worse = (self.first, self.second) if self.probability.value > 0.5 else (self.second, self.first)
        return f"{better} is better than {worse} by more than chance explains"


@dataclass(frozen=True)
class Standing:
    """Scores of one kind, taken from all runs in one way."""

    title: str
    kind: Kind
    contenders: tuple[Contender, ...]
    common_games: tuple[str, ...]
    """Games with human scores that every contender has."""
    aggregates: tuple[Aggregate, ...]
    pairs: tuple[Pair, ...]
    untested: tuple[tuple[str, str], ...]
    """Labels of two that cannot be paired: of one of them no seed has all games that both have."""

    @property
    def rivals(self) -> tuple[Contender, ...]:
        """Those of which runs are known, which can be tested against each other."""
        return _rivals(self.contenders)

    @property
    def tests_published(self) -> bool:
        """Whether one of a pair is a published agent."""
        published = {contender.label for contender in self.contenders if contender.reference is not None}
        return any({pair.first, pair.second} & published for pair in self.pairs)


def standing(
    title: str, kind: Kind, contenders: Iterable[Contender], table: ScoreTable, rng: np.random.Generator
) -> Standing:
    """The contenders with what statistics say about them; the generator draws bootstraps and permutations."""
    contenders = tuple(contenders)
    games = set.intersection(*(set(c.cells) for c in contenders)) if contenders else set()
    common = tuple(sorted(game for game in games if game in table.human))
    aggregates = [_aggregate(c, common, table, rng) for c in contenders] if common else []
    rivals = _rivals(contenders)
    pairs = {
        (first.label, second.label): _pair(first, second, shared, rng)
        for first, second in (combinations(rivals, 2) if len(rivals) <= MAX_PAIRED else ())
        if (shared := _shared_games(first, second))
    }
    return Standing(
        title,
        kind,
        contenders,
        common,
        tuple(aggregate for aggregate in aggregates if aggregate.normalized.size),
        tuple(pair for pair in pairs.values() if pair is not None),
        tuple(labels for labels, pair in pairs.items() if pair is None),
    )


def published_contender(reference: Reference, games: Iterable[str], rng: np.random.Generator) -> Contender:
    """A published agent as a contender in those of the games that it has."""
    scores = {game: reference.runs.get(game, (reference.scores[game],)) for game in games if game in reference.scores}
    cells = {game: Cell(tuple(of_game), mean_interval(of_game, rng)) for game, of_game in scores.items()}
    return Contender(reference.name, reference.frames, reference.protocol, cells, reference=reference)


def mean_interval(scores: Sequence[float], rng: np.random.Generator) -> Interval | None:
    """95 % of the mean over seeds, by bootstrap; None for a single score."""
    return statistics.interval(statistics.mean, np.array(scores)[:, None], rng=rng)


def _rivals(contenders: Iterable[Contender]) -> tuple[Contender, ...]:
    return tuple(contender for contender in contenders if not contender.is_mean)


def _aggregate(contender: Contender, games: Sequence[str], table: ScoreTable, rng: np.random.Generator) -> Aggregate:
    low = np.array([table.random[game] for game in games])
    high = np.array([table.human[game] for game in games])
    normalized = (contender.scores(games) - low) / (high - low)
    names = [name for name in STATISTICS if not (contender.is_mean and name == "iqm_over_runs")]
    estimates = {
        name: Estimate(float(STATISTICS[name](normalized)), statistics.interval(STATISTICS[name], normalized, rng=rng))
        for name in (names if normalized.size else ())
    }
    return Aggregate(contender.label, normalized, estimates)


def _shared_games(first: Contender, second: Contender) -> list[str]:
    """In which two can be tested against each other: none for two published agents, or for other rules or budgets."""
    terms = {(contender.fingerprint, contender.frames) for contender in (first, second) if contender.reference is None}
    return sorted(first.cells.keys() & second.cells.keys()) if len(terms) == 1 else []


def _pair(first: Contender, second: Contender, games: Sequence[str], rng: np.random.Generator) -> Pair | None:
    """None where no seed of one of them has all games."""
    x, y = first.scores(games), second.scores(games)
    if not (x.size and y.size):
        return None
    probability = statistics.probability_of_improvement(x, y)
    several = min(len(x), len(y)) > 1
    interval = statistics.interval(statistics.probability_of_improvement, x, y, rng=rng) if several else None
    return Pair(
        first.label,
        second.label,
        len(games),
        (len(x), len(y)),
        Estimate(float(probability), interval),
        statistics.permutation_p_value(x, y, rng=rng) if several else None,
    )


def counted(number: int, noun: str) -> str:
    """'1 game', '2 games'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
