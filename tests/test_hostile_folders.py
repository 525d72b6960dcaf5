"""Run folders from strangers: nothing outside of them is written or deleted, and no code in them is run."""

from __future__ import annotations

import _pickle
import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from rl_lab.checkpoint import newest_checkpoint, verify
from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig
from rl_lab.run import RECORDS
from tests.hostile import is_read, little_is_spent
from tests.processes import write_config
from tests.runs import Interrupts, Silent, resume, rewrite_manifest, train
from tests.tiny import PROTOCOL, tiny_dqn, tiny_experiment

pytestmark = pytest.mark.timeout(30)  # a pipe that is opened waits for ever

CONFIG = tiny_experiment(
    agent=tiny_dqn(learning_starts_steps=32, batch_size=8),
    total_steps=240,
    iteration_steps=120,
    evaluation_episodes=1,
    log_every_steps=10,
    protocol=dataclasses.replace(PROTOCOL, max_frames_per_episode=160),
)
WRITTEN = (*RECORDS, "config.toml", "status.json", "provenance.json")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, stopped in its second iteration."""
    return train(CONFIG, tmp_path_factory.mktemp("runs"), reporter=Interrupts(190)).run


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged, where `train` would make it."""
    return shutil.copytree(whole_run, tmp_path / "Breakout" / "tiny" / "seed-0")


class FirstFrame(BaseException):
    """All is loaded."""


class StopsBeforeTheFirstFrame(Silent):
    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        raise FirstFrame


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_run_of_the_other_tests_reaches_its_first_frame(run: Path) -> None:
    with pytest.raises(FirstFrame):
        resume(run, reporter=StopsBeforeTheFirstFrame())


def test_no_unpickler_runs_while_a_native_run_is_evaluated_and_resumed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("an unpickler was run")

    for module in (pickle, _pickle):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    assert main(["evaluate", str(run), "--episodes", "1", "--threads", "1"]) == 0
    assert resume(run).steps == CONFIG.total_steps


# Links and pipes


@pytest.mark.parametrize("name", [*WRITTEN, "config.toml.new", "status.json.new", "checkpoints", "segments", "x/y"])
def test_a_link_in_a_run_is_not_followed(name: str, run: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", run / name
    if inside.exists():
        inside.rename(outside)
    else:
        outside.mkdir() if name == "segments" else outside.write_text("precious")
    inside.parent.mkdir(exist_ok=True)
    inside.symlink_to(outside)
    before = contents(tmp_path)
    assert not is_read(lambda: resume(run))
    after = contents(tmp_path)
    after.pop("Breakout/tiny/.seed-0.lock", None)
    assert after == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", WRITTEN)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str, run: Path) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    assert not is_read(lambda: resume(run))


def test_a_run_directory_that_is_a_link_to_a_file_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "outside")
    assert not is_read(lambda: resume(link))
    assert (tmp_path / "outside").read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    lock = run.with_name(f".{run.name}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "outside")
    assert not is_read(lambda: resume(run))
    assert (tmp_path / "outside").read_text() == "precious"


def test_overwriting_deletes_links_and_not_where_they_lead(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (run / "checkpoints" / "000000009999").symlink_to(outside)
    (run / "episodes.jsonl").unlink()
    (run / "episodes.jsonl").symlink_to(outside / "file")
    with pytest.raises(FirstFrame):
        train(CONFIG, tmp_path, overwrite=True, reporter=StopsBeforeTheFirstFrame())
    assert (outside / "file").read_text() == "precious"
    assert not (run / "checkpoints").exists()


def test_a_run_directory_that_is_a_link_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    kept = run.rename(tmp_path / "kept")
    run.symlink_to(kept)
    before = contents(kept)
    with pytest.raises(LabError, match="is in the way and is no run"):
        train(CONFIG, tmp_path, overwrite=True)
    assert contents(kept) == before


@pytest.mark.parametrize("target", ["empty", "absent"])
def test_a_link_to_no_run_is_in_the_way(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    link = tmp_path / "runs" / "Breakout" / "tiny" / "seed-0"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / target)
    config = write_config(tmp_path)
    for flags in ([], ["--overwrite"]):
        assert main(["train", str(config), "--runs", str(tmp_path / "runs"), *flags]) == 2
        line = f"rl-lab: {link} is in the way and is no run; move it, or use another --seed, --name or --runs\n"
        assert capsys.readouterr().err == line
    assert link.is_symlink()
    assert not contents(tmp_path / "empty")


def test_folders_in_folders_without_end_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = newest_checkpoint(run)
    deepest = checkpoint.joinpath(*["a"] * 1_100)
    monkeypatch.chdir(checkpoint)
    for _ in range(1_100):
        os.mkdir("a")
        os.chdir("a")
    (deepest / "file").touch()
    try:
        assert not is_read(lambda: verify(checkpoint, segments=False))
    finally:
        (deepest / "file").unlink()
        for _ in range(1_100):  # pytest deletes its folders by recursion
            os.chdir("..")
            os.rmdir("a")


# Records and code


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text())
    edit(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("provenance.json", "[" * 100_000),
        ("provenance.json", '{"a": "' + "a" * 2_000_000 + '"}'),
        ("provenance.json", '{"resumes": 5}'),
        ("provenance.json", '{"resumes": null}'),
        ("episodes.jsonl", ""),
        ("config.toml", "a = 1"),
    ],
    ids=lambda text: text[:20],
)
def test_a_run_with_a_foreign_record_is_refused_with_nothing_changed(name: str, text: str, run: Path) -> None:
    (run / name).write_text(text)
    before = contents(run)
    with little_is_spent(megabytes=400):
        assert not is_read(lambda: resume(run))
    assert contents(run) == before


@pytest.mark.parametrize("record", [{}, {"score": "1", "length_frames": 4}, {"score": 1e308, "length_frames": 4}, []])
def test_episodes_that_are_none_are_refused(record: object, run: Path) -> None:
    path = run / "episodes.jsonl"
    size = path.stat().st_size
    line = f"{json.dumps(record)}\n"
    path.write_text(line * (size // len(line)) + " " * (size % len(line)))
    assert not is_read(lambda: resume(run))


def test_record_lengths_beyond_the_records_change_nothing(run: Path) -> None:
    checkpoint, _ = newest_checkpoint(run)
    edit = dict.fromkeys(RECORDS, 2**60)
    edit_json(checkpoint / "loop" / "position.json", lambda table: table.update(record_bytes=edit))
    rewrite_manifest(checkpoint)
    before = contents(run)
    with pytest.raises(LabError, match="records were lost"):
        resume(run)
    assert contents(run) == before


def test_a_run_that_names_code_runs_nothing_unasked(run: Path, tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(witness)!r}, 'w')")
    checkpoint, _ = newest_checkpoint(run)
    for path in (run / "config.toml", checkpoint / "loop" / "config.toml"):
        path.write_text(path.read_text().replace('name = "dqn"', f"name = {json.dumps(str(evil))}"))
    rewrite_manifest(checkpoint)
    with pytest.raises(LabError, match=r"names the agent file .*evil\.py; give its path with --agent"):
        resume(run)
    assert not witness.exists()


@pytest.mark.parametrize("game", ["../../outside", "/tmp", "Breakout/../..", ""])
@pytest.mark.parametrize("key", ["name", "game"])
def test_a_name_that_leads_outside_is_refused(key: str, game: str, run: Path) -> None:
    path = run / "config.toml"
    was = {"name": 'name = "tiny"', "game": 'game = "Breakout"'}[key]
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, f"{key} = {json.dumps(game)}"))
    assert not is_read(lambda: resume(run))
