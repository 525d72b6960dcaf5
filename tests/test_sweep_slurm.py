"""Sweeps as array jobs: submitit's scripts, its processes, and what they leave."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import submitit

from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.records import read_status
from rl_lab.sweep.cost import Measurement
from rl_lab.sweep.plan import PlannedRun, expand, read_sweep
from rl_lab.sweep.slurm import read_settings, submit
from rl_lab.sweep.submitted import queued_jobs
from tests.processes import has_lines
from tests.runs import train, what_it_came_to
from tests.slurm import install_slurm
from tests.sweeps import SLOW, SWEEP


@pytest.fixture(autouse=True)
def in_a_folder_with_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(SWEEP.replace("uniform", "slow.py"))
    Path("slow.py").write_text(SLOW)


def planned(sweep: str = "sweep.toml") -> list[PlannedRun]:
    return expand(read_sweep(Path(sweep)), Path("runs"), ["slow.py"])


def sweep(*arguments: str) -> int:
    flags = ("--no-measure", "--agent", "slow.py")
    return main(["sweep", "sweep.toml", *flags, "--slurm", "mem_gb=2", *arguments])


def wait_for(condition: Callable[[], bool], logs: str) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, [path.read_text() for path in Path().glob(logs)]
        time.sleep(0.02)


def assert_as_at_home(run: PlannedRun) -> None:
    assert what_it_came_to(run.directory) == what_it_came_to(train(run.config, Path("undisturbed")).run)


def test_a_job_at_its_limit_leaves_a_checkpoint_and_goes_on_from_there_to_the_same_bytes() -> None:
    Path("obstacle").touch()
    run, _ = planned()
    executor = submitit.LocalExecutor("logs", max_num_timeout=5)
    executor.update_parameters(timeout_min=60)
    (job,) = submit(executor, [run], main)
    wait_for(lambda: has_lines(run.directory / "metrics.jsonl", 2), "logs/*_log.*")
    (task,) = psutil.Process(int(job.job_id)).children()
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR2):  # as clusters do
        task.send_signal(number)
    # The controller of submitit starts the task anew, in the same job.
    wait_for(lambda: (run.directory / "provenance.json").read_text().count("at_steps") == 1, "logs/*_log.*")
    Path("obstacle").unlink()
    job.wait()
    (resume,) = json.loads((run.directory / "provenance.json").read_text())["resumes"]
    assert 0 < resume["at_steps"] < 200
    assert read_status(run.directory).state == "finished"
    assert_as_at_home(run)


def test_a_sweep_is_submitted_once_and_comes_to_the_bytes_of_local_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install_slurm(tmp_path, monkeypatch)
    assert sweep() == 0
    logs = "runs/sweeps/tiny/logs/slurm"
    assert capfd.readouterr().out.splitlines()[1:] == [
        "submitted:  job 1, 2 runs",
        f"logs:       {logs}/1_0_0_log.out and so on",
        "watch it:   rl-lab list runs --runs runs --watch",
        "compare:    rl-lab compare runs --sweep sweep.toml --agent slow.py",
    ]
    assert queued_jobs(Path("runs"), planned()) == {planned()[0].directory: "1_0", planned()[1].directory: "1_1"}
    for again in (["--slurm"], []):  # neither here nor there
        assert main(["sweep", "sweep.toml", "--agent", "slow.py", *again]) == 0
        assert capfd.readouterr().out.startswith("2 of 2 runs wait or run as jobs of Slurm, such as 1_0\n")
    assert not list(Path("runs").rglob("config.toml"))
    Path("start").touch()
    wait_for(lambda: not list(Path("queue").iterdir()), "output-*")
    for run in planned():
        assert_as_at_home(run)
    assert queued_jobs(Path("runs"), planned()) == {}
    assert sweep() == 0
    assert capfd.readouterr().out.endswith(": 2 finished, 0 to go on with, 0 to start\n")


def test_the_commands_that_a_submission_shows_work_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install_slurm(tmp_path, monkeypatch)
    Path("bin/sbatch").write_text("#!/bin/sh\necho Submitted batch job 1\n")
    Path("sweep.toml").rename("my sweep.toml")
    train(planned("my sweep.toml")[0].config, Path("my runs"))
    arguments = ["--runs", "my runs", "--no-measure", "--agent", "slow.py", "--slurm", "mem_gb=2"]
    assert main(["sweep", "my sweep.toml", *arguments]) == 0
    watch, compare = (shlex.split(line.partition(":")[2]) for line in capfd.readouterr().out.splitlines()[-2:])
    assert watch == ["rl-lab", "list", "runs", "--runs", "my runs", "--watch"]
    assert main(watch[1:-1]) == 0
    assert main(compare[1:]) == 0


def test_jobs_that_died_are_submitted_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install_slurm(tmp_path, monkeypatch)
    runs = Path("runs", "sweeps", "tiny")
    runs.mkdir(parents=True)
    folders = [str(run.directory.relative_to("runs")) for run in planned()]
    (runs / "slurm.json").write_text(json.dumps({"jobs": {"7_0": folders[0], "7_1": folders[1]}}))
    Path("queue", "7_1").touch()
    assert sweep() == 0
    assert capfd.readouterr().out.startswith(
        "1 of 2 runs wait or run as jobs of Slurm, such as 7_1\nsweep tiny: 1 runs in runs"
    )
    assert json.loads((runs / "slurm.json").read_text())["jobs"] == {
        "7_0": folders[0],
        "7_1": folders[1],
        "1": folders[0],
    }
    Path("start").touch()
    wait_for(lambda: not Path("queue", "1").exists(), "output-*")
    assert read_status(planned()[0].directory).state == "finished"


def test_a_dry_run_shows_what_sbatch_would_be_given_without_a_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("timeout_min=600", "partition=long", "gpus_per_node=1", "--jobs", "1", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    log = Path("runs/sweeps/tiny/logs/slurm").absolute() / "%A_%a_0_log.out"
    for line in (
        *("array=0-1%1", "cpus-per-task=1", "mem=2048M", "time=600", "signal=USR2@180", "requeue", "partition=long"),
        *("gpus-per-node=1", "job-name=rl-lab-tiny", "open-mode=append", f"output={log}"),
    ):
        assert f"#SBATCH --{line}" in lines
    assert f"{sys.executable} -u -m submitit.core._submit" in lines[-2]
    assert not Path("runs").exists()


def test_memory_is_what_was_measured_and_a_quarter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = planned()[0].config.name
    monkeypatch.setattr("rl_lab.cli.sweep.measure", lambda runs: {name: Measurement(1e3, 10 << 40, 0, 1)})
    assert main(["sweep", "sweep.toml", "--agent", "slow.py", "--slurm", "--dry-run"]) == 0
    shown = capsys.readouterr().out  # more than this machine has
    assert f"#SBATCH --mem={12_800 << 10}M\n" in shown
    assert "GB free" not in next(line for line in shown.splitlines() if line.startswith("memory:"))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("partitoin=x", "--slurm has 'partitoin=x'; did you mean 'partition'?; allowed is KEY=VALUE, of timeout_min,"),
        ("partition", "--slurm has 'partition'"),
        ("partition=", "--slurm partition is empty"),
        ("timeout_min=1.5", "--slurm timeout_min is '1.5'; allowed is an integer above 0"),
        ("timeout_min=-1", "--slurm timeout_min is '-1'; allowed is an integer above 0"),
        ("mem_gb=nan", "--slurm mem_gb is 'nan'; allowed is a number above 0"),
        ("timeout_min=2", "--slurm signal_delay_s=180 is not within timeout_min=2"),
    ],
)
def test_a_wrong_setting_is_one_line(word: str, line: str) -> None:
    with pytest.raises(LabError) as error:
        read_settings([word])
    assert str(error.value).startswith(line)


def _no_submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)


def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def _slurm_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    install_slurm(Path().absolute(), monkeypatch)
    Path("bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")


@pytest.mark.parametrize(
    ("without", "line"),
    [
        (_no_submitit, "--slurm needs submitit: pip install 'rl-lab[slurm]'"),
        (_no_slurm, "there is no Slurm here: no sbatch in PATH; use a login node of a cluster, or no --slurm"),
        (_slurm_that_refuses, "Slurm refuses the job: sbatch: error: invalid partition"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    without: Callable[[pytest.MonkeyPatch], None],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without(monkeypatch)
    assert sweep() == 2
    assert capsys.readouterr().err == f"rl-lab: {line}\n"


def test_without_squeue_a_sweep_that_was_submitted_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _no_slurm(monkeypatch)
    record = Path("runs", "sweeps", "tiny", "slurm.json")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"jobs": {"7_0": str(planned()[0].directory.relative_to("runs"))}}))
    assert main(["sweep", "sweep.toml", "--no-measure", "--agent", "slow.py"]) == 2
    assert "job 7_0 and others were to make runs of this sweep, and there is no squeue here" in capsys.readouterr().err


def test_the_memory_is_asked_for_where_it_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.toml", "--no-measure", "--agent", "slow.py", "--slurm", "--dry-run"]) == 2
    assert "give --slurm mem_gb=NUMBER" in capsys.readouterr().err
