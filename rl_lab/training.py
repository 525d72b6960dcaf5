"""The experiment loop: iterations of train, evaluate, checkpoint.

Each iteration plays in new, freshly seeded games. A run can be left between any two steps and go on later: agent and
replay come from the checkpoint, the emulators are played forward to where they stood.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol as TypingProtocol

from rl_lab.agent import Agent, Task, keeps_state, load_agent
from rl_lab.atari import AtariVectorEnv, game_actions
from rl_lab.checkpoint import (
    CheckpointWriter,
    checkpoints,
    discard_newer,
    newest_checkpoint,
    read_manifest,
    saved_files,
)
from rl_lab.curves import Curves, Progress
from rl_lab.errors import LabError, LabWarning, ResumableError
from rl_lab.evaluation import Evaluation, evaluate
from rl_lab.events import VIDEO_TAG
from rl_lab.experiment import ExperimentConfig, load_experiment
from rl_lab.lock import RunLock, taken_over
from rl_lab.position import Position
from rl_lab.records import read_status
from rl_lab.run import Run, make_way, require_own_files, run_directory
from rl_lab.saved_agent import agent_files, describe
from rl_lab.seeding import integer_seed, seed_sequence
from rl_lab.storage import Storage
from rl_lab.system import signals_to, use_machine
from rl_lab.video import EpisodeVideo
from rl_lab.watchdog import Watchdog

_STOPPING = (signal.SIGINT, signal.SIGTERM, *(() if sys.platform == "win32" else (signal.SIGHUP,)))


class Stopped(BaseException):
    """The user asked to stop. Like KeyboardInterrupt no Exception, so that no agent swallows it."""


class Reporter(TypingProtocol):
    """Shows a run to people."""

    def on_start(self, run: Path, config: ExperimentConfig) -> None:
        """The run's directory is claimed."""

    def on_progress(self, progress: Progress) -> None:
        """A new point of the training curves."""

    def on_evaluation(self, progress: Progress, evaluation: Evaluation) -> None:
        """An iteration is over."""

    def on_end(self) -> None:
        """The run is over, for whatever reason, or has not begun."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run: Path
    evaluation: Evaluation | None
    """The last one; None if it was stopped before the first."""
    steps: int
    """Agent steps at the last checkpoint."""
    lost_steps: int
    """Agent steps that were played beyond it."""
    left_steps: int
    """Agent steps of the budget that the checkpoint has not; 0 if the run finished, or but for its last evaluation."""
    stop_signal: int
    """The signal that stopped the run; 0 if it finished, or came to where it was to stop."""
    keeps_state: bool
    """Whether the run goes on from its checkpoint; otherwise it is started anew."""
    resume_command: str
    """What to type to go on, or to start anew."""
    evaluate_command: str
    """What to type to play more."""


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a run is kept going; results do not depend on it."""

    reporter: Reporter
    storage: Storage = dataclasses.field(default_factory=Storage)
    checkpoint_seconds: float = 300
    """Between checkpoints within an iteration, for agents that can be left between any two steps."""
    stall_seconds: float = 600
    """Without a step of the emulators: then the process is ended."""
    until_steps: int | None = None
    """Stop at the first iteration's end that has so many agent steps: the rest of the budget is for later."""


def run_experiment(config: ExperimentConfig, runs: Path, *, overwrite: bool, conduct: Conduct) -> Outcome:
    """Train, evaluate and record one run under `runs`.

    LabError before the first frame for what cannot work. Ctrl-C, SIGTERM and a closed terminal stop at the next step:
    the outcome says so.
    """
    directory = run_directory(runs, config)
    device, threads = use_machine(config.device, config.threads)
    with closing(_build_agent(config, device)) as agent:
        agent.prepare()
        with RunLock(directory) as lock, _resumable(directory, config):
            make_way(directory, overwrite=overwrite)
            with Run.create(directory, config, device=device, threads=threads) as run:
                writer = CheckpointWriter(directory, conduct.storage, {})
                return _Loop(agent, run, lock, writer, Position.start(config.num_games), conduct).run()


