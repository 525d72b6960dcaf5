from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.checkpoint import CheckpointWriter, checkpoints, discard_newer, newest_checkpoint, saved_files, verify
from rl_lab.errors import LabError
from rl_lab.saved_agent import agent_files, describe, restore_agent
from rl_lab.storage import Storage
from tests.tiny import tiny_experiment

CONFIG = tiny_experiment()
ACTIONS = ("NOOP", "FIRE", "RIGHT", "LEFT")
OBSERVATIONS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84), dtype=np.uint8)


def new_agent(seed: int = 0) -> Agent:
    task = Task(num_actions=4, num_games=2, total_steps=0, seed=seed)
    return load_agent("dqn")(CONFIG.agent, task)


def save_agent(run: Path, agent: Agent | None = None) -> Path:
    files = agent_files(agent or new_agent(), describe(CONFIG, actions=ACTIONS, steps=200))
    return writer(run).save(800, {f"agent/{name}": data for name, data in files.items()}, {})


def writer(run: Path) -> CheckpointWriter:
    return CheckpointWriter(run, Storage(), {})


def save(saves: CheckpointWriter, frames: int, segments: Mapping[str, Callable[[], bytes]] | None = None) -> Path:
    """A checkpoint of two small files."""
    return saves.save(frames, {"agent/a": b"first", "state/b": bytes(100)}, segments or {})


def never() -> bytes:
    raise AssertionError("a segment that is stored was asked for")


def test_a_restored_agent_acts_as_the_saved_one(tmp_path: Path) -> None:
    agent = new_agent(seed=7)
    restored, description = restore_agent(save_agent(tmp_path, agent), device="cpu")
    np.testing.assert_array_equal(restored.act(OBSERVATIONS), agent.act(OBSERVATIONS))
    assert (description.game, tuple(description.actions), description.frames) == ("Breakout", ACTIONS, 800)


def test_the_newest_two_checkpoints_are_kept_and_nothing_unfinished(tmp_path: Path) -> None:
    saves = writer(tmp_path)
    for frames in (800, 1_600, 2_400):
        save(saves, frames)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000001600", "000000002400"]


def test_a_segment_is_written_once_and_kept_while_a_checkpoint_names_it(tmp_path: Path) -> None:
    saves = writer(tmp_path)
    save(saves, 800, {"one": lambda: b"1"})
    save(saves, 1_600, {"one": never, "two": lambda: b"2"})
    save(saves, 2_400, {"two": never, "three": lambda: b"3"})
    assert sorted(path.name for path in (tmp_path / "segments").iterdir()) == ["one", "three", "two"]
    last = save(saves, 3_200, {"two": never, "three": never})
    assert sorted(path.name for path in (tmp_path / "segments").iterdir()) == ["three", "two"]
    assert saved_files(last, "state").read("two") == b"2"


def test_a_checkpoint_of_the_same_frames_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    saves = writer(tmp_path)
    save(saves, 800)
    again = saves.save(800, {"agent/a": b"second"}, {})
    assert saved_files(again, "agent").read("a") == b"second"
    assert checkpoints(tmp_path) == [again]


def test_a_run_that_goes_back_discards_what_it_had_beyond(tmp_path: Path) -> None:
    saves = writer(tmp_path)
    older, _ = save(saves, 800), save(saves, 1_600)
    discard_newer(older, Storage())
    assert checkpoints(tmp_path) == [older]
    save(saves, 1_200)
    assert [path.name for path in checkpoints(tmp_path)] == ["000000000800", "000000001200"]


@pytest.mark.parametrize("name", ["agent/a", "state/b", "../../segments/one"])
@pytest.mark.parametrize("change", ["flipped", "truncated", "longer", "missing", "a link"])
def test_a_changed_file_is_found(name: str, change: str, tmp_path: Path) -> None:
    checkpoint = save(writer(tmp_path), 800, {"one": lambda: bytes(1_000)})
    path = checkpoint / name
    data = path.read_bytes()
    path.unlink()
    if change == "a link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif change != "missing":
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        path.write_bytes({"flipped": bytes(flipped), "truncated": data[:-1], "longer": data + b"\0"}[change])
    with pytest.raises(LabError, match=f"{path.name} is not as its manifest says"):
        verify(checkpoint, segments=True)


def test_an_added_file_is_found(tmp_path: Path) -> None:
    checkpoint = save(writer(tmp_path), 800)
    (checkpoint / "agent" / "added.py").write_text("")
    with pytest.raises(LabError, match="is not as its manifest says: added"):
        verify(checkpoint, segments=False)


def test_a_saved_agent_is_whole_without_the_segments_of_the_replay(tmp_path: Path) -> None:
    checkpoint = save(writer(tmp_path), 800, {"one": lambda: b"1"})
    (tmp_path / "segments" / "one").unlink()
    assert newest_checkpoint(tmp_path)[0] == checkpoint
    with pytest.raises(LabError, match="has no whole checkpoint"):
        newest_checkpoint(tmp_path, resumable=True)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "agent/../../outside", "", "agent//a", ".hidden", "a\n"])
def test_a_manifest_that_leads_out_of_its_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    checkpoint = save(writer(tmp_path), 800)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for key in ("files", "segments"):
        changed = {**manifest, key: {name: manifest["files"]["agent/a"]}}
        (checkpoint / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(LabError, match=f"is no entry of {key}"):
            saved_files(checkpoint, "state")


def test_a_damaged_newest_checkpoint_is_named_and_gives_way_to_the_one_before(tmp_path: Path) -> None:
    saves = writer(tmp_path)
    older, newer = save(saves, 800), save(saves, 1_600)
    (newer / "manifest.json").unlink()
    found, problems = newest_checkpoint(tmp_path)
    assert found == older
    assert len(problems) == 1
    assert str(newer) in problems[0]


def test_a_run_without_a_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="has no checkpoint yet"):
        newest_checkpoint(tmp_path)
    (save(writer(tmp_path), 800) / "manifest.json").write_text("{}")
    with pytest.raises(LabError, match="has no whole checkpoint"):
        newest_checkpoint(tmp_path)


def test_a_saved_agent_that_names_code_runs_nothing_unasked(tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(witness)!r}, 'w')")
    checkpoint = save_agent(tmp_path / "run")
    path = checkpoint / "agent" / "agent.json"
    description = json.loads(path.read_text())
    description["agent"]["name"] = str(evil)
    path.write_text(json.dumps(description))
    with pytest.raises(LabError, match=r"trained by the agent file .*evil\.py; give its path with --agent"):
        restore_agent(checkpoint, device="cpu")
    assert not witness.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "unknown": 2}', '{"format": 1, "agent": []}']
)
def test_a_foreign_description_is_one_line(text: str, tmp_path: Path) -> None:
    checkpoint = save_agent(tmp_path)
    (checkpoint / "agent" / "agent.json").write_text(text)
    with pytest.raises(LabError, match=r"agent\.json") as caught:
        restore_agent(checkpoint, device="cpu")
    assert "\n" not in str(caught.value)
