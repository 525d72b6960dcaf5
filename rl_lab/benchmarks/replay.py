"""Sampling from a full replay memory, raw, compressed and by priority, alone and in the loop of training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

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
        {name: partial(seconds, training.agent.sample, _CALLS) for name, training in trainings.items()},  # type: ignore[attr-defined]  # DQN's
        settings.repetitions,
    )
    loops = in_turns({name: training.steps_per_second for name, training in trainings.items()}, settings.repetitions)
    rows = [Row(f"a batch of 32, {name}", "ms", [1e3 * value for value in values]) for name, values in sampling.items()]
    rows += [Row(f"training in bf16, {name}", "steps/s", values) for name, values in loops.items()]
    for slower, name in (("zstd", "raw"), ("prioritized zstd", "zstd")):
        if {slower, name} <= loops.keys():
            rows.append(Row(f"time of a step, {slower} : {name}", "ratio", ratios(loops[name], loops[slower])))
    turn = f"turns of {_CALLS} batches and of {settings.steps} agent steps with {NUM_GAMES} games"
    return Report(rows, turn, (f"{settings.transitions:,} transitions of {_GAME} by random play", *notes))


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
