"""Range checks for configuration values: a failure is one line with the field, the value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from rl_lab.errors import LabError

LARGEST_INTEGER = 2**63 - 1
_LONGEST_NAME = 255
"""Of a folder, on nearly every file system."""

# Comparisons with nan are false, so each check also keeps nan out.


def require_between(config: object, low: float, high: float, *fields: str) -> None:
    """Each field is a number in [low, high], else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not low <= value <= high:
            raise LabError(f"{field} is {value!r}; allowed is {low} to {high}")


def require_at_least(config: object, low: float, *fields: str) -> None:
    """Each field is a finite number of at least `low`, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not low <= value < math.inf:
            raise LabError(f"{field} is {value!r}; allowed is {low} or more")
        if value > LARGEST_INTEGER:
            raise LabError(f"{field} is larger than any machine counts; allowed is {low} to {LARGEST_INTEGER}")


def require_positive(config: object, *fields: str) -> None:
    """Each field is a finite number above zero, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not 0 < value < math.inf:
            raise LabError(f"{field} is {value!r}; allowed is anything above 0")


def require_one_of(config: object, allowed: tuple[str, ...], *fields: str) -> None:
    """Each field is one of the allowed words, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if value not in allowed:
            raise LabError(f"{field} is {value!r}; allowed is one of {', '.join(allowed)}")


def require_fitting(*switches: tuple[bool, str, str]) -> None:
    """LabError for the first that clashes: (whether it does, what is given, all that is allowed with that)."""
    for clash, given, allowed in switches:
        if clash:
            raise LabError(f"{given}; allowed with it is only that {allowed}")


def require_learning(learning_starts_steps: int, total_steps: int) -> None:
    """Learning starts within the budget, else a LabError. No budget is that of a saved agent, which only plays."""
    if learning_starts_steps >= total_steps > 0:
        raise LabError(
            f"learning_starts_steps is {learning_starts_steps} and the budget {total_steps} steps: nothing would be "
            "learned; use a smaller --agent.learning-starts-steps"
        )


def require_word(config: object, *fields: str) -> None:
    """Each field may name a folder and be shown, else a LabError."""
    for field in fields:
        value = getattr(config, field)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise LabError(f"{field} is {value!r}; allowed are letters, digits, dots, dashes and underscores")
        if len(value) > _LONGEST_NAME:
            raise LabError(f"{field} is {value!r}, of {len(value)} characters; allowed are at most {_LONGEST_NAME}")


def integer_at(table: Mapping[str, object], key: str, where: str) -> int:
    """The count under `key`; LabError where it is no integer from 0 to the largest one."""
    value = table.get(key)
    if type(value) is not int or not 0 <= value <= LARGEST_INTEGER:
        raise LabError(f"{where} is damaged: {key} is {value!r}; allowed is an integer, 0 or more")
    return value
