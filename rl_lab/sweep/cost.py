"""What a sweep will take: each of its settings trains for a moment on this machine, in a process of its own."""

from __future__ import annotations

import dataclasses
import heapq
import math
import multiprocessing
import operator
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rl_lab.config import field_types
from rl_lab.curves import Progress
from rl_lab.errors import LabError, ResumableError
from rl_lab.evaluation import Evaluation
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.records import read_metrics, training_seconds
from rl_lab.sweep.plan import PlannedRun
from rl_lab.sweep.standing import Rest
from rl_lab.system import claimed_memory_bytes, num_cores
from rl_lab.training import Conduct, run_experiment
from rl_lab.untrusted import files_below

_POINT_STEPS = 128
"""Agent steps between two points of the measurement's curve, or a little more: a number that fits the games."""
_POINTS = 3
"""Of these the first is random play, and does not count."""
MOST_MEASURED = 8
"""Settings; further ones are taken to be as slow and large as the worst of these."""
_LEAST_STEPS_PER_GAME = 8
_EVALUATION_FRAMES = 400


@dataclass(frozen=True)
class Measurement:
    """What one run takes."""

    steps_per_second: float
    """Agent steps a second of training, while it learns."""
    memory_bytes: int
    """What the process has, and all that its agent may fill, such as a replay memory."""
    replay_bytes: int
    """All that the agent may fill."""
    disk_bytes: int
    """Records and two checkpoints, with a replay of the few steps that were played."""


@dataclass(frozen=True)
class Cost:
    """What the rest of a sweep takes, as far as the measurements tell."""

    rests: tuple[Rest, ...]
    """The longest first: so that the last ones to end are short."""
    jobs: int
    """Runs at once."""
    core_hours: float
    """Of training, of all runs together."""
    hours: float
    """Of training, until all are done."""
    evaluations: int
    episodes: int
    """Of all evaluations: how long they are is not known before."""
    memory_bytes: int
    """The most that `jobs` of the runs take together."""
    disk_bytes: int
    """Without replay memories."""
    replay_bytes: int
    """Of replay memories, as they are in memory: checkpoints hold them compressed."""


def measure(runs: Sequence[PlannedRun]) -> dict[str, Measurement]:
    """By experiment, whatever the game and the seed; one at a time.

    LabError for what `rl-lab train` refuses once it builds the agent, such as a replay larger than memory.
    """
    firsts = {run.config.name: run for run in reversed(runs)}
    names = sorted(firsts)
    context = multiprocessing.get_context("spawn")
    measured: dict[str, Measurement] = {}
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as one_process_each:
        for name in names[:MOST_MEASURED]:
            run = firsts[name]
            try:
                measured[name] = one_process_each.submit(_measure, run.config.to_toml(), run.agent_file).result()
            except BrokenProcessPool:
                raise LabError(
                    f"{name} was ended while it was measured, as the system does when memory runs out; use a smaller "
                    "replay, or --no-measure"
                ) from None
    worst = Measurement(
        steps_per_second=min(one.steps_per_second for one in measured.values()),
        memory_bytes=max(one.memory_bytes for one in measured.values()),
        replay_bytes=max(one.replay_bytes for one in measured.values()),
        disk_bytes=max(one.disk_bytes for one in measured.values()),
    )
    return measured | dict.fromkeys(names[MOST_MEASURED:], worst)


def short(config: ExperimentConfig) -> ExperimentConfig:
    """The same work a step, from the second point on."""

    def count(name: str) -> int:
        """Of the agent's field; 1 for an agent that has none, or means something else by the name."""
        value = vars(config.agent).get(name)
        return value if type(value) is int and value >= 1 else 1

    all_games = config.num_games * count("actors")
    first_transitions = (count("n_step") + 1) * all_games
    least = max(_POINT_STEPS, _LEAST_STEPS_PER_GAME * config.num_games, 2 * first_transitions, 2 * count("batch_size"))
    # What learns from rollouts needs whole ones.
    unit = math.lcm(count("rollout_steps") * config.num_games, count("update_every_steps"))
    steps = math.ceil(least / unit) * unit
    # Learning begins early, and networks act as they do in nine tenths of a run, where an agent has these fields.
    early: dict[str, Any] = {
        name: steps // 2 if name == "learning_starts_steps" else steps
        for name in ("learning_starts_steps", "epsilon_decay_steps")
        if name in field_types(type(config.agent))
    }
    return dataclasses.replace(
        config,
        total_steps=_POINTS * steps,
        iteration_steps=_POINTS * steps,
        log_every_steps=steps,
        evaluation_episodes=1,
        protocol=dataclasses.replace(config.protocol, max_frames_per_episode=_EVALUATION_FRAMES),
        agent=dataclasses.replace(config.agent, **early),
    )


