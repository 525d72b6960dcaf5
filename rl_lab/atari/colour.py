"""One game in full colour: the agent's own emulator, and beside it a twin that plays the same frames in colour.

ale-py's vector environment shows nothing but the agent's small grey observations. But emulators repeat themselves: a
second one with the same seed and the same actions shows the same game. So what the agent sees, its rewards and its ends
are exactly those of `AtariVectorEnv` with one game, because they come from there. The twin's sticky actions are drawn
from the same seed; the number of its no-ops is read from the frame counter of the other. That both play the same game
is checked at each step by rewards, lives and ends.
"""

from __future__ import annotations

from typing import NamedTuple

import ale_py
import numpy as np
from ale_py import roms
from numpy.typing import NDArray

from rl_lab.atari.games import rom_id
from rl_lab.atari.protocol import Protocol
from rl_lab.atari.vector_env import AtariVectorEnv, Step, emulator_seeds

FRAMES_PER_SECOND = 60
"""Of the console, in NTSC."""


class ColourStep(NamedTuple):
    """A step of one game, and what a player would have seen of it."""

    step: Step
    """As of `AtariVectorEnv` with one game, in evaluation: raw rewards."""
    frames: tuple[NDArray[np.uint8], ...]
    """Each emulator frame of the step, [H, W, 3]: frame_skip of them, fewer where the episode ends."""
    score: float
    """Raw score of the episode after this step."""


class ColourGame:
    """One game under a protocol, in evaluation, with the frames that a player sees."""

    def __init__(self, game: str, protocol: Protocol, seeds: np.random.SeedSequence) -> None:
        """The same `seeds` give the same game as the first one of `AtariVectorEnv`."""
        self.env = AtariVectorEnv(game, protocol, 1, seeds, training=False)
        self.screen: NDArray[np.uint8]
        """[H, W, 3], what a player sees before the next step."""
        self._score = 0.0
        self._episode_frames = 0
        self._twin = ale_py.ALEInterface()
        self._twin.setFloat("repeat_action_probability", protocol.sticky_probability)
        self._twin.setInt("random_seed", int(emulator_seeds(seeds, 1)[0]))
        path = roms.get_rom_path(rom_id(self.env.game))
        assert path is not None, game
        self._twin.loadROM(path)
        self._actions = self._twin.getLegalActionSet() if protocol.full_action_set else self._twin.getMinimalActionSet()

    def reset(self) -> NDArray[np.uint8]:
        """Start afresh; what the agent acts on, [1, 4, 84, 84]."""
        observations = self.env.reset()
        self._reset_twin()
        return observations

    def step(self, action: int) -> ColourStep:
        """Play one agent step; where it ends the episode, the next one begins."""
        step = self.env.step(np.array([action]))
        reward = 0.0
        frames: list[NDArray[np.uint8]] = []
        for _ in range(self.env.protocol.frame_skip):
            reward += self._twin.act(self._actions[action])
            frames.append(self._twin.getScreenRGB())
            self._episode_frames += 1
            if self._twin.game_over() or self._episode_frames == self.env.protocol.max_frames_per_episode:
                break
        assert (reward, self._twin.game_over()) == (step.rewards[0], step.terminated[0]), "the twin plays another game"
        self._score += reward
        played = ColourStep(step, tuple(frames), self._score)
        if step.episode_ends[0]:
            self._reset_twin()
        assert self._twin.lives() == self.env.lives[0], "the twin plays another game"
        assert self._twin.getFrameNumber() == self.env.emulated_frames[0], "the twin plays another game"
        self.screen = self._twin.getScreenRGB()
        return played

    def _reset_twin(self) -> None:
        """What the vector environment does at an episode's start: FIRE, then no-ops."""
        self._twin.reset_game()
        if self.env.protocol.fire_reset and ale_py.Action.FIRE in self._actions:
            self._twin.act(ale_py.Action.FIRE)
        while self._twin.getFrameNumber() < self.env.emulated_frames[0]:
            self._twin.act(ale_py.Action.NOOP)
            if self._twin.game_over():
                self._twin.reset_game()
        self._score = 0.0
        self._episode_frames = 0
        self.screen = self._twin.getScreenRGB()
