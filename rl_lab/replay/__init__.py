"""Experience replay, from scratch."""

from rl_lab.replay.frames import STORAGES
from rl_lab.replay.memory import Batch, ReplayMemory

__all__ = ["STORAGES", "Batch", "ReplayMemory"]
