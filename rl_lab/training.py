"""The experiment loop: iterations of train, evaluate, checkpoint.

Each iteration plays in new, freshly seeded games, so that nothing hidden in an emulator crosses its border.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Protocol as TypingProtocol

from rl_lab.agent import Agent, Task, load_agent
from rl_lab.atari import AtariVectorEnv, Episode, game_actions
from rl_lab.checkpoint import save_checkpoint
from rl_lab.errors import LabError
from rl_lab.evaluation import Evaluation, evaluate
from rl_lab.experiment import ExperimentConfig
from rl_lab.run import Run
from rl_lab.scores import score_table
from rl_lab.seeding import integer_seed, seed_sequence
from rl_lab.system import use_machine
from rl_lab.tensorboard import TRAINING_TAG

_RECENT_EPISODES = 100
"""Episodes in the training curve's mean, as in stable-baselines3."""


class Stopped(BaseException):
    """The user asked to stop. Like KeyboardInterrupt no Exception, so that no agent swallows it."""


@dataclass(frozen=True)
class Progress:
    """How a run stands, for those who watch it."""

    steps: int
    frames: int
    frames_per_second: float
    """Training only: since the last point of the curves, or over an iteration at its end."""
    epsilon: float | None
    mean_return: float | None
    """Over the last 100 training episodes; None before the first."""
    human_normalized: float | None
    """Of `mean_return`."""


