"""Deep Q-network, from scratch: the agents of Mnih et al. 2013 (arXiv 1312.5602) and 2015 (Nature 518, 529-533).

One loop: act epsilon-greedily in parallel games, let the emulators run, learn from replay meanwhile, store what came.
What came after DQN are switches: Double DQN, n-step and Munchausen targets; dueling, noisy and residual networks;
distributions of the return in place of its mean; prioritized replay; resets. The equations stand in rl_lab.losses, the
layers in rl_lab.networks.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_lab import losses
from rl_lab.agent import Agent, AgentConfig, MetricLog, Task
from rl_lab.atari import AtariVectorEnv, Protocol
from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.augmentation import AUGMENTATIONS, augment, bytes_per_pixel
from rl_lab.checks import (
    integer_at,
    require_at_least,
    require_between,
    require_fitting,
    require_learning,
    require_one_of,
    require_positive,
)
from rl_lab.errors import LabError, LabWarning
from rl_lab.guards import require_finite_weights, warn_of_divergence
from rl_lab.networks import INITIALIZATIONS, NETWORKS, Architecture, at_rest, build_network, count_weights, let_draw
from rl_lab.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    optimizer_state_like,
    state_names,
)
from rl_lab.replay import DEFAULT_CHUNK_FRAMES, SAMPLINGS, STORAGES, Batch, Draw, build_replay
from rl_lab.resets import shrink_and_perturb
from rl_lab.saved import SavedFiles, SavedState
from rl_lab.schedules import linear
from rl_lab.seeding import generator, generator_state, integer_seed, restore_generator
from rl_lab.switches import Switch
from rl_lab.system import has_fast_bf16, require_memory
from rl_lab.tensors import pack_tensors, prefixed, read_tensors, unprefixed
from rl_lab.values import VALUES, build_values
from rl_lab.weights import PRECISIONS, MasterWeights, as_one_block, learning_bytes

_WEIGHTS, _LEARNER, _COUNTERS = "weights.safetensors", "learner.safetensors", "counters.json"


@dataclass(frozen=True, kw_only=True)
class DQNConfig(AgentConfig):
    """Hyperparameters of DQN. The defaults are those of the Nature paper, in DQN Zoo's reading."""

    network: str = "nature"
    """mnih2013 (16 and 32 filters, 256 units), nature (32, 64 and 64 filters, 512 units), data_efficient (32 and 64
    filters of 5x5 at stride 5, 256 units; van Hasselt et al. 2019) or impala (residual; Espeholt et al. 2018)."""
    hidden_units: int = 0
    """Units of the fully connected layer; 0 is the number of the network's paper. Dueling: of each stream."""
    impala_width: int = 1
    """impala: factor on its 16, 32 and 32 filters (2 in Beyond the Rainbow, 4 in BBF)."""
    impala_pool: int = 0
    """impala: height and width that its 11x11 features are pooled to (6 in Beyond the Rainbow); 0 is none."""
    spectral_norm: bool = False
    """impala: residual convolutions divided by their largest singular value (Miyato et al. 2018)."""
    layer_norm: bool = False
    """Layer normalization before each rectifier (Ba et al. 2016)."""
    dropout: float = 0.0
    """Chance that a hidden unit is left out while learning and exploring (Srivastava et al. 2014)."""
    noisy: bool = False
    """Noise with a learned size on the fully connected weights, in place of a large epsilon (Fortunato et al. 2018)."""
    noisy_sigma: float = 0.5
    """noisy: size of the noise at the start, times the root of a layer's inputs (sigma_0; 0.5 in the paper)."""
    dueling: bool = False
    """Streams of their own for the state's value and the actions' advantages (Wang et al. 2016)."""
    values: str = "scalar"
    """scalar (the mean return), categorical (C51; Bellemare et al. 2017), quantile (QR-DQN; Dabney et al. 2018a) or
    implicit_quantile (IQN; Dabney et al. 2018b)."""
    atoms: int = 51
    """categorical: returns that have a probability (51 in the paper)."""
    v_min: float = -10.0
    """categorical: the least of these returns (-10 in the paper)."""
    v_max: float = 10.0
    """categorical: the greatest of these returns (10 in the paper)."""
    quantiles: int = 200
    """quantile: how many (200 in the paper). implicit_quantile: how many are drawn in each pass (64 in DQN Zoo)."""
    cosines: int = 64
    """implicit_quantile: cosines that embed a quantile (64 in the paper)."""
    initialization: str = "torch7"
    """torch7 (as DeepMind's DQN: shrinks a signal from layer to layer), he (keeps it: differences show earlier) or
    he_centred (he, with the mean taken from each filter of the first layer: none is silent on an even screen)."""
    double: bool = False
    """Double DQN: the online network chooses the action that the target network values."""
    munchausen: bool = False
    """Munchausen DQN: a soft policy in the target, its log-probability in the reward (Vieillard et al. 2020)."""
    munchausen_temperature: float = 0.03
    """munchausen: entropy temperature (tau; 0.03 in the paper)."""
    munchausen_scale: float = 0.9
    """munchausen: weight of the log-policy (alpha; 0.9 in the paper)."""
    munchausen_clip: float = -1.0
    """munchausen: least temperature times log-policy (l_0; -1 in the paper)."""
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
    replay_sampling: str = "uniform"
    """uniform or prioritized (by the TD errors last seen, of distributions the losses; Schaul et al. 2016)."""
    priority_exponent: float = 0.6
    """prioritized: from 0, uniform, to 1, in proportion to the TD error (alpha; 0.6 in the paper)."""
    importance_exponent_start: float = 0.4
    """prioritized: share of the sampling's bias that weights in the loss undo at step 0 (beta; 0.4 in the paper)."""
    importance_exponent_end: float = 1.0
    """prioritized: that share after importance_annealing_steps."""
    importance_annealing_steps: int = 50_000_000
    """prioritized: agent steps from start to end, linearly; the whole of training in the paper."""
    augmentation: str = "none"
    """none, shift (of replayed observations, by up to 4 pixels) or shift_and_intensity (DrQ; Kostrikov et al. 2021)."""
    batch_size: int = 32
    """Transitions in an update."""
    learning_starts_steps: int = 50_000
    """Agent steps of uniform random play before the first update."""
    update_every_steps: int = 4
    """Agent steps between updates, over all games."""
    updates_at_once: int = 1
    """Updates each time that some are due, on batches drawn together; over update_every_steps the replay ratio."""
    target_update_steps: int = 10_000
    """Agent steps between copies into the target network; 0 is never: without target_rate none is there, as in 2013."""
    target_rate: float = 0.0
    """In place of copies: share of the way to the online network that the target network goes after each update (tau;
    0.005 in SR-SPR and BBF); 0 is none."""
    reset_every_updates: int = 0
    """Updates between resets of the fully connected layers and the optimizer (40,000 in SR-SPR); 0 is never."""
    reset_shrink: float = 0.8
    """Resets: share of old weights in the convolutions, the rest is fresh (0.8 in SR-SPR, 0.5 in BBF); 1 keeps them."""
    epsilon_start: float = 1.0
    """Chance of a random action at step 0."""
    epsilon_end: float = 0.1
    """Chance of a random action after the decay."""
    epsilon_decay_steps: int = 1_000_000
    """Agent steps from epsilon_start to epsilon_end, linearly."""
    loss: str = "huber"
    """scalar: huber (TD error clipped to 1 in the gradient) or squared."""
    optimizer: str = "rmsprop"
    """rmsprop (centred, as in the papers), adam, adamw or sgd."""
    learning_rate: float = 0.00025
    """Step size of the optimizer."""
    rmsprop_decay: float = 0.95
    """Decay of RMSProp's running moments."""
    optimizer_epsilon: float = 0.01 / 32**2
    """RMSProp: added to the variance, for the mean over a batch. Adam: added to the root."""
    momentum: float = 0.0
    """sgd: share of the last step that is taken again."""
    weight_decay: float = 0.0
    """adamw: share of each weight, times the step size, that an update takes away (0.1 in BBF, which spares biases)."""
    precision: str = "fp32"
    """fp32, as in the papers; bf16: exploring and learning compute in half width, but for the last layer, and the
    weights learn in full; quicker where the processor has bf16."""
    max_gradient_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 is no limit."""

    def __post_init__(self) -> None:
        require_one_of(self, NETWORKS, "network")
        require_one_of(self, INITIALIZATIONS, "initialization")
        require_one_of(self, VALUES, "values")
        require_one_of(self, ("huber", "squared"), "loss")
        require_one_of(self, OPTIMIZERS, "optimizer")
        require_one_of(self, PRECISIONS, "precision")
        require_one_of(self, STORAGES, "replay_storage")
        require_one_of(self, SAMPLINGS, "replay_sampling")
        require_one_of(self, AUGMENTATIONS, "augmentation")
        require_between(self, 4, 256, "replay_chunk_frames")
        require_between(self, 0, 1, "discount", "epsilon_start", "epsilon_end", "rmsprop_decay", "momentum")
        require_between(self, 0, 1, "munchausen_scale")
        require_between(self, -1_000, 0, "munchausen_clip")
        require_between(self, 0, 0.99, "dropout")
        require_between(self, 0, 4_096, "hidden_units")
        require_between(self, 1, 8, "impala_width")
        require_between(self, 0, 11, "impala_pool")
        require_between(self, 2, 1_000, "atoms")
        require_between(self, 1, 1_000, "quantiles", "cosines")
        require_positive(self, "learning_rate", "optimizer_epsilon")
        require_between(self, 1e-6, 100, "noisy_sigma")
        require_between(self, 1e-6, 1e6, "munchausen_temperature")
        require_at_least(
            self, 1, "n_step", "replay_capacity", "batch_size", "learning_starts_steps", "update_every_steps"
        )
        require_between(self, 1, 256, "updates_at_once")
        require_between(self, 0, 1, "priority_exponent", "importance_exponent_start", "importance_exponent_end")
        require_between(self, 0, 1, "weight_decay", "target_rate", "reset_shrink")
        require_at_least(self, 0, "target_update_steps", "epsilon_decay_steps", "max_gradient_norm")
        require_at_least(self, 0, "importance_annealing_steps", "reset_every_updates")
        self._require_switches_that_fit()
        for field, what in (("replay_capacity", "replay"), ("learning_starts_steps", "steps before learning")):
            if self.batch_size > getattr(self, field):
                raise LabError(
                    f"batch_size is {self.batch_size} and {field} {getattr(self, field)}; "
                    f"allowed is a batch no larger than the {what}"
                )

    def _require_switches_that_fit(self) -> None:
        """LabError for two that exclude each other, or one that would do nothing."""
        # In single precision atoms that are closer than these would be one, and larger ones not finite.
        largest, span = max(abs(self.v_min), abs(self.v_max)), self.v_max - self.v_min
        if not (largest <= 1e6 and span >= 1e-3 * max(largest, 1)):
            raise LabError(
                f"v_min is {self.v_min} and v_max {self.v_max}; allowed is a v_min below v_max, by a thousandth of the "
                "larger or more, both from -1000000 to 1000000"
            )
        most_atoms = int(span / (1e-4 * largest)) + 1
        if self.atoms > most_atoms:
            raise LabError(
                f"atoms is {self.atoms} with v_min {self.v_min} and v_max {self.v_max}; allowed is up to {most_atoms} "
                "there: closer ones would not be evenly apart in single precision"
            )
        require_fitting(
            (self.munchausen and self.values == "categorical", "values is categorical", "munchausen is false"),
            (self.munchausen and self.double, "double is true", "munchausen is false: both choose the next action"),
            (
                self.double and not self.has_target_network,
                "no target network (target_update_steps and target_rate are 0)",
                "double is false",
            ),
            (self.spectral_norm and self.network != "impala", f"network is {self.network}", "spectral_norm is false"),
            (self.spectral_norm and self.precision != "fp32", "precision is bf16", "spectral_norm is false"),
            (self.impala_pool > 0 and self.network != "impala", f"network is {self.network}", "impala_pool is 0"),
            (
                self.target_rate > 0 and self.target_update_steps > 0,
                f"target_rate is {self.target_rate}",
                "target_update_steps is 0",
            ),
            # Such small steps would be rounded away in half width.
            (self.target_rate > 0 and self.precision != "fp32", "precision is bf16", "target_rate is 0"),
            (self.momentum > 0 and self.optimizer != "sgd", f"optimizer is {self.optimizer}", "momentum is 0"),
            (
                self.weight_decay > 0 and self.optimizer != "adamw",
                f"optimizer is {self.optimizer}",
                "weight_decay is 0",
            ),
        )

    @property
    def architecture(self) -> Architecture:
        """What is switched on in the network."""
        return Architecture(
            hidden_units=self.hidden_units,
            impala_width=self.impala_width,
            impala_pool=self.impala_pool,
            spectral_norm=self.spectral_norm,
            layer_norm=self.layer_norm,
            dropout=self.dropout,
            noisy_sigma=self.noisy_sigma if self.noisy else 0.0,
            dueling=self.dueling,
            num_atoms={"categorical": self.atoms, "quantile": self.quantiles}.get(self.values, 0),
            implicit_quantiles=self.quantiles if self.values == "implicit_quantile" else 0,
            cosines=self.cosines,
        )

    @property
    def has_target_network(self) -> bool:
        """Whether the target is another network than the online one."""
        return self.target_update_steps > 0 or self.target_rate > 0

    @property
    def draws_in_network(self) -> bool:
        """Whether passes of the network draw random numbers."""
        return self.noisy or self.dropout > 0 or self.values == "implicit_quantile"

    switches: ClassVar[tuple[Switch, ...]] = (
        # Without a target network, choosing by the online one changes nothing.
        Switch("target_network", "Mnih et al. 2015", "target_update_steps", off=0, instead=(("double", True, False),)),
        Switch("average_target", "Lillicrap et al. 2016", "target_rate", off=0.0, instead=(("double", True, False),)),
        Switch("double", "van Hasselt et al. 2016", "double", off=False),
        Switch(
            "prioritized",
            "Schaul et al. 2016",
            "replay_sampling",
            off="uniform",
            settings=(
                "priority_exponent",
                "importance_exponent_start",
                "importance_exponent_end",
                "importance_annealing_steps",
            ),
        ),
        Switch("dueling", "Wang et al. 2016", "dueling", off=False),
        Switch("n_step", "Sutton 1988; in DQN Hessel et al. 2018", "n_step", off=1),
        Switch(
            "noisy",
            "Fortunato et al. 2018",
            "noisy",
            off=False,
            settings=("noisy_sigma",),
            # Of an epsilon's schedule what is 0 is replaced: by that of DrQ(eps), in Dopamine's reading.
            instead=(
                ("epsilon_start", 0.0, 1.0),
                ("epsilon_end", 0.0, 0.01),
                ("epsilon_decay_steps", 0, 5_000),
            ),
        ),
        Switch(
            "categorical",
            "Bellemare et al. 2017",
            "values",
            off="scalar",
            on="categorical",
            settings=("atoms", "v_min", "v_max"),
        ),
        Switch("quantile", "Dabney et al. 2018a", "values", off="scalar", on="quantile", settings=("quantiles",)),
        Switch(
            "implicit_quantile",
            "Dabney et al. 2018b",
            "values",
            off="scalar",
            on="implicit_quantile",
            settings=("quantiles", "cosines"),
        ),
        Switch(
            "munchausen",
            "Vieillard et al. 2020",
            "munchausen",
            off=False,
            settings=("munchausen_temperature", "munchausen_scale", "munchausen_clip"),
        ),
        Switch(
            "impala",
            "Espeholt et al. 2018",
            "network",
            off="nature",
            on="impala",
            settings=("impala_width",),
            instead=(("spectral_norm", True, False), ("impala_pool", None, 0)),
        ),
        Switch("max_pool", "Clark et al. 2024", "impala_pool", off=0),
        Switch("spectral_norm", "Miyato et al. 2018", "spectral_norm", off=False),
        Switch("layer_norm", "Ba et al. 2016", "layer_norm", off=False),
        Switch("dropout", "Srivastava et al. 2014", "dropout", off=0.0),
        Switch("augmentation", "Kostrikov et al. 2021", "augmentation", off="none"),
        Switch("replay_ratio", "D'Oro et al. 2023", "updates_at_once", off=1),
        Switch("resets", "Nikishin et al. 2022", "reset_every_updates", off=0, settings=("reset_shrink",)),
        Switch("weight_decay", "Loshchilov and Hutter 2019", "weight_decay", off=0.0),
        Switch("gradient_clipping", "Pascanu et al. 2013", "max_gradient_norm", off=0.0),
    )


class DQN(Agent):
    """Q-learning with a convolutional network and experience replay."""

    Config = DQNConfig

    def __init__(self, config: AgentConfig, task: Task) -> None:
        assert isinstance(config, DQNConfig)
        require_learning(config.learning_starts_steps, task.total_steps)
        first_transitions_steps = (config.n_step + 1) * task.num_games
        if config.learning_starts_steps < first_transitions_steps:
            raise LabError(
                f"learning_starts_steps is {config.learning_starts_steps}; allowed is {first_transitions_steps} or "
                f"more, when {task.num_games} games have their first {config.n_step}-step transitions"
            )
        self.config = config
        self._task = task
        self._device = torch.device(task.device)
        num_weights = count_weights(config.network, task.num_actions, config.architecture)
        require_memory(4 * num_weights, f"a network of {num_weights:,} weights", "use fewer units, filters or atoms")
        self.network = self._build_network(torch.Generator().manual_seed(integer_seed(task.seed, "weights")))
        self._values = build_values(
            config.values,
            loss=config.loss,
            atoms=config.atoms,
            v_min=config.v_min,
            v_max=config.v_max,
            quantiles=config.quantiles,
            device=self._device,
        )
        self._steps = 0
        self._updates = 0
        self._target_copies = 0
        self._last_loss = torch.zeros(())
        self._last_q_values = torch.zeros(0, task.num_actions)  # (B, A) float32
        self._last_td_error = torch.zeros(0)  # (B,) float32; for the eye only: nothing to go on from
        self._last_priorities = torch.zeros(0)  # (B,) float32

    def prepare(self) -> None:
        """Allocate the replay memory, the target network and the optimizer."""
        config, task = self.config, self._task
        if config.precision == "bf16" and not has_fast_bf16(task.device):
            warnings.warn(
                f"precision is bf16, which this {task.device} computes no faster than fp32: --agent.precision fp32",
                LabWarning,
                stacklevel=2,
            )
        self.replay = build_replay(
            config.replay_sampling,
            config.replay_capacity,
            task.num_games,
            discount=config.discount,
            n_step=config.n_step,
            storage=config.replay_storage,
            chunk_frames=config.replay_chunk_frames,
            priority_exponent=config.priority_exponent,
        )
        self._require_memory()
        self._weights = MasterWeights(self.network, config.precision)
        self._learner: nn.Module = self._weights.learner
        self._target_network: nn.Module = copy.deepcopy(self._learner) if config.has_target_network else self._learner
        if config.target_rate:
            self._target_weights = as_one_block(self._target_network.parameters())
        self._optimizer = build_optimizer(
            config.optimizer,
            self._weights.values,
            config.learning_rate,
            epsilon=config.optimizer_epsilon,
            rmsprop_decay=config.rmsprop_decay,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self._exploration_rng = generator(task.seed, "exploration")
        self._replay_rng = generator(task.seed, "replay")
        self._augmentation_rng = generator(task.seed, "augmentation")
        self._network_rng = generator(task.seed, "network")
        self._rngs = {"exploration": self._exploration_rng, "replay": self._replay_rng}
        if config.augmentation != "none":
            self._rngs["augmentation"] = self._augmentation_rng
        if config.draws_in_network:
            self._rngs["network"] = self._network_rng
        for network in (self._learner, self._target_network):
            let_draw(network, self._network_rng)

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
        with at_rest(self.network):
            return self._greedy(self.network, observations)

    def action_values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Q values [B, A]."""
        with at_rest(self.network):
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
            **{name: generator_state(rng) for name, rng in self._rngs.items()},
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
        most_due = self._task.num_games * self.config.updates_at_once
        if not 0 <= self._due_updates - self._updates <= most_due or self._target_copies > self._steps:
            raise LabError(f"{_COUNTERS} is damaged: its counters do not fit each other")
        for name, rng in self._rngs.items():
            restore_generator(rng, counters.get(name))

        batch_size = self.config.batch_size if self._updates else 0
        self._last_q_values = torch.zeros(batch_size, self._task.num_actions)
        names = state_names(self.config.optimizer, momentum=self.config.momentum) if self._updates else ()
        optimizer = optimizer_state_like(self._optimizer, names)
        tensors = read_tensors(files, _LEARNER, {**self._learner_state(), **prefixed("optimizer", optimizer)})
        self._last_loss, self._last_q_values = tensors["last_loss"], tensors["last_q_values"]
        if self.config.has_target_network:
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
        return self._values.q_values(network(torch.from_numpy(observations).to(self._device)))

    def _sample_due(self, sampler: Executor) -> Sequence[Future[tuple[Batch, Draw | None]]]:
        """Batches for the updates that are due by now, drawn in another thread.

        Until `_learn` has taken the last one, nothing else may touch the replay or its generator.
        """
        return [sampler.submit(self.sample) for _ in range(self._updates, self._due_updates)]

    @property
    def _due_updates(self) -> int:
        """Updates that should have been made by now."""
        since_start = self._steps - self.config.learning_starts_steps
        return max(since_start // self.config.update_every_steps, 0) * self.config.updates_at_once

    def _learn(self, batches: Sequence[Future[tuple[Batch, Draw | None]]]) -> None:
        """One update on each batch; resets and copies into the target network when their time has come."""
        config = self.config
        priorities: list[tuple[Draw, Tensor]] = []
        for future in batches:
            batch, draw = future.result()
            # Not after an update, where a run may end: a network just reset would be evaluated.
            if config.reset_every_updates and self._updates and self._updates % config.reset_every_updates == 0:
                self.reset()
            self.update(batch, None if draw is None else draw.weights)
            if draw is not None:
                priorities.append((draw, self._last_priorities))
        # Not earlier: all batches of a step are drawn by the priorities before it, whichever thread is quicker.
        for draw, last_seen in priorities:
            self.replay.update_priorities(draw.games, draw.indices, last_seen.cpu().numpy())
        if config.target_update_steps and self._steps // config.target_update_steps > self._target_copies:
            self._target_copies = self._steps // config.target_update_steps
            self._target_network.load_state_dict(self._learner.state_dict())

    def sample(self) -> tuple[Batch, Draw | None]:
        """A batch by the configured rule, augmented."""
        config = self.config
        importance_exponent = linear(
            self._steps,
            start=config.importance_exponent_start,
            end=config.importance_exponent_end,
            over_steps=config.importance_annealing_steps,
        )
        batch, draw = self.replay.draw(config.batch_size, self._replay_rng, importance_exponent)
        observations, next_observations = (
            augment(config.augmentation, frames, self._augmentation_rng)
            for frames in (batch.observations, batch.next_observations)
        )
        return batch._replace(observations=observations, next_observations=next_observations), draw

    def update(self, batch: Batch, weights: NDArray[np.float32] | None = None) -> None:
        """One gradient step; `weights` [B] are those of the transitions in the loss, 1 unless given."""
        observations, actions, returns, discounts, next_observations = (
            torch.from_numpy(array).to(self._device) for array in batch
        )
        # The target comes first: passes of networks that draw or normalize change what the next pass computes with.
        target = self._target(observations, actions, returns, discounts, next_observations)
        output_tm1 = self._learner(observations)
        transition_losses = self._values.loss(
            output_tm1, actions, target.r_t, discounts, target.output_t, target.policy_t
        )
        assert transition_losses.shape == (self.config.batch_size,), transition_losses.shape
        weighted = (
            transition_losses if weights is None else transition_losses * torch.from_numpy(weights).to(self._device)
        )
        loss = weighted.mean()

        loss.backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        self._weights.take_gradients()
        if self.config.max_gradient_norm:
            self._weights.clip_gradients(self.config.max_gradient_norm)
        self._optimizer.step()
        self._weights.publish()
        if self.config.target_rate:
            self._target_weights.lerp_(self._weights.values.detach(), self.config.target_rate)
        self._updates += 1
        with torch.no_grad():
            q_tm1 = self._values.q_values(output_tm1)  # (B, A) float32
            td_error = losses.td_error(q_tm1, actions, target.r_t, discounts, target.q_t, target.policy_t)
        self._last_loss, self._last_q_values, self._last_td_error = loss.detach(), q_tm1.detach(), td_error.detach()
        # Schaul et al. 2016: the TD error. For distributions the loss: in Hessel et al. 2018 the KL divergence, here as
        # in Kaixhin/Rainbow the cross-entropy.
        self._last_priorities = (td_error.abs() if self.config.values == "scalar" else transition_losses).detach()

    def reset(self) -> None:
        """Fresh fully connected layers, convolutions on their way to fresh ones; the replay and its priorities stay.

        As in SR-SPR and BBF (google-research/google-research, bigger_better_faster/bbf/agents/spr_agent.py, jit_reset)
        the optimizer starts anew, and the target network gets fresh weights of its own. Theirs skip a reset near the
        budget's end and act by the averaged network; here a run does not depend on how long it is to be.
        """
        rng = torch.Generator().manual_seed(integer_seed(self._task.seed, "reset", self._updates))
        shrink_and_perturb(self.network, self._build_network(rng), self.config.reset_shrink)
        self._weights.publish()
        if self.config.has_target_network:
            shrink_and_perturb(self._target_network, self._build_network(rng), self.config.reset_shrink)
        self._optimizer.state.clear()

    @torch.no_grad()
    def _target(
        self, observations: Tensor, actions: Tensor, returns: Tensor, discounts: Tensor, next_observations: Tensor
    ) -> _Target:
        """What the next step is worth, by the configured rule."""
        config = self.config
        output_t = self._target_network(next_observations)
        q_t = self._values.q_values(output_t)  # (B, A) float32
        if config.munchausen:
            r_t = losses.munchausen_reward(
                returns,
                discounts,
                actions,
                self._values.q_values(self._target_network(observations)),
                q_t,
                temperature=config.munchausen_temperature,
                scale=config.munchausen_scale,
                clip=config.munchausen_clip,
            )
            return _Target(r_t, output_t, q_t, losses.soft_policy(q_t, config.munchausen_temperature))
        selector = self._values.q_values(self._learner(next_observations)) if config.double else q_t
        return _Target(returns, output_t, q_t, losses.greedy_policy(selector))

    def _build_network(self, rng: torch.Generator) -> nn.Sequential:
        """The configured network with weights drawn from `rng`."""
        config = self.config
        return build_network(
            config.network,
            self._task.num_actions,
            rng,
            initialization=config.initialization,
            architecture=config.architecture,
        ).to(self._device)

    def _require_memory(self) -> None:
        """LabError unless this machine holds the replay memory, once it is full, beside all that learning takes.

        Nothing is refused later: what a run was started with, it ends with.
        """
        config = self.config
        due_at_once = -(-self._task.num_games // config.update_every_steps) * config.updates_at_once
        pixel_bytes = bytes_per_pixel(config.augmentation)
        batch_bytes = 2 * math.prod(OBSERVATION_SHAPE) * pixel_bytes * config.batch_size
        require_memory(
            self.replay.memory_bytes + learning_bytes(self.network, config.batch_size) + due_at_once * batch_bytes,
            f"learning from batches of {config.batch_size:,}, beside the replay memory,",
            "use a smaller --agent.batch-size, --agent.replay-capacity or network",
        )

    def _learner_state(self) -> dict[str, Tensor]:
        """What learning goes on from besides weights and optimizer."""
        target = self._target_network.state_dict() if self.config.has_target_network else {}
        return {"last_loss": self._last_loss, "last_q_values": self._last_q_values, **prefixed("target", target)}

    def _guard(self, protocol: Protocol) -> None:
        """Look for divergence after an update."""
        config = self.config
        if self._updates:
            require_finite_weights(self._weights.values)
            # Munchausen takes up to its log-policy from a reward, or adds up to its entropy.
            entropy = config.discount * config.munchausen_temperature * math.log(self._task.num_actions)
            bonus = max(-config.munchausen_scale * config.munchausen_clip, entropy) if config.munchausen else 0.0
            warn_of_divergence(
                self._last_q_values, reward_clip=protocol.reward_clip, discount=config.discount, bonus=bonus
            )

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


class _Target(NamedTuple):
    """The next step, which is learned towards; no gradients."""

    r_t: Tensor
    """[B]"""
    output_t: Any
    """Of the target network."""
    q_t: Tensor
    """[B, A], its means."""
    policy_t: Tensor
    """[B, A], probability of each action."""
