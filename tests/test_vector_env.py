"""The games are ale-py's own games, and what the environment counts is what happened in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from ale_py.env import AtariEnv
from ale_py.vector_env import AtariVectorEnv as CppAtariVectorEnv
from numpy.typing import NDArray

from rl_lab.atari import MAX_PARALLEL_GAMES, PROTOCOLS, AtariVectorEnv, Episode, Protocol, Step, resolve_game
from rl_lab.atari.games import rom_id
from rl_lab.errors import LabError
from rl_lab.seeding import seed_sequence

PLAIN = Protocol(name="plain", noop_max=0)
"""No randomness at all."""
RANDOM = Protocol(name="random", noop_max=30, sticky_probability=0.25)
"""All the randomness that there is."""
ENDS_RETURN = dataclasses.replace(PLAIN, life_loss="ends_return")

NOOP, FIRE = 0, 1
# Breakout under PLAIN, FIRE at each step and the paddle at rest: five balls are lost, the last one in frame 485.
FIRE_ONLY_LIVES_LOST_AT_STEPS = (25, 49, 73, 97, 122)
FIRE_ONLY_FRAMES = 485


class StopPlayingError(Exception):
    """What an observer raises to stop the agent."""


@dataclass
class Recorder:
    """Keeps what it is told; raises when `stop_at_steps` is reached."""

    stop_at_steps: int | None = None
    steps: list[int] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)

    def on_steps(self, total_steps: int) -> None:
        if self.stop_at_steps is not None and total_steps >= self.stop_at_steps:
            raise StopPlayingError
        self.steps.append(total_steps)

    def asks_for_pause(self) -> bool:
        return False

    def on_episode(self, episode: Episode) -> None:
        self.episodes.append(episode)


class SingleGame:
    """One raw ale-py emulator with Gymnasium's AtariPreprocessing (a skip of 4) and a stack, written out in numpy."""

    def __init__(self, game: str) -> None:
        self._emulator = AtariEnv(rom_id(game), frameskip=1, repeat_action_probability=0.0, obs_type="grayscale")
        self._stack = np.zeros((4, 84, 84), np.int16)

    def reset(self) -> NDArray[np.int16]:
        screen, info = self._emulator.reset()
        self.lives = info["lives"]
        self._last_two = [np.asarray(screen), np.zeros_like(screen)]
        self._stack[:] = 0
        return self._push_frame()

    def step(self, action: int) -> tuple[NDArray[np.int16], float, bool]:
        total_reward = 0.0
        for skipped in range(4):
            screen, reward, game_over, _, info = self._emulator.step(action)
            total_reward += reward
            self.lives = info["lives"]
            if game_over:
                break
            if skipped >= 2:
                self._last_two[3 - skipped] = np.asarray(screen)
        self._last_two[0] = np.maximum(*self._last_two)
        return self._push_frame(), total_reward, game_over

    def _push_frame(self) -> NDArray[np.int16]:
        # Area interpolation without OpenCV: 210 rows to 84 are 5 half rows each, 160 columns to 84 are 40 21sts each.
        columns = self._last_two[0].repeat(21, axis=1).reshape(210, 84, 40).sum(axis=2)
        pixels = columns.repeat(2, axis=0).reshape(84, 5, 84).sum(axis=1) / 200
        self._stack = np.concatenate([self._stack[1:], pixels.round().astype(np.int16)[None]])
        return self._stack


def make(
    game: str = "Breakout",
    protocol: Protocol = PLAIN,
    num_games: int = 1,
    *,
    seed: int = 0,
    training: bool = True,
    num_threads: int = 1,
    observer: Recorder | None = None,
) -> AtariVectorEnv:
    seeds = seed_sequence(seed, "environment")
    return AtariVectorEnv(
        game, protocol, num_games, seeds, training=training, num_threads=num_threads, observer=observer
    )


