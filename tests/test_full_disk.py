"""A disk that is full, read-only or gone: a run ends with one line, and goes on when there is room again."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rl_lab.run
from rl_lab.agent import load_agent
from rl_lab.checkpoint import newest_checkpoint
from rl_lab.cli.main import main
from rl_lab.lock import RunLock
from rl_lab.records import read_records
from rl_lab.storage import RecordFile, Storage
from tests.processes import rl_lab as real_rl_lab
from tests.processes import write_config
from tests.runs import what_it_came_to
from tests.tiny import PROTOCOL

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs"),
    # Of a run that could not write its end.
    pytest.mark.filterwarnings("default::rl_lab.errors.LabWarning"),
]

UNIFORM = {
    "agent": load_agent("uniform").Config(name="uniform"),
    "log_every_steps": 10,
    "protocol": dataclasses.replace(PROTOCOL, max_frames_per_episode=40),
}
AT_EACH_STEP = "0.00001"
"""Minutes between checkpoints."""


class Disk:
    """A small file system in memory, with a balloon that takes its room."""

    page_bytes = os.sysconf("SC_PAGE_SIZE")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._balloon = path / "balloon"

    def fill(self, *, but_pages: int = 0) -> None:
        """Leave so much room and no more."""
        pages = os.statvfs(self.path).f_bfree - but_pages
        with self._balloon.open("ab") as file:
            if pages > 0:
                os.posix_fallocate(file.fileno(), file.tell(), pages * self.page_bytes)

    def make_room(self) -> None:
        self._balloon.unlink()

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    disk = Disk(path)
    disk.mount("size=16m")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run that takes some room for each of its files."""
    return write_config(tmp_path, **UNIFORM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run comes to where nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["train", str(write_config(folder, **UNIFORM)), "--runs", str(folder)]) == 0
    return what_it_came_to(folder / "Breakout" / "tiny" / "seed-0")


def needs_a_page(file: RecordFile, data: bytes) -> bool:
    """Whether what is appended does not fit into the file's last page."""
    return len(data) > -os.fstat(file.fileno()).st_size % Disk.page_bytes


def appending_to(name: str) -> Callable[..., bool]:
    """The moment when a record needs a page that is not its first: a part of the line still fits."""
    return lambda file, data: name in str(file.name) and file.tell() > 0 and needs_a_page(file, data)


def beginning(name: str) -> Callable[..., bool]:
    return lambda file, data: name in str(file.name) and file.tell() == 0


def at_the_last_checkpoint(storage: Storage, path: Path, data: bytes) -> bool:
    return "000000001600.partial" in path.parts


def at_a_status_after_a_checkpoint(path: Path, text: str) -> bool:
    return path.name == "status.json" and any(path.parent.glob("checkpoints/*/manifest.json"))


MOMENTS: dict[str, tuple[object, str, Callable[..., bool]]] = {
    "a checkpoint": (Storage, "write", at_the_last_checkpoint),
    "metrics.jsonl": (RecordFile, "write", appending_to("metrics.jsonl")),
    "episodes.jsonl": (RecordFile, "write", beginning("episodes.jsonl")),
    "the events": (RecordFile, "write", appending_to("tfevents")),
    "evaluations.jsonl": (RecordFile, "write", beginning("evaluations.jsonl")),
    "status.json": (rl_lab.run, "replace_text", at_a_status_after_a_checkpoint),
}


