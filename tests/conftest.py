"""Two processes run the tests (see pyproject.toml), and the tests start more: each computes with one thread."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

# Before torch is imported. OpenMP's threads spin while they wait, which beside other busy processes takes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# A script's background jobs start with SIGINT ignored, and so would the tests that interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402  # after the threads are set


@pytest.fixture(autouse=True)
def _processor_as_before() -> Iterator[None]:
    """What trains sets this thread's processor to make tiny numbers 0, and hypothesis' floats need them."""
    yield
    torch.set_flush_denormal(False)
