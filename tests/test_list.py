"""`rl-lab list runs` says what became of each run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from rl_lab.cli.main import main
from rl_lab.records import Status, read_status

RUNNING = Status.of_this_process("running", steps=100, frames=400)
ENDED = Status.of_this_process("failed", "MemoryError: no\n  more", steps=100, frames=400)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RUNNING, "running"),
        (dataclasses.replace(RUNNING, process_start=1.0), "stale (its process is gone)"),
        (dataclasses.replace(RUNNING, boot_id="another"), "stale (this machine was restarted)"),
        (dataclasses.replace(RUNNING, host="elsewhere"), "running on elsewhere (not this machine: cannot check)"),
        (ENDED, "failed (MemoryError: no more)"),
        (dataclasses.replace(ENDED, state="interrupted", reason="SIGINT"), "interrupted (SIGINT)"),
        (dataclasses.replace(ENDED, state="finished", reason=""), "finished"),
    ],
)
def test_the_last_column_says_what_became_of_a_run(
    status: Status, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "Pong" / "tiny" / "seed-0"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    (run / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    assert read_status(run) == status
    assert main(["list", "runs", "--runs", str(tmp_path)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "frames", "last", "evaluation", "state"]
    assert row[header.index("state") :] == state
