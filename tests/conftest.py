"""Two processes run the tests (see pyproject.toml), and the tests start more: each computes with one thread."""

from __future__ import annotations

import os

# Before torch is imported. Threads of OpenMP that wait for each other's core take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
