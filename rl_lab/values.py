"""What a network says of the return of an action: its mean, or a distribution in one of three forms.

Each form is one object, and an agent calls the same two methods of all: `q_values` to act, `loss` to learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rl_lab import losses
from rl_lab.networks import Quantiles

VALUES = ("scalar", "categorical", "quantile", "implicit_quantile")

_Output = TypeVar("_Output")


class Values(ABC, Generic[_Output]):
    """How the output of a network is read and learned."""

    @abstractmethod
    def q_values(self, output: _Output) -> Tensor:
        """Mean returns [B, A]."""

    @abstractmethod
    def loss(
        self,
        output_tm1: _Output,
        a_tm1: Tensor,
        r_t: Tensor,
        discount_t: Tensor,
        output_t: _Output,
        policy_t: Tensor,
    ) -> Tensor:
        """Loss [B] of each transition; only `output_tm1` carries a gradient. `policy_t` [B, A] acts at t."""


class Scalar(Values[Tensor]):
    """The mean return; output [B, A]."""

    def __init__(self, loss: str) -> None:
        self._loss: Callable[[Tensor], Tensor] = losses.huber if loss == "huber" else losses.squared

    def q_values(self, output: Tensor) -> Tensor:
        """[B, A]"""
        return output

    def loss(
        self, output_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, output_t: Tensor, policy_t: Tensor
    ) -> Tensor:
        """Of the TD error."""
        return self._loss(losses.td_error(output_tm1, a_tm1, r_t, discount_t, output_t, policy_t))


class Categorical(Values[Tensor]):
    """C51: probabilities of fixed returns; output [B, A, atoms] their logits (Bellemare et al. 2017)."""

    def __init__(self, num_atoms: int, v_min: float, v_max: float, *, device: torch.device) -> None:
        self._support = torch.linspace(v_min, v_max, num_atoms, device=device)

    def q_values(self, output: Tensor) -> Tensor:
        """[B, A]"""
        return output.softmax(dim=2) @ self._support

    def loss(
        self, output_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, output_t: Tensor, policy_t: Tensor
    ) -> Tensor:
        """Cross-entropy from the projected distribution of r_t + discount_t Z_t.

        Rainbow's priorities as well, as in Kaixhin/Rainbow and DQN Zoo. The paper has the KL divergence there (Hessel
        et al. 2018, "The integrated agent"), which is less by the target's entropy and has the same gradient.
        """
        target = losses.categorical_projection(
            r_t.unsqueeze(1) + discount_t.unsqueeze(1) * self._support,
            _under(policy_t, output_t.softmax(dim=2)),
            self._support,
        )
        return losses.categorical_cross_entropy(_of_action(output_tm1, a_tm1), target)


class Quantile(Values[Tensor]):
    """QR-DQN: the returns of evenly spaced quantiles; output [B, A, quantiles] (Dabney et al. 2018a)."""

    def __init__(self, num_quantiles: int, *, device: torch.device) -> None:
        self._taus = (torch.arange(num_quantiles, device=device) + 0.5) / num_quantiles  # lemma 2: the midpoints

    def q_values(self, output: Tensor) -> Tensor:
        """[B, A]"""
        return output.mean(dim=2)

    def loss(
        self, output_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, output_t: Tensor, policy_t: Tensor
    ) -> Tensor:
        """Quantile Huber loss."""
        target = r_t.unsqueeze(1) + discount_t.unsqueeze(1) * _under(policy_t, output_t)
        return losses.quantile_huber(_of_action(output_tm1, a_tm1), self._taus.expand_as(target), target)


class ImplicitQuantile(Values[Quantiles]):
    """IQN: the returns of quantiles that the network draws for each pass; its output says which (Dabney et al. 2018b).

    The next action is chosen by the same samples that then value it.
    """

    def q_values(self, output: Quantiles) -> Tensor:
        """[B, A]"""
        return output.values.mean(dim=2)

    def loss(
        self,
        output_tm1: Quantiles,
        a_tm1: Tensor,
        r_t: Tensor,
        discount_t: Tensor,
        output_t: Quantiles,
        policy_t: Tensor,
    ) -> Tensor:
        """Quantile Huber loss."""
        target = r_t.unsqueeze(1) + discount_t.unsqueeze(1) * _under(policy_t, output_t.values)
        return losses.quantile_huber(_of_action(output_tm1.values, a_tm1), output_tm1.taus, target)


def build_values(
    name: str, *, loss: str, atoms: int, v_min: float, v_max: float, quantiles: int, device: torch.device
) -> Values[Any]:
    """One of `VALUES`, which takes of the settings what it knows."""
    match name:
        case "categorical":
            return Categorical(atoms, v_min, v_max, device=device)
        case "quantile":
            return Quantile(quantiles, device=device)
        case "implicit_quantile":
            return ImplicitQuantile()
        case "scalar":
            return Scalar(loss)
    raise AssertionError(name)


def _of_action(values: Tensor, actions: Tensor) -> Tensor:
    """[B, N] of [B, A, N]."""
    return values.gather(1, actions.view(-1, 1, 1).expand(-1, 1, values.shape[2])).squeeze(1)


def _under(policy: Tensor, values: Tensor) -> Tensor:
    """Means [B, N] of values [B, A, N] under the policy [B, A]."""
    return torch.bmm(policy.unsqueeze(1), values).squeeze(1)
