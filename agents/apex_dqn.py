"""Ape-X DQN (Horgan et al. 2018, arXiv 1803.00933): many actors play, one learner learns, on one machine or on many.

Double, dueling, n-step and prioritized; each actor explores by an epsilon of its own. Actors and the shards of the
replay are processes of a Ray cluster (rl_lab.apex), the learner is this one. Who is first at the replay depends on the
machines, so that no run repeats another byte for byte. A run that goes on has its weights, target network, optimizer
and counters; the replay is not saved: actors fill it again before learning goes on, and their games start anew.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_lab import losses
from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.apex.acting import ActorSettings, actor_epsilon
from rl_lab.apex.shard import ShardSettings
from rl_lab.atari import AtariVectorEnv
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.checks import (
    integer_at,
    require_at_least,
    require_between,
    require_learning,
    require_one_of,
    require_positive,
)
from rl_lab.errors import LabError
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.networks import NETWORKS, Architecture, build_network
from rl_lab.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    optimizer_state_like,
    state_names,
)
from rl_lab.ray_environment import quiet_ray
from rl_lab.replay import STORAGES, Batch, importance_weights
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.seeding import generator, integer_seed
from rl_lab.switches import Switch
from rl_lab.tensors import pack_tensors, prefixed, read_tensors, unprefixed
from rl_lab.weights import MasterWeights

if TYPE_CHECKING:
    from rl_lab.apex.cluster import Cluster

_WEIGHTS, _LEARNER, _COUNTERS = "weights.safetensors", "learner.safetensors", "counters.json"
_COUNTS = ("steps", "idle_steps", "updates")
_WAIT_SECONDS = 0.5
"""For actors and shards, before the learner looks whether it was asked to pause."""


@dataclass(frozen=True, kw_only=True)
class ApexDQNConfig(AgentConfig):
    """Hyperparameters of Ape-X DQN. The defaults are the paper's, but for the number of actors.

    num_games, of the experiment, are those of each actor. Training returns are of all actors, whatever their epsilon;
    episodes.jsonl tells them apart by game_index, which counts the games of actor 0 first.
    """

    repeatable: ClassVar[bool] = False

    ray: str = "local"
    """local (a cluster of this machine, for this run) or the address of one that runs: 10.0.0.1:6379, or auto."""
    actors: int = 4
    """Processes that play (360 in the paper)."""
    shards: int = 1
    """Processes that hold the replay, each for some of the actors."""
    epsilon_base: float = 0.4
    """Actor i of N explores by epsilon_base ** (1 + epsilon_exponent i / (N - 1))."""
    epsilon_exponent: float = 7.0
    """See epsilon_base (alpha; 7 in the paper)."""
    chunk_steps: int = 50
    """Agent steps that an actor plays before it sends them and takes the newest weights."""
    publish_every_updates: int = 50
    """Updates between two versions of the weights that actors can take."""
    network: str = "nature"
    """mnih2013, nature, data_efficient or impala."""
    hidden_units: int = 0
    """Units of the fully connected layer, of each stream where dueling; 0 is the number of the network's paper."""
    dueling: bool = True
    """Streams of their own for the state's value and the actions' advantages (Wang et al. 2016)."""
    double: bool = True
    """Double DQN: the online network chooses the action that the target network values."""
    n_step: int = 3
    """Steps of reward before the return is bootstrapped."""
    discount: float = 0.99
    """Weight of the next step's value (gamma)."""
    replay_capacity: int = 2_000_000
    """Transitions kept for replay, over all shards; an actor's new ones take the place of its own oldest."""
    replay_storage: str = "raw"
    """raw (7 kB a transition) or zstd (compressed: 50 to 350 bytes in most games)."""
    priority_exponent: float = 0.6
    """From 0, uniform, to 1, in proportion to the TD error."""
    importance_exponent: float = 0.4
    """Share of the sampling's bias that weights in the loss undo."""
    batch_size: int = 512
    """Transitions in an update."""
    prefetch_batches: int = 16
    """Batches that are under way to the learner, or wait for it."""
    learning_starts_steps: int = 50_000
    """Agent steps in the replay before the first update; after a resume, too, and where a lost shard leaves fewer."""
    steps_per_update: float = 0.0
    """Agent steps of all actors for each update: who is ahead waits. 0: nobody waits, as in the paper (about 660)."""
    target_update_updates: int = 2_500
    """Updates between copies into the target network."""
    loss: str = "squared"
    """huber (TD error clipped to 1 in the gradient) or squared."""
    optimizer: str = "rmsprop"
    """rmsprop (centred), adam, adamw or sgd."""
    learning_rate: float = 0.00025 / 4
    """Step size of the optimizer."""
    rmsprop_decay: float = 0.95
    """Decay of RMSProp's running moments."""
    optimizer_epsilon: float = 1.5e-7
    """RMSProp: added to the variance. Adam: added to the root."""
    max_gradient_norm: float = 40.0
    """Gradients are scaled down to this norm; 0 is no limit."""

    def __post_init__(self) -> None:
        require_one_of(self, NETWORKS, "network")
        require_one_of(self, ("huber", "squared"), "loss")
        require_one_of(self, OPTIMIZERS, "optimizer")
        require_one_of(self, STORAGES, "replay_storage")
        require_between(self, 1, 10_000, "actors", "shards")
        require_between(self, 0, 1, "epsilon_base", "discount", "priority_exponent", "importance_exponent")
        require_between(self, 0, 1, "rmsprop_decay")
        require_between(self, 0, 1_000, "epsilon_exponent")
        require_between(self, 0, 4_096, "hidden_units")
        require_between(self, 1, 10_000, "chunk_steps", "prefetch_batches", "batch_size")
        require_at_least(self, 1, "n_step", "replay_capacity", "publish_every_updates", "target_update_updates")
        require_at_least(self, 0, "steps_per_update", "max_gradient_norm")
        require_positive(self, "learning_rate", "optimizer_epsilon")
        require_at_least(self, self.batch_size, "learning_starts_steps")
        if not self.ray:
            raise LabError("ray is ''; allowed is local or the address of a Ray cluster")
        if self.shards > self.actors:
            raise LabError(f"shards is {self.shards} and actors {self.actors}; allowed is one actor or more for each")

    @property
    def architecture(self) -> Architecture:
        """What is switched on in the network."""
        return Architecture(hidden_units=self.hidden_units, dueling=self.dueling)

    switches: ClassVar[tuple[Switch, ...]] = (
        Switch("double", "van Hasselt et al. 2016", "double", off=False),
        Switch("dueling", "Wang et al. 2016", "dueling", off=False),
        Switch("n_step", "Sutton 1988; in DQN Hessel et al. 2018", "n_step", off=1),
        Switch("prioritized", "Schaul et al. 2016", "priority_exponent", off=0.0, settings=("importance_exponent",)),
        Switch("gradient_clipping", "Pascanu et al. 2013", "max_gradient_norm", off=0.0),
    )


