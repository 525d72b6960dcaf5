"""stable-baselines3's own PPO (Schulman et al. 2017, arXiv 1707.06347) on the lab's bench.

Nothing of SB3 is subclassed or patched but its interfaces, all of them in rl_lab/sb3/. It plays rollouts of all games,
learns from each and forgets it: between two rollouts its state is small, within one it cannot be left.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from torch import Tensor

from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv, Protocol
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.checks import integer_at, require_at_least, require_between, require_positive
from rl_lab.errors import LabError
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.optimizers import ADAM_STATE, load_optimizer_state, optimizer_state, optimizer_state_like
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.sb3.games import BenchGames, learn, require_whole_rounds
from rl_lab.sb3.saving import (
    LEARNER,
    STATE,
    load_weights,
    numpy_state,
    restore_logged_values,
    restore_numpy,
    restore_torch,
    save_model,
    silence,
    torch_state,
)
from rl_lab.seeding import integer_seed
from rl_lab.system import require_memory
from rl_lab.tensors import pack_tensors, read_tensors

_COUNTERS = ("num_timesteps", "_n_updates")
_LOGGED = (
    *("loss", "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction"),
    *("explained_variance", "learning_rate", "clip_range"),
)
"""SB3's own, by its names."""


@dataclass(frozen=True, kw_only=True)
class SB3PPOConfig(AgentConfig):
    """Hyperparameters of stable-baselines3's PPO, by the lab's names. The defaults are RL Baselines3 Zoo's for Atari.

    The network is SB3's CnnPolicy (one torso of the Nature paper for policy and values), the optimizer Adam with an
    epsilon of 1e-5.
    """

    rollout_steps: int = 128
    """Steps of each game between two times of learning (SB3's n_steps)."""
    epochs: int = 4
    """Passes over a rollout (SB3's n_epochs)."""
    batch_size: int = 256
    """Steps in an update: a rollout of all games is a whole number of batches."""
    discount: float = 0.99
    """Weight of the next step's value (gamma)."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage (Schulman et al. 2016, arXiv 1506.02438)."""
    learning_rate: float = 2.5e-4
    """Step size of Adam at step 0; linearly 0 at the end of the budget."""
    clip_range: float = 0.1
    """How far a probability may go from the rollout's, at step 0; linearly 0 at the end of the budget."""
    value_weight: float = 0.5
    """Weight of the values' loss (vf_coef)."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy (ent_coef)."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this norm; SB3 always has a limit."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rollout_steps", "epochs")
        require_at_least(self, 2, "batch_size")  # advantages are divided by their deviation
        require_between(self, 0, 1, "discount", "gae_lambda")
        require_positive(self, "learning_rate", "clip_range", "max_gradient_norm")
        require_at_least(self, 0, "value_weight", "entropy_weight")


class SB3PPO(Agent):
    """stable-baselines3's PPO: its model, counters and schedules go on from one iteration to the next."""

    Config = SB3PPOConfig

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, SB3PPOConfig)
        self.config = config
        self._task = task
        self._rollout = config.rollout_steps * task.num_games  # agent steps, over all games
        if task.total_steps:
            self._check_fit()
        # Acting needs no rollout: two steps and a batch of two are the least that SB3 takes.
        self.model = self._build_model(rollout_steps=2, batch_size=2)

    def prepare(self) -> None:
        """Allocate a rollout, once this machine is known to have the memory."""
        require_memory(
            2 * self._rollout * math.prod(OBSERVATION_SHAPE),  # SB3 copies it to shuffle it
            f"stable-baselines3's rollout of {self._rollout:,} steps",
            "use --agent.rollout-steps",
        )
        weights = self.model.policy.state_dict()
        self.model = self._build_model(self.config.rollout_steps, self.config.batch_size)
        self.model.policy.load_state_dict(weights)

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """One `learn` of SB3; LabError where `steps` are no whole rollouts: SB3 learns from nothing less."""
        require_whole_rounds(steps, "the steps of an iteration are", self._rollout)
        self._pin_schedules(self.model.num_timesteps + steps - env.steps)

        def report() -> None:
            if log.due():
                log(self._metrics())
                self._guard(env.protocol)

        try:
            learn(self.model, env, steps, self._task.total_steps, report)
        except ValueError as error:  # torch's of chances that are no numbers, or another one
            if not self._logits().isfinite().all():
                raise LabError(
                    "the policy's chances are not finite: learning diverged; use a smaller learning rate"
                ) from error
            raise

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The policy's most probable actions [B]; in training they are drawn, and in the zoo's evaluations as well."""
        actions, _ = self.model.predict(observations, deterministic=True)
        return actions.astype(np.int64, copy=False)

    def save(self) -> dict[str, bytes]:
        """model.zip, as SB3 saves it: with pickles inside, which SB3's `PPO.load` runs and ours does not read."""
        return save_model(self.model)

    def load(self, files: SavedFiles) -> None:
        """Read the network of model.zip; neither SB3 nor torch's unpickler sees it."""
        network = f"stable-baselines3's PPO and its CnnPolicy with {self._task.num_actions} actions"
        load_weights(self.model.policy, files, network)

    def save_state(self) -> SavedState:
        """What model.zip lacks, or has as pickles: optimizer, counters, what was logged, and generators.

        SB3 draws actions from torch's global generator and batches from numpy's; nothing else may draw from them.
        LabError for weights that are not finite.
        """
        self._require_finite_weights()
        model = self.model
        counters = {
            **{counter: getattr(model, counter) for counter in _COUNTERS},
            "logged": self._metrics(),
            "numpy": numpy_state(),
            "torch": torch_state(model.device),
        }
        optimizer = pack_tensors(optimizer_state(model.policy.optimizer))
        return SavedState({STATE: json.dumps(counters).encode(), LEARNER: optimizer})

    def load_state(self, files: SavedFiles) -> None:
        """Go on where another agent of this configuration was saved."""
        model, table = self.model, files.read_json(STATE)
        for counter in _COUNTERS:
            setattr(model, counter, integer_at(table, counter, STATE))
        restore_logged_values(model, table.get("logged"))
        restore_numpy(table.get("numpy"))
        restore_torch(table.get("torch"), model.device)
        optimizer = optimizer_state_like(model.policy.optimizer, ADAM_STATE if model._n_updates else ())
        load_optimizer_state(model.policy.optimizer, read_tensors(files, LEARNER, optimizer))

    def _build_model(self, rollout_steps: int, batch_size: int) -> PPO:
        """SB3's PPO; seeds the global generators of random, numpy and torch, from which SB3 draws all its numbers."""
        config, task = self.config, self._task
        model = PPO(
            "CnnPolicy",
            BenchGames(task.num_games, task.num_actions),
            learning_rate=LinearSchedule(config.learning_rate, 0.0, 1.0),
            n_steps=rollout_steps,
            batch_size=batch_size,
            n_epochs=config.epochs,
            gamma=config.discount,
            gae_lambda=config.gae_lambda,
            clip_range=LinearSchedule(config.clip_range, 0.0, 1.0),
            ent_coef=config.entropy_weight,
            vf_coef=config.value_weight,
            max_grad_norm=config.max_gradient_norm,
            verbose=0,
            seed=integer_seed(task.seed, "sb3"),
            device=task.device,
        )
        silence(model)
        return model

    def _check_fit(self) -> None:
        """LabError where the hyperparameters do not fit the budget or the number of parallel games."""
        config, task = self.config, self._task
        if self._rollout % config.batch_size:
            raise LabError(
                f"batch_size is {config.batch_size} and a rollout {self._rollout} steps ({config.rollout_steps} of "
                f"{task.num_games} games); allowed is a batch_size that divides it"
            )
        require_whole_rounds(task.total_steps, "the budget is", self._rollout)
        require_whole_rounds(task.iteration_steps, "the steps of an iteration are", self._rollout)

    def _pin_schedules(self, end_steps: int) -> None:
        """Let the schedules of a `learn` that ends at `end_steps` be those of the whole budget.

        SB3 counts progress from 0 at step 0 to 1 at the end of the `learn`: the budget's end is a fraction above 1.
        """
        end_fraction = self._task.total_steps / end_steps
        self.model.lr_schedule = FloatSchedule(LinearSchedule(self.config.learning_rate, 0.0, end_fraction))
        self.model.clip_range = FloatSchedule(LinearSchedule(self.config.clip_range, 0.0, end_fraction))

    def _guard(self, protocol: Protocol) -> None:
        """Look for divergence after an update."""
        if self.model._n_updates:
            self._require_finite_weights()
            values = torch.from_numpy(self.model.rollout_buffer.values)
            warn_of_divergence(values, reward_clip=protocol.reward_clip, discount=self.config.discount)

    def _logits(self) -> Tensor:
        """[B, A] float32, of the newest observations; SB3's own way to them refuses what is not finite."""
        policy = self.model.policy
        assert self.model._last_obs is not None
        observations, _ = policy.obs_to_tensor(self.model._last_obs)
        with torch.no_grad():
            # Of one torso for policy and values.
            features = cast("Tensor", policy.extract_features(observations, policy.pi_features_extractor))
            logits: Tensor = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return logits

    def _require_finite_weights(self) -> None:
        require_finite_weights(torch.cat([weight.flatten() for weight in self.model.policy.parameters()]))

    def _metrics(self) -> dict[str, float]:
        """What SB3 recorded after the last rollout; nothing of learning before the first one. An update is an epoch."""
        recorded = self.model.logger.name_to_value
        metrics = {f"train/{name}": float(recorded[f"train/{name}"]) for name in _LOGGED if f"train/{name}" in recorded}
        # The variance that the values explain is none where all returns are equal.
        metrics = {tag: value for tag, value in metrics.items() if math.isfinite(value)}
        return {"train/n_updates": float(self.model._n_updates), **metrics}
