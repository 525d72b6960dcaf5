"""sb3-contrib's own QR-DQN (Dabney et al. 2018, arXiv 1710.10044) on the lab's bench.

Nothing of it is subclassed or patched but SB3's interfaces, all of them in rl_lab/sb3/. sb3-contrib is an extra, and
imported only when an agent is built: without it the agent and its configs can still be listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rl_lab.checks import require_between
from rl_lab.errors import LabError
from rl_lab.sb3.off_policy import OffPolicyAgent
from rl_lab.sb3.off_policy_config import OffPolicyConfig

if TYPE_CHECKING:
    from sb3_contrib import QRDQN


@dataclass(frozen=True, kw_only=True)
class SB3QRDQNConfig(OffPolicyConfig):
    """Hyperparameters of sb3-contrib's QR-DQN, by the lab's names. The defaults are RL Baselines3 Zoo's for Atari, but
    for learning_starts_steps, which the zoo leaves to sb3-contrib: 50,000 until its version 2.3.

    The network is its CnnPolicy (the Nature paper's torso), the optimizer Adam with an epsilon of 0.01 / batch_size,
    the loss quantile Huber.
    """

    replay_capacity: int = 1_000_000
    """Transitions kept for replay, over all games."""
    replay: str = "lean"
    """sb3: SB3's own buffer, 56 kB a transition. lean: the same samples from one 84x84 frame a transition."""
    learning_starts_steps: int = 50_000
    """Agent steps of uniform random play before the first update."""
    target_update_steps: int = 10_000
    """Agent steps between copies into the target network; SB3 rounds down to whole steps of all games."""
    epsilon_decay_steps: int = 250_000
    """Agent steps from epsilon_start to epsilon_end, linearly (SB3's exploration_fraction times the budget)."""
    learning_rate: float = 5e-5
    """Step size of Adam."""
    max_gradient_norm: float = 0.0
    """Gradients are scaled down to this norm; 0: they are not."""
    quantiles: int = 200
    """Quantiles of the return that the network gives for each action (SB3's n_quantiles)."""

    def __post_init__(self) -> None:
        require_between(self, 1, 1_000, "quantiles")
        super().__post_init__()


class SB3QRDQN(OffPolicyAgent):
    """sb3-contrib's QR-DQN: its model, replay, counters and exploration go on from one iteration to the next."""

    Config = SB3QRDQNConfig
    config: SB3QRDQNConfig
    model: QRDQN

    def build_model(self, **settings: Any) -> QRDQN:
        """sb3-contrib's QR-DQN; LabError where it is not installed."""
        try:
            from sb3_contrib import QRDQN
        except ImportError as error:
            raise LabError(
                f"the agent sb3_qrdqn needs sb3-contrib ({error}); use pip install -c constraints.txt -e '.[contrib]'"
            ) from error
        return QRDQN(
            **settings,
            max_grad_norm=self.config.max_gradient_norm or None,
            policy_kwargs={"n_quantiles": self.config.quantiles},
        )

    @property
    def network(self) -> nn.Module:
        """Gives quantiles [B, N, A]."""
        return self.model.quantile_net

    @property
    def network_name(self) -> str:
        """sb3-contrib's, with its number of actions and quantiles."""
        return f"sb3-contrib's CnnPolicy with {self.task.num_actions} actions and {self.config.quantiles} quantiles"

    def q_values(self, output: Tensor) -> Tensor:
        """The mean over the quantiles."""
        assert output.shape[1:] == (self.config.quantiles, self.task.num_actions), output.shape
        return output.mean(dim=1)
