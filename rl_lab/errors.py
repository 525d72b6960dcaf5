"""The errors that the lab shows to its users, and the nearest-name hint that most of them carry."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

_MAX_CHARACTERS = 2_000
"""Of a message: the names of all games fit in."""


class LabError(Exception):
    """A mistake of the user's: shown as one line, exit status 2.

    The message says what was given, what is allowed and what to do.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ResumableError(LabError):
    """A run was stopped by something outside it, and can go on: exit status 75 (EX_TEMPFAIL of sysexits.h)."""

    exit_status: ClassVar[int] = 75


class LabWarning(UserWarning):
    """What the user should know, and may go on with; the message is one line."""


def printable(text: str) -> str:
    """Without line ends and escape sequences, which a stranger's file may put into what is shown."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(message: str) -> str:
    """The printable message, without its middle where a value in it is endless."""
    message = printable(message)
    if len(message) <= _MAX_CHARACTERS:
        return message
    half = _MAX_CHARACTERS // 2 - 5
    return f"{message[:half]} [...] {message[-half:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest known name, or nothing; compared without case."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
