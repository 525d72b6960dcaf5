"""Signs that learning goes wrong, looked for whenever metrics are due."""

from __future__ import annotations

import warnings

from torch import Tensor

from rl_lab.errors import LabError, LabWarning


def require_finite_weights(weights: Tensor) -> None:
    """LabError for weights [N] of which one is not a finite number: nothing can be learned from there."""
    if not weights.isfinite().all():
        raise LabError("a weight of the network is not finite: learning diverged; use a smaller learning rate")


def warn_of_divergence(q_values: Tensor, *, reward_clip: float, discount: float, bonus: float = 0.0) -> None:
    """LabWarning, once, where |Q| exceeds all that can add up: (reward_clip + bonus) / (1 - discount).

    `bonus` is the most that the agent itself adds to a reward, or takes from it. Soft divergence (van Hasselt et al.
    2018, arXiv 1812.02648, section 3): it may pass, or not. Without clipping, or at discount 1, there is no bound.
    """
    if not reward_clip or discount == 1:
        return
    bound = (reward_clip + bonus) / (1 - discount)
    if q_values.abs().max() > bound:
        # The same words each time: Python shows them once.
        warnings.warn(
            f"the network values states beyond +-{bound:g}, more than rewards clipped to {reward_clip:g} can add up to "
            f"at discount {discount:g}: learning may diverge; a smaller learning rate or a slower target network helps",
            LabWarning,
            stacklevel=3,
        )
