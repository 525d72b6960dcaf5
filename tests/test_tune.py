"""Real studies: what is tried, what is given up, what is told of failures, and what goes on after an interruption."""

from __future__ import annotations

import csv
import itertools
import shutil
import signal
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from rl_lab.cli.main import main
from rl_lab.cli.tune import TrialScreen, cost_of_trials
from rl_lab.errors import LabError
from rl_lab.experiment import config_names, load_experiment
from rl_lab.lock import RunLock
from rl_lab.records import find_runs, find_tunes, read_status, tune_of
from rl_lab.scores import score_table
from rl_lab.sweep.claim import held
from rl_lab.sweep.cost import Measurement
from rl_lab.tune.plan import Search, plan_search, read_tune, tune_names, tune_path
from rl_lab.tune.pruning import HalvingPruning, MedianPruning
from rl_lab.tune.report import write_report
from rl_lab.tune.study import Halving, begin_trial, fail, in_state, open_study, tell
from tests.processes import RL_LAB, ended, has_lines, started, wait_until
from tests.runs import train
from tests.tiny import tiny_experiment

STEADY = """
import dataclasses
import time
from pathlib import Path

import numpy as np

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.errors import LabError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteadyConfig(AgentConfig):
    action: int = 0
    rate: float = 0.5


class Steady(load_agent("uniform")):
    '''Does one thing for ever: in Freeway 0 waits, 1 walks to the other side, and 2, here, diverges.'''

    Config = SteadyConfig

    def __init__(self, config, task):
        super().__init__(config, task)
        self._action = config.action

    def train(self, env, steps, log):
        while env.steps < steps and not env.pause_requested:
            super().train(env, env.steps + env.num_games, log)
            if self._action == 2:
                raise LabError("learning diverged")
            if Path("obstacle").exists():
                time.sleep(0.2)

    def act(self, observations):
        return np.full(len(observations), self._action)
"""
TUNE = """
name = "steady"
agent = "steady.py"
games = ["Freeway"]
seeds = [7]
trials = 4
trials_at_once = 2
sampler_seed = 367
[pruner]
name = "successive_halving"
reduction_factor = 2
[overrides]
total_steps = 200
iteration_steps = 100
num_games = 1
evaluation_episodes = 1
log_every_steps = 20
device = "cpu"
protocol.max_frames_per_episode = 800
[ranges]
agent.action = {choices = [0, 1, 2]}
"agent.rate" = {low = 1e-3, high = 1, log = true}
"""
FLAGS = ("steady.toml", "--no-measure", "--agent", "steady.py")


@pytest.fixture(autouse=True)
def in_a_folder_with_a_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("steady.py").write_text(STEADY)
    Path("steady.toml").write_text(TUNE)


def searched(
    text: str = TUNE, runs: str = "runs", agent_files: Sequence[str] = ("steady.py",), **changes: object
) -> Search:
    """The search of a tune, with other values of some of its keys."""
    for key, value in changes.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} ="))
        text = text.replace(line, f"{key} = {value}")
    Path("steady.toml").write_text(text)
    return plan_search(read_tune(Path("steady.toml")), Path(runs), agent_files)


def opened(search: Search) -> Study:
    search.folder.mkdir(parents=True, exist_ok=True)
    return open_study(search)


def tried(trials: Sequence[FrozenTrial]) -> list[tuple[str, dict[str, Any], dict[int, float]]]:
    """What of a study must be the same whenever and however it is made."""
    return [(trial.state.name, trial.params, trial.intermediate_values) for trial in trials]


def tune(*arguments: str) -> int:
    return main(["tune", *FLAGS, *arguments])


