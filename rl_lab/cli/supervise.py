"""A run that outlives its process: `train --supervise` trains in a child, and in a new one when that crashes.

Emulators and kernels are C++: they can crash the process, and the system kills it when memory runs out; no code in it
can help then.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rl_lab.cli.main import Parser
from rl_lab.errors import LabError, ResumableError
from rl_lab.records import is_finished
from rl_lab.system import signals_to
from rl_lab.watchdog import how_it_ended

TRAIN = (sys.executable, "-m", "rl_lab", "train")
_READER_LEFT = 128 + signal.SIGPIPE
"""Nobody reads the output any more: the next child would end as this one did."""
_NOT_CRASHED = (0, LabError.exit_status, ResumableError.exit_status, _READER_LEFT)

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PAUSING = (signal.SIGTSTP, signal.SIGCONT)


def add_supervision(parser: argparse.ArgumentParser) -> None:
    """The flags --supervise and --restarts."""
    parser.add_argument("--supervise", action="store_true", help="train in a child, and resume the run if it crashes")
    parser.add_argument(
        "--restarts", type=int, default=3, metavar="INTEGER", help="with --supervise: resume so many times (3)"
    )


def without_supervision(arguments: Sequence[str]) -> list[str]:
    """The arguments of `rl-lab train` without these flags: the child's."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_supervision(parser)
    return parser.parse_known_args(arguments)[1]


def goes_on(arguments: Sequence[str]) -> bool:
    """Whether the arguments of `rl-lab train` name a run to go on with."""
    return any(argument.partition("=")[0] == "--resume" for argument in arguments)


def supervise(
    arguments: Sequence[str],
    run_directory: Path,
    restarts: int,
    *,
    resume_flags: Sequence[str] = (),
    keeps_state: bool = True,
    program: Sequence[str] = TRAIN,
) -> int:
    """Run `program` with the arguments in a child, and after a crash with --resume, up to `restarts` times.

    The last child's exit status, as a shell gives it, or 0 if it crashed as it left a finished run. `resume_flags` are
    those that a run does not remember; one whose agent does not keep its state is started anew instead.
    """
    if restarts < 0:
        raise LabError(f"restarts are {restarts}; allowed is 0 or more")
    config, record = run_directory / "config.toml", run_directory / "status.json"
    config_before, record_before = _identity(config), _identity(record)
    is_resumed = goes_on(arguments)
    resume = arguments if is_resumed else ("--resume", str(run_directory), *resume_flags)
    again = resume if keeps_state else (*arguments, "--overwrite")
    how = f"resuming {run_directory}" if keeps_state else f"starting {run_directory} anew"
    command = [*program, *arguments]
    child = _Child()
    with signals_to(child.pass_on, (*_STOPPING, *_PAUSING)):
        while True:
            returncode = child.run(command)
            status = returncode if returncode >= 0 else 128 - returncode
            if child.was_stopped or status in _NOT_CRASHED:
                return status
            # An older run that --overwrite was to delete is not to be resumed in the new one's place.
            if not is_resumed and _identity(config) in (None, config_before):
                _say(f"the run {how_it_ended(returncode)} before it began: nothing to resume")
                return status
            # A finished run whose larger budget was not begun still says so: that record is the old one.
            if is_finished(run_directory) and _identity(record) != record_before:
                _say(f"the run {how_it_ended(returncode)} when it had finished")
                return 0
            if restarts == 0:
                _say(f"the run {how_it_ended(returncode)}; no restarts are left")
                return status
            restarts -= 1
            _say(f"the run {how_it_ended(returncode)}; {how} (restarts left: {restarts})")
            command = [*program, *again]


class _Child:
    """The process that trains, in a process group of its own.

    A terminal sends Ctrl-C to the group in its foreground: that is this process alone, so that the child gets a signal
    only from here, and once.
    """

    def __init__(self) -> None:
        self.was_stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        """Signals that came while there was no child to take them."""

    def run(self, command: Sequence[str]) -> int:
        """Its exit status; of a signal it died of, the negative number."""
        # Outside the terminal's foreground, reading from it would pause the child.
        with subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL) as process:
            self._process = process
            while self._early:
                process.send_signal(self._early.pop(0))
            returncode = process.wait()
            self._process = None
        return returncode

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.was_stopped = self.was_stopped or number in _STOPPING
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)  # Ctrl-Z: wait with the child for `fg`


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from an earlier one of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:  # nor can the child come to it, which says why
        return None
    return found.st_ino, found.st_mtime_ns


def _say(line: str) -> None:
    print(f"rl-lab: {line}", file=sys.stderr, flush=True)
