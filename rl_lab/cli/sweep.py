"""Make many runs by one file: agents x games x seeds x the cells of a matrix, some at once, each with one thread.

SWEEP is a name from `rl-lab list sweeps` (such as smoke) or the path of a TOML file. First the plan is shown, with its
hours by a short measurement. Started again, a sweep does what is missing and nothing else: finished runs are left as
they are, interrupted and failed ones go on from their checkpoints. Ctrl-C stops it so that nothing is lost.

With --slurm a cluster makes the runs, in a folder that its machines share: `rl-lab sweep SWEEP --slurm partition=long
timeout_min=600 --jobs 20`. --dry-run prints what sbatch would be given. Runs that wait or run there already are not
submitted again.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rl_lab.cli.main import Parser
from rl_lab.cli.sweep_progress import SweepScreen
from rl_lab.cli.sweep_slurm import show_script, submit_sweep, without_queued
from rl_lab.cli.table import print_table
from rl_lab.errors import LabError, ResumableError
from rl_lab.sweep.claim import claimed, logs_folder
from rl_lab.sweep.cost import MOST_MEASURED, Cost, Measurement, cost, measure
from rl_lab.sweep.plan import PlannedRun, Sweep, expand, read_sweep, sweep_path
from rl_lab.sweep.pool import Pool, SweepOutcome
from rl_lab.sweep.slurm import SETTINGS, parameters, read_settings, require_slurm
from rl_lab.sweep.standing import Rest, rest_of
from rl_lab.system import available_memory_bytes, num_cores

_MOST_HOURS = 24
_MOST_RUNS = 100
"""Beyond these a sweep is started by mistake, or with --yes."""
_SLURM_HELP = (
    "submit the runs to Slurm as an array job, each queued again from its checkpoint at the time limit; with any of "
    f"{', '.join(SETTINGS)}, as submitit names them"
)


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab sweep`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sweep", metavar="SWEEP", help="a name from `rl-lab list sweeps`, or a TOML file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (runs)")
    parser.add_argument("--jobs", type=int, metavar="INTEGER", help="runs at once (one a core, as far as memory goes)")
    parser.add_argument("--retries", type=int, default=2, metavar="INTEGER", help="of a failed run (2); none by Slurm")
    parser.add_argument("--agent", action="append", default=[], metavar="FILE", help="your agent's .py file: it is run")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and stop")
    parser.add_argument("--no-measure", action="store_true", help="start at once: hours and memory are not known then")
    parser.add_argument("--yes", action="store_true", help=f"start more than {_MOST_RUNS} runs, or {_MOST_HOURS} hours")
    parser.add_argument("--slurm", nargs="*", action="extend", metavar="KEY=VALUE", help=_SLURM_HELP)
    options = parser.parse_all(arguments)
    if options.retries < 0 or (options.jobs is not None and options.jobs < 1):
        raise LabError(
            f"jobs are {options.jobs}, retries {options.retries}; allowed are jobs from 1 and retries from 0"
        )
    slurm = None if options.slurm is None else read_settings(options.slurm)
    if slurm is not None and not options.dry_run:
        require_slurm()
    sweep = read_sweep(sweep_path(options.sweep))
    plan = without_queued(options.runs, expand(sweep, options.runs, options.agent))
    rests = sorted(rest_of(plan), key=lambda rest: -rest.steps_left)
    _print_plan(sweep, plan, rests, options.runs)
    if not rests:
        return 0
    jobs = min(options.jobs or (num_cores() if slurm is None else len(rests)), len(rests))
    measured: Mapping[str, Measurement] = {}
    length = f"{len(rests):,} runs of unknown length"
    is_long = len(rests) > _MOST_RUNS
    if not options.no_measure:
        measured = measure([rest.run for rest in rests])
        needed = cost(rests, measured, options.jobs, is_elsewhere=slurm is not None)
        rests, jobs = list(needed.rests), needed.jobs
        _print_cost(needed, measured, options.runs, is_here=slurm is None)
        length = f"{len(rests):,} runs, {needed.hours:,.0f} hours with {jobs} at once"
        is_long = is_long or needed.hours > _MOST_HOURS
    runs = [rest.run for rest in rests]
    asked = None if slurm is None else parameters(slurm, f"rl-lab-{sweep.name}", runs, measured, jobs)
    if options.dry_run:
        return 0 if asked is None else show_script(options.runs, sweep.name, runs, asked)
    if is_long and not options.yes:
        raise LabError(f"{length}: give --yes to start them, or a smaller sweep")
    if asked is not None:
        return submit_sweep(options.runs, (sweep.name, options.sweep), runs, asked)
    again = shlex.join(["rl-lab", "sweep", *arguments])
    try:
        with claimed(options.runs, sweep.name, plan), SweepScreen(sys.stdout) as shown:
            rest_of(plan)  # a run may have begun while this one measured
            logs = logs_folder(options.runs, sweep.name)
            outcome = Pool(runs, jobs, logs, shown, options.retries).run()
    except BrokenPipeError:  # the reader of our output has left
        raise
    except OSError as error:
        place, reason = error.filename or options.runs, error.strerror or error
        raise ResumableError(f"{place}: {reason}; see to the disk, then go on with {again}") from error
    return _print_outcome(outcome, len(plan), len(rests), again)


def _print_plan(sweep: Sweep, plan: Sequence[PlannedRun], rests: Sequence[Rest], runs: Path) -> None:
    """How many runs, of what, and what there is of them."""
    experiments = {run.config.name for run in plan}
    games = {run.config.game for run in plan}
    started = sum(rest.run.directory.exists() for rest in rests)
    print(
        f"sweep {sweep.name}: {len(plan):,} runs in {runs} ({len(experiments):,} experiments x {len(games)} games x "
        f"{len(sweep.seeds):,} seeds): {len(plan) - len(rests):,} finished, {started:,} to go on with, "
        f"{len(rests) - started:,} to start",
        flush=True,
    )


def _print_cost(needed: Cost, measured: Mapping[str, Measurement], runs: Path, *, is_here: bool) -> None:
    """Hours, memory and disk, and what they rest on."""
    shown = list(measured.items())[:MOST_MEASURED]
    others = (
        f"; the other {len(measured) - len(shown)} are taken to be as the worst" if len(measured) > len(shown) else ""
    )
    print(f"measured now, one at a time, on one thread{others}:")
    rows = [(name, f"{one.steps_per_second:,.0f}", _gigabytes(one.memory_bytes)) for name, one in shown]
    print_table(("experiment", "steps/s", "memory"), rows)
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    print(
        f"time:   {needed.hours:,.2f} hours of training, {needed.jobs} at once ({needed.core_hours:,.2f} one by one); "
        f"not in it: checkpoints and {needed.evaluations:,} evaluations, {needed.episodes:,} episodes in all\n"
        f"memory: {_gigabytes(needed.memory_bytes)} for the largest {needed.jobs} with full replays"
        f"{f', {_gigabytes(available_memory_bytes())} free' if is_here else ''}\n"
        f"disk:   {_gigabytes(needed.disk_bytes)}, and replays, {_gigabytes(needed.replay_bytes)} in memory; "
        f"{_gigabytes(shutil.disk_usage(place).free)} free",
        flush=True,
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _print_outcome(outcome: SweepOutcome, planned: int, left: int, again: str) -> int:
    """What became of the runs, what failed and why, and the command that goes on; the exit status."""
    finished = planned - left + outcome.finished
    print(f"{finished:,} of {planned:,} runs are finished")
    for failure in outcome.failures:
        print(f"failed:     {failure.run.directory}: {failure.reason} (log: {failure.log})")
    if outcome.stop_signal or outcome.failures:
        print(f"go on:      {again}")
    if outcome.stop_signal:
        return ResumableError.exit_status
    return 1 if outcome.failures else 0
