"""What agents hand over to a checkpoint, and get back: files by name. Only the bench touches the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_lab.errors import LabError
from rl_lab.untrusted import parse_json, read_bytes


@dataclass(frozen=True)
class SavedState:
    """What an agent needs to go on as if it had never stopped."""

    files: dict[str, bytes]
    """Saved anew by each checkpoint."""
    segments: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    """Saved once and never changed: called only for names that no earlier checkpoint has, before the agent goes on."""


class SavedFiles:
    """Files and segments of a checkpoint by name, wherever they lie."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def read(self, name: str, *, max_bytes: int = 1 << 26) -> bytes:
        """The bytes of a file of at most `max_bytes`; LabError where there is none."""
        if name not in self._paths:
            raise LabError(f"the file {name!r} was not saved (there are: {', '.join(self._paths) or 'none'})")
        return read_bytes(self._paths[name], max_bytes=max_bytes)

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of at most 1 MB, which may take fifty times as much; LabError for anything else."""
        return parse_json(self.read(name, max_bytes=1 << 20), name)
