"""The replay of stable-baselines3's off-policy agents: its own, or the same in less memory; and how it is saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.errors import LabError
from rl_lab.replay.frames import bytes_per_frame
from rl_lab.replay.observations import ObservationRing
from rl_lab.replay.saving import FRAMES, Column, Columns, load_steps, save_steps
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.system import require_memory

_BYTES_PER_OBSERVATION = math.prod(OBSERVATION_SHAPE)
_BYTES_BESIDE_OBSERVATIONS = 20
"""Of a transition: action 8, reward 4, end 4, time limit 4."""
_BYTES_IN_A_BATCH = 2 * _BYTES_PER_OBSERVATION * (1 + 4 + 4)
"""Of a transition: its pixels as bytes, as floats, and as parts of 255; what the network keeps of them comes on top."""
_BESIDE_OBSERVATIONS = ("actions", "rewards", "dones", "timeouts")
"""Arrays of SB3's replay, by its names."""


def build_lean_replay(
    capacity: int, num_games: int, num_actions: int, device: str, *, storage: str, n_step: int, discount: float
) -> ReplayBuffer:
    """A replay of `capacity` transitions that gives the samples of SB3's own."""
    observation_space = spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8)
    arguments = (capacity, observation_space, spaces.Discrete(num_actions), device)
    if n_step == 1:
        return _LeanReplay(*arguments, n_envs=num_games, storage=storage)
    return _LeanNStepReplay(*arguments, n_envs=num_games, storage=storage, n_steps=n_step, gamma=discount)


def require_learning_memory(replay: str, storage: str, capacity: int, batch_size: int) -> None:
    """LabError where this machine's memory cannot hold a batch beside the replay, which is 'sb3' or 'lean'."""
    if replay == "lean":
        observation_bytes = bytes_per_frame(storage, OBSERVATION_SHAPE[1:])
        what = f"one frame of some {observation_bytes:,} bytes each"
        advice = "use --agent.replay-capacity or --agent.batch-size"
    else:
        observation_bytes = 2 * _BYTES_PER_OBSERVATION
        what = f"two stacked observations of {_BYTES_PER_OBSERVATION:,} bytes each"
        advice = "use --agent.replay-capacity, --agent.batch-size or --agent.replay lean"
    require_memory(
        capacity * (observation_bytes + _BYTES_BESIDE_OBSERVATIONS) + batch_size * _BYTES_IN_A_BATCH,
        f"stable-baselines3 with batches of {batch_size:,} and a replay of {capacity:,} transitions ({what})",
        advice,
        fills_later=True,
    )


def save_replay(replay: ReplayBuffer, written_rows: int) -> SavedState:
    """Its newest rows, of `written_rows` that it has ever taken; a row is a step of all games."""
    size, columns = replay.buffer_size, _columns(replay.n_envs)

    def read(_: int, rows: NDArray[np.int64]) -> Columns:
        slots, games = np.repeat(rows % size, replay.n_envs), np.tile(np.arange(replay.n_envs), len(rows))
        stacks = [observations[slots, games] for observations in (replay.observations, replay.next_observations)]
        frames = np.stack(stacks, axis=1).reshape(len(rows), *columns[FRAMES].shape)
        return {**{name: getattr(replay, name)[rows % size] for name in _BESIDE_OBSERVATIONS}, FRAMES: frames}

    written = np.array([written_rows])
    return save_steps(read, columns, np.maximum(written - size, 0), written, {})


def load_replay(replay: ReplayBuffer, files: SavedFiles, written_rows: int, num_actions: int) -> None:
    """Fill it with what `save_replay` gave; LabError for files that are damaged or foreign."""
    size, columns = replay.buffer_size, _columns(replay.n_envs)
    written, _, parts = load_steps(files, columns, {}, 1, size)
    if written.tolist() != [written_rows]:
        raise LabError(
            f"the saved replay has {written[0]:,} rows; with {written_rows * replay.n_envs:,} steps it has not"
        )
    oldest = max(written_rows - size, 0)
    for part in parts:
        actions, rewards = part.columns["actions"], part.columns["rewards"]
        if ((actions < 0) | (actions >= num_actions)).any() or not np.isfinite(rewards).all():
            raise LabError(f"the saved replay has actions or rewards that a game of {num_actions} actions has not")
        for index, row in enumerate(part.indices.tolist()):
            if row < oldest:
                continue  # a segment keeps what was overwritten since
            slot = row % size
            observations, next_observations = part.columns[FRAMES][index].swapaxes(0, 1)
            if row == oldest > 0 and isinstance(replay, _LeanReplay):
                replay.begin_at(row, observations)
            replay.observations[slot] = observations
            replay.next_observations[slot] = next_observations
            for name in _BESIDE_OBSERVATIONS:
                getattr(replay, name)[slot] = part.columns[name][index]
    replay.pos, replay.full = written_rows % size, written_rows >= size


def _columns(num_games: int) -> dict[str, Column]:
    """What is saved of a row of the replay: a transition of each game."""
    columns = {name: Column("F32", (num_games,)) for name in ("rewards", "dones", "timeouts")}
    frames = Column("U8", (num_games, 2, *OBSERVATION_SHAPE))
    return {**columns, "actions": Column("I64", (num_games, 1)), FRAMES: frames}


class _LeanReplay(ReplayBuffer):
    """SB3's replay, and its own sampling, over single frames in place of its two arrays of whole observations."""

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: str,
        *,
        n_envs: int,
        storage: str,
        **n_step: Any,  # SB3's own, of different types
    ) -> None:
        # SB3 allocates room for one transition of each game; what is small grows afterwards.
        super().__init__(n_envs, observation_space, action_space, device, n_envs, **n_step)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.actions, self.rewards, self.dones, self.timeouts = (
            np.zeros((self.buffer_size, *array.shape[1:]), array.dtype)
            for array in (self.actions, self.rewards, self.dones, self.timeouts)
        )
        stack, height, width = self.obs_shape
        ring = ObservationRing(self.buffer_size, n_envs, (stack, height, width), storage)
        # SB3 declares arrays; it writes whole rows into them and reads them by slots and games, nothing else.
        self.observations = cast("NDArray[np.uint8]", _Rows(ring.write, ring.read))
        self.next_observations = cast("NDArray[np.uint8]", _Rows(ring.write_next, ring.read_next))
        self.begin_at = ring.begin_at


class _LeanNStepReplay(_LeanReplay, NStepReplayBuffer):
    """The same with SB3's n-step returns."""


class _Rows:
    """As much of an array [slot, game, ...] as SB3's replay uses."""

    def __init__(
        self,
        write: Callable[[int, NDArray[np.uint8]], None],
        read: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint8]],
    ) -> None:
        self._write = write
        self._read = read

    def __setitem__(self, slot: int, row: NDArray[np.uint8]) -> None:
        self._write(slot, row)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[np.uint8]:
        slots, games = index[:2]  # SB3 adds a slice of the whole in some places
        # In SB3's own order in memory: torch would convolve the other one with other roundings.
        return np.ascontiguousarray(self._read(slots, games))
