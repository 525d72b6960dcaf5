"""The networks against the papers' layers, worked by hand, and where their weights come from."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from rl_lab.networks import INITIALIZATIONS, NETWORKS, Architecture, ValueHead, build_network, count_weights


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameter_counts(network: nn.Sequential) -> list[int]:
    """Weights and biases of each layer that has some."""
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in network]
    return [count for count in counts if count]


def test_mnih2013_has_the_layers_of_the_paper() -> None:
    assert parameter_counts(build_network("mnih2013", 4, seeded(0))) == [
        16 * (4 * 8 * 8) + 16,  # 84x84 to 20x20
        32 * (16 * 4 * 4) + 32,  # 20x20 to 9x9
        256 * (32 * 9 * 9) + 256,
        4 * 256 + 4,
    ]


def test_nature_has_the_layers_of_the_paper() -> None:
    counts = parameter_counts(build_network("nature", 6, seeded(0)))
    assert counts == [
        32 * (4 * 8 * 8) + 32,  # 84x84 to 20x20
        64 * (32 * 4 * 4) + 64,  # 20x20 to 9x9
        64 * (64 * 3 * 3) + 64,  # 9x9 to 7x7
        512 * (64 * 7 * 7) + 512,
        6 * 512 + 6,
    ]
    assert sum(counts) == 1_687_206


def test_data_efficient_has_the_layers_of_the_paper() -> None:
    assert parameter_counts(build_network("data_efficient", 6, seeded(0))) == [
        32 * (4 * 5 * 5) + 32,  # 84x84 to 16x16
        64 * (32 * 5 * 5) + 64,  # 16x16 to 3x3
        256 * (64 * 3 * 3) + 256,
        6 * 256 + 6,
    ]


@pytest.mark.parametrize("width", [1, 2])
def test_impala_has_the_layers_of_the_paper(width: int) -> None:
    def block(inputs: int, filters: int) -> list[int]:
        return [filters * inputs * 9 + filters] + 2 * [2 * (filters * filters * 9 + filters)]

    a, b = 16 * width, 32 * width
    assert parameter_counts(build_network("impala", 6, seeded(0), architecture=Architecture(impala_width=width))) == [
        *block(4, a),  # 84x84 to 42x42
        *block(a, b),  # to 21x21
        *block(b, b),  # to 11x11
        256 * (b * 11 * 11) + 256,
        6 * 256 + 6,
    ]


def test_impala_pools_its_features_to_the_largest_of_each_part() -> None:
    plain, as_it_is, pooled = (
        build_network("impala", 5, seeded(0), architecture=Architecture(impala_pool=pool, hidden_units=8))
        for pool in (0, 11, 6)
    )
    pixels = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8, generator=seeded(1))
    assert torch.equal(as_it_is(pixels), plain(pixels))
    flat = next(index for index, layer in enumerate(plain) if isinstance(layer, nn.Flatten))
    maps, features = plain[:flat](pixels), pooled[: flat + 2](pixels)
    assert features.shape == (2, 32 * 6 * 6)
    assert maps.amax() > 0
    # Part k of 6 covers rows 11 k / 6, rounded down, to 11 (k + 1) / 6, rounded up: the second one rows 1 to 3.
    assert torch.equal(features.view(2, 32, 6, 6)[:, :, 1, 1], maps[:, :, 1:4, 1:4].amax(dim=(2, 3)))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "impala"])
def test_rectifiers_stand_between_the_layers_and_none_after_the_last(name: str) -> None:
    kinds = [type(layer) for layer in build_network(name, 4, seeded(0)) if not isinstance(layer, nn.Flatten)]
    followers = [after for layer, after in pairwise(kinds) if layer in (nn.Conv2d, nn.Linear)]
    assert set(followers) == {nn.ReLU}
    assert kinds[-1] is ValueHead


@pytest.mark.parametrize("name", NETWORKS)
def test_uint8_pixels_give_the_values_of_floats_from_0_to_1(name: str) -> None:
    network = build_network(name, 5, seeded(0))
    pixels = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=seeded(1))
    q_values = network(pixels)
    assert q_values.shape == (3, 5)
    first, *others = network
    assert isinstance(first, nn.Conv2d)
    features = nn.functional.conv2d(pixels.float() / 255, first.weight, first.bias, first.stride, first.padding)
    assert torch.allclose(q_values, nn.Sequential(*others)(features), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_he_tells_states_apart_that_torch7_does_not(name: str) -> None:
    pixels = torch.randint(0, 256, (64, 4, 84, 84), dtype=torch.uint8, generator=seeded(1))
    spread = {
        initialization: build_network(name, 4, seeded(0), initialization=initialization)[:-1](pixels).std(dim=0).mean()
        for initialization in INITIALIZATIONS
    }
    assert spread["he"] > 10 * spread["torch7"]


def test_he_draws_within_its_bounds_and_leaves_biases_zero() -> None:
    layers = [
        layer
        for layer in build_network("nature", 18, seeded(0), initialization="he")
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    for layer, gain in zip(layers, (6, 6, 6, 6, 1), strict=True):
        bound = math.sqrt(gain / layer.weight[0].numel())
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_centred_filters_answer_to_no_grey_and_differ_from_those_of_he_by_their_mean_alone(name: str) -> None:
    he, centred = (build_network(name, 4, seeded(0), initialization=kind) for kind in ("he", "he_centred"))
    grey = torch.full((1, 4, 84, 84), 87, dtype=torch.uint8)
    inner = centred[0](grey)[..., 1:-1, 1:-1]  # the residual network's filters reach beyond the screen's edge
    torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-5)
    first, *others = he.parameters()
    centred_first, *centred_others = centred.parameters()
    means = first.mean(dim=(1, 2, 3), keepdim=True)
    assert means.abs().min() > 1e-4
    torch.testing.assert_close(centred_first, first - means, rtol=0, atol=1e-7)
    assert all(map(torch.equal, others, centred_others))


@pytest.mark.parametrize("name", NETWORKS)
def test_same_generator_gives_the_same_weights(name: str) -> None:
    first, second = (build_network(name, 4, seeded(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_generators_give_two_networks(name: str) -> None:
    first, second = (build_network(name, 4, seeded(seed)).state_dict() for seed in (3, 4))
    assert not any(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_building_leaves_torchs_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    build_network(name, 4, seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_biases_fill_the_range_of_one_over_the_root_of_the_inputs(name: str) -> None:
    for layer in build_network(name, 18, seeded(0)):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert 0.5 * bound < layer.bias.abs().max() <= bound  # type: ignore[union-attr]  # all have biases


@pytest.mark.parametrize("architecture", [Architecture(), Architecture(dueling=True, noisy_sigma=0.5, num_atoms=51)])
def test_weights_are_counted_without_memory_for_them(architecture: Architecture) -> None:
    network = build_network("nature", 6, seeded(0), architecture=architecture)
    assert count_weights("nature", 6, architecture) == sum(weight.numel() for weight in network.parameters())
