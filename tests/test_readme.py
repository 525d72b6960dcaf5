"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rl_lab.cli.main import main
from rl_lab.experiment import config_names

README = (Path(__file__).parent.parent / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_the_agent_of_the_readme_trains_and_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = code_blocks("python")
    Path("bandit.py").write_text(text)
    short = "--total-steps 240 --iteration-steps 240 --num-games 2 --log-every-steps 80 --evaluation-episodes 1"
    rules = "--protocol.max-frames-per-episode 400 --threads 1"
    assert main(f"train --agent bandit.py --game Freeway {short} {rules}".split()) == 0
    again = "rl-lab evaluate runs/Freeway/bandit-on-dqn-quick/seed-0 --agent bandit.py --episodes 100"
    assert capsys.readouterr().out.endswith(f"\nplay more:  {again}\n")
    assert main(["evaluate", "runs/Freeway/bandit-on-dqn-quick/seed-0", "--agent", "bandit.py", "--episodes", "1"]) == 0
    assert "mean score" in capsys.readouterr().out.splitlines()[-1]


def test_every_command_of_the_readme_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in code_blocks("sh") for line in block.splitlines() if line.startswith("rl-lab train")]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
        if "--resume" in words or words[1].startswith("runs/"):  # there is no such file here
            assert main(words) == 2
            assert ("config.toml" if "--resume" in words else words[1]) in capsys.readouterr().err
        elif "bandit.py" not in words:
            assert main([*words, "--dry-run"]) == 0, command


def test_every_flag_of_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"\brl-lab ([a-z]+) ([^`\n]*--[^`\n]*)", README)
    assert {"train", "evaluate", "tensorboard"} <= {command for command, _ in commands}
    for command, rest in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        for flag in re.findall(r"--[a-z.-]+", rest):
            assert flag in known or flag == "--agent.learning-rte", (command, flag)


def test_every_file_that_the_readme_links_exists() -> None:
    linked = re.findall(r"\]\(([^):]+)\)", README)
    assert "docs/dashboard.png" in linked
    assert [name for name in linked if not (Path(__file__).parent.parent / name).is_file()] == []


def test_every_config_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"\b(?:dqn|sb3_dqn)/[a-z0-9_]+\b(?!\.)", README))
    assert named <= set(config_names())
    assert named


def test_every_file_that_the_readme_names_exists() -> None:
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:agents|configs|rl_lab|docs|tests)/[\w/.]*)`", README):
        assert (root / name).exists(), name
