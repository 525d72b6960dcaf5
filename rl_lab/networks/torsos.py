"""Convolutions of the papers: pixels [B, 4, 84, 84] uint8 in, features [B, F] out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rl_lab.networks.layers import PixelConv2d, Residual, channel_norm

NETWORKS: tuple[str, ...] = ("mnih2013", "nature", "data_efficient", "impala")


@dataclass(frozen=True)
class Torso:
    """Layers up to the features, and what follows them in the paper."""

    layers: list[nn.Module]
    features: int
    hidden_units: int
    """Of the fully connected layer."""


def build_torso(name: str, *, impala_width: int, impala_pool: int, spectral_norm: bool, layer_norm: bool) -> Torso:
    """The torso called `name`. Width, pool and spectral normalization are of impala only."""
    match name:
        case "mnih2013":  # section 4.1; 84x84 to 20x20 to 9x9
            return Torso(_valid_convolutions([(16, 8, 4), (32, 4, 2)], layer_norm), 32 * 9 * 9, 256)
        case "nature":  # Mnih et al. 2015, Methods; 84x84 to 20x20 to 9x9 to 7x7
            return Torso(_valid_convolutions([(32, 8, 4), (64, 4, 2), (64, 3, 1)], layer_norm), 64 * 7 * 7, 512)
        case "data_efficient":  # van Hasselt et al. 2019, appendix E; 84x84 to 16x16 to 3x3
            return Torso(_valid_convolutions([(32, 5, 5), (64, 5, 5)], layer_norm), 64 * 3 * 3, 256)
        case "impala":
            return _impala(impala_width, impala_pool, spectral_norm=spectral_norm, layer_norm=layer_norm)
    raise AssertionError(name)


def _valid_convolutions(convolutions: list[tuple[int, int, int]], layer_norm: bool) -> list[nn.Module]:
    """Convolutions (filters, size, stride) without padding, each before a rectifier."""
    layers: list[nn.Module] = []
    channels = 4
    for filters, size, stride in convolutions:
        layers.append((nn.Conv2d if layers else PixelConv2d)(channels, filters, size, stride=stride))
        if layer_norm:
            layers.append(channel_norm(filters))
        layers.append(nn.ReLU(inplace=True))
        channels = filters
    return [*layers, nn.Flatten()]


def _impala(width: int, pool: int, *, spectral_norm: bool, layer_norm: bool) -> Torso:
    """Espeholt et al. 2018, figure 3 (right), without the LSTM: 84x84 to 42x42 to 21x21 to 11x11.

    Spectral normalization of the residual convolutions only, and the largest features of `pool` x `pool` parts, as in
    Beyond the Rainbow (Clark et al. 2024).
    """
    layers: list[nn.Module] = []
    channels = 4
    for filters in (16 * width, 32 * width, 32 * width):
        layers += [
            (nn.Conv2d if layers else PixelConv2d)(channels, filters, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            *(Residual(filters, spectral_norm=spectral_norm, layer_norm=layer_norm) for _ in range(2)),
        ]
        channels = filters
    if layer_norm:
        layers.append(channel_norm(channels))
    layers.append(nn.ReLU(inplace=True))
    if pool:
        layers.append(nn.AdaptiveMaxPool2d(pool))
    return Torso([*layers, nn.Flatten()], channels * (pool or 11) ** 2, 256)
