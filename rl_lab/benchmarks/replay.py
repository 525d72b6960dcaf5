"""Sampling from a full replay memory, raw, compressed and by priority, alone and in the loop of training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, ratios, seconds
from rl_lab.benchmarks.replays import NUM_GAMES, Recording, fill, memory_bytes, record, those_that_fit
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.replay import ReplayMemory

_GAME = "Freeway"
"""Its screens compress the least among the usual games: the slowest to open."""
_CALLS = 100
_REPLAYS = {
    "raw": {"replay_storage": "raw"},
    "zstd": {"replay_storage": "zstd"},
    "prioritized zstd": {"replay_storage": "zstd", "replay_sampling": "prioritized"},
}
"""Hyperparameters by what the rows call them."""


def run(settings: Settings) -> Report:
    """Times of a batch of 32, and what compression and priorities add to a step of training."""
    needed_bytes = {
        f"{name} storage": memory_bytes(changes["replay_storage"], settings.transitions)
        for name, changes in _REPLAYS.items()
    }
    fitting, notes = those_that_fit(needed_bytes)
    recording = record(_GAME, settings)
    trainings = {
        name: _filled(settings, changes, recording)
        for name, changes in _REPLAYS.items()
        if f"{name} storage" in fitting
    }
    sampling = in_turns(
        {name: partial(_sampling_seconds, training.agent) for name, training in trainings.items()}, settings.repetitions
    )
    loops = in_turns({name: training.steps_per_second for name, training in trainings.items()}, settings.repetitions)
    rows = [Row(f"a batch of 32, {name}", "ms", [1e3 * value for value in values]) for name, values in sampling.items()]
    rows += [Row(f"training in bf16, {name}", "steps/s", values) for name, values in loops.items()]
    for name, training in trainings.items():
        per_step = [value / training.update_every_steps for value in sampling[name]]
        steps = [1 / rate for rate in loops[name]]
        rows.append(Row(f"time of a step, sampling : all, {name}", "ratio", ratios(per_step, steps)))
    for slower, name in (("zstd", "raw"), ("prioritized zstd", "zstd")):
        if {slower, name} <= loops.keys():
            rows.append(Row(f"time of a step, {slower} : {name}", "ratio", ratios(loops[name], loops[slower])))
    turn = (
        f"turns of {_CALLS} batches, with new priorities where these decide, and of {settings.steps} agent steps with "
        f"{NUM_GAMES} games"
    )
    return Report(rows, turn, (f"{settings.transitions:,} transitions of {_GAME} by random play", *notes))


def _sampling_seconds(agent: Any) -> float:  # DQN's
    """Mean time of a batch and, where it was drawn by priority, of giving its transitions new ones."""
    rng = np.random.default_rng(0)

    def sample() -> None:
        batch, draw = agent.sample()
        if draw is not None:
            agent.replay.update_priorities(draw.games, draw.indices, rng.random(len(batch.actions), np.float32))

    return seconds(sample, _CALLS)


def _filled(settings: Settings, changes: Mapping[str, str], recording: Recording) -> Training:
    training = Training(
        OURS,
        settings,
        num_games=NUM_GAMES,
        precision="bf16",
        replay_capacity=settings.transitions,
        **changes,
    )
    memory: ReplayMemory = training.agent.replay  # type: ignore[attr-defined]  # DQN's
    fill(memory, recording, settings.transitions)
    return training
