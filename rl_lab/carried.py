"""A run that is made on another machine, carried to this one as it grows: so that it can go on here, or anywhere.

What the other machine has is told by a `Snapshot`, and its files are read piece by piece; only what is new is. Whenever
the carrying ends, the run here is whole: a checkpoint comes after the records that it names, and is written as on the
machine that made it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rl_lab.checkpoint import (
    CheckpointWriter,
    FileEntry,
    checked_manifest,
    checkpoints,
    discard_newer,
    file_entry,
    newest_checkpoint,
    read_manifest,
)
from rl_lab.errors import LabError
from rl_lab.lock import RunLock
from rl_lab.records import read_status
from rl_lab.run import RECORDS, make_run_directory, make_way, replace_text, require_own_files
from rl_lab.storage import RecordFile, Storage
from rl_lab.untrusted import parse_json

PIECE_BYTES = 1 << 23
"""The most that is read at once."""
_ORIGINS = ("config.toml", "provenance.json")
_STATUS = "status.json"
_TEXTS = (*_ORIGINS, _STATUS, "stalled.txt")


@dataclass(frozen=True)
class Snapshot:
    """What there is of a run; all names are POSIX paths within it."""

    texts: dict[str, str]
    """Small files that are replaced as a whole, with their contents."""
    sizes: dict[str, int]
    """Files that only grow, records and events, in bytes: not less than the checkpoints name."""
    checkpoints: dict[str, str]
    """The SHA-256 of each one's manifest, the oldest first."""


class Reader(Protocol):
    """Reads on the other machine."""

    def __call__(self, name: str, offset: int, size: int) -> bytes | None:
        """At most so many bytes of a file of the run; None if there is no such file any more."""


def snapshot(run: Path) -> Snapshot:
    """Of a run that may be growing."""
    # Looked at first: what they name of the records is there by then.
    manifests = {path.name: path / "manifest.json" for path in checkpoints(run) if path.suffix == ""}
    digests = {name: digest for name, path in manifests.items() if (digest := _digest(path)) is not None}
    growing = (*(name for name in RECORDS if (run / name).exists()), *_events(run))
    sizes = {name: (run / name).stat().st_size for name in growing}
    texts = {name: (run / name).read_text(encoding="utf-8") for name in _TEXTS if (run / name).exists()}
    return Snapshot(texts, sizes, digests)


