"""Published training curves: Dopamine's, for 16 agents in 60 games, with the spread over seeds.

A value is the mean return of the training episodes of one iteration of a million frames, and stands at that iteration's
end. It is what an exploring agent earned (sticky actions 0.25, epsilon 0.01 after its decay), so it compares with
training returns of the `machado2018` protocol, not with evaluations. The file keeps 45 of 200 iterations: those that
end at 1, 2, 3, 5, 7, 9 and 10 million frames, then every fifth. See data/SOURCES.md.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from rl_lab.errors import LabError, did_you_mean
from rl_lab.scores.references import Reference, references

_FRAMES_PER_ITERATION = 1_000_000
_LONGEST = "_200M"
"""Each curve has a reference of this budget, which says what the agent is."""


class GameCurve(NamedTuple):
    """Training returns in one game, over seeds; the tuples are equally long, one entry a kept iteration."""

    frames: tuple[int, ...]
    mean: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ReferenceCurve:
    """A published agent's training returns over emulator frames, by game."""

    name: str
    title: str
    protocol: str
    source: str
    table: str
    """The normalization table that suits the protocol."""
    games: Mapping[str, GameCurve]


def curves() -> dict[str, ReferenceCurve]:
    """Every published training curve by name, sorted: dopamine_dqn_cnn is the curve of dopamine_dqn_cnn_200M."""
    return {name: curve(name) for name in _agents()}


def published(names: Sequence[str]) -> tuple[list[Reference], list[ReferenceCurve]]:
    """The published agents and the published curves among the names, each once; LabError for a name that is neither."""
    names = tuple(dict.fromkeys(names))
    known = {**references(), **_agents()}
    for name in names:
        if name not in known:
            raise LabError(
                f"no published agent or curve {name!r}{did_you_mean(name, known)} (`rl-lab list references` shows all)"
            )
    agents = [references()[name] for name in names if name in references()]
    return agents, [curve(name) for name in names if name in _agents()]


def curve_names() -> tuple[str, ...]:
    """Of every published training curve, without reading one."""
    return tuple(_agents())


def curve(name: str) -> ReferenceCurve:
    """The published training curve of that name; LabError for an unknown one."""
    if name not in _agents():
        raise LabError(f"no published curve {name!r} among {', '.join(_agents())}{did_you_mean(name, _agents())}")
    return _read(name)


def _agents() -> dict[str, Reference]:
    """The reference at the end of each curve, by the curve's name."""
    return {agent.curve: agent for agent in references().values() if agent.curve and agent.name.endswith(_LONGEST)}


@cache
def _read(name: str) -> ReferenceCurve:
    agent = _agents()[name]
    by_game: dict[str, list[list[str]]] = {}
    for line in _lines():
        if line.startswith(f"{name},"):
            _, game, *point = line.split(",")
            by_game.setdefault(game, []).append(point)
    return ReferenceCurve(
        name=name,
        title=agent.title,
        protocol="training returns with sticky actions 0.25, mean of each iteration of 1M frames (Dopamine), 60 games",
        source=agent.source,
        table=agent.table,
        games={game: _game_curve(points) for game, points in by_game.items()},
    )


def _game_curve(points: Iterable[list[str]]) -> GameCurve:
    iterations, seeds, mean, least, most = zip(*points, strict=True)
    return GameCurve(
        # Iteration 0 is the first million frames.
        frames=tuple((int(iteration) + 1) * _FRAMES_PER_ITERATION for iteration in iterations),
        mean=tuple(map(float, mean)),
        least=tuple(map(float, least)),
        most=tuple(map(float, most)),
        seeds=tuple(map(int, seeds)),
    )


@cache
def _lines() -> list[str]:
    """curve, game, iteration, seeds, mean, min, max: one line a curve, game and iteration, sorted by them."""
    data = resources.files("rl_lab.scores").joinpath("data", "dopamine_curves.csv.gz").read_bytes()
    return gzip.decompress(data).decode().splitlines()[1:]
