"""Sampling from a full replay memory, raw and compressed, alone and in the loop of training."""

from __future__ import annotations

from functools import partial

import numpy as np

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, ratios, seconds
from rl_lab.benchmarks.replays import NUM_GAMES, Recording, fill, memory_bytes, record, those_that_fit
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.replay import STORAGES, ReplayMemory

_GAME = "Freeway"
"""Its screens compress the least among the usual games: the slowest to open."""
_BATCH_SIZE = 32
_CALLS = 100


def run(settings: Settings) -> Report:
    """Times of a batch of 32, and what compression adds to a step of training."""
    names = {f"{storage} storage": storage for storage in STORAGES}
    fitting, notes = those_that_fit({name: memory_bytes(names[name], settings.transitions) for name in names})
    storages = [names[name] for name in fitting]
    recording = record(_GAME, settings)
    trainings = {storage: _filled(settings, storage, recording) for storage in storages}
    memories = {storage: _memory(training) for storage, training in trainings.items()}
    rng = np.random.default_rng(0)
    sampling = in_turns(
        {
            storage: partial(seconds, partial(memory.sample, _BATCH_SIZE, rng), _CALLS)
            for storage, memory in memories.items()
        },
        settings.repetitions,
    )
    loops = in_turns(
        {storage: training.steps_per_second for storage, training in trainings.items()}, settings.repetitions
    )
    rows = [
        Row(f"a batch of 32, {storage}", "ms", [1e3 * value for value in values])
        for storage, values in sampling.items()
    ]
    rows += [Row(f"training in bf16, {storage}", "steps/s", values) for storage, values in loops.items()]
    if len(storages) == 2:
        rows.append(Row("time of a step, zstd : raw", "ratio", ratios(loops["raw"], loops["zstd"])))
    turn = f"turns of {_CALLS} batches and of {settings.steps} agent steps with {NUM_GAMES} games"
    return Report(rows, turn, (f"{settings.transitions:,} transitions of {_GAME} by random play", *notes))


def _filled(settings: Settings, storage: str, recording: Recording) -> Training:
    training = Training(
        OURS,
        settings,
        num_games=NUM_GAMES,
        precision="bf16",
        replay_storage=storage,
        replay_capacity=settings.transitions,
    )
    fill(_memory(training), recording, settings.transitions)
    return training


def _memory(training: Training) -> ReplayMemory:
    memory: ReplayMemory = training.agent.replay  # type: ignore[attr-defined]  # DQN's
    return memory
