"""The parts of distributed acting and replay, without a cluster; the whole is in test_apex_cluster.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.agent import Task, load_agent
from rl_lab.apex.acting import Actor, ActorSettings, Played, actor_epsilon
from rl_lab.apex.chunk import Chunk, ChunkBuilder
from rl_lab.apex.priorities import InitialPriorities
from rl_lab.apex.shard import Shard, ShardSettings, split
from rl_lab.atari import AtariVectorEnv, Episode, Step
from rl_lab.errors import LabError
from rl_lab.networks import Architecture
from rl_lab.replay import PrioritizedReplayMemory
from tests.tiny import PROTOCOL, tiny_apex

DISCOUNT, N_STEP, NUM_GAMES = 0.5, 2, 2
OUTCOMES = ("goes on", "loses a life", "ends", "is cut")


def test_epsilons_are_those_of_the_paper() -> None:
    epsilons = [actor_epsilon(actor, 4, base=0.4, exponent=7.0) for actor in range(4)]
    assert epsilons == pytest.approx([0.4, 0.047153, 0.0055589, 0.00065536], rel=1e-4)
    assert actor_epsilon(359, 360, base=0.4, exponent=7.0) == pytest.approx(0.4**8)


def test_a_single_actor_explores_by_the_base() -> None:
    assert actor_epsilon(0, 1, base=0.4, exponent=7.0) == 0.4


def steps_of(outcomes: list[str], rewards: list[float], pixels: list[int], cut_pixels: list[int]) -> Step:
    """A step of each game to frames of one grey; a game that ends or is cut goes on as another."""
    ends = np.array([outcome in ("ends", "is cut") for outcome in outcomes])
    terminated = np.array([outcome in ("ends", "loses a life") for outcome in outcomes])
    return Step(
        next_observations=stacks(cut_pixels if ends.any() else pixels),
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=ends & ~terminated,
        episode_ends=ends,
        observations=stacks(pixels),
    )


def stacks(pixels: list[int]) -> NDArray[np.uint8]:
    """[B, 4, 84, 84]"""
    return np.ascontiguousarray(
        np.broadcast_to(np.array(pixels, np.uint8)[:, None, None, None], (len(pixels), 4, 84, 84))
    )


def test_initial_priorities_are_those_of_a_table_worked_by_hand() -> None:
    # One game, two steps of reward, discount 0.5. Values of both actions, the action, reward, what came of it:
    table = [
        ([1.0, 2.0], 0, 1.0, "goes on"),  # 1 + 0.5 * 2 + 0.25 * 3 - 1 = 1.75, known when the third is played
        ([0.0, 4.0], 1, 2.0, "goes on"),  # 2 + 0.5 * 0 - 4 = -2: the return ends at the third
        ([3.0, 1.0], 0, 0.0, "loses a life"),  # 0 - 3 = -3
        ([8.0, 0.0], 1, 1.0, "goes on"),  # 1 + 0.5 * -1 + 0.25 * 6 - 0 = 2, bootstrapped beyond the cut
        ([5.0, 7.0], 0, -1.0, "is cut"),  # -1 + 0.5 * 6 - 5 = -3
        ([1.0, 1.0], 0, 0.0, "ends"),  # 0 - 1 = -1; a slot later, as the cut observation has one
    ]
    priorities = InitialPriorities(1, discount=0.5, n_step=2)
    known = []
    for values, action, reward, outcome in table:
        step = steps_of([outcome], [reward], [0], [0])
        priorities.add(np.array([values], np.float32), np.array([action]), step, np.array([6.0], np.float32))
        games, indices, errors = priorities.take()
        assert (games == 0).all()
        known.append(dict(zip(indices.tolist(), errors.tolist(), strict=True)))
    assert known == [{}, {}, {0: 1.75, 1: 2.0, 2: 3.0}, {}, {3: 2.0, 4: 3.0}, {6: 1.0}]


def q_values(observations: NDArray[Any]) -> NDArray[np.float32]:
    """Made up, of the newest frame."""
    pixel = observations[:, -1, 0, 0].astype(np.float32)
    return np.stack([pixel / 16, 8 - pixel / 32], axis=1)


class MadeUpActor:
    """Makes up steps and sends them chunk by chunk."""

    def __init__(self, actor: int, rng: np.random.Generator) -> None:
        self._actor = actor
        self._rng = rng
        self._stream = 0

    def chunks(self) -> Iterator[Chunk]:
        """Those of a new stream."""
        self._stream += 1
        builder = ChunkBuilder(self._actor, self._stream)
        priorities = InitialPriorities(NUM_GAMES, discount=DISCOUNT, n_step=N_STEP)
        observations = stacks(self._pixels())
        for length in self._rng.integers(1, 7, 3):
            for _ in range(length):
                outcomes = self._rng.choice(OUTCOMES, NUM_GAMES, p=(0.7, 0.1, 0.1, 0.1)).tolist()
                actions = self._rng.integers(0, 2, NUM_GAMES)
                step = steps_of(outcomes, [1.0, -0.5], self._pixels(), self._pixels())
                builder.add(observations, actions, step)
                cut_values = q_values(step.next_observations).max(axis=1)
                priorities.add(q_values(observations), actions, step, cut_values)
                observations = step.observations
            yield builder.build(priorities.take())

    def _pixels(self) -> list[int]:
        return cast("list[int]", self._rng.integers(1, 256, NUM_GAMES).tolist())


def new_shard(capacity_per_actor: int = 100, priority_exponent: float = 1.0) -> Shard:
    return Shard(ShardSettings(2, capacity_per_actor, DISCOUNT, N_STEP, "raw", priority_exponent))


@given(st.integers(0, 2**32), st.sampled_from([NUM_GAMES, 10, 100]))
@settings(max_examples=30, deadline=None)
def test_what_actors_send_has_their_td_errors_as_priorities(seed: int, capacity: int) -> None:
    shard, rng = new_shard(capacity), np.random.default_rng(seed)
    actors = [MadeUpActor(actor, rng) for actor in (0, 1)]
    for actor in actors * 2:
        for chunk in actor.chunks():
            shard.add(chunk)
    for stream in shard._streams.values():
        memory, (games, indices) = stream.memory, stream.memory.transitions()
        batch = memory.gather(games, indices)
        taken = q_values(batch.observations)[np.arange(len(games)), batch.actions]
        errors = batch.returns + batch.discounts * q_values(batch.next_observations).max(axis=1) - taken
        shares = memory.shares(games, indices)
        is_as_sent = np.isclose(shares, np.abs(errors) + 1e-6, rtol=1e-4, atol=1e-4)
        # The last of a stream are completed by the beginning of the next one, which their actor does not see.
        assert (~is_as_sent).sum() <= N_STEP * NUM_GAMES
        assert (shares > 0).all()
        assert memory.total_share == pytest.approx(shares.sum())


def test_a_chunk_holds_the_steps_that_it_was_built_of() -> None:
    builder = ChunkBuilder(3, 5)
    steps = [
        steps_of(["goes on", "is cut"], [1, 0], [7, 8], [5, 6]),
        steps_of(["ends", "goes on"], [0, 1], [9, 4], [9, 4]),
    ]
    observations = [stacks([1, 2]), steps[0].observations]
    for seen, step in zip(observations, steps, strict=True):
        builder.add(seen, np.array([1, 0]), step)
    chunk = builder.build(InitialPriorities(2, discount=DISCOUNT, n_step=N_STEP).take())
    for (seen, actions, step), own, of in zip(chunk.steps(), observations, steps, strict=True):
        assert np.array_equal(seen[:, 0], own[:, -1])
        assert actions.tolist() == [1, 0]
        assert np.array_equal(step.observations[:, 0], of.observations[:, -1])
        assert np.array_equal(step.rewards, of.rewards)
        assert np.array_equal(step.terminated, of.terminated)
        cut = of.episode_ends & ~of.terminated
        assert np.array_equal(step.next_observations[cut, 0], of.next_observations[cut, -1])
    assert np.array_equal(chunk.next_frames()[:, 0], steps[-1].observations[:, -1])


class At:
    """Draws the same place in every part."""

    def __init__(self, place: float) -> None:
        self._place = place

    def random(self, count: int) -> NDArray[np.float64]:
        return np.full(count, self._place)


TOTALS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e6)), min_size=1, max_size=8).filter(any)


@given(TOTALS, st.integers(1, 64))
@settings(deadline=None)
def test_each_holder_gets_its_share_of_a_batch_on_average(totals: list[float], batch_size: int) -> None:
    places = 40
    drawn = [
        split(batch_size, totals, cast("np.random.Generator", At((place + 0.5) / places))) for place in range(places)
    ]
    exact = batch_size * np.array(totals) / sum(totals)
    assert (np.abs(np.mean(drawn, axis=0) - exact) <= 2 / places + 1e-6).all()


@given(TOTALS, st.integers(1, 64), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_holder_is_never_two_away_from_its_share_and_nothing_comes_from_an_empty_one(
    totals: list[float], batch_size: int, seed: int
) -> None:
    counts = split(batch_size, totals, np.random.default_rng(seed))
    exact = batch_size * np.array(totals) / sum(totals)
    assert counts.sum() == batch_size
    assert (np.abs(counts - exact) < 2).all()
    assert not counts[np.array(totals) == 0].any()


def played(actor: int, pixels: list[int]) -> Chunk:
    """A chunk of one game that loses a life at each step: every transition is complete, and worth nothing later."""
    builder, priorities = ChunkBuilder(actor, 1), InitialPriorities(1, discount=DISCOUNT, n_step=N_STEP)
    for pixel, following in zip(pixels, [*pixels[1:], 1], strict=True):
        step = steps_of(["loses a life"], [0.0], [following], [following])
        builder.add(stacks([pixel]), np.array([0]), step)
        priorities.add(np.array([[pixel, 0]], np.float32), np.array([0]), step, np.zeros(1, np.float32))
    return builder.build(priorities.take())


def test_a_shard_draws_over_all_its_actors_by_priority() -> None:
    shard = new_shard()
    shard.add(played(0, [1, 3]))
    holding = shard.add(played(1, [4, 8]))
    assert holding.steps == 4
    assert holding.total == pytest.approx(1 + 3 + 4 + 8, abs=1e-5)
    part = shard.sample(1_600, np.random.default_rng(0))
    values, counts = np.unique(part.batch().observations[:, -1, 0, 0], return_counts=True)
    assert values.tolist() == [1, 3, 4, 8]
    # Within two of the exact share of each actor, and within two of that in its memory.
    assert counts == pytest.approx([100, 300, 400, 800], abs=4)
    assert part.shares == pytest.approx(part.batch().observations[:, -1, 0, 0], abs=1e-5)


def test_priorities_that_come_back_count_at_the_next_draw() -> None:
    shard = new_shard(priority_exponent=0.5)
    shard.add(played(0, [1, 3]))
    shard.add(played(1, [4, 8]))
    rng = np.random.default_rng(0)
    part = shard.sample(64, rng)
    pixels = part.batch().observations[:, -1, 0, 0]
    shard.update(part.origin, np.where(pixels == 4, 9.0, 0.0).astype(np.float32))
    again = shard.sample(64, rng)
    assert again.holding.total == pytest.approx(3, abs=0.01)
    assert (again.batch().observations[:, -1, 0, 0] == 4).sum() >= 62


def new_actor(actor: int, epsilon: float = 0.3) -> Actor:
    return Actor(ActorSettings(actor, epsilon, "mnih2013", 4, Architecture(), DISCOUNT, N_STEP, seed=0))


def new_env(seed: int = 0, observer: Any = None) -> AtariVectorEnv:
    seeds = np.random.SeedSequence(seed)
    return AtariVectorEnv("Breakout", PROTOCOL, 2, seeds, training=True, observer=observer)


def test_what_an_actor_plays_is_what_it_sends_and_what_is_counted() -> None:
    actor = new_actor(1)
    actor.begin(new_env().sibling(1, 1), 1)
    chunk, counted = actor.play(120)
    assert np.array_equal(chunk.actions, counted.actions)
    assert counted.actions.shape == (120, 2)
    # Episodes are cut after 100 steps: see tests.tiny. The actor's two games are the third and fourth of all.
    assert [(episode.game_index, episode.length_steps) for episode in counted.episodes] == [(2, 100), (3, 100)]
    assert actor.play(5)[1].episodes == []


def test_siblings_of_one_key_play_alike_and_others_do_not() -> None:
    def begin(*key: int) -> list[int]:
        games = new_env().sibling(*key)()
        games.reset()
        return cast("list[int]", games.emulated_frames.tolist())  # as many as there are no-ops, which are drawn

    assert begin(0, 1) == begin(0, 1)
    assert len({tuple(begin(*key)) for key in ((0, 1), (1, 1), (0, 2))}) == 3


class Heard:
    """Keeps what the environment tells."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.episodes: list[Episode] = []
        self.pauses = False

    def on_steps(self, total_steps: int) -> None:
        self.steps.append(total_steps)

    def asks_for_pause(self) -> bool:
        return self.pauses

    def on_episode(self, episode: Episode) -> None:
        self.episodes.append(episode)


