"""An agent's play in a window, by tkinter: it comes with most Pythons, and asks for no further library."""

from __future__ import annotations

import tkinter
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rl_lab.viewing.panel import Panel
from rl_lab.viewing.play import Moment


class NoScreenError(Exception):
    """There is no screen to open a window on."""


class Window:
    """A window that shows pictures until it is closed, by its frame or by the keys q and Escape."""

    def __init__(self, panel: Panel, title: str) -> None:
        """NoScreenError where there is no screen."""
        self._panel = panel
        try:
            self._root = tkinter.Tk(className="rl-lab")
        except tkinter.TclError as error:
            raise NoScreenError(str(error)) from error
        self._root.title(title)
        self._root.resizable(width=False, height=False)
        # Without Pillow's ImageTk, which Linux distributions package apart. One image for all frames: of one that a
        # Ctrl-C leaves half made, tkinter complains when it is collected.
        self._image = tkinter.PhotoImage(master=self._root, format="ppm")
        self._label = tkinter.Label(self._root, borderwidth=0, image=self._image)
        self._label.pack()
        self._closed = False
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("<q>", "<Escape>"):
            self._root.bind(key, lambda event: self._close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._root.destroy()

    @property
    def closed(self) -> bool:
        """Whether the window was closed."""
        return self._closed

    def show(self, screen: NDArray[np.uint8], moment: Moment) -> None:
        """Show one frame [H, W, 3], and see to the window."""
        picture = self._panel.picture(screen, moment)
        height, width, _ = picture.shape
        self._image.configure(data=b"P6 %d %d 255 " % (width, height) + picture.tobytes())
        self._root.update()

    def _close(self) -> None:
        self._closed = True
