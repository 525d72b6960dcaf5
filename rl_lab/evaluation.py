"""One evaluator for every agent: full games, raw scores, the protocol's epsilon, a fixed share of episodes a game."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, Episode, Protocol
from rl_lab.errors import LabError
from rl_lab.scores import DEFAULT_TABLE, score_table
from rl_lab.seeding import generator, seed_sequence

DEFAULT_PARALLEL_GAMES = 10


class Actor(TypingProtocol):
    """All that evaluation asks of an agent."""

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B] for observations [B, 4, 84, 84]."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of full games, and what they were measured under."""

    game: str
    protocol: str
    protocol_fingerprint: str
    epsilon: float
    seed: int
    scores: tuple[float, ...]
    """Raw score of each episode."""
    frames: int
    """Emulator frames of the evaluated episodes."""
    truncated_episodes: int
    """Episodes that the frame cap ended."""

    @property
    def mean_score(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def median_score(self) -> float:
        return statistics.median(self.scores)

    @property
    def std_score(self) -> float | None:
        """Sample standard deviation over episodes; None for a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def human_normalized_score(self, table: str = DEFAULT_TABLE) -> float | None:
        """1.0 is the human of the table, 0.0 random play; None for a game without human scores."""
        return score_table(table).human_normalized(self.game, self.mean_score)

    def as_record(self, table: str) -> dict[str, Any]:
        """What is written down of it; `table` names the human and random scores used."""
        return {
            "game": self.game,
            "protocol": self.protocol,
            "protocol_fingerprint": self.protocol_fingerprint,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "episodes": len(self.scores),
            "mean_score": self.mean_score,
            "std_score": self.std_score,
            "median_score": self.median_score,
            "human_normalized_score": self.human_normalized_score(table),
            "score_table": table,
            "evaluation_frames": self.frames,
            "truncated_episodes": self.truncated_episodes,
            "scores": list(self.scores),
        }


def evaluation_seeds(seed: int) -> np.random.SeedSequence:
    """Of the games that an evaluation with this seed plays."""
    return seed_sequence(seed, "evaluation", "environment")


class EpisodeShares:
    """Keeps the first episodes of each parallel game, as many as its share.

    Taking the first episodes to finish over all games would favour short ones.
    """

    def __init__(self, episodes: int, num_games: int, on_step: Callable[[], None]) -> None:
        self._left = np.full(num_games, episodes // num_games)
        self._left[: episodes % num_games] += 1
        self._on_step = on_step
        self.kept: list[Episode] = []

    def on_steps(self, total_steps: int) -> None:
        """Let the caller watch the evaluation, and stop it."""
        self._on_step()

    def asks_for_pause(self) -> bool:
        """Never: an evaluation is played to its end, or stopped and played again."""
        return False

    def on_episode(self, episode: Episode) -> None:
        """Keep the episode if its game has a share left."""
        if self._left[episode.game_index] > 0:
            self._left[episode.game_index] -= 1
            self.kept.append(episode)

    def complete(self) -> bool:
        """Whether every game has played its share."""
        return not self._left.any()


def evaluate(
    agent: Actor,
    game: str,
    protocol: Protocol,
    *,
    episodes: int,
    seed: int,
    num_threads: int = 1,
    on_step: Callable[[], None] = lambda: None,
    record: Callable[[NDArray[np.uint8]], None] = lambda frame: None,
) -> Evaluation:
    """Play `episodes` full games, epsilon-greedily by an own generator.

    The same seed gives the same evaluation of an agent whose `act` draws no random number. `on_step` is called
    before each step and may raise. `record` is given the newest frame [84, 84] at each step of one game's first
    episode.
    """
    if episodes < 1:
        raise LabError(f"evaluation episodes are {episodes}; allowed is 1 or more")
    if seed < 0:
        raise LabError(f"the evaluation's seed is {seed}; allowed is 0 or more")
    num_games = min(episodes, DEFAULT_PARALLEL_GAMES)
    shares = EpisodeShares(episodes, num_games, on_step)
    rng = generator(seed, "evaluation", "exploration")
    env = AtariVectorEnv(
        game,
        protocol,
        num_games,
        evaluation_seeds(seed),
        training=False,
        num_threads=num_threads,
        observer=shares,
    )
    observations = env.reset()
    is_first_episode = True
    while not shares.complete():
        if is_first_episode:
            record(observations[0, -1])
        explores = rng.random(num_games) < protocol.evaluation_epsilon
        random_actions = rng.integers(0, env.num_actions, num_games)
        step = env.step(np.where(explores, random_actions, agent.act(observations)))
        observations = step.observations
        is_first_episode &= not step.episode_ends[0]
    return Evaluation(
        game=env.game,
        protocol=protocol.label,
        protocol_fingerprint=protocol.fingerprint,
        epsilon=protocol.evaluation_epsilon,
        seed=seed,
        scores=tuple(episode.score for episode in shares.kept),
        frames=sum(episode.length_steps for episode in shares.kept) * protocol.frame_skip,
        truncated_episodes=sum(episode.truncated for episode in shares.kept),
    )
