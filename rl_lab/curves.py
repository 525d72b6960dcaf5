"""The training curves: what the environment counts and the agent logs, gathered and written when due."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_lab.atari import AtariVectorEnv, Episode
from rl_lab.errors import LabError
from rl_lab.events import TRAINING_TAG
from rl_lab.position import Position
from rl_lab.run import Run
from rl_lab.scores import score_table

_RECENT_EPISODES = 100
"""Episodes in the training curve's mean, as in stable-baselines3."""


@dataclass(frozen=True)
class Progress:
    """How a run stands, for those who watch it."""

    steps: int
    frames: int
    frames_per_second: float | None
    """Training only: since the last point of the curves, or over an iteration at its end; None where nothing was left
    to play."""
    epsilon: float | None
    mean_return: float | None
    """Over the last 100 training episodes, or all if fewer; None before the first."""
    human_normalized: float | None
    """Of `mean_return`."""


class Curves:
    """The observer of the training environment, and the log that the agent writes to."""

    def __init__(
        self,
        run: Run,
        on_progress: Callable[[Progress], None],
        *,
        on_step: Callable[[int, bool], None],
        asks_for_pause: Callable[[], bool],
    ) -> None:
        """`on_step` is called before each step, with the run's agent steps and whether a pause was requested."""
        self._run = run
        self._on_progress = on_progress
        self._on_step = on_step
        self.asks_for_pause = asks_for_pause
        self._recent = deque(run.recent_episodes(_RECENT_EPISODES), maxlen=_RECENT_EPISODES)  # (score, length_frames)

    def begin(self, env: AtariVectorEnv, position: Position, steps: int) -> None:
        """An iteration of `steps` begins, or goes on, in an environment that stands at the position."""
        self._env = env
        self._base_steps = position.begin_steps
        self.written_steps = position.written_steps
        self.agent_metrics = dict(position.agent_metrics)
        self._last_step = position.begin_steps + steps
        frames = position.steps * env.protocol.frame_skip
        self._progress = Progress(position.steps, frames, None, epsilon=None, mean_return=None, human_normalized=None)
        self._begin_frames = env.frames
        self._begin_time = time.monotonic()
        self._written_time = self._begin_time - position.unwritten_seconds

    def finish(self) -> Progress:
        """The iteration's training is over: write what is left; how it went, with its mean speed."""
        seconds = time.monotonic() - self._begin_time
        if self._steps > self.written_steps:
            self._write()
        frames = self._env.frames - self._begin_frames
        frames_per_second = frames / seconds if frames else None
        return dataclasses.replace(self._progress, frames_per_second=frames_per_second)

    def due(self) -> bool:
        """For the agent: whether its metrics are wanted now: at each interval's end, and the iteration's."""
        interval_is_over = self._steps - self.written_steps >= self._run.config.log_every_steps
        return interval_is_over or self._steps >= self._last_step

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """For the agent: keep its metrics until the next point is written.

        LabError for one that is not finite, and for a tag without a slash: such names are the record's own.
        """
        for tag, value in metrics.items():
            if "/" not in tag:
                raise LabError(f"the agent logs {tag!r}; allowed are tags with a slash, such as train/{tag}")
            self.agent_metrics[tag] = float(value)
            if not math.isfinite(value):
                raise LabError(
                    f"{tag} is {value} after {self._steps} steps: learning diverged; use a smaller learning rate"
                )

    def histogram(self, tag: str, values: NDArray[np.floating[Any]]) -> None:
        """For the agent: show at once how the values are distributed; LabError for one that is not finite."""
        if not np.isfinite(values).all():
            raise LabError(
                f"{tag} is not finite after {self._steps} steps: learning diverged; use a smaller learning rate"
            )
        self._run.events.histogram(tag, values, self._steps * self._run.config.protocol.frame_skip)

    def on_steps(self, total_steps: int) -> None:
        """For the environment, before each step."""
        self._on_step(self._steps, self._env.pause_requested)
        if self.due():
            self._write()

    def on_episode(self, episode: Episode) -> None:
        """For the environment, at each episode's end."""
        self._recent.append((episode.score, episode.length_steps * self._run.config.protocol.frame_skip))
        self._run.log_episode(episode, base_steps=self._base_steps)

    @property
    def unwritten_seconds(self) -> float:
        """Of training since the last point of the curves."""
        return time.monotonic() - self._written_time if self._steps > self.written_steps else 0.0

    @property
    def _steps(self) -> int:
        return self._base_steps + self._env.steps

    def _write(self) -> None:
        """One point of the curves."""
        config, now = self._run.config, time.monotonic()
        skip = config.protocol.frame_skip
        frames_per_second = (self._steps - self.written_steps) * skip / max(now - self._written_time, 1e-9)
        metrics = {**self.agent_metrics, "time/fps": frames_per_second}
        mean_return = None
        if self._recent:
            mean_return = fmean(score for score, _ in self._recent)
            metrics[TRAINING_TAG] = mean_return
            metrics["rollout/ep_len_mean"] = fmean(length_frames for _, length_frames in self._recent)
        self._run.log_metrics(metrics, steps=self._steps)
        self._run.events.scalars(self._action_shares(), self._steps * skip)
        self._progress = Progress(
            steps=self._steps,
            frames=self._steps * skip,
            frames_per_second=frames_per_second,
            epsilon=self.agent_metrics.get("rollout/exploration_rate"),
            mean_return=mean_return,
            human_normalized=None if mean_return is None else score_table().human_normalized(config.game, mean_return),
        )
        self.agent_metrics = {}
        self.written_steps, self._written_time = self._steps, now
        self._on_progress(self._progress)

    def _action_shares(self) -> dict[str, float]:
        """How often each action was played since the last point: a curve an action, which a histogram cannot name."""
        since = max(self.written_steps - self._base_steps, 0)
        played = self._env.played_actions.ravel()[since:]
        counts = np.bincount(played, minlength=self._env.num_actions)
        return {f"actions/{name}": count / len(played) for name, count in zip(self._env.actions, counts, strict=True)}
