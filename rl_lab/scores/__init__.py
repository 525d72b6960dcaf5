"""What a score is worth: human-normalized scores, and the scores of published agents to set beside one's own.

The numbers and where each was read are in `data/` (see `data/SOURCES.md`); nothing is read before the first call.
"""

from __future__ import annotations

from rl_lab.scores.curves import GameCurve, ReferenceCurve, curve, curve_names, curves, published
from rl_lab.scores.references import Reference, reference, references
from rl_lab.scores.suites import Suite, suites
from rl_lab.scores.tables import DEFAULT_TABLE, TABLE_NAMES, ScoreTable, score_table

__all__ = [
    "DEFAULT_TABLE",
    "TABLE_NAMES",
    "GameCurve",
    "Reference",
    "ReferenceCurve",
    "ScoreTable",
    "Suite",
    "curve",
    "curve_names",
    "curves",
    "published",
    "reference",
    "references",
    "score_table",
    "suites",
]
