"""A sweep's runs on a Ray cluster: each in an actor with the cores, GPUs and memory it needs, carried back as it grows.

No folder is shared: configs and agents' files are sent. A node that dies takes no more with it than what its runs did
since they were last carried, a few seconds' records and the steps since the last checkpoint; they go on from there on
another node.

A run whose device is cuda, or auto in a cluster that has GPUs, gets a GPU to itself: runs of one sweep should not
differ by where they were made. `device = "cpu"` in the sweep's overrides leaves the GPUs alone.

Imports ray, an extra: `pip install 'rl-lab[ray]'`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from rl_lab.carried import PIECE_BYTES, CarriedRun
from rl_lab.errors import LabError, ResumableError
from rl_lab.ray_cluster import last_words, require_same_software
from rl_lab.run import run_directory
from rl_lab.storage import Storage
from rl_lab.sweep.cost import Measurement
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.pool import End, Process
from rl_lab.sweep.ray_cluster import Resources, first_fit, living_nodes
from rl_lab.sweep.workplace import LOG, Look, Workplace
from rl_lab.watchdog import how_it_ended

_LOOK_SECONDS = 2.0
_PLACE_SECONDS = 0.5
_PATIENCE_SECONDS = 300
"""For a node with room for a run to come back."""
_RUNS = "runs"
"""The folder of a workplace for its run."""


class RayExecutor:
    """Makes runs on the nodes of the cluster that this process has joined."""

    def __init__(self, runs: Sequence[PlannedRun], jobs: int | None) -> None:
        """At most `jobs` at once; None is as many as there is room for. LabError where one of them has none."""
        self._jobs = jobs or len(runs)
        has_gpus = any(node.gpus for node in living_nodes())
        self._needs = {run.directory: _needs(run, has_gpus=has_gpus) for run in runs}
        self._experiments = {run.directory: run.config.name for run in runs}
        self._threads = ThreadPoolExecutor(len(runs), thread_name_prefix="run")
        self._looked = 0.0
        self._require_room()

    def reserve(self, measured: Mapping[str, Measurement]) -> None:
        """Memory, for each run."""
        for directory, need in self._needs.items():
            memory = measured[self._experiments[directory]].memory_bytes
            self._needs[directory] = Resources(need.cores, need.gpus, memory)
        self._require_room()

    def room(self, runs: Sequence[PlannedRun]) -> int:
        """On the nodes that there are now, whatever else runs there: for that Ray lets runs wait."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            needs = [self._needs[run.directory] for run in runs]
            self._room = min(self._jobs, max(first_fit(living_nodes(), needs), 1))
            self._looked = time.monotonic()
        return self._room

    def free_memory_bytes(self) -> int:
        """Of all nodes, as they were when they joined."""
        return int(sum(node.memory_bytes for node in living_nodes()))

    def start(self, run: PlannedRun, log: Path) -> Process:
        """An actor, as soon as Ray finds a place for it."""
        return _RemoteProcess(run, log, self._needs[run.directory], self._threads)

    def _require_room(self) -> None:
        nodes = living_nodes()
        for directory, need in self._needs.items():
            if not first_fit(nodes, [need]):
                there = "; ".join(sorted(map(str, set(nodes)))[:5])
                raise LabError(
                    f"{directory} needs {need}, and no node of the cluster has that (there are: {there}); add a node, "
                    "or use a smaller sweep"
                )
        self._looked = 0.0


