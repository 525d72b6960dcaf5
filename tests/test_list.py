"""`rl-lab list` says what became of each run, and what is known of each published agent."""

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


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("atari100k_iris", ["evaluation", "26", "5", "400,000", "runs"]),
        ("dopamine_dqn_cnn_10M", ["training", "55", "5", "10,000,000", "curve"]),
        ("rainbow", ["evaluation", "54", "?", "200,000,000", "-"]),
        ("agent57", ["evaluation", "57", "?", "?", "-"]),
    ],
)
def test_references_say_seeds_frames_and_what_there_is_beside_means(
    name: str, cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "references"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["reference", "kind", "games", "seeds", "frames", "also", "what", "it", "is"]
    rows = [line for line in lines if line.split()[0] == name]
    assert [row.split()[1:6] for row in rows] == [cells]


def test_references_say_protocol_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "references"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "evaluation epsilon 0.05, 7 games (Mnih et al. 2013, Table 1). Source: Mnih et al. 2013 (arXiv 1312.5602)"
    assert [line.split()[0] for line in lines if text in line] == ["dqn_2013_avg", "dqn_2013_best"]
