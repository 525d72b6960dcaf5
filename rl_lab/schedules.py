"""Values that change over a run as pure functions of its progress."""

from __future__ import annotations


def linear(step: int, *, start: float, end: float, over_steps: int) -> float:
    """From `start` at step 0 to `end` at `over_steps`, constant afterwards (Mnih et al. 2015, Methods: epsilon)."""
    if step >= over_steps:
        return end
    return start + (end - start) * step / over_steps
