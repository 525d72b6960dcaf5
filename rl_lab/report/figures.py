"""The pictures of a comparison, as data: panels to draw, what is seen in words, and a table of the same numbers.

`pictures` draws them; the HTML page shows words and tables beside them. Imports no matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_lab import statistics
from rl_lab.report.comparison import Comparison
from rl_lab.report.learning import (
    MAX_LINES,
    REPETITIONS,
    evaluation_chart,
    listed,
    number,
    points_table,
    progress_charts,
    training_chart,
)
from rl_lab.report.panels import Chart, Forest, Line, Panel, Row, versus
from rl_lab.report.standings import Aggregate, Contender, Estimate, Standing, counted
from rl_lab.report.tables import STATISTIC_NAMES, Table, aggregates_table, pairs_table

MAX_ROWS = 30
"""Of a panel of intervals; the tables have all."""
_MAX_THRESHOLD = 8.0
"""Of performance profiles, as in Agarwal et al.: a few games exceed the human a hundred times."""
_CURVES_CAPTION = (
    "Mean over seeds at the frames that all seeds have, shaded: 95 % interval of a bootstrap over seeds; a single seed "
    "is a thin line without one. Published scores are dashed lines, with the frames that they took; published curves "
    "are shaded from the least to the best seed. Evaluation scores and training returns do not compare."
)


@dataclass(frozen=True)
class Figure:
    """One picture of one or more panels."""

    name: str
    """Of its files; letters, digits and hyphens, and no other figure's."""
    title: str
    caption: str
    """How to read it."""
    panels: tuple[Panel, ...]
    tables: tuple[Table, ...]
    """The numbers that are drawn."""
    standing: Standing | None = None
    """What it is of; None for what happens over training."""

    @property
    def alternative(self) -> str:
        """What is seen, for those who do not see it."""
        return " ".join(f"{panel.title}: {panel.alternative}" for panel in self.panels)


def figures(comparison: Comparison, rng: np.random.Generator) -> list[Figure]:
    """Those that the comparison has data for, in reading order; the generator draws the bands' bootstraps."""
    return [*standing_figures(comparison, rng), *learning_figures(comparison, rng)]


def standing_figures(comparison: Comparison, rng: np.random.Generator) -> list[Figure]:
    """Aggregates, profiles and pairs of each standing of evaluation scores, and how these grew over training."""
    styles = _styles(comparison)
    found = []
    for suffix, standing in (
        ("", comparison.evaluation),
        ("-at-equal-frames", comparison.at_frames),
        ("-at-equal-hours", comparison.at_hours),
    ):
        if standing is not None and standing.aggregates:
            found.append(_aggregates(f"aggregates{suffix}", standing, comparison, styles))
        if standing is not None and standing.aggregates and len(standing.common_games) > 1:
            found.append(_profile(f"profile{suffix}", standing, styles, rng))
        if standing is not None and any(pair.p_value is not None for pair in standing.pairs):
            found.append(_pairs(f"improvement{suffix}", standing))
    progress = _progress(comparison, styles, rng)
    return found if progress is None else [*found, progress]


def learning_figures(comparison: Comparison, rng: np.random.Generator) -> Iterator[Figure]:
    """Each game's learning curves; evaluation scores and training returns have a panel each."""
    styles = _styles(comparison)
    names = _file_names("learning", comparison.games)
    for game, name in zip(comparison.games, names, strict=True):
        charts = [
            chart
            for make in (evaluation_chart, training_chart)
            if (chart := make(comparison, game, styles, rng)) is not None
        ]
        ours = [c for c in comparison.evaluation.contenders if c.reference is None and game in c.cells]
        yield Figure(
            name,
            f"{game}: learning curves",
            _CURVES_CAPTION + _limited(len(ours), MAX_LINES),
            tuple(charts),
            tuple(map(points_table, charts)),
        )


def _styles(comparison: Comparison) -> dict[str, int]:
    """A number for each label, the same in all figures."""
    labels = [contender.label for standing in comparison.standings for contender in standing.contenders]
    names = dict.fromkeys((*labels, *(curve.name for curve in comparison.curves)))
    return {label: index for index, label in enumerate(names)}


def _file_names(kind: str, words: Sequence[str]) -> list[str]:
    """A name for each word, without what may not be in a file name; two words never share one."""
    names: list[str] = []
    for word in words:
        name = f"{kind}-{re.sub(r'[^A-Za-z0-9]+', '-', word)[:60].strip('-')}"
        while name in names:
            name = f"{name}-{len(names)}"
        names.append(name)
    return names


def _leading(aggregates: Sequence[Aggregate], limit: int) -> list[Aggregate]:
    """The best of them, in their own order."""
    best = sorted(aggregates, key=lambda aggregate: -aggregate.estimates["iqm_of_game_means"].value)[:limit]
    chosen = {aggregate.label for aggregate in best}
    return [aggregate for aggregate in aggregates if aggregate.label in chosen]


def _limited(count: int, limit: int) -> str:
    return f" The best {limit} of {count:,} agents are drawn." if count > limit else ""


