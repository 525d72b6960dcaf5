"""How rliable-1.2.0.json was made. Tests only read the result: rliable does not import beside today's pandas.

In an environment of its own, with Python 3.11 and

    rliable==1.2.0 arch==5.6.0 numpy==1.26.4 pandas==2.0.3 scipy==1.11.4 seaborn==0.12.2

run `python tests/data/rliable-1.2.0.py > tests/data/rliable-1.2.0.json` in the project's folder. rliable draws from
numpy's global generator and ignores its `random_state`. So every interval starts from `np.random.seed(SEED)`, and a
test finds the resamples again with `np.random.RandomState(SEED)`, whose stream numpy keeps: one (num_runs, num_games)
draw a repetition, and one for each matrix where two are compared.
"""

import csv
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rliable import library, metrics  # type: ignore[import-not-found]  # it is in an environment of its own

Array = npt.NDArray[np.float64]
DATA = Path(__file__).parents[2] / "rl_lab" / "scores" / "data"
AGENTS = ("simple_5seed", "iris", "storm", "diamond", "drq_eps_100seed", "spr_100seed")
PAIRS = (("iris", "storm"), ("diamond", "iris"), ("spr_100seed", "drq_eps_100seed"), ("iris", "spr_100seed"))
THRESHOLDS = [-0.1, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
SEED = 20_210_830
REPETITIONS = 300


def human_normalized_runs(agent: str) -> Array:
    """(num_runs, num_games), games in the order of their names."""
    runs = json.loads((DATA / "atari100k_runs.json").read_text())[agent]
    with (DATA / "atari100k_reference.csv").open() as file:
        rows = {row["game"]: row for row in csv.DictReader(file)}
    columns = []
    for game in sorted(runs):
        random, human = float(rows[game]["random"]), float(rows[game]["human"])
        columns.append((np.array(runs[game]) - random) / (human - random))
    return np.stack(columns, axis=1)


def interval(matrices: Array | list[Array], statistic: Callable[..., Array]) -> Array:
    """(2, num_values): the low and the high end for each value of the statistic."""
    np.random.seed(SEED)
    _, found = library.get_interval_estimates({"": matrices}, statistic, reps=REPETITIONS)
    return np.asarray(found[""])


def main() -> None:
    scores = {agent: human_normalized_runs(agent) for agent in AGENTS}
    aggregates = {
        "mean": metrics.aggregate_mean,
        "median": metrics.aggregate_median,
        "iqm_over_runs": metrics.aggregate_iqm,
        "optimality_gap": metrics.aggregate_optimality_gap,
    }

    def all_aggregates(matrix: Array) -> Array:
        return np.array([aggregate(matrix) for aggregate in aggregates.values()])

    def profile(matrix: Array) -> Array:
        return np.asarray(library.score_distributions(matrix, THRESHOLDS))

    def improvement(x: Array, y: Array) -> Array:
        return np.array([metrics.probability_of_improvement(x, y)])

    golden = {
        "versions": {name: version(name) for name in ("rliable", "arch", "numpy", "pandas", "scipy", "seaborn")},
        "seed": SEED,
        "repetitions": REPETITIONS,
        "thresholds": THRESHOLDS,
        "aggregates": {
            agent: {
                **{name: float(aggregate(matrix)) for name, aggregate in aggregates.items()},
                "iqm_of_game_means": float(metrics.aggregate_iqm(matrix.mean(axis=0)[None])),
                "performance_profile": profile(matrix).tolist(),
                "average_performance_profile": library.average_score_distributions(matrix, THRESHOLDS).tolist(),
            }
            for agent, matrix in scores.items()
        },
        "improvement": [
            {"x": x, "y": y, "probability": float(metrics.probability_of_improvement(scores[x], scores[y]))}
            for x, y in PAIRS
        ],
        "intervals": {
            agent: {
                **dict(zip(aggregates, interval(scores[agent], all_aggregates).T.tolist(), strict=True)),
                "performance_profile": interval(scores[agent], profile).T.tolist(),
            }
            for agent in ("iris", "spr_100seed")
        },
        "improvement_intervals": [
            {"x": x, "y": y, "interval": interval([scores[x], scores[y]], improvement).ravel().tolist()}
            for x, y in (("diamond", "iris"), ("iris", "spr_100seed"))
        ],
    }
    print(json.dumps(golden, indent=1))


if __name__ == "__main__":
    main()