def width(picture: Path) -> int:
    with Image.open(picture) as opened_picture:
        return opened_picture.size[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a study that has come to its end, and what the command printed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "steady.py").write_text(STEADY)
    (folder / "steady.toml").write_text(TUNE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with started(*RL_LAB, "tune", *FLAGS) as process:
            status, output, errors = ended(process)
    assert (status, errors) == (0, "")
    return folder, output


@pytest.fixture
def study(made: tuple[Path, str]) -> Study:
    """A copy of it, here."""
    shutil.copytree(made[0] / "runs", "runs")
    return opened(searched())


def test_a_tune_finishes_prunes_and_fails_its_trials_and_writes_its_report(
    made: tuple[Path, str], study: Study
) -> None:
    waits, walks, prunes, fails = study.get_trials()
    assert [trial.params["agent.action"] for trial in study.get_trials()] == [0, 1, 0, 2]
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    at_rest = score_table().human_normalized("Freeway", 0.0)
    assert waits.intermediate_values == {1: at_rest, 2: at_rest}
    assert walks.value is not None
    assert waits.value is not None
    assert walks.value > waits.value == at_rest
    assert (prunes.intermediate_values, fails.intermediate_values) == ({1: at_rest}, {})
    folder = Path("runs/tunes/steady")
    (run,) = searched().trial(2, prunes.params)
    assert (read_status(run.directory).state, read_status(run.directory).steps) == ("interrupted", 100)
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished", "finished", "pruned", "failed"]
    assert [float(row["agent.rate"]) for row in rows] == [trial.params["agent.rate"] for trial in study.get_trials()]
    assert "learning diverged" in rows[3]["reason"]
    assert rows[3]["score"] == ""
    for name in ("history", "slices"):
        assert width(folder / f"{name}.png") > 400
    assert not (folder / "importances.png").exists()
    lines = made[1].splitlines()
    assert lines[0] == (
        "tune steady: 4 trials in runs/tunes/steady, each of 1 runs of steady-on-dqn-quick (1 games x 1 seeds), "
        "2 iterations: 0 finished, 0 pruned, 0 failed, 0 to go on with, 4 to start"
    )
    (failed,) = (line for line in lines if line.startswith("failed:"))
    run_3 = "runs/tunes/steady/runs/Freeway/steady-on-dqn-quick-trial-3/seed-7"
    assert failed.startswith(f"failed:     trial 3: {run_3}: learning diverged (log: runs/tunes/steady/logs/")
    assert lines[-1] == "train it:   rl-lab train runs/tunes/steady/best.toml --agent steady.py"


def test_the_best_trial_is_an_experiment_of_its_own_name_with_a_seed_that_did_not_choose_it(study: Study) -> None:
    best = load_experiment(Path("runs/tunes/steady/best.toml"), agent="steady.py")
    assert (best.name, best.seed) == ("steady-on-dqn-quick-tuned-steady", 0)
    assert vars(best.agent) == {"name": "steady.py", **_fields(study.best_trial.params)}
    text = Path("runs/tunes/steady/best.toml").read_text()
    assert "no result: the seeds 7 chose the settings" in text


def test_the_best_trial_of_a_tune_of_a_tunes_best_has_a_seed_that_chose_neither(study: Study) -> None:
    further = searched(
        TUNE.replace('name = "steady"', 'name = "two"'),
        agent='"runs/tunes/steady/best.toml"',
        seeds="[0, 1, 2, 3, 4, 5, 6]",
    )
    draw(further, 1)
    report = write_report(open_study(further), further)
    best = load_experiment(Path("runs/tunes/two/best.toml"), agent="steady.py")
    assert (best.name, best.seed) == ("steady-on-dqn-quick-tuned-steady-tuned-two", 8)
    assert report.seeds == (0, 1, 2, 3, 4, 5, 6, 7)


def test_the_best_trial_is_trained_beside_the_tune_that_chose_it() -> None:
    search = searched(runs="other")
    draw(search, 1)
    command = write_report(open_study(search), search).train_command
    assert command == "rl-lab train other/tunes/steady/best.toml --agent steady.py --runs other"


def _fields(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("agent."): value for key, value in settings.items()}


def test_runs_of_a_tune_are_no_results(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("runs/tunes/steady")
    assert main(["compare", "runs"]) == 2
    assert "all runs in runs are of tunes, whose seeds chose the settings" in capsys.readouterr().err
    result = train(tiny_experiment(total_steps=200, evaluation_episodes=1), Path("runs")).run
    assert find_runs(Path("runs")) == [result]
    assert find_tunes(Path("runs")) == [folder]
    assert len(find_runs(folder)) == 4
    assert tune_of(find_runs(folder)[0]) == folder.resolve()
    assert main(["compare", "runs"]) == 0
    assert f"Left out, runs of tunes, whose seeds chose their settings: {folder}." in capsys.readouterr().out
    Path("link").symlink_to(find_runs(folder)[0])
    for path in (folder, find_runs(folder)[0], Path("link")):
        assert main(["compare", "runs", str(path)]) == 2
        assert f"{path} has runs of a tune, whose seeds chose their settings" in capsys.readouterr().err


def test_an_interrupted_tune_goes_on_to_what_it_would_have_come_to_and_does_only_what_is_missing(
    made: tuple[Path, str], capfd: pytest.CaptureFixture[str]
) -> None:
    Path("obstacle").touch()
    search = searched()
    records = [search.folder / f"runs/Freeway/steady-on-dqn-quick-trial-{number}/seed-7" for number in range(2)]
    with started(*RL_LAB, "tune", *FLAGS) as process:
        wait_until(lambda: all(has_lines(run / "metrics.jsonl", 2) for run in records), process)
        process.send_signal(signal.SIGTERM)
        status, output, errors = ended(process)
    again = "rl-lab tune steady.toml --no-measure --agent steady.py"
    assert (status, errors, output.splitlines()[-1]) == (75, "", f"go on:      {again}")
    assert [trial.state for trial in opened(search).get_trials()] == [TrialState.RUNNING] * 2
    Path("obstacle").unlink()
    assert tune() == 0
    assert (
        capfd.readouterr().out.splitlines()[0].endswith(": 0 finished, 0 pruned, 0 failed, 2 to go on with, 2 to start")
    )
    whole = open_study(plan_search(search.tune, made[0] / "runs", ("steady.py",)))
    assert tried(opened(search).get_trials()) == tried(whole.get_trials())
    before = _times(search)
    assert tune("--trials", "5") == 0
    assert len(opened(search).get_trials()) == 5
    assert {path: time for path, time in _times(search).items() if path in before} == before
    assert len(_times(search)) > len(before)


def test_a_tune_that_was_left_while_trials_were_drawn_draws_the_others_before_it_trains(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_runs_alone(made[0], "runs")
    search = searched()
    begin_trial(opened(search), search)
    assert tune("--retries", "0") == 0
    assert trial_lines(capsys.readouterr().out) == trial_lines(made[1])


def test_a_new_trial_takes_no_run_that_an_earlier_study_left_with_other_settings(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_runs_alone(made[0], "runs")
    search = searched(sampler_seed=1)
    before = _times(search)
    run = "runs/tunes/steady/runs/Freeway/steady-on-dqn-quick-trial-0/seed-7"
    for _ in range(2):  # started again it says the same, and draws no further trial
        assert tune() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f" in {run}/config.toml, and " in line
        assert line.endswith(f"; see to {run}, move it away, or use another --runs")
        assert [trial.state for trial in opened(search).get_trials()] == [TrialState.RUNNING]
    assert _times(search) == before


def copy_runs_alone(made: Path, runs: str) -> None:
    """The trained runs of the study, but not the study: what it comes to again takes no training."""
    shutil.copytree(made / "runs", runs)
    (Path(runs) / "tunes/steady/study.db").unlink()


def trial_lines(output: str) -> list[str]:
    """What the command says of the trials, in order, but for the names of logs."""
    return [line.partition(" (log:")[0] for line in output.splitlines() if line.startswith("trial ")]


def test_a_tune_that_was_left_before_a_decision_decides_before_it_trains_and_draws(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for told in (1, 3):  # the first of a round with two, and the one that is given up
        copy_runs_alone(made[0], f"runs-{told}")
        with monkeypatch.context() as patch:
            interrupt(patch, optuna.trial.Trial, "should_prune", told)
            assert tune("--runs", f"runs-{told}") == 75
        told_before = trial_lines(capsys.readouterr().out)
        assert tune("--retries", "0", "--runs", f"runs-{told}") == 0
        told_after = trial_lines(capsys.readouterr().out)
        again = [line for line in told_after if line in told_before]
        assert all("agent.rate" in line for line in again)  # trials that go on are named again
        whole = trial_lines(made[1].replace("runs/tunes", f"runs-{told}/tunes"))
        assert [*told_before, *(line for line in told_after if line not in again)] == whole


def test_a_trial_is_told_nothing_while_another_process_writes_its_run(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_runs_alone(made[0], "runs")
    run = Path("runs/tunes/steady/runs/Freeway/steady-on-dqn-quick-trial-1/seed-7")
    run.rename("made")
    search = searched()
    with RunLock(run):  # which a process that has begun to import has not yet
        assert tune("--trials", "3") == 75
    assert capsys.readouterr().err == (
        f"rl-lab: {run} was left to another process, which is writing to it; wait for its end or stop it; go on with "
        "rl-lab tune steady.toml --no-measure --agent steady.py --trials 3\n"
    )
    assert [(state, scores) for state, _, scores in tried(opened(search).get_trials())] == [("RUNNING", {})] * 2
    Path("made").rename(run)
    assert tune("--trials", "3") == 0
    whole = open_study(plan_search(search.tune, made[0] / "runs", ("steady.py",)))
    assert tried(opened(search).get_trials()) == tried(whole.get_trials())[:3]


def test_a_run_that_another_process_has_made_meanwhile_has_not_failed(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_runs_alone(made[0], "runs")
    run = Path("runs/tunes/steady/runs/Freeway/steady-on-dqn-quick-trial-2/seed-7")
    run.rename("made")
    monkeypatch.setattr(TrialScreen, "on_start", lambda *_, is_resumed: Path("made").rename(run))
    search = searched()
    assert tune("--trials", "3") == 0
    whole = open_study(plan_search(search.tune, made[0] / "runs", ("steady.py",)))
    assert tried(opened(search).get_trials()) == tried(whole.get_trials())[:3]


def test_a_trial_whose_process_left_a_run_with_other_settings_has_failed(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_runs_alone(made[0], "runs")
    run = Path("runs/tunes/steady/runs/Freeway/steady-on-dqn-quick-trial-2/seed-7")
    run.rename("other")
    config = Path("other/config.toml")
    config.write_text(config.read_text().replace("log_every_steps = 20", "log_every_steps = 50"))
    monkeypatch.setattr(TrialScreen, "on_start", lambda *_, is_resumed: Path("other").rename(run))
    search = searched()
    assert tune("--trials", "3") == 0
    assert tried(opened(search).get_trials())[2][::2] == ("FAIL", {})


def interrupt(patch: pytest.MonkeyPatch, owner: type, method: str, number: int) -> None:
    """Ctrl-C when the method is called for the time of that number, from 1."""
    calls = itertools.count(1)
    uninterrupted = getattr(owner, method)

    def interrupted(*arguments: object, **options: object) -> object:
        if next(calls) == number:
            raise KeyboardInterrupt
        return uninterrupted(*arguments, **options)

    patch.setattr(owner, method, interrupted)


MEDIAN = ('"successive_halving"\nreduction_factor = 2', '"median"\nstartup_trials = 2')


@pytest.mark.parametrize("change", [("", ""), MEDIAN], ids=["successive_halving", "median"])
def test_a_tune_that_was_left_before_a_decision_was_written_decides_the_same(
    change: tuple[str, str], made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TUNE.replace(*change)
    outcomes = []
    for told in range(4):  # none; the first and the second of those that finish; the one that is given up
        copy_runs_alone(made[0], f"runs-{told}")
        search = searched(text, f"runs-{told}", trials=3)
        if told:
            with monkeypatch.context() as patch:
                interrupt(patch, Study, "tell", told)
                assert tune("--runs", f"runs-{told}") == 75
        assert tune("--runs", f"runs-{told}") == 0
        outcomes.append(tried(opened(search).get_trials()))
    assert [state for state, *_ in outcomes[0]] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert outcomes[1:] == outcomes[:1] * 3


def _times(search: Search) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (search.folder / "runs").rglob("*.json*")}


def draw(search: Search, count: int) -> list[dict[str, Any]]:
    """Settings of that many trials, each finished with its rate as the score."""
    study = opened(search)
    for _ in range(count):
        trial = begin_trial(study, search)
        tell(study, trial, [trial.params["agent.rate"]] * 2, iterations=2)
    return [trial.params for trial in study.get_trials()]


def test_the_same_seed_draws_the_same_settings_whether_the_study_was_left_or_not() -> None:
    learns = TUNE.replace("sampler_seed", "random_trials = 3\nsampler_seed")
    whole = draw(searched(learns, "whole"), 8)
    parted = searched(learns, "parted")
    draw(parted, 2)
    draw(parted, 3)
    assert draw(parted, 3) == whole
    assert draw(searched(learns, "other", sampler_seed=1), 8) != whole
    assert len({settings["agent.rate"] for settings in whole}) == 8


def test_ten_finished_trials_have_importances() -> None:
    search = searched()
    draw(search, 10)
    assert "importances.png" in write_report(open_study(search), search).files
    assert width(search.folder / "importances.png") > 400


def test_finished_trials_of_one_score_have_no_importances() -> None:
    search = searched()
    study = opened(search)
    for _ in range(10):
        tell(study, begin_trial(study, search), [-21.0] * 2, iterations=2)
    assert write_report(study, search).files == ("trials.csv", "history.png", "slices.png", "best.toml")


def test_a_trial_below_the_median_of_the_finished_ones_is_given_up_and_one_above_is_not() -> None:
    text = TUNE.replace('"successive_halving"\nreduction_factor = 2', '"median"\nstartup_trials = 3')
    search = searched(text)
    study = opened(search)

    def told(*scores: float) -> str:
        return tell(study, begin_trial(study, search), scores, iterations=3).state.name

    assert told(0.1) == "RUNNING"  # none has finished
    for score in (0.2, 0.4, 0.6):
        assert told(0.0, score, score) == "COMPLETE"
    assert (told(0.0, 0.3), told(0.0, 0.5)) == ("PRUNED", "RUNNING")
    assert tell(study, in_state(study, TrialState.RUNNING)[0], [0.1, 0.1], iterations=3).state.name == "PRUNED"


def test_a_failed_trial_has_no_score_and_counts_as_none() -> None:
    search = searched()
    study = opened(search)
    failed = fail(study, begin_trial(study, search), "it broke")
    assert (failed.state, failed.value, failed.user_attrs) == (TrialState.FAIL, None, {"reason": "it broke"})
    assert tell(study, begin_trial(study, search), [-1.0, -2.0], iterations=2).value == -2.0
    assert study.best_trial.number == 1


@given(
    rounds=st.lists(st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=1, max_size=3), max_size=6),
    first_iteration=st.integers(1, 3),
    reduction_factor=st.integers(2, 4),
)
@settings(max_examples=50, deadline=None)
def test_halving_decides_as_optunas_pruner_does_in_a_study_without_interruptions(
    rounds: list[list[list[int]]], first_iteration: int, reduction_factor: int
) -> None:
    halving = HalvingPruning(first_iteration=first_iteration, reduction_factor=reduction_factor)
    ours, optunas = (
        optuna.create_study(direction="maximize", pruner=pruner)
        for pruner in (Halving(halving), SuccessiveHalvingPruner(first_iteration, reduction_factor))
    )
    assert decided(ours, halving, rounds) == decided(optunas, halving, rounds)


def decided(study: Study, halving: HalvingPruning, rounds: list[list[list[int]]]) -> list[tuple[str, dict[int, float]]]:
    """What becomes of trials with these scores; those of one round are told in turn, each up to its next decision."""
    for of_round in rounds:
        live = {study.ask().number: scores for scores in of_round}
        iterations = 0
        while live:
            iterations = min(halving.next_decision(iterations), 9)
            for number, scores in list(live.items()):
                if tell(study, study.get_trials()[number], scores[:iterations], 9).state != TrialState.RUNNING:
                    del live[number]
    return [(trial.state.name, trial.intermediate_values) for trial in study.get_trials()]


@pytest.mark.parametrize(
    ("pruning", "decisions"),
    [
        (MedianPruning(), [1, 2, 3, 4]),
        (MedianPruning(warmup_iterations=2), [3, 3, 3, 4]),
        (HalvingPruning(reduction_factor=2), [1, 2, 4, 4]),
        (HalvingPruning(first_iteration=3, reduction_factor=3), [3, 3, 3, 9]),
    ],
)
def test_runs_go_on_without_a_stop_to_where_the_pruner_looks(
    pruning: MedianPruning | HalvingPruning, decisions: list[int]
) -> None:
    assert [pruning.next_decision(iterations) for iterations in range(4)] == decisions


def test_settings_that_do_not_fit_together_are_a_failed_trial(capsys: pytest.CaptureFixture[str]) -> None:
    check = """rate: float = 0.5

    def __post_init__(self):
        if self.action and self.rate < 0.5:
            raise LabError("walking is too slow")
"""
    Path("steady.py").write_text(STEADY.replace("rate: float = 0.5\n", check))
    Path("steady.toml").write_text(TUNE.replace("[0, 1, 2]", "[1, 2]").replace("high = 1", "high = 0.4"))
    assert tune() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("failed:")] == [
        f"failed:     trial {number}: steady.py: walking is too slow" for number in range(4)
    ]
    assert lines[-1] == "best:       none, for no trial has finished"


@pytest.mark.parametrize("name", tune_names())
def test_the_shipped_tunes_can_be_searched_and_are_no_experiments(name: str) -> None:
    search = plan_search(read_tune(tune_path(name)), Path("runs"))
    assert not set(search.tune.seeds) & {0, 1, 2}  # the seeds that results have
    assert f"tune/{name}" not in config_names()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("agent.rate", "agent.rat"), "steady.py has no 'agent.rat' to tune; did you mean 'agent.rate'?"),
        (('"agent.rate"', '"total_steps"'), "total_steps is in the ranges and in the overrides; leave one out"),
        (('"agent.rate"', '"iteration_stepz"'), "steady.py has no 'iteration_stepz' to tune"),
        (('"agent.rate"', '"protocol.sticky_probability"'), "protocol.sticky_probability cannot be tuned"),
        (("low = 1e-3", "low = 2"), "ranges.agent.rate: low is 2.0, high 1.0; allowed is a low below its high"),
        (("low = 1e-3", "low = 0"), "ranges.agent.rate: low is 0.0; allowed with log is anything above 0"),
        (("low = 1e-3", "lo = 1e-3"), "ranges.agent.rate: unknown key 'lo'; did you mean 'low'?"),
        (("low = 1e-3, ", ""), "ranges.agent.rate: only one of low and high is given"),
        (("log = true", "step = 0.1, log = true"), "ranges.agent.rate: step is 0.1 with log; leave one out"),
        (("low = 1e-3, high = 1, log = true", "low = 0, high = 1, step = 0.3"), "high is 1.0; allowed are whole steps"),
        (("low = 1e-3", "low = 'a'"), "ranges.agent.rate.low is 'a'; allowed is a number"),
        (("{low = 1e-3, high = 1, log = true}", "3"), "ranges.agent.rate is 3; allowed is {low, high}"),
        (("[0, 1, 2]", "[]"), "ranges.agent.action: choices are empty"),
        (("[0, 1, 2]", "[0, 0]"), "ranges.agent.action: choices name 0 twice"),
        (("[0, 1, 2]", "[0, 0.5]"), "ranges.agent.action.choices is 0.5; allowed is an integer"),
        (("trials = 4", "trials = 0"), "trials is 0; allowed is 1 or more"),
        (("at_once = 2", "at_once = 0"), "trials_at_once is 0; allowed is 1 or more"),
        (("seeds = [7]", "seeds = []"), "seeds is []; allowed is a list of at least one of integers"),
        (("Freeway", "Fireway"), "no game or suite 'Fireway'; did you mean 'Freeway'?"),
        (("Freeway", "Adventure"), "Adventure has no human score (noop57), so no mean can have it; leave it out"),
        (
            ("successive_halving", "sucessive_halving"),
            "pruner.name is 'sucessive_halving'; did you mean 'successive_halving'?",
        ),
        (("reduction_factor = 2", "reduction_factor = 1"), "pruner: reduction_factor is 1; allowed is 2 or more"),
        (("reduction_factor", "startup_trials"), "pruner: unknown key 'startup_trials'"),
        (("sampler_seed", "sampler_sed"), "unknown key 'sampler_sed'; did you mean 'sampler_seed'?"),
        (('name = "steady"', 'name = "a/b"'), "name is 'a/b'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(
    change: tuple[str, str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in TUNE
    Path("steady.toml").write_text(TUNE.replace(*change, 1))
    assert tune() == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert line in errors
    assert not Path("runs").exists()


def test_a_bound_that_no_experiment_can_have_is_named_before_anything_is_tried() -> None:
    text = TUNE.partition("[overrides]")[0].replace("steady.py", "dqn/quick")
    with pytest.raises(LabError, match=r"ranges\.agent\.batch_size: dqn/quick: batch_size is 0; allowed is"):
        searched(f'{text}[ranges]\n"agent.batch_size" = {{low = 0, high = 64}}\n', agent_files=())
    with pytest.raises(LabError, match=r"ranges\.agent\.double is no number, so it has no low and high"):
        searched(f'{text}[ranges]\n"agent.double" = {{low = 0, high = 1}}\n', agent_files=())


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "    action: int = 0\n",
            "    repeatable: ClassVar[bool] = False\n    action: int = 0\n",
            r"steady\.py is not repeatable: .* give pruner\.name = \"none\"",
        ),
        (
            "    Config = ",
            "    save_state, load_state = Agent.save_state, Agent.load_state\n    Config = ",
            r"steady\.py keeps no state, .* or give pruner\.name = \"none\"",
        ),
    ],
)
def test_an_agent_that_a_pause_changes_is_tuned_without_a_pruner_only(old: str, new: str, line: str) -> None:
    assert old in STEADY
    names = "from typing import ClassVar\nfrom rl_lab.agent import Agent\n"
    Path("steady.py").write_text(names + STEADY.replace(old, new, 1))
    with pytest.raises(LabError, match=line):
        searched()
    searched(TUNE.replace('"successive_halving"\nreduction_factor = 2', '"none"'))


def test_no_trials_and_no_jobs_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, line in (("--trials", "trials is 0; allowed is 1 or more"), ("--jobs", "jobs are 0, retries 2")):
        assert tune(flag, "0") == 2
        output, errors = capsys.readouterr()
        assert (output, errors.count("\n")) == ("", 1)
        assert line in errors


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"agent.action": "{choices = [0, 1]}"}, r"ranges\.agent\.action was .* and is "),
        ({"seeds": "[8]"}, r"seeds was \[7\] and is \[8\]"),
        ({"total_steps": "400"}, r"overrides\.total_steps was 200 and is 400"),
        ({"reduction_factor": "3"}, r"pruner\.reduction_factor was 2 and is 3"),
    ],
)
def test_the_study_of_another_search_is_refused_with_what_differs(changes: dict[str, str], line: str) -> None:
    opened(searched())
    with pytest.raises(LabError, match=rf"runs/tunes/steady has the study of another search \({line}"):
        opened(searched(**changes))
    opened(searched(trials=9))


