"""Distributed acting and replay on this machine, and what the same would send with 256 actors.

Nobody waits for anybody: actors and the learner each go as fast as the machine lets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_lab.agent import Task, load_agent
from rl_lab.apex.acting import Actor, ActorSettings
from rl_lab.apex.shard import Shard, ShardSettings
from rl_lab.atari import AtariVectorEnv, game_actions
from rl_lab.benchmarks.measuring import Report, Row, Settings, seconds
from rl_lab.experiment import ExperimentConfig, config_path, load_experiment
from rl_lab.networks import Architecture, build_network
from rl_lab.seeding import seed_sequence

_CONFIG = "apex/small"
_ACTORS = (1, 2, 4, 8)
_GAMES = ("Pong", "Seaquest", "Krull")
"""Screens that compress well, less and least: see docs/benchmarks.md."""
_CHUNKS = 20
_BATCH_SIZE = 512
_MANY_ACTORS = 256
_ACTOR_STEPS_PER_SECOND = 139 / 4
"""Of an actor in Horgan et al. 2018, section 4.1: 139 frames a second."""
_UPDATES_PER_SECOND = 19
_UPDATES_PER_VERSION = 50
"""Of the weights that actors take: configs/apex/horgan2018.toml."""


def run(settings: Settings) -> Report:
    """Rates by number of actors, bytes by game, and what these come to with many."""
    config = load_experiment(config_path(_CONFIG))
    rows = [row for actors in _ACTORS for row in _rates(config, actors, settings)]
    sent = {game: _bytes_per_transition(game, config) for game in _GAMES}
    for game, (into, out) in sent.items():
        rows += [
            Row(f"a transition of {game}, into the replay", "B", [into]),
            Row(f"a transition of {game}, to the learner", "B", [out]),
        ]
    weights = _weight_bytes()
    rows.append(Row("a version of the weights, dueling Nature network", "MB", [weights / 1e6]))
    into, out = (max(side) for side in zip(*sent.values(), strict=True))
    megabytes = {
        "into the replay": _MANY_ACTORS * _ACTOR_STEPS_PER_SECOND * into,
        "to the learner": _UPDATES_PER_SECOND * _BATCH_SIZE * out,
        "weights, to each machine": _UPDATES_PER_SECOND / _UPDATES_PER_VERSION * weights,
    }
    rows += [Row(f"{_MANY_ACTORS} actors: {name}", "MB/s", [value / 1e6]) for name, value in megabytes.items()]
    notes = (
        f"{_MANY_ACTORS} actors: computed from the bytes above, of the worst game, at the paper's pace: "
        f"{_ACTOR_STEPS_PER_SECOND:.0f} steps/s an actor, {_UPDATES_PER_SECOND} updates/s of {_BATCH_SIZE}",
    )
    return Report(
        rows, f"turns of {settings.steps} agent steps of {config.game}, {config.num_games} games an actor", notes
    )


def _rates(config: ExperimentConfig, actors: int, settings: Settings) -> list[Row]:
    """Agent steps and updates a second, in turns of one cluster; the first is to warm up."""
    hyperparameters = {**vars(config.agent), "actors": actors, "steps_per_update": 0.0, "learning_starts_steps": 128}
    agent_type = load_agent(config.agent.name)
    num_actions = len(game_actions(config.game, config.protocol))
    task = Task(num_actions, config.num_games, total_steps=0, seed=0, device=settings.device)
    steps, updates = [], []
    with closing(agent_type(agent_type.Config(**hyperparameters), task)) as agent:
        agent.prepare()
        log = _LastUpdates()
        for turn in range(settings.repetitions + 1):
            env = AtariVectorEnv(
                config.game, config.protocol, config.num_games, seed_sequence(0, "bench", turn), training=True
            )
            before = log.num_updates
            time = seconds(lambda env=env: agent.train(env, settings.steps, log))  # type: ignore[misc]
            steps.append(settings.steps / time)
            updates.append((log.num_updates - before) / time)
    name = f"{actors} actors" if actors > 1 else "1 actor"
    return [Row(f"{name}: acting", "steps/s", steps[1:]), Row(f"{name}: learning", "updates/s", updates[1:])]


def _bytes_per_transition(game: str, config: ExperimentConfig) -> tuple[float, float]:
    """What a transition takes on its way into the replay and out of it, played mostly at random."""
    num_actions = len(game_actions(game, config.protocol))
    actor = Actor(ActorSettings(0, 0.4, "mnih2013", num_actions, Architecture(), discount=0.99, n_step=3, seed=0))
    env = AtariVectorEnv(game, config.protocol, config.num_games, np.random.SeedSequence(0), training=True)
    actor.begin(env.sibling(0), 0)
    shard = Shard(ShardSettings(1, 100_000, discount=0.99, n_step=3, storage="raw", priority_exponent=0.6))
    sent = num_transitions = 0
    for _ in range(_CHUNKS):
        chunk, _ = actor.play(50 // config.num_games)
        shard.add(chunk)
        sent += chunk.nbytes
        num_transitions += chunk.actions.size
    return sent / num_transitions, shard.sample(_BATCH_SIZE, np.random.default_rng(0)).nbytes / _BATCH_SIZE


def _weight_bytes() -> int:
    network = build_network("nature", 18, torch.Generator().manual_seed(0), architecture=Architecture(dueling=True))
    return sum(parameter.nbytes for parameter in network.parameters())


class _LastUpdates:
    """Keeps how many updates there were."""

    def __init__(self) -> None:
        self.num_updates = 0.0

    def due(self) -> bool:
        """Always: a turn may end at any step."""
        return True

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Of all metrics one is kept."""
        self.num_updates = metrics["train/n_updates"]

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        """Nothing is shown."""
