"""Uniform experience replay for parallel games (Mnih et al. 2015, "Replay memory"), one frame for each agent step.

Each game writes into a ring of its own. A slot holds the newest frame of an observation and what the agent did on it;
the stack of four is rebuilt at sampling, with zeros in place of frames from before the episode's start, just as the
environment shows it. An observation that a time limit cut off is stored in a slot of its own that is no transition: the
value beyond the cut is bootstrapped from it.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari.vector_env import OBSERVATION_SHAPE, Step
from rl_lab.errors import LabError
from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES, build_frames, bytes_per_frame
from rl_lab.replay.saving import FRAMES, Column, Columns, load_steps, save_steps
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.system import require_memory
from rl_lab.untrusted import TensorSpec

STACK = OBSERVATION_SHAPE[0]
_MAX_DRAWS = 1_000
_COLUMNS = {
    "actions": Column("U8"),
    "rewards": Column("F32"),
    "terminated": Column("BOOL"),
    "is_transition": Column("BOOL"),
    "ages": Column("U8"),
    FRAMES: Column("U8", OBSERVATION_SHAPE[1:]),
}
"""What is saved of a slot; all but the frames are arrays of that name below."""


class Batch(NamedTuple):
    """Transitions; each array has shape [B, ...]. Time t - 1 acts, time t is up to n steps later."""

    observations: NDArray[np.uint8 | np.float32]
    """[B, 4, 84, 84] at t - 1, 0 to 255, bytes unless augmented; in memory with the channels last."""
    actions: NDArray[np.int64]
    """[B]"""
    returns: NDArray[np.float32]
    """[B], discounted sum of the rewards from t - 1 to t."""
    discounts: NDArray[np.float32]
    """[B], weight of the value of `next_observations`: 0 where the return ended, discount ** steps otherwise."""
    next_observations: NDArray[np.uint8 | np.float32]
    """[B, 4, 84, 84] at t, likewise."""


class Draw(NamedTuple):
    """Where the transitions of a batch are, and what each of them weighs in the loss."""

    games: NDArray[np.int64]
    """[B]"""
    indices: NDArray[np.int64]
    """[B], counting every slot that the game ever wrote."""
    weights: NDArray[np.float32]
    """[B], in (0, 1]."""


class ReplayMemory:
    """The newest transitions of each game, sampled uniformly."""

    bytes_per_step: ClassVar[int] = 8
    """Beside the frame: action 1, reward 4, flags 2, age 1."""

    def __init__(
        self,
        capacity: int,
        num_games: int,
        *,
        discount: float,
        n_step: int = 1,
        storage: str = "raw",
        chunk_frames: int = DEFAULT_CHUNK_FRAMES,
    ) -> None:
        """Room for `capacity` transitions over all games; LabError where this machine's memory cannot hold them."""
        if capacity < num_games:
            raise LabError(
                f"replay capacity is {capacity}; allowed is at least one transition for each of {num_games} games"
            )
        # Beyond the transitions: the frames before the oldest one, and the steps after the newest one.
        self.num_slots = -(-capacity // num_games) + STACK - 1 + n_step
        bytes_per_slot = bytes_per_frame(storage, OBSERVATION_SHAPE[1:]) + self.bytes_per_step
        self.memory_bytes = num_games * self.num_slots * bytes_per_slot
        """When it is full; of zstd an estimate."""
        require_memory(
            self.memory_bytes,
            f"a replay memory of {capacity:,} transitions",
            "use --agent.replay-capacity",
            fills_later=True,
        )
        self.n_step = n_step
        self._discounts = np.array([discount**k for k in range(n_step + 1)])  # of a reward k steps ahead
        self._games = np.arange(num_games)
        self._frames = build_frames(storage, num_games, self.num_slots, OBSERVATION_SHAPE[1:], chunk_frames)
        shape = (num_games, self.num_slots)
        self._actions = np.zeros(shape, np.uint8)
        self._rewards = np.zeros(shape, np.float32)
        self._terminated = np.zeros(shape, np.bool_)
        self._is_transition = np.zeros(shape, np.bool_)  # False: the last observation of an episode that was cut
        self._ages = np.zeros(shape, np.uint8)  # steps since the episode's start, at most STACK - 1
        self._written = np.zeros(num_games, np.int64)  # slots ever written, for each game
        self._next_ages = np.zeros(num_games, np.uint8)

    def add(self, observations: NDArray[np.uint8], actions: NDArray[np.int64], step: Step) -> None:
        """One step of every game: `actions` on `observations` [games, 4, 84, 84] led to `step`.

        Of each observation only the newest frame is looked at.
        """
        slots = self._append(self._games, observations)
        self._actions[self._games, slots] = actions
        self._rewards[self._games, slots] = step.rewards
        self._terminated[self._games, slots] = step.terminated
        self._is_transition[self._games, slots] = True
        # An episode can end by a return that ended (nothing to bootstrap) or by a cut (its last observation is kept).
        self._cut(self._games[step.episode_ends & ~step.terminated], step.next_observations)
        self._next_ages[step.episode_ends] = 0

    def cut(self, observations: NDArray[np.uint8]) -> None:
        """Every game stops here and will start afresh; `observations` [games, 4, 84, 84] are where they stand."""
        self._cut(self._games[self._next_ages > 0], observations)
        self._next_ages[:] = 0

    @property
    def num_written(self) -> NDArray[np.int64]:
        """[games], slots ever written: the next step's index."""
        return self._written.copy()

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Uniform batch over the complete transitions, with replacement; LabError where there is none yet."""
        games = np.zeros(0, np.int64)
        indices = np.zeros(0, np.int64)
        for _ in range(_MAX_DRAWS):
            # Drawing slots and keeping those that are complete transitions is uniform over these.
            drawn_games, drawn_indices = self._draw_slots(batch_size + batch_size // 8 + 4, rng)
            complete = self._complete(drawn_games, drawn_indices)
            games = np.concatenate([games, drawn_games[complete]])
            indices = np.concatenate([indices, drawn_indices[complete]])
            if len(games) >= batch_size:
                return self.gather(games[:batch_size], indices[:batch_size])
        raise LabError("the replay memory holds no complete transition yet; use a larger --agent.learning-starts-steps")

    def draw(self, batch_size: int, rng: np.random.Generator, importance_exponent: float) -> tuple[Batch, Draw | None]:
        """A batch by the rule of this memory, and how it was drawn; None where nothing depends on that."""
        return self.sample(batch_size, rng), None

    def update_priorities(
        self, games: NDArray[np.int64], indices: NDArray[np.int64], priorities: NDArray[np.float32]
    ) -> None:
        """Tell of transitions that were drawn how much there was to learn [N]; uniform sampling heeds it not."""

    def save(self) -> SavedState:
        """All that is in memory; see rl_lab.replay.saving."""
        oldest = np.maximum(self._written - self.num_slots, 0)
        return save_steps(self._read_slots, _COLUMNS, oldest, self._written, {"next_ages": self._next_ages})

    def load(self, files: SavedFiles, num_actions: int) -> None:
        """Take the place of the memory that was saved; LabError for files that are damaged or of another one."""
        num_games = len(self._games)
        own = {"next_ages": TensorSpec("U8", (num_games,))}
        self._written, arrays, parts = load_steps(files, _COLUMNS, own, num_games, self.num_slots)
        self._next_ages = arrays["next_ages"].astype(np.uint8)
        _require_ages(self._next_ages)
        for part in parts:
            if (part.columns["actions"] >= num_actions).any() or not np.isfinite(part.columns["rewards"]).all():
                raise LabError(f"the saved replay has actions or rewards that a game of {num_actions} actions has not")
            _require_ages(part.columns["ages"])
            slots = part.indices % self.num_slots
            for name in _COLUMNS.keys() - {FRAMES}:
                getattr(self, f"_{name}")[part.game, slots] = part.columns[name]
            self._frames.write(np.full_like(slots, part.game), slots, part.columns[FRAMES])

    def transitions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All complete transitions as (games, indices), oldest first in each game; what `sample` draws from."""
        filled = np.minimum(self._written, self.num_slots)
        games = np.repeat(self._games, filled)
        indices = np.concatenate(
            [np.arange(end - count, end) for end, count in zip(self._written, filled, strict=True)]
        )
        complete = self._complete(games, indices)
        return games[complete], indices[complete]

    def gather(self, games: NDArray[np.int64], indices: NDArray[np.int64]) -> Batch:
        """The transitions that start at the given steps; indices count every slot that the game ever wrote."""
        returns, discounts, steps, _ = self._n_step(games, indices)
        return Batch(
            observations=self._stacks(games, indices),
            actions=self._actions[games, indices % self.num_slots].astype(np.int64),
            returns=returns,
            discounts=discounts,
            # Where the return ended the next observation has no weight: any valid stack serves.
            next_observations=self._stacks(games, np.where(discounts > 0, indices + steps, indices)),
        )

    def _read_slots(self, game: int, indices: NDArray[np.int64]) -> Columns:
        slots = indices % self.num_slots
        columns = {name: getattr(self, f"_{name}")[game, slots] for name in _COLUMNS.keys() - {FRAMES}}
        return {**columns, FRAMES: self._frames.read(np.full_like(slots, game), slots[:, None])[:, 0]}

    def _append(self, games: NDArray[np.int64], observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Write the newest frame of each game's observation into its next slot; the slots [games]."""
        slots = self._written[games] % self.num_slots
        self._frames.write(games, slots, observations[games, -1])
        self._ages[games, slots] = self._next_ages[games]
        self._next_ages[games] = np.minimum(self._next_ages[games] + 1, STACK - 1)
        self._written[games] += 1
        return slots

    def _cut(self, games: NDArray[np.int64], observations: NDArray[np.uint8]) -> None:
        slots = self._append(games, observations)
        self._is_transition[games, slots] = False

    def _draw_slots(self, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Uniform (games, indices) over all slots in memory."""
        filled = np.minimum(self._written, self.num_slots)
        ends = np.cumsum(filled)
        if ends[-1] == 0:
            raise LabError("the replay memory is empty; use a larger --agent.learning-starts-steps")
        drawn = rng.integers(0, ends[-1], count)
        games = np.searchsorted(ends, drawn, side="right").astype(np.int64)
        indices = (self._written[games] - (ends[games] - drawn)).astype(np.int64)
        return games, indices

    def _complete(self, games: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[N], whether all that the transition needs is in memory: its stack, its n steps, what to bootstrap from."""
        slots = indices % self.num_slots
        _, _, steps, ended = self._n_step(games, indices)
        has_future = ended | (indices + steps < self._written[games])
        complete: NDArray[np.bool_] = self._is_transition[games, slots] & self._has_stack(games, indices) & has_future
        return complete

    def _has_stack(self, games: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether all frames of the observations at the given steps are in memory."""
        oldest = np.maximum(self._written[games] - self.num_slots, 0)
        has_stack: NDArray[np.bool_] = indices - self._ages[games, indices % self.num_slots] >= oldest
        return has_stack

    def _n_step(
        self, games: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """n-step returns, discounts, step counts, and whether the return ended within these, each [N].

        Sutton 1988; Hessel et al. 2018, eq. 1. Fewer than n steps where the return ends or the episode is cut. A step
        that is not written yet is counted too: the caller sees by the index that it lies beyond the newest one.
        """
        rows = games[:, None]
        indices = indices[:, None] + np.arange(self.n_step + 1)  # [N, n + 1]
        slots = indices % self.num_slots
        ends = self._terminated[rows, slots[:, :-1]]
        is_last = ends | (indices[:, 1:] >= self._written[rows]) | ~self._is_transition[rows, slots[:, 1:]]
        counts = np.ones_like(ends)
        counts[:, 1:] = ~np.logical_or.accumulate(is_last[:, :-1], axis=1)
        rewards = self._rewards[rows, slots[:, :-1]] * self._discounts[:-1].astype(np.float32)
        # One after the other, as the sum's last digits depend on the order.
        returns = np.where(counts, rewards, np.float32(0)).cumsum(axis=1)[:, -1]
        steps = counts.sum(axis=1)
        ended = np.asarray((ends & counts).any(axis=1))
        discounts = np.where(ended, 0.0, self._discounts[steps]).astype(np.float32)
        return returns, discounts, steps, ended

    def _stacks(self, games: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Observations [N, 4, 84, 84] at the given steps, channels last in memory.

        Frames from before the episode's start are zero.
        """
        back = np.arange(STACK - 1, -1, -1)  # oldest first
        stacks = self._frames.read(games, (indices[:, None] - back) % self.num_slots)
        stacks[back > self._ages[games, indices % self.num_slots][:, None]] = 0
        return stacks


def _require_ages(ages: NDArray[np.uint8]) -> None:
    if (ages >= STACK).any():
        raise LabError(f"the saved replay has ages of {STACK} or more; they are counted to {STACK - 1}")
