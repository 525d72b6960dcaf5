"""What the library says of each published agent beside its scores: runs, seeds, source, curve."""

from __future__ import annotations

import math
import statistics

import pytest

from rl_lab.scores import Reference, curves, published, reference, references, score_table
from rl_lab.scores.tables import read_column, read_rows

WITH_RUNS = [agent for agent in references().values() if agent.runs]


def test_ten_agents_of_atari_100k_have_their_runs() -> None:
    assert {agent.name.removeprefix("atari100k_"): agent.seeds for agent in WITH_RUNS} == {
        "simple_5seed": 5,
        "curl_100seed_final": 100,
        "curl_100seed_max10": 100,
        "drq_eps_100seed": 100,
        "spr_100seed": 100,
        "iris": 5,
        "dreamerv3_2024": 5,
        "ppo_fixhp_100k": 5,
        "storm": 5,
        "diamond": 5,
    }


@pytest.mark.parametrize("agent", WITH_RUNS, ids=lambda agent: agent.name)
def test_score_is_the_mean_of_the_runs_in_each_game(agent: Reference) -> None:
    assert agent.runs.keys() == agent.scores.keys()
    for game, runs in agent.runs.items():
        assert len(runs) == agent.seeds, game
        # The columns have five digits, or two decimals where that is less.
        score = agent.scores[game]
        assert math.isclose(statistics.fmean(runs), score, rel_tol=5.1e-5, abs_tol=0.0051), game


def test_agent_of_which_only_means_are_published_has_no_runs() -> None:
    assert reference("atari100k_bbf_rr8").runs == {}
    assert reference("rainbow").runs == {}


def test_what_is_named_twice_is_there_once() -> None:
    agents, training = published(["rainbow", "dopamine_dqn_cnn", "rainbow", "dopamine_dqn_cnn"])
    assert [agent.name for agent in agents] == ["rainbow"]
    assert [curve.name for curve in training] == ["dopamine_dqn_cnn"]


def test_every_reference_says_where_it_was_read() -> None:
    for agent in references().values():
        assert agent.source, agent.name
        assert agent.description == f"{agent.title}; {agent.protocol}"


def test_seeds_are_unknown_where_the_source_does_not_say_or_contradicts_itself() -> None:
    # PFRL's README speaks of 5 runs and of 6 seeds; DreamerV3's games have 3 to 6.
    for name in ("dqn_nature_2015", "rainbow", "pfrl_dqn", "dreamerv3_200M_dreamerrepo", "atari100k_sr_spr", "agent57"):
        assert reference(name).seeds is None, name
    named = ("sb3_zoo_dqn", "tianshou_dqn_best", "cleanrl_dqn_10M", "pfrl_iqn", "atari100k_spr_paper", "disco57_200M")
    assert [reference(name).seeds for name in named] == [1, 1, 3, 3, 10, 2]


def test_seeds_of_dopamines_references_are_those_of_most_points_of_their_curves() -> None:
    dopamine = [agent for agent in references().values() if agent.name.startswith("dopamine_")]
    for agent in dopamine:
        assert agent.curve is not None, agent.name
        games = curves()[agent.curve].games.values()
        assert statistics.mode(seeds for game in games for seeds in game.seeds) == agent.seeds, agent.name
    assert all(agent.curve is None for agent in references().values() if agent not in dopamine)


def test_agents_far_beyond_200_million_frames_are_normalized_by_the_default_table() -> None:
    rows = read_rows("agent57_reference.csv")
    assert read_column(rows, "random") == score_table().random
    assert read_column(rows, "human") == score_table().human
    assert reference("muzero_20B").frames == 20_000_000_000
    assert reference("agent57").frames is None  # quoted as nearly 80 billion and as 90 billion
