"""Runs of other versions of the lab: those that it cannot read are refused in one line, the others go on.

`data/format-1` was made at commit 39d48da: rl-lab train --agent uniform --game Breakout --name format-1 --total-steps
200 --iteration-steps 200 --num-games 2 --threads 1 --evaluation-episodes 2 --log-every-steps 100
--protocol.max-frames-per-episode 400. `data/format-2` is what `train(FORMAT_2, runs, reporter=Interrupts(100))` of
`tests.runs` left, when format 2 was new. Of both, the event files are left out.

Whoever changes a format gives it another number, and puts a run of it beside these.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rl_lab import checkpoint
from rl_lab.agent import load_agent
from rl_lab.cli.main import main
from rl_lab.records import read_provenance, read_status
from tests.runs import train, what_it_came_to
from tests.tiny import tiny_experiment

DATA = Path(__file__).parent / "data"
FORMAT_2 = tiny_experiment(name="format-2", agent=load_agent("uniform").Config(name="uniform"), log_every_steps=50)


def saved_run(name: str, folder: Path) -> Path:
    """A copy."""
    return shutil.copytree(DATA / name, folder / name)


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--total-steps", "400", "--resume"]])
def test_a_checkpoint_of_format_1_is_refused_in_one_line_that_names_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_run("format-1", tmp_path)
    before = sorted((path, path.read_bytes()) for path in run.rglob("*") if path.is_file())
    assert main([*command, str(run)]) == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert "is of checkpoint format 1; this version of rl-lab reads format 2" in errors
    assert sorted((path, path.read_bytes()) for path in run.rglob("*") if path.is_file()) == before


def test_a_run_of_format_2_is_shown_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved_run("format-2", tmp_path)
    assert main(["list", "runs", "--runs", str(tmp_path)]) == 0
    assert "interrupted (SIGINT)" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert "trained for 408 frames" in capsys.readouterr().out


@pytest.mark.filterwarnings("default:.*changed since the run began")
def test_a_run_of_format_2_goes_on_as_one_of_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = saved_run("format-2", tmp_path)
    processor = read_provenance(run)["processor"]
    monkeypatch.setattr("rl_lab.provenance.processor_name", lambda: processor)  # which may be another one here
    assert main(["train", "--resume", str(run)]) == 0
    assert capsys.readouterr().err.startswith("rl-lab: git changed since the run began")
    assert read_status(run).state == "finished"
    assert what_it_came_to(run) == what_it_came_to(train(FORMAT_2, tmp_path / "today").run)


def test_there_is_a_run_of_the_present_format() -> None:
    assert list((DATA / f"format-{checkpoint.FORMAT}").glob("checkpoints/*/manifest.json"))
