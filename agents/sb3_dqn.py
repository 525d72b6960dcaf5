"""stable-baselines3's own DQN (Raffin et al. 2021, JMLR 22) on the lab's bench: what our DQN is measured against.

Nothing of SB3 is subclassed or patched but its interfaces: a `VecEnv` shows it the bench's games, a callback pins its
schedule and reports, a `ReplayBuffer` holds its transitions in less memory on request. The only file that imports
stable_baselines3.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn
from torch import Tensor, nn

from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv, Protocol
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.checks import integer_at, require_at_least, require_between, require_one_of, require_positive
from rl_lab.errors import LabError
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.optimizers import ADAM_STATE, load_optimizer_state, optimizer_state, optimizer_state_like
from rl_lab.replay import STORAGES
from rl_lab.replay.frames import bytes_per_frame
from rl_lab.replay.observations import ObservationRing
from rl_lab.replay.saving import FRAMES, Column, Columns, load_steps, save_steps
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.seeding import generator_state, integer_seed, restore_generator
from rl_lab.system import require_memory
from rl_lab.tensors import pack_tensors, prefixed, read_tensors, unprefixed
from rl_lab.untrusted import read_torch_storages, read_zip

_BYTES_PER_OBSERVATION = math.prod(OBSERVATION_SHAPE)
_BYTES_BESIDE_OBSERVATIONS = 20
"""Of a transition: action 8, reward 4, end 4, time limit 4."""

_MODEL, _STATE, _LEARNER = "model.zip", "state.json", "learner.safetensors"
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
"""SB3's own, by its names."""
_BESIDE_OBSERVATIONS = ("actions", "rewards", "dones", "timeouts")
"""Arrays of SB3's replay, by its names."""
_MAX_MODEL_BYTES = 256 << 20
_MODEL_MEMBERS = (
    *("data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth"),
    *("_stable_baselines3_version", "system_info.txt"),
)
"""What SB3 2.9 writes into a model.zip."""


@dataclass(frozen=True, kw_only=True)
class SB3DQNConfig(AgentConfig):
    """Hyperparameters of stable-baselines3's DQN, by the lab's names. The defaults are RL Baselines3 Zoo's for Atari.

    The network is SB3's CnnPolicy (the Nature paper's), the optimizer Adam, the loss Huber.
    """

    n_step: int = 1
    """Steps of reward before the return is bootstrapped (SB3's n_steps)."""
    discount: float = 0.99
    """Weight of the next step's value (gamma)."""
    replay_capacity: int = 100_000
    """Transitions kept for replay, over all games."""
    replay: str = "sb3"
    """sb3: SB3's own buffer, 56 kB a transition. lean: the same samples from one 84x84 frame a transition."""
    replay_storage: str = "raw"
    """Frames of the lean replay: raw, 7 kB each, or compressed by zstd, 50 to 350 bytes each in most games."""
    batch_size: int = 32
    """Transitions in an update."""
    learning_starts_steps: int = 100_000
    """Agent steps of uniform random play before the first update."""
    update_every_steps: int = 4
    """Agent steps between updates, over all games (SB3's train_freq and gradient_steps)."""
    target_update_steps: int = 1_000
    """Agent steps between copies into the target network; SB3 rounds down to whole steps of all games."""
    epsilon_start: float = 1.0
    """Chance of a random action at step 0; SB3 draws once for all parallel games."""
    epsilon_end: float = 0.01
    """Chance of a random action after the decay."""
    epsilon_decay_steps: int = 1_000_000
    """Agent steps from epsilon_start to epsilon_end, linearly (SB3's exploration_fraction times the budget)."""
    learning_rate: float = 1e-4
    """Step size of Adam."""
    max_gradient_norm: float = 10.0
    """Gradients are scaled down to this norm; SB3 always has a limit."""

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "discount", "epsilon_start", "epsilon_end")
        require_positive(self, "learning_rate", "max_gradient_norm")
        require_at_least(
            self, 1, "n_step", "replay_capacity", "batch_size", "learning_starts_steps", "update_every_steps"
        )
        require_at_least(self, 1, "target_update_steps")
        require_at_least(self, 0, "epsilon_decay_steps")
        require_one_of(self, ("sb3", "lean"), "replay")
        require_one_of(self, STORAGES, "replay_storage")
        if self.replay == "sb3" and self.replay_storage != "raw":
            raise LabError(
                f"replay_storage is {self.replay_storage!r} with replay 'sb3', which keeps whole observations as they "
                "are; use --agent.replay lean"
            )
        if self.batch_size > self.replay_capacity:
            raise LabError(
                f"batch_size is {self.batch_size} and replay_capacity {self.replay_capacity}; "
                "allowed is a batch no larger than the replay"
            )


