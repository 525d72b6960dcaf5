"""stable-baselines3's own DQN (Raffin et al. 2021, JMLR 22) on the lab's bench: what our DQN is measured against.

Nothing of SB3 is subclassed or patched but its interfaces, all of them in rl_lab/sb3/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import DQN
from torch import nn

from rl_lab.checks import require_positive
from rl_lab.sb3.off_policy import OffPolicyAgent
from rl_lab.sb3.off_policy_config import OffPolicyConfig


@dataclass(frozen=True, kw_only=True)
class SB3DQNConfig(OffPolicyConfig):
    """Hyperparameters of stable-baselines3's DQN, by the lab's names. The defaults are RL Baselines3 Zoo's for Atari.

    The network is SB3's CnnPolicy (the Nature paper's), the optimizer Adam, the loss Huber.
    """

    max_gradient_norm: float = 10.0
    """Gradients are scaled down to this norm; SB3 always has a limit."""

    def __post_init__(self) -> None:
        require_positive(self, "max_gradient_norm")
        super().__post_init__()


class SB3DQN(OffPolicyAgent):
    """stable-baselines3's DQN: its model, replay, counters and exploration go on from one iteration to the next."""

    Config = SB3DQNConfig
    config: SB3DQNConfig
    model: DQN

    def build_model(self, **settings: Any) -> DQN:
        """SB3's DQN."""
        return DQN(**settings, max_grad_norm=self.config.max_gradient_norm)

    @property
    def network(self) -> nn.Module:
        """Gives Q values [B, A]."""
        return self.model.q_net

    @property
    def network_name(self) -> str:
        """SB3's, with its number of actions."""
        return f"stable-baselines3's CnnPolicy with {self.task.num_actions} actions"
