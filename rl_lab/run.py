"""A run on disk: one seed of one experiment, written only by the lab.

runs/<Game>/<experiment>/seed-<n>/
  config.toml          the resolved experiment: `rl-lab train config.toml` repeats the run
  provenance.json      where the numbers come from: versions, processor, threads, ROM, protocol
  status.json          running | finished | interrupted | failed, replaced atomically
  episodes.jsonl  metrics.jsonl  evaluations.jsonl    append-only: the truth
  events.out.tfevents.*                               the same numbers for the eye
  checkpoints/<frames>/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import psutil

from rl_lab.atari import Episode
from rl_lab.errors import LabError
from rl_lab.evaluation import Evaluation
from rl_lab.experiment import ExperimentConfig
from rl_lab.provenance import provenance
from rl_lab.records import State, Status, read_status
from rl_lab.scores import DEFAULT_TABLE
from rl_lab.tensorboard import EVALUATION_TAG, NORMALIZED_TAG, EventWriter


class Run:
    """The open records of a run that is being made."""

    def __init__(self, directory: Path, config: ExperimentConfig) -> None:
        """Use `create`, which claims the directory."""
        self.directory = directory
        self.config = config
        self._steps = 0
        self.set_status("running")  # first of all: another process must see that the directory is taken
        self._episodes = (directory / "episodes.jsonl").open("a", encoding="utf-8")
        self._metrics = (directory / "metrics.jsonl").open("a", encoding="utf-8")
        self._evaluations = (directory / "evaluations.jsonl").open("a", encoding="utf-8")
        self._events = EventWriter(directory, game=config.game, config_toml=config.to_toml(), hparams=_hparams(config))

    @classmethod
    def create(cls, runs: Path, config: ExperimentConfig, *, overwrite: bool, device: str, threads: int) -> Run:
        """Claim the run's directory; LabError where it exists (unless `overwrite`) or a live process writes to it."""
        directory = run_directory(runs, config)
        if directory.exists():
            _make_way(directory, overwrite)
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise LabError(
                f"cannot make the run directory {directory}: {error.strerror}; use another --runs"
            ) from error
        run = cls(directory, config)
        _write(directory / "config.toml", config.to_toml())
        _write(directory / "provenance.json", _json(provenance(config, device=device, threads=threads), indent=2))
        return run

    def log_episode(self, episode: Episode, *, base_steps: int) -> None:
        """Append a finished episode; its counts are within an iteration that began at `base_steps`."""
        skip = self.config.protocol.frame_skip
        self._append(
            self._episodes,
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
        """Append a point of the training curves, by TensorBoard tags."""
        frames = self._advance(steps)
        self._append(self._metrics, {"frames": frames, "steps": steps, **metrics})
        self._events.scalars(metrics, frames)

    def log_evaluation(self, evaluation: Evaluation, *, steps: int, iteration: int) -> None:
        """Append an evaluation, with its human-normalized score by the default table."""
        frames = self._advance(steps)
        human_normalized = evaluation.human_normalized_score()
        self._append(
            self._evaluations,
            {"frames": frames, "steps": steps, "iteration": iteration, **evaluation.as_record(DEFAULT_TABLE)},
        )
        metrics = {EVALUATION_TAG: evaluation.mean_score}
        if human_normalized is not None:
            metrics[NORMALIZED_TAG] = human_normalized
        self._events.scalars(metrics, frames)

    def set_status(self, state: State, reason: str = "") -> None:
        """Replace status.json in one step."""
        status = Status(
            state=state,
            reason=reason,
            steps=self._steps,
            frames=self._steps * self.config.protocol.frame_skip,
            pid=os.getpid(),
            process_start=psutil.Process().create_time(),
        )
        temporary = self.directory / "status.json.new"
        _write(temporary, _json(vars(status), indent=2))
        temporary.replace(self.directory / "status.json")

    def close(self) -> None:
        """Flush and close the records."""
        for file in (self._episodes, self._metrics, self._evaluations):
            file.close()
        self._events.close()

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

    @staticmethod
    def _append(file: TextIO, record: Mapping[str, object]) -> None:
        file.write(_json(record) + "\n")
        file.flush()


def run_directory(runs: Path, config: ExperimentConfig) -> Path:
    """Where the run of this experiment and seed is kept."""
    return runs / config.game / config.name / f"seed-{config.seed}"


def _make_way(directory: Path, overwrite: bool) -> None:
    """Delete an old run if the user asked for it; LabError otherwise, or while a live process writes to it."""
    status_file = directory / "status.json"
    if directory.is_symlink() or not status_file.is_file():
        raise LabError(f"{directory} is in the way and is no run; move it, or use another --seed, --name or --runs")
    try:
        status = read_status(directory)
    except LabError:
        status = None  # damaged: no live process keeps it so
    if status is not None and status.is_live:
        raise LabError(f"process {status.pid} is writing to {directory}; stop it, or use another --seed or --name")
    if not overwrite:
        raise LabError(f"{directory} exists; use --overwrite to delete it, or another --seed, --name or --runs")
    shutil.rmtree(directory)


def _hparams(config: ExperimentConfig) -> dict[str, str | int | float | bool]:
    """The agent's hyperparameters and what else tells runs apart, flat."""
    return {
        "game": config.game,
        "seed": config.seed,
        "protocol": config.protocol.label,
        "num_games": config.num_games,
        **{f"agent.{key}": value for key, value in vars(config.agent).items()},
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _json(record: Mapping[str, object], indent: int | None = None) -> str:
    # allow_nan=False: a NaN in a record is a bug, and not JSON.
    return json.dumps(record, indent=indent, allow_nan=False)
