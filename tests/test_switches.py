"""What an agent can be trained without: each switch of our DQN alone, and the commands that name them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.cli.main import main
from rl_lab.config import field_types, typed, value_text
from rl_lab.experiment import config_names, config_path, load_experiment
from rl_lab.switches import Switch
from tests.tiny import tiny_dqn

SWITCHES = load_agent("dqn").Config.switches
PRESETS = {name: load_experiment(config_path(name)).agent for name in config_names()}
MANY_ON = tiny_dqn(
    network="impala",
    spectral_norm=True,
    layer_norm=True,
    dropout=0.1,
    noisy=True,
    augmentation="shift",
    optimizer="adamw",
    weight_decay=0.1,
    target_update_steps=0,
    target_rate=0.01,
    updates_at_once=2,
    reset_every_updates=10,
)
"""What no preset has on."""


@pytest.fixture(autouse=True)
def in_an_empty_folder_on_a_wide_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def without(agent: AgentConfig, name: str) -> AgentConfig:
    changes: dict[str, Any] = {**agent.turn_off([name])[name]}
    return dataclasses.replace(agent, **changes)


def changed(one: AgentConfig, other: AgentConfig) -> dict[str, object]:
    """Fields that differ, with the second's values."""
    return {field: value for field, value in vars(other).items() if value != getattr(one, field)}


@pytest.mark.parametrize("switch", SWITCHES, ids=[switch.name for switch in SWITCHES])
def test_a_switch_names_fields_of_the_config_and_values_of_their_types(switch: Switch) -> None:
    types = field_types(load_agent("dqn").Config)
    assert set(switch.fields) <= set(types)
    values = [(switch.field, switch.off), (switch.field, switch.on)]
    values += [(field, value) for field, *both in switch.instead for value in both]
    for field, value in values:
        assert value is None or type(typed(value, types[field], field)) is type(value)


@pytest.mark.parametrize(
    ("agent", "switch"),
    [
        pytest.param(agent, switch, id=f"{name}-{switch.name}")
        for name, agent in {**PRESETS, "many": MANY_ON}.items()
        for switch in agent.switches_on
    ],
)
def test_a_switch_that_is_turned_off_changes_its_fields_and_no_other_switch(agent: AgentConfig, switch: Switch) -> None:
    less = without(agent, switch.name)
    instead = {field for field, *_ in switch.instead}
    assert switch.field in changed(agent, less)
    assert set(changed(agent, less)) <= {switch.field} | instead
    gone = {one.name for one in agent.switches_on} - {one.name for one in less.switches_on}
    assert gone == {switch.name} | {other.name for other in agent.switches_on if other.field in instead}


def test_every_switch_is_on_somewhere_above() -> None:
    of_dqn = [agent for agent in (*PRESETS.values(), MANY_ON) if agent.name == "dqn"]
    assert {switch for agent in of_dqn for switch in agent.switches_on} == set(SWITCHES)
    assert len({switch.name for switch in SWITCHES}) == len(SWITCHES)


@pytest.mark.parametrize(("name", "decay_steps"), [("dqn/rainbow", 62_500), ("atari100k/der", 5_000)])
def test_an_agent_that_loses_its_noise_explores_by_epsilon(name: str, decay_steps: int) -> None:
    less = without(PRESETS[name], "noisy")
    expected = {"epsilon_start": 1.0, "epsilon_end": 0.01, "epsilon_decay_steps": decay_steps}
    assert {field: getattr(less, field) for field in expected} == expected


def test_without_a_target_network_nothing_is_chosen_by_another() -> None:
    less = without(PRESETS["dqn/rainbow"], "target_network")
    assert changed(PRESETS["dqn/rainbow"], less) == {"target_update_steps": 0, "double": False}


def test_features_of_any_pool_go_with_their_network() -> None:
    agent = tiny_dqn(network="impala", impala_pool=4)
    assert changed(agent, without(agent, "impala")) == {"network": "nature", "impala_pool": 0}


def test_an_agent_that_explores_by_epsilon_too_keeps_it_without_noise() -> None:
    agent = tiny_dqn(noisy=True, epsilon_end=0.05)
    assert changed(agent, without(agent, "noisy")) == {"noisy": False}