def random_actions(num_steps: int, num_games: int, num_actions: int) -> NDArray[np.int64]:
    """[T, B]; game i's actions do not depend on the number of games."""
    return np.stack([np.random.default_rng(i).integers(num_actions, size=num_steps) for i in range(num_games)], axis=1)


def fire_only(num_steps: int) -> NDArray[np.int64]:
    return np.full((num_steps, 1), FIRE)


def play(env: AtariVectorEnv, actions: NDArray[np.int64]) -> list[Step]:
    env.reset()
    return [env.step(actions_t) for actions_t in actions]


def step_numbers(flags: list[NDArray[np.bool_]], game_index: int = 0) -> tuple[int, ...]:
    """The steps, counted from 1, at which a flag is up in one game."""
    return tuple(number for number, flag in enumerate(flags, start=1) if flag[game_index])


def assert_still_plays(env: AtariVectorEnv) -> None:
    steps = env.steps
    env.step(np.zeros(env.num_games, np.int64))
    assert env.steps == steps + env.num_games


# What the agent sees, against ale-py


@pytest.mark.parametrize(
    ("game", "num_steps", "num_ends"), [("Breakout", 400, 1), ("Seaquest", 400, 1), ("SpaceInvaders", 200, 0)]
)
def test_game_equals_ale_pys_single_emulator(game: str, num_steps: int, num_ends: int) -> None:
    env, single = make(game, training=False), SingleGame(game)
    observations, expected = env.reset(), single.reset()
    ends = 0
    for action in np.random.default_rng(0).integers(env.num_actions, size=num_steps):
        # OpenCV's area interpolation adds up in float32, so a tie may round the other way.
        assert np.abs(observations[0] - expected).max() <= 1
        step = env.step(np.array([action]))
        expected, reward, game_over = single.step(int(action))
        assert np.abs(step.next_observations[0] - expected).max() <= 1
        assert (step.rewards[0], step.terminated[0], step.episode_ends[0]) == (reward, game_over, game_over)
        if game_over:
            ends += 1
            expected = single.reset()
        assert env.lives[0] == single.lives
        observations = step.observations
    assert ends == num_ends


History = list[list[tuple[bytes, float, bool, bool]]]
"""For each game its observations, rewards, ends and truncations; a reset is a row that pays 0."""


def history_with_late_resets(game: str, protocol: Protocol, actions: NDArray[np.int64]) -> History:
    num_steps, num_games = actions.shape
    env = CppAtariVectorEnv(
        rom_id(game),
        num_games,
        max_num_frames_per_episode=protocol.max_frames_per_episode,
        repeat_action_probability=protocol.sticky_probability,
        noop_max=protocol.noop_max,
        reward_clipping=False,
        use_fire_reset=False,
    )
    env.reset(seed=(seed_sequence(0, "environment").generate_state(num_games) >> 1).astype(np.int64))
    history: History = [[] for _ in range(num_games)]
    steps_played = np.zeros(num_games, np.int64)
    ended = np.zeros(num_games, np.bool_)
    while steps_played.min() < num_steps:
        ready = actions[np.minimum(steps_played, num_steps - 1), np.arange(num_games)]
        observations, rewards, game_over, truncated, _ = env.step(ready)
        for i in np.flatnonzero(ended | (steps_played < num_steps)):
            row = (observations[i].tobytes(), float(rewards[i]), bool(game_over[i]), bool(truncated[i]))
            history[i].append(row)
        steps_played += ~ended & (steps_played < num_steps)
        ended = game_over | truncated
    return history


def test_reset_on_the_spot_equals_ale_pys_late_reset() -> None:
    protocol = dataclasses.replace(RANDOM, max_frames_per_episode=640)
    actions = random_actions(350, 3, num_actions=4)
    history: History = [[] for _ in range(3)]
    for step in play(make("Breakout", protocol, 3, training=False), actions):
        for i, rows in enumerate(history):
            flags = bool(step.terminated[i]), bool(step.truncated[i])
            rows.append((step.next_observations[i].tobytes(), float(step.rewards[i]), *flags))
            if step.episode_ends[i]:
                rows.append((step.observations[i].tobytes(), 0.0, False, False))
    assert history == history_with_late_resets("Breakout", protocol, actions)
    ends = {row[2:] for rows in history for row in rows}
    assert ends >= {(True, False), (False, True)}, "the comparison is of both kinds of end"


