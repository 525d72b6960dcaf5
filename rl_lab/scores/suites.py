"""Named sets of games: what a paper ran, or what stands for all games at a smaller cost."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from rl_lab.scores.tables import read_column, read_rows


@dataclass(frozen=True)
class Suite:
    """Games that are run together."""

    name: str
    games: tuple[str, ...]
    """CamelCase, sorted."""
    source: str


@cache
def suites() -> dict[str, Suite]:
    """Every suite by name, the smallest first."""
    text = resources.files("rl_lab.scores").joinpath("data", "suites.toml").read_text(encoding="utf-8")
    return {name: Suite(name, _games(table), table["source"]) for name, table in tomllib.loads(text).items()}


def _games(table: dict[str, Any]) -> tuple[str, ...]:
    listed = table["games"] if "games" in table else read_column(read_rows(table["file"]), table["column"])
    return tuple(sorted(listed))