def resume_experiment(
    directory: Path, *, total_steps: int | None = None, agent_file: str | None = None, conduct: Conduct
) -> Outcome:
    """Go on with a run from its newest whole checkpoint, as if it had never stopped; with another budget on request.

    LabError before the first frame, with nothing changed, for what cannot be resumed.
    """
    config = load_experiment(directory / "config.toml", agent=agent_file)
    if total_steps is not None:
        config = dataclasses.replace(config, total_steps=total_steps)
    device, threads = use_machine(config.device, config.threads)
    with RunLock(directory) as lock, _resumable(directory, config), ExitStack() as opened:
        require_own_files(directory)
        was_finished = _tell_of_takeover(directory)
        agent = opened.enter_context(closing(_build_agent(config, device)))
        checkpoint = _newest(directory) if checkpoints(directory) else None
        if checkpoint is None:  # killed before the first one
            agent.prepare()
            position, segments = Position.start(config.num_games), {}
        else:
            saved = _require_same_experiment(checkpoint, config, agent_file)
            agent.load(saved_files(checkpoint, "agent"))
            agent.prepare()
            agent.load_state(saved_files(checkpoint, "state"))
            position = Position.read(saved_files(checkpoint, "loop"), config)
            _require_whole_iteration(position, saved, config)
            segments = read_manifest(checkpoint).segments
        _require_steps_left(position, config, was_finished=was_finished)
        if checkpoint is not None:
            discard_newer(checkpoint, conduct.storage)  # before the records are cut back
        with Run.resume(
            directory,
            config,
            steps=position.steps,
            written_steps=position.written_steps,
            record_bytes=position.record_bytes,
            device=device,
            threads=threads,
        ) as run:
            writer = CheckpointWriter(directory, conduct.storage, segments)
            return _Loop(agent, run, lock, writer, position, conduct).run()


def _resume_command(directory: Path, config: ExperimentConfig) -> str:
    """What to type to go on with a run, or to start it anew where its agent keeps no state."""
    if keeps_state(config.agent.name):
        return f"rl-lab train --resume {shlex.quote(str(directory))}{_agent_flag(config)}"
    runs = os.path.normpath(directory / "../../..")  # see `run_directory`
    return (
        f"rl-lab train {shlex.quote(str(directory / 'config.toml'))}{_agent_flag(config)} --runs {shlex.quote(runs)} "
        "--overwrite"
    )


def _evaluate_command(directory: Path, config: ExperimentConfig) -> str:
    """What to type to play more with a run's agent."""
    return f"rl-lab evaluate {shlex.quote(str(directory))}{_agent_flag(config)} --episodes 100"


def _agent_flag(config: ExperimentConfig) -> str:
    name = config.agent.name
    return f" --agent {shlex.quote(name)}" if name.endswith(".py") else ""


