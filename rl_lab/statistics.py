"""What few runs can say: aggregates over games and runs, and how sure they are.

After Agarwal et al. 2021 (arXiv 2108.13264), whose sections are cited below. `scores` is everywhere a matrix of
human-normalized scores of shape (..., num_runs, num_games): one row a run (a seed), one column a game. Each statistic
is taken over the last two axes, and so of all resamples of a bootstrap at once. The numbers are those of rliable 1.2.0,
which does not import beside today's pandas. NaN and empty matrices are the caller's bug.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

REPETITIONS = 2_000
"""Resamples of a bootstrap."""
PERMUTATIONS = 10_000
"""Relabelings of a permutation test."""

Array: TypeAlias = npt.NDArray[np.float64]
Statistic: TypeAlias = Callable[..., Array]
"""Of one matrix or several, each (..., num_runs, num_games), to (...), or to (..., num_points) for many values."""


def mean(scores: Array) -> Array:
    """Mean over games of the means over runs: (...). One game of a huge score can decide it."""
    return _mean(scores, (-2, -1))


def median(scores: Array) -> Array:
    """Median over games of the means over runs: (...). Half of the games may score nothing, and it does not show."""
    game_means: Array = np.median(_mean(scores, -2), axis=-1)
    return game_means


def iqm_over_runs(scores: Array) -> Array:
    """Interquartile mean of all runs of all games together: (...). Section 4.3.

    The lowest and the highest int(num_runs * num_games / 4) scores are left out, as `scipy.stats.trim_mean(0.25)` does.
    """
    _check(scores)
    return _trimmed_mean(scores.reshape(*scores.shape[:-2], -1))


def iqm_of_game_means(scores: Array) -> Array:
    """Interquartile mean over games of the means over runs: (...). All that published means by game allow.

    It is another number than `iqm_over_runs`: .01 to .12 higher for the agents of Atari 100k.
    """
    return _trimmed_mean(_mean(scores, -2))


def optimality_gap(scores: Array, gamma: float = 1.0) -> Array:
    """How far runs fall short of `gamma` on average, what is above it counting as `gamma`: (...). Section 4.3."""
    return gamma - _mean(np.minimum(scores, gamma), (-2, -1))


def probability_of_improvement(x: Array, y: Array) -> Array:
    """Mean over games of the probability that a run of x scores more than a run of y: (...). Section 4.3.

    x is (..., num_runs_x, num_games) and y is (..., num_runs_y, num_games).
    """
    return np.asarray(probability_of_improvement_by_game(x, y).mean(axis=-1))


def probability_of_improvement_by_game(x: Array, y: Array) -> Array:
    """P(X > Y) + P(X = Y) / 2 in each game: (..., num_games). Mann-Whitney's U over num_runs_x * num_runs_y."""
    _check(x)
    _check(y)
    assert x.shape[-1] == y.shape[-1], f"not the same games: {x.shape} and {y.shape}"
    x, y = x[..., :, None, :], y[..., None, :, :]  # (..., num_runs_x, num_runs_y, num_games)
    wins: Array = np.mean(x > y, axis=(-3, -2)) + np.mean(x == y, axis=(-3, -2)) / 2
    return wins


def permutation_p_value(x: Array, y: Array, *, rng: np.random.Generator, repetitions: int = PERMUTATIONS) -> float:
    """Two-sided p-value of `probability_of_improvement`, if x and y were one and the same algorithm.

    Within each game the runs of both change sides at random. It holds for few runs, where a bootstrap is too narrow:
    of three runs against three on one game 0.1 is the least, but for chance in the draws. It is (1 + hits) /
    (1 + repetitions), and so never 0 (Phipson and Smyth 2010, equation 2).
    """
    num_runs, num_games = len(x), x.shape[1]
    together = np.concatenate((x, y))
    distance = abs(float(probability_of_improvement(x, y)) - 0.5)
    hits = 0
    for start in range(0, repetitions, _BLOCK):
        size = min(_BLOCK, repetitions - start)
        order = rng.permuted(
            np.broadcast_to(np.arange(len(together))[:, None], (size, len(together), num_games)), axis=1
        )
        mixed = resample(together, order)
        wins = probability_of_improvement(mixed[:, :num_runs], mixed[:, num_runs:])
        hits += int(np.count_nonzero(np.abs(wins - 0.5) >= distance - 1e-12))
    return (1 + hits) / (1 + repetitions)


