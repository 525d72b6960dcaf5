from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.atari import Episode, named_protocol
from rl_lab.errors import LabError
from rl_lab.evaluation import EpisodeShares, evaluate

QUICK = dataclasses.replace(named_protocol("nature2015"), max_frames_per_episode=800)


class Fire:
    """Acts with action 1 always, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        self.asked += 1
        return np.ones(len(observations), np.int64)


def test_same_seed_gives_the_same_scores_and_another_seed_others() -> None:
    first, again, other = (evaluate(Fire(), "Krull", QUICK, episodes=2, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.scores != other.scores


def test_each_parallel_game_plays_a_fixed_share_however_long_its_episodes() -> None:
    shares = EpisodeShares(episodes=5, num_games=3, on_step=lambda: None)
    for game_index in (0, 0, 0, 0, 1, 2, 0, 1):  # game 0 has short episodes
        assert not shares.complete()
        shares.on_episode(Episode(game_index, score=0.0, length_steps=1, end_step=1, truncated=False))
    assert shares.complete()
    assert sorted(episode.game_index for episode in shares.kept) == [0, 0, 1, 1, 2]


def test_as_many_episodes_are_played_as_asked_for() -> None:
    assert len(evaluate(Fire(), "Breakout", QUICK, episodes=13, seed=0).scores) == 13


def test_frames_are_those_of_the_kept_episodes() -> None:
    evaluation = evaluate(Fire(), "Pong", QUICK, episodes=3, seed=0)
    assert evaluation.truncated_episodes == 3
    assert evaluation.frames == pytest.approx(3 * 800, abs=3 * 4 * 10)


def test_scores_are_raw() -> None:
    # A dot in Alien pays 10: random play eats several in 200 steps.
    random_play = dataclasses.replace(QUICK, evaluation_epsilon=1.0)
    evaluation = evaluate(Fire(), "Alien", random_play, episodes=2, seed=0)
    assert all(score % 10 == 0 and score >= 50 for score in evaluation.scores), evaluation.scores


def test_a_single_episode_has_no_spread() -> None:
    evaluation = evaluate(Fire(), "Pong", QUICK, episodes=1, seed=0)
    assert evaluation.std_score is None
    assert evaluation.as_record("noop57")["std_score"] is None


def test_a_game_without_human_scores_is_reported_raw() -> None:
    assert evaluate(Fire(), "AirRaid", QUICK, episodes=1, seed=0).human_normalized_score() is None


def test_epsilon_of_the_protocol_decides_how_often_play_is_random() -> None:
    greedy = evaluate(Fire(), "Krull", dataclasses.replace(QUICK, evaluation_epsilon=0.0), episodes=2, seed=0)
    random = evaluate(Fire(), "Krull", dataclasses.replace(QUICK, evaluation_epsilon=1.0), episodes=2, seed=0)
    assert greedy.scores != random.scores


def test_no_episode_is_an_error_not_a_nan() -> None:
    with pytest.raises(LabError, match="evaluation episodes are 0; allowed is 1 or more"):
        evaluate(Fire(), "Pong", QUICK, episodes=0, seed=0)


def test_check_stop_ends_an_evaluation() -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    agent = Fire()
    with pytest.raises(StopError):
        evaluate(agent, "Pong", QUICK, episodes=1, seed=0, on_step=stop)
    assert agent.asked == 1
