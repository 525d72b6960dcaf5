"""Experience replay, from scratch."""

from collections.abc import Callable
from functools import partial

from rl_lab.replay.frames import DEFAULT_CHUNK_FRAMES, STORAGES
from rl_lab.replay.memory import Batch, Draw, ReplayMemory
from rl_lab.replay.prioritized import PrioritizedReplayMemory, importance_weights

__all__ = [
    "DEFAULT_CHUNK_FRAMES",
    "SAMPLINGS",
    "STORAGES",
    "Batch",
    "Draw",
    "PrioritizedReplayMemory",
    "ReplayMemory",
    "build_replay",
    "importance_weights",
]

SAMPLINGS = ("uniform", "prioritized")


def build_replay(
    sampling: str,
    capacity: int,
    num_games: int,
    *,
    discount: float,
    n_step: int,
    storage: str,
    chunk_frames: int,
    priority_exponent: float,
) -> ReplayMemory:
    """The memory with the rule of sampling called `sampling`; only prioritized takes the exponent."""
    assert sampling in SAMPLINGS, sampling
    build: Callable[..., ReplayMemory] = ReplayMemory
    if sampling == "prioritized":
        build = partial(PrioritizedReplayMemory, priority_exponent=priority_exponent)
    return build(capacity, num_games, discount=discount, n_step=n_step, storage=storage, chunk_frames=chunk_frames)
