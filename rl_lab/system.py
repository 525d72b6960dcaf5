"""What this machine has: memory checked before it is taken, devices, threads."""

from __future__ import annotations

from pathlib import Path

import psutil

from rl_lab.errors import LabError

# The limits that containers and cluster schedulers set (control groups, version 2 and 1).
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory_bytes() -> int:
    """Memory that can still be taken without swapping: the machine's, or the container's where that is less."""
    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file in _CGROUP_FILES:
        try:
            limit, usage = Path(limit_file).read_text().strip(), Path(usage_file).read_text().strip()
        except OSError:
            continue
        if limit != "max":
            available = min(available, max(int(limit) - int(usage), 0))
    return available


def require_memory(needed_bytes: int, purpose: str, advice: str) -> None:
    """LabError unless this machine has `needed_bytes` free."""
    free_bytes = available_memory_bytes()
    if needed_bytes > free_bytes:
        raise LabError(f"{purpose} needs {needed_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB free; {advice}")
