"""What is shown of an agent: its own play, its values, where it looks."""

from __future__ import annotations

import dataclasses
import io
import os
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.atari import ColourGame, Protocol, named_protocol
from rl_lab.errors import LabError
from rl_lab.evaluation import evaluate, evaluation_seeds
from rl_lab.viewing import Moment, Pace, Panel, Saliency, ViewedStep, play
from rl_lab.viewing.panel import Bars, with_saliency
from rl_lab.viewing.terminal import Terminal, half_blocks, picture, status_lines

QUICK = dataclasses.replace(named_protocol("nature2015"), max_frames_per_episode=800)
ORANGE, SKY_BLUE = (230, 159, 0), (86, 180, 233)
ACTIONS = ("NOOP", "FIRE", "RIGHT", "LEFT")


class Fixed:
    """Values action 1 most, whatever it sees."""

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.ones(len(observations), np.int64)

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([0, 3, 1, 2], np.float32), (len(observations), 1))


def viewed(game: str, protocol: Protocol = QUICK, *, seed: int = 0, episodes: int = 1) -> list[ViewedStep]:
    return list(play(Fixed(), ColourGame(game, protocol, evaluation_seeds(seed)), seed=seed, episodes=episodes))


def moment(**changes: object) -> Moment:
    default = Moment(
        episode=1,
        step=7,
        score=20.0,
        lives=3,
        action=1,
        explores=False,
        values=np.array([0, 3, 1, 2], np.float32),
        saliency=None,
    )
    return dataclasses.replace(default, **changes)  # type: ignore[arg-type]  # the field's own type


# The play


@pytest.mark.parametrize("name", ["nature2015", "machado2018", "sb3_zoo"])
def test_the_viewed_game_is_the_one_that_evaluate_scores(name: str) -> None:
    protocol = dataclasses.replace(named_protocol(name), max_frames_per_episode=1_600, evaluation_epsilon=0.5)
    scores = []
    for seed in (3, 4):
        evaluation = evaluate(Fixed(), "SpaceInvaders", protocol, episodes=1, seed=seed)
        last = viewed("SpaceInvaders", protocol, seed=seed)[-1]
        assert (last.moment.score,) == evaluation.scores
        assert last.moment.step * protocol.frame_skip == evaluation.frames
        assert last.ends_episode
        scores.append(last.moment.score)
    assert scores[0] != scores[1]


def test_steps_and_scores_are_counted_for_each_episode() -> None:
    steps = viewed("Pong", episodes=2)
    assert [step.moment.episode for step in steps] == [1] * 200 + [2] * 200
    assert [step.moment.step for step in steps] == [*range(1, 201)] * 2
    assert [index for index, step in enumerate(steps) if step.ends_episode] == [199, 399]
    assert steps[199].moment.score < 0
    assert steps[200].moment.score == 0


def test_the_protocols_epsilon_decides_what_is_random() -> None:
    never, always = (
        viewed("Breakout", dataclasses.replace(QUICK, evaluation_epsilon=epsilon)) for epsilon in (0.0, 1.0)
    )
    assert {(step.moment.action, step.moment.explores) for step in never} == {(1, False)}
    assert {step.moment.action for step in always} == {0, 1, 2, 3}
    assert all(step.moment.explores for step in always)


def test_lives_are_those_before_the_step() -> None:
    steps = viewed("Breakout", dataclasses.replace(QUICK, evaluation_epsilon=0.0))
    assert [steps[0].moment.lives, steps[-1].moment.lives] == [5, 1]


# Where it looks


class LooksAt:
    """Its values are mean brightnesses of places (row, column), weighted."""

    def __init__(self, places: dict[tuple[int, int], float]) -> None:
        self._places = places

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        columns = [
            weight * observations[:, :, row - 2 : row + 3, column - 2 : column + 3].mean(axis=(1, 2, 3))
            for (row, column), weight in self._places.items()
        ]
        return np.stack(columns, axis=1).astype(np.float32)


def squares(*places: tuple[int, int]) -> NDArray[np.uint8]:
    """An observation with small squares that blurring dims."""
    observations = np.zeros((1, 4, 84, 84), np.uint8)
    for row, column in places:
        observations[:, :, row - 2 : row + 3, column - 2 : column + 3] = 200
    return observations


def test_saliency_is_where_the_values_depend_on_the_screen() -> None:
    saliency = Saliency(LooksAt({(24, 59): 1.0}).action_values)(squares((24, 59), (60, 20)))
    assert saliency.shape == (84, 84)
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert abs(int(row) - 24) <= 3
    assert abs(int(column) - 59) <= 3
    assert saliency.max() == 1
    assert saliency[60, 20] < 0.01


