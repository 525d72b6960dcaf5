"""Experience replay, from scratch."""

from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES, STORAGES
from rl_lab.replay.memory import Batch, ReplayMemory
from rl_lab.replay.prioritized import Draw, PrioritizedReplayMemory

__all__ = ["DEFAULT_CHUNK_FRAMES", "STORAGES", "Batch", "Draw", "PrioritizedReplayMemory", "ReplayMemory"]
