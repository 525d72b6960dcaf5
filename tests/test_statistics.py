"""Aggregates and intervals, against tables worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rl_lab.statistics import (
    Array,
    Interval,
    average_performance_profile,
    band,
    bootstrap,
    draw_runs,
    interval,
    iqm_curve,
    iqm_of_game_means,
    iqm_over_runs,
    mean,
    median,
    optimality_gap,
    percentiles,
    performance_profile,
    permutation_p_value,
    probability_of_improvement,
    probability_of_improvement_by_game,
    resample,
)

# Three runs of four games; means over runs 1, 2, 6, 11.
SCORES = np.array([[0.0, 2.0, 3.0, 1.0], [1.0, 2.0, 6.0, 2.0], [2.0, 2.0, 9.0, 30.0]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_mean_and_median_are_over_the_means_of_the_games() -> None:
    assert mean(SCORES) == 5.0
    assert median(SCORES) == 4.0


def test_iqm_over_runs_leaves_out_a_quarter_of_all_runs_of_all_games_at_either_end() -> None:
    # 0 1 1 | 2 2 2 2 2 3 | 6 9 30
    assert iqm_over_runs(SCORES) == pytest.approx(13 / 6)


def test_iqm_of_game_means_leaves_out_a_quarter_of_the_games_at_either_end() -> None:
    assert iqm_of_game_means(SCORES) == 4.0


@pytest.mark.parametrize(("scores", "iqm"), [([7.0], 7.0), ([1.0, 2.0, 9.0], 4.0), ([-9.0, 1.0, 2.0, 3.0, 99.0], 2.0)])
def test_iqm_rounds_the_quarter_down(scores: list[float], iqm: float) -> None:
    assert iqm_over_runs(np.array([scores])) == iqm
    assert iqm_of_game_means(np.array([scores])) == iqm


def test_optimality_gap_counts_what_is_above_gamma_as_gamma() -> None:
    # Only the run of 0 falls short of 1. Of gamma 2 three runs do: 0, 1 and 1.
    assert optimality_gap(SCORES) == pytest.approx(1 / 12)
    assert optimality_gap(SCORES, gamma=2.0) == pytest.approx(4 / 12)


def test_probability_of_improvement_counts_won_pairs_and_half_of_the_ties() -> None:
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    y = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 6.0]])
    # First game: 1 beats 0 and ties 1, 3 beats all three: 4.5 of 6 pairs. Second: four ties of 6 pairs.
    np.testing.assert_allclose(probability_of_improvement_by_game(x, y), [4.5 / 6, 2 / 6])
    assert probability_of_improvement(x, y) == pytest.approx(6.5 / 12)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1.0)


def test_agents_of_different_games_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="not the same games"):
        probability_of_improvement(SCORES, SCORES[:, :3])


def test_profile_is_the_fraction_of_runs_above_and_not_at_the_threshold() -> None:
    np.testing.assert_allclose(performance_profile(SCORES, [-1.0, 0.0, 2.0, 30.0]), [1, 11 / 12, 4 / 12, 0])


def test_average_profile_is_the_fraction_of_games_whose_mean_is_above() -> None:
    np.testing.assert_allclose(average_performance_profile(SCORES, [0.0, 1.0, 6.0, 30.0]), [1, 0.75, 0.25, 0])


def test_iqm_of_a_curve_is_the_iqm_at_each_point() -> None:
    curves = np.stack([SCORES, SCORES + 1, 2 * SCORES], axis=-1)
    np.testing.assert_allclose(
        iqm_curve(curves), [iqm_over_runs(SCORES) * scale + shift for scale, shift in [(1, 0), (1, 1), (2, 0)]]
    )


@pytest.mark.parametrize("statistic", [mean, median, iqm_over_runs, iqm_of_game_means, optimality_gap])
def test_statistics_of_many_resamples_are_those_of_each(statistic: object) -> None:
    assert callable(statistic)
    resamples = rng().normal(size=(2, 3, 5, 7))
    expected = [[statistic(scores) for scores in row] for row in resamples]
    np.testing.assert_allclose(statistic(resamples), expected, rtol=0, atol=1e-14)


def test_comparisons_profiles_and_curves_of_many_resamples_are_those_of_each() -> None:
    x, y = rng(1).normal(size=(4, 5, 7)), rng(2).normal(size=(4, 3, 7))
    each = [probability_of_improvement(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(probability_of_improvement(x, y), each, rtol=0, atol=1e-14)
    taus = [-1.0, 0.0, 0.5]
    for profile in performance_profile, average_performance_profile:
        np.testing.assert_allclose(profile(x, taus), [profile(a, taus) for a in x])
    curves = rng(3).normal(size=(4, 5, 7, 6))
    np.testing.assert_allclose(iqm_curve(curves), [iqm_curve(curve) for curve in curves], rtol=0, atol=1e-14)


def test_resamples_draw_runs_with_replacement_within_each_game() -> None:
    scores = np.arange(3)[:, None] + 10.0 * np.arange(4)  # the tens are the game, the ones the run
    drawn = resample(scores, draw_runs(scores, 200, rng()))
    assert drawn.shape == (200, 3, 4)
    assert (drawn // 10 == np.arange(4)).all()
    runs = drawn % 10
    assert set(runs.flat) == {0, 1, 2}
    assert any(len(set(resample_of_game)) < 3 for resample_of_game in runs[:, :, 0])
    assert (runs[:, :, 0] != runs[:, :, 1]).any(), "games are drawn apart"


def test_resampled_run_keeps_all_points_of_its_curve() -> None:
    curves = np.arange(3.0)[:, None, None] + np.zeros((3, 2, 5))
    drawn = resample(curves, draw_runs(curves, 50, rng()))
    assert drawn.shape == (50, 3, 2, 5)
    assert (drawn == drawn[..., :1]).all()


def test_two_matrices_are_resampled_apart() -> None:
    def difference(x: Array, y: Array) -> Array:
        return np.asarray(mean(x) - mean(y))

    values = bootstrap(difference, SCORES, SCORES, rng=rng(), repetitions=10)
    assert values is not None
    assert np.ptp(values) > 0


def test_percentiles_enclose_the_central_part_of_the_values() -> None:
    low, high = percentiles(np.arange(101.0), confidence=0.9)
    assert (float(low), float(high)) == pytest.approx((5.0, 95.0))


def test_interval_is_the_percentiles_of_the_bootstrap() -> None:
    values = bootstrap(mean, SCORES, rng=rng(3), repetitions=120)
    assert values is not None
    assert values.shape == (120,)
    found = interval(mean, SCORES, rng=rng(3), repetitions=120, confidence=0.8)
    assert found == Interval(*np.quantile(values, [0.1, 0.9]))
    assert found[0] < mean(SCORES) < found[1]


def test_interval_of_equal_runs_is_a_point() -> None:
    assert interval(mean, np.ones((2, 3)), rng=rng()) == Interval(1.0, 1.0)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    draws = rng(5)
    found = [interval(mean, draws.normal(size=(10, 4)), rng=draws, repetitions=400) for _ in range(300)]
    covered = np.mean([ends is not None and ends.low < 0 < ends.high for ends in found])
    # Of ten normal runs the percentile interval is too narrow by sqrt(9/10): it covers 93.7 %; 300 trials err by 1.4.
    assert 0.89 < covered < 0.98


def test_one_run_a_game_gives_no_interval() -> None:
    assert interval(mean, SCORES[:1], rng=rng()) is None
    assert band(iqm_curve, SCORES[:1, :, None], rng=rng()) is None
    assert interval(probability_of_improvement, SCORES, SCORES[:1], rng=rng()) is None


def test_band_has_ends_at_each_threshold_and_at_each_point() -> None:
    profile = band(lambda scores: performance_profile(scores, [0.0, 2.0, 30.0]), SCORES, rng=rng(), repetitions=100)
    assert profile is not None
    assert profile.low.shape == profile.high.shape == (3,)
    assert (profile.low <= performance_profile(SCORES, [0.0, 2.0, 30.0])).all()
    assert profile.high[2] == 0.0
    curve = band(iqm_curve, np.stack([SCORES, SCORES + 5], axis=-1), rng=rng(), repetitions=100)
    assert curve is not None
    np.testing.assert_allclose(curve.low + 5, [curve.low[1], curve.low[1] + 5])


def test_generator_decides_the_interval() -> None:
    first, again, other = (interval(mean, SCORES, rng=rng(seed), repetitions=50) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("wrong", [np.empty((0, 3)), np.empty((3, 0)), np.array([[1.0, np.nan]]), np.array([1.0, 2.0])])
def test_empty_and_unknown_scores_are_refused(wrong: Array) -> None:
    for statistic in (mean, median, iqm_over_runs, iqm_of_game_means, optimality_gap):
        with pytest.raises(AssertionError):
            statistic(wrong)
    with pytest.raises(AssertionError):
        probability_of_improvement(wrong, SCORES)
    with pytest.raises(AssertionError):
        performance_profile(wrong, [0.0])
    with pytest.raises(AssertionError):
        interval(mean, wrong, rng=rng())


def test_permutation_p_value_counts_the_relabelings_that_are_as_far_apart() -> None:
    x, y = np.array([[7.0], [8.0], [9.0]]), np.array([[1.0], [2.0], [3.0]])
    # Of the 20 ways to draw three of six runs, 2 tell them apart as far: all of x, or none.
    assert permutation_p_value(x, y, rng=rng()) == pytest.approx(2 / 20, abs=0.01)
    # Within each of two games on its own: 2 of 20 x 20, as both have to point the same way.
    both = permutation_p_value(np.hstack((x, x)), np.hstack((y, y)), rng=rng())
    assert both == pytest.approx(2 / 400, abs=0.003)


def test_permutation_p_value_is_one_for_equals_and_does_not_depend_on_the_order() -> None:
    x = rng().normal(size=(4, 3))
    assert permutation_p_value(x, x, rng=rng()) == 1.0
    y = x + rng(1).normal(size=(4, 3))
    assert permutation_p_value(x, y, rng=rng(2)) == pytest.approx(permutation_p_value(y, x, rng=rng(3)), abs=0.02)


def test_permutation_p_value_of_equals_is_below_a_twentieth_in_a_twentieth_of_draws() -> None:
    draws = rng()
    low = [
        permutation_p_value(draws.normal(size=(5, 4)), draws.normal(size=(5, 4)), rng=draws, repetitions=200) <= 0.05
        for _ in range(400)
    ]
    assert 0.02 < np.mean(low) < 0.08
