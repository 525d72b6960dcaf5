"""How the cost of a step grows with the replay, with parallel games, and with runs beside each other."""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, ratios
from rl_lab.benchmarks.replays import NUM_GAMES, fill, memory_bytes, record, those_that_fit
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.system import use_machine

_REPLAY_SIZES = (10_000, 100_000, 1_000_000)
_GAMES = (1, 4, 16, 64)
_start: Barrier


def run(settings: Settings) -> Report:
    """Rates of training in bf16."""
    names = {f"a replay of {size:,} transitions": size for size in _REPLAY_SIZES if size <= settings.transitions}
    fitting, notes = those_that_fit({name: memory_bytes("raw", size) for name, size in names.items()})
    sizes = [names[name] for name in fitting]
    rows = [*(_replay_sizes(settings, sizes) if sizes else ()), *_parallel_games(settings), *_concurrent_runs(settings)]
    turn = f"turns of {settings.steps} agent steps, or 32 of each game; {NUM_GAMES} games but where it says otherwise"
    return Report(rows, turn, notes)


def _replay_sizes(settings: Settings, sizes: list[int]) -> list[Row]:
    """Raw storage, full."""
    recording = record("Breakout", settings)
    trainings = {}
    for size in sizes:
        trainings[size] = Training(OURS, settings, num_games=NUM_GAMES, precision="bf16", replay_capacity=size)
        fill(trainings[size].agent.replay, recording, size)  # type: ignore[attr-defined]  # DQN's
    rates = in_turns(
        {f"{size:,}": training.steps_per_second for size, training in trainings.items()}, settings.repetitions
    )
    smallest, *others = rates
    return [
        *(Row(f"{size} transitions stored", "steps/s", values) for size, values in rates.items()),
        *(
            Row(f"time of a step, {size} : {smallest} stored", "ratio", ratios(rates[smallest], rates[size]))
            for size in others
        ),
    ]


def _parallel_games(settings: Settings) -> list[Row]:
    trainings = {
        f"parallel games: {games}": Training(OURS, settings, num_games=games, precision="bf16") for games in _GAMES
    }
    tasks = {name: training.steps_per_second for name, training in trainings.items()}
    return [Row(name, "steps/s", values) for name, values in in_turns(tasks, settings.repetitions).items()]


def _concurrent_runs(settings: Settings) -> list[Row]:
    """One run on all threads, then as many as there are threads on one thread each, and twice as many."""
    rows = []
    for runs, threads in dict.fromkeys(((1, settings.threads), (settings.threads, 1), (2 * settings.threads, 1))):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            runs, mp_context=context, initializer=_wait_at, initargs=(context.Barrier(runs),)
        ) as processes:
            mine = dataclasses.replace(settings, threads=threads)
            rates = zip(*processes.map(_rates, [mine] * runs), strict=True)
            totals = [sum(turn) for turn in rates]
        rows.append(Row(f"runs at once: {runs}, threads each: {threads}; in all", "steps/s", totals))
    return rows


def _wait_at(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _rates(settings: Settings) -> list[float]:
    """Steps a second of one run in each turn; all runs begin together."""
    try:
        return _rates_together(settings)
    except BaseException:
        _start.abort()  # nobody waits for this run
        raise


def _rates_together(settings: Settings) -> list[float]:
    use_machine(settings.device, settings.threads)
    training = Training(OURS, settings, num_games=NUM_GAMES, precision="bf16")
    training.steps_per_second()
    rates = []
    for _ in range(settings.repetitions):
        _start.wait()
        rates.append(training.steps_per_second())
    return rates
