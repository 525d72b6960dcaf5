"""The files that a report is written to: whether they can be is asked before anything is computed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rl_lab.errors import LabError


def require_writable_file(path: Path) -> None:
    """LabError unless a file can be made, or replaced, at the path."""
    if path.exists() and not path.is_file():
        raise LabError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; give the name of a file")
    _require_writable(path.resolve().parent, f"{path} cannot be written")


def require_writable_folder(path: Path) -> None:
    """Make the folder if it is missing; LabError unless files can be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"{path} cannot be made a folder: {error.strerror}; give another name") from error
    _require_writable(path, f"nothing can be written into {path}")


def write_file(path: Path, data: bytes) -> None:
    """Make or replace a file in one step: a reader sees the old one or the new one; LabError where it fails."""
    path = path.resolve()  # what a link leads to, not the link
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LabError(f"{path} cannot be written: {error.strerror}") from error


def _require_writable(folder: Path, complaint: str) -> None:
    """By writing: permissions do not tell all, and nothing of root."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise LabError(f"{complaint}: {error.strerror}; give another name") from error
