"""What stable-baselines3's agents with a replay share: all of the Agent contract, but for the model itself."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor, nn

from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv, Protocol
from rl_lab.checks import integer_at
from rl_lab.errors import LabError
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.optimizers import ADAM_STATE, load_optimizer_state, optimizer_state, optimizer_state_like
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.sb3.games import BenchGames, learn, require_whole_rounds
from rl_lab.sb3.off_policy_config import OffPolicyConfig, check_fit, steps_and_updates, steps_per_round
from rl_lab.sb3.replay import build_lean_replay, load_replay, require_learning_memory, save_replay
from rl_lab.sb3.saving import (
    LEARNER,
    STATE,
    load_weights,
    logged_values,
    numpy_state,
    restore_logged_values,
    restore_numpy,
    save_model,
    silence,
)
from rl_lab.seeding import generator_state, integer_seed, restore_generator
from rl_lab.tensors import pack_tensors, prefixed, read_tensors, unprefixed

_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
_EXPLORATION_RATE = "exploration_rate"
"""SB3's own, by its names, not all of which its base class declares."""


class OffPolicyAgent(Agent):
    """An agent of SB3's with a replay: its model, replay, counters and exploration go on over the iterations."""

    config: OffPolicyConfig
    model: OffPolicyAlgorithm

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, OffPolicyConfig)
        check_fit(config, task)
        self.config = config
        self.task = task
        self._batch_q_values: Tensor | None = None  # (B, A) float32
        # Acting needs no replay: room for one transition of each game is the least that SB3 takes.
        self._begin(replay_capacity=task.num_games)

    @abstractmethod
    def build_model(self, **settings: Any) -> OffPolicyAlgorithm:  # Any: SB3's own, of different types
        """SB3's model, with `settings` and what is this agent's own."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The online network of the model."""

    @property
    @abstractmethod
    def network_name(self) -> str:
        """Whose network it is, and its sizes, for those who offer another one."""

    def q_values(self, output: Tensor) -> Tensor:
        """Q values [B, A] from what the online network computes."""
        return output

    def prepare(self) -> None:
        """Allocate the replay, once this machine is known to have the memory."""
        config = self.config
        require_learning_memory(config.replay, config.replay_storage, config.replay_capacity, config.batch_size)
        weights = self.model.policy.state_dict()
        self._begin(config.replay_capacity)
        self.model.policy.load_state_dict(weights)

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """One `learn` of SB3; LabError where `steps` are no whole rounds of SB3's."""
        require_whole_rounds(steps, "the steps of an iteration are", steps_per_round(self.config, self.task))

        def report() -> None:
            if log.due():
                log(self._metrics())
                self._show(log)
                self._guard(env.protocol)

        learn(self.model, env, steps, self.task.total_steps, report)

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B]."""
        actions, _ = self.model.predict(observations, deterministic=True)
        return actions.astype(np.int64, copy=False)

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Q values [B, A]."""
        self.model.policy.set_training_mode(False)  # as `predict` does: `_keep_q_values` is of updates
        with torch.inference_mode():
            q_values = self.q_values(self.network(torch.as_tensor(observations, device=self.model.device)))
        return cast("NDArray[np.float32]", q_values.cpu().numpy())

    def save(self) -> dict[str, bytes]:
        """model.zip, as SB3 saves it: with pickles inside, which SB3's `load` runs and ours does not read."""
        return save_model(self.model)

    def load(self, files: SavedFiles) -> None:
        """Read the networks of model.zip; neither SB3 nor torch's unpickler sees it."""
        load_weights(self.model.policy, files, self.network_name)

    def save_state(self) -> SavedState:
        """What model.zip lacks, or has as pickles: optimizer, replay, counters, what was logged, and generators.

        SB3 draws from numpy's global generator and from that of its action space; nothing else may draw from them.
        LabError for weights that are not finite.
        """
        self._require_finite_weights()
        model = self.model
        counters = {
            **{counter: getattr(model, counter) for counter in _COUNTERS},
            _EXPLORATION_RATE: self._exploration_rate,
            "logged": logged_values(model),
            "numpy": numpy_state(),
            "action_space": generator_state(model.action_space.np_random),
        }
        learner = prefixed("optimizer", optimizer_state(model.policy.optimizer))
        if self._batch_q_values is not None:
            learner["batch_q_values"] = self._batch_q_values
        replay = save_replay(self._replay, self._written_rows)
        files = {STATE: json.dumps(counters).encode(), LEARNER: pack_tensors(learner), **replay.files}
        return SavedState(files, replay.segments)

    def load_state(self, files: SavedFiles) -> None:
        """Go on where another agent of this configuration was saved."""
        model, table = self.model, files.read_json(STATE)
        for counter in _COUNTERS:
            setattr(model, counter, integer_at(table, counter, STATE))
        rate = table.get(_EXPLORATION_RATE)
        if not isinstance(rate, float):
            raise LabError(f"{STATE} is damaged: {_EXPLORATION_RATE} is {rate!r}; allowed is a number")
        setattr(model, _EXPLORATION_RATE, rate)
        restore_logged_values(model, table.get("logged"))
        restore_numpy(table.get("numpy"))
        restore_generator(model.action_space.np_random, table.get("action_space"))

        optimizer = optimizer_state_like(model.policy.optimizer, ADAM_STATE if model._n_updates else ())
        shape = (self.config.batch_size, self.task.num_actions)
        like = {"batch_q_values": torch.empty(shape, device="meta")} if model._n_updates else {}
        tensors = read_tensors(files, LEARNER, {**like, **prefixed("optimizer", optimizer)})
        self._batch_q_values = tensors.get("batch_q_values")
        load_optimizer_state(model.policy.optimizer, unprefixed("optimizer", tensors))
        load_replay(self._replay, files, self._written_rows, self.task.num_actions)

    @property
    def _replay(self) -> ReplayBuffer:
        assert self.model.replay_buffer is not None
        return self.model.replay_buffer

    @property
    def _written_rows(self) -> int:
        """Rows that the replay has ever taken: steps of all games."""
        return self.model.num_timesteps // self.task.num_games

    @property
    def _exploration_rate(self) -> float:
        return float(getattr(self.model, _EXPLORATION_RATE))

    def _begin(self, replay_capacity: int) -> None:
        """Build the model, which seeds the global generators of random, numpy and torch, from which SB3 draws."""
        config, task = self.config, self.task
        is_lean = config.replay == "lean"
        steps, updates = steps_and_updates(config, task)
        self.model = self.build_model(
            policy="CnnPolicy",
            env=BenchGames(task.num_games, task.num_actions),
            learning_rate=config.learning_rate,
            buffer_size=task.num_games if is_lean else replay_capacity,
            learning_starts=config.learning_starts_steps,
            batch_size=config.batch_size,
            gamma=config.discount,
            train_freq=steps,
            gradient_steps=updates,
            n_steps=config.n_step,
            target_update_interval=config.target_update_steps,
            # Above 1 where the decay is longer than the budget: SB3's schedule then ends short of epsilon_end, as it
            # should. An agent that only acts has no budget.
            exploration_fraction=config.epsilon_decay_steps / max(task.total_steps, 1),
            exploration_initial_eps=config.epsilon_start,
            exploration_final_eps=config.epsilon_end,
            verbose=0,
            seed=integer_seed(task.seed, "sb3"),
            device=task.device,
        )
        if is_lean:
            # Put in afterwards, as SB3 does with a replay from a file: given as an argument its class would be part of
            # model.zip, which SB3 could then load only where this module is.
            self.model.replay_buffer = build_lean_replay(
                replay_capacity,
                task.num_games,
                task.num_actions,
                task.device,
                storage=config.replay_storage,
                n_step=config.n_step,
                discount=config.discount,
            )
        silence(self.model)
        self.network.register_forward_hook(self._keep_q_values)

    def _keep_q_values(self, network: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Called by torch with what the online network computed; only updates run it in training mode."""
        if network.training:
            self._batch_q_values = self.q_values(output).detach()

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
        require_finite_weights(torch.cat([weight.flatten() for weight in self.network.parameters()]))

    def _metrics(self) -> dict[str, float]:
        """What SB3 recorded in the last round of updates; nothing of learning before the first one."""
        recorded = self.model.logger.name_to_value
        explores_only = self.model.num_timesteps < self.config.learning_starts_steps
        metrics = {
            "rollout/exploration_rate": 1.0 if explores_only else self._exploration_rate,
            "train/n_updates": float(recorded.get("train/n_updates", 0)),
        }
        if self._batch_q_values is not None:
            metrics["train/loss"] = float(recorded["train/loss"])
            metrics["train/q_mean"] = self._batch_q_values.max(dim=1).values.mean().item()
            metrics["train/learning_rate"] = float(recorded["train/learning_rate"])
        return metrics
