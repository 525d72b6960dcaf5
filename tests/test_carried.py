"""Runs that are made elsewhere and carried here: whole whenever the carrying ends, and in the end the same bytes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rl_lab.carried import CarriedRun, Reader, snapshot
from rl_lab.checkpoint import checkpoints, newest_checkpoint, read_manifest, saved_files
from rl_lab.curves import Progress
from rl_lab.errors import LabError
from rl_lab.lock import RunLock
from rl_lab.position import Position
from rl_lab.provenance import software
from rl_lab.records import read_status
from rl_lab.storage import Storage
from rl_lab.sweep.workplace import LOG, Workplace
from tests.faults import crash_experiment, directory, shrink_segments
from tests.runs import Silent, resume, train, what_it_came_to

CONFIG = crash_experiment(160, replay_capacity=60)
HERE = directory(CONFIG, Path("here"))
_DEADLINE_SECONDS = 300


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", 0)  # so that it is put back
    shrink_segments()


class GoneError(Exception):
    """The other machine died."""


class Elsewhere(Silent):
    """A machine, played by a folder; what is there is carried at each point of the curves, until it dies."""

    def __init__(self, name: str, dies_at: int = 1 << 30) -> None:
        self.run = directory(CONFIG, Path(name))
        self._dies_at = dies_at

    def make(self, carried: CarriedRun) -> None:
        """The run, from where it is."""
        self._carried = carried
        for name, path in carried.files():
            there = self.run / name
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(b"" if path is None else path.read_bytes())
        if self.run.exists():
            resume(self.run, reporter=self)
        else:
            train(CONFIG, Path(self.run.parts[0]), reporter=self)
        carried.take(snapshot(self.run), self.read)

    def read(self, name: str, offset: int, size: int) -> bytes | None:
        """As a workplace does."""
        path = self.run / name
        return path.read_bytes()[offset : offset + size] if path.exists() else None

    def on_progress(self, progress: Progress) -> None:
        self._carried.take(snapshot(self.run), self.read)
        if progress.steps >= self._dies_at:
            raise GoneError


def make_until_it_dies(machine: Elsewhere) -> None:
    """What there is of the run then has an end."""
    with CarriedRun(HERE, Storage()) as carried:
        with pytest.raises(GoneError):
            machine.make(carried)
        carried.lose("it died")
        status = read_status(HERE)
    assert (status.state, status.reason, status.host) == ("interrupted", "it died", "")


def test_a_run_whose_machines_die_goes_on_from_what_was_carried_to_the_same_bytes() -> None:
    for name, steps in {"first": 30, "second": 70, "third": 126}.items():
        make_until_it_dies(Elsewhere(name, steps))
    with CarriedRun(HERE, Storage()) as carried:
        Elsewhere("last").make(carried)
    assert read_status(HERE).state == "finished"
    assert what_it_came_to(HERE) == what_it_came_to(train(CONFIG, Path("undisturbed")).run)
    there = directory(CONFIG, Path("last"))
    for name in ("metrics.jsonl", "config.toml", "provenance.json", "status.json"):
        assert (HERE / name).read_bytes() == (there / name).read_bytes()
    assert [path.name for path in checkpoints(HERE)] == [path.name for path in checkpoints(there)]
    assert sorted(path.name for path in HERE.glob("events*")) == [f"events.out.tfevents.{k:06d}" for k in range(4)]


def test_a_run_that_begins_anew_takes_nothing_along() -> None:
    train(CONFIG, HERE.parents[2], until_steps=1)
    with CarriedRun(HERE, Storage(), begins_anew=True) as carried:
        assert (HERE.exists(), list(carried.files())) == (False, [])


def test_only_what_is_new_is_read() -> None:
    elsewhere, names = Elsewhere("there"), list[str]()

    def read(name: str, offset: int, size: int) -> bytes | None:
        names.append(name)
        return elsewhere.read(name, offset, size)

    with CarriedRun(HERE, Storage()) as carried:
        elsewhere.make(carried)
        carried.take(snapshot(elsewhere.run), read)
    assert names == []
    resume(HERE, total_steps=200)
    shutil.copytree(HERE, elsewhere.run, dirs_exist_ok=True)
    shutil.rmtree(HERE)
    with CarriedRun(HERE, Storage()) as carried:
        carried.take(snapshot(elsewhere.run), read)
    segments = [name for name in names if name.startswith("segments/")]
    assert len(segments) == len(set(segments)) > 1  # both checkpoints have most of them


class Refuses(Storage):
    """A disk that refuses the `at`-th operation and all after it."""

    def __init__(self, at: int) -> None:
        self._left = at

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise OSError("refused")

    def make_directory(self, path: Path) -> None:
        self._count()
        super().make_directory(path)

    def write(self, path: Path, data: bytes) -> None:
        self._count()
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._count()
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)


def is_resumable(run: Path) -> bool:
    """Whether its newest checkpoint is whole, and its records have what that names."""
    checkpoint, problems = newest_checkpoint(run, resumable=True)
    position = Position.read(saved_files(checkpoint, "loop"), CONFIG)
    return not problems and all((run / name).stat().st_size >= size for name, size in position.record_bytes.items())


def test_a_run_is_whole_wherever_the_disk_ends_the_carrying() -> None:
    first, second = Elsewhere("first", 90), Elsewhere("second", 140)
    make_until_it_dies(first)
    shutil.copytree(HERE, "before")
    make_until_it_dies(second)
    assert [path.name for path in checkpoints(Path("before"))] != [path.name for path in checkpoints(second.run)]
    for at in itertools.count(1):
        shutil.rmtree(HERE)
        shutil.copytree("before", HERE)
        try:
            with CarriedRun(HERE, Refuses(at)) as carried:
                carried.take(snapshot(second.run), second.read)
        except OSError:
            assert is_resumable(HERE)
        else:
            break
    assert at > 30
    assert is_resumable(HERE)


def test_what_is_replaced_while_it_is_read_is_taken_the_next_time() -> None:
    elsewhere = Elsewhere("there", 90)

    def broken(at: int, answer: Callable[[bytes | None], bytes | None]) -> Reader:
        count = itertools.count(1)

        def read(name: str, offset: int, size: int) -> bytes | None:
            data = elsewhere.read(name, offset, size)
            return answer(data) if name.startswith(("checkpoints", "segments")) and next(count) == at else data

        return read

    with CarriedRun(Path("other"), Storage()) as carried, pytest.raises(GoneError):
        elsewhere.make(carried)
    for at in range(1, 12):
        for answer in (lambda data: None, lambda data: b"x" + (data or b"")):
            shutil.rmtree(HERE, ignore_errors=True)
            with CarriedRun(HERE, Storage()) as carried:
                carried.take(snapshot(elsewhere.run), broken(at, answer))
                assert len(checkpoints(HERE)) < len(checkpoints(elsewhere.run))
                carried.take(snapshot(elsewhere.run), elsewhere.read)
            assert is_resumable(HERE)
            assert read_manifest(checkpoints(HERE)[-1]) == read_manifest(checkpoints(elsewhere.run)[-1])


def test_a_run_that_is_carried_has_no_other_writer() -> None:
    with CarriedRun(HERE, Storage()), pytest.raises(LabError, match="is writing to"):
        RunLock(HERE).acquire()
    HERE.mkdir()
    (HERE / "notes.txt").touch()
    with pytest.raises(LabError, match="is in the way and is no run"), CarriedRun(HERE, Storage()):
        pass


WORDS = ("train", "config.toml", "--runs", "runs")


def test_a_workplace_makes_a_run_that_stops_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workplace = Workplace(directory(CONFIG, Path("runs")).as_posix())
    assert workplace.about()[1] == software()
    workplace.write("config.toml", crash_experiment(100_000).to_toml().encode())
    workplace.start(WORDS)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (look := workplace.look(0.1)).seen is None or not look.seen.sizes.get("metrics.jsonl"):
        assert look.status is None, workplace.read(LOG, 0, 10_000)
        assert time.monotonic() < deadline
    workplace.terminate()
    look = workplace.look(_DEADLINE_SECONDS)
    assert look.status == 75
    assert look.seen is not None
    assert '"interrupted"' in look.seen.texts["status.json"]
    assert look.seen.checkpoints
    log = workplace.read(LOG, 0, 1 << 20)
    assert log is not None
    assert len(log) == look.log_bytes
    assert b"go on:      rl-lab train --resume runs/" in log
    workplace.close()
    assert list(tmp_path.glob("rl-lab-run-*")) == []


OWNER = """
import sys, tempfile, time
from rl_lab.sweep.workplace import Workplace
tempfile.tempdir = "."
workplace = Workplace("runs")
workplace.write("config.toml", open("long.toml", "rb").read())
workplace.start({words!r})
print(workplace._process.pid, flush=True)
time.sleep(600)
"""


def test_no_process_outlives_its_workplace_and_its_folder_is_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Path("long.toml").write_text(crash_experiment(100_000).to_toml())
    command = [sys.executable, "-c", OWNER.format(words=WORDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = psutil.Process(int(owner.stdout.readline()))
        os.kill(owner.pid, signal.SIGKILL)
    child.wait(_DEADLINE_SECONDS)
    (folder,) = (path for path in tmp_path.glob("rl-lab-run-*") if path.is_dir())
    Workplace("runs").close()
    assert not folder.exists()
