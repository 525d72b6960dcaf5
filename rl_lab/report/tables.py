"""The rows of a report. Text, Markdown and the HTML page show these same tables, and pictures have them beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rl_lab.report.comparison import Comparison
from rl_lab.report.standings import SIGNIFICANCE, Cell, Contender, Estimate, Standing, counted
from rl_lab.scores import ScoreTable

STATISTIC_NAMES = {
    "iqm_over_runs": "IQM over runs",
    "iqm_of_game_means": "IQM of game means",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap",
}


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """What must be known to read it."""


def tables(comparison: Comparison) -> Iterator[Table]:
    """All tables of the comparison, in reading order; none is empty."""
    yield contenders_table(comparison)
    for standing in comparison.standings:
        yield from standing_tables(standing, comparison.table)


def standing_tables(standing: Standing, table: ScoreTable) -> Iterator[Table]:
    """Scores, and where there are any, aggregates and pairs."""
    yield scores_table(standing, table)
    if standing.aggregates:
        yield aggregates_table(standing, table)
    if standing.pairs:
        yield pairs_table(standing)


def said_once(tables: Iterable[Table]) -> Iterator[Table]:
    """The tables without the notes that stand under an earlier one."""
    said: set[str] = set()
    for table in tables:
        yield dataclasses.replace(table, notes=tuple(note for note in table.notes if note not in said))
        said.update(table.notes)


def contenders_table(comparison: Comparison) -> Table:
    """Who is compared: frames, protocol, seeds, episodes, hours."""
    contenders = (*comparison.evaluation.contenders, *(c for c in comparison.training.contenders if c.reference))
    return Table(
        "Agents",
        ("agent", "frames", "games", "seeds", "episodes", "hours", "protocol"),
        tuple(_contender_row(contender) for contender in contenders),
        (
            "seeds: of each game; episodes: behind the score of each seed; hours: of training, without evaluations",
            *(f"{c.label}: {c.reference.kind} scores, {c.reference.description}" for c in contenders if c.reference),
        ),
    )


def scores_table(standing: Standing, table: ScoreTable) -> Table:
    """Each game's scores, a column a contender."""
    games = sorted({game for contender in standing.contenders for game in contender.cells})
    last = "the last 100 training episodes, or of all if fewer"
    behind = last if standing.kind == "training" else "the evaluation's episodes"
    return Table(
        standing.title,
        ("game", *(contender.label for contender in standing.contenders)),
        tuple(
            (game, *(_cell(contender.cells.get(game), game, table) for contender in standing.contenders))
            for game in games
        ),
        (
            f"mean over seeds of the mean raw score of {behind}, ± standard deviation over seeds "
            f"(human-normalized by {table.name})",
        ),
    )


def aggregates_table(standing: Standing, table: ScoreTable) -> Table:
    """Statistics over the common games, with 95 % intervals."""
    games = standing.common_games
    is_all = all(contender.cells.keys() == set(games) for contender in standing.contenders)
    return Table(
        f"{standing.title}: human-normalized, over {counted(len(games), 'game')}",
        ("agent", "runs a game", *STATISTIC_NAMES.values()),
        tuple(
            (
                aggregate.label,
                str(len(aggregate.normalized)) if "iqm_over_runs" in aggregate.estimates else "mean only",
                *(_estimate(aggregate.estimates.get(name)) for name in STATISTIC_NAMES),
            )
            for aggregate in standing.aggregates
        ),
        (
            f"{'all games' if is_all else ', '.join(games)}; human scores: {table.name}",
            "in brackets the 95 % interval of a stratified bootstrap over runs; one seed and published means have none",
            "IQM: mean of the middle half, of all runs of all games, or of the games' means: these are not the same "
            "number; optimality gap: how far below the human, less is better",
        ),
    )


def pairs_table(standing: Standing) -> Table:
    """Which of two is better, and whether the seeds can tell."""
    return Table(
        f"{standing.title}: probability of improvement",
        ("A", "B", "P(A > B)", "p", "games", "in words"),
        tuple(
            (
                pair.first,
                pair.second,
                "-" if pair.p_value is None else _estimate(pair.probability, digits=2),
                "-" if pair.p_value is None else f"{pair.p_value:.4f}",
                str(pair.num_games),
                pair.verdict,
            )
            for pair in standing.pairs
        ),
        (
            "P(A > B): that a run of A scores more than a run of B in the same game, mean over games [95 % interval]",
            f"p: of a permutation test of that; more than {SIGNIFICANCE:g} is called chance. Pairs are tested one by "
            "one: of twenty pairs of equals, one is called different",
            *(
                ["published agents have budgets and rules of their own, which a difference may be due to"]
                * standing.tests_published
            ),
        ),
    )


def _contender_row(contender: Contender) -> tuple[str, ...]:
    cells = contender.cells.values()
    hours = [of_run for cell in cells for of_run in cell.hours]
    seeds = _range([len(cell.scores) for cell in cells])
    if contender.reference is not None and contender.is_mean:
        seeds = str(contender.reference.seeds or "not published")
    return (
        contender.label,
        "not published" if contender.frames is None else f"{contender.frames:,}",
        str(len(contender.cells)),
        seeds,
        _range([episodes for cell in cells for episodes in cell.episodes]),
        _range(hours, digits=2),
        "its own" if contender.reference else contender.protocol,
    )


def _cell(cell: Cell | None, game: str, table: ScoreTable) -> str:
    if cell is None:
        return "-"
    normalized = table.human_normalized(game, cell.score)
    spread = "" if cell.spread is None else f" ± {cell.spread:.1f}"
    return f"{cell.score:z.1f}{spread} ({'no human score' if normalized is None else f'{normalized:z.3f}'})"


def _estimate(estimate: Estimate | None, digits: int = 3) -> str:
    if estimate is None:
        return "-"
    interval = estimate.interval
    between = "" if interval is None else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{estimate.value:.{digits}f}{between}"


def _range(numbers: Sequence[float], digits: int = 0) -> str:
    """The number, or the lowest and the highest."""
    if not numbers:
        return "-"
    low, high = (f"{choose(numbers):.{digits}f}" for choose in (min, max))
    return low if low == high else f"{low} to {high}"
