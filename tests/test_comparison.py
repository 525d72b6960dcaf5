from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_lab.atari import named_protocol
from rl_lab.cli.main import main
from rl_lab.errors import LabError
from rl_lab.records import TUNE_MARK, tuning_seeds
from rl_lab.report.cautions import Absent, mixtures
from rl_lab.report.comparison import Comparison, compare
from rl_lab.report.results import read_runs
from rl_lab.report.standings import Contender, Standing
from rl_lab.report.summary import summary
from rl_lab.report.tables import contenders_table, scores_table
from rl_lab.scores import curve, reference, score_table
from tests.report_runs import write_run


def compared(*paths: Path, references: Sequence[str] = (), **changes: Any) -> Comparison:
    runs, unevaluated = read_runs(paths)
    beside = [reference(name) for name in references]
    return compare(
        runs, beside, absent=Absent(unevaluated), table=score_table(), **{"rng": np.random.default_rng(0), **changes}
    )


def contender(standing: Standing | None, label: str) -> Contender:
    assert standing is not None
    (found,) = (contender for contender in standing.contenders if contender.label == label)
    return found


def test_a_cell_is_mean_and_spread_of_the_last_evaluations_over_seeds(tmp_path: Path) -> None:
    for seed, score in enumerate((1.0, 2.0, 6.0)):
        write_run(tmp_path, "dqn", seed, [(40_000, -21.0), (80_000, score)])
    cell = contender(compared(tmp_path).evaluation, "dqn").cells["Pong"]
    assert (cell.score, cell.scores, cell.frames) == (3.0, (1.0, 2.0, 6.0), (80_000,))
    assert cell.spread == pytest.approx(7**0.5)
    assert cell.interval is not None
    assert 1 <= cell.interval.low < 3 < cell.interval.high <= 6


def test_one_seed_has_neither_spread_nor_interval_and_the_report_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    comparison = compared(tmp_path)
    cell = contender(comparison.evaluation, "dqn").cells["Pong"]
    assert (cell.spread, cell.interval) == (None, None)
    (aggregate,) = comparison.evaluation.aggregates
    assert all(estimate.interval is None for estimate in aggregate.estimates.values())
    assert "One seed, so no interval and no word about chance: dqn in Pong." in comparison.warnings


def test_a_run_given_twice_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    assert len(read_runs([tmp_path, run])[0]) == 1


def test_a_run_without_evaluation_is_named_not_counted(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    run = write_run(tmp_path, "dqn", 1, [])
    comparison = compared(tmp_path)
    assert len(comparison.runs) == 1
    assert f"Left out, no evaluation yet: {run}." in comparison.warnings


def test_a_run_that_is_not_finished_is_named_and_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], state="interrupted")
    assert f"Not finished, evaluations so far count: {run} (interrupted)." in compared(tmp_path).warnings


def test_other_budgets_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0)])
    write_run(tmp_path, "dqn", 1, [(40_000, 2.0), (80_000, 3.0)])
    comparison = compared(tmp_path)
    assert [c.label for c in comparison.evaluation.contenders] == ["dqn, 40,000 frames", "dqn, 80,000 frames"]
    assert contender(comparison.at_frames, "dqn").cells["Pong"].scores == (1.0, 2.0)


def test_agents_of_other_budgets_are_tested_at_equal_frames_only(tmp_path: Path) -> None:
    for game in ("Pong", "Krull", "Boxing"):
        for seed in range(3):
            write_run(tmp_path, "short", seed, [(40_000, 1.0 + seed)], game=game)
            write_run(tmp_path, "long", seed, [(40_000, 1.0 + seed), (80_000, 11.0 + seed)], game=game)
    comparison = compared(tmp_path)
    assert comparison.evaluation.pairs == comparison.training.pairs == ()
    assert comparison.at_frames is not None
    assert [pair.verdict for pair in comparison.at_frames.pairs] == ["3 seeds in 3 games cannot tell these apart"]
    assert any("Budgets differ (40,000, 80,000 frames)" in warning for warning in comparison.warnings)
    assert not any("80,000" in sentence or "better" in sentence for sentence in summary(comparison))