def test_a_study_is_of_the_same_search_in_whatever_order_its_games_are_named() -> None:
    opened(searched(games='["Freeway", "Breakout"]'))
    opened(searched(games='["Breakout", "Freeway"]'))
    with pytest.raises(LabError, match=r"games was \['Breakout', 'Freeway'\] and is \['Freeway', 'Pong'\]"):
        opened(searched(games='["Pong", "Freeway"]'))


def test_a_study_that_another_process_holds_is_not_to_be_moved_away() -> None:
    search = searched()
    opened(search)
    with closing(sqlite3.connect(search.folder / "study.db")) as other:
        other.execute("begin exclusive")
        with pytest.raises(LabError) as error:
            opened(search)
    line = f"{search.folder / 'study.db'} cannot be written: database is locked; see to it, or use another --runs"
    assert str(error.value) == line
    opened(search)


def test_a_folder_in_the_place_of_a_study_is_one_line() -> None:
    search = searched()
    (search.folder / "study.db").mkdir(parents=True)
    with pytest.raises(LabError, match=r"study\.db cannot be written: unable to open database file; see to it"):
        opened(search)


def test_a_folder_whose_name_is_too_long_for_a_study_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune("--runs", "a" * 256) == 2
    line = f"cannot look for {'a' * 256}/tunes/steady/study.db: File name too long; use another --runs"
    assert line in capsys.readouterr().err


