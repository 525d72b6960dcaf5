"""`rl-lab tensorboard`: serve the runs, with published agents as lines beside them, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import tempfile
from pathlib import Path

_NEW_GAMES_SECONDS = 5  # as often as TensorBoard looks for new data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUNS",
        nargs="?",
        type=Path,
        default=Path("runs"),
        help="the folder that holds <Game>/<experiment>/seed-<n>/ (default: runs)",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        action="append",
        default=[],
        help="a published agent to draw as a constant line in each game, such as dqn_nature_2015; may be repeated",
    )
    parser.add_argument("--port", metavar="N", type=int, help="the port (default: the first free one from 6006)")
    parser.add_argument(
        "--host",
        default="localhost",
        help="the address to listen at; 0.0.0.0 lets other machines in (default: localhost)",
    )


def main(arguments: argparse.Namespace) -> int:
    # Here, since torch takes seconds to import and `rl-lab --help` has none.
    from rl_lab.scores import reference
    from rl_lab.tensorboard import Server, link_runs, planned_frames, reference_runs

    # Service managers stop with SIGTERM, and a script's background jobs start with SIGINT ignored: both are Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    frames = planned_frames(arguments.runs)
    try:
        with tempfile.TemporaryDirectory(prefix="rl-lab-tensorboard-") as folder:
            logdir = Path(folder)
            reference_runs(logdir / "reference", arguments.reference, frames)
            link_runs(arguments.runs, logdir)
            for name in arguments.reference:
                print(f"{name}: {reference(name).description}")  # without its protocol, a line says little
            if arguments.reference:
                print("A reference that is far above the curves shows without 'Ignore outliers in chart scaling'.")
            with Server(logdir, host=arguments.host, port=arguments.port) as server:
                address = server.address
                print(f"TensorBoard at {address} (by game: {address}#custom_scalars) - Ctrl-C stops it", flush=True)
                while True:
                    server.wait(_NEW_GAMES_SECONDS)
                    link_runs(arguments.runs, logdir)
    except KeyboardInterrupt:
        return 0