@pytest.fixture(scope="module")
def end_of_one_of_two_games() -> tuple[Step, Step]:
    """The step in which game 0 ends, and the one after it; game 1 waits for its first ball."""
    steps = play(make(num_games=2), np.full((123, 2), (FIRE, NOOP)))
    assert step_numbers([step.episode_ends for step in steps]) == (122,)
    return steps[121], steps[122]


def test_observations_at_an_end_are_the_next_episodes_first(end_of_one_of_two_games: tuple[Step, Step]) -> None:
    at_end, after = end_of_one_of_two_games
    assert not at_end.observations[0, :3].any()
    assert np.array_equal(at_end.observations[0, 3], make().reset()[0, 3])
    assert np.array_equal(after.next_observations[0, :3], at_end.observations[0, 1:])


def test_next_observations_at_an_end_are_the_old_episodes_last(end_of_one_of_two_games: tuple[Step, Step]) -> None:
    at_end, _ = end_of_one_of_two_games
    before = play(make(), fire_only(121))[-1]
    assert np.array_equal(at_end.next_observations[0, :3], before.observations[0, 1:])


def test_other_games_go_on_when_one_ends(end_of_one_of_two_games: tuple[Step, Step]) -> None:
    at_end, after = end_of_one_of_two_games
    assert np.array_equal(at_end.observations[1], at_end.next_observations[1])
    assert np.array_equal(after.next_observations[1, :3], at_end.observations[1, 1:])
    assert at_end.observations[1, 0].any()


# Life loss and truncation


def test_life_loss_ends_the_return_in_training_while_the_game_goes_on() -> None:
    steps = play(make(protocol=ENDS_RETURN), fire_only(122))
    assert step_numbers([step.terminated for step in steps]) == FIRE_ONLY_LIVES_LOST_AT_STEPS
    assert step_numbers([step.episode_ends for step in steps]) == (122,)


@pytest.mark.parametrize(("protocol", "training"), [(ENDS_RETURN, False), (PLAIN, True)], ids=["evaluation", "ignored"])
def test_life_loss_ends_nothing_in_evaluation_or_when_ignored(protocol: Protocol, training: bool) -> None:
    steps = play(make(protocol=protocol, training=training), fire_only(122))
    assert step_numbers([step.terminated for step in steps]) == (122,)


def test_lives_are_counted_down_and_start_again_with_the_next_episode() -> None:
    env = make()
    env.reset()
    lives = [int(env.lives[0])]
    for actions in fire_only(122):
        env.step(actions)
        lives.append(int(env.lives[0]))
    assert [lives[step] for step in (0, *FIRE_ONLY_LIVES_LOST_AT_STEPS)] == [5, 4, 3, 2, 1, 5]


@pytest.mark.parametrize(("frame_skip", "length_steps"), [(4, 11), (3, 14), (1, 42)])
def test_frame_cap_truncates_and_does_not_terminate(frame_skip: int, length_steps: int) -> None:
    recorder = Recorder()
    protocol = dataclasses.replace(RANDOM, frame_skip=frame_skip, max_frames_per_episode=42)
    steps = play(make("Pong", protocol, observer=recorder), np.zeros((2 * length_steps, 1), np.int64))
    ends = (length_steps, 2 * length_steps)
    assert step_numbers([step.truncated for step in steps]) == ends
    assert step_numbers([step.episode_ends for step in steps]) == ends
    assert step_numbers([step.terminated for step in steps]) == ()
    assert [(episode.length_steps, episode.truncated) for episode in recorder.episodes] == [(length_steps, True)] * 2


