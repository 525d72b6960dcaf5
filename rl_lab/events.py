"""What a run writes for TensorBoard: curves, histograms, videos, its hyperparameters, and the layout of its charts.

The truth is a run's JSON lines; event files may lose their end, and the lab never reads them back. Tags are the same in
all runs, so that agents overlay. A chart over several games would mean nothing, so the main curves are written a second
time under a tag of their game, and a layout for the dashboard CUSTOM SCALARS makes one section a game of these.

torch's summaries are imported where something is written: shell completion imports this module, and torch takes
seconds.
"""

from __future__ import annotations

import io
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_lab.errors import LabError
from rl_lab.records import MAX_FRAMES, read_evaluations, read_metrics, training_seconds
from rl_lab.scores import DEFAULT_TABLE, score_table
from rl_lab.storage import RecordFile

TRAINING_TAG = "rollout/ep_rew_mean"
EVALUATION_TAG = "eval/mean_reward"
NORMALIZED_TAG = "eval/human_normalized_score"
NORMALIZED_BY_TIME_TAG = "eval/human_normalized_score_by_time"
FRAMES_BY_TIME_TAG = "time/frames_by_time"
VIDEO_TAG = "eval/first_episode"

BY_TIME = "by-time"
"""The folder below a run of what has seconds on its x axis; to TensorBoard, a run of its own."""

_CHART_TITLES = {
    NORMALIZED_TAG: f"human-normalized ({DEFAULT_TABLE}), evaluation, by frames",
    NORMALIZED_BY_TIME_TAG: f"human-normalized ({DEFAULT_TABLE}), evaluation, by seconds of training",
    EVALUATION_TAG: "score, evaluation, by frames",
    TRAINING_TAG: "score, training, by frames",
}
_MAX_SECONDS = 1e10
"""Three centuries: more than a run can have taken."""
_HISTOGRAM_BINS = 30  # as many as TensorBoard shows

Hyperparameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class EvaluationPoint:
    """An evaluation, as a point of the curves."""

    frames: int
    seconds: int
    """Whole seconds of training, without evaluations."""
    mean_score: float
    human_normalized: float | None


@dataclass(frozen=True)
class Kept:
    """What a run that resumes has written and goes on from; nothing, if it is new."""

    frames: int = 0
    """Of the last point of the curves. The checkpoint's would not do: a point that is due there is written later."""
    seconds: float = 0.0
    """Of training, up to that point."""
    last_evaluation: EvaluationPoint | None = None


def game_tag(game: str, tag: str) -> str:
    """The tag under which a main curve is written for its game: game/Pong/mean_reward."""
    return f"game/{game}/{tag.rpartition('/')[2]}"


def layout(games: Iterable[str]) -> object:
    """The summary that makes a section a game of the main curves."""
    from torch.utils.tensorboard import summary

    sections = {
        game: {title: ["Multiline", [f"^{game_tag(game, tag)}$"]] for tag, title in _CHART_TITLES.items()}
        for game in games
    }
    return summary.custom_scalars(sections)  # type: ignore[no-untyped-call]  # torch left all untyped


def hyperparameters(config: Mapping[str, Any], protocol: str) -> Hyperparameters:
    """A run's row in the table HPARAMS, from the tables of its config.toml."""
    return {
        **{key: config[key] for key in ("game", "seed", "num_games") if key in config},
        "protocol": protocol,
        **{f"agent.{key}": value for key, value in config["agent"].items()},
    }


def training_times(directory: Path) -> list[tuple[int, float]]:
    """Frames and seconds of training at each point of a run's curves; LabError where its records make no sense."""
    points = read_metrics(directory)
    frames = [_plausible(point["frames"], directory / "metrics.jsonl") for point in points]
    seconds = training_seconds(points)
    if not all(0 <= second < _MAX_SECONDS for second in seconds):
        raise LabError(f"{directory / 'metrics.jsonl'} is no record of a run: its speeds make no time")
    return list(zip(frames, seconds, strict=True))


def evaluation_points(directory: Path, game: str) -> list[EvaluationPoint]:
    """What a run's records say of its evaluations; LabError where they make no sense."""
    frames, seconds = zip((0, 0.0), *training_times(directory), strict=True)
    return [
        EvaluationPoint(
            frames=_plausible(record["frames"], directory / "evaluations.jsonl"),
            seconds=int(seconds[bisect_right(frames, record["frames"]) - 1]),
            mean_score=record["mean_score"],
            human_normalized=score_table().human_normalized(game, record["mean_score"]),
        )
        for record in read_evaluations(directory)
    ]


def _plausible(frames: int, path: Path) -> int:
    if not 0 <= frames < MAX_FRAMES:
        raise LabError(f"{path} is no record of a run: no run has {frames} frames")
    return frames


