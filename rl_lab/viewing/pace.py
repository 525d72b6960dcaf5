"""The pace at which frames are shown: real time where the machine can, slow motion where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST_SKIPPED = 3
"""Frames in a row: one of each step is always shown."""
_LATE_SECONDS = 0.25
"""A machine that is so late does not catch up."""


class Pace:
    """Says when a frame is due."""

    def __init__(
        self,
        frames_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds_per_frame = 1 / frames_per_second
        self._clock, self._sleep = clock, sleep
        self._due = clock()
        self._skipped = 0

    @property
    def is_late(self) -> bool:
        """Whether the next frame should be there already."""
        return self._clock() > self._due + self._seconds_per_frame

    def wait(self) -> bool:
        """Wait until the next frame is due; whether to show it: one that comes late may be left out."""
        now, due = self._clock(), self._due
        self._due += self._seconds_per_frame
        if now - due > _LATE_SECONDS:
            self._due = now + self._seconds_per_frame
        elif now > due + self._seconds_per_frame and self._skipped < _MOST_SKIPPED:
            self._skipped += 1
            return False
        self._skipped = 0
        if now < due:
            self._sleep(due - now)
        return True