@pytest.mark.parametrize(("cap", "truncated"), [(FIRE_ONLY_FRAMES - 1, True), (FIRE_ONLY_FRAMES, False)])
def test_game_over_in_the_last_frame_of_the_cap_is_no_truncation(cap: int, truncated: bool) -> None:
    recorder = Recorder()
    protocol = dataclasses.replace(PLAIN, max_frames_per_episode=cap)
    steps = play(make(protocol=protocol, observer=recorder), fire_only(122))
    end = next(step for step in steps if step.episode_ends[0])
    assert (bool(end.terminated[0]), bool(end.truncated[0])) == (not truncated, truncated)
    assert recorder.episodes[0].truncated == truncated


def test_life_loss_at_the_cap_ends_the_return_of_a_truncated_episode() -> None:
    recorder = Recorder()
    lost_at_step = FIRE_ONLY_LIVES_LOST_AT_STEPS[0]
    protocol = dataclasses.replace(ENDS_RETURN, max_frames_per_episode=4 * lost_at_step)
    end = play(make(protocol=protocol, observer=recorder), fire_only(lost_at_step))[-1]
    assert (end.terminated[0], end.truncated[0], end.episode_ends[0]) == (True, False, True)
    assert recorder.episodes[0].truncated


# The other rules


@pytest.mark.parametrize(("fire_reset", "lives"), [(True, 4), (False, 5)])
def test_fire_reset_serves_the_first_ball(fire_reset: bool, lives: int) -> None:
    env = make(protocol=dataclasses.replace(PLAIN, fire_reset=fire_reset))
    play(env, np.full((40, 1), NOOP))
    assert env.lives.tolist() == [lives]


@pytest.mark.parametrize(("full_action_set", "num_actions"), [(True, 18), (False, 4)])
def test_full_action_set_has_18_actions(full_action_set: bool, num_actions: int) -> None:
    env = make(protocol=dataclasses.replace(PLAIN, full_action_set=full_action_set))
    env.reset()
    env.step(np.array([num_actions - 1]))
    with pytest.raises(LabError, match=f"outside 0 to {num_actions - 1}"):
        env.step(np.array([num_actions]))


# Scores, lengths, steps


@dataclass(frozen=True)
class Played:
    """Seaquest, three games of 700 steps: each ends at least once, and a fish pays 20."""

    episodes: list[Episode]
    rewards: NDArray[np.float32]  # (T, B)
    episode_ends: NDArray[np.bool_]  # (T, B)
    frames: int


def play_seaquest(*, training: bool, reward_clip: float) -> Played:
    recorder = Recorder()
    protocol = dataclasses.replace(RANDOM, reward_clip=reward_clip)
    env = make("Seaquest", protocol, 3, training=training, observer=recorder)
    steps = play(env, random_actions(700, 3, num_actions=18))
    rewards = np.stack([step.rewards for step in steps])
    return Played(recorder.episodes, rewards, np.stack([step.episode_ends for step in steps]), env.frames)


@pytest.fixture(scope="module")
def evaluated() -> Played:
    return play_seaquest(training=False, reward_clip=1.0)


@pytest.fixture(scope="module")
def trained() -> Played:
    return play_seaquest(training=True, reward_clip=1.0)


def test_episodes_equal_a_count_by_hand(evaluated: Played) -> None:
    expected = []
    start = [0, 0, 0]
    for t, i in np.argwhere(evaluated.episode_ends):
        score = float(evaluated.rewards[start[i] : t + 1, i].sum())
        expected.append(Episode(int(i), score, int(t + 1 - start[i]), end_step=3 * int(t + 1), truncated=False))
        start[i] = t + 1
    assert evaluated.episodes == expected
    assert {episode.game_index for episode in expected} == {0, 1, 2}
    assert len({episode.length_steps for episode in expected}) > 1
    assert max(episode.score for episode in expected) >= 40


