"""`rl-lab sweep --slurm`: what is left of a sweep as an array job. The command ends when the job is submitted."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_lab.cli.main import main as rl_lab
from rl_lab.errors import LabError
from rl_lab.sweep.claim import claimed, logs_folder
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.slurm import executor_here, script, submit
from rl_lab.sweep.standing import rest_of
from rl_lab.sweep.submitted import queued_jobs, remember

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def without_queued(runs: Path, plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The plan's runs that Slurm does not have; says how many it has."""
    jobs = queued_jobs(runs, plan)
    if jobs:
        print(f"{len(jobs):,} of {len(plan):,} runs wait or run as jobs of Slurm, such as {min(jobs.values())}")
    return [run for run in plan if run.directory not in jobs]


def show_script(runs: Path, name: str, rest: Sequence[PlannedRun], asked: Mapping[str, Any]) -> int:
    """Print what would be given to sbatch; the exit status."""
    print(script(_logs(runs, name), asked, len(rest)))
    return 0


def submit_sweep(
    runs: Path, sweep: tuple[str, Sequence[str]], rest: Sequence[PlannedRun], asked: Mapping[str, Any]
) -> int:
    """Submit a run a task; `sweep` is its name and the words that gave it. The exit status."""
    name, given = sweep
    logs = _logs(runs, name)
    with claimed(runs, name, rest):
        if queued_jobs(runs, rest):
            raise LabError(f"another process has submitted runs of {name} just now; start again to see what is left")
        rest_of(rest)  # a run may have begun while this one measured
        # Nothing may come between: jobs that nobody knows of would be submitted a second time.
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            jobs = submit(executor_here(logs, asked), rest, rl_lab)
            remember(runs, name, {job.job_id: run for job, run in zip(jobs, rest, strict=True)})
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
    first = jobs[0].job_id
    print(
        f"submitted:  job {first.partition('_')[0]}, {len(jobs):,} runs\n"
        f"logs:       {logs / first}_0_log.out{' and so on' if len(jobs) > 1 else ''}\n"
        f"watch it:   {shlex.join(['rl-lab', 'list', 'runs', '--runs', str(runs), '--watch'])}\n"
        f"compare:    {shlex.join(['rl-lab', 'compare', str(runs), '--sweep', *given])}"
    )
    return 0


def _logs(runs: Path, name: str) -> Path:
    return logs_folder(runs, name) / "slurm"
