"""The pool of a sweep, with small scripts in place of training: retries, failures and signals."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from rl_lab.cli.sweep_progress import SweepScreen
from rl_lab.records import Status
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.pool import End, Failure, LocalProcesses, Pool, Process, SweepOutcome
from tests.fakes import Terminal
from tests.tiny import tiny_experiment

CHILD = """
import os, pathlib, signal, sys, time
words = sys.argv[1:]
run = pathlib.Path(words[-1])
with open("starts", "a") as starts:
    print(*words, file=starts)
count = open("starts").read().count(words[-1])
def make_run():
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(pathlib.Path(f"{run.name}.toml").read_text())
"""


class Watcher:
    """Remembers what it was told."""

    def __init__(self, on_look: Callable[[int], object] = lambda running: None) -> None:
        self.told: list[str] = []
        self.most_running = 0
        self._on_look = on_look

    def on_start(self, run: PlannedRun, *, is_resumed: bool) -> None:
        self.told.append(f"{'resume' if is_resumed else 'start'} {run.config.seed}")

    def on_finish(self, run: PlannedRun) -> None:
        self.told.append(f"finish {run.config.seed}")

    def on_retry(self, run: PlannedRun, reason: str) -> None:
        self.told.append(f"retry {run.config.seed}: {reason}")

    def on_failure(self, failure: Failure) -> None:
        self.told.append(f"failure {failure.run.config.seed}: {failure.reason}")

    def on_look(self, running: Sequence[PlannedRun], waiting: int) -> None:
        self.most_running = max(self.most_running, len(running))
        self._on_look(len(running))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl_lab.sweep.pool._LOOK_SECONDS", 0.01)


def planned(seed: int) -> PlannedRun:
    directory = Path("runs", "Breakout", "tiny", f"seed-{seed}")
    return PlannedRun(tiny_experiment(seed=seed), directory, (str(directory),), None)


def make(script: str, watcher: Watcher, runs: int = 1, jobs: int = 1, retries: int = 1) -> SweepOutcome:
    """The outcome of a pool whose runs are this script."""
    Path("child.py").write_text(CHILD + script)
    program = (sys.executable, "-S", "child.py")
    plan = [planned(seed) for seed in range(runs)]
    for run in plan:
        Path(f"{run.directory.name}.toml").write_text(run.config.to_toml())
    return Pool(plan, LocalProcesses(plan, jobs, program), Path("logs"), watcher, retries).run()


def starts() -> list[str]:
    return Path("starts").read_text().splitlines()


def test_runs_are_made_in_order_and_no_more_at_once_than_asked_for() -> None:
    watcher = Watcher()
    outcome = make("make_run(); time.sleep(0.1)", watcher, runs=5, jobs=2)
    assert (outcome.finished, outcome.failures, outcome.stop_signal) == (5, (), 0)
    assert [told for told in watcher.told if "start" in told] == [f"start {seed}" for seed in range(5)]
    assert watcher.most_running == 2


def test_a_run_that_crashed_goes_on_from_its_folder() -> None:
    watcher = Watcher()
    outcome = make("make_run()\nif count == 1: raise RuntimeError('boom')", watcher)
    assert watcher.told == ["start 0", "retry 0: RuntimeError: boom", "resume 0", "finish 0"]
    run = "runs/Breakout/tiny/seed-0"
    assert starts() == [f"train {run}", f"train --resume {run}"]
    assert (outcome.finished, outcome.failures) == (1, ())


def test_a_run_that_fails_again_is_reported_and_does_not_stop_the_others() -> None:
    watcher = Watcher()
    script = "if 'seed-0' in words[-1]: print('much'); sys.exit('it broke')\nmake_run()"
    outcome = make(script, watcher, runs=2, retries=2)
    assert watcher.told == [
        *["start 0", "retry 0: it broke"] * 2,
        *("start 0", "failure 0: it broke", "start 1", "finish 1"),
    ]
    (failure,) = outcome.failures
    assert failure.log == Path("logs/Breakout/tiny/seed-0.log")
    assert sorted(failure.log.read_text().split()) == sorted(["much", "it", "broke"] * 3)
    assert outcome.finished == 1


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.stderr.write('rl-lab: no game X\\n'); sys.exit(2)", "no game X"),
        ("sys.exit(75)", "failed (exit status 75)"),
    ],
)
def test_mistakes_and_interruptions_are_not_retried(end: str, reason: str) -> None:
    watcher = Watcher()
    outcome = make(end, watcher, retries=5)
    assert watcher.told == ["start 0", f"failure 0: {reason}"]
    assert [failure.reason for failure in outcome.failures] == [reason]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV])
def test_a_process_that_crashes_after_the_end_of_its_run_has_finished_it(number: signal.Signals) -> None:
    status = vars(Status.of_this_process("finished", steps=4, frames=16))
    watcher = Watcher()
    write = f"import json; make_run(); (run / 'status.json').write_text(json.dumps({status}))"
    outcome = make(f"{write}\nos.kill(os.getpid(), {int(number)})", watcher)
    assert (outcome.finished, watcher.told) == (1, ["start 0", "finish 0"])


def test_a_run_that_is_not_the_planned_one_has_failed_and_is_not_tried_again() -> None:
    watcher = Watcher()
    change = "config.write_text(config.read_text().replace('total_steps = 400', 'total_steps = 800'))"
    outcome = make(f"make_run(); config = run / 'config.toml'; {change}", watcher, retries=5)
    reason = "total_steps is 800 in runs/Breakout/tiny/seed-0/config.toml, and 400 in the sweep"
    assert watcher.told == ["start 0", f"failure 0: {reason}"]
    assert (outcome.finished, [failure.is_resumable for failure in outcome.failures]) == (0, [False])


def test_an_interrupted_run_says_why_by_its_status() -> None:
    status = vars(Status.of_this_process("interrupted", "No space left on device", steps=4, frames=16))
    outcome = make(
        f"import json; make_run(); (run / 'status.json').write_text(json.dumps({status}))\nsys.exit(75)", Watcher()
    )
    assert [failure.reason for failure in outcome.failures] == ["interrupted: No space left on device"]


def test_a_killed_process_is_told_by_its_signal() -> None:
    outcome = make("os.kill(os.getpid(), 9)", Watcher(), retries=0)
    assert [failure.reason for failure in outcome.failures] == [
        "was ended by signal 9, Killed, as the system does when memory runs out"
    ]


class Ended:
    """A process that ended as it did."""

    def __init__(self, end: End) -> None:
        self._end = end

    def poll(self) -> End:
        return self._end

    def terminate(self) -> None: ...
    def wait(self) -> None: ...


class LosesMachines(LocalProcesses):
    """Loses its machine each time, in the given trials after a new checkpoint; then finishes the run."""

    def __init__(self, saves: Sequence[bool]) -> None:
        super().__init__([planned(0)], 1)
        self._saves = list(saves)

    def start(self, run: PlannedRun, log: Path) -> Process:
        if not self._saves:
            run.directory.mkdir(parents=True, exist_ok=True)
            (run.directory / "config.toml").write_text(run.config.to_toml())
            return Ended(End(0))
        if self._saves.pop(0):
            (run.directory / "checkpoints" / f"{100 - len(self._saves):012d}").mkdir(parents=True)
        return Ended(End(0, lost="it died"))


@pytest.mark.parametrize(
    ("saves", "losses", "finished"),
    [([True] * 8, 8, 1), ([False, False], 2, 1), ([False] * 3, 3, 0), ([True, False, False], 3, 0)],
)
def test_a_run_whose_machine_is_lost_goes_on_as_long_as_that_leads_on(
    saves: list[bool], losses: int, finished: int
) -> None:
    watcher = Watcher()
    outcome = Pool([planned(0)], LosesMachines(saves), Path("logs"), watcher, 0).run()
    assert sum("it died" in told for told in watcher.told) == losses
    assert (outcome.finished, [failure.reason for failure in outcome.failures]) == (
        finished,
        [] if finished else ["it died"],
    )


LISTENS = """
def hear(number, frame):
    (run / "heard").open("a").write("x")
    if len((run / "heard").read_text()) == {times}:
        sys.exit(75)
