"""An agent's play in a terminal: half-block characters, two pixels each, in 24-bit colour, and the values as text."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from os import terminal_size
from types import TracebackType
from typing import Self, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rl_lab.errors import LabError
from rl_lab.viewing.panel import Bars, with_saliency
from rl_lab.viewing.play import Moment

_TEXT_COLUMNS = 34
_LEAST_COLUMNS, _LEAST_LINES = 16, 6
_BAR_COLUMNS = 8
_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"  # terminals that know it show no half picture
_HOME, _CLEAR, _CLEAR_LINE, _PLAIN = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[0m"
_BEGIN = "\x1b[?1049h\x1b[?25l"  # a screen of its own, no cursor
_END = f"{_PLAIN}{_END_UPDATE}\x1b[?25h\x1b[?1049l"
_CHOSEN = "\x1b[38;2;230;159;0m"  # as in the panel


class Terminal:
    """Draws on the terminal, and gives it back as it was."""

    def __init__(
        self,
        stream: TextIO,
        caption: Sequence[str],
        actions: Sequence[str],
        size: Callable[[], terminal_size] = shutil.get_terminal_size,
    ) -> None:
        """LabError where the stream is no terminal, or one that knows no blocks."""
        if not stream.isatty():
            raise LabError(
                "there is no terminal to play in: the output goes to a file or a pipe; run `rl-lab watch` in a "
                "terminal, or record with `rl-lab video`"
            )
        try:
            "▀█".encode(stream.encoding)
        except UnicodeEncodeError as error:
            raise LabError(f"this terminal's encoding {stream.encoding} has no blocks; use one of UTF-8") from error
        self._stream, self._caption, self._actions, self._size = stream, caption, actions, size
        self._drawn_size = size()
        self._bars = Bars()

    def __enter__(self) -> Self:
        self._stream.write(_BEGIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.write(_END)
        self._stream.flush()

    @property
    def closed(self) -> bool:
        """Never: Ctrl-C ends the play."""
        return False

    def show(self, screen: NDArray[np.uint8], moment: Moment) -> None:
        """Draw one frame [H, W, 3], in the size that the terminal has now."""
        size = self._size()
        clear = "" if size == self._drawn_size else _CLEAR
        self._drawn_size = size
        screen = screen if moment.saliency is None else with_saliency(screen, moment.saliency)
        self._stream.write(_BEGIN_UPDATE + clear + _HOME)
        texts = status_lines(self._caption, self._actions, moment, self._bars)
        self._stream.write("\r\n".join(picture(screen, texts, size)))
        self._stream.write(_END_UPDATE)
        self._stream.flush()


def picture(screen: NDArray[np.uint8], texts: Sequence[str], size: terminal_size) -> list[str]:
    """The lines to print: the screen [H, W, 3] as large as fits, and beside it the texts where there is room."""
    if size.columns < _LEAST_COLUMNS or size.lines < _LEAST_LINES:
        return ["too small"[: size.columns]]
    height, width, _ = screen.shape
    # A character is about twice as high as wide: half of it is a square pixel.
    text_columns = _TEXT_COLUMNS if size.columns >= _LEAST_COLUMNS + _TEXT_COLUMNS else 0
    factor = min((size.columns - text_columns) / width, 2 * size.lines / height)
    rows, columns = max(round(factor * height / 2), 1) * 2, max(int(factor * width), 1)
    rows = min(rows, 2 * size.lines)
    small = Image.fromarray(screen).resize((columns, rows), Image.Resampling.BOX)
    lines = half_blocks(np.asarray(small))
    if not text_columns:
        return [line + _CLEAR_LINE for line in lines]
    count = min(max(len(lines), len(texts)), size.lines)
    pairs = zip(
        lines[:count] + [" " * columns] * (count - len(lines)),
        [*texts[:count], *[""] * (count - len(texts))],
        strict=True,
    )
    return [f"{line}  {text}{_CLEAR_LINE}" for line, text in pairs]


def half_blocks(image: NDArray[np.uint8]) -> list[str]:
    """A line of characters for each two rows of an image [2 N, W, 3]; colours are written where they change."""
    lines = []
    for upper, lower in zip(image[::2].tolist(), image[1::2].tolist(), strict=True):
        parts = []
        before = None
        for colours in zip(upper, lower, strict=True):
            if colours != before:
                (r, g, b), (r2, g2, b2) = before = colours
                parts.append(f"\x1b[38;2;{r};{g};{b};48;2;{r2};{g2};{b2}m")
            parts.append("▀")
        lines.append("".join(parts) + _PLAIN)
    return lines


def status_lines(caption: Sequence[str], actions: Sequence[str], moment: Moment, bars: Bars) -> list[str]:
    """What the panel of a video shows, as text of 32 columns; the chosen action is in colour and marked."""
    lives = f", lives {moment.lives}" if moment.lives else ""
    lines = [*caption, f"score {moment.score:.0f}", f"step {moment.step}, episode {moment.episode}{lives}"]
    lines.append("random action" if moment.explores else "")
    lengths = None if moment.values is None else bars.lengths(moment.values)
    for index, action in enumerate(actions):
        line = f"{'>' if index == moment.action else ' '} {action:13}"
        if moment.values is not None and lengths is not None:
            line += f" {moment.values[index]:7.3f} {'█' * round(_BAR_COLUMNS * float(lengths[index]))}"
        lines.append(line)
    lines = [line[: _TEXT_COLUMNS - 2] for line in lines]
    chosen = len(lines) - len(actions) + moment.action
    lines[chosen] = f"{_CHOSEN}{lines[chosen]}{_PLAIN}"
    return lines