def test_a_file_that_is_no_study_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder = searched().folder
    folder.mkdir(parents=True)
    (folder / "study.db").write_text("no database, but long enough to be taken for one" * 100)
    assert tune() == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert f"{folder}/study.db is no study that Optuna {optuna.__version__} can open" in errors


def test_a_study_with_half_a_character_is_one_line() -> None:
    search = searched()
    opened(search)
    with closing(sqlite3.connect(search.folder / "study.db")) as database:
        database.execute("update version_info set library_version = cast(x'ff' as text)")
        database.commit()
    with pytest.raises(LabError, match=r"is no study that Optuna .* can open"):
        opened(search)


def test_two_tunes_never_run_in_one_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with held(searched().folder, "someone"):
        assert tune() == 2
    line = "rl-lab: the tune steady is running in runs already; wait for its end, or use another --runs\n"
    assert capsys.readouterr().err == line


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("report", "search", "study"):
        monkeypatch.delitem(sys.modules, f"rl_lab.tune.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune() == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert "use pip install 'rl-lab[tune]'" in errors


def test_the_plan_is_shown_and_nothing_is_made_by_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune("--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "tuned         range",
        "agent.action  one of 0, 1, 2",
        "agent.rate    0.001 to 1.0, log",
    ]
    assert not Path("runs").exists()


@pytest.mark.parametrize(("at_once", "hours"), [(1, 40), (2, 30), (3, 35), (50, 30)])
def test_the_hours_of_a_plan_are_those_of_rounds_that_wait_for_their_last_run(at_once: int, hours: int) -> None:
    search = searched(seeds="[7, 8, 9]", trials_at_once=at_once)
    an_hour = Measurement(steps_per_second=200 / 3600, memory_bytes=1, replay_bytes=0, disk_bytes=1)
    needed = cost_of_trials(search, 20, {search.experiment.name: an_hour}, jobs=2)
    assert (round(needed.hours, 6), round(needed.core_hours, 6)) == (hours, 60)
