"""The study of a search, kept by Optuna in SQLite: what was tried, what it came to, and what is tried next.

What the sampler draws for trial n depends on its seed, on n and on the trials before alone: no generator's state is
lost when the process ends. A trial is written with all its settings in one transaction, or not at all.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import URL
from sqlalchemy.exc import DatabaseError

from rl_lab.errors import LabError
from rl_lab.records import TUNE_MARK
from rl_lab.seeding import integer_seed
from rl_lab.tune.plan import REASON, Search
from rl_lab.tune.pruning import HalvingPruning, MedianPruning, NoPruning, Pruning
from rl_lab.tune.ranges import Choices, Interval, Range

_DATABASE = "study.db"
_DEFINITION = "definition"
_ROUND = "round"
_REFUSED = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)
"""SQLite's errors of the disk, or of another process that writes: the study itself may be whole."""


def exists(search: Search) -> bool:
    """Whether the search has begun; LabError where that cannot be seen."""
    path = search.folder / _DATABASE
    try:
        return path.exists()
    except OSError as error:
        raise LabError(f"cannot look for {path}: {error.strerror}; use another --runs") from error


def open_study(search: Search) -> Study:
    """The study in the search's folder, which is there; a new one where there is none.

    LabError where the folder has another search's, or what is none, and where it cannot be written.
    """
    path = search.folder / _DATABASE
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the command says what happens
    if not path.exists():
        mark = {"tune": search.tune.name, "seeds": search.tune.seeds}
        (search.folder / TUNE_MARK).write_text(json.dumps(mark))
    try:
        study = optuna.create_study(
            storage=RDBStorage(URL.create("sqlite", database=str(path)).render_as_string()),
            study_name=search.tune.name,
            direction="maximize",
            pruner=_pruner(search.tune.pruning),
            load_if_exists=True,
        )
    except (DatabaseError, StorageInternalError, RuntimeError) as error:  # RuntimeError: made by another Optuna
        if refusal := _refusal(error):
            raise LabError(f"{path} cannot be written: {refusal}; see to it, or use another --runs") from error
        reason = str(error).splitlines()[0]
        raise LabError(
            f"{path} is no study that Optuna {optuna.__version__} can open: {reason}; move {search.folder} away, or "
            "use another --runs"
        ) from error
    now = json.loads(json.dumps(search.definition()))
    if _DEFINITION not in study.user_attrs:  # new, or its process was killed here
        study.set_user_attr(_DEFINITION, now)
    _require_same(study.user_attrs[_DEFINITION], now, search.folder)
    return study


def begin_trial(study: Study, search: Search) -> FrozenTrial:
    """The next trial, with settings that the sampler has drawn."""
    before = study.get_trials()
    distributions = {key: _distribution(values) for key, values in search.ranges.items()}
    seed = integer_seed(search.tune.sampler_seed, "sampler", len(before))
    # Asked of a copy in memory: the study itself would write the settings one by one.
    copy = optuna.create_study(
        direction="maximize", sampler=TPESampler(n_startup_trials=search.tune.random_trials, seed=seed)
    )
    copy.add_trials(before)
    drawn = copy.ask(distributions).params
    study.add_trial(create_trial(state=TrialState.RUNNING, params=drawn, distributions=distributions))
    return study.get_trials()[-1]


def tell(study: Study, trial: FrozenTrial, scores: Sequence[float], iterations: int) -> FrozenTrial:
    """Tell the trial's score after each of its iterations so far; at the last one of `iterations` it is finished.

    Before that, it is given up if the pruner says so.
    """
    # Optuna has no public way back to a trial that another process began.
    live = Trial(study, trial._trial_id)
    for iteration, score in enumerate(scores, start=1):
        if iteration not in trial.intermediate_values:
            live.report(score, iteration)
    if len(scores) == iterations:
        return study.tell(live, scores[-1])
    if live.should_prune():
        return study.tell(live, state=TrialState.PRUNED)
    return study.get_trials()[trial.number]