class ApexDQN(Agent):
    """The learner, and the orders that it gives to actors and shards."""

    Config = ApexDQNConfig

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, ApexDQNConfig)
        require_learning(config.learning_starts_steps, task.total_steps)
        if config.replay_capacity < config.actors * task.num_games:
            raise LabError(
                f"replay_capacity is {config.replay_capacity}; allowed is one transition or more for each of "
                f"{config.actors} actors' {task.num_games} games: use a larger --agent.replay-capacity"
            )
        # With so many steps one game or another has more than n, and so a transition.
        first_transitions_steps = (config.n_step + 1) * task.num_games * config.actors
        if config.learning_starts_steps < first_transitions_steps and task.total_steps > 0:
            raise LabError(
                f"learning_starts_steps is {config.learning_starts_steps}; allowed is {first_transitions_steps} or "
                f"more, when {config.actors} actors' {task.num_games} games have their first {config.n_step}-step "
                "transitions: use a larger --agent.learning-starts-steps"
            )
        self.config = config
        self._task = task
        self._device = torch.device(task.device)
        self.network = build_network(
            config.network,
            task.num_actions,
            torch.Generator().manual_seed(integer_seed(task.seed, "weights")),
            architecture=config.architecture,
        ).to(self._device)
        self._steps = 0
        self._idle_steps = 0  # of these, played while the replay held too little to learn from
        self._updates = 0
        self._last_loss: Tensor | None = None
        self._last_q_values = torch.zeros(0, task.num_actions)  # (B, A) float32
        self._cluster: Cluster | None = None

    def prepare(self) -> None:
        """Allocate target network and optimizer, and start actors and shards."""
        config = self.config
        self._weights = MasterWeights(self.network, "fp32")
        self._target_network = copy.deepcopy(self.network)
        self._optimizer = build_optimizer(
            config.optimizer,
            self._weights.values,
            config.learning_rate,
            epsilon=config.optimizer_epsilon,
            rmsprop_decay=config.rmsprop_decay,
            momentum=0.0,
            weight_decay=0.0,
        )
        quiet_ray()
        try:
            from rl_lab.apex.cluster import Cluster
        except ImportError as error:
            raise LabError(f"Ray cannot be imported ({error}); install it: pip install 'rl-lab[ray]'") from error
        self._cluster = Cluster(
            config.ray,
            self._actor_settings(),
            self._shard_settings(),
            # Twice four frames a transition at most, if nothing in them could be compressed.
            prefetch_bytes=2 * int(np.prod(OBSERVATION_SHAPE)) * config.batch_size * config.prefetch_batches,
        )

    def close(self) -> None:
        """End the processes of actors and shards."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def train(self, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """Actors play in siblings of `env`, and the learner learns from what shards give it, until all is played."""
        cluster = self._cluster
        assert cluster is not None
        # By the steps so far: what goes on draws and plays anew, and not once more what was drawn and played before.
        self._rng = generator(self._task.seed, "replay", self._steps)
        self._publish(cluster)
        cluster.begin(env, self._steps)
        while env.steps < steps and not env.pause_requested:
            self._go_on(cluster, env, steps, log)
        while cluster.steps_under_way:
            self._count(cluster, env, log, _WAIT_SECONDS)
        # A pause waits for these: nobody would make them later.
        while env.steps == steps and self._is_behind(cluster):
            self._go_on(cluster, env, steps, log)

    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Greedy actions [B]."""
        actions: NDArray[np.int64] = self.action_values(observations).argmax(axis=1)
        return actions

    @torch.inference_mode()
    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Q values [B, A]."""
        q_values: NDArray[np.float32] = self.network(torch.from_numpy(observations).to(self._device)).cpu().numpy()
        return q_values

    def save(self) -> dict[str, bytes]:
        """weights.safetensors: the online network."""
        return {_WEIGHTS: pack_tensors(self.network.state_dict())}

    def load(self, files: SavedFiles) -> None:
        """Take the online network; LabError where the file is not this network's."""
        self.network.load_state_dict(read_tensors(files, _WEIGHTS, self.network.state_dict()))

    def save_state(self) -> SavedState:
        """Target network, optimizer and counters; the replay is filled again. LabError for weights not finite."""
        require_finite_weights(self._weights.values)
        counters = {name: getattr(self, f"_{name}") for name in _COUNTS}
        learner = {
            **prefixed("target", self._target_network.state_dict()),
            **prefixed("optimizer", optimizer_state(self._optimizer)),
        }
        return SavedState({_LEARNER: pack_tensors(learner), _COUNTERS: json.dumps(counters).encode()})

    def load_state(self, files: SavedFiles) -> None:
        """Go on where another agent of this configuration was saved, with an empty replay."""
        counters = files.read_json(_COUNTERS)
        self._steps, self._idle_steps, self._updates = (integer_at(counters, key, _COUNTERS) for key in _COUNTS)
        if self._idle_steps > self._steps:
            raise LabError(f"{_COUNTERS} is damaged: its counters do not fit each other")
        names = state_names(self.config.optimizer, momentum=0.0) if self._updates else ()
        like = {
            **prefixed("target", self._target_network.state_dict()),
            **prefixed("optimizer", optimizer_state_like(self._optimizer, names)),
        }
        tensors = read_tensors(files, _LEARNER, like)
        self._target_network.load_state_dict(unprefixed("target", tensors))
        load_optimizer_state(self._optimizer, unprefixed("optimizer", tensors))

    def update(self, batch: Batch, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """One gradient step; the transitions weigh `weights` [B] in the loss. Their priorities [B]."""
        config = self.config
        observations, actions, returns, discounts, next_observations = (
            torch.from_numpy(array).to(self._device) for array in batch
        )
        with torch.no_grad():
            q_t = self._target_network(next_observations)  # (B, A) float32
            policy_t = losses.greedy_policy(self.network(next_observations) if config.double else q_t)
        q_tm1 = self.network(observations)  # (B, A) float32
        td_error = losses.td_error(q_tm1, actions, returns, discounts, q_t, policy_t)
        transition_losses = (losses.huber if config.loss == "huber" else losses.squared)(td_error)
        assert transition_losses.shape == weights.shape, (transition_losses.shape, weights.shape)
        loss = (transition_losses * torch.from_numpy(weights).to(self._device)).mean()

        loss.backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        self._weights.take_gradients()
        if config.max_gradient_norm:
            self._weights.clip_gradients(config.max_gradient_norm)
        self._optimizer.step()
        self._updates += 1
        if self._updates % config.target_update_updates == 0:
            self._target_network.load_state_dict(self.network.state_dict())
        self._last_loss, self._last_q_values = loss.detach(), q_tm1.detach()
        priorities: NDArray[np.float32] = td_error.detach().abs().cpu().numpy()
        if not np.isfinite(priorities).all():
            raise LabError("a TD error is not finite: learning diverged; use a smaller learning rate")
        return priorities

    def _go_on(self, cluster: Cluster, env: AtariVectorEnv, steps: int, log: MetricLog) -> None:
        """Give orders, count what was played, and make one update if it is due."""
        self._order(cluster, env, steps)
        is_due = self._may_learn(cluster)
        self._count(cluster, env, log, 0 if is_due and cluster.has_batch else _WAIT_SECONDS)
        if is_due and (sampled := cluster.next_batch()) is not None:
            weights = importance_weights(sampled.shares, self.config.importance_exponent)
            cluster.update_priorities(sampled, self.update(sampled.batch, weights))
            if self._updates % self.config.publish_every_updates == 0:
                self._publish(cluster)
        # Nothing may be played for long: the learner catches up, or actors have not found their place yet.
        env.look()

    def _order(self, cluster: Cluster, env: AtariVectorEnv, steps: int) -> None:
        """Ask idle actors for steps, within the budget, and shards for batches."""
        config, num_games = self.config, env.num_games
        under_way = cluster.steps_under_way
        for actor in cluster.idle_actors():
            rounds_left = (steps - env.steps - under_way) // num_games
            if rounds_left == 0 or not self._may_play(cluster, under_way):
                break
            num_rounds = min(max(config.chunk_steps // num_games, 1), rounds_left)
            cluster.play(actor, num_rounds, num_games)
            under_way += num_rounds * num_games
        if self._can_learn(cluster):
            for _ in range(cluster.num_requested, config.prefetch_batches):
                cluster.request(config.batch_size, self._rng)

    def _count(self, cluster: Cluster, env: AtariVectorEnv, log: MetricLog, timeout_seconds: float) -> None:
        """Let the bench count what actors have played."""
        for played in cluster.collect(timeout_seconds):
            env.count(played.actions, played.episodes)
            self._steps += played.actions.size
            if not self._can_learn(cluster):
                self._idle_steps += played.actions.size
            if log.due():
                log(self._metrics(cluster))
                if self._last_loss is not None:  # after a resume there are updates, and none that was seen
                    require_finite_weights(self._weights.values)
                    warn_of_divergence(
                        self._last_q_values, reward_clip=env.protocol.reward_clip, discount=self.config.discount
                    )

    def _can_learn(self, cluster: Cluster) -> bool:
        """Whether the replay holds enough to begin, or to go on."""
        return cluster.held_steps >= self.config.learning_starts_steps

    def _may_learn(self, cluster: Cluster) -> bool:
        """Whether an update may follow now: not where the actors are to play first."""
        return self._can_learn(cluster) and self._steps_ahead >= self.config.steps_per_update

    def _is_behind(self, cluster: Cluster) -> bool:
        """Whether updates are due that the actors have not waited for."""
        return self.config.steps_per_update > 0 and self._may_learn(cluster)

    def _may_play(self, cluster: Cluster, under_way: int) -> bool:
        """Whether an actor may play on, with so many steps under way: not where the learner is too far behind."""
        config = self.config
        if config.steps_per_update == 0 or not self._can_learn(cluster):
            return True
        # All actors may be at work on two chunks each, or they would wait for each other.
        most_ahead = max(config.steps_per_update, 2.0 * config.actors * config.chunk_steps)
        return self._steps_ahead + under_way <= most_ahead

    @property
    def _steps_ahead(self) -> float:
        """Agent steps for which updates are due."""
        return self._steps - self._idle_steps - self._updates * self.config.steps_per_update

    def _publish(self, cluster: Cluster) -> None:
        cluster.publish(self._weights.values.detach().cpu().numpy().copy())

    def _metrics(self, cluster: Cluster) -> dict[str, float]:
        """What the last update saw, if there was one, and what was replaced."""
        metrics = {"train/n_updates": float(self._updates), "apex/replaced_processes": float(cluster.replaced)}
        if self._last_loss is not None:
            metrics["train/loss"] = self._last_loss.item()
            metrics["train/q_mean"] = self._last_q_values.max(dim=1).values.mean().item()
            metrics["train/learning_rate"] = self.config.learning_rate
        return metrics

    def _actor_settings(self) -> list[ActorSettings]:
        config = self.config
        return [
            ActorSettings(
                actor=actor,
                epsilon=actor_epsilon(actor, config.actors, base=config.epsilon_base, exponent=config.epsilon_exponent),
                network=config.network,
                num_actions=self._task.num_actions,
                architecture=config.architecture,
                discount=config.discount,
                n_step=config.n_step,
                seed=self._task.seed,
            )
            for actor in range(config.actors)
        ]

    def _shard_settings(self) -> list[ShardSettings]:
        config = self.config
        return [
            ShardSettings(
                num_actors=len(range(shard, config.actors, config.shards)),
                capacity_per_actor=-(-config.replay_capacity // config.actors),
                discount=config.discount,
                n_step=config.n_step,
                storage=config.replay_storage,
                priority_exponent=config.priority_exponent,
            )
            for shard in range(config.shards)
        ]
