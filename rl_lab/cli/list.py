"""List games, suites, agents, their switches, configs, sweeps, tunes, protocols, published references, or runs.

Runs of tunes are no results: --runs with the folder of one lists them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rl_lab.cli.main import Parser
from rl_lab.cli.table import print_table
from rl_lab.columns import aligned, wrapped
from rl_lab.errors import LabError

if TYPE_CHECKING:
    from rl_lab.records import Status
    from rl_lab.scores import Reference
    from rl_lab.switches import Switch


_WATCH_SECONDS = 2.0


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab list`."""
    kinds = {
        "games": _games,
        "suites": _suites,
        "agents": _agents,
        "switches": _switches,
        "configs": _configs,
        "sweeps": _sweeps,
        "tunes": _tunes,
        "protocols": _protocols,
        "references": _references,
        "runs": _runs,
    }
    parser.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (runs)")
    parser.add_argument(
        "--agent", metavar="NAME", help="only its switches: a name from `rl-lab list agents`, or the path of a .py file"
    )
    parser.add_argument("--watch", action="store_true", help="runs: look again every two seconds, until Ctrl-C")
    options = parser.parse_all(arguments)
    if not options.watch:
        print_table(*kinds[options.kind](options))
        return 0
    if options.kind != "runs" or not sys.stdout.isatty():
        raise LabError("--watch shows runs on a terminal; leave it out to list once")
    return _watch(options)


_Table = tuple[Sequence[str], Iterable[Sequence[str]]]


def _games(options: argparse.Namespace) -> _Table:
    from rl_lab.atari import all_games
    from rl_lab.scores import score_table

    table = score_table()
    rows = (
        (game, f"{table.random[game]:g}", f"{table.human[game]:g}")
        if game in table.human
        else (game, "-", "- (reported raw)")
        for game in all_games()
    )
    return ("game", f"random ({table.name})", f"human ({table.name})"), rows


