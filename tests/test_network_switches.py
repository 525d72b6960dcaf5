"""What can be switched on in a network: heads, noise, dropout, normalization, on any torso, each by its equation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_lab.networks import NETWORKS, Architecture, DuelingHead, Quantiles, ValueHead, at_rest, build_network, let_draw
from rl_lab.networks.heads import QuantileEmbedding
from rl_lab.networks.layers import Dropout, NoisyLinear, SpectralConv2d, channel_norm
from rl_lab.weights import MasterWeights

HEADS: dict[str, dict[str, Any]] = {
    "scalar": {},
    "dueling": {"dueling": True},
    "categorical": {"num_atoms": 51},
    "quantile": {"num_atoms": 20, "dueling": True},
    "implicit quantile": {"implicit_quantiles": 8},
    "dueling implicit quantile": {"implicit_quantiles": 8, "dueling": True},
}
RANDOM: dict[str, dict[str, Any]] = {
    "noise": {"noisy_sigma": 0.5},
    "dropout": {"dropout": 0.5},
    "implicit quantiles": {"implicit_quantiles": 8},
}
ALL_ON: dict[str, Any] = {"noisy_sigma": 0.5, "dropout": 0.1, "layer_norm": True, "dueling": True, "hidden_units": 32}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def switched(name: str = "mnih2013", *, draws: int = 0, **architecture: Any) -> nn.Sequential:
    """A network of 5 actions that draws from the generator of the seed `draws`."""
    network = build_network(name, 5, seeded(0), architecture=Architecture(**architecture))
    let_draw(network, np.random.default_rng(draws))
    return network


def pixels(batch_size: int = 3) -> Tensor:
    return torch.randint(0, 256, (batch_size, 4, 84, 84), dtype=torch.uint8, generator=seeded(1))


def values_of(output: Tensor | Quantiles) -> Tensor:
    return output.values if isinstance(output, Quantiles) else output


@pytest.mark.parametrize("torso", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_any_head_fits_any_torso_with_everything_on_and_every_weight_learns(torso: str, head: str) -> None:
    network = switched(torso, **{**ALL_ON, **HEADS[head]})
    values = values_of(network(pixels()))
    count = HEADS[head].get("num_atoms", HEADS[head].get("implicit_quantiles"))
    assert values.shape == ((3, 5, count) if count else (3, 5))
    assert values.dtype == torch.float32
    weights = list(network.parameters())
    assert len(torch.autograd.grad(values.square().sum(), weights)) == len(
        weights
    )  # raises where one has no part in it


@pytest.mark.parametrize("torso", NETWORKS)
@pytest.mark.parametrize("head", HEADS)
def test_any_network_computes_in_half_width_close_to_itself(torso: str, head: str) -> None:
    network = switched(torso, **{**ALL_ON, "dropout": 0.0, "noisy_sigma": 0.0, **HEADS[head]})
    learner = MasterWeights(network, "bf16").learner
    assert learner[-1] is network[-1]
    with at_rest(network), at_rest(learner):
        full, half = values_of(network(pixels())), values_of(learner(pixels()))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert torch.allclose(half, full, atol=0.05)


@pytest.mark.parametrize("switch", RANDOM)
def test_a_network_draws_while_it_learns_and_never_at_rest(switch: str) -> None:
    network = switched(**RANDOM[switch])
    first, second = (values_of(network(pixels())) for _ in range(2))
    assert not torch.equal(first, second)
    with at_rest(network):
        state = network_rng(network).bit_generator.state
        rested = [values_of(network(pixels())) for _ in range(2)]
        assert network_rng(network).bit_generator.state == state
    assert torch.equal(*rested)
    assert not torch.equal(values_of(network(pixels())), rested[0])


def network_rng(network: nn.Sequential) -> np.random.Generator:
    rngs = [module.rng for module in network.modules() if "rng" in vars(module)]
    assert rngs
    assert all(rng is rngs[0] for rng in rngs)
    found = rngs[0]
    assert isinstance(found, np.random.Generator)
    return found


@pytest.mark.parametrize("switch", RANDOM)
def test_all_that_is_random_comes_from_the_generator_that_was_handed_out(switch: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (values_of(switched(draws=draws, **RANDOM[switch])(pixels())) for draws in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_with_everything_on_leaves_torchs_global_generator_alone() -> None:
    before = torch.get_rng_state()
    switched("impala", spectral_norm=True, **ALL_ON)
    assert torch.equal(torch.get_rng_state(), before)


def test_dueling_values_are_the_state_value_plus_centred_advantages() -> None:
    network = switched(dueling=True)
    *torso, head = network
    assert isinstance(head, DuelingHead)
    features = nn.Sequential(*torso)(pixels())
    value, advantages = head.value(features[:, :256]), head.advantage(features[:, 256:])
    q_values = network(pixels())
    assert torch.allclose(q_values, value + advantages - advantages.mean(dim=1, keepdim=True))
    assert torch.allclose(q_values.mean(dim=1, keepdim=True), value, atol=1e-6)
    assert value.std() > 0


def test_dueling_distributions_are_centred_over_the_actions_for_each_atom() -> None:
    head = DuelingHead(4, 3, num_atoms=7)
    features = torch.randn((2, 8), generator=seeded(0))
    assert torch.allclose(head(features).mean(dim=1, keepdim=True), head.value(features[:, :4]), atol=1e-6)


def test_atoms_of_an_action_stand_beside_each_other() -> None:
    head = ValueHead(4, 3, num_atoms=7)
    features = torch.randn((2, 4), generator=seeded(0))
    assert torch.allclose(head(features)[:, 1], F.linear(features, head.weight[7:14], head.bias[7:14]))


def noisy_layer(sigma: float = 0.5) -> NoisyLinear:
    layer = NoisyLinear(6, 4, sigma=sigma)
    layer.initialize_sigma()
    layer.rng = np.random.default_rng(3)
    return layer


def test_noise_is_that_of_factorized_weights() -> None:
    layer, x = noisy_layer(), torch.randn((2, 6), generator=seeded(0))
    rng = np.random.default_rng(3)
    noise_in, noise_out = (torch.from_numpy(rng.standard_normal(size, np.float32)) for size in (6, 4))
    noise_in, noise_out = (noise.sign() * noise.abs().sqrt() for noise in (noise_in, noise_out))
    weight = layer.weight + layer.weight_sigma * torch.outer(noise_out, noise_in)
    bias = layer.bias + layer.bias_sigma * noise_out
    assert torch.allclose(layer(x), F.linear(x, weight, bias), atol=1e-6)


def test_noise_starts_at_sigma_over_the_root_of_the_inputs() -> None:
    network = switched(noisy_sigma=0.5)
    layers = [module for module in network.modules() if isinstance(module, NoisyLinear)]
    assert [layer.in_features for layer in layers] == [32 * 9 * 9, 256]
    for layer in layers:
        for sigma in (layer.weight_sigma, layer.bias_sigma):
            assert torch.equal(sigma, torch.full_like(sigma, 0.5 / layer.in_features**0.5))


def test_noise_has_mean_zero_and_the_variance_of_its_equation() -> None:
    layer, x = noisy_layer(), torch.ones((1, 6))
    with torch.no_grad():
        draws = torch.cat([layer(x) for _ in range(4_000)]) - F.linear(x, layer.weight, layer.bias)
    # Variance of f(e) = sgn(e) sqrt|e| is E|e| = sqrt(2 / pi), that of a product the product.
    f = (2 / np.pi) ** 0.5
    assert abs(draws.mean().item()) < 0.02
    assert draws.var().item() == pytest.approx((0.5**2 / 6) * (6 * f * f + f), rel=0.1)


def test_dropout_leaves_out_the_share_and_keeps_the_mean() -> None:
    layer = Dropout(0.25)
    layer.rng = np.random.default_rng(0)
    out = layer(torch.ones(40_000))
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert set(out.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_spectral_normalization_comes_to_a_largest_singular_value_of_1() -> None:
    network = switched("impala", spectral_norm=True)
    layers = [module for module in network.modules() if isinstance(module, SpectralConv2d)]
    assert len(layers) == 12
    x = torch.zeros((1, 16, 8, 8))
    layer = layers[0]
    assert layer.in_channels == 16
    for _ in range(100):
        layer(x)
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    impulse = torch.zeros((1, 16, 3, 3))
    impulse[0, 5, 1, 1] = 1
    assert torch.allclose(layer(impulse), F.conv2d(impulse, layer.weight / exact, layer.bias, padding=1), rtol=1e-3)


def test_spectral_normalization_learns_directions_and_no_size() -> None:
    layer = next(
        module for module in switched("impala", spectral_norm=True).modules() if type(module) is SpectralConv2d
    )
    x = torch.randn((2, 16, 8, 8), generator=seeded(0))
    (slopes,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    assert slopes.norm() > 0.1
    # Weights twice as large give the same output: the norm has its part in the gradient (Miyato et al. 2018, eq. 12).
    cosine = F.cosine_similarity(slopes.flatten(), layer.weight.flatten(), dim=0)
    assert abs(cosine.item()) < 1e-5


def test_spectral_normalization_rests_where_it_has_come_to_and_goes_into_copies() -> None:
    network, other = (switched("impala", spectral_norm=True) for _ in range(2))
    for _ in range(3):
        network(pixels())
    other.load_state_dict(network.state_dict())
    with at_rest(network), at_rest(other):
        first = network(pixels())
        assert torch.equal(network(pixels()), first)
        assert torch.equal(other(pixels()), first)


def test_layer_normalization_takes_all_features_of_an_observation_together() -> None:
    maps = 3 + 5 * torch.randn((2, 4, 6, 6), generator=seeded(0)) * torch.arange(1, 5).view(1, 4, 1, 1)
    assert torch.allclose(channel_norm(4)(maps).flatten(1), F.layer_norm(maps.flatten(1), [4 * 6 * 6]), atol=1e-5)


def test_layer_normalization_stands_before_each_rectifier_of_the_convolutions_and_units() -> None:
    kinds = [type(layer) for layer in switched("nature", layer_norm=True)]
    rectifiers = [index for index, kind in enumerate(kinds) if kind is nn.ReLU]
    assert [kinds[index - 1] for index in rectifiers] == 3 * [nn.GroupNorm] + [nn.LayerNorm]


def test_layer_normalization_stands_before_each_rectifier_of_impala() -> None:
    network = switched("impala", layer_norm=True)
    kinds = [type(layer) for layer in network]
    rectifiers = [index for index, kind in enumerate(kinds) if kind is nn.ReLU]
    assert [kinds[index - 1] for index in rectifiers] == [nn.GroupNorm, nn.LayerNorm]
    # Two more in each of the six residual blocks, for the rectifiers that they apply themselves.
    assert sum(isinstance(module, nn.GroupNorm) for module in network.modules()) == 6 * 2 + 1


def test_quantile_embedding_is_the_papers() -> None:
    embedding = QuantileEmbedding(4, 3)
    features, taus = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.25, 0.5]])
    for n, tau in enumerate([0.25, 0.5]):
        cosines = torch.tensor([np.cos(np.pi * i * tau) for i in range(4)], dtype=torch.float32)
        expected = features[0] * F.relu(F.linear(cosines, embedding.weight, embedding.bias))
        assert torch.allclose(embedding(features, taus)[0, n], expected, atol=1e-6)


def test_implicit_quantiles_are_uniform_and_at_rest_the_midpoints() -> None:
    network = switched(implicit_quantiles=4)
    taus = torch.cat([network(pixels(16)).taus for _ in range(20)])
    assert taus.mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0 <= taus.min() < 0.01
    assert 0.99 < taus.max() < 1
    assert len(set(taus.flatten().tolist())) == taus.numel()
    with at_rest(network):
        assert network(pixels()).taus.tolist() == [[0.125, 0.375, 0.625, 0.875]] * 3
