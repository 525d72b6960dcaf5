"""What may be compared, and the standings that come of it.

Only like is compared with like. Evaluation scores and training returns stand apart; another budget makes another
contender; another protocol, or other settings under one name, are refused unless the user insists, and are then marked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rl_lab.errors import LabError
from rl_lab.report.results import Point, Run
from rl_lab.report.standings import (
    MAX_PAIRED,
    Cell,
    Contender,
    Kind,
    Standing,
    mean_interval,
    published_contender,
    standing,
)
from rl_lab.scores import Reference, ReferenceCurve, ScoreTable

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Any)  # what can be sorted
_Chosen = Sequence[tuple[Run, Point]]
"""Runs, each with the one point that counts."""


@dataclass(frozen=True)
class Comparison:
    """All that a report shows."""

    table: ScoreTable
    runs: tuple[Run, ...]
    evaluation: Standing
    """At the last evaluations, or at the frames that were asked for."""
    at_frames: Standing | None
    """At the largest number of frames that all were evaluated at; None where `evaluation` shows that."""
    at_hours: Standing | None
    """At equal hours of training; None for a single experiment, or where hours are not known."""
    training: Standing
    """Training returns at the frames of `evaluation`."""
    curves: tuple[ReferenceCurve, ...]
    """Published training curves that were asked for."""
    warnings: tuple[str, ...]
    """What a reader must know before any number."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Those in which anybody stands, in reading order."""
        candidates = (self.evaluation, self.at_frames, self.at_hours, self.training)
        return tuple(standing for standing in candidates if standing is not None and standing.contenders)

    @property
    def games(self) -> tuple[str, ...]:
        """All that any run has played, sorted."""
        return tuple(sorted({run.game for run in self.runs}))


def compare(
    runs: Sequence[Run],
    references: Sequence[Reference] = (),
    curves: Sequence[ReferenceCurve] = (),
    *,
    table: ScoreTable,
    without: Sequence[Path] = (),
    at_frames: int | None = None,
    rng: np.random.Generator,
) -> Comparison:
    """Everything about the runs, and a word about those `without` an evaluation.

    The generator draws bootstraps and permutations. LabError where no run has an evaluation after `at_frames`.
    """
    given = runs
    chosen = [(run, run.evaluations[-1]) for run in runs] if at_frames is None else _after_frames(runs, at_frames)
    runs = [run for run, _ in chosen]
    games = sorted({run.game for run in runs})

    def stand(title: str, kind: Kind, chosen: _Chosen) -> Standing:
        beside = (published_contender(reference, games, rng) for reference in references if reference.kind == kind)
        contenders = (*_contenders(chosen, rng), *(agent for agent in beside if agent.cells))
        return standing(title, kind, contenders, table, rng)

    def stand_at_equal(what: str, chosen: _Chosen, *, by_frames: bool) -> Standing:
        """Without published agents, whose budgets are theirs."""
        contenders = _contenders(chosen, rng, by_frames=by_frames)
        return standing(f"Evaluation scores at equal {what}", "evaluation", contenders, table, rng)

    title = "Evaluation scores" if at_frames is None else f"Evaluation scores at {at_frames:,} frames"
    evaluation = stand(title, "evaluation", chosen)
    frames, hours = _equal_frames(chosen), _equal_hours(runs)
    within = [] if hours is None else _within_hours(runs, hours)
    returns = _returns(chosen)
    return Comparison(
        table=table,
        runs=tuple(runs),
        evaluation=evaluation,
        at_frames=None
        if frames is None
        else stand_at_equal(f"frames, {frames:,}", _after_frames(runs, frames), by_frames=True),
        at_hours=None if hours is None else stand_at_equal(f"hours of training, {hours:.2f}", within, by_frames=False),
        training=stand("Training returns", "training", returns),
        curves=tuple(curves),
        warnings=(
            *_warnings(runs, evaluation, table),
            *_left_out(without, "no evaluation yet"),
            *_left_out(_others(given, chosen), "no evaluation after the frames that were asked for"),
            *_left_out(_others(runs, within), "no evaluation that is known to be within the equal hours"),
            *_left_out(_others(runs, returns), "no training return at the frames of the evaluation"),
            *(
                f"{name} has no score in any game of the runs: it is not shown."
                for name, scored in (*((r.name, r.scores) for r in references), *((c.name, c.games) for c in curves))
                if not scored.keys() & games
            ),
        ),
    )


