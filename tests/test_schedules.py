"""The linear schedule at points worked by hand."""

from __future__ import annotations

import pytest

from rl_lab.schedules import linear


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (250_000, 0.775), (500_000, 0.55), (1_000_000, 0.1), (9_000_000, 0.1)]
)
def test_linear_goes_from_start_to_end_and_stays(step: int, expected: float) -> None:
    assert linear(step, start=1.0, end=0.1, over_steps=1_000_000) == pytest.approx(expected, rel=1e-15)


def test_linear_rises_as_well_as_it_falls() -> None:
    assert linear(3, start=0.4, end=1.0, over_steps=4) == pytest.approx(0.85)


def test_linear_over_no_steps_is_the_end_at_once() -> None:
    assert linear(0, start=1.0, end=0.1, over_steps=0) == 0.1
