"""What an actor sends to the replay at a time: some steps of its games, frames compressed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_lab.apex.priorities import Priorities
from rl_lab.atari import Step
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.replay.frames import compress, decompress

_FRAME_SHAPE = OBSERVATION_SHAPE[1:]


@dataclass(frozen=True)
class Chunk:
    """T consecutive steps of B games; one follows the other in a stream.

    Only the newest frame of each observation is sent: the replay stacks them again. The paper sends PNG; Zstandard
    makes use of frames that resemble those before them.
    """

    actor: int
    stream: int
    """Which of the actor's: one ends, and another begins, whenever its games start anew."""
    frames: bytes
    """[B, T + 1, 84, 84] uint8, compressed: of the observations acted on, and of what the games show next."""
    cut_frames: bytes
    """[N, 84, 84] uint8, compressed: last of the episodes that were cut, in order of steps, then of games."""
    actions: NDArray[np.uint8]
    """[T, B], as the others."""
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    episode_ends: NDArray[np.bool_]
    priorities: Priorities
    """Of the transitions that became complete: their n steps are over."""

    @property
    def nbytes(self) -> int:
        """Of all that is sent, but for the few that say what is what."""
        arrays = (self.actions, self.rewards, self.terminated, self.episode_ends, *self.priorities)
        return len(self.frames) + len(self.cut_frames) + sum(array.nbytes for array in arrays)

    def steps(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], Step]]:
        """As `ReplayMemory.add` takes them; of each observation there is the newest frame only, [B, 1, 84, 84]."""
        num_steps, num_games = self.actions.shape
        frames = _unpacked(self.frames, num_games, num_steps + 1)
        cut_frames = iter(_unpacked(self.cut_frames, -1))
        for t in range(num_steps):
            following = frames[:, t + 1][:, None]
            last = following.copy()
            for game in np.flatnonzero(self.episode_ends[t] & ~self.terminated[t]):
                last[game] = next(cut_frames)
            step = Step(
                next_observations=last,
                rewards=self.rewards[t],
                terminated=self.terminated[t],
                truncated=self.episode_ends[t] & ~self.terminated[t],
                episode_ends=self.episode_ends[t],
                observations=following,
            )
            yield frames[:, t][:, None], self.actions[t].astype(np.int64), step

    def next_frames(self) -> NDArray[np.uint8]:
        """[B, 1, 84, 84], what the games show after the last step."""
        num_steps, num_games = self.actions.shape
        return _unpacked(self.frames, num_games, num_steps + 1)[:, -1:]


class ChunkBuilder:
    """Gathers the steps of a chunk."""

    def __init__(self, actor: int, stream: int) -> None:
        self._actor = actor
        self._stream = stream
        self._steps: list[tuple[NDArray[np.uint8], NDArray[np.int64], Step]] = []

    def add(self, observations: NDArray[np.uint8], actions: NDArray[np.int64], step: Step) -> None:
        """One step of every game, as `ReplayMemory.add` takes it."""
        # A copy: a view would keep the whole stack alive.
        self._steps.append((observations[:, -1].copy(), actions, step))

    def build(self, priorities: Priorities) -> Chunk:
        """The chunk of all steps since the last one."""
        frames, actions, steps = zip(*self._steps, strict=True)
        self._steps = []
        cut_frames = [
            step.next_observations[game, -1]
            for step in steps
            for game in np.flatnonzero(step.episode_ends & ~step.terminated)
        ]
        return Chunk(
            actor=self._actor,
            stream=self._stream,
            frames=compress(np.stack([*frames, steps[-1].observations[:, -1]], axis=1)),
            cut_frames=compress(np.array(cut_frames, np.uint8)),
            actions=np.array(actions, np.uint8),
            rewards=np.array([step.rewards for step in steps], np.float32),
            terminated=np.array([step.terminated for step in steps], np.bool_),
            episode_ends=np.array([step.episode_ends for step in steps], np.bool_),
            priorities=priorities,
        )


def _unpacked(compressed: bytes, *shape: int) -> NDArray[np.uint8]:
    return decompress(compressed).reshape(*shape, *_FRAME_SHAPE)
