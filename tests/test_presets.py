"""Every experiment that comes with our DQN trains for 5,000 agent steps and is evaluated; only the last 200 learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_lab.cli.main import main
from rl_lab.experiment import config_names, config_path, load_experiment
from rl_lab.records import read_records

# A batch of 256 on the network of Beyond the Rainbow would take half a minute.
SMALL = (
    "--total-steps 5000 --iteration-steps 5000 --num-games 10 --threads 1 --device cpu --evaluation-episodes 2 "
    "--log-every-steps 40 --protocol.max-frames-per-episode 200 --agent.replay-capacity 1000 --agent.batch-size 32 "
    "--agent.learning-starts-steps 4800 --agent.update-every-steps 60 --agent.precision fp32"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith(("dqn/", "atari100k/"))])
def test_a_preset_trains_and_is_evaluated(name: str, tmp_path: Path) -> None:
    assert main(["train", name, *SMALL.split(), "--runs", str(tmp_path)]) == 0
    (run,) = (path.parent for path in tmp_path.rglob("metrics.jsonl"))
    last = read_records(run / "metrics.jsonl")[-1]
    assert last["train/n_updates"] == 3 * vars(load_experiment(config_path(name)).agent)["updates_at_once"]
    assert last["frames"] == 4 * 5_000
    (evaluation,) = read_records(run / "evaluations.jsonl")
    assert len(evaluation["scores"]) == 2
