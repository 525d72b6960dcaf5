"""A sweep on one machine: a process a run, as many at once as asked for.

What a run comes to is read from its folder and its exit status, never from what it prints: that goes to its log.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from rl_lab.errors import LabError, ResumableError, printable
from rl_lab.records import read_status
from rl_lab.sweep.plan import PlannedRun
from rl_lab.system import signals_to
from rl_lab.watchdog import how_it_ended

RL_LAB = (sys.executable, "-m", "rl_lab")
_NOT_RETRIED = (LabError.exit_status, ResumableError.exit_status)
"""A mistake stays one; and who stopped a run, be it a full disk, has not asked for it to go on."""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LOOK_SECONDS = 0.2
_MAX_LOG_BYTES = 10_000
"""Of the end of a log, where the reason is looked for."""


class Watcher(Protocol):
    """Shows a sweep to people."""

    def on_start(self, run: PlannedRun, *, is_resumed: bool) -> None:
        """A process begins the run, or goes on with it."""

    def on_finish(self, run: PlannedRun) -> None:
        """The run is finished."""

    def on_retry(self, run: PlannedRun, reason: str) -> None:
        """The run failed, and will go on from its last checkpoint."""

    def on_failure(self, failure: Failure) -> None:
        """The run failed for good."""

    def on_look(self, running: Sequence[PlannedRun], waiting: int) -> None:
        """Several times a second."""


@dataclass(frozen=True)
class Failure:
    """A run that is not finished, and would not be by another try."""

    run: PlannedRun
    reason: str
    log: Path


@dataclass(frozen=True)
class SweepOutcome:
    """What became of the runs that were to be made."""

    finished: int
    failures: tuple[Failure, ...]
    stop_signal: int
    """The signal that stopped the sweep; 0 if it came to its end."""


@dataclass
class _Child:
    """A process that makes a run."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    stops: int = 0
    """How often it was asked to stop."""


@dataclass
class Pool:
    """Makes the runs, in the given order."""

    runs: Sequence[PlannedRun]
    jobs: int
    """Processes at once."""
    logs: Path
    """The folder for what each run prints."""
    watcher: Watcher
    retries: int
    """How often a run that failed goes on from its checkpoint."""
    program: Sequence[str] = RL_LAB
    """What takes the words of a run's command."""
    _waiting: deque[PlannedRun] = field(init=False)
    _running: list[_Child] = field(init=False, default_factory=list)
    _tries: dict[Path, int] = field(init=False, default_factory=dict)
    _failures: list[Failure] = field(init=False, default_factory=list)
    _finished: int = field(init=False, default=0)
    _signals: list[int] = field(init=False, default_factory=list)

    def run(self) -> SweepOutcome:
        """Until all are made, or the process is asked to stop: then each run is, and leaves a checkpoint."""
        self._waiting = deque(self.runs)
        with signals_to(self._note, _STOPPING), self._none_left_behind():
            while self._running or (self._waiting and not self._signals):
                while self._waiting and len(self._running) < self.jobs and not self._signals:
                    self._start(self._waiting.popleft())
                self._pass_signals_on()
                self.watcher.on_look([child.run for child in self._running], len(self._waiting))
                time.sleep(_LOOK_SECONDS)
                for child in [child for child in self._running if child.process.poll() is not None]:
                    self._running.remove(child)
                    self._end(child)
        is_whole = self._finished + len(self._failures) == len(self.runs)  # a signal may come too late to stop anything
        return SweepOutcome(self._finished, tuple(self._failures), 0 if is_whole else self._signals[-1])

    def _start(self, run: PlannedRun) -> None:
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._tries[run.directory] = self._tries.get(run.directory, 0) + 1
        command = run.command()
        with log.open("ab") as output:
            # In a group of its own a terminal's Ctrl-C does not reach it: it is asked to stop from here, and once.
            process = subprocess.Popen(
                (*self.program, *command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )
        self._running.append(_Child(run, process))
        self.watcher.on_start(run, is_resumed="--resume" in command)

    def _pass_signals_on(self) -> None:
        """Ask each run to stop as often as this process was asked: a second time stops an agent that is stuck."""
        for child in self._running:
            while child.stops < len(self._signals):
                child.process.terminate()
                child.stops += 1

    def _end(self, child: _Child) -> None:
        """See to a run whose process has ended."""
        run, status = child.run, child.process.returncode
        if status == 0 or is_finished(run.directory):  # C++ can still crash, and a signal come, as the process leaves
            self._finished += 1
            self.watcher.on_finish(run)
            return
        if child.stops and status in (ResumableError.exit_status, -signal.SIGTERM):
            return
        reason = self._reason(run, status)
        if status in _NOT_RETRIED or self._signals or self._tries[run.directory] > self.retries:
            self._failures.append(Failure(run, reason, self._log(run)))
            self.watcher.on_failure(self._failures[-1])
        else:
            self._waiting.appendleft(run)
            self.watcher.on_retry(run, reason)

    def _reason(self, run: PlannedRun, status: int) -> str:
        """Why the process ended, in one line."""
        if status == ResumableError.exit_status:
            try:
                return f"interrupted: {printable(read_status(run.directory).reason)}"
            except LabError:
                pass  # the log's last line says it, too
        if status < 0:
            return how_it_ended(status)
        with self._log(run).open("rb") as log:
            log.seek(max(log.seek(0, 2) - _MAX_LOG_BYTES, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return printable(lines[-1].removeprefix("rl-lab: ")) if lines else how_it_ended(status)

    def _log(self, run: PlannedRun) -> Path:
        config = run.config
        return self.logs / config.game / config.name / f"seed-{config.seed}.log"

    @contextmanager
    def _none_left_behind(self) -> Iterator[None]:
        """Processes still there at an error, as when the reader of our output has left, stop before it goes further."""
        try:
            yield
        finally:
            for child in self._running:
                if not child.stops:  # asked twice it would stop at once, without a checkpoint
                    child.process.terminate()
            for child in self._running:
                child.process.wait()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._signals.append(number)


def is_finished(directory: Path) -> bool:
    """Whether the run of that folder says so itself."""
    try:
        return read_status(directory).state == "finished"
    except LabError:
        return False
