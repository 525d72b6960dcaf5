"""Parallel Atari games behind one checked class; the only place that counts scores, lives, frames and episodes.

ale-py's C++ vector environment hangs or crashes on bad arguments and actions, so everything is checked here first. It
also resets a finished game one step late, in a step that ignores its action; here a finished game is reset on the spot
(a partial reset, bit-identical to the late one), so that every step is a real step of every game and
`frames = frame_skip x steps` holds exactly.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from typing import Protocol as TypingProtocol

import ale_py
import numpy as np
from ale_py.vector_env import AtariVectorEnv as CppAtariVectorEnv
from numpy.typing import NDArray

from rl_lab.atari.games import resolve_game, rom_id
from rl_lab.atari.protocol import Protocol
from rl_lab.errors import LabError

OBSERVATION_SHAPE = (4, 84, 84)
"""Four stacked 84x84 grey frames, oldest first; frames from before an episode's start are zero."""
MAX_PARALLEL_GAMES = 1_024

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


@dataclass(frozen=True)
class Episode:
    """A finished game: raw score, before any clipping."""

    game_index: int
    score: float
    length_steps: int
    end_step: int
    """Agent steps of the whole environment, over all games, at the episode's end."""
    truncated: bool
    """Ended by the protocol's frame cap, not by the game."""


class Step(NamedTuple):
    """What one action in each of B games led to. Observations have shape [B, 4, 84, 84], uint8."""

    next_observations: NDArray[np.uint8]
    """Where the actions led: the episode's last observation where it ended."""
    rewards: NDArray[np.float32]
    """[B], clipped as the protocol says in training, raw in evaluation."""
    terminated: NDArray[np.bool_]
    """[B], the return ends here (discount 0): game over, or in training a lost life where the protocol counts it."""
    truncated: NDArray[np.bool_]
    """[B], the frame cap cut the episode: its return goes on beyond it."""
    episode_ends: NDArray[np.bool_]
    """[B], the episode is over and `observations` holds the next one's first."""
    observations: NDArray[np.uint8]
    """What to act on next."""


class Observer(TypingProtocol):
    """Is told what the environment counts; may raise to stop the agent at the next step."""

    def on_steps(self, total_steps: int) -> None:
        """Called before each step with the agent steps so far."""

    def asks_for_pause(self) -> bool:
        """Asked after each step: whether the agent shall return before the next one (see `pause_requested`)."""

    def on_episode(self, episode: Episode) -> None:
        """Called at each episode's end."""


@functools.cache  # asking an emulator takes a fifth of a second
def game_actions(game: str, protocol: Protocol) -> tuple[str, ...]:
    """Names of the actions that the game offers under the protocol, such as NOOP and FIRE, in order."""
    return AtariVectorEnv(game, protocol, 1, np.random.SeedSequence(0), training=False).actions


def emulator_seeds(seeds: np.random.SeedSequence, num_games: int) -> NDArray[np.int64]:
    """[B], the seed of each game's emulator."""
    return (seeds.generate_state(num_games) >> 1).astype(np.int64)


