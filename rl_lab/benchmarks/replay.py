"""Sampling from a full replay memory, raw and compressed, alone and in the loop of training."""

from __future__ import annotations

from functools import partial

import numpy as np

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, ratios, seconds
from rl_lab.benchmarks.replays import NUM_GAMES, Recording, fill, record
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.replay import STORAGES, ReplayMemory
from rl_lab.replay.frames import bytes_per_frame
from rl_lab.system import available_memory_bytes

_GAME = "Freeway"
"""Its screens compress the least among the usual games: the slowest to open."""
_RECORDED_STEPS = 20_000
_BATCH_SIZE = 32
_CALLS = 100


def run(settings: Settings) -> Report:
    """Times of a batch of 32, and what compression adds to a step of training."""
    recording = record(_GAME, min(_RECORDED_STEPS, settings.transitions))
    storages, notes = [], []
    for storage in STORAGES:
        needed = settings.transitions * bytes_per_frame(storage, (84, 84)) * 1.1
        if needed < available_memory_bytes():
            storages.append(storage)
        else:
            notes.append(f"left out: {storage} storage, which needs {needed / 1e9:.1f} GB of memory")
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
    return Report(rows, (f"{settings.transitions:,} transitions of {_GAME} by random play", *notes))


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
