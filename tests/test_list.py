"""`rl-lab list` says what became of each run, and what is known of each published agent."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.records import TUNE_MARK, Status, find_runs, find_tunes, read_status

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


@pytest.mark.parametrize("command", [["list", "runs", "--runs"], ["compare"]])
def test_a_folder_that_no_disk_has_holds_no_runs(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "a" * 256]) == 2
    assert capsys.readouterr().err.startswith(f"rl-lab: no runs in {'a' * 256}; ")


def make_run(directory: Path) -> Path:
    """What tells a run from another folder, and a checkpoint."""
    (directory / "checkpoints" / "000000000400" / "loop").mkdir(parents=True)
    for name in ("config.toml", "status.json", "checkpoints/000000000400/loop/config.toml"):
        (directory / name).touch()
    return directory


def test_runs_are_found_while_folders_beside_and_within_them_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / "Pong" / name / "seed-0") for name in ("a", "c")]
    vanishing = tmp_path / "Pong" / "b"
    vanishing.mkdir()
    (runs[1] / "status.json").rename(tmp_path / "status.json")  # of a run that was killed early
    scan, scanned = os.scandir, []

    def scandir(path: Any) -> Any:
        scanned.append(Path(path))
        if Path(path) == vanishing:
            vanishing.rmdir()
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        assert find_runs(tmp_path) == runs[:1]
        vanishing.mkdir()
        assert find_tunes(tmp_path) == []
    assert vanishing in scanned
    assert not [path for path in scanned if "checkpoints" in path.parts]


def test_runs_behind_links_are_found_once_and_by_their_own_names(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    own, linked = make_run(runs / "Pong" / "dqn" / "seed-0"), make_run(tmp_path / "disk" / "dqn" / "seed-0")
    (tmp_path / "disk" / "tune").mkdir()
    (tmp_path / "disk" / "tune" / TUNE_MARK).touch()
    for name, target in {"Again": "Pong", "Krull": "../disk", "loop": ".", "self": "self", "gone": "absent"}.items():
        (runs / name).symlink_to(target)
    (own / "outside").symlink_to(make_run(tmp_path / "a run is no place for runs"))
    (runs / "notes").symlink_to(linked / "config.toml")
    assert find_runs(runs) == [runs / "Krull" / "dqn" / "seed-0", own]
    assert find_tunes(runs) == [runs / "Krull" / "tune"]
    with pytest.raises(LabError, match="no runs in"):
        find_runs(runs / "gone")
