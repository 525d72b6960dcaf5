"""Where in its loop a run stands: between two iterations, or between two steps of one.

Emulators cannot be saved, but they repeat themselves: the actions since the iteration began lead back to any step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import game_actions
from rl_lab.checks import integer_at
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig
from rl_lab.run import RECORDS
from rl_lab.saved import SavedFiles
from rl_lab.untrusted import TensorSpec, pack_arrays, unpack_arrays

_POSITION, _PLAYED = "position.json", "played.safetensors"
_MAX_PLAYED_BYTES = 1 << 28
"""Actions of one byte: a billion frames in one iteration."""
_MAX_SECONDS = 1e8
"""Three years between two points of the curves."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """All of a run's progress that is not the agent's."""

    iteration: int = 0
    begin_steps: int = 0
    """Agent steps of the run before this iteration."""
    played: NDArray[np.uint8]
    """[T, games], the actions played in this iteration."""
    record_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECORDS, 0))
    """Lengths of the records."""
    written_steps: int = 0
    """Agent steps at the last point of the training curves."""
    unwritten_seconds: float = 0.0
    """Of training since that point."""
    agent_metrics: dict[str, float] = field(default_factory=dict)
    """What the agent logged for the next one."""

    @classmethod
    def start(cls, num_games: int) -> Self:
        """Before the first step of a run."""
        return cls(played=np.zeros((0, num_games), np.uint8))

    @property
    def steps(self) -> int:
        """Agent steps of the run."""
        return self.begin_steps + self.played.size

    def files(self) -> dict[str, bytes]:
        """As files by name."""
        table = {name: value for name, value in vars(self).items() if name != "played"}
        return {_POSITION: json.dumps(table).encode(), _PLAYED: pack_arrays({"actions": self.played})}

    @classmethod
    def read(cls, files: SavedFiles, config: ExperimentConfig) -> Self:
        """LabError for files that are damaged or of another experiment."""
        table = files.read_json(_POSITION)
        record_bytes, metrics = table.get("record_bytes"), table.get("agent_metrics")
        if not isinstance(record_bytes, dict) or not isinstance(metrics, dict):
            raise LabError(f"{_POSITION} is damaged: it says nothing of records and metrics")
        if not all(isinstance(value, float) for value in metrics.values()):
            raise LabError(f"{_POSITION} is damaged: a metric is no number")
        max_bytes = min(config.iteration_steps + 1_000, _MAX_PLAYED_BYTES)
        actions = {"actions": TensorSpec("U8", (None, config.num_games))}
        played = unpack_arrays(files.read(_PLAYED, max_bytes=max_bytes), actions, _PLAYED)["actions"]
        num_actions = len(game_actions(config.game, config.protocol))
        if (played >= num_actions).any() or played.size > config.iteration_steps:
            raise LabError(f"{_PLAYED} was not played in this experiment: {played.shape} of {num_actions} actions")
        position = cls(
            iteration=integer_at(table, "iteration", _POSITION),
            begin_steps=integer_at(table, "begin_steps", _POSITION),
            played=played,
            record_bytes={name: integer_at(record_bytes, name, _POSITION) for name in RECORDS},
            written_steps=integer_at(table, "written_steps", _POSITION),
            unwritten_seconds=_seconds(table),
            agent_metrics=metrics,
        )
        if position.begin_steps % config.num_games or position.written_steps > position.steps:
            raise LabError(f"{_POSITION} is damaged: its counters do not fit each other")
        return position


def _seconds(table: Mapping[str, object]) -> float:
    """Those not written yet; LabError for what no clock shows."""
    seconds = table.get("unwritten_seconds", 0.0)  # the first checkpoints of format 2 do not tell
    if type(seconds) is not float or not 0 <= seconds < _MAX_SECONDS:
        raise LabError(f"{_POSITION} is damaged: unwritten_seconds is {seconds!r}; allowed is 0.0 to {_MAX_SECONDS}")
    return seconds