def test_saliency_is_the_square_of_the_change() -> None:
    places = (24, 24), (59, 59)  # of one position within the grid of patches
    saliency = Saliency(LooksAt({places[0]: 2.0, places[1]: 1.0}).action_values)(squares(*places))
    assert saliency[places[1]] / saliency[places[0]] == pytest.approx(0.25, rel=0.02)


def test_an_agent_that_ignores_the_screen_looks_nowhere() -> None:
    assert not Saliency(Fixed().action_values)(squares((24, 59))).any()


def test_saliency_of_an_agent_without_values_is_refused() -> None:
    with pytest.raises(LabError, match="gives no values of its actions, which --saliency needs"):
        Saliency(lambda observations: None)


def test_salient_places_turn_blue_and_others_dark() -> None:
    screen = np.full((210, 160, 3), 100, np.uint8)
    saliency = np.zeros((84, 84), np.float32)
    saliency[:42] = 1
    shown = with_saliency(screen, saliency)
    assert shown[200, 80].tolist() == [60, 60, 60]
    red, _, blue = shown[10, 80].tolist()
    assert blue > 150 > 100 > red


# The picture


def screen_of(seed: int = 0, height: int = 210) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, 160, 3), np.uint8)


def coloured_rows(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.int64]:
    """How many pixels of a colour each row has."""
    return np.asarray((image == colour).all(axis=2).sum(axis=1))


@pytest.mark.parametrize("height", [210, 214, 250])
def test_picture_is_the_screen_three_times_as_large_beside_the_panel(height: int) -> None:
    screen = screen_of(height=height)
    shown = Panel("Pong", ["dqn"], ACTIONS).picture(screen, moment())
    assert shown.shape == (3 * height, 840, 3)
    for offset in range(3):
        assert np.array_equal(shown[offset::3, offset:480:3], screen)


def test_chosen_action_is_marked_by_colour_and_by_an_arrow() -> None:
    rows = []
    for action in range(4):
        panel = Panel("Pong", [], ACTIONS).picture(screen_of(), moment(action=action))[:, 480:]
        assert coloured_rows(panel[:, :20], ORANGE).any()
        rows.append(int(coloured_rows(panel, ORANGE).argmax()))
    assert rows == sorted(set(rows))


def test_bars_are_longer_for_greater_values() -> None:
    panel = Panel("Pong", [], ACTIONS).picture(screen_of(), moment())[:, 480:]
    blue, orange = coloured_rows(panel, SKY_BLUE), coloured_rows(panel, ORANGE)
    tops = [int(row) for row in np.flatnonzero(np.diff(blue, prepend=0) > 0)]
    assert [int(blue[top]) for top in tops] == [2, 36, 72]  # NOOP is worst; RIGHT and LEFT have 1 and 2 of 3 parts
    assert orange.max() > 100


def test_bars_compare_with_the_largest_difference_so_far() -> None:
    bars = Bars()
    assert bars.lengths(np.array([1, 3], np.float32)).tolist() == [0, 1]
    assert bars.lengths(np.array([5, 6], np.float32)).tolist() == [0, 0.5]
    assert bars.lengths(np.array([2, 2], np.float32)).tolist() == [0, 0]
    assert Bars().lengths(np.array([2, 2], np.float32)).tolist() == [0, 0]


def test_without_values_there_are_no_bars() -> None:
    panel = Panel("Pong", [], ACTIONS).picture(screen_of(), moment(values=None))[:, 480:]
    assert not coloured_rows(panel, SKY_BLUE).any()
    assert coloured_rows(panel, ORANGE).any()


def test_random_action_is_said_to_be_random() -> None:
    random, greedy = (
        Panel("Pong", [], ACTIONS).picture(screen_of(), moment(explores=explores)) for explores in (True, False)
    )
    assert not np.array_equal(random, greedy)


def test_eighteen_actions_and_long_names_stay_in_the_panel() -> None:
    names = [f"DOWNRIGHTFIRE{index}"[:13] for index in range(18)]
    values = np.linspace(-1234.5, 10, 18, dtype=np.float32)
    panel = Panel("MontezumaRevenge", ["x" * 200], names).picture(screen_of(), moment(values=values, action=17))
    assert coloured_rows(panel, ORANGE).any()
    assert (panel[:, -15:] == (18, 18, 18)).all()
    assert (panel[-2:, 480:] == (18, 18, 18)).all()


# The terminal


def visible(line: str) -> str:
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line)


