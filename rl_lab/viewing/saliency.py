"""Where an agent looks: what it no longer sees, it cannot take into account.

Perturbation saliency of Greydanus et al. 2018 (arXiv 1711.00138), section 3: a patch of the observation is blurred, and
its saliency is half the squared change of the output, here of the values of all actions. So it asks nothing of an agent
but values. All four frames are blurred: the paper's agent saw one, and had a memory. The grid is coarser than the
paper's, every 7 pixels in place of 5, which takes half the time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rl_lab.atari.vector_env import OBSERVATION_SHAPE
from rl_lab.errors import LabError

_SIZE = OBSERVATION_SHAPE[-1]
_PATCHES = 12
"""A side."""
_PATCH_SIGMA, _BLUR_SIGMA = 5.0, 3.0
"""Pixels, of the paper."""


class Saliency:
    """Maps of the values' sensitivity."""

    def __init__(self, action_values: Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]) -> None:
        """LabError for an agent without values."""
        if action_values(np.zeros((1, *OBSERVATION_SHAPE), np.uint8)) is None:
            raise LabError("this agent gives no values of its actions, which --saliency needs; leave --saliency out")
        self._action_values = action_values
        pixels = np.arange(_SIZE, dtype=np.float32)
        centres = (np.arange(_PATCHES, dtype=np.float32) + 0.5) * _SIZE / _PATCHES - 0.5
        side = np.exp(-((pixels - centres[:, None]) ** 2) / (2 * _PATCH_SIGMA**2))  # [12, 84]
        self._masks = np.einsum("iy,jx->ijyx", side, side).reshape(-1, 1, _SIZE, _SIZE)  # [144, 1, 84, 84]
        blur = np.exp(-((pixels - pixels[:, None]) ** 2) / (2 * _BLUR_SIGMA**2))
        self._blur = blur / blur.sum(axis=1, keepdims=True)  # [84, 84]; at the edges over what there is

    def __call__(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map of one observation [1, 4, 84, 84]: [84, 84], 1 where it matters most in this moment."""
        q_values = self._values(np.concatenate([observations, self._perturbed(observations)]))  # [1 + 144, A]
        effects = 0.5 * ((q_values[1:] - q_values[0]) ** 2).sum(axis=1)
        grid = Image.fromarray(effects.reshape(_PATCHES, _PATCHES).astype(np.float32))
        saliency = np.asarray(grid.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)).clip(0)
        most = saliency.max()
        return saliency / most if most > 0 else saliency

    def _perturbed(self, observations: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The observation with each of the patches blurred, [144, 4, 84, 84]."""
        sharp = observations.astype(np.float32)
        change = self._blur @ sharp @ self._blur.T - sharp
        perturbed: NDArray[np.uint8] = (sharp + self._masks * change + 0.5).astype(np.uint8)
        return perturbed

    def _values(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = self._action_values(observations)
        assert values is not None, "an agent has values always or never"
        return values
