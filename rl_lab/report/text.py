"""A comparison as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rl_lab.columns import aligned
from rl_lab.errors import printable
from rl_lab.report.comparison import Comparison
from rl_lab.report.standings import Contender, Standing
from rl_lab.report.tables import said_once, tables
from rl_lab.statistics import Interval


def text(comparison: Comparison) -> str:
    """Aligned tables for a terminal, warnings first."""
    blocks = [f"! {printable(warning)}" for warning in comparison.warnings]
    for table in said_once(tables(comparison)):
        rows = aligned((table.header, *table.rows))
        blocks.append(
            "\n".join(("", table.title, *(f"  {row}" for row in rows), *(f"  {note}" for note in table.notes)))
        )
    return "\n".join(blocks).lstrip("\n")


def markdown(comparison: Comparison) -> str:
    """Tables of GitHub's Markdown."""
    blocks = [f"> **Warning.** {_escaped(warning)}" for warning in comparison.warnings]
    for table in said_once(tables(comparison)):
        lines = [
            _markdown_row(table.header),
            _markdown_row(["---"] * len(table.header)),
            *map(_markdown_row, table.rows),
        ]
        notes = [f"- {_escaped(note)}" for note in table.notes]
        blocks.append("\n".join((f"## {_escaped(table.title)}", "", *lines, "", *notes)))
    return "\n\n".join(blocks)


def comma_separated(comparison: Comparison) -> str:
    """One line a standing, game and contender."""
    rows = [row for standing in comparison.standings for row in _cells(standing, comparison)]
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "scores": " ".join(map(repr, row["scores"]))} for row in rows)
    return file.getvalue().rstrip("\n")


def as_json(comparison: Comparison) -> str:
    """Everything, for programs."""
    return json.dumps(
        {
            "warnings": comparison.warnings,
            "score_table": comparison.table.name,
            "runs": [str(run.directory) for run in comparison.runs],
            "standings": [
                {
                    "title": standing.title,
                    "scores": list(_cells(standing, comparison)),
                    "common_games": standing.common_games,
                    "aggregates": [
                        {
                            "agent": aggregate.label,
                            "runs": len(aggregate.normalized),
                            **{name: _estimate(e.value, e.interval) for name, e in aggregate.estimates.items()},
                        }
                        for aggregate in standing.aggregates
                    ],
                    "pairs": [
                        {
                            "first": pair.first,
                            "second": pair.second,
                            "games": pair.num_games,
                            "probability_of_improvement": _estimate(pair.probability.value, pair.probability.interval),
                            "p_value": pair.p_value,
                            "verdict": pair.verdict,
                        }
                        for pair in standing.pairs
                    ],
                }
                for standing in comparison.standings
            ],
        },
        indent=2,
        allow_nan=False,
    )


FORMATS: Mapping[str, Callable[[Comparison], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": comma_separated,
    "json": as_json,
}


def _cells(standing: Standing, comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "standing": standing.title,
            "kind": standing.kind,
            "game": game,
            "agent": contender.label,
            "protocol": contender.protocol,
            **_numbers(contender, game, comparison),
        }
        for contender in standing.contenders
        for game in contender.cells
    ]


def _numbers(contender: Contender, game: str, comparison: Comparison) -> dict[str, Any]:
    cell = contender.cells[game]
    low, high = cell.interval or (None, None)
    return {
        "frames": cell.frames[0] if len(cell.frames) == 1 else contender.frames,
        "score": cell.score,
        "standard_deviation": cell.spread,
        "interval_low": low,
        "interval_high": high,
        "human_normalized": comparison.table.human_normalized(game, cell.score),
        "score_table": comparison.table.name,
        "seeds": len(cell.runs) or (contender.reference.seeds if contender.reference else None),
        "episodes": " ".join(map(str, cell.episodes)),
        "mean_hours": sum(cell.hours) / len(cell.hours) if cell.hours else None,
        "scores": list(cell.scores),
    }


def _estimate(value: float, interval: Interval | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"value": value, "interval_low": low, "interval_high": high}


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """As text, whatever Markdown would make of it."""
    return "".join(f"\\{letter}" if letter in "|<>*_`[]\\" else letter for letter in printable(text))
