"""Prioritized replay against a list-based model, on the games that hypothesis makes up for uniform replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.errors import LabError
from rl_lab.replay import STORAGES, PrioritizedReplayMemory, ReplayMemory
from rl_lab.saved import SavedFiles
from rl_lab.untrusted import pack_arrays
from tests.test_replay import DISCOUNT, OUTCOMES, MadeUpGames, play

Key = tuple[int, int]  # (game, index)


def new_memory(capacity: int, num_games: int = 1, *, alpha: float = 1.0, **changes: Any) -> PrioritizedReplayMemory:
    return PrioritizedReplayMemory(capacity, num_games, discount=DISCOUNT, priority_exponent=alpha, **changes)


def leaf_weights(memory: PrioritizedReplayMemory) -> dict[Key, float]:
    """The weight of every slot that has one, by the newest index of that slot."""
    weights = {}
    for leaf in np.flatnonzero(memory._tree.leaves).tolist():
        game, slot = divmod(leaf, memory.num_slots)
        newest = int(memory._written[game]) - 1
        weights[game, newest - (newest - slot) % memory.num_slots] = float(memory._tree.leaves[leaf])
    return weights


class PrioritizedGames(MadeUpGames):
    """Keeps the weight of each transition by hand: the largest so far when it is first there, then what it is given."""

    memory: PrioritizedReplayMemory

    def __init__(self, memory: PrioritizedReplayMemory, num_games: int, alpha: float) -> None:
        super().__init__(memory, num_games)
        self.alpha = alpha
        self.weights: dict[Key, float] = {}
        self.largest = 1.0

    def play(self, outcomes: list[str]) -> None:
        super().play(outcomes)
        self._follow()

    def cut(self) -> None:
        super().cut()
        self._follow()

    def update(self, keys: list[Key], priorities: list[float]) -> None:
        for key, priority in zip(keys, priorities, strict=True):
            if key in self.weights:
                self.weights[key] = float(np.float32((np.float64(np.float32(priority)) + 1e-6) ** self.alpha))
        self.largest = max([self.largest, *(self.weights[key] for key in keys if key in self.weights)])
        games, indices = np.array(keys, np.int64).reshape(-1, 2).T
        self.memory.update_priorities(games, indices, np.array(priorities, np.float32))

    def _follow(self) -> None:
        self.weights = {key: self.weights.get(key, self.largest) for key in self.model()}


PRIORITIES = st.one_of(st.just(0.0), st.floats(0, 10, width=32), st.just(3e38))


@st.composite
def prioritized_games(draw: st.DrawFn) -> PrioritizedGames:
    num_games, alpha = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.5, 0.6, 1.0]))
    capacity = draw(st.integers(num_games, 5 * num_games))
    storage = draw(st.sampled_from(STORAGES))
    memory = new_memory(
        capacity, num_games, alpha=alpha, n_step=draw(st.integers(1, 4)), storage=storage, chunk_frames=4
    )
    games = PrioritizedGames(memory, num_games, alpha)
    go_on(draw, games, draw(st.integers(0, 40)))
    return games


def go_on(draw: Callable[[st.SearchStrategy[Any]], Any], games: PrioritizedGames, steps: int) -> None:
    outcome = st.sampled_from(["goes_on", "goes_on", *OUTCOMES])
    drawn: list[Key] = []
    for _ in range(steps):
        what = draw(st.integers(0, 9))
        if what == 9:
            games.cut()
        elif what >= 6 and games.weights:
            # Some of what was drawn some steps ago, so that it may be overwritten; some of it twice.
            priorities = draw(st.lists(PRIORITIES, min_size=len(drawn), max_size=len(drawn)))
            games.update(drawn, priorities)
            drawn = draw(st.lists(st.sampled_from(sorted(games.weights)), max_size=4))
        else:
            games.play([draw(outcome) for _ in games.histories])


@given(prioritized_games())
@settings(max_examples=300, deadline=None)
def test_complete_transitions_and_no_others_have_the_weights_of_the_model(games: PrioritizedGames) -> None:
    assert leaf_weights(games.memory) == games.weights


@given(prioritized_games(), st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_batch_holds_the_transitions_that_it_names_with_weights_of_the_model(
    games: PrioritizedGames, seed: int, beta: float
) -> None:
    if not games.weights:
        return
    model, total = games.model(), sum(games.weights.values())
    batch, draw = games.memory.draw(7, np.random.default_rng(seed), beta)
    keys = list(zip(draw.games.tolist(), draw.indices.tolist(), strict=True))
    for row, key in enumerate(keys):
        assert np.array_equal(batch.observations[row], model[key].observation)
        assert batch.actions[row] == model[key].action
        assert batch.returns[row] == model[key].n_step_return
    # Schaul et al. 2016, section 3.4, as it is written there.
    importance = np.array([(len(model) * games.weights[key] / total) ** -beta for key in keys])
    assert draw.weights == pytest.approx(importance / importance.max(), rel=1e-5)


class Uniforms:
    """A generator that draws what it is given."""

    def __init__(self, values: list[float]) -> None:
        self._values = np.array(values)

    def random(self, count: int) -> NDArray[np.float64]:
        assert count == len(self._values)
        return self._values


def drawn_at(memory: PrioritizedReplayMemory, *uniforms: float) -> list[int]:
    """Indices that are drawn where the generator draws these."""
    rng: Any = Uniforms(list(uniforms))
    indices: list[int] = memory.draw(len(uniforms), rng, 0.0)[1].indices.tolist()
    return indices


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_each_transition_is_drawn_as_often_as_its_priority_to_the_power_of_alpha_says(alpha: float) -> None:
    memory = new_memory(20, alpha=alpha)
    play(memory, ["goes_on"] * 12)
    priorities = np.arange(1, 12, dtype=np.float32)
    memory.update_priorities(np.zeros(11, np.int64), np.arange(11), priorities)
    # The middles of 1,000 equal parts: each count is exact to one.
    counts = np.bincount(drawn_at(memory, *[0.5] * 1_000), minlength=11)
    expected = priorities.astype(np.float64) ** alpha
    assert counts == pytest.approx(1_000 * expected / expected.sum(), abs=1)


def test_random_draws_have_the_same_distribution() -> None:
    memory = new_memory(30, 3, alpha=0.5)
    play(memory, ["goes_on"] * 12, ["truncated"] * 12, [*["goes_on"] * 5, "truncated", *["goes_on"] * 6])
    games, indices = memory.transitions()
    rng = np.random.default_rng(0)
    memory.update_priorities(games, indices, rng.exponential(size=len(games)).astype(np.float32))
    counts = dict.fromkeys(leaf_weights(memory), 0)
    for _ in range(2_000):
        # Batches of one: a stratified batch varies less than a chi-square expects.
        _, draw = memory.draw(1, rng, 0.4)
        counts[int(draw.games[0]), int(draw.indices[0])] += 1
    weights = leaf_weights(memory)
    total = sum(weights.values())
    chi_square = sum((counts[key] - 2_000 * w / total) ** 2 / (2_000 * w / total) for key, w in weights.items())
    degrees = len(weights) - 1
    assert chi_square < degrees + 6 * (2 * degrees) ** 0.5


def test_a_batch_takes_one_transition_from_each_equal_part_of_the_sum() -> None:
    memory = new_memory(20)
    play(memory, ["goes_on"] * 5)  # four transitions of weight 1
    assert drawn_at(memory, 0.0, 0.0, 0.0, 0.0) == [0, 1, 2, 3]
    assert drawn_at(memory, 0.99, 0.99, 0.99, 0.99) == [0, 1, 2, 3]
    assert drawn_at(memory, 0.49, 0.51) == [0, 3]


def test_importance_weights_are_those_worked_by_hand() -> None:
    memory = new_memory(20)
    play(memory, ["goes_on"] * 4)
    memory.update_priorities(np.zeros(3, np.int64), np.arange(3), np.array([1, 4, 3], np.float32))
    # P = 1/8, 4/8, 3/8; N P = 3/8, 12/8, 9/8; to the power of -1/2, over that of 3/8: 1, sqrt(1/4), sqrt(1/3).
    # Parts of 8/3: places 1/3, 4 and 20/3.
    rng: Any = Uniforms([0.125, 0.5, 0.5])
    _, draw = memory.draw(3, rng, 0.5)
    assert draw.indices.tolist() == [0, 1, 2]
    assert draw.weights == pytest.approx([1, 0.5, 3**-0.5], rel=1e-5)
    # A batch without the first: the largest weight is that of the batch.
    assert memory.draw(1, np.random.default_rng(0), 1.0)[1].weights.tolist() == [1]


def test_a_new_transition_gets_the_largest_priority_that_ever_was() -> None:
    memory = new_memory(20)
    games = play(memory, ["goes_on"] * 3)
    assert list(leaf_weights(memory).values()) == [1, 1]
    memory.update_priorities(np.zeros(1, np.int64), np.array([0]), np.array([8], np.float32))
    memory.update_priorities(np.zeros(1, np.int64), np.array([0]), np.array([2], np.float32))
    games.play(["goes_on"])
    assert leaf_weights(memory) == pytest.approx({(0, 0): 2, (0, 1): 1, (0, 2): 8}, rel=1e-5)


def test_of_a_transition_drawn_twice_the_last_priority_counts() -> None:
    memory = new_memory(20)
    play(memory, ["goes_on"] * 4)
    zeros = np.zeros(4, np.int64)
    memory.update_priorities(zeros, np.array([1, 2, 1, 2]), np.array([9, 3, 5, 7], np.float32))
    assert leaf_weights(memory) == pytest.approx({(0, 0): 1, (0, 1): 5, (0, 2): 7}, rel=1e-5)


def test_priorities_of_what_was_overwritten_meanwhile_are_left_out() -> None:
    memory = new_memory(4)
    games = play(memory, ["goes_on"] * 6)
    _, drawn = memory.draw(8, np.random.default_rng(0), 1.0)
    for _ in range(memory.num_slots):
        games.play(["goes_on"])
    before = leaf_weights(memory)
    memory.update_priorities(drawn.games, drawn.indices, np.full(8, 100, np.float32))
    games.play(["goes_on"])
    assert set(leaf_weights(memory).values()) == set(before.values()) == {1.0}


@pytest.mark.parametrize("priority", [np.nan, np.inf])
def test_priorities_that_are_not_finite_are_refused(priority: float) -> None:
    memory = new_memory(20)
    play(memory, ["goes_on"] * 4)
    with pytest.raises(LabError, match="TD error is not finite: learning diverged"):
        memory.update_priorities(np.zeros(1, np.int64), np.array([0]), np.array([priority], np.float32))


@pytest.mark.parametrize("steps", [0, 1])
def test_sampling_without_a_complete_transition_names_the_flag_to_change(steps: int) -> None:
    memory = new_memory(20)
    play(memory, ["goes_on"] * steps)
    with pytest.raises(LabError, match=r"no complete transition yet.*--agent\.learning-starts-steps"):
        memory.draw(1, np.random.default_rng(0), 1.0)


def test_compressed_storage_gives_the_batches_of_raw_storage() -> None:
    batches = []
    for storage in STORAGES:
        memory = new_memory(40, 2, alpha=0.6, n_step=3, storage=storage, chunk_frames=5)
        play(memory, ["goes_on"] * 60, [*["goes_on"] * 9, "game_over"] * 6)
        rng = np.random.default_rng(0)
        for _ in range(5):
            batch, draw = memory.draw(32, rng, 0.4)
            memory.update_priorities(draw.games, draw.indices, batch.actions.astype(np.float32))
            batches.append([array.tobytes() for array in (*batch, *draw)])
    assert batches[:5] == batches[5:]


def saved_in(memory: PrioritizedReplayMemory, folder: Path, **changes: NDArray[Any]) -> SavedFiles:
    """All that the memory saves, on disk, with other arrays among the priorities."""
    saved = memory.save()
    contents = {**saved.files, **{name: segment() for name, segment in saved.segments.items()}}
    priorities = safetensors.numpy.load(contents["priorities.safetensors"])
    contents["priorities.safetensors"] = pack_arrays({**priorities, **changes})
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return SavedFiles({name: folder / name for name in contents})


@given(games=prioritized_games(), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restored_memory_goes_on_to_the_bit_as_the_model_does(
    games: PrioritizedGames, data: st.DataObject, tmp_path: Path
) -> None:
    old, num_games = games.memory, len(games.histories)
    capacity = (old.num_slots - 3 - old.n_step) * num_games
    games.memory = new_memory(capacity, num_games, alpha=games.alpha, n_step=old.n_step)
    games.memory.load(saved_in(old, tmp_path), num_actions=256)
    assert leaf_weights(games.memory) == games.weights
    assert games.memory._tree.total == old._tree.total
    go_on(data.draw, games, 20)
    assert leaf_weights(games.memory) == games.weights


def test_a_memory_whose_discount_leaves_nothing_of_the_next_value_is_restored(tmp_path: Path) -> None:
    memory, copy = (PrioritizedReplayMemory(100, 1, discount=0.0, n_step=3, priority_exponent=1.0) for _ in range(2))
    play(memory, ["goes_on"] * 35)
    copy.load(saved_in(memory, tmp_path), num_actions=256)
    assert leaf_weights(copy) == leaf_weights(memory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priorities": np.full(104, np.nan, np.float32)}, "not between 0 and the largest one"),
        ({"priorities": np.full(104, np.inf, np.float32)}, "not between 0 and the largest one"),
        ({"priorities": np.full(104, -1, np.float32)}, "not between 0 and the largest one"),
        ({"priorities": np.full(104, 1.5, np.float32)}, "not between 0 and the largest one"),
        ({"priorities": np.full(104, 0, np.float32)}, "of other transitions"),
        ({"priorities": np.full(104, 1, np.float32)}, "of other transitions"),
        ({"priorities": np.full(103, 1, np.float32)}, r"priorities is F32 \[103\]; allowed is F32 \[104\]"),
        ({"priorities": np.full(104, 1, np.float64)}, "priorities is F64"),
        ({"largest": np.array([0], np.float32)}, "not between 0 and the largest one"),
        ({"largest": np.array([np.inf], np.float32)}, "not between 0 and the largest one"),
        ({"largest": np.array([np.nan], np.float32)}, "not between 0 and the largest one"),
        ({"largest": np.zeros(0, np.float32)}, "largest is F32"),
        ({"more": np.zeros(1, np.float32)}, "unknown tensor 'more'"),
    ],
)
def test_saved_priorities_of_a_stranger_are_refused_in_one_line(
    change: dict[str, NDArray[Any]], message: str, tmp_path: Path
) -> None:
    memory = new_memory(100)
    play(memory, ["goes_on"] * 35)
    with pytest.raises(LabError, match=message) as refused:
        new_memory(100).load(saved_in(memory, tmp_path, **change), num_actions=256)
    assert "\n" not in str(refused.value)


def test_priorities_of_a_million_transitions_take_four_bytes_each() -> None:
    memory = new_memory(10_000, 8)
    play(memory, *[["goes_on"] * 30] * 8)
    assert len(memory.save().files["priorities.safetensors"]) == pytest.approx(4 * 8 * memory.num_slots, abs=300)


def test_the_sum_tree_counts_where_memory_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 1_000 + 3 + 1
    tree_bytes = sum(level.nbytes for level in new_memory(1_000)._tree._levels)
    asked: list[int] = []
    monkeypatch.setattr("rl_lab.replay.memory.require_memory", lambda needed, *_, **__: asked.append(needed))
    ReplayMemory(1_000, 1, discount=DISCOUNT)
    new_memory(1_000)
    assert asked[0] + tree_bytes <= asked[1] <= asked[0] + tree_bytes + steps
