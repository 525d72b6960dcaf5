"""Make many runs by one file: agents x games x seeds x the cells of a matrix, some at once, each with one thread.

SWEEP is a name from `rl-lab list sweeps` (such as smoke) or the path of a TOML file. First the plan is shown, with its
hours by a short measurement. Started again, a sweep does what is missing and nothing else: finished runs are left as
they are, interrupted and failed ones go on from their checkpoints, or start anew if their agent keeps no state. Ctrl-C
stops it so that nothing is lost but that.

With --ray (`pip install 'rl-lab[ray]'`) the runs are made by a Ray cluster that this machine is part of: --ray auto,
or the address that `ray start` printed; --ray local is this machine alone. Nodes need the same rl-lab, and share no
folder: configs and agents' files are sent, records and checkpoints come back into --runs as they are made. A run has
its threads' cores, the memory that was measured, and a GPU to itself where its device is cuda, or auto in a cluster
with GPUs. It is made in TMPDIR of the node's `ray start`: a disk with room for replays. When a node dies, its runs go
on elsewhere.

With --slurm a cluster makes the runs, in a folder that its machines share: `rl-lab sweep SWEEP --slurm partition=long
timeout_min=600 --jobs 20`. --dry-run prints what sbatch would be given. Runs that wait or run there already are not
submitted again.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_lab.cli.main import Parser
from rl_lab.cli.sweep_progress import SweepScreen
from rl_lab.cli.sweep_slurm import show_script, submit_sweep, without_queued
from rl_lab.cli.table import print_table
from rl_lab.errors import LabError, ResumableError
from rl_lab.ray_environment import quiet_ray
from rl_lab.sweep.claim import claimed, logs_folder
from rl_lab.sweep.cost import MOST_MEASURED, Cost, Measurement, cost, measure
from rl_lab.sweep.plan import PlannedRun, Sweep, expand, read_sweep, sweep_path
from rl_lab.sweep.pool import Executor, LocalProcesses, Pool, SweepOutcome
from rl_lab.sweep.slurm import SETTINGS, parameters, read_settings, require_slurm
from rl_lab.sweep.standing import Rest, rest_of

MOST_HOURS = 24
MOST_RUNS = 100
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
    parser.add_argument("--ray", metavar="ADDRESS", help="make the runs on a Ray cluster: auto, HOST:PORT, or local")
    parser.add_argument("--slurm", nargs="*", action="extend", metavar="KEY=VALUE", help=_SLURM_HELP)
    parser.add_argument("--retries", type=int, default=2, metavar="INTEGER", help="of a failed run (2); none by Slurm")
    parser.add_argument("--agent", action="append", default=[], metavar="FILE", help="your agent's .py file: it is run")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and stop")
    parser.add_argument("--no-measure", action="store_true", help="start at once: hours and memory are not known then")
    parser.add_argument("--yes", action="store_true", help=f"start more than {MOST_RUNS} runs, or {MOST_HOURS} hours")
    options = parser.parse_all(arguments)
    require_counts(options)
    if options.ray is not None and options.slurm is not None:
        raise LabError("--ray and --slurm exclude each other: one of them makes the runs")
    slurm = None if options.slurm is None else read_settings(options.slurm)
    if slurm is not None and not options.dry_run:
        require_slurm()
    sweep = read_sweep(sweep_path(options.sweep))
    plan = without_queued(options.runs, expand(sweep, options.runs, options.agent))
    rests = sorted(rest_of(plan), key=lambda rest: -rest.steps_left)
    _print_plan(sweep, plan, rests, options.runs)
    if not rests:
        return 0
    if slurm is not None:
        return _submit(sweep, rests, slurm, options)
    with _executor([rest.run for rest in rests], options) as executor:
        measured = _measured(rests, options)
        if measured:
            executor.reserve(measured)
        jobs = executor.room([rest.run for rest in rests])
        rests = _weighed(rests, measured, jobs, executor.free_memory_bytes(), options)
        if options.dry_run:
            return 0
        again = shlex.join(["rl-lab", "sweep", *arguments])
        try:
            with claimed(options.runs, sweep.name, plan), SweepScreen(sys.stdout) as shown:
                rest_of(plan)  # a run may have begun while this one measured
                logs = logs_folder(options.runs, sweep.name)
                outcome = Pool([rest.run for rest in rests], executor, logs, shown, options.retries).run()
        except BrokenPipeError:  # the reader of our output has left
            raise
        except OSError as error:
            place, reason = error.filename or options.runs, error.strerror or error
            raise ResumableError(f"{place}: {reason}; see to the disk, then go on with {again}") from error
    return _print_outcome(outcome, len(plan), len(rests), again)


def _submit(sweep: Sweep, rests: Sequence[Rest], settings: Mapping[str, Any], options: argparse.Namespace) -> int:
    """What is left as a job of Slurm, or with --dry-run its script; the exit status."""
    measured = _measured(rests, options)
    jobs = min(options.jobs or len(rests), len(rests))
    runs = [rest.run for rest in _weighed(rests, measured, jobs, None, options)]
    asked = parameters(settings, f"rl-lab-{sweep.name}", runs, measured, jobs)
    if options.dry_run:
        return show_script(options.runs, sweep.name, runs, asked)
    own_agents = (word for file in options.agent for word in ("--agent", file))
    return submit_sweep(options.runs, (sweep.name, (options.sweep, *own_agents)), runs, asked)


@contextmanager
def _executor(runs: Sequence[PlannedRun], options: argparse.Namespace) -> Iterator[Executor]:
    """What makes the runs; LabError where that cannot be."""
    if options.ray is None:
        yield LocalProcesses(runs, options.jobs)
        return
    quiet_ray()
    try:
        from rl_lab.sweep.ray_cluster import joined
        from rl_lab.sweep.ray_pool import RayExecutor
    except ImportError as error:
        raise LabError("--ray needs Ray, which is not installed: pip install 'rl-lab[ray]'") from error
    with joined(options.ray):
        yield RayExecutor(runs, options.jobs)


def _measured(rests: Sequence[Rest], options: argparse.Namespace) -> Mapping[str, Measurement]:
    """By experiment; nothing with --no-measure."""
    return {} if options.no_measure else measure([rest.run for rest in rests])


def _weighed(
    rests: Sequence[Rest],
    measured: Mapping[str, Measurement],
    jobs: int,
    free_memory_bytes: int | None,
    options: argparse.Namespace,
) -> list[Rest]:
    """The runs in the order in which to make them, their cost shown; LabError for a long sweep without --yes."""
    length = f"{len(rests):,} runs of unknown length"
    is_long = len(rests) > MOST_RUNS
    if measured:
        needed = cost(rests, measured, jobs)
        rests = needed.rests
        print_cost(needed, measured, options.runs, free_memory_bytes)
        length = f"{len(rests):,} runs, {needed.hours:,.0f} hours with {jobs} at once"
        is_long = is_long or needed.hours > MOST_HOURS
    if is_long and not options.yes and not options.dry_run:
        raise LabError(f"{length}: give --yes to start them, or a smaller sweep")
    return list(rests)


def _print_plan(sweep: Sweep, plan: Sequence[PlannedRun], rests: Sequence[Rest], runs: Path) -> None:
    """How many runs, of what, and what there is of them."""
    experiments = {run.config.name for run in plan}
    games = {run.config.game for run in plan}
    started = sum(rest.run.can_go_on for rest in rests)
    print(
        f"sweep {sweep.name}: {len(plan):,} runs in {runs} ({len(experiments):,} experiments x {len(games)} games x "
        f"{len(sweep.seeds):,} seeds): {len(plan) - len(rests):,} finished, {started:,} to go on with, "
        f"{len(rests) - started:,} to start",
        flush=True,
    )


def require_counts(options: argparse.Namespace) -> None:
    """LabError unless --jobs and --retries are counts."""
    if options.retries < 0 or (options.jobs is not None and options.jobs < 1):
        raise LabError(
            f"jobs are {options.jobs}, retries {options.retries}; allowed are jobs from 1 and retries from 0"
        )


def print_cost(needed: Cost, measured: Mapping[str, Measurement], runs: Path, free_memory_bytes: int | None) -> None:
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
        f"{'' if free_memory_bytes is None else f', {_gigabytes(free_memory_bytes)} free'}\n"
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
