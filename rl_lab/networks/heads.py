"""Last layers: features in, what is known of the return of each action out; in full precision, whatever the rest is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_lab.networks.layers import NoisyLinear


class ValueHead(NoisyLinear):
    """The last layer, in full precision whatever the others compute in.

    In bf16, Q values between 1 and 2 lie on a grid of 1/128: coarser than what tells the actions of Pong apart.
    """

    def __init__(self, units: int, num_actions: int, *, num_atoms: int = 0, sigma: float = 0.0) -> None:
        """`num_atoms` numbers for each action; at 0 one, without a dimension of its own."""
        super().__init__(units, num_actions * max(num_atoms, 1), sigma=sigma)
        self.num_actions = num_actions
        self.num_atoms = num_atoms

    def forward(self, features: Tensor) -> Tensor:
        """[..., units] of any precision to [..., num_actions] or [..., num_actions, num_atoms] float32."""
        values = super().forward(features.float())
        return values.view(*values.shape[:-1], self.num_actions, self.num_atoms) if self.num_atoms else values


class DuelingHead(nn.Module):
    """The value of the state plus the advantage of each action over their mean (Wang et al. 2016, eq. 9).

    With atoms, each is a vector of them (Hessel et al. 2018, "The integrated agent").
    """

    def __init__(self, units: int, num_actions: int, *, num_atoms: int = 0, sigma: float = 0.0) -> None:
        super().__init__()
        self.value = ValueHead(units, 1, num_atoms=num_atoms, sigma=sigma)
        self.advantage = ValueHead(units, num_actions, num_atoms=num_atoms, sigma=sigma)

    def forward(self, features: Tensor) -> Tensor:
        """[..., 2 units]: first the stream of the value, then that of the advantages; out as in ValueHead."""
        value_features, advantage_features = features.chunk(2, dim=-1)
        advantage = self.advantage(advantage_features)
        action_dim = -2 if self.advantage.num_atoms else -1
        centred: Tensor = self.value(value_features) + advantage - advantage.mean(dim=action_dim, keepdim=True)
        return centred


class Quantiles(NamedTuple):
    """Quantiles of the return of each action."""

    values: Tensor
    """[B, A, N] float32"""
    taus: Tensor
    """[B, N] float32: which quantiles they are, from 0 to 1."""


class QuantileEmbedding(nn.Linear):
    """Features for each quantile: features times a learned embedding of it (Dabney et al. 2018b, eq. 4)."""

    def forward(self, features: Tensor, taus: Tensor) -> Tensor:  # type: ignore[override]  # two inputs in place of one
        """[B, F] and [B, N] to [B, N, F]."""
        frequencies = math.pi * torch.arange(self.in_features, device=taus.device)
        cosines = torch.cos(taus.unsqueeze(2) * frequencies).to(features.dtype)  # (B, N, cosines)
        return F.relu_(super().forward(cosines)) * features.unsqueeze(1)


class ImplicitQuantileNetwork(nn.Sequential):
    """IQN: values of quantiles drawn anew in each pass (Dabney et al. 2018b, section 3)."""

    rng: np.random.Generator

    def __init__(
        self, torso: nn.Module, embedding: QuantileEmbedding, hidden: nn.Module, head: nn.Module, num_quantiles: int
    ) -> None:
        super().__init__(torso, embedding, hidden, head)
        self._num_quantiles = num_quantiles

    def forward(self, pixels: Tensor) -> Quantiles:
        """[B, 4, 84, 84] to quantiles: uniform ones, or at rest the midpoints of as many equal parts."""
        torso, embedding, hidden, head = self
        taus = self._taus(len(pixels), pixels.device)
        values = head(hidden(embedding(torso(pixels), taus)))  # (B, N, A)
        return Quantiles(values.transpose(1, 2), taus)

    def _taus(self, batch_size: int, device: torch.device) -> Tensor:
        """[B, N]"""
        if self.training:
            return torch.from_numpy(self.rng.random((batch_size, self._num_quantiles), np.float32)).to(device)
        midpoints = (torch.arange(self._num_quantiles, device=device) + 0.5) / self._num_quantiles
        return midpoints.expand(batch_size, -1)
