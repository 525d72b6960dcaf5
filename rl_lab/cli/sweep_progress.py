"""A sweep on the screen: a line an event, and on a terminal a live table of the runs that are being made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rl_lab.errors import LabError
from rl_lab.records import last_evaluation, last_metrics, read_status
from rl_lab.scores import DEFAULT_TABLE, score_table
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.pool import Failure

_REFRESH_SECONDS = 2.0
_COLUMNS = ("frames", "frames/s", "score", "human-normalized", "time left")


class SweepScreen:
    """Lines for what happens, and on a terminal a table of what is going on below them."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if stream.isatty() else None
        self._shown = 0.0
        self._failed = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, run: PlannedRun, *, is_resumed: bool) -> None:
        """Whether it starts or goes on."""
        self.say(f"{run.directory}: {'goes on' if is_resumed else 'starts'}")

    def on_finish(self, run: PlannedRun) -> None:
        """Its score."""
        frames, _, score, normalized, _ = _cells(run)
        self.say(
            f"{run.directory}: finished: {frames} frames, mean score {score}, human-normalized {normalized} "
            f"({DEFAULT_TABLE})"
        )

    def on_retry(self, run: PlannedRun, reason: str) -> None:
        """Why it is tried again."""
        self.say(f"{run.directory}: failed, and is tried again: {reason}")

    def on_failure(self, failure: Failure) -> None:
        """Why, and where its log is."""
        self._failed += 1
        self.say(f"{failure.run.directory}: failed: {failure.reason} (log: {failure.log})")

    def on_look(self, running: Sequence[PlannedRun], waiting: int) -> None:
        """Show the table anew, every two seconds."""
        if self._live is None or time.monotonic() - self._shown < _REFRESH_SECONDS:
            return
        self._shown = time.monotonic()
        failed = f", {self._failed} failed" if self._failed else ""
        table = Table(caption=f"{len(running)} running, {waiting:,} waiting{failed}", box=None)
        table.add_column("run", overflow="fold")  # the seed is at its end
        for name in _COLUMNS:
            table.add_column(name, justify="right")
        for run in running:
            table.add_row(Text(str(run.directory)), *_cells(run))
        self._live.update(table, refresh=True)

    def say(self, line: str) -> None:
        """Print it above the table."""
        self._console.print(Text(line), soft_wrap=True)


def _cells(run: PlannedRun) -> tuple[str, str, str, str, str]:
    """Frames, frames a second, last score, that human-normalized, and time left, as far as they are known."""
    frames = _frames(run)
    try:
        metrics, evaluation = last_metrics(run.directory), last_evaluation(run.directory)
    except LabError:  # the run itself, or a restart of the sweep, will say what is wrong
        metrics = evaluation = None
    speed = None if metrics is None else metrics["time/fps"]
    score = None if evaluation is None else evaluation["mean_score"]
    normalized = None if score is None else score_table().human_normalized(run.config.game, score)
    left = None if speed is None else max(run.frames - frames, 0) / speed
    return (
        f"{frames:,}",
        "-" if speed is None else f"{speed:,.0f}",
        "-" if score is None else f"{score:z.1f}",
        "-" if normalized is None else f"{normalized:z.3f}",
        "-" if left is None else f"{left / 3600:.1f} h" if left >= 3600 else f"{left / 60:.0f} min",
    )


def _frames(run: PlannedRun) -> int:
    """That the run has; 0 before its first status."""
    try:
        return read_status(run.directory).frames
    except LabError:
        return 0
