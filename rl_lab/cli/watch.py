"""Watch a saved agent play in colour and in real time, beside it score, action and the values of all actions.

SAVED is a run (its newest checkpoint), one checkpoint, or a .zip of stable-baselines3 (then --game is needed). It
plays in a window, until that is closed or Ctrl-C; where there is no screen, in the terminal. The play is the
evaluator's: the protocol's epsilon, raw scores, the same games for the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import FRAMES_PER_SECOND
from rl_lab.cli.main import Parser
from rl_lab.cli.stage import Stage, add_stage, check_stage, set_stage
from rl_lab.errors import LabError, LabWarning
from rl_lab.system import end_by_keyboard_interrupt
from rl_lab.viewing import Pace, Viewer, play
from rl_lab.viewing.terminal import Terminal

_SLOWEST, _FASTEST = 0.01, 1_000
"""Times real time. A window takes no key between two frames: at the slowest, for two seconds."""


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab watch`."""
    add_stage(parser)
    parser.add_argument("--terminal", action="store_true", help="play in the terminal, though there is a screen")
    parser.add_argument("--speed", type=float, default=1.0, metavar="NUMBER", help="times real time (1)")
    parser.add_argument("--episodes", type=int, metavar="INTEGER", help="full games (default: without end)")
    options = parser.parse_all(arguments)
    check_stage(options)
    if not _SLOWEST <= options.speed <= _FASTEST:
        raise LabError(f"speed is {options.speed}; allowed is {_SLOWEST} to {_FASTEST}")
    end_by_keyboard_interrupt()
    scores: list[float] = []
    with contextlib.suppress(KeyboardInterrupt):
        _watch(set_stage(options), options, scores)
    if scores:
        print(f"scores: {', '.join(f'{score:.0f}' for score in scores)}")
    return 0


def _watch(stage: Stage, options: argparse.Namespace, scores: list[float]) -> None:
    """Show frames until nobody wants more; appends the score of each finished episode."""
    with _viewer(stage, in_terminal=options.terminal) as viewer:
        pace = Pace(FRAMES_PER_SECOND * options.speed)
        look = _WhileInTime(stage, pace)
        for viewed in play(stage.agent, stage.game, seed=options.seed, episodes=options.episodes, look=look):
            for screen in viewed.frames:
                if pace.wait():
                    viewer.show(screen, viewed.moment)
                if viewer.closed:
                    return
            if viewed.ends_episode:
                scores.append(viewed.moment.score)


def _viewer(stage: Stage, *, in_terminal: bool) -> Viewer:
    """A window where there is a screen, else the terminal; LabError where there is neither."""
    if not in_terminal:
        try:
            from rl_lab.viewing.window import NoScreenError, Window  # Linux distributions package tkinter apart
        except ImportError as error:
            warnings.warn(f"no window without tkinter, which this Python lacks ({error})", LabWarning, stacklevel=2)
        else:
            try:
                return Window(stage.panel(), f"rl-lab: {stage.caption[0]}")
            except NoScreenError:
                pass
    return Terminal(sys.stdout, stage.caption, stage.actions)


class _WhileInTime:
    """A new map of saliency for each step, but for those that come late: they keep the one before."""

    def __init__(self, stage: Stage, pace: Pace) -> None:
        self._look, self._pace = stage.look, pace
        self._last: NDArray[np.float32] | None = None

    def __call__(self, observations: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        if self._last is None or not self._pace.is_late:
            self._last = self._look(observations)
        return self._last
