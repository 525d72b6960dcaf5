"""Turns, rows and reports: what the suites have in common."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """How much to measure, and on what."""

    steps: int
    """Agent steps in a turn of training."""
    repetitions: int
    """Turns, after one to warm up."""
    transitions: int
    """Size of the large replay memories."""
    device: str
    threads: int


@dataclass(frozen=True)
class Row:
    """One quantity, measured in several turns."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """Over the turns."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Report:
    """What a suite found."""

    rows: Sequence[Row]
    turn: str
    """What a value was measured over."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What was left out, and why."""


def in_turns(tasks: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """What each task returns in each turn; the turn before the first is to warm up."""
    values: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repetitions + 1):
        for name, task in tasks.items():
            value = task()
            if turn:
                values[name].append(value)
    return values


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def seconds(task: Callable[[], object], calls: int = 1) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        task()
    return (time.perf_counter() - start) / calls


def best_seconds(task: Callable[[], object], calls: int = 30) -> float:
    """Least time of a call: what the code can do when nothing disturbs it."""
    return min(seconds(task) for _ in range(calls))
