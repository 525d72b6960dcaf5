"""Play full games with a saved agent by the one evaluator: raw scores, the protocol's epsilon, own seeds.

SAVED is a run (its newest checkpoint), one checkpoint, or a .zip of stable-baselines3's DQN or PPO or of sb3-contrib's
QR-DQN (then --game is needed). An agent is evaluated under the protocol it was trained under, unless --protocol says
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rl_lab.cli.main import Parser
from rl_lab.cli.progress import evaluation_line
from rl_lab.cli.saved import add_saved, load_saved
from rl_lab.evaluation import evaluate
from rl_lab.scores import DEFAULT_TABLE, TABLE_NAMES, score_table
from rl_lab.system import use_machine


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab evaluate`."""
    add_saved(parser)
    parser.add_argument("--episodes", type=int, metavar="INTEGER", help="full games (default: the protocol's number)")
    parser.add_argument("--seed", type=int, default=0, metavar="INTEGER", help="of the evaluation's games (default: 0)")
    parser.add_argument(
        "--normalize", default=DEFAULT_TABLE, metavar="TABLE", help=f"human scores: {', '.join(TABLE_NAMES)}"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_all(arguments)
    table = score_table(options.normalize).name
    device, _ = use_machine(options.device, options.threads)
    agent, game, protocol, trained, _ = load_saved(options, device)

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
