"""The statistics are rliable's, number by number; data/rliable-1.2.0.py made the golden numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.scores import reference, score_table
from rl_lab.statistics import (
    Array,
    average_performance_profile,
    iqm_of_game_means,
    iqm_over_runs,
    mean,
    median,
    optimality_gap,
    percentiles,
    performance_profile,
    probability_of_improvement,
    resample,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "rliable-1.2.0.json").read_text())
AGGREGATES = {"mean": mean, "median": median, "iqm_over_runs": iqm_over_runs, "optimality_gap": optimality_gap}


def human_normalized_runs(agent: str) -> Array:
    """(num_runs, num_games), games in the order of their names."""
    table = score_table()
    runs = reference(f"atari100k_{agent}").runs
    return np.array([[table.human_normalized(game, run) for run in runs[game]] for game in sorted(runs)]).T


def rliable_resamples(*matrices: Array) -> list[Array]:
    """All resamples that rliable made of the matrices: (repetitions, num_runs, num_games) each."""
    rng = np.random.RandomState(GOLDEN["seed"])
    drawn = [[rng.choice(len(m), m.shape) for m in matrices] for _ in range(GOLDEN["repetitions"])]
    return [resample(m, np.array(runs)) for m, runs in zip(matrices, zip(*drawn, strict=True), strict=True)]


def assert_same(found: object, golden: float | Sequence[float]) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), golden, rtol=0, atol=1e-12)


@pytest.mark.parametrize("agent", GOLDEN["aggregates"])
def test_aggregates_and_profiles_are_rliables(agent: str) -> None:
    scores, golden = human_normalized_runs(agent), GOLDEN["aggregates"][agent]
    for name, aggregate in {**AGGREGATES, "iqm_of_game_means": iqm_of_game_means}.items():
        assert_same(aggregate(scores), golden[name])
    assert_same(performance_profile(scores, GOLDEN["thresholds"]), golden["performance_profile"])
    assert_same(average_performance_profile(scores, GOLDEN["thresholds"]), golden["average_performance_profile"])


@pytest.mark.parametrize("pair", GOLDEN["improvement"], ids=lambda pair: f"{pair['x']}-{pair['y']}")
def test_probability_of_improvement_is_rliables(pair: dict[str, Any]) -> None:
    x, y = human_normalized_runs(pair["x"]), human_normalized_runs(pair["y"])
    assert_same(probability_of_improvement(x, y), pair["probability"])


@pytest.mark.parametrize("agent", GOLDEN["intervals"])
def test_intervals_of_rliables_resamples_are_rliables(agent: str) -> None:
    [resamples] = rliable_resamples(human_normalized_runs(agent))
    golden = GOLDEN["intervals"][agent]
    for name, aggregate in AGGREGATES.items():
        assert_same(percentiles(aggregate(resamples)), golden[name])
    band = percentiles(performance_profile(resamples, GOLDEN["thresholds"]))
    assert_same(np.transpose(band), golden["performance_profile"])


@pytest.mark.parametrize("pair", GOLDEN["improvement_intervals"], ids=lambda pair: f"{pair['x']}-{pair['y']}")
def test_intervals_of_the_probability_of_improvement_are_rliables(pair: dict[str, Any]) -> None:
    x, y = rliable_resamples(human_normalized_runs(pair["x"]), human_normalized_runs(pair["y"]))
    assert_same(percentiles(probability_of_improvement(x, y)), pair["interval"])