class EventWriter:
    """The event files of one run."""

    def __init__(
        self,
        directory: Path,
        *,
        game: str,
        config_toml: str,
        hparams: Hyperparameters,
        kept: Kept,
    ) -> None:
        """A run that resumes hides what its earlier event files say beyond what is `kept`."""
        from torch.utils.tensorboard import summary

        self._game = game
        with ExitStack() as opened:
            self._file = opened.enter_context(closing(EventFile(directory)))
            # purge_step hides its own step too: hence the + 1.
            self._file.begin(purge_step=kept.frames + 1)
            self._file.add(summary.text("config", f"```toml\n{config_toml.strip()}\n```"))  # type: ignore[no-untyped-call]
            self._file.add(layout([game]))
            self._file.add(_hparams_session(hparams))

            # Seconds in a folder of their own: purge_step goes by the steps of all tags in a folder, be they frames or
            # seconds. And some of TensorBoard's readers ignore it, but drop from a curve what is not before its next
            # point. That may be later than what was lost, if by time: the last point that is kept is written again.
            last = kept.last_evaluation
            self._by_time = opened.enter_context(closing(EventFile(directory / BY_TIME)))
            self._by_time.begin(purge_step=0 if last is None else last.seconds)
            if last is not None:
                self._write_by_time(last)
            self._opened = opened.pop_all()

    def scalars(self, metrics: Mapping[str, float], frames: int) -> None:
        """Points of the curves, one a tag; OSError where they cannot be written."""
        for tag, value in metrics.items():
            self._scalar(self._file, tag, value, frames)

    def evaluation(self, point: EvaluationPoint) -> None:
        """An evaluation's points, by frames and by seconds."""
        self._scalar(self._file, EVALUATION_TAG, point.mean_score, point.frames)
        if point.human_normalized is not None:
            self._scalar(self._file, NORMALIZED_TAG, point.human_normalized, point.frames)
        self._write_by_time(point)

    def histogram(self, tag: str, values: NDArray[np.floating[Any]], frames: int) -> None:
        """How finite values of any shape are distributed."""
        from torch.utils.tensorboard import summary

        self._file.add(summary.histogram(tag, values, _HISTOGRAM_BINS), frames)  # type: ignore[no-untyped-call]

    def gif(self, tag: str, data: bytes, frames: int) -> None:
        """An animated picture; the dashboard IMAGES plays it."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(io.BytesIO(data)).size
        image = Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=data)
        self._file.add(Summary(value=[Summary.Value(tag=tag, image=image)]), frames)

    def close(self) -> None:
        self._opened.close()

    def _write_by_time(self, point: EvaluationPoint) -> None:
        self._scalar(self._by_time, FRAMES_BY_TIME_TAG, point.frames, point.seconds)
        if point.human_normalized is not None:
            self._scalar(self._by_time, NORMALIZED_BY_TIME_TAG, point.human_normalized, point.seconds)

    def _scalar(self, file: EventFile, tag: str, value: float, step: int) -> None:
        """A point; of a main curve a second one, for its game."""
        for name in (tag, game_tag(self._game, tag)) if tag in _CHART_TITLES else (tag,):
            file.scalar(name, value, step)


class EventFile:
    """An event file, written without delay.

    torch's SummaryWriter hands records to a thread, where a full disk ends in a traceback; and it puts the machine's
    name into the file's.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder by name: numbered, and not by a clock, they come in order of writing.
        numbers = (path.name.rpartition(".")[2] for path in directory.glob("events.out.tfevents.*"))
        number = max((int(text) for text in numbers if text.isdecimal()), default=-1) + 1
        self._file = RecordFile(directory / f"events.out.tfevents.{number:06d}", "xb")
        self._records = RecordWriter(self._file)

    def begin(self, *, purge_step: int = 0) -> None:
        """The first of all records: hides what earlier files of the folder have from that step on.

        The first one in a folder hides nothing: TensorBoard takes it for the start. So a new run needs one as well.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(file_version="brain.Event:2", step=purge_step)
        self._write(session_log=SessionLog(status=SessionLog.START), step=purge_step)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        from torch.utils.tensorboard import summary

        self.add(summary.scalar(tag, value), step)  # type: ignore[no-untyped-call]

    def add(self, summary: object, step: int = 0) -> None:
        """A Summary, with its place on the x axis."""
        self._write(summary=summary, step=step)

    def close(self) -> None:
        self._file.close()

    def _write(self, **event: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())


def _hparams_session(hparams: Hyperparameters) -> object:
    """The session's start, of the three summaries that torch's `add_hparams` puts into a sub-run.

    The experiment's summary fixes the columns of the table, and TensorBoard takes the first that it meets: those of
    another agent would be missing. So only `rl-lab tensorboard` writes one, for all runs; without one, TensorBoard
    unites the columns of all runs, and takes all scalars. The session's end claims success.
    """
    from torch.utils.tensorboard.summary import hparams as hparams_summaries

    # torch would write a bool as the number 1.0.
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in hparams.items()}
    _, session_start, _ = hparams_summaries(values, {})  # type: ignore[no-untyped-call]
    return session_start
