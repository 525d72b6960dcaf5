"""Memory that compressed replay takes, game by game: the process's own, before and after."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import psutil

from rl_lab.benchmarks.measuring import Report, Row, Settings
from rl_lab.benchmarks.replays import NUM_GAMES, fill, record
from rl_lab.replay import ReplayMemory
from rl_lab.replay.frames import bytes_per_frame
from rl_lab.system import available_memory_bytes

GAMES = (
    *("Asterix", "BeamRider", "Breakout", "Enduro", "Freeway", "MsPacman", "Pong"),
    *("Qbert", "Seaquest", "SpaceInvaders", "VideoPinball", "Krull"),
)
"""Different screens; Krull's moving backgrounds are the worst that was found."""
_RECORDED_STEPS = 20_000


def run(settings: Settings) -> Report:
    """Megabytes for each game, each in a process of its own."""
    needed = settings.transitions * bytes_per_frame("zstd", (84, 84))
    if needed > available_memory_bytes():
        return Report([], (f"left out: all, which may need {needed / 1e9:.1f} GB of memory",))
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as one_process_each:
        megabytes = list(one_process_each.map(resident_megabytes, GAMES, [settings.transitions] * len(GAMES)))
    rows = [Row(game, "MB", [value]) for game, value in zip(GAMES, megabytes, strict=True)]
    return Report(rows, (f"{settings.transitions:,} transitions in zstd storage, by random play",))


def resident_megabytes(game: str, transitions: int) -> float:
    """What the process grows by as the memory fills, and is written over by a tenth."""
    recording = record(game, min(_RECORDED_STEPS, transitions))
    process = psutil.Process()
    before = process.memory_info().rss
    memory = ReplayMemory(transitions, NUM_GAMES, discount=0.99, storage="zstd")
    fill(memory, recording, transitions * 11 // 10)
    return (process.memory_info().rss - before) / 1e6
