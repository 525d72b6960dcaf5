"""A run on disk: one seed of one experiment, written only by the lab.

runs/<Game>/<experiment>/seed-<n>/
  config.toml          the resolved experiment: `rl-lab train config.toml` repeats the run
  provenance.json      where the numbers come from: versions, processor, threads, ROM, protocol; and of each resume
  status.json          running | finished | interrupted | failed, replaced atomically
  episodes.jsonl  metrics.jsonl  evaluations.jsonl    append-only, cut back to the checkpoint by a resume: the truth
  events.out.tfevents.*  by-time/events.*             the same numbers for the eye, and what only the eye can use
  checkpoints/<frames>/  segments/
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from rl_lab.atari import Episode
from rl_lab.errors import LabError, LabWarning
from rl_lab.evaluation import Evaluation
from rl_lab.events import EvaluationPoint, EventWriter, Kept, evaluation_points, hyperparameters, training_times
from rl_lab.experiment import ExperimentConfig
from rl_lab.provenance import provenance
from rl_lab.records import State, Status, is_free, last_episodes
from rl_lab.scores import DEFAULT_TABLE
from rl_lab.storage import RecordFile, Storage
from rl_lab.untrusted import files_below, read_json

_NOTED_RESUMES = 100
"""The last ones, in provenance.json: a run that is preempted all the time has thousands."""
RECORDS = ("episodes.jsonl", "metrics.jsonl", "evaluations.jsonl")


class Run:
    """The open records of a run that is being made."""

    def __init__(self, directory: Path, config: ExperimentConfig, *, steps: int, kept: Kept) -> None:
        """Use `create` or `resume`, which see to the directory."""
        self.directory = directory
        self.config = config
        self._steps = steps
        self._point_frames, self._seconds = kept.frames, kept.seconds
        self.set_status("running")
        with ExitStack() as opened:
            self._files = {name: opened.enter_context(RecordFile(directory / name, "ab")) for name in RECORDS}
            self.events = EventWriter(
                directory,
                game=config.game,
                config_toml=config.to_toml(),
                hparams=hyperparameters(dataclasses.asdict(config), config.protocol.label),
                kept=kept,
            )
            """For what is shown and not recorded; who adds to the records adds to the curves."""
            opened.callback(self.events.close)
            self._opened = opened.pop_all()

    @classmethod
    def create(cls, directory: Path, config: ExperimentConfig, *, device: str, threads: int) -> Run:
        """Make the run's directory; LabError, and nothing made, where that cannot be."""
        origin = _json(provenance(config, device=device, threads=threads), indent=2)
        try:
            with ExitStack() as undo:
                undo.callback(shutil.rmtree, _partial(directory), ignore_errors=True)
                make_run_directory(directory, {"config.toml": config.to_toml(), "provenance.json": origin})
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
                run = cls(directory, config, steps=0, kept=Kept())
                undo.pop_all()
        except OSError as error:
            raise LabError(
                f"cannot make the run directory {directory}: {error.strerror}; use another --runs"
            ) from error
        return run

    @classmethod
    def resume(
        cls,
        directory: Path,
        config: ExperimentConfig,
        *,
        steps: int,
        written_steps: int,
        record_bytes: Mapping[str, int],
        device: str,
        threads: int,
    ) -> Run:
        """Go on at a checkpoint of so many agent steps, with the last point of the curves at `written_steps`.

        The records had the given lengths there: what came after is cut off.
        """
        for name in RECORDS:
            _require_whole(directory / name, record_bytes[name])
        _note_resume(directory / "provenance.json", provenance(config, device=device, threads=threads), steps)
        for name in RECORDS:
            with (directory / name).open("ab") as file:  # which a run that was killed early may not have
                file.truncate(record_bytes[name])
        kept = _kept(directory, config, written_steps)
        replace_text(directory / "config.toml", config.to_toml())
        return cls(directory, config, steps=steps, kept=kept)

    def log_episode(self, episode: Episode, *, base_steps: int) -> None:
        """Append a finished episode; its counts are within an iteration that began at `base_steps`."""
        skip = self.config.protocol.frame_skip
        self._append(
            "episodes.jsonl",
            {
                "frames": (base_steps + episode.end_step) * skip,
                "steps": base_steps + episode.end_step,
                "game_index": episode.game_index,
                "score": episode.score,
                "length_frames": episode.length_steps * skip,
                "truncated": episode.truncated,
            },
        )

    def log_metrics(self, metrics: Mapping[str, float], *, steps: int) -> None:
        """Append a point of the training curves, by TensorBoard tags; time/fps is one of them."""
        frames = self._advance(steps)
        self._append("metrics.jsonl", {"frames": frames, "steps": steps, **metrics})
        self._seconds += (frames - self._point_frames) / metrics["time/fps"]
        self._point_frames = frames
        self.events.scalars(metrics, frames)

    def log_evaluation(self, evaluation: Evaluation, *, steps: int, iteration: int) -> None:
        """Append an evaluation, with its human-normalized score by the default table."""
        frames = self._advance(steps)
        self._append(
            "evaluations.jsonl",
            {"frames": frames, "steps": steps, "iteration": iteration, **evaluation.as_record(DEFAULT_TABLE)},
        )
        self.events.evaluation(
            EvaluationPoint(
                frames, int(self._seconds), evaluation.mean_score, evaluation.human_normalized_score(DEFAULT_TABLE)
            )
        )

    def sync_records(self, storage: Storage) -> dict[str, int]:
        """Force the records to the disk, for a checkpoint to name their lengths [bytes]."""
        for name in RECORDS:
            storage.sync(self.directory / name)
        return {name: file.tell() for name, file in self._files.items()}

    def recent_episodes(self, count: int) -> list[tuple[float, int]]:
        """Score and length in frames of the last training episodes."""
        return last_episodes(self.directory, count)

    def set_status(self, state: State, reason: str = "") -> None:
        """Replace status.json in one step."""
        frames = self._steps * self.config.protocol.frame_skip
        status = Status.of_this_process(state, reason, steps=self._steps, frames=frames)
        # Written at each point of the curves; a run whose status is lost can be resumed all the same.
        replace_text(self.directory / "status.json", _json(vars(status), indent=2), durable=False)

    def close(self) -> None:
        """Close the records; all of them are written."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self, steps: int) -> int:
        """The run is at that many agent steps; the frames."""
        self._steps = steps
        self.set_status("running")
        return steps * self.config.protocol.frame_skip

    def _append(self, name: str, record: Mapping[str, object]) -> None:
        self._files[name].write(f"{_json(record)}\n".encode())


def run_directory(runs: Path, config: ExperimentConfig) -> Path:
    """Where the run of this experiment and seed is kept."""
    return runs / config.game / config.name / f"seed-{config.seed}"


def make_run_directory(directory: Path, texts: Mapping[str, str]) -> None:
    """A directory with these files in it, in one step."""
    # Made under another name: what has the right one can be resumed, whenever its process is killed.
    partial = _partial(directory)
    partial.mkdir(parents=True)
    for name, text in texts.items():
        replace_text(partial / name, text)
    partial.replace(directory)


def make_way(directory: Path, *, overwrite: bool) -> None:
    """Delete an old run, whose lock is held, if the user asked for it; LabError otherwise."""
    partial = _partial(directory)
    if partial.exists():  # left by a process that was killed here, or while it made a run
        shutil.rmtree(partial)
    if is_free(directory):
        if directory.exists():
            directory.rmdir()
        return
    if directory.is_symlink() or not (directory / "provenance.json").is_file():
        raise LabError(f"{directory} is in the way and is no run; move it, or use another --seed, --name or --runs")
    if not overwrite:
        raise LabError(
            f"{directory} exists; use --resume to go on with it, --overwrite to delete it, or another --seed, --name "
            "or --runs"
        )
    (directory / "status.json").unlink(missing_ok=True)  # no list shows what is half deleted
    directory.replace(partial)
    shutil.rmtree(partial)


def require_own_files(directory: Path) -> None:
    """LabError where something in a run leads out of it: what a resume writes must stay there."""
    for path in files_below(directory):
        if path.is_symlink() or not path.is_file():
            raise LabError(f"{path} is a link or no regular file; a run that goes on holds its own files only")


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """A new file in the old one's place, in one step; `durable`: after a power failure, too."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _partial(directory: Path) -> Path:
    """The name of a run's directory while it is made or deleted."""
    return directory.with_name(f".{directory.name}.partial")


