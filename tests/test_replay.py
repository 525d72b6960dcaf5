"""Replay against a list-based model that keeps everything, on games that hypothesis makes up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, Protocol, all_games
from rl_lab.atari.vector_env import Step
from rl_lab.errors import LabError
from rl_lab.replay import STORAGES, Batch, ReplayMemory
from rl_lab.replay.frames import RawFrames, ZstdFrames
from rl_lab.saved import SavedFiles
from rl_lab.untrusted import pack_arrays

DISCOUNT = 0.5  # sums of powers of two are exact: the model and the memory must agree to the bit

# What a step does to a game: (terminated, episode_ends).
OUTCOMES = {
    "goes_on": (False, False),
    "life_lost": (True, False),
    "game_over": (True, True),
    "truncated": (False, True),
}


class Slot(NamedTuple):
    """One observation of a game, whole, and what was done on it; action None where the episode was cut."""

    observation: NDArray[np.uint8]
    age: int
    action: int | None = None
    reward: float = 0.0
    terminated: bool = False


class Transition(NamedTuple):
    observation: NDArray[np.uint8]
    action: int
    n_step_return: float
    discount: float
    next_observation: NDArray[np.uint8]


def model_transitions(history: list[Slot], num_slots: int, n_step: int) -> dict[int, Transition]:
    """The complete transitions of one game by index, where its newest `num_slots` slots are remembered."""
    transitions = {}
    for index, first in enumerate(history):
        oldest_frame = index - min(first.age, 3)
        if first.action is None or oldest_frame < len(history) - num_slots:
            continue
        n_step_return, weight, end = 0.0, 1.0, index
        while weight > 0 and end < min(index + n_step, len(history)) and history[end].action is not None:
            n_step_return += weight * history[end].reward
            weight = 0.0 if history[end].terminated else weight * DISCOUNT
            end += 1
        if weight == 0 or end < len(history):
            last = history[end] if weight > 0 else first  # without weight, any observation will do
            transitions[index] = Transition(first.observation, first.action, n_step_return, weight, last.observation)
    return transitions


class MadeUpGames:
    """Plays given outcomes into a replay memory and keeps the whole history of each game.

    Every frame, action and reward is told apart by a running number.
    """

    def __init__(self, memory: ReplayMemory, num_games: int) -> None:
        self.memory = memory
        self.histories: list[list[Slot]] = [[] for _ in range(num_games)]
        self._ages = [0] * num_games
        self._frames = 0
        self._observations = np.stack([self._first_observation() for _ in range(num_games)])

    def play(self, outcomes: list[str]) -> None:
        """One step, with an outcome for each game."""
        terminated, episode_ends = np.array([OUTCOMES[outcome] for outcome in outcomes], np.bool_).T
        actions = np.array([len(history) % 256 for history in self.histories], np.int64)
        rewards = np.array([len(history) % 7 - 3 for history in self.histories], np.float32)
        next_observations = np.stack([self._next_observation(stack) for stack in self._observations])
        observations = next_observations.copy()
        for game in np.flatnonzero(episode_ends).tolist():
            observations[game] = self._first_observation()
        truncated = episode_ends & ~terminated
        step = Step(next_observations, rewards, terminated, truncated, episode_ends, observations)
        self.memory.add(self._observations, actions, step)
        for game, history in enumerate(self.histories):
            before = self._observations[game], self._ages[game]
            history.append(Slot(*before, int(actions[game]), float(rewards[game]), bool(terminated[game])))
            self._ages[game] += 1
            if truncated[game]:
                history.append(Slot(next_observations[game], self._ages[game]))
            if episode_ends[game]:
                self._ages[game] = 0
        self._observations = observations

    def cut(self) -> None:
        """All games stop and start afresh."""
        self.memory.cut(self._observations)
        for game, history in enumerate(self.histories):
            if self._ages[game] > 0:
                history.append(Slot(self._observations[game], self._ages[game]))
            self._ages[game] = 0
        self._observations = np.stack([self._first_observation() for _ in self.histories])

    def model(self) -> dict[tuple[int, int], Transition]:
        """The complete transitions by (game, index)."""
        return {
            (game, index): transition
            for game, history in enumerate(self.histories)
            for index, transition in model_transitions(history, self.memory.num_slots, self.memory.n_step).items()
        }

    def _first_observation(self) -> NDArray[np.uint8]:
        return self._next_observation(np.zeros((4, 84, 84), np.uint8))

    def _next_observation(self, stack: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._frames += 1
        frame = np.full((1, 84, 84), self._frames % 255 + 1, np.uint8)
        return np.concatenate([stack[1:], frame])


def play(memory: ReplayMemory, *games: list[str]) -> MadeUpGames:
    """The games' outcomes, side by side."""
    made_up = MadeUpGames(memory, len(games))
    for outcomes in zip(*games, strict=True):
        made_up.play(list(outcomes))
    return made_up


