"""A run on the screen: a progress bar on a terminal, one plain line an iteration elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from rl_lab.curves import Progress
from rl_lab.evaluation import Evaluation
from rl_lab.experiment import ExperimentConfig
from rl_lab.scores import DEFAULT_TABLE
from rl_lab.training import Reporter


def reporter(stream: TextIO, notes: Sequence[str] = ()) -> Reporter:
    """The reporter that fits the stream; `notes` are lines about what is trained."""
    return BarReporter(stream, notes) if stream.isatty() else LineReporter(stream, notes)


class LineReporter:
    """One aligned line an iteration."""

    def __init__(self, stream: TextIO, notes: Sequence[str] = ()) -> None:
        self._stream = stream
        self._notes = notes

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        """Say what is trained, and where its records are."""
        print(_start_line(run, config), *self._notes, sep="\n", file=self._stream, flush=True)

    def on_progress(self, progress: Progress) -> None:
        """Nothing: the curves are in the run's records."""

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        """The iteration's line."""
        print(_iteration_line(progress, evaluation), file=self._stream, flush=True)

    def on_end(self) -> None:
        """Nothing is left open."""


class BarReporter:
    """A live bar, with the iterations' lines above it."""

    def __init__(self, stream: TextIO, notes: Sequence[str] = ()) -> None:
        self._console = Console(file=stream, highlight=False)
        self._notes = notes
        self._bar = Bar(
            BarColumn(table_column=Column(width=12)),
            TimeRemainingColumn(table_column=Column(width=9)),
            # Last, and what is cut where the terminal is narrow.
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=self._console,
            expand=True,
            transient=True,
            speed_estimate_period=3_600,  # two points of the curves may be minutes apart
        )

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        """Say what is trained, and start the bar."""
        # As text: paths may have brackets, which would be markup.
        self._console.print(Text("\n".join((_start_line(run, config), *self._notes))), soft_wrap=True)
        self._task = self._bar.add_task("starts", total=config.total_frames)
        self._bar.start()

    def on_progress(self, progress: Progress) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=progress.frames, description=_progress_text(progress))

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        """The iteration's line."""
        self._console.print(Text(_iteration_line(progress, evaluation)), soft_wrap=True)

    def on_end(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def evaluation_line(evaluation: Evaluation, table: str = DEFAULT_TABLE) -> str:
    """Score, spread and human-normalized score of an evaluation, with units."""
    spread = "" if evaluation.std_score is None else f" (sd {evaluation.std_score:.1f})"
    cut = f", {evaluation.truncated_episodes} cut by the frame cap" if evaluation.truncated_episodes else ""
    human_normalized = evaluation.human_normalized_score(table)
    compared = (
        "raw score only: no human score for this game"
        if human_normalized is None
        else f"human-normalized {human_normalized:z.3f} ({table})"
    )
    return f"mean score {evaluation.mean_score:z.1f}{spread} over {len(evaluation.scores)} episodes{cut}, {compared}"


def _start_line(run: Path, config: ExperimentConfig) -> str:
    not_repeatable = "" if config.agent.repeatable else "; no other run repeats it byte for byte"
    return (
        f"{config.name} on {config.game}, seed {config.seed}: {config.total_steps:,} agent steps "
        f"({config.total_frames:,} frames), protocol {config.protocol.label}, records in {run}{not_repeatable}"
    )


def _progress_text(progress: Progress) -> str:
    parts = [f"{progress.frames:,} frames", _speed(progress)]
    if progress.epsilon is not None:
        parts.append(f"epsilon {progress.epsilon:.2f}")
    if progress.mean_return is not None:
        parts.append(f"return {progress.mean_return:z.1f}")
    if progress.human_normalized is not None:
        parts.append(f"human-normalized {progress.human_normalized:z.2f} ({DEFAULT_TABLE})")
    return "  ".join(parts)


def _iteration_line(progress: Progress, evaluation: Evaluation) -> str:
    return f"{progress.frames:>13,} frames  {_speed(progress):>15}  {evaluation_line(evaluation)}"


def _speed(progress: Progress) -> str:
    return "- frames/s" if progress.frames_per_second is None else f"{progress.frames_per_second:,.0f} frames/s"
