"""What there is of a sweep's runs already, and what is left to do: read from their folders, and nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from rl_lab.agent import AgentConfig
from rl_lab.atari import Protocol
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.records import is_free, last_metrics, read_evaluations, read_status
from rl_lab.sweep.plan import PlannedRun

_Part = ExperimentConfig | Protocol | AgentConfig

_WITHOUT_RESULTS = ("device", "threads", "emulator_threads")
"""Fields that a run may have otherwise than the plan, and keeps when it goes on."""


@dataclass(frozen=True)
class Rest:
    """A run that is not finished."""

    run: PlannedRun
    steps_done: int
    """Agent steps that its status speaks of; the last checkpoint may have less. 0 for a run that is started anew."""

    @property
    def steps_left(self) -> int:
        """Agent steps to its end."""
        return max(self.run.config.total_steps - self.steps_done, 0)


def rest_of(plan: Iterable[PlannedRun]) -> list[Rest]:
    """The runs that are not finished, in the plan's order.

    LabError for a folder that holds no whole run, another experiment's, or one that is being written.
    """
    return [rest for run in plan if (rest := _rest(run)) is not None]


def require_planned(run: PlannedRun) -> None:
    """LabError unless the run's experiment is the plan's."""
    directory = run.directory
    there = load_experiment(directory / "config.toml", agent=run.agent_file)
    pairs: tuple[tuple[str, _Part, _Part], ...] = (
        ("", there, run.config),
        ("protocol.", there.protocol, run.config.protocol),
        ("agent.", there.agent, run.config.agent),
    )
    for prefix, is_there, is_planned in pairs:
        for field in dataclasses.fields(is_planned):
            was, now = getattr(is_there, field.name, "missing"), getattr(is_planned, field.name)
            if not dataclasses.is_dataclass(now) and was != now and field.name not in _WITHOUT_RESULTS:
                raise LabError(f"{prefix}{field.name} is {was} in {directory / 'config.toml'}, and {now} in the sweep")


def _rest(run: PlannedRun) -> Rest | None:
    """What is left of the run; None if it is finished."""
    directory = run.directory
    try:
        if is_free(directory):
            return Rest(run, 0)
        is_whole = all((directory / name).is_file() for name in ("config.toml", "provenance.json"))
    except OSError as error:
        raise LabError(f"{directory} cannot be read: {error.strerror}; see to it, or use another --runs") from error
    if not is_whole:
        raise LabError(f"{directory} is no whole run; put back what is missing, or move it away")
    try:
        require_planned(run)
        status = read_status(directory) if (directory / "status.json").exists() else None
        evaluations = read_evaluations(directory)
        metrics = last_metrics(directory)
    except LabError as error:
        raise LabError(f"{error}; see to {directory}, move it away, or use another --runs") from error
    if status is None:  # killed before it wrote one: a resume sees to it
        return Rest(run, 0)
    if status.is_live:
        raise LabError(f"process {status.pid} is writing to {directory}; wait for its end or stop it")
    if status.state != "finished":
        if not run.keeps_state:
            return Rest(run, 0)
        # One iteration may have been evaluated and not yet saved; a resume would take more for none, and begin anew.
        if len(evaluations) > 1 and not any(directory.glob("checkpoints/*/manifest.json")):
            raise LabError(f"{directory} has lost its checkpoints; put them back, or move it away")
        return Rest(run, status.steps)
    last_records = (metrics, next(reversed(evaluations), None))
    if any(record is None or record["frames"] != run.config.total_frames for record in last_records):
        raise LabError(
            f"{directory} is finished, but its records do not reach {run.config.total_frames:,} frames; put back what "
            "is missing, or move it away"
        )
    return None
