"""The Ray cluster that makes a sweep's runs: joining it, what it has, and whether its nodes have the same rl-lab.

Imports ray, an extra: `pip install 'rl-lab[ray]'`.
"""

from __future__ import annotations

import functools
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_lab.errors import LabError, one_line
from rl_lab.provenance import software
from rl_lab.system import num_cores

LOCAL = "local"
"""The address that stands for this machine alone."""
_OF_THE_TERMINAL = (signal.SIGHUP, signal.SIGQUIT)
"""Sent to all that a terminal's command has started; Ray sees to SIGINT itself."""
_REACH_SECONDS = 5
_JOIN_SECONDS = 60
_OBJECT_STORE_BYTES = 128 << 20
"""Runs cross it in small pieces; Ray would take 30 % of the memory."""

# Ray's own exceptions end the process that tries to join; its last words say why.
_JOIN = """
import logging, sys, ray
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
"""


@dataclass(frozen=True)
class Resources:
    """What a run needs, or a node has."""

    cores: float
    gpus: float
    memory_bytes: float

    def minus(self, other: Resources) -> Resources:
        """What is left."""
        return Resources(self.cores - other.cores, self.gpus - other.gpus, self.memory_bytes - other.memory_bytes)

    @property
    def is_enough(self) -> bool:
        """Whether nothing is lacking."""
        return self.cores >= 0 and self.gpus >= 0 and self.memory_bytes >= 0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = f", {self.memory_bytes / 1e9:.1f} GB of memory" if self.memory_bytes else ""
        return f"{self.cores:g} core{'' if self.cores == 1 else 's'}{gpus}{memory}"


def first_fit(nodes: Sequence[Resources], needs: Sequence[Resources]) -> int:
    """How many of the needs the nodes have room for at once, where each in turn takes the first place that it fits."""
    free, count = list(nodes), 0
    for need in needs:
        rests = ((place, node.minus(need)) for place, node in enumerate(free))
        place, rest = next((found for found in rests if found[1].is_enough), (0, None))
        if rest is not None:
            free[place] = rest
            count += 1
    return count


@contextmanager
def joined(address: str) -> Iterator[None]:
    """This process is part of the cluster at the address; LabError where none answers, or where another rl-lab is."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *_OF_THE_TERMINAL)}
    for number in _OF_THE_TERMINAL:
        signal.signal(number, signal.SIG_IGN)  # what Ray starts inherits it: only this process is to be asked to stop
    try:
        _init(address)
    finally:
        for number, handler in before.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)
    try:
        _require_same_software_everywhere()
        yield
    finally:
        ray.shutdown()


def _init(address: str) -> None:
    init = functools.partial(ray.init, address, logging_level=logging.ERROR, log_to_driver=False)
    if address != LOCAL:
        _require_cluster(address)
        init()
        return
    try:
        init(include_dashboard=False, num_cpus=num_cores(), object_store_memory=_OBJECT_STORE_BYTES)
    except Exception as error:
        if type(error) is not Exception:  # that bare is what Ray raises when 30 s were too short
            raise
        raise LabError(f"Ray did not start on this machine: {error} Start again when it is less busy") from error


def living_nodes() -> list[Resources]:
    """All that the living nodes have."""
    found = (node["Resources"] for node in _living())
    return [Resources(each.get("CPU", 0), each.get("GPU", 0), each.get("memory", 0)) for each in found]


def _living() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it untyped


def _require_cluster(address: str) -> None:
    """LabError unless a process can join it. Another one tries: Ray waits minutes, and writes much while it does."""
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        subprocess.run(
            (sys.executable, "-c", _JOIN, address), check=True, capture_output=True, text=True, timeout=_JOIN_SECONDS
        )
    except OSError as error:
        reason = error.strerror or str(error)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_JOIN_SECONDS} s"
    except subprocess.CalledProcessError as error:
        found = re.search(r"^[\w.]*Error: (.*)", error.stderr, re.MULTILINE | re.DOTALL)
        reason = " ".join(found[1].split()) if found else f"exit status {error.returncode}"
    else:
        return
    raise LabError(
        f"cannot join a Ray cluster at {address}: {reason}; start one here with `ray start`, or use --ray {LOCAL}"
    )


def _require_same_software_everywhere() -> None:
    """LabError unless each node has what this machine has."""
    asked = {}
    for node in _living():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(software).options(num_cpus=0, scheduling_strategy=there)
        asked[f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"] = task.remote()
    for name, reference in asked.items():
        try:
            found = ray.get(reference)
        except RayError as error:
            raise LabError(f"the node {name} cannot run rl-lab: {last_words(error)}") from error
        require_same_software(name, found)


def require_same_software(node: str, theirs: Mapping[str, str]) -> None:
    """LabError with the first thing that differs: the node's results might, too."""
    for name, version in software().items():
        if theirs.get(name) != version:
            raise LabError(
                f"the node {node} has {name} {theirs.get(name)}, this machine {version}; install the same on both"
            )


def last_words(error: RayError) -> str:
    """The first sentence of the last line, where the cause is; what follows is advice."""
    if isinstance(error, RayTaskError):
        return one_line(f"{type(error.cause).__name__}: {error.cause}")
    return one_line(str(error).strip().splitlines()[-1].strip().partition(". ")[0])
