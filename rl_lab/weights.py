"""A network's weights as an optimizer likes them: one block of memory, in full precision.

A step, a norm or a cast of all weights is then one operation in place of one for each layer. For updates in half width
the network has a twin with bf16 copies of the weights: it computes, the full weights learn, and each step rounds them
anew (Micikevicius et al. 2018, "Mixed precision training", section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rl_lab.networks import DuelingHead, ValueHead
from rl_lab.system import require_memory

PRECISIONS = ("fp32", "bf16")


class MasterWeights:
    """The weights of `network`, which live in `values` from now on, and `learner`, the network to differentiate."""

    def __init__(self, network: nn.Sequential, precision: str) -> None:
        """`learner` is `network` itself in fp32; in bf16 its twin, which shares the last layer.

        LabError where this machine's memory cannot hold what learning comes to need beside the weights: a gradient, two
        moments in the optimizer and a target network.
        """
        num_weights = sum(parameter.numel() for parameter in network.parameters())
        require_memory(16 * num_weights, f"learning {num_weights:,} weights", "use fewer units, filters or atoms")
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
