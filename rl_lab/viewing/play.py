"""An agent's play, step by step, with all that can be shown of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import ColourGame
from rl_lab.seeding import generator


class Viewed(Protocol):
    """All that watching asks of an agent."""

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B] for observations [B, 4, 84, 84]."""

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What each action is worth [B, A], or None."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A decision of the agent, and how the game stands after it."""

    episode: int
    """From 1."""
    step: int
    """Agent step of the episode, from 1."""
    score: float
    """Raw."""
    lives: int
    """Left before the step; 0 in games without lives."""
    action: int
    explores: bool
    """The action is random, by the protocol's evaluation epsilon."""
    values: NDArray[np.float32] | None
    """[A], what the agent thought each action to be worth; None: it has no values."""
    saliency: NDArray[np.float32] | None
    """[84, 84], 0 to 1: where the agent looked."""


@dataclass(frozen=True)
class ViewedStep:
    """A moment with the emulator frames that it led to."""

    moment: Moment
    frames: tuple[NDArray[np.uint8], ...]
    """[H, W, 3] each."""
    ends_episode: bool


class Viewer(Protocol):
    """Where frames are shown; a context, at whose end the screen is as it was."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def show(self, screen: NDArray[np.uint8], moment: Moment) -> None:
        """Show one emulator frame, [H, W, 3]."""

    @property
    def closed(self) -> bool:
        """Whether who watches wants no more."""


def play(
    agent: Viewed,
    game: ColourGame,
    *,
    seed: int,
    episodes: int | None,
    look: Callable[[NDArray[np.uint8]], NDArray[np.float32] | None] = lambda observations: None,
) -> Iterator[ViewedStep]:
    """Play so many episodes, or without end, epsilon-greedily.

    The first one is the one that `evaluate` scores with one episode and the same seed, if the game was made from
    `evaluation_seeds(seed)`. `look` gives a moment's saliency for observations [1, 4, 84, 84].
    """
    rng = generator(seed, "evaluation", "exploration")
    epsilon, num_actions = game.env.protocol.evaluation_epsilon, game.env.num_actions
    observations = game.reset()
    episode = step = 1
    while episodes is None or episode <= episodes:
        # Drawn as in `evaluate`.
        explores = bool(rng.random(1)[0] < epsilon)
        random_action = int(rng.integers(0, num_actions, 1)[0])
        greedy_action = int(agent.act(observations)[0])
        values = agent.action_values(observations)
        saliency, lives = look(observations), int(game.env.lives[0])
        action = random_action if explores else greedy_action
        played = game.step(action)
        moment = Moment(
            episode=episode,
            step=step,
            score=played.score,
            lives=lives,
            action=action,
            explores=explores,
            values=None if values is None else values[0],
            saliency=saliency,
        )
        ends = bool(played.step.episode_ends[0])
        episode, step = (episode + 1, 1) if ends else (episode, step + 1)
        observations = played.step.observations
        yield ViewedStep(moment, played.frames, ends)
