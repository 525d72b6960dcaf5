"""Every experiment that comes with our DQN trains and is evaluated, with a small budget in place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_lab.cli.main import main
from rl_lab.experiment import config_names
from rl_lab.records import read_records

SMALL = (
    "--total-steps 240 --iteration-steps 240 --num-games 2 --threads 1 --device cpu --evaluation-episodes 2 "
    "--log-every-steps 40 --protocol.max-frames-per-episode 400 --agent.replay-capacity 1000 "
    "--agent.learning-starts-steps 64 --agent.update-every-steps 40 --agent.precision fp32"
)


@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith(("dqn/", "atari100k/"))])
def test_a_preset_trains_and_is_evaluated(name: str, tmp_path: Path) -> None:
    assert main(["train", name, *SMALL.split(), "--runs", str(tmp_path)]) == 0
    (run,) = (path.parent for path in tmp_path.rglob("metrics.jsonl"))
    assert read_records(run / "metrics.jsonl")[-1]["train/n_updates"] >= 3
    (evaluation,) = read_records(run / "evaluations.jsonl")
    assert len(evaluation["scores"]) == 2
