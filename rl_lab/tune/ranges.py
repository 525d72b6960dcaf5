"""The values that a hyperparameter may take: from a low one to a high one, or one of several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rl_lab.config import typed
from rl_lab.errors import LabError, did_you_mean

Value = int | float | bool | str
_TABLES = "{low, high}, with step or log, or {choices}"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`, both included; integers for a field of integers."""

    low: float
    high: float
    step: float | None = None
    """Between neighbours, from `low` on; None is 1 for integers, and none for numbers."""
    log: bool = False
    """Whether all orders of magnitude are as likely."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:  # which keeps nan out, too
            raise LabError(f"low is {self.low}, high {self.high}; allowed is a low below its high, both finite")
        if self.log and self.low <= 0:
            raise LabError(f"low is {self.low}; allowed with log is anything above 0")
        if self.step is None:
            return
        if self.log:
            raise LabError(f"step is {self.step} with log; leave one out")
        if not 0 < self.step <= self.high - self.low:
            raise LabError(f"step is {self.step}; allowed is anything above 0 to {self.high - self.low}")
        steps = (self.high - self.low) / self.step
        if not math.isclose(steps, round(steps)):
            near = self.low + math.floor(steps) * self.step
            raise LabError(f"high is {self.high}; allowed are whole steps of {self.step} from low, such as {near}")

    @property
    def bounds(self) -> tuple[Value, ...]:
        """The values to check: the others lie between."""
        return self.low, self.high

    def __str__(self) -> str:
        kind = ", log" if self.log else "" if self.step is None else f", in steps of {self.step}"
        return f"{self.low} to {self.high}{kind}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of several values, without an order."""

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise LabError("choices are empty; allowed is a list of at least one value")
        twice = [choice for choice in self.choices if self.choices.count(choice) > 1]
        if twice:
            raise LabError(f"choices name {twice[0]!r} twice; name each value once")

    @property
    def bounds(self) -> tuple[Value, ...]:
        """The values to check."""
        return self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.choices))}"


Range = Interval | Choices


def is_range(table: object) -> bool:
    """Whether a table of a TOML file is a range, and not a table of ranges."""
    return isinstance(table, dict) and not {"low", "high", "choices"}.isdisjoint(table)


def read_range(table: object, kind: type, where: str) -> Range:
    """The range of a field of this type; LabError, which begins with `where`, for what is none."""
    if not isinstance(table, dict) or not is_range(table):
        raise LabError(f"{where} is {repr(table)[:200]}; allowed is {_TABLES}")
    is_number = kind in (int, float)
    if not is_number and "choices" not in table:
        raise LabError(f"{where} is no number, so it has no low and high; allowed are choices")
    kinds: dict[str, type] = {"low": kind, "high": kind, "step": kind, "log": bool}
    if "choices" in table:
        kinds = {"choices": list}
    for key in table:
        if key not in kinds:
            raise LabError(f"{where}: unknown key {key!r}{did_you_mean(key, kinds)} (allowed: {', '.join(kinds)})")
    values: dict[str, Any] = {key: typed(value, kinds[key], f"{where}.{key}") for key, value in table.items()}
    if "choices" in values:
        values["choices"] = tuple(typed(value, kind, f"{where}.choices") for value in values["choices"])
    try:
        if "choices" in values:
            return Choices(**values)
        if not {"low", "high"} <= values.keys():
            raise LabError(f"only one of low and high is given; allowed is {_TABLES}")
        return Interval(**values)
    except LabError as error:
        raise LabError(f"{where}: {error}") from error
