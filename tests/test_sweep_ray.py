"""Sweeps on real Ray clusters of several nodes on this machine: nodes die, and every run comes to its own bytes."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rl_lab.checkpoint import checkpoints
from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.provenance import software
from rl_lab.ray_cluster import LOCAL, require_same_software
from rl_lab.records import read_status
from rl_lab.sweep.cost import Measurement
from rl_lab.sweep.plan import PlannedRun, expand, read_sweep
from rl_lab.sweep.pool import Pool
from rl_lab.sweep.ray_cluster import Resources, first_fit, joined
from rl_lab.sweep.ray_pool import RayExecutor
from tests.processes import RL_LAB, ended, has_lines, rl_lab, started, wait_until
from tests.runs import train, what_it_came_to
from tests.test_sweep_pool import Watcher

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.timeout(1_800),  # seconds on a quiet machine
    pytest.mark.skipif(sys.platform != "linux", reason="starts several nodes on one machine"),
    # Ray leaves sockets and processes for the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

DEADLINE_SECONDS = 300
STORE_BYTES = 80 << 20

SWEEP = """
name = "tiny"
agents = [{agent}]
games = ["Breakout"]
seeds = [0, 1]
[overrides]
total_steps = {steps}
iteration_steps = 200
evaluation_episodes = 1
log_every_steps = 20
num_games = 2
device = "cpu"
protocol.max_frames_per_episode = 400
"""

DQN = """
agent.network = "mnih2013"
agent.replay_capacity = 600
agent.learning_starts_steps = 64
agent.epsilon_decay_steps = 200
"""

SLOW = """
import time

from rl_lab.agent import load_agent


class Slow(load_agent("uniform")):
    def train(self, env, steps, log):
        while env.steps < steps and not env.pause_requested:
            super().train(env, env.steps + env.num_games, log)
            time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_sweep(agent: str = '"uniform"', steps: int = 400, more: str = "") -> None:
    Path("sweep.toml").write_text(SWEEP.format(agent=agent, steps=steps) + more)


def planned(*agent_files: str) -> list[PlannedRun]:
    return expand(read_sweep(Path("sweep.toml")), Path("runs"), agent_files)


def until_it_starts(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s, whatever else the machine does, and raises a bare Exception after them."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return start()
        except Exception as error:
            if type(error) is not Exception or time.monotonic() > deadline:
                raise


def node_options() -> dict[str, Any]:
    """With ports that are free now: where Ray chooses them itself, a node ends when that takes more than 15 s."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
        ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    return {**ports, "include_log_monitor": False, "object_store_memory": STORE_BYTES, "memory": 1_000_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A node that makes no runs, and two that make one at a time."""
    head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True}
    made = until_it_starts(
        lambda: cluster_utils.Cluster(initialize_head=True, head_node_args={**head, **node_options()})
    )
    for _ in range(2):
        until_it_starts(lambda: made.add_node(num_cpus=1, **node_options()))
    yield made
    made.shutdown()


def raylet_of(run: Path) -> int:
    """The process of the node that makes the run: its worker's parent."""
    return psutil.Process(read_status(run).pid).parents()[1].pid