def everything(memory: ReplayMemory) -> tuple[list[tuple[int, int]], Batch]:
    """The (game, index) of all complete transitions, and what they hold."""
    games, indices = memory.transitions()
    return list(zip(games.tolist(), indices.tolist(), strict=True)), memory.gather(games, indices)


@st.composite
def made_up_games(draw: st.DrawFn) -> MadeUpGames:
    num_games = draw(st.integers(1, 3))
    memory = ReplayMemory(
        draw(st.integers(num_games, 5 * num_games)),
        num_games,
        discount=DISCOUNT,
        n_step=draw(st.integers(1, 4)),
        storage=draw(st.sampled_from(STORAGES)),
        chunk_frames=draw(st.integers(1, 9)),  # from one chunk a frame to one chunk for the whole ring
    )
    games = MadeUpGames(memory, num_games)
    outcome = st.sampled_from(["goes_on", "goes_on", *OUTCOMES])
    for _ in range(draw(st.integers(0, 40))):
        if draw(st.integers(0, 9)) == 9:
            games.cut()
        else:
            games.play([draw(outcome) for _ in range(num_games)])
    return games


@given(made_up_games())
@settings(max_examples=150, deadline=None)
def test_complete_transitions_are_those_of_the_model(games: MadeUpGames) -> None:
    keys, _ = everything(games.memory)
    assert keys == sorted(games.model())


@given(made_up_games())
@settings(max_examples=150, deadline=None)
def test_every_transition_holds_what_the_model_holds(games: MadeUpGames) -> None:
    check_every_transition(games)


def check_every_transition(games: MadeUpGames) -> None:
    keys, batch = everything(games.memory)
    model = games.model()
    assert keys == sorted(model)
    for row, key in enumerate(keys):
        expected = model[key]
        assert batch.actions[row] == expected.action
        assert batch.returns[row] == expected.n_step_return
        assert batch.discounts[row] == expected.discount
        assert np.array_equal(batch.observations[row], expected.observation)
        assert np.array_equal(batch.next_observations[row], expected.next_observation)


@pytest.mark.parametrize("n_step", [1, 3])
def test_stacks_are_what_a_real_game_showed(n_step: int) -> None:
    # Short episodes with lost lives, frame caps and no-op starts.
    protocol = Protocol(name="nature2015", life_loss="ends_return", max_frames_per_episode=300)
    env = AtariVectorEnv("Breakout", protocol, 2, np.random.SeedSequence(0), training=True)
    memory = ReplayMemory(1_000, 2, discount=0.99, n_step=n_step)
    rng = np.random.default_rng(0)
    shown: list[list[bytes]] = [[], []]
    observations = env.reset()
    for _ in range(200):
        actions = rng.integers(0, env.num_actions, 2)
        step = env.step(actions)
        memory.add(observations, actions, step)
        for game in range(2):
            shown[game].append(observations[game].tobytes())
            if step.episode_ends[game] and not step.terminated[game]:
                shown[game].append(step.next_observations[game].tobytes())
        observations = step.observations
    keys, batch = everything(memory)
    assert [stack.tobytes() for stack in batch.observations] == [shown[game][index] for game, index in keys]


