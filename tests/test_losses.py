"""The update rules against tables worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rl_lab.losses import double_q_learning_td_error, huber, q_learning_td_error, squared

# Three transitions of a game with two actions. The last one ends the return.
Q_TM1 = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
A_TM1 = torch.tensor([1, 0, 1])
R_T = torch.tensor([1.0, -1.0, 2.0])
DISCOUNT_T = torch.tensor([0.5, 0.25, 0.0])
Q_T = torch.tensor([[4.0, 6.0], [8.0, 2.0], [100.0, 200.0]])
SELECTOR = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])

TD_ERROR = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])


def gradient(values: Tensor, argument: Tensor) -> list[float] | list[list[float]]:
    """Of the sum of `values`."""
    slopes: list[float] | list[list[float]] = torch.autograd.grad(values.sum(), argument)[0].tolist()
    return slopes


def test_q_learning_td_error_is_the_one_worked_by_hand() -> None:
    # 1 + 0.5 * 6 - 2;  -1 + 0.25 * 8 - 3;  2 + 0 * 200 - 0.25
    assert q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T).tolist() == [2.0, -2.0, 1.75]


def test_double_q_learning_td_error_is_the_one_worked_by_hand() -> None:
    # 1 + 0.5 * 4 - 2;  -1 + 0.25 * 2 - 3;  2 + 0 * 200 - 0.25
    assert double_q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, SELECTOR).tolist() == [1.0, -3.5, 1.75]


def test_next_values_have_no_weight_after_termination() -> None:
    terminated = torch.zeros(3)
    # 1 - 2;  -1 - 3;  2 - 0.25
    assert q_learning_td_error(Q_TM1, A_TM1, R_T, terminated, Q_T).tolist() == [-1.0, -4.0, 1.75]
    assert double_q_learning_td_error(Q_TM1, A_TM1, R_T, terminated, Q_T, SELECTOR).tolist() == [-1.0, -4.0, 1.75]


def test_double_q_learning_that_selects_by_the_target_values_is_q_learning() -> None:
    double = double_q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, Q_T)
    assert torch.equal(double, q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T))


def test_td_error_falls_by_one_for_one_in_the_value_of_the_action_taken_only() -> None:
    q_tm1 = Q_TM1.clone().requires_grad_()
    td_error = q_learning_td_error(q_tm1, A_TM1, R_T, DISCOUNT_T, Q_T)
    assert gradient(td_error, q_tm1) == [[0.0, -1.0], [-1.0, 0.0], [0.0, -1.0]]


def test_target_of_q_learning_carries_no_gradient() -> None:
    q_t = Q_T.clone().requires_grad_()
    assert not q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, q_t).requires_grad


def test_target_of_double_q_learning_carries_no_gradient() -> None:
    q_t, selector = Q_T.clone().requires_grad_(), SELECTOR.clone().requires_grad_()
    assert not double_q_learning_td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, q_t, selector).requires_grad


def test_squared_is_half_the_square() -> None:
    assert squared(TD_ERROR).tolist() == [4.5, 0.5, 0.125, 0.0, 0.125, 0.5, 4.5]


def test_huber_is_half_the_square_up_to_1_and_linear_beyond() -> None:
    assert huber(TD_ERROR).tolist() == [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]


def test_gradient_of_squared_is_the_td_error() -> None:
    td_error = TD_ERROR.clone().requires_grad_()
    assert gradient(squared(td_error), td_error) == [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]


def test_gradient_of_huber_is_the_td_error_clipped_to_1() -> None:
    td_error = TD_ERROR.clone().requires_grad_()
    assert gradient(huber(td_error), td_error) == [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("column", ["actions", "rewards", "discounts"])
def test_a_column_in_place_of_a_vector_is_refused(column: str) -> None:
    vectors = {"actions": A_TM1, "rewards": R_T, "discounts": DISCOUNT_T}
    vectors[column] = vectors[column].unsqueeze(1)  # (B, 1), which would broadcast to (B, B)
    with pytest.raises(AssertionError):
        q_learning_td_error(Q_TM1, vectors["actions"], vectors["rewards"], vectors["discounts"], Q_T)


@pytest.mark.parametrize("column", ["actions", "rewards", "discounts"])
def test_a_column_in_place_of_a_vector_is_refused_by_double_q_learning(column: str) -> None:
    vectors = {"actions": A_TM1, "rewards": R_T, "discounts": DISCOUNT_T}
    vectors[column] = vectors[column].unsqueeze(1)
    with pytest.raises(AssertionError):
        double_q_learning_td_error(Q_TM1, vectors["actions"], vectors["rewards"], vectors["discounts"], Q_T, SELECTOR)
