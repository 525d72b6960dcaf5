"""Play full games with a saved agent by the one evaluator: raw scores, the protocol's epsilon, own seeds.

SAVED is a run (its newest checkpoint), one checkpoint, or a .zip of stable-baselines3's DQN (then --game is needed). An
agent is evaluated under the protocol it was trained under, unless --protocol says otherwise.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import Protocol, game_actions, named_protocol, resolve_game
from rl_lab.checkpoint import newest_checkpoint, verify
from rl_lab.cli.main import Parser
from rl_lab.cli.progress import evaluation_line
from rl_lab.errors import LabError, LabWarning
from rl_lab.evaluation import evaluate
from rl_lab.saved import SavedFiles
from rl_lab.saved_agent import described_protocol, restore_agent
from rl_lab.scores import DEFAULT_TABLE, TABLE_NAMES, score_table
from rl_lab.system import use_machine

_ZIP_PROTOCOL = "sb3_zoo"


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab evaluate`."""
    parser.add_argument("saved", type=Path, metavar="SAVED", help="a run, a checkpoint, or an SB3 .zip")
    parser.add_argument("--episodes", type=int, metavar="INTEGER", help="full games (default: the protocol's number)")
    parser.add_argument("--seed", type=int, default=0, metavar="INTEGER", help="of the evaluation's games (default: 0)")
    parser.add_argument("--protocol", metavar="NAME", help="rules to play by (default: those of the training)")
    parser.add_argument("--game", metavar="NAME", help="another game with the same actions; needed for a .zip")
    parser.add_argument("--agent", metavar="FILE", help="your agent's .py file, if it is your own: it will be run")
    parser.add_argument(
        "--normalize", default=DEFAULT_TABLE, metavar="TABLE", help=f"human scores: {', '.join(TABLE_NAMES)}"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, metavar="INTEGER", help="0 is one for each core")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_all(arguments)
    table = score_table(options.normalize).name
    device, _ = use_machine(options.device, options.threads)
    load = _load_zip if options.saved.suffix == ".zip" else _load_checkpoint
    agent, game, protocol, trained = load(options, device)

    episodes = protocol.evaluation_episodes if options.episodes is None else options.episodes
    evaluation = evaluate(agent, game, protocol, episodes=episodes, seed=options.seed)
    if options.json:
        print(json.dumps({"saved": str(options.saved), **trained, **evaluation.as_record(table)}, indent=2))
    else:
        print(f"{game}, protocol {evaluation.protocol} ({evaluation.protocol_fingerprint}), seed {options.seed}")
        if trained:
            print(f"trained for {trained['trained_frames']:,} frames, protocol {trained['trained_protocol']}")
        print(f"median {evaluation.median_score:g}, {evaluation_line(evaluation, table)}")
    return 0


_Loaded = tuple[Agent, str, Protocol, dict[str, object]]
"""The agent, the game and the protocol to play by, and what is known of its training."""


def _load_checkpoint(options: argparse.Namespace, device: str) -> _Loaded:
    """An agent that the lab saved."""
    checkpoint = _checkpoint(options.saved)
    agent, description = restore_agent(checkpoint, agent_file=options.agent, device=device)
    trained = described_protocol(description)
    protocol = trained if options.protocol is None else named_protocol(options.protocol)
    game = resolve_game(options.game or description.game)
    actions = game_actions(game, protocol)
    if actions != tuple(description.actions):
        raise LabError(
            f"the agent was trained with {' '.join(description.actions)}, {game} has {' '.join(actions)}; "
            "evaluate it on a game with its actions"
        )
    return agent, game, protocol, {"trained_frames": description.frames, "trained_protocol": trained.label}


def _load_zip(options: argparse.Namespace, device: str) -> _Loaded:
    """A bare stable-baselines3 DQN with the zoo's network; nothing in the file is run. It knows no names of actions."""
    path: Path = options.saved
    if options.game is None:
        raise LabError(f"{path} does not say which game it plays; give --game")
    if options.agent is not None:
        raise LabError(f"--agent is {options.agent}, but {path} is a model of stable-baselines3; leave --agent out")
    if not path.is_file():
        raise LabError(f"no file {path}; give a .zip saved by stable-baselines3's DQN")
    game, protocol = resolve_game(options.game), named_protocol(options.protocol or _ZIP_PROTOCOL)
    agent_type = load_agent("sb3_dqn")
    task = Task(len(game_actions(game, protocol)), num_games=1, total_steps=0, seed=0, device=device)
    agent = agent_type(agent_type.Config(name="sb3_dqn"), task)
    agent.load(SavedFiles({"model.zip": path}))
    return agent, game, protocol, {}


def _checkpoint(saved: Path) -> Path:
    """The whole checkpoint that a path names: itself, or the newest of a run."""
    if (saved / "manifest.json").is_file():
        verify(saved, segments=False)
        return saved
    if not (saved / "checkpoints").is_dir():
        raise LabError(f"{saved} is no run and no checkpoint; give a run directory such as runs/Pong/dqn-pong/seed-0")
    checkpoint, problems = newest_checkpoint(saved)
    for problem in problems:
        warnings.warn(f"skipped a damaged checkpoint: {problem}", LabWarning, stacklevel=2)
    return checkpoint
