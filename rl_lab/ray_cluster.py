"""The way into a Ray cluster: one of this machine alone, or one that runs and whose nodes have the same rl-lab.

Imports ray, an extra: `pip install 'rl-lab[ray]'`; call `quiet_ray` before.
"""

from __future__ import annotations

import functools
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_lab.errors import LabError, one_line
from rl_lab.provenance import software

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, which ends with its user."""
_OF_THE_TERMINAL = (signal.SIGHUP, signal.SIGQUIT)
"""Sent to all that a terminal's command has started; Ray sees to SIGINT itself."""
_REACH_SECONDS = 5
_JOIN_SECONDS = 60

# Ray's own exceptions end the process that tries to join; its last words say why.
_JOIN = """
import logging, sys, ray
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
"""


@dataclass(frozen=True)
class OwnCluster:
    """What a cluster of this machine alone has."""

    num_cpus: int
    num_gpus: int | None
    """None is as many as Ray finds."""
    object_store_bytes: int


@contextmanager
def joined(address: str, own: OwnCluster, flag: str) -> Iterator[None]:
    """This process is part of the cluster at the address, or for `LOCAL` of its own one.

    LabError where none answers, or where another rl-lab is; it names the flag that takes the address.
    """
    try:
        with _only_this_process_stops():
            if address == LOCAL:
                _start(own)
            else:
                _require_cluster(address, flag)
                _init(address)
        if address != LOCAL:
            _require_same_software_everywhere()
        yield
    finally:
        ray.shutdown()


def living_nodes() -> list[dict[str, Any]]:
    """The nodes that are part of the cluster now, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it untyped


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


_init = functools.partial(ray.init, logging_level=logging.ERROR, log_to_driver=False)


def _start(own: OwnCluster) -> None:
    try:
        _init(
            LOCAL,
            include_dashboard=False,
            num_cpus=own.num_cpus,
            num_gpus=own.num_gpus,
            object_store_memory=own.object_store_bytes,
        )
    except Exception as error:
        if type(error) is not Exception:  # that bare is what Ray raises when 30 s were too short
            raise
        raise LabError(f"Ray did not start on this machine: {error} Start again when it is less busy") from error


@contextmanager
def _only_this_process_stops() -> Iterator[None]:
    """What Ray starts ignores the terminal's signals, and this process keeps its own handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *_OF_THE_TERMINAL)}
    for number in _OF_THE_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)


def _require_cluster(address: str, flag: str) -> None:
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
        f"cannot join a Ray cluster at {address}: {reason}; start one here with `ray start`, or use {flag} {LOCAL}"
    )


def _require_same_software_everywhere() -> None:
    """LabError unless each node has what this machine has."""
    asked = {}
    for node in living_nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(software).options(num_cpus=0, scheduling_strategy=there)
        asked[f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"] = task.remote()
    for name, reference in asked.items():
        try:
            found = ray.get(reference, timeout=_JOIN_SECONDS)
        except RayError as error:
            raise LabError(f"the node {name} cannot run rl-lab: {last_words(error)}") from error
        require_same_software(name, found)
