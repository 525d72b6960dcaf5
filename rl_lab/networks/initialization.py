"""How weights start. Every number is drawn from the generator that is given."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from rl_lab.networks.heads import ValueHead
from rl_lab.networks.layers import NoisyLinear, PixelConv2d, SpectralConv2d

INITIALIZATIONS: tuple[str, ...] = ("torch7", "he", "he_centred")


def initialize(network: nn.Module, initialization: str, generator: torch.Generator) -> None:
    """Fill weights, biases and buffers, in order of the layers."""
    for layer in network.modules():
        match layer:
            case nn.Conv2d() | nn.Linear():
                (_torch7 if initialization == "torch7" else _he)(layer, generator)
            case nn.GroupNorm() | nn.LayerNorm():
                layer.reset_parameters()
        match layer:
            case PixelConv2d() if initialization == "he_centred":
                _centre(layer)
            case NoisyLinear():
                layer.initialize_sigma()
            case SpectralConv2d():
                layer.u.copy_(F.normalize(torch.randn(layer.u.shape, generator=generator), dim=0))


def _torch7(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Weights and biases uniform in +-1/sqrt(fan in): the default of Torch7, in which DeepMind wrote DQN.

    DQN Zoo starts its C51, QR-DQN and IQN so as well, and the means of noisy layers are drawn so in their paper.
    """
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


def _he(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Weights uniform in +-sqrt(6 / fan in), which keeps the signal through rectifiers; biases zero (He et al. 2015).

    No rectifier follows the last layer: its weights stay within 1/sqrt(fan in).
    """
    gain = 1.0 if isinstance(layer, ValueHead) else 6.0
    bound = math.sqrt(gain / layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _centre(layer: PixelConv2d) -> None:
    """Take from each filter the mean of its weights: it answers to what differs from a uniform screen, and to no grey.

    The lab's. Most screens are mostly one colour, and there the rectifier silences a filter whose weights sum to less
    than zero: of the 16 of Mnih et al. 2013 some five in Pong, before anything is learned.
    """
    with torch.no_grad():
        layer.weight -= layer.weight.mean(dim=(1, 2, 3), keepdim=True)