def test_seeds_are_counted_whatever_their_budgets(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "dqn", seed, [(40_000, 1.0), (80_000, 1.0), (120_000, 1.0)][: seed + 1])
    assert next(summary(compared(tmp_path))) == "3 runs: 1 experiment, 1 game, 3 seeds of each."
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0)], game="Krull")
    assert next(summary(compared(tmp_path))) == "4 runs: 1 experiment, 2 games, 1 to 3 seeds of each."


def test_the_most_is_said_of_one_alone_among_runs_of_one_budget(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0)])
    write_run(tmp_path, "sb3", 0, [(40_000, 2.0)])
    assert any("sb3 has 0.643" in sentence and "the most" in sentence for sentence in summary(compared(tmp_path)))
    write_run(tmp_path, "equal", 0, [(40_000, 2.0)])
    assert not any("the most" in sentence for sentence in summary(compared(tmp_path)))
    write_run(tmp_path, "other", 0, [(50_000, 3.0)])
    assert not any("the most" in sentence for sentence in summary(compared(tmp_path)))


def test_at_frames_takes_the_evaluation_after_exactly_so_many(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0), (80_000, 3.0)])
    assert contender(compared(tmp_path, at_frames=40_000).evaluation, "dqn").cells["Pong"].score == 1.0
    with pytest.raises(LabError, match="no run has an evaluation after 50,000 frames; the nearest is after 40,000"):
        compared(tmp_path, at_frames=50_000)


def test_runs_without_an_evaluation_at_these_frames_or_so_early_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0)])
    late = write_run(tmp_path, "late", 0, [(80_000, 1.0)], frames_per_second=100)
    at_frames = compared(tmp_path, at_frames=40_000)
    assert f"Left out, no evaluation after the frames that were asked for: {late}." in at_frames.warnings
    assert f"Left out, no evaluation that is known to be within the equal hours: {late}." in compared(tmp_path).warnings


def test_hours_are_a_range_where_runs_differ(tmp_path: Path) -> None:
    for seed, speed in enumerate((100, 100, 50)):
        write_run(tmp_path, "dqn", seed, [(36_000, 1.0)], frames_per_second=speed)
        hours = contenders_table(compared(tmp_path)).rows[0][5]
        assert hours == ("0.10" if seed < 2 else "0.10 to 0.20")


def test_equal_hours_take_the_last_evaluation_within_the_hours_of_the_fastest(tmp_path: Path) -> None:
    evaluations = [(40_000, 1.0), (80_000, 3.0)]
    write_run(tmp_path, "quick", 0, evaluations, frames_per_second=200)
    write_run(tmp_path, "slow", 0, evaluations, frames_per_second=100)
    comparison = compared(tmp_path)
    assert comparison.at_frames is None
    assert contender(comparison.at_hours, "quick").cells["Pong"].score == 3.0
    assert contender(comparison.at_hours, "slow").cells["Pong"].score == 1.0
    assert comparison.at_hours is not None
    assert comparison.at_hours.title.endswith("equal hours of training, 0.11")  # 80,000 frames at 200 a second


def test_a_run_whose_hours_are_not_known_is_left_out_of_equal_hours_and_named(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 1.0)])
    write_run(tmp_path, "sb3", 0, [(40_000, 1.0)])
    unknown = write_run(tmp_path, "dqn", 1, [(40_000, 2.0)])
    (unknown / "metrics.jsonl").unlink()
    comparison = compared(tmp_path)
    assert contender(comparison.at_hours, "dqn").cells["Pong"].scores == (1.0,)
    assert f"Left out, no evaluation that is known to be within the equal hours: {unknown}." in comparison.warnings


def test_training_returns_and_evaluation_scores_stand_apart(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], returns=[(20_000, -21.0), (40_000, -7.0)])
    comparison = compared(tmp_path, references=["dqn_nature_2015", "cleanrl_dqn_10M"])
    assert [c.label for c in comparison.evaluation.contenders] == ["dqn", "dqn_nature_2015"]
    assert [c.label for c in comparison.training.contenders] == ["dqn", "cleanrl_dqn_10M"]
    assert contender(comparison.training, "dqn").cells["Pong"].score == -7.0


