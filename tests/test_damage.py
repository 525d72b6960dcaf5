"""A checkpoint with a file that is cut off or changed in a bit is never resumed from: the one before it is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl_lab.checkpoint import CheckpointWriter, checkpoints, newest_checkpoint, read_manifest, verify
from rl_lab.errors import LabError, LabWarning
from rl_lab.experiment import ExperimentConfig
from rl_lab.storage import Storage
from tests.faults import crash_experiment, shrink_segments
from tests.runs import Silent, resume, train, what_it_came_to


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", 0)  # so that it is put back
    shrink_segments()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run of three iterations, and one of four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl_lab.replay.saving._SEGMENT_BYTES", 0)
        shrink_segments()
        folder = tmp_path_factory.mktemp("trained")
        yield train(crash_experiment(120), folder / "three").run, train(crash_experiment(160), folder / "four").run


def own_files(run: Path) -> list[Path]:
    """The files of the newest checkpoint that the one before does not share."""
    older, newest = checkpoints(run)
    segments = read_manifest(newest).segments.keys() - read_manifest(older).segments.keys()
    assert segments
    return sorted(path for path in newest.rglob("*") if path.is_file()) + [run / "segments" / name for name in segments]


def damages(data: bytes, rng: random.Random) -> Iterator[bytes]:
    """The file cut off, and with one bit flipped: at its ends, in what may be its header, and anywhere."""
    yield from (b"", data[: len(data) // 2], data[:-1], data + b"\0")
    for place in (0, len(data) - 1, *(rng.randrange(min(len(data), 100)) for _ in range(3)), rng.randrange(len(data))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def test_every_damage_to_any_file_of_a_checkpoint_is_found(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    older, newest = checkpoints(run)
    rng = random.Random(0)
    for path in own_files(run):
        whole = path.read_bytes()
        for damaged in damages(whole, rng):
            path.write_bytes(damaged)
            with pytest.raises(LabError, match="manifest"):
                verify(newest, segments=True)
        path.unlink()
        found, problems = newest_checkpoint(run, resumable=True)
        assert found == older
        assert path.name in problems[0]
        path.write_bytes(whole)
    assert newest_checkpoint(run, resumable=True) == (newest, [])


def test_no_flipped_bit_of_a_manifest_leaves_out_what_belongs_to_the_checkpoint(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "manifest.json"
    data = (checkpoints(trained[0])[-1] / "manifest.json").read_bytes()
    path.write_bytes(data)
    whole = read_manifest(tmp_path)
    unnoticed = []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            manifest = read_manifest(tmp_path)
        except LabError:
            continue
        # Another entry than the true one fits no file; a missing file's is noticed when the folder is listed.
        if manifest.files == whole.files and manifest.segments.items() <= whole.segments.items():
            unnoticed.append((bit, flipped))
    assert not unnoticed


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before_to_the_same_bytes(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = what_it_came_to(trained[1])
    rng = random.Random(1)
    for path in own_files(trained[0]):
        run = Path(shutil.copytree(trained[0], tmp_path / "run"))
        damaged = run / path.relative_to(trained[0])
        damaged.write_bytes(rng.choice(list(damages(path.read_bytes(), rng))))
        with pytest.warns(LabWarning, match=f"skipped a damaged checkpoint: .*{path.name}"):
            resume(run, total_steps=160)
        assert what_it_came_to(run) == whole, path
        shutil.rmtree(run)


class Fails(Silent):
    """Ends a run at its start."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        raise ZeroDivisionError


def test_a_damaged_checkpoint_does_not_come_back_when_the_records_it_names_are_cut_off(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    older, newest = checkpoints(run)
    (newest / "state" / "counters.json").unlink()
    with pytest.warns(LabWarning, match="skipped a damaged checkpoint"), pytest.raises(ZeroDivisionError):
        resume(run, total_steps=160, reporter=Fails())
    assert checkpoints(run) == [older]


def test_a_checkpoint_can_be_replaced_again_after_a_kill_in_the_middle_of_it(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, Storage(), {})
    final = writer.save(4, {"agent/weights": b"old"}, {})
    shutil.copytree(final, final.with_suffix(".replaced"))
    writer.save(4, {"agent/weights": b"new"}, {})
    assert checkpoints(tmp_path) == [final]
    assert (final / "agent" / "weights").read_bytes() == b"new"


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_as_it_is(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    for checkpoint in checkpoints(run):
        (checkpoint / "state" / "counters.json").write_text("{}")
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(LabError, match=r"has no whole checkpoint: .*counters\.json is not as its manifest says"):
        resume(run, total_steps=160)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files
