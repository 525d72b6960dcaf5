"""Hyperparameters of stable-baselines3's agents with a replay, and whether they fit the games and the budget."""

from __future__ import annotations

from dataclasses import dataclass

from rl_lab.agent import AgentConfig, Task
from rl_lab.checks import require_at_least, require_between, require_learning, require_one_of, require_positive
from rl_lab.errors import LabError
from rl_lab.replay import STORAGES
from rl_lab.sb3.games import require_whole_rounds


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(AgentConfig):
    """Hyperparameters of stable-baselines3's agents with a replay, by the lab's names."""

    n_step: int = 1
    """Steps of reward before the return is bootstrapped (SB3's n_steps)."""
    discount: float = 0.99
    """Weight of the next step's value (gamma)."""
    replay_capacity: int = 100_000
    """Transitions kept for replay, over all games."""
    replay: str = "sb3"
    """sb3: SB3's own buffer, 56 kB a transition. lean: the same samples from one 84x84 frame a transition."""
    replay_storage: str = "raw"
    """Frames of the lean replay: raw, 7 kB each, or compressed by zstd, 50 to 350 bytes each in most games."""
    batch_size: int = 32
    """Transitions in an update."""
    learning_starts_steps: int = 100_000
    """Agent steps of uniform random play before the first update."""
    update_every_steps: int = 4
    """Agent steps between updates, over all games (SB3's train_freq and gradient_steps)."""
    target_update_steps: int = 1_000
    """Agent steps between copies into the target network; SB3 rounds down to whole steps of all games."""
    epsilon_start: float = 1.0
    """Chance of a random action at step 0; SB3 draws once for all parallel games."""
    epsilon_end: float = 0.01
    """Chance of a random action after the decay."""
    epsilon_decay_steps: int = 1_000_000
    """Agent steps from epsilon_start to epsilon_end, linearly (SB3's exploration_fraction times the budget)."""
    learning_rate: float = 1e-4
    """Step size of Adam."""
    max_gradient_norm: float = 10.0
    """Gradients are scaled down to this norm; 0: they are not."""

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "discount", "epsilon_start", "epsilon_end")
        require_positive(self, "learning_rate")
        require_between(self, 1, 1_000, "n_step")  # SB3 gathers as many rewards for each transition of a batch
        require_at_least(self, 1, "replay_capacity", "batch_size", "learning_starts_steps", "update_every_steps")
        require_at_least(self, 1, "target_update_steps")
        require_at_least(self, 0, "epsilon_decay_steps", "max_gradient_norm")
        require_one_of(self, ("sb3", "lean"), "replay")
        require_one_of(self, STORAGES, "replay_storage")
        if self.replay == "sb3" and self.replay_storage != "raw":
            raise LabError(
                f"replay_storage is {self.replay_storage!r} with replay 'sb3', which keeps whole observations as they "
                "are; use --agent.replay lean"
            )
        if self.batch_size > self.replay_capacity:
            raise LabError(
                f"batch_size is {self.batch_size} and replay_capacity {self.replay_capacity}; "
                "allowed is a batch no larger than the replay"
            )


def check_fit(config: OffPolicyConfig, task: Task) -> None:
    """LabError where the hyperparameters do not fit the budget or the number of parallel games."""
    require_learning(config.learning_starts_steps, task.total_steps)
    if config.update_every_steps % task.num_games and task.num_games % config.update_every_steps:
        raise LabError(
            f"num_games is {task.num_games} and update_every_steps {config.update_every_steps}; allowed with "
            "stable-baselines3 is update_every_steps that is a multiple of num_games or divides it"
        )
    for field in ("replay_capacity", "target_update_steps"):
        if getattr(config, field) < task.num_games:
            raise LabError(
                f"{field} is {getattr(config, field)} with {task.num_games} games; allowed is at least 1 a game"
            )
    require_whole_rounds(task.total_steps, "the budget is", steps_per_round(config, task))
    require_whole_rounds(task.iteration_steps, "the steps of an iteration are", steps_per_round(config, task))


def steps_per_round(config: OffPolicyConfig, task: Task) -> int:
    """Agent steps of all games that SB3 plays between two times of updating."""
    steps, _ = steps_and_updates(config, task)
    return steps * task.num_games


def steps_and_updates(config: OffPolicyConfig, task: Task) -> tuple[int, int]:
    """SB3's train_freq and gradient_steps for one update every `update_every_steps`.

    SB3 plays `train_freq` steps of all games at once, then makes `gradient_steps` updates.
    """
    return max(config.update_every_steps // task.num_games, 1), max(task.num_games // config.update_every_steps, 1)
