"""Ends a process whose emulators are stuck.

ale-py's C++ vector environment can wait for ever where Ctrl-C does not reach it: Python runs a signal's handler only
between two of its own instructions. But it releases the interpreter while it waits, so a thread can see that nothing
moves. What holds the interpreter for ever would also hold this thread, and is not noticed.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

STALLED = 70
"""Exit status of a stalled process: EX_SOFTWARE of sysexits.h."""

_PATIENCE_SECONDS = 5
"""For each of the last acts: a full pipe or a lock that the stuck thread holds must not keep the process alive."""


def how_it_ended(returncode: int) -> str:
    """How a process that trained ended, in words; a negative number is the signal that it died of."""
    if returncode == STALLED:
        return f"stalled (exit status {STALLED})"
    if returncode >= 0:
        return f"failed (exit status {returncode})"
    hint = ", as the system does when memory runs out" if returncode == -signal.SIGKILL else ""
    return f"was ended by signal {-returncode}, {signal.strsignal(-returncode)}{hint}"


class Watchdog:
    """Ends the process with status `STALLED` when `seconds` pass between two beats.

    First it writes all threads' stacks into `stalled.txt` in the run's directory and to stderr, with the command that
    goes on, and calls `on_stall` in a thread of its own with the reason in one line.
    """

    def __init__(
        self,
        directory: Path,
        on_stall: Callable[[str], object],
        *,
        seconds: float,
        resume_command: str,
        wake_seconds: float = 1.0,
    ) -> None:
        self._directory = directory
        self._on_stall = on_stall
        self._resume_command = resume_command
        self._seconds = seconds
        self._wake_seconds = wake_seconds
        self._beats = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """The emulators moved. Costs an addition."""
        self._beats += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        """Count the times of waking up without a beat, not the clock: it goes on while the whole process is stopped."""
        beats, idle = self._beats, 0
        while not self._is_over.wait(self._wake_seconds):
            idle = idle + 1 if self._beats == beats else 0
            beats = self._beats
            if idle * self._wake_seconds >= self._seconds:
                self._end()

    def _end(self) -> None:
        """Leave what helps to find the cause, as far as that works, and end the process whatever happens."""
        reason = f"stalled: no step of the emulators for {self._seconds:g} s"
        try:
            for act in (self._write_stacks, lambda: self._on_stall(reason), lambda: self._tell(reason)):
                thread = threading.Thread(target=act, daemon=True)
                thread.start()
                thread.join(_PATIENCE_SECONDS)
        finally:
            os._exit(STALLED)

    def _write_stacks(self) -> None:
        with (self._directory / "stalled.txt").open("w") as file:
            faulthandler.dump_traceback(file)

    def _tell(self, reason: str) -> None:
        if sys.__stderr__ is None:  # started with stderr closed: its number may be another file's
            return
        # Straight to the descriptor: the stuck thread may hold the lock of sys.stderr.
        stderr = sys.__stderr__.fileno()
        faulthandler.dump_traceback(stderr)
        os.write(stderr, f"rl-lab: {reason}; go on from the last checkpoint: {self._resume_command}\n".encode())
