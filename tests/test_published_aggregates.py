"""What papers print over all games comes out of their scores by game; where it does not, that is stated here too."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from rl_lab.scores import curve, reference, score_table
from rl_lab.statistics import Array, iqm_of_game_means, iqm_over_runs, mean, median, optimality_gap

DATA = Path(__file__).parent / "data"


def human_normalized(scores: Mapping[str, float], table: str = "noop57") -> Array:
    """(1, num_games), of the games that the table has."""
    values = (score_table(table).human_normalized(game, score) for game, score in scores.items())
    return np.array([[value for value in values if value is not None]])


def human_normalized_runs(name: str) -> Array:
    """(num_runs, num_games)"""
    table, runs = score_table(), reference(name).runs
    return np.array([[table.human_normalized(game, run) for run in runs[game]] for game in runs], np.float64).T


def rows(file: str) -> list[dict[str, str]]:
    with (DATA / file).open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("row", rows("atari100k_aggregates.csv"), ids=lambda row: row["column"])
def test_atari_100k_agents_have_the_aggregates_of_another_implementation(row: dict[str, str]) -> None:
    agent = reference(f"atari100k_{row['column']}")
    scores = human_normalized_runs(agent.name) if row["runs_per_game"] else human_normalized(agent.scores)
    assert len(scores) == int(row["runs_per_game"] or 1)
    assert bool(agent.runs) == bool(row["runs_per_game"])
    found = {
        "mean_hns": mean(scores),
        "median_hns": median(scores),
        "iqm_of_game_means": iqm_of_game_means(scores),
        "optimality_gap": optimality_gap(scores),
    }
    if agent.runs:
        found["iqm_over_runs"] = iqm_over_runs(scores)
    for column, value in found.items():
        assert value == pytest.approx(float(row[column]), abs=5.01e-5), column
    # IRIS's Pong is the human's 14.6.
    assert (scores.mean(axis=0) > 1 - 1e-9).sum() == int(row["n_superhuman"])


# Mean and median, as printed by: EfficientZero (abstract), IRIS, DIAMOND (its Tables 1 and 6), A-LIX (Table 3, for
# SimPLe, OTRainbow, CURL, DrQ and SPR), van Hasselt et al. 2019 (DER), BBF.
@pytest.mark.parametrize(
    ("agent", "published_mean", "published_median"),
    [
        ("simple_best", 0.443, 0.144),
        ("simple_5seed", 0.332, None),
        ("otrainbow_paper", 0.264, 0.204),
        ("der_paper", 0.285, 0.161),
        ("curl_paper", 0.381, 0.175),
        ("curl_100seed_final", 0.261, None),
        ("drq_paper", 0.357, 0.268),
        ("spr_paper", 0.703, 0.415),  # printed as .704
        ("spr_100seed", 0.616, None),
        ("sr_spr", 1.271, None),
        ("iris", 1.046, None),
        ("bbf_rr8", 2.247, 0.917),
        ("muzero_100k", 0.562, None),
        ("efficientzero", 1.943, 1.090),
        ("twm", 0.956, None),
        ("storm_diamond_table", 1.266, None),
        ("diamond", 1.459, None),
        ("dreamerv3_2023", 1.130, None),  # printed as 1.097
        ("storm", 1.222, None),  # printed as 1.266: Freeway is 0 in the released runs
    ],
)
def test_atari_100k_agents_give_the_published_mean_and_median(
    agent: str, published_mean: float, published_median: float | None
) -> None:
    scores = human_normalized(reference(f"atari100k_{agent}").scores)
    assert mean(scores) == pytest.approx(published_mean, abs=6e-4)
    assert published_median is None or median(scores) == pytest.approx(published_median, abs=6e-4)


@pytest.mark.parametrize(
    ("agent", "published"),
    [
        ("simple_5seed", 0.130),
        ("curl_100seed_final", 0.113),
        ("spr_100seed", 0.337),
        ("iris", 0.501),
        ("diamond", 0.641),
        ("storm", 0.561),  # printed as .636, with another Freeway
    ],
)
def test_interquartile_means_over_runs_are_those_of_diamonds_tables(agent: str, published: float) -> None:
    assert iqm_over_runs(human_normalized_runs(f"atari100k_{agent}")) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(("agent", "published"), [("sr_spr", 0.700), ("bbf_rr8", 1.139), ("muzero_100k", 0.288)])
def test_other_interquartile_means_of_diamonds_tables_are_of_game_means(agent: str, published: float) -> None:
    scores = human_normalized(reference(f"atari100k_{agent}").scores)
    assert iqm_of_game_means(scores) == pytest.approx(published, abs=6e-4)


# As quoted for the Agent57 paper (mean, median) and the NGU paper (games above human).
@pytest.mark.parametrize(
    ("agent", "percent_mean", "percent_median", "above_human"),
    [
        ("agent57", 4766.2, 1933.5, 57),
        ("r2d2_in_agent57", None, 2357.9, 54),
        ("muzero_20B", 5661.8, None, 51),
        ("r2d2_retrace_ngu", None, None, 52),
        ("ngu32_beta0", None, None, 51),
    ],
)
def test_agents_of_long_training_give_the_published_aggregates(
    agent: str, percent_mean: float | None, percent_median: float | None, above_human: int
) -> None:
    scores = 100 * human_normalized(reference(agent).scores)
    assert percent_mean is None or mean(scores) == pytest.approx(percent_mean, abs=0.06)
    assert percent_median is None or median(scores) == pytest.approx(percent_median, abs=0.06)
    assert (scores > 100).sum() == above_human


def test_some_printed_aggregates_do_not_come_out_of_the_printed_scores() -> None:
    # The text prints medians of 1451.8 % and 1354.4 %, and an interquartile mean of 13.86.
    assert median(human_normalized(reference("r2d2_retrace_ngu").scores)) == pytest.approx(13.428, abs=6e-4)
    assert median(human_normalized(reference("ngu32_beta0").scores)) == pytest.approx(12.081, abs=6e-4)
    assert iqm_of_game_means(human_normalized(reference("disco57_200M").scores)) == pytest.approx(14.641, abs=6e-4)


# Median and interquartile mean of game means, by another reading of Dopamine's files.
@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("dqn_tf_10M", (0.100, 0.136)),
        ("dqn_tf_40M", (0.411, 0.498)),
        ("dqn_tf_50M", (0.471, 0.535)),
        ("dqn_tf_100M", (0.639, 0.693)),
        ("dqn_tf_200M", (0.649, 0.773)),
        ("dqn_adam_mse_jax_10M", (0.213, 0.275)),
        ("dqn_adam_mse_jax_40M", (0.611, 0.737)),
        ("dqn_adam_mse_jax_50M", (0.661, 0.810)),
        ("dqn_adam_mse_jax_100M", (0.929, 1.132)),
        ("dqn_adam_mse_jax_200M", (0.988, 1.371)),
        ("dqn_cnn_10M", (0.238, 0.279)),
        ("dqn_cnn_40M", (0.627, 0.739)),
        ("dqn_cnn_50M", (0.702, 0.814)),
        ("dqn_cnn_100M", (1.006, 1.182)),
        ("dqn_cnn_200M", (1.091, 1.404)),
        ("rainbow_cnn_200M", (1.347, 1.666)),
        ("iqn_cnn_200M", (1.375, 1.955)),
        ("c51_cnn_200M", (1.348, 1.632)),
        ("qrdqn_cnn_200M", (0.885, 1.170)),
        ("dqn_impala_200M", (1.173, 1.587)),
        ("c51_impala_200M", (1.896, 2.133)),
        ("rainbow_impala_200M", (1.780, 2.531)),
        ("iqn_impala_200M", (1.411, 2.222)),
        ("qrdqn_impala_200M", (0.971, 1.233)),
    ],
)
def test_dopamines_averages_have_their_median_and_interquartile_mean(agent: str, expected: tuple[float, float]) -> None:
    # In DQN Zoo's unchanged table, where VideoPinball stands on the other side of dqn_tf_10M's median: .106 by ours.
    scores = human_normalized(reference(f"dopamine_{agent}").scores, "noop57_videopinball16257")
    assert (float(median(scores)), float(iqm_of_game_means(scores))) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("row", rows("dopamine_aggregates.csv"), ids=lambda row: f"{row['curve']}-{row['frames']}")
def test_dopamines_curves_have_the_median_and_mean_of_all_their_digits(row: dict[str, str]) -> None:
    points = curve(row["curve"]).games
    returns = {game: at.mean[at.frames.index(int(row["frames"]))] for game, at in points.items()}
    # Four digits of a return are off by up to 0.005 points, and in DoubleDunk the human is 2.2 points above random.
    assert median(human_normalized(returns)) == pytest.approx(float(row["median"]), abs=0.003)
    assert mean(human_normalized(returns, "muzero_s1")) == pytest.approx(float(row["mean"]), abs=2e-4)
