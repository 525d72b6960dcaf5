"""Range checks for configuration values: a failure is one line that names the field, the value and what is allowed."""

from __future__ import annotations

import math
from typing import Protocol

from rl_lab.errors import LabError


class _Named(Protocol):
    """Anything whose fields can be read by name."""


def require_between(config: _Named, low: float, high: float, *fields: str) -> None:
    """Each field is a finite number in [low, high], else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not (math.isfinite(value) and low <= value <= high):
            raise LabError(f"{field} is {value!r}; allowed is {low:g} to {high:g}")


def require_at_least(config: _Named, low: float, *fields: str) -> None:
    """Each field is a finite number of at least `low`, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not (math.isfinite(value) and value >= low):
            raise LabError(f"{field} is {value!r}; allowed is {low:g} or more")


def require_positive(config: _Named, *fields: str) -> None:
    """Each field is a finite number above zero, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not (math.isfinite(value) and value > 0):
            raise LabError(f"{field} is {value!r}; allowed is anything above 0")


def require_one_of(config: _Named, allowed: tuple[str, ...], *fields: str) -> None:
    """Each field is one of the allowed words, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if value not in allowed:
            raise LabError(f"{field} is {value!r}; allowed is one of {', '.join(allowed)}")
