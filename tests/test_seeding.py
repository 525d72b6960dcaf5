"""Random streams are told apart by root seed and name, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from rl_lab.seeding import generator, integer_seed, seed_sequence


def first_draws(root_seed: int, *names: str | int) -> tuple[float, ...]:
    return tuple(generator(root_seed, *names).random(4))


def test_same_seed_and_names_give_the_same_stream() -> None:
    assert first_draws(7, "train", 3, "environment") == first_draws(7, "train", 3, "environment")


@pytest.mark.parametrize(
    "other",
    [(8, "train", 3), (7, "replay", 3), (7, "train", 4), (7, 3, "train"), (7, "train"), (7,)],
    ids=["seed", "name", "number", "order", "fewer", "none"],
)
def test_streams_differ_by_seed_name_number_and_order(other: tuple[int, *tuple[str | int, ...]]) -> None:
    assert first_draws(*other) != first_draws(7, "train", 3)


def test_a_trailing_0_is_part_of_the_name() -> None:
    assert first_draws(7, "evaluation") != first_draws(7, "evaluation", 0)


def test_streams_are_the_same_in_every_process() -> None:
    # Python's own hash of a string differs between processes: these were drawn in another one.
    assert seed_sequence(0, "replay").generate_state(2).tolist() == [584_242_541, 984_700_513]


def test_integer_seed_is_in_the_range_of_a_signed_32_bit_integer() -> None:
    seeds = np.array([integer_seed(root_seed, "weights") for root_seed in range(1_000)])
    assert seeds.min() >= 0
    assert 2**30 < seeds.max() < 2**31


def test_generators_leave_numpys_global_generator_alone() -> None:
    before = np.random.get_state(legacy=False)["state"]
    generator(0, "replay").random(100)
    after = np.random.get_state(legacy=False)["state"]
    assert np.array_equal(before["key"], after["key"])
    assert before["pos"] == after["pos"]
