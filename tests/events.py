"""Event files as TensorBoard's own reader in Python has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


def tensors(folder: Path, tag: str) -> dict[int, NDArray[np.generic]]:
    """Frames or seconds -> what stands there."""
    # The loader of --load_fast=false: the server's other one goes by the next point of the same curve.
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(tag)
    assert len({event.step for event in events}) == len(events), "two points in one place"
    return {event.step: make_ndarray(event.tensor_proto) for event in events}


def scalars(folder: Path, tag: str) -> dict[int, float]:
    return {step: float(value) for step, value in tensors(folder, tag).items()}