def test_training_returns_are_said_to_be_of_all_episodes_where_a_run_has_few(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], returns=[(40_000, -7.0)])
    (note,) = scores_table(compared(tmp_path).training, score_table()).notes
    assert "of the last 100 training episodes, or of all if fewer, ±" in note


def test_a_run_without_training_returns_beside_others_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], returns=[(40_000, -7.0)])
    without = write_run(tmp_path, "dqn", 1, [(40_000, 5.0)])
    assert f"Left out, no training return at the frames of the evaluation: {without}." in compared(tmp_path).warnings


def test_other_protocols_are_refused_field_by_field(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    write_run(tmp_path, "sb3", 0, [(40_000, 5.0)], protocol=named_protocol("machado2018"))
    (reason,) = mixtures(read_runs([tmp_path])[0])
    assert reason.startswith("Pong: protocols of dqn (nature2015 948d0f247801) and sb3 (machado2018 ")
    assert "sticky_probability 0.0 and 0.25" in reason
    assert "frame_skip" not in reason


def test_other_protocols_in_other_games_do_not_meet(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    write_run(tmp_path, "sb3", 0, [(40_000, 5.0)], game="Krull", protocol=named_protocol("machado2018"))
    assert mixtures(read_runs([tmp_path])[0]) == []


def test_runs_of_other_settings_under_one_name_are_refused_by_key(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    write_run(tmp_path, "dqn", 1, [(40_000, 5.0)], learning_rate=0.2)
    assert mixtures(read_runs([tmp_path])[0]) == ["dqn: settings under one name (agent.learning_rate)"]


def test_one_seed_twice_is_not_two_seeds(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_run(tmp_path / folder, "dqn", 0, [(40_000, 5.0)])
    assert mixtures(read_runs([tmp_path])[0]) == ["Pong: runs of one seed of dqn (0)"]


def test_all_runs_of_one_seed_count_in_cells_and_aggregates_where_all_games_have_them(tmp_path: Path) -> None:
    for game in ("Pong", "Krull"):
        for folder, score in (("a", 1.0), ("b", 5.0)):
            write_run(tmp_path / folder, "dqn", 0, [(40_000, score)], game=game)
    evaluation = compared(tmp_path).evaluation
    assert contender(evaluation, "dqn").scores(["Pong", "Krull"]).tolist() == [[1.0, 1.0], [5.0, 5.0]]
    assert contender(evaluation, "dqn").cells["Pong"].scores == (1.0, 5.0)
    write_run(tmp_path / "c", "dqn", 0, [(40_000, 9.0)])
    comparison = compared(tmp_path)
    (aggregate,) = comparison.evaluation.aggregates
    assert aggregate.normalized.shape == (2, 2)
    assert "dqn: 2 of its 3 seeds have all 2 games; aggregates are over these." in comparison.warnings


def test_mixed_shows_them_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    write_run(tmp_path, "dqn", 1, [(40_000, 5.0)], protocol=named_protocol("machado2018"))
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare", str(tmp_path), "--mixed"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("! Do not compare: Pong: protocols")
    assert "dqn, machado2018 " in shown
    assert "probability of improvement" not in shown  # other rules: neither is called better


def test_other_settings_under_one_name_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "a", "dqn", seed, [(40_000, 1.0)])
        write_run(tmp_path / "b", "dqn", seed, [(40_000, 5.0)], learning_rate=0.2)
    comparison = compared(tmp_path)
    scores = {c.label: c.cells["Pong"].scores for c in comparison.evaluation.contenders}
    assert scores == {"dqn, learning_rate 0.1": (1.0, 1.0), "dqn, learning_rate 0.2": (5.0, 5.0)}
    assert comparison.warnings == ("Do not compare: dqn: settings under one name (agent.learning_rate).",)


def test_aggregates_are_over_the_games_that_all_have(tmp_path: Path) -> None:
    for game in ("Pong", "Krull"):
        write_run(tmp_path, "both", 0, [(40_000, 5.0)], game=game)
    write_run(tmp_path, "one", 0, [(40_000, 5.0)])
    comparison = compared(tmp_path)
    assert comparison.evaluation.common_games == ("Pong",)
    assert any("one has no score in Krull" in warning for warning in comparison.warnings)


def test_aggregates_are_over_the_seeds_that_all_games_have(tmp_path: Path) -> None:
    for game, seeds in (("Pong", (0, 1, 2)), ("Krull", (1, 2))):
        for seed in seeds:
            write_run(tmp_path, "dqn", seed, [(40_000, float(seed))], game=game)
    comparison = compared(tmp_path)
    (aggregate,) = comparison.evaluation.aggregates
    assert aggregate.normalized.shape == (2, 2)
    assert any("dqn: 2 of its 3 seeds have all 2 games" in warning for warning in comparison.warnings)


def test_agents_of_which_no_seed_has_all_games_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    write_run(tmp_path, "dqn", 1, [(40_000, 5.0)], game="Krull")
    comparison = compared(tmp_path)
    assert comparison.evaluation.aggregates == ()
    assert "dqn: 0 of its 2 seeds have all 2 games; so it has no aggregates." in comparison.warnings


def test_pairs_of_which_one_has_no_seed_with_all_shared_games_are_named(tmp_path: Path) -> None:
    for seed, game in enumerate(("Pong", "Krull")):
        write_run(tmp_path, "torn", seed, [(40_000, 5.0)], game=game)
        write_run(tmp_path, "whole", 0, [(40_000, 5.0)], game=game, returns=[(40_000, 1.0)])
        write_run(tmp_path, "other", 0, [(40_000, 5.0)], game=game, returns=[(40_000, 1.0)])
    comparison = compared(tmp_path)
    assert [(pair.first, pair.second) for pair in comparison.evaluation.pairs] == [("other", "whole")]
    assert (
        "Not tested in 'Evaluation scores', 'Evaluation scores at equal hours of training, 0.03', since no seed of one "
        "of the two has all games that both have: other and torn, torn and whole."
    ) in comparison.warnings


def test_an_experiment_of_a_published_name_is_told_apart_from_the_published_agent(tmp_path: Path) -> None:
    for name in ("dqn_nature_2015", "dopamine_dqn_cnn"):
        for seed in range(2):
            write_run(tmp_path, name, seed, [(40_000, 5.0)], returns=[(40_000, 2.0)])
    comparison = compared(tmp_path, references=["dqn_nature_2015"], curves=[curve("dopamine_dqn_cnn")])
    ours = ["dopamine_dqn_cnn (runs)", "dqn_nature_2015 (runs)"]
    assert [c.label for c in comparison.evaluation.contenders] == [*ours, "dqn_nature_2015"]
    assert [c.label for c in comparison.training.contenders] == ours
    assert any("dopamine_dqn_cnn (runs) has 0.728 [" in sentence for sentence in summary(comparison))
    assert comparison.warnings == ()


def test_a_published_agent_or_curve_without_any_of_the_games_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], game="Darkchambers")
    curves = [curve("dopamine_dqn_cnn")]
    warnings = compared(tmp_path, references=["dqn_nature_2015"], curves=curves).warnings
    for name in ("dqn_nature_2015", "dopamine_dqn_cnn"):
        assert f"{name} has no score in any game of the runs: it is not shown." in warnings


@pytest.mark.filterwarnings("default::rl_lab.errors.LabWarning")
def test_a_curve_that_nothing_draws_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    assert main(["compare", str(tmp_path), "--reference", "dopamine_dqn_cnn"]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("rl-lab: --html and --plots draw dopamine_dqn_cnn; tables have columns for points of it")


def test_a_game_without_human_scores_is_shown_raw(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)], game="Carnival")
    comparison = compared(tmp_path)
    assert contender(comparison.evaluation, "dqn").cells["Carnival"].score == 5.0
    assert comparison.evaluation.aggregates == ()
    assert any("noop57 has no human score for Carnival" in warning for warning in comparison.warnings)


