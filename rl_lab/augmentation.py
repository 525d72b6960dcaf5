"""Image augmentation of replayed observations: random shifts and random intensities, as 100k agents use them.

Each observation of a batch is changed in its own way, its stacked frames alike; observations and next observations are
two batches. In numpy, so that the thread that draws a batch also augments it, before it goes to any device: a shift of
32 observations takes 0.3 ms, a tenth of what indexing pixel by pixel takes here or in torch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rl_lab.errors import LabError

Pixels: TypeAlias = NDArray[np.uint8 | np.float32]
"""Of 0 to 255."""
AUGMENTATIONS = ("none", "shift", "shift_and_intensity")


def bytes_per_pixel(kind: str) -> int:
    """Of what `augment` gives."""
    return np.dtype(np.float32 if kind == "shift_and_intensity" else np.uint8).itemsize


def augment(kind: str, observations: Pixels, rng: np.random.Generator) -> Pixels:
    """Observations [B, C, H, W], changed as one of `AUGMENTATIONS` says; both together are those of DrQ."""
    if kind == "none":
        return observations
    shifted = random_shifts(observations, rng)
    return shifted if kind == "shift" else random_intensities(shifted, rng)


def random_shifts(observations: Pixels, rng: np.random.Generator, *, pad: int = 4) -> Pixels:
    """Observations [B, C, H, W], each padded by `pad` pixels and cropped anywhere (Kostrikov et al. 2021, 2004.13649).

    All shifts from -pad to pad are as likely, both ways; Dopamine's crop never takes the last one. LabError for a shift
    as large as the image.
    """
    _, _, height, width = observations.shape
    if not 0 <= pad < min(height, width):
        raise LabError(
            f"a random shift is up to {pad} pixels; allowed is 0 to {min(height, width) - 1} for observations of "
            f"{height} x {width}"
        )
    return shift(observations, rng.integers(-pad, pad + 1, (len(observations), 2)))


def shift(observations: Pixels, shifts: NDArray[np.int64]) -> Pixels:
    """Observations [B, C, H, W], each moved down and right by `shifts` [B, 2], by less than its size.

    What comes in at the edges repeats them. The channels are last in memory, as replay gives them.
    """
    batch_size, channels, height, width = observations.shape
    assert shifts.shape == (batch_size, 2), shifts.shape
    assert (np.abs(shifts) < (height, width)).all()
    images = observations.transpose(0, 2, 3, 1)
    moved = np.empty((batch_size, height, width, channels), observations.dtype)
    # What stays in the picture, then the columns beside it, then whole rows above and below: without a padded copy.
    for old, new, (down, right) in zip(images, moved, shifts.tolist(), strict=True):
        top, bottom, left, end = max(down, 0), height + min(down, 0), max(right, 0), width + min(right, 0)
        new[top:bottom, left:end] = old[top - down : bottom - down, left - right : end - right]
        new[top:bottom, :left] = new[top:bottom, left : left + 1]
        new[top:bottom, end:] = new[top:bottom, end - 1 : end]
        new[:top] = new[top]
        new[bottom:] = new[bottom - 1]
    return moved.transpose(0, 3, 1, 2)


def random_intensities(observations: Pixels, rng: np.random.Generator, *, scale: float = 0.05) -> NDArray[np.float32]:
    """Observations [B, C, H, W], each times 1 + scale * clip(N(0, 1), -2, 2) (code of SPR, Schwarzer et al. 2021).

    float32, as bytes would round the change away from dark pixels; not clipped, so that white may become whiter.
    """
    noise = rng.standard_normal((len(observations), 1, 1, 1), np.float32).clip(-2, 2)
    return observations * (1 + np.float32(scale) * noise)
