"""One update of the Nature network: against its kernels' own best times, as part of the loop, and with switches on.

A kernel is a layer forward or backward, the optimizer's step, the norm of the gradient, or moving gradients or weights.
Its own best time is the least of many calls in a row, with all that it needs at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_lab.benchmarks.measuring import Report, Row, Settings, best_seconds, in_turns, ratios, seconds
from rl_lab.benchmarks.training import OURS, Training
from rl_lab.errors import LabError
from rl_lab.networks import build_network
from rl_lab.weights import PRECISIONS, MasterWeights

_BATCH_SIZE = 32
_NUM_ACTIONS = 18
_UPDATES = 20
_UPDATES_WITH_SWITCHES = 5
"""Fewer: IQN passes each state 64 times through the layer that has most of the weights."""
_SWITCHES: Mapping[str, Mapping[str, object]] = {
    "double": {"double": True},
    "dueling": {"dueling": True},
    "noisy": {"noisy": True},
    "categorical": {"values": "categorical"},
    "quantile": {"values": "quantile"},
    "implicit_quantile": {"values": "implicit_quantile", "quantiles": 64},  # DQN Zoo's; 200 are quantile's
    "munchausen": {"munchausen": True},
    "augmentation": {"augmentation": "shift_and_intensity"},
    "prioritized": {"replay_sampling": "prioritized"},
    "average_target": {"target_update_steps": 0, "target_rate": 0.005},
    "weight_decay": {"optimizer": "adamw", "weight_decay": 0.1},
    "layer_norm": {"layer_norm": True},
    "dropout": {"dropout": 0.1},
    "impala": {"network": "impala"},
    "max_pool": {"network": "impala", "impala_pool": 6},
    "spectral_norm": {"network": "impala", "spectral_norm": True},
}
"""Hyperparameters by what the rows call them; the other numbers are the agent's defaults, its papers'.

Those left out are in plain DQN too, cost nothing, or a multiple: more updates, and a reset now and then.
"""


def run(settings: Settings) -> Report:
    """Milliseconds of an update and of its kernels, and how near the whole loop comes to updates alone."""
    if settings.device != "cpu":
        raise LabError(f"device is {settings.device!r}; this suite times kernels on the CPU only: use --device cpu")
    rows: list[Row] = []
    for precision in PRECISIONS:
        training = Training(OURS, settings, num_games=8, precision=precision)
        # Updates count as done: in the loop's own agent the next turn would skip as many.
        updating = Training(OURS, settings, num_games=8, precision=precision)
        updating.steps_per_second()
        values = in_turns(
            {
                "loop": training.steps_per_second,
                "update": partial(_update_seconds, updating),
                "kernels": partial(kernel_seconds, precision),
            },
            settings.repetitions,
        )
        pure = [training.update_every_steps / update for update in values["update"]]
        rows += [
            Row(f"{precision}: an update", "ms", [1e3 * value for value in values["update"]]),
            Row(f"{precision}: its kernels' own best", "ms", [1e3 * value for value in values["kernels"]]),
            Row(f"{precision}: update : kernels", "ratio", ratios(values["update"], values["kernels"])),
            Row(f"{precision}: loop with 8 games", "steps/s", values["loop"]),
            Row(f"{precision}: loop : updates alone", "ratio", ratios(values["loop"], pure)),
        ]
    rows += _switch_rows(settings)
    return Report(
        rows, f"turns of {settings.steps} agent steps and of {_UPDATES} updates, by switch of {_UPDATES_WITH_SWITCHES}"
    )


def _switch_rows(settings: Settings) -> list[Row]:
    """Milliseconds of a batch and an update, one after the other, and what each switch makes of them."""
    variants: Mapping[str, Mapping[str, object]] = {"plain": {}, **_SWITCHES}
    tasks = {name: partial(_learning_seconds, _filled(settings, changes)) for name, changes in variants.items()}
    values = in_turns(tasks, settings.repetitions)
    rows = [
        Row(f"fp32: a batch and an update, {name}", "ms", [1e3 * value for value in values[name]]) for name in values
    ]
    rows += [Row(f"fp32: {name} : plain", "ratio", ratios(values[name], values["plain"])) for name in _SWITCHES]
    return rows


def kernel_seconds(precision: str) -> float:
    """Sum of the best times of what an update of Q-learning must compute: two passes forward, one back, one step."""
    weights = MasterWeights(build_network("nature", _NUM_ACTIONS, torch.Generator().manual_seed(0)), precision)
    optimizer = torch.optim.Adam([weights.values], fused=True)
    gradient = weights.values.grad
    assert gradient is not None
    pixels = torch.zeros((_BATCH_SIZE, 4, 84, 84), dtype=torch.uint8)
    total = best_seconds(optimizer.step) + best_seconds(gradient.norm) + best_seconds(weights.publish)
    total += best_seconds(gradient.clone)  # as many bytes as taking the gradients moves
    x: Tensor = pixels.contiguous(memory_format=torch.channels_last)
    for layer in weights.learner:
        total += 2 * _forward_seconds(layer, x) + _backward_seconds(layer, x)
        with torch.no_grad():
            x = layer(x).clone(memory_format=torch.preserve_format)
    return total


def _forward_seconds(layer: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return best_seconds(lambda: layer(x))


def _backward_seconds(layer: nn.Module, x: Tensor) -> float:
    """Gradients of the layer's weights and, but for pixels, of its input."""
    needed = list(layer.parameters())
    if x.is_floating_point():
        x = x.detach().requires_grad_()
        needed.append(x)  # type: ignore[arg-type]
    # Rectifiers work in place, which a leaf does not allow.
    y = layer(x.clone() if x.requires_grad else x)
    upstream = torch.ones_like(y)
    return best_seconds(lambda: torch.autograd.grad(y, needed, upstream, retain_graph=True))


def _update_seconds(training: Training) -> float:
    """Mean time of an update on batches that lie ready."""
    agent = training.agent
    batches = [agent.replay.sample(_BATCH_SIZE, np.random.default_rng(seed)) for seed in range(_UPDATES)]  # type: ignore[attr-defined]
    iterator = iter(batches)
    return seconds(lambda: agent.update(next(iterator)), calls=_UPDATES)  # type: ignore[attr-defined]


def _filled(settings: Settings, changes: Mapping[str, object]) -> Training:
    """An agent after a turn of random play."""
    training = Training(OURS, settings, num_games=1, **{"learning_starts_steps": settings.steps, **changes})
    training.steps_per_second()
    return training


def _learning_seconds(training: Training) -> float:
    """Mean time of a batch, of an update on it and, where it was drawn by priority, of new priorities."""
    agent: Any = training.agent  # DQN's
    rng = np.random.default_rng(0)

    def learn() -> None:
        batch, draw = agent.sample()
        agent.update(batch, None if draw is None else draw.weights)
        if draw is not None:
            agent.replay.update_priorities(draw.games, draw.indices, rng.random(_BATCH_SIZE, np.float32))

    return seconds(learn, calls=_UPDATES_WITH_SWITCHES)
