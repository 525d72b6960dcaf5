"""Two sweeps never make the same run at once: a sweep that runs says in a file which runs are its own.

runs/sweeps/<sweep>/
  lock         held while the sweep runs
  runs.json    the folders of its runs
  logs/        what each run printed
  slurm.json   the jobs that were submitted: see `submitted`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rl_lab.errors import LabError
from rl_lab.sweep.plan import PlannedRun
from rl_lab.untrusted import read_json

_FOLDER = "sweeps"
_MAX_BYTES = 1 << 24


def own_folder(runs: Path, name: str) -> Path:
    """Of the sweep of that name."""
    return runs / _FOLDER / name


def logs_folder(runs: Path, name: str) -> Path:
    """Where the sweep of that name keeps what its runs printed."""
    return own_folder(runs, name) / "logs"


@contextmanager
def claimed(runs: Path, name: str, plan: Sequence[PlannedRun]) -> Iterator[None]:
    """The plan's runs are this sweep's; LabError where another sweep of this folder is at one of them."""
    own = own_folder(runs, name)
    mine = {str(run.directory.relative_to(runs)) for run in plan}
    with held(own, f"the sweep {name} is running in {runs}"):
        # First said, then looked: of two sweeps that begin together at least one sees the other.
        (own / "runs.json.new").write_text(json.dumps({"runs": sorted(mine)}))
        (own / "runs.json.new").replace(own / "runs.json")
        for other in sorted(path.parent for path in own.parent.glob("*/runs.json")):
            if other != own and _is_held(other):
                shared = mine.intersection(read_json(other / "runs.json", max_bytes=_MAX_BYTES)["runs"])
                if shared:
                    raise LabError(
                        f"the sweep {other.name} is running and has {min(shared)}, too; wait for its end, or use "
                        "another --runs"
                    )
        yield


@contextmanager
def held(folder: Path, running: str) -> Iterator[None]:
    """The folder is this process's, and made if missing; LabError, which begins with `running`, if it is another's."""
    lock = _lock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holding = lock.acquire()
    except Timeout:
        raise LabError(f"{running} already; wait for its end, or use another --runs") from None
    except OSError as error:
        raise LabError(f"cannot write to {folder}: {error.strerror}; use another --runs") from error
    with holding:
        yield


def _is_held(folder: Path) -> bool:
    lock = _lock(folder)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def _lock(folder: Path) -> FileLock:
    return FileLock(
        folder / "lock", blocking=False, thread_local=False, preserve_lock_file=True, fallback_to_soft=False
    )