def _aggregates(name: str, standing: Standing, comparison: Comparison, styles: Mapping[str, int]) -> Figure:
    """A panel a statistic, a row a contender, as rliable draws them."""
    leading = _leading(standing.aggregates, MAX_ROWS)
    panels = []
    statistics_shown = (
        STATISTIC_NAMES if len(standing.common_games) > 1 else {"mean": "mean"}
    )  # of one game, nearly all one
    for statistic, title in statistics_shown.items():
        rows = tuple(Row(a.label, styles[a.label], a.estimates.get(statistic)) for a in leading)
        if any(row.estimate is not None for row in rows):
            panels.append(Forest(title, _rows_in_words(rows), "human-normalized", rows))
    return Figure(
        name,
        f"{standing.title}: aggregates",
        "Bars are 95 % intervals of a stratified bootstrap over runs, the line across is the estimate; a diamond is an "
        "estimate without an interval. More is better, but for the optimality gap."
        + _limited(len(standing.aggregates), MAX_ROWS),
        tuple(panels),
        (aggregates_table(standing, comparison.table),),
        standing,
    )


def _profile(name: str, standing: Standing, styles: Mapping[str, int], rng: np.random.Generator) -> Figure:
    """How many runs of all games score more than a threshold."""
    leading = _leading(standing.aggregates, MAX_LINES)
    scores = np.concatenate([aggregate.normalized.ravel() for aggregate in leading])
    least, most = max(min(scores.min(), 0.0), -1.0), max(min(1.05 * np.quantile(scores, 0.95), _MAX_THRESHOLD), 1.0)
    thresholds = np.linspace(least, most, 81)

    def fractions(scores: statistics.Array) -> statistics.Array:
        return statistics.performance_profile(scores, thresholds)

    lines = tuple(
        Line(
            aggregate.label,
            styles[aggregate.label],
            thresholds,
            fractions(aggregate.normalized),
            statistics.band(fractions, aggregate.normalized, rng=rng, repetitions=REPETITIONS),
        )
        for aggregate in leading
    )
    above = [
        f"{a.label} exceeds human play in {number(100 * (a.normalized > 1).mean())} % of its scores" for a in leading
    ]
    title = f"Performance profile, {counted(len(standing.common_games), 'game')}"
    x_label = "human-normalized score \N{GREEK SMALL LETTER TAU}"
    y_label = "fraction of scores above \N{GREEK SMALL LETTER TAU}"
    chart = Chart(title, listed(above), x_label, y_label, lines, is_fraction=True)
    return Figure(
        name,
        f"{standing.title}: performance profile",
        "Fraction of scores, of all runs of all games, that exceed each threshold, shaded: 95 % interval of a "
        "bootstrap over runs. Of published means it is the fraction of games. A higher line is better."
        + _limited(len(standing.aggregates), MAX_LINES),
        (chart,),
        (points_table(chart),),
        standing,
    )


def _pairs(name: str, standing: Standing) -> Figure:
    """A row a pair of contenders with several seeds."""
    pairs = [pair for pair in standing.pairs if pair.p_value is not None][:MAX_ROWS]
    labels = versus([(pair.first, pair.second) for pair in pairs])
    rows = tuple(Row(label, 0, pair.probability) for label, pair in zip(labels, pairs, strict=True))
    told = listed([f"{pair.first} > {pair.second} {_estimate(pair.probability)}" for pair in pairs])
    forest = Forest("Probability of improvement", told, "P(A > B)", rows, mark=0.5)
    return Figure(
        name,
        f"{standing.title}: probability of improvement",
        "That a run of the first agent scores more than a run of the second in the same game; bars are 95 % intervals, "
        "the dotted line is chance.",
        (forest,),
        (pairs_table(standing),),
        standing,
    )


def _progress(comparison: Comparison, styles: Mapping[str, int], rng: np.random.Generator) -> Figure | None:
    """All games together, over frames and over hours."""
    standing = comparison.evaluation
    leading = {aggregate.label for aggregate in _leading(standing.aggregates, MAX_LINES)}
    contenders: list[Contender] = [contender for contender in standing.contenders if contender.label in leading]
    charts = progress_charts(contenders, standing.common_games, comparison.table, styles, rng) if leading else []
    if not charts:
        return None
    return Figure(
        "progress",
        "Evaluation scores over training",
        "Interquartile mean of the human-normalized scores of all runs of all games that the agents share, at the "
        "frames that all of an agent's runs have, shaded: 95 % interval of a stratified bootstrap over runs. Hours are "
        "of training, without evaluations, mean over runs; machines differ."
        + _limited(len(standing.aggregates), MAX_LINES),
        tuple(charts),
        tuple(map(points_table, charts)),
    )


def _rows_in_words(rows: Sequence[Row]) -> str:
    """The first numbers, with their intervals."""
    told = [f"{row.label} {_estimate(row.estimate)}" for row in rows if row.estimate is not None]
    return listed(told)


def _estimate(estimate: Estimate) -> str:
    interval = estimate.interval
    return number(estimate.value) + (
        "" if interval is None else f" ({number(interval.low)} to {number(interval.high)})"
    )
