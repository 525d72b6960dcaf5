"""When a trial that is behind the others is given up: Optuna's pruners, as a tune's file names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rl_lab.checks import require_at_least
from rl_lab.config import from_table
from rl_lab.errors import LabError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class MedianPruning:
    """A trial is given up when its best score so far is below the median of the finished ones at the same iteration."""

    name: str = "median"
    startup_trials: int = 5
    """Finished trials before any is given up (Optuna's default)."""
    warmup_iterations: int = 0
    """Iterations of each trial after which it is never given up."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "startup_trials")
        require_at_least(self, 0, "warmup_iterations")

    def next_decision(self, iterations: int) -> int:
        """The iteration that the trial is looked at after, when it has so many."""
        return max(iterations, self.warmup_iterations) + 1


@dataclass(frozen=True, kw_only=True)
class HalvingPruning:
    """Of the trials that come to a rung, one in `reduction_factor` goes on (Li et al. 2020, arXiv 1810.05934).

    Rungs are at first_iteration * reduction_factor^k iterations.
    """

    name: str = "successive_halving"
    first_iteration: int = 1
    reduction_factor: int = 4
    """Optuna's default."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "first_iteration")
        require_at_least(self, 2, "reduction_factor")

    def next_decision(self, iterations: int) -> int:
        """The iteration that the trial is looked at after, when it has so many."""
        rung = self.first_iteration
        while rung <= iterations:
            rung *= self.reduction_factor
        return rung


@dataclass(frozen=True, kw_only=True)
class NoPruning:
    """Each trial is trained to its end."""

    name: str = "none"

    def next_decision(self, iterations: int) -> None:
        """There is none."""


Pruning = MedianPruning | HalvingPruning | NoPruning

_PRUNERS: Mapping[str, type[Pruning]] = {kind.name: kind for kind in (MedianPruning, HalvingPruning, NoPruning)}


def read_pruning(table: Mapping[str, Any]) -> Pruning:
    """The pruner of a table with at least its name; LabError for what is none."""
    name = str(table.get("name"))
    if name not in _PRUNERS:
        raise LabError(f"pruner.name is {name!r}{did_you_mean(name, _PRUNERS)} (allowed: {', '.join(_PRUNERS)})")
    return from_table(_PRUNERS[name], table, "pruner")
