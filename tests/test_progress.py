"""A run on a terminal: the bar, and the lines above it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rl_lab.cli.progress import BarReporter
from rl_lab.curves import Progress
from tests.fakes import Terminal
from tests.tiny import tiny_experiment

POINT = Progress(100, 400, 545.0, epsilon=0.05, mean_return=-0.03, human_normalized=0.5)


def shown(monkeypatch: pytest.MonkeyPatch, columns: int = 200, runs: str = "runs") -> list[str]:
    """What a run that comes to the point prints, with all states of its bar."""
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    reporter = BarReporter(terminal)
    reporter.on_start(Path(runs, "Breakout", "tiny", "seed-0"), tiny_experiment())
    reporter.on_progress(POINT)
    reporter.on_end()
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()))


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_bar_and_the_time_left_are_there_on_every_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, line = (line for line in shown(monkeypatch, columns) if "400 frames" in line)
    assert re.match(r"[━╸╺]{12} +-:--:-- +400 frames", line)
    assert line.rstrip().endswith("…" if columns < 120 else "return 0.0  human-normalized 0.50 (noop57)")


def test_the_folder_of_a_run_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    line = shown(monkeypatch, 80, "runs[old][/a]:fire:")[0]
    assert line.endswith("records in runs[old][/a]:fire:/Breakout/tiny/seed-0")
