"""The real `rl-lab` in processes of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tiny import tiny_experiment

RL_LAB = (sys.executable, "-m", "rl_lab")
_TIMEOUT_SECONDS = 300


def write_config(folder: Path, **changes: object) -> Path:
    """A tiny experiment as a file."""
    path = folder / "tiny.toml"
    path.write_text(tiny_experiment(**changes).to_toml())
    return path


def rl_lab(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    command = [*RL_LAB, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)


@contextmanager
def started(
    *command: object, stdout: int = subprocess.PIPE, start_new_session: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test; in a session of its own it leads a group, as in a terminal."""
    words = [str(word) for word in command]
    with subprocess.Popen(
        words, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=start_new_session
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a process that ends by itself."""
    output, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    return process.returncode, output, errors


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds, while the process runs."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_lines(path: Path, count: int = 1) -> bool:
    """Whether so many lines of a record are written."""
    return path.exists() and path.read_bytes().count(b"\n") >= count
