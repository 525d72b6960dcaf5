"""A run that stops anywhere and goes on ends as one that never stopped, to the byte."""

from __future__ import annotations

import math
import os
import signal
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.cli.progress import LineReporter
from rl_lab.curves import Curves
from rl_lab.errors import LabError, LabWarning
from rl_lab.records import read_provenance, read_records, read_status
from rl_lab.watchdog import Watchdog
from tests.runs import Interrupts, resume, train, what_it_came_to
from tests.test_dqn import ready_agent
from tests.tiny import tiny_dqn, tiny_experiment


def tiny_sb3(name: str = "sb3_dqn", **changes: object) -> AgentConfig:
    settings: dict[str, object] = {
        "replay_capacity": 300,
        "learning_starts_steps": 64,
        "target_update_steps": 50,
        "epsilon_decay_steps": 200,
    }
    return load_agent(name).Config(name=name, **{**settings, **changes})


def tiny_ppo() -> AgentConfig:
    settings: dict[str, object] = {"rollout_steps": 20, "batch_size": 20, "epochs": 1}
    return load_agent("sb3_ppo").Config(name="sb3_ppo", **settings)


AGENTS = {
    "dqn": tiny_dqn(),
    "dqn that has overwritten its replay": tiny_dqn(replay_capacity=150, replay_storage="zstd", optimizer="adam"),
    "dqn in half width": tiny_dqn(precision="bf16", double=True, n_step=3),
    "dqn with prioritized replay": tiny_dqn(replay_sampling="prioritized", importance_annealing_steps=300),
    "dqn that has overwritten its prioritized replay": tiny_dqn(
        replay_sampling="prioritized", replay_capacity=150, replay_storage="zstd", n_step=3, update_every_steps=1
    ),
    "dqn that augments": tiny_dqn(augmentation="shift_and_intensity", update_every_steps=1),
    "dqn of 2013": tiny_dqn(target_update_steps=0, replay_storage="zstd"),
    "dqn of noisy distributions": tiny_dqn(
        noisy=True, dueling=True, values="categorical", optimizer="adamw", weight_decay=0.1, network="data_efficient"
    ),
    "dqn of implicit quantiles": tiny_dqn(
        values="implicit_quantile", quantiles=8, munchausen=True, dropout=0.1, precision="bf16", optimizer="adam"
    ),
    "dqn of quantiles": tiny_dqn(values="quantile", layer_norm=True, optimizer="sgd", momentum=0.9),
    "dqn with spectral normalization": tiny_dqn(
        network="impala", spectral_norm=True, hidden_units=32, optimizer="sgd", update_every_steps=16
    ),
    "dqn with resets, an average and several updates at once": tiny_dqn(
        reset_every_updates=14,  # one is due at an interruption
        reset_shrink=0.5,
        target_update_steps=0,
        target_rate=0.05,
        updates_at_once=2,
        update_every_steps=16,
        optimizer="adam",
        noisy=True,
        replay_sampling="prioritized",
    ),
    "uniform": load_agent("uniform").Config(name="uniform"),
    "sb3": tiny_sb3(),
    "sb3 that has overwritten its replay": tiny_sb3(replay_capacity=150, n_step=3),
    "sb3 with a lean replay": tiny_sb3(replay_capacity=150, replay="lean", replay_storage="zstd"),
    "sb3 of quantiles": tiny_sb3("sb3_qrdqn", replay="sb3", quantiles=8, update_every_steps=8),
    "sb3 of rollouts": tiny_ppo(),
}


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_a_run_interrupted_again_and_again_ends_as_one_that_never_stopped(agent: AgentConfig, tmp_path: Path) -> None:
    config = tiny_experiment(agent=agent, log_every_steps=10)
    whole = train(config, tmp_path / "whole").run
    # In the first iteration, in its evaluation, and twice in the second iteration.
    part = train(config, tmp_path / "part", reporter=Interrupts(100)).run
    for at_steps in (200, 290, 370):
        assert read_status(part).state == "interrupted"
        resume(part, reporter=Interrupts(at_steps))
    resume(part)
    assert what_it_came_to(part) == what_it_came_to(whole)


