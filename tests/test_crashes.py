"""A run that is killed or refused by the disk at any moment goes on from a whole checkpoint, to the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rl_lab.checkpoint import checkpoints, newest_checkpoint, read_manifest
from rl_lab.curves import Progress
from rl_lab.errors import ResumableError
from rl_lab.evaluation import Evaluation
from rl_lab.experiment import ExperimentConfig
from rl_lab.records import is_finished, read_status
from tests.faults import (
    Crashes,
    Fate,
    crash_experiment,
    directory,
    shrink_segments,
    start_or_resume,
    start_until_killed,
)
from tests.runs import Interrupts, Silent, resume, train, what_it_came_to

resource = pytest.importorskip("resource", reason="needs os.fork, SIGKILL and limits of file sizes")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # see Crashes
KILLS = 100
WARM = ["tests.faults", "torch.utils.tensorboard", "tensorboard.compat.proto.event_pb2"]
"""What a run imports."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", 0)  # so that it is put back
    shrink_segments()


@pytest.fixture(scope="module")
def spawn() -> Callable[..., multiprocessing.process.BaseProcess]:
    """Start a function in a process of its own, forked from one that has imported all and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)

    def start(function: Callable[..., None], *arguments: Any, **keywords: Any) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=function, args=arguments, kwargs=keywords)
        process.start()
        return process

    return start


class AfterSaving(Silent):
    """Calls a function right after the checkpoint of an iteration."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        self._then()


