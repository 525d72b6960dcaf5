"""Where replay keeps its frames: one ring of single frames for each parallel game."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class RawFrames:
    """Uncompressed frames of shape [games, slots, height, width], uint8."""

    def __init__(self, num_games: int, num_slots: int, frame_shape: tuple[int, int]) -> None:
        # np.zeros takes memory from the system only as the ring fills.
        self._frames = np.zeros((num_games, num_slots, *frame_shape), np.uint8)

    def write(self, games: NDArray[np.int64], slots: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Put one frame into each (game, slot); frames have shape [N, height, width]."""
        self._frames[games, slots] = frames

    def read(self, games: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames at (game, slot), with the shape of the broadcast indices before [height, width]."""
        frames: NDArray[np.uint8] = self._frames[games, slots]
        return frames
