"""Reading the records of runs: what `rl_lab.run` wrote. Imports neither torch nor an emulator."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from rl_lab.config import read_toml
from rl_lab.errors import LabError

State = Literal["running", "finished", "interrupted", "failed"]


_CONFIG_KEYS = ("name", "game", "seed", "total_steps", "protocol", "agent")
_EVALUATION_KEYS = ("game", "frames", "protocol", "protocol_fingerprint", "mean_score")

_CLOCK_DRIFT_SECONDS = 60
"""A process's start is derived from the system's clock, which may be set while it runs."""


@dataclass(frozen=True)
class Status:
    """What became of a run."""

    state: State
    reason: str
    """Why it failed or was interrupted; empty otherwise."""
    steps: int
    frames: int
    pid: int
    process_start: float
    """Start of the writing process, seconds since the epoch: tells it from a later one with the same pid."""

    @property
    def is_live(self) -> bool:
        """Whether the process that writes the run still runs on this machine."""
        try:
            drift = abs(psutil.Process(self.pid).create_time() - self.process_start)
            return self.state == "running" and drift < _CLOCK_DRIFT_SECONDS
        except psutil.NoSuchProcess:
            return False


def find_runs(root: Path) -> list[Path]:
    """Every run directory at or below `root`, sorted; LabError where there is none."""
    found = sorted(path.parent for path in root.rglob("config.toml") if (path.parent / "status.json").is_file())
    if not found:
        raise LabError(f"no runs in {root}; `rl-lab train` makes one, or give the folder that holds them")
    return found


def read_status(directory: Path) -> Status:
    """The run's status.json; LabError where it is missing or damaged."""
    path = directory / "status.json"
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise LabError(f"{path} is no readable status of a run: {error}") from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file, without a last line that is still being written; LabError for a damaged one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError) as error:
        raise LabError(f"{path} holds no readable records: {error}") from error


def last_evaluation(directory: Path) -> dict[str, Any] | None:
    """The run's newest evaluation record; None before the first, LabError where it is none."""
    path = directory / "evaluations.jsonl"
    records = read_records(path) if path.exists() else []
    return _with_keys(records[-1], _EVALUATION_KEYS, path) if records else None


def read_config(directory: Path) -> dict[str, Any]:
    """The run's config.toml as plain tables; LabError where it is none. Agents and protocols are not looked up."""
    path = directory / "config.toml"
    config = _with_keys(read_toml(path), _CONFIG_KEYS, path)
    _with_keys(config["protocol"], ("frame_skip",), path)
    return config


def _with_keys(record: Any, keys: Iterable[str], path: Path) -> dict[str, Any]:
    missing = [key for key in keys if not isinstance(record, dict) or key not in record]
    if missing:
        raise LabError(f"{path} is no record of a run: {', '.join(missing)} missing")
    return dict(record)