def test_runs_whose_node_dies_go_on_elsewhere_and_all_come_to_the_same_bytes(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_lab.sweep.ray_pool._LOOK_SECONDS", 0.2)
    write_sweep('"dqn/quick"', 1_000, DQN)
    plan, killed = planned(), list[psutil.Process]()

    def kill_a_node(running: int) -> None:
        run = plan[0].directory
        if not killed and checkpoints(run) and read_status(run).state == "running":
            killed.append(psutil.Process(read_status(run).pid))
            raylet = raylet_of(run)
            (node,) = (one for one in cluster.worker_nodes if one.all_processes["raylet"][0].process.pid == raylet)
            cluster.remove_node(node, allow_graceful=False)

    watcher = Watcher(kill_a_node)
    with joined(cluster.address):
        executor = RayExecutor(plan, None)
        assert executor.room(plan) == 2
        outcome = Pool(plan, executor, Path("logs"), watcher, 0).run()
    assert (outcome.finished, outcome.failures, outcome.stop_signal) == (2, (), 0)
    # On a busy machine Ray may take another node for dead as well, whose heart beats too slowly.
    assert any(told.startswith("retry 0: the node ") for told in watcher.told)
    assert "resume 0" in watcher.told
    killed[0].wait(DEADLINE_SECONDS)
    for run in plan:
        assert what_it_came_to(run.directory) == what_it_came_to(train(run.config, Path("undisturbed")).run)


def test_a_signal_leaves_runs_that_a_local_sweep_goes_on_with_to_the_same_bytes(cluster: Any) -> None:
    Path("slow.py").write_text(SLOW)
    write_sweep('"slow.py"')
    flags = ("--no-measure", "--agent", "slow.py")
    runs = planned("slow.py")
    with started(*RL_LAB, "sweep", "sweep.toml", *flags, "--ray", cluster.address, "--jobs", 1) as process:
        wait_until(lambda: has_lines(runs[0].directory / "metrics.jsonl", 2), process)
        process.send_signal(signal.SIGINT)
        status, output, errors = ended(process)
    assert (status, errors) == (75, "")
    assert output.splitlines()[1:] == [
        f"{runs[0].directory}: starts",
        "0 of 2 runs are finished",
        f"go on:      rl-lab sweep sweep.toml --no-measure --agent slow.py --ray {cluster.address} --jobs 1",
    ]
    assert (read_status(runs[0].directory).state, runs[1].directory.exists()) == ("interrupted", False)
    assert checkpoints(runs[0].directory)
    assert main(["sweep", "sweep.toml", *flags]) == 0
    for run in runs:
        assert what_it_came_to(run.directory) == what_it_came_to(train(run.config, Path("undisturbed")).run)


def test_a_cluster_that_is_too_small_is_refused_before_anything_starts(
    cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep()
    name = planned()[0].config.name
    monkeypatch.setattr("rl_lab.cli.sweep.measure", lambda runs: {name: Measurement(1_000, 2_000_000_000, 0, 1)})
    assert main(["sweep", "sweep.toml", "--ray", cluster.address]) == 2
    run = planned()[0].directory
    assert capsys.readouterr().err.startswith(
        f"rl-lab: {run} needs 1 core, 2.0 GB of memory, and no node of the cluster has that (there are: "
    )
    Path("sweep.toml").write_text(Path("sweep.toml").read_text().replace('"cpu"', '"cuda"'))
    assert main(["sweep", "sweep.toml", "--no-measure", "--ray", cluster.address]) == 2
    assert f"{run} needs 1 core, 1 GPU, and no node" in capsys.readouterr().err
    assert not run.exists()


def test_ray_on_this_machine_alone_makes_the_runs_of_a_local_sweep() -> None:
    Path("slow.py").write_text(SLOW.replace("0.05", "0"))
    write_sweep('"slow.py"')
    command = ("sweep", "sweep.toml", "--no-measure", "--agent", "slow.py", "--ray", LOCAL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    done = rl_lab(*command)
    while "Ray did not start on this machine" in done.stderr and time.monotonic() < deadline:
        done = rl_lab(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "2 of 2 runs are finished"
    for run in planned("slow.py"):
        expected = train(run.config, Path("undisturbed")).run
        assert what_it_came_to(run.directory) == what_it_came_to(expected)
        names = {path.relative_to(expected).as_posix() for path in expected.rglob("*")}
        assert {path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*")} == names


def test_an_address_where_no_cluster_is_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep()
    begin = time.monotonic()
    assert main(["sweep", "sweep.toml", "--no-measure", "--ray", "127.0.0.1:1"]) == 2
    assert time.monotonic() - begin < 60
    assert capsys.readouterr().err == (
        "rl-lab: cannot join a Ray cluster at 127.0.0.1:1: Connection refused; start one here with `ray start`, or use "
        "--ray local\n"
    )


def test_without_ray_its_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("rl_lab.sweep.ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    write_sweep()
    assert main(["sweep", "sweep.toml", "--no-measure", "--ray", LOCAL]) == 2
    assert capsys.readouterr().err == ("rl-lab: --ray needs Ray, which is not installed: pip install 'rl-lab[ray]'\n")


@pytest.mark.parametrize("arguments", [["sweep", "--help"], ["sweep", "sweep.toml", "--no-measure", "--dry-run"]])
def test_what_runs_without_ray_imports_none_of_it(arguments: list[str]) -> None:
    write_sweep()
    code = f"""
import sys
from rl_lab.cli.main import main
try:
    status = main({arguments!r})
except SystemExit as error:
    status = error.code
sys.exit(status or "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_software_on_a_node_is_named() -> None:
    require_same_software("n", software())
    with pytest.raises(LabError, match=r"^the node n has torch 1\.0, this machine .*; install the same on both$"):
        require_same_software("n", {**software(), "torch": "1.0"})


def test_runs_are_as_many_at_once_as_nodes_have_room_for() -> None:
    small, large = Resources(1, 0, 2e9), Resources(4, 1, 8e9)
    need = Resources(1, 0, 1e9)
    assert first_fit([], [need]) == 0
    assert first_fit([small, large], [need] * 9) == 5
    assert first_fit([small, large], [Resources(1, 0, 5e9), Resources(1, 0, 5e9)]) == 1
    assert first_fit([large, small], [Resources(1, 1, 1e9)] * 2) == 1
    assert first_fit([Resources(0, 0, 9e9)], [Resources(1, 0, 0)]) == 0
