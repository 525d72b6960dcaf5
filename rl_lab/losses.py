"""Update rules as pure functions: no state, no configuration, no device.

Time runs from t - 1, where the agent acts, to t, where it sees what came of it. Termination is discount 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def q_learning_td_error(q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor) -> Tensor:
    """TD error [B] of Q-learning: r_t + discount_t max_a q_t(a) - q_tm1(a_tm1) (Mnih et al. 2015, eq. 2).

    Q values have shape [B, A], the others [B]. The target carries no gradient.
    """
    td_target = r_t + discount_t * q_t.max(dim=1).values
    return _td_error(q_tm1, a_tm1, td_target)


def double_q_learning_td_error(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor, q_t_selector: Tensor
) -> Tensor:
    """TD error [B] of Double DQN (van Hasselt et al. 2016, eq. 4).

    `q_t_selector` [B, A] chooses the action that `q_t` [B, A] values.
    """
    a_t = q_t_selector.argmax(dim=1, keepdim=True)
    td_target = r_t + discount_t * q_t.gather(1, a_t).squeeze(1)
    return _td_error(q_tm1, a_tm1, td_target)


def squared(td_error: Tensor) -> Tensor:
    """Half the squared TD error, elementwise: its gradient is the TD error (Mnih et al. 2013, eq. 2)."""
    return 0.5 * td_error.square()


def huber(td_error: Tensor) -> Tensor:
    """Huber loss, elementwise: its gradient is the TD error clipped to [-1, 1] (Mnih et al. 2015, Methods)."""
    size = td_error.abs()
    return torch.where(size <= 1, 0.5 * td_error.square(), size - 0.5)


def _td_error(q_tm1: Tensor, a_tm1: Tensor, td_target: Tensor) -> Tensor:
    assert td_target.shape == a_tm1.shape == q_tm1.shape[:1], (td_target.shape, a_tm1.shape, q_tm1.shape)
    return td_target.detach() - q_tm1.gather(1, a_tm1.unsqueeze(1)).squeeze(1)