class AtariVectorEnv:
    """B parallel games of one kind under one protocol, in lockstep."""

    def __init__(
        self,
        game: str,
        protocol: Protocol,
        num_games: int,
        seeds: np.random.SeedSequence,
        *,
        training: bool,
        num_threads: int = 1,
        observer: Observer | None = None,
    ) -> None:
        """The same `seeds` give the same games. `training` turns on what only learning needs: reward clipping and the
        life-loss signal.
        """
        if not 1 <= num_games <= MAX_PARALLEL_GAMES:
            raise LabError(f"num_games is {num_games}; allowed is 1 to {MAX_PARALLEL_GAMES}")
        if num_threads < 1:
            raise LabError(f"emulator threads are {num_threads}; allowed is 1 or more")
        self.game = resolve_game(game)
        self.protocol = protocol
        self.num_games = num_games
        self._seeds = seeds
        self._is_seeded = False
        self._num_threads = num_threads
        self._training = training
        self._observer = observer
        self._emulators = CppAtariVectorEnv(
            rom_id(self.game),
            num_games,
            num_threads=min(num_threads, num_games),
            max_num_frames_per_episode=protocol.max_frames_per_episode,
            repeat_action_probability=protocol.sticky_probability,
            full_action_space=protocol.full_action_set,
            autoreset_mode="NextStep",
            stack_num=OBSERVATION_SHAPE[0],
            img_height=OBSERVATION_SHAPE[1],
            img_width=OBSERVATION_SHAPE[2],
            frameskip=protocol.frame_skip,
            maxpool=True,
            noop_max=protocol.noop_max,
            # Life loss is read from the lives below: ale-py's own signal would make a game's end and a loss look alike
            # in games that count the last life as 0.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=protocol.fire_reset,
        )
        self.actions = tuple(action.name for action in self._emulators.ale.get_action_set())
        self.num_actions = len(self.actions)
        self.steps = 0
        self.observations: NDArray[np.uint8] = np.zeros((num_games, *OBSERVATION_SHAPE), np.uint8)
        """[B, 4, 84, 84], what to act on next."""
        self.pause_requested = False
        """The agent is asked to return from `train` before the next step, if it can go on later as if nothing were."""
        self._played = bytearray()
        self._waiting_for_recv = False
        self._lives = np.zeros(0, np.int32)  # empty until the first reset
        self._emulated_frames = np.zeros(0, np.int32)
        self._scores = np.zeros(num_games, np.float64)
        self._lengths_steps = np.zeros(num_games, np.int64)

    @property
    def frames(self) -> int:
        """Emulator frames played by the agent, over all games; no-ops at an episode's start are not counted."""
        return self.steps * self.protocol.frame_skip

    @property
    def lives(self) -> NDArray[np.int32]:
        """[B], lives left in each game; 0 in games without lives."""
        return self._lives.copy()

    @property
    def emulated_frames(self) -> NDArray[np.int32]:
        """[B], all frames of each emulator since it was made, those of no-ops and FIRE at episodes' starts included."""
        return self._emulated_frames.copy()

    @property
    def played_actions(self) -> NDArray[np.uint8]:
        """[T, B], all actions in training so far: with the seeds, all that the emulators' state depends on."""
        return np.frombuffer(bytes(self._played), np.uint8).reshape(-1, self.num_games)

    def reset(self) -> NDArray[np.uint8]:
        """Start all games afresh; [B, 4, 84, 84]. The first reset seeds the emulators, later ones do not."""
        if self._waiting_for_recv:
            raise LabError("reset was called between send and recv; call recv first")
        seeds = None if self._is_seeded else emulator_seeds(self._seeds, self.num_games)
        self._is_seeded = True
        observations, info = self._emulators.reset(seed=seeds)
        self._lives = info["lives"].copy()
        self._emulated_frames = info["frame_number"].copy()
        self._scores[:] = 0
        self._lengths_steps[:] = 0
        self.observations = np.asarray(observations).copy()
        return self.observations

    def fast_forward(self, actions: NDArray[np.uint8], on_step: Callable[[], None] = lambda: None) -> None:
        """Reset and play actions [T, B], the `played_actions` of an environment with the same seeds, to where it stood.

        Emulators cannot be saved, but they repeat themselves to the bit: thousands of steps a second are the way back
        to any moment. The observer was told of it the first time, and is not told again; `on_step` is called before
        each step and may raise.
        """
        observer, self._observer = self._observer, None
        try:
            self.reset()
            for row in actions:
                on_step()
                self.step(row)
        finally:
            self._observer = observer

    def send(self, actions: NDArray[np.int64]) -> None:
        """Start one step of every game with actions [B]; the emulators run while the caller does other work."""
        if self._waiting_for_recv or len(self._lives) == 0:
            raise LabError("send was called before reset, or twice without recv")
        actions = np.asarray(actions)
        if actions.shape != (self.num_games,) or actions.dtype.kind not in "iu":
            raise LabError(
                f"actions have shape {actions.shape} and type {actions.dtype}; allowed are {self.num_games} integers"
            )
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise LabError(f"an action of {actions.tolist()} is outside 0 to {self.num_actions - 1} of {self.game}")
        if self._observer is not None:
            self._observer.on_steps(self.steps)
        if self._training:
            self._played += actions.astype(np.uint8).tobytes()
        self._emulators.send(actions.astype(np.int64))
        self._waiting_for_recv = True

    def recv(self) -> Step:
        """Wait for the step that `send` started."""
        if not self._waiting_for_recv:
            raise LabError("recv was called without send")
        next_observations, raw_rewards, game_over, truncated, info = self._emulators.recv()
        self._waiting_for_recv = False
        next_observations = np.asarray(next_observations).copy()
        self.steps += self.num_games
        self._scores += raw_rewards
        self._lengths_steps += 1

        life_lost = info["lives"] < self._lives
        self._lives = info["lives"].copy()
        self._emulated_frames = info["frame_number"].copy()
        terminated = game_over | life_lost if self._counts_life_loss else game_over.copy()
        episode_ends = game_over | truncated
        self.observations = next_observations
        if episode_ends.any():
            self._report(episode_ends, truncated & ~game_over)
            self.observations = self._restart(episode_ends)
        rewards = raw_rewards.astype(np.float32)
        if self._training and self.protocol.reward_clip:
            rewards = rewards.clip(-self.protocol.reward_clip, self.protocol.reward_clip)
        self.pause_requested = self._observer is not None and self._observer.asks_for_pause()
        return Step(next_observations, rewards, terminated, truncated & ~terminated, episode_ends, self.observations)

    def step(self, actions: NDArray[np.int64]) -> Step:
        """`send` and `recv` in one."""
        self.send(actions)
        return self.recv()

    def sibling(self, *key: int) -> functools.partial[AtariVectorEnv]:
        """Makes an environment like this one with other seeds, the same for the same key; for any process.

        What is played there is to be handed to `count`.
        """
        words = (*self._seeds.spawn_key, *key)
        return functools.partial(
            AtariVectorEnv,
            self.game,
            self.protocol,
            self.num_games,
            np.random.SeedSequence(self._seeds.entropy, spawn_key=words),
            training=self._training,
            num_threads=self._num_threads,
        )

    def count(self, actions: NDArray[np.uint8], episodes: Sequence[Episode]) -> None:
        """Count what was played in a sibling as played here: its actions [T, B] and the episodes that they ended.

        The games here stay where they are: only their number of steps matters to those who play in siblings.
        """
        assert actions.shape[1:] == (self.num_games,), actions.shape
        # What was under way when the agent was asked to pause is handed in late, and no reason to stop it.
        self.pause_requested = False
        if self._observer is not None:
            self._observer.on_steps(self.steps)
        self._played += actions.tobytes()
        self.steps += actions.size
        if self._observer is not None:
            for episode in episodes:
                self._observer.on_episode(dataclasses.replace(episode, end_step=self.steps))
            self.pause_requested = self._observer.asks_for_pause()

    def look(self) -> None:
        """Ask the observer anew whether to pause, for an agent that no step tells of it."""
        self.pause_requested = self._observer is not None and self._observer.asks_for_pause()

    @property
    def _counts_life_loss(self) -> bool:
        return self._training and self.protocol.life_loss == "ends_return"

    def _report(self, episode_ends: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> None:
        """Tell the observer of the finished episodes."""
        if self._observer is None:
            return
        for index in np.flatnonzero(episode_ends):
            self._observer.on_episode(
                Episode(
                    game_index=int(index),
                    score=float(self._scores[index]),
                    length_steps=int(self._lengths_steps[index]),
                    end_step=self.steps,
                    truncated=bool(truncated[index]),
                )
            )

    def _restart(self, episode_ends: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Reset the finished games, and only these; what to act on next in every game."""
        observations, info = self._emulators.reset(options={"reset_mask": episode_ends})
        self._lives = info["lives"].copy()
        self._emulated_frames = info["frame_number"].copy()
        self._scores[episode_ends] = 0
        self._lengths_steps[episode_ends] = 0
        return np.asarray(observations).copy()