make_run()
signal.signal(signal.SIGTERM, hear)
(run / "ready").touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_each_run_to_stop_and_a_second_one_again(number: signal.Signals, times: int) -> None:
    sent = 0

    def send(running: int) -> None:
        nonlocal sent
        runs = [planned(seed).directory for seed in range(2)]
        is_heard = all((run / "heard").exists() and len((run / "heard").read_text()) == sent for run in runs)
        if all((run / "ready").exists() for run in runs) and sent < times and (sent == 0 or is_heard):
            sent += 1
            os.kill(os.getpid(), number)

    watcher = Watcher(send)
    outcome = make(LISTENS.format(times=times), watcher, runs=3, jobs=2)
    assert (outcome.finished, outcome.failures, outcome.stop_signal) == (0, (), number)
    assert len(starts()) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_comes_too_late_to_stop_anything_is_told() -> None:
    def send(running: int) -> None:
        if Path("ready").exists() and not Path("go").exists():
            os.kill(os.getpid(), signal.SIGTERM)
            Path("go").touch()

    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
make_run()
pathlib.Path("ready").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""
    outcome = make(script, Watcher(send))
    assert (outcome.finished, outcome.stop_signal, outcome.late_signal) == (1, 0, signal.SIGTERM)


def test_no_process_outlives_a_sweep_whose_output_nobody_reads() -> None:
    def leave(running: int) -> None:
        if Path("pid").exists():
            raise BrokenPipeError

    write_pid = "pathlib.Path('new').write_text(str(os.getpid())); os.rename('new', 'pid')"
    with pytest.raises(BrokenPipeError):
        make(f"{write_pid}; time.sleep(600)", Watcher(leave))
    assert not psutil.pid_exists(int(Path("pid").read_text()))


