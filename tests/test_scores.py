"""The published aggregates come out of the per-game scores, and every agent in the files has its protocol."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

from rl_lab.errors import LabError
from rl_lab.scores import TABLE_NAMES, ScoreTable, reference, references, score_table
from rl_lab.scores.tables import read_rows


def percent_mean_and_median(agent: str, table: ScoreTable, digits: int = 0) -> tuple[float, float]:
    values = [table.human_normalized(game, score) for game, score in reference(agent).scores.items()]
    percents = [100 * value for value in values if value is not None]
    return round(statistics.fmean(percents), digits), round(statistics.median(percents), digits)


# As printed in the C51 paper (arXiv 1707.06887) and the QR-DQN paper (arXiv 1710.10044).
@pytest.mark.parametrize(
    ("agent", "published"),
    [
        ("dqn_wang2016_noop", (228, 79)),
        ("double", (307, 118)),
        ("dueling_noop", (373, 151)),
        ("prior_dueling_noop", (592, 172)),
        ("c51", (701, 178)),
        ("qrdqn_0", (881, 199)),
        ("qrdqn", (915, 211)),
    ],
)
def test_default_table_gives_the_published_mean_and_median(agent: str, published: tuple[int, int]) -> None:
    assert percent_mean_and_median(agent, score_table()) == published


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("dqn_wang2016_noop", (227.9, 79.1)),
        ("double", (307.3, 117.9)),
        ("dueling_noop", (373.2, 151.4)),
        ("prior_dueling_noop", (591.9, 172.1)),
        ("c51", (701.4, 177.7)),
        ("qrdqn", (915.9, 210.7)),
    ],
)
def test_two_decimal_table_gives_the_aggregates_to_a_tenth(agent: str, expected: tuple[float, float]) -> None:
    assert percent_mean_and_median(agent, score_table("muzero_s1"), digits=1) == expected


# As printed in the Double DQN paper (arXiv 1509.06461) for no-op starts.
@pytest.mark.parametrize(
    ("agent", "published"), [("dqn_nature_2015", (241.1, 93.5)), ("double_2015_noop", (330.3, 114.7))]
)
def test_agents_of_2015_give_the_published_aggregates_in_their_own_table(
    agent: str, published: tuple[float, float]
) -> None:
    table = score_table(reference(agent).table)
    assert percent_mean_and_median(agent, table, digits=1) == published


def test_video_pinball_alone_spoils_the_mean_of_dqn_zoos_unchanged_table() -> None:
    unchanged = score_table("noop57_videopinball16257")
    assert percent_mean_and_median("dqn_wang2016_noop", unchanged) == (433, 79)
    assert unchanged.random == {**score_table().random, "VideoPinball": 16256.9}
    assert unchanged.human == score_table().human


def test_human_normalized_score_is_the_fraction_of_the_way_from_random_to_human() -> None:
    # Breakout: random 1.7, human 30.5, so half-way is 16.1 and DQN's 401.2 is 399.5 / 28.8.
    table = score_table()
    assert table.human_normalized("Breakout", 1.7) == 0.0
    assert table.human_normalized("Breakout", 30.5) == 1.0
    assert table.human_normalized("Breakout", 16.1) == pytest.approx(0.5)
    assert table.human_normalized("Breakout", 401.2) == pytest.approx(399.5 / 28.8)


def test_human_of_2015_is_not_the_human_of_the_default_table() -> None:
    # Pong 9.3 against 14.6: the Nature paper prints 132 % for DQN's 18.9.
    assert score_table("nature2015").human_normalized("Pong", 18.9) == pytest.approx(39.6 / 30.0)
    assert score_table().human_normalized("Pong", 18.9) == pytest.approx(39.6 / 35.3)


def test_game_without_scores_in_the_table_has_no_human_normalized_score() -> None:
    assert score_table().human_normalized("AirRaid", 1000.0) is None
    assert score_table("nature2015").human_normalized("Phoenix", 1000.0) is None
    assert score_table("mnih2013").human_normalized("Alien", 1000.0) is None


def test_tables_have_the_number_of_games_of_their_sources() -> None:
    assert {name: len(score_table(name).random) for name in TABLE_NAMES} == {
        "noop57": 57,
        "noop57_videopinball16257": 57,
        "muzero_s1": 57,
        "humanstart": 57,
        "nature2015": 49,
        "mnih2013": 7,
    }


def test_table_with_a_random_score_but_no_human_score_is_refused() -> None:
    with pytest.raises(AssertionError, match="torn"):
        ScoreTable("torn", "", random={"Pong": -20.7}, human={})


def test_unknown_table_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(LabError, match=r"no score table 'nature2051' .*; did you mean 'nature2015'\?$"):
        score_table("nature2051")


def test_unknown_reference_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(LabError, match=r"no published agent 'dqn_natur_2015' .*; did you mean 'dqn_nature_2015'\?$"):
        reference("dqn_natur_2015")


def test_every_agent_column_has_a_reference_and_every_reference_has_scores() -> None:
    def agent_columns(file: str) -> set[str]:
        rows = read_rows(file)
        used = {column for column in rows[0] if any(row[column] for row in rows)}
        return {c for c in used if c != "game" and not c.startswith(("random", "human")) and not c.endswith("_std")}

    columns = agent_columns("atari57_reference.csv") | agent_columns("agent57_reference.csv")
    columns |= {f"atari100k_{column}" for column in agent_columns("atari100k_reference.csv")}
    short_budgets = {
        name
        for name in references()
        if name.startswith("dopamine_") and name.endswith(("_1M", "_2M", "_5M", "_10M")) and name not in columns
    }
    assert set(references()) == columns | short_budgets
    assert len(short_budgets) == 22
    assert all(agent.scores for agent in references().values())


def test_references_are_sorted_by_name() -> None:
    assert list(references()) == sorted(references())


def test_references_belong_to_the_caller() -> None:
    references().clear()
    assert "dqn_nature_2015" in references()


def test_every_reference_has_a_known_table_kind_and_budget() -> None:
    for agent in references().values():
        assert agent.table in TABLE_NAMES, agent.name
        assert agent.kind in ("evaluation", "training"), agent.name
        assert agent.frames is None or agent.frames >= 400_000, agent.name


def test_budget_in_a_name_is_the_budget_in_frames() -> None:
    # Only CleanRL's names count millions of agent steps.
    for agent in references().values():
        million = agent.name.rpartition("_")[2].removesuffix("M")
        if million.isdecimal() and agent.name.endswith("M"):
            assert agent.frames == int(million) * (4_000_000 if "cleanrl" in agent.name else 1_000_000), agent.name


def test_human_start_agents_and_no_others_use_the_human_start_table() -> None:
    for agent in references().values():
        assert (agent.table == "humanstart") == agent.name.endswith("_humanstart"), agent.name


def test_agents_seen_in_one_transcription_only_say_unverified() -> None:
    assert {agent.name for agent in references().values() if "UNVERIFIED" in agent.description} == {
        "apex_dqn_noop",
        "distributional_dqn_rainbowpaper_noop",
        "double_tuned_humanstart",
        "dqn_gorila_humanstart",
        "noisynet_dqn",
        "noisynet_dueling",
        "ppo_2017_40M_frames",
        "prior_prop_ddqn_humanstart",
        "rainbow_humanstart",
    }


def test_training_returns_are_not_called_evaluations() -> None:
    training = {agent.name for agent in references().values() if agent.kind == "training"}
    prefixes = ("dopamine_", "cleanrl_", "openai_", "ppo_2017_", "atari100k_dreamerv3_", "atari100k_ppo_")
    assert training == {name for name in references() if name.startswith(prefixes) or name.endswith("_dreamerrepo")}


def test_unpublished_game_is_left_out_of_a_reference() -> None:
    assert "Jamesbond" not in reference("rainbow").scores
    assert len(reference("rainbow").scores) == 54


def test_short_dopamine_budgets_are_single_iterations_of_the_agent_in_the_name() -> None:
    assert reference("dopamine_dqn_tf_1M").scores["AirRaid"] == 518.81
    assert reference("dopamine_dqn_adam_mse_jax_2M").scores["AirRaid"] == 671.57
    assert reference("dopamine_c51_tf_5M").scores["AirRaid"] == 1537.92
    assert reference("dopamine_c51_tf_10M").scores["AirRaid"] == 2762.12


def test_importing_scores_imports_no_numpy_and_reads_no_table() -> None:
    program = (
        "import sys, rl_lab.scores.tables as t; "
        "assert 'numpy' not in sys.modules; assert t.read_rows.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
