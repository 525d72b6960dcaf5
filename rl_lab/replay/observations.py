"""Observations and next observations as a replay of whole stacks holds them, from one stored frame a transition.

Which stack goes on from which is read off the pixels, so that nothing has to be known of ends: a game that goes on
after a lost life shows the next observation again, one that was reset does not. Only then a frame is kept beside the
ring.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_lab.errors import LabError
from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES, build_frames, compress, decompress


class ObservationRing:
    """The newest `size` transitions of each game, read at positions 0 to size - 1 of a ring.

    Transition n is at position n % size, and the newest frame of its observation in slot n % (size + S - 1), for stacks
    of S frames: the oldest transition's stack begins S - 1 frames before it.
    """

    def __init__(self, size: int, num_games: int, stack_shape: tuple[int, int, int], storage: str) -> None:
        stack, height, width = stack_shape
        self._size = size
        self._num_slots = size + stack - 1
        self._back = np.arange(stack - 1, -1, -1)  # oldest first
        self._games = np.arange(num_games)
        self._frames = build_frames(storage, num_games, self._num_slots, (height, width), DEFAULT_CHUNK_FRAMES)
        self._ages = np.zeros((num_games, self._num_slots), np.uint8)  # frames since the stack began, at most S - 1
        self._num_written = 0
        # What follows the newest transition, which no later one shows yet.
        self._newest_next = np.zeros((num_games, *stack_shape), np.uint8)
        # Last frame of a next observation that the transition after it does not show, by (position, game); compressed.
        self._kept_apart: dict[tuple[int, int], bytes] = {}

    def begin_at(self, transition: int, observations: NDArray[np.uint8]) -> None:
        """Let the next transition to be written be this one, counted from the first that was ever written.

        The frames before its own are read off its `observations`, [games, S, height, width].
        """
        self._num_written = transition
        for back in self._back[:-1].tolist():
            slot = (transition - back) % self._num_slots
            self._frames.write(self._games, np.full_like(self._games, slot), observations[:, -1 - back])
        self._ages[:, (transition - 1) % self._num_slots] = len(self._back) - 1
        self._newest_next[:, :-1] = observations[:, :-1]

    def write(self, position: int, observations: NDArray[np.uint8]) -> None:
        """One observation of each game, [games, S, height, width]; LabError unless they are stacks."""
        assert position == self._num_written % self._size, (position, self._num_written)
        starts = ~observations[:, :-1].any(axis=(1, 2, 3))
        _require_stacks(starts | _goes_on(observations, self._newest_next))
        if self._num_written:
            self._keep_apart((position - 1) % self._size, observations)
        for game in self._games.tolist():
            self._kept_apart.pop((position, game), None)
        slot = self._num_written % self._num_slots
        ages = np.minimum(self._ages[:, slot - 1] + 1, len(self._back) - 1)
        self._ages[:, slot] = np.where(starts, 0, ages)
        self._frames.write(self._games, np.full_like(self._games, slot), observations[:, -1])
        self._newest_next[:, :-1] = observations[:, 1:]
        self._num_written += 1

    def write_next(self, position: int, next_observations: NDArray[np.uint8]) -> None:
        """What follows the observations just written at this position; LabError unless it goes on from them."""
        assert position == (self._num_written - 1) % self._size, (position, self._num_written)
        _require_stacks(_goes_on(next_observations, self._newest_next))
        self._newest_next[:, -1] = next_observations[:, -1]

    def read(self, positions: NDArray[np.int64], games: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Observations [N, S, height, width], channels last in memory."""
        return self._stacks(self._transitions(positions), games)

    def read_next(self, positions: NDArray[np.int64], games: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Next observations [N, S, height, width], channels last in memory."""
        transitions = self._transitions(positions)
        is_newest = transitions == self._num_written - 1
        kept = [self._kept_apart.get(key) for key in zip(positions.tolist(), games.tolist(), strict=True)]
        is_kept = np.array([frame is not None for frame in kept], np.bool_)
        stacks = self._stacks(np.where(is_newest | is_kept, transitions, transitions + 1), games)
        stacks[is_newest] = self._newest_next[games[is_newest]]
        stacks[is_kept, :-1] = stacks[is_kept, 1:]
        for index, frame in enumerate(kept):
            if frame is not None:
                stacks[index, -1] = decompress(frame).reshape(stacks.shape[2:])
        return stacks

    def _keep_apart(self, position: int, observations: NDArray[np.uint8]) -> None:
        """Keep what followed the transition at `position` where `observations`, those after it, do not show it."""
        is_shown = (observations == self._newest_next).all(axis=(1, 2, 3))
        for game in self._games[~is_shown].tolist():
            self._kept_apart[position, game] = compress(self._newest_next[game, -1])

    def _transitions(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest transitions at these positions, counted from the first that was ever written."""
        newest = self._num_written - 1
        return newest - (newest - positions) % self._size

    def _stacks(self, transitions: NDArray[np.int64], games: NDArray[np.int64]) -> NDArray[np.uint8]:
        stacks = self._frames.read(games, (transitions[:, None] - self._back) % self._num_slots)
        stacks[self._back > self._ages[games, transitions % self._num_slots][:, None]] = 0
        return stacks


def _goes_on(observations: NDArray[np.uint8], expected: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[games], whether all frames but the last are those expected."""
    goes_on: NDArray[np.bool_] = (observations[:, :-1] == expected[:, :-1]).all(axis=(1, 2, 3))
    return goes_on


def _require_stacks(are_stacks: NDArray[np.bool_]) -> None:
    if not are_stacks.all():
        raise LabError(
            f"an observation of game {int(are_stacks.argmin())} is neither the one before it moved on by a frame nor a "
            "start after empty frames; a lean replay holds stacks of single frames only: use --agent.replay sb3"
        )
