"""Weights in one block, and the half-width twin that learns for them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_lab.networks import NETWORKS, Architecture, build_network, let_draw
from rl_lab.weights import MasterWeights, as_one_block, learning_bytes


def small_network() -> nn.Sequential:
    return build_network("mnih2013", 5, torch.Generator().manual_seed(0))


def noise_pixels() -> Tensor:
    return torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_moving_into_one_block_changes_no_weight_and_no_layout(name: str) -> None:
    network = build_network(name, 18, torch.Generator().manual_seed(0))
    before = copy.deepcopy(network)
    MasterWeights(network, "fp32")
    for weight, old in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, old)
        assert weight.stride() == old.stride()


def test_stepping_the_block_steps_every_weight_of_the_network() -> None:
    network = small_network()
    before = [weight.detach().clone() for weight in network.parameters()]
    weights = MasterWeights(network, "fp32")
    assert weights.values.numel() == sum(weight.numel() for weight in before)
    weights.values.detach().add_(1.0)
    assert all(torch.equal(new, old + 1) for new, old in zip(network.parameters(), before, strict=True))


def test_a_copy_has_the_same_block() -> None:
    network = small_network()
    values = MasterWeights(network, "fp32").values
    assert torch.equal(as_one_block(copy.deepcopy(network).parameters()), values)


def test_learning_needs_six_copies_of_the_weights_and_twice_what_a_batch_leaves_for_the_way_back() -> None:
    # Pixels as numbers, what each rectifier gives, and the features in the order of the fully connected layer.
    kept = [4 * 84 * 84, 16 * 20 * 20, 32 * 9 * 9, 256, 32 * 9 * 9]
    assert learning_bytes(small_network(), 10) == 24 * 677_429 + 2 * 10 * 4 * sum(kept)


@pytest.mark.parametrize("changes", [{"noisy_sigma": 0.5}, {"dropout": 0.5}, {"implicit_quantiles": 8}])
def test_an_estimate_leaves_no_trace_where_passes_draw_or_normalize(changes: dict[str, Any]) -> None:
    architecture = Architecture(spectral_norm=True, **changes)
    network = build_network("impala", 5, torch.Generator().manual_seed(0), architecture=architecture)
    before = copy.deepcopy(network.state_dict())
    rng = np.random.default_rng(3)
    let_draw(network, rng)
    assert learning_bytes(network, 64) > learning_bytes(network, 32)
    assert rng.bit_generator.state == np.random.default_rng(3).bit_generator.state
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_full_precision_learns_in_the_network_itself() -> None:
    network = small_network()
    assert MasterWeights(network, "fp32").learner is network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_block_takes_the_gradients_of_the_learner_layer_by_layer(precision: str) -> None:
    network = small_network()
    weights = MasterWeights(network, precision)
    weights.learner(noise_pixels()).sum().backward()
    expected = [weight.grad.clone() for weight in weights.learner.parameters() if weight.grad is not None]
    weights.take_gradients()
    assert all(weight.grad is None for weight in weights.learner.parameters())
    assert weights.values.grad is not None
    # Memory order, which is what stands in the block: channels last.
    flat = [grad.permute(0, 2, 3, 1).flatten() if grad.dim() == 4 else grad.flatten() for grad in expected]
    assert torch.equal(weights.values.grad, torch.cat([part.float() for part in flat]))
    assert weights.values.grad.count_nonzero() > 1_000


def test_a_half_width_learner_has_bf16_layers_but_for_the_last_which_it_shares() -> None:
    network = small_network()
    learner = MasterWeights(network, "bf16").learner
    assert learner[-1] is network[-1]
    assert {weight.dtype for weight in learner[:-1].parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_values_of_a_half_width_learner_are_full_numbers_close_to_the_networks() -> None:
    network = small_network()
    half = MasterWeights(network, "bf16").learner(noise_pixels())
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    assert not torch.equal(half, network(noise_pixels()))
    assert torch.allclose(half, network(noise_pixels()), atol=0.01)


def test_publishing_rounds_the_stepped_weights_and_keeps_them_full() -> None:
    network = small_network()
    weights = MasterWeights(network, "bf16")
    weights.values.detach().add_(1e-5)  # below what bf16 tells apart in most weights
    stepped = [weight.detach().clone() for weight in network.parameters()]
    weights.publish()
    for learners, full, before in zip(weights.learner.parameters(), network.parameters(), stepped, strict=True):
        assert torch.equal(full, before)
        assert torch.equal(learners, full.to(learners.dtype))
