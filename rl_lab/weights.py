"""A network's weights as an optimizer likes them: one block of memory, in full precision.

A step, a norm or a cast of all weights is then one operation in place of one for each layer. For updates in half width
the network has a twin with bf16 copies of the weights: it computes, the full weights learn, and each step rounds them
anew (Micikevicius et al. 2018, "Mixed precision training", section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.networks import DuelingHead, ValueHead, let_draw

PRECISIONS = ("fp32", "bf16")


class MasterWeights:
    """The weights of `network`, which live in `values` from now on, and `learner`, the network to differentiate."""

    def __init__(self, network: nn.Sequential, precision: str) -> None:
        """`learner` is `network` itself in fp32; in bf16 its twin, which shares the last layer."""
        self.values = nn.Parameter(as_one_block(network.parameters()))
        """[N] float32, all weights: what the optimizer steps."""
        self.values.grad = torch.zeros_like(self.values)
        self.learner = network if precision == "fp32" else _half_width(network)
        self._gradients = _views(self.values.grad, network.parameters())
        half_width = [parameter for parameter in self.learner.parameters() if parameter.dtype != torch.float32]
        self._rounded = as_one_block(half_width) if half_width else None

    def take_gradients(self) -> None:
        """Move the learner's gradients into `values.grad`, in full precision."""
        for gradient, parameter in zip(self._gradients, self.learner.parameters(), strict=True):
            assert parameter.grad is not None
            gradient.copy_(parameter.grad)
            parameter.grad = None

    def clip_gradients(self, max_norm: float) -> None:
        """Scale the gradients down to the norm where they exceed it."""
        gradient = self.values.grad
        assert gradient is not None
        norm = gradient.norm()
        if norm > max_norm:
            gradient.mul_(max_norm / norm)

    def publish(self) -> None:
        """Round the stepped weights for the learner."""
        if self._rounded is not None:
            # The last layer, which is not rounded, is the last in the block.
            self._rounded.copy_(self.values.detach()[: self._rounded.numel()])


def learning_bytes(network: nn.Sequential, batch_size: int) -> int:
    """Memory that updates come to need beside the weights of `network`, in full precision; an estimate.

    Of the weights six copies: a gradient of the learner and one in `values`, two moments in the optimizer, a target
    network, and the fresh weights of a reset. Of a batch twice what autograd keeps for the way back: that itself, and
    the gradients on that way. Not in it are some 60 to 80 MB that torch takes for itself.
    """
    # Its passes draw numbers, and normalize, without a trace in the network.
    probe = copy.deepcopy(network)
    let_draw(probe, np.random.default_rng(0))
    weights = sum(parameter.numel() for parameter in network.parameters())
    # What does not grow with the batch, such as the weights, is kept for a batch of one, too.
    return 24 * weights + 2 * batch_size * (_kept_bytes(probe, 2) - _kept_bytes(probe, 1))


def _kept_bytes(network: nn.Sequential, batch_size: int) -> int:
    """What autograd keeps of a pass for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    device = next(network.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.zeros(batch_size, *OBSERVATION_SHAPE, dtype=torch.uint8, device=device))
    del output  # until here all that is kept has an address of its own
    return sum(kept.values())


def _half_width(network: nn.Sequential) -> nn.Sequential:
    """The network with bf16 copies of all layers but the last."""
    twin = copy.deepcopy(network)
    *torso, _ = twin
    for layer in torso:
        layer.to(torch.bfloat16)
    assert isinstance(network[-1], ValueHead | DuelingHead)
    twin[-1] = network[-1]
    return twin


def as_one_block(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Move parameters of one type into one block [N], in order, each with its shape and memory layout."""
    parameters = list(parameters)
    block = torch.empty(
        sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    for parameter, view in zip(parameters, _views(block, parameters), strict=True):
        view.copy_(parameter.detach())
        parameter.data = view
    return block


def _views(block: Tensor, parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Parts of the block [N] with the shapes and memory layouts of the parameters."""
    views, start = [], 0
    for parameter in parameters:
        views.append(block[start : start + parameter.numel()].as_strided(parameter.shape, parameter.stride()))
        start += parameter.numel()
    return views
