"""Children that crash, and the processes that start them again: small scripts in place of training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rl_lab.cli.main import main
from rl_lab.cli.supervise import supervise, without_supervision
from rl_lab.records import read_status

CHILD = """
import json, os, pathlib, sys
from rl_lab.records import Status
run = pathlib.Path("run")
with open("starts.jsonl", "a") as starts:
    print(json.dumps(sys.argv[1:]), file=starts)
count = len(open("starts.jsonl").readlines())
def make_run():
    run.mkdir(exist_ok=True)
    (run / "config.toml").write_text("")
def finish():
    status = Status.of_this_process("finished", steps=1, frames=4)
    (run / "status.new").write_text(json.dumps(vars(status)))
    (run / "status.new").replace(run / "status.json")
def die(signal_number):
    os.kill(os.getpid(), signal_number)
"""

SUPERVISOR = """
import pathlib, sys
from rl_lab.cli.supervise import supervise, without_supervision
from rl_lab.records import read_status
sys.exit(supervise(["--seed", "1"], pathlib.Path("run"), 3, program=[sys.executable, sys.argv[1]]))
"""

LISTENER = """
import signal
def hear(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit({status})
signal.signal(signal.SIGINT, hear)
signal.signal(signal.SIGTERM, hear)
make_run()
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    script: str,
    restarts: int = 3,
    arguments: tuple[str, ...] = ("--seed", "1"),
    resume_flags: tuple[str, ...] = (),
    *,
    keeps_state: bool = True,
) -> int:
    """The exit status of a supervised script."""
    Path("child.py").write_text(CHILD + script)
    return supervise(
        arguments,
        Path("run"),
        restarts,
        resume_flags=resume_flags,
        keeps_state=keeps_state,
        program=(sys.executable, "child.py"),
    )


def starts() -> list[list[str]]:
    """The arguments of each child."""
    return [json.loads(line) for line in Path("starts.jsonl").read_text().splitlines()]