def cost(rests: Sequence[Rest], measured: Mapping[str, Measurement], jobs: int) -> Cost:
    """Of the rest of a sweep, so many runs at once."""

    def hours(rest: Rest) -> float:
        return rest.steps_left / measured[rest.run.config.name].steps_per_second / 3600

    rests = sorted(rests, key=hours, reverse=True)
    of = [measured[rest.run.config.name] for rest in rests]
    memory = sorted((one.memory_bytes for one in of), reverse=True)
    evaluations = [_evaluations_left(rest) for rest in rests]
    episodes = [rest.run.config.evaluation_episodes for rest in rests]
    return Cost(
        tuple(rests),
        jobs,
        core_hours=sum(map(hours, rests)),
        hours=_elapsed(list(map(hours, rests)), jobs),
        evaluations=sum(evaluations),
        episodes=sum(map(operator.mul, evaluations, episodes)),
        memory_bytes=sum(memory[:jobs]),
        disk_bytes=sum(one.disk_bytes for one in of),
        replay_bytes=sum(one.replay_bytes for one in of),
    )


def jobs_that_fit(memory_bytes: Sequence[int], asked: int | None, free_bytes: int) -> int:
    """Runs at once on this machine: what was asked for, or one a core, as far as memory goes for any of them.

    LabError where it does not go so far.
    """
    largest = sorted(memory_bytes, reverse=True)
    jobs = min(asked or num_cores(), len(largest))
    while sum(largest[:jobs]) > free_bytes:
        if asked or jobs == 1:
            raise LabError(
                f"{jobs} at once need {sum(largest[:jobs]) / 1e9:.1f} GB of memory, {free_bytes / 1e9:.1f} GB free; "
                "use fewer --jobs or smaller replays"
            )
        jobs -= 1
    return jobs


def _elapsed(hours: Sequence[float], jobs: int) -> float:
    """Until all are done, so many at once, in this order."""
    ends = [0.0] * jobs
    for of_run in hours:
        heapq.heapreplace(ends, ends[0] + of_run)
    return max(ends)


def _evaluations_left(rest: Rest) -> int:
    config = rest.run.config
    return math.ceil(config.total_steps / config.iteration_steps) - rest.steps_done // config.iteration_steps


def _measure(toml: str, agent_file: str | None) -> Measurement:
    """Measure in a folder that is deleted; LabError where something outside stops it, such as a full disk."""
    try:
        return _measured(toml, agent_file)
    except (ResumableError, OSError) as error:
        cause = error.__cause__ or error  # the run to go on with is gone
        reason = (isinstance(cause, OSError) and cause.strerror) or cause
        where = f"{cause.filename}: " if isinstance(cause, OSError) and cause.filename else ""
        raise LabError(
            f"the measurement failed: {where}{reason}; --no-measure leaves it out, TMPDIR names another folder for it"
        ) from error


def _measured(toml: str, agent_file: str | None) -> Measurement:
    """Train for three points of a curve, evaluate and save; in a process that has done nothing else."""
    warnings.simplefilter("ignore")  # the runs will say it themselves
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sweep.toml")
        path.write_text(toml, encoding="utf-8")
        config = short(load_experiment(path, agent=agent_file))
        run = run_experiment(config, Path(folder, "runs"), overwrite=False, conduct=Conduct(reporter=_Silent())).run
        metrics = read_metrics(run)
        (first_frames, first_seconds), *_, (frames, seconds) = zip(
            (point["frames"] for point in metrics), training_seconds(metrics), strict=True
        )
        sizes = {path: path.stat().st_size for path in files_below(run)}
        checkpoint_bytes = sum(size for path, size in sizes.items() if "checkpoints" in path.parts)
    replay_bytes = claimed_memory_bytes()
    return Measurement(
        (frames - first_frames) / config.protocol.frame_skip / (seconds - first_seconds),
        psutil.Process().memory_info().rss + replay_bytes,
        replay_bytes,
        sum(sizes.values()) + checkpoint_bytes,
    )


class _Silent:
    """Shows nothing."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        """Nothing."""

    def on_progress(self, progress: Progress) -> None:
        """Nothing."""

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        """Nothing."""

    def on_end(self) -> None:
        """Nothing."""