@pytest.mark.parametrize("stop_before", [66, 98], ids=["between two points of the curves", "where a point is due"])
def test_time_before_a_stop_counts_in_the_speed_after_it(
    stop_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, on_steps = [0.0], Curves.on_steps

    def takes_a_second(curves: Curves, total_steps: int) -> None:
        if total_steps == stop_before and seconds[-1] == stop_before / 2:  # not again after the stop
            os.kill(os.getpid(), signal.SIGINT)
        on_steps(curves, total_steps)
        seconds.append(seconds[-1] + 1)

    monkeypatch.setattr(Curves, "on_steps", takes_a_second)
    monkeypatch.setattr("rl_lab.curves.time", SimpleNamespace(monotonic=lambda: seconds[-1]))
    config = tiny_experiment(agent=AGENTS["uniform"], total_steps=200, log_every_steps=50)
    stopped = train(config, tmp_path)
    assert stopped.steps == stop_before + 2
    resume(stopped.run)
    # Two games: eight frames a second.
    assert [record["time/fps"] for record in read_records(stopped.run / "metrics.jsonl")] == [8.0] * 4


def test_a_run_that_was_to_stop_at_an_iterations_end_goes_on_as_one_that_never_stopped(tmp_path: Path) -> None:
    config = tiny_experiment()
    outcome = train(config, tmp_path / "part", until_steps=150)
    assert (outcome.steps, outcome.lost_steps, outcome.left_steps, outcome.stop_signal) == (200, 0, 200, 0)
    status = read_status(outcome.run)
    assert (status.state, status.reason, status.steps) == ("interrupted", "--until-steps 150", 200)
    assert resume(outcome.run, until_steps=200).steps == 200  # there already
    assert resume(outcome.run, until_steps=1_000).left_steps == 0
    assert read_status(outcome.run).state == "finished"
    assert what_it_came_to(outcome.run) == what_it_came_to(train(config, tmp_path / "whole").run)


def test_a_finished_run_with_a_larger_budget_ends_as_one_that_had_it_from_the_start(tmp_path: Path) -> None:
    whole = train(tiny_experiment(), tmp_path / "whole").run
    run = train(tiny_experiment(total_steps=200), tmp_path / "part").run
    resume(run, total_steps=400)
    assert what_it_came_to(run) == what_it_came_to(whole)


def test_an_iteration_that_only_lacked_its_score_has_no_speed(tmp_path: Path) -> None:
    config = tiny_experiment(agent=AGENTS["uniform"], total_steps=200)
    run = train(config, tmp_path, reporter=Interrupts(200)).run
    screen = StringIO()
    resume(run, reporter=LineReporter(screen))
    assert screen.getvalue().splitlines()[1].startswith("          800 frames       - frames/s  mean score ")


def test_a_last_iteration_that_only_lacks_its_score_is_finished_before_the_budget_grows(tmp_path: Path) -> None:
    run = train(tiny_experiment(total_steps=300), tmp_path, reporter=Interrupts(300)).run
    with pytest.raises(LabError, match="resume it without --total-steps first"):
        resume(run, total_steps=400)
    assert resume(run).steps == 300
    with pytest.warns(LabWarning, match="an iteration was ended early"):
        assert resume(run, total_steps=400).steps == 400


def test_a_run_goes_on_whose_command_had_a_byte_that_is_no_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["rl-lab", "train", "--runs", os.fsdecode(b"bad\xff \xc3\xa9")])
    config = tiny_experiment(total_steps=200, iteration_steps=100, agent=AGENTS["uniform"])
    run = train(config, tmp_path, until_steps=100).run
    assert read_provenance(run)["command"] == ["rl-lab", "train", "--runs", r"bad\udcff é"]
    assert resume(run).left_steps == 0


def test_emulators_that_are_played_forward_are_not_stalled_and_can_be_stopped(tmp_path: Path) -> None:
    run = train(tiny_experiment(), tmp_path, reporter=Interrupts(150)).run
    beats: list[int] = []

    class CountsBeats(Watchdog):
        def beat(self) -> None:
            beats.append(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl_lab.training.Watchdog", CountsBeats)
        resume(run, reporter=Interrupts(160))
    assert len(beats) >= 75 + 5  # two games: those played again, and the new ones


def test_weights_that_are_not_finite_are_never_saved() -> None:
    agent = ready_agent()
    agent._weights.values.data[7] = math.nan
    with pytest.raises(LabError, match="not finite"):
        agent.save_state()
