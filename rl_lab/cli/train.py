"""Train an agent on a game: iterations of training, evaluation and checkpoint, recorded in a run directory.

CONFIG is a name from `rl-lab list configs` (such as dqn/quick, the default) or the path of a TOML file. Every field of
the experiment, its protocol and its agent is a flag; --without turns whole parts of the agent off.

A run that was stopped or killed goes on with `rl-lab train --resume RUN`, as if nothing had happened; a finished one
with a larger budget (--total-steps).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rl_lab.agent import keeps_state
from rl_lab.atari import resolve_game
from rl_lab.cli.config_flags import add_flags, apply_flags
from rl_lab.cli.explain import explain
from rl_lab.cli.main import Parser
from rl_lab.cli.progress import evaluation_line, reporter
from rl_lab.cli.supervise import add_supervision, goes_on, supervise, without_supervision
from rl_lab.config import value_text
from rl_lab.errors import LabError, ResumableError
from rl_lab.experiment import DEFAULT_CONFIG, DEFAULT_RUNS, WITHOUT_FLAG, ExperimentConfig, config_path, load_experiment
from rl_lab.run import run_directory
from rl_lab.switches import Value
from rl_lab.training import Conduct, Outcome, resume_experiment, run_experiment

_AGENT_HELP = "another agent, with its defaults: a name from `rl-lab list agents`, or the path of your own .py file"
_RESUME_HELP = "go on with a run from its last checkpoint; of the experiment only --total-steps can change"
_WITHOUT_HELP = "turn off parts of the agent, as an experiment of its own: names from `rl-lab list switches`"
_PROTOCOL_HELP = "another protocol: a name from `rl-lab list protocols`"


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab train`."""
    if goes_on(arguments):
        return _resume(parser, arguments)
    given = parse(parser, arguments)
    config, options = given.config, given.options
    notes = [
        f"without {name}: " + ", ".join(f"{field} = {value_text(value)}" for field, value in changes.items())
        for name, changes in given.turned_off.items()
    ]
    if options.dry_run:
        print(*(f"# {note}\n" for note in notes), config.to_toml(), sep="", end="")
        return 0
    if options.explain:
        print(*explain(config, given.path, given.plain, given.turned_off, given.flags), sep="\n")
        return 0
    if options.supervise:
        own_agent = ["--agent", config.agent.name] if config.agent.name.endswith(".py") else []
        until = [] if options.until_steps is None else ["--until-steps", str(options.until_steps)]
        flags = ["--checkpoint-minutes", str(options.checkpoint_minutes), *until, *own_agent]
        directory = run_directory(options.runs, config)
        return supervise(
            without_supervision(arguments),
            directory,
            options.restarts,
            resume_flags=flags,
            keeps_state=keeps_state(config.agent.name),
        )
    outcome = run_experiment(config, options.runs, overwrite=options.overwrite, conduct=_conduct(options, notes))
    return _print_outcome(outcome, options.runs)