def resolved(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str, AgentConfig]:
    """Comments, name and agent of a dry run."""
    assert main(["train", *command.split(), "--dry-run"]) == 0
    text = capsys.readouterr().out
    Path("resolved.toml").write_text(text)
    config = load_experiment(Path("resolved.toml"))
    return [line for line in text.splitlines() if line.startswith("#")], config.name, config.agent


def test_without_turns_off_and_names_the_experiment_whatever_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    comments, name, agent = resolved("atari100k/der --without noisy prioritized", capsys)
    assert name == "der-without-prioritized-noisy"
    assert comments == [
        "# without prioritized: replay_sampling = uniform",
        "# without noisy: noisy = false, epsilon_start = 1.0, epsilon_end = 0.01, epsilon_decay_steps = 5_000",
    ]
    assert agent == without(without(PRESETS["atari100k/der"], "noisy"), "prioritized")
    again = "atari100k/der --without prioritized --seed 0 --without noisy prioritized"
    assert resolved(again, capsys) == (comments, name, agent)


def test_flags_win_over_without(capsys: pytest.CaptureFixture[str]) -> None:
    _, name, agent = resolved("dqn/rainbow --without noisy --agent.epsilon-end 0.05 --name mine", capsys)
    assert (name, vars(agent)["epsilon_end"], vars(agent)["epsilon_decay_steps"]) == ("mine", 0.05, 62_500)


def test_what_excluded_a_switch_may_be_turned_off_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, agent = resolved("dqn/quick --without double --agent.munchausen", capsys)
    assert {"munchausen", "n_step"} <= {switch.name for switch in agent.switches_on}


def test_a_run_without_a_switch_says_so_and_has_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "--total-steps 200 --iteration-steps 200 --num-games 2 --threads 1 --device cpu --evaluation-episodes 1"
    rules = "--protocol.max-frames-per-episode 400 --agent.learning-starts-steps 150 --agent.replay-capacity 1000"
    assert main(["train", *tiny.split(), *rules.split(), "--without", "n_step", "double"]) == 0
    first, *notes, _, last, _, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("dqn-quick-without-double-n_step on Pong")
    assert notes == ["without double: double = false", "without n_step: n_step = 1"]
    assert last.startswith("runs/Pong/dqn-quick-without-double-n_step/seed-0: mean score")


