"""Reading the records of runs: what `rl_lab.run` wrote. Imports neither torch nor an emulator."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from os.path import isfile
from pathlib import Path
from typing import Any, Literal, Self, get_args

import psutil

from rl_lab.checks import require_between, require_one_of
from rl_lab.config import from_table, read_toml, typed
from rl_lab.errors import LabError
from rl_lab.system import boot_id, host_name
from rl_lab.untrusted import parse_json, read_bytes, read_json

State = Literal["running", "finished", "interrupted", "failed"]
Writer = Literal["alive", "gone", "of an earlier boot", "on another machine"]
"""What became of the process that writes a run; on another machine that cannot be known."""

MAX_FRAMES = 1 << 62
"""More than a run can have; TensorBoard's steps have 63 bits."""

_HYPERPARAMETER_TYPES = (str, int, float, bool)
_CONFIG_KEYS = {"name": str, "game": str, "seed": int, "total_steps": int, "protocol": dict, "agent": dict}
_METRICS_KEYS = {"frames": int, "time/fps": float}
_EPISODE_KEYS = {"score": float, "length_frames": int}
_LARGEST_SCORE = 1e15
_LEAST_FPS = 1e-9
"""Hours at a lower speed are no longer a number."""
_EVALUATION_KEYS = {
    "game": str,
    "frames": int,
    "protocol": str,
    "protocol_fingerprint": str,
    "mean_score": float,
    "episodes": int,
}

_MAX_RECORDS_BYTES = 1 << 28
"""200 million frames of Atari leave about 20 MB."""

TUNES = "tunes"
"""The folder of all tunes beside the runs."""
TUNE_MARK = "tuning-seeds.json"
"""In the folder of a tune: its runs, of these seeds, choose settings, so they are no results."""

_OWN_FOLDERS = ("checkpoints", "segments")
"""Of a run, even of one whose status is lost."""
_CLOCK_DRIFT_SECONDS = 60
"""A process's start is derived from the system's clock, which may be set while it runs."""


@dataclass(frozen=True)
class Status:
    """What became of a run."""

    state: State
    reason: str
    """Why it failed or was interrupted; empty otherwise."""
    steps: int
    frames: int
    pid: int
    process_start: float
    """Start of the writing process, seconds since the epoch: tells it from a later one with the same pid."""
    host: str = ""
    """The writing process's machine while it runs; empty afterwards, so that records can be published."""
    boot_id: str = ""
    """Of that machine; empty where `host` is."""

    def __post_init__(self) -> None:
        require_one_of(self, get_args(State), "state")
        require_between(self, 1, 2**31 - 1, "pid")

    @classmethod
    def of_this_process(cls, state: State, reason: str = "", *, steps: int, frames: int) -> Self:
        """The status of a run that this process writes."""
        process = psutil.Process()
        status = cls(state, reason, steps, frames, process.pid, process.create_time())
        if state != "running":
            return status
        return dataclasses.replace(status, host=host_name(), boot_id=boot_id())

    @property
    def writer(self) -> Writer:
        """What became of the process that wrote this; statuses of earlier versions name no machine: it is this one."""
        if self.host not in ("", host_name()):
            return "on another machine"
        if self.boot_id not in ("", boot_id()):
            return "of an earlier boot"
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.process_start) < _CLOCK_DRIFT_SECONDS
            # A zombie writes no more: it only waits for its parent to ask how it ended.
            return "alive" if is_same and process.status() != psutil.STATUS_ZOMBIE else "gone"
        except psutil.NoSuchProcess:
            return "gone"

    @property
    def is_live(self) -> bool:
        """Whether the process that writes the run still runs on this machine."""
        return self.state == "running" and self.writer == "alive"


def is_free(directory: Path) -> bool:
    """Whether a run may be made there: nothing is, or an empty folder, but no link to one."""
    if directory.is_symlink():
        return False
    return not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))


def find_runs(root: Path) -> list[Path]:
    """Every run directory at or below `root`, sorted, without those of tunes below it; LabError where there is none."""
    found = sorted(folder for folder, names in _folders(root) if _has_run(folder, names))
    own = tune_of(root)
    runs = [run for run in found if tune_of(run) == own]
    if found and not runs:
        raise LabError(
            f"all runs in {root} are of tunes, whose seeds chose the settings: they are no results; to look at them "
            f"give a tune's own folder, such as {tune_of(found[0])}"
        )
    if not runs:
        raise LabError(f"no runs in {root}; `rl-lab train` makes one, or give the folder that holds them")
    return runs


