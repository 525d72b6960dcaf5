"""Checkpoints: directories that are either whole or absent, each file with its size and SHA-256 in a manifest.

A checkpoint is written under another name, forced to the disk, then renamed: what has the right name and a manifest
that fits is whole. Of a replay only what is new is written: it lies in segments that are never changed, shared by all
checkpoints of a run.

    checkpoints/000001000000/           the emulator frames
      agent/...                         the saved agent: see rl_lab.saved_agent
      state/...                         what else the agent needs to go on
      loop/...                          where in its loop the run stands: see rl_lab.position; and its experiment
      manifest.json                     written last
    segments/replay-00000000.safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_lab.errors import LabError
from rl_lab.saved import SavedFiles
from rl_lab.storage import Storage
from rl_lab.untrusted import files_below, read_json

FORMAT = 2
_KEPT = 2
_PARTIAL = ".partial"
"""Ends the name of what is not whole yet, or any more."""
_NAME = re.compile(r"\d{12}(\.replaced)?")


@dataclass(frozen=True)
class FileEntry:
    """What a manifest says of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint."""

    files: dict[str, FileEntry]
    """By POSIX path within the checkpoint."""
    segments: dict[str, FileEntry]
    """By name in the run's segments/."""


class CheckpointWriter:
    """Saves the checkpoints of one run."""

    def __init__(self, run: Path, storage: Storage, segments: Mapping[str, FileEntry]) -> None:
        """`segments` are those of the checkpoint that the run goes on from: whole, and not to be written again."""
        self._run = run
        self._storage = storage
        self._segments = dict(segments)

    def save(self, frames: int, files: Mapping[str, bytes], segments: Mapping[str, Callable[[], bytes]]) -> Path:
        """Write a checkpoint, then delete all but the newest two; the new one's directory."""
        final = self._run / "checkpoints" / f"{frames:012d}"
        partial, replaced = final.with_suffix(_PARTIAL), final.with_suffix(".replaced")
        # Left by processes that were killed while they saved: a disk that is nearly full needs their room.
        for folder in (final.parent, self._run / "segments"):
            for left in sorted(folder.glob(f"*{_PARTIAL}")):
                self._storage.remove_tree(left)
        self._segments = {
            name: self._segments.get(name) or self._write_segment(name, segments[name]) for name in segments
        }
        if segments:
            self._storage.sync(self._run / "segments")
        manifest = {
            "format": FORMAT,
            "files": {name: vars(file_entry(data)) for name, data in files.items()},
            "segments": {name: vars(entry) for name, entry in self._segments.items()},
        }
        self._write_files(partial, {**files, "manifest.json": json.dumps(manifest, indent=1).encode()})
        self._storage.sync(self._run)  # the folders' own names, before a checkpoint in them counts
        if final.exists():  # of the same frames: kept until the new one has its name
            self._storage.remove_tree(replaced)
            self._storage.rename(final, replaced)
        self._storage.rename(partial, final)
        self._storage.sync(final.parent)
        self._prune()
        return final

    def _write_segment(self, name: str, data: Callable[[], bytes]) -> FileEntry:
        folder = self._run / "segments"
        self._storage.make_directory(folder)
        contents = data()
        partial = folder / f"{name}{_PARTIAL}"
        self._storage.write(partial, contents)
        self._storage.sync(partial)
        self._storage.rename(partial, folder / name)
        return file_entry(contents)

    def _write_files(self, directory: Path, files: Mapping[str, bytes]) -> None:
        folders = {directory, *((directory / name).parent for name in files)}
        for folder in sorted(folders):
            self._storage.make_directory(folder)
        for name, data in files.items():
            self._storage.write(directory / name, data)
            self._storage.sync(directory / name)
        for folder in sorted(folders, reverse=True):
            self._storage.sync(folder)

    def _prune(self) -> None:
        """Delete what the newest two checkpoints do not need."""
        found = checkpoints(self._run)
        kept = [path for path in found if path.suffix == ""][-_KEPT:]
        for path in found:
            if path not in kept:
                _discard(path, self._storage)
        needed = set(self._segments)
        for path in kept[:-1]:
            needed |= _segment_names(path)
        for segment in sorted((self._run / "segments").glob("*")):
            if segment.name not in needed:
                self._storage.remove(segment)


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint directories, oldest first, whole or not."""
    found = [path for path in (run / "checkpoints").glob("*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_frames(path), path.suffix == ""))


def newest_checkpoint(run: Path, *, resumable: bool = False) -> tuple[Path, list[str]]:
    """The run's newest whole checkpoint, and what is wrong with newer ones; LabError where there is none.

    `resumable`: whole with its segments, which acting does not need.
    """
    problems: list[str] = []
    for directory in reversed(checkpoints(run)):
        try:
            verify(directory, segments=resumable)
        except LabError as error:
            problems.append(str(error))
        else:
            return directory, problems
    if problems:
        raise LabError(f"{run} has no whole checkpoint: {problems[0]}")
    raise LabError(
        f"{run} has no checkpoint yet; the first one is written at its first iteration's end, or "
        "after --checkpoint-minutes (5 by default)"
    )


def discard_newer(checkpoint: Path, storage: Storage) -> None:
    """Delete the checkpoints after the one that a run goes on from: its records will not be those that they name."""
    found = checkpoints(checkpoint.parent.parent)
    for path in found[found.index(checkpoint) + 1 :]:
        _discard(path, storage)


def verify(directory: Path, *, segments: bool) -> Manifest:
    """LabError unless the directory holds exactly the files of its manifest, byte for byte; and its segments."""
    manifest = read_manifest(directory)
    found = _file_names(directory)
    for name in sorted(manifest.files.keys() | found):
        if name not in found or name not in manifest.files:
            raise LabError(
                f"{directory / name} is not as its manifest says: {'missing' if name not in found else 'added'}"
            )
        _verify_file(directory / name, manifest.files[name])
    for name, entry in manifest.segments.items() if segments else ():
        _verify_file(_segments_folder(directory) / name, entry)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """LabError where it is missing, damaged, or of another version of the lab."""
    path = directory / "manifest.json"
    return checked_manifest(read_json(path), path)


def checked_manifest(table: Mapping[str, Any], path: Path) -> Manifest:
    """The manifest that the JSON object at `path` is; LabError as in `read_manifest`."""
    if table.get("format") != FORMAT:
        raise LabError(
            f"{path} is of checkpoint format {table.get('format')!r}; this version of rl-lab reads format {FORMAT}"
        )
    return Manifest(_entries(table, "files", path), _entries(table, "segments", path))


def saved_files(directory: Path, folder: str) -> SavedFiles:
    """The files of a checkpoint below `folder`, by their names there; with the segments for the folder state/."""
    manifest = read_manifest(directory)
    own = {name: directory / name for name in manifest.files if name.startswith(f"{folder}/")}
    paths = {name.removeprefix(f"{folder}/"): path for name, path in own.items()}
    if folder == "state":
        paths |= {name: _segments_folder(directory) / name for name in manifest.segments}
    return SavedFiles(paths)


def file_entry(data: bytes) -> FileEntry:
    """What a manifest says of a file of these bytes."""
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


def _discard(directory: Path, storage: Storage) -> None:
    """Delete a checkpoint, first its name: half deleted, it must not be mistaken for a damaged one."""
    doomed = directory.with_name(f"{directory.name}{_PARTIAL}")
    storage.remove_tree(doomed)
    storage.rename(directory, doomed)
    storage.remove_tree(doomed)


def _entries(table: Mapping[str, Any], key: str, path: Path) -> dict[str, FileEntry]:
    entries = table.get(key)
    if not isinstance(entries, dict):
        raise LabError(f"{path} is damaged: it has no {key}")
    return {name: _checked_entry(name, value, key, path) for name, value in entries.items()}


def _checked_entry(name: str, value: object, key: str, path: Path) -> FileEntry:
    # A name leads nowhere else: no empty, absolute or parent parts, and segments lie side by side.
    parts = name.split("/")
    names_a_place = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. -]*", part) for part in parts)
    match value:
        case {"size_bytes": int(size), "sha256": str(digest)} if names_a_place and (key == "files" or len(parts) == 1):
            return FileEntry(size, digest)
    raise LabError(f"{path} is damaged: {name[:100]!r} is no entry of {key}")


def _verify_file(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat(follow_symlinks=False).st_size
        whole = size == entry.size_bytes and path.is_file() and not path.is_symlink() and _digest(path) == entry.sha256
    except OSError as error:
        raise LabError(f"{path} is not as its manifest says: {error.strerror}") from error
    if not whole:
        raise LabError(f"{path} is not as its manifest says: changed")


def _file_names(directory: Path) -> set[str]:
    """All below the directory but folders and the manifest, as POSIX paths."""
    return {path.relative_to(directory).as_posix() for path in files_below(directory)} - {"manifest.json"}


def _segment_names(directory: Path) -> set[str]:
    """None of a damaged checkpoint: nothing can go on from it."""
    try:
        return set(read_manifest(directory).segments)
    except LabError:
        return set()


def _segments_folder(checkpoint: Path) -> Path:
    return checkpoint.parent.parent / "segments"


def _frames(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