def performance_profile(scores: Array, thresholds: Sequence[float] | Array) -> Array:
    """Fraction of all runs of all games that score more than each threshold: (..., num_thresholds). Section 4.2.

    Agarwal et al. call it the run-score distribution.
    """
    _check(scores)
    return np.stack([np.asarray((scores > threshold).mean(axis=(-2, -1))) for threshold in thresholds], axis=-1)


def average_performance_profile(scores: Array, thresholds: Sequence[float] | Array) -> Array:
    """Fraction of games whose mean over runs is more than each threshold: (..., num_thresholds). Section 4.2.

    Agarwal et al. call it the average-score distribution: biased for few runs, and all that published means allow.
    """
    game_means = _mean(scores, -2)
    return np.stack([np.asarray((game_means > threshold).mean(axis=-1)) for threshold in thresholds], axis=-1)


def iqm_curve(curves: Array) -> Array:
    """`iqm_over_runs` at each point of (..., num_runs, num_games, num_points): (..., num_points). Sample efficiency."""
    return iqm_over_runs(np.moveaxis(curves, -1, -3))


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


class Band(NamedTuple):
    """The ends of the confidence interval at each point of a curve, (num_points,); no band for the curve as a whole."""

    low: Array
    high: Array


def interval(
    statistic: Statistic,
    *matrices: Array,
    rng: np.random.Generator,
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
) -> Interval | None:
    """Percentile interval of a stratified bootstrap: runs are drawn anew within each game. Section 4.1.

    Each matrix is (num_runs, num_games), with runs of its own. None where one has a single run, which says nothing
    about the spread over runs. The interval is about other runs on the same games, not about other games. With n runs
    it is too narrow, by a factor of about sqrt((n - 1) / n): resamples spread around the mean of those runs.
    """
    values = bootstrap(statistic, *matrices, rng=rng, repetitions=repetitions)
    if values is None:
        return None
    low, high = percentiles(values, confidence)
    return Interval(float(low), float(high))


def band(
    statistic: Statistic,
    *matrices: Array,
    rng: np.random.Generator,
    repetitions: int = REPETITIONS,
    confidence: float = 0.95,
) -> Band | None:
    """`interval` for a statistic of many values, as a profile or a curve. Matrices may have a last axis of points."""
    values = bootstrap(statistic, *matrices, rng=rng, repetitions=repetitions)
    return None if values is None else percentiles(values, confidence)


def percentiles(values: Array, confidence: float = 0.95) -> Band:
    """The ends between which the central `confidence` of the values lies, along the first axis."""
    assert 0 < confidence < 1, confidence
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, (tail, 1 - tail), axis=0)
    return Band(low, high)


def bootstrap(
    statistic: Statistic, *matrices: Array, rng: np.random.Generator, repetitions: int = REPETITIONS
) -> Array | None:
    """The statistic of `repetitions` resamples: (repetitions, ...). None where a matrix has a single run a game."""
    assert matrices
    assert repetitions > 0, repetitions
    for matrix in matrices:
        _check(matrix)
    if any(len(matrix) == 1 for matrix in matrices):
        return None
    values = []
    for start in range(0, repetitions, _BLOCK):
        size = min(_BLOCK, repetitions - start)
        resamples = (resample(matrix, draw_runs(matrix, size, rng)) for matrix in matrices)
        values.append(statistic(*resamples))
    return np.concatenate(values)


def draw_runs(scores: Array, repetitions: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which runs make up each resample, drawn with replacement in each game: (repetitions, num_runs, num_games)."""
    num_runs, num_games = scores.shape[:2]
    return rng.integers(num_runs, size=(repetitions, num_runs, num_games))


def resample(scores: Array, runs: npt.NDArray[np.int64]) -> Array:
    """The scores of those runs: (repetitions, num_runs, num_games), or with the points of curves as a last axis.

    `runs` is (repetitions, num_runs, num_games). A run keeps all points of its curve.
    """
    assert runs.shape[1:] == scores.shape[:2], (runs.shape, scores.shape)
    return scores[runs, np.arange(scores.shape[1])]


_BLOCK = 50
"""Resamples at a time: 2,000 of 100 runs x 57 games would take 91 MB at once, and all their pairs 9 GB."""


def _trimmed_mean(values: Array) -> Array:
    """Mean along the last axis without int(size / 4) of the lowest and as many of the highest values."""
    cut = values.shape[-1] // 4
    kept = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(kept.mean(axis=-1))


def _mean(scores: Array, axis: int | tuple[int, ...]) -> Array:
    _check(scores)
    return np.asarray(scores.mean(axis=axis))


def _check(scores: Array) -> None:
    assert scores.ndim >= 2, scores.shape
    assert scores.size > 0, scores.shape
    assert np.isfinite(scores).all()
