"""Record full games of a saved agent in colour, beside them score, action and the values of all actions.

SAVED is a run (its newest checkpoint), one checkpoint, or a .zip of stable-baselines3 (then --game is needed).
The play is the evaluator's: the protocol's epsilon, raw scores, and with one episode the very game that `rl-lab
evaluate --episodes 1` scores with the same seed. The video shows each frame of the emulator, 60 a second, in real time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rl_lab.atari import FRAMES_PER_SECOND
from rl_lab.cli.main import Parser
from rl_lab.cli.stage import Stage, add_stage, check_stage, set_stage
from rl_lab.errors import LabError
from rl_lab.system import end_by_keyboard_interrupt
from rl_lab.viewing import play
from rl_lab.viewing.video import ENCODERS, VideoFile, check_output


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab video`."""
    add_stage(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="VIDEO", help=f"file to write: {', '.join(ENCODERS)}"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--episodes", type=int, default=1, metavar="INTEGER", help="full games, one after another (1)")
    parser.add_argument("--max-seconds", type=float, metavar="NUMBER", help="of video, at most (default: no limit)")
    options = parser.parse_all(arguments)
    check_stage(options)
    if options.max_seconds is not None and not options.max_seconds > 0:
        raise LabError(f"max-seconds is {options.max_seconds}; allowed is anything above 0")
    check_output(options.out, overwrite=options.overwrite)
    end_by_keyboard_interrupt()
    stage = set_stage(options)
    comment = f"{', '.join(stage.caption)}, evaluation seed {options.seed}"
    with VideoFile(options.out, frames_per_second=FRAMES_PER_SECOND, comment=comment) as video:
        scores = _record(stage, video, options)
    print(f"{options.out}: {video.frames / FRAMES_PER_SECOND:.1f} s, {scores}")
    return 0


def _record(stage: Stage, video: VideoFile, options: argparse.Namespace) -> str:
    """Play and write; the scores in words."""
    panel, scores = stage.panel(), list[str]()
    most_frames = float("inf") if options.max_seconds is None else FRAMES_PER_SECOND * options.max_seconds
    with Console(stderr=True).status("") as status:  # on a terminal only
        for viewed in play(stage.agent, stage.game, seed=options.seed, episodes=options.episodes, look=stage.look):
            moment = viewed.moment
            for screen in viewed.frames:
                video.write(panel.picture(screen, moment))
                if video.frames >= most_frames:
                    return ", ".join([*scores, f"cut in episode {moment.episode} at score {moment.score:.0f}"])
            seconds = video.frames / FRAMES_PER_SECOND
            status.update(f"episode {moment.episode}, score {moment.score:.0f}: {seconds:.0f} s")
            if viewed.ends_episode:
                scores.append(f"score {moment.score:.0f}")
    return ", ".join(scores)