def explained(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """All lines, field -> value and source in one line, and the order of headings and fields; each field once.

    Fields as flags name them: of the experiment, then of its protocol, then of its agent.
    """
    assert main(["train", *command.split(), "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    blocks = "\n".join(lines).split("\n\n")
    tables = [block.splitlines() for block in blocks if "\n  " in block]
    rows: dict[str, str] = {}
    order = []
    prefixes = ["", "protocol.", *["agent."] * (len(tables) - 2)]
    for prefix, (heading, *table) in zip(prefixes, tables, strict=True):
        order.append(heading)
        for line in table:
            if line.startswith("   "):
                rows[order[-1]] += f" {line.strip()}"
            elif line.startswith("  "):
                name, text = line.split(maxsplit=1)
                field = prefix + name
                assert field not in rows
                rows[field] = " ".join(text.split())
                order.append(field)
    return lines, rows, order


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", [*config_names(), "dqn/quick --agent uniform"])
def test_an_explanation_names_every_field_once_with_its_value_and_fits_the_screen(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines, rows, _ = explained(name, capsys)
    config_name, *agent = name.split(" --agent ")
    config = load_experiment(config_path(config_name), agent=agent[0] if agent else None)
    assert {field: row.split()[0] for field, row in rows.items()} == {
        field: value_text(value) for field, value in config.values().items()
    }
    opening = config_path(config_name).read_text().split("\nname")[0].replace("# ", "").split()
    assert " ".join(opening) in " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= columns


def test_an_explanation_groups_fields_by_switch_what_is_off_last(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _, order = explained("atari100k/der", capsys)
    on = "target_network, double, prioritized, dueling, n_step, noisy, categorical, gradient_clipping"
    assert lines[0] == f"der on Pong: dqn with {on}"
    place = order.index("noisy (Fortunato et al. 2018)")
    assert order[place : place + 3] == ["noisy (Fortunato et al. 2018)", "agent.noisy", "agent.noisy_sigma"]
    assert order[place + 3] == "categorical (Bellemare et al. 2017)"
    itself = order.index("dqn itself")
    (off,) = [place for place, line in enumerate(order) if line.startswith("off: average_target, quantile, ")]
    assert order.index("protocol atari100k") < place < itself
    places = [order.index(f"agent.{field}") for field in ("network", "learning_rate", "munchausen")]
    assert itself < places[0] < places[1] < off < places[2]


def test_an_explanation_says_where_each_number_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    command = "atari100k/der --without noisy --agent.learning-rate 2e-4 --agent.epsilon-end 0.02"
    _, rows, order = explained(f"{command} --seed 3 --protocol.noop-max 0", capsys)
    assert order[0] == "experiment"
    assert "protocol atari100k(noop_max=0)" in order
    assert {
        "name": "der-without-noisy from the command line (--without), in place of der",
        "total_steps": "100_000 400,000 frames",
        "seed": "3 from the command line, in place of 0",
        "protocol.name": "atari100k -",
        "protocol.noop_max": "0 from the command line, in place of 30",
        "protocol.life_loss": "ends_return atari100k's",
        "agent.n_step": "20 paper",
        "agent.precision": "fp32 -",
        "agent.learning_rate": "0.0002 from the command line, in place of 0.0001",
        "agent.noisy": "false from the command line (--without noisy), in place of true",
        "agent.epsilon_decay_steps": "5_000 from the command line (--without noisy), in place of 0",
        "agent.epsilon_end": "0.02 from the command line, in place of 0.0",
    }.items() <= rows.items()
    assert rows["agent.dropout"].startswith("0.0 default: Chance that a hidden unit is left out while learning and")


def test_another_agent_is_not_explained_by_the_comments_of_the_files_own(capsys: pytest.CaptureFixture[str]) -> None:
    _, rows, order = explained("dqn/quick --agent sb3_dqn", capsys)
    assert [line for line in order if line not in rows] == ["experiment", "protocol nature2015", "sb3_dqn itself"]
    assert rows["name"] == "sb3_dqn-on-dqn-quick from the command line (--agent)"
    assert rows["total_steps"] == "250_000 1 million frames"
    assert rows["agent.name"] == "sb3_dqn from the command line"
    assert rows["agent.n_step"] == "1 default: Steps of reward before the return is bootstrapped (SB3's n_steps)."


def test_another_protocol_is_not_explained_by_the_comments_of_the_files_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, rows, _ = explained("dqn/rainbow --protocol atari100k", capsys)
    assert {
        "evaluation_episodes": "100 from the command line (--protocol)",
        "protocol.name": "atari100k from the command line",
        "protocol.evaluation_epsilon": "0.001 atari100k's",
        "agent.n_step": "3 table 1",
    }.items() <= rows.items()
    _, rows, _ = explained("dqn/rainbow", capsys)
    assert rows["protocol.evaluation_epsilon"] == "0.001 Kaixhin"
    assert rows["evaluation_episodes"] == "30 the lab's; the paper plays 500,000 frames"


def test_an_explanation_takes_comments_from_any_toml(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text(
        """\
agent.double = true # dotted, and before its name
name = "mine"
game = "Pong"
total_steps = 400_000
iteration_steps = 200_000
protocol = { name = "nature2015" }
agent."n_step" = 3 # quoted
agent.name = "dqn"
"""
    )
    lines, rows, _ = explained("mine.toml", capsys)
    assert lines[:2] == ["mine on Pong: dqn with target_network, double, n_step", ""]
    assert (rows["agent.double"], rows["agent.n_step"]) == ("true dotted, and before its name", "3 quoted")
    assert rows["seed"].startswith("0 default: Root of all random streams")


def test_list_switches_shows_paper_fields_and_the_configs_that_have_it_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "switches"]) == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("double ")} == {
        "apex_dqn",
        "dqn",
    }
    assert main(["list", "switches", "--agent", "dqn"]) == 0
    text = capsys.readouterr().out
    header, *lines = text.splitlines()
    starts = [line[:1] != " " for line in lines]
    assert [line.split()[0] for line, start in zip(lines, starts, strict=True) if start] == [
        switch.name for switch in SWITCHES
    ]
    (noisy,) = [line for line in lines if line.startswith("noisy ")]
    cells = ["noisy", "dqn", "Fortunato et al. 2018", "noisy, noisy_sigma", "atari100k/der, dqn/btr, dqn/rainbow"]
    places = [header.index(name) for name in ("switch", "agent", "paper", "fields", "on in")]
    assert [noisy[a:b].strip() for a, b in zip(places, [*places[1:], None], strict=True)] == cells
