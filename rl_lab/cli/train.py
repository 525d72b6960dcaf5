"""Train an agent on a game: iterations of training, evaluation and checkpoint, recorded in a run directory.

CONFIG is a name from `rl-lab list configs` (such as dqn/quick, the default) or the path of a TOML file. Every field of
the experiment, its protocol and its agent is a flag.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rl_lab.atari import resolve_game
from rl_lab.cli.config_flags import add_flags, apply_flags
from rl_lab.cli.main import Parser
from rl_lab.cli.progress import evaluation_line, reporter
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig, config_path, load_experiment
from rl_lab.training import Outcome, run_experiment

DEFAULT_CONFIG = "dqn/quick"
_AGENT_HELP = "another agent, with its defaults: a name from `rl-lab list agents`, or the path of your own .py file"
_PROTOCOL_HELP = "another protocol: a name from `rl-lab list protocols`"


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab train`."""
    config, options = parse(parser, arguments)
    if options.dry_run:
        print(config.to_toml(), end="")
        return 0
    outcome = run_experiment(config, options.runs, overwrite=options.overwrite, reporter=reporter(sys.stdout))
    _print_outcome(outcome, config, options.runs)
    return 128 + outcome.stop_signal if outcome.stop_signal else 0


def parse(
    parser: Parser, arguments: Sequence[str], load: Callable[..., ExperimentConfig] = load_experiment
) -> tuple[ExperimentConfig, argparse.Namespace]:
    """The experiment that the command line describes, and the command's own options; `load` reads its config."""
    # Which flags there are depends on the agent, and the agent on the config: so these are read first.
    config_name = arguments[0] if arguments and not arguments[0].startswith("-") else DEFAULT_CONFIG
    chooser = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    # A flag whose value is missing is the second parser's to refuse, or to complete.
    for one, nargs in ((chooser, "?"), (parser, None)):
        one.add_argument("--agent", "--agent.name", nargs=nargs, metavar="NAME", help=_AGENT_HELP)
        one.add_argument("--protocol", "--protocol.name", nargs=nargs, metavar="NAME", help=_PROTOCOL_HELP)
    chosen, _ = chooser.parse_known_args(arguments)
    default = load(config_path(config_name), agent=chosen.agent, protocol=chosen.protocol)

    parser.add_argument("config", nargs="?", metavar="CONFIG", help=f"comes first (default: {DEFAULT_CONFIG})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (runs)")
    parser.add_argument("--overwrite", action="store_true", help="delete the run directory if it exists")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved experiment as TOML, and stop")
    add_flags(parser, default)
    add_flags(parser, default.protocol, prefix="protocol.", skip=("name", "evaluation_episodes"))
    add_flags(parser, default.agent, prefix="agent.", skip=("name",))
    options = parser.parse_all(arguments)
    if options.config not in (None, config_name):
        raise LabError(f"unexpected {options.config!r}; CONFIG comes first: `rl-lab train CONFIG --seed 1 ...`")
    if options.game is not None:
        options.game = resolve_game(options.game)
    protocol = apply_flags(default.protocol, options, prefix="protocol.")
    agent = apply_flags(default.agent, options, prefix="agent.")
    # Checked once, when all values are in place: a budget and its parts may only fit together.
    options.protocol, options.agent = protocol, agent
    return apply_flags(default, options), options


def _print_outcome(outcome: Outcome, config: ExperimentConfig, runs: Path) -> None:
    """Where the records are, the score, and the two commands to look further."""
    if outcome.stop_signal:
        print(f"stopped; {outcome.run} keeps what was recorded")
        if outcome.evaluation is None:
            print("no checkpoint: the first one is written after the first iteration")
        else:
            print(f"the last checkpoint is at {outcome.steps:,} of {config.total_steps:,} agent steps")
        print("start again:  the same command with --overwrite")
    if outcome.evaluation is not None:
        print(f"{outcome.run}: {evaluation_line(outcome.evaluation)}")
        print(f"watch it:   rl-lab tensorboard {runs}")
        print(f"play more:  rl-lab evaluate {outcome.run} --episodes 100")
