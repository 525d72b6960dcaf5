"""Real processes that are told to stop, killed or stuck, wherever they stand: their runs go on as if never stopped."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.checkpoint import newest_checkpoint
from rl_lab.cli.main import main
from rl_lab.cli.progress import BarReporter
from rl_lab.errors import LabWarning
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.records import read_status
from rl_lab.storage import Storage
from rl_lab.watchdog import STALLED
from tests.processes import RL_LAB, ended, has_lines, rl_lab, started, wait_until, write_config
from tests.runs import resume, train, what_it_came_to
from tests.test_resume import tiny_sb3
from tests.tiny import tiny_dqn, tiny_experiment

UNIFORM = load_agent("uniform").Config(name="uniform")
needs_a_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full here")

STUCK = """
import time
from pathlib import Path

from rl_lab.agent import load_agent


class Stuck(load_agent("uniform")):
    def train(self, env, steps, log):
        while env.steps < steps and not env.pause_requested:
            super().train(env, env.steps + env.num_games, log)
            while env.steps >= 100 and Path(__file__).with_name("obstacle").exists():
                time.sleep(0.01)
"""

STALLS = """
import sys
from pathlib import Path
from rl_lab.cli.progress import LineReporter
from rl_lab.errors import LabWarning
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.training import Conduct, run_experiment

