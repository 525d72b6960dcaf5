"""The sum tree against cumulative sums."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rl_lab.replay.sum_tree import SumTree

SIZES = st.integers(1, 3_000)  # from one level to three
WHOLE_NUMBERS = st.integers(0, 5).map(float)  # sums of them are exact in any order
ANY_WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-6, 1e38))


def filled(weights: NDArray[np.float64]) -> SumTree:
    tree = SumTree(len(weights))
    tree.fill(weights)
    return tree


@given(SIZES.flatmap(lambda size: arrays(np.float64, size, elements=WHOLE_NUMBERS)), st.data())
@settings(max_examples=100, deadline=None)
def test_a_place_is_found_where_the_cumulative_sum_has_it(weights: NDArray[np.float64], data: st.DataObject) -> None:
    tree = filled(weights)
    assert tree.total == weights.sum()
    if tree.total == 0:
        return
    inner = data.draw(arrays(np.float64, 20, elements=st.floats(0, tree.total, exclude_max=True)))
    places = np.concatenate([inner, np.arange(tree.total)[:500]])  # and the borders between leaves themselves
    assert np.array_equal(tree.find(places), np.searchsorted(weights.cumsum(), places, side="right"))


@given(SIZES, st.integers(0, 2**32), ANY_WEIGHTS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_no_leaf_of_weight_0_is_found_however_sums_are_rounded(
    size: int, seed: int, weight: float, place: float
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(size) * (rng.random(size) < 0.3) * weight
    tree = filled(weights)
    if tree.total == 0:
        return
    places = np.array([0, place * tree.total, np.nextafter(tree.total, 0), tree.total, 2 * tree.total])
    assert (weights[tree.find(places)] > 0).all()


@given(SIZES, st.integers(0, 2**32), st.lists(st.integers(1, 50), max_size=5))
@settings(max_examples=100, deadline=None)
def test_sums_depend_on_the_leaves_and_not_on_how_they_came_there(size: int, seed: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    tree, weights = SumTree(size), np.zeros(size)
    for count in counts:
        leaves = np.unique(rng.integers(0, size, count))
        weights[leaves] = rng.random(len(leaves)) ** 10
        tree.write(leaves, weights[leaves])
    assert np.array_equal(tree.leaves, weights)
    at_once = filled(weights)
    assert all(np.array_equal(one, other) for one, other in zip(tree._levels, at_once._levels, strict=True))
    for children, parents in pairwise(tree._levels):
        assert np.array_equal(parents.reshape(-1)[: len(children)], children.sum(axis=1))


def test_a_leaf_written_twice_with_one_weight_counts_once() -> None:
    tree = SumTree(100)
    tree.write(np.array([70, 3, 70]), np.array([2.0, 1.0, 2.0]))
    assert tree.total == 3
    assert tree.find(np.array([0.5, 1.5, 2.5])).tolist() == [3, 70, 70]


def test_weights_from_least_to_largest_are_told_apart() -> None:
    tree = filled(np.array([3e38, 1e-6, 0, 3e38]))
    assert tree.find(np.array([0, 2.9e38, 3.1e38, 5.9e38])).tolist() == [0, 0, 3, 3]
    tree.write(np.array([0, 3]), np.array([0.0, 0.0]))
    # Sums corrected by differences would have lost what is left.
    assert tree.total == 1e-6
    assert tree.find(np.array([0.0, 9e-7])).tolist() == [1, 1]


def test_leaves_are_written_through_the_tree_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SumTree(3).leaves[0] = 1