def mixtures(runs: Sequence[Run]) -> list[str]:
    """What keeps runs from being compared, each with the game or the experiment; empty where nothing does."""
    found: list[str] = []
    for game, of_game in _grouped(runs, lambda run: run.game):
        firsts: dict[str, Run] = {}
        for run in of_game:
            firsts.setdefault(run.fingerprint, run)
        found += [f"{game}: {_rules_apart(*pair)}" for pair in combinations(firsts.values(), 2)]
    for name, of_name in _grouped(runs, lambda run: run.experiment):
        settings = _differing([run.settings for run in of_name], leave_out=("game",))
        if settings:
            found.append(f"{name}: settings under one name ({', '.join(settings)})")
    for (game, name, *_), same in _grouped(runs, lambda run: (run.game, run.experiment, run.fingerprint, _setup(run))):
        seeds = sorted(run.seed for run in same)
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            found.append(f"{game}: runs of one seed of {name} ({', '.join(map(str, twice))})")
    return found


def _rules_apart(one: Run, other: Run) -> str:
    """The fields in which two protocols differ."""
    fields = [
        f"{name} {one.rules.get(name)} and {other.rules.get(name)}"
        for name in _differing([one.rules, other.rules], leave_out=("name", "evaluation_episodes"))
    ]
    return (
        f"protocols of {one.experiment} ({one.protocol} {one.fingerprint}) and {other.experiment} ({other.protocol} "
        f"{other.fingerprint}): {', '.join(fields) or 'evaluated under other rules than they trained'}"
    )


def _differing(tables: Sequence[Mapping[str, object]], leave_out: Sequence[str]) -> list[str]:
    """The keys whose values are not the same in all."""
    keys = sorted({key for table in tables for key in table} - set(leave_out))
    return [key for key in keys if len({repr(table.get(key)) for table in tables}) > 1]


def _setup(run: Run) -> str:
    """The same for all runs of the same settings, whatever their game."""
    return repr(sorted((key, repr(value)) for key, value in run.settings.items() if key != "game"))


