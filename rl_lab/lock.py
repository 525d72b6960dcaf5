"""One writer a run: a lock that the operating system lets go of when its process dies, by whatever cause.

The lock file lies beside the run's directory, not in it, and is never deleted: --overwrite deletes and makes the
directory anew, and a lock file that is deleted would leave two processes with a lock each, on two files of one name.
Who holds the lock is in status.json, for people.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from rl_lab.errors import LabError
from rl_lab.records import Status, read_status


class RunLock:
    """The right to write into a run's directory, which need not exist."""

    def __init__(self, directory: Path) -> None:
        """Use `acquire`, or `with`."""
        self._directory = directory
        real = directory.resolve()  # one lock, whatever links lead there
        self._path = real.with_name(f".{real.name}.lock")
        self._lock = FileLock(
            self._path,
            blocking=False,
            thread_local=False,
            preserve_lock_file=True,
            fallback_to_soft=False,  # a lock that is a file's mere existence outlives its process
            on_acquired=self._remember,
        )

    def acquire(self) -> None:
        """Take the lock; LabError while another writer has it, in this process or another, or where none can be."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise LabError(
                f"{_writer(self._directory)} is writing to {self._directory}; "
                "stop it, or use another --seed, --name or --runs"
            ) from None
        except OSError as error:
            raise LabError(f"cannot lock {self._directory}: {error.strerror}; use another --runs") from error

    def release(self) -> None:
        """Let another writer in."""
        self._lock.release()

    def require_held(self) -> None:
        """LabError if the lock file was deleted or replaced by hand: another process may then hold a lock, too."""
        try:
            is_held = self._lock.is_locked and os.path.samestat(self._file, self._path.stat())
        except FileNotFoundError:
            is_held = False
        if not is_held:
            raise LabError(f"the lock of {self._directory} was deleted while it was held; start again")

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _remember(self, descriptor: int) -> None:
        self._file = os.fstat(descriptor)


def writer_of(directory: Path) -> str:
    """Who holds the lock of the run's directory, as far as its status says; empty where nobody does.

    To look takes a free lock for a moment.
    """
    lock = RunLock(directory)
    try:
        if lock._path.exists():  # to look makes no file
            lock._lock.acquire()
            lock.release()
    except Timeout:
        return _writer(directory)
    except OSError:  # where no lock can be, nobody has one
        pass
    return ""


def taken_over(status: Status) -> str:
    """What became of the writer of a run whose lock was free, in one line; empty if it ended as it should."""
    if status.state != "running":
        return ""
    match status.writer:
        case "alive":
            end = "let go of it"  # it could write no end, as on a full disk
        case "gone":
            end = "is gone"
        case "of an earlier boot":
            end = "ended when this machine was restarted"
        case "on another machine":
            end = f"ran on {status.host}, and does not hold it any more"
    return f"this run was never ended: its process {status.pid} {end}; taking it over"


def _writer(directory: Path) -> str:
    """Who holds the lock, as far as the run's status says."""
    try:
        status = read_status(directory)
    except LabError:
        return "another process"  # which has not written a status yet
    if status.is_live:
        return f"process {status.pid}"
    if status.state == "running" and status.writer == "on another machine":
        return f"process {status.pid} on {status.host}"
    return "another process"