def test_a_score_that_rounds_to_zero_has_no_sign(tmp_path: Path) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, -0.02)], game="Boxing")
    assert scores_table(compared(tmp_path).evaluation, score_table()).rows == (("Boxing", "0.0 (-0.010)"),)


def test_three_seeds_of_one_game_cannot_tell_agents_apart_and_of_three_games_can(tmp_path: Path) -> None:
    for game in ("Pong", "Krull", "Boxing"):
        for seed in range(3):
            write_run(tmp_path / game, "high", seed, [(40_000, 10.0 + seed)], game=game)
            write_run(tmp_path / game, "low", seed, [(40_000, float(seed))], game=game)
    (pair,) = compared(tmp_path / "Pong").evaluation.pairs
    assert (pair.probability.value, pair.verdict) == (1.0, "3 seeds in 1 game cannot tell these apart")
    (pair,) = compared(tmp_path).evaluation.pairs
    assert pair.p_value is not None
    assert pair.p_value < 0.01
    assert pair.verdict == "high is better than low by more than chance explains"


def test_tables_of_too_many_contenders_to_test_are_named_unless_all_are(tmp_path: Path) -> None:
    for index in range(9):
        write_run(tmp_path / "one", f"agent-{index}", 0, [(40_000, index)])
    for index in range(5):
        write_run(tmp_path / "two", f"agent-{index}", 0, [(40_000, index)])
        write_run(tmp_path / "two", f"agent-{index}", 1, [(40_000, index), (80_000, index)])
    for runs, where in (("one", ""), ("two", " in 'Evaluation scores'")):
        told = [warning for warning in compared(tmp_path / runs).warnings if "More than" in warning]
        assert told == [
            f"More than 8 contenders: no pair is tested{where}; give fewer paths to compare them one by one."
        ]