def _kept(directory: Path, config: ExperimentConfig, written_steps: int) -> Kept:
    """What the records, cut back to their checkpoint, say for the curves; LabError where it is nonsense."""
    times = training_times(directory)
    points = evaluation_points(directory, config.game)
    return Kept(
        frames=written_steps * config.protocol.frame_skip,
        seconds=times[-1][1] if times else 0.0,
        last_evaluation=points[-1] if points else None,
    )


def _require_whole(path: Path, size_bytes: int) -> None:
    """LabError where records are missing that the checkpoint has seen."""
    present = path.stat().st_size if path.is_file() else 0
    if present < size_bytes:
        raise LabError(
            f"{path} has {present:,} bytes, and had {size_bytes:,} at the checkpoint: records were lost; put the file "
            "back, or start again with --overwrite"
        )


def _note_resume(path: Path, present: Mapping[str, object], steps: int) -> None:
    """Add where the run goes on; LabWarning where that is not as it began."""
    past = read_json(path)
    resumes = past.setdefault("resumes", [])
    if not isinstance(resumes, list):
        raise LabError(f"{path} is damaged: resumes is no list")
    changed = [key for key in present if key != "command" and past.get(key) != present[key]]
    if changed:
        warnings.warn(
            f"{', '.join(changed)} changed since the run began: it goes on, maybe not to the same bytes (see {path})",
            LabWarning,
            stacklevel=4,
        )
    past["resumes"] = [*resumes[1 - _NOTED_RESUMES :], {"at_steps": steps, **present}]
    replace_text(path, _json(past, indent=2))


def _json(record: Mapping[str, object], indent: int | None = None) -> str:
    # allow_nan=False: a NaN in a record is a bug, and not JSON.
    return json.dumps(record, indent=indent, allow_nan=False)