def test_reset_in_mid_game_forgets_the_game() -> None:
    # Doing nothing in Pong loses a point every second.
    recorder = Recorder()
    env = make("Pong", dataclasses.replace(PLAIN, max_frames_per_episode=480), observer=recorder)
    play(env, np.zeros((100, 1), np.int64))
    play(env, np.zeros((240, 1), np.int64))
    after_reset, undisturbed = recorder.episodes
    assert after_reset.length_steps == 120
    assert after_reset.score == undisturbed.score < 0


def test_frames_are_frame_skip_times_the_steps_of_all_games(evaluated: Played) -> None:
    assert evaluated.frames == 4 * 3 * 700


def test_training_rewards_are_clipped_and_evaluation_rewards_are_raw(trained: Played, evaluated: Played) -> None:
    assert evaluated.rewards.max() == 20
    assert np.array_equal(trained.rewards, evaluated.rewards.clip(-1, 1))


def test_scores_are_raw_though_rewards_are_clipped(trained: Played, evaluated: Played) -> None:
    assert trained.episodes == evaluated.episodes


def test_reward_clip_0_gives_raw_rewards(evaluated: Played) -> None:
    assert np.array_equal(play_seaquest(training=True, reward_clip=0.0).rewards, evaluated.rewards)


def test_negative_rewards_are_clipped_too() -> None:
    protocol = dataclasses.replace(PLAIN, reward_clip=0.5)
    steps = play(make("Pong", protocol), np.zeros((120, 1), np.int64))
    assert min(float(step.rewards[0]) for step in steps) == -0.5


# Seeds


def observations_of(
    protocol: Protocol, num_games: int = 1, *, seed: int = 0, num_threads: int = 1
) -> NDArray[np.uint8]:
    """[T, B, 4, 84, 84]: 40 random steps of Pong."""
    env = make("Pong", protocol, num_games, seed=seed, num_threads=num_threads)
    return np.stack([step.observations for step in play(env, random_actions(40, num_games, env.num_actions))])


@pytest.fixture(scope="module")
def three_games() -> NDArray[np.uint8]:
    return observations_of(RANDOM, 3)


def test_same_seeds_give_the_same_games_on_any_number_of_threads(three_games: NDArray[np.uint8]) -> None:
    assert np.array_equal(observations_of(RANDOM, 3, num_threads=3), three_games)


def test_stream_of_game_0_does_not_depend_on_the_number_of_games(three_games: NDArray[np.uint8]) -> None:
    assert np.array_equal(observations_of(RANDOM, 1)[:, 0], three_games[:, 0])


@pytest.mark.parametrize("name", ["nature2015", "machado2018"])
def test_two_seeds_give_two_games(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert not np.array_equal(observations_of(protocol, seed=1), observations_of(protocol, seed=2))


def test_second_reset_goes_on_with_the_random_stream() -> None:
    env = make("Pong", RANDOM)
    actions = random_actions(40, 1, env.num_actions)
    first, second = play(env, actions)[-1], play(env, actions)[-1]
    assert not np.array_equal(first.observations, second.observations)


# Mistakes, each of which would hang or crash the C++ code or falsify a count


@pytest.fixture(scope="module")
def pong() -> AtariVectorEnv:
    return make("Pong", num_games=2)


def test_unknown_game_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError, match="no game 'pnog'; did you mean 'Pong'"):
        make("pnog")


@pytest.mark.parametrize("num_games", [-1, 0, MAX_PARALLEL_GAMES + 1])
def test_impossible_number_of_games_is_refused(num_games: int) -> None:
    with pytest.raises(LabError, match=f"num_games is {num_games}"):
        make(num_games=num_games)


@pytest.mark.parametrize("num_threads", [-1, 0])
def test_impossible_number_of_threads_is_refused(num_threads: int) -> None:
    with pytest.raises(LabError, match=f"emulator threads are {num_threads}"):
        make(num_threads=num_threads)


def test_more_threads_than_games_are_allowed() -> None:
    env = make(num_threads=64)
    env.reset()
    assert_still_plays(env)