def find_tunes(root: Path) -> list[Path]:
    """The folder of every tune at or below `root`, sorted."""
    return sorted(folder for folder, names in _folders(root) if TUNE_MARK in names)


def tune_of(path: Path) -> Path | None:
    """The folder of the tune that a path lies in; None for what is of none."""
    path = Path(os.path.realpath(path))  # a link to a trial's run is one, too; pathlib fails at a link to itself
    # pathlib's is_file raises for a name that is too long, and where one may not look.
    return next((folder for folder in (path, *path.parents) if isfile(folder / TUNE_MARK)), None)


def tuning_seeds(path: Path, experiment: str) -> set[int]:
    """The seeds by which tunes chose settings of the experiment of that name.

    Known of the tunes in all folders that the path is below; LabError for a damaged mark of one.
    """
    marks = [mark for folder in path.resolve().parents for mark in (folder / TUNES).glob(f"*/{TUNE_MARK}")]
    # The longest first: what the tune one-more chose is not taken for a change of what the tune one did.
    suffixes = sorted((tuned_suffix(mark.parent.name) for mark in marks), key=len, reverse=True)
    named = re.findall(rf"(?:{'|'.join(map(re.escape, suffixes))})(?=-|\Z)", experiment)
    return {seed for mark in marks if tuned_suffix(mark.parent.name) in named for seed in _marked_seeds(mark)}


def tuned_suffix(tune: str) -> str:
    """What a tune adds to the name of the experiment that it chose; sweeps and further tunes may add more."""
    return f"-tuned-{tune}"


def read_status(directory: Path) -> Status:
    """The run's status.json; LabError where it is missing or damaged."""
    path = directory / "status.json"
    return from_table(Status, read_json(path), str(path))


def is_finished(directory: Path) -> bool:
    """Whether the run of that folder says so itself."""
    try:
        return read_status(directory).state == "finished"
    except LabError:
        return False


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file, without a last line that is still being written; LabError for a damaged one."""
    *lines, _unfinished = read_bytes(path, max_bytes=_MAX_RECORDS_BYTES).split(b"\n")
    return [parse_json(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def read_evaluations(directory: Path) -> list[dict[str, Any]]:
    """The run's evaluation records, in order; LabError where they are none."""
    path = directory / "evaluations.jsonl"
    records = _ascending(path, _EVALUATION_KEYS) if path.exists() else []
    if any(record["episodes"] < 1 for record in records):
        raise LabError(f"{path} is no record of a run: an evaluation of no episodes")
    return [{**record, "mean_score": checked_score(record["mean_score"], path)} for record in records]


def last_evaluation(directory: Path) -> dict[str, Any] | None:
    """The newest of them; None before the first."""
    return next(reversed(read_evaluations(directory)), None)


def read_provenance(directory: Path) -> dict[str, Any]:
    """What the run was made by and on; empty where that is not known."""
    path = directory / "provenance.json"
    return read_json(path) if path.exists() else {}


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The points of the run's training curves; LabError where they are none."""
    path = directory / "metrics.jsonl"
    records = _ascending(path, _METRICS_KEYS) if path.exists() else []
    for record in records:
        _require_speed(record, path)
    return records


def last_metrics(directory: Path) -> dict[str, Any] | None:
    """The newest of them, without a look at those before; None before the first."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return None
    *_, line, _unfinished = (b"", *read_bytes(path, max_bytes=_MAX_RECORDS_BYTES).rsplit(b"\n", 2))
    if not line:
        return None
    record = _with_keys(parse_json(line, str(path)), _METRICS_KEYS, path)
    _require_speed(record, path)
    return record


def training_seconds(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds of training up to each point of the curves, without evaluations: from the speed between points."""
    previous = [0, *(point["frames"] for point in metrics)]
    return list(
        accumulate(
            (point["frames"] - frames) / point["time/fps"] for frames, point in zip(previous, metrics, strict=False)
        )
    )


