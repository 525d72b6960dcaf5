"""Scores of runs side by side: one line for each game and experiment, from the last evaluation of each seed.

Published agents stand in columns of their own: their protocols and budgets are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl_lab.cli.main import Parser
from rl_lab.cli.table import print_table
from rl_lab.comparison import Entry, differences, group, read_results, require_comparable
from rl_lab.errors import LabError
from rl_lab.scores import DEFAULT_TABLE, TABLE_NAMES, Reference, ScoreTable, reference, score_table

_COLUMNS = ("game", "agent", "score", "human-normalized", "seeds", "episodes", "frames", "protocol")


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab compare`."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="runs, or folders that hold runs")
    parser.add_argument(
        "--reference", action="append", default=[], metavar="NAME", help="a published agent; may be repeated"
    )
    parser.add_argument(
        "--table", default=DEFAULT_TABLE, metavar="NAME", help=f"human scores: {', '.join(TABLE_NAMES)}"
    )
    parser.add_argument("--mixed", action="store_true", help="show different protocols and budgets together, marked")
    options = parser.parse_all(arguments)
    table = score_table(options.table)
    published = [reference(name) for name in options.reference]
    results, without = read_results(options.paths)
    if not results:
        raise LabError(f"none of the {len(without)} runs has an evaluation yet; wait for the first iteration's end")
    entries = group(results)
    if not options.mixed:
        require_comparable(entries)

    marked = differences(entries)
    print_table(
        (*_COLUMNS, *(agent.name for agent in published)),
        [_row(entry, table, published, entry.game in marked) for entry in entries],
    )
    print(
        "score: mean over seeds of the last evaluation, of so many episodes each, ± standard deviation over seeds; "
        f"human scores: {table.name}"
    )
    for agent in published:
        print(f"{agent.name}: {agent.kind} scores, {agent.description}")
    for game, reasons in marked.items():
        print(f"* {game} mixes {' and '.join(reasons)}: do not compare these lines")
    for directory in without:
        print(f"left out, no evaluation yet: {directory}")
    return 0


def _row(entry: Entry, table: ScoreTable, published: Sequence[Reference], marked: bool) -> tuple[str, ...]:
    spread = "" if entry.spread is None else f" ± {entry.spread:.1f}"
    return (
        f"{entry.game}{' *' if marked else ''}",
        entry.experiment,
        f"{entry.score:.1f}{spread}",
        _normalized(table, entry.game, entry.score),
        str(len(entry.results)),
        " and ".join(map(str, entry.episodes)),
        " and ".join(f"{frames:,}" for frames in entry.frames),
        " and ".join(protocol.rpartition(" ")[0] for protocol in entry.protocols),
        *(_published(agent, entry.game, table) for agent in published),
    )


def _published(agent: Reference, game: str, table: ScoreTable) -> str:
    if game not in agent.scores:
        return "-"
    return f"{agent.scores[game]:g} ({_normalized(table, game, agent.scores[game])})"


def _normalized(table: ScoreTable, game: str, score: float) -> str:
    normalized = table.human_normalized(game, score)
    return "no human score" if normalized is None else f"{normalized:.3f}"
