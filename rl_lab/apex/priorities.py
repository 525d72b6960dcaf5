"""The priorities that an actor gives its own transitions (Horgan et al. 2018, algorithm 1, line 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import Step


class Priorities(NamedTuple):
    """Of transitions, as `PrioritizedReplayMemory.update_priorities` takes them."""

    games: NDArray[np.int64]
    """[N]"""
    indices: NDArray[np.int64]
    """[N], counting the slots of each game since the stream began."""
    values: NDArray[np.float32]
    """[N], absolute TD errors."""


@dataclass
class _Waiting:
    """A transition that is not complete yet."""

    index: int
    q_value: float
    """Of its action, by the network that chose it."""
    discounted_return: float = 0.0
    steps: int = 0


class InitialPriorities:
    """Absolute n-step TD errors by the values that the actor acted by: they cost no pass of a network.

    The paper's actors have no target network: the bootstrapped value is the greatest of their own.
    """

    def __init__(self, num_games: int, *, discount: float, n_step: int) -> None:
        self._discount = discount
        self._n_step = n_step
        self._waiting: list[list[_Waiting]] = [[] for _ in range(num_games)]
        self._indices = [0] * num_games
        self._complete: list[tuple[int, int, float]] = []

    def add(
        self,
        q_values: NDArray[np.float32],
        actions: NDArray[np.int64],
        step: Step,
        cut_values: NDArray[np.float32],
    ) -> None:
        """One step of every game: `actions` [B], chosen by `q_values` [B, A], led to `step`.

        `cut_values` [B] are the greatest values of `step.next_observations`, looked at where an episode was cut.
        """
        best = q_values.max(axis=1)
        for game, waiting in enumerate(self._waiting):
            self._end(game, [one for one in waiting if one.steps == self._n_step], float(best[game]))
            waiting.append(_Waiting(self._indices[game], float(q_values[game, actions[game]])))
            self._indices[game] += 1
            for one in waiting:
                one.discounted_return += self._discount**one.steps * float(step.rewards[game])
                one.steps += 1
            if step.terminated[game]:
                self._end(game, list(waiting), 0.0)
            elif step.episode_ends[game]:
                self._end(game, list(waiting), float(cut_values[game]))
                self._indices[game] += 1  # the replay keeps the last observation in a slot of its own

    def take(self) -> Priorities:
        """Of the transitions that became complete since the last time."""
        games, indices, values = zip(*self._complete, strict=True) if self._complete else ((), (), ())
        self._complete = []
        return Priorities(np.array(games, np.int64), np.array(indices, np.int64), np.array(values, np.float32))

    def _end(self, game: int, transitions: list[_Waiting], next_value: float) -> None:
        """These need no further step; `next_value` is what they are bootstrapped from."""
        for one in transitions:
            self._waiting[game].remove(one)
            td_error = one.discounted_return + self._discount**one.steps * next_value - one.q_value
            self._complete.append((game, one.index, abs(td_error)))
