"""Real sweeps: what is there is left, what is missing is made, and nothing is started where something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from rl_lab.agent import Task, load_agent
from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.experiment import config_names, config_path, load_experiment
from rl_lab.records import TUNE_MARK, Status, read_status
from rl_lab.sweep.claim import claimed
from rl_lab.sweep.cost import Measurement, cost, jobs_that_fit, measure, short
from rl_lab.sweep.plan import PlannedRun, expand, read_sweep
from rl_lab.sweep.standing import Rest, rest_of
from tests.processes import RL_LAB, ended, has_lines, started, wait_until
from tests.runs import train, what_it_came_to
from tests.sweeps import SLOW, STATELESS, SWEEP

RAISES = """
from pathlib import Path

from rl_lab.agent import load_agent


class Raises(load_agent("uniform")):
    def train(self, env, steps, log):
        marker = Path("one iteration")
        super().train(env, 100 if marker.exists() else steps, log)
        if marker.exists():
            raise RuntimeError("no more")
        marker.touch()
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep()


def write_sweep(**changes: str) -> None:
    text = SWEEP
    for old, new in changes.items():
        (line,) = (line for line in SWEEP.splitlines() if line.startswith(f"{old} ="))
        text = text.replace(line, f"{old} = {new}")
    Path("sweep.toml").write_text(text)


def planned(*agent_files: str) -> list[PlannedRun]:
    return expand(read_sweep(Path("sweep.toml")), Path("runs"), agent_files)


def sweep(*arguments: str) -> int:
    return main(["sweep", "sweep.toml", "--no-measure", *arguments])


