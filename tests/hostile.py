"""Damage to whole files, and what reading them may cost."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from rl_lab.errors import LabError


@contextmanager
def little_is_spent(*, seconds: float = 5, megabytes: float = 20) -> Iterator[None]:
    """The block is quick and takes little memory."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 1e6
    assert time.monotonic() - start < seconds


def is_read(load: Callable[[], object]) -> bool:
    """False where it is refused in one line; any other error is the test's."""
    try:
        load()
    except LabError as error:
        message = str(error)
    else:
        return True
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) <= 2_000
    return False


def mutations(whole: bytes, count: int) -> Iterator[bytes]:
    """The bytes with one damage each: a flip, a cut, something put in, a part twice, a part of zeros."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        start, stop = sorted(rng.integers(0, len(whole), 2).tolist())
        stop = min(stop, start + 64)
        yield whole[:start] + bytes([whole[start] ^ 1 << int(rng.integers(8))]) + whole[start + 1 :]
        yield whole[:start]
        yield whole[:start] + rng.bytes(int(rng.integers(1, 9))) + whole[start:]
        yield whole[:stop] + whole[start:stop] + whole[stop:]
        yield whole[:start] + bytes(stop - start) + whole[stop:]
