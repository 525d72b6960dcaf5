"""Every suite runs to its end on real parts and reports what it says; no time is asserted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rl_lab.agent import load_agent
from rl_lab.benchmarks import memory
from rl_lab.benchmarks.measuring import Settings, seconds
from rl_lab.benchmarks.training import BASELINE, OURS, Training
from rl_lab.cli.main import main


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns too short to measure anything, which take seconds where real ones take minutes."""
    monkeypatch.setattr("rl_lab.cli.bench._LEAST_STEPS", 128)
    monkeypatch.setattr("rl_lab.benchmarks.training._LEAST_STEPS_PER_GAME", 4)
    monkeypatch.setattr("rl_lab.benchmarks.replays._RECORDED_STEPS", 2_000)
    monkeypatch.setattr("rl_lab.benchmarks.update._UPDATES", 2)
    monkeypatch.setattr("rl_lab.benchmarks.update._UPDATES_WITH_SWITCHES", 1)
    monkeypatch.setattr("rl_lab.benchmarks.update.best_seconds", seconds)


def bench(suite: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The shortest run there is."""
    arguments = ["--steps", "128", "--repetitions", "1", "--transitions", "10000", "--threads", "1", "--json"]
    assert main(["bench", suite, *arguments]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    for row in result["rows"].values():
        assert all(value > 0 for value in row["values"])
    return result


def ratios(result: dict[str, Any], one: str, other: str) -> list[float]:
    rows = result["rows"]
    return [a / b for a, b in zip(rows[one]["values"], rows[other]["values"], strict=True)]


def test_train_compares_games_and_precisions_with_stable_baselines3(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench("train", capsys)
    ours = [f"dqn/like, {games}, {precision}" for games in ("1 game", "8 games") for precision in ("fp32", "bf16")]
    theirs = "sb3_dqn/like, 1 game"
    compared = [*ours, "sb3_dqn/like, 8 games"]
    assert set(result["rows"]) == {*compared, theirs, *(f"{name} : {theirs}" for name in compared)}
    for name in compared:
        assert result["rows"][f"{name} : {theirs}"]["values"] == ratios(result, name, theirs)


def test_update_compares_with_its_kernels_the_loop_and_each_switch(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench("update", capsys)
    free = {"target_network", "n_step", "replay_ratio", "resets", "gradient_clipping"}
    for switch in {switch.name for switch in load_agent("dqn").Config.switches} - free:
        times = [f"fp32: a batch and an update, {name}" for name in (switch, "plain")]
        assert result["rows"][f"fp32: {switch} : plain"]["values"] == pytest.approx(ratios(result, *times))
    for precision in ("fp32", "bf16"):
        of_kernels = ratios(result, f"{precision}: an update", f"{precision}: its kernels' own best")
        assert result["rows"][f"{precision}: update : kernels"]["values"] == pytest.approx(of_kernels)
        # An update every 4 steps; a loop without anything else would be at 1.
        loops = result["rows"][f"{precision}: loop with 8 games"]["values"]
        updates = result["rows"][f"{precision}: an update"]["values"]
        of_updates = [loop * update / 4_000 for loop, update in zip(loops, updates, strict=True)]
        assert result["rows"][f"{precision}: loop : updates alone"]["values"] == pytest.approx(of_updates)


@pytest.mark.parametrize("suite", ["act", "env"])
def test_small_suites_report_a_row_for_each_size(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {name.partition(" ")[0] for name in bench(suite, capsys)["rows"]}
    assert sizes == ({"1", "8", "64"} if suite == "act" else {"1", "8", "32"})


def test_replay_compares_the_storages(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench("replay", capsys)
    slower = ratios(result, "training in bf16, raw", "training in bf16, zstd")
    assert result["rows"]["time of a step, zstd : raw"]["values"] == slower
    slower = ratios(result, "training in bf16, zstd", "training in bf16, prioritized zstd")
    assert result["rows"]["time of a step, prioritized zstd : zstd"]["values"] == slower
    for name in ("raw", "zstd", "prioritized zstd"):
        # A batch every 4 steps.
        batches, rates = (result["rows"][f"{row}, {name}"]["values"] for row in ("a batch of 32", "training in bf16"))
        shares = [batch / 4_000 * rate for batch, rate in zip(batches, rates, strict=True)]
        assert result["rows"][f"time of a step, sampling : all, {name}"]["values"] == pytest.approx(shares)


def test_replay_says_what_the_machine_is_too_small_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_lab.benchmarks.replays.available_memory_bytes", lambda: 100_000_000)
    result = bench("replay", capsys)
    assert "left out: raw storage, which needs 0.1 GB of memory" in result["notes"]
    assert set(result["rows"]) == {
        "a batch of 32, zstd",
        "a batch of 32, prioritized zstd",
        "training in bf16, zstd",
        "training in bf16, prioritized zstd",
        "time of a step, sampling : all, zstd",
        "time of a step, sampling : all, prioritized zstd",
        "time of a step, prioritized zstd : zstd",
    }


def test_memory_reports_megabytes_for_each_game(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "GAMES", ("Pong", "Krull"))
    rows = bench("memory", capsys)["rows"]
    assert set(rows) == {"Pong", "Krull"}
    # 10,000 transitions: more than their scalars, less than raw frames would take.
    assert all(0.08 < row["values"][0] < 70 for row in rows.values())


def test_scale_reports_replay_sizes_games_and_concurrent_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench("scale", capsys)["rows"]
    assert {"10,000 transitions stored", "parallel games: 1", "parallel games: 64"} <= set(rows)
    assert {"runs at once: 1, threads each: 1; in all", "runs at once: 2, threads each: 1; in all"} <= set(rows)


def test_checkpoint_times_saves_and_loads_of_both_storages(capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench("checkpoint", capsys)["rows"]
    for storage in ("raw", "zstd"):
        assert {f"{storage}: the first save", f"{storage}: a save after 50,000 steps", f"{storage}: a load"} <= set(
            rows
        )


@pytest.mark.parametrize("config", [OURS, BASELINE])
def test_each_turn_plays_its_steps(config: str) -> None:
    training = Training(config, Settings(steps=256, repetitions=2, transitions=10_000, device="cpu", threads=1))
    for turn in (1, 2, 3):
        training.steps_per_second()
        assert training._env.steps == turn * 256


def test_a_turn_of_training_makes_all_of_its_updates() -> None:
    settings = Settings(steps=256, repetitions=1, transitions=10_000, device="cpu", threads=1)
    training = Training(OURS, settings, num_games=4)
    training.steps_per_second()
    before = training.agent._updates  # type: ignore[attr-defined]  # DQN's
    training.steps_per_second()
    assert training.agent._updates - before == 256 / training.update_every_steps  # type: ignore[attr-defined]
