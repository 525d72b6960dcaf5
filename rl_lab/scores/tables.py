"""Normalization tables: the random and the human score of each game, and human-normalized scores.

There are several tables because there are several ways to start and to cut off an episode, and several humans. A
human-normalized score therefore means something only together with the name of its table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from rl_lab.errors import LabError, did_you_mean

DEFAULT_TABLE = "noop57"


@dataclass(frozen=True)
class ScoreTable:
    """Raw scores, by game, of a uniformly random player and of a human tester."""

    name: str
    description: str
    random: Mapping[str, float]
    human: Mapping[str, float]

    def __post_init__(self) -> None:
        assert self.random.keys() == self.human.keys(), self.name
        assert all(self.random[game] < self.human[game] for game in self.random), self.name

    def human_normalized(self, game: str, score: float) -> float | None:
        """(score - random) / (human - random), a fraction: 0.0 is random, 1.0 is human, None a game without scores."""
        if game not in self.random:
            return None
        return (score - self.random[game]) / (self.human[game] - self.random[game])


class _TableSource(NamedTuple):
    """Where a table stands in atari57_reference.csv."""

    columns: str  # the table is the columns "random" + this and "human" + this
    description: str
    random: Mapping[str, float] = {}  # random scores that replace those of the column


_TABLES = {
    # The published means of DQN to QR-DQN come out only with this 0. With 16256.9 the human is a mere 1411 points above
    # random, and VideoPinball alone decides the mean over games. Medians and interquartile means hardly move.
    "noop57": _TableSource(
        "", "57 games, up to 30 no-ops, 30-minute cap (DQN Zoo); VideoPinball's random score 0", {"VideoPinball": 0.0}
    ),
    "noop57_videopinball16257": _TableSource(
        "", "57 games, up to 30 no-ops, 30-minute cap (DQN Zoo, unchanged); VideoPinball's random score 16256.9"
    ),
    "muzero_s1": _TableSource(
        "_muzero_s1", "57 games, no-op starts, two decimals (MuZero, Table S1); VideoPinball's random score 0"
    ),
    "humanstart": _TableSource("_humanstart", "57 games, human starts (MuZero, Table S2)"),
    "nature2015": _TableSource("_nature2015", "49 games, no-op starts, 5-minute cap (Mnih et al. 2015)"),
    "mnih2013": _TableSource("_2013", "7 games (Mnih et al. 2013, Table 1)"),
}

TABLE_NAMES = tuple(_TABLES)


def score_table(name: str = DEFAULT_TABLE) -> ScoreTable:
    """The table of that name, one of `TABLE_NAMES`; LabError for any other."""
    if name not in _TABLES:
        raise LabError(f"no score table {name!r} among {', '.join(TABLE_NAMES)}{did_you_mean(name, TABLE_NAMES)}")
    source = _TABLES[name]
    rows = read_rows("atari57_reference.csv")
    random = read_column(rows, "random" + source.columns)
    human = read_column(rows, "human" + source.columns)
    return ScoreTable(name, source.description, random={**random, **source.random}, human=human)


@cache
def read_rows(file: str) -> tuple[Mapping[str, str], ...]:
    """The rows of a csv file of `rl_lab/scores/data`, one a game or one a game and agent."""
    text = resources.files("rl_lab.scores").joinpath("data", file).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def read_column(rows: Iterable[Mapping[str, str]], column: str) -> dict[str, float]:
    """Score by game; an empty cell is a game without a score, and left out."""
    return {row["game"]: float(row[column]) for row in rows if row[column]}
