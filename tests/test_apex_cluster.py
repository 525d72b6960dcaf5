"""Ape-X DQN on a real Ray cluster: a whole run, deaths in the middle of it, and what is refused before it begins."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rl_lab.cli.main import main
from rl_lab.errors import ResumableError
from rl_lab.records import read_metrics, read_provenance, read_records, read_status
from tests.processes import RL_LAB, ended, has_lines, rl_lab, started, wait_until, write_config
from tests.tiny import tiny_apex

_DEADLINE_SECONDS = 120
CORES = 6


def processes_of(kind: str, root: psutil.Process) -> list[psutil.Process]:
    """Ray's worker processes of a class, oldest first."""
    found = []
    for process in root.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{kind}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.create_time())


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """A cluster's address, and the process whose descendants it is. Ray itself is in other processes than the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A short path: it is part of the names of sockets.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        # As if the user had no cluster of their own, whose token Ray would take.
        token = Path(folder, "token")
        token.write_text(secrets.token_hex(32))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"),
            *(f"--num-cpus={CORES}", "--num-gpus=0", "--include-dashboard=false", "--disable-usage-stats"),
            *(f"--object-store-memory={80 << 20}", f"--temp-dir={folder}/r"),
        ]
        with started(*command, stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: _answers(port), process)
            root = psutil.Process(process.pid)
            wait_until(lambda: any(one.name() == "raylet" for one in root.children(recursive=True)), process)
            yield f"127.0.0.1:{port}", root
            process.terminate()  # which ends all the others
            process.wait(_DEADLINE_SECONDS)


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def read_counters(run: Path) -> dict[str, int]:
    """Of the newest checkpoint."""
    newest = max((run / "checkpoints").iterdir())
    counters: dict[str, int] = json.loads((newest / "state" / "counters.json").read_text())
    return counters


def newest_metric(run: Path, name: str) -> float:
    """0 before the first point."""
    points = read_metrics(run)
    return points[-1][name] if points else 0.0


def test_a_run_trains_is_evaluated_and_goes_on(cluster: tuple[str, psutil.Process], tmp_path: Path) -> None:
    # Points of the curves come before the replay holds enough, at the beginning and after the resume.
    config = write_config(tmp_path, agent=tiny_apex(ray=cluster[0]), log_every_steps=20)
    trained = rl_lab("train", config, "--runs", tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    assert "no other run repeats it byte for byte" in trained.stdout
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    assert read_provenance(run)["repeatable"] is False
    assert [record["steps"] for record in read_records(run / "evaluations.jsonl")] == [200, 400]
    updates = read_counters(run)["updates"]
    assert 10 <= updates <= (400 - 64) / 8
    # Games are cut after 100 steps, and two actors have four of them.
    for episode in read_records(run / "episodes.jsonl"):
        assert 0 <= episode["game_index"] < 4
        assert episode["length_frames"] <= 400

    resumed = rl_lab("train", "--resume", run, "--total-steps", 600)
    assert resumed.returncode == 0, resumed.stderr
    assert read_status(run).steps == 600
    counters = read_counters(run)
    assert counters["steps"] == 600
    # At least 64 steps fill the replay again before learning goes on.
    assert updates < counters["updates"] <= updates + (200 - 64) / 8

    assert main(["evaluate", str(run), "--episodes", "1"]) == 0  # which needs no cluster


def test_a_killed_actor_and_a_killed_shard_are_replaced(cluster: tuple[str, psutil.Process], tmp_path: Path) -> None:
    address, root = cluster
    # Those of another test's run may outlive it by a moment.
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while processes_of("ActorProcess", root) or processes_of("ShardProcess", root):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    agent = tiny_apex(ray=address)
    config = write_config(tmp_path, agent=agent, total_steps=100_000, iteration_steps=100_000, log_every_steps=50)
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(*RL_LAB, "train", config, "--runs", tmp_path) as process:
        wait_until(lambda: has_lines(run / "metrics.jsonl", 3), process)
        for count, victim in enumerate(("ActorProcess", "ShardProcess"), 1):
            processes_of(victim, root)[0].kill()
            wait_until(lambda count=count: newest_metric(run, "apex/replaced_processes") == count, process)  # type: ignore[misc]
        updates = newest_metric(run, "train/n_updates")
        wait_until(lambda: newest_metric(run, "train/n_updates") > updates, process)
        process.send_signal(signal.SIGINT)
        status, _, errors = ended(process)
    assert status == ResumableError.exit_status, errors
    told = [line.partition(" was lost")[0] for line in errors.splitlines()]
    assert [line.rpartition(" ")[0] for line in told] == ["rl-lab: actor", "rl-lab: shard"]
    steps = read_counters(run)["steps"]
    assert sum(record["length_frames"] for record in read_records(run / "episodes.jsonl")) <= 4 * steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actors": 6}, f"has {CORES} CPUs, and 8 actors and shards with a learner need 9"),
        (
            {"replay_capacity": 3},
            "replay_capacity is 3; allowed is one transition or more for each",
        ),
        ({"replay_capacity": 10**12}, "a replay shard of 1 actors needs 3536500.0 GB"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused_before_the_first_frame(
    cluster: tuple[str, psutil.Process], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, agent=tiny_apex(ray=cluster[0], **changes))
    refused = rl_lab("train", config, "--runs", tmp_path / "runs")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cannot join a Ray cluster at 127.0.0.1:1: Connection refused; "),
        ("nonsense", "cannot join a Ray cluster at nonsense: "),
    ],
)
def test_an_address_without_a_cluster_is_refused_before_the_first_frame(
    address: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, agent=tiny_apex(ray=address))
    assert main(["train", str(config), "--runs", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_port_that_is_not_of_a_cluster_is_refused_before_the_first_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_lab.ray_cluster._JOIN_SECONDS", 5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = write_config(tmp_path, agent=tiny_apex(ray=address))
        assert main(["train", str(config), "--runs", str(tmp_path / "runs")]) == 2
    assert f"cannot join a Ray cluster at {address}: no answer within 5 s" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rl_lab.apex.cluster", "rl_lab.apex.processes"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    config = write_config(tmp_path, agent=tiny_apex())
    assert main(["train", str(config), "--runs", str(tmp_path / "runs")]) == 2
    assert "pip install 'rl-lab[ray]'" in capsys.readouterr().err


def test_ctrl_c_stops_a_run_of_its_own_cluster_and_leaves_no_process(tmp_path: Path) -> None:
    agent = tiny_apex(actors=1, shards=1)
    config = write_config(tmp_path, agent=agent, total_steps=100_000, iteration_steps=100_000)
    run = tmp_path / "Breakout" / "tiny" / "seed-0"
    with started(*RL_LAB, "train", config, "--runs", tmp_path, start_new_session=True) as process:
        wait_until(lambda: has_lines(run / "metrics.jsonl", 2), process)
        others = psutil.Process(process.pid).children(recursive=True)
        assert any(other.cmdline()[0].startswith("ray::ActorProcess") for other in others)
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells all that the command has started
        status, output, _ = ended(process)
    assert status == ResumableError.exit_status
    assert f"the last checkpoint is at {read_counters(run)['steps']:,} agent steps: nothing is lost" in output
    _, left = psutil.wait_procs(others, timeout=_DEADLINE_SECONDS)
    assert not left


BENCH = """
import sys
from rl_lab.benchmarks import apex
from rl_lab.cli.main import main

apex._ACTORS = (1,)
sys.exit(main(["bench", "apex", "--steps", "192", "--repetitions", "1", "--threads", "1", "--json"]))
"""


def test_the_bench_reports_rates_and_bytes() -> None:
    with started(sys.executable, "-c", BENCH) as process:
        status, output, errors = ended(process)
    assert status == 0, errors
    rows = json.loads(output)["rows"]
    assert {"1 actor: acting", "1 actor: learning", "256 actors: into the replay"} <= rows.keys()
    assert all(value > 0 for row in rows.values() for value in row["values"])
    # Two observations of four frames are 56 kB, and one frame 7 kB, as they are.
    assert rows["a transition of Pong, to the learner"]["values"][0] < 10_000
    assert rows["a transition of Pong, into the replay"]["values"][0] < 1_000
