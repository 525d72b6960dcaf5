"""A game of the tests' own, small enough to be learned in seconds, with a known optimum; a metric log; a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, Step, named_protocol
from rl_lab.atari.vector_env import OBSERVATION_SHAPE

CELLS = 7
CELL_PIXELS = 12
EPISODE_STEPS = CELLS - 1
OPTIMUM = 1.0
"""Score of an episode in which the ball is caught; the paddle can always reach it."""


class CatchEnv:
    """B parallel games of Catch (Mnih et al. 2014, arXiv 1406.6247): the part of AtariVectorEnv that agents use.

    A ball falls from a random column, a row a step; the paddle in the bottom row starts in the middle and goes left,
    stays or goes right. Its end pays +1 for a catch and -1 for a miss.
    """

    num_actions = 3

    def __init__(self, num_games: int, seed: int) -> None:
        self.num_games = num_games
        self.steps = 0
        self.scores: list[float] = []
        """Score of each finished episode, in the order of their ends."""
        self._rng = np.random.default_rng(seed)
        self._games = np.arange(num_games)
        self._balls = np.zeros((num_games, 2), np.int64)  # row, column
        self._paddles = np.zeros(num_games, np.int64)
        self._stacks = np.zeros((num_games, *OBSERVATION_SHAPE), np.uint8)
        self._actions = np.zeros(num_games, np.int64)
        self.pause_requested = False
        self.protocol = named_protocol("nature2015")
        self.observations = self.reset()

    def reset(self) -> NDArray[np.uint8]:
        """Start all games afresh; [B, 4, 84, 84]."""
        self.observations = self._restart(np.ones(self.num_games, np.bool_))
        return self.observations

    def send(self, actions: NDArray[np.int64]) -> None:
        """Take the actions [B] of the next step."""
        assert actions.shape == (self.num_games,)
        assert actions.min() >= 0
        assert actions.max() < self.num_actions
        self._actions = actions.copy()

    def recv(self) -> Step:
        """The step that `send` started."""
        self.steps += self.num_games
        self._paddles = np.clip(self._paddles + self._actions - 1, 0, CELLS - 1)
        self._balls[:, 0] += 1
        self._stacks = np.concatenate([self._stacks[:, 1:], self._frames()[:, None]], axis=1)
        ends = self._balls[:, 0] == EPISODE_STEPS
        catches = self._balls[:, 1] == self._paddles
        rewards = np.where(ends, np.where(catches, 1, -1), 0).astype(np.float32)
        self.scores += rewards[ends].tolist()
        next_observations = self._stacks.copy()
        self.observations = self._restart(ends) if ends.any() else next_observations
        return Step(next_observations, rewards, ends, np.zeros_like(ends), ends, self.observations)

    def step(self, actions: NDArray[np.int64]) -> Step:
        """`send` and `recv` in one."""
        self.send(actions)
        return self.recv()

    def _restart(self, games: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """New episodes in the given games [B]; what to act on in all of them."""
        self._balls[games, 0] = 0
        self._balls[games, 1] = self._rng.integers(0, CELLS, int(games.sum()))
        self._paddles[games] = CELLS // 2
        self._stacks[games] = 0
        self._stacks[games, -1] = self._frames()[games]
        return self._stacks.copy()

    def _frames(self) -> NDArray[np.uint8]:
        """[B, 84, 84]: one white cell for the ball and one for the paddle."""
        cells = np.zeros((self.num_games, CELLS, CELLS), np.uint8)
        cells[self._games, self._balls[:, 0], self._balls[:, 1]] = 255
        cells[self._games, CELLS - 1, self._paddles] = 255
        return cells.repeat(CELL_PIXELS, axis=1).repeat(CELL_PIXELS, axis=2)


def as_atari(env: CatchEnv) -> AtariVectorEnv:
    """The same object under the type that agents declare: they use no more of it than Catch has."""
    return cast("AtariVectorEnv", env)


class EveryStep:
    """A metric log that is due at each step, and looks at the agent then."""

    def __init__(self, look: Callable[[], object] = lambda: None) -> None:
        self.metrics: list[Mapping[str, float]] = []
        self.histograms: dict[str, NDArray[np.floating[Any]]] = {}
        """The last ones."""
        self.seen: list[object] = []
        self._look = look

    def due(self) -> bool:
        return True

    def __call__(self, metrics: Mapping[str, float]) -> None:
        self.metrics.append(metrics)
        self.seen.append(self._look())

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        self.histograms[tag] = values


class Terminal(io.StringIO):
    """Keeps what is printed."""

    def isatty(self) -> bool:
        return True
