"""Shell completion, by argcomplete: the shell runs `rl-lab` with the unfinished line in the environment.

The command runs up to `parser.parse_all`, where its arguments are declared; there argcomplete answers in place of
parsing, and the process ends. So commands declare nothing a second time; they only import no torch before they parse.
What a line may not need is imported where it is needed: the emulators alone take 0.2 s.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import argcomplete
from argcomplete.completers import BaseCompleter, FilesCompleter
from argcomplete.lexers import split_line

from rl_lab.cli.main import COMMANDS, Parser, run
from rl_lab.errors import LabError
from rl_lab.switches import Switch, Value

if TYPE_CHECKING:
    from rl_lab.experiment import ExperimentConfig


def complete() -> int:
    """Answer the shell; the process ends here."""
    *_, words, _ = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    arguments = words[int(os.environ["_ARGCOMPLETE"]) :]  # it counts the words of the program: `python -m rl_lab` is 3
    if arguments[:1] == ["train"]:
        from rl_lab.cli import train
        from rl_lab.cli.supervise import goes_on

        parser = _Completing(prog="rl-lab train", allow_abbrev=False)
        if goes_on(arguments):
            train.add_resume_flags(parser)
            parser.parse_all(arguments[1:])
        train.parse(parser, arguments[1:], load=_load_experiment)
    return run(arguments, _Completing)


class _Completing(Parser):
    """Answers the shell where it would parse."""

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Print what may stand at the cursor, and end the process."""
        # To argcomplete, the command is one more word of the program.
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + len(self.prog.split()) - 1)
        argcomplete.autocomplete(self, always_complete_options=False, default_completer=_Values())
        return super().parse_all(arguments)


class _Values(BaseCompleter):
    """What an argument may be: names that begin so, else paths, where the argument takes any."""

    def __call__(
        self, *, prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, parsed_args: argparse.Namespace
    ) -> Iterable[str]:
        """All values that begin with the prefix."""
        saved = vars(parsed_args).get("saved")
        if action.dest == "agent" and isinstance(saved, Path) and saved.suffix == ".zip":
            from rl_lab.cli.saved import ZIP_AGENTS

            return [name for name in ZIP_AGENTS.values() if name.startswith(prefix)]
        is_path = action.type is Path or action.metavar == "FILE"
        names = [] if is_path else [name for name in _names(action.dest) if name.startswith(prefix)]
        takes_path = is_path or action.dest in ("config", "sweep", "tune", "agent")
        return names or (FilesCompleter()(prefix) if takes_path else [])


def _names(argument: str) -> Iterable[str]:
    """The names for an argument; they are the same in every command."""
    match argument:
        case "command":
            return COMMANDS
        case "config":
            from rl_lab.experiment import config_names

            return config_names()
        case "sweep":
            from rl_lab.sweep.plan import sweep_names

            return sweep_names()
        case "tune":
            from rl_lab.tune.plan import tune_names

            return tune_names()
        case "agent":
            from rl_lab.agent import agent_names

            return agent_names()
        case "game" | "games":
            from rl_lab.atari import all_games

            return all_games()
        case "protocol":
            from rl_lab.atari import PROTOCOLS

            return PROTOCOLS
        case "device":
            from rl_lab.system import DEVICES

            return DEVICES
        case "ray":
            return ("auto", "local")
        case "reference":
            from rl_lab.scores import curve_names, references

            return (*references(), *curve_names())
        case "format":
            from rl_lab.report.text import FORMATS

            return FORMATS
        case "normalize":
            from rl_lab.scores import TABLE_NAMES

            return TABLE_NAMES
    return ()


def _load_experiment(path: Path, *, agent: str | None, protocol: str | None) -> ExperimentConfig:
    """`load_experiment` without the agent's file, which imports torch: its hyperparameters are the configs' keys."""
    from rl_lab.agent import AgentConfig
    from rl_lab.config import read_toml
    from rl_lab.experiment import config_names, config_path, load_experiment

    # The uniform agent stands in: it has no hyperparameters, and its file imports no torch.
    experiment = load_experiment(path, agent="uniform", protocol=protocol)
    own = read_toml(path)["agent"]
    name = own.get("name") if agent is None else agent
    shipped = [read_toml(config_path(config))["agent"] for config in config_names()]
    switches = _declared_switches(str(name))
    defaults = {"name": name, **{switch.field: default for switch, default in switches.items()}}
    tables = [table for table in (*shipped, defaults, own) if table.get("name") == name]
    keys = {key: value for table in tables for key, value in table.items()}
    agent_type = dataclasses.make_dataclass(
        "AgentKeys",
        [(key, type(value)) for key, value in keys.items()],
        bases=(AgentConfig,),
        namespace={"switches": tuple(switches)},
        frozen=True,
        kw_only=True,
    )
    return dataclasses.replace(experiment, agent=agent_type(**keys))


def _declared_switches(agent: str) -> dict[Switch, Value]:
    """Those of the agent's file, which is read and not run, with the default of the field that turns each on and off.

    None where they are not declared in literals.
    """
    from rl_lab.agent import agent_path

    try:
        switches, defaults = [], {}
        for node in ast.walk(ast.parse(agent_path(agent).read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Switch"), args=args, keywords=keywords):
                    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
                    switches.append(Switch(*map(ast.literal_eval, args), **named))
                case ast.AnnAssign(target=ast.Name(id=field), value=ast.expr() as default):
                    defaults[field] = default
        return {switch: ast.literal_eval(defaults[switch.field]) for switch in switches}
    except (LabError, OSError, SyntaxError, TypeError, ValueError, KeyError):
        return {}
