"""Tries one setting after another: rounds of training, each up to where the pruner looks, and what they tell.

All runs of a trial come to an iteration's end before its score is known, and all trials of a round before the next are
begun. So what is tried depends on scores alone, never on which run was quicker, or on how many run at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

from optuna.exceptions import StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rl_lab.errors import LabError, ResumableError
from rl_lab.records import read_evaluations, read_status
from rl_lab.scores import score_table
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.pool import Failure, LocalProcesses, Pool, Watcher
from rl_lab.sweep.standing import require_planned, rest_of
from rl_lab.tune.plan import Search
from rl_lab.tune.study import begin_trial, fail, in_state, round_left, set_round, tell


class TrialWatcher(Watcher, Protocol):
    """Shows a search to people."""

    def on_begin(self, trial: FrozenTrial) -> None:
        """A trial has its settings, or goes on."""

    def on_score(self, trial: FrozenTrial) -> None:
        """A trial has come to the end of an iteration, and maybe to its own."""


@dataclass(frozen=True)
class SearchLoop:
    """Begins trials, and brings each to its end."""

    search: Search
    study: Study
    watcher: TrialWatcher
    jobs: int
    """Runs at once."""
    retries: int
    """How often a run that failed goes on from its checkpoint."""

    def run(self) -> int:
        """Until the study has all its trials; the signal that stopped it before that, or 0.

        ResumableError where something outside stopped a run, or the study, such as a full disk.
        """
        try:
            return self._search()
        except StorageInternalError as error:
            raise ResumableError(f"the study in {self.search.folder} cannot be written: {error}") from error

    def _search(self) -> int:
        for trial in in_state(self.study, TrialState.RUNNING):
            self._fits(trial)
        # A round that was left is brought to its end first: what is drawn next depends on all of its scores.
        while goals := round_left(self.study) or self._next_round():
            if stop_signal := self._round(goals):
                return stop_signal
        return 0

    def _next_round(self) -> dict[int, int]:
        """How far each trial is to be trained now, with new trials in the place of those that have ended."""
        live = in_state(self.study, TrialState.RUNNING)
        while len(live) < self.search.tune.trials_at_once and self._num_trials < self.search.tune.trials:
            trial = begin_trial(self.study, self.search)
            live += [trial] if self._fits(trial) else []
        goals = {trial.number: self._goal(trial) for trial in live}
        set_round(self.study, goals)
        return goals

    @property
    def _num_trials(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _fits(self, trial: FrozenTrial) -> bool:
        """Whether the trial's settings fit together; otherwise it has failed. LabError for runs that cannot go on."""
        self.watcher.on_begin(trial)
        try:
            runs = self._runs(trial)
        except LabError as error:
            self.watcher.on_score(fail(self.study, trial, str(error)))
            return False
        rest_of(runs)  # of a new trial, too: its folder may have a run of an earlier study, with other settings
        return True

    def _round(self, goals: Mapping[int, int]) -> int:
        """Train each trial up to where the pruner looks at it, and tell the scores; the signal that stopped it."""
        live = [trial for trial in in_state(self.study, TrialState.RUNNING) if trial.number in goals]
        runs = {trial.number: self._runs(trial) for trial in live}
        waiting = [
            dataclasses.replace(run, until_steps=goals[number] * self.search.experiment.iteration_steps)
            for number, of_trial in runs.items()
            for run in of_trial
            if not _has_come_to(run, goals[number])
        ]
        outcome = Pool(
            waiting,
            LocalProcesses(waiting, self.jobs),
            self.search.folder / "logs",
            self.watcher,
            self.retries,
        ).run()
        # A run that failed while it was asked to stop had no second try.
        if outcome.stop_signal or (outcome.late_signal and outcome.failures):
            return outcome.stop_signal or outcome.late_signal
        failures = {failure.run.directory: failure for failure in outcome.failures}
        for failure in outcome.failures:
            if failure.is_resumable:
                raise ResumableError(f"{failure.run.directory} was {failure.reason}")
        left = dict(goals)
        for trial in live:
            settled = self._settle(trial, runs[trial.number], left.pop(trial.number), failures)
            set_round(self.study, left)
            self.watcher.on_score(settled)
        return outcome.late_signal

    def _settle(
        self, trial: FrozenTrial, runs: Sequence[PlannedRun], goal: int, failures: Mapping[Path, Failure]
    ) -> FrozenTrial:
        """Tell what a trial came to."""
        # One may have been made nevertheless: by a process that a tune left which was killed.
        failed = [failures[run.directory] for run in runs if run.directory in failures and not _has_come_to(run, goal)]
        if failed:
            first = failed[0]
            return fail(self.study, trial, f"{first.run.directory}: {first.reason} (log: {first.log})")
        return tell(self.study, trial, _mean_scores(runs, goal), self.search.iterations)

    def _goal(self, trial: FrozenTrial) -> int:
        """The iteration up to which the trial trains now."""
        decision = self.search.tune.pruning.next_decision(len(trial.intermediate_values))
        return self.search.iterations if decision is None else min(decision, self.search.iterations)

    def _runs(self, trial: FrozenTrial) -> list[PlannedRun]:
        return self.search.trial(trial.number, trial.params)


def _has_come_to(run: PlannedRun, iterations: int) -> bool:
    """Whether the planned run was left after so many iterations, or more."""
    try:
        require_planned(run)  # a process made another if the file of the agent was edited meanwhile
        status = read_status(run.directory)
    except LabError:  # not begun, or killed early: a resume sees to it
        return False
    return status.state in ("interrupted", "finished") and len(read_evaluations(run.directory)) >= iterations


def _mean_scores(runs: Sequence[PlannedRun], iterations: int) -> list[float]:
    """After each iteration the mean of the runs' human-normalized scores."""
    table = score_table()
    of_runs = []
    for run in runs:
        scores = [
            table.human_normalized(run.config.game, record["mean_score"])
            for record in read_evaluations(run.directory)[:iterations]
        ]
        assert len(scores) == iterations, (run.directory, scores)
        of_runs.append(scores)
    return [fmean(scores) for scores in zip(*of_runs, strict=True)]
