"""Folders of runs as `rl_lab.run` leaves them, as far as reports read them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rl_lab.atari import Protocol, named_protocol
from rl_lab.config import to_toml
from rl_lab.events import TRAINING_TAG

_PROVENANCE = {
    "command": ["rl-lab", "train", "dqn/quick"],
    "git": {"commit": "4fb4e7ce", "modified": False},
    "packages": {"torch": "2.13.0"},
    "threads": 1,
}


def write_run(
    runs: Path,
    experiment: str,
    seed: int,
    evaluations: Sequence[tuple[int, float]],
    *,
    game: str = "Pong",
    folder: str | None = None,
    protocol: Protocol | None = None,
    label: str | None = None,
    returns: Sequence[tuple[int, float]] = (),
    frames_per_second: float = 400.0,
    learning_rate: float = 0.1,
    state: str = "finished",
    **provenance: object,
) -> Path:
    """A run with such evaluations, (frames, mean score), and training returns; trained at an even speed."""
    protocol = protocol or named_protocol("nature2015")
    run = runs / (folder or f"{game}/{experiment}/seed-{seed}")
    run.mkdir(parents=True)
    config = {
        "name": experiment,
        "game": game,
        "seed": seed,
        "total_steps": 1,
        "protocol": dataclasses.asdict(protocol),
        "agent": {"name": "dqn", "learning_rate": learning_rate},
    }
    (run / "config.toml").write_text(to_toml(config), encoding="utf-8")
    status = {"state": state, "reason": "", "steps": 1, "frames": 4, "pid": 1, "process_start": 0.0}
    (run / "status.json").write_text(json.dumps(status))
    (run / "provenance.json").write_text(json.dumps({**_PROVENANCE, **provenance}))
    rules = {"protocol": label or protocol.label, "protocol_fingerprint": protocol.fingerprint}
    records = [{"game": game, "frames": f, "mean_score": score, "episodes": 30, **rules} for f, score in evaluations]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    by_frames = dict(returns)
    points = [
        {"frames": f, "time/fps": frames_per_second} | ({TRAINING_TAG: by_frames[f]} if f in by_frames else {})
        for f in sorted({*by_frames, *dict(evaluations)})
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return run
