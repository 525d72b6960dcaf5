"""An episode as an animated GIF, as the agent sees it."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FRAMES_PER_SECOND = 15
"""Real time: 60 emulator frames a second, 4 an agent step."""
_MAX_FRAMES = 300
"""20 seconds, 20 to 150 kB by game. Longer episodes run faster."""


class EpisodeVideo:
    """The frames of an episode of any length, in bounded memory."""

    def __init__(self) -> None:
        self._frames: list[NDArray[np.uint8]] = []
        self._steps = 0
        self._steps_per_frame = 1

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Take the newest frame [84, 84] of a step."""
        if self._steps % self._steps_per_frame == 0:
            self._frames.append(frame.copy())
        self._steps += 1
        if len(self._frames) > _MAX_FRAMES:
            self._frames = self._frames[::2]
            self._steps_per_frame *= 2

    def gif(self) -> bytes:
        """The episode as a GIF that repeats for ever; there must be a frame."""
        from PIL import Image  # torch's own video summary needs moviepy

        first, *others = (Image.fromarray(frame) for frame in self._frames)
        file = io.BytesIO()
        # GIF counts hundredths of a second: each frame ends at the nearest one.
        ends = [round(100 * count / _FRAMES_PER_SECOND) for count in range(len(self._frames) + 1)]
        milliseconds = [10 * (end - begin) for begin, end in pairwise(ends)]
        first.save(file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False)
        return file.getvalue()
