"""What is done to the disk: by checkpoints operation by operation, where saving can fail or be cut off; by records."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Storage:
    """Single operations on files and directories; tests let the k-th of them fail, or be the last."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, and those above it that are missing."""
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Make or replace a file; only `sync` forces it to the disk."""
        path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """Force a file, or the names in a directory, to the disk."""
        if os.name == "nt" and path.is_dir():
            return  # Windows does not open directories, and keeps names safe by itself
        descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or a directory another name, in one step."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file or an empty directory."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all that is in it, or nothing if it is not there; each entry is an operation."""
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(path.iterdir()):
                self.remove_tree(entry)
        if path.exists() or path.is_symlink():
            self.remove(path)


class RecordFile(io.FileIO):
    """A file without a buffer: what was written is in it, and nothing is left to be written when it is closed."""

    def write(self, data: ReadableBuffer) -> int:
        """All of it, or OSError: a disk that fills up takes a part, and refuses only the rest."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            written += super().write(view[written:])
        return written
