"""The lean replay of stable-baselines3's DQN against SB3's own: the same transitions in, the same bytes out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from rl_lab.atari import Protocol
from rl_lab.errors import LabError
from rl_lab.replay.observations import ObservationRing
from tests.fakes import EveryStep
from tests.test_sb3_dqn import BREAKOUT_ACTIONS, breakout, new_agent, ready_agent, replay_of, small_config

SHAPE = (4, 84, 84)
SHORT_GAMES = Protocol(name="short", fire_reset=True, life_loss="ends_return", max_frames_per_episode=240)
"""Episodes of 60 steps: random play loses one or two lives in that time."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Added(NamedTuple):
    """The arguments of one call of SB3's `add`."""

    obs: NDArray[np.uint8]
    next_obs: NDArray[np.uint8]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    infos: list[dict[str, Any]]


class Recorder(ReplayBuffer):
    """SB3's replay that keeps what it was given."""

    def __init__(self, num_games: int) -> None:
        space = spaces.Box(0, 255, SHAPE, np.uint8)
        super().__init__(num_games, space, spaces.Discrete(BREAKOUT_ACTIONS), n_envs=num_games)
        self.added: list[Added] = []

    def add(
        self,
        obs: NDArray[np.uint8],
        next_obs: NDArray[np.uint8],
        action: NDArray[np.int64],
        reward: NDArray[np.float32],
        done: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        self.added.append(Added(obs.copy(), next_obs.copy(), action.copy(), reward.copy(), done.copy(), infos))
        super().add(obs, next_obs, action, reward, done, infos)


@cache
def breakout_transitions(num_games: int) -> list[Added]:
    """Two iterations of random play, 150 steps of each game."""
    agent = ready_agent(replace(small_config(), learning_starts_steps=399), num_games=num_games)
    recorder = Recorder(num_games)
    agent.model.replay_buffer = recorder
    for iteration in range(2):
        agent.train(breakout(num_games, iteration=iteration, protocol=SHORT_GAMES), 76 * num_games, EveryStep())
    return recorder.added


def buffers(replay: str, storage: str, *, num_games: int, slots: int, n_step: int) -> ReplayBuffer:
    """A replay as the agent builds it."""
    config = replace(
        small_config(),
        batch_size=1,
        n_step=n_step,
        replay=replay,
        replay_storage=storage,
        replay_capacity=slots * num_games,
    )
    return replay_of(ready_agent(config, num_games=num_games))


def whole(replay: ReplayBuffer) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Observations and next observations in every slot that is filled, for every game."""
    slots, games = (index.ravel() for index in np.indices((replay.size(), replay.n_envs)))
    return replay.observations[slots, games, :], replay.next_observations[slots, games, :]


def assert_same_sample(one: ReplayBuffer, other: ReplayBuffer, seed: int) -> None:
    batches = []
    for replay in (one, other):
        np.random.seed(seed)  # SB3 draws from the global generator
        batches.append(replay.sample(16))
    for expected, got in zip(*batches, strict=True):
        if expected is None:  # SB3's discounts of one-step samples
            assert got is None
            continue
        assert (got.dtype, got.shape, got.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert torch.equal(got, expected)


# What SB3's own replay returns


def test_the_transitions_have_lost_lives_timeouts_and_games_that_end_apart() -> None:
    added = breakout_transitions(2)
    timeouts = np.array([[info.get("TimeLimit.truncated", False) for info in step.infos] for step in added])
    dones = np.array([step.done for step in added])
    lost_lives = dones & ~timeouts
    assert (lost_lives.sum(axis=0) > 0).all()
    assert (timeouts.sum(axis=0) > 3).all()
    assert (lost_lives[:, 0] != lost_lives[:, 1]).any()


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("storage", ["raw", "zstd"])
@pytest.mark.parametrize(("num_games", "slots"), [(1, 70), (2, 20), (4, 4), (2, 2), (2, 1)])
def test_every_slot_and_every_sample_is_that_of_sb3s_own_replay_after_each_step(
    num_games: int, slots: int, storage: str, n_step: int
) -> None:
    own = buffers("sb3", "raw", num_games=num_games, slots=slots, n_step=n_step)
    lean = buffers("lean", storage, num_games=num_games, slots=slots, n_step=n_step)
    assert lean.buffer_size == own.buffer_size == slots
    for step, arguments in enumerate(breakout_transitions(num_games)):
        own.add(*arguments)
        lean.add(*arguments)
        assert (lean.pos, lean.full) == (own.pos, own.full)
        for expected, got in zip(whole(own), whole(lean), strict=True):
            assert np.array_equal(expected, got), step
        assert_same_sample(own, lean, seed=step)
    for name in ("actions", "rewards", "dones", "timeouts"):
        expected, got = getattr(own, name), getattr(lean, name)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected), name


def test_a_lost_life_keeps_no_frame_beside_the_ring_and_a_reset_one_until_it_is_overwritten() -> None:
    added, slots = breakout_transitions(1), 20
    ring = ObservationRing(slots, 1, SHAPE, "raw")
    for step, arguments in enumerate(added):
        ring.write(step % slots, arguments.obs)
        ring.write_next(step % slots, arguments.next_obs)
        resets = [
            number % slots
            for number in range(max(step + 1 - slots, 0), step)
            if not np.array_equal(added[number].next_obs, added[number + 1].obs)
        ]
        assert sorted(position for position, _ in ring._kept_apart) == sorted(resets)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("storage", ["raw", "zstd"])
def test_training_gives_the_weights_of_sb3s_own_replay_to_the_byte(storage: str, n_step: int) -> None:
    def weights(replay: str, storage: str) -> list[bytes]:
        config = replace(small_config(), replay=replay, replay_storage=storage, replay_capacity=60, n_step=n_step)
        agent = ready_agent(config, num_games=2)
        for iteration in range(2):
            agent.train(breakout(2, iteration=iteration, protocol=SHORT_GAMES), 120, EveryStep())
        assert agent.model._n_updates > 40
        return [tensor.numpy().tobytes() for tensor in agent.model.policy.state_dict().values()]

    assert weights("lean", storage) == weights("sb3", "raw")


# Memory


@pytest.mark.parametrize("storage", ["raw", "zstd"])
def test_a_million_transitions_take_memory_only_as_they_come(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a laptop, whatever this machine has: SB3's own replay of a million takes 56 GB.
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 8_000_000_000)
    config = replace(small_config(), replay="lean", replay_storage=storage, replay_capacity=1_000_000)
    before = psutil.Process().memory_info().rss
    lean = replay_of(ready_agent(config))
    for arguments in breakout_transitions(1):
        lean.add(*arguments)
    lean.sample(32)
    assert lean.buffer_size == 1_000_000
    assert psutil.Process().memory_info().rss - before < 300_000_000


def test_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 7_000_000_000)
    agent = new_agent(replace(small_config(), replay="lean", replay_capacity=1_000_000))
    with pytest.raises(
        LabError, match=r"one frame of some 7,056 bytes each\) needs 7\.1 GB, 7\.0 GB free; use --agent"
    ):
        agent.prepare()
    assert replay_of(agent).buffer_size == 1


# Refusals


def test_sb3s_own_replay_cannot_be_compressed() -> None:
    with pytest.raises(LabError, match=r"replay_storage is 'zstd' with replay 'sb3'.*; use --agent\.replay lean"):
        replace(small_config(), replay_storage="zstd")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(LabError, match=r"replay is 'own'; allowed is one of sb3, lean"):
        replace(small_config(), replay="own")
    with pytest.raises(LabError, match=r"replay_storage is 'gzip'; allowed is one of raw, zstd"):
        replace(small_config(), replay="lean", replay_storage="gzip")


@pytest.mark.parametrize("field", ["obs", "next_obs"])
@pytest.mark.parametrize("bad_step", [0, 1])
def test_observations_that_are_no_stacks_are_refused(bad_step: int, field: str) -> None:
    lean = buffers("lean", "raw", num_games=2, slots=20, n_step=1)
    added = breakout_transitions(2)
    for arguments in added[:bad_step]:
        lean.add(*arguments)
    # Game 1 shows something else, game 0 what it should.
    observations = getattr(added[bad_step], field).copy()
    observations[1] = np.random.default_rng(0).integers(1, 256, SHAPE, np.uint8)
    with pytest.raises(LabError, match=r"an observation of game 1 is neither .* use --agent\.replay sb3"):
        lean.add(*added[bad_step]._replace(**{field: observations}))


def test_an_observation_that_does_not_follow_the_one_before_it_is_refused() -> None:
    added = breakout_transitions(1)
    lean = buffers("lean", "raw", num_games=1, slots=20, n_step=1)
    for arguments in added[:10]:
        lean.add(*arguments)
    with pytest.raises(LabError, match=r"an observation of game 0 is neither .* use --agent\.replay sb3"):
        lean.add(*added[12])