class Reporter(TypingProtocol):
    """Shows a run to people."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        """The run's directory is claimed."""

    def on_progress(self, progress: Progress) -> None:
        """A new point of the training curves."""

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        """An iteration is over."""

    def on_end(self) -> None:
        """The run is over, for whatever reason."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Path
    evaluation: Evaluation | None
    """The last one; None if it was stopped before the first."""
    steps: int
    """Agent steps at the last checkpoint."""
    stop_signal: int
    """The signal that stopped the run; 0 if it finished."""


def run_experiment(config: ExperimentConfig, runs: Path, *, overwrite: bool, reporter: Reporter) -> Outcome:
    """Train, evaluate and record one run under `runs`.

    LabError before the first frame for what cannot work. Ctrl-C and SIGTERM stop at the next step: the outcome says so.
    """
    device, threads = use_machine(config.device, config.threads)
    actions = game_actions(config.game, config.protocol)
    task = Task(
        num_actions=len(actions),
        num_games=config.num_games,
        total_steps=config.total_steps,
        seed=config.seed,
        device=device,
        iteration_steps=config.iteration_steps,
    )
    agent = load_agent(config.agent.name)(config.agent, task)
    agent.prepare()
    with Run.create(runs, config, overwrite=overwrite, device=device, threads=threads) as run:
        reporter.on_start(run.directory, config)
        return _Loop(agent, actions, run, reporter).run()


class _Loop:
    """The iterations of one run."""

    def __init__(self, agent: Agent, actions: tuple[str, ...], run: Run, reporter: Reporter) -> None:
        self._agent = agent
        self._run = run
        self._config = run.config
        self._reporter = reporter
        self._actions = actions
        self._stop_signal = 0
        self._saved_steps = 0
        self._evaluation: Evaluation | None = None
        self._curves = _Curves(run, reporter, self._check_stop)

    def run(self) -> Outcome:
        try:
            with _signals(self._ask_to_stop):
                while self._saved_steps < self._config.total_steps:
                    self._iterate(self._saved_steps // self._config.iteration_steps)
        except Stopped:
            self._run.set_status("interrupted", signal.Signals(self._stop_signal).name)
        except BaseException as error:
            self._run.set_status("failed", f"{type(error).__name__}: {error}")
            raise
        else:
            self._stop_signal = 0  # it came too late to stop anything
            self._run.set_status("finished")
        finally:
            self._reporter.on_end()
        return Outcome(self._run.directory, self._evaluation, self._saved_steps, self._stop_signal)

    def _iterate(self, iteration: int) -> None:
        """One iteration of train, evaluate, checkpoint."""
        config = self._config
        steps = min(config.iteration_steps, config.total_steps - self._saved_steps)
        env = _new_env(config, iteration, observer=self._curves)
        self._curves.begin(env, self._saved_steps, steps)
        self._agent.train(env, steps, self._curves)
        if env.steps != steps:
            raise LabError(f"the agent played {env.steps} steps; `train` was asked for exactly {steps}")
        progress = self._curves.finish()

        total = self._saved_steps + steps
        evaluation = evaluate(
            self._agent,
            config.game,
            config.protocol,
            episodes=config.evaluation_episodes,
            seed=integer_seed(config.seed, "evaluation", iteration),
            num_threads=config.emulator_threads,
            check_stop=self._check_stop,
        )
        self._run.log_evaluation(evaluation, steps=total, iteration=iteration)
        save_checkpoint(self._run.directory, self._agent, config, actions=self._actions, steps=total)
        self._saved_steps, self._evaluation = total, evaluation
        self._reporter.on_evaluation(progress, evaluation)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal:  # asked twice: the agent may be stuck between two steps
            raise Stopped
        self._stop_signal = number

    def _check_stop(self) -> None:
        if self._stop_signal:
            raise Stopped


class _Curves:
    """The training curves: gathers what the environment counts and the agent logs, and writes it when due."""

    def __init__(self, run: Run, reporter: Reporter, check_stop: Callable[[], None]) -> None:
        self._run = run
        self._reporter = reporter
        self._check_stop = check_stop
        self._recent: deque[Episode] = deque(maxlen=_RECENT_EPISODES)
        self._agent_metrics: dict[str, float] = {}
        self._progress = Progress(0, 0, 0.0, None, None, None)

    def begin(self, env: AtariVectorEnv, base_steps: int, steps: int) -> None:
        """An iteration of `steps` in a new environment begins `base_steps` agent steps into the run."""
        self._env = env
        self._base_steps = self._written_steps = base_steps
        self._last_step = base_steps + steps
        self._begin_time = self._written_time = time.monotonic()

    def finish(self) -> Progress:
        """The iteration's training is over: write what is left; how it went, with its mean speed."""
        seconds = time.monotonic() - self._begin_time
        if self._steps > self._written_steps:
            self._write()
        return dataclasses.replace(self._progress, frames_per_second=self._env.frames / seconds)

    def due(self) -> bool:
        """For the agent: whether its metrics are wanted now: at each interval's end, and the iteration's."""
        interval_is_over = self._steps - self._written_steps >= self._run.config.log_every_steps
        return interval_is_over or self._steps >= self._last_step

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """For the agent: keep its metrics until the next point is written; LabError for one that is not finite."""
        for tag, value in metrics.items():
            self._agent_metrics[tag] = float(value)
            if not math.isfinite(value):
                raise LabError(
                    f"{tag} is {value} after {self._steps} steps: learning diverged; use a smaller learning rate"
                )

    def on_steps(self, total_steps: int) -> None:
        """For the environment, before each step."""
        self._check_stop()
        if self.due():
            self._write()

    def on_episode(self, episode: Episode) -> None:
        """For the environment, at each episode's end."""
        self._recent.append(episode)
        self._run.log_episode(episode, base_steps=self._base_steps)

    @property
    def _steps(self) -> int:
        return self._base_steps + self._env.steps

    def _write(self) -> None:
        """One point of the curves."""
        config, now = self._run.config, time.monotonic()
        skip = config.protocol.frame_skip
        frames_per_second = (self._steps - self._written_steps) * skip / max(now - self._written_time, 1e-9)
        metrics = {**self._agent_metrics, "time/fps": frames_per_second}
        mean_return = None
        if self._recent:
            mean_return = fmean(episode.score for episode in self._recent)
            metrics[TRAINING_TAG] = mean_return
            metrics["rollout/ep_len_mean"] = fmean(episode.length_steps for episode in self._recent) * skip
        self._run.log_metrics(metrics, steps=self._steps)
        self._progress = Progress(
            steps=self._steps,
            frames=self._steps * skip,
            frames_per_second=frames_per_second,
            epsilon=self._agent_metrics.get("rollout/exploration_rate"),
            mean_return=mean_return,
            human_normalized=None if mean_return is None else score_table().human_normalized(config.game, mean_return),
        )
        self._agent_metrics = {}
        self._written_steps, self._written_time = self._steps, now
        self._reporter.on_progress(self._progress)


def _new_env(config: ExperimentConfig, iteration: int, observer: _Curves) -> AtariVectorEnv:
    """The training environment of an iteration."""
    return AtariVectorEnv(
        config.game,
        config.protocol,
        config.num_games,
        seed_sequence(config.seed, "training", iteration),
        training=True,
        num_threads=config.emulator_threads,
        observer=observer,
    )


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the handler; afterwards to whoever had them."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
