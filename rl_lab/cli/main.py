"""`rl-lab`: finds the command and turns errors into one line and an exit status.

A command is a module of this package with `main(parser, arguments)`. Only the chosen one is imported. It declares its
arguments, calls `parser.parse_all`, and does all else after that: so a shell can ask for its flags (see `completion`).
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

from rl_lab import __version__
from rl_lab.errors import LabError, LabWarning, did_you_mean, one_line

COMMANDS = {
    "train": "train an agent, with evaluations, TensorBoard curves and checkpoints",
    "sweep": "many runs by one file: agents x games x seeds x settings, some at once",
    "tune": "search for hyperparameters with Optuna, by one file: an agent, its games and ranges",
    "evaluate": "play full games with a saved agent and report its score",
    "watch": "watch a saved agent play, in a window or in the terminal",
    "video": "record a saved agent's play, with what it values and where it looks",
    "compare": "scores of runs side by side, with published ones on request",
    "tensorboard": "watch runs in TensorBoard, with published scores on request",
    "list": "games, suites, agents, switches, configs, sweeps, tunes, protocols, published references or runs",
    "bench": "measure this machine: our DQN's speed against stable-baselines3's",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as the user's mistake."""
        raise LabError(f"{message} (`{self.prog} --help` shows what is allowed)")

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; LabError for a flag that does not exist, with the nearest that does."""
        namespace, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown argument {unknown[0]!r}{did_you_mean(unknown[0].partition('=')[0], flags)}")
        return namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    try:
        if "_ARGCOMPLETE" in os.environ:
            from rl_lab.cli.completion import complete  # only for a shell that completes a line

            return complete()
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = run(list(sys.argv[1:] if arguments is None else arguments))
        print(end="", flush=True)  # at exit nothing could be said of a failure
        return status
    except LabError as error:
        print(f"rl-lab: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        _write_no_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not _is_of_output(error):
            raise
        print(f"rl-lab: the output cannot be written: {error.strerror}; see to where it goes", file=sys.stderr)
        _write_no_more()
        return LabError.exit_status


def _is_of_output(error: OSError) -> bool:
    """Whether it is of stdout: then what is left to be written fails again."""
    try:
        print(end="", flush=True)
    except OSError as again:
        return error.errno == again.errno
    return False


def _write_no_more() -> None:
    """Leave stdout, of which Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """The lab's own in one line, without the place in the code."""
    if category is LabWarning:
        text = f"rl-lab: {one_line(str(message))}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def run(arguments: Sequence[str], parser_type: type[Parser] = Parser) -> int:
    """Run a command; LabError for the user's mistakes."""
    overview = parser_type(
        prog="rl-lab",
        description="A reinforcement-learning laboratory for Atari.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:12} {help_text}" for name, help_text in COMMANDS.items()),
        allow_abbrev=False,
    )
    overview.add_argument("--version", action="version", version=f"rl-lab {__version__}")
    overview.add_argument("command", help="one of the commands below; `rl-lab COMMAND --help` explains it")
    if not arguments:
        overview.parse_all(["--help"])  # ends the process
    command = overview.parse_args(arguments[:1]).command
    if command not in COMMANDS:
        raise LabError(f"no command {command!r}{did_you_mean(command, COMMANDS)} (allowed: {', '.join(COMMANDS)})")
    module = importlib.import_module(f"rl_lab.cli.{command}")
    parser = parser_type(prog=f"rl-lab {command}", description=module.__doc__, allow_abbrev=False)
    status: int = module.main(parser, arguments[1:])
    return status
