"""Run folders for reports, as `rl_lab.run` leaves them, with scores that the test chooses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_lab.config import to_toml
from rl_lab.events import TRAINING_TAG
from rl_lab.report.comparison import Comparison, compare
from rl_lab.report.results import read_runs
from rl_lab.scores import Reference, ReferenceCurve, score_table

FRAMES = (400_000, 800_000, 1_200_000)
_PROTOCOL = {"name": "nature2015", "frame_skip": 4, "sticky_probability": 0.0, "evaluation_epsilon": 0.05}
_PROVENANCE = {
    "command": ["rl-lab", "train", "dqn/quick"],
    "git": {"commit": "4fb4e7ce", "modified": False},
    "packages": {"torch": "2.13.0"},
    "threads": 1,
}


def write_run(
    runs: Path,
    game: str,
    experiment: str,
    seed: int,
    scores: Sequence[float],
    *,
    frames: Sequence[int] = FRAMES,
    folder: str | None = None,
    label: str = "nature2015",
    frames_per_second: float = 400.0,
    learning_rate: float = 0.1,
    **provenance: Any,
) -> Path:
    """A finished run with these evaluation scores, and training returns of half of each."""
    run = runs / (folder or f"{game}/{experiment}/seed-{seed}")
    run.mkdir(parents=True)
    config = {"name": experiment, "game": game, "seed": seed, "total_steps": frames[-1] // 4}
    tables = {"protocol": _PROTOCOL, "agent": {"name": "dqn", "learning_rate": learning_rate}}
    (run / "config.toml").write_text(to_toml({**config, **tables}), encoding="utf-8")
    (run / "provenance.json").write_text(json.dumps({**_PROVENANCE, **provenance}))
    status = {"state": "finished", "reason": "", "steps": 1, "frames": 4, "pid": 1, "process_start": 0.0}
    (run / "status.json").write_text(json.dumps(status))
    rules = {"game": game, "protocol": label, "protocol_fingerprint": "948d0f247801", "episodes": 30}
    evaluations = ({"frames": at, "mean_score": score, **rules} for at, score in zip(frames, scores, strict=True))
    (run / "evaluations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in evaluations))
    metrics = (
        {"frames": at, "time/fps": frames_per_second, TRAINING_TAG: score / 2}
        for at, score in zip(frames, scores, strict=True)
    )
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    return run


def write_experiments(runs: Path) -> None:
    """Three games; dqn and sb3 with three seeds each, apart by more than chance explains, and a single rainbow."""
    for game, unit in (("Pong", 1.0), ("Breakout", 10.0), ("Seaquest", 1_000.0)):
        for seed in range(3):
            write_run(runs, game, "dqn", seed, [unit * (step + seed / 10) for step in (4, 8, 11)])
            weak = [unit * (step + seed / 10) for step in (1, 3, 5)]
            write_run(runs, game, "sb3", seed, weak, frames_per_second=200.0, learning_rate=0.2)
        write_run(runs, game, "rainbow", 0, [unit * step for step in (5, 9, 12)])


def comparison_of(
    runs: Path, references: Sequence[Reference] = (), curves: Sequence[ReferenceCurve] = ()
) -> Comparison:
    """What `rl-lab compare` would show."""
    found, without = read_runs([runs])
    rng = np.random.default_rng(0)
    return compare(found, references, curves, table=score_table(), without=without, rng=rng)
