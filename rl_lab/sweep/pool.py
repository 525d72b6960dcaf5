"""A sweep's runs: a process each, some at once, on this machine or wherever else an executor starts them.

What a run comes to is read from its folder and its exit status, never from what it prints: that goes to its log.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from rl_lab.checkpoint import checkpoints
from rl_lab.errors import LabError, ResumableError, printable
from rl_lab.lock import writer_of
from rl_lab.records import is_finished, read_status
from rl_lab.sweep.cost import Measurement, jobs_that_fit
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.standing import require_planned
from rl_lab.system import available_memory_bytes, num_cores, signals_to
from rl_lab.watchdog import how_it_ended

RL_LAB = (sys.executable, "-m", "rl_lab")
_NOT_RETRIED = (LabError.exit_status, ResumableError.exit_status)
"""A mistake stays one; and who stopped a run, be it a full disk, has not asked for it to go on."""
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_MOST_LOSSES = 3
"""Of the machines that make a run, without a new checkpoint between."""
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
    is_resumable: bool
    """Whether something outside stopped it, such as a full disk or its other writer: the run itself did not fail."""


@dataclass(frozen=True)
class SweepOutcome:
    """What became of the runs that were to be made."""

    finished: int
    failures: tuple[Failure, ...]
    stop_signal: int
    """The signal that stopped the sweep; 0 if it came to its end."""
    late_signal: int
    """The signal that came too late to stop anything; 0 if none did."""


@dataclass(frozen=True)
class End:
    """How a process ended."""

    status: int
    """The exit status, or the negative number of the signal it died of."""
    lost: str = ""
    """Why nobody knows, in one line: the machine that made the run is gone. That is no fault of the run's."""


class Process(Protocol):
    """Makes a run."""

    def poll(self) -> End | None:
        """None while it runs; OSError where this machine's disk refuses what it made."""

    def terminate(self) -> None:
        """Ask it to stop; a second time, at once."""

    def wait(self) -> None:
        """Until it has ended."""


class Executor(Protocol):
    """Where runs are made."""

    def reserve(self, measured: Mapping[str, Measurement]) -> None:
        """What runs need, by experiment; LabError where there is too little for one, or for as many as asked for."""

    def room(self, runs: Sequence[PlannedRun]) -> int:
        """How many of these can be made at once: it may change while they are."""

    def free_memory_bytes(self) -> int:
        """For runs."""

    def start(self, run: PlannedRun, log: Path) -> Process:
        """Start the run, or go on with it; what it prints is added to the log."""


class LocalProcesses:
    """Runs on this machine."""

    def __init__(self, runs: Sequence[PlannedRun], jobs: int | None, program: Sequence[str] = RL_LAB) -> None:
        """`jobs` None is one a core, as far as memory goes; `program` takes the words of a run's command."""
        self._runs = runs
        self._asked = jobs
        self._jobs = min(jobs or num_cores(), len(runs))
        self._program = program

    def reserve(self, measured: Mapping[str, Measurement]) -> None:
        """By memory: cores can be shared."""
        memory = [measured[run.config.name].memory_bytes for run in self._runs]
        self._jobs = jobs_that_fit(memory, self._asked, self.free_memory_bytes())

    def room(self, runs: Sequence[PlannedRun]) -> int:
        """The same all the time."""
        return self._jobs

    def free_memory_bytes(self) -> int:
        """Now."""
        return available_memory_bytes()

    def start(self, run: PlannedRun, log: Path) -> Process:
        """A child of this process."""
        with log.open("ab") as output:
            # In a group of its own a terminal's Ctrl-C does not reach it: it is asked to stop from here, and once.
            return _LocalProcess(
                subprocess.Popen(
                    (*self._program, *run.command()),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                )
            )


@dataclass(frozen=True)
class _LocalProcess:
    process: subprocess.Popen[bytes]

    def poll(self) -> End | None:
        return None if (status := self.process.poll()) is None else End(status)

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        self.process.wait()


@dataclass
class _Child:
    """A process that makes a run."""

    run: PlannedRun
    process: Process
    stops: int = 0
    """How often it was asked to stop."""


