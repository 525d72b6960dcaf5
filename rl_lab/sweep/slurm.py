"""A sweep on a Slurm cluster: one array job, of which each task makes a run. Submitit, an extra, writes and submits it.

Slurm signals a job some time before its limit, and where it is set up so when it is preempted. The run then leaves a
checkpoint as on Ctrl-C, and the job queues again by itself, to go on from there: so runs may be longer than the limit.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rl_lab.errors import LabError, ResumableError, did_you_mean
from rl_lab.records import is_finished
from rl_lab.sweep.cost import Measurement
from rl_lab.sweep.plan import PlannedRun, train_words

if TYPE_CHECKING:
    import submitit

SETTINGS: Mapping[str, type] = {
    **{"timeout_min": int, "signal_delay_s": int, "max_num_timeout": int, "mem_gb": float, "gpus_per_node": int},
    **dict.fromkeys(("account", "constraint", "exclude", "gres", "mail_type", "mail_user"), str),
    **dict.fromkeys(("nodelist", "partition", "qos"), str),
}
"""What can be set, by submitit's names."""
_DEFAULTS: Mapping[str, Any] = {
    "timeout_min": 240,
    "signal_delay_s": 180,  # submitit has 90: a large replay takes longer to a slow disk
    "max_num_timeout": 100,  # submitit has 3: a run of days is to go through a short partition
}
_MOST_SIGNALS = 1 << 16
"""That a pipe holds."""
_MEMORY_MARGIN = 1.25
"""Of the measured memory: Slurm kills a job that needs more than it asked for."""


@dataclass(frozen=True)
class Task:
    """Makes a run in a job's own process: Slurm may signal every process of a job, and a run is to be asked once.

    Submitit pickles it, which an agent's config cannot be.
    """

    directory: Path
    flags: tuple[str, ...]
    agent_file: str | None
    keeps_state: bool
    rl_lab: Callable[[Sequence[str]], int]
    """Runs a command of `rl-lab`; its exit status."""

    def __call__(self) -> None:
        """Make the run, or what is left of it; leaves the process with the run's exit status unless that is 0."""
        if is_finished(self.directory):  # queued again as it ended
            return
        queue_again = _handler(signal.SIGUSR2)
        deaf = signal.getsignal(signal.SIGTERM)  # submitit's, which only logs
        is_asked = False

        def leave() -> None:  # does not return
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # within it submitit fails at a second one
            queue_again(signal.SIGUSR2, None)

        def on_warning(number: int, frame: FrameType | None) -> None:
            nonlocal is_asked
            if signal.getsignal(signal.SIGTERM) is deaf:  # not training yet, or no more
                leave()
            elif not is_asked:
                is_asked = True
                # Asked twice a run stops without a checkpoint, and some clusters send SIGTERM before the warning.
                if signal.SIGTERM not in os.read(arrived, _MOST_SIGNALS):
                    signal.raise_signal(signal.SIGTERM)

        arrived, noted = os.pipe()
        os.set_blocking(noted, False)
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)  # Python writes the number of each signal there
        signal.signal(signal.SIGUSR2, on_warning)
        status = self.rl_lab(train_words(self.directory, self.flags, self.agent_file, keeps_state=self.keeps_state))
        # A run without state would begin anew in each job, and come no further.
        if is_asked and self.keeps_state and status == ResumableError.exit_status:
            leave()
        if status:
            sys.exit(status)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What the queued job does: the same, as the run's folder tells how far it is."""
        again: submitit.helpers.DelayedSubmission = _submitit().helpers.DelayedSubmission(self)
        return again


