"""Search for hyperparameters with Optuna: settings of an agent are tried, and what is behind is given up early.

TUNE is a name from `rl-lab list tunes` (such as smoke) or the path of a TOML file: an agent, games, seeds, and ranges
of hyperparameters. What is sought is the best mean of human-normalized scores. The study is in runs/tunes/<name>, with
a report, and the best settings as an experiment. Its runs are no results: their seeds chose the settings.

Started again, a tune goes on: what is finished stays, what was training goes on from its checkpoint; with more --trials
it tries more. Ctrl-C stops it so that nothing is lost. --jobs changes how long it takes, not what is tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rl_lab.cli.main import Parser
from rl_lab.cli.sweep import MOST_HOURS, print_cost, require_counts
from rl_lab.cli.sweep_progress import SweepScreen
from rl_lab.cli.table import print_table
from rl_lab.config import value_text
from rl_lab.errors import LabError, ResumableError
from rl_lab.scores import DEFAULT_TABLE
from rl_lab.sweep.claim import held
from rl_lab.sweep.cost import Cost, Measurement, cost, jobs_that_fit, measure
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.pool import Failure
from rl_lab.sweep.standing import Rest
from rl_lab.system import available_memory_bytes, end_by_keyboard_interrupt, num_cores
from rl_lab.tune.plan import (
    IMPORTANCES,
    LEAST_FOR_IMPORTANCES,
    REASON,
    STATES,
    Search,
    plan_search,
    read_tune,
    tune_path,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from rl_lab.tune.report import Report


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab tune`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("tune", metavar="TUNE", help="a name from `rl-lab list tunes`, or a TOML file")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are kept (runs)")
    parser.add_argument("--trials", type=int, metavar="INTEGER", help="settings to try, in all (default: the file's)")
    parser.add_argument("--jobs", type=int, metavar="INTEGER", help="runs at once (one a core, as far as memory goes)")
    parser.add_argument("--retries", type=int, default=2, metavar="INTEGER", help="of a run that fails (2)")
    parser.add_argument("--agent", action="append", default=[], metavar="FILE", help="your agent's .py file: it is run")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and stop")
    parser.add_argument("--no-measure", action="store_true", help="start at once: hours and memory are not known then")
    parser.add_argument("--yes", action="store_true", help=f"start what may take more than {MOST_HOURS} hours")
    options = parser.parse_all(arguments)
    search = _search(options)
    try:
        from rl_lab.tune.report import write_report
        from rl_lab.tune.search import SearchLoop
        from rl_lab.tune.study import exists, open_study
    except ImportError as error:
        raise LabError(
            f"Optuna, which chooses the settings, cannot be imported ({error}); use pip install 'rl-lab[tune]'"
        ) from error
    jobs = _print_plan(search, open_study(search).get_trials() if exists(search) else [], options)
    if options.dry_run:
        return 0
    again = shlex.join(["rl-lab", "tune", *arguments])
    end_by_keyboard_interrupt()
    is_stopped = False
    try:
        with held(search.folder, f"the tune {search.tune.name} is running in {options.runs}"):
            study = open_study(search)
            with TrialScreen(sys.stdout, search) as shown:
                is_stopped = SearchLoop(search, study, shown, jobs, options.retries).run() != 0
            if not is_stopped:
                return _print_outcome(search, study.get_trials(), write_report(study, search))
    except KeyboardInterrupt:  # between two rounds
        pass
    except BrokenPipeError:  # the reader of our output has left
        raise
    except ResumableError as error:
        raise ResumableError(f"{error}; go on with {again}") from error
    except OSError as error:
        place, reason = error.filename or search.folder, error.strerror or error
        raise ResumableError(f"{place}: {reason}; see to the disk, then go on with {again}") from error
    lost = "nothing is lost" if search.base[0].keeps_state else "runs that had begun start anew"
    print(f"stopped; {lost}\ngo on:      {again}")
    return ResumableError.exit_status


def _search(options: argparse.Namespace) -> Search:
    """What the flags ask for; LabError for what cannot be searched."""
    require_counts(options)
    tune = read_tune(tune_path(options.tune))
    if options.trials is not None:
        tune = dataclasses.replace(tune, trials=options.trials)
    return plan_search(tune, options.runs, options.agent)


def _print_plan(search: Search, trials: Sequence[FrozenTrial], options: argparse.Namespace) -> int:
    """What is searched, what there is of it, and what it takes; the runs at once. LabError for too much of it."""
    tune, runs = search.tune, search.base
    states = Counter(STATES[trial.state.name] for trial in trials)
    states["to start"] = max(tune.trials - len(trials), 0)
    left = states["to start"] + states["to go on with"]
    games = len({run.config.game for run in runs})
    counts = ", ".join(f"{states[state]} {state}" for state in (*STATES.values(), "to start"))
    print(
        f"tune {tune.name}: {max(tune.trials, len(trials))} trials in {search.folder}, each of {len(runs)} runs of "
        f"{search.experiment.name} ({games} games x {len(tune.seeds)} seeds), {search.iterations} iterations: {counts}"
    )
    print_table(("tuned", "range"), [(key, str(values)) for key, values in search.ranges.items()])
    sys.stdout.flush()
    trials_at_once = min(left, tune.trials_at_once)
    if not left or options.no_measure:
        return max(min(options.jobs or num_cores(), trials_at_once * len(runs)), 1)
    measured = measure(runs)
    memory = [measured[run.config.name].memory_bytes for run in runs] * trials_at_once
    free = available_memory_bytes()
    needed = cost_of_trials(search, left, measured, jobs_that_fit(memory, options.jobs, free))
    print_cost(needed, measured, options.runs, free)
    name = search.experiment.name
    print(f"        by the settings of {name}: trials with others may take more, and pruned ones take less", flush=True)
    if needed.hours > MOST_HOURS and not (options.yes or options.dry_run):
        raise LabError(f"{left} trials, {needed.hours:,.0f} hours: give --yes to start them, or fewer trials")
    return needed.jobs


def cost_of_trials(search: Search, trials: int, measured: Mapping[str, Measurement], jobs: int) -> Cost:
    """Of so many trials with the settings that all have in common, none of them pruned."""
    of_trial = [Rest(run, 0) for run in search.base]
    at_once = min(trials, search.tune.trials_at_once)
    # A round waits for its last run, though a job be free: what follows depends on its score.
    hours = math.ceil(trials / at_once) * cost(of_trial * at_once, measured, jobs).hours
    return dataclasses.replace(cost(of_trial * trials, measured, jobs), hours=hours)


def _print_outcome(search: Search, trials: Sequence[FrozenTrial], report: Report) -> int:
    """What the trials came to, what failed and why, and the command that trains the best; the exit status."""
    states = Counter(STATES[trial.state.name] for trial in trials)
    counts = ", ".join(f"{states[state]} {state}" for state in ("finished", "pruned", "failed"))
    print(f"{len(trials)} trials: {counts}")
    for trial in trials:
        if trial.state.name == "FAIL":
            print(f"failed:     trial {trial.number}: {trial.user_attrs[REASON]}")
    print(f"report:     {', '.join(str(search.folder / name) for name in report.files)}")
    if IMPORTANCES not in report.files:
        need = f"{LEAST_FOR_IMPORTANCES} finished trials, not all of one score"
        print(f"            without importances, which need {need}")
    if report.best is None:
        print("best:       none, for no trial has finished")
        return 1
    seeds = ", ".join(map(str, report.seeds))
    print(
        f"best:       trial {report.best.number}, human-normalized {report.best.value:.3f}: {_words(report.best)}\n"
        f"            no result: seeds {seeds} chose it, so train others\n"
        f"train it:   {report.train_command}"
    )
    return 0


class TrialScreen(SweepScreen):
    """Lines for trials, and on a terminal a table of the runs that are being made below them."""

    def __init__(self, stream: TextIO, search: Search) -> None:
        super().__init__(stream)
        self._iterations = search.iterations

    def on_start(self, run: PlannedRun, *, is_resumed: bool) -> None:
        """Nothing: a run starts anew in each round."""

    def on_finish(self, run: PlannedRun) -> None:
        """Nothing: the trial's score is told when all its runs are there."""

    def on_failure(self, failure: Failure) -> None:
        """Nothing: it is told of the trial."""

    def on_begin(self, trial: FrozenTrial) -> None:
        """Its settings."""
        self.say(f"trial {trial.number}: {_words(trial)}")

    def on_score(self, trial: FrozenTrial) -> None:
        """Its score so far, and whether that was the end."""
        if trial.state.name == "FAIL":
            self.say(f"trial {trial.number}: failed: {trial.user_attrs[REASON]}")
            return
        iteration, score = max(trial.intermediate_values.items())
        end = "" if trial.state.name == "RUNNING" else f"{STATES[trial.state.name]}, "
        self.say(
            f"trial {trial.number}: {end}iteration {iteration} of {self._iterations}, human-normalized {score:.3f} "
            f"({DEFAULT_TABLE})"
        )


def _words(trial: FrozenTrial) -> str:
    """Its settings; trials.csv has all digits."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value_text(value)}"
        for key, value in trial.params.items()
    )
