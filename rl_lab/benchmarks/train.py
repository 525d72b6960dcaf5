"""Agent steps a second of our DQN and of stable-baselines3's, at the same work in one run.

The like configs: Nature network, batch 32, an update every 4 agent steps; one game and eight, full and half precision.
"""

from __future__ import annotations

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, ratios
from rl_lab.benchmarks.training import BASELINE, OURS, Training


def run(settings: Settings) -> Report:
    """Rates, and their ratios to stable-baselines3's with one game."""
    baseline = f"{BASELINE}, 1 game"
    trainings = {
        f"{OURS}, {games}, {precision}": Training(OURS, settings, num_games=num_games, precision=precision)
        for num_games, games in ((1, "1 game"), (8, "8 games"))
        for precision in ("fp32", "bf16")
    } | {
        baseline: Training(BASELINE, settings),
        f"{BASELINE}, 8 games": Training(BASELINE, settings, num_games=8),
    }
    rates = in_turns({name: training.steps_per_second for name, training in trainings.items()}, settings.repetitions)
    return Report(
        [
            *(Row(name, "steps/s", values) for name, values in rates.items()),
            *(
                Row(f"{name} : {baseline}", "ratio", ratios(values, rates[baseline]))
                for name, values in rates.items()
                if name != baseline
            ),
        ],
        f"turns of {settings.steps} agent steps",
    )