@contextmanager
def supervisor(script: str) -> Iterator[subprocess.Popen[str]]:
    """A supervising process in a process group of its own, as a shell starts it, and its child running."""
    Path("child.py").write_text(CHILD + script)
    command = [sys.executable, "-c", SUPERVISOR, "child.py"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        yield process


@pytest.mark.parametrize("folder", ["afile", "a" * 300])
@pytest.mark.parametrize("arguments", [["--agent", "uniform", "--runs"], ["--resume"]])
def test_a_folder_that_cannot_be_looked_into_is_the_childs_one_line(
    arguments: list[str], folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("afile").touch()
    assert main(["train", *arguments, folder, "--supervise"]) == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert errors.startswith("rl-lab: ")


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("status", [0, 2, 75, 128 + signal.SIGPIPE])
def test_a_child_that_did_not_crash_is_not_started_again(status: int) -> None:
    assert run(f"make_run(); sys.exit({status})") == status
    assert starts() == [["--seed", "1"]]


@pytest.mark.parametrize("end", ["sys.exit(1)", "sys.exit(70)", "die(9)", "die(11)", "die(6)", "die(15)", "die(40)"])
def test_a_crashed_child_is_resumed(end: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(f"make_run()\nif count < 3: {end}") == 0
    assert starts() == [["--seed", "1"], ["--resume", "run"], ["--resume", "run"]]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "resuming run (restarts left: 2)" in lines[0]
    assert "resuming run (restarts left: 1)" in lines[1]


def test_restarts_end_with_their_budget_and_the_last_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("make_run(); die(9)", restarts=2) == 128 + 9
    assert len(starts()) == 3
    last = capfd.readouterr().err.splitlines()[-1]
    assert "signal 9, Killed, as the system does when memory runs out; no restarts are left" in last


def test_a_resumed_run_gets_the_flags_that_it_does_not_remember() -> None:
    assert run("make_run()\nif count == 1: die(9)", resume_flags=("--agent", "mine.py")) == 0
    assert starts()[1] == ["--resume", "run", "--agent", "mine.py"]


def test_a_crashed_child_whose_agent_keeps_no_state_is_started_anew(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("make_run()\nif count == 1: die(9)", resume_flags=("--agent", "mine.py"), keeps_state=False) == 0
    assert starts() == [["--seed", "1"], ["--seed", "1", "--overwrite"]]
    assert "; starting run anew (restarts left: 2)" in capfd.readouterr().err


def test_a_child_that_died_before_it_made_its_run_is_not_started_again(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("die(11)") == 128 + 11
    assert len(starts()) == 1
    assert "signal 11, Segmentation fault before it began: nothing to resume" in capfd.readouterr().err


def test_an_older_run_that_was_to_be_overwritten_is_not_resumed_in_place_of_the_new_one() -> None:
    Path("run").mkdir()
    Path("run/config.toml").write_text("")
    assert run("die(11)", arguments=("--overwrite",)) == 128 + 11
    assert len(starts()) == 1


@pytest.mark.parametrize("arguments", [("--resume", "run", "--total-steps", "900"), ("--resume=run",)])
def test_a_resumed_run_is_resumed_again_with_the_same_arguments(arguments: tuple[str, ...]) -> None:
    Path("run").mkdir()
    Path("run/config.toml").write_text("")
    assert run("if count == 1: die(11)", arguments=arguments) == 0
    assert starts() == [list(arguments)] * 2


def test_a_child_that_crashes_as_it_leaves_a_finished_run_is_not_started_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run("make_run()\nif count == 2: finish()\ndie(11)") == 0
    assert starts() == [["--seed", "1"], ["--resume", "run"]]
    assert "signal 11, Segmentation fault when it had finished" in capfd.readouterr().err.splitlines()[-1]


def test_a_finished_run_whose_new_budget_was_not_begun_does_not_count_as_finished() -> None:
    larger = ("--resume", "run", "--total-steps", "900")
    assert run("make_run(); finish()") == 0
    assert run("if count == 2: die(11)", arguments=larger) == 0
    assert starts()[1:] == [list(larger)] * 2


def test_ctrl_c_of_the_whole_group_reaches_the_child_once_each_time() -> None:
    with supervisor(LISTENER.format(status=75)) as process:
        assert read_line(process).startswith("ready")
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            assert read_line(process) == "SIGINT"
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (75, "SIGTERM\n", "")
    assert len(starts()) == 1


def test_a_child_that_was_told_to_stop_is_not_started_again_however_it_ends() -> None:
    with supervisor(LISTENER.format(status=1)) as process:
        assert read_line(process).startswith("ready")
        process.terminate()
        assert process.wait(60) == 1
    assert len(starts()) == 1


def test_a_child_that_others_kill_is_started_again() -> None:
    with supervisor(LISTENER.format(status=75)) as process:
        first = int(read_line(process).split()[1])
        os.kill(first, signal.SIGKILL)
        second = int(read_line(process).split()[1])
        assert second != first
        process.terminate()
        assert process.wait(60) == 75


def test_ctrl_z_pauses_the_child_too_and_fg_wakes_both() -> None:
    with supervisor(LISTENER.format(status=75)) as process:
        both = [psutil.Process(process.pid), psutil.Process(int(read_line(process).split()[1]))]
        process.send_signal(signal.SIGTSTP)
        while [one.status() for one in both] != [psutil.STATUS_STOPPED] * 2:
            pass
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(60) == 75


def test_the_child_gets_all_arguments_in_order_but_those_of_supervision() -> None:
    own = [
        "dqn/quick",
        "--seed",
        "1",
        "--agent.learning-rate",
        "-1",
        "--overwrite",
        "--name",
        "x",
        "--without",
        "double",
        "n_step",
    ]
    given = [*own[:3], "--supervise", *own[3:], "--restarts", "5"]
    assert without_supervision(given) == own
    assert without_supervision(["--restarts=5", *own]) == own


def test_a_supervised_training_is_a_run_like_any_other() -> None:
    tiny = "--agent uniform --game Breakout --total-steps 200 --iteration-steps 200 --num-games 2 --threads 1"
    rules = "--evaluation-episodes 1 --protocol.max-frames-per-episode 400"
    command = [sys.executable, "-m", "rl_lab", "train", *tiny.split(), *rules.split(), "--supervise"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_status(Path("runs/Breakout/uniform-on-dqn-quick/seed-0")).state == "finished"
