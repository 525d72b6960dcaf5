"""What Ray reads of the environment when it is imported; this module does not import it."""

from __future__ import annotations

import os


def quiet_ray() -> None:
    """Let Ray, not yet imported, send no statistics and print nothing of what happens in the cluster."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