class _Loop:
    """The iterations of one run, from a position on."""

    def __init__(
        self,
        agent: Agent,
        run: Run,
        lock: RunLock,
        writer: CheckpointWriter,
        position: Position,
        conduct: Conduct,
    ) -> None:
        self._agent = agent
        self._run = run
        self._config = run.config
        self._actions = game_actions(run.config.game, run.config.protocol)
        self._lock = lock
        self._writer = writer
        self._position = position  # of the last checkpoint
        self._conduct = conduct
        self._stop_signal = 0
        self._played_steps = position.steps
        self._saved_time = time.monotonic()
        self._evaluation: Evaluation | None = None
        self._curves = Curves(
            run, conduct.reporter.on_progress, on_step=self._on_training_step, asks_for_pause=self._asks_for_pause
        )
        self._keeps_state = keeps_state(run.config.agent.name)
        self._resume_command = _resume_command(run.directory, run.config)
        self._watchdog = Watchdog(
            run.directory,
            lambda reason: run.set_status("failed", reason),
            seconds=conduct.stall_seconds,
            resume_command=self._resume_command,
        )

    def run(self) -> Outcome:
        reporter, total_steps = self._conduct.reporter, self._config.total_steps
        until_steps = min(total_steps, self._conduct.until_steps or total_steps)
        try:
            with signals_to(self._ask_to_stop, _STOPPING), self._watchdog:
                reporter.on_start(self._run.directory, self._config)
                while self._position.begin_steps < until_steps:
                    self._iterate()
        except Stopped:
            self._run.set_status("interrupted", signal.Signals(self._stop_signal).name)
        except OSError as error:
            with suppress(OSError):  # a full disk has no room for this either
                self._run.set_status("interrupted", str(error.strerror))
            raise
        except BaseException as error:
            self._run.set_status("failed", f"{type(error).__name__}: {error}")
            raise
        else:
            self._stop_signal = 0  # it came too late to stop anything
            if self._position.begin_steps < total_steps:
                self._run.set_status("interrupted", f"--until-steps {until_steps}")
            else:
                self._run.set_status("finished")
        finally:
            reporter.on_end()
        saved_steps = self._position.steps
        lost_steps = max(self._played_steps - saved_steps, 0)
        return Outcome(
            self._run.directory,
            self._evaluation,
            saved_steps,
            lost_steps,
            total_steps - saved_steps,
            self._stop_signal,
            self._keeps_state,
            self._resume_command,
            _evaluate_command(self._run.directory, self._config),
        )

    def _iterate(self) -> None:
        """One iteration of train, evaluate, checkpoint, or what is left of it."""
        config, position = self._config, self._position
        steps = min(config.iteration_steps, config.total_steps - position.begin_steps)
        env = _new_env(config, position.iteration, observer=self._curves)
        env.fast_forward(position.played, self._on_replayed_step)
        self._curves.begin(env, position, steps)
        self._train(env, steps)
        progress = self._curves.finish()
        video = EpisodeVideo()
        evaluation = self._evaluate(env, video)
        total = position.begin_steps + steps
        self._run.log_evaluation(evaluation, steps=total, iteration=position.iteration)
        self._run.events.gif(VIDEO_TAG, video.gif(), total * config.protocol.frame_skip)
        self._evaluation = evaluation
        following = Position.start(config.num_games)
        self._save(dataclasses.replace(following, iteration=position.iteration + 1, begin_steps=total))
        self._conduct.reporter.on_evaluation(progress, evaluation)

    def _train(self, env: AtariVectorEnv, steps: int) -> None:
        """Let the agent play until the environment has made so many steps, with checkpoints between."""
        while env.steps < steps:
            env.pause_requested = False
            self._agent.train(env, steps, self._curves)
            if env.steps != steps and not (env.steps < steps and env.pause_requested):
                raise LabError(f"the agent played {env.steps} steps; `train` was asked for exactly {steps}")
            if env.steps < steps:
                self._save_within(env)
                self._check_stop()

    def _evaluate(self, env: AtariVectorEnv, video: EpisodeVideo) -> Evaluation:
        """The evaluation after the iteration's training in `env`, its first episode on video."""
        config = self._config
        try:
            return evaluate(
                self._agent,
                config.game,
                config.protocol,
                episodes=config.evaluation_episodes,
                seed=integer_seed(config.seed, "evaluation", self._position.iteration),
                num_threads=config.emulator_threads,
                on_step=self._on_replayed_step,
                record=video.add,
            )
        except Stopped:
            self._save_within(env)
            raise

    def _save_within(self, env: AtariVectorEnv) -> None:
        """A checkpoint in the middle of an iteration."""
        if env.steps > self._position.played.size:
            self._save(dataclasses.replace(self._position, played=env.played_actions))

    def _save(self, position: Position) -> None:
        """A checkpoint at the position, which has no records yet."""
        self._lock.require_held()  # `rm -rf` lets another run have the same place
        position = dataclasses.replace(
            position,
            record_bytes=self._run.sync_records(self._conduct.storage),
            written_steps=self._curves.written_steps,
            unwritten_seconds=self._curves.unwritten_seconds,
            agent_metrics=self._curves.agent_metrics,
        )
        state = self._agent.save_state()
        description = describe(self._config, actions=self._actions, steps=position.steps)
        folders = {
            "agent": agent_files(self._agent, description),
            "state": {} if state is None else state.files,
            "loop": {**position.files(), "config.toml": self._config.to_toml().encode()},
        }
        files = {f"{folder}/{name}": data for folder, held in folders.items() for name, data in held.items()}
        self._writer.save(description.frames, files, {} if state is None else state.segments)
        self._position = position
        self._saved_time = time.monotonic()

    def _asks_for_pause(self) -> bool:
        return self._stop_signal != 0 or time.monotonic() - self._saved_time > self._conduct.checkpoint_seconds

    def _on_training_step(self, steps: int, pause_requested: bool) -> None:
        self._watchdog.beat()
        self._played_steps = steps
        if pause_requested:  # the agent cannot be left between two steps
            self._check_stop()

    def _on_replayed_step(self) -> None:
        self._watchdog.beat()
        self._check_stop()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop_signal:  # asked twice: the agent may be stuck between two steps
            raise Stopped
        self._stop_signal = number

    def _check_stop(self) -> None:
        if self._stop_signal:
            raise Stopped


