"""What a viewer sees is the play that the agent sees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, ColourGame, named_protocol
from rl_lab.errors import LabError
from rl_lab.seeding import seed_sequence

SEEDS = seed_sequence(0, "environment")


def area_weights(size: int) -> NDArray[np.float64]:
    """[84, size]: how much of each pixel lies in each of 84 equal parts (area interpolation)."""
    edges = np.arange(size + 1)
    low = np.arange(84)[:, None] * size / 84
    overlap = np.minimum(low + size / 84, edges[1:]) - np.maximum(low, edges[:-1])
    return overlap.clip(0) * 84 / size


ROWS, COLUMNS = area_weights(210), area_weights(160)


def as_the_agent_sees(*frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The maximum of colour frames in grey, as ale-py's palette has it, in the size of an observation: [84, 84]."""
    grey = np.stack([(frame @ np.array([0.2989, 0.5870, 0.1140])).round() for frame in frames]).max(axis=0)
    small: NDArray[np.float64] = ROWS @ grey @ COLUMNS.T
    return small


def difference(observations: NDArray[np.uint8], *frames: NDArray[np.uint8]) -> float:
    """The most by which a pixel of the newest grey frame differs from colour frames."""
    return float(np.abs(observations[0, 3] - as_the_agent_sees(*frames)).max())


@pytest.mark.parametrize("game", ["Breakout", "Seaquest", "Pong", "SpaceInvaders"])
@pytest.mark.parametrize("name", ["mnih2013", "nature2015", "machado2018", "sb3_zoo"])
def test_agent_plays_as_in_the_vector_environment_and_the_viewer_sees_its_screens(game: str, name: str) -> None:
    protocol = dataclasses.replace(named_protocol(name), max_frames_per_episode=702)
    env = AtariVectorEnv(game, protocol, 2, SEEDS, training=False)
    colour = ColourGame(game, protocol, SEEDS)
    observations = env.reset()
    assert np.array_equal(colour.reset(), observations[:1])
    assert difference(observations, colour.screen) <= 1.5
    score, ends = 0.0, 0
    for action in np.random.default_rng(1).integers(env.num_actions, size=400):
        expected, played = env.step(np.array([action, 0])), colour.step(int(action))
        for field in expected._fields:
            assert np.array_equal(getattr(played.step, field), getattr(expected, field)[:1]), field
        score += float(expected.rewards[0])
        assert played.score == score
        if expected.episode_ends[0]:
            score, ends = 0.0, ends + 1
            # The observation of an end is not compared: ale-py leaves the last screens out of it.
            assert difference(expected.observations, colour.screen) <= 1.5
        else:
            assert len(played.frames) == 4
            assert difference(expected.observations, *played.frames[-2:]) <= 1.5
            assert np.array_equal(colour.screen, played.frames[-1])
    assert ends >= 2


@pytest.mark.parametrize(("cap", "last"), [(42, 2), (40, 4)])
def test_frames_end_with_the_episode(cap: int, last: int) -> None:
    colour = ColourGame("Pong", dataclasses.replace(named_protocol("nature2015"), max_frames_per_episode=cap), SEEDS)
    colour.reset()
    steps = [colour.step(0) for _ in range(2 * ((cap + 3) // 4))]
    assert sum(len(played.frames) for played in steps) == 2 * cap
    assert [len(played.frames) for played in steps if played.step.episode_ends[0]] == [last, last]


def test_reset_in_mid_game_starts_the_next_episode_of_both() -> None:
    protocol = named_protocol("machado2018")
    colour, env = (
        ColourGame("Breakout", protocol, SEEDS),
        AtariVectorEnv("Breakout", protocol, 1, SEEDS, training=False),
    )
    for _ in range(2):
        assert np.array_equal(colour.reset(), env.reset())
        for action in (1, 2, 3, 1, 2, 2, 2, 3):
            played, expected = colour.step(action), env.step(np.array([action]))
            assert np.array_equal(played.step.observations, expected.observations)
            assert difference(expected.observations, *played.frames[-2:]) <= 1.5


def test_screen_has_the_games_own_height() -> None:
    colour = ColourGame("AirRaid", named_protocol("nature2015"), SEEDS)
    colour.reset()
    frame = colour.step(0).frames[-1]
    assert frame.shape == (250, 160, 3)


def test_frames_are_not_overwritten_by_later_steps() -> None:
    colour = ColourGame("Pong", named_protocol("nature2015"), SEEDS)
    colour.reset()
    played = colour.step(2)
    before = [frame.tobytes() for frame in played.frames]
    for _ in range(30):
        colour.step(2)
    assert [frame.tobytes() for frame in played.frames] == before
    assert not np.array_equal(colour.screen, played.frames[-1])


def test_action_out_of_range_is_refused_and_play_goes_on() -> None:
    colour = ColourGame("Pong", named_protocol("nature2015"), SEEDS)
    colour.reset()
    with pytest.raises(LabError, match="outside 0 to 5 of Pong"):
        colour.step(6)
    colour.step(5)