class CarriedRun:
    """One try to make the run at `directory` elsewhere; while it is entered no other process may write there.

    LabError as `rl-lab train --resume` has it, where there is something of a run that cannot go on.
    """

    def __init__(self, directory: Path, storage: Storage, *, begins_anew: bool = False) -> None:
        """`begins_anew` deletes what there is of a run, whose agent keeps no state to go on from."""
        self._directory = directory
        self._begins_anew = begins_anew
        self._storage = storage
        self._lock = RunLock(directory)
        self._sizes: dict[str, int] = {}
        """Of the files that grow: up to there both machines have the same."""
        self._texts: dict[str, str] = {}
        self._manifests: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            self._checkpoint, self.problems = self._begin()
        except BaseException:
            self._lock.release()
            raise
        self._sizes = dict.fromkeys(_events(self._directory), 0)  # there, they are empty: see `files`
        segments = {} if self._checkpoint is None else read_manifest(self._checkpoint).segments
        self._writer = CheckpointWriter(self._directory, self._storage, segments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def files(self) -> Iterator[tuple[str, Path | None]]:
        """What the other machine needs to go on: nothing for a new run; None stands for an empty file."""
        if not self._directory.exists():
            return
        names = [name for name in (*_TEXTS, *RECORDS) if (self._directory / name).is_file()]
        if self._checkpoint is not None:
            manifest = read_manifest(self._checkpoint)
            folder = self._checkpoint.relative_to(self._directory).as_posix()
            names += [f"{folder}/{name}" for name in (*manifest.files, "manifest.json")]
            names += [f"segments/{name}" for name in manifest.segments]
        yield from ((name, self._directory / name) for name in names)
        # Event files are never read, but numbered on from those that are there.
        yield from ((name, None) for name in _events(self._directory))

    def take(self, seen: Snapshot, read: Reader) -> None:
        """Bring the run here to what it is there, or, where that changes meanwhile, nearer to it."""
        if not self._texts:
            self._take_over(seen)
        for name in seen.texts.keys() - {_STATUS}:
            self._replace(name, seen.texts[name])
        for name, size in seen.sizes.items():
            try:
                self._grow(name, size, read)
            except _GoneError:
                raise LabError(f"{name} has vanished on the machine that makes the run") from None
        for name, digest in seen.checkpoints.items():
            if self._manifests.get(name) != digest and not self._take_checkpoint(name, digest, read):
                break  # one that is saved after a newer one would take that one's segments for old
        if _STATUS in seen.texts:
            self._replace(_STATUS, seen.texts[_STATUS])

    def lose(self, reason: str) -> None:
        """The other machine is gone, and with it what was not taken."""
        try:
            status = read_status(self._directory)
        except LabError:  # nothing was taken yet
            return
        if status.state == "running":
            ended = dataclasses.replace(status, state="interrupted", reason=reason, host="", boot_id="")
            replace_text(self._directory / _STATUS, json.dumps(vars(ended), indent=2))

    def _begin(self) -> tuple[Path | None, list[str]]:
        """The checkpoint to go on from, None before the first one, and what is wrong with newer ones."""
        if self._begins_anew or not (self._directory / "config.toml").is_file():
            make_way(self._directory, overwrite=self._begins_anew)
            return None, []
        require_own_files(self._directory)
        if not checkpoints(self._directory):
            return None, []
        return newest_checkpoint(self._directory, resumable=True)

    def _take_over(self, seen: Snapshot) -> None:
        """The other machine has begun: what it does not go on from is deleted, as it did there."""
        if not self._directory.exists():
            make_run_directory(self._directory, {name: seen.texts[name] for name in _ORIGINS})
        if self._checkpoint is not None:
            discard_newer(self._checkpoint, self._storage)
            self._manifests[self._checkpoint.name] = str(_digest(self._checkpoint / "manifest.json"))

    def _replace(self, name: str, text: str) -> None:
        if self._texts.get(name) != text:
            replace_text(self._directory / name, text, durable=name in _ORIGINS)
            self._texts[name] = text

    def _grow(self, name: str, size: int, read: Reader) -> None:
        """Add what is new; what was here before this try is replaced, for it may have been cut back there."""
        path, known = self._directory / name, self._sizes.get(name)
        if size == known:
            return
        path.parent.mkdir(exist_ok=True)
        replaces, known = known is None and path.exists(), known or 0
        place = path.with_name(f"{path.name}.new") if replaces else path
        with RecordFile(place, "wb" if replaces else "ab") as file:
            for piece in _pieces(name, known, size, read):
                file.write(piece)
                known += len(piece)
        if replaces:
            self._storage.sync(place)
            place.replace(path)
        self._sizes[name] = known

    def _take_checkpoint(self, name: str, digest: str, read: Reader) -> bool:
        """Write it as it is there; False if it was not there long enough."""
        folder = f"checkpoints/{name}"
        try:
            data = _whole(f"{folder}/manifest.json", None, read)
            if hashlib.sha256(data).hexdigest() != digest:
                raise _GoneError
            manifest = checked_manifest(parse_json(data, folder), Path(folder, "manifest.json"))
            files = {one: _whole(f"{folder}/{one}", entry, read) for one, entry in manifest.files.items()}
            segments = {
                one: partial(_whole, f"segments/{one}", entry, read) for one, entry in manifest.segments.items()
            }
            for record in RECORDS:
                self._storage.sync(self._directory / record)
            self._writer.save(int(name), files, segments)
        except _GoneError:  # a newer one has taken its place: that is in the next snapshot
            return False
        self._manifests[name] = digest
        return True


class _GoneError(Exception):
    """A file was deleted or replaced before it was read to its end."""


def _whole(name: str, entry: FileEntry | None, read: Reader) -> bytes:
    """The file, as its manifest says if it has an entry there."""
    data = b"".join(_pieces(name, 0, None if entry is None else entry.size_bytes, read))
    if entry is not None and file_entry(data) != entry:
        raise _GoneError
    return data


def _pieces(name: str, start: int, end: int | None, read: Reader) -> Iterator[bytes]:
    """The file's bytes from `start` to `end`, or to its own end."""
    while end is None or start < end:
        piece = read(name, start, PIECE_BYTES if end is None else min(PIECE_BYTES, end - start))
        if piece is None:
            raise _GoneError
        if not piece:
            return
        yield piece
        start += len(piece)


def _events(run: Path) -> list[str]:
    """Names of the event files that are there."""
    # Not below checkpoints/, where folders come and go: pathlib fails at one that goes as it looks.
    found = [*run.glob("events.out.tfevents.*"), *run.glob("by-time/events.out.tfevents.*")]
    return sorted(path.relative_to(run).as_posix() for path in found)


def _digest(path: Path) -> str | None:
    """Of a file; None if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