def resume_quietly(run: Path, **conduct: Any) -> None:
    """Resume a run whose process was killed: of that it tells, but no checkpoint is damaged."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        resume(run, **conduct)
    assert all("taking" in str(warning.message) for warning in told), [str(warning.message) for warning in told]


def begin_first(config: ExperimentConfig, runs: Path) -> Path | None:
    """The next checkpoint is the first one."""
    return None


def begin_replacing(config: ExperimentConfig, runs: Path) -> Path | None:
    """Stopped in the last evaluation: the next checkpoint has the frames of the last one."""
    return train(config, runs, reporter=Interrupts(config.total_steps)).run


def begin_pruning(config: ExperimentConfig, runs: Path) -> Path | None:
    """Stopped shortly before the end: the next checkpoint is the third and has new segments; older ones go."""
    return train(config, runs, reporter=Interrupts(config.total_steps - 12)).run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "total_steps", "covered"),
    [
        (begin_first, 40, [("write", "replay-00000003.safetensors.partial"), ("rename", "000000000160")]),
        (begin_replacing, 80, [("rename", "000000000320.replaced"), ("rename", "000000000320.replaced.partial")]),
        (
            begin_pruning,
            120,
            [
                ("write", "replay-00000011.safetensors.partial"),
                ("rename", "000000000320.partial"),
                ("remove", "replay-00000005.safetensors"),
            ],
        ),
    ],
)
def test_a_save_that_is_killed_or_refused_at_any_operation_leaves_the_old_or_the_new_state(
    begin: Callable[[ExperimentConfig, Path], Path | None],
    total_steps: int,
    covered: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    config = crash_experiment(total_steps)
    begun = begin(config, tmp_path)
    run = directory(config, tmp_path)
    trial = directory(config, tmp_path / "trial")
    states: list[object] = []
    ends: list[dict[str, Any]] = []
    seen: set[frozenset[tuple[str, int]]] = set()

    def examine(fate: Fate, wait_status: int) -> None:
        if fate == "refused":
            assert os.waitstatus_to_exitcode(wait_status) == ResumableError.exit_status
        else:
            assert os.waitstatus_to_exitcode(wait_status) == -signal.SIGKILL
        files = (path for name in ("checkpoints", "segments") for path in (run / name).rglob("*"))
        state = frozenset((str(path), path.stat().st_size if path.is_file() else -1) for path in files)
        if state in seen:  # a sync leaves what was there, and a refusal what a kill leaves
            return
        seen.add(state)
        states.append(read_manifest(newest_checkpoint(run, resumable=True)[0]) if checkpoints(run) else None)
        shutil.copytree(run, trial)
        resume_quietly(trial)
        ends.append(what_it_came_to(trial))
        shutil.rmtree(trial)

    crashes = Crashes(examine)
    conduct: dict[str, Any] = {"storage": crashes, "reporter": AfterSaving(crashes.crash)}
    old = None if begun is None else read_manifest(newest_checkpoint(run, resumable=True)[0])
    go = partial(train, config, tmp_path, **conduct) if begun is None else partial(resume, run, **conduct)
    crashes.run(go, f"rl-lab train --resume {shlex.quote(str(run))}")
    new = read_manifest(newest_checkpoint(run, resumable=True)[0])
    turn = states.index(new)
    assert states == [old] * turn + [new] * (len(states) - turn)
    assert turn > 0
    assert all(end == what_it_came_to(run) for end in ends)
    assert set(covered) <= set(crashes.operations)
    print(f"{len(crashes.operations)} operations left {len(states)} states")


@pytest.mark.slow
def test_a_run_killed_a_hundred_times_at_random_moments_ends_with_the_same_bytes(
    spawn: Callable[..., multiprocessing.process.BaseProcess], tmp_path: Path
) -> None:
    config = crash_experiment(120, replay_capacity=60)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    checkpoint_seconds = 0.05
    spawn(start_or_resume, path, tmp_path / "whole", 600).join()
    whole = what_it_came_to(directory(config, tmp_path / "whole"))
    began = time.monotonic()
    spawn(start_or_resume, path, tmp_path / "timed", checkpoint_seconds).join()
    whole_seconds = time.monotonic() - began
    rng = random.Random(0)
    kills = 0
    while kills < KILLS:
        runs = tmp_path / f"after {kills} kills"
        killed = True
        while killed:
            process = spawn(start_or_resume, path, runs, checkpoint_seconds)
            process.join(rng.uniform(0, whole_seconds / 2))  # long enough to get on, however slow the machine
            process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            killed = process.exitcode != 0 and not is_finished(directory(config, runs))  # it may be hit as it leaves
            kills += killed
        assert read_status(directory(config, runs)).state == "finished"
        assert what_it_came_to(directory(config, runs)) == whole
        shutil.rmtree(runs)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["create", "overwrite", "resume"])
def test_a_run_killed_at_any_moment_of_its_start_can_be_started_again_or_resumed(
    way: str, spawn: Callable[..., multiprocessing.process.BaseProcess], tmp_path: Path
) -> None:
    config = crash_experiment(40, replay_capacity=60)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    before = tmp_path / "before"
    before.mkdir()
    if way == "overwrite":
        old = train(config, before).run
        shutil.rmtree(old / "checkpoints")  # so that there is less to delete
    elif way == "resume":
        train(config, before, reporter=Interrupts(36))
    whole = what_it_came_to(train(config, tmp_path / "whole").run)
    at, exitcode = 0, -signal.SIGKILL
    while exitcode != 0:
        at += 1
        runs = tmp_path / "runs"
        shutil.copytree(before, runs)
        process = spawn(start_until_killed, path, runs, resumes=way == "resume", at=at)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        exitcode = process.exitcode
        run = directory(config, runs)
        is_old = run.exists() and (run / "status.json").exists() and read_status(run).state == "finished"
        if run.exists() and not is_old:
            resume_quietly(run)
        else:
            train(config, runs, overwrite=True)
        assert what_it_came_to(run) == whole
        shutil.rmtree(runs)
    assert at > 5
    print(f"{at} moments")


def test_a_disk_that_takes_no_more_ends_the_command_with_status_75_and_the_command_to_go_on(tmp_path: Path) -> None:
    config = crash_experiment(40)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    command = [sys.executable, "-m", "rl_lab", "train", str(path), "--runs", str(tmp_path / "runs")]
    limit = (1_000_000, resource.RLIM_INFINITY)  # the system refuses larger files; the weights are 2.7 MB
    refused = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert refused.returncode == ResumableError.exit_status
    assert refused.stderr.count("\n") == 1
    assert "File too large" in refused.stderr
    run = directory(config, tmp_path / "runs")
    assert (read_status(run).state, read_status(run).reason) == ("interrupted", "File too large")
    _, _, again = refused.stderr.strip().partition("go on with rl-lab ")
    subprocess.run([sys.executable, "-m", "rl_lab", *shlex.split(again)], check=True, capture_output=True)
    assert read_status(run).state == "finished"