def last_episodes(directory: Path, count: int) -> list[tuple[float, int]]:
    """Score and length in frames of the run's last training episodes; LabError where they are none."""
    path = directory / "episodes.jsonl"
    lines = read_bytes(path, max_bytes=_MAX_RECORDS_BYTES).rsplit(b"\n", count + 1)[:-1]
    episodes = [_with_keys(parse_json(line, str(path)), _EPISODE_KEYS, path) for line in lines[-count:]]
    return [(checked_score(episode["score"], path), episode["length_frames"]) for episode in episodes]


def checked_score(score: object, path: Path) -> float:
    """The score; LabError where it is none that a game can give."""
    number = score if isinstance(score, float) else typed(score, float, f"{path} is no record of a run: a score")
    assert isinstance(number, float)
    if abs(number) > _LARGEST_SCORE:
        raise LabError(f"{path} has a score beyond +-{_LARGEST_SCORE:g}, which no game gives")
    return number


def read_config(directory: Path) -> dict[str, Any]:
    """The run's config.toml as plain tables; LabError where it is none. Agents and protocols are not looked up."""
    path = directory / "config.toml"
    config = _with_keys(read_toml(path), _CONFIG_KEYS, path)
    frame_skip = _with_keys(config["protocol"], {"frame_skip": int}, path)["frame_skip"]
    if not 0 <= config["total_steps"] * frame_skip < MAX_FRAMES:
        raise LabError(f"{path} is no record of a run: no run has {config['total_steps']} steps of {frame_skip} frames")
    typed(config.get("num_games", 1), int, f"{path} is no record of a run: num_games")
    for name, value in config["agent"].items():
        if type(value) not in _HYPERPARAMETER_TYPES:
            raise LabError(
                f"{path} is no record of a run: agent.{name} is {repr(value)[:200]}; allowed is a string, a number, or "
                "true or false"
            )
    return config


def _marked_seeds(mark: Path) -> list[int]:
    seeds: list[int] = _with_keys(read_json(mark), {"seeds": list}, mark)["seeds"]
    for seed in seeds:
        typed(seed, int, f"{mark} is no mark of a tune: a seed")
    return seeds


def _folders(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Every folder at or below `root` and the names in it; behind links, too, each once, and none within a run.

    Folders come and go while runs train: one that is gone when it is looked at is left out, as is one that may not be
    read. (pathlib fails at them.)
    """
    seen: set[tuple[int, int]] = set()
    folders = deque([root])
    while folders:
        folder = folders.popleft()
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                present = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        names = {entry.name for entry in present}
        yield folder, names
        if _has_run(folder, names):
            continue
        hidden = _OWN_FOLDERS if "config.toml" in names else ()
        for entry in present:
            if entry.name in hidden:
                continue
            if entry.is_symlink():
                folders.append(folder / entry.name)  # after all others: a folder goes by its own name
            elif entry.is_dir(follow_symlinks=False):
                folders.appendleft(folder / entry.name)


def _has_run(folder: Path, names: Collection[str]) -> bool:
    return "config.toml" in names and isfile(folder / "status.json")


def _require_speed(record: Mapping[str, Any], path: Path) -> None:
    if record["time/fps"] < _LEAST_FPS:
        raise LabError(f"{path} is no record of a run: time/fps is not above 0")


def _ascending(path: Path, keys: Mapping[str, type]) -> list[dict[str, Any]]:
    """The records of a .jsonl file with these keys; LabError unless their frames grow from above 0."""
    records = [_with_keys(record, keys, path) for record in read_records(path)]
    for earlier, later in pairwise((0, *(record["frames"] for record in records))):
        if earlier >= later:
            raise LabError(f"{path} is no record of a run: {later} frames follow {earlier}")
    return records


def _with_keys(record: Any, keys: Mapping[str, type], path: Path) -> dict[str, Any]:
    """The record, if it has all keys with values of their types; LabError otherwise."""
    table = record if isinstance(record, dict) else {}
    missing = [key for key in keys if key not in table]
    if missing:
        raise LabError(f"{path} is no record of a run: {', '.join(missing)} missing")
    for key, kind in keys.items():
        if type(table[key]) is not kind:  # seldom; words for what is wrong take longer than the reading
            table = {**table, key: typed(table[key], kind, f"{path} is no record of a run: {key}")}
    return table
