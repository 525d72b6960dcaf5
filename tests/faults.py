"""Faults for crash tests: processes that are killed, or refused an operation by the disk, at a chosen moment."""

from __future__ import annotations

import dataclasses
import errno
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import rl_lab.replay.saving
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.errors import ResumableError
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.storage import Storage
from tests.runs import Silent, resume, train
from tests.tiny import PROTOCOL, tiny_dqn, tiny_experiment

Fate = Literal["killed before", "killed within", "refused"]

_STEPS_PER_SEGMENT = 10
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def crash_experiment(total_steps: int, *, replay_capacity: int = 30) -> ExperimentConfig:
    """Iterations of 40 agent steps and an evaluation of 20, in half a second: most of it starts emulators.

    With a replay of 30 transitions segments of ten steps come and go. With 60, which an iteration does not overwrite,
    what is in a segment does not depend on when it was first saved.
    """
    protocol = dataclasses.replace(PROTOCOL, max_frames_per_episode=80, noop_max=0)
    agent = tiny_dqn(replay_capacity=replay_capacity, batch_size=16, learning_starts_steps=16, target_update_steps=50)
    return tiny_experiment(
        total_steps=total_steps,
        iteration_steps=40,
        num_games=1,
        evaluation_episodes=1,
        log_every_steps=2,
        protocol=protocol,
        agent=agent,
    )


def shrink_segments() -> None:
    """Let tiny runs of one game have several segments of a replay."""
    _, height, width = OBSERVATION_SHAPE
    rl_lab.replay.saving._SEGMENT_BYTES = _STEPS_PER_SEGMENT * height * width


class Crashes(Storage):
    """At each operation, copies of the process meet a fault in it; then the process itself goes on unharmed.

    A copy is made by os.fork: all that it lacks are threads, of which saving uses none. It dies by SIGKILL before the
    operation or with half of the data written, or the operation is refused, with half of the data written too.
    """

    def __init__(self, on_fault: Callable[[Fate, int], None]) -> None:
        """`on_fault` is called with what became of a copy, and its wait status."""
        self.operations: list[tuple[str, str]] = []
        """What was done, and the file's name."""
        self._on_fault = on_fault
        self._is_copy = False

    def run(self, go: Callable[[], object], resume_command: str) -> None:
        """Call what saves to this storage. Copies end in here, with the status that the command line gives."""
        try:
            go()
        except ResumableError as error:
            if self._is_copy:
                os._exit(error.exit_status if str(error).endswith(f"go on with {resume_command}") else 1)
            raise
        finally:
            if self._is_copy:
                os._exit(1)

    def crash(self) -> None:
        """Between two operations."""
        self._copy("killed before", lambda: None, OSError())

    def make_directory(self, path: Path) -> None:
        self._fault("make_directory", path, errno.ENOSPC)
        super().make_directory(path)

    def write(self, path: Path, data: bytes) -> None:
        write = super().write
        self._fault("write", path, errno.ENOSPC, lambda: write(path, data[: len(data) // 2]))
        write(path, data)

    def sync(self, path: Path) -> None:
        self._fault("sync", path, errno.EIO)
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._fault("rename", new, errno.ENOSPC)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._fault("remove", path, errno.EIO)
        super().remove(path)

    def _fault(self, operation: str, path: Path, number: int, half: Callable[[], object] | None = None) -> None:
        self.operations.append((operation, path.name))
        refusal = OSError(number, os.strerror(number), str(path))
        self._copy("killed before", lambda: None, refusal)
        if half is not None:
            self._copy("killed within", half, refusal)
        self._copy("refused", half or (lambda: None), refusal)

    def _copy(self, fate: Fate, half: Callable[[], object], refusal: OSError) -> None:
        child = 0 if self._is_copy else os.fork()
        if child:
            self._on_fault(fate, os.waitpid(child, 0)[1])
            return
        self._is_copy = True
        gc.disable()  # emulators in garbage would join threads that only the process itself has, and crash
        half()
        if fate != "refused":
            os.kill(os.getpid(), signal.SIGKILL)
        raise refusal


def start_or_resume(config: Path, runs: Path, checkpoint_seconds: float) -> None:
    """What a user does with a run that may or may not have been begun. For a process of its own."""
    shrink_segments()
    warnings.filterwarnings("error", "skipped a damaged checkpoint")  # no kill leaves one
    experiment = load_experiment(config)
    run = directory(experiment, runs)
    if run.exists():
        resume(run, checkpoint_seconds=checkpoint_seconds)
    else:
        train(experiment, runs, checkpoint_seconds=checkpoint_seconds)


def start_until_killed(config: Path, runs: Path, *, resumes: bool, at: int) -> None:
    """Be killed before the `at`-th change to the disk, or end where training would begin. For a process of its own."""
    shrink_segments()
    experiment = load_experiment(config)
    changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        opens = event == "open" and str(arguments[0]).startswith(str(runs)) and _writes(arguments[2])
        if opens or event in _CHANGES:
            changes += 1
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    if resumes:
        resume(directory(experiment, runs), reporter=_Ends())
    else:
        train(experiment, runs, overwrite=True, reporter=_Ends())


def directory(config: ExperimentConfig, runs: Path) -> Path:
    """Of the run."""
    return runs / config.game / config.name / f"seed-{config.seed}"


class _Ends(Silent):
    """Ends the process when a run has started."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        os._exit(0)


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) != 0