def test_half_blocks_hold_two_pixels_each_and_name_a_colour_once() -> None:
    image = np.array([[[1, 2, 3], [1, 2, 3]], [[4, 5, 6], [4, 5, 6]], [[7, 7, 7], [8, 8, 8]], [[9, 9, 9], [9, 9, 9]]])
    assert half_blocks(image.astype(np.uint8)) == [
        "\x1b[38;2;1;2;3;48;2;4;5;6m▀▀\x1b[0m",
        "\x1b[38;2;7;7;7;48;2;9;9;9m▀\x1b[38;2;8;8;8;48;2;9;9;9m▀\x1b[0m",
    ]


@pytest.mark.parametrize("columns", [1, 16, 40, 49, 50, 80, 300])
@pytest.mark.parametrize("rows", [1, 6, 24, 100])
def test_picture_in_a_terminal_fits_its_size(columns: int, rows: int) -> None:
    texts = status_lines(["Pong", "x" * 100], ACTIONS, moment(), Bars())
    lines = picture(screen_of(), texts, os.terminal_size((columns, rows)))
    assert 1 <= len(lines) <= rows
    assert max(len(visible(line)) for line in lines) <= columns


def test_picture_in_a_terminal_is_as_large_as_it_can_be() -> None:
    lines = picture(screen_of(), [], os.terminal_size((200, 50)))
    assert len(lines) == 50
    assert len(visible(lines[0]).rstrip()) == 76  # 100 half rows and the screen's proportions


def test_colours_of_a_terminal_picture_are_those_of_the_screen() -> None:
    screen = np.zeros((210, 160, 3), np.uint8)
    screen[:105], screen[105:] = (200, 10, 30), (5, 60, 250)
    upper, *_, lower = picture(screen, [], os.terminal_size((80, 24)))
    assert "\x1b[38;2;200;10;30;48;2;200;10;30m" in upper
    assert "\x1b[38;2;5;60;250;48;2;5;60;250m" in lower


class Tty(io.TextIOWrapper):
    """A terminal with an encoding."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_without_blocks_is_refused() -> None:
    Terminal(Tty(io.BytesIO(), encoding="utf-8"), ["Pong"], ACTIONS)
    with pytest.raises(LabError, match="encoding ascii has no blocks; use one of UTF-8"):
        Terminal(Tty(io.BytesIO(), encoding="ascii"), ["Pong"], ACTIONS)


def test_a_score_of_millions_is_written_in_full() -> None:
    assert "score 1234567" in status_lines(["VideoPinball"], ACTIONS, moment(score=1_234_567.0), Bars())


def test_a_new_size_clears_the_terminal_and_is_followed() -> None:
    stream, sizes = io.BytesIO(), iter([(80, 24), (80, 24), (60, 10)])
    tty = Tty(stream, encoding="utf-8")
    terminal = Terminal(tty, ["Pong"], ACTIONS, size=lambda: os.terminal_size(next(sizes)))
    frames = []
    for _ in range(2):
        terminal.show(screen_of(), moment())
        frames.append(stream.getvalue().decode())
        stream.seek(0)
        stream.truncate()
    assert [frame.count("\r\n") for frame in frames] == [23, 9]
    assert ["\x1b[2J" in frame for frame in frames] == [False, True]


def test_text_says_score_values_and_the_chosen_action() -> None:
    lines = [visible(line) for line in status_lines(["Breakout"], ACTIONS, moment(), Bars())]
    assert lines == [
        "Breakout",
        "score 20",
        "step 7, episode 1, lives 3",
        "",
        "  NOOP            0.000 ",
        "> FIRE            3.000 ████████",
        "  RIGHT           1.000 ███",
        "  LEFT            2.000 █████",
    ]


# The pace


class FakeTime:
    """A clock that only sleeping and `work` move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds

    def pace(self, frames_per_second: float) -> Pace:
        return Pace(frames_per_second, lambda: self.now, self.sleep)


def test_frames_come_at_the_pace_that_was_asked_for() -> None:
    time = FakeTime()
    pace = time.pace(50)
    for _ in range(101):
        assert pace.wait()
        time.now += 0.005
    assert time.now == pytest.approx(100 + 100 / 50 + 0.005)


def test_late_frames_are_left_out_until_the_play_is_in_time_again() -> None:
    time = FakeTime()
    pace = time.pace(50)
    assert pace.wait()
    time.now += 0.11
    assert pace.is_late
    shown = [pace.wait() for _ in range(8)]
    assert shown == [False, False, False, True, True, True, True, True]
    assert not pace.is_late
    assert time.now == pytest.approx(100 + 8 / 50)


def test_a_slow_machine_shows_one_frame_in_four_in_slow_motion() -> None:
    time = FakeTime()
    pace = time.pace(50)
    shown = []
    for _ in range(400):
        shown.append(pace.wait())
        time.now += 0.05
    assert sum(shown) >= 100
    assert time.slept == 0
