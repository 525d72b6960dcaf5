"""Measure this machine: agent steps a second of our DQN and of stable-baselines3's, at the same work in one run.

All train by the like configs (Nature network, batch 32, an update every 4 agent steps, one game), ours in full and in
half precision, in turns, so that what else the machine does falls on all. The ratio is the number to read; the rates
hold for this machine, this hour.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import AtariVectorEnv, game_actions
from rl_lab.cli.main import Parser
from rl_lab.cli.table import print_table
from rl_lab.errors import LabError
from rl_lab.experiment import ExperimentConfig, config_path, load_experiment
from rl_lab.provenance import processor_name
from rl_lab.seeding import seed_sequence
from rl_lab.system import use_machine

_LEARNING_STARTS_STEPS = 64
_LEAST_STEPS = 128
_REPLAY_CAPACITY = 10_000
_BASELINE = "sb3_dqn/like"
_CONTENDERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "dqn/like": ("dqn/like", {}),
    "dqn/like, bf16": ("dqn/like", {"precision": "bf16"}),
    _BASELINE: (_BASELINE, {}),
}
"""Row of the table -> config, and what differs from it."""


def main(parser: Parser, arguments: Sequence[str]) -> int:
    """`rl-lab bench`."""
    parser.add_argument("--steps", type=int, default=1_000, metavar="INTEGER", help="agent steps in a turn (1000)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="INTEGER", help="turns of each agent (5)")
    parser.add_argument("--threads", type=int, default=0, metavar="INTEGER", help="0 is one for each core")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_all(arguments)
    if options.steps < _LEAST_STEPS or options.steps % 4 or options.repetitions < 1:
        raise LabError(
            f"{options.steps} steps, {options.repetitions} repetitions; "
            f"allowed are multiples of 4 from {_LEAST_STEPS} on, and 1 or more"
        )
    device, threads = use_machine(options.device, options.threads)

    rates = measure(options.steps, options.repetitions, device)
    ratios = {
        name: [ours / theirs for ours, theirs in zip(rates[name], rates[_BASELINE], strict=True)]
        for name in rates
        if name != _BASELINE
    }
    machine = f"{processor_name()}, {threads} threads, {device}"
    if options.json:
        print(json.dumps({"machine": machine, "steps_per_second": rates, "ratios": ratios}, indent=2))
        return 0
    print(f"{machine}; {options.repetitions} turns of {options.steps} agent steps each, interleaved")
    print_table(
        ("agent steps a second", "median", "least", "most"),
        [
            *((name, *_summary(values, ".1f")) for name, values in rates.items()),
            *((f"ratio of {name}", *_summary(values, ".2f")) for name, values in ratios.items()),
        ],
    )
    return 0


def measure(steps: int, repetitions: int, device: str) -> Mapping[str, list[float]]:
    """Agent steps a second of each contender in each turn."""
    agents = {
        name: _ready_agent(load_experiment(config_path(config)), changes, steps * (repetitions + 1), device)
        for name, (config, changes) in _CONTENDERS.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in agents}
    for turn in range(repetitions + 1):
        for name, (agent, config) in agents.items():
            env = AtariVectorEnv(
                config.game, config.protocol, config.num_games, seed_sequence(0, "bench", turn), training=True
            )
            start = time.perf_counter()
            agent.train(env, steps, _NoLog())
            if turn:  # the first turn fills the replay memory and warms up
                rates[name].append(steps / (time.perf_counter() - start))
    return rates


def _ready_agent(
    config: ExperimentConfig, changes: Mapping[str, object], total_steps: int, device: str
) -> tuple[Agent, ExperimentConfig]:
    """The config's agent with changed hyperparameters, which learns from early in the first turn on."""
    table = {
        **vars(config.agent),
        **changes,
        "learning_starts_steps": _LEARNING_STARTS_STEPS,
        # Random actions cost nothing: the networks act from the start on, as they do in nine tenths of a run.
        "epsilon_decay_steps": _LEARNING_STARTS_STEPS,
        "replay_capacity": min(total_steps, _REPLAY_CAPACITY),
    }
    agent_type = load_agent(config.agent.name)
    task = Task(len(game_actions(config.game, config.protocol)), config.num_games, total_steps, seed=0, device=device)
    agent = agent_type(agent_type.Config(**table), task)
    agent.prepare()
    return agent, config


class _NoLog:
    """Metrics are not wanted."""

    def due(self) -> bool:
        """Never."""
        return False

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Nothing is kept."""


def _summary(values: Sequence[float], form: str) -> tuple[str, str, str]:
    return format(statistics.median(values), form), format(min(values), form), format(max(values), form)
