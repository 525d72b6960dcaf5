"""Learning curves: what a contender scored while it was trained, at the frames that all its seeds have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from rl_lab import statistics
from rl_lab.report.comparison import Comparison
from rl_lab.report.panels import Chart, Level, Line, magnitude
from rl_lab.report.results import Point, Run
from rl_lab.report.standings import Contender
from rl_lab.report.tables import Table
from rl_lab.scores import GameCurve, ScoreTable
from rl_lab.statistics import Array, Band

_Points = Callable[[Run], Sequence[Point]]

MAX_LINES = 12
"""Of ours in a panel; more cannot be told apart."""
MAX_POINTS = 40
"""Of a line; more are hardly seen, and reports of 57 games grow large."""
REPETITIONS = 1_000
"""Of the bootstrap of a band."""
_MAX_TOLD = 6


def evaluation_chart(
    comparison: Comparison, game: str, styles: Mapping[str, int], rng: np.random.Generator
) -> Chart | None:
    """Evaluation scores in one game, with published ones as levels; None where no run has any."""
    ours, published = _divided(comparison.evaluation.contenders, game)
    lines = _lines(ours, game, _evaluations, styles, rng)
    return _chart(f"{game}: evaluation scores", lines, _levels(published, game, styles)) if lines else None


def training_chart(
    comparison: Comparison, game: str, styles: Mapping[str, int], rng: np.random.Generator
) -> Chart | None:
    """Training returns in one game, with published ones as levels and curves; None where no run has any."""
    ours, _ = _divided(comparison.evaluation.contenders, game)
    _, published = _divided(comparison.training.contenders, game)
    lines = _lines(ours, game, _training_returns, styles, rng)
    if not lines:
        return None
    range_frames = max(float(line.x[-1]) for line in lines)
    lines += [
        _published_line(curve.name, curve.games[game], styles, range_frames)
        for curve in comparison.curves
        if game in curve.games
    ]
    return _chart(f"{game}: training returns", lines, _levels(published, game, styles))


def progress_charts(
    contenders: Sequence[Contender],
    games: Sequence[str],
    table: ScoreTable,
    styles: Mapping[str, int],
    rng: np.random.Generator,
) -> list[Chart]:
    """Human-normalized scores of all games together, over frames and, where they are known, over hours."""
    low = np.array([table.random[game] for game in games])[:, None]
    scale = np.array([table.human[game] for game in games])[:, None] - low

    def curve(scores: Array) -> Array:
        return statistics.iqm_curve((scores - low) / scale)

    by_frames, by_hours = [], []
    for contender in (contender for contender in contenders if contender.reference is None):
        seeds = _seeds_with_all(contender, games)
        line = _line(contender.label, styles[contender.label], seeds, _evaluations, rng, curve)
        if line is None:
            continue
        by_frames.append(line)
        hours = [_hours(seeds, frames) for frames in line.x]
        known = [value for value in hours if value is not None]
        if len(known) == len(hours):
            by_hours.append(Line(line.label, line.style, np.array(known), line.y, line.band))
    title, y_label = f"IQM over runs, {len(games)} game{'' if len(games) == 1 else 's'}", "human-normalized score"
    return [
        Chart(f"{title}, by {unit}", _in_words(lines, (), unit), label, y_label, tuple(lines))
        for lines, unit, label in ((by_frames, "frames", "frames"), (by_hours, "hours", "hours of training"))
        if lines
    ]


def points_table(chart: Chart) -> Table:
    """The numbers of a chart of lines."""
    return Table(
        chart.title,
        ("agent", chart.x_label, chart.y_label, "interval"),
        tuple(
            (line.label, number(x), number(y), "-" if line.band is None else f"{number(low)} to {number(high)}")
            for line in chart.lines
            for x, y, low, high in zip(line.x, line.y, *(line.band or (line.y, line.y)), strict=True)
        ),
        tuple(f"{level.label}: {number(level.y)}" for level in chart.levels),
    )


def number(value: float) -> str:
    """With as many digits as say something: thousands need no decimals."""
    if abs(value) >= 1_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def listed(facts: Sequence[str]) -> str:
    """The first of them as a sentence, and how many more."""
    rest = len(facts) - _MAX_TOLD
    return "; ".join(facts[:_MAX_TOLD]) + (f"; and {rest} more" if rest > 0 else "") + "."


def _evaluations(run: Run) -> Sequence[Point]:
    return run.evaluations


def _training_returns(run: Run) -> Sequence[Point]:
    return run.training


def _divided(contenders: Sequence[Contender], game: str) -> tuple[list[Contender], list[Contender]]:
    """Ours and published ones that have the game."""
    having = [contender for contender in contenders if game in contender.cells]
    ours = [contender for contender in having if contender.reference is None]
    return ours, [contender for contender in having if contender.reference is not None]


def _chart(title: str, lines: Sequence[Line], levels: Sequence[Level]) -> Chart:
    return Chart(title, _in_words(lines, levels, "frames"), "frames", "score", tuple(lines), tuple(levels))


def _levels(published: Sequence[Contender], game: str, styles: Mapping[str, int]) -> list[Level]:
    """Each with its own budget, which is seldom that of the runs."""
    return [
        Level(
            f"{contender.label}, {'?' if contender.frames is None else magnitude(contender.frames)} frames",
            styles[contender.label],
            contender.cells[game].score,
        )
        for contender in published
    ]


def _lines(
    ours: Sequence[Contender], game: str, points: _Points, styles: Mapping[str, int], rng: np.random.Generator
) -> list[Line]:
    """The mean over seeds, of the contenders that have any points, the best ones if there are many."""
    best = sorted(ours, key=lambda contender: -contender.cells[game].score)[:MAX_LINES]
    shown = [contender for contender in ours if contender in best]
    lines = [
        _line(c.label, styles[c.label], [[run] for run in c.cells[game].runs], points, rng, _mean_curve) for c in shown
    ]
    return [line for line in lines if line is not None]


def _line(
    label: str,
    style: int,
    seeds: Sequence[Sequence[Run]],
    points: _Points,
    rng: np.random.Generator,
    curve: statistics.Statistic,
) -> Line | None:
    """Over the runs of each seed, one a game; None where they share no frames."""
    scores = [[{point.frames: point.score for point in points(run)} for run in of_seed] for of_seed in seeds]
    frames = sorted(set.intersection(*(set(of_run) for of_seed in scores for of_run in of_seed))) if scores else []
    if not frames:
        return None
    chosen = _thinned(frames)
    matrix = np.array([[[of_run[at] for at in chosen] for of_run in of_seed] for of_seed in scores])
    band = statistics.band(curve, matrix, rng=rng, repetitions=REPETITIONS)  # (num_runs, num_games, num_points)
    return Line(label, style, np.array(chosen, dtype=np.float64), curve(matrix), band)


def _mean_curve(curves: Array) -> Array:
    """Mean at each point of (..., num_runs, 1, num_points): (..., num_points)."""
    return np.asarray(curves.mean(axis=(-3, -2)))


def _thinned(frames: Sequence[int]) -> list[int]:
    """At most `MAX_POINTS` of them, evenly apart, the first and the last among them."""
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_POINTS)).round().astype(int)
    return [frames[index] for index in chosen]


def _seeds_with_all(contender: Contender, games: Sequence[str]) -> list[list[Run]]:
    """The runs of each seed that all of the games have, in the order of the games."""
    cells = [contender.cells[game] for game in games]
    by_game = [dict(zip(cell.seeds, cell.runs, strict=True)) for cell in cells]
    return [[of_game[seed] for of_game in by_game] for seed in sorted(set.intersection(*map(set, by_game)))]


def _hours(seeds: Sequence[Sequence[Run]], frames: float) -> float | None:
    """Mean over runs of the hours of training up to there; None where they are not known of all."""
    points = [point for of_seed in seeds for run in of_seed for point in run.evaluations if point.frames == frames]
    known = [point.hours for point in points if point.hours is not None]
    return fmean(known) if len(known) == len(points) else None


def _published_line(name: str, curve: GameCurve, styles: Mapping[str, int], range_frames: float) -> Line:
    """The part within the range of ours, and at least its first point; the band is from its least to its best seed."""
    kept = max(1, sum(frames <= range_frames for frames in curve.frames))
    x, y, low, high = (np.array(values[:kept], dtype=np.float64) for values in curve[:4])
    return Line(f"{name}, training returns", styles[name], x, y, Band(low, high))


def _in_words(lines: Sequence[Line], levels: Sequence[Level], unit: str) -> str:
    """Where each line ends."""
    ends = [f"{line.label} ends at {number(line.y[-1])} after {number(line.x[-1])} {unit}" for line in lines]
    return listed([*ends, *(f"{level.label}, is at {number(level.y)}" for level in levels)])
