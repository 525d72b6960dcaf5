"""Two processes run the tests (see pyproject.toml), and the tests start more: each computes with one thread."""

from __future__ import annotations

import os

# Before torch is imported. OpenMP's threads spin while they wait, which beside other busy processes takes minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
