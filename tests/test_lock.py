"""One writer a run, with real processes; and what a status says about its writer."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rl_lab.errors import LabError
from rl_lab.lock import RunLock, taken_over
from rl_lab.records import Status, read_status
from rl_lab.system import boot_id, host_name

HOLDER = """
import dataclasses, json, pathlib, sys
from rl_lab.lock import RunLock
from rl_lab.records import Status
directory = pathlib.Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
with RunLock(directory):
    status = Status.of_this_process("running", steps=0, frames=0)
    (directory / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    print("held", flush=True)
    sys.stdin.read()
"""

RIVAL = """
import pathlib, shutil, sys
from rl_lab.errors import LabError
from rl_lab.lock import RunLock
directory = pathlib.Path(sys.argv[1])
times_held = 0
while times_held < 200:
    try:
        with RunLock(directory):
            directory.mkdir()  # fails where another process has it
            (directory / "config.toml").write_text("")
            shutil.rmtree(directory)
            times_held += 1
    except LabError:
        pass
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def running() -> Status:
    return Status.of_this_process("running", steps=0, frames=0)


def pid_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    directory = tmp_path / "seed-0"
    with RunLock(directory), pytest.raises(LabError, match=f"another process is writing to {directory}; stop it, or"):
        RunLock(directory).acquire()
    RunLock(directory).acquire()


def test_another_process_is_named_and_its_lock_ends_with_it_even_when_killed(tmp_path: Path) -> None:
    directory = tmp_path / "Pong" / "tiny" / "seed-0"
    with start(HOLDER, directory) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LabError, match=f"process {holder.pid} is writing to {directory}"):
            RunLock(directory).acquire()
        holder.kill()
    with RunLock(directory):
        assert f"its process {holder.pid} is gone" in taken_over(read_status(directory))


def test_the_lock_outlives_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "seed-0"
    directory.mkdir()
    with RunLock(directory):
        shutil.rmtree(directory)
        directory.mkdir()
        with pytest.raises(LabError, match="is writing to"):
            RunLock(directory).acquire()


def test_two_processes_never_hold_it_at_once_while_the_directory_is_deleted_and_made_anew(tmp_path: Path) -> None:
    rivals = [start(RIVAL, tmp_path / "seed-0") for _ in range(3)]
    for rival in rivals:
        rival.communicate()
    assert [rival.returncode for rival in rivals] == [0, 0, 0]


def test_a_link_to_the_run_leads_to_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "seed-0").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "seed-0")
    with RunLock(tmp_path / "link"), pytest.raises(LabError, match="is writing to"):
        RunLock(tmp_path / "runs" / "seed-0").acquire()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_holder_notices_that_the_lock_file_was_deleted(is_replaced: bool, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "seed-0"
    with RunLock(directory) as lock:
        lock.require_held()
        shutil.rmtree(tmp_path / "runs")
        if is_replaced:
            RunLock(directory).acquire()
        with pytest.raises(LabError, match="was deleted while it was held"):
            lock.require_held()


def test_a_lock_that_was_let_go_of_is_not_held(tmp_path: Path) -> None:
    with RunLock(tmp_path / "seed-0") as lock:
        pass
    with pytest.raises(LabError, match="while it was held"):
        lock.require_held()


def test_a_place_where_no_lock_can_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(LabError, match=r"cannot lock .*: (Not a directory|File exists); use another --runs"):
        RunLock(tmp_path / "runs" / "seed-0").acquire()


def test_a_status_names_its_machine_only_while_it_is_running() -> None:
    assert (running().host, running().boot_id) == (host_name(), boot_id())
    assert running().is_live
    finished = Status.of_this_process("finished", steps=1, frames=4)
    assert (finished.host, finished.boot_id, finished.pid) == ("", "", os.getpid())
    assert not finished.is_live


def test_the_writer_is_looked_for_on_its_own_machine_and_boot() -> None:
    changes: dict[str, dict[str, object]] = {
        "alive": {},
        "gone": {"pid": pid_of_a_dead_process()},
        "of an earlier boot": {"boot_id": "another"},
        "on another machine": {"host": "elsewhere", "boot_id": "another"},
    }
    for writer, change in changes.items():
        status = dataclasses.replace(running(), **change)  # type: ignore[arg-type]  # each fits its field
        assert status.writer == writer
        assert status.is_live == (writer == "alive")
        assert taken_over(status)
        assert "\n" not in taken_over(status)


def test_a_later_process_with_the_same_pid_is_not_the_writer() -> None:
    assert dataclasses.replace(running(), process_start=running().process_start - 3_600).writer == "gone"


def test_a_zombie_writes_no_more() -> None:
    process = start("import sys; sys.stdin.read()")
    start_time = psutil.Process(process.pid).create_time()
    status = dataclasses.replace(running(), pid=process.pid, process_start=start_time)
    assert status.is_live
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not status.is_live
    process.communicate()


def test_nothing_is_taken_over_from_a_run_that_ended() -> None:
    assert taken_over(Status.of_this_process("interrupted", "SIGINT", steps=1, frames=4)) == ""


def test_published_statuses_still_load_and_name_no_machine() -> None:
    results = Path(__file__).parent.parent / "docs" / "results"
    published = list(results.rglob("status.json"))
    assert published
    for path in published:
        status = read_status(path.parent)
        assert status.host == status.boot_id == ""
        assert json.loads(path.read_text()).items() <= vars(status).items()
