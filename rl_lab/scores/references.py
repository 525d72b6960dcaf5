"""Published agents to compare with: raw scores by game, and the protocol under which they were earned.

The scores are columns of csv files; `data/references.toml` says which column is which agent, under which protocol.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from rl_lab.errors import LabError, did_you_mean
from rl_lab.scores.tables import read_column, read_rows


@dataclass(frozen=True)
class Reference:
    """A published agent's raw score in each game that its source has."""

    name: str
    title: str
    protocol: str
    """How the scores were earned; says UNVERIFIED where they were seen in a single transcription only."""
    source: str
    """Where the scores were read: a paper or a repository. More in data/SOURCES.md."""
    table: str
    """The normalization table that suits the protocol. In one chart, normalize everything by one table."""
    frames: int | None
    """Emulator frames of training, 4 an agent step; None where the source that was read does not say."""
    seeds: int | None
    """Independent trainings in most games; None where the source that was read does not say, or contradicts itself."""
    kind: Literal["evaluation", "training"]
    """Scores of evaluation episodes, or returns of the exploring agent while it trained. The two do not compare."""
    scores: Mapping[str, float]
    """Mean over seeds, by game."""
    runs: Mapping[str, tuple[float, ...]]
    """The score of each run by game, to four decimals; empty where only means are published."""
    curve: str | None
    """The training curve that the scores are points of, or averages of its points: a name for `rl_lab.scores.curve`."""

    @property
    def description(self) -> str:
        """The agent, then the protocol."""
        return f"{self.title}; {self.protocol}"


def references() -> dict[str, Reference]:
    """Every published agent by name, sorted."""
    return dict(_references())


def reference(name: str) -> Reference:
    """The published agent of that name; LabError for an unknown one."""
    known = _references()
    if name not in known:
        hint = did_you_mean(name, known)
        raise LabError(f"no published agent {name!r} among the {len(known)} of scores/data/references.toml{hint}")
    return known[name]


@cache
def _references() -> Mapping[str, Reference]:
    studies = tomllib.loads(_text("references.toml"))["study"]
    agents = [_read(study, name, agent) for study in studies for name, agent in study["agents"].items()]
    return {agent.name: agent for agent in sorted(agents, key=lambda agent: agent.name)}


def _read(study: Mapping[str, Any], name: str, agent: str | Mapping[str, Any]) -> Reference:
    facts = {**study, **({"title": agent} if isinstance(agent, str) else agent)}
    column = name.removeprefix(facts.get("prefix", ""))
    rows = read_rows(facts["file"])
    if "column" in facts:  # one row a game and agent, and the title is the file's word for the agent
        scores = read_column((row for row in rows if row["agent"] == facts["title"]), facts["column"])
    else:  # one column an agent
        scores = read_column(rows, column)
    return Reference(
        name=name,
        title=facts["title"],
        protocol=facts["protocol"],
        source=facts["source"],
        table=facts["table"],
        frames=facts.get("frames"),
        seeds=facts.get("seeds"),
        kind=facts["kind"],
        scores=scores,
        runs=_read_runs(facts["runs"]).get(column, {}) if "runs" in facts else {},
        curve=name.rpartition("_")[0] if facts.get("curve") else None,
    )


@cache
def _read_runs(file: str) -> Mapping[str, Mapping[str, tuple[float, ...]]]:
    """By column and game."""
    columns = json.loads(_text(file))
    return {name: {game: tuple(map(float, runs)) for game, runs in games.items()} for name, games in columns.items()}


def _text(file: str) -> str:
    return resources.files("rl_lab.scores").joinpath("data", file).read_text(encoding="utf-8")
