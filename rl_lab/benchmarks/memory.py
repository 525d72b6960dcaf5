"""Memory that compressed replay takes, game by game: the process's own, before and after."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import psutil

from rl_lab.benchmarks.measuring import Report, Row, Settings
from rl_lab.benchmarks.replays import NUM_GAMES, fill, memory_bytes, record, those_that_fit
from rl_lab.replay import ReplayMemory

GAMES = (
    *("Asterix", "BeamRider", "Breakout", "Enduro", "Freeway", "MsPacman", "Pong"),
    *("Qbert", "Seaquest", "SpaceInvaders", "VideoPinball", "Krull"),
)
"""Different screens; Krull's moving backgrounds are the worst that was found."""


def run(settings: Settings) -> Report:
    """Megabytes for each game, each in a process of its own."""
    fitting, notes = those_that_fit({"all": memory_bytes("zstd", settings.transitions)})
    if not fitting:
        return Report([], "nothing", notes)
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as one_process_each:
        megabytes = list(one_process_each.map(resident_megabytes, GAMES, [settings] * len(GAMES)))
    rows = [Row(game, "MB", [value]) for game, value in zip(GAMES, megabytes, strict=True)]
    return Report(rows, f"{settings.transitions:,} transitions in zstd storage, by random play; once")


def resident_megabytes(game: str, settings: Settings) -> float:
    """What the process grows by as the memory fills, and is written over by a tenth."""
    recording = record(game, settings)
    process = psutil.Process()
    before = process.memory_info().rss
    memory = ReplayMemory(settings.transitions, NUM_GAMES, discount=0.99, storage="zstd")
    fill(memory, recording, settings.transitions * 11 // 10)
    return (process.memory_info().rss - before) / 1e6
