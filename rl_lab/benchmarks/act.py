"""Greedy actions for a batch of states: why parallel games pay."""

from __future__ import annotations

from functools import partial

import torch

from rl_lab.benchmarks.measuring import Report, Row, Settings, in_turns, seconds
from rl_lab.networks import build_network
from rl_lab.weights import PRECISIONS, MasterWeights

_BATCHES = (1, 8, 64)
_CALLS = 50


def run(settings: Settings) -> Report:
    """Milliseconds for a batch, on the Nature network."""
    networks = {
        precision: MasterWeights(
            build_network("nature", 18, torch.Generator().manual_seed(0)).to(settings.device), precision
        ).learner
        for precision in PRECISIONS
    }

    def act(precision: str, states: int) -> float:
        pixels = torch.zeros((states, 4, 84, 84), dtype=torch.uint8)
        with torch.inference_mode():
            return 1e3 * seconds(
                lambda: networks[precision](pixels.to(settings.device)).argmax(dim=1).cpu(), calls=_CALLS
            )

    tasks = {
        f"{states} states, {precision}": partial(act, precision, states)
        for states in _BATCHES
        for precision in PRECISIONS
    }
    values = in_turns(tasks, settings.repetitions)
    return Report([Row(name, "ms", values[name]) for name in tasks], f"turns of {_CALLS} batches")
