"""Published agents to compare with: raw scores by game, and the protocol under which they were earned.

The scores are columns of csv files; `data/references.toml` says which column is which agent, under which protocol.
"""

from __future__ import annotations

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
    description: str
    """The agent, then the protocol; says UNVERIFIED where the scores were seen in a single transcription only."""
    table: str
    """The normalization table that suits the protocol. In one chart, normalize everything by one table."""
    frames: int | None
    """Emulator frames of training, 4 an agent step; None where the source that was read does not say."""
    kind: Literal["evaluation", "training"]
    """Scores of evaluation episodes, or returns of the exploring agent while it trained. The two do not compare."""
    scores: Mapping[str, float]


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
    text = resources.files("rl_lab.scores").joinpath("data", "references.toml").read_text(encoding="utf-8")
    studies = tomllib.loads(text)["study"]
    agents = [_read(study, name, title) for study in studies for name, title in study["agents"].items()]
    return {agent.name: agent for agent in sorted(agents, key=lambda agent: agent.name)}


def _read(study: Mapping[str, Any], name: str, title: str) -> Reference:
    rows = read_rows(study["file"])
    if "column" in study:  # one row a game and agent, and the title is the file's word for the agent
        scores = read_column((row for row in rows if row["agent"] == title), study["column"])
    else:  # one column an agent
        scores = read_column(rows, name.removeprefix(study.get("prefix", "")))
    return Reference(
        name=name,
        description=f"{title}; {study['protocol']}",
        table=study["table"],
        frames=study.get("frames"),
        kind=study["kind"],
        scores=scores,
    )
