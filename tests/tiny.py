"""A real experiment that takes a second: a few hundred steps of a real game, episodes cut after 100 steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from rl_lab.agent import AgentConfig, load_agent
from rl_lab.atari import named_protocol
from rl_lab.experiment import ExperimentConfig

PROTOCOL = dataclasses.replace(named_protocol("nature2015"), max_frames_per_episode=400)


def tiny_dqn(**changes: Any) -> AgentConfig:
    """A DQN that learns from step 64 on."""
    settings: dict[str, Any] = {
        "network": "mnih2013",
        "replay_capacity": 1_000,
        "learning_starts_steps": 64,
        "target_update_steps": 100,
        "epsilon_decay_steps": 200,
    }
    return load_agent("dqn").Config(name="dqn", **{**settings, **changes})


def tiny_apex(**changes: Any) -> AgentConfig:
    """Two actors and two shards; an update every 8 steps from step 64 on."""
    settings: dict[str, Any] = {
        "actors": 2,
        "shards": 2,
        "chunk_steps": 10,
        "publish_every_updates": 5,
        "network": "mnih2013",
        "hidden_units": 16,
        "replay_capacity": 2_000,
        "batch_size": 8,
        "prefetch_batches": 2,
        "learning_starts_steps": 64,
        "steps_per_update": 8.0,
        "target_update_updates": 10,
    }
    return load_agent("apex_dqn").Config(name="apex_dqn", **{**settings, **changes})


def tiny_experiment(**changes: Any) -> ExperimentConfig:
    """Two iterations of 200 agent steps in two games of Breakout."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "game": "Breakout",
        "total_steps": 400,
        "iteration_steps": 200,
        "num_games": 2,
        "evaluation_episodes": 2,
        "log_every_steps": 100,
        "device": "cpu",
        "threads": 1,
        "protocol": PROTOCOL,
        "agent": tiny_dqn(),
    }
    return ExperimentConfig(**{**settings, **changes})