config = load_experiment(Path(sys.argv[1]), agent=sys.argv[2])
conduct = Conduct(reporter=LineReporter(sys.stdout), checkpoint_seconds=0, stall_seconds=1)
run_experiment(config, Path(sys.argv[3]), overwrite=False, conduct=conduct)
"""


@functools.cache
def undisturbed(config: ExperimentConfig) -> dict[str, Any]:
    """What a run comes to that nobody stops."""
    with tempfile.TemporaryDirectory() as runs:
        return what_it_came_to(train(config, Path(runs)).run)


class StuckRun:
    """A run whose agent is stuck after 100 steps, as long as there is an obstacle."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.agent, self.obstacle = folder / "stuck.py", folder / "obstacle"
        self.agent.write_text(STUCK)
        self.obstacle.touch()
        self.config = write_config(folder, agent=UNIFORM, log_every_steps=10)
        self.runs = runs
        self.run = runs / "Breakout" / "stuck-on-tiny" / "seed-0"
        self.command = (*RL_LAB, "train", self.config, "--agent", self.agent, "--runs", runs)

    def is_stuck(self) -> bool:
        return has_lines(self.run / "metrics.jsonl", 10 - 1)  # a step's point is written before the next one

    def goes_on_as_if_never_stopped(self) -> bool:
        """Once the obstacle is gone."""
        self.obstacle.unlink()
        resume(self.run, agent_file=str(self.agent))
        return what_it_came_to(self.run) == undisturbed(load_experiment(self.config, agent=str(self.agent)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the stuck agent: its path is part of what is compared."""
    return tmp_path_factory.mktemp("stuck")


@pytest.fixture
def stuck(folder: Path, tmp_path: Path) -> StuckRun:
    return StuckRun(folder, tmp_path)


@dataclasses.dataclass
class SignalsItself(Storage):
    """Sends its own process signals right before an operation on some path."""

    operation: str
    place: str
    signals: list[signal.Signals]

    def write(self, path: Path, data: bytes) -> None:
        self._reach("write", path)
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self._reach("rename", old)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._reach("remove", path)
        super().remove(path)

    def _reach(self, operation: str, path: Path) -> None:
        while operation == self.operation and self.place in path.as_posix() and self.signals:
            os.kill(os.getpid(), self.signals.pop())


@pytest.mark.parametrize(
    ("agent", "number", "loss"),
    [
        (tiny_dqn(), signal.SIGTERM, "nothing is lost"),
        (tiny_sb3(), signal.SIGINT, "agent steps will be played again"),  # can only be left between iterations
    ],
    ids=["dqn", "sb3_dqn"],
)
def test_a_process_told_to_stop_says_what_is_lost_and_how_to_go_on(
    agent: AgentConfig, number: signal.Signals, loss: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, agent=agent, log_every_steps=10)
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(*RL_LAB, "train", config, "--runs", tmp_path) as process:
        wait_until(lambda: has_lines(run / "metrics.jsonl", 22), process)  # in the second iteration
        process.send_signal(number)
        status, output, errors = ended(process)
    assert (status, errors) == (75, "")
    assert loss in output
    assert f"\ngo on:      rl-lab train --resume {run}\n" in output
    assert (read_status(run).state, read_status(run).reason) == ("interrupted", number.name)
    resume(run)
    assert what_it_came_to(run) == undisturbed(load_experiment(config))


def test_a_second_signal_stops_a_stuck_agent_at_once(stuck: StuckRun) -> None:
    with started(*stuck.command, "--checkpoint-minutes", "0.00001") as process:
        wait_until(stuck.is_stuck, process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        status, output, errors = ended(process)
    assert (status, errors) == (75, "")
    assert f"go on:      rl-lab train --resume {stuck.run} --agent {stuck.agent}\n" in output
    checkpoint, problems = newest_checkpoint(stuck.run, resumable=True)
    assert (checkpoint.name < "000000000408", problems) == (True, [])
    assert stuck.goes_on_as_if_never_stopped()


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("operation", "place", "newest"),
    [
        ("write", "000000001200.partial/manifest.json", "000000000800"),
        ("rename", "000000001200.partial", "000000000800"),
        ("remove", "000000000400.partial", "000000001200"),  # the new one is in its place
    ],
)
def test_signals_within_a_save_leave_whole_checkpoints(
    operation: str, place: str, newest: str, signals: list[signal.Signals], tmp_path: Path
) -> None:
    config = tiny_experiment(agent=UNIFORM, iteration_steps=100, log_every_steps=50)
    storage = SignalsItself(operation, place, list(signals))
    outcome = train(config, tmp_path, storage=storage)
    assert (outcome.stop_signal, storage.signals) == (signals[-1], [])
    checkpoint, problems = newest_checkpoint(outcome.run, resumable=True)
    assert problems == []
    if len(signals) == 1:  # the save was completed, and one more step played
        assert (checkpoint.name, outcome.lost_steps) == ("000000001208", 0)
    else:
        assert checkpoint.name == newest
    resume(outcome.run)
    assert what_it_came_to(outcome.run) == undisturbed(config)


def test_a_killed_process_under_supervision_is_resumed_by_itself(tmp_path: Path) -> None:
    config = write_config(tmp_path, log_every_steps=10)
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(*RL_LAB, "train", config, "--runs", tmp_path, "--supervise") as process:
        wait_until(lambda: has_lines(run / "metrics.jsonl", 22), process)
        (child,) = psutil.Process(process.pid).children()
        child.kill()
        status, _, errors = ended(process)
    killed, taken_over = errors.splitlines()
    assert status == 0
    assert killed.startswith("rl-lab: the run was ended by signal 9, Killed")
    assert killed.endswith(f"; resuming {run} (restarts left: 2)")
    assert f"its process {child.pid} is gone; taking it over" in taken_over
    assert what_it_came_to(run) == undisturbed(load_experiment(config))


def test_a_stalled_process_ends_is_shown_as_failed_and_goes_on(
    stuck: StuckRun, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(sys.executable, "-c", STALLS, stuck.config, stuck.agent, stuck.runs) as process:
        status, _, errors = ended(process)
    assert status == STALLED == 70
    assert errors.endswith(f"go on from the last checkpoint: rl-lab train --resume {stuck.run} --agent {stuck.agent}\n")
    assert main(["list", "runs", "--runs", str(stuck.runs)]) == 0
    assert "failed (stalled: no step of the emulators for 1 s)\n" in capsys.readouterr().out
    assert stuck.goes_on_as_if_never_stopped()


def test_a_live_run_is_refused_to_others_and_taken_over_when_its_process_was_killed(stuck: StuckRun) -> None:
    with started(*stuck.command) as process:
        wait_until(stuck.is_stuck, process)
        refused = rl_lab("train", "--resume", stuck.run, "--agent", stuck.agent)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == (
            f"rl-lab: process {process.pid} is writing to {stuck.run}; "
            "stop it, or use another --seed, --name or --runs\n"
        )
        assert process.poll() is None
        process.kill()
        process.wait()
    with pytest.warns(LabWarning, match=f"its process {process.pid} is gone; taking it over"):
        assert stuck.goes_on_as_if_never_stopped()


@needs_a_full_device
def test_a_run_whose_first_line_cannot_be_written_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    run, config = tmp_path / "Breakout" / "tiny" / "seed-0", write_config(tmp_path, agent=UNIFORM)
    with open("/dev/full", "wb") as full:
        command = [*RL_LAB, "train", str(config), "--runs", str(tmp_path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (75, 1)
    assert "No space left on device" in done.stderr
    assert read_status(run).state == "interrupted"
    resume(run)
    assert read_status(run).state == "finished"


@needs_a_full_device
@pytest.mark.parametrize("what", ["references", "protocols"], ids=["much", "little"])
def test_output_that_cannot_be_written_is_one_line(what: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*RL_LAB, "list", what], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    line = "rl-lab: the output cannot be written: No space left on device; see to where it goes\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_a_bar_that_has_not_begun_can_end() -> None:
    BarReporter(sys.stdout).on_end()


def test_a_reader_that_leaves_stops_a_run_that_can_go_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, agent=UNIFORM)
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(*RL_LAB, "train", config, "--runs", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("tiny on Breakout")
        process.stdout.close()  # as `head -1` does
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")
    assert read_status(run).state == "interrupted"
    resume(run)
    assert what_it_came_to(run) == undisturbed(load_experiment(config))
