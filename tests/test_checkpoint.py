from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.checkpoint import check_manifest, checkpoints, newest_checkpoint, restore_agent, save_checkpoint
from rl_lab.errors import LabError
from tests.tiny import tiny_experiment

CONFIG = tiny_experiment()
ACTIONS = ("NOOP", "FIRE", "RIGHT", "LEFT")
OBSERVATIONS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), dtype=np.uint8)


def new_agent(seed: int = 0) -> Agent:
    task = Task(num_actions=4, num_games=2, total_steps=0, seed=seed)
    return load_agent("dqn")(CONFIG.agent, task)


def save(run: Path, steps: int, agent: Agent | None = None) -> Path:
    return save_checkpoint(run, agent or new_agent(), CONFIG, actions=ACTIONS, steps=steps)


def test_a_restored_agent_acts_as_the_saved_one(tmp_path: Path) -> None:
    agent = new_agent(seed=7)
    restored, description = restore_agent(save(tmp_path, 200, agent) / "agent", device="cpu")
    np.testing.assert_array_equal(restored.act(OBSERVATIONS), agent.act(OBSERVATIONS))
    assert (description.game, tuple(description.actions), description.frames) == ("Breakout", ACTIONS, 800)


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for steps in (200, 400, 600):
        save(tmp_path, steps)
    assert [path.name for path in checkpoints(tmp_path)] == ["000000001600", "000000002400"]


def test_nothing_unfinished_is_left_behind(tmp_path: Path) -> None:
    save(tmp_path, 200)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000800"]


@pytest.mark.parametrize("name", ["agent/weights.safetensors", "agent/agent.json"])
def test_a_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 200) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(LabError, match=f"{name} is not as its manifest says"):
        check_manifest(path.parent.parent)


def test_a_truncated_a_missing_and_an_added_file_are_found(tmp_path: Path) -> None:
    for steps, change in ((200, "truncated"), (400, "missing"), (600, "added")):
        directory = save(tmp_path / change, steps)
        weights = directory / "agent" / "weights.safetensors"
        if change == "truncated":
            weights.write_bytes(weights.read_bytes()[:-1])
        elif change == "missing":
            weights.unlink()
        else:
            (directory / "agent" / "added.py").write_text("")
        with pytest.raises(LabError, match="is not as its manifest says"):
            check_manifest(directory)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 200), save(tmp_path, 400)
    (newer / "manifest.json").unlink()
    assert newest_checkpoint(tmp_path) == older


def test_a_run_without_a_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="has no checkpoint yet"):
        newest_checkpoint(tmp_path)
    (save(tmp_path, 200) / "manifest.json").write_text("{}")
    with pytest.raises(LabError, match="has no whole checkpoint"):
        newest_checkpoint(tmp_path)


def test_a_saved_agent_that_names_code_runs_nothing_unasked(tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(witness)!r}, 'w')")
    directory = save(tmp_path / "run", 200) / "agent"
    description = json.loads((directory / "agent.json").read_text())
    description["agent"]["name"] = str(evil)
    (directory / "agent.json").write_text(json.dumps(description))
    with pytest.raises(LabError, match=r"trained by the agent file .*evil\.py; give its path with --agent"):
        restore_agent(directory, device="cpu")
    assert not witness.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "unknown": 2}', '{"format": 1, "agent": []}']
)
def test_a_foreign_description_is_one_line(text: str, tmp_path: Path) -> None:
    directory = save(tmp_path, 200) / "agent"
    (directory / "agent.json").write_text(text)
    with pytest.raises(LabError, match=r"agent\.json") as caught:
        restore_agent(directory, device="cpu")
    assert "\n" not in str(caught.value)
