"""What runs in Ray's processes, and the way into a cluster. Only this module and `cluster` import Ray, an extra."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayActorError

from rl_lab.apex.acting import Actor, ActorSettings, Played
from rl_lab.apex.shard import Holding, Shard
from rl_lab.atari import AtariVectorEnv
from rl_lab.errors import LabError
from rl_lab.ray_cluster import LOCAL, OwnCluster, joined
from rl_lab.system import require_memory, use_machine

LOST = (RayActorError, ObjectLostError)
"""What Ray raises for a process that is gone."""
_PROCESS_BYTES = 300 << 20
"""Of one that has loaded torch, beside its replay."""


class Report(NamedTuple):
    """What an actor tells the learner of a chunk."""

    played: Played
    holding: Holding | None
    """Of its shard, some chunks ago; None where nothing is known."""
    shard_is_lost: bool


class ActorProcess:
    """An actor in a process of its own."""

    def __init__(self, settings: ActorSettings) -> None:
        use_machine("cpu", 1)
        self._actor = Actor(settings)
        self._version = -1
        self._added: Any = None  # Ray's reference to what the shard holds since the last chunk

    def ready(self) -> None:
        """Answers once the process is up."""

    def begin(self, make_games: functools.partial[AtariVectorEnv], stream: int) -> None:
        """New games."""
        self._added = None
        self._actor.begin(make_games, stream)

    def play(self, num_rounds: int, version: int, weights: NDArray[np.float32], shard: Any, begun: None) -> Report:
        """Some steps of every game by these weights; the shard, a handle of Ray's, gets what was seen.

        `begun` is what `begin` answered: where that failed, Ray fails this one for the same cause.
        """
        if version != self._version:
            self._actor.load(weights)
            self._version = version
        chunk, played = self._actor.play(num_rounds)
        holding = None
        try:
            # No more than one chunk under way: an actor waits for a shard that cannot keep up.
            if self._added is not None:
                holding = ray.get(self._added)
            self._added = shard.add.remote(chunk)
        except LOST:
            return Report(played, None, shard_is_lost=True)
        return Report(played, holding, shard_is_lost=False)


class ShardProcess(Shard):
    """A shard in a process of its own."""

    def ready(self) -> None:
        """Answers once the process is up; LabError where its machine has too little memory."""
        what = f"a replay shard of {self._settings.num_actors} actors"
        require_memory(
            self._settings.nbytes, what, "use --agent.replay-capacity, or more --agent.shards on more machines"
        )


@contextmanager
def connected(address: str, num_processes: int, object_store_bytes: int) -> Iterator[None]:
    """A cluster (`LOCAL`) with room for so many processes beside the learner's, or that at `address`.

    LabError where none is there, or where it is too small.
    """
    # What Ray will do about GPUs in later versions is no news to its user.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address == LOCAL:
        require_memory(num_processes * _PROCESS_BYTES, f"{num_processes} actors and shards", "use fewer --agent.actors")
    # Processes share this machine's cores, however many these are.
    with joined(address, OwnCluster(num_processes, 0, object_store_bytes), "--agent.ray"):
        if address != LOCAL:
            _require_cores(address, num_processes)
        yield


def _require_cores(address: str, num_processes: int) -> None:
    cores = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]  # Ray left it untyped
    if cores < num_processes + 1:
        raise LabError(
            f"the Ray cluster at {address!r} has {cores} CPUs, and {num_processes} actors and shards with a learner "
            f"need {num_processes + 1}; use fewer --agent.actors or --agent.shards, or add machines to it"
        )
