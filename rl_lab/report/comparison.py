"""What may be compared, and the standings that come of it.

Only like is compared with like. Evaluation scores and training returns stand apart; another budget makes another
contender; another protocol, or other settings under one name, are refused unless the user insists, and are then marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rl_lab.errors import LabError
from rl_lab.report.cautions import Absent, cautions, differing, grouped, left_out, setup, untested
from rl_lab.report.results import Point, Run
from rl_lab.report.standings import (
    Cell,
    Contender,
    Kind,
    Standing,
    mean_interval,
    published_contender,
    standing,
)
from rl_lab.scores import Reference, ReferenceCurve, ScoreTable

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
    absent: Absent,
    at_frames: int | None = None,
    rng: np.random.Generator,
) -> Comparison:
    """Everything about the runs, and a word about those that are left out, here or before.

    The generator draws bootstraps and permutations. LabError where no run has an evaluation after `at_frames`.
    """
    given = runs
    chosen = [(run, run.evaluations[-1]) for run in runs] if at_frames is None else _after_frames(runs, at_frames)
    runs = [run for run, _ in chosen]
    games = sorted({run.game for run in runs})
    published = {*(reference.name for reference in references), *(curve.name for curve in curves)}

    def stand(title: str, kind: Kind, chosen: _Chosen) -> Standing:
        beside = (published_contender(reference, games, rng) for reference in references if reference.kind == kind)
        contenders = (*_contenders(chosen, published, rng), *(agent for agent in beside if agent.cells))
        return standing(title, kind, contenders, table, rng)

    def stand_at_equal(what: str, chosen: _Chosen, *, by_frames: bool) -> Standing:
        """Without published agents, whose budgets are theirs."""
        contenders = _contenders(chosen, published, rng, by_frames=by_frames)
        return standing(f"Evaluation scores at equal {what}", "evaluation", contenders, table, rng)

    title = "Evaluation scores" if at_frames is None else f"Evaluation scores at {at_frames:,} frames"
    evaluation = stand(title, "evaluation", chosen)
    frames, hours = _equal_frames(chosen), _equal_hours(runs)
    within = [] if hours is None else _within_hours(runs, hours)
    returns = _returns(chosen)
    comparison = Comparison(
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
            *cautions(runs, evaluation, table),
            *absent.told(),
            *left_out(_others(given, chosen), "no evaluation after the frames that were asked for"),
            *left_out(_others(runs, within), "no evaluation that is known to be within the equal hours"),
            *left_out(_others(runs, returns), "no training return at the frames of the evaluation"),
            *(
                f"{name} has no score in any game of the runs: it is not shown."
                for name, scored in (*((r.name, r.scores) for r in references), *((c.name, c.games) for c in curves))
                if not scored.keys() & games
            ),
        ),
    )
    return replace(comparison, warnings=(*comparison.warnings, *untested(comparison.standings)))


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


def _contenders(
    chosen: _Chosen, published: Set[str], rng: np.random.Generator, *, by_frames: bool = True
) -> Iterator[Contender]:
    """One for each experiment, its settings, protocol and, if asked for, budget; marked if named as a published one."""
    groups = grouped(
        chosen,
        lambda item: (item[0].experiment, item[0].fingerprint, by_frames and item[1].frames, setup(item[0])),
    )
    for (name, fingerprint, frames, _), members in groups:
        rivals = [key for key, _ in groups if key[0] == name]
        protocol = members[0][0].protocol
        parts = [f"{name} (runs)" if name in published else name]
        if len({rival[1] for rival in rivals}) > 1:
            parts.append(f"{protocol} {fingerprint}")
        if len({rival[2] for rival in rivals}) > 1:
            parts.append(f"{frames:,} frames")
        varied = differing([run.settings for run, _ in chosen if run.experiment == name], leave_out=("game",))
        parts += [f"{key.removeprefix('agent.')} {members[0][0].settings.get(key, 'unset')}" for key in varied]
        cells = {game: _cell(of_game, rng) for game, of_game in grouped(members, lambda item: item[0].game)}
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
