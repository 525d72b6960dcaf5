"""Shifts and intensities against what a loop over pixels gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rl_lab.augmentation import Pixels, random_intensities, random_shifts, shift
from rl_lab.errors import LabError


def noise(batch_size: int = 3, height: int = 84, width: int = 84, seed: int = 0) -> NDArray[np.uint8]:
    """Observations as replay gives them: channels last in memory."""
    images = np.random.default_rng(seed).integers(0, 256, (batch_size, height, width, 4), np.uint8)
    return images.transpose(0, 3, 1, 2)


def test_a_shift_down_and_right_repeats_the_upper_and_left_edges() -> None:
    image = np.array([[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]], np.uint8)
    assert shift(image, np.array([[1, 0]]))[0, 0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    assert shift(image, np.array([[0, 2]]))[0, 0].tolist() == [[1, 1, 1], [4, 4, 4], [7, 7, 7]]
    assert shift(image, np.array([[-1, 0]]))[0, 0].tolist() == [[4, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert shift(image, np.array([[-2, -1]]))[0, 0].tolist() == [[8, 9, 9], [8, 9, 9], [8, 9, 9]]


@given(st.integers(2, 9), st.integers(2, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_every_pixel_comes_from_where_the_shift_says(height: int, width: int, data: st.DataObject) -> None:
    pad = data.draw(st.integers(0, min(height, width) - 1))
    shifts = np.array(data.draw(st.lists(st.tuples(*[st.integers(-pad, pad)] * 2), min_size=2, max_size=2)))
    observations = noise(2, height, width)
    shifted = shift(observations, shifts)
    for row, (down, right) in enumerate(shifts.tolist()):
        for y in range(height):
            for x in range(width):
                source = observations[row, :, np.clip(y - down, 0, height - 1), np.clip(x - right, 0, width - 1)]
                assert shifted[row, :, y, x].tolist() == source.tolist()


def test_a_shift_of_0_pixels_changes_nothing() -> None:
    observations = noise()
    assert np.array_equal(random_shifts(observations, np.random.default_rng(0), pad=0), observations)


def shifts_seen(observations: Pixels, shifted: Pixels, pad: int) -> list[tuple[int, int]]:
    """The shift of each observation, all frames of its stack alike, found by trying all."""
    both_ways = range(-pad, pad + 1)
    tried = {
        (down, right): shift(observations, np.full((len(observations), 2), [down, right]))
        for down in both_ways
        for right in both_ways
    }
    return [
        next(key for key, moved in tried.items() if np.array_equal(moved[row], image))
        for row, image in enumerate(shifted)
    ]


def test_all_shifts_are_as_likely_and_each_observation_has_its_own() -> None:
    observations, rng = noise(200, 9, 9), np.random.default_rng(0)
    seen = [key for _ in range(10) for key in shifts_seen(observations, random_shifts(observations, rng, pad=1), 1)]
    counts = [seen.count((down, right)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    expected = 2_000 / 9
    assert sum((count - expected) ** 2 / expected for count in counts) < 8 + 6 * 16**0.5  # chi-square, 6 deviations


def test_shifts_reach_as_far_as_the_padding_both_ways() -> None:
    observations = noise(400)
    seen = shifts_seen(observations, random_shifts(observations, np.random.default_rng(0)), pad=4)
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-4, 5))


@pytest.mark.parametrize("pad", [84, 1_000, -1])
def test_a_shift_larger_than_the_image_is_refused(pad: int) -> None:
    with pytest.raises(LabError, match=rf"up to {pad} pixels; allowed is 0 to 83 for observations of 84 x 84"):
        random_shifts(noise(), np.random.default_rng(0), pad=pad)


def test_intensities_scale_each_observation_by_its_own_factor() -> None:
    observations = np.full((500, 4, 84, 84), 100, np.uint8)
    bright = random_intensities(observations, np.random.default_rng(0))
    factors = bright[:, 0, 0, 0] / 100
    assert (bright == bright[:, :1, :1, :1]).all()
    assert len(set(factors.tolist())) > 400  # the ends of the range come more than once
    assert (factors.min(), factors.max()) == pytest.approx((0.9, 1.1))
    assert factors.mean() == pytest.approx(1, abs=0.01)
    # A normal clipped at two deviations has a deviation of 0.96.
    assert factors.std() == pytest.approx(0.05 * 0.96, rel=0.1)


def test_intensities_of_scale_0_change_nothing_and_white_is_not_clipped() -> None:
    observations = noise()
    assert np.array_equal(random_intensities(observations, np.random.default_rng(0), scale=0), observations)
    white = np.full((100, 4, 84, 84), 255, np.uint8)
    assert random_intensities(white, np.random.default_rng(0)).max() > 255


def test_same_generator_gives_the_same_pixels_and_two_give_others() -> None:
    observations = noise()
    for augment in (random_shifts, random_intensities):
        first, again, other = (augment(observations, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_augmented_observations_keep_their_channels_last_in_memory() -> None:
    for augment in (random_shifts, random_intensities):
        augmented = augment(noise(), np.random.default_rng(0))
        assert augmented.transpose(0, 2, 3, 1).flags.c_contiguous
    assert random_shifts(noise(), np.random.default_rng(0)).dtype == np.uint8
    assert random_intensities(noise(), np.random.default_rng(0)).dtype == np.float32


def test_what_replay_gave_stays_as_it_is() -> None:
    observations = noise()
    before = observations.copy()
    random_shifts(observations, np.random.default_rng(0))
    random_intensities(observations, np.random.default_rng(0))
    assert np.array_equal(observations, before)
