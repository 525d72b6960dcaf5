"""Experience replay, from scratch."""

from rl_lab.replay.memory import Batch, ReplayMemory

__all__ = ["Batch", "ReplayMemory"]