def _build_agent(config: ExperimentConfig, device: str) -> Agent:
    """The agent, without what only training needs."""
    task = Task(
        num_actions=len(game_actions(config.game, config.protocol)),
        num_games=config.num_games,
        total_steps=config.total_steps,
        seed=config.seed,
        device=device,
        iteration_steps=config.iteration_steps,
    )
    return load_agent(config.agent.name)(config.agent, task)


def _newest(directory: Path) -> Path:
    """The checkpoint to go on from; newer ones that are damaged are named."""
    checkpoint, problems = newest_checkpoint(directory, resumable=True)
    for problem in problems:
        warnings.warn(f"skipped a damaged checkpoint: {problem}", LabWarning, stacklevel=3)
    return checkpoint


def _tell_of_takeover(directory: Path) -> bool:
    """Say what became of a writer that left the run without ending it; whether one has finished the run."""
    try:
        status = read_status(directory)
    except LabError:  # as after a power failure
        warnings.warn("its status is missing or damaged; taking the run over", LabWarning, stacklevel=3)
        return False
    if told := taken_over(status):
        warnings.warn(told, LabWarning, stacklevel=3)
    return status.state == "finished"


def _require_same_experiment(checkpoint: Path, config: ExperimentConfig, agent_file: str | None) -> ExperimentConfig:
    """The checkpoint's experiment; LabError where config.toml was changed since, but for what a resume may change."""
    saved = load_experiment(checkpoint / "loop" / "config.toml", agent=agent_file)
    for field in dataclasses.fields(config):
        was, now = getattr(saved, field.name), getattr(config, field.name)
        if was != now and field.name not in ("total_steps", "device", "threads", "emulator_threads"):
            raise LabError(
                f"{field.name} in config.toml is {now}, and was {was} at the checkpoint; a run goes on as it began: "
                "put it back, or start another run"
            )
    return saved


def _require_whole_iteration(position: Position, saved: ExperimentConfig, config: ExperimentConfig) -> None:
    """LabError where a larger budget would go on with an iteration that the former one has ended, but for its score."""
    end = min(position.begin_steps + saved.iteration_steps, saved.total_steps)
    is_trained = position.played.size > 0 and position.steps == end
    if is_trained and end - position.begin_steps < saved.iteration_steps and config.total_steps > saved.total_steps:
        raise LabError(
            f"the run was stopped in its last evaluation, at {position.steps:,} steps; resume it without --total-steps "
            "first, then with the larger budget"
        )


def _require_steps_left(position: Position, config: ExperimentConfig, *, was_finished: bool) -> None:
    """LabError for a run that is finished, or would be past its end.

    One that was killed between its last checkpoint and its end has only to be ended.
    """
    is_over = position.begin_steps >= config.total_steps
    if position.steps > config.total_steps or (is_over and was_finished):
        raise LabError(
            f"the run has {position.steps:,} of {config.total_steps:,} agent steps; give a larger --total-steps to go "
            "on"
        )
    if position.begin_steps % config.iteration_steps and not is_over:
        warnings.warn(
            f"an iteration was ended early by the former budget, at {position.begin_steps:,} steps: this run is not "
            f"the same as one of {config.total_steps:,} steps from the start",
            LabWarning,
            stacklevel=3,
        )


def _new_env(config: ExperimentConfig, iteration: int, observer: Curves) -> AtariVectorEnv:
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
def _resumable(directory: Path, config: ExperimentConfig) -> Iterator[None]:
    """What the disk refuses stops a run that can go on."""
    resume_command = _resume_command(directory, config)  # while the agent's file can be read
    try:
        yield
    except BrokenPipeError:  # the reader of our output has left
        raise
    except OSError as error:
        raise ResumableError(
            f"{error.filename or directory}: {error.strerror or error}; what was saved is kept: see to the disk, then "
            f"go on with {resume_command}"
        ) from error
