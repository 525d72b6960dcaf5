"""The far end of a run that is made on another machine: a folder of its own there, and the process that trains in it.

What crosses the network is in these few calls; Ray carries them, and knows nothing of runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rl_lab.carried import Snapshot, snapshot
from rl_lab.errors import LabError
from rl_lab.provenance import software
from rl_lab.records import Status, read_status
from rl_lab.system import host_name

LOG = "log"
"""What the process printed: a file in the folder."""
_TETHERED = (sys.executable, "-P", "-m", "rl_lab.cli.tethered")
_PREFIX = "rl-lab-run-"


@dataclass(frozen=True)
class Look:
    """How far a run is."""

    status: int | None
    """The exit status of its process, or the negative number of the signal it died of; None while it runs."""
    log_bytes: int
    seen: Snapshot | None
    """None before the process has written into the run."""


class Workplace:
    """Makes one run in a temporary folder."""

    def __init__(self, run: str) -> None:
        """`run` is the run's folder within this one, a POSIX path."""
        _remove_abandoned()
        name = f"{_PREFIX}{uuid.uuid4().hex}"
        self._lock = _lock(Path(tempfile.gettempdir(), f"{name}.lock"))
        self._lock.acquire(blocking=True)
        self._folder = Path(tempfile.gettempdir(), name)
        self._folder.mkdir(mode=0o700)
        self._run = self._folder / run
        self._process: subprocess.Popen[bytes] | None = None
        self._sent_status: Status | None = None
        self._has_begun = False

    def about(self) -> tuple[str, dict[str, str]]:
        """The name of this machine, and its software: see `rl_lab.provenance`."""
        return host_name(), software()

    def write(self, name: str, data: bytes) -> None:
        """Add to a file of the folder."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def start(self, words: Sequence[str]) -> None:
        """Run `rl-lab` with these words in the folder."""
        self._sent_status = self._status()
        with (self._folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                (*_TETHERED, *words),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the code that was checked
            )

    def look(self, patience_seconds: float) -> Look:
        """Soon after the process has ended, at the latest after so many seconds."""
        assert self._process is not None, "nothing was started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_seconds)
        status = self._process.returncode  # read first: all that an ended process left is seen
        # Its status is the first that a process writes after it has cut the records back to its checkpoint.
        self._has_begun = self._has_begun or self._status() != self._sent_status
        seen = snapshot(self._run) if self._has_begun else None
        return Look(status, (self._folder / LOG).stat().st_size, seen)

    def read(self, name: str, offset: int, size: int) -> bytes | None:
        """At most so many bytes of a file of the folder; None if there is none."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            return None

    def terminate(self) -> None:
        """Ask the process to stop; a second time, at once."""
        assert self._process is not None, "nothing was started"
        self._process.terminate()

    def close(self) -> None:
        """End the process, if it still runs, and delete the folder."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        shutil.rmtree(self._folder)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _status(self) -> Status | None:
        try:
            return read_status(self._run)
        except LabError:  # there is none yet
            return None


def _remove_abandoned() -> None:
    """Delete the folders of workplaces whose process was killed: replays are large."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.lock"):
        lock = _lock(path)
        try:
            lock.acquire()
        except (OSError, Timeout):  # another user's, or in use
            continue
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        path.unlink(missing_ok=True)
        lock.release()


def _lock(path: Path) -> FileLock:
    return FileLock(path, blocking=False, thread_local=False, preserve_lock_file=True, fallback_to_soft=False)
