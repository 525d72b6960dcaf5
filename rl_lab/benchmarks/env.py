"""The emulators alone, with random actions: games side by side, on one thread and on all."""

from __future__ import annotations

from functools import partial

import numpy as np

from rl_lab.atari import AtariVectorEnv, named_protocol
from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, seconds

_GAME = "Breakout"
_GAMES = (1, 8, 32)


def run(settings: Settings) -> Report:
    """Agent steps a second over all games."""
    envs = {
        f"{num_games} games, {threads} emulator threads": AtariVectorEnv(
            _GAME,
            named_protocol("nature2015"),
            num_games,
            np.random.SeedSequence(0),
            training=True,
            num_threads=threads,
        )
        for num_games in _GAMES
        for threads in sorted({1, settings.threads})
        if threads <= num_games
    }
    for env in envs.values():
        env.reset()
    rng = np.random.default_rng(0)

    def rate(env: AtariVectorEnv) -> float:
        calls = max(settings.steps // env.num_games, 1)
        time = seconds(lambda: env.step(rng.integers(0, env.num_actions, env.num_games)), calls)
        return env.num_games / time

    tasks = {name: partial(rate, env) for name, env in envs.items()}
    values = in_turns(tasks, settings.repetitions)
    return Report(
        [Row(name, "steps/s", values[name]) for name in tasks], f"turns of {settings.steps} agent steps of {_GAME}"
    )