def read_settings(words: Iterable[str]) -> dict[str, Any]:
    """Of KEY=VALUE words, over the defaults; LabError for other keys and for values out of range."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in SETTINGS:
            near = "" if key in SETTINGS else did_you_mean(key, SETTINGS)
            raise LabError(f"--slurm has {word!r}{near}; allowed is KEY=VALUE, of {', '.join(SETTINGS)}")
        given[key] = _value(text, SETTINGS[key], key)
    settings = {**_DEFAULTS, **given}
    if settings["signal_delay_s"] >= 60 * settings["timeout_min"]:
        raise LabError(
            f"--slurm signal_delay_s={settings['signal_delay_s']} is not within timeout_min={settings['timeout_min']}"
        )
    return settings


def parameters(
    settings: Mapping[str, Any], name: str, runs: Sequence[PlannedRun], measured: Mapping[str, Measurement], jobs: int
) -> dict[str, Any]:
    """Of submitit's SlurmExecutor, for an array of the runs, so many at once; LabError if their memory is not known."""
    memory_gb = settings.get("mem_gb")
    if memory_gb is None:
        if not measured:
            raise LabError("without a measurement the memory is not known; give --slurm mem_gb=NUMBER, of each run")
        memory_gb = _MEMORY_MARGIN * max(measured[run.config.name].memory_bytes for run in runs) / (1 << 30)
    cpus = max(max(run.config.threads, run.config.emulator_threads) for run in runs)
    return {
        "job_name": name,
        "time": settings["timeout_min"],
        "cpus_per_task": cpus,
        "srun_args": ["--cpus-per-task", str(cpus)],  # Slurm 22.05 to 23.02 does not hand it on
        "mem": f"{math.ceil(memory_gb * 1024)}M",
        "array_parallelism": jobs,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True},  # some clusters have it off
        **{key: value for key, value in settings.items() if key not in ("timeout_min", "mem_gb")},
    }


def script(folder: Path, asked: Mapping[str, Any], count: int) -> str:
    """What sbatch would be given for so many runs, with Slurm or without it."""
    executor_class: Any = _submitit().SlurmExecutor

    class Executor(executor_class):  # type: ignore[misc]  # not known before the import
        @classmethod
        def affinity(cls) -> int:
            return 1  # submitit builds none where there is no srun

    executor = _new(Executor, folder, asked)
    if count > 1:
        executor.parameters["map_count"] = count
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def executor_here(folder: Path, asked: Mapping[str, Any]) -> submitit.core.core.Executor:
    """What submits to this machine's Slurm."""
    executor: submitit.core.core.Executor = _new(_submitit().SlurmExecutor, folder, asked)
    return executor


def submit(
    executor: submitit.core.core.Executor, runs: Sequence[PlannedRun], rl_lab: Callable[[Sequence[str]], int]
) -> Sequence[submitit.Job[None]]:
    """One array job for all: a task a run, in their order. LabError with the reason where Slurm refuses."""
    utils = _submitit().core.utils
    tasks = [Task(run.directory, run.flags, run.agent_file, run.keeps_state, rl_lab) for run in runs]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reason is in the error, too
            return executor.submit_array(tasks)
    except (utils.FailedJobError, utils.FailedSubmissionError) as error:
        raise LabError(f"Slurm refuses the job: {str(error).strip()}") from error


def require_slurm() -> None:
    """LabError unless jobs can be submitted from this machine."""
    _submitit()
    missing = [command for command in ("sbatch", "srun", "squeue") if shutil.which(command) is None]
    if missing:
        raise LabError(f"there is no Slurm here: no {missing[0]} in PATH; use a login node of a cluster, or no --slurm")


def _submitit() -> Any:
    """The extra; LabError where it is not installed."""
    try:
        import submitit
    except ImportError:
        raise LabError("--slurm needs submitit: pip install 'rl-lab[slurm]'") from None
    return submitit


def _new(executor_class: Any, folder: Path, asked: Mapping[str, Any]) -> Any:
    """Submitit takes one of the parameters elsewhere."""
    executor = executor_class(folder, max_num_timeout=asked["max_num_timeout"])
    executor.update_parameters(**{key: value for key, value in asked.items() if key != "max_num_timeout"})
    return executor


def _handler(number: int) -> Callable[[int, FrameType | None], object]:
    handler = signal.getsignal(number)
    assert callable(handler), handler
    return handler


def _value(text: str, kind: type, key: str) -> Any:
    """The text as a value of the type; LabError for none, and for a number that is not above 0."""
    if kind is str:
        if not text:
            raise LabError(f"--slurm {key} is empty; give a value, or leave it out")
        return text
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < math.inf:
        raise LabError(f"--slurm {key} is {text!r}; allowed is {'an integer' if kind is int else 'a number'} above 0")
    return value
