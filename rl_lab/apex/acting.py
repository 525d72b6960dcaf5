"""An actor: plays its games epsilon-greedily by a copy of the learner's network, and gathers what it saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rl_lab.apex.chunk import Chunk, ChunkBuilder
from rl_lab.apex.priorities import InitialPriorities
from rl_lab.atari import AtariVectorEnv, Episode
from rl_lab.networks import Architecture, build_network
from rl_lab.seeding import generator
from rl_lab.weights import as_one_block


def actor_epsilon(actor: int, num_actors: int, *, base: float, exponent: float) -> float:
    """base ** (1 + exponent * actor / (num_actors - 1)) (Horgan et al. 2018, section 4.1); base for a single actor."""
    assert 0 <= actor < num_actors, (actor, num_actors)
    place = actor / (num_actors - 1) if num_actors > 1 else 0.0
    epsilon: float = base ** (1 + exponent * place)
    return epsilon


@dataclass(frozen=True)
class ActorSettings:
    """All that an actor is, besides its games and weights."""

    actor: int
    epsilon: float
    network: str
    num_actions: int
    architecture: Architecture
    discount: float
    n_step: int
    seed: int
    """The root seed."""


class Played(NamedTuple):
    """What the bench is to count, as `AtariVectorEnv.count` takes it."""

    actions: NDArray[np.uint8]
    """[T, B]"""
    episodes: list[Episode]
    """Their games are counted over all actors."""


@dataclass
class _Episodes:
    """The observer of an actor's games."""

    ended: list[Episode] = field(default_factory=list)

    def on_steps(self, total_steps: int) -> None:
        """The learner's process counts them."""

    def asks_for_pause(self) -> bool:
        """Never: an actor plays what it is asked for."""
        return False

    def on_episode(self, episode: Episode) -> None:
        """Keep it for the learner's process."""
        self.ended.append(episode)


class Actor:
    """Plays some steps whenever asked."""

    def __init__(self, settings: ActorSettings) -> None:
        self._settings = settings
        self._network = build_network(
            settings.network, settings.num_actions, torch.Generator(), architecture=settings.architecture
        )
        self._weights = as_one_block(self._network.parameters()).numpy()

    def load(self, weights: NDArray[np.float32]) -> None:
        """Act by these weights [N] from now on, in the order of `MasterWeights`."""
        np.copyto(self._weights, weights)

    def begin(self, make_games: Callable[..., AtariVectorEnv], stream: int) -> None:
        """New games, whose steps are another stream."""
        settings = self._settings
        self._episodes = _Episodes()
        self._env = make_games(observer=self._episodes)
        self._env.reset()
        self._rng = generator(settings.seed, "actor", settings.actor, stream)
        self._chunk = ChunkBuilder(settings.actor, stream)
        self._priorities = InitialPriorities(self._env.num_games, discount=settings.discount, n_step=settings.n_step)

    def play(self, num_rounds: int) -> tuple[Chunk, Played]:
        """So many steps of every game."""
        begin = len(self._env.played_actions)
        for _ in range(num_rounds):
            self._step()
        first_game = self._settings.actor * self._env.num_games
        episodes = [
            dataclasses.replace(episode, game_index=first_game + episode.game_index) for episode in self._episodes.ended
        ]
        self._episodes.ended = []
        return self._chunk.build(self._priorities.take()), Played(self._env.played_actions[begin:], episodes)

    def _step(self) -> None:
        observations = self._env.observations
        q_values = self._q_values(observations)
        num_games, num_actions = q_values.shape
        explores = self._rng.random(num_games) < self._settings.epsilon
        actions = np.where(explores, self._rng.integers(0, num_actions, num_games), q_values.argmax(axis=1))
        step = self._env.step(actions)
        is_cut = bool((step.episode_ends & ~step.terminated).any())
        cut_values = self._q_values(step.next_observations).max(axis=1) if is_cut else np.zeros(num_games, np.float32)
        self._chunk.add(observations, actions, step)
        self._priorities.add(q_values, actions, step, cut_values)

    @torch.inference_mode()
    def _q_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[B, A]"""
        q_values: NDArray[np.float32] = self._network(torch.from_numpy(observations)).numpy()
        return q_values
