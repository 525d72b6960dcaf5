"""Experiments for reports, and what `rl-lab compare` makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.report.cautions import Absent
from rl_lab.report.comparison import Comparison, compare
from rl_lab.report.results import read_runs
from rl_lab.scores import Reference, ReferenceCurve, score_table
from tests.report_runs import write_run

FRAMES = (400_000, 800_000, 1_200_000)


def write_scores(
    runs: Path,
    game: str,
    experiment: str,
    seed: int,
    scores: Sequence[float],
    *,
    frames: Sequence[int] = FRAMES,
    **changes: Any,
) -> Path:
    """A finished run with these evaluation scores, and training returns of half of each."""
    returns = [(at, score / 2) for at, score in zip(frames, scores, strict=True)]
    evaluations = list(zip(frames, scores, strict=True))
    return write_run(runs, experiment, seed, evaluations, game=game, returns=returns, **changes)


def write_experiments(runs: Path) -> None:
    """Three games; dqn and sb3 with three seeds each, apart by more than chance explains, and a single rainbow."""
    for game, unit in (("Pong", 1.0), ("Breakout", 10.0), ("Seaquest", 1_000.0)):
        for seed in range(3):
            write_scores(runs, game, "dqn", seed, [unit * (step + seed / 10) for step in (4, 8, 11)])
            weak = [unit * (step + seed / 10) for step in (1, 3, 5)]
            write_scores(runs, game, "sb3", seed, weak, frames_per_second=200.0, learning_rate=0.2)
        write_scores(runs, game, "rainbow", 0, [unit * step for step in (5, 9, 12)])


def comparison_of(
    runs: Path, references: Sequence[Reference] = (), curves: Sequence[ReferenceCurve] = ()
) -> Comparison:
    """What `rl-lab compare` would show."""
    found, unevaluated = read_runs([runs])
    rng = np.random.default_rng(0)
    return compare(found, references, curves, table=score_table(), absent=Absent(unevaluated), rng=rng)