class SB3DQN(Agent):
    """stable-baselines3's DQN: its model, replay, counters and exploration go on from one iteration to the next."""

    Config = SB3DQNConfig

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, SB3DQNConfig)
        _check_fit(config, task)
        self.config = config
        self._task = task
        self._games = _BenchGames(task.num_games, task.num_actions)
        self._batch_q_values: Tensor | None = None  # (B, A) float32
        # Acting needs no replay: room for one transition of each game is the least that SB3 takes.
        self.model = self._build_model(replay_capacity=task.num_games)

    def prepare(self) -> None:
        """Allocate the replay, once this machine is known to have the memory."""
        _require_replay_memory(self.config)
        weights = self.model.policy.state_dict()
        self.model = self._build_model(self.config.replay_capacity)
        self.model.policy.load_state_dict(weights)

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """One `learn` of SB3, which resets the new `env` first; LabError where `steps` are no whole rounds of SB3's."""
        _require_whole_rounds(steps, "the steps of an iteration are", self.config, self._task)
        self._games.attach(env, steps)
        self.model.set_env(self._games)  # makes SB3 forget its last observation and reset

        def report() -> None:
            if log.due():
                log(self._metrics())
                self._show(log)
                self._guard(env.protocol)

        self.model.learn(
            steps,
            callback=_PinAndReport(self._task.total_steps, report),
            # SB3 clears the values that _metrics reads whenever it writes its own log.
            log_interval=sys.maxsize,
            reset_num_timesteps=False,
        )

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B]."""
        actions, _ = self.model.predict(observations, deterministic=True)
        return actions.astype(np.int64, copy=False)

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Q values [B, A]."""
        self.model.policy.set_training_mode(False)  # as `predict` does: `_keep_q_values` is of updates
        with torch.inference_mode():
            q_values: Tensor = self.model.q_net(torch.as_tensor(observations, device=self.model.device))
        return cast("NDArray[np.float32]", q_values.cpu().numpy())

    def save(self) -> dict[str, bytes]:
        """model.zip, as SB3 saves it: with pickles inside, which SB3's `DQN.load` runs and ours does not read."""
        file = io.BytesIO()
        self.model.save(file)
        return {_MODEL: file.getvalue()}

    def load(self, files: SavedFiles) -> None:
        """Read the networks of model.zip; neither SB3 nor torch's unpickler sees it."""
        policy = self.model.policy
        policy.load_state_dict(
            _read_weights(files.read(_MODEL, max_bytes=_MAX_MODEL_BYTES), policy.state_dict(), _MODEL)
        )

    def save_state(self) -> SavedState:
        """What model.zip lacks, or has as pickles: optimizer, replay, counters, what was logged, and generators.

        SB3 draws from numpy's global generator and from that of its action space; nothing else may draw from them.
        LabError for weights that are not finite.
        """
        self._require_finite_weights()
        model = self.model
        name, words, *place = cast("tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state(legacy=True))
        assert name == "MT19937", name
        counters = {
            **{counter: getattr(model, counter) for counter in _COUNTERS},
            "exploration_rate": float(model.exploration_rate),
            "logged": {tag: float(value) for tag, value in model.logger.name_to_value.items()},
            "numpy": [*words.tolist(), *place],
            "action_space": generator_state(model.action_space.np_random),
        }
        learner = prefixed("optimizer", optimizer_state(model.policy.optimizer))
        if self._batch_q_values is not None:
            learner["batch_q_values"] = self._batch_q_values
        replay = self._save_replay()
        files = {_STATE: json.dumps(counters).encode(), _LEARNER: pack_tensors(learner), **replay.files}
        return SavedState(files, replay.segments)

    def load_state(self, files: SavedFiles) -> None:
        """Go on where another agent of this configuration was saved."""
        model, table = self.model, files.read_json(_STATE)
        for counter in _COUNTERS:
            setattr(model, counter, integer_at(table, counter, _STATE))
        logged, rate = table.get("logged"), table.get("exploration_rate")
        if not isinstance(logged, dict) or not all(isinstance(value, float) for value in (rate, *logged.values())):
            raise LabError(f"{_STATE} is damaged: it does not say what was logged last")
        model.exploration_rate = table["exploration_rate"]
        model.logger.name_to_value.update(logged)
        _restore_global_generator(table.get("numpy"))
        restore_generator(model.action_space.np_random, table.get("action_space"))

        optimizer = optimizer_state_like(model.policy.optimizer, ADAM_STATE if model._n_updates else ())
        shape = (self.config.batch_size, self._task.num_actions)
        like = {"batch_q_values": torch.empty(shape, device="meta")} if model._n_updates else {}
        tensors = read_tensors(files, _LEARNER, {**like, **prefixed("optimizer", optimizer)})
        self._batch_q_values = tensors.get("batch_q_values")
        load_optimizer_state(model.policy.optimizer, unprefixed("optimizer", tensors))
        self._load_replay(files)

    def _save_replay(self) -> SavedState:
        replay, size = self._replay, self._replay.buffer_size

        def read(_: int, rows: NDArray[np.int64]) -> Columns:
            slots, games = np.repeat(rows % size, replay.n_envs), np.tile(np.arange(replay.n_envs), len(rows))
            stacks = [observations[slots, games] for observations in (replay.observations, replay.next_observations)]
            frames = np.stack(stacks, axis=1).reshape(len(rows), *self._columns[FRAMES].shape)
            return {**{name: getattr(replay, name)[rows % size] for name in _BESIDE_OBSERVATIONS}, FRAMES: frames}

        written = np.array([self._written_rows])
        return save_steps(read, self._columns, np.maximum(written - size, 0), written, {})

    def _load_replay(self, files: SavedFiles) -> None:
        replay, size = self._replay, self._replay.buffer_size
        written, _, parts = load_steps(files, self._columns, {}, 1, size)
        if written.tolist() != [self._written_rows]:
            raise LabError(
                f"the saved replay has {written[0]:,} rows; with {self.model.num_timesteps:,} steps it has not"
            )
        oldest = max(self._written_rows - size, 0)
        for part in parts:
            actions, rewards = part.columns["actions"], part.columns["rewards"]
            num_actions = self._task.num_actions
            if ((actions < 0) | (actions >= num_actions)).any() or not np.isfinite(rewards).all():
                raise LabError(f"the saved replay has actions or rewards that a game of {num_actions} actions has not")
            for index, row in enumerate(part.indices.tolist()):
                if row < oldest:
                    continue  # a segment keeps what was overwritten since
                slot = row % size
                observations, next_observations = part.columns[FRAMES][index].swapaxes(0, 1)
                if row == oldest > 0 and isinstance(replay, _LeanReplay):
                    replay.begin_at(row, observations)
                replay.observations[slot] = observations
                replay.next_observations[slot] = next_observations
                for name in _BESIDE_OBSERVATIONS:
                    getattr(replay, name)[slot] = part.columns[name][index]
        replay.pos, replay.full = self._written_rows % size, self._written_rows >= size

    @property
    def _columns(self) -> dict[str, Column]:
        """What is saved of a row of the replay: a transition of each game."""
        games = self._task.num_games
        columns = {name: Column("F32", (games,)) for name in ("rewards", "dones", "timeouts")}
        frames = Column("U8", (games, 2, *OBSERVATION_SHAPE))
        return {**columns, "actions": Column("I64", (games, 1)), FRAMES: frames}

    @property
    def _replay(self) -> ReplayBuffer:
        assert self.model.replay_buffer is not None
        return self.model.replay_buffer

    @property
    def _written_rows(self) -> int:
        """Rows that the replay has ever taken: steps of all games."""
        return self.model.num_timesteps // self._task.num_games

    def _build_model(self, replay_capacity: int) -> DQN:
        """SB3's DQN; seeds the global generators of random, numpy and torch, from which SB3 draws all its numbers."""
        config, task = self.config, self._task
        is_lean = config.replay == "lean"
        calls, updates = _round(config, task)
        model = DQN(
            "CnnPolicy",
            self._games,
            learning_rate=config.learning_rate,
            buffer_size=task.num_games if is_lean else replay_capacity,
            learning_starts=config.learning_starts_steps,
            batch_size=config.batch_size,
            gamma=config.discount,
            train_freq=calls,
            gradient_steps=updates,
            n_steps=config.n_step,
            target_update_interval=config.target_update_steps,
            # Above 1 where the decay is longer than the budget: SB3's schedule then ends short of epsilon_end, as it
            # should. An agent that only acts has no budget.
            exploration_fraction=config.epsilon_decay_steps / max(task.total_steps, 1),
            exploration_initial_eps=config.epsilon_start,
            exploration_final_eps=config.epsilon_end,
            max_grad_norm=config.max_gradient_norm,
            verbose=0,
            seed=integer_seed(task.seed, "sb3"),
            device=task.device,
        )
        if is_lean:
            # Put in afterwards, as SB3 does with a replay from a file: given as an argument its class would be part of
            # model.zip, which SB3 could then load only where this module is.
            model.replay_buffer = _build_lean_replay(config, task, replay_capacity)
        # SB3's default logger makes a directory in the system's temporary one.
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.q_net.register_forward_hook(self._keep_q_values)
        return model

    def _keep_q_values(self, q_net: nn.Module, _inputs: tuple[Tensor, ...], q_values: Tensor) -> None:
        """Called by torch with what the online network computed; only updates run it in training mode."""
        if q_net.training:
            self._batch_q_values = q_values.detach()

    def _guard(self, protocol: Protocol) -> None:
        """Look for divergence after an update."""
        if self._batch_q_values is not None:
            self._require_finite_weights()
            warn_of_divergence(self._batch_q_values, reward_clip=protocol.reward_clip, discount=self.config.discount)

    def _show(self, log: MetricLog) -> None:
        """How the Q values in the last update's batch are distributed. SB3 keeps no TD errors, so there are none."""
        if self._batch_q_values is not None:
            log.histogram("train/q_values", self._batch_q_values.cpu().numpy())

    def _require_finite_weights(self) -> None:
        require_finite_weights(torch.cat([weight.flatten() for weight in self.model.q_net.parameters()]))

    def _metrics(self) -> dict[str, float]:
        """What SB3 recorded in the last round of updates; nothing of learning before the first one."""
        recorded = self.model.logger.name_to_value
        explores_only = self.model.num_timesteps < self.config.learning_starts_steps
        metrics = {
            "rollout/exploration_rate": 1.0 if explores_only else self.model.exploration_rate,
            "train/n_updates": float(recorded.get("train/n_updates", 0)),
        }
        if self._batch_q_values is not None:
            metrics["train/loss"] = float(recorded["train/loss"])
            metrics["train/q_mean"] = self._batch_q_values.max(dim=1).values.mean().item()
            metrics["train/learning_rate"] = float(recorded["train/learning_rate"])
        return metrics


def _read_weights(model_zip: bytes, own: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The policy's weights in a file of SB3's, named and shaped as `own`; LabError where it holds no such policy."""
    like = io.BytesIO()
    torch.save(own, like)
    members = read_zip(model_zip, _MODEL_MEMBERS, where)
    try:
        storages = read_torch_storages(members.get("policy.pth", b""), like.getvalue(), f"{where}: policy.pth")
    except LabError as error:
        *_, last_biases = own.values()
        raise LabError(
            f"{error}; allowed is the network of stable-baselines3's CnnPolicy with {len(last_biases)} actions"
        ) from error
    return {
        name: torch.frombuffer(bytearray(storage), dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())
        for (name, tensor), storage in zip(own.items(), storages, strict=True)
    }


def _restore_global_generator(state: object) -> None:
    """Let numpy's global generator go on from a saved state, [624 words, position, has_gauss, gauss].

    LabError for what is none: numpy takes any position, and reads there, beyond its memory.
    """
    match state:
        case [*words, int(position), int(has_gauss), float(gauss)] if (
            len(words) == 624
            and all(type(word) is int and 0 <= word < 2**32 for word in words)
            and 0 <= position <= len(words)
            and has_gauss in (0, 1)
        ):
            np.random.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, gauss))
        case _:
            raise LabError(f"{_STATE} is damaged: numpy is no state of its global generator")


class _LeanReplay(ReplayBuffer):
    """SB3's replay, and its own sampling, over single frames in place of its two arrays of whole observations."""

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: str,
        *,
        n_envs: int,
        storage: str,
        **n_step: Any,  # SB3's own, of different types
    ) -> None:
        # SB3 allocates room for one transition of each game; what is small grows afterwards.
        super().__init__(n_envs, observation_space, action_space, device, n_envs, **n_step)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.actions, self.rewards, self.dones, self.timeouts = (
            np.zeros((self.buffer_size, *array.shape[1:]), array.dtype)
            for array in (self.actions, self.rewards, self.dones, self.timeouts)
        )
        stack, height, width = self.obs_shape
        ring = ObservationRing(self.buffer_size, n_envs, (stack, height, width), storage)
        # SB3 declares arrays; it writes whole rows into them and reads them by slots and games, nothing else.
        self.observations = cast("NDArray[np.uint8]", _Rows(ring.write, ring.read))
        self.next_observations = cast("NDArray[np.uint8]", _Rows(ring.write_next, ring.read_next))
        self.begin_at = ring.begin_at


class _LeanNStepReplay(_LeanReplay, NStepReplayBuffer):
    """The same with SB3's n-step returns."""


class _Rows:
    """As much of an array [slot, game, ...] as SB3's replay uses."""

    def __init__(
        self,
        write: Callable[[int, NDArray[np.uint8]], None],
        read: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint8]],
    ) -> None:
        self._write = write
        self._read = read

    def __setitem__(self, slot: int, row: NDArray[np.uint8]) -> None:
        self._write(slot, row)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[np.uint8]:
        slots, games = index[:2]  # SB3 adds a slice of the whole in some places
        # In SB3's own order in memory: torch would convolve the other one with other roundings.
        return np.ascontiguousarray(self._read(slots, games))