def test_a_stopped_sweep_does_what_is_missing_and_nothing_else_to_the_same_bytes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("slow.py").write_text(SLOW)
    Path("obstacle").touch()
    write_sweep(agents='["slow.py"]', seeds="[0, 1, 2]")
    flags = ("--no-measure", "--agent", "slow.py", "--jobs", "1")
    finished, interrupted, missing = planned("slow.py")
    Path("obstacle").rename("no obstacle")
    train(finished.config, Path("runs"))
    before = {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*")}
    Path("no obstacle").rename("obstacle")
    with started(*RL_LAB, "sweep", "sweep.toml", *flags) as process:
        wait_until(lambda: has_lines(interrupted.directory / "metrics.jsonl", 2), process)
        process.send_signal(signal.SIGTERM)
        status, output, errors = ended(process)
    assert (status, errors) == (75, "")
    assert output.splitlines() == [
        "sweep tiny: 3 runs in runs (1 experiments x 1 games x 3 seeds): 1 finished, 0 to go on with, 2 to start",
        f"{interrupted.directory}: starts",
        "1 of 3 runs are finished",
        "go on:      rl-lab sweep sweep.toml --no-measure --agent slow.py --jobs 1",
    ]
    assert (read_status(interrupted.directory).state, missing.directory.exists()) == ("interrupted", False)
    Path("obstacle").unlink()
    assert main(["sweep", "sweep.toml", *flags]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(": 1 finished, 1 to go on with, 1 to start")
    assert lines[1] == f"{missing.directory}: starts"  # the longest first
    assert lines[3] == f"{interrupted.directory}: goes on"
    assert lines[-1] == "3 of 3 runs are finished"
    assert {path: path.stat().st_mtime_ns for path in finished.directory.rglob("*")} == before
    for run in (interrupted, missing):
        assert what_it_came_to(run.directory) == what_it_came_to(train(run.config, Path("undisturbed")).run)
    assert main(["sweep", "sweep.toml", *flags]) == 0
    assert capfd.readouterr().out.splitlines()[0].endswith(": 3 finished, 0 to go on with, 0 to start")


def test_a_run_that_fails_is_tried_again_from_its_checkpoint_and_then_reported(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("raises.py").write_text(RAISES)
    write_sweep(agents='["raises.py"]', seeds="[0]")
    assert sweep("--agent", "raises.py", "--retries", "1") == 1
    run, log = (
        "runs/Breakout/raises-on-dqn-quick/seed-0",
        "runs/sweeps/tiny/logs/Breakout/raises-on-dqn-quick/seed-0.log",
    )
    assert capfd.readouterr().out.splitlines()[1:] == [
        f"{run}: starts",
        f"{run}: failed, and is tried again: RuntimeError: no more",
        f"{run}: goes on",
        f"{run}: failed: RuntimeError: no more (log: {log})",
        "0 of 1 runs are finished",
        f"failed:     {run}: RuntimeError: no more (log: {log})",
        "go on:      rl-lab sweep sweep.toml --no-measure --agent raises.py --retries 1",
    ]
    assert Path(log).read_text().count("Traceback") == 2
    (resume,) = json.loads(Path(run, "provenance.json").read_text())["resumes"]
    assert resume["at_steps"] == 200


def test_a_run_whose_agent_keeps_no_state_is_started_anew(capfd: pytest.CaptureFixture[str]) -> None:
    Path("stateless.py").write_text(STATELESS)
    write_sweep(agents='["stateless.py"]', seeds="[0]")
    (run,) = planned("stateless.py")
    train(run.config, Path("runs"), until_steps=200)
    assert read_status(run.directory).steps == 200
    assert [rest.steps_done for rest in rest_of([run])] == [0]
    assert sweep("--agent", "stateless.py") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(": 0 finished, 0 to go on with, 1 to start")
    assert lines[1] == f"{run.directory}: starts"
    assert lines[-1] == "1 of 1 runs are finished"
    assert rest_of([run]) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both runs of the sweep."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "sweep.toml").write_text(SWEEP)
    for run in expand(read_sweep(folder / "sweep.toml"), folder / "runs"):
        train(run.config, folder / "runs")
    return folder / "runs"


@pytest.fixture
def runs(made: Path) -> list[Path]:
    shutil.copytree(made, "runs")
    return [run.directory for run in planned()]


def test_finished_runs_are_not_made_again(runs: list[Path]) -> None:
    assert rest_of(planned()) == []
    shutil.rmtree(runs[1])
    assert rest_of(planned()) == [Rest(planned()[1], 0)]


def test_a_killed_run_is_to_go_on_where_its_status_says(runs: list[Path]) -> None:
    status = {
        **json.loads((runs[0] / "status.json").read_text()),
        "state": "running",
        "steps": 200,
        "process_start": 1.0,
    }
    (runs[0] / "status.json").write_text(json.dumps(status))
    (runs[1] / "status.json").unlink()
    assert [(rest.steps_done, rest.steps_left) for rest in rest_of(planned())] == [(200, 200), (0, 400)]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"total_steps": "200"}, "total_steps is 400 in {run}/config.toml, and 200 in the sweep; see to {run}"),
        ({"protocol.max_frames_per_episode": "800"}, "protocol.max_frames_per_episode is 400 in {run}/config.toml"),
        ({"agents": '["dqn/quick", "uniform"]'}, None),
        ({"device": '"auto"'}, None),
    ],
)
def test_a_run_of_another_experiment_is_refused_with_the_field_that_differs(
    change: dict[str, str], line: str | None, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(**change)
    if line is None:
        assert {rest.run.directory for rest in rest_of(planned())}.isdisjoint(runs)
    else:
        assert sweep() == 2
        output, errors = capsys.readouterr()
        assert (output, errors.count("\n")) == ("", 1)
        assert line.format(run=runs[0]) in errors


def _drop(name: str) -> Any:
    return lambda run: (run / name).unlink()


def _drop_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    status = {**json.loads((run / "status.json").read_text()), "state": "interrupted"}
    (run / "status.json").write_text(json.dumps(status))


def _live(run: Path) -> None:
    (run / "status.json").write_text(json.dumps(vars(Status.of_this_process("running", steps=4, frames=16))))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_drop("config.toml"), "{run} is no whole run; put back what is missing, or move it away"),
        (_drop("provenance.json"), "{run} is no whole run"),
        (_drop_checkpoints, "{run} has lost its checkpoints; put them back, or move it away"),
        (_drop("evaluations.jsonl"), "{run} is finished, but its records do not reach 1,600 frames"),
        (_drop("metrics.jsonl"), "{run} is finished, but its records do not reach 1,600 frames"),
        (lambda run: (run / "config.toml").write_text("x"), "{run}/config.toml is no readable TOML file"),
        (lambda run: (run / "status.json").write_text("{"), "{run}/status.json is no readable JSON"),
        (lambda run: (run / "evaluations.jsonl").write_text("{}\n"), "{run}/evaluations.jsonl is no record of a run"),
        (_live, "process {pid} is writing to {run}; wait for its end or stop it"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_before_anything_starts(
    damage: Any, line: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(seeds="[1, 2]")
    damage(runs[1])
    assert sweep() == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert errors.startswith(f"rl-lab: {line.format(run=runs[1], pid=os.getpid())}")
    assert not planned()[1].directory.exists()


@pytest.mark.parametrize("target", ["empty", "absent"])
def test_a_link_to_no_run_is_named_before_anything_starts(target: str) -> None:
    Path("empty").mkdir()
    link = planned()[1].directory
    link.parent.mkdir(parents=True)
    link.symlink_to(Path(target).absolute())
    with pytest.raises(LabError, match="seed-1 is no whole run; put back what is missing, or move it away"):
        rest_of(planned())


def test_a_folder_that_no_disk_has_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.toml", "--no-measure", "--runs", "a" * 256]) == 2
    assert capsys.readouterr().err == f"rl-lab: {'a' * 256} cannot be read: File name too long; use another --runs\n"
    with pytest.raises(LabError, match="seed-0 cannot be read: File name too long; see to it, or use another --runs"):
        rest_of(expand(read_sweep(Path("sweep.toml")), Path("a" * 256)))


@pytest.mark.parametrize("name", ["config.toml", "provenance.json"])
def test_a_run_that_may_not_be_read_is_one_line(name: str, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(LabError, match="cannot be read: Permission denied; see to it, or use another --runs"):
        rest_of(planned())


def claim(name: str, plan: list[PlannedRun]) -> None:
    with claimed(Path("runs"), name, plan):
        pass


def test_two_sweeps_never_have_a_run_in_common() -> None:
    plan = planned()
    with claimed(Path("runs"), "one", plan[:1]):
        with pytest.raises(LabError, match="the sweep one is running in runs already"):
            claim("one", plan[1:])
        with pytest.raises(LabError, match=r"sweep one is running and has Breakout/uniform-on-dqn-quick/seed-0, too"):
            claim("two", plan)
        claim("two", plan[1:])
    claim("two", plan)


def test_a_running_sweep_keeps_another_of_its_name_out(capsys: pytest.CaptureFixture[str]) -> None:
    with claimed(Path("runs"), "tiny", planned()):
        assert sweep() == 2
    assert capsys.readouterr().err == (
        "rl-lab: the sweep tiny is running in runs already; wait for its end, or use another --runs\n"
    )
    assert not list(Path("runs").rglob("*.log"))


def test_the_cost_is_worked_out_from_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.sweep.cost.num_cores", lambda: 8)
    write_sweep(agents='["uniform", "dqn/quick"]', total_steps="7_200_000", iteration_steps="1_000_000")
    uniform, uniform_1, dqn, dqn_1 = planned()
    rests = [Rest(uniform, 0), Rest(uniform_1, 3_600_000), Rest(dqn, 0), Rest(dqn_1, 7_200_000)]
    measured = {
        uniform.config.name: Measurement(1_000, 1_000_000_000, 0, 10),
        dqn.config.name: Measurement(100, 4_000_000_000, 3_000_000_000, 20),
    }
    memory = [measured[rest.run.config.name].memory_bytes for rest in rests]
    needed = cost(rests, measured, jobs_that_fit(memory, None, 10_000_000_000))
    assert [rest.run for rest in needed.rests] == [dqn, uniform, uniform_1, dqn_1]  # 20, 2, 1 and 0 hours
    assert (needed.jobs, needed.core_hours, needed.hours) == (4, 23, 20)
    assert (needed.evaluations, needed.episodes) == (8 + 5 + 8 + 1, 22)
    assert (needed.memory_bytes, needed.disk_bytes, needed.replay_bytes) == (10_000_000_000, 60, 6_000_000_000)
    assert cost(rests, measured, 1).hours == 23
    assert jobs_that_fit(memory, None, 9_500_000_000) == 3
    with pytest.raises(LabError, match=r"4 at once need 10\.0 GB of memory, 9\.5 GB free"):
        jobs_that_fit(memory, 4, 9_500_000_000)


def test_a_measurement_is_of_the_real_training() -> None:
    write_sweep(agents='["dqn/quick"]')
    (one,) = measure(planned()).values()
    assert 0 < one.steps_per_second < 10_000
    replay = 50_000 * 84 * 84
    assert replay < one.replay_bytes < 1.1 * replay
    assert one.memory_bytes > one.replay_bytes + 50_000_000
    assert one.disk_bytes > 2_000_000  # weights, with Adam's moments


@pytest.mark.parametrize("name", config_names())
def test_what_is_measured_is_trained_by_every_agent(name: str) -> None:
    config = short(load_experiment(config_path(name)))
    task = Task(6, config.num_games, config.total_steps, config.seed, iteration_steps=config.iteration_steps)
    load_agent(config.agent.name)(config.agent, task)  # LabError otherwise


@pytest.mark.parametrize("most_bytes", [100, 8_000], ids=["at its start", "within a run"])
def test_a_measurement_that_the_disk_refuses_is_one_line(
    most_bytes: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setenv("TMPDIR", str(Path.cwd()))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
        status = main(["sweep", "sweep.toml", "--dry-run"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    errors = capsys.readouterr().err
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("rl-lab: the measurement failed: File too large")
    assert errors.endswith("; --no-measure leaves it out, TMPDIR names another folder for it\n")
    assert [path.name for path in Path().iterdir()] == ["sweep.toml"]


def test_many_steps_to_a_return_make_a_longer_measurement() -> None:
    config = load_experiment(config_path("dqn/quick"))
    agent = dataclasses.replace(config.agent, n_step=20)  # type: ignore[call-arg]  # DQN's
    shortened = short(dataclasses.replace(config, num_games=8, agent=agent))
    assert vars(shortened.agent)["learning_starts_steps"] == 168


ODD = """
from dataclasses import dataclass

from rl_lab.agent import AgentConfig, load_agent


@dataclass(frozen=True, kw_only=True)
class OddConfig(AgentConfig):
    rollout_steps: int = 0
    update_every_steps: float = 0.5
    n_step: int = -9
    batch_size: str = "large"
    actors: bool = True


class Odd(load_agent("uniform")):
    Config = OddConfig
"""


def test_fields_of_ones_own_agent_that_are_no_counts_leave_the_measurement_as_it_is() -> None:
    Path("odd.py").write_text(ODD)
    write_sweep(agents='["odd.py", "uniform"]', seeds="[0]")
    odd, uniform = (short(run.config) for run in planned("odd.py"))
    assert dataclasses.replace(odd, name=uniform.name, agent=uniform.agent) == uniform


def test_a_long_sweep_starts_with_yes_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = planned()[0].config.name
    monkeypatch.setattr("rl_lab.cli.sweep.measure", lambda runs: {name: Measurement(1.0, 1, 0, 1)})
    write_sweep(seeds=str(list(range(150))), total_steps="72_000")
    assert main(["sweep", "sweep.toml", "--jobs", "1", "--dry-run"]) == 0
    shown, _ = capsys.readouterr()
    assert "time:   3,000.00 hours of training, 1 at once" in shown
    assert main(["sweep", "sweep.toml", "--jobs", "1"]) == 2
    assert "150 runs, 3,000 hours with 1 at once: give --yes" in capsys.readouterr().err
    assert sweep() == 2
    assert "150 runs of unknown length: give --yes" in capsys.readouterr().err
    write_sweep(seeds=str(list(range(150))))
    assert main(["sweep", "sweep.toml", "--jobs", "1"]) == 2
    assert "150 runs, 17 hours with 1 at once: give --yes" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_compare_says_what_a_sweep_still_lacks(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs", "--sweep", "sweep.toml"]) == 0
    assert "The sweep is not over" not in capsys.readouterr().out
    write_sweep(seeds="[0, 1, 2]")
    status = json.loads((runs[0] / "status.json").read_text())
    (runs[0] / "status.json").write_text(json.dumps({**status, "state": "interrupted", "reason": "SIGTERM"}))
    assert main(["compare", "runs", "--sweep", "sweep.toml"]) == 0
    names = ", ".join(f"Breakout/uniform-on-dqn-quick/seed-{seed}" for seed in (0, 2))
    assert f"The sweep is not over; not finished: {names}." in capsys.readouterr().out


def test_compare_refuses_an_agents_file_without_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs", "--agent", "mine.py"]) == 2
    assert capsys.readouterr().err == (
        "rl-lab: --agent mine.py is for the runs of a --sweep; give its name, or leave --agent out\n"
    )


def test_compare_counts_a_finished_run_of_a_tuning_seed_as_finished(capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(planned()[0].config, name="uniform-tuned-mine", total_steps=200)
    Path("tuned.toml").write_text(config.to_toml())
    write_sweep(agents='["tuned.toml"]', total_steps="200")
    tune = Path("runs/tunes/mine")
    tune.mkdir(parents=True)
    (tune / TUNE_MARK).write_text(json.dumps({"tune": "mine", "seeds": [0]}))
    for run in planned():
        train(run.config, Path("runs"))
    assert main(["compare", "runs", "--sweep", "sweep.toml"]) == 0
    shown = capsys.readouterr().out
    assert "uniform-tuned-mine/seed-0" in shown  # left out
    assert "The sweep is not over" not in shown


def watched(runs_above: Path, until: bytes, lines: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `list runs --watch` shows on a terminal of so many lines before Ctrl-C."""
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": str(lines)}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with started(*RL_LAB, "list", "runs", "--runs", str(runs_above), "--watch", stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        for _ in range(100):  # it shows the list again and again
            shown += os.read(ours, 1 << 16)
            if until in shown:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


def test_list_runs_is_watched_on_a_terminal_until_ctrl_c(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "finished" in watched(Path("runs"), b"finished", 24, monkeypatch)


def test_a_terminal_that_is_too_low_shows_first_what_runs(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        shutil.copytree(runs[0], tmp_path / f"many/seed-{seed}")
    status = dataclasses.asdict(Status.of_this_process("running", steps=250, frames=1_000))
    (tmp_path / "many/seed-3/status.json").write_text(json.dumps(status))
    shown = watched(tmp_path / "many", b"more", 4, monkeypatch)
    names = [f"seed-{seed}" for seed in range(4) if f"seed-{seed}" in shown]
    assert (names, "and 2 more" in shown) == (["seed-0", "seed-3"], True)


@pytest.mark.parametrize("kind", ["runs", "games"])
def test_watching_without_a_terminal_or_anything_but_runs_is_one_line(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", kind, "--watch"]) == 2
    assert capsys.readouterr().err == "rl-lab: --watch shows runs on a terminal; leave it out to list once\n"
