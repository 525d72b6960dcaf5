"""Measure this machine, in one of these suites:

  train       our DQN against stable-baselines3's: agent steps a second at the same work
  update      one update against its kernels' best times, the loop against updates alone, switches against none
  act         greedy actions for one state and for many
  env         the emulators alone
  replay      sampling from a million transitions, raw, compressed and by priority
  memory      what a million compressed transitions take, game by game
  checkpoint  saving and loading a run with a million transitions
  scale       the cost of a step by replay size, parallel games and concurrent runs
  apex        distributed acting by number of actors, and what it sends (needs Ray: pip install 'rl-lab[ray]')

What is compared takes turns in one run: ratios can be trusted, rates hold for this machine in this hour.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence

from rl_lab.benchmarks.measuring import Report, Settings
from rl_lab.cli.main import Parser
from rl_lab.cli.table import print_table
from rl_lab.errors import LabError
from rl_lab.provenance import processor_name
from rl_lab.system import use_machine

SUITES = ("train", "update", "act", "env", "replay", "memory", "checkpoint", "scale", "apex")
_STEPS_MULTIPLE = 64
_LEAST_STEPS = 192
_LEAST_TRANSITIONS = 10_000


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab bench`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("suite", nargs="?", choices=SUITES, default="train", metavar="SUITE", help="see above (train)")
    parser.add_argument("--steps", type=int, default=960, metavar="INTEGER", help="agent steps in a turn (960)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="INTEGER", help="turns of each (5)")
    parser.add_argument(
        "--transitions", type=int, default=1_000_000, metavar="INTEGER", help="of the large replays (1000000)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="INTEGER", help="0 is one for each core")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_all(arguments)
    _check(options)
    device, threads = use_machine(options.device, options.threads)
    settings = Settings(options.steps, options.repetitions, options.transitions, device, threads)
    report: Report = importlib.import_module(f"rl_lab.benchmarks.{options.suite}").run(settings)

    machine = f"{processor_name()}, {threads} threads, {device}"
    if options.json:
        rows = {row.name: {"unit": row.unit, "values": list(row.values)} for row in report.rows}
        print(
            json.dumps(
                {"suite": options.suite, "machine": machine, "turn": report.turn, "rows": rows, "notes": report.notes},
                indent=2,
            )
        )
        return 0
    print(f"{options.suite}: {machine}; {report.turn}")
    for note in report.notes:
        print(note)
    print_table(
        ("", "unit", "median", "least", "most"),
        [(row.name, row.unit, *map(_number, (row.median, min(row.values), max(row.values)))) for row in report.rows],
    )
    return 0


def _check(options: argparse.Namespace) -> None:
    """LabError for what cannot be measured."""
    if options.steps < _LEAST_STEPS or options.steps % _STEPS_MULTIPLE or options.repetitions < 1:
        raise LabError(
            f"{options.steps} steps, {options.repetitions} repetitions; "
            f"allowed are multiples of {_STEPS_MULTIPLE} from {_LEAST_STEPS} on, and 1 or more"
        )
    if options.transitions < _LEAST_TRANSITIONS:
        raise LabError(f"{options.transitions} transitions; allowed are {_LEAST_TRANSITIONS} or more")


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
