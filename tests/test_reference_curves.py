"""Dopamine's curves agree with its table of single iterations, and say what they are."""

from __future__ import annotations

import pytest

from rl_lab.errors import LabError
from rl_lab.scores import curve, curves, reference, references


def test_there_is_a_curve_for_each_dopamine_agent_in_60_games() -> None:
    at_the_end = {name.removesuffix("_200M") for name in references() if name.startswith("dopamine_")}
    assert list(curves()) == sorted(name for name in at_the_end if not name.endswith("M"))
    assert len(curves()) == 16
    assert all(len(agent.games) == 60 for agent in curves().values())


OLDER = ("c51_tf", "rainbow_tf", "iqn_tf", "qrdqn_jax_legacy", "dqn_tf", "dqn_adam_mse_jax")


# From another reading of the same files. At 10 million frames the references of the DQNs average five iterations.
@pytest.mark.parametrize(
    ("agent", "millions"),
    [
        (agent, millions)
        for agent in OLDER
        for millions in (1, 2, 5, 10)
        if millions < 10 or not agent.startswith("dqn")
    ],
)
def test_point_stands_at_the_end_of_its_iteration(agent: str, millions: int) -> None:
    for game, score in reference(f"dopamine_{agent}_{millions}M").scores.items():
        points = curve(f"dopamine_{agent}").games[game]
        mean = points.mean[points.frames.index(millions * 1_000_000)]
        assert mean == pytest.approx(score, rel=5.1e-4, abs=0.0051), game  # four significant digits are kept


def test_curve_keeps_the_same_45_iterations_in_all_games_and_the_older_set_ends_at_195_million_frames() -> None:
    for agent in curves().values():
        frames = {game.frames for game in agent.games.values()}
        assert len(frames) == 1, agent.name
        [millions] = [tuple(count // 1_000_000 for count in counts) for counts in frames]
        expected = (1, 2, 3, 5, 7, 9, *range(10, 201, 5))
        assert millions == (expected if agent.name.endswith(("_cnn", "_impala")) else expected[:-1]), agent.name


def test_mean_lies_between_the_least_and_the_most_of_three_to_five_seeds() -> None:
    for agent in curves().values():
        for game, points in agent.games.items():
            assert len(points.frames) == len(points.mean) == len(points.seeds), (agent.name, game)
            for least, mean, most, seeds in zip(points.least, points.mean, points.most, points.seeds, strict=True):
                assert least <= mean <= most, (agent.name, game)
                assert 3 <= seeds <= 5, (agent.name, game)


def test_curve_says_what_the_reference_at_its_end_says() -> None:
    found, end = curve("dopamine_dqn_cnn"), reference("dopamine_dqn_cnn_200M")
    assert (found.title, found.source, found.table) == (end.title, end.source, end.table)
    assert end.curve == found.name


def test_unknown_curve_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(LabError, match=r"no published curve 'dopamine_dqn_cn' .*; did you mean 'dopamine_dqn_cnn'\?$"):
        curve("dopamine_dqn_cn")
    with pytest.raises(LabError, match="no published curve 'dopamine_dqn_cnn_200M'"):
        curve("dopamine_dqn_cnn_200M")


def test_curves_belong_to_the_caller() -> None:
    curves().clear()
    assert "dopamine_dqn_cnn" in curves()
