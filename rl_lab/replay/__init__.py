"""Experience replay, from scratch."""

from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES, STORAGES
from rl_lab.replay.memory import Batch, ReplayMemory

__all__ = ["DEFAULT_CHUNK_FRAMES", "STORAGES", "Batch", "ReplayMemory"]
