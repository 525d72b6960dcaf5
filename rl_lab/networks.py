"""The networks of the DQN papers: stacked frames in, one value an action out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORKS: tuple[str, ...] = ("mnih2013", "nature")
INITIALIZATIONS: tuple[str, ...] = ("torch7", "he")


def build_network(
    name: str, num_actions: int, generator: torch.Generator, *, initialization: str = "torch7"
) -> nn.Sequential:
    """The network called `name`: pixels [B, 4, 84, 84] in, [B, num_actions] out.

    Its weights are drawn from `generator` as one of `INITIALIZATIONS` says.
    """
    builders: dict[str, Callable[[int], nn.Sequential]] = {"mnih2013": _mnih2013, "nature": _nature}
    # On the meta device a layer's own initialisation draws nothing from torch's global generator.
    with torch.device("meta"):
        network = builders[name](num_actions)
    network.to_empty(device="cpu")
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            (_torch7 if initialization == "torch7" else _he)(layer, generator)
    # The convolutions take a tenth less time on a CPU in this layout; shapes and weights are the same.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types leave it out
    return network


class PixelConv2d(nn.Conv2d):
    """A first layer that reads pixels as bytes 0..255 and sees them as 0..1."""

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 4, 84, 84] uint8 to features of the weights' type; quickest with the channels last in memory."""
        # Dividing the weights is dividing the pixels, at a hundredth of the numbers; bf16 holds 0..255 exactly.
        pixels = pixels.contiguous(memory_format=torch.channels_last).to(self.weight.dtype)
        return F.conv2d(pixels, self.weight / 255.0, self.bias, self.stride)


class ValueHead(nn.Linear):
    """The last layer, in full precision whatever the others compute in.

    In bf16, Q values between 1 and 2 lie on a grid of 1/128: coarser than what tells the actions of Pong apart.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[B, features] of any precision to values [B, num_actions] float32."""
        return super().forward(features.float())


def _mnih2013(num_actions: int) -> nn.Sequential:
    """Mnih et al. 2013, section 4.1: 16 filters 8x8 stride 4, 32 filters 4x4 stride 2, 256 units."""
    return nn.Sequential(
        PixelConv2d(4, 16, 8, stride=4),  # [B, 16, 20, 20]
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 4, stride=2),  # [B, 32, 9, 9]
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(32 * 9 * 9, 256),
        nn.ReLU(inplace=True),
        ValueHead(256, num_actions),
    )


def _nature(num_actions: int) -> nn.Sequential:
    """Mnih et al. 2015, Methods: 32 filters 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1, 512 units."""
    return nn.Sequential(
        PixelConv2d(4, 32, 8, stride=4),  # [B, 32, 20, 20]
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 4, stride=2),  # [B, 64, 9, 9]
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, stride=1),  # [B, 64, 7, 7]
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        nn.ReLU(inplace=True),
        ValueHead(512, num_actions),
    )


def _torch7(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Weights and biases uniform in +-1/sqrt(fan in): the default of Torch7, in which DeepMind wrote DQN."""
    bound = 1.0 / math.sqrt(layer.weight[0].numel())
    for parameter in layer.parameters():
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