@pytest.mark.parametrize("game", all_games())
def test_compressed_storage_gives_the_batches_of_raw_storage(game: str) -> None:
    protocol = Protocol(name="nature2015", life_loss="ends_return", max_frames_per_episode=200)
    env = AtariVectorEnv(game, protocol, 2, np.random.SeedSequence(0), training=True)
    memories = [ReplayMemory(150, 2, discount=0.99, n_step=3, storage=storage, chunk_frames=8) for storage in STORAGES]
    rng = np.random.default_rng(0)
    observations = env.reset()
    for _ in range(200):  # around each ring of 81 slots more than twice
        actions = rng.integers(0, env.num_actions, 2)
        step = env.step(actions)
        for memory in memories:
            memory.add(observations, actions, step)
        observations = step.observations
    raw, compressed = (memory.sample(200, np.random.default_rng(1)) for memory in memories)
    assert [array.tobytes() for array in raw] == [array.tobytes() for array in compressed]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_frames_come_back_whatever_was_read_and_overwritten_between(data: st.DataObject) -> None:
    num_slots, chunk_frames = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 5))
    raw, compressed = RawFrames(2, num_slots, (2, 3)), ZstdFrames(2, num_slots, (2, 3), chunk_frames)
    rng = np.random.default_rng(data.draw(st.integers(0, 1_000)))
    games = np.arange(2)
    for step in range(data.draw(st.integers(1, 900))):
        slots = np.full(2, step % num_slots)
        frames = rng.integers(0, 256, (2, 2, 3), np.uint8)
        raw.write(games, slots, frames)
        compressed.write(games, slots, frames)
        if step % 100 == 99 or step == 0:
            # More chunks than stay open, so that some must make way.
            which, where = rng.integers(0, 2, 150), rng.integers(0, num_slots, (150, 4))
            assert np.array_equal(raw.read(which, where), compressed.read(which, where))


def test_stack_is_zero_before_an_episode_starts() -> None:
    games = play(ReplayMemory(8, 1, discount=DISCOUNT), ["goes_on", "game_over", "goes_on", "goes_on"])
    _, batch = everything(games.memory)
    assert (batch.observations[2][:3] == 0).all()
    assert (batch.observations[2][3] > 0).all()


def test_no_stack_crosses_an_episode() -> None:
    # Frames are numbered from 2 on: 2 to 4 are the first episode, 5 starts the second.
    games = play(ReplayMemory(8, 1, discount=DISCOUNT), ["goes_on", "truncated", "goes_on", "goes_on"])
    _, batch = everything(games.memory)
    assert batch.observations[:, :, 0, 0].tolist() == [[0, 0, 0, 2], [0, 0, 2, 3], [0, 0, 0, 5]]
    assert batch.next_observations[:, :, 0, 0].tolist() == [[0, 0, 2, 3], [0, 2, 3, 4], [0, 0, 5, 6]]


def test_stack_goes_on_over_a_lost_life() -> None:
    games = play(ReplayMemory(8, 1, discount=DISCOUNT), ["goes_on", "life_lost", "goes_on", "goes_on"])
    _, batch = everything(games.memory)
    assert batch.observations[2, :, 0, 0].tolist() == [0, 2, 3, 4]


def test_terminated_return_has_discount_0_and_truncated_return_keeps_its_bootstrap() -> None:
    games = play(ReplayMemory(8, 2, discount=DISCOUNT), ["game_over", "goes_on"], ["truncated", "goes_on"])
    keys, batch = everything(games.memory)
    assert keys == [(0, 0), (1, 0)]
    assert batch.discounts.tolist() == [0.0, DISCOUNT]


def test_cut_keeps_the_bootstrap_of_the_newest_step() -> None:
    games = play(ReplayMemory(8, 1, discount=DISCOUNT), ["goes_on", "goes_on"])
    games.cut()
    keys, batch = everything(games.memory)
    assert keys == [(0, 0), (0, 1)]
    assert batch.discounts.tolist() == [DISCOUNT, DISCOUNT]


@pytest.mark.parametrize(("capacity", "num_games", "expected"), [(20, 1, 20), (20, 4, 20), (21, 4, 24)])
@pytest.mark.parametrize("n_step", [1, 4])
def test_capacity_holds_rounded_up_to_equal_games(capacity: int, num_games: int, expected: int, n_step: int) -> None:
    memory = ReplayMemory(capacity, num_games, discount=DISCOUNT, n_step=n_step)
    play(memory, *[["goes_on"] * 60] * num_games)
    assert len(memory.transitions()[0]) == expected


