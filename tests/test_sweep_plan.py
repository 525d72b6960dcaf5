"""What a sweep plans: worked out by hand, the same as the command line would make, or one line about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_lab.agent import Task, load_agent
from rl_lab.atari import all_games
from rl_lab.cli.main import Parser
from rl_lab.cli.train import parse
from rl_lab.errors import LabError
from rl_lab.experiment import config_names, config_path, load_experiment
from rl_lab.scores import suites
from rl_lab.sweep.plan import PlannedRun, expand, plain_types, read_sweep, sweep_names, sweep_path
from tests.sweeps import STATELESS

AGENT = """
from rl_lab.agent import load_agent


class Mine(load_agent("uniform")):
    pass
"""
SMALL = """
name = "small"
agents = ["dqn/quick", "uniform"]
games = ["pong", "Krull"]
seeds = [0, 7]
"""
MATRIX = """
[overrides]
total_steps = 20_000
protocol.name = "machado2018"
[matrix]
agent.n_step = [1, 3]
"agent.double" = [true, false]
"""
LONG = """
agent.n_step = [3]
agent.learning_rate = [0.0001]
agent.target_update_steps = [1_000]
agent.replay_capacity = [10_000]
agent.learning_starts_steps = [1_000]
agent.epsilon_decay_steps = [2_000]
agent.update_every_steps = [8]
agent.epsilon_end = [0.01]
agent.batch_size = [32]
agent.discount = [0.99]
log_every_steps = [1_000]
evaluation_episodes = [30]
"""


def plan(text: str, *agent_files: str) -> list[PlannedRun]:
    Path("sweep.toml").write_text(text)
    return expand(read_sweep(Path("sweep.toml")), Path("runs"), agent_files)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_agents_games_and_seeds_make_a_run_each() -> None:
    assert [run.directory.as_posix() for run in plan(SMALL)] == [
        "runs/Pong/dqn-quick/seed-0",
        "runs/Pong/dqn-quick/seed-7",
        "runs/Krull/dqn-quick/seed-0",
        "runs/Krull/dqn-quick/seed-7",
        "runs/Pong/uniform-on-dqn-quick/seed-0",
        "runs/Pong/uniform-on-dqn-quick/seed-7",
        "runs/Krull/uniform-on-dqn-quick/seed-0",
        "runs/Krull/uniform-on-dqn-quick/seed-7",
    ]
    assert {run.config.threads for run in plan(SMALL)} == {1}


def test_each_cell_of_the_matrix_is_an_experiment_of_its_own_name() -> None:
    runs = plan(SMALL.replace(', "uniform"', "").replace('"pong", ', "").replace(", 7", "") + MATRIX)
    assert {run.config.name: (run.config.agent.n_step, run.config.agent.double) for run in runs} == {  # type: ignore[attr-defined]  # DQN's
        "dqn-quick-n_step-1-double-true": (1, True),
        "dqn-quick-n_step-1-double-false": (1, False),
        "dqn-quick-n_step-3-double-true": (3, True),
        "dqn-quick-n_step-3-double-false": (3, False),
    }
    assert {run.config.total_steps for run in runs} == {20_000}
    assert {run.config.protocol.sticky_probability for run in runs} == {0.25}
    assert len({run.directory for run in runs}) == 4


def test_an_unknown_sweep_gives_the_nearest_name() -> None:
    with pytest.raises(LabError, match=r"^no sweep 'smok'; did you mean 'smoke'.* or the path of a \.toml file\)$"):
        sweep_path("smok")


@pytest.mark.parametrize("name", sweep_names())
def test_the_flags_of_a_run_make_the_planned_experiment(name: str) -> None:
    runs = expand(read_sweep(sweep_path(name)), Path("elsewhere"))
    for run in (runs[0], runs[-1]):
        given = parse(Parser(allow_abbrev=False), run.flags)
        assert (given.config, given.options.runs) == (run.config, Path("elsewhere"))


@pytest.mark.parametrize("name", sweep_names())
def test_the_agents_of_a_shipped_sweep_fit_its_budget_and_games(name: str) -> None:
    for config in {run.config.name: run.config for run in expand(read_sweep(sweep_path(name)), Path("runs"))}.values():
        task = Task(6, config.num_games, config.total_steps, config.seed, iteration_steps=config.iteration_steps)
        load_agent(config.agent.name)(config.agent, task)  # LabError otherwise


def test_all_that_a_plan_can_override_has_a_flag() -> None:
    parser = Parser(allow_abbrev=False)
    config = parse(parser, []).config
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {f"--{key.replace('_', '-')}" for key in plain_types(config)} <= flags


def test_flags_carry_switches_numbers_and_the_agents_own_file() -> None:
    Path("mine.py").write_text(AGENT)
    matrix = '[matrix]\nprotocol.sticky_probability = [0, 0.125]\n[overrides]\nprotocol.name = "machado2018"\n'
    switches = (
        SMALL.replace(', "uniform"', "") + MATRIX.replace("true, false", "false") + "agent.learning_rate = [1e-5]\n"
    )
    for runs in (plan(switches), plan(SMALL.replace('"dqn/quick", "uniform"', '"mine.py"') + matrix, "mine.py")):
        for run in runs:
            assert parse(Parser(allow_abbrev=False), run.flags).config == run.config
    assert (runs[0].agent_file, runs[0].config.name) == (
        "mine.py",
        "mine-on-dqn-quick-protocol.sticky_probability-0.0",
    )


def test_an_experiment_of_ones_own_runs_its_agents_file_when_that_is_given() -> None:
    Path("mine.py").write_text(AGENT)
    Path("my.toml").write_text(load_experiment(config_path("dqn/quick"), agent="mine.py").to_toml())
    text = SMALL.replace('"dqn/quick", "uniform"', '"my.toml"')
    (run, *_) = plan(text, "mine.py")
    assert run.agent_file == "mine.py"
    assert parse(Parser(allow_abbrev=False), run.flags).config == run.config
    with pytest.raises(LabError, match=r"names the agent file mine\.py; give its path with --agent"):
        plan(text)


def test_an_agents_file_that_no_experiment_uses_is_refused() -> None:
    Path("mine.py").write_text(AGENT)
    text = SMALL.replace('"dqn/quick"', '"mine.py"')
    assert len(plan(text, "mine.py")) == 8
    for others in (("mine.py", "nowhere.py"), ("nowhere.py", "mine.py")):
        with pytest.raises(LabError, match=r"^no experiment uses the agent file nowhere\.py; leave it out of --agent"):
            plan(text, *others)


def test_a_run_that_is_there_is_resumed_with_its_agents_file() -> None:
    Path("mine.py").write_text(AGENT)
    (run, *_) = plan(SMALL.replace('"dqn/quick", "uniform"', '"mine.py"'), "mine.py")
    assert run.command() == ("train", *run.flags)
    run.directory.mkdir(parents=True)
    (run.directory / "config.toml").touch()
    assert run.command() == ("train", "--resume", str(run.directory), "--agent", "mine.py")


def test_a_run_whose_agent_keeps_no_state_is_overwritten() -> None:
    Path("mine.py").write_text(STATELESS)
    (run, *_) = plan(SMALL.replace('"dqn/quick", "uniform"', '"mine.py"'), "mine.py")
    assert run.command() == ("train", *run.flags)
    run.directory.mkdir(parents=True)
    (run.directory / "config.toml").touch()
    assert (run.can_go_on, run.command()) == (False, ("train", *run.flags, "--overwrite"))


def test_suites_stand_for_their_games() -> None:
    games = {run.config.game for run in plan(SMALL.replace('["pong", "Krull"]', '"atari26"'))}
    assert games == set(suites()["atari26"].games)
    assert {run.config.game for run in plan(SMALL.replace('"pong"', '"mnih2013-7"'))} == {
        *("BeamRider", "Breakout", "Enduro", "Pong", "Qbert", "Seaquest", "SpaceInvaders"),
        "Krull",
    }


def test_suites_have_the_games_that_they_are_named_for() -> None:
    assert {name: len(suite.games) for name, suite in suites().items()} == {
        **{"mnih2013-7": 7, "atari10": 10},
        **{"atari26": 26, "atari57": 57},
    }
    for suite in suites().values():
        assert set(suite.games) <= set(all_games())
        assert suite.source


def test_sweeps_are_no_experiments() -> None:
    assert not [name for name in config_names() if "sweep" in name or name in sweep_names()]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("dqn/quick", "dqn/quik"), "no config 'dqn/quik'; did you mean 'dqn/quick'?"),
        (("pong", "pnog"), "no game or suite 'pnog'; did you mean 'Pong'?"),
        (("pong", "atari11"), "no game or suite 'atari11'; did you mean 'atari10'?"),
        (("uniform", "dqn/quick"), "dqn-quick on Pong, seed 0 is planned twice"),
        (("[0, 7]", "[3, 3]"), "dqn-quick on Pong, seed 3 is planned twice"),
        (('"Krull"', '"Pong"'), "dqn-quick on Pong, seed 0 is planned twice"),
        (("[0, 7]", "[]"), "seeds is []; allowed is a list of at least one of integers"),
        (("[0, 7]", "[true]"), "seeds is [True]; allowed is a list of at least one of integers"),
        (("[0, 7]", "[-1]"), "seed is -1; allowed is 0 to"),
        (("seeds", "seed"), "sweep.toml: unknown key 'seed'; did you mean 'seeds'?"),
        (('"small"', '"a/b"'), "name is 'a/b'"),
        (('"small"', f'"{"a" * 256}"'), "of 256 characters; allowed are at most 255"),
        (("agent.n_step = [1, 3]", LONG), "characters; allowed are at most 255"),
        (('"uniform"', '"mine.py"'), "the sweep names the agent file mine.py; give its path with --agent, too"),
        (("[overrides]", "[override]"), "unknown key 'override'; did you mean 'overrides'?"),
        (("total_steps", "total_step"), "dqn/quick has no 'total_step' to override; did you mean 'total_steps'?"),
        (("agent.n_step", "n_step"), "dqn/quick has no 'n_step' to override; did you mean 'agent.n_step'?"),
        *(
            (change, "dqn/quick has no 'protocol.evaluation_episodes' to override; did you mean 'evaluation_episodes'?")
            for change in (
                ("total_steps = 20_000", "protocol.evaluation_episodes = 2"),
                ("agent.n_step = [1, 3]", "protocol.evaluation_episodes = [1, 3]"),
            )
        ),
        (("20_000", "'many'"), "total_steps for dqn/quick is 'many'; allowed is an integer"),
        (("20_000", "-2"), "dqn/quick: total_steps is -2; allowed is 1 or more"),
        (("20_000", "20_001"), "dqn/quick: total_steps is 20001; allowed are multiples of the 8 games"),
        (("machado2018", "machado2019"), "machado2019"),
        (("total_steps = 20_000", '"protocol.name" = "atari100k"'), "protocol.name is given twice, in two ways to"),
        (("agent.n_step = [1, 3]", "agent.double = [true]"), "agent.double is given twice, in two ways to"),
        (("agent.n_step", "seed"), "seed cannot be overridden"),
        (("agent.n_step", "total_steps"), "total_steps is in the matrix and in the overrides"),
        (("[1, 3]", "3"), "matrix.agent.n_step is 3; allowed is a list of at least one of"),
        (("[1, 3]", "[1, 1]"), "dqn-quick-n_step-1-double-true on Pong, seed 0 is planned twice"),
        (("n_step = [1, 3]", "discount = [0, 0.0]"), "dqn-quick-discount-0.0-double-true on Pong, seed 0 is planned"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(change: tuple[str, str], line: str) -> None:
    text = SMALL + MATRIX if change[0] in MATRIX else SMALL
    with pytest.raises(LabError) as error:
        plan(text.replace(*change))
    assert line in str(error.value)


def test_an_override_that_an_agent_has_not_is_refused_by_its_name() -> None:
    with pytest.raises(LabError, match=r"uniform has no 'agent\.n_step' to override"):
        plan(SMALL + MATRIX)
