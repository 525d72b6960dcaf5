"""The networks of the DQN papers: stacked frames in, one value or one distribution of values an action out.

A network is a sequence that ends in its head: all before it may compute in half width (rl_lab.weights), the head never.
Torsos and heads combine freely. What is random in a network draws from the generator that `let_draw` hands out, and
only while it learns and explores: `at_rest` is the network as it is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rl_lab.networks.heads import DuelingHead, ImplicitQuantileNetwork, QuantileEmbedding, Quantiles, ValueHead
from rl_lab.networks.initialization import INITIALIZATIONS, initialize
from rl_lab.networks.layers import Dropout, NoisyLinear, PixelConv2d
from rl_lab.networks.torsos import NETWORKS, Torso, build_torso

__all__ = [
    "INITIALIZATIONS",
    "NETWORKS",
    "Architecture",
    "DuelingHead",
    "PixelConv2d",
    "Quantiles",
    "ValueHead",
    "at_rest",
    "build_network",
    "count_weights",
    "let_draw",
]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is switched on in a network, on top of the paper's own layers. The defaults switch on nothing."""

    hidden_units: int = 0
    """Units of the fully connected layer; 0 is the number of the torso's paper."""
    impala_width: int = 1
    """Factor on the filters of the impala torso."""
    impala_pool: int = 0
    """Height and width that the features of the impala torso are pooled to; 0 is as they come, 11."""
    spectral_norm: bool = False
    """Residual convolutions divided by their largest singular value."""
    layer_norm: bool = False
    """Layer normalization before each rectifier."""
    dropout: float = 0.0
    """Chance that a unit of the fully connected layer is left out."""
    noisy_sigma: float = 0.0
    """Noise on the fully connected weights at the start; 0 is none."""
    dueling: bool = False
    """A value and an advantage in place of Q values."""
    num_atoms: int = 0
    """Numbers for each action; 0 is one without a dimension of its own."""
    implicit_quantiles: int = 0
    """Quantiles drawn in each pass; 0 is no implicit quantile network."""
    cosines: int = 64
    """Of the embedding of an implicit quantile."""


def build_network(
    name: str,
    num_actions: int,
    generator: torch.Generator,
    *,
    initialization: str = "torch7",
    architecture: Architecture | None = None,
) -> nn.Sequential:
    """The network with the torso called `name`: pixels [B, 4, 84, 84] in; out come [B, num_actions], or the same with
    `num_atoms` numbers in place of each, or `Quantiles`.

    Its weights are drawn from `generator` as one of `INITIALIZATIONS` says.
    """
    with torch.random.fork_rng(devices=()):  # the layers' own weights, replaced here, come from the global generator
        network = _unfilled(name, num_actions, architecture or Architecture())
    initialize(network, initialization, generator)
    # The convolutions take a tenth less time on a CPU in this layout; shapes and weights are the same.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    return network


def count_weights(name: str, num_actions: int, architecture: Architecture) -> int:
    """Of the network that `build_network` gives, without taking memory for them; each is 4 bytes."""
    with torch.device("meta"):
        network = _unfilled(name, num_actions, architecture)
    return sum(weight.numel() for weight in network.parameters())


def let_draw(network: nn.Sequential, rng: np.random.Generator) -> None:
    """Everything random in the network draws from `rng` from now on, in order of its passes."""
    for module in network.modules():
        if isinstance(module, NoisyLinear | Dropout | ImplicitQuantileNetwork):
            module.rng = rng


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Without noise, without dropout, with evenly spaced quantiles: the same output for the same pixels."""
    network.eval()
    try:
        yield
    finally:
        network.train()


def _unfilled(name: str, num_actions: int, architecture: Architecture) -> nn.Sequential:
    """Without the weights that `initialize` draws."""
    torso = build_torso(
        name,
        impala_width=architecture.impala_width,
        impala_pool=architecture.impala_pool,
        spectral_norm=architecture.spectral_norm,
        layer_norm=architecture.layer_norm,
    )
    return _with_head(torso, num_actions, architecture)


def _with_head(torso: Torso, num_actions: int, architecture: Architecture) -> nn.Sequential:
    """Fully connected layer and head on the torso."""
    units, sigma = architecture.hidden_units or torso.hidden_units, architecture.noisy_sigma
    # The hidden layers of the two streams of a dueling network are one layer of twice the units: one matrix product.
    width = 2 * units if architecture.dueling else units
    hidden: list[nn.Module] = [
        NoisyLinear(torso.features, width, sigma=sigma) if sigma else nn.Linear(torso.features, width)
    ]
    if architecture.layer_norm:
        hidden.append(nn.LayerNorm(width))
    hidden.append(nn.ReLU(inplace=True))
    if architecture.dropout:
        hidden.append(Dropout(architecture.dropout))
    head = (DuelingHead if architecture.dueling else ValueHead)(
        units, num_actions, num_atoms=architecture.num_atoms, sigma=sigma
    )
    if not architecture.implicit_quantiles:
        return nn.Sequential(*torso.layers, *hidden, head)
    embedding = QuantileEmbedding(architecture.cosines, torso.features)
    return ImplicitQuantileNetwork(
        nn.Sequential(*torso.layers), embedding, nn.Sequential(*hidden), head, architecture.implicit_quantiles
    )