class _RemoteProcess:
    """A run on whichever node Ray finds for it; a thread here looks after it."""

    def __init__(self, run: PlannedRun, log: Path, needs: Resources, threads: ThreadPoolExecutor) -> None:
        self._run = run
        self._log = log
        self._log_bytes = 0
        self._needs = needs
        self._stops = 0
        self._future: Future[End] = threads.submit(self._make)

    def poll(self) -> End | None:
        return self._future.result() if self._future.done() else None

    def terminate(self) -> None:
        self._stops += 1

    def wait(self) -> None:
        wait([self._future])

    def _make(self) -> End:
        try:
            with (
                CarriedRun(self._run.directory, Storage(), begins_anew=not self._run.keeps_state) as carried,
                _Node(self._needs, _place(self._run)) as node,
            ):
                for problem in carried.problems:
                    self._tell(f"skipped a damaged checkpoint: {problem}")
                try:
                    return self._make_on(node, carried)
                except RayTaskError as error:  # the node is there, and what it was asked to do failed
                    reason = f"{node.host}: {last_words(error)}"
                    self._tell(reason)
                    carried.lose(reason)
                    return End(1)
                except RayError as error:
                    reason = f"the node {node.host} was lost: {last_words(error)}"
                    carried.lose(reason)
                    return End(0, lost=reason)
        except LabError as error:
            self._tell(str(error))
            return End(error.exit_status)

    def _make_on(self, node: _Node, carried: CarriedRun) -> End:
        if not self._is_placed(node):
            return End(ResumableError.exit_status)
        require_same_software(node.host, node.software)
        self._send(node, carried)
        node.start(self._words())
        stops = 0
        while True:
            for _ in range(self._stops - stops):
                node.terminate()
                stops += 1
            look = node.look(_LOOK_SECONDS)
            self._copy_log(node, look.log_bytes)
            if look.seen is not None:
                carried.take(look.seen, node.read)
            if look.status is not None:
                carried.lose(how_it_ended(look.status))
                return End(look.status)

    def _is_placed(self, node: _Node) -> bool:
        """Wait for a place; False if it is asked to stop before. LabError when there is no such node for long."""
        fitted = time.monotonic()
        while not node.is_there(_PLACE_SECONDS):
            if self._stops:
                return False
            if first_fit(living_nodes(), [self._needs]):
                fitted = time.monotonic()
            if time.monotonic() - fitted > _PATIENCE_SECONDS:
                raise LabError(f"no node is left that has {self._needs}")
        return True

    def _send(self, node: _Node, carried: CarriedRun) -> None:
        """All that the node needs: what there is of the run, or its experiment; and the agent's file."""
        node.write("config.toml", self._run.config.to_toml().encode())
        if self._run.agent_file is not None:
            node.write(Path(self._run.agent_file).name, Path(self._run.agent_file).read_bytes())
        for name, path in carried.files():
            node.write(f"{node.run}/{name}", b"")
            if path is not None:
                with path.open("rb") as file:
                    for piece in iter(functools.partial(file.read, PIECE_BYTES), b""):
                        node.write(f"{node.run}/{name}", piece)

    def _words(self) -> tuple[str, ...]:
        """Those of the run's command, for what was sent."""
        own_agent = () if self._run.agent_file is None else ("--agent", Path(self._run.agent_file).name)
        if self._run.can_go_on:
            return ("train", "--resume", _place(self._run), *own_agent)
        return ("train", "config.toml", "--runs", _RUNS, *own_agent)

    def _copy_log(self, node: _Node, size: int) -> None:
        with self._log.open("ab") as log:
            while self._log_bytes < size and (piece := node.read_file(LOG, self._log_bytes, PIECE_BYTES)):
                log.write(piece)
                self._log_bytes += len(piece)

    def _tell(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"rl-lab: {line}\n")


class _Node:
    """A workplace in an actor of its own, until it is left; RayError when it is lost."""

    def __init__(self, needs: Resources, run: str) -> None:
        self.run = run
        self.host = "that was to make it"
        actor = ray.remote(Workplace).options(
            num_cpus=needs.cores, num_gpus=needs.gpus, memory=needs.memory_bytes or None
        )
        self._actor = cast(ActorHandle[Any], actor.remote(run))  # which is typed as if it were the class
        self._about = self._call("about")

    def __enter__(self) -> _Node:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RayError):
            if self.is_there(0):
                ray.get(self._call("close"))
        ray.kill(self._actor)

    def is_there(self, patience_seconds: float) -> bool:
        """Whether it has a place, soon after it got one."""
        done, _ = ray.wait([self._about], timeout=patience_seconds)
        if done:
            self.host, self.software = cast(tuple[str, dict[str, str]], ray.get(self._about))
        return bool(done)

    def write(self, name: str, data: bytes) -> None:
        ray.get(self._call("write", name, data))

    def start(self, words: Sequence[str]) -> None:
        ray.get(self._call("start", words))

    def look(self, patience_seconds: float) -> Look:
        return cast(Look, ray.get(self._call("look", patience_seconds)))

    def read(self, name: str, offset: int, size: int) -> bytes | None:
        """Of the run."""
        return self.read_file(f"{self.run}/{name}", offset, size)

    def read_file(self, name: str, offset: int, size: int) -> bytes | None:
        return cast(bytes | None, ray.get(self._call("read", name, offset, size)))

    def terminate(self) -> None:
        ray.get(self._call("terminate"))

    def _call(self, method: str, *arguments: object) -> ray.ObjectRef[object]:
        # Ray adds the methods of an actor's handle when it makes it.
        return cast("ray.ObjectRef[object]", getattr(self._actor, method).remote(*arguments))


def _place(run: PlannedRun) -> str:
    """The run's folder within a workplace."""
    return run_directory(Path(_RUNS), run.config).as_posix()


def _needs(run: PlannedRun, *, has_gpus: bool) -> Resources:
    """Without memory, which only a measurement tells."""
    device = run.config.device
    cores = max(run.config.threads, run.config.emulator_threads)
    return Resources(cores, float(device == "cuda" or (device == "auto" and has_gpus)), 0)