def _resume(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab train --resume`: of the experiment only the budget can change."""
    add_resume_flags(parser)
    allowed = [flag for action in parser._actions for flag in action.option_strings]
    for argument in arguments:
        if argument.startswith("--") and argument.partition("=")[0] not in allowed:
            raise LabError(
                f"{argument} cannot be given with --resume: a run goes on as it began (allowed: {', '.join(allowed)})"
            )
    options = parser.parse_all(arguments)
    if options.supervise:
        return supervise(without_supervision(arguments), options.resume, options.restarts)
    outcome = resume_experiment(
        options.resume, total_steps=options.total_steps, agent_file=options.agent, conduct=_conduct(options)
    )
    return _print_outcome(outcome, outcome.run)


def add_resume_flags(parser: Parser) -> None:
    """All that may be given with --resume."""
    parser.add_argument("--resume", type=Path, required=True, metavar="RUN", help=_RESUME_HELP)
    parser.add_argument("--total-steps", type=int, metavar="INTEGER", help="another budget, in agent steps")
    parser.add_argument("--agent", metavar="FILE", help="your agent's .py file, if it is your own: it will be run")
    _add_conduct(parser)


def _add_conduct(parser: Parser) -> None:
    """Flags that results do not depend on."""
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5,
        metavar="NUMBER",
        help="between checkpoints of an iteration (5)",
    )
    parser.add_argument(
        "--until-steps",
        type=int,
        metavar="INTEGER",
        help="stop at the first iteration's end that has so many agent steps; --resume goes on",
    )
    add_supervision(parser)


def _conduct(options: argparse.Namespace, notes: Sequence[str] = ()) -> Conduct:
    if not options.checkpoint_minutes > 0:
        raise LabError(f"checkpoint-minutes is {options.checkpoint_minutes}; allowed is anything above 0")
    if options.until_steps is not None and options.until_steps < 1:
        raise LabError(f"until-steps are {options.until_steps}; allowed is 1 or more")
    return Conduct(
        reporter=reporter(sys.stdout, notes),
        checkpoint_seconds=60 * options.checkpoint_minutes,
        until_steps=options.until_steps,
    )


class Given(NamedTuple):
    """What a command line describes."""

    config: ExperimentConfig
    options: argparse.Namespace
    """The command's own."""
    path: Path
    """The file that CONFIG names."""
    plain: ExperimentConfig
    """As the file has it, before --without and the flags."""
    turned_off: Mapping[str, Mapping[str, Value]]
    """By --without: what each switch has changed."""
    flags: Collection[str]
    """Fields, such as agent.n_step, that have a flag."""


def parse(parser: Parser, arguments: Sequence[str], load: Callable[..., ExperimentConfig] = load_experiment) -> Given:
    """All that is to be known before training; `load` reads the config."""
    # Which flags there are depends on the agent, and the agent on the config: so these are read first.
    config_name = arguments[0] if arguments and not arguments[0].startswith("-") else DEFAULT_CONFIG
    chooser = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    # A flag whose value is missing is the second parser's to refuse, or to complete.
    for one, nargs in ((chooser, "?"), (parser, None)):
        one.add_argument("--agent", "--agent.name", nargs=nargs, metavar="NAME", help=_AGENT_HELP)
        one.add_argument("--protocol", "--protocol.name", nargs=nargs, metavar="NAME", help=_PROTOCOL_HELP)
    chosen, _ = chooser.parse_known_args(arguments)
    path = config_path(config_name)
    default = load(path, agent=chosen.agent, protocol=chosen.protocol)

    parser.add_argument("config", nargs="?", metavar="CONFIG", help=f"comes first (default: {DEFAULT_CONFIG})")
    parser.add_argument(
        "--runs", "--runs-dir", type=Path, default=DEFAULT_RUNS, metavar="FOLDER", help="where runs are kept (runs)"
    )
    parser.add_argument("--resume", type=Path, metavar="RUN", help=_RESUME_HELP)
    parser.add_argument("--overwrite", action="store_true", help="delete the run directory if it exists")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved experiment as TOML, and stop")
    parser.add_argument(
        "--explain", action="store_true", help="print where each number of the experiment comes from, and stop"
    )
    without_flag = parser.add_argument(
        "--without", nargs="+", action="extend", default=[], metavar="SWITCH", help=_WITHOUT_HELP
    )
    on = [switch.name for switch in default.agent.switches_on]
    without_flag.completer = lambda **_: on  # type: ignore[attr-defined]  # argcomplete's
    _add_conduct(parser)
    add_flags(parser, default)
    add_flags(parser, default.protocol, prefix="protocol.", skip=("protocol.name", *WITHOUT_FLAG))
    add_flags(parser, default.agent, prefix="agent.", skip=("agent.name",))
    options = parser.parse_all(arguments)
    if options.config not in (None, config_name):
        raise LabError(f"unexpected {options.config!r}; CONFIG comes first: `rl-lab train CONFIG --seed 1 ...`")
    if options.game is not None:
        options.game = resolve_game(options.game)
    flags = _given_fields(default, options)
    turned_off = default.agent.turn_off(options.without)
    for changes in turned_off.values():
        for field, value in changes.items():
            if f"agent.{field}" not in flags:
                setattr(options, f"agent.{field}", value)
    if turned_off and options.name is None:
        options.name = "-".join((default.name, "without", *turned_off))
    protocol = apply_flags(default.protocol, options, prefix="protocol.")
    agent = apply_flags(default.agent, options, prefix="agent.")
    for switch in agent.switches_on:
        if switch.name in turned_off:
            raise LabError(f"--without {switch.name} and a flag that turns it on again exclude each other")
    # Checked once, when all values are in place: a budget and its parts may only fit together.
    options.protocol, options.agent = protocol, agent
    return Given(apply_flags(default, options), options, path, default, turned_off, flags)


def _given_fields(config: ExperimentConfig, options: argparse.Namespace) -> set[str]:
    """Fields of the experiment, such as agent.n_step, that the options have a value for."""
    given = {key for key, value in vars(options).items() if value is not None}
    # The flags --agent and --protocol choose by name.
    return config.values().keys() & {f"{key}.name" if key in ("agent", "protocol") else key for key in given}


def _print_outcome(outcome: Outcome, watched: Path) -> int:
    """Where the records are, the score, and the commands to go on or look further; the exit status."""
    stateless = "the agent keeps no state to go on from"
    if outcome.stop_signal:
        again = f"{outcome.lost_steps:,} agent steps will be played again" if outcome.lost_steps else "nothing is lost"
        left = again if outcome.keeps_state else stateless
        print(f"stopped; the last checkpoint is at {outcome.steps:,} agent steps: {left}")
    elif outcome.left_steps:
        left = "" if outcome.keeps_state else f", and {stateless}"
        print(f"stopped at {outcome.steps:,} agent steps, as asked; {outcome.left_steps:,} are left{left}")
    if outcome.stop_signal or outcome.left_steps:
        print(f"{'go on:' if outcome.keeps_state else 'start anew:':<11} {outcome.resume_command}")
    if outcome.evaluation is not None:
        print(f"{outcome.run}: {evaluation_line(outcome.evaluation)}")
        print(f"watch it:   rl-lab tensorboard {shlex.quote(str(watched))}")
        print(f"play more:  {outcome.evaluate_command}")
    return ResumableError.exit_status if outcome.stop_signal else 0
