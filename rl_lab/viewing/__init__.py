"""Watching an agent: its play in colour, what it values, where it looks; as video, in a window, in a terminal.

The only package that imports PyAV and tkinter, each where it is needed: both may be missing.
"""

from rl_lab.viewing.pace import Pace
from rl_lab.viewing.panel import Panel
from rl_lab.viewing.play import Moment, ViewedStep, Viewer, play
from rl_lab.viewing.saliency import Saliency

__all__ = ["Moment", "Pace", "Panel", "Saliency", "ViewedStep", "Viewer", "play"]