def test_what_siblings_played_counts_as_played() -> None:
    heard = Heard()
    env = new_env(observer=heard)
    env.reset()
    heard.pauses = True
    env.count(np.array([[0, 1], [2, 3], [1, 1]], np.uint8), [Episode(7, 30.0, 3, 6, truncated=False)])
    assert (env.steps, env.frames) == (6, 24)
    assert env.pause_requested
    env.count(np.array([[3, 3]], np.uint8), [Episode(5, 1.0, 4, 8, truncated=True)])
    assert heard.steps == [0, 6]
    assert [(one.game_index, one.score, one.end_step) for one in heard.episodes] == [(7, 30.0, 6), (5, 1.0, 8)]
    assert env.played_actions.tolist() == [[0, 1], [2, 3], [1, 1], [3, 3]]


def test_a_pause_is_noticed_where_nothing_is_played() -> None:
    heard = Heard()
    env = new_env(observer=heard)
    env.reset()
    env.look()
    assert not env.pause_requested
    heard.pauses = True
    env.look()
    assert (heard.steps, env.pause_requested) == ([], True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actors": 0}, "actors is 0; allowed is 1 to 10000"),
        ({"actors": 2, "shards": 3}, "shards is 3 and actors 2; allowed is one actor or more for each"),
        ({"batch_size": 64, "learning_starts_steps": 32}, "learning_starts_steps is 32; allowed is 64 or more"),
        ({"epsilon_base": 1.5}, "epsilon_base is 1.5; allowed is 0 to 1"),
        ({"steps_per_update": -1.0}, "steps_per_update is -1.0; allowed is 0 or more"),
        ({"ray": ""}, "ray is ''; allowed is local or the address of a Ray cluster"),
    ],
)
def test_bad_hyperparameters_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        load_agent("apex_dqn").Config(name="apex_dqn", **changes)