@given(made_up_games(), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_sample_draws_complete_transitions_only(games: MadeUpGames, seed: int) -> None:
    model = games.model()
    if not model:
        return
    known = {(t.action, t.n_step_return, t.discount, t.observation.tobytes()) for t in model.values()}
    batch = games.memory.sample(16, np.random.default_rng(seed))
    drawn = zip(batch.actions, batch.returns, batch.discounts, batch.observations, strict=True)
    assert {(int(a), float(r), float(d), o.tobytes()) for a, r, d, o in drawn} <= known


def test_sample_is_uniform_over_transitions_whatever_the_games_fill() -> None:
    memory = ReplayMemory(30, 3, discount=DISCOUNT)
    # 12, 24 and 13 slots written into rings of 14; the oldest one of the second game starts an episode.
    play(memory, ["goes_on"] * 12, ["truncated"] * 12, [*["goes_on"] * 5, "truncated", *["goes_on"] * 6])
    games, indices = memory.transitions()
    assert Counter(games.tolist()) == {0: 11, 1: 7, 2: 11}
    # The newest frame of a stack tells the transition.
    newest = memory.gather(games, indices).observations[:, -1, 0, 0].tolist()
    assert len(set(newest)) == len(newest)
    rng = np.random.default_rng(0)
    drawn = Counter[int]()
    for _ in range(200):
        drawn.update(memory.sample(100, rng).observations[:, -1, 0, 0].tolist())
    expected = 20_000 / len(newest)
    chi_square = sum((drawn[frame] - expected) ** 2 / expected for frame in newest)
    # Mean k - 1, variance 2 (k - 1): six standard deviations above.
    degrees = len(newest) - 1
    assert chi_square < degrees + 6 * (2 * degrees) ** 0.5
    assert sum(drawn.values()) == sum(drawn[frame] for frame in newest)


def test_same_generator_gives_the_same_batch() -> None:
    memory = play(ReplayMemory(50, 1, discount=DISCOUNT), ["goes_on"] * 50).memory
    first, second = (memory.sample(32, np.random.default_rng(7)) for _ in range(2))
    assert [array.tobytes() for array in first] == [array.tobytes() for array in second]


def test_two_generators_give_two_batches() -> None:
    memory = play(ReplayMemory(50, 1, discount=DISCOUNT), ["goes_on"] * 50).memory
    first, second = (memory.sample(32, np.random.default_rng(seed)).actions for seed in (7, 8))
    assert not np.array_equal(first, second)


def test_batch_has_the_documented_shapes_and_types() -> None:
    batch = play(ReplayMemory(8, 2, discount=DISCOUNT), ["goes_on"] * 4, ["goes_on"] * 4).memory.sample(
        5, np.random.default_rng(0)
    )
    assert [(array.shape, array.dtype.name) for array in batch] == [
        ((5, 4, 84, 84), "uint8"),
        ((5,), "int64"),
        ((5,), "float32"),
        ((5,), "float32"),
        ((5, 4, 84, 84), "uint8"),
    ]


@pytest.mark.parametrize("storage", STORAGES)
def test_observations_lie_in_memory_with_the_channels_last(storage: str) -> None:
    memory = play(ReplayMemory(8, 2, discount=DISCOUNT, storage=storage), ["goes_on"] * 4, ["goes_on"] * 4).memory
    batch = memory.sample(5, np.random.default_rng(0))
    for observations in (batch.observations, batch.next_observations):
        assert observations.transpose(0, 2, 3, 1).flags.c_contiguous


def test_sampling_an_empty_memory_names_the_flag_to_change() -> None:
    with pytest.raises(LabError, match=r"empty.*--agent\.learning-starts-steps"):
        ReplayMemory(8, 1, discount=DISCOUNT).sample(1, np.random.default_rng(0))


def test_sampling_a_memory_without_a_complete_transition_names_the_flag_to_change() -> None:
    memory = play(ReplayMemory(8, 1, discount=DISCOUNT), ["goes_on"]).memory
    with pytest.raises(LabError, match=r"no complete transition yet.*--agent\.learning-starts-steps"):
        memory.sample(1, np.random.default_rng(0))


def test_capacity_below_a_transition_for_each_game_is_refused() -> None:
    with pytest.raises(LabError, match="capacity is 3; allowed is at least one transition for each of 4 games"):
        ReplayMemory(3, 4, discount=DISCOUNT)


def test_memory_that_the_machine_lacks_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 2_000_000_000)
    # Taken, 7 * 10**15 bytes would be a MemoryError.
    with pytest.raises(LabError, match=r"needs 7064000\.\d GB, 2\.0 GB free; use .*--agent\.replay-capacity"):
        ReplayMemory(10**12, 1, discount=DISCOUNT)


