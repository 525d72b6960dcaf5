"""Each form of values against what it must share with the others: where a distribution is one number, it is scalar."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rl_lab.losses import greedy_policy, huber, quantile_huber, td_error
from rl_lab.networks import Quantiles
from rl_lab.values import Categorical, ImplicitQuantile, Quantile, Scalar, Values

CPU = torch.device("cpu")
A_TM1 = torch.tensor([1, 0, 1])
R_T = torch.tensor([1.0, -1.0, 2.0])
DISCOUNT_T = torch.tensor([0.5, 0.5, 0.0])
Q_TM1 = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 1.0]])
Q_T = torch.tensor([[4.0, 6.0], [8.0, 2.0], [1.0, 2.0]])


def certain(q_values: Tensor) -> Tensor:
    """Logits [B, A, 21] of -10 .. 10 with all probability on the atom of the Q value."""
    atoms = torch.arange(-10.0, 11.0)
    return torch.where(atoms == q_values.unsqueeze(2), 0.0, -1e9)


def copies(q_values: Tensor, count: int) -> Tensor:
    """[B, A, count]"""
    return q_values.unsqueeze(2).expand(-1, -1, count)


def implicit(values: Tensor) -> Quantiles:
    """At random quantiles."""
    taus = torch.rand((len(values), values.shape[2]), generator=torch.Generator().manual_seed(0))
    return Quantiles(values, taus)


def loss(values: Values[Any], output_tm1: Any, output_t: Any) -> Tensor:
    return values.loss(output_tm1, A_TM1, R_T, DISCOUNT_T, output_t, greedy_policy(values.q_values(output_t)))


def test_q_values_are_the_means() -> None:
    spread = torch.tensor([-1.0, 0.0, 4.0])
    assert torch.equal(Scalar("huber").q_values(Q_TM1), Q_TM1)
    assert torch.equal(Categorical(21, -10, 10, device=CPU).q_values(certain(Q_TM1)), Q_TM1)
    assert torch.allclose(Quantile(3, device=CPU).q_values(copies(Q_TM1, 3) + spread), Q_TM1 + 1)
    assert torch.allclose(ImplicitQuantile().q_values(implicit(copies(Q_TM1, 3) + spread)), Q_TM1 + 1)


def test_scalar_is_the_loss_of_the_td_error() -> None:
    error = td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, greedy_policy(Q_T))
    assert error.tolist() == [2.0, 0.0, 1.0]
    assert loss(Scalar("huber"), Q_TM1, Q_T).tolist() == [1.5, 0.0, 0.5]
    assert loss(Scalar("squared"), Q_TM1, Q_T).tolist() == [2.0, 0.0, 0.5]


def test_categorical_is_certain_of_its_target_where_its_next_values_are() -> None:
    # The targets are 1 + 3 = 4, -1 + 4 = 3 and 2: the negative log probabilities of these atoms.
    logits = torch.randn((3, 2, 21), generator=torch.Generator().manual_seed(0))
    log_probabilities = logits.log_softmax(dim=2)
    expected = [-log_probabilities[b, a, 10 + r].item() for b, (a, r) in enumerate([(1, 4), (0, 3), (1, 2)])]
    assert loss(Categorical(21, -10, 10, device=CPU), logits, certain(Q_T)).tolist() == pytest.approx(expected)


def test_categorical_moves_the_mass_beyond_the_support_to_its_end() -> None:
    values = Categorical(21, -10, 10, device=CPU)
    ends = loss(values, torch.zeros((3, 2, 21)), certain(torch.full((3, 2), 10.0)))
    assert ends.tolist() == pytest.approx([torch.tensor(21.0).log().item()] * 3)


def test_one_quantile_is_half_the_huber_loss_of_the_scalar() -> None:
    half = 0.5 * loss(Scalar("huber"), Q_TM1, Q_T)
    assert torch.equal(loss(Quantile(1, device=CPU), copies(Q_TM1, 1), copies(Q_T, 1)), half)


def test_quantiles_are_the_midpoints_of_equal_parts() -> None:
    z_tm1, z_t = (torch.randn((3, 2, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    a_t = z_t.mean(dim=2).argmax(dim=1)
    target = R_T.unsqueeze(1) + DISCOUNT_T.unsqueeze(1) * z_t[range(3), a_t]
    taus = torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(3, -1)
    expected = quantile_huber(z_tm1[range(3), A_TM1], taus, target)
    assert torch.allclose(loss(Quantile(4, device=CPU), z_tm1, z_t), expected)


def test_implicit_quantiles_learn_at_the_quantiles_that_were_drawn() -> None:
    z_tm1, z_t = (torch.randn((3, 2, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    midpoints = torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(3, -1)
    drawn = implicit(z_tm1)
    fixed = loss(Quantile(4, device=CPU), z_tm1, z_t)
    assert torch.equal(loss(ImplicitQuantile(), Quantiles(z_tm1, midpoints), implicit(z_t)), fixed)
    assert not torch.equal(loss(ImplicitQuantile(), drawn, implicit(z_t)), fixed)


def test_a_mixed_policy_mixes_the_next_distributions() -> None:
    policy = torch.full((3, 2), 0.5)
    mixed = Scalar("huber").loss(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, policy)
    assert torch.equal(mixed, huber(td_error(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, policy)))
    quantiles = Quantile(1, device=CPU).loss(copies(Q_TM1, 1), A_TM1, R_T, DISCOUNT_T, copies(Q_T, 1), policy)
    assert torch.allclose(quantiles, 0.5 * mixed)


FORMS: list[tuple[Values[Any], Any, Any]] = [
    (Scalar("huber"), Q_TM1, Q_T),
    (Categorical(21, -10, 10, device=CPU), certain(Q_TM1) / 1e9, certain(Q_T)),
    (Quantile(3, device=CPU), copies(Q_TM1, 3), copies(Q_T, 3)),
    (ImplicitQuantile(), implicit(copies(Q_TM1, 3)), implicit(copies(Q_T, 3))),
]


@pytest.mark.parametrize(("values", "output_tm1", "output_t"), FORMS, ids=lambda form: type(form).__name__)
def test_only_the_action_taken_learns(values: Values[Any], output_tm1: Any, output_t: Any) -> None:
    leaf = (output_tm1.values if isinstance(output_tm1, Quantiles) else output_tm1).clone().requires_grad_()
    output = Quantiles(leaf, output_tm1.taus) if isinstance(output_tm1, Quantiles) else leaf
    (slopes,) = torch.autograd.grad(loss(values, output, output_t).sum(), leaf)
    moved = slopes.abs().view(3, 2, -1).sum(dim=2) > 0
    assert not moved[range(3), 1 - A_TM1].any()
    assert moved[0, 1]