def test_learning_that_starts_before_the_first_transitions_is_refused() -> None:
    task = Task(num_actions=4, num_games=4, total_steps=4_000, seed=0)
    load_agent("apex_dqn")(tiny_apex(n_step=7), task)
    with pytest.raises(LabError, match="learning_starts_steps is 64; allowed is 72 or more, when 2 actors' 4 games"):
        load_agent("apex_dqn")(tiny_apex(n_step=8), task)


class AllPlayed:
    """Stands in for a cluster whose actors play 200 steps in two chunks, so that the learner is far behind."""

    has_batch, num_requested, held_steps, replaced = True, 0, 0, 0

    def __init__(self, chunks_at_once: int) -> None:
        self._chunks_at_once = chunks_at_once
        self._chunks = [Played(np.zeros((50, 2), np.uint8), [])] * 2

    @property
    def steps_under_way(self) -> int:
        return 100 * len(self._chunks)

    def collect(self, timeout_seconds: float) -> list[Played]:
        collected = self._chunks[: self._chunks_at_once]
        del self._chunks[: self._chunks_at_once]
        self.held_steps += 100 * len(collected)
        return collected

    def next_batch(self) -> Any:
        return SimpleNamespace(batch=None, shares=np.ones(8))

    def idle_actors(self) -> list[int]:
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None  # what it is told


@pytest.mark.parametrize("chunks_at_once", [2, 1], ids=["all is played", "the last steps are under way"])
def test_a_pause_takes_no_updates_that_are_due(chunks_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    task = Task(num_actions=4, num_games=2, total_steps=200, seed=0)
    agent: Any = load_agent("apex_dqn")(tiny_apex(), task)
    monkeypatch.setattr("rl_lab.apex.cluster.Cluster", lambda *_, **__: AllPlayed(chunks_at_once))
    agent.prepare()

    def update(*_: Any) -> NDArray[np.float32]:
        agent._updates += 1
        return np.ones(8, np.float32)

    agent.update = update
    heard = Heard()
    env = new_env(observer=heard)
    env.reset()
    heard.pauses = True
    agent.train(env, 200, SimpleNamespace(due=lambda: False))
    assert agent._updates == (200 - agent._idle_steps) // 8 > 0


def test_a_memory_knows_how_much_it_was_sent() -> None:
    memory = PrioritizedReplayMemory(10, 1, discount=DISCOUNT, priority_exponent=1.0)
    memory.add(stacks([1]), np.array([0]), steps_of(["is cut"], [0.0], [2], [3]))
    assert memory.num_written.tolist() == [2]