def restored(memory: ReplayMemory, like: ReplayMemory, folder: Path) -> ReplayMemory:
    """`like`, an empty memory, with all that `memory` holds, by way of the disk."""
    saved = memory.save()
    contents = {**saved.files, **{name: segment() for name, segment in saved.segments.items()}}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    like.load(SavedFiles({name: folder / name for name in contents}), num_actions=256)
    return like


@pytest.mark.parametrize("segment_bytes", [1, 7_056 * 10, 1 << 30], ids=["1 step", "10 steps", "no segment"])
@given(games=made_up_games(), storage=st.sampled_from(STORAGES), outcomes=st.lists(st.sampled_from([*OUTCOMES])))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restored_memory_holds_what_the_model_holds_and_goes_on_like_it(
    segment_bytes: int,
    games: MadeUpGames,
    storage: str,
    outcomes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", segment_bytes)
    memory, num_games = games.memory, len(games.histories)
    capacity = (memory.num_slots - 3 - memory.n_step) * num_games
    empty = ReplayMemory(capacity, num_games, discount=DISCOUNT, n_step=memory.n_step, storage=storage, chunk_frames=4)
    games.memory = restored(memory, empty, tmp_path)
    check_every_transition(games)
    for outcome in outcomes:
        games.play([outcome] * num_games)
    check_every_transition(games)


def test_a_saved_replay_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", 7_056 * 10)
    memory = ReplayMemory(100, 1, discount=DISCOUNT)
    games = play(memory, ["goes_on"] * 35)
    assert list(memory.save().segments) == [f"replay-{k:08d}.safetensors" for k in range(3)]
    for _ in range(100):
        games.play(["goes_on"])
    # Steps 0 to 30 are overwritten: with 3 frames before the oldest transition and 1 step after, 104 are in memory.
    assert list(memory.save().segments) == [f"replay-{k:08d}.safetensors" for k in range(3, 13)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.full(35, 18, np.uint8)}, "actions or rewards that a game of 18 actions has not"),
        ({"rewards": np.full(35, np.nan, np.float32)}, "actions or rewards"),
        ({"ends": np.array([34])}, "holds 34 steps, but not what belongs to them"),
        ({"starts": np.array([-1])}, "holds steps"),
        ({"segments": np.array([0, 1 << 40])}, "has not all steps of a replay"),
        ({"piece_bytes": np.array([1])}, "sizes do not add up"),
        ({"frames": np.zeros(100, np.uint8), "piece_bytes": np.array([100])}, "damaged frames|frames of another size"),
        ({"next_ages": np.zeros(2, np.uint8)}, "next_ages"),
    ],
)
def test_a_saved_replay_of_a_stranger_is_refused_in_one_line(
    change: dict[str, NDArray[Any]], message: str, tmp_path: Path
) -> None:
    memory = ReplayMemory(100, 1, discount=DISCOUNT)
    play(memory, ["goes_on"] * 35)
    ((name, tail),) = memory.save().files.items()
    (tmp_path / name).write_bytes(pack_arrays({**safetensors.numpy.load(tail), **change}))
    with pytest.raises(LabError, match=message) as refused:
        ReplayMemory(100, 1, discount=DISCOUNT).load(SavedFiles({name: tmp_path / name}), num_actions=18)
    assert "\n" not in str(refused.value)