def test_published_means_have_no_interval_and_published_runs_have_one(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "dqn", seed, [(40_000, float(seed))])
    comparison = compared(tmp_path, references=["atari100k_der_paper", "atari100k_iris"])
    estimates = {aggregate.label: aggregate.estimates for aggregate in comparison.evaluation.aggregates}
    assert "iqm_over_runs" not in estimates["atari100k_der_paper"]
    assert estimates["atari100k_der_paper"]["mean"].interval is None
    assert estimates["atari100k_iris"]["mean"].interval is not None
    assert [(pair.first, pair.second) for pair in comparison.evaluation.pairs] == [("dqn", "atari100k_iris")]
    assert any("other budgets and rules may be the reason" in sentence for sentence in summary(comparison))


def test_a_folder_that_only_looks_like_a_run_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    (run / "config.toml").write_text("x = 1")
    with pytest.raises(LabError, match=r"config\.toml is no record of a run: name, game"):
        read_runs([tmp_path])


def test_all_runs_without_evaluation_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, [])
    assert main(["compare", str(tmp_path)]) == 2
    assert "has an evaluation yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--reference dqn_natur_2015", "'dqn_nature_2015'"),
        ("--normalize noop75", "did you mean 'noop57'"),
        ("--games Pnog", "did you mean 'Pong'"),
        ("--format htlm", "allowed: text, markdown, csv, json"),
        ("--at-frames 7", "the nearest is after 40,000"),
    ],
)
def test_a_wrong_name_gets_one_line(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    assert main(["compare", str(tmp_path), *flags.split()]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "record", ['{"mean_score": null}', '{"mean_score": NaN}', '{"mean_score": true}', "5", '{"game": "Pong"}']
)
def test_a_damaged_evaluation_is_one_line(record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    whole = (run / "evaluations.jsonl").read_text().splitlines()[-1]
    damaged = json.dumps({**json.loads(whole), **json.loads(record)}) if record.startswith('{"mean') else record
    (run / "evaluations.jsonl").write_text(damaged + "\n")
    assert main(["compare", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "evaluations.jsonl " in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("evaluations.jsonl", {"mean_score": 1.7e308}),
        ("evaluations.jsonl", {"frames": 0}),
        ("evaluations.jsonl", {"episodes": 0}),
        ("metrics.jsonl", {"rollout/ep_rew_mean": "many"}),
        ("metrics.jsonl", {"rollout/ep_rew_mean": -1e16}),
        ("metrics.jsonl", {"time/fps": 5e-324}),
    ],
)
def test_numbers_that_no_training_gives_are_one_line(
    file: str, changes: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0)])
    (run / file).write_text(json.dumps({**json.loads((run / file).read_text()), **changes}) + "\n")
    assert main(["compare", str(tmp_path), "--format", "json"]) == 2
    errors = capsys.readouterr().err
    assert f"{file} " in errors
    assert errors.count("\n") == 1


