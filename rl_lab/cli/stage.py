"""What `watch` and `video` share: a saved agent, a game in colour for it, and what is shown beside."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_lab.agent import Agent
from rl_lab.atari import ColourGame
from rl_lab.cli.saved import add_saved, load_saved
from rl_lab.errors import LabError
from rl_lab.evaluation import evaluation_seeds
from rl_lab.system import use_machine
from rl_lab.viewing import Panel, Saliency


@dataclass(frozen=True)
class Stage:
    """All that a play needs."""

    agent: Agent
    game: ColourGame
    caption: tuple[str, ...]
    """The game, the agent and the protocol."""
    look: Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]
    """The saliency for observations [1, 4, 84, 84]; None where it was not asked for."""

    @property
    def actions(self) -> tuple[str, ...]:
        """Their names."""
        return self.game.env.actions

    def panel(self) -> Panel:
        """Draws its pictures."""
        title, *subtitles = self.caption
        return Panel(title, subtitles, self.actions)


def add_stage(parser: argparse.ArgumentParser) -> None:
    """The arguments of both commands."""
    add_saved(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="INTEGER", help="of the games, as in evaluate (0)")
    parser.add_argument(
        "--saliency", action="store_true", help="light up where the agent looks: what changes its values when blurred"
    )


def check_stage(options: argparse.Namespace) -> None:
    """LabError for numbers that are not allowed; before anything is loaded."""
    if options.episodes is not None and options.episodes < 1:
        raise LabError(f"episodes are {options.episodes}; allowed is 1 or more")
    if options.seed < 0:
        raise LabError(f"the seed is {options.seed}; allowed is 0 or more")


def set_stage(options: argparse.Namespace) -> Stage:
    """Load the agent; LabError for what cannot be played or shown."""
    device, _ = use_machine(options.device, options.threads)
    loaded = load_saved(options, device)
    look = Saliency(loaded.agent.action_values) if options.saliency else _nothing
    game = ColourGame(loaded.game, loaded.protocol, evaluation_seeds(options.seed))
    return Stage(loaded.agent, game, (loaded.game, loaded.name, f"protocol {loaded.protocol.label}"), look)


def _nothing(observations: NDArray[np.uint8]) -> None:
    return None
