"""Deep Q-network, from scratch: the agents of Mnih et al. 2013 (arXiv 1312.5602) and 2015 (Nature 518, 529-533).

One loop: act epsilon-greedily in parallel games, let the emulators run, learn from replay meanwhile, store what came.
Double DQN (van Hasselt et al. 2016) and n-step returns are switches.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lab import losses
from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv, Protocol
from rl_lab.checks import integer_at, require_at_least, require_between, require_one_of, require_positive
from rl_lab.errors import LabError, LabWarning
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.networks import INITIALIZATIONS, NETWORKS, build_network
from rl_lab.optimizers import (
    ADAM_STATE,
    RMSPROP_STATE,
    CentredRMSProp,
    load_optimizer_state,
    optimizer_state,
    optimizer_state_like,
)
from rl_lab.replay import DEFAULT_CHUNK_FRAMES, STORAGES, Batch, ReplayMemory
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.schedules import linear
from rl_lab.seeding import generator, generator_state, integer_seed, restore_generator
from rl_lab.system import has_fast_bf16
from rl_lab.tensors import pack_tensors, prefixed, read_tensors, unprefixed
from rl_lab.weights import PRECISIONS, MasterWeights

_WEIGHTS, _LEARNER, _COUNTERS = "weights.safetensors", "learner.safetensors", "counters.json"


@dataclass(frozen=True, kw_only=True)
class DQNConfig(AgentConfig):
    """Hyperparameters of DQN. The defaults are those of the Nature paper, in DQN Zoo's reading."""

    network: str = "nature"
    """mnih2013 (16 and 32 filters, 256 units) or nature (32, 64 and 64 filters, 512 units)."""
    initialization: str = "torch7"
    """torch7 (as DeepMind's DQN: shrinks a signal from layer to layer) or he (keeps it: differences show earlier)."""
    double: bool = False
    """Double DQN: the online network chooses the action that the target network values."""
    n_step: int = 1
    """Steps of reward before the return is bootstrapped."""
    discount: float = 0.99
    """Weight of the next step's value (gamma)."""
    replay_capacity: int = 1_000_000
    """Transitions kept for replay, over all games."""
    replay_storage: str = "raw"
    """raw (7 kB a transition) or zstd (compressed, the same batches: 50 to 350 bytes in most games)."""
    replay_chunk_frames: int = DEFAULT_CHUNK_FRAMES
    """zstd: consecutive frames of a game in one piece; more take less memory and more time."""
    batch_size: int = 32
    """Transitions in an update."""
    learning_starts_steps: int = 50_000
    """Agent steps of uniform random play before the first update."""
    update_every_steps: int = 4
    """Agent steps between updates, over all games."""
    target_update_steps: int = 10_000
    """Agent steps between copies into the target network; 0 is no target network, as in 2013."""
    epsilon_start: float = 1.0
    """Chance of a random action at step 0."""
    epsilon_end: float = 0.1
    """Chance of a random action after the decay."""
    epsilon_decay_steps: int = 1_000_000
    """Agent steps from epsilon_start to epsilon_end, linearly."""
    loss: str = "huber"
    """huber (TD error clipped to 1 in the gradient) or squared."""
    optimizer: str = "rmsprop"
    """rmsprop (centred, as in the papers) or adam."""
    learning_rate: float = 0.00025
    """Step size of the optimizer."""
    rmsprop_decay: float = 0.95
    """Decay of RMSProp's running moments."""
    optimizer_epsilon: float = 0.01 / 32**2
    """RMSProp: added to the variance, for the mean over a batch. Adam: added to the root."""
    precision: str = "fp32"
    """fp32, as in the papers; bf16: exploring and learning compute in half width, but for the last layer, and the
    weights learn in full; quicker where the processor has bf16."""
    max_gradient_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 is no limit."""

    def __post_init__(self) -> None:
        require_one_of(self, NETWORKS, "network")
        require_one_of(self, INITIALIZATIONS, "initialization")
        require_one_of(self, ("huber", "squared"), "loss")
        require_one_of(self, ("rmsprop", "adam"), "optimizer")
        require_one_of(self, PRECISIONS, "precision")
        require_one_of(self, STORAGES, "replay_storage")
        require_between(self, 4, 256, "replay_chunk_frames")
        require_between(self, 0, 1, "discount", "epsilon_start", "epsilon_end", "rmsprop_decay")
        require_positive(self, "learning_rate", "optimizer_epsilon")
        require_at_least(
            self, 1, "n_step", "replay_capacity", "batch_size", "learning_starts_steps", "update_every_steps"
        )
        require_at_least(self, 0, "target_update_steps", "epsilon_decay_steps", "max_gradient_norm")
        if self.batch_size > self.replay_capacity:
            raise LabError(
                f"batch_size is {self.batch_size} and replay_capacity {self.replay_capacity}; "
                "allowed is a batch no larger than the replay"
            )
        if self.batch_size > self.learning_starts_steps:
            raise LabError(
                f"batch_size is {self.batch_size} and learning_starts_steps {self.learning_starts_steps}; "
                "allowed is a batch no larger than the steps before learning"
            )


class DQN(Agent):
    """Q-learning with a convolutional network and experience replay."""

    Config = DQNConfig

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, DQNConfig)
        if config.learning_starts_steps >= task.total_steps > 0:
            raise LabError(
                f"learning_starts_steps is {config.learning_starts_steps} and the budget {task.total_steps} steps: "
                "nothing would be learned; use a smaller --agent.learning-starts-steps"
            )
        first_transitions_steps = (config.n_step + 1) * task.num_games
        if config.learning_starts_steps < first_transitions_steps:
            raise LabError(
                f"learning_starts_steps is {config.learning_starts_steps}; allowed is {first_transitions_steps} or "
                f"more, when {task.num_games} games have their first {config.n_step}-step transitions"
            )
        self.config = config
        self._task = task
        self._device = torch.device(task.device)
        weights_rng = torch.Generator().manual_seed(integer_seed(task.seed, "weights"))
        network = build_network(config.network, task.num_actions, weights_rng, initialization=config.initialization)
        self.network = network.to(self._device)
        self._steps = 0
        self._updates = 0
        self._target_copies = 0
        self._last_loss = torch.zeros(())
        self._last_q_values = torch.zeros(0, task.num_actions)  # (B, A) float32
        self._last_td_error = torch.zeros(0)  # (B,) float32; for the eye only: nothing to go on from

    def prepare(self) -> None:
        """Allocate the replay memory, the target network and the optimizer."""
        config, task = self.config, self._task
        if config.precision == "bf16" and not has_fast_bf16(task.device):
            warnings.warn(
                f"precision is bf16, which this {task.device} computes no faster than fp32: --agent.precision fp32",
                LabWarning,
                stacklevel=2,
            )
        self.replay = ReplayMemory(
            config.replay_capacity,
            task.num_games,
            discount=config.discount,
            n_step=config.n_step,
            storage=config.replay_storage,
            chunk_frames=config.replay_chunk_frames,
        )
        self._weights = MasterWeights(self.network, config.precision)
        self._learner: nn.Module = self._weights.learner
        self._target_network: nn.Module = copy.deepcopy(self._learner) if config.target_update_steps else self._learner
        self._optimizer = self._build_optimizer()
        self._exploration_rng = generator(task.seed, "exploration")
        self._replay_rng = generator(task.seed, "replay")

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """The DQN loop (Mnih et al. 2015, algorithm 1), in parallel games."""
        observations = env.observations
        with ThreadPoolExecutor(1) as sampler:
            while env.steps < steps and not env.pause_requested:
                batches = self._sample_due(sampler)  # while the network acts and learns
                actions = self._explore(observations)
                env.send(actions)
                self._learn(batches)  # while the emulators run
                step = env.recv()
                self.replay.add(observations, actions, step)
                observations = step.observations
                self._steps += env.num_games
                if log.due():
                    log(self._metrics())
                    self._show(log)
                    self._guard(env.protocol)
        if env.steps == steps:
            self.replay.cut(observations)

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B]."""
        # In full precision: what a saved agent plays does not depend on how it was trained.
        return self._greedy(self.network, observations)

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Q values [B, A]."""
        q_values: NDArray[np.float32] = self._q_values(self.network, observations).cpu().numpy()
        return q_values

    def save(self) -> dict[str, bytes]:
        """weights.safetensors: the online network."""
        return {_WEIGHTS: pack_tensors(self.network.state_dict())}

    def load(self, files: SavedFiles) -> None:
        """Take the online network; LabError where the file is not this network's."""
        self.network.load_state_dict(read_tensors(files, _WEIGHTS, self.network.state_dict()))

    def save_state(self) -> SavedState:
        """What the weights are not: target network, optimizer, replay, counters and generators.

        LabError for weights that are not finite: the checkpoint before is the one to go on from.
        """
        require_finite_weights(self._weights.values)
        counters = {
            "steps": self._steps,
            "updates": self._updates,
            "target_copies": self._target_copies,
            "exploration": generator_state(self._exploration_rng),
            "replay": generator_state(self._replay_rng),
        }
        learner = {**self._learner_state(), **prefixed("optimizer", optimizer_state(self._optimizer))}
        replay = self.replay.save()
        files = {_LEARNER: pack_tensors(learner), _COUNTERS: json.dumps(counters).encode(), **replay.files}
        return SavedState(files, replay.segments)

    def load_state(self, files: SavedFiles) -> None:
        """Go on where another agent of this configuration was saved."""
        counters = files.read_json(_COUNTERS)
        self._steps, self._updates, self._target_copies = (
            integer_at(counters, key, _COUNTERS) for key in ("steps", "updates", "target_copies")
        )
        if not 0 <= self._due_updates - self._updates <= self._task.num_games or self._target_copies > self._steps:
            raise LabError(f"{_COUNTERS} is damaged: its counters do not fit each other")
        restore_generator(self._exploration_rng, counters.get("exploration"))
        restore_generator(self._replay_rng, counters.get("replay"))

        batch_size = self.config.batch_size if self._updates else 0
        self._last_q_values = torch.zeros(batch_size, self._task.num_actions)
        names = (ADAM_STATE if self.config.optimizer == "adam" else RMSPROP_STATE) if self._updates else ()
        optimizer = optimizer_state_like(self._optimizer, names)
        tensors = read_tensors(files, _LEARNER, {**self._learner_state(), **prefixed("optimizer", optimizer)})
        self._last_loss, self._last_q_values = tensors["last_loss"], tensors["last_q_values"]
        if self.config.target_update_steps:
            self._target_network.load_state_dict(unprefixed("target", tensors))
        load_optimizer_state(self._optimizer, unprefixed("optimizer", tensors))
        self.replay.load(files, self._task.num_actions)

    @property
    def epsilon(self) -> float:
        """Chance of a random action at the current step; 1 before learning starts."""
        if self._steps < self.config.learning_starts_steps:
            return 1.0
        return linear(
            self._steps,
            start=self.config.epsilon_start,
            end=self.config.epsilon_end,
            over_steps=self.config.epsilon_decay_steps,
        )

    def _explore(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Epsilon-greedy actions [B], drawn for each game."""
        num_games = len(observations)
        explores = self._exploration_rng.random(num_games) < self.epsilon
        random_actions = self._exploration_rng.integers(0, self._task.num_actions, num_games)
        if explores.all():
            return random_actions
        return np.where(explores, random_actions, self._greedy(self._learner, observations))

    def _greedy(self, network: nn.Module, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The network's best actions [B]."""
        actions: NDArray[np.int64] = self._q_values(network, observations).argmax(dim=1).cpu().numpy()
        return actions

    @torch.inference_mode()
    def _q_values(self, network: nn.Module, observations: NDArray[np.uint8]) -> Tensor:
        """(B, A)."""
        q_values: Tensor = network(torch.from_numpy(observations).to(self._device))
        return q_values

    def _sample_due(self, sampler: Executor) -> Sequence[Future[Batch]]:
        """Batches for the updates that are due by now, drawn in another thread.

        Until `_learn` has taken the last one, nothing else may touch the replay or its generator.
        """
        return [
            sampler.submit(self.replay.sample, self.config.batch_size, self._replay_rng)
            for _ in range(self._updates, self._due_updates)
        ]

    @property
    def _due_updates(self) -> int:
        """Updates that should have been made by now."""
        since_start = self._steps - self.config.learning_starts_steps
        return max(since_start // self.config.update_every_steps, 0)

    def _learn(self, batches: Sequence[Future[Batch]]) -> None:
        """One update on each batch; the target network follows when its time has come."""
        for batch in batches:
            self.update(batch.result())
        config = self.config
        if config.target_update_steps and self._steps // config.target_update_steps > self._target_copies:
            self._target_copies = self._steps // config.target_update_steps
            self._target_network.load_state_dict(self._learner.state_dict())

    def update(self, batch: Batch) -> None:
        """One gradient step."""
        observations, actions, returns, discounts, next_observations = (
            torch.from_numpy(array).to(self._device) for array in batch
        )
        q_tm1 = self._learner(observations)  # (B, A) float32
        td_error = self._td_error(q_tm1, actions, returns, discounts, next_observations)
        assert td_error.shape == (self.config.batch_size,), td_error.shape
        loss = (losses.huber if self.config.loss == "huber" else losses.squared)(td_error).mean()

        loss.backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        self._weights.take_gradients()
        if self.config.max_gradient_norm:
            self._clip_gradients(self.config.max_gradient_norm)
        self._optimizer.step()
        self._weights.publish()
        self._updates += 1
        self._last_loss, self._last_q_values, self._last_td_error = loss.detach(), q_tm1.detach(), td_error.detach()

    def _clip_gradients(self, max_norm: float) -> None:
        """Scale the gradients down to the norm where they exceed it."""
        gradient = self._weights.values.grad
        assert gradient is not None
        norm = gradient.norm()
        if norm > max_norm:
            gradient.mul_(max_norm / norm)

    def _td_error(
        self, q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, next_observations: Tensor
    ) -> Tensor:
        """TD error [B] by the configured rule; only `q_tm1` [B, A] carries a gradient."""
        with torch.no_grad():
            q_t = self._target_network(next_observations)
        if not self.config.double:
            return losses.q_learning_td_error(q_tm1, a_tm1, r_t, discount_t, q_t)
        with torch.no_grad():
            q_t_selector = self._learner(next_observations)
        return losses.double_q_learning_td_error(q_tm1, a_tm1, r_t, discount_t, q_t, q_t_selector)

    def _build_optimizer(self) -> torch.optim.Optimizer:
        config, weights = self.config, [self._weights.values]
        if config.optimizer == "adam":
            # The fused kernel takes a tenth of the default loop's time on a CPU.
            return torch.optim.Adam(weights, config.learning_rate, eps=config.optimizer_epsilon, fused=True)
        return CentredRMSProp(
            weights, config.learning_rate, decay=config.rmsprop_decay, epsilon=config.optimizer_epsilon
        )

    def _learner_state(self) -> dict[str, Tensor]:
        """What learning goes on from besides weights and optimizer."""
        target = self._target_network.state_dict() if self.config.target_update_steps else {}
        return {"last_loss": self._last_loss, "last_q_values": self._last_q_values, **prefixed("target", target)}

    def _guard(self, protocol: Protocol) -> None:
        """Look for divergence after an update."""
        if self._updates:
            require_finite_weights(self._weights.values)
            warn_of_divergence(self._last_q_values, reward_clip=protocol.reward_clip, discount=self.config.discount)

    def _metrics(self) -> dict[str, float]:
        """What the last update saw; nothing of learning before the first one."""
        metrics = {"rollout/exploration_rate": self.epsilon, "train/n_updates": float(self._updates)}
        if self._updates:
            metrics["train/loss"] = self._last_loss.item()
            metrics["train/q_mean"] = self._last_q_values.max(dim=1).values.mean().item()
            metrics["train/learning_rate"] = self.config.learning_rate
        return metrics

    def _show(self, log: MetricLog) -> None:
        """How the last update's Q values and TD errors are distributed."""
        for tag, values in (("train/q_values", self._last_q_values), ("train/td_error", self._last_td_error)):
            if len(values):
                log.histogram(tag, values.cpu().numpy())
