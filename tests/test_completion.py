"""Shell completion as shells use it: `rl-lab` run with an unfinished line in the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rl_lab.atari import PROTOCOLS, all_games
from rl_lab.cli.main import COMMANDS, main
from rl_lab.experiment import config_names
from rl_lab.scores import TABLE_NAMES


@pytest.fixture(autouse=True)
def in_a_folder_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "here", "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    Path("mine.toml").write_text('name = "mine"\n')
    Path("bandit.py").touch()


def ask(line: str, *options: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """What completes the line, and the process that said so."""
    answer = Path("..", "answer")
    environment = {
        **{"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"},
        **{"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)},
    }
    command = [sys.executable, *options, "-m", "rl_lab"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    return answer.read_text().splitlines() if answer.exists() else [], done


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [*COMMANDS]),
        ("tr", ["train"]),
        ("--v", ["--version"]),
        ("train ", [*config_names()]),
        ("train sb3_dqn/q", ["sb3_dqn/quick"]),
        ("train mi", ["mine.toml"]),
        ("train --game ", [*all_games()]),
        ("train --game=Poo", ["--game=Pooyan"]),
        ("train --protocol ", [*PROTOCOLS]),
        ("train --agent ", ["apex_dqn", "dqn", "sb3_dqn", "sb3_ppo", "sb3_qrdqn", "uniform"]),
        ("train --agent ban", ["bandit.py"]),
        ("train dqn/like --seed 1 --agent.replay-cap", ["--agent.replay-capacity"]),
        ("train --agent.learning-rate 1 --protocol.st", ["--protocol.sticky-probability"]),
        ("train --device c", ["cpu", "cuda"]),
        ("train --seed ", []),
        ("train atari100k/drq_eps --without ", ["dueling", "n_step", "augmentation"]),
        ("train dqn/rainbow --without noisy d", ["double", "dueling"]),
        ("train dqn/mnih2013 --without ", []),
        ("train sb3_dqn/like --without ", []),
        ("train --resume ru", ["runs/"]),
        ("train --resume runs --agent.", []),
        ("train --resume=runs --tot", ["--total-steps"]),
        ("evaluate ru", ["runs/"]),
        ("evaluate model.zip --agent ", ["sb3_dqn", "sb3_ppo", "sb3_qrdqn"]),
        ("evaluate runs --agent ", ["bandit.py", "mine.toml", "runs/"]),
        ("evaluate runs --normalize ", [*TABLE_NAMES]),
        ("compare runs --reference dqn_nature", ["dqn_nature_2015"]),
        ("tensorboard runs --reference dopamine_iqn_c", ["dopamine_iqn_cnn", "dopamine_iqn_cnn_200M"]),
        ("tensorboard ru", ["runs/"]),
        (
            "list ",
            ["games", "suites", "agents", "switches", "configs", "sweeps", "tunes", "protocols", "references", "runs"],
        ),
        ("sweep ", ["mnih2013", "smoke"]),
        ("sweep mi", ["mine.toml"]),
        ("tune ", ["krull", "smoke"]),
        ("tune mi", ["mine.toml"]),
        ("compare runs --sweep sm", ["smoke"]),
        ("bench --d", ["--device"]),
    ],
)
def test_what_may_stand_at_the_cursor_is_offered(line: str, expected: list[str]) -> None:
    answer, done = ask(f"rl-lab {line}")
    assert done.returncode == 0
    assert sorted(answer) == sorted(expected)


@pytest.mark.parametrize(
    "line", ["", *(f"{command} --" for command in COMMANDS), "train --agent ", "train --game ", "train --without "]
)
def test_no_completion_imports_torch(line: str) -> None:
    answer, done = ask(f"rl-lab {line}", "-X", "importtime")
    assert answer
    imported = {entry.rpartition("|")[2].strip() for entry in done.stderr.splitlines()}
    assert "argcomplete" in imported
    assert "torch" not in imported


@pytest.mark.parametrize("command", [*COMMANDS, "train sb3_dqn/like", "train --agent sb3_dqn", "train --agent uniform"])
def test_every_flag_of_the_help_is_offered(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no flag is cut
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    flags = re.findall(r"(?<=[ \[])--[a-z][a-z0-9.-]*", capsys.readouterr().out)
    answer, _ = ask(f"rl-lab {command} --")
    assert set(answer) == set(flags)


def test_flags_of_an_own_config_are_those_of_its_agent() -> None:
    budget = 'name = "mine"\ngame = "Pong"\ntotal_steps = 400\niteration_steps = 200\n'
    Path("mine.toml").write_text(f'{budget}[protocol]\nname = "sb3_zoo"\n[agent]\nname = "sb3_dqn"\n')
    answer, _ = ask("rl-lab train mine.toml --agent.e")
    assert answer == ["--agent.epsilon-start", "--agent.epsilon-end", "--agent.epsilon-decay-steps"]


def test_switches_that_an_own_config_leaves_to_their_defaults_are_offered() -> None:
    budget = 'name = "mine"\ngame = "Pong"\ntotal_steps = 400\niteration_steps = 200\n'
    Path("mine.toml").write_text(f'{budget}[protocol]\nname = "sb3_zoo"\n[agent]\nname = "dqn"\nn_step = 3\n')
    answer, _ = ask("rl-lab train mine.toml --without ")
    assert sorted(answer) == ["n_step", "target_network"]
    answer, _ = ask("rl-lab train sb3_dqn/quick --agent dqn --without ")
    assert answer == ["target_network"]


@pytest.mark.parametrize(
    "line", ["trian ", "train dqn/quik --seed 1 --", "train --protocol nature2014 --", "train mine.toml --"]
)
def test_nothing_follows_a_mistake(line: str) -> None:
    answer, done = ask(f"rl-lab {line}")
    assert (answer, done.returncode, done.stdout) == ([], 2, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rl-lab ev", ["evaluate "]),
        ("rl-lab train dqn/qui", ["dqn/quick "]),
        ("rl-lab train --agent.le", ["--agent.learning-starts-steps", "--agent.learning-rate"]),
        ("rl-lab train --game=Poo", ["Pooyan "]),  # bash completes what follows the =
        ("rl-lab compare ru", ["runs/"]),
    ],
)
def test_bash_completes_after_the_registration_of_the_readme(line: str, expected: list[str]) -> None:
    script = """
    eval "$(register-python-argcomplete rl-lab)"
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
    _python_argcomplete rl-lab
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "--norc", "-c", script, "bash", line]
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(expected)