def before(moment: str, act: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Let something happen to the disk right before it is written to at that moment, once."""
    owner, name, is_now = MOMENTS[moment]
    original = getattr(owner, name)
    acts = iter([act])

    def write(*arguments: Any, **options: Any) -> Any:
        if is_now(*arguments):
            next(acts, lambda: None)()
        return original(*arguments, **options)

    patch.setattr(owner, name, write)


def nothing_is_held(disk: Disk, run: Path) -> bool:
    """No file is left open, no thread left behind, and the lock is free."""
    with RunLock(run):
        pass
    ours = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    return not ours and not [file for file in psutil.Process().open_files() if file.path.startswith(str(disk.path))]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_meets_a_full_disk_says_so_in_one_line_and_goes_on_when_there_is_room(
    moment: str,
    disk: Disk,
    config: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = disk.path / "Breakout" / "tiny" / "seed-0"
    with monkeypatch.context() as patch:
        before(moment, disk.fill, patch)
        arguments = ["train", str(config), "--runs-dir", str(disk.path), "--checkpoint-minutes", AT_EACH_STEP]
        assert main(arguments) == 75
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert ": No space left on device; what was saved is kept: see to the disk, then go on with " in line
    assert nothing_is_held(disk, run)
    checkpoint, problems = newest_checkpoint(run, resumable=True)
    assert problems == []
    assert checkpoint.name < "000000001600"
    disk.make_room()
    assert main(["train", "--resume", str(run)]) == 0
    assert what_it_came_to(run) == whole
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    points = [record["frames"] for record in read_records(run / "metrics.jsonl")]
    assert [event.step for event in events.Scalars("time/fps")] == points


def test_a_record_that_does_not_fit_is_refused_at_once(disk: Disk) -> None:
    with RecordFile(disk.path / "record", "ab") as file:
        disk.fill(but_pages=1)
        with pytest.raises(OSError, match="No space left on device"):
            file.write(bytes(2 * disk.page_bytes))


def test_a_disk_too_small_for_the_second_checkpoint_keeps_the_first(disk: Disk, tmp_path: Path) -> None:
    config = write_config(tmp_path)  # whose agent learns: 11 MB a checkpoint, of 16
    run = disk.path / "Breakout" / "tiny" / "seed-0"
    done = real_rl_lab("train", config, "--runs-dir", disk.path)
    assert (done.returncode, done.stderr.count("\n")) == (75, 1)
    assert "No space left on device; what was saved is kept: see to the disk, then go on" in done.stderr
    assert done.stderr.endswith(f" with rl-lab train --resume {run}\n")
    assert newest_checkpoint(run, resumable=True) == (run / "checkpoints" / "000000000800", [])
    disk.mount("remount,size=64m")
    assert real_rl_lab("train", "--resume", run).returncode == 0
    assert real_rl_lab("train", config, "--runs-dir", tmp_path / "whole").returncode == 0
    assert what_it_came_to(run) == what_it_came_to(tmp_path / "whole" / "Breakout" / "tiny" / "seed-0")


def test_a_run_for_which_there_was_no_room_from_the_start_leaves_nothing(
    disk: Disk, config: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk.path / "Breakout" / "tiny" / "seed-0"
    arguments = ["train", str(config), "--runs-dir", str(disk.path)]
    pages = 0
    disk.fill()
    while main(arguments) == 2:
        line = capsys.readouterr().err
        assert line == f"rl-lab: cannot make the run directory {run}: No space left on device; use another --runs\n"
        assert not run.exists()
        assert nothing_is_held(disk, run)
        disk.make_room()
        pages += 1
        disk.fill(but_pages=pages)
    assert pages == 5  # status, configuration, provenance, events by frames and by time
    assert "No space left on device; what was saved is kept" in capsys.readouterr().err
    disk.make_room()
    assert main(["train", "--resume", str(run)]) == 0
    assert what_it_came_to(run) == whole


def test_a_read_only_disk_is_one_line_before_the_first_frame(
    disk: Disk, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk.path / "Breakout" / "tiny" / "seed-0"
    arguments = ["train", str(config), "--runs-dir", str(disk.path)]
    assert main(arguments) == 0
    disk.mount("remount,ro")
    capsys.readouterr()
    for refused in (arguments, [*arguments, "--seed", "1"], ["train", "--resume", str(run), "--total-steps", "800"]):
        assert main(refused) == 2
        output, line = capsys.readouterr()
        assert (output, line.count("\n")) == ("", 1)
        assert "Read-only file system; use another --runs" in line
    assert main(["list", "runs", "--runs", str(disk.path)]) == 0
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0


def test_a_run_whose_directory_vanishes_ends_with_one_line_and_goes_on_when_it_is_back(
    disk: Disk,
    config: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = disk.path / "Breakout" / "tiny" / "seed-0"
    with monkeypatch.context() as patch:
        before("status.json", lambda: run.rename(disk.path / "elsewhere"), patch)
        arguments = ["train", str(config), "--runs-dir", str(disk.path), "--checkpoint-minutes", AT_EACH_STEP]
        assert main(arguments) == 75
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{run / 'status.json.new'}: No such file or directory" in line
    assert nothing_is_held(disk, run)
    assert not run.exists()
    (disk.path / "elsewhere").rename(run)
    assert main(["train", "--resume", str(run)]) == 0
    assert what_it_came_to(run) == whole
