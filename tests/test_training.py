"""Whole runs of a real game, a second each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rl_lab.curves import Progress
from rl_lab.errors import LabError, ResumableError
from rl_lab.experiment import load_experiment
from rl_lab.lock import RunLock
from rl_lab.provenance import provenance
from rl_lab.records import last_evaluation, read_records, read_status
from tests.runs import Silent, train
from tests.tiny import PROTOCOL, tiny_dqn, tiny_experiment


def what_was_learned(run: Path) -> tuple[bytes, bytes]:
    """The training episodes and the last weights."""
    weights = sorted(run.glob("checkpoints/*/agent/weights.safetensors"))[-1]
    return (run / "episodes.jsonl").read_bytes(), weights.read_bytes()


@pytest.mark.parametrize(("threads", "precision"), [(1, "fp32"), (2, "fp32"), (1, "bf16")])
def test_same_seed_gives_the_same_bytes_and_another_seed_others(threads: int, precision: str, tmp_path: Path) -> None:
    agent = tiny_dqn(precision=precision)
    first, again, other = (
        train(tiny_experiment(seed=seed, threads=threads, agent=agent), tmp_path / folder).run
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert what_was_learned(first) == what_was_learned(again)
    assert (first / "evaluations.jsonl").read_bytes() == (again / "evaluations.jsonl").read_bytes()
    for mine, others in zip(what_was_learned(first), what_was_learned(other), strict=True):
        assert mine != others


def test_how_much_is_evaluated_and_logged_does_not_change_what_is_learned(tmp_path: Path) -> None:
    little = train(tiny_experiment(evaluation_episodes=1), tmp_path / "little").run
    much = train(tiny_experiment(evaluation_episodes=5, log_every_steps=10), tmp_path / "much").run
    assert what_was_learned(little) == what_was_learned(much)


def test_a_run_holds_all_its_records(tmp_path: Path) -> None:
    config = tiny_experiment()
    outcome = train(config, tmp_path)
    run = outcome.run
    assert run == tmp_path / "Breakout" / "tiny" / "seed-0"
    assert load_experiment(run / "config.toml") == config
    assert json.loads((run / "provenance.json").read_text())["protocol_fingerprint"] == PROTOCOL.fingerprint
    status = read_status(run)
    assert (status.state, status.steps, status.frames) == ("finished", 400, 1_600)
    assert [record["frames"] for record in read_records(run / "evaluations.jsonl")] == [800, 1_600]
    evaluation = last_evaluation(run)
    assert evaluation is not None
    assert outcome.evaluation is not None
    assert evaluation["scores"] == list(outcome.evaluation.scores)
    assert evaluation["human_normalized_score"] == pytest.approx((evaluation["mean_score"] - 1.7) / (30.5 - 1.7))


def test_training_curves_have_a_point_each_interval_with_x_in_frames(tmp_path: Path) -> None:
    run = train(tiny_experiment(), tmp_path).run
    records = read_records(run / "metrics.jsonl")
    assert [record["frames"] for record in records] == [400, 800, 1_200, 1_600]
    assert "train/loss" in records[-1]
    assert records[-1]["train/n_updates"] == (400 - 2 - 64) // 4  # the last step's updates are due at the next one
    assert {"rollout/ep_rew_mean", "rollout/exploration_rate", "time/fps", "train/q_mean"} <= records[-1].keys()


def test_an_iteration_ends_with_a_point_of_all_metrics_however_long_the_interval(tmp_path: Path) -> None:
    run = train(tiny_experiment(log_every_steps=1_000), tmp_path).run
    records = read_records(run / "metrics.jsonl")
    assert [record["frames"] for record in records] == [800, 1_600]
    assert all({"train/loss", "rollout/exploration_rate"} <= record.keys() for record in records)


def test_nothing_of_learning_is_recorded_before_the_first_update(tmp_path: Path) -> None:
    run = train(tiny_experiment(agent=tiny_dqn(learning_starts_steps=300)), tmp_path).run
    records = read_records(run / "metrics.jsonl")
    assert "train/loss" not in records[0]
    assert records[0]["rollout/exploration_rate"] == 1.0


def test_an_existing_run_is_kept_unless_overwritten(tmp_path: Path) -> None:
    config = tiny_experiment(total_steps=200)
    run = train(config, tmp_path).run
    before = (run / "episodes.jsonl").read_bytes()
    with pytest.raises(LabError, match="exists; use --resume to go on with it, --overwrite to delete it"):
        train(config, tmp_path)
    assert (run / "episodes.jsonl").read_bytes() == before
    assert train(config, tmp_path, overwrite=True).steps == 200


def test_a_run_that_a_live_process_writes_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    config = tiny_experiment(total_steps=200)
    run = train(config, tmp_path).run
    with RunLock(run), pytest.raises(LabError, match=f"is writing to {run}; stop it"):
        train(config, tmp_path, overwrite=True)


def test_what_cannot_work_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_lab.system.available_memory_bytes", lambda: 12_000_000)
    with pytest.raises(LabError, match=r"use --agent\.replay-capacity"):
        train(tiny_experiment(agent=tiny_dqn(replay_capacity=2_000)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_status_follows_the_training_not_only_the_evaluations(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(Silent):
        def on_progress(self, progress: Progress) -> None:
            seen.append(read_status(tmp_path / "Breakout" / "tiny" / "seed-0").steps)

    train(tiny_experiment(), tmp_path, reporter=Watch())
    assert seen == [100, 200, 300, 400]


def test_a_failing_agent_leaves_a_failed_run_that_says_why(tmp_path: Path) -> None:
    agent = tmp_path / "broken.py"
    agent.write_text(
        "from rl_lab.agent import load_agent\n"
        "class Broken(load_agent('uniform')):\n"
        "    def train(self, env, steps, log):\n"
        "        raise ZeroDivisionError('by design')\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    with pytest.raises(ZeroDivisionError):
        train(load_experiment(path, agent=str(agent)), tmp_path)
    status = read_status(tmp_path / "Breakout" / "broken-on-tiny" / "seed-0")
    assert (status.state, status.reason) == ("failed", "ZeroDivisionError: by design")


def test_a_metric_that_is_not_finite_stops_the_run_with_one_line(tmp_path: Path) -> None:
    config = tiny_experiment(agent=tiny_dqn(learning_rate=1e30))
    with pytest.raises(LabError, match=r"train/(loss|q_mean) is (nan|inf) after \d+ steps: learning diverged"):
        train(config, tmp_path)
    assert read_status(tmp_path / "Breakout" / "tiny" / "seed-0").state == "failed"


@pytest.mark.parametrize("tag", ["frames", "reward"])
def test_a_metric_without_a_slash_is_refused_before_it_is_written(tag: str, tmp_path: Path) -> None:
    agent = tmp_path / "own.py"
    agent.write_text(
        "from rl_lab.agent import load_agent\n"
        "class Own(load_agent('uniform')):\n"
        "    def train(self, env, steps, log):\n"
        f"        log({{{tag!r}: 1.0}})\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    with pytest.raises(LabError, match=rf"the agent logs '{tag}'; allowed are tags with a slash, such as train/{tag}"):
        train(load_experiment(path, agent=str(agent)), tmp_path)


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "Breakout" / "tiny" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("")
    with pytest.raises(LabError, match="is in the way and is no run; move it"):
        train(tiny_experiment(), tmp_path, overwrite=True)
    assert (folder / "thesis.tex").exists()


def test_an_agent_that_plays_another_number_of_steps_is_refused(tmp_path: Path) -> None:
    agent = tmp_path / "lazy.py"
    agent.write_text(
        "from rl_lab.agent import load_agent\n"
        "class Lazy(load_agent('uniform')):\n"
        "    def train(self, env, steps, log):\n"
        "        super().train(env, steps - 2, log)\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(tiny_experiment().to_toml())
    with pytest.raises(LabError, match="played 198 steps; `train` was asked for exactly 200"):
        train(load_experiment(path, agent=str(agent)), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_run_cleanly_and_keeps_the_last_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(tiny_experiment(total_steps=1_000_000, evaluation_episodes=1).to_toml())
    command = [sys.executable, "-m", "rl_lab", "train", str(path), "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]  # the start, and the first iteration
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == ResumableError.exit_status
    assert errors == ""
    assert "800 frames" in lines[1]
    assert "nothing is lost" in output
    run = tmp_path / "runs" / "Breakout" / "tiny" / "seed-0"
    assert (read_status(run).state, read_status(run).reason) == ("interrupted", number.name)
    assert list(run.glob("checkpoints/*/manifest.json"))


def test_the_state_of_a_checkout_is_read_without_writing_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (tmp_path / "file").write_text("a")
    git("init")
    git("add", "file")
    git("commit", "-m", "one")
    os.utime(tmp_path / "file", (1, 1))  # for git to look at anew, and to remember
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr("rl_lab.provenance.checkout_folder", lambda: tmp_path)
    assert provenance(tiny_experiment(), device="cpu", threads=1)["git"]["modified"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == before
