"""Which runs are Slurm's, waiting or running: a record of what was submitted, and squeue's word on what is left of it.

runs/sweeps/<sweep>/
  slurm.json   {"jobs": {"1234_0": "Breakout/dqn-quick/seed-0"}}

A job may wait for days before it locks its run's folder, and a lock need not reach from one machine to another.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_lab.errors import LabError
from rl_lab.records import is_finished
from rl_lab.run import replace_text
from rl_lab.sweep.claim import own_folder
from rl_lab.sweep.plan import PlannedRun
from rl_lab.untrusted import read_json

_FILE = "slurm.json"
_MAX_BYTES = 1 << 24
_TIMEOUT_SECONDS = 60
# Requeued and configuring jobs are pending and running ones with a flag.
_SQUEUE = ("squeue", "--me", "--noheader", "--array", "--format=%i", "--states=PENDING,RUNNING,SUSPENDED,COMPLETING")


def queued_jobs(runs: Path, plan: Sequence[PlannedRun]) -> dict[Path, str]:
    """By run folder, the job that is to make it, or makes it; LabError where that cannot be asked."""
    folders = {str(run.directory.relative_to(runs)): run.directory for run in plan}
    try:
        records = sorted(own_folder(runs, "").glob(f"*/{_FILE}"))
    except OSError as error:
        raise LabError(f"{runs} cannot be read: {error.strerror}; use another --runs") from error
    submitted = {
        job: folders[folder]
        for record in records
        for job, folder in _read(record).items()
        if folder in folders and not is_finished(folders[folder])
    }
    # Without such jobs there need be no Slurm here.
    queue = _queue(min(submitted)) if submitted else set()
    return {folder: job for job, folder in submitted.items() if job in queue}


def remember(runs: Path, name: str, jobs: Mapping[str, PlannedRun]) -> None:
    """Add jobs to the sweep's record."""
    path = own_folder(runs, name) / _FILE
    known = _read(path) if path.exists() else {}
    added = {job: str(run.directory.relative_to(runs)) for job, run in jobs.items()}
    replace_text(path, json.dumps({"jobs": known | added}, indent=1))


def _read(path: Path) -> dict[str, str]:
    jobs: dict[str, str] = read_json(path, max_bytes=_MAX_BYTES)["jobs"]
    return jobs


def _queue(example: str) -> set[str]:
    """All jobs of this user that are not over; `example` is one that was submitted."""
    try:
        answer = subprocess.run(_SQUEUE, capture_output=True, text=True, check=True, timeout=_TIMEOUT_SECONDS)
    except FileNotFoundError:
        raise LabError(
            f"job {example} and others were to make runs of this sweep, and there is no squeue here to ask if they "
            f"still do; start it where Slurm is, or delete {_FILE} in the folder of the sweep when they are over"
        ) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"squeue gave no answer in {_TIMEOUT_SECONDS} s; try again later") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"squeue failed: {error.stderr.strip()}; try again later") from error
    return set(answer.stdout.split())