@dataclass
class Pool:
    """Makes the runs, in the given order."""

    runs: Sequence[PlannedRun]
    executor: Executor
    logs: Path
    """The folder for what each run prints."""
    watcher: Watcher
    retries: int
    """How often a run that failed goes on from its checkpoint."""
    _waiting: deque[PlannedRun] = field(init=False)
    _running: list[_Child] = field(init=False, default_factory=list)
    _failed_tries: Counter[Path] = field(init=False, default_factory=Counter)
    _losses: dict[Path, list[str]] = field(init=False, default_factory=dict)
    """Of a run whose machine was gone, since it last had a new checkpoint: the one that it had."""
    _failures: list[Failure] = field(init=False, default_factory=list)
    _finished: int = field(init=False, default=0)
    _signals: list[int] = field(init=False, default_factory=list)

    def run(self) -> SweepOutcome:
        """Until all are made, or the process is asked to stop: then each run is, and leaves a checkpoint."""
        self._waiting = deque(self.runs)
        with signals_to(self._note, _STOPPING), self._none_left_behind():
            while self._running or (self._waiting and not self._signals):
                while self._waiting and len(self._running) < self._room() and not self._signals:
                    self._start(self._waiting.popleft())
                self._pass_signals_on()
                self.watcher.on_look([child.run for child in self._running], len(self._waiting))
                time.sleep(_LOOK_SECONDS)
                for child in list(self._running):
                    if (end := child.process.poll()) is not None:
                        self._running.remove(child)
                        self._end(child, end)
        is_whole = self._finished + len(self._failures) == len(self.runs)  # a signal may come too late to stop anything
        last_signal = self._signals[-1] if self._signals else 0
        return SweepOutcome(
            self._finished,
            tuple(self._failures),
            stop_signal=0 if is_whole else last_signal,
            late_signal=last_signal if is_whole else 0,
        )

    def _room(self) -> int:
        """For so many of those that are not finished."""
        return self.executor.room([*(child.run for child in self._running), *self._waiting])

    def _start(self, run: PlannedRun) -> None:
        if not run.keeps_state and is_finished(run.directory):  # by another process, and would be made anew
            self._finish(run)
            return
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        is_resumed = run.can_go_on
        self._running.append(_Child(run, self.executor.start(run, log)))
        self.watcher.on_start(run, is_resumed=is_resumed)

    def _pass_signals_on(self) -> None:
        """Ask each run to stop as often as this process was asked: a second time stops an agent that is stuck."""
        for child in self._running:
            while child.stops < len(self._signals):
                child.process.terminate()
                child.stops += 1

    def _end(self, child: _Child, end: End) -> None:
        """See to a run whose process has ended."""
        run, status = child.run, end.status
        if not end.lost and (status == 0 or is_finished(run.directory)):
            # C++ can still crash, and a signal come, as the process leaves.
            self._finish(run)
            return
        if child.stops and not end.lost and status in (ResumableError.exit_status, -signal.SIGTERM):
            return
        # Seen at once: until the other runs have ended, the other process may have, too.
        writer = writer_of(run.directory) if status == LabError.exit_status and not end.lost else ""
        left = writer and f"left to {writer}, which is writing to it; wait for its end or stop it"
        reason = end.lost or left or self._reason(run, status)
        if self._signals or not self._may_go_on(run, end):
            self._fail(run, reason, is_resumable=bool(left) or status == ResumableError.exit_status)
        else:
            self._waiting.appendleft(run)
            self.watcher.on_retry(run, reason)

    def _finish(self, run: PlannedRun) -> None:
        """Count the run as finished if it is the planned one: its process read the config anew."""
        try:
            require_planned(run)
        except LabError as error:
            self._fail(run, str(error), is_resumable=False)
            return
        self._finished += 1
        self.watcher.on_finish(run)

    def _fail(self, run: PlannedRun, reason: str, *, is_resumable: bool) -> None:
        self._failures.append(Failure(run, reason, self._log(run), is_resumable))
        self.watcher.on_failure(self._failures[-1])

    def _may_go_on(self, run: PlannedRun, end: End) -> bool:
        """Whether the run is tried again: as often as allowed, and whenever a machine was lost, while that leads on."""
        if not end.lost:
            self._failed_tries[run.directory] += 1
            return end.status not in _NOT_RETRIED and self._failed_tries[run.directory] <= self.retries
        saved = checkpoints(run.directory) if run.keeps_state else []
        newest = next((path.name for path in reversed(saved)), "")
        losses = self._losses.setdefault(run.directory, [])
        if newest not in losses:
            losses.clear()
        losses.append(newest)
        return len(losses) < _MOST_LOSSES

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