@pytest.mark.parametrize("action", [-1, 6, 2**40])
def test_action_out_of_range_is_refused_and_play_goes_on(pong: AtariVectorEnv, action: int) -> None:
    pong.reset()
    with pytest.raises(LabError, match="outside 0 to 5 of Pong"):
        pong.send(np.array([0, action]))
    assert_still_plays(pong)


@pytest.mark.parametrize(
    "actions",
    [np.zeros(1, np.int64), np.zeros(3, np.int64), np.zeros((2, 1), np.int64), np.zeros((), np.int64)],
    ids=["too few", "too many", "column", "scalar"],
)
def test_actions_of_a_wrong_shape_are_refused_and_play_goes_on(
    pong: AtariVectorEnv, actions: NDArray[np.int64]
) -> None:
    pong.reset()
    with pytest.raises(LabError, match="allowed are 2 integers"):
        pong.send(actions)
    assert_still_plays(pong)


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_actions_of_a_wrong_type_are_refused_and_play_goes_on(pong: AtariVectorEnv, dtype: type) -> None:
    pong.reset()
    with pytest.raises(LabError, match=f"type {np.dtype(dtype)}"):
        pong.send(np.zeros(2, dtype))
    assert_still_plays(pong)


def test_integers_of_any_width_are_actions(pong: AtariVectorEnv) -> None:
    pong.reset()
    steps = pong.steps
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        pong.step(np.array([5, 5], dtype))
    assert pong.steps == steps + 8


def test_send_before_the_first_reset_is_refused() -> None:
    env = make()
    with pytest.raises(LabError, match="before reset"):
        env.send(np.array([0]))
    env.reset()
    assert_still_plays(env)


def test_second_send_without_recv_is_refused_and_the_first_is_received(pong: AtariVectorEnv) -> None:
    pong.reset()
    pong.send(np.zeros(2, np.int64))
    with pytest.raises(LabError, match="twice without recv"):
        pong.send(np.zeros(2, np.int64))
    pong.recv()
    assert_still_plays(pong)


def test_recv_without_send_is_refused(pong: AtariVectorEnv) -> None:
    pong.reset()
    with pytest.raises(LabError, match="without send"):
        pong.recv()
    assert_still_plays(pong)


def test_reset_between_send_and_recv_is_refused(pong: AtariVectorEnv) -> None:
    pong.reset()
    pong.send(np.zeros(2, np.int64))
    with pytest.raises(LabError, match="call recv first"):
        pong.reset()
    pong.recv()
    assert_still_plays(pong)


# Observers


def test_observer_is_told_the_steps_before_each_step() -> None:
    recorder = Recorder()
    play(make(num_games=2, observer=recorder), np.zeros((3, 2), np.int64))
    assert recorder.steps == [0, 2, 4]


def test_observer_that_raises_stops_the_agent_before_the_step() -> None:
    actions = random_actions(10, 2, num_actions=4)
    uninterrupted = play(make(num_games=2), actions)[-1]
    recorder = Recorder(stop_at_steps=4)
    env = make(num_games=2, observer=recorder)
    with pytest.raises(StopPlayingError):
        play(env, actions)
    assert env.steps == 4
    recorder.stop_at_steps = None
    resumed = [env.step(actions_t) for actions_t in actions[2:]][-1]
    assert np.array_equal(resumed.observations, uninterrupted.observations)


def test_returned_arrays_are_not_overwritten_by_later_steps() -> None:
    env = make("Pong", num_games=2)
    first = env.reset()
    step = env.step(np.zeros(2, np.int64))
    returned = (first, step.next_observations, step.observations, step.rewards.view(np.uint8))
    before = [array.tobytes() for array in returned]
    for _ in range(20):
        env.step(np.full(2, 2))
    assert [array.tobytes() for array in returned] == before


def test_game_is_named_as_ale_names_it() -> None:
    assert make("ms_pacman").game == resolve_game("MsPacman")