def _grouped(runs: Iterable[_Item], key: Callable[[_Item], _Key]) -> list[tuple[_Key, list[_Item]]]:
    """By key, in the order of the keys."""
    groups: defaultdict[_Key, list[_Item]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return sorted(groups.items(), key=lambda group: group[0])


def _point_at(points: Sequence[Point], frames: int) -> Point | None:
    return next((point for point in points if point.frames == frames), None)


def _after_frames(runs: Sequence[Run], frames: int) -> _Chosen:
    """The runs that have an evaluation after so many frames; LabError where none has."""
    chosen = [(run, point) for run in runs if (point := _point_at(run.evaluations, frames)) is not None]
    if not chosen:
        known = sorted({point.frames for run in runs for point in run.evaluations})
        near = min(known, key=lambda other: abs(other - frames))
        raise LabError(f"no run has an evaluation after {frames:,} frames; the nearest is after {near:,} frames")
    return chosen


def _equal_frames(chosen: _Chosen) -> int | None:
    """Where budgets differ, the largest number of frames after which all runs have an evaluation; else None."""
    shared = set.intersection(*({point.frames for point in run.evaluations} for run, _ in chosen))
    return max(shared) if shared and len({point.frames for _, point in chosen}) > 1 else None


def _equal_hours(runs: Sequence[Run]) -> float | None:
    """The hours that runs of several experiments were trained for at least; None where they are known of none."""
    hours = [run.evaluations[-1].hours for run in runs]
    known = [of_run for of_run in hours if of_run is not None]
    return min(known) if known and len({run.experiment for run in runs}) > 1 else None


def _within_hours(runs: Sequence[Run], hours: float) -> _Chosen:
    """The last evaluations within so many hours of training; none of a run whose first came later."""
    within = (
        (run, [point for point in run.evaluations if point.hours is not None and point.hours <= hours]) for run in runs
    )
    return [(run, points[-1]) for run, points in within if points]


def _returns(chosen: _Chosen) -> _Chosen:
    """The training returns at the frames of the evaluations; a run of which no episode had ended has none."""
    return [(run, at) for run, point in chosen if (at := _point_at(run.training, point.frames)) is not None]


def _contenders(chosen: _Chosen, rng: np.random.Generator, *, by_frames: bool = True) -> Iterator[Contender]:
    """One for each experiment, its settings, protocol and, if asked for, budget."""
    groups = _grouped(
        chosen,
        lambda item: (item[0].experiment, item[0].fingerprint, by_frames and item[1].frames, _setup(item[0])),
    )
    for (name, fingerprint, frames, _), members in groups:
        rivals = [key for key, _ in groups if key[0] == name]
        protocol = members[0][0].protocol
        parts = [name]
        if len({rival[1] for rival in rivals}) > 1:
            parts.append(f"{protocol} {fingerprint}")
        if len({rival[2] for rival in rivals}) > 1:
            parts.append(f"{frames:,} frames")
        varied = _differing([run.settings for run, _ in chosen if run.experiment == name], leave_out=("game",))
        parts += [f"{key.removeprefix('agent.')} {members[0][0].settings.get(key, 'unset')}" for key in varied]
        cells = {game: _cell(of_game, rng) for game, of_game in _grouped(members, lambda item: item[0].game)}
        yield Contender(", ".join(parts), frames or None, protocol, cells, fingerprint)


def _cell(chosen: _Chosen, rng: np.random.Generator) -> Cell:
    ordered = sorted(chosen, key=lambda item: item[0].seed)
    scores = tuple(point.score for _, point in ordered)
    return Cell(
        scores,
        mean_interval(scores, rng),
        runs=tuple(run for run, _ in ordered),
        episodes=tuple(sorted({point.episodes for _, point in ordered if point.episodes is not None})),
        frames=tuple(sorted({point.frames for _, point in ordered})),
        hours=tuple(point.hours for _, point in ordered if point.hours is not None),
    )


def _others(runs: Sequence[Run], chosen: _Chosen) -> list[Path]:
    """Those of which nothing was chosen, if of any there was something."""
    kept = {run.directory for run, _ in chosen}
    return [run.directory for run in runs if kept and run.directory not in kept]


def _left_out(directories: Sequence[Path], reason: str) -> Iterator[str]:
    if directories:
        yield f"Left out, {reason}: {_listed([str(directory) for directory in directories])}."


def _warnings(runs: Sequence[Run], standing: Standing, table: ScoreTable) -> Iterator[str]:
    """What a reader must know before any number."""
    for mixture in mixtures(runs):
        yield f"Do not compare: {mixture}."
    unfinished = [f"{run.directory} ({run.state})" for run in runs if run.state != "finished"]
    if unfinished:
        yield f"Not finished, evaluations so far count: {_listed(unfinished)}."
    ours = [contender for contender in standing.contenders if contender.reference is None]
    budgets = sorted({contender.frames for contender in ours if contender.frames is not None})
    if len(budgets) > 1:
        yield (
            f"Budgets differ ({_listed([f'{frames:,}' for frames in budgets])} frames): agents of two budgets are "
            "tested against each other at equal frames or hours only."
        )
    single = {c.label: [game for game, cell in c.cells.items() if len(cell.scores) == 1] for c in ours}
    told = [f"{label} in {_listed(games)}" for label, games in single.items() if games]
    if told:
        yield f"One seed, so no interval and no word about chance: {_listed(told)}."
    games = sorted({game for contender in standing.contenders for game in contender.cells})
    for contender in standing.contenders:
        missing = [game for game in games if game not in contender.cells]
        if missing:
            yield f"{contender.label} has no score in {_listed(missing)}: aggregates leave these games out."
    unknown = [game for game in games if game not in table.human]
    if unknown:
        yield f"{table.name} has no human score for {_listed(unknown)}: raw scores only, left out of aggregates."
    complete = {aggregate.label: len(aggregate.normalized) for aggregate in standing.aggregates}
    for contender in ours if standing.common_games else ():
        seeds = {run.seed for game in standing.common_games for run in contender.cells[game].runs}
        have_all = complete.get(contender.label, 0)
        if have_all < len(seeds):
            yield (
                f"{contender.label}: {have_all} of its {len(seeds)} seeds have all {len(standing.common_games)} games; "
                f"{'aggregates are over these' if have_all else 'so it has no aggregates'}."
            )
    if len([contender for contender in standing.contenders if not contender.is_mean]) > MAX_PAIRED:
        yield f"More than {MAX_PAIRED} contenders: no pair is tested; give fewer paths to compare them one by one."


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    shown = names if len(names) <= 6 else names[:5]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