def test_a_last_line_that_is_cut_off_is_left_out_and_a_broken_one_before_it_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, "dqn", 0, [(40_000, 5.0), (80_000, 6.0)])
    whole = (run / "evaluations.jsonl").read_bytes()
    (run / "evaluations.jsonl").write_bytes(whole[:-20])
    assert contender(compared(tmp_path).evaluation, "dqn").cells["Pong"].score == 5.0
    (run / "evaluations.jsonl").write_bytes(whole.replace(b'"frames": 40000', b'"frames": ', 1))
    with pytest.raises(LabError, match=r"evaluations\.jsonl line 1"):
        read_runs([tmp_path])


def test_every_format_says_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "dqn", 0, [(40_000, 5.25)])
    write_run(tmp_path, "dqn", 1, [(40_000, 6.25)])
    shown = {}
    for name in ("text", "markdown", "csv", "json"):
        assert main(["compare", str(tmp_path), "--format", name]) == 0
        shown[name] = capsys.readouterr().out
    assert "5.8 ± 0.7 (0.7" in shown["text"]
    assert "| Pong | 5.8 ± 0.7 (0.7" in shown["markdown"]
    assert ",5.75,0.7071067811865476," in shown["csv"]
    (score,) = json.loads(shown["json"])["standings"][0]["scores"]
    assert (score["score"], score["scores"]) == (5.75, [5.25, 6.25])


def test_names_from_a_stranger_cannot_break_a_markdown_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "a|b<i>", 0, [(40_000, 5.0)])
    assert main(["compare", str(tmp_path), "--format", "markdown"]) == 0
    assert r"| a\|b\<i\> |" in capsys.readouterr().out


def test_the_same_runs_give_the_same_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write_run(tmp_path, "dqn", seed, [(40_000, float(seed))])
    assert main(["compare", str(tmp_path)]) == main(["compare", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown[: len(shown) // 2] == shown[len(shown) // 2 :]


def test_a_run_with_a_seed_that_chose_its_settings_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "tunes/pong" / TUNE_MARK
    mark.parent.mkdir(parents=True)
    mark.write_text(json.dumps({"tune": "pong", "seeds": [7]}))
    chose = write_run(tmp_path, "dqn-tuned-pong", 7, [(40_000, 9.0)])
    for experiment, seed in (("dqn-tuned-pong", 0), ("dqn", 7), ("dqn-tuned-other", 7)):
        write_run(tmp_path, experiment, seed, [(40_000, 5.0)])
    assert main(["compare", str(tmp_path / "Pong")]) == 0
    output = capsys.readouterr().out
    assert f"Left out, runs of seeds that chose their settings: {chose}." in output
    assert "9.0" not in output
    assert main(["compare", str(chose)]) == 2
    assert "the seeds of all these runs chose their settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("experiment", "seeds"),
    [
        ("dqn-tuned-one", {7}),
        ("dqn-tuned-one-n_step-3", {7}),
        ("dqn-tuned-one-without-double", {7}),
        ("dqn-tuned-one-more", {8}),
        ("dqn-tuned-one-more-n_step-3", {8}),
        ("dqn-tuned-one-tuned-one-more", {7, 8}),
        ("dqn-tuned-oneself", set()),
        ("dqn-tuned-other", set()),
        ("one", set()),
    ],
)
def test_the_seeds_that_chose_settings_are_known_whatever_was_added_to_the_name(
    experiment: str, seeds: set[int], tmp_path: Path
) -> None:
    for tune, seed in (("one", 7), ("one-more", 8)):
        (tmp_path / "tunes" / tune).mkdir(parents=True)
        (tmp_path / "tunes" / tune / TUNE_MARK).write_text(json.dumps({"tune": tune, "seeds": [seed]}))
    assert tuning_seeds(tmp_path / "Pong" / experiment / "seed-7", experiment) == seeds
