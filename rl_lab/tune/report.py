"""What a study came to: a table of its trials, Optuna's pictures of them, and the best one as an experiment."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances, plot_slice

from rl_lab.experiment import DEFAULT_RUNS, ExperimentConfig
from rl_lab.records import tuned_suffix, tuning_seeds
from rl_lab.report.output import write_file
from rl_lab.tune.plan import IMPORTANCES, LEAST_FOR_IMPORTANCES, REASON, STATES, Search
from rl_lab.tune.study import in_state

_SCORE = "human-normalized score"
_TABLE = "trials.csv"
_BEST = "best.toml"


@dataclass(frozen=True)
class Report:
    """What was written."""

    best: FrozenTrial | None
    """The finished trial with the best score; None where none has finished."""
    seeds: tuple[int, ...]
    """That chose its settings: those of this tune, and of tunes before it; empty where there is none."""
    train_command: str
    """What to type to train the best trial's experiment; empty where there is none."""
    files: tuple[str, ...]
    """Names in the study's folder."""


def write_report(study: Study, search: Search) -> Report:
    """Write all into the study's folder, in place of an earlier report; LabError where a file cannot be written."""
    write_file(search.folder / _TABLE, _table(study, search).encode())
    if not in_state(study, TrialState.COMPLETE):
        return Report(None, (), "", (_TABLE,))
    pictures = _write_pictures(study, search.folder)
    best = study.best_trial
    experiment = _best_experiment(best, search)
    seeds = tuple(sorted({*search.tune.seeds, *tuning_seeds(search.folder / _BEST, experiment.name)}))
    toml = _best_toml(best, search, experiment, seeds, len(study.get_trials()))
    write_file(search.folder / _BEST, toml.encode())
    return Report(best, seeds, _train_command(search), (_TABLE, *pictures, _BEST))


def _train_command(search: Search) -> str:
    """Its runs go where the tune's mark is seen."""
    name = search.experiment.agent.name
    own_agent = ["--agent", name] if name.endswith(".py") else []
    own_runs = [] if search.runs == DEFAULT_RUNS else ["--runs", str(search.runs)]
    return shlex.join(["rl-lab", "train", str(search.folder / _BEST), *own_agent, *own_runs])


def _table(study: Study, search: Search) -> str:
    """All trials as CSV, with their exact settings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "iterations", "score", *search.ranges, "reason"])
    for trial in study.get_trials():
        iterations = len(trial.intermediate_values)
        score = trial.intermediate_values.get(iterations, "")
        settings = [trial.params[key] for key in search.ranges]
        row = [trial.number, STATES[trial.state.name], iterations, score, *settings]
        writer.writerow([*row, trial.user_attrs.get(REASON, "")])
    return text.getvalue()


def _best_experiment(best: FrozenTrial, search: Search) -> ExperimentConfig:
    """The best trial's experiment, under a name of its own."""
    tune = search.tune
    return tune.runs_of(best.params, Path(), search.agent_files, suffix=tuned_suffix(tune.name))[0].config


def _best_toml(
    best: FrozenTrial, search: Search, experiment: ExperimentConfig, seeds: Sequence[int], trials: int
) -> str:
    """The best trial's experiment with a seed that it was not chosen by."""
    seed = next(seed for seed in itertools.count() if seed not in seeds)
    return (
        f"# Trial {best.number} of the tune {search.tune.name}, the best of {trials}: human-normalized "
        f"{best.value:.3f}, the mean of {len(search.base)} runs.\n"
        f"# That is no result: the seeds {', '.join(map(str, seeds))} chose the settings. Train other seeds for one.\n"
        f"{dataclasses.replace(experiment, seed=seed).to_toml()}"
    )


def _write_pictures(study: Study, folder: Path) -> list[str]:
    """Optuna's pictures."""
    drawings: dict[str, Callable[[], object]] = {
        "history.png": lambda: plot_optimization_history(study, target_name=_SCORE),
        "slices.png": lambda: plot_slice(study, target_name=_SCORE),
    }
    finished = in_state(study, TrialState.COMPLETE)
    # Of trials that all have one score none is among the best, so nothing is important for that.
    if len(finished) >= LEAST_FOR_IMPORTANCES and len({trial.value for trial in finished}) > 1:
        drawings[IMPORTANCES] = lambda: plot_param_importances(study, target_name=_SCORE)
    for name, draw in drawings.items():
        with _drawing():
            draw()
            picture = io.BytesIO()
            pyplot.gcf().savefig(picture, format="png", dpi=150, bbox_inches="tight")
        write_file(folder / name, picture.getvalue())
    return list(drawings)


@contextmanager
def _drawing() -> Iterator[None]:
    """Optuna draws with pyplot, in a style that it sets for good: here both end with the picture."""
    backend = matplotlib.get_backend()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # all of its pictures with matplotlib are
        # Of a slice in which all trials have one value.
        warnings.filterwarnings("ignore", "Attempting to set identical low and high xlims")
        pyplot.switch_backend("agg")
        try:
            yield
        finally:
            pyplot.close()
            pyplot.switch_backend(backend)
