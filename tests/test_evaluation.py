from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.atari import named_protocol
from rl_lab.errors import LabError
from rl_lab.evaluation import evaluate

QUICK = dataclasses.replace(named_protocol("nature2015"), max_frames_per_episode=800)


class Fire:
    """Acts with action 1 always, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        self.asked += 1
        return np.ones(len(observations), np.int64)


def test_same_seed_gives_the_same_scores_and_another_seed_others() -> None:
    first, again, other = (evaluate(Fire(), "Krull", QUICK, episodes=5, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.scores != other.scores


def test_each_parallel_game_plays_a_fixed_share_of_the_episodes() -> None:
    # 13 episodes in 10 games: three games play two, so a game's share never depends on how long its episodes are.
    evaluation = evaluate(Fire(), "Breakout", QUICK, episodes=13, seed=0)
    alone = evaluate(Fire(), "Breakout", QUICK, episodes=10, seed=0)
    assert len(evaluation.scores) == 13
    assert len(alone.scores) == 10


def test_frames_are_those_of_the_kept_episodes() -> None:
    evaluation = evaluate(Fire(), "Pong", QUICK, episodes=3, seed=0)
    assert evaluation.truncated_episodes == 3
    assert evaluation.frames == pytest.approx(3 * 800, abs=3 * 4 * 10)


def test_scores_are_raw() -> None:
    evaluation = evaluate(Fire(), "Krull", QUICK, episodes=2, seed=0)
    assert max(evaluation.scores) > 30  # clipped rewards of 200 steps could reach it only with a hit in every seventh


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
        evaluate(agent, "Pong", QUICK, episodes=1, seed=0, check_stop=stop)
    assert agent.asked == 1
