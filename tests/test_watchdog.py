"""Real processes that are stuck, busy or stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_lab.watchdog import STALLED

BEGIN = """
import pathlib, sys, threading, time
from rl_lab import watchdog
directory = pathlib.Path(sys.argv[1])
watchdog._PATIENCE_SECONDS = 0.5
def watch(on_stall=lambda reason: (directory / "status.json").write_text(reason), seconds=0.5):
    command = "rl-lab train --resume RUN"
    return watchdog.Watchdog(directory, on_stall, seconds=seconds, resume_command=command, wake_seconds=0.05)
"""

STUCK_EMULATORS = """
from ale_py.vector_env import AtariVectorEnv
emulators = AtariVectorEnv("pong", 1)
emulators.reset()
with watch():
    emulators.recv()  # was never sent to: beyond Ctrl-C
"""

REASON = "stalled: no step of the emulators for 0.5 s"


def start(script: str, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BEGIN + script, str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, directory: Path) -> tuple[int, str]:
    """The exit status, and what was said on stderr."""
    with start(script, directory) as process:
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_stuck_emulators_end_the_process_and_leave_where_they_were_stuck(tmp_path: Path) -> None:
    status, errors = run(STUCK_EMULATORS, tmp_path)
    assert status == STALLED == 70
    stacks = (tmp_path / "stalled.txt").read_text()
    for place in (stacks, errors):
        assert "vector_env.py" in place
        assert " in recv" in place
    assert (tmp_path / "status.json").read_text() == REASON
    assert errors.splitlines()[-1] == f"rl-lab: {REASON}; go on from the last checkpoint: rl-lab train --resume RUN"


@pytest.mark.parametrize(
    "on_stall",
    [
        "lock.acquire()",  # which the stuck thread holds
        "1 / 0",
        "directory.rename(directory / 'absent' / 'folder')",
    ],
)
def test_no_failure_of_the_last_acts_keeps_the_process_alive(on_stall: str, tmp_path: Path) -> None:
    script = f"""
lock = threading.Lock()
with lock, watch(lambda reason: {on_stall}):
    time.sleep(600)
"""
    status, errors = run(script, tmp_path)
    assert status == STALLED
    assert REASON in errors.splitlines()[-1]
    assert "time.sleep" not in errors
    assert (tmp_path / "stalled.txt").read_text()


def test_a_run_directory_that_is_gone_keeps_no_process_alive(tmp_path: Path) -> None:
    status, errors = run("with watch(print):\n    time.sleep(600)", tmp_path / "absent")
    assert status == STALLED
    assert REASON in errors.splitlines()[-1]


def test_a_beating_process_is_left_alone(tmp_path: Path) -> None:
    script = """
with watch() as dog:
    for _ in range(100):
        time.sleep(0.01)  # 1 s in all, twice what may pass without a beat
        dog.beat()
time.sleep(1)  # nobody watches any more
"""
    assert run(script, tmp_path) == (0, "")
    assert not (tmp_path / "stalled.txt").exists()


def test_an_error_passes_and_ends_the_watch(tmp_path: Path) -> None:
    status, errors = run("with watch():\n    raise ZeroDivisionError('by design')", tmp_path)
    assert status == 1
    assert "by design" in errors.splitlines()[-1]


def test_time_in_which_the_whole_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    script = """
with watch(seconds=2.0) as dog:
    for line in sys.stdin:  # without a beat
        print(line, end="", flush=True)
"""
    with start(script, tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("before\n")
        process.stdin.flush()
        assert process.stdout.readline() == "before\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # as a laptop that is shut: nothing to wait for but the time itself
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        output, errors = process.communicate("after\n", timeout=60)
    assert (process.returncode, output, errors) == (0, "after\n", "")