def fail(study: Study, trial: FrozenTrial, reason: str) -> FrozenTrial:
    """Tell that the trial has no score, and why."""
    live = Trial(study, trial._trial_id)
    live.set_user_attr(REASON, reason)
    return study.tell(live, state=TrialState.FAIL)


def set_round(study: Study, goals: Mapping[int, int]) -> None:
    """Write down which trials are to be trained and told: number -> iteration."""
    study.set_user_attr(_ROUND, {str(number): goal for number, goal in goals.items()})


def round_left(study: Study) -> dict[int, int]:
    """What of the round that was set is still to be trained or told: the running trials of it."""
    goals = study.user_attrs.get(_ROUND, {})  # of studies of earlier versions nothing is known
    return {
        trial.number: goals[str(trial.number)]
        for trial in in_state(study, TrialState.RUNNING)
        if str(trial.number) in goals
    }


def in_state(study: Study, state: TrialState) -> list[FrozenTrial]:
    """The trials in that state, in their order."""
    return study.get_trials(states=(state,))


class Halving(BasePruner):
    """Decides as Optuna's SuccessiveHalvingPruner, by the scores alone.

    Optuna's writes to the study that a trial has come to a rung, and then answers. Asked again, when the process was
    killed before the decision was written, it takes the rung for one that the trial has passed, and lets it go on.
    """

    def __init__(self, pruning: HalvingPruning) -> None:
        self._pruning = pruning

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial, at its last iteration, is not among the best that have come to this rung so far."""
        iteration = len(trial.intermediate_values)
        if self._pruning.next_decision(iteration - 1) != iteration:
            return False
        trials = study.get_trials(deepcopy=False)
        scores = sorted(one.intermediate_values[iteration] for one in trials if iteration in one.intermediate_values)
        # The first ones are too few for a part of them: the best so far goes on.
        promoted = max(len(scores) // self._pruning.reduction_factor, 1)
        return trial.intermediate_values[iteration] < scores[-promoted]


def _refusal(error: BaseException | None) -> str:
    """Why SQLite cannot write, as the first cause has it; empty where that is not what is wrong."""
    while error is not None:
        # SQLAlchemy, and Optuna around it, have errors of their own for all that SQLite says.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSED:  # only what SQLite itself says has one
            return str(error)
        error = error.__cause__
    return ""


def _require_same(was: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """LabError unless all trials of the study are trials of this search."""
    was, now = _without_first_game(was), _without_first_game(now)
    for key in dict.fromkeys(chain(now, was)):
        if was.get(key) == now.get(key):
            continue
        what = f"{key} was {was.get(key)} and is {now.get(key)}"
        if isinstance(now.get(key), dict):
            parts = {part: (was[key].get(part), now[key].get(part)) for part in {**was[key], **now[key]}}
            part, (before, after) = next((part, values) for part, values in parts.items() if values[0] != values[1])
            what = f"{key}.{part} was {before} and is {after}"
        elif key == "experiment":
            lines = zip(was[key].splitlines(), now[key].splitlines(), strict=False)
            what = next((f"{old!r} was {new!r}" for new, old in lines if old != new), "the experiment was another")
        raise LabError(
            f"{folder} has the study of another search ({what}); give the tune another name, use another --runs, or "
            "move it away"
        )


def _without_first_game(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition, whichever of its games the file names first: that is in the experiment, and all are in games."""
    lines = definition["experiment"].splitlines()
    return {**definition, "experiment": "\n".join(line for line in lines if not line.startswith("game = "))}


def _distribution(values: Range) -> BaseDistribution:
    match values:
        case Choices():
            return CategoricalDistribution(values.choices)
        case Interval() if isinstance(values.low, int) and isinstance(values.high, int):
            return IntDistribution(values.low, values.high, log=values.log, step=int(values.step or 1))
        case Interval():
            return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _pruner(pruning: Pruning) -> BasePruner:
    match pruning:
        case MedianPruning():
            # Optuna's steps are iterations, from 1 on, and its warm-up ends before the step of that number.
            return MedianPruner(pruning.startup_trials, pruning.warmup_iterations + 1)
        case HalvingPruning():
            return Halving(pruning)
        case NoPruning():
            return NopPruner()