def _watch(options: argparse.Namespace) -> int:
    """The list of runs, again and again; where not all fit on the screen, first those that run."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()

    def shown() -> Text:
        header, found = _runs(options)
        rows = list(found)
        if len(rows) < console.height:
            lines = aligned((header, *rows))
        else:
            fitting = sorted(rows, key=lambda row: not row[-1].startswith("running"))[: console.height - 2]
            lines = [*aligned((header, *fitting)), f"and {len(rows) - len(fitting)} more"]
        return Text("\n".join(lines), no_wrap=True)

    try:
        with Live(shown(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_SECONDS)
                live.update(shown(), refresh=True)
    except KeyboardInterrupt:
        return 0


def _suites(options: argparse.Namespace) -> _Table:
    from rl_lab.scores import suites

    rows = ((suite.name, str(len(suite.games)), suite.source, " ".join(suite.games)) for suite in suites().values())
    return ("suite", "games", "source", "which"), [line for row in rows for line in wrapped(row, (10, 5, 40, 59))]


def _agents(options: argparse.Namespace) -> _Table:
    from rl_lab.agent import agent_names, load_agent

    return ("agent", "what it is"), ((name, _first_line(load_agent(name))) for name in agent_names())


def _switches(options: argparse.Namespace) -> _Table:
    from rl_lab.agent import agent_names, load_agent
    from rl_lab.experiment import config_names, config_path, load_experiment

    names = agent_names() if options.agent is None else (options.agent,)
    configs = {name: load_experiment(config_path(name)).agent for name in config_names()}

    def cells(agent: str, switch: Switch) -> tuple[str, ...]:
        on = [name for name, config in configs.items() if config.name == agent and switch.is_on(config)]
        return switch.name, agent, switch.paper, ", ".join(switch.fields), ", ".join(on) or "-"

    rows = [cells(name, switch) for name in names for switch in load_agent(name).Config.switches]
    if not rows:
        raise LabError(f"{options.agent} has no switches; an agent declares them in its Config")
    header = ("switch", "agent", "paper", "fields", "on in")
    return header, [line for row in rows for line in wrapped(row, (17, 6, 26, 26, 36))]


def _configs(options: argparse.Namespace) -> _Table:
    from rl_lab.experiment import config_names, config_path, load_experiment

    def row(name: str) -> tuple[str, ...]:
        config = load_experiment(config_path(name))
        return name, config.agent.name, config.game, config.protocol.label, f"{config.total_steps:,}"

    return ("config", "agent", "game", "protocol", "agent steps"), map(row, config_names())


def _sweeps(options: argparse.Namespace) -> _Table:
    from rl_lab.sweep.plan import expand, read_sweep, sweep_names, sweep_path

    def row(name: str) -> tuple[str, ...]:
        sweep = read_sweep(sweep_path(name))
        return name, str(len(expand(sweep, options.runs))), ", ".join(sweep.agents), ", ".join(sweep.games)

    return ("sweep", "runs", "agents", "games"), map(row, sweep_names())


def _tunes(options: argparse.Namespace) -> _Table:
    from rl_lab.tune.plan import plan_search, read_tune, tune_names, tune_path

    def row(name: str) -> tuple[str, ...]:
        tune = read_tune(tune_path(name))
        return name, str(tune.trials), tune.agent, ", ".join(tune.games), ", ".join(plan_search(tune, Path()).ranges)

    return ("tune", "trials", "agent", "games", "what is tuned"), map(row, tune_names())


def _protocols(options: argparse.Namespace) -> _Table:
    from rl_lab.atari import PROTOCOLS

    fields = [field.name for field in dataclasses.fields(next(iter(PROTOCOLS.values()))) if field.name != "name"]
    rows = (
        (protocol.name, protocol.fingerprint, *(str(getattr(protocol, field)) for field in fields))
        for protocol in PROTOCOLS.values()
    )
    return ("protocol", "fingerprint", *fields), rows


def _references(options: argparse.Namespace) -> _Table:
    from rl_lab.scores import references

    def row(agent: Reference) -> tuple[str, ...]:
        more = "runs" if agent.runs else "curve" if agent.curve else "-"
        seeds, frames = ("?" if number is None else f"{number:,}" for number in (agent.seeds, agent.frames))
        return (
            agent.name,
            agent.kind,
            str(len(agent.scores)),
            seeds,
            frames,
            more,
            f"{agent.description}. Source: {agent.source}",
        )

    # Beside the mean of each game: the score of each run, or the training curve.
    header = ("reference", "kind", "games", "seeds", "frames", "also", "what it is")
    return header, map(row, references().values())


def _runs(options: argparse.Namespace) -> _Table:
    from rl_lab.records import find_runs, last_evaluation, read_status

    def row(directory: Path) -> tuple[str, ...]:
        try:
            status, evaluation = read_status(directory), last_evaluation(directory)
        except LabError as error:
            return str(directory), "-", "-", _one_line(f"unreadable: {error}")
        score = "no evaluation yet" if evaluation is None else f"{evaluation['mean_score']:z.1f}"
        return str(directory), f"{status.frames:,}", score, _state(status)

    # The state comes last: why a run failed may be long, and would push the columns after it away.
    return ("run", "frames", "last evaluation", "state"), map(row, find_runs(options.runs))


def _state(status: Status) -> str:
    """What became of a run, and why."""
    if status.state != "running":
        return _one_line(f"{status.state} ({status.reason})" if status.reason else status.state)
    match status.writer:
        case "alive":
            return "running"
        case "gone":
            return "stale (its process is gone)"
        case "of an earlier boot":
            return "stale (this machine was restarted)"
        case "on another machine":
            return _one_line(f"running on {status.host} (not this machine: cannot check)")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_line(agent: type) -> str:
    return (agent.__doc__ or "").strip().splitlines()[0]
