"""Serve the curves of all runs in TensorBoard, live, until Ctrl-C, with published agents beside them."""

from __future__ import annotations

import argparse
import ipaddress
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rl_lab.cli.main import Parser
from rl_lab.errors import LabError, LabWarning
from rl_lab.system import end_by_keyboard_interrupt
from rl_lab.tensorboard import (
    RECORDS,
    REFERENCES,
    Server,
    link_runs,
    overview,
    planned_frames,
    readable_runs,
    record_runs,
    reference_runs,
)

_NEW_RUNS_SECONDS = 5  # as often as TensorBoard looks for new data


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab tensorboard`."""
    add_arguments(parser)
    options = parser.parse_all(arguments)
    try:
        _serve(options)
    except KeyboardInterrupt:
        return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument(
        "runs", nargs="?", type=Path, default=Path("runs"), metavar="RUNS", help="where runs are kept (runs)"
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NAME",
        help="a published agent, as a line at its score (dqn_nature_2015), or its training curve (dopamine_dqn_cnn), "
        "in each game that is there at the start; may be repeated",
    )
    parser.add_argument("--port", type=int, metavar="N", help="port to listen at (default: the first free from 6006)")
    parser.add_argument(
        "--host", default="localhost", help="address to listen at (localhost); 0.0.0.0 lets other machines in"
    )


def _serve(options: argparse.Namespace) -> NoReturn:
    if not _is_loopback(options.host):
        warnings.warn(
            f"--host {options.host} shows the runs to all who reach this machine, without a password; "
            "localhost keeps them to its own users",
            LabWarning,
            stacklevel=1,
        )
    configs = readable_runs(options.runs)
    end_by_keyboard_interrupt()
    with tempfile.TemporaryDirectory(prefix="rl-lab-tensorboard-") as folder:
        logdir = Path(folder)
        references = reference_runs(logdir / REFERENCES, options.reference, planned_frames(configs.values()))
        overview(configs.values(), logdir)
        record_runs(configs, options.runs, logdir / RECORDS)
        link_runs(options.runs, logdir)
        for name, description in references.items():
            print(f"{name}: {description}")  # without its protocol, a line says little
        if references:
            print("A reference that is far above the curves shows without 'Ignore outliers in chart scaling'.")
        with Server(logdir, host=options.host, port=options.port) as server:
            address = server.address
            print(f"TensorBoard at {address} (by game: {address}#custom_scalars) - Ctrl-C stops it", flush=True)
            while True:
                server.wait(_NEW_RUNS_SECONDS)
                with suppress(LabError):  # of a folder whose last run was deleted
                    link_runs(options.runs, logdir)


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; no name but localhost is looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