def test_a_terminal_shows_a_table_of_what_is_going_on_and_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)

    run = planned(0)
    run.directory.mkdir(parents=True)
    write_records(run.directory)
    terminal = Terminal()
    with SweepScreen(terminal) as screen:
        screen.on_start(run, is_resumed=True)
        screen.on_look([run], 3)
        screen.on_failure(Failure(run, "boom", Path("logs/x.log"), is_resumable=False))
    shown = terminal.getvalue()
    for text in ("human-normalized", "time left", "1 running, 3 waiting", "1,000", "250", "31.4", "1.031", "0 min"):
        assert text in shown, text
    assert "seed-0: goes on" in shown
    assert "seed-0: failed: boom (log: logs/x.log)" in shown


def test_time_left_ends_where_the_run_is_to_stop_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)
    long = dataclasses.replace(planned(0).config, total_steps=1_000_000)
    stops = dataclasses.replace(planned(0), config=long, until_steps=15_250)
    stops.directory.mkdir(parents=True)
    write_records(stops.directory)  # 250 steps, at 250 frames a second
    for run, left in ((stops, "4 min"), (dataclasses.replace(stops, until_steps=None), "4.4 h")):
        terminal = Terminal()
        with SweepScreen(terminal) as screen:
            screen.on_look([run], 0)
        assert left in terminal.getvalue()


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    run, stream = planned(0), io.StringIO()
    with SweepScreen(stream) as screen:
        screen.on_start(run, is_resumed=False)
        screen.on_look([run], 3)
        run.directory.mkdir(parents=True)
        write_records(run.directory)
        screen.on_retry(run, "boom")
        screen.on_finish(run)
    assert stream.getvalue().splitlines() == [
        f"{run.directory}: starts",
        f"{run.directory}: failed, and is tried again: boom",
        f"{run.directory}: finished: 1,000 frames, mean score 31.4, human-normalized 1.031 (noop57)",
    ]


def write_records(run: Path) -> None:
    status = Status.of_this_process("running", steps=250, frames=1_000)
    (run / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    metrics = [{"frames": frames, "time/fps": 250.0} for frames in (400, 1_000)]
    evaluation = {
        **{"game": "Breakout", "frames": 800, "protocol": "nature2015", "protocol_fingerprint": "x"},
        **{"mean_score": 31.4, "episodes": 2},
    }
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in metrics))
    (run / "evaluations.jsonl").write_text(f"{json.dumps(evaluation)}\n")