class _PinAndReport(BaseCallback):
    """What SB3 calls while it learns."""

    def __init__(self, total_steps: int, report: Callable[[], None]) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._report = report

    def _on_training_start(self) -> None:
        # SB3 anneals epsilon over the steps of the current `learn`: its horizon is pinned to the whole experiment.
        self.model._total_timesteps = self._total_steps

    def _on_step(self) -> bool:
        self._report()
        return True


class _BenchGames(VecEnv):
    """The bench's parallel games as SB3 sees them; `attach` puts the games of the next iteration behind it."""

    def __init__(self, num_games: int, num_actions: int) -> None:
        observation_space = spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8)
        super().__init__(num_games, observation_space, spaces.Discrete(num_actions))
        self._env: AtariVectorEnv | None = None
        self._last_step = 0

    def attach(self, env: AtariVectorEnv, steps: int) -> None:
        """Play `steps` agent steps of `env` from now on."""
        self._env = env
        self._last_step = steps

    def reset(self) -> NDArray[np.uint8]:
        return self._attached.observations  # the bench has reset them

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._attached.send(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """A lost life that ends the return is an end to SB3 like any other, only that the game goes on after it."""
        step = self._attached.recv()
        # The end of an iteration cuts every game like a time limit, so that no n-step return reaches into the next one.
        is_cut = ~step.terminated & (step.truncated | (self._attached.steps >= self._last_step))
        ends = step.terminated | is_cut
        infos: list[dict[str, Any]] = [  # Any as in SB3's own signature
            {"terminal_observation": observation, "TimeLimit.truncated": bool(cut)} if end else {}
            for observation, cut, end in zip(step.next_observations, is_cut, ends, strict=True)
        ]
        return step.observations, step.rewards, ends, infos

    def close(self) -> None:
        """The bench owns the games."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[None]:
        if attr_name != "render_mode":  # SB3 asks every environment for this one
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError

    def env_method(
        self, method_name: str, *method_args: object, indices: VecEnvIndices = None, **method_kwargs: object
    ) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: object, indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self.num_envs

    @property
    def _attached(self) -> AtariVectorEnv:
        assert self._env is not None, "no games are attached"
        return self._env


def _build_lean_replay(config: SB3DQNConfig, task: Task, capacity: int) -> ReplayBuffer:
    observation_space = spaces.Box(0, 255, OBSERVATION_SHAPE, np.uint8)
    arguments = (capacity, observation_space, spaces.Discrete(task.num_actions), task.device)
    if config.n_step == 1:
        return _LeanReplay(*arguments, n_envs=task.num_games, storage=config.replay_storage)
    return _LeanNStepReplay(
        *arguments,
        n_envs=task.num_games,
        storage=config.replay_storage,
        n_steps=config.n_step,
        gamma=config.discount,
    )


def _require_replay_memory(config: SB3DQNConfig) -> None:
    """LabError where this machine's memory cannot hold the replay."""
    if config.replay == "lean":
        observation_bytes = bytes_per_frame(config.replay_storage, OBSERVATION_SHAPE[1:])
        what = f"one frame of some {observation_bytes:,} bytes each"
        advice = "use --agent.replay-capacity"
    else:
        observation_bytes = 2 * _BYTES_PER_OBSERVATION
        what = f"two stacked observations of {_BYTES_PER_OBSERVATION:,} bytes each"
        advice = "use --agent.replay-capacity or --agent.replay lean"
    require_memory(
        config.replay_capacity * (observation_bytes + _BYTES_BESIDE_OBSERVATIONS),
        f"stable-baselines3's replay of {config.replay_capacity:,} transitions ({what})",
        advice,
    )


def _check_fit(config: SB3DQNConfig, task: Task) -> None:
    """LabError where the hyperparameters do not fit the budget or the number of parallel games."""
    if config.learning_starts_steps >= task.total_steps > 0:
        raise LabError(
            f"learning_starts_steps is {config.learning_starts_steps} and the budget {task.total_steps} steps: "
            "nothing would be learned; use a smaller --agent.learning-starts-steps"
        )
    if config.update_every_steps % task.num_games and task.num_games % config.update_every_steps:
        raise LabError(
            f"num_games is {task.num_games} and update_every_steps {config.update_every_steps}; allowed with "
            "stable-baselines3 is update_every_steps that is a multiple of num_games or divides it"
        )
    for field in ("replay_capacity", "target_update_steps"):
        if getattr(config, field) < task.num_games:
            raise LabError(
                f"{field} is {getattr(config, field)} with {task.num_games} games; allowed is at least 1 a game"
            )
    _require_whole_rounds(task.total_steps, "the budget is", config, task)
    _require_whole_rounds(task.iteration_steps, "the steps of an iteration are", config, task)


def _require_whole_rounds(steps: int, what: str, config: SB3DQNConfig, task: Task) -> None:
    """LabError unless `steps` are a number of rounds: SB3 does not stop within one."""
    calls, _ = _round(config, task)
    steps_per_round = calls * task.num_games
    if steps % steps_per_round:
        raise LabError(
            f"{what} {steps}; allowed is a multiple of {steps_per_round}, since stable-baselines3 plays in rounds of "
            f"{steps_per_round} steps between updates"
        )


def _round(config: SB3DQNConfig, task: Task) -> tuple[int, int]:
    """SB3's train_freq and gradient_steps for one update every `update_every_steps`.

    SB3 plays `train_freq` steps of all games at once, then makes `gradient_steps` updates.
    """
    return max(config.update_every_steps // task.num_games, 1), max(task.num_games // config.update_every_steps, 1)
