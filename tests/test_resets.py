"""What a reset makes of each weight, on every torso and head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rl_lab.networks import NETWORKS, Architecture, build_network
from rl_lab.resets import shrink_and_perturb

HEADS: dict[str, dict[str, Any]] = {
    "noisy dueling": {"dueling": True, "noisy_sigma": 0.5},
    "implicit quantile": {"implicit_quantiles": 4, "cosines": 8},
}


def pair(torso: str, head: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Two networks of the same layers."""
    architecture = Architecture(hidden_units=8, layer_norm=True, **HEADS[head])
    one, other = (
        build_network(torso, 5, torch.Generator().manual_seed(seed), architecture=architecture) for seed in (0, 1)
    )
    with torch.no_grad():  # normalizations start alike in all networks
        for weight in one.parameters():
            weight.add_(1.0)
    return one, other


def num_torso_weights(network: nn.Sequential) -> int:
    """How many of its parameters, from the first on, stand before the features are flat."""
    torso = network if isinstance(network[-2], nn.ReLU) else network[0]
    assert isinstance(torso, nn.Sequential)
    (flat,) = (index for index, layer in enumerate(torso) if isinstance(layer, nn.Flatten))
    return len(list(torso[:flat].parameters()))


@pytest.mark.parametrize("torso", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_a_reset_mixes_all_before_the_features_and_replaces_all_after_them(torso: str, head: str) -> None:
    network, fresh = pair(torso, head)
    before = copy.deepcopy(network)
    shrink_and_perturb(network, fresh, 0.8)
    weights = [list(each.parameters()) for each in (network, before, fresh)]
    split = num_torso_weights(network)
    assert 4 <= split < len(weights[0])
    for new, old, other in zip(*(parameters[:split] for parameters in weights), strict=True):
        assert torch.allclose(new, 0.8 * old + 0.2 * other, atol=1e-6)
        assert not torch.allclose(old, other, atol=0.1)
    for new, other in zip(weights[0][split:], weights[2][split:], strict=True):
        assert torch.equal(new, other)


def test_all_is_fresh_where_nothing_is_kept_and_convolutions_stay_where_all_is() -> None:
    network, fresh = pair("impala", "noisy dueling")
    kept = copy.deepcopy(network)
    shrink_and_perturb(kept, fresh, 1.0)
    split = num_torso_weights(network)
    for new, old in zip(list(kept.parameters())[:split], network.parameters(), strict=False):
        assert torch.equal(new, old)
    shrink_and_perturb(network, fresh, 0.0)
    assert all(torch.equal(new, other) for new, other in zip(network.parameters(), fresh.parameters(), strict=True))
