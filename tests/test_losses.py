"""The update rules against tables worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rl_lab.losses import (
    categorical_cross_entropy,
    categorical_projection,
    greedy_policy,
    huber,
    munchausen_reward,
    quantile_huber,
    soft_policy,
    squared,
    td_error,
)

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


def q_learning(q_tm1: Tensor, discount_t: Tensor = DISCOUNT_T, q_t: Tensor = Q_T) -> Tensor:
    return td_error(q_tm1, A_TM1, R_T, discount_t, q_t, greedy_policy(q_t))


def double_q_learning(discount_t: Tensor = DISCOUNT_T, selector: Tensor = SELECTOR) -> Tensor:
    return td_error(Q_TM1, A_TM1, R_T, discount_t, Q_T, greedy_policy(selector))


def test_td_error_of_q_learning_is_the_one_worked_by_hand() -> None:
    # 1 + 0.5 * 6 - 2;  -1 + 0.25 * 8 - 3;  2 + 0 * 200 - 0.25
    assert q_learning(Q_TM1).tolist() == [2.0, -2.0, 1.75]


def test_td_error_of_double_q_learning_is_the_one_worked_by_hand() -> None:
    # 1 + 0.5 * 4 - 2;  -1 + 0.25 * 2 - 3;  2 + 0 * 200 - 0.25
    assert double_q_learning().tolist() == [1.0, -3.5, 1.75]


def test_td_error_under_a_mixed_policy_is_the_one_worked_by_hand() -> None:
    policy = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    # 1 + 0.5 * 5 - 2;  -1 + 0.25 * 3.5 - 3;  2 + 0 - 0.25
    assert td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, policy).tolist() == [1.5, -3.125, 1.75]


def test_next_values_have_no_weight_after_termination() -> None:
    # 1 - 2;  -1 - 3;  2 - 0.25
    assert q_learning(Q_TM1, torch.zeros(3)).tolist() == [-1.0, -4.0, 1.75]
    assert double_q_learning(torch.zeros(3)).tolist() == [-1.0, -4.0, 1.75]


def test_double_q_learning_that_selects_by_the_target_values_is_q_learning() -> None:
    assert torch.equal(double_q_learning(selector=Q_T), q_learning(Q_TM1))
    greatest = R_T + DISCOUNT_T * Q_T.max(dim=1).values
    assert torch.equal(q_learning(Q_TM1), greatest - Q_TM1[range(3), A_TM1])


def test_the_first_of_equal_actions_is_the_greedy_one() -> None:
    assert greedy_policy(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [[0.0, 1.0, 0.0]]


def test_td_error_falls_by_one_for_one_in_the_value_of_the_action_taken_only() -> None:
    q_tm1 = Q_TM1.clone().requires_grad_()
    assert gradient(q_learning(q_tm1), q_tm1) == [[0.0, -1.0], [-1.0, 0.0], [0.0, -1.0]]


def test_td_target_carries_no_gradient() -> None:
    assert not q_learning(Q_TM1, q_t=Q_T.clone().requires_grad_()).requires_grad


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
        td_error(Q_TM1, vectors["actions"], vectors["rewards"], vectors["discounts"], Q_T, greedy_policy(Q_T))


# Munchausen, at temperature 1: values whose softmax is (1/4, 3/4) and (1/2, 1/2).
LOG_3 = math.log(3.0)


def munchausen(**changes: float) -> Tensor:
    settings = {"temperature": 1.0, "scale": 0.5, "clip": -1.0, **changes}
    q_tm1, q_t = torch.tensor([[0.0, LOG_3], [0.0, LOG_3]]), torch.tensor([[5.0, 5.0], [5.0, 5.0]])
    actions, discounts = torch.tensor([1, 0]), torch.tensor([0.5, 0.0])
    return munchausen_reward(torch.tensor([1.0, 2.0]), discounts, actions, q_tm1, q_t, **settings)


def test_munchausen_reward_is_the_one_worked_by_hand() -> None:
    # 1 + 0.5 ln(3/4) + 0.5 ln 2;  2 + 0.5 max(ln(1/4), -1) + 0
    assert munchausen().tolist() == pytest.approx([1 + 0.5 * math.log(0.75) + 0.5 * math.log(2), 1.5])


def test_munchausen_without_scale_is_the_entropy_regularized_reward() -> None:
    assert munchausen(scale=0.0).tolist() == pytest.approx([1 + 0.5 * math.log(2), 2.0])


def test_munchausen_at_a_small_temperature_is_q_learning_for_the_greedy_action() -> None:
    rewards = munchausen(temperature=1e-6)
    assert rewards[0].item() == pytest.approx(1.0, abs=1e-5)  # action 1 is greedy at t - 1: ln pi is 0
    assert rewards[1].item() == pytest.approx(1.5, abs=1e-5)  # action 0 is not: clipped
    assert soft_policy(Q_T, 1e-6).tolist() == greedy_policy(Q_T).tolist()


def test_soft_policy_is_the_one_worked_by_hand() -> None:
    assert soft_policy(torch.tensor([[0.0, 2 * LOG_3]]), 2.0)[0].tolist() == pytest.approx([0.25, 0.75])


SUPPORT = torch.tensor([-1.0, 0.0, 1.0, 2.0])


def project(values: list[float], probabilities: list[float]) -> list[float]:
    projected: list[float] = categorical_projection(torch.tensor([values]), torch.tensor([probabilities]), SUPPORT)[
        0
    ].tolist()
    return projected


@pytest.mark.parametrize(
    ("values", "probabilities", "expected"),
    [
        ([0.0], [1.0], [0, 1, 0, 0]),  # on an atom
        ([0.25], [1.0], [0, 0.75, 0.25, 0]),  # between two
        ([5.0], [1.0], [0, 0, 0, 1]),  # beyond the ends
        ([-5.0], [1.0], [1, 0, 0, 0]),
        ([0.5, 1.5], [0.5, 0.5], [0, 0.25, 0.5, 0.25]),
        ([-1.0, 0.0, 1.0, 2.0], [0.125, 0.25, 0.5, 0.125], [0.125, 0.25, 0.5, 0.125]),  # nothing to do
    ],
)
def test_projection_is_the_one_worked_by_hand(
    values: list[float], probabilities: list[float], expected: list[float]
) -> None:
    assert project(values, probabilities) == pytest.approx(expected)


def test_projection_keeps_mass_everywhere_and_the_mean_within_the_support() -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.linspace(-10, 10, 51, dtype=torch.float64)
    values = 20 * torch.rand((64, 51), generator=generator, dtype=torch.float64) - 10
    probabilities = torch.randn((64, 51), generator=generator, dtype=torch.float64).softmax(1)
    projected = categorical_projection(values, probabilities, support)
    assert torch.allclose(projected.sum(1), torch.ones(64, dtype=torch.float64))
    assert torch.allclose(projected @ support, (probabilities * values).sum(1))
    assert torch.allclose(categorical_projection(3 * values, probabilities, support).sum(1), projected.sum(1))


def test_projection_to_many_atoms_takes_little_memory_and_is_that_of_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.linspace(-10, 10, 1_000)
    values, probabilities = 10 * torch.randn((64, 1_000), generator=generator), torch.full((64, 1_000), 1e-3)
    rows = [categorical_projection(values[k : k + 1], probabilities[:1], support) for k in range(64)]
    with torch.profiler.profile(profile_memory=True) as profile:
        projected = categorical_projection(values, probabilities, support)
    assert torch.equal(projected, torch.cat(rows))
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 10_000_000  # all at once: 256 MB


def test_projection_in_pieces_of_several_rows_is_that_of_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    support = torch.linspace(-10, 10, 51)
    values = 10 * torch.randn((120, 51), generator=generator)
    probabilities = torch.randn((120, 51), generator=generator).softmax(1)
    rows = [categorical_projection(values[k : k + 1], probabilities[k : k + 1], support) for k in range(120)]
    assert torch.allclose(categorical_projection(values, probabilities, support), torch.cat(rows))


def test_cross_entropy_is_the_one_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, LOG_3]])  # probabilities 1/4 and 3/4
    loss = categorical_cross_entropy(logits, torch.tensor([[0.5, 0.5]]))
    assert loss.tolist() == pytest.approx([-0.5 * math.log(0.25) - 0.5 * math.log(0.75)])


def test_cross_entropy_from_all_mass_on_one_atom_is_its_negative_log_probability() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    loss = categorical_cross_entropy(logits, torch.tensor([[0.0, 0.0, 1.0]]))
    assert loss.tolist() == pytest.approx([-logits.log_softmax(1)[0, 2].item()])


def test_gradient_of_cross_entropy_is_the_difference_of_the_probabilities() -> None:
    logits = torch.tensor([[0.0, LOG_3]], requires_grad=True)
    (slopes,) = torch.autograd.grad(categorical_cross_entropy(logits, torch.tensor([[0.5, 0.5]])).sum(), logits)
    assert slopes[0].tolist() == pytest.approx([0.25 - 0.5, 0.75 - 0.5])


def test_quantile_huber_is_the_one_worked_by_hand() -> None:
    z, taus, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 3.0]])
    # From 0 the differences are 0.5 and 3: 0.25 (0.125 + 2.5) / 2;  from 1 -0.5 and 2: (0.25 * 0.125 + 0.75 * 1.5) / 2
    assert quantile_huber(z, taus, target).tolist() == pytest.approx([0.25 * 2.625 / 2 + (0.03125 + 1.125) / 2])


def random_quantiles() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = (2 * torch.randn((5, 7), generator=generator, dtype=torch.float64)).requires_grad_()
    taus = torch.rand((5, 7), generator=generator, dtype=torch.float64)
    return z, taus, 2 * torch.randn((5, 3), generator=generator, dtype=torch.float64)


def test_quantile_huber_is_the_papers_double_sum() -> None:
    z, taus, target = random_quantiles()
    for b, loss in enumerate(quantile_huber(z, taus, target).tolist()):
        total = 0.0
        for value, tau in zip(z[b].tolist(), taus[b].tolist(), strict=True):
            for sample in target[b].tolist():
                u = sample - value
                size = u * u / 2 if abs(u) <= 1 else abs(u) - 0.5
                total += abs(tau - (u < 0)) * size / 3
        assert loss == pytest.approx(total)


def test_gradient_of_quantile_huber_is_that_of_finite_differences() -> None:
    z, taus, target = random_quantiles()
    assert torch.autograd.gradcheck(lambda z: quantile_huber(z, taus, target), (z,))


def test_quantile_huber_of_a_batch_in_pieces_is_that_of_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    z, taus, target = (torch.randn((10, 200), generator=generator) for _ in range(3))  # 3 rows a piece, the last of 1
    taus, z = taus.sigmoid(), z.requires_grad_()
    losses = quantile_huber(z, taus, target)
    rows = torch.cat([quantile_huber(*(tensor[b : b + 1] for tensor in (z, taus, target))) for b in range(10)])
    assert torch.allclose(losses, rows)
    upstream = torch.arange(1.0, 11.0)  # each row's loss has a weight of its own
    slopes, slopes_of_rows = (torch.autograd.grad(values @ upstream, z)[0] for values in (losses, rows))
    assert torch.allclose(slopes, slopes_of_rows, atol=1e-6)


def test_quantile_huber_of_the_median_is_half_the_huber_loss() -> None:
    z, target = torch.tensor([[0.0], [0.0]]), torch.tensor([[0.5], [-3.0]])
    loss = quantile_huber(z, torch.full((2, 1), 0.5), target)
    assert loss.tolist() == (0.5 * huber(target - z)).squeeze(1).tolist()


def test_quantile_huber_is_least_where_the_values_are_the_quantiles() -> None:
    target = torch.linspace(0, 100, 1_001).unsqueeze(0)  # so wide that the threshold of 1 hardly matters
    taus = torch.tensor([[0.1, 0.5, 0.9]])
    z = torch.tensor([[30.0, 30.0, 30.0]], requires_grad=True)
    for _ in range(500):
        (slopes,) = torch.autograd.grad(quantile_huber(z, taus, target).sum(), z)
        z = (z - 20 * slopes).detach().requires_grad_()
    assert z[0].tolist() == pytest.approx([10, 50, 90], abs=0.5)


@pytest.mark.parametrize(
    "loss", [categorical_cross_entropy, lambda x, y: quantile_huber(x, torch.full_like(x, 0.5), y)]
)
def test_targets_of_distributions_carry_no_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, y = torch.zeros((2, 3), requires_grad=True), torch.ones((2, 3), requires_grad=True)
    assert torch.autograd.grad(loss(x, y).sum(), (x, y), allow_unused=True)[1] is None
