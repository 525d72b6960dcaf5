"""Weights made anew in the midst of training, against what early data taught too well.

Nikishin et al. 2022 (arXiv 2205.07802) reset the last layers and keep the replay memory; D'Oro et al. 2023 (SR-SPR) and
Schwarzer et al. 2023 (BBF, arXiv 2305.19452) shrink and perturb the convolutions as well.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def shrink_and_perturb(network: nn.Module, fresh: nn.Module, kept: float) -> None:
    """Let the fully connected layers be those of `fresh`, and the convolutions `kept` old + (1 - `kept`) fresh.

    Normalizations go with the layers that they follow. `fresh` is a network of the same layers, of any precision.
    """
    for layer, fresh_layer in zip(network.modules(), fresh.modules(), strict=True):
        share = 1 - kept if isinstance(layer, nn.Conv2d | nn.GroupNorm) else 1.0
        parameters = zip(layer.parameters(recurse=False), fresh_layer.parameters(recurse=False), strict=True)
        for weight, fresh_weight in parameters:
            weight.lerp_(fresh_weight.to(weight.dtype), share)
