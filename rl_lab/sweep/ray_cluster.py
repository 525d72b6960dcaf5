"""The Ray cluster that makes a sweep's runs: what its nodes have, and how many runs there is room for.

Imports ray, an extra: `pip install 'rl-lab[ray]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rl_lab import ray_cluster
from rl_lab.ray_cluster import OwnCluster
from rl_lab.system import num_cores

_OBJECT_STORE_BYTES = 128 << 20
"""Runs cross it in small pieces; Ray would take 30 % of the memory."""


@dataclass(frozen=True)
class Resources:
    """What a run needs, or a node has."""

    cores: float
    gpus: float
    memory_bytes: float

    def minus(self, other: Resources) -> Resources:
        """What is left."""
        return Resources(self.cores - other.cores, self.gpus - other.gpus, self.memory_bytes - other.memory_bytes)

    @property
    def is_enough(self) -> bool:
        """Whether nothing is lacking."""
        return self.cores >= 0 and self.gpus >= 0 and self.memory_bytes >= 0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = f", {self.memory_bytes / 1e9:.1f} GB of memory" if self.memory_bytes else ""
        return f"{self.cores:g} core{'' if self.cores == 1 else 's'}{gpus}{memory}"


def first_fit(nodes: Sequence[Resources], needs: Sequence[Resources]) -> int:
    """How many of the needs the nodes have room for at once, where each in turn takes the first place that it fits."""
    free, count = list(nodes), 0
    for need in needs:
        rests = ((place, node.minus(need)) for place, node in enumerate(free))
        place, rest = next((found for found in rests if found[1].is_enough), (0, None))
        if rest is not None:
            free[place] = rest
            count += 1
    return count


def joined(address: str) -> AbstractContextManager[None]:
    """This process is part of the cluster at the address, as by `ray_cluster.joined`."""
    return ray_cluster.joined(address, OwnCluster(num_cores(), None, _OBJECT_STORE_BYTES), "--ray")


def living_nodes() -> list[Resources]:
    """All that the living nodes have."""
    found = (node["Resources"] for node in ray_cluster.living_nodes())
    return [Resources(each.get("CPU", 0), each.get("GPU", 0), each.get("memory", 0)) for each in found]
